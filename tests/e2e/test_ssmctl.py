"""`ssmctl` beside the openssl program and the dirq library."""

import subprocess
import sys
from pathlib import Path

import pytest
from dirq.QueueSimple import QueueSimple

from ssm.cmds import control
from tests.testbed.pki import Authority

SSMCTL = Path(sys.prefix) / "bin/ssmctl"


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([SSMCTL, *arguments], capture_output=True, text=True, check=False)


def test_a_spool_is_listed_as_dirq_sees_it(tmp_path: Path) -> None:
    queue = QueueSimple(str(tmp_path / "queue"))
    names = [queue.add(b"x" * size) for size in (5, 70)]
    assert queue.lock(names[0])
    shown = run("spool", "--path", tmp_path / "queue")
    assert (shown.returncode, shown.stderr) == (0, "")
    rows = [line.split() for line in shown.stdout.splitlines()]
    assert [(row[0], row[2], row[4]) for row in rows[:2]] == [
        (names[0], "5", "locked"),
        (names[1], "70", "waits"),
    ]
    assert rows[2][:2] == ["2", "messages"]


def test_a_spool_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    shown = run("spool", "--path", tmp_path / "none")
    assert shown.returncode == 3
    assert (
        shown.stderr
        == f"ssmctl: {tmp_path}/none: the spool does not exist; see [messaging] path, or give "
        "--path\n"
    )


def test_a_message_signed_by_openssl_is_verified_and_an_altered_one_is_not(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "ca")
    signer = authority.issue("ssm.example.org")
    authority.publish(tmp_path / "certificates")
    text = b"Content-Type: text/plain\n\nAPEL-cloud-message: v0.4\nVMUUID: 1\n"
    command: list[str | Path] = [
        "openssl",
        "smime",
        "-sign",
        "-signer",
        signer.certificate,
        "-inkey",
        signer.key,
    ]
    signed = subprocess.run(command, input=text, capture_output=True, check=True).stdout
    message = tmp_path / "message"
    message.write_bytes(signed)
    shown = run("verify", message, "--capath", tmp_path / "certificates", "--crls", "require")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.splitlines()[0].startswith("signed by /DC=EU/DC=EXAMPLE/")
    assert shown.stdout.splitlines()[0].endswith("/CN=ssm.example.org")
    assert shown.stdout.splitlines()[1].endswith(": APEL-cloud-message: v0.4")
    message.write_bytes(signed.replace(b"VMUUID: 1", b"VMUUID: 2"))
    shown = run("verify", message, "--capath", tmp_path / "certificates")
    assert (shown.returncode, shown.stdout, shown.stderr.count("\n")) == (3, "", 1)


def test_a_verb_is_needed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["ssmctl"])
    with pytest.raises(SystemExit):
        control.main()
    assert capsys.readouterr().err.count("\n") == 1
