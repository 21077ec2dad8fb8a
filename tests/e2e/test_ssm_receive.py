"""`ssmreceive` as a program: messages that it keeps and refuses, and faults that it survives."""

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from ssm.transport.stomp import _Room
from tests.bench import ssm as bench
from tests.e2e.ssm_site import Site
from tests.simulators.stomp_faults import Fault, FaultBroker, Kind
from tests.testbed.pki import Credential
from tests.testbed.trust import Trust


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    made = Trust(tmp_path_factory.mktemp("trust"))
    made.publish()
    return made


def broker_with(trust: Trust, *faults: Fault) -> FaultBroker:
    return FaultBroker(trust.host("broker"), trust.grid.certificate, faults)


def signed(text: str, credential: Credential) -> bytes:
    """Sign as SSM does: with the openssl program."""
    command = ["openssl", "smime", "-sign", "-text", "-inkey", str(credential.key)]
    command += ["-signer", str(credential.certificate)]
    done = subprocess.run(command, input=text.encode(), capture_output=True, check=True)
    return done.stdout.replace(b"\r\n", b"\n")


def encrypted(message: bytes, credential: Credential, cipher: str = "aes128") -> bytes:
    command = ["openssl", "smime", "-encrypt", f"-{cipher}", str(credential.certificate)]
    return subprocess.run(command, input=message, capture_output=True, check=True).stdout.replace(
        b"\r\n", b"\n"
    )


def text(number: int) -> str:
    return f"APEL-cloud-message: v0.4\nVMUUID: {number}\n%%\n"


def wait_for(condition: object, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def test_messages_are_stored_in_order_with_signer_and_id(tmp_path: Path, trust: Trust) -> None:
    with broker_with(trust) as broker:
        site = Site.create(tmp_path, trust, hosts=f"localhost:{broker.port}")
        broker.enqueue([signed(text(number), trust.host("sender")) for number in range(40)])
        ids = [message.headers["empa-id"] for message in broker.queue]
        done = site.run("ssmreceive", "--count", "40")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        [subscription] = [frame for frame in broker.frames if frame.command == "SUBSCRIBE"]
        assert subscription.headers["ack"] == "client-individual"
        assert broker.queue == []
    stored = site.elements()
    assert [element["body"] for element in stored] == [text(number) for number in range(40)]
    assert [element["empaid"] for element in stored] == ids
    assert {element["signer"] for element in stored} == {site.sender_dn}
    assert site.elements("reject") == []
    assert modes(site.received) <= {0o750, 0o640}
    assert f"Valid signer: {site.sender_dn}" in site.log("receiver")


def test_refused_messages_are_kept_with_ssm_s_reasons(tmp_path: Path, trust: Trust) -> None:
    sender, stranger = trust.host("sender"), trust.host("stranger")
    unknown = Trust(tmp_path / "unknown").host("sender")
    good = signed(text(1), sender)
    tampered = good.replace(b"VMUUID: 1", b"VMUUID: 2")
    cases = [
        (
            tampered,
            "Not available.",
            "Failed to verify message: Possible tampering. See OpenSSL error:",
        ),
        (signed(text(1), unknown), "Not available.", "Failed to verify message: Unverified signer"),
        (signed(text(1), stranger), STRANGER, f"Signer not in valid DNs list: {STRANGER}"),
        (
            b"no header\n",
            "Not available.",
            "Failed to verify message: No blank line between message header and body",
        ),
        (encrypted(good, stranger), "Not available.", "Failed to decrypt message: "),
        (b"", "Not available.", "Empty text passed to _handle_msg."),
    ]
    with broker_with(trust) as broker:
        site = Site.create(tmp_path / "site", trust, hosts=f"localhost:{broker.port}")
        broker.enqueue([message for message, _, _ in cases])
        assert site.run("ssmreceive", "--count", str(len(cases))).returncode == 0
        assert broker.queue == []
    assert site.elements() == []
    kept = site.elements("reject")
    for element, (message, signer, error) in zip(kept, cases, strict=True):
        assert (element["body"], element["signer"]) == (message.decode(), signer)
        assert element["error"].startswith(error)
        assert f"Message rejected: {element['error']}" in site.log("receiver")


def test_encrypted_messages_and_utf_8_are_read(tmp_path: Path, trust: Trust) -> None:
    quoted = (
        "Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n"
        "\nName: caf=C3=A9\n"
    )
    command = ["openssl", "smime", "-sign", "-inkey", str(trust.host("sender").key)]
    command += ["-signer", str(trust.host("sender").certificate)]
    utf_8 = subprocess.run(command, input=quoted.encode(), capture_output=True, check=True).stdout
    with broker_with(trust) as broker:
        site = Site.create(tmp_path, trust, hosts=f"localhost:{broker.port}")
        broker.enqueue(
            [encrypted(signed(text(1), trust.host("sender")), trust.host("receiver")), utf_8]
        )
        assert site.run("ssmreceive", "--count", "2").returncode == 0
    assert [element["body"] for element in site.elements()] == [text(1), "Name: café\n"]


def test_only_the_same_text_with_the_same_id_of_the_same_signer_is_a_duplicate(
    tmp_path: Path, trust: Trust
) -> None:
    sender = trust.host("sender")
    name, other = {"empa-id": "6b029cc8/6b029cd9717820"}, {"empa-id": "6b029cc8/6b029cd9717830"}
    sent = [
        (signed(text(1), sender), name),
        (signed(text(1), sender), name),  # another signature, the same message
        (signed(text(2), sender), name),
        (signed(text(1), sender), other),
        (signed(text(1), sender), {}),
        (signed(text(1), sender), {}),  # a correction that says the same again
        (b"whatever", {"empa-id": "ping"}),
    ]
    with broker_with(trust) as broker:
        site = Site.create(tmp_path, trust, hosts=f"localhost:{broker.port}")
        broker.enqueue([message for message, _ in sent], headers=[headers for _, headers in sent])
        assert site.run("ssmreceive", "--count", str(len(sent))).returncode == 0
        assert broker.queue == []
    stored = [(element["empaid"], element["body"]) for element in site.elements()]
    assert stored == [
        (name["empa-id"], text(1)),
        (name["empa-id"], text(2)),
        (other["empa-id"], text(1)),
        ("noid", text(1)),
        ("noid", text(1)),
    ]
    assert site.record("ssmreceive")["counts"]["duplicates"] == 1


def test_names_are_read_again_when_the_file_changes(tmp_path: Path, trust: Trust) -> None:
    with broker_with(trust) as broker:
        site = Site.create(tmp_path, trust, hosts=f"localhost:{broker.port}")
        names = tmp_path / "etc/apel/dns"
        accepted = names.read_text()
        names.write_text(f"{STRANGER}\n")
        process = site.start("ssmreceive")
        broker.enqueue([signed(text(1), trust.host("sender"))])
        wait_for(lambda: not broker.queue)
        names.write_text(f"{accepted}{STRANGER}\n")
        (tmp_path / "etc/apel/banned-dns").write_text(f"{STRANGER}\n")
        process.send_signal(signal.SIGHUP)
        wait_for(lambda: "Read 2 accepted and 1 banned names." in site.log("receiver"))
        broker.enqueue(
            [signed(text(2), trust.host("sender")), signed(text(3), trust.host("stranger"))]
        )
        wait_for(lambda: not broker.queue)
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=20) == ("", "")
        assert process.returncode == 0
    assert [element["body"] for element in site.elements()] == [text(2)]
    assert len(site.elements("reject")) == 1


