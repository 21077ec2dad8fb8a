"""Results in trailing metadata, through a real gRPC connection."""

# ruff: noqa: N802  the names of the protocol

import concurrent.futures
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty

from cloudkeeper.wire import communicator_1x_pb2_grpc as stubs
from cloudkeeper.wire import image_socket
from cloudkeeper.wire.status import (
    METADATA_UPDATE,
    CallStatus,
    Metadata,
    digests_of,
    features_of,
    from_metadata,
    is_final,
    to_metadata,
    wants_file,
)

SENT: list[Metadata] = []


class Backend(stubs.CommunicatorServicer):
    def PreAction(self, request: Empty, context: grpc.ServicerContext) -> Empty:  # noqa: ARG002
        context.set_trailing_metadata(SENT.pop())
        return Empty()


@pytest.fixture(scope="module")
def stub() -> Iterator[stubs.CommunicatorStub]:
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(1))
    stubs.add_CommunicatorServicer_to_server(Backend(), server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield stubs.CommunicatorStub(channel)  # type: ignore[no-untyped-call]
    server.stop(None).wait()


def ask(stub: stubs.CommunicatorStub, sent: Metadata) -> tuple[tuple[str, str | bytes], ...]:
    SENT.append(sent)
    _, call = stub.PreAction.with_call(Empty(), timeout=10)
    return tuple((key, value) for key, value in call.trailing_metadata())


def test_success(stub: stubs.CommunicatorStub) -> None:
    found = ask(stub, to_metadata(CallStatus.SUCCESS))
    assert from_metadata(found) == ("SUCCESS", "")
    assert features_of(found) == frozenset()


def test_a_failure_keeps_its_words_in_one_line_of_ascii(stub: stubs.CommunicatorStub) -> None:
    found = ask(
        stub,
        to_metadata(CallStatus.APPLIANCE_TRANSFER, "disco lleno: añade\nespacio\x07 " + "x" * 9000),
    )
    status, message = from_metadata(found)
    assert status == "ERROR_APPLIANCE_TRANSFER"
    assert message.startswith("disco lleno: a\\xf1ade espacio xxx")
    assert len(message) == 2000


def test_no_status_is_a_failure(stub: stubs.CommunicatorStub) -> None:
    assert from_metadata(ask(stub, ())) == ("ERROR", "the backend reported no result")
    assert from_metadata(None)[0] == "ERROR"


def test_a_word_of_a_newer_peer_is_kept(stub: stubs.CommunicatorStub) -> None:
    assert from_metadata(ask(stub, (("status", "ERROR_NEW"), ("message", "why")))) == (
        "ERROR_NEW",
        "why",
    )


def test_digests_and_the_wish_for_a_file(stub: stubs.CommunicatorStub) -> None:
    digests = {"sha512": "ab" * 64, "sha256": "cd" * 32}
    found = ask(stub, to_metadata(CallStatus.SUCCESS, digests=digests))
    assert (digests_of(found), wants_file(found), is_final(found)) == (digests, False, False)
    found = ask(stub, to_metadata(CallStatus.APPLIANCE_TRANSFER, "cut", wants_file=True))
    assert (digests_of(found), wants_file(found), is_final(found)) == ({}, True, False)
    assert digests_of(None) == {}


@pytest.mark.parametrize("path", ["/var/spool/cloudkeeper/images/one.sock", "/a b/%2F/ñ.sock"])
def test_the_location_of_a_socket(path: str) -> None:
    location = image_socket.to_location(Path(path))
    assert location.isascii()
    assert image_socket.socket_of(location) == Path(path)


@pytest.mark.parametrize("location", ["/one.qcow2", "http://host/one", "http+unix:///one", "[", ""])
def test_locations_without_a_socket(location: str) -> None:
    assert image_socket.socket_of(location) is None


def test_features(stub: stubs.CommunicatorStub) -> None:
    found = ask(stub, to_metadata(CallStatus.SUCCESS, features=[METADATA_UPDATE, "other"]))
    assert features_of(found) == {"metadata-update", "other"}
    assert from_metadata(found) == ("SUCCESS", "")
