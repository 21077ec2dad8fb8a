"""The memory of one cloud: names of users, properties of images, and servers."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from caso.memory.names import RememberedNames
from caso.memory.servers import ServerMemory
from caso.memory.store import MemoryFile

_LISTINGS_AGE = timedelta(days=1)
"""An account that becomes an administrator's is noticed after a day at most."""


class CloudMemory:
    """What a run remembers for the next one."""

    def __init__(self, path: Path, keystone: str, *, names_age: timedelta, read_only: bool) -> None:
        self._file = MemoryFile(path, read_only=read_only)
        self._keystone = keystone
        self.users = RememberedNames(self._file, keystone, "user", age=names_age)
        self.images = RememberedNames(self._file, keystone, "image", age=names_age)
        self.listings = RememberedNames(self._file, keystone, "listing", age=_LISTINGS_AGE)
        """Why a listing of many projects cannot be used, by account and region."""

    def servers(self, region: str, project_id: str) -> ServerMemory:
        """Return the memory of the servers of a project."""
        return ServerMemory(self._file, self._keystone, region, project_id)

    def close(self) -> None:
        """Write the new names, and close the file."""
        self.users.flush()
        self.images.flush()
        self.listings.flush()
        self._file.close()