def test_a_lost_connection_is_made_again(tmp_path: Path, trust: Trust) -> None:
    with broker_with(trust, Fault(Kind.REFUSES_US)) as broker:
        site = Site.create(tmp_path, trust, hosts=f"localhost:{broker.port}")
        broker.enqueue([signed(text(1), trust.host("sender"))])
        process = site.start("ssmreceive", "--count", "2")
        wait_for(lambda: not broker.queue)
        broker.cut()
        broker.enqueue([signed(text(2), trust.host("sender"))])
        assert process.wait(timeout=20) == 0
        process.communicate()
    assert [element["body"] for element in site.elements()] == [text(1), text(2)]


def test_sigterm_in_the_middle_loses_nothing(tmp_path: Path, trust: Trust) -> None:
    with broker_with(trust) as broker:
        site = Site.create(tmp_path, trust, hosts=f"localhost:{broker.port}")
        broker.enqueue([signed(text(number), trust.host("sender")) for number in range(150)])
        process = site.start("ssmreceive")
        wait_for(lambda: len(broker.queue) < 100)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
        process.communicate()
        left = len(broker.queue)
        assert 0 < left < 150
        assert len(site.elements()) == 150 - left
        assert site.run("ssmreceive", "--count", str(left)).returncode == 0
    assert [element["body"] for element in site.elements()] == [
        text(number) for number in range(150)
    ]


@pytest.mark.parametrize(
    "failing",
    [
        "mkdir:error=ENOSPC:when=3..6",
        "fsync:error=ENOSPC:when=6..9",
        "pwrite64:error=ENOSPC:when=14..17",
        "rename:error=ENOSPC:when=2..4",
    ],
)
def test_a_full_disk_pauses_and_loses_nothing(tmp_path: Path, trust: Trust, failing: str) -> None:
    with broker_with(trust) as broker:
        site = Site.create(tmp_path, trust, hosts=f"localhost:{broker.port}")
        # makes files and directories
        assert site.run("ssmreceive", "--idle-exit", "0").returncode == 0
        broker.enqueue([signed(text(number), trust.host("sender")) for number in range(40)])
        inject = [
            "strace",
            "-f",
            "-qqq",
            "-o",
            os.devnull,
            "-e",
            "signal=none",
            "-e",
            f"inject={failing}",
        ]
        done = site.command("ssmreceive", "--count", "40").run(*inject)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        assert broker.queue == []
    assert "No space left on device; free space there; tried again each second" in site.log(
        "receiver"
    )
    assert [element["body"] for element in site.elements()] == [
        text(number) for number in range(40)
    ]
    assert list((site.received / ".incoming.staging").iterdir()) == []


