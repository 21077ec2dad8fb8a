"""caso-extract killed at each system call, then run again: the same messages, once each."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from caso.ledger.ledger import Ledger
from caso.ledger.model import month_text
from tests.demo import counters
from tests.e2e.caso_site import CasoSite
from tests.e2e.killpoints import Command, KillMatrix
from tests.testbed import Testbed

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(3600)]


def sent(site: CasoSite) -> dict[tuple[str, str], int]:
    """Return the wall seconds in the spool by server and month."""
    found = {}
    for record in site.records():
        end = int(record["EndTime"]) or int(record["StartTime"]) + int(record["WallDuration"])
        month = f"{datetime.fromtimestamp(end, UTC):%Y-%m}"
        found[record["VMUUID"], month] = int(record["WallDuration"])
    return found


@pytest.mark.parametrize(
    "sample", [pytest.param(3, id="three"), pytest.param(None, id="all", marks=pytest.mark.matrix)]
)
def test_the_same_messages_once_each(sample: int | None, testbed: Testbed, tmp_path: Path) -> None:
    until = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=2)
    tagged = {project.id for project in testbed.seed().projects.values() if "caso" in project.tags}
    truth = {
        k: v for k, v in counters.nova_usage(testbed.nova_database, until).items() if k[0] in tagged
    }
    sites: list[CasoSite] = []

    def prepare() -> Command:
        shutil.rmtree(tmp_path / "site", ignore_errors=True)
        site = CasoSite(tmp_path / "site", testbed, default={"parallel_projects": 1})
        sites[:] = [site]
        return Command(site.command("caso-extract", "--extract-to", until.isoformat()))

    def verify() -> None:
        (site,) = sites
        counted, repeated = counters.accounted(site.records())
        assert counted == truth
        assert repeated == 0
        names = {f"lastrun.{project}" for project in tagged}
        assert site.checkpoints() == {name: str(until + timedelta(seconds=1)) for name in names}
        assert not [
            path
            for path in site.spool.rglob("*")
            if path.is_file() and ".caso-staged" in path.parts
        ]
        assert not [path for path in site.spool.glob("????????/*") if path.suffix]
        with Ledger(site.ledger, read_only=True) as ledger:
            assert ledger.deliveries.outstanding() == []
            delivered = {
                (row.row.key, month_text(month)): row.row.amount
                for month in ledger.deliveries.months()
                for row in ledger.deliveries.rows(month, "ssm")
            }
        # Durations on the wire are at least one second.
        assert {key: max(1, amount) for key, amount in delivered.items()} == sent(site)

    KillMatrix(prepare=prepare, verify=verify).run(sample=sample, seed=20261124)
