"""The sender's hold on a spool: which elements it has locked, known also to the next run if this one is killed.

A lock is a hard link that says nothing of its owner. So the names of the elements that are about to
be locked stand in a journal, durably, before the first of them is. A run that finds a journal takes
over the locks of just those names; every other lock is somebody else's and is left alone. So is one
that is younger than the journal, whose time is renewed with that of the locks: since the run was
killed another sender has broken our lock, or found none, and set its own.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from appliance.core import files
from appliance.core.run.errors import LocalFailure
from appliance.core.spool import ElementName, Spool

logger = logging.getLogger("ssm.ssm2")

MAX_ELEMENTS = 64
MAX_BYTES = 8 * 1024 * 1024
"""Of one block; a single element may be larger."""
_REFRESH_SECONDS = 60.0
"""A tenth of the age at which other senders break a lock."""
_CLAIM_SECONDS = 30.0
"""In which a block is locked, or its locks are renewed."""
_MAX_JOURNAL = 1024 * 1024
_NAME = re.compile(r"[0-9a-f]{8}/[0-9a-f]{14}")


class Claims:
    """Elements of a spool, locked block by block. One object at a time, under the run's lock file."""

    def __init__(self, spool: Spool, *, journal: Path) -> None:
        self.spool = spool
        self.foreign: list[ElementName] = []
        """Elements that somebody else has locked."""
        self.refused: dict[ElementName, str] = {}
        """Elements that were locked and then could not be read or set aside, and why."""
        self._journal = journal
        self._held: dict[ElementName, None] = {}
        self._refreshed = time.monotonic()

    def recover(self) -> None:
        """Give back what a killed run held.

        An element that it had removed needs only its lock removed. A journal that cannot be read
        is kept in the spool's ``skipped``: its locks hold until they are ten minutes old.
        """
        try:
            text = files.read_regular(self._journal, limit=_MAX_JOURNAL)
            end = self._journal.stat().st_mtime + _CLAIM_SECONDS
        except FileNotFoundError:
            return
        except OSError as error:
            self.spool.skipped[self._journal] = files.describe_skipped(self._journal, error)
            return
        words = text.decode("ascii", "replace").split()
        for name in map(ElementName, filter(_NAME.fullmatch, words)):
            since = self.spool.locked_since(name)
            if since is not None and since <= end:
                self.spool.unlock(name)
        self._forget()

    def blocks(self, *, limit: int | None = None) -> Iterator[list[ElementName]]:
        """Yield elements oldest first, locked, in blocks, to be settled or refused one by one.

        What was not settled of one block stays locked while the next is worked on.
        """
        block: list[ElementName] = []
        size = 0
        for name in self._free_names(limit):
            length = self.spool.size(name)
            if block and (len(block) == MAX_ELEMENTS or size + length > MAX_BYTES):
                yield self._claim(block)
                block, size = [], 0
            block.append(name)
            size += length
        if block:
            yield self._claim(block)

    def count_unreached(self, left: list[ElementName]) -> int:
        """Return how many elements could be sent and were not come to; ``left`` were locked."""
        known = {*left, *self.foreign, *self.refused}
        return sum(self.spool.is_usable(name) for name in self.spool.names() if name not in known)

    def settle(self, name: ElementName) -> None:
        """Remove an element that is safe elsewhere."""
        self.spool.remove(name)
        self._held.pop(name, None)

    def refuse(self, name: ElementName, reason: str) -> None:
        """Give back an element that this run can do nothing with."""
        self.spool.unlock(name)
        self._held.pop(name, None)
        self.refused[name] = reason

    def refresh(self) -> None:
        """Keep the locks young; to be called often, does something once a minute."""
        if time.monotonic() - self._refreshed > _REFRESH_SECONDS:
            for name in self._held:
                self.spool.refresh(name)
            with contextlib.suppress(OSError):
                os.utime(self._journal)
            self._refreshed = time.monotonic()

    def release(self) -> list[ElementName]:
        """Give back all that is still held, and return it."""
        held = list(self._held)
        for name in held:
            self.spool.unlock(name)
        self._held.clear()
        self._forget()
        return held

    def _free_names(self, limit: int | None) -> Iterator[ElementName]:
        taken = 0
        for name in self.spool.names():
            if limit is not None and taken >= limit:
                return
            if self.spool.is_locked(name):
                self.foreign.append(name)
            else:
                taken += 1
                yield name

    def _claim(self, block: list[ElementName]) -> list[ElementName]:
        self._write_journal([*self._held, *block])
        claimed = []
        for name in block:
            if self.spool.lock(name):
                claimed.append(name)
            elif self.spool.is_locked(name):
                self.foreign.append(name)
        self._held |= dict.fromkeys(claimed)
        if len(claimed) < len(block):
            self._write_journal(list(self._held))
        self._refreshed = time.monotonic()
        return claimed

    def _forget(self) -> None:
        with contextlib.suppress(OSError):  # one that is not ours: recover() has named it
            self._journal.unlink()

    def _write_journal(self, names: list[ElementName]) -> None:
        try:
            files.write_atomic(self._journal, "".join(f"{name}\n" for name in names).encode())
        except OSError as error:  # a full disk must not keep from sending what fills it
            failure = LocalFailure.from_os(error, subject=self._journal)
            logger.warning(
                "%s; should this run be killed, its locks will hold for ten minutes", failure
            )
