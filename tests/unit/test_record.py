import gc
import json
import logging
import os
import signal
import stat
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from appliance.core import clock
from appliance.core.run import log, record
from appliance.core.run.errors import ApplianceError, Busy, ExitStatus, LocalFailure
from tests.foreign import fill, small_disk


def test_a_run_is_recorded_for_people_and_for_prometheus(tmp_path: Path) -> None:
    run = record.RunRecord("caso-extract")
    run.add("records", 20)
    run.add("records", 3)
    run.write(tmp_path / "runs", ExitStatus.DONE)
    entry = json.loads((tmp_path / "runs" / "caso-extract.json").read_text())
    assert (entry["status"], entry["counts"], entry["failures"]) == (0, {"records": 23}, [])
    metrics = (tmp_path / "runs" / "caso-extract.prom").read_text()
    assert 'fedcloud_run_records{program="caso-extract"} 23.0' in metrics
    assert 'fedcloud_run_exit_status{program="caso-extract"} 0.0' in metrics


def test_prometheus_reads_figures_by_label(tmp_path: Path) -> None:
    hostile = 'a"b\\c\nd{},é'
    run = record.RunRecord("x")
    run.parts = {
        "vo": {hostile: {"cpu_hours": 1.5}, "ops": {"cpu_hours": 2}},
        "service": {"Nova": {"requests": 3, "errors": 1}},
    }
    run.write(tmp_path, ExitStatus.DONE)
    assert json.loads((tmp_path / "x.json").read_text())["parts"] == run.parts
    found = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families((tmp_path / "x.prom").read_text())
        for sample in family.samples
        if len(sample.labels) > 1
    }
    program = ("program", "x")
    assert found == {
        ("fedcloud_run_vo_cpu_hours", program, ("vo", hostile)): 1.5,
        ("fedcloud_run_vo_cpu_hours", program, ("vo", "ops")): 2,
        ("fedcloud_run_service_requests", program, ("service", "Nova")): 3,
        ("fedcloud_run_service_errors", program, ("service", "Nova")): 1,
    }


def test_prometheus_reads_the_figures(tmp_path: Path) -> None:
    figures = {
        "records": 23,
        "rate": float("nan"),
        "up": float("inf"),
        "down": float("-inf"),
        "tiny": 1e-7,
        "big": 2e18,
    }
    run = record.RunRecord("caso-extract")
    run.counts |= figures
    run.write(tmp_path, ExitStatus.PARTLY)
    found = {}
    for family in text_string_to_metric_families((tmp_path / "caso-extract.prom").read_text()):
        assert family.type == "gauge"
        assert family.documentation
        [sample] = family.samples
        assert sample.labels == {"program": "caso-extract"}
        found[sample.name.removeprefix("fedcloud_run_")] = sample.value
    assert repr({name: found[name] for name in figures}) == repr(
        {name: float(value) for name, value in figures.items()}
    )
    assert found.keys() - figures.keys() == {
        "end_timestamp_seconds",
        "duration_seconds",
        "exit_status",
        "failures",
    }
    assert found["exit_status"] == 1


@pytest.mark.parametrize(
    ("error", "status", "failures"),
    [
        (ApplianceError("cloud", "is away"), 3, ["cloud: is away"]),
        (LocalFailure("disk", "is full"), 3, ["disk: is full"]),
        (
            PermissionError(13, "Permission denied", "/x"),
            3,
            ["/x: Permission denied; check owner and mode"],
        ),
        (KeyboardInterrupt(), 3, ["interrupted"]),
        (ZeroDivisionError("by zero"), 4, ["bug in this program: ZeroDivisionError: by zero"]),
    ],
)
def test_whatever_ends_a_run_is_recorded(
    tmp_path: Path, error: BaseException, status: int, failures: list[str]
) -> None:
    with pytest.raises((type(error), LocalFailure)), record.recorded("x", tmp_path):
        raise error
    entry = json.loads((tmp_path / "x.json").read_text())
    assert entry["status"] == status
    assert len(entry["failures"]) == len(failures)
    assert all(
        found.startswith(expected)
        for found, expected in zip(entry["failures"], failures, strict=True)
    )


