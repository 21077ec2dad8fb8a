"""`ssmsend` with a message that the broker dislikes among good ones."""

from pathlib import Path

import pytest

from tests.e2e.ssm_site import TOPIC, Site
from tests.simulators import ams_service
from tests.simulators.ams_service import AMS
from tests.simulators.stomp_faults import Fault, FaultBroker, Kind
from tests.testbed.trust import Trust


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    made = Trust(tmp_path_factory.mktemp("trust"))
    made.publish()
    return made


def texts() -> list[str]:
    words = [*"012", "POISON", *"45678"]
    return [f"APEL-cloud-message: v0.4\nVMUUID: {word}\n%%\n" for word in words]


def check(site: Site, names: list[str], arrived: list[str]) -> None:
    assert list(dict.fromkeys(reversed(arrived)))[::-1] == [*names[:3], *names[4:]]
    assert site.waiting() == site.locks() == []
    [buried] = site.buried()
    assert (buried["empaid"], buried["body"]) == (names[3], texts()[3].encode())
    assert (buried["attempts"], bool(buried["lasterror"])) == ("3", True)
    assert "sent alone 3 times" in buried["reason"]
    record = site.record("ssmsend")
    counts = record["counts"]
    assert (counts["messages_sent"], counts["dead_letters"], counts["left"]) == (8, 1, 0)
    [failure] = record["failures"]
    assert failure.startswith(f"{names[3]}: sent alone")
    metrics = (site.root / "var/lib/fedcloud/runs/ssmsend.prom").read_text()
    assert 'fedcloud_run_dead_letters{program="ssmsend"} 1' in metrics
    assert not list(site.spool.parent.glob(".*suspects*"))


def test_a_message_that_breaks_the_connection_is_set_aside(tmp_path: Path, trust: Trust) -> None:
    """F-S1, B4: the others are delivered in the same run, in order."""
    poison = (b"POISON", Fault(Kind.CLOSE_AFTER_SEND))
    with FaultBroker(trust.host("broker"), trust.grid.certificate, poison=poison) as broker:
        site = Site.create(tmp_path, trust, hosts=f"localhost:{broker.port}")
        names = site.fill(texts())
        assert site.run("ssmsend").returncode == 1
        check(site, names, broker.accepted)


def test_a_message_that_ams_refuses_is_set_aside(tmp_path: Path, trust: Trust) -> None:
    """F-S1, B4."""
    poison = (b"POISON", ams_service.Fault(ams_service.Kind.STATUS, status=400))
    with AMS(trust.host("broker"), trust.grid.certificate, poison=poison) as service:
        site = Site.at_ams(tmp_path, trust, service)
        names = site.fill(texts())
        assert site.run("ssmsend").returncode == 1
        check(site, names, service.ids(TOPIC))
