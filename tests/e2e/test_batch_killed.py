"""A batch killed at each system call, finished by the next run: each message once."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from dirq.QueueSimple import QueueSimple

from tests.e2e.killpoints import Command, KillMatrix

RUN = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from caso.messengers.batch import Staging
from caso.checkpoint import Checkpoints

root = Path(sys.argv[1])
checkpoints = Checkpoints(root / "caso")
staging = Staging(root / "spool", checkpoints)
staging.recover()
moment = datetime(2026, 11, 22, tzinfo=UTC)
for project in ("one", "two"):
    if checkpoints.find([project]).moment is None:
        batch = staging.begin(
            project,
            compose=lambda records: ",".join(records).encode(),
            size=2,
            written=lambda digest, records: None,
        )
        for number in range(5):
            month = datetime(2026, 10 + number % 2, 1, tzinfo=UTC)
            batch.add(f"{project}{number}", month=month, record=None)
        batch.seal(checkpoints.later([project, "id-" + project], moment))
        batch.commit()
        staging.hand_over(batch.directory)
"""
WANTED = ["one0,one2", "one1,one3", "one4", "two0,two2", "two1,two3", "two4"]


@pytest.mark.parametrize(
    "sample", [pytest.param(6, id="six"), pytest.param(None, id="all", marks=pytest.mark.matrix)]
)
def test_every_message_once(sample: int | None, tmp_path: Path) -> None:
    site = tmp_path / "site"

    def prepare() -> Command:
        shutil.rmtree(site, ignore_errors=True)
        site.mkdir()
        return Command([sys.executable, "-c", RUN, str(site)])

    def verify() -> None:
        queue = QueueSimple(str(site / "spool"))
        found = []
        for name in queue:
            assert queue.lock(name), "somebody's lock was left"
            found.append(queue.get(name).decode())
        assert sorted(found) == WANTED
        checkpoints = {
            path.name for path in (site / "caso").iterdir() if not path.name.startswith(".")
        }
        assert checkpoints == {f"lastrun.{name}" for name in ("one", "two", "id-one", "id-two")}
        assert not [path for path in (site / "spool/.caso-staged").rglob("*") if path.is_file()]

    KillMatrix(prepare=prepare, verify=verify).run(sample=sample, seed=20261122)
