"""The sender's claims: the elements of a spool that it has locked against other senders.

A lock is a hard link, which does not name its owner. So a run writes the names of the elements that
it is about to lock into a journal, durably, before it locks the first of them.

    lock, when a run was killed                         the next run
    named in the journal, not younger than it           takes it over: it is ours
    named in the journal, younger than it               leaves it alone: another sender broke our
                                                        lock, or found none, and set its own
    not named in the journal                            leaves it alone: it is another sender's

A run renews the journal's time together with its locks; that is how their ages can be compared.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

from appliance.core import files
from appliance.core.run.errors import LocalFailure
from appliance.core.spool import NAME, ElementName, Spool

logger = logging.getLogger("ssm.ssm2")

# The journal is written once for each block, so that its fsync costs little for each message.
MAX_ELEMENTS = 64
MAX_BYTES = 8 * 1024 * 1024
"""Size of one block; a single element may be larger."""
_REFRESH_SECONDS = 60.0
"""A tenth of the age at which dirq's ``purge`` breaks a lock."""
_CLAIM_SECONDS = 30.0
"""The most that it takes to lock a block, or to renew its locks."""
_MAX_JOURNAL = 1024 * 1024


class Claims:
    """Elements of a spool, locked block by block. One process at a time: the run's lock file."""

    def __init__(self, spool: Spool, *, journal: Path) -> None:
        self.spool = spool
        self.foreign: list[ElementName] = []
        """Elements that another sender has locked."""
        self.refused: dict[ElementName, str] = {}
        """Why elements that were locked could then not be read or moved aside."""
        self._journal = journal
        self._held: dict[ElementName, None] = {}
        self._refreshed = time.monotonic()

    def recover(self) -> None:
        """Remove the locks that a killed run left.

        Where that run had already removed the element, its lock is still there. A journal that
        cannot be read is added to the spool's ``skipped``: its locks hold for ten minutes.
        """
        try:
            text = files.read_regular(self._journal, limit=_MAX_JOURNAL)
            end = self._journal.stat().st_mtime + _CLAIM_SECONDS
        except FileNotFoundError:
            return
        except OSError as error:
            self.spool.skipped[self._journal] = files.describe_skipped(
                self._journal, error, consequence="locks of a killed run hold for ten minutes"
            )
            return
        words = text.decode("ascii", "replace").split()
        for name in map(ElementName, filter(NAME.fullmatch, words)):
            # Claiming a block takes a moment, so its locks are a little younger than the journal.
            since = self.spool.locked_since(name)
            if since is not None and since <= end:
                self.spool.unlock(name)
        self._forget()

    def blocks(self, *, limit: int | None = None) -> Iterator[list[ElementName]]:
        """Yield blocks of locked elements, oldest first; each is to be settled or refused.

        Elements of one block that are not yet settled stay locked while the next is worked on.
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
        """Return the number of sendable elements that were not reached; ``left`` were."""
        known = {*left, *self.foreign, *self.refused}
        return sum(self.spool.is_usable(name) for name in self.spool.names() if name not in known)

    def settle(self, name: ElementName) -> None:
        """Remove an element that the broker has acknowledged, or that was moved aside."""
        self.spool.remove(name)
        self._held.pop(name, None)

    def refuse(self, name: ElementName, reason: str) -> None:
        """Unlock an element that this run can do nothing with."""
        self.spool.unlock(name)
        self._held.pop(name, None)
        self.refused[name] = reason

    def refresh(self) -> None:
        """Renew the locks once a minute; to be called often."""
        if time.monotonic() - self._refreshed > _REFRESH_SECONDS:
            for name in self._held:
                self.spool.refresh(name)
            with contextlib.suppress(OSError):
                os.utime(self._journal)
            self._refreshed = time.monotonic()

    def release(self) -> list[ElementName]:
        """Unlock all elements that are still held, and return them."""
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
        # Names that another sender took must not look like ours to the next run.
        if len(claimed) < len(block):
            self._write_journal(list(self._held))
        self._refreshed = time.monotonic()
        return claimed

    def _forget(self) -> None:
        with contextlib.suppress(OSError):  # a journal of another user: recover() has named it
            self._journal.unlink()

    def _write_journal(self, names: list[ElementName]) -> None:
        try:
            files.write_atomic(self._journal, "".join(f"{name}\n" for name in names).encode())
        except OSError as error:  # sending goes on: it is what makes room on a full disk
            failure = LocalFailure.from_os(error, subject=self._journal)
            logger.warning("%s; if this run is killed, its locks hold for ten minutes", failure)
