import json
import logging
from pathlib import Path

import pytest

from appliance.core.run import log, record
from appliance.core.run.errors import ExitStatus


def test_a_run_is_recorded_for_people_and_for_prometheus(tmp_path: Path) -> None:
    run = record.RunRecord("caso-extract")
    run.add("records", 20)
    run.add("records", 3)
    run.close(ExitStatus.DONE, tmp_path / "runs")
    entry = json.loads((tmp_path / "runs" / "caso-extract.json").read_text())
    assert (entry["status"], entry["counts"], entry["failures"]) == (0, {"records": 23}, [])
    metrics = (tmp_path / "runs" / "caso-extract.prom").read_text()
    assert 'fedcloud_run_records{program="caso-extract"} 23.0' in metrics
    assert 'fedcloud_run_exit_status{program="caso-extract"} 0.0' in metrics


def test_a_failed_run_keeps_the_last_success(tmp_path: Path) -> None:
    record.RunRecord("ssmsend").close(ExitStatus.DONE, tmp_path)
    good = record.last_success("ssmsend", tmp_path)
    assert good is not None
    log.hide("hunter2")
    failed = record.RunRecord("ssmsend")
    failed.fail("broker refused password hunter2")
    failed.close(ExitStatus.NOTHING, tmp_path)
    entry = record.read("ssmsend", tmp_path)
    assert entry is not None
    assert record.last_success("ssmsend", tmp_path) == good
    assert entry["failures"] == ["broker refused password ***"]
    log._secrets.clear()


def test_an_unwritable_directory_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        record.RunRecord("x").close(ExitStatus.DONE, tmp_path / "file")
    assert "run record not written" in caplog.text


@pytest.mark.parametrize("content", ["", "[]", "{", '{"last_success": 3}', '{"last_success": "yesterday"}'])
def test_a_broken_record_is_as_good_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    assert record.last_success("x", tmp_path) is None
