"""Spools that are plain directories, with the names and the order of SSM's ``MessageDirectory``."""

import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from dirq.queue import Queue

from appliance.core.run.errors import ExitStatus
from ssm.sending.claims import Claims
from ssm.sending.directory_spool import DirectorySpool
from ssm.sending.preview import preview
from tests.simulators.stomp_faults import Fault, FaultBroker, Kind
from tests.testbed.trust import Trust
from tests.unit.test_ssm_sender import sender_to, trust

__all__ = ["trust"]
NAMES = ["b", "ä \n:x", "%41", os.fsdecode(b"\xff"), "00000000"]


def fill(directory: Path) -> None:
    """Make files, in the order of time but not of names, beside things that are no messages."""
    directory.mkdir()
    for number, name in enumerate(NAMES):
        (directory / name).write_text(f"{number}\n")
        os.utime(directory / name, (1_000_000 - number, 2_000_000 + number))
    for name in ("11111111", "sub", ".hidden.d"):
        (directory / name).mkdir()
        (directory / name / ("a" * 14)).write_text("inside")


def run(broker: FaultBroker, directory: Path, trust: Trust) -> tuple[ExitStatus, Claims]:
    sender, _ = sender_to(broker, directory, trust, 0, path_type="directory")
    return sender.run(), sender._claims


def test_files_go_by_their_age_and_directories_are_ignored(tmp_path: Path, trust: Trust) -> None:
    """F-S3: as SSM 3.3.1 and newer, with any names."""
    fill(tmp_path / "spool")
    with FaultBroker(trust.host("broker"), trust.grid.certificate) as broker:
        status, claims = run(broker, tmp_path, trust)
        assert status is ExitStatus.DONE
        bodies = [frame.body.split(b"text/plain\n\n", 1)[1][:2] for frame in broker.sent]
        assert bodies == [b"0\n", b"1\n", b"2\n", b"3\n", b"4\n"]
        assert broker.ids() == ["b", "%C3%A4 %0A:x", "%2541", "%FF", "00000000"]
    assert sorted(path.name for path in (tmp_path / "spool").iterdir()) == [
        ".hidden.d",
        "11111111",
        "sub",
    ]
    assert claims.spool.count() == 0
    assert {path.name for path in tmp_path.iterdir()} == {"spool", "sender.cfg", "var"}


def test_a_dry_run_reads_files_of_any_name(
    tmp_path: Path, trust: Trust, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path / "spool")
    with FaultBroker(trust.host("broker"), trust.grid.certificate) as broker:
        sender, _ = sender_to(broker, tmp_path, trust, 0, path_type="directory")
    packer = sender._messages._packer
    assert preview(sender._claims.spool, packer, destination="/queue/x") is ExitStatus.DONE
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert lines[1].startswith("%C3%A4 %0A:x: 2 bytes, ")


def test_other_things_are_reported_and_unfinished_files_wait(tmp_path: Path, trust: Trust) -> None:
    """F-S3, F-H1."""
    spool = tmp_path / "spool"
    fill(spool)
    (spool / "link").symlink_to("/etc/hostname")
    os.mkfifo(spool / "pipe")
    code = (
        f"f = open({str(spool / 'copy')!r}, 'w'); print(f.write('half') and 'written', "
        "flush=True); input()"
    )
    with (
        FaultBroker(trust.host("broker"), trust.grid.certificate) as broker,
        subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as writer,
    ):
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"written\n"
        status, claims = run(broker, tmp_path, trust)
        assert status is ExitStatus.PARTLY
        assert len(broker.ids()) == len(NAMES)
        assert claims.foreign == ["copy"]
        assert sorted(path.name for path in claims.spool.skipped) == ["link", "pipe"]
        writer.communicate(b"\n")
        (spool / "link").unlink()
        (spool / "pipe").unlink()
        assert run(broker, tmp_path, trust)[0] is ExitStatus.DONE
        assert broker.ids()[-1] == "copy"
    assert claims.spool.count() == 0


def test_a_bad_file_is_set_aside(tmp_path: Path, trust: Trust) -> None:
    """F-S3, F-S1: under a name of its own in the queue of failed messages."""
    spool = tmp_path / "spool"
    spool.mkdir()
    names = [str(uuid.uuid4()) for _ in range(4)]
    for number, name in enumerate(names):
        (spool / name).write_text("POISON\n" if number == 1 else f"{number}\n" * (number != 2))
        os.utime(spool / name, (number, number))
    poison = (b"POISON", Fault(Kind.CLOSE_AFTER_SEND))
    with FaultBroker(trust.host("broker"), trust.grid.certificate, poison=poison) as broker:
        assert run(broker, tmp_path, trust)[0] is ExitStatus.PARTLY
        assert broker.accepted == [names[0], names[3]]
    assert list(spool.iterdir()) == []
    failed = Queue(
        str(tmp_path / "failed/spool"),
        schema={"body": "string", "empaid": "string", "firstseen": "string"},
    )
    found = {}
    for element in failed.names():
        assert failed.lock(element)
        entry = failed.get(element)
        found[entry["empaid"]] = (entry["body"], entry["firstseen"])
    assert found == {
        names[1]: ("POISON\n", "1970-01-01T00:00:01+00:00"),
        names[2]: ("", "1970-01-01T00:00:02+00:00"),
    }


def test_a_missing_directory_is_empty(tmp_path: Path) -> None:
    spool = DirectorySpool(tmp_path / "none")
    assert (list(spool.names()), spool.count()) == ([], 0)
