"""`caso quarantine`: what was set aside is listed, shown, and sent by the rules of today."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from caso import quarantine
from caso.kinds.cloud import CloudRecord, ServerStatus
from tests.e2e.ledger_site import NOW, CasoPrograms, LedgerSite, server
from tests.simulators.openstack import Cloud, serving

GOOD = CloudRecord(
    vm_uuid="27acde94-b86d-44f1-b77a-3ae1b7e192a0",
    site="OLD-NAME",
    service="OLD-NAME",
    vo="vo.one",
    project_id="one",
    user_id="u",
    status=ServerStatus.COMPLETED,
    start=NOW - timedelta(days=2),
    end=NOW - timedelta(days=1),
    wall=timedelta(days=1),
    cpu_count=2,
    memory=512,
    disk=1,
)


@pytest.fixture
def site(tmp_path: Path, caso_programs: CasoPrograms) -> Iterator[LedgerSite]:
    cloud = Cloud(projects=("one",), servers=0, deleted=0)
    cloud.more["one"] = [server(1, created=NOW - timedelta(days=3))]
    with serving(cloud) as served:
        made = LedgerSite(served, tmp_path, caso_programs)
        made.run()
        yield made


def directory(site: LedgerSite) -> Path:
    return site.root / "var/spool/caso/quarantine"


def keep(site: LedgerSite, record: CloudRecord | None, key: str, region: str = "") -> None:
    """Set a record aside as an earlier version has done, whose rules were other ones."""
    quarantine.set_aside(
        directory(site),
        key=key,
        reason="a rule of then",
        text="the text",
        kind="cloud",
        project="one",
        region=region,
        record=record,
    )


def test_an_empty_quarantine(site: LedgerSite) -> None:
    assert site.verb("quarantine", "list") == ["the quarantine is empty"]
    assert site.verb("quarantine", "resend") == []


def test_list_and_show(site: LedgerSite) -> None:
    keep(site, GOOD, "vm-1")
    keep(site, None, "vm-2")
    first, second, held = site.verb("quarantine", "list", expect=1)
    assert first.startswith(f"vm-1: cloud: a rule of then ({NOW - timedelta(days=1):%Y-%m}, ")
    assert "project one, 24.0 h of wall time" in first
    assert second == "vm-2: cloud: a rule of then (project one)"
    assert held.startswith("held: 2 of servers (24.0 h")
    assert site.verb("quarantine", "show", "vm-1") == [first, "the text"]
    shown = site.run("quarantine", "show", "x", program="caso", expect=3)
    assert "record x: is not in the quarantine" in shown.stderr


def test_resend_delivers_once_with_the_names_of_today(site: LedgerSite) -> None:
    keep(site, GOOD, "vm-1")
    keep(site, None, "vm-2")
    before = (site.records(), (site.root / "var/spool/caso/lastrun.one").read_bytes())
    assert site.verb("quarantine", "resend", "--dry-run", "vm-1") == ["vm-1: would be sent"]
    assert site.records() == before[0]
    lines = site.verb("quarantine", "resend", expect=1)
    assert lines == [
        "vm-2: the file does not have the record; extract its month again",
        "vm-1: sent",
    ]
    (record,) = [one for one in site.records() if one["VMUUID"] == GOOD.vm_uuid]
    assert (record["SiteName"], record["WallDuration"]) == ("S", "86400")
    assert (site.root / "var/spool/caso/lastrun.one").read_bytes() == before[1]
    assert [path.stem for path in directory(site).iterdir()] == ["vm-2"]
    assert f"{GOOD.end:%Y-%m}" in "\n".join(site.verb("ledger", "show", GOOD.vm_uuid))
    # The same record again is withheld or harmless: nothing is delivered twice.
    keep(site, GOOD, "vm-1")
    site.verb("quarantine", "resend", "vm-1")
    assert {one["WallDuration"] for one in site.records() if one["VMUUID"] == GOOD.vm_uuid} == {
        "86400"
    }


def test_what_is_still_refused_stays(site: LedgerSite) -> None:
    keep(site, replace(GOOD, cpu_count=-2), "vm-1")
    assert site.verb("quarantine", "resend", expect=1) == [
        "vm-1: CpuCount is -2; CpuDuration is -172800"
    ]
    assert [path.stem for path in directory(site).iterdir()] == ["vm-1"]
