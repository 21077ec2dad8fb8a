"""F-A5: the clocks of all services are compared with this host's."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from appliance.core.cloud import network, storage
from appliance.core.cloud.clocks import Clocks, ClockSkew
from appliance.core.cloud.compute import Servers
from appliance.core.cloud.image import ImageProperties
from appliance.core.cloud.login import Access
from appliance.core.cloud.session import Cloud
from tests.simulators import openstack

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
LIMIT = timedelta(seconds=60)


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def noted(clocks: Clocks, ahead: float, *, sent: float = 0, received: float = 0.1) -> None:
    """Note an answer made when it is ``ahead`` seconds past noon at the service."""
    header = format_datetime(NOON + seconds(int(ahead // 1)), usegmt=True)
    clocks.note_date(
        "Nova", "nova:8774", header, sent=NOON + seconds(sent), received=NOON + seconds(received)
    )


@pytest.mark.parametrize(
    ("ahead", "sent", "received", "offset"),
    [
        (0.05, 0, 0.1, 0),
        (0.9, 0, 0.1, 0),  # the header shows whole seconds
        (30.0, 0, 60.0, 0),  # a slow answer is no wrong clock
        (5.0, 0, 0.1, 4.9),
        (-5.0, 0, 0.1, -4.0),
        (7200.0, 0, 1.0, 7199.0),
        (-864000.0, 0, 1.0, -863999.0),
    ],
)
def test_the_smallest_offset_that_an_answer_allows_counts(
    ahead: float, sent: float, received: float, offset: float
) -> None:
    clocks = Clocks()
    noted(clocks, ahead, sent=sent, received=received)
    assert clocks.offsets()["Nova"].total_seconds() == pytest.approx(offset)


def test_many_answers_narrow_the_offset() -> None:
    clocks = Clocks()
    for step in range(10):  # a service that is 2.35 s ahead
        noted(clocks, step / 10 + 2.35, sent=step / 10, received=step / 10 + 0.01)
    assert 2.2 < clocks.offsets()["Nova"].total_seconds() <= 2.35


@pytest.mark.parametrize("step", [7200.0, -7200.0])
def test_a_clock_that_is_set_during_the_run(step: float) -> None:
    clocks = Clocks()
    noted(clocks, 0.0)
    noted(clocks, step)
    assert abs(clocks.offsets()["Nova"].total_seconds()) > 7190


def test_warnings_from_two_seconds_on_and_a_refusal_above_the_limit() -> None:
    clocks = Clocks()
    noted(clocks, 1.0)
    assert clocks.judge(LIMIT) == []
    noted(clocks, 30.0)
    (line,) = clocks.judge(LIMIT)
    assert line == "Nova (nova:8774): its clock is 30 s ahead of this host's; set both by NTP"
    assert clocks.judge(LIMIT) == []  # once in a run
    noted(clocks, -100.0)
    with pytest.raises(ClockSkew) as raised:
        clocks.judge(LIMIT)
    assert str(raised.value) == (
        "Nova (nova:8774): its clock is 0:01:39 behind this host's; set both by NTP"
        " (max_clock_skew is 60 s)"
    )


def test_a_limit_below_two_seconds_refuses_without_a_warning_before() -> None:
    clocks = Clocks()
    noted(clocks, 2.5)
    with pytest.raises(ClockSkew):
        clocks.judge(seconds(1))


@pytest.mark.parametrize("header", ["", "yesterday", "Mon, 30 Nov 99999 12:00:00 GMT"])
def test_a_header_that_is_no_date_does_not_count(header: str) -> None:
    clocks = Clocks()
    clocks.note_date("Nova", "nova", header, sent=NOON, received=NOON)
    (line,) = clocks.judge(LIMIT)
    assert line.startswith(
        "no answer of the cloud has a Date header, so the clocks of its services"
    )


@pytest.fixture
def service() -> Iterator[openstack.Cloud]:
    with openstack.serving(openstack.Cloud(servers=2, deleted=0)) as served:
        yield served


def asked(service: openstack.Cloud) -> Clocks:
    """Return the clocks after a request to each service."""
    url = f"{service.url}/v3"
    options = {"auth_url": url, "username": "u", "user_domain_name": "D", "password": "p"}
    cloud = Cloud(Access("v3password", url, options))
    scope = cloud.project("one")
    list(Servers(scope).living())
    list(storage.volumes(scope))
    list(network.floating_ips(scope))
    ImageProperties("x").get("image", scope)
    return cloud.transport.clocks


def test_f_a5_each_service_has_its_own_clock(service: openstack.Cloud) -> None:
    """A Keystone, Nova or Cinder alone may be wrong; today only Keystone's was read."""
    service.offsets = {"volume": timedelta(hours=-3), "compute": timedelta(minutes=2)}
    found = asked(service).offsets()
    assert sorted(found) == ["Cinder", "Glance", "Keystone", "Neutron", "Nova"]
    far = {name for name, offset in found.items() if abs(offset) > seconds(30)}
    assert far == {"Cinder", "Nova"}
    assert found["Nova"] > timedelta(0) > found["Cinder"]


def test_f_a5_without_dates_the_times_of_tokens_count(service: openstack.Cloud) -> None:
    """A host 10 days ahead sent records of the future, because no answer had a Date."""
    service.has_dates = False
    clocks = asked(service)
    (line,) = clocks.judge(LIMIT)
    assert line.endswith("are not compared, except for the times of Keystone's tokens")
    service.clock_offset = timedelta(days=-10)
    with pytest.raises(ClockSkew, match=r"^Keystone \(.*\): its clock is 9 days, .* behind this"):
        asked(service).judge(LIMIT)
