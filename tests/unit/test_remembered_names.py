"""F-A10: names of users and properties of images are asked for once in an age, not once a run."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from appliance.core import clock
from appliance.core.cloud.identity import UserNames
from appliance.core.cloud.image import ImageProperties
from appliance.core.cloud.login import Access
from appliance.core.cloud.session import Cloud
from caso.memory.cloud import CloudMemory
from tests.simulators import openstack
from tests.simulators.openstack import Answer

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
WEEK = timedelta(days=7)
IDS = [f"user{number}" for number in range(60)]


class Time:
    """The clock of a test."""

    now = NOW


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    found = Time()
    monkeypatch.setattr(clock, "now", lambda: found.now)
    return found


def memory(path: Path, keystone: str = "https://k/v3", *, age: timedelta = WEEK) -> CloudMemory:
    return CloudMemory(path / "memory.sqlite", keystone, names_age=age, read_only=False)


def remember(path: Path, keystone: str = "https://k/v3", *, age: timedelta = WEEK) -> None:
    kept = memory(path, keystone, age=age)
    for number in IDS:
        kept.users[number] = f"name of {number}"
    kept.users["deleted"] = None
    kept.close()


def known(
    path: Path, keystone: str = "https://k/v3", *, age: timedelta = WEEK
) -> dict[str, str | None]:
    kept = memory(path, keystone, age=age)
    found = dict(kept.users)
    kept.close()
    return found


def test_names_are_known_in_the_next_run(tmp_path: Path, time: Time) -> None:
    remember(tmp_path)
    time.now += timedelta(days=3)
    found = known(tmp_path)
    assert found == {**{number: f"name of {number}" for number in IDS}, "deleted": None}
    assert (tmp_path / "memory.sqlite").stat().st_mode & 0o777 == 0o640


def test_names_end_at_different_times_and_none_later_than_the_age(
    tmp_path: Path, time: Time
) -> None:
    """All names of a first run would otherwise be asked for in one later run."""
    remember(tmp_path)
    left = []
    for _ in range(8):
        left.append(len(known(tmp_path)))
        time.now += timedelta(days=1)
    assert left[:4] == [61] * 4
    assert 61 > left[4] > left[5] > left[6] > 0
    time.now = NOW + WEEK + timedelta(seconds=2)
    assert known(tmp_path) == {}
    assert b"name of user" not in (tmp_path / "memory.sqlite").read_bytes()


def test_a_name_of_the_future_does_not_count(tmp_path: Path, time: Time) -> None:
    """The clock was wrong when it was asked for; it would be kept for too long."""
    time.now = NOW + timedelta(days=400)
    remember(tmp_path)
    time.now = NOW
    assert known(tmp_path) == {}


def test_names_of_another_cloud_do_not_count(tmp_path: Path, time: Time) -> None:
    remember(tmp_path)
    assert known(tmp_path, "https://other/v3") == {}
    assert len(known(tmp_path)) == 61


def test_without_an_age_nothing_is_kept(tmp_path: Path, time: Time) -> None:
    remember(tmp_path, age=timedelta(0))
    assert known(tmp_path) == {}
    remember(tmp_path)
    assert known(tmp_path, age=timedelta(0)) == {}


def test_a_name_that_cannot_be_stored_stops_no_other(tmp_path: Path) -> None:
    kept = memory(tmp_path)
    kept.users["one"], kept.users["two"] = "\ud800", "jane"
    assert kept.users["one"] == "\ud800"
    kept.close()
    assert known(tmp_path) == {"two": "jane"}


@pytest.fixture
def service() -> Iterator[openstack.Cloud]:
    with openstack.serving(openstack.Cloud(images=3)) as served:
        yield served


def client(service: openstack.Cloud) -> Cloud:
    url = f"{service.url}/v3"
    options = {"auth_url": url, "username": "u", "user_domain_name": "D", "password": "p"}
    return Cloud(Access("v3password", url, options))


def asked(service: openstack.Cloud, path: str) -> int:
    return sum(count for name, count in service.requests.items() if path in name)


def test_the_cloud_is_asked_once_for_each(service: openstack.Cloud, tmp_path: Path) -> None:
    found = []
    for _ in range(3):
        cloud, kept = client(service), memory(tmp_path)
        scope = cloud.project("one")
        users, images = UserNames(cloud, kept.users), ImageProperties("os_x", kept.images)
        found.append([users.get("user1", scope), images.get("image1", scope)])
        found[-1] += [users.get("nobody-", scope), images.get("gone", scope)]
        kept.close()
    assert found == [["name of user1", None, None, None]] * 3
    assert asked(service, "/v3/users") == 2
    assert asked(service, "/image") == 2


def test_an_image_that_one_project_does_not_see(service: openstack.Cloud, tmp_path: Path) -> None:
    """Another project may have it: what is kept is the answer to the project."""
    cloud, kept = client(service), memory(tmp_path)
    images = ImageProperties("vmcatcher_event_ad_mpuri", kept.images)
    service.fault = lambda request: Answer(404, {}) if "/image" in request.path else None
    assert images.get("image1", cloud.project("one")) is None
    service.fault = lambda _: None
    assert images.get("image1", cloud.project("two")) is not None
    assert images.get("image1", cloud.project("one")) is not None
    kept.close()


def test_a_refusal_is_not_remembered(service: openstack.Cloud, tmp_path: Path) -> None:
    """The account may get its role on the system at any time."""
    service.fault = lambda request: Answer(403, {}) if "/users" in request.path else None
    for wanted in (None, "name of user1"):
        cloud, kept = client(service), memory(tmp_path)
        assert UserNames(cloud, kept.users).get("user1", cloud.project("one")) == wanted
        kept.close()
        service.fault = lambda _: None
