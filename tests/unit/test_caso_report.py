"""`caso report` and `caso reconcile --portal`, from a ledger."""

from __future__ import annotations

import csv
import io
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from caso.cmds import control
from caso.ledger.ledger import Ledger
from caso.ledger.model import LedgerRow, Month, Origin, Span, Stream
from tests.unit.test_caso_control import CONFIG

BORDER = datetime(2026, 10, 31, 23, 59, 59, tzinfo=UTC)
END = BORDER + timedelta(hours=10)
ORIGIN = Origin("https://keystone.example.org/v3", "", "p1")


def server(
    key: str, begin: datetime, until: datetime, *, vo: str = "ops", cores: int = 2
) -> LedgerRow:
    wall = int((until - begin).total_seconds())
    month = Month(until.year * 100 + until.month)
    return LedgerRow(key, month, wall, until, vo, f"user-{key}", wall * cores)


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """Return a ledger with two servers of ops in two months and one of biomed."""
    path = tmp_path / "caso/ledger.sqlite"
    a, b = BORDER - timedelta(hours=30), BORDER - timedelta(hours=5)
    rows = [
        server("a", a, BORDER),
        server("a", a, END),
        server("b", b, BORDER, cores=1),
        server("c", BORDER, END, vo="biomed", cores=4),
    ]
    with Ledger(path) as made:
        # One of them a second time, to a destination that has not come further.
        for destination, sent in (("ssm", rows), ("logstash", rows[:1])):
            intent = made.deliveries.intent("batch", Stream(ORIGIN, "cloud", destination))
            intent.add(b"\1" * 32, sent)
            intent.seal(Span(a, END), checkpoint=END)
            made.deliveries.confirm("batch")
    return path


def verb(
    name: str,
    root: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    *flags: str,
) -> tuple[int, str, str]:
    both = CONFIG.replace("messengers = ssm", "messengers = logstash, ssm")
    (root / "caso.conf").write_text(both.format(root))
    (root / "caso.conf").chmod(0o600)
    argv = ["caso", name, "--config-file", str(root / "caso.conf"), *flags]
    monkeypatch.setattr(sys, "argv", argv)
    status = control.main()
    shown = capsys.readouterr()
    return status, shown.out, shown.err


@pytest.mark.usefixtures("ledger")
class TestCasoReport:
    """`caso report`."""

    def test_by_month_and_vo(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each record counts once, although two messengers have delivered it."""
        status, text, _ = verb("report", tmp_path, capsys, monkeypatch, "--json")
        assert status == 0
        assert json.loads(text) == [
            row("2026-10", "ops", 2, 35.0, 65.0),
            row("2026-11", "biomed", 1, 10.0, 40.0),
            row("2026-11", "ops", 1, 10.0, 20.0),
        ]

    def test_days_and_users_as_csv(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        flags = ("--csv", "--by", "day,project", "--users", "--from", "2026-10", "--to", "2026-10")
        status, text, _ = verb("report", tmp_path, capsys, monkeypatch, *flags)
        assert status == 0
        assert list(csv.reader(io.StringIO(text))) == [
            ["day", "project", "user", "kind", "things", "hours", "cpu_hours"],
            ["2026-10-30", "p1", "user-a", "servers", "1", "6.0", "12.0"],
            ["2026-10-31", "p1", "user-a", "servers", "1", "24.0", "48.0"],
            ["2026-10-31", "p1", "user-b", "servers", "1", "5.0", "5.0"],
        ]

    def test_users_are_shown_on_request_only(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _, text, _ = verb("report", tmp_path, capsys, monkeypatch)
        assert "user" not in text
        assert text.splitlines()[0].split() == [
            "month",
            "vo",
            "kind",
            "things",
            "hours",
            "cpu_hours",
        ]

    def test_in_credits(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "rates").write_text("[rates]\ncpu_hour = 0.5\n[biomed]\ncpu_hour = 2\n")
        flags = ("--json", "--by", "vo", "--rate", str(tmp_path / "rates"))
        _, text, _ = verb("report", tmp_path, capsys, monkeypatch, *flags)
        costs = {line["vo"]: line["credits"] for line in json.loads(text)}
        assert costs == {"biomed": 80.0, "ops": 42.5}

    def test_an_unknown_column_is_refused(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(SystemExit) as ended:
            verb("report", tmp_path, capsys, monkeypatch, "--by", "month,year")
        assert ended.value.code == 2
        assert "'year' is none of month, day, vo, project, kind" in capsys.readouterr().err


def row(month: str, vo: str, things: int, hours: float, cpu: float) -> dict[str, object]:
    return {
        "month": month,
        "vo": vo,
        "kind": "servers",
        "things": things,
        "hours": hours,
        "cpu_hours": cpu,
    }


def test_a_report_without_a_ledger(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "caso").mkdir()
    status, text, _ = verb("report", tmp_path, capsys, monkeypatch)
    assert (status, text) == (0, "nothing was delivered in these months\n")
    assert not list((tmp_path / "caso").iterdir())
    status, text, _ = verb("reconcile", tmp_path, capsys, monkeypatch)
    assert (status, text) == (0, "nothing was delivered yet\n")


def test_a_project_is_listed_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "caso").mkdir()
    monkeypatch.setenv("OS_DEFAULT__LOCAL_PROJECTS", "lab, ops")
    status, _, error = verb("report", tmp_path, capsys, monkeypatch)
    assert status == 2
    assert "local_projects: 'ops' is in projects, too; a local project is never sent" in error


def test_the_portal_has_less_and_more(
    ledger: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = tmp_path / "portal.csv"
    table.write_text(
        "vo,month,vms,wall_hours\nops,2026-10,2,35.2\nops,2026-11,1,4\nbiomed,2026-11,2,10\n"
    )
    flags = ("--portal", str(table))
    before = ledger.read_bytes()
    status, text, _ = verb("reconcile", tmp_path, capsys, monkeypatch, *flags)
    assert ledger.read_bytes() == before
    assert status == 1
    lines = text.splitlines()
    assert "2026-10 ops: wall_hours 35.0 delivered, 35.2 at the portal (+0.57 %)" in lines
    assert any("2026-11 ops: wall_hours 10.0 del" in line and "not all" in line for line in lines)
    assert any("2026-11 biomed: vms 1" in line and "too much" in line for line in lines)
    table.write_text("vo,month,vms\nops,2026-10,2\nops,2026-11,1\nbiomed,2026-11,1\n")
    status, text, _ = verb("reconcile", tmp_path, capsys, monkeypatch, *flags, "--json")
    assert status == 0
    assert {found["metric"] for found in json.loads(text)} == {"vms"}
    status, _, error = verb("reconcile", tmp_path, capsys, monkeypatch, "--portal", "/nowhere.csv")
    assert status == 2
    assert error == "caso: /nowhere.csv: cannot be read: no such file or directory\n"
    monkeypatch.setenv("FEDCLOUD_PLACES", f"{tmp_path}=/host")
    status, _, error = verb("reconcile", tmp_path, capsys, monkeypatch, "--portal", "/nowhere.csv")
    assert status == 2
    assert "does not see it; copy it to /var/lib/fedcloud/caso" in error
