"""The ledger: what was delivered, up to when, and what was seen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from caso.ledger.deliveries import Deliveries
from caso.ledger.model import MONTHS
from caso.ledger.retention import Retention
from caso.ledger.sightings import Sightings
from caso.ledger.store import WAIT, LedgerFile
from caso.ledger.windows import Windows

_SPOOLS = "spool directories"


class Ledger:
    """An open ledger. Threads may share it.

    ``is_new`` says that there was no file, or an empty one. A ledger that may only be read and does
    not exist is an empty one.

    Raises:
        LocalFailure: by each method of each part: see `LedgerFile`.
        Busy: another program has been writing for longer than ``wait``.

    """

    def __init__(
        self,
        path: Path,
        *,
        read_only: bool = False,
        wait: timedelta = WAIT,
        retention: int = MONTHS,
    ) -> None:
        self.file = LedgerFile(path, read_only=read_only, wait=wait)
        self.is_new = self.file.is_new
        self.deliveries = Deliveries(self.file)
        self.windows = Windows(self.file)
        self.sightings = Sightings(self.file)
        self.retention = Retention(self.file, months=retention)

    @property
    def is_lost(self) -> bool:
        """Whether earlier deliveries have still to be read from what is left of them."""
        with self.file.reading() as connection:
            found = connection.execute("SELECT 1 FROM notes WHERE name = 'lost'").fetchone()
        return found is not None

    def restored(self) -> None:
        """Note that earlier deliveries were read."""
        with self.file.transaction() as connection:
            connection.execute("DELETE FROM notes WHERE name = 'lost'")

    def spool_directories(self) -> list[str]:
        """Return the directories of checkpoints that runs have used, the present one last."""
        with self.file.reading() as connection:
            found = connection.execute("SELECT value FROM notes WHERE name = ?", (_SPOOLS,))
            row = found.fetchone()
        return [] if row is None else list(json.loads(row[0]))

    def keep_spool_directories(self, paths: Sequence[str]) -> None:
        """Keep the directories of checkpoints that may hold records."""
        with self.file.transaction() as connection:
            values = (_SPOOLS, json.dumps(list(paths)))
            connection.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", values)

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
