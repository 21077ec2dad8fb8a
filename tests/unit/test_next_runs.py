"""`appliance diff`: what the next run of each job would change; nothing is changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from dirq.QueueSimple import QueueSimple

from appliance.admin.command import main
from appliance.core.run import lock
from caso import dry_run
from cloudkeeper.frontend.commands import plan
from cloudkeeper.frontend.sync_report import ChangeOutcome, SyncReport
from cloudkeeper.model import Appliance, ApplianceId, Hide, ListId
from tests.unit.test_run_job import Site, appliance, site  # noqa: F401

# ruff: noqa: F811  the fixtures are those of the tests of runs

ROW = {
    "project": "p", "project_id": "1", "region": "", "vo": "ops", "month": "2026-11",
    "kind": "servers", "destination": "ssm", "things": 2, "hours": 10.0, "cpu_hours": 20.0,
    "more_hours": 1.5, "more_cpu_hours": 3.0, "records": 2, "withheld": 1, "quarantined": 0,
    "messages": 1,
}  # fmt: skip
QUARANTINED = ROW | {"hours": "", "more_hours": "", "records": 0, "quarantined": 3, "messages": 0}
PLAN = {
    "changes": [
        {"action": "Create", "bytes": 2048},
        {"action": "Create", "bytes": None},
        {"action": "Remove", "bytes": 0},
    ],
    "held": [],
    "unchanged": 12,
    "withheld": 4,
    "notes": [],
    "failures": ["registry.example.org: 503"],
}


@pytest.fixture
def asked(site: Site) -> Site:
    """A site whose programs answer a dry run as `caso-extract` and `cloudkeeper plan` do."""
    (site.place / "caso").write_text(json.dumps([ROW, ROW | {"vo": "x"}, QUARANTINED]))
    (site.place / "plan").write_text(json.dumps(PLAN))
    (site.place / "docker-compose").write_text(
        "#!/bin/sh\n"
        f'echo "$*" >>{site.place}/asked\n'
        f"case \"$*\" in *'cloudkeeper plan --json') cat {site.place}/plan;;\n"
        f"*caso-extract*'--dry-run --json') cat {site.place}/caso;;\n"
        "*) echo unknown >&2; exit 3;; esac\n"
    )
    outgoing = site.root / "var/spool/apel/outgoing/openstack"
    spool = QueueSimple(str(outgoing))
    for _ in range(3):
        spool.add("x" * 100)
    (site.root / "etc/apel").mkdir()
    text = f"[messaging]\npath: {outgoing}\ndestination: eu-egi-cloud-accounting\n"
    (site.root / "etc/apel/sender.cfg").write_text(text)
    return site


def shown(site: Site, capsys: pytest.CaptureFixture[str], *, status: int) -> dict[str, Any]:
    assert main(["diff", "--json", "--root", str(site.root)]) == status
    jobs = json.loads(capsys.readouterr().out)["jobs"]
    return {one["job"]: one for one in jobs}


@pytest.mark.long
@pytest.mark.root
def test_each_job_is_one_forecast(asked: Site, capsys: pytest.CaptureFixture[str]) -> None:
    found = shown(asked, capsys, status=1)
    assert found["caso"]["changes"] == [
        "2026-11: 4 records of servers, +3.0 h, 2 messages, 3 withheld, 3 quarantined"
    ]
    assert found["caso"]["figures"]["more_hours"] == 3.0
    assert found["ssmsend"]["changes"] == ["3 messages, 300 B, to eu-egi-cloud-accounting"]
    assert found["ssmsend"]["figures"] == {"messages": 3, "bytes": 300}
    assert found["cloudkeeper"]["changes"] == [
        "2 to add, 1 to remove",
        "2.0 KiB to transfer",
        "4 removals held back",
        "! registry.example.org: 503",
    ]
    assert found["cloudkeeper"]["figures"]["unchanged"] == 12
    assert "information.json: does not exist" in found["cloud-info-json"]["failure"]


@pytest.mark.long
@pytest.mark.root
def test_nothing_is_changed_on_disk(asked: Site, capsys: pytest.CaptureFixture[str]) -> None:
    """No run record either, which would hide that of the last run."""
    shown(asked, capsys, status=1)
    before = {
        path: path.read_bytes()
        for path in asked.root.rglob("*")
        if path.is_file() and "run/fedcloud" not in str(path)
    }
    shown(asked, capsys, status=1)
    after = {
        path: path.read_bytes()
        for path in asked.root.rglob("*")
        if path.is_file() and "run/fedcloud" not in str(path)
    }
    assert after == before
    assert not (asked.root / "var/lib/fedcloud/runs").exists()


@pytest.mark.long
@pytest.mark.root
def test_one_screen_of_80_columns(asked: Site, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [ROW | {"month": f"20{year}-01", "kind": "k" * 90} for year in range(10, 60)]
    (asked.place / "caso").write_text(json.dumps(rows))
    assert main(["diff", "--root", str(asked.root)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 30
    assert lines[0] == "JOB              NEXT RUN   CHANGES (nothing was changed)"
    assert any(line.endswith("45 more lines: appliance diff --json") for line in lines)


@pytest.mark.root
def test_a_failure_is_shown_with_its_remedy(
    asked: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = asked.root / "etc/fedcloud/appliance.yaml"
    text = settings.read_text().replace(str(asked.engine.socket), "/run/gone.sock")
    settings.write_text(text)
    assert main(["diff", "--root", str(asked.root)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    first = next(number for number, line in enumerate(lines) if line.startswith("caso "))
    words = " ".join(line[28:].strip() for line in lines[first : first + 4])
    assert "! /run/gone.sock: the Docker engine does not run; see systemctl" in words
    assert "start it with systemctl start docker" in words


@pytest.mark.long
@pytest.mark.root
@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("exit 3", "caso-extract ended with exit status 3"),
        ("echo [1]", "its dry run printed something else than its JSON"),
        ("echo no json", "its dry run printed something else than its JSON"),
    ],
)
def test_a_dry_run_that_fails_hides_no_other(
    asked: Site, capsys: pytest.CaptureFixture[str], answer: str, words: str
) -> None:
    (asked.place / "docker-compose").write_text(f"#!/bin/sh\n{answer}\n")
    found = shown(asked, capsys, status=1)
    assert words in found["caso"]["failure"]
    assert found["ssmsend"]["changes"] == ["3 messages, 300 B, to eu-egi-cloud-accounting"]


@pytest.mark.root
def test_a_job_that_runs_now_is_not_asked(asked: Site, capsys: pytest.CaptureFixture[str]) -> None:
    import subprocess
    import sys

    path = asked.root / "run/fedcloud/caso.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    script = (
        "import sys, time; from pathlib import Path; from appliance.core.run import lock\n"
        "with lock.hold(Path(sys.argv[1])): print('held', flush=True); time.sleep(15)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert lock.holder(path)
        try:
            found = shown(asked, capsys, status=1)
        finally:
            holder.kill()
    assert found["caso"]["failure"].startswith("is running since")


@pytest.mark.root
def test_flows_that_are_off_are_left_out(asked: Site, capsys: pytest.CaptureFixture[str]) -> None:
    settings = asked.root / "etc/fedcloud/appliance.yaml"
    text = settings.read_text().replace("{images: on}", "{images: off, information: off}")
    settings.write_text(text)
    found = shown(asked, capsys, status=0)
    assert list(found) == ["caso", "ssmsend"]
    assert "cloudkeeper" not in (asked.place / "asked").read_text()


def test_beside_upstream_a_program_that_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command was installed without the extra caso; nothing of ours is on the host."""
    monkeypatch.setattr("sys.executable", str(tmp_path / "python3"))
    assert main(["diff", "--json", "--root", str(tmp_path)]) == 3
    found = {one["job"]: one for one in json.loads(capsys.readouterr().out)["jobs"]}
    assert "caso-extract: is not installed; install the extra caso" in found["caso"]["failure"]
    assert "sender.cfg: does not exist" in found["ssmsend"]["failure"]
    assert list(tmp_path.iterdir()) == []


def test_the_answers_of_these_tests_have_the_names_of_the_programs() -> None:
    (columns,) = dry_run.table([])
    assert columns == list(ROW)
    assert plan._as_json(SyncReport()).keys() == PLAN.keys()
    made = plan.as_json(
        ChangeOutcome(Hide(Appliance(ApplianceId("a"), ListId("l")), "x"), "vo"), state="planned"
    )
    assert (made["action"], made["bytes"]) == ("Hide", 0)