def test_a_run_that_is_refused_leaves_the_record_of_the_one_that_goes_on(tmp_path: Path) -> None:
    with record.recorded("x", tmp_path) as run:
        run.status = ExitStatus.DONE
    before = (tmp_path / "x.json").read_bytes()
    with pytest.raises(Busy), record.recorded("x", tmp_path):
        raise Busy("lock", "running since noon")
    assert (tmp_path / "x.json").read_bytes() == before
    with record.recorded("y", None) as run:
        run.status = ExitStatus.DONE
    assert not (tmp_path / "y.json").exists()


def test_a_failed_run_keeps_the_last_success(tmp_path: Path) -> None:
    record.RunRecord("ssmsend").write(tmp_path, ExitStatus.DONE)
    good = record.last_success("ssmsend", tmp_path)
    assert good is not None
    log.hide("hunter2")
    failed = record.RunRecord("ssmsend")
    failed.fail("broker refused password hunter2")
    failed.write(tmp_path, ExitStatus.NOTHING)
    entry = record.read("ssmsend", tmp_path)
    assert entry is not None
    assert record.last_success("ssmsend", tmp_path) == good
    assert entry["failures"] == ["broker refused password ***"]
    log._secrets.clear()


def test_figures_and_names_of_any_kind_do_not_end_a_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = record.RunRecord("x")
    run.add("rate", float("nan"))
    run.add("ratio", float("inf"))
    run.fail(f'left: {os.fsdecode(b"a" + bytes([255]))} and "quotes"\n')
    run.write(tmp_path, ExitStatus.PARTLY)

    def refuse(constant: str) -> float:
        raise ValueError(constant)

    entry = json.loads((tmp_path / "x.json").read_text(), parse_constant=refuse)
    assert entry["counts"] == {"rate": None, "ratio": None}
    assert entry["failures"] == ['left: a\udcff and "quotes"\n']
    assert "fedcloud_run_rate" in (tmp_path / "x.prom").read_text()
    assert caplog.text == ""
    for name in ("failures", "with-dash", "exit_status"):
        odd = record.RunRecord("x")
        odd.add(name)
        odd.write(tmp_path, ExitStatus.DONE)
        assert json.loads((tmp_path / "x.json").read_text())["counts"] == {name: 1}
    assert "the run record was not written" in caplog.text


def test_a_clock_that_is_set_back_makes_no_negative_duration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = record.RunRecord("x")
    hour_ago = run.started - timedelta(hours=1)
    monkeypatch.setattr(clock, "now", lambda: hour_ago)
    run.write(tmp_path, ExitStatus.DONE)
    metrics = (tmp_path / "x.prom").read_text()
    assert (
        0 <= float(metrics.split('fedcloud_run_duration_seconds{program="x"} ')[1].split()[0]) < 60
    )
    assert json.loads((tmp_path / "x.json").read_text()).keys() == {
        *(
            "program",
            "started",
            "ended",
            "status",
            "counts",
            "failures",
            "notes",
            "parts",
            "last_success",
            "version",
        ),
    }


def test_figures_can_be_read_by_node_exporter_s_account(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        record.RunRecord("x").write(tmp_path, ExitStatus.DONE)
        os.umask(0o022)
        record.RunRecord("x").write(tmp_path / "runs", ExitStatus.DONE)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "x.prom").stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "x.json").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "runs").stat().st_mode) == 0o755
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs", "x.json", "x.prom"]


def test_an_unwritable_directory_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        record.RunRecord("x").write(tmp_path / "file", ExitStatus.DONE)
    assert f"{tmp_path}/file: the run record was not written" in caplog.text


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"last_success": 3}', '{"last_success": "yesterday"}']
)
def test_a_broken_record_is_as_good_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    assert record.last_success("x", tmp_path) is None


