"""The service beside a slapd that cannot be started or does not answer."""

import json
import os
import signal
import socket
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from appliance.core.run.errors import LocalFailure
from appliance.core.run.layout import Layout
from bdii import settings
from bdii.service.cycle import Updater
from bdii.service.daemon import BdiiService
from bdii.service.state import StateDirectory
from bdii.slapd import process
from tests import foreign
from tests.e2e.bdii_service import Bdii, cloud, image, search


def service(tmp_path: Path) -> BdiiService:
    read, _ = settings.read(Bdii(tmp_path).configuration, layout=Layout(tmp_path))
    return BdiiService(read, lambda: read)


def test_a_full_disk_when_slapd_restarts_is_reported_and_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = service(tmp_path)
    made._slapd.recover()
    updater = Updater(made._settings, StateDirectory(tmp_path / "state"), made._slapd)
    # an OSError, as a full disk raises
    (tmp_path / "state/db").symlink_to("/dev/full/none")
    monkeypatch.setattr("bdii.service.daemon._WATCH", timedelta(milliseconds=1))
    monkeypatch.setattr(made._wake, "set", made._stop.set)
    made._watch(updater)
    made._stop.clear()
    assert not made._cycle(updater)
    said = json.loads((made._settings.runs / "bdii-resource.json").read_text())
    assert said["failures"][0].startswith(f"slapd cannot be started: {tmp_path}/state/db"), "F-S2"
    assert any(record.message.startswith(f"{tmp_path}/state/db") for record in caplog.records)


def test_a_slapd_that_does_not_answer_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = service(tmp_path)
    made._slapd.recover()
    updater = Updater(made._settings, StateDirectory(tmp_path / "state"), made._slapd)
    made._slapd.serve(updater.published)
    try:
        monkeypatch.setattr(process, "_ANSWER_TIME", timedelta(seconds=1))
        pid = int((tmp_path / "state/slapd.pid").read_text())
        os.kill(pid, signal.SIGSTOP)
        assert not made._cycle(updater)
        alive = [made._slapd.is_alive]
        assert "does not answer" in caplog.text
        said = json.loads((made._settings.runs / "bdii-resource.json").read_text())
        assert (said["status"], said["counts"]["entries"]) == (3, len(updater.published)), "F-S2"
        assert "the directory does not answer" in said["failures"][0]
        made._slapd.serve(updater.published)
        made._slapd.give_up(made._slapd.generation - 1)  # about an earlier slapd
        alive.append(made._slapd.is_alive)
        assert made._cycle(updater)
        assert alive == [False, True]
    finally:
        made._slapd.stop()


def test_figures_that_cannot_be_published_do_not_undo_a_cycle(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = service(tmp_path)
    made._slapd.recover()
    updater = Updater(made._settings, StateDirectory(tmp_path / "state"), made._slapd)
    made._slapd.serve(updater.published)
    try:
        # slapd rejects this value, as it rejects any on a full disk
        updater.settings = replace(made._settings, hostname="ü")
        (tmp_path / "gip/ldif/x.ldif").write_text(
            "dn: GLUE2GroupID=x,o=glue\nobjectClass: GLUE2Group\n\n"
        )
        assert made._cycle(updater)
        assert "Hostname=ü,o=infosys: refused by the directory" in caplog.text
    finally:
        made._slapd.stop()


def test_a_service_that_cannot_start_leaves_a_record(tmp_path: Path) -> None:
    """F-S2: the record of the last good cycle stayed in place."""
    made = service(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", made._settings.port))
        taken.listen()
        with pytest.raises(LocalFailure, match="is taken by another program"):
            made.run()
    said = json.loads((made._settings.runs / "bdii-resource.json").read_text())
    assert said["status"] == 3
    assert f"127.0.0.1:{made._settings.port}: is taken by another program" in said["failures"][0]
    metrics = (made._settings.runs / "bdii-resource.prom").read_text()
    assert 'fedcloud_run_exit_status{program="bdii-resource"} 3.0' in metrics


def test_foreign_names_in_the_state_directory_do_not_keep_it_from_serving(tmp_path: Path) -> None:
    """F-H1: pipes named like state files blocked the start for ever."""
    state = tmp_path / "state"
    state.mkdir()
    for name in ("slapd.pid", "memory.json", "published.ldif"):
        os.mkfifo(state / name)
    foreign.make(state / "db")
    (state / "db/1").symlink_to("1")
    (state / "db/2").write_text("")
    foreign.make(state / "sources", suffix=".ldif")
    made = service(tmp_path)
    made._slapd.recover()
    updater = Updater(made._settings, StateDirectory(state), made._slapd)
    made._slapd.serve(updater.published)
    try:
        assert made._cycle(updater)
        assert search(made._settings.port)
    finally:
        made._slapd.stop()


def test_a_day_later_entries_marked_as_stale_are_no_difference(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = service(tmp_path)
    caplog.set_level("INFO")
    good = tmp_path / "gip/ldif/good.ldif"
    good.write_text(cloud(image(1), image(2)))
    made._slapd.recover()
    updater = Updater(made._settings, StateDirectory(tmp_path / "state"), made._slapd)
    made._slapd.serve(updater.published)
    try:
        assert made._cycle(updater)
        good.rename(good.with_name("away"))
        for _ in range(3):
            assert made._cycle(updater)
            updater._publisher._compared -= 86_401
        assert caplog.text.count("read back 8 entries from slapd") == 2
        assert "that differ from those published" not in caplog.text
    finally:
        made._slapd.stop()
