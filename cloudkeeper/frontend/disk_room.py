"""The room for image files: the free space, a quota, and what the running transfers still need.

Files grow for hours after their transfer has begun. Therefore each transfer announces its bytes,
those of a conversion included; what it has not written yet is not free for others.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from appliance.core.run.errors import LocalFailure

PREFIX = "cloudkeeper-"
"""Begin of the names of all our files in the image directory."""
# Bytes of the file system to keep free for other programs.
_RESERVE = 64 * 2**20
_SECTOR = 512


@dataclass(slots=True)
class DiskRoom:
    """The image directory, in which our files may take ``quota`` bytes (None: all that is free).

    It is safe for use by several threads.
    """

    directory: Path
    quota: int | None = None
    _needs: dict[str, int] = field(default_factory=dict)
    """Bytes that a transfer will need in all, by the begin of its files' names."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def free(self) -> int:
        """Return the bytes that all our files together may take now."""
        free = shutil.disk_usage(self.directory).free - _RESERVE
        return free if self.quota is None else min(free, self.quota - sum(self._sizes().values()))

    def check(self, stem: str, needed: int) -> None:
        """Check whether ``needed`` further bytes are free for one transfer.

        Raises:
            LocalFailure: they are not.

        """
        with self._lock:
            self._check(stem, needed)

    @contextlib.contextmanager
    def holding(self, stem: str, needed: int) -> Iterator[None]:
        """Keep ``needed`` bytes for one transfer during the block, its present files included.

        Raises:
            LocalFailure: they are not free.

        """
        with self._lock:
            before = self._needs.get(stem)
            self._check(stem, needed - self._size(stem))
            self._needs[stem] = needed
        try:
            yield
        finally:
            with self._lock:
                self._needs.pop(stem)
                if before is not None:
                    self._needs[stem] = before

    @contextlib.contextmanager
    def adding(self, stem: str, further: int) -> Iterator[None]:
        """Keep ``further`` bytes for one transfer during the block, beside its present files.

        Raises:
            LocalFailure: they are not free.

        """
        with self.holding(stem, self._size(stem) + further):
            yield

    def _check(self, stem: str, needed: int) -> None:
        free, others = self.free(), self._outstanding(stem)
        if needed <= free - others:
            return
        cause = f"{needed >> 20} MiB are needed, {max(free, 0) >> 20} MiB are free"
        if others:
            cause += f", of which other transfers need {others >> 20} MiB"
        remedy = "free some space; the next run retries"
        if self.quota is not None:
            cause += f" (image-dir-quota: {self.quota >> 20} MiB)"
            remedy = "free some space or raise image-dir-quota; the next run retries"
        raise LocalFailure(self.directory, cause, remedy)

    def _outstanding(self, stem: str) -> int:
        """Return the bytes that the other transfers have announced and not written yet."""
        needs = {name: number for name, number in self._needs.items() if name != stem}
        return sum(max(number - self._size(name), 0) for name, number in needs.items())

    def _size(self, stem: str) -> int:
        return sum(size for name, size in self._sizes().items() if name.startswith(f"{stem}."))

    def _sizes(self) -> dict[str, int]:
        """Return the bytes of disk of our files, by name."""
        found = {}
        with os.scandir(self.directory) as listing:
            for entry in listing:
                if entry.name.startswith(PREFIX):
                    with contextlib.suppress(FileNotFoundError):  # another transfer has ended
                        status = entry.stat(follow_symlinks=False)
                        is_file = stat.S_ISREG(status.st_mode)
                        found[entry.name] = status.st_blocks * _SECTOR if is_file else 0
        return found
