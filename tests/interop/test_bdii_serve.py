"""The service beside a slapd that cannot be started or does not answer."""

import os
import signal
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from appliance.core.run.layout import Layout
from bdii import server as servers
from bdii import settings
from bdii.engine import Engine
from bdii.serve import Service
from bdii.store import Store
from tests.e2e.bdii_service import Bdii


def service(tmp_path: Path) -> Service:
    read, _ = settings.read(Bdii(tmp_path).configuration, layout=Layout(tmp_path))
    return Service(read, lambda: read)


def test_a_full_disk_at_a_new_start_of_slapd_is_told_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = service(tmp_path)
    made._server.recover()
    engine = Engine(made._settings, Store(tmp_path / "state"), made._server)
    (tmp_path / "state/db").symlink_to("/dev/full/none")  # an error of the system, as a full disk is
    monkeypatch.setattr("bdii.serve._WATCH", timedelta(milliseconds=1))
    monkeypatch.setattr(made._wake, "set", made._stop.set)
    made._watch(engine)
    assert [record.message for record in caplog.records][-1].startswith(f"{tmp_path}/state/db")


def test_a_slapd_that_does_not_answer_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = service(tmp_path)
    made._server.recover()
    engine = Engine(made._settings, Store(tmp_path / "state"), made._server)
    made._server.serve(engine.published)
    try:
        monkeypatch.setattr(servers, "_ANSWER_TIME", timedelta(seconds=1))
        pid = int((tmp_path / "state/slapd.pid").read_text())
        os.kill(pid, signal.SIGSTOP)
        assert not made._cycle(engine)
        alive = [made._server.is_alive]
        assert "does not answer" in caplog.text
        made._server.serve(engine.published)
        made._server.give_up(made._server.generation - 1)  # a complaint of the one before
        alive.append(made._server.is_alive)
        assert made._cycle(engine)
        assert alive == [False, True]
    finally:
        made._server.stop()


def test_figures_that_cannot_be_told_do_not_undo_a_cycle(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = service(tmp_path)
    made._server.recover()
    engine = Engine(made._settings, Store(tmp_path / "state"), made._server)
    made._server.serve(engine.published)
    try:
        engine.settings = replace(made._settings, hostname="ü")  # no value of this schema, as on a full disk nothing is
        (tmp_path / "gip/ldif/x.ldif").write_text("dn: GLUE2GroupID=x,o=glue\nobjectClass: GLUE2Group\n\n")
        assert made._cycle(engine)
        assert "Hostname=ü,o=infosys: refused by the directory" in caplog.text
    finally:
        made._server.stop()
