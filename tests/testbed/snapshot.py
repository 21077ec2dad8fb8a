"""A copy of the seeded databases and image files, for this directory and these ports only."""

from __future__ import annotations

import shutil
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from tests.testbed.layout import Layout


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The snapshot of one instance, below its state."""

    layout: Layout

    @property
    def directory(self) -> Path:
        """Where it is."""
        return self.layout.state / "snapshot"

    @property
    def exists(self) -> bool:
        """Tell whether one was taken."""
        return self.directory.is_dir()

    def take(self) -> None:
        """Copy databases, which may be in use, and images; the name appears when all is there."""
        unfinished = self.directory.with_suffix(".new")
        shutil.rmtree(unfinished, ignore_errors=True)
        (unfinished / "databases").mkdir(parents=True)
        for database in self._databases().glob("*.sqlite"):
            source, target = (
                sqlite3.connect(database, timeout=60),
                sqlite3.connect(unfinished / "databases" / database.name),
            )
            with source, target:
                source.backup(target)
            source.close()
            target.close()
        shutil.copytree(self._images(), unfinished / "images")
        shutil.rmtree(self.directory, ignore_errors=True)
        unfinished.rename(self.directory)

    def restore(self) -> None:
        """Put everything back. No service of the cloud may run."""
        shutil.rmtree(self._databases())
        shutil.copytree(self.directory / "databases", self._databases())
        shutil.rmtree(self._images())
        shutil.copytree(self.directory / "images", self._images())

    def _databases(self) -> Path:
        return self.layout.database("nova").parent

    def _images(self) -> Path:
        return self.layout.data("glance") / "images"
