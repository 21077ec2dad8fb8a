"""`ssmctl failed` and `ssmctl requeue`; the dirq library reads the queue and the spool."""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from dirq.queue import Queue
from dirq.QueueSimple import QueueSimple

from appliance.core.run import cli
from ssm.cmds import control
from ssm.sending.dead_letters import DeadLetters
from tests import foreign

SCHEMA = {"body": "string", "reason": "string", "empaid": "string"}
ID = "6b029cc8/6b029cd9717820"
TEXT = b"APEL-ip-message: v0.2\nSiteName: S\n"
CLOUD = b"APEL-cloud-message: v0.4\nVMUUID: 1\n"


def dead_letters(directory: Path, *bodies: bytes) -> DeadLetters:
    (directory / "spool").mkdir()
    made = DeadLetters(directory / "failed/spool")
    for number, body in enumerate(bodies):
        made.add(
            f"{ID[:-1]}{number}",
            body,
            reason="it has 7 bytes,\nat most 5 are sent",
            first_seen=datetime(2026, 11, 22, 8, 13, 55, tzinfo=UTC),
            attempts=3,
            last_error="closed",
        )
    return made


def ssmctl(directory: Path, *words: str) -> int:
    verb, *others = words
    return cli.main(control.PROGRAM, [verb, "--path", str(directory / "spool"), *others])


def bodies(directory: Path) -> list[str]:
    """Return the bodies that dirq finds in the queue of dead letters."""
    queue = Queue(str(directory / "failed/spool"), schema=SCHEMA)
    found = []
    for name in queue.names():
        assert queue.lock(name)
        found.append(str(queue.get(name)["body"]))
        queue.unlock(name)
    return found


def spooled(directory: Path) -> list[bytes]:
    """Return the messages that dirq finds in the spool."""
    queue = QueueSimple(str(directory / "spool"))
    found = []
    for name in queue.names():
        assert queue.lock(name)
        found.append(queue.get(name))
        queue.unlock(name)
    return found


def test_dead_letters_are_listed_with_their_reasons(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """B18."""
    dead_letters(tmp_path, TEXT, CLOUD)
    assert ssmctl(tmp_path, "failed") == 0
    first, second, total = capsys.readouterr().out.splitlines()
    assert first == (
        "6b029cc8/6b029cd9717820  2026-11-22T08:13:55+00:00          34 bytes  sent 3 times"
        "  it has 7 bytes,\\nat most 5 are sent"
    )
    assert second.startswith("6b029cc8/6b029cd9717821  ")
    assert total == f"2 dead letters in {tmp_path}/failed/spool"


def test_without_dead_letters_nothing_is_listed_or_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ssmctl(tmp_path, "failed") == 0
    assert capsys.readouterr().out == f"0 dead letters in {tmp_path}/failed/spool\n"
    assert list(tmp_path.iterdir()) == []


def test_unusable_names_are_listed_and_others_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """F-H1."""
    dead_letters(tmp_path, TEXT)
    (tmp_path / "failed/spool/0000ffff").touch()
    assert ssmctl(tmp_path, "failed") == 1
    _, _, line = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{tmp_path}/failed/spool/0000ffff: skipped: is a file; ")


def test_a_message_moves_back_into_the_spool(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """B18: one message, and no other."""
    dead_letters(tmp_path, TEXT, b"other")
    assert ssmctl(tmp_path, "requeue", ID) == 0
    (name,) = QueueSimple(str(tmp_path / "spool")).names()
    assert capsys.readouterr().out == f"{ID} is {name} in {tmp_path}/spool now\n"
    assert spooled(tmp_path) == [TEXT]
    assert bodies(tmp_path) == ["other"]


def test_an_older_message_of_cloud_records_needs_force(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """B18: the repository keeps the last record of a server and month."""
    dead_letters(tmp_path, CLOUD)
    assert ssmctl(tmp_path, "requeue", ID) == 2
    assert capsys.readouterr().err == (
        f"ssmctl: {ID}: holds cloud records, which would replace newer ones that were sent"
        " meanwhile; send the month again with caso republish --month MONTH, or, if"
        " nothing was sent meanwhile, repeat the command with --force\n"
    )
    assert (bodies(tmp_path), spooled(tmp_path)) == ([CLOUD.decode()], [])
    assert ssmctl(tmp_path, "requeue", ID, "--force") == 0
    assert (bodies(tmp_path), spooled(tmp_path)) == ([], [CLOUD])


def test_a_message_that_is_no_dead_letter(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dead_letters(tmp_path, TEXT)
    assert ssmctl(tmp_path, "requeue", "6b029cc8/00000000000000") == 2
    assert "6b029cc8/00000000000000: is not a dead letter; list them with ssmctl failed" in (
        capsys.readouterr().err
    )


def test_a_dead_letter_that_another_program_has_locked_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dead_letters(tmp_path, TEXT)
    queue = Queue(str(tmp_path / "failed/spool"), schema=SCHEMA)
    assert queue.lock(queue.first())
    assert ssmctl(tmp_path, "requeue", ID) == 1
    assert "another program has locked this dead letter" in capsys.readouterr().err
    assert spooled(tmp_path) == []


def test_root_does_not_write_into_the_spool_of_another_user(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """F-H1: a directory of root's in the spool would stop the sender."""
    dead_letters(tmp_path, TEXT)
    if os.geteuid() == 0:
        os.chown(tmp_path, foreign.NOBODY, foreign.NOBODY)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert ssmctl(tmp_path, "requeue", ID) == 3
    owner = tmp_path.stat().st_uid
    assert capsys.readouterr().err == (
        f"ssmctl: {tmp_path}/spool: belongs to user {owner}, this program runs as root; run it as"
        f" that user: setpriv --reuid={owner} --clear-groups ssmctl requeue {ID}\n"
    )
    assert spooled(tmp_path) == []


def test_the_rest_of_a_killed_requeue_is_not_listed_and_removed_next_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    letters = dead_letters(tmp_path, TEXT, b"other").letters()
    letters[0].body.unlink()  # a rename moved it, and the program was killed
    assert ssmctl(tmp_path, "failed") == 0
    assert f"1 dead letters in {tmp_path}/failed/spool" in capsys.readouterr().out
    assert ssmctl(tmp_path, "requeue", letters[1].message_id) == 0
    assert spooled(tmp_path) == [b"other"]
    assert not any(letter.element.exists() for letter in letters)


def test_a_message_moves_back_into_a_plain_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """F-S3: as the newest file."""
    dead_letters(tmp_path, TEXT)
    config = tmp_path / "etc/apel/sender.cfg"
    config.parent.mkdir(parents=True)
    for name in ("hostcert.pem", "hostkey.pem"):
        (tmp_path / name).touch()
    config.write_text(
        "[sender]\nprotocol: AMS\n[broker]\nhost: localhost\n[certificates]\n"
        f"certificate: {tmp_path}/hostcert.pem\nkey: {tmp_path}/hostkey.pem\ncapath: {tmp_path}\n"
        "[messaging]\nams_project: p\ndestination: d\npath_type: directory\n"
        f"path: {tmp_path}/spool\n"
    )
    (tmp_path / "spool/earlier").write_text("earlier")
    os.utime(tmp_path / "spool/earlier", (1_000_000, 1_000_000))
    words = ["requeue", "--root", str(tmp_path), ID]
    assert cli.main(control.PROGRAM, words) == 0
    assert "in " + str(tmp_path / "spool") in capsys.readouterr().out
    made = sorted((tmp_path / "spool").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert [path.read_bytes() for path in made] == [b"earlier", TEXT]
    assert bodies(tmp_path) == []