def test_sigterm_leaves_the_record_of_the_run_that_it_ended(tmp_path: Path) -> None:
    """F-S2: before, the record of the last good run stayed, and the figures with it."""
    code = (
        "import sys, time; from pathlib import Path; from appliance.core.run.record import "
        "recorded\n"
        "with recorded('x', Path(sys.argv[1])) as run:\n"
        "    run.add('left', 3); print('begun', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=-1, stderr=-1
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"begun\n"
        process.terminate()
        assert process.wait(20) == -signal.SIGTERM
        assert b"stopped by SIGTERM; the next run continues from here" in process.stderr.read()
    entry = json.loads((tmp_path / "x.json").read_text())
    assert (entry["status"], entry["failures"]) == (3, ["stopped by SIGTERM"])
    assert 'fedcloud_run_left{program="x"} 3.0' in (tmp_path / "x.prom").read_text()


def test_a_dry_run_leaves_the_record_in_place(tmp_path: Path) -> None:
    with record.recorded("x", tmp_path) as run:
        run.status, run.is_kept = ExitStatus.DONE, False
    assert not list(tmp_path.iterdir())


def test_one_file_that_cannot_be_written_does_not_cost_the_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """F-H1: somebody made a directory with the name of the record."""
    (tmp_path / "x.json").mkdir()
    record.RunRecord("x").write(tmp_path, ExitStatus.NOTHING)
    assert 'fedcloud_run_exit_status{program="x"} 3.0' in (tmp_path / "x.prom").read_text()
    assert "the run record was not written" in caplog.text


@pytest.mark.root
def test_a_full_disk_shows_the_run_that_failed(tmp_path: Path) -> None:
    """F-S2: where there is no room for a new file, the old ones are overwritten."""
    with small_disk(tmp_path, size="64k") as disk:
        record.RunRecord("x").write(disk, ExitStatus.DONE)
        fill(disk / "filler")
        failed = record.RunRecord("x")
        failed.fail("spool: No space left on device")
        failed.add("left", 7)
        failed.write(disk, ExitStatus.NOTHING)
        entry = json.loads((disk / "x.json").read_text())
        assert (entry["status"], entry["counts"]) == (3, {"left": 7})
        metrics = (disk / "x.prom").read_text()
        assert 'fedcloud_run_exit_status{program="x"} 3.0' in metrics
        assert list(text_string_to_metric_families(metrics))


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (LocalFailure("port", "is taken"), 3, "port: is taken"),
        (PermissionError(13, "Permission denied", "/x"), 3, "/x: Permission denied"),
        (ZeroDivisionError("by zero"), 4, "bug in this program: ZeroDivisionError: by zero"),
    ],
)
def test_a_service_that_ends_against_its_will_leaves_a_record(
    tmp_path: Path, error: Exception, status: int, words: str
) -> None:
    """F-S2: a service that ends well, or finds another one at work, leaves the record in place."""
    record.RunRecord("x").write(tmp_path, ExitStatus.DONE)
    before = (tmp_path / "x.json").read_bytes()
    with record.recorded("x", tmp_path, is_service=True):
        pass
    with pytest.raises(Busy), record.recorded("x", tmp_path, is_service=True):
        raise Busy("lock", "held")
    assert (tmp_path / "x.json").read_bytes() == before
    with (
        pytest.raises((type(error), LocalFailure)) as raised,
        record.recorded("x", tmp_path, is_service=True),
    ):
        raise error
    assert error in (raised.value, raised.value.__cause__)
    said = json.loads((tmp_path / "x.json").read_text())
    assert said["status"] == status
    assert said["failures"][0].startswith(words)


def test_a_flood_of_failures_leaves_a_record_that_can_be_read(tmp_path: Path) -> None:
    """F-S2: a record of more than 4 MiB counted as none."""
    run = record.RunRecord("x")
    for number in range(30_000):
        run.fail(f"record {number}: not sent: " + "x" * 3000)
    run.write(tmp_path, ExitStatus.PARTLY)
    said = record.read("x", tmp_path)
    assert said is not None
    lines = said["failures"]
    assert isinstance(lines, list)
    assert (len(lines), lines[-1]) == (1001, "29000 more; see the log")
    assert 'fedcloud_run_failures{program="x"} 30000.0' in (tmp_path / "x.prom").read_text()


@pytest.mark.parametrize(("failures", "status"), [([], 0), (["one image: left"], 1)])
def test_the_failures_decide_the_status_of_a_run_that_sets_none(
    tmp_path: Path, failures: list[str], status: int
) -> None:
    with record.recorded("x", tmp_path) as run:
        run.failures += failures
    assert json.loads((tmp_path / "x.json").read_text())["status"] == status


def test_a_run_that_is_abandoned_writes_no_record(tmp_path: Path) -> None:
    """A backend's run stays open from call to call, and may be dropped with the process."""
    opened = record.recorded("x", tmp_path)
    opened.__enter__()
    del opened
    gc.collect()
    assert not list(tmp_path.iterdir())
