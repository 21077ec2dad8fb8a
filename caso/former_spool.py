"""Records that are left in a directory that was ``spooldir`` before.

Records that wait for a service, and those that were set aside, are in the directory of the
checkpoints. After a change of ``spooldir`` no run would send them, though they count as delivered.
So the ledger keeps the directories that runs have used, until they are empty of records.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from appliance.core import files
from appliance.core.run.errors import LocalFailure
from caso.ledger.ledger import Ledger

_MOST = 20
"""Directories that are kept; one that is not mounted now may be there again."""


def left_behind(ledger: Ledger, present: Path) -> list[LocalFailure]:
    """Return a failure for each directory with records of a former ``spooldir``."""
    here, known = str(present.absolute()), ledger.spool_directories()
    found: list[LocalFailure] = []
    former: list[str] = []
    for path in map(Path, known):
        if str(path) == here:
            continue
        left = list(_left(path, present))
        found += left
        if left or not path.is_dir():
            former.append(str(path))
    wanted = [*former[-_MOST:], here]
    if wanted != known:
        ledger.keep_spool_directories(wanted)
    return found


def _left(former: Path, present: Path) -> Iterator[LocalFailure]:
    for directory in (former / "quarantine", *sorted((former / "waiting").glob("*"))):
        try:
            with os.scandir(directory) as entries:
                is_empty = next(entries, None) is None
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            yield files.describe_unusable(directory, error)
            continue
        if not is_empty:
            old = files.shell_word(directory)
            new = files.shell_word(present / directory.relative_to(former))
            yield LocalFailure(
                files.shown(directory),
                "has records of the time when spooldir was another directory; they are not sent",
                f"mkdir -p {new} && mv -n {old}/* {new}/",
            )
