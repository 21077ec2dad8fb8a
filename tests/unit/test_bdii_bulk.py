"""Many changes to slapd's socket: their encoding, judged by pyasn1, and broken answers."""

import importlib
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from appliance.core.directory import RELAX, NoAnswer, _import
from appliance.core.ldif import Entry
from bdii import tree
from bdii.plan import Add, Change, Delete, Modify
from bdii.slapd import bulk

_import()  # without the warnings of ldap3
RFC4511 = importlib.import_module("ldap3.protocol.rfc4511")
DECODER = importlib.import_module("pyasn1.codec.ber.decoder")
BIND_DONE = bytes.fromhex("300c02010161070a010004000400")


def change(kind: str, name: str = "a", **attributes: tuple[str, ...]) -> Change:
    entry = Entry(f"GLUE2GroupID={name},o=glue", {"objectClass": ("GLUE2Group",), **attributes})
    dn = tree.normal(entry.dn)
    match kind:
        case "add":
            return Add(dn, entry)
        case "modify":
            return Modify(dn, entry, attributes)
        case _:
            return Delete(dn, entry)


def decoded(data: bytes) -> list[Any]:
    messages = []
    while data:
        message, data = DECODER.decode(data, asn1Spec=RFC4511.LDAPMessage())
        messages.append(message)
    return messages


class FakeServer:
    """Answers as soon as so many requests of one connection have come, then closes it."""

    def __init__(self, path: Path, *answers: tuple[int, bytes]) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._answers = answers
        self.received = b""
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        client, _ = self._listener.accept()
        with client:
            for count, answer in self._answers:
                while self.received.count(b"\x02\x01") < count:  # the number of a message
                    self.received += client.recv(1 << 20)
                client.sendall(answer)
            client.shutdown(socket.SHUT_WR)
            while part := client.recv(1 << 20):
                self.received += part

    def close(self) -> None:
        self._thread.join()
        self._listener.close()


def sent(path: Path, *changes: Change) -> list[Any]:
    """Send the requests of changes, and return them as the other library reads them."""
    server = FakeServer(path, (1, BIND_DONE))
    with bulk.Pipeline(path) as pipeline:
        for one in changes:
            pipeline._send(*bulk._request(one))
    server.close()
    return decoded(server.received)


def test_requests_are_what_another_library_reads(tmp_path: Path) -> None:
    long = "ü" * 40_000
    messages = sent(
        tmp_path / "s",
        change("add", GLUE2EntityName=("é", long)),
        change("add", name="b"),
    )
    bind, first, second = messages
    assert (
        str(bind["protocolOp"]["bindRequest"]["authentication"]["sasl"]["mechanism"]) == "EXTERNAL"
    )
    request = first["protocolOp"]["addRequest"]
    assert bytes(request["entry"]) == b"GLUE2GroupID=a,o=glue"
    found = {
        str(one["type"]): {bytes(value).decode() for value in one["vals"]}
        for one in request["attributes"]
    }
    assert found == {"objectClass": {"GLUE2Group"}, "GLUE2EntityName": {"é", long}}
    assert [int(message["messageID"]) for message in messages] == [1, 2, 3]
    assert bytes(second["protocolOp"]["addRequest"]["entry"]) == b"GLUE2GroupID=b,o=glue"


def test_a_modification_replaces_and_a_class_needs_the_control(tmp_path: Path) -> None:
    messages = sent(
        tmp_path / "s",
        change("modify", GLUE2EntityName=("x",), GLUE2EntityOtherInfo=()),
        change("modify", name="b", objectClass=("GLUE2Group", "GLUE2Entity")),
    )
    _, plain, of_class = messages
    parts = [
        (int(one["operation"]), str(one["modification"]["type"]), len(one["modification"]["vals"]))
        for one in plain["protocolOp"]["modifyRequest"]["changes"]
    ]
    assert parts == [(2, "GLUE2EntityName", 1), (2, "GLUE2EntityOtherInfo", 0)]
    assert not plain["controls"].isValue
    (control,) = of_class["controls"]
    assert (str(control["controlType"]), bool(control["criticality"])) == (RELAX, True)


def test_a_deletion_is_its_name(tmp_path: Path) -> None:
    messages = sent(tmp_path / "s", change("delete"))
    assert bytes(messages[1]["protocolOp"]["delRequest"]) == b"GLUE2GroupID=a,o=glue"


def test_numbers_of_requests_stay_positive(tmp_path: Path) -> None:
    """128 has the sign bit of its byte set, as 32 768 has."""
    messages = sent(tmp_path / "s", *[change("delete")] * 200)
    assert [int(one["messageID"]) for one in messages] == [*range(1, 202)]


def result(number: int, code: int) -> bytes:
    return bytes.fromhex(f"300c0201{number:02x}69070a01{code:02x}04000400")


def test_refused_changes_are_left_undone(tmp_path: Path) -> None:
    server = FakeServer(
        tmp_path / "s",
        (1, BIND_DONE),
        # the number of the bind is followed by another integer
        (4, result(3, 68) + result(2, 0)[:5]),
        (4, result(2, 0)[5:]),
    )
    changes = [change("add", name="a"), change("add", name="b")]
    with bulk.Pipeline(tmp_path / "s") as pipeline:
        done = pipeline.change(changes, threading.Event())
    server.close()
    assert done.made == changes[:1]


@pytest.mark.parametrize(
    "answer",
    [
        bytes.fromhex("300c02010078070a013404000400"),  # notice of disconnection
        result(7, 0),
        b"",
    ],
)
def test_an_unexpected_answer_ends_the_pipeline(tmp_path: Path, answer: bytes) -> None:
    server = FakeServer(tmp_path / "s", (1, BIND_DONE), (3, answer))
    with bulk.Pipeline(tmp_path / "s") as pipeline:
        done = pipeline.change([change("add")], threading.Event())
    server.close()
    assert (done.made, done.is_lost) == ([], True)


@pytest.mark.parametrize(
    "answer", [b"", bytes.fromhex("300c02010161070a013104000400"), b"\x30\x02\x02"]
)
def test_a_refused_bind_is_no_answer(tmp_path: Path, answer: bytes) -> None:
    server = FakeServer(tmp_path / "s", (1, answer))
    with pytest.raises(NoAnswer):
        bulk.Pipeline(tmp_path / "s")
    server.close()


def test_nothing_is_sent_after_a_stop(tmp_path: Path) -> None:
    server = FakeServer(tmp_path / "s", (1, BIND_DONE))
    stop = threading.Event()
    stop.set()
    with bulk.Pipeline(tmp_path / "s") as pipeline:
        done = pipeline.change([change("add")], stop)
    server.close()
    assert (done.made, done.is_lost, len(decoded(server.received))) == ([], False, 1)
