"""Suspended, paused, shelved and stopped time, from Nova's actions, if the site asks for it.

The truth is what a test does to a server of the simulated cloud.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from appliance.core.cloud.login import Access
from appliance.core.cloud.session import Cloud
from caso.kinds import cloud as kind
from caso.kinds.cloud import CloudRecord
from caso.kinds.months import BEGINNING, ExtractionWindow
from caso.memory.cloud import CloudMemory
from caso.sources.nova import SOURCE
from caso.sources.source import Names, ProjectContext
from tests.simulators import openstack

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
BORN = NOW - timedelta(days=40)
SINCE = NOW - timedelta(days=30)
HOUR = timedelta(hours=1)
NUMBERS = itertools.count()


def z(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def naive(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.000000")


class Machine:
    """A server, and what is done to it."""

    def __init__(self, cloud: openstack.Cloud) -> None:
        self.told: dict[str, Any] = {
            **cloud.server("one", 900 + len(cloud.more["one"])),
            "created": z(BORN),
            "updated": z(BORN),
            "OS-SRV-USG:launched_at": naive(BORN),
            "_actions": [],
        }
        cloud.more["one"].append(self.told)

    @property
    def id(self) -> str:
        return str(self.told["id"])

    def act(
        self,
        name: str,
        at: datetime,
        status: str,
        *,
        failed: bool = False,
        takes: timedelta = HOUR * 0,
    ) -> None:
        """Do something at a moment; the newest action comes first, as in Nova."""
        action = {
            "action": name,
            "request_id": f"req-{next(NUMBERS)}",
            "start_time": naive(at),
            "updated_at": naive(at + takes),
            "message": "Error" if failed else None,
        }
        self.told["_actions"].insert(0, action)
        self.told |= {"status": status, "updated": z(at + takes)}


@pytest.fixture
def service() -> Iterator[openstack.Cloud]:
    cloud = openstack.Cloud(servers=0, deleted=0, now=NOW, more={"one": []})
    with openstack.serving(cloud) as served:
        yield served


def run(
    service: openstack.Cloud,
    path: Path,
    window: tuple[datetime, datetime],
    *,
    since: datetime | None = SINCE,
) -> dict[str, list[CloudRecord]]:
    """Return the records of each server, oldest first."""
    url = f"{service.url}/v3"
    options = {"auth_url": url, "username": "u", "user_domain_name": "D", "password": "p"}
    scope = Cloud(Access("v3password", url, options)).project("one")
    memory = CloudMemory(path / "memory.sqlite", url, names_age=HOUR, read_only=False)
    context = ProjectContext(
        vo="vo.x",
        names=Names("S", "S"),
        user_name=lambda _: "jane",
        image=lambda image: image,
        warn=lambda _: None,
        servers=memory.servers("", "one"),
        suspended_since=since,
    )
    service.requests.clear()
    found: dict[str, list[CloudRecord]] = {}
    for one in SOURCE.records(
        scope, ExtractionWindow(*window, is_first=window[0] == BEGINNING), context
    ):
        assert isinstance(one[1], CloudRecord)
        found.setdefault(one[1].key, []).append(one[1])
    memory.close()
    return found


def hours(record: CloudRecord) -> tuple[float, float]:
    """Return wall and suspended hours."""
    assert record.suspended is not None
    return record.wall / HOUR, record.suspended / HOUR


PAIRS = [
    ("suspend", "SUSPENDED", "resume"),
    ("pause", "PAUSED", "unpause"),
    ("shelve", "SHELVED_OFFLOADED", "unshelve"),
    ("stop", "SHUTOFF", "start"),
    ("stop", "SHUTOFF", "reboot"),
]


@pytest.mark.parametrize(("begin", "status", "end"), PAIRS)
def test_what_ended_and_what_lasts(
    service: openstack.Cloud, tmp_path: Path, begin: str, status: str, end: str
) -> None:
    ended, lasting, none = (Machine(service) for _ in range(3))
    ended.act(begin, NOW - 50 * HOUR, status)
    ended.act(end, NOW - 40 * HOUR, "ACTIVE")
    ended.told["updated"] = z(NOW - 2 * HOUR)  # it got another name
    lasting.act(begin, NOW - 5 * HOUR, status)
    found = run(service, tmp_path, (BEGINNING, NOW))
    life = (NOW - BORN) / HOUR
    assert hours(found[ended.id][-1]) == (life - 10, 10)
    assert hours(found[lasting.id][-1]) == (life - 5, 5)
    assert hours(found[none.id][-1]) == (life, 0)
    assert {records[-1].measured for records in found.values()} == {NOW}
    # Two listings, and the actions of the two that changed since the moment.
    assert service.requests["GET /compute/v2.1/servers"] == 4


def test_each_month_has_its_part(service: openstack.Cloud, tmp_path: Path) -> None:
    """A suspension over the end of a month: the records are cumulative, cut at the same second."""
    machine = Machine(service)
    end_of_month = datetime(2026, 10, 31, 23, 59, 59, tzinfo=UTC)
    machine.act("suspend", end_of_month - 10 * HOUR, "SUSPENDED")
    machine.act("resume", end_of_month + 20 * HOUR, "ACTIVE")
    october, november = run(service, tmp_path, (BEGINNING, NOW))[machine.id]
    assert october.suspended == 10 * HOUR
    assert november.suspended == 30 * HOUR
    assert (october.measured, november.measured) == (end_of_month, NOW)
    assert november.wall - october.wall == NOW - end_of_month - 20 * HOUR


def test_what_was_before_the_moment_stays_wall_time(
    service: openstack.Cloud, tmp_path: Path
) -> None:
    """It was delivered, and what was delivered never shrinks."""
    before, across = Machine(service), Machine(service)
    before.act("suspend", SINCE - 50 * HOUR, "SUSPENDED")
    before.act("resume", SINCE - 20 * HOUR, "ACTIVE")
    across.act("suspend", SINCE - 50 * HOUR, "SUSPENDED")
    across.act("resume", SINCE + 7 * HOUR, "ACTIVE")
    found = run(service, tmp_path, (BEGINNING, NOW))
    assert found[before.id][-1].suspended == timedelta(0)
    assert found[across.id][-1].suspended == 7 * HOUR


def test_off_is_as_in_caso(service: openstack.Cloud, tmp_path: Path) -> None:
    machine = Machine(service)
    machine.act("suspend", NOW - 50 * HOUR, "SUSPENDED")
    record = run(service, tmp_path, (BEGINNING, NOW), since=None)[machine.id][-1]
    assert record.wall == NOW - BORN
    assert "SuspendDuration" not in kind.fields(record)
    assert service.requests["GET /compute/v2.1/servers"] == 2  # no actions
    record = run(service, tmp_path, (NOW - HOUR, NOW))[machine.id][-1]
    assert kind.fields(record)["SuspendDuration"] == 50 * 3600


def test_hours_add_up_run_by_run(service: openstack.Cloud, tmp_path: Path) -> None:
    """What came and went between two runs is found, and what lasts grows without a question."""
    machine, quiet = Machine(service), Machine(service)
    start = NOW - 10 * HOUR
    run(service, tmp_path, (BEGINNING, start))
    machine.act("stop", start + HOUR / 4, "SHUTOFF")
    machine.act("start", start + HOUR / 2, "ACTIVE")
    found = run(service, tmp_path, (start, start + HOUR))
    assert found[machine.id][-1].suspended == HOUR / 4
    assert found[quiet.id][-1].suspended == timedelta(0)
    machine.act("shelve", start + 2 * HOUR, "SHELVED_OFFLOADED", takes=HOUR / 10)
    run(service, tmp_path, (start + HOUR, start + 2.5 * HOUR))
    for step in range(3, 6):
        until = start + step * HOUR
        found = run(service, tmp_path, (until - HOUR, until))
        wanted = HOUR / 4 + (step - 2) * HOUR - HOUR / 10
        assert found[machine.id][-1].suspended == wanted
        assert found[machine.id][-1].measured == until
    assert service.requests["GET /compute/v2.1/servers"] == 1  # changes; no action of anything


def test_a_server_that_ended_while_it_was_suspended(
    service: openstack.Cloud, tmp_path: Path
) -> None:
    machine = Machine(service)
    machine.act("suspend", NOW - 9 * HOUR, "SUSPENDED")
    machine.act("delete", NOW - 4 * HOUR, "DELETED")
    machine.told["OS-SRV-USG:terminated_at"] = naive(NOW - 4 * HOUR)
    record = run(service, tmp_path, (BEGINNING, NOW))[machine.id][-1]
    assert record.suspended == 5 * HOUR
    assert record.end == record.measured == NOW - 4 * HOUR
    assert record.wall == NOW - BORN - 9 * HOUR


@pytest.mark.parametrize(
    ("status", "suspended"), [("SUSPENDED", 3 * HOUR), ("ACTIVE", timedelta(0))]
)
def test_without_actions_the_present_state_counts_since_the_last_change(
    service: openstack.Cloud, tmp_path: Path, status: str, suspended: timedelta
) -> None:
    """Nova has purged them, or a hypervisor stopped the server by itself."""
    machine = Machine(service)
    machine.told |= {"status": status, "updated": z(NOW - 3 * HOUR)}
    assert run(service, tmp_path, (BEGINNING, NOW))[machine.id][-1].suspended == suspended


def test_a_state_that_the_actions_do_not_explain(service: openstack.Cloud, tmp_path: Path) -> None:
    machine = Machine(service)
    machine.act("suspend", NOW - 9 * HOUR, "SUSPENDED")
    machine.told |= {"status": "ACTIVE", "updated": z(NOW - 6 * HOUR)}
    assert run(service, tmp_path, (BEGINNING, NOW))[machine.id][-1].suspended == 3 * HOUR


def test_actions_that_failed_or_are_malformed_do_not_count(
    service: openstack.Cloud, tmp_path: Path
) -> None:
    machine = Machine(service)
    machine.act("suspend", NOW - 9 * HOUR, "ACTIVE", failed=True)
    machine.act("suspend", NOW - 8 * HOUR, "SUSPENDED", takes=HOUR)
    machine.act("suspend", NOW - 6 * HOUR, "SUSPENDED")
    machine.act("resume", NOW - 5 * HOUR, "SUSPENDED", failed=True)
    machine.act("resume", NOW - 4 * HOUR, "ACTIVE")
    malformed: list[dict[str, Any]] = [
        *({"action": None}, {"start_time": "yesterday"}, {"start_time": 5}, {"action": []}),
    ]
    for more in malformed:
        number = {"request_id": f"r{next(NUMBERS)}", "message": None}
        action = {**machine.told["_actions"][-1], **number, **more}
        machine.told["_actions"].append(action)
    assert run(service, tmp_path, (BEGINNING, NOW))[machine.id][-1].suspended == 3 * HOUR


def test_another_moment_is_asked_for_again(service: openstack.Cloud, tmp_path: Path) -> None:
    machine = Machine(service)
    machine.act("suspend", NOW - 100 * HOUR, "SUSPENDED")
    machine.act("resume", NOW - 50 * HOUR, "ACTIVE")
    first = run(service, tmp_path, (BEGINNING, NOW), since=NOW - 60 * HOUR)
    assert first[machine.id][-1].suspended == 10 * HOUR
    second = run(service, tmp_path, (NOW - HOUR, NOW), since=NOW - 80 * HOUR)
    assert second[machine.id][-1].suspended == 30 * HOUR


@pytest.mark.parametrize("is_off", [False, True])
def test_what_came_and_went_while_nobody_looked(
    service: openstack.Cloud, tmp_path: Path, *, is_off: bool
) -> None:
    """`--extract-from` begins later, an older copy of the memory is back, or the option was off."""
    machine, quiet, gone = Machine(service), Machine(service), Machine(service)
    start = NOW - 10 * HOUR
    run(service, tmp_path, (BEGINNING, start))
    machine.act("stop", start + HOUR, "SHUTOFF")
    gone.act("pause", start + HOUR, "PAUSED")
    if is_off:
        run(service, tmp_path, (start, start + 6 * HOUR), since=None)
    machine.act("start", start + 3 * HOUR, "ACTIVE")
    found = run(service, tmp_path, (start + 6 * HOUR, start + 7 * HOUR))
    assert found[machine.id][-1].suspended == 2 * HOUR
    assert found[gone.id][-1].suspended == 6 * HOUR
    assert found[quiet.id][-1].suspended == timedelta(0)
    found = run(service, tmp_path, (start + 7 * HOUR, start + 8 * HOUR))
    assert (found[machine.id][-1].suspended, found[gone.id][-1].suspended) == (2 * HOUR, 7 * HOUR)
    assert service.requests["GET /compute/v2.1/servers"] == 1  # what changed since
