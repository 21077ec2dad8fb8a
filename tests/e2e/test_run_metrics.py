"""What Prometheus is given of a run: requests by service, and CPU hours by VO.

The right numbers are those of the cloud's own count of requests, and of the lives of its servers.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.test_month_accuracy import Months, cloud, months
from tests.e2e.test_simulated_year import PROJECTS
from tests.simulators import lives
from tests.simulators.openstack import Answer, Cloud, Request, serving

__all__ = ["cloud"]

OCTOBER = datetime(2026, 10, 10, tzinfo=UTC)
NOVEMBER = datetime(2026, 11, 1, tzinfo=UTC)
RUNS = (NOVEMBER - timedelta(days=2), NOVEMBER + timedelta(hours=30))
_SERVICES = {"identity": "Keystone", "compute": "Nova", "image": "Glance", "network": "Neutron"}
Sample = dict[str, float]


def site_of(cloud: Cloud, root: Path) -> Months:
    some = lives.lives(40, PROJECTS, OCTOBER, RUNS[1], seed=5)
    return months(cloud, root, some, begin=OCTOBER)


def by(site: Months, label: str, figure: str) -> Sample:
    """Return a metric by its label, as Prometheus's client reads it; the record has it, too."""
    runs = site.root / "var/lib/fedcloud/runs"
    families = text_string_to_metric_families((runs / "caso-extract.prom").read_text())
    found = {
        sample.labels[label]: sample.value
        for family in families
        if family.name == f"fedcloud_run_{label}_{figure}"
        for sample in family.samples
    }
    parts = json.loads((runs / "caso-extract.json").read_text())["parts"][label]
    assert {name: figures[figure] for name, figures in parts.items()} == found
    return found


def test_cpu_hours_of_the_month_by_vo(cloud: Cloud, tmp_path: Path) -> None:
    site = site_of(cloud, tmp_path)
    for at, begin in zip(RUNS, (OCTOBER.replace(day=1), NOVEMBER), strict=True):
        site.run_at([at])
        truth: Counter[str] = Counter()
        cores: Counter[str] = Counter()
        for life in site.world.all:
            if life.died > OCTOBER and (spent := life.seconds(begin, at)):
                truth[f"vo.{life.project}"] += int(spent) * life.cores
                cores[f"vo.{life.project}"] += life.cores
        found = by(site, "vo", "cpu_hours")
        assert found.keys() == truth.keys()
        for vo, hours in found.items():
            # A second for each server at the month's ends, and the time of the run itself.
            slack = cores[vo] * (1 + site.lasted) / 3600
            assert hours == pytest.approx(truth[vo] / 3600, abs=slack)


def test_requests_by_service(cloud: Cloud, tmp_path: Path) -> None:
    site = site_of(cloud, tmp_path)
    left = [3]

    def busy(request: Request) -> Answer | None:
        if request.path.startswith("/compute") and left[0]:
            left[0] -= 1
            return Answer(503, {"error": "busy"})
        return None

    cloud.fault = busy
    site.run_at([RUNS[0]])
    counted: Counter[str] = Counter()
    for line, number in cloud.requests.items():
        first = line.split("/")[1]
        counted[_SERVICES.get(first, "Keystone")] += number
    requests = by(site, "service", "requests")
    assert requests == counted
    errors = by(site, "service", "errors")
    assert errors.pop("Nova") == 3
    assert set(errors.values()) == {0}
    seconds = by(site, "service", "seconds")
    assert seconds.keys() == requests.keys()
    assert all(one > 0 for one in seconds.values())


def test_a_login_is_not_the_time_of_the_service_that_waits_for_it(tmp_path: Path) -> None:
    """All requests of one project take no longer than the run."""

    def slow(request: Request) -> Answer | None:
        if request.path.endswith("/auth/tokens"):
            time.sleep(0.5)
        return None

    with serving(Cloud(("alpha",), servers=2, deleted=0, fault=slow, token_uses=1)) as alone:
        site = months(alone, tmp_path, [], begin=OCTOBER)
        site.run_at([RUNS[0]])
    assert sum(by(site, "service", "seconds").values()) <= site.lasted
