"""C42: what `caso-extract --check-live` says of the ledger and the checkpoints."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from appliance.core.run.finding import Finding
from caso.ledger.ledger import Ledger
from caso.ledger.model import Origin, Span, Stream
from tests.simulators.openstack import Cloud
from tests.unit.test_check_cloud import Accounting, cloud

__all__ = ["cloud"]

NOW = datetime.now(UTC).replace(microsecond=0)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
SECOND = timedelta(seconds=1)


class DeliveringSite:
    """caso.conf with two messengers, its ledger and its checkpoints."""

    def __init__(self, accounting: Accounting) -> None:
        self.accounting = accounting
        self.ledger = accounting.root / "state/ledger.sqlite"
        self.state = accounting.root / "spool"
        for directory in (self.ledger.parent, self.state):
            directory.mkdir()
        accounting.write(projects="one", messengers="ssm,logstash")
        text = accounting.path.read_text()
        accounting.path.write_text(text.replace("T]\n", f"T]\nspooldir = {self.state}\n", 1))
        with accounting.path.open("a") as file:
            file.write(f"[ssm]\noutput_path = {self.state}/out\n[ledger]\npath = {self.ledger}\n")

    def deliver(self, start: datetime, end: datetime, *by: str) -> None:
        """Note in the ledger that messengers have delivered the records of a time."""
        url = f"{self.accounting.cloud.url}/v3"
        with Ledger(self.ledger) as ledger:
            for messenger in by or ("ssm", "logstash"):
                stream = Stream(Origin(url, "R", "one"), "cloud", messenger)
                name = f"{messenger}, {start}, {end}"
                ledger.deliveries.intent(name, stream).seal(Span(start, end), checkpoint=end)
                ledger.deliveries.confirm(name)

    def check(self) -> list[Finding]:
        return self.accounting.check()


@pytest.fixture
def site(tmp_path: Path, cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> DeliveringSite:
    return DeliveringSite(Accounting(tmp_path, cloud, capsys))


def test_a_vo_without_records_for_a_day(site: DeliveringSite) -> None:
    """C42.a: for a daily job a day is not too long."""
    site.deliver(NOW - 9 * DAY, NOW - 25 * HOUR)
    assert site.check() == []
    site.ledger.unlink()
    site.deliver(NOW - 9 * DAY, NOW - 27 * HOUR)
    found = site.accounting.the_one()
    assert (found.identifier, found.path, found.is_error) == ("C42.a", str(site.ledger), False)
    assert f"has no cloud records since {NOW - 27 * HOUR:%Y-%m-%d %H:%M}" in found.text
    assert "caso gaps --fill" in found.text
    site.deliver(NOW - 27 * HOUR, NOW)
    assert site.check() == []


def test_a_time_between_that_was_not_delivered(site: DeliveringSite) -> None:
    """C42.a: by one of the messengers."""
    site.deliver(NOW - 9 * DAY, NOW, "ssm")
    site.deliver(NOW - 9 * DAY, NOW - 6 * DAY, "logstash")
    site.deliver(NOW - 5 * DAY, NOW, "logstash")
    found = site.accounting.the_one()
    assert (found.identifier, found.path) == ("C42.a", str(site.ledger))
    assert f"by logstash from {NOW - 6 * DAY + SECOND:%Y-%m-%d %H:%M} to " in found.text
    site.deliver(NOW - 6 * DAY, NOW - 5 * DAY, "logstash")
    assert site.check() == []


def test_a_messenger_that_is_behind(site: DeliveringSite) -> None:
    """C42.b: the line that names it; silent once it has delivered, or was removed."""
    site.deliver(NOW - 9 * DAY, NOW, "ssm")
    site.deliver(NOW - 9 * DAY, NOW - 2 * DAY, "logstash")
    found = site.accounting.the_one()
    place = str(site.accounting.path), site.accounting.line("messengers")
    assert (found.identifier, found.path, found.line) == ("C42.b", *place)
    assert "logstash has delivered cloud records until" in found.text
    path = site.accounting.path
    before = path.read_text()
    path.write_text(before.replace("ssm,logstash", "ssm"))
    assert site.check() == []
    path.write_text(before)
    site.deliver(NOW - 2 * DAY, NOW, "logstash")
    assert site.check() == []


def test_a_site_of_caso_without_a_ledger(site: DeliveringSite) -> None:
    """C42.a by its checkpoint; a project that was never accounted has none."""
    assert site.check() == []
    (site.state / "lastrun.one").write_text(f"{NOW - 3 * DAY}\n")
    found = site.accounting.the_one()
    assert found.identifier == "C42.a"
    assert f"has no records since {NOW - 3 * DAY:%Y-%m-%d %H:%M}" in found.text
    (site.state / "lastrun.one").write_text(f"{NOW}\n")
    assert site.check() == []
