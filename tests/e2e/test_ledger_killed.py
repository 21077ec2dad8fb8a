"""Batch and ledger killed at each system call: after the next start both hold the same."""

from __future__ import annotations

import hashlib
import re
import shutil
import sys
from pathlib import Path

import pytest

from caso.ledger.ledger import Ledger
from caso.ledger.model import Month, Origin, Stream
from tests.e2e.killpoints import Command, KillMatrix

RUN = """
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from caso.checkpoint import Checkpoints
from caso.kinds import cloud
from caso.lanes import Advance, Lanes
from caso.ledger.ledger import Ledger
from caso.ledger.model import Origin, Span, Stream
from caso.messengers.ssm import SSM
from tests.wire.test_cloud import SPARE
from dataclasses import replace

root = Path(sys.argv[1])
checkpoints = Checkpoints(root / "caso")
messenger = SSM((cloud.kind(),), {"cloud": root / "spool"}, max_size=2).open(checkpoints)
moment = datetime(2026, 11, 22, tzinfo=UTC)
with Ledger(root / "ledger.sqlite") as ledger:
    ledger.deliveries.reconcile(lambda batch: messenger.is_held(batch.name))
    messenger.recover()
    for project in ("one", "two"):
        origin = Origin("https://keystone.example.org", "", project)
        if ledger.windows.reached(Stream(origin, "cloud", "ssm")).checkpoint is not None:
            continue
        lanes = Lanes.open(ledger, origin, [messenger], ["cloud"])
        for number in range(3):
            lanes.add("cloud", replace(SPARE, vm_uuid=f"{project}{number}"))
        advance = Advance(Span(moment - timedelta(days=1), moment), moment)
        lanes.commit({"cloud": advance}, lambda: checkpoints.later([project], moment))
        assert not lanes.failures, lanes.failures
"""


@pytest.mark.programs("strace")
@pytest.mark.parametrize(
    "sample", [pytest.param(7, id="some"), pytest.param(None, id="all", marks=pytest.mark.matrix)]
)
def test_the_ledger_has_what_the_spool_has(sample: int | None, tmp_path: Path) -> None:
    site = tmp_path / "site"

    def prepare() -> Command:
        shutil.rmtree(site, ignore_errors=True)
        site.mkdir()
        return Command([sys.executable, "-c", RUN, str(site)])

    def verify() -> None:
        texts = [path.read_text() for path in (site / "spool").glob("????????/*")]
        sent = sorted(key for text in texts for key in re.findall(r"VMUUID: (\w+)", text))
        assert sent == [f"{project}{number}" for project in ("one", "two") for number in range(3)]
        with Ledger(site / "ledger.sqlite") as ledger:
            ledger.file.check()
            rows = list(ledger.deliveries.rows(Month(202611), "ssm"))
            assert sorted(one.row.key for one in rows) == sent
            assert {one.sha256 for one in rows} == {
                hashlib.sha256(text.encode()).hexdigest() for text in texts
            }
            assert ledger.deliveries.outstanding() == []
            for project in ("one", "two"):
                origin = Origin("https://keystone.example.org", "", project)
                reached = ledger.windows.reached(Stream(origin, "cloud", "ssm"))
                assert len(reached.spans) == 1
                text = (site / f"caso/lastrun.{project}").read_text()
                assert str(reached.checkpoint) == text

    KillMatrix(prepare=prepare, verify=verify).run(sample=sample, seed=20261130)