def test_it_goes_to_the_background_once(tmp_path: Path, trust: Trust) -> None:
    with broker_with(trust) as broker:
        site = Site.create(tmp_path, trust, hosts=f"localhost:{broker.port}")
        pidfile = tmp_path / "run/ssmreceive.pid"
        pidfile.parent.mkdir()
        pidfile.write_text("4194000\n")  # left by one that is dead
        assert site.run("ssmreceive", "--daemon").returncode == 0
        wait_for(lambda: "Waiting for messages" in site.log("receiver"))
        process = int(pidfile.read_text())
        second = site.run("ssmreceive", "--daemon")
        assert second.returncode == 1
        assert "already exists" in second.stderr
        broker.enqueue([signed(text(1), trust.host("sender"))])
        wait_for(lambda: not broker.queue)
        os.kill(process, signal.SIGTERM)
        wait_for(lambda: not pidfile.exists())
    assert len(site.elements()) == 1


def test_faults_are_reported_before_the_fork_and_logged_after(tmp_path: Path, trust: Trust) -> None:
    with broker_with(trust) as broker:
        site = Site.create(tmp_path, trust, hosts=f"localhost:{broker.port}")
        names = tmp_path / "etc/apel/dns"
        accepted = names.read_text()
        names.write_text("# none\n")
        done = site.run("ssmreceive", "--daemon")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        names.write_text(accepted)
        first = site.start("ssmreceive")
        wait_for(lambda: "Waiting for messages" in site.log("receiver"))
        assert site.run("ssmreceive", "--daemon").returncode == 0
        wait_for(
            lambda: (
                f"ssmreceive - ERROR - {site.received}/.ssmreceive.lock: running"
                in site.log("receiver")
            )
        )
        assert not (tmp_path / "run/ssmreceive.pid").exists()
        first.send_signal(signal.SIGTERM)
        assert first.wait(timeout=20) == 0
        first.communicate()
    assert site.record("ssmreceive")["failures"] == []


def test_no_names_no_start(tmp_path: Path, trust: Trust) -> None:
    with broker_with(trust) as broker:
        site = Site.create(tmp_path, trust, hosts=f"localhost:{broker.port}")
        (tmp_path / "etc/apel/dns").write_text("# none\nCN=wrong\n")
        done = site.run("ssmreceive", "--idle-exit", "1")
    assert done.returncode == 2
    assert (
        done.stderr
        == f"ssmreceive: {tmp_path}/etc/apel/dns: has no DN; list the senders' DNs, one a line\n"
    )
    assert "dns:2: DN in incorrect format: CN=wrong" in site.log("receiver")


STRANGER = "/DC=EU/DC=EXAMPLE/C=ES/O=Hosts/O=Example Site/CN=stranger.example.org"


def modes(path: Path) -> set[int]:
    return {entry.stat().st_mode & 0o777 for entry in (path / "incoming").rglob("*")}


def test_large_messages_do_not_fill_the_memory(tmp_path: Path, trust: Trust) -> None:
    """F-S7: with 32 unacknowledged messages of 0.7 MB, at most 60 MB are used."""
    with broker_with(trust) as broker:
        site = Site.create(tmp_path, trust, hosts=f"localhost:{broker.port}")
        message = signed(
            "APEL-cloud-message: v0.4\n" + "Field: value of it\n" * 37_000, trust.host("sender")
        )
        assert len(message) > 700_000
        broker.enqueue([message] * 40)
        used = bench.run(site, "ssmreceive", "--count", "40")
        assert broker.queue == []
    assert len(list((site.received / "incoming").glob("*/*/body"))) == 40
    assert used.memory * 1.048576 <= 60, f"{used.memory:.1f} MiB"


def test_a_full_inbox_keeps_the_connection_alive() -> None:
    """F-S7: while messages wait to be taken nothing is read, neither heart-beats."""
    room = _Room()
    beats: list[float] = []

    def beat() -> bool:
        beats.append(time.monotonic())
        return True

    room.enter(4 * 1024 * 1024, wait=beat)
    taker = threading.Timer(0.3, room.leave, (4 * 1024 * 1024,))
    taker.start()
    room.enter(1, wait=beat)
    assert beats
    taker.join()
