"""The document that is published: a file, which is the last good one as well, and its memory.

    new ──with the kept objects of failed VOs──> guard ──> file ──> object store, if there is one

The file is replaced as a whole, so that a reader finds the old document or the new one. A document
that lost more than half of its objects is held by the rule of the BDII (`appliance.core.shrink`):
the last good one is served meanwhile, with its old time. The object store gets what the file holds.
If that fails, the next run tries again, even if the cloud cannot be read then.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from appliance.core import clock, files, json_file, shrink, site_document
from appliance.core.clock import Moment
from appliance.core.run import lock
from appliance.core.run.errors import LocalFailure, UsageError
from appliance.core.site_document import Document
from cloud_info_provider.publishing import document, store
from cloud_info_provider.publishing.store import LARGEST, ObjectStore, StoreMemory

logger = logging.getLogger(__name__)

_PATIENCE = timedelta(seconds=30)


@dataclass(slots=True)
class DocumentMemory:
    """What is remembered beside the file, for the next run and for ``appliance status``.

    Attributes:
        held_since: when the guard began to hold a smaller document; None if it holds none.
        held: how many objects that document lacks.
        delivered: by store, the digest of the document that was last stored and read back.
        stores: by store, what is known of its objects.

    """

    held_since: Moment | None = None
    held: int = 0
    delivered: dict[str, str] = field(default_factory=dict)
    stores: dict[str, StoreMemory] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> DocumentMemory:
        """Return the memory in a file; an empty one if there is none that can be used."""
        try:
            entry: Any = json_file.read(path, limit=site_document.LARGEST_STATE)
            return cls(
                _held_since(entry),
                int(entry.get("held") or 0),
                {str(name): str(text) for name, text in (entry.get("delivered") or {}).items()},
                {
                    str(name): StoreMemory.read(known)
                    for name, known in (entry.get("stores") or {}).items()
                },
            )
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, TypeError, AttributeError, OverflowError) as error:
            cause = error if isinstance(error, OSError) else OSError("it does not hold our state")
            words = "who wrote which object is no longer known"
            logger.warning("%s", files.describe_skipped(path, cause, consequence=words))
            return cls()

    def write(self, path: Path, published: Document) -> None:
        """Replace the file; raises `LocalFailure`."""
        created = site_document.created(published)
        until = site_document.valid_until(site_document.first(published, site_document.SERVICE))
        since = self.held_since
        entry = {
            "site": site_document.site(published),
            "created": created and created.isoformat(),
            "valid_until": until and until.isoformat(),
            "held_since": since and since.at.isoformat(),
            "held_boot": since and since.uptime.boot,
            "held_uptime": since and since.uptime.length.total_seconds(),
            "held": self.held,
            "delivered": self.delivered,
            "stores": {name: known.as_json() for name, known in self.stores.items()},
        }
        json_file.write(path, entry)


class KeptDocument:
    """The file of a site. Use it within `opened`, which excludes other runs."""

    def __init__(self, path: Path, *, shrink_hold: timedelta) -> None:
        self.path = path
        self._state = path.with_suffix(".state")
        self._hold = shrink_hold
        self._memory = DocumentMemory()
        self._content = b""
        self.problems: list[str] = []
        """What the run left undone, a line each."""

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Read file and memory, and hold the lock; raises `Busy` if another run holds it."""
        try:
            files.make_directory(self.path.parent, mode=0o755)
        except OSError as error:
            raise LocalFailure.from_os(error) from error
        with lock.hold(self.path.with_suffix(".lock"), wait=_PATIENCE):
            self._memory = DocumentMemory.read(self._state)
            try:
                self._content = files.read_regular(self.path, limit=LARGEST, follow=True)
            except FileNotFoundError:
                self._content = b""
            except files.NotAFile as error:
                cause = str(error.strerror).lower()
                remedy = "name a file with --output, or as file.path in publish.yaml"
                raise LocalFailure(self.path, cause, remedy) from error
            except OSError as error:
                raise files.describe_unusable(self.path, error) from error
            yield

    @property
    def site(self) -> str:
        """Return the name of the site whose document the file holds; empty if there is none."""
        return site_document.site(self._last())

    def update(self, new: Document, *, failed: Collection[str], moment: Moment) -> None:
        """Replace the file, unless the guard holds the new document, or the file is of a later run.

        Raises:
            UsageError: the file is another site's.
            LocalFailure: it cannot be written; the last good one stays.

        """
        last, now = self._last(), moment.at
        self._require_same_site(last, new)
        if _is_earlier(new, last, now):
            logger.warning("%s: stays, because another run wrote a later answer to it", self.path)
            return
        merged = document.with_kept(last, new, failed=failed, now=now)
        gone, size = document.removed(last, merged)
        if self._is_held(gone, size, moment):
            self._memory.write(self._state, last)
            return
        self._memory.held_since, self._memory.held = None, 0
        self._write(document.dump(merged))
        self._memory.write(self._state, merged)

    def _is_held(self, gone: int, size: int, moment: Moment) -> bool:
        """Check whether a document that lacks ``gone`` of ``size`` objects waits, and note it.

        Only the machine's uptime counts, because a clock that is set forward confirms nothing. A
        restart of the machine restarts the wait.
        """
        if not shrink.is_held(removed=gone, size=size):
            return False
        memory = self._memory
        # An answer that lacks even more is not the one that is to come again.
        since = memory.held_since if gone <= memory.held else None
        most = timedelta(0) if moment.uptime.boot else timedelta.max
        waited = moment.since(since, over_restart=most) if since else timedelta(0)
        if waited >= self._hold:
            return False
        memory.held = max(gone, memory.held if since else 0)
        if since is None or (moment.uptime.boot and not moment.is_of_boot(since)):
            memory.held_since = moment
        end = moment.at + self._hold - waited
        self.problems.append(
            f"{self.path}: {gone} of {size} objects would vanish at once: the last good file"
            f" stays until {end:%Y-%m-%d %H:%M} UTC (shrink_hold in publish.yaml)"
        )
        return True

    def _last(self) -> Document:
        try:
            return site_document.load(self._content) if self._content else {}
        except ValueError as error:
            words = "its content is damaged, so the next good answer of the cloud replaces it"
            logger.warning("%s: %s: %s", self.path, words, error)
            return {}

    def _require_same_site(self, last: Document, new: Document) -> None:
        """Refuse to replace the document of another site, which had to be in a file of its own."""
        ids = site_document.gocdb_id(last), site_document.gocdb_id(new)
        names = site_document.site(last), site_document.site(new)
        if not last or ids[0] == ids[1] != "" or names[0] == names[1]:
            return
        raise UsageError(
            self.path,
            f"holds the information of {names[0]}, not of {names[1]}",
            "name another file with --output, or move this one away if the site was renamed",
        )

    def _write(self, content: bytes) -> None:
        try:
            files.write_atomic(self.path, content, mode=0o644)
            self.path.chmod(0o644)  # whatever our umask: other accounts serve or compare it
        except OSError as error:
            raise LocalFailure.from_os(error, subject=self.path) from error
        self._content = content

    def deliver(self, target: ObjectStore, *, replacing: str = "") -> str:
        """Upload the file unless this store has it already; return the object's name, or nothing.

        Raises `Unavailable` as `store.upload` does.
        """
        digest = hashlib.md5(self._content, usedforsecurity=False).hexdigest()
        if not self._content or (
            self._memory.delivered.get(target.place) == digest and not replacing
        ):
            return ""
        known = self._memory.stores.setdefault(target.place, StoreMemory())
        last = self._last()

        def save() -> None:
            self._memory.write(self._state, last)

        name = store.upload(target, self._content, memory=known, save=save, replacing=replacing)
        self._memory.delivered[target.place] = digest
        save()
        return name


def _held_since(entry: Any) -> Moment | None:
    """Return the beginning of a hold in a state; a hold without uptime starts again."""
    since = entry.get("held_since")
    if not since:
        return None
    length = timedelta(seconds=float(entry.get("held_uptime") or 0))
    return Moment(clock.Uptime(str(entry.get("held_boot") or ""), length), clock.parse(since))


def _is_earlier(new: Document, last: Document, now: datetime) -> bool:
    """Check whether the cloud answered before it gave what the file has.

    A file from the future was written while the clock was wrong, and protects nothing.
    """
    answered, known = site_document.created(new), site_document.created(last)
    return answered is not None and known is not None and answered < known <= now
