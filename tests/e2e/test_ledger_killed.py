"""Batch and ledger killed at each system call: after the next start both hold the same."""

from __future__ import annotations

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
from caso.ledger.deliveries import Held
from caso.ledger.ledger import Ledger
from caso.ledger.model import LedgerRow, Month, Origin, Span, Stream
from caso.messengers.batch import Staging

root = Path(sys.argv[1])
checkpoints = Checkpoints(root / "caso")
staging = Staging(root / "spool", checkpoints)
moment = datetime(2026, 11, 22, tzinfo=UTC)
with Ledger(root / "ledger.sqlite") as ledger:
    ledger.deliveries.reconcile(
        lambda batch: Held.YES if batch.name in staging.pending() else Held.NO
    )
    staging.recover()
    for project in ("one", "two"):
        stream = Stream(Origin("https://keystone.example.org", "", project), "cloud", "ssm")
        if ledger.windows.reached(stream).checkpoint is not None:
            continue
        batch = staging.begin(project, compose=lambda records: ",".join(records).encode(), size=2)
        intent = ledger.deliveries.intent(project, stream)
        for number in range(3):
            batch.add(f"{project}{number}", month=datetime(2026, 11, 1, tzinfo=UTC))
            key = f"{project}{number}"
            intent.add(b"", [LedgerRow(key, Month(202611), number + 1, moment, "vo", "user")])
        intent.seal(Span(moment - timedelta(days=1), moment), checkpoint=moment)
        batch.commit(checkpoints.later([project], moment))
        ledger.deliveries.confirm(project)
        staging.hand_over(batch.directory)
"""


@pytest.mark.programs("strace")
@pytest.mark.parametrize(
    "sample", [pytest.param(12, id="some"), pytest.param(None, id="all", marks=pytest.mark.matrix)]
)
def test_the_ledger_has_what_the_spool_has(sample: int | None, tmp_path: Path) -> None:
    site = tmp_path / "site"

    def prepare() -> Command:
        shutil.rmtree(site, ignore_errors=True)
        site.mkdir()
        return Command([sys.executable, "-c", RUN, str(site)])

    def verify() -> None:
        texts = [path.read_text() for path in (site / "spool").glob("????????/*")]
        sent = sorted(record for text in texts for record in text.split(","))
        assert sent == [f"{project}{number}" for project in ("one", "two") for number in range(3)]
        with Ledger(site / "ledger.sqlite") as ledger:
            ledger.file.check()
            rows = list(ledger.deliveries.rows(Month(202611), "ssm"))
            assert sorted(one.row.key for one in rows) == sent
            assert [one.row.amount for one in rows] == [int(one.row.key[-1]) + 1 for one in rows]
            assert ledger.deliveries.outstanding() == []
            for project in ("one", "two"):
                origin = Origin("https://keystone.example.org", "", project)
                reached = ledger.windows.reached(Stream(origin, "cloud", "ssm"))
                assert len(reached.spans) == 1
                text = (site / f"caso/lastrun.{project}").read_text()
                assert str(reached.checkpoint) == text

    KillMatrix(prepare=prepare, verify=verify).run(sample=sample, seed=20261130)
