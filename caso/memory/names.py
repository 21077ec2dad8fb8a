"""Names by id, as the cloud gave them in this run or an earlier one, up to an age.

Names of users are personal data: what has reached the age is removed. Each id has an age of its
own between half of the limit and the limit, so that the names of a first run do not all end in the
same later one.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator, MutableMapping
from datetime import timedelta

from appliance.core import clock
from caso.memory.store import MemoryFile

_MOST = 500_000
"""Names of a kind, more than any cloud has; beyond it none is kept."""


class RememberedNames(MutableMapping[str, str | None]):
    """The names of one kind in a cloud; None for something that has no name.

    `flush` writes what is new. With an age of zero nothing is kept for the next run.
    """

    def __init__(self, file: MemoryFile, keystone: str, kind: str, *, age: timedelta) -> None:
        self._file = file
        self._keystone = keystone
        self._kind = kind
        self._age = age
        self._names: dict[str, str | None] = {}
        self._new: dict[str, str | None] = {}
        self._load()

    def __getitem__(self, key: str) -> str | None:
        return self._names[key]

    def __setitem__(self, key: str, name: str | None) -> None:
        self._names[key] = name
        # Half a surrogate pair, which JSON can contain, cannot be stored.
        with contextlib.suppress(UnicodeEncodeError):
            f"{key}{name}".encode()
            self._new[key] = name

    def __delitem__(self, key: str) -> None:
        del self._names[key]
        self._new.pop(key, None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def flush(self) -> None:
        """Write the new names."""
        new, self._new = self._new, {}
        if not new or not self._age or self._file.read_only or len(self._names) > _MOST:
            return
        asked = int(clock.now().timestamp())
        with self._file.transaction() as connection:
            if connection is not None:
                cloud = self._file.cloud(connection, self._keystone)
                connection.executemany(
                    "INSERT OR REPLACE INTO names VALUES (?, ?, ?, ?, ?)",
                    ((cloud, self._kind, key, name, asked) for key, name in new.items()),
                )

    def _load(self) -> None:
        """Read the names of this cloud; remove those of all clouds that are too old."""
        now, age = int(clock.now().timestamp()), int(self._age.total_seconds())
        with self._file.transaction() as connection:
            if connection is None:
                return
            if not self._file.read_only:
                # One from the future was asked for while the clock was wrong.
                connection.execute(
                    "DELETE FROM names WHERE kind = ? AND NOT asked BETWEEN ? AND ?",
                    (self._kind, now - age, now + 1),
                )
            found = connection.execute(
                "SELECT key, name, asked FROM names WHERE cloud = ? AND kind = ?",
                (self._file.cloud(connection, self._keystone), self._kind),
            )
            self._names = {
                key: name for key, name, asked in found if 0 <= now + 1 - asked <= _age_of(key, age)
            }


def _age_of(key: str, age: int) -> int:
    """Return the age of an id's name, the same in each run."""
    return age // 2 + zlib.crc32(key.encode()) % (age // 2 + 1)
