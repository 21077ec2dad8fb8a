"""Suspects: messages on which connections broke, counted over runs.

A broker that rejects a message may close the connection, or use words that no program knows. From
outside that looks the same as a broker that fails. So a message is condemned only when all of this
holds:

    it was in flight alone when a connection broke, ``limit`` times, in this run or earlier ones;
    the same broker has acknowledged another message;
    the next event there was that this message broke the connection again.

    failed alone          the broker has just taken another    treatment
    < limit - 1 times     either                               RETRY   alone, at once
    limit - 1 times       either                               HOLD    until others were tried
    >= limit times        no                                   HOLD
    >= limit times        yes                                  CONDEMN dead letter

While no message goes through, none is condemned, however long the broker is out of order.

A message that overtakes a held suspect is remembered (docs/adr/0018), durably and before it is
sent. If the suspect is acknowledged after all, the other is sent once more, so that it arrives
last: the repository keeps the last message that it receives about a server. Its second id ends in
``.again``, because a receiver drops a repeated id as a duplicate.

The counts are in a file beside the spool. Without that file, counting starts again.
"""

from __future__ import annotations

import enum
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from appliance.core import files
from appliance.core.run.errors import LocalFailure

logger = logging.getLogger("ssm.ssm2")

AGAIN = ".again"
_MAX_FILE = 4 * 1024 * 1024
_MAX_ERROR = 500  # characters


class Treatment(enum.Enum):
    """What to do next with a message that was in flight alone when the connection broke."""

    RETRY = enum.auto()
    HOLD = enum.auto()
    """Try others first: if they go through, the broker works and the message is at fault."""
    CONDEMN = enum.auto()


@dataclass(slots=True)
class Suspicion:
    """How often a message failed alone, and the error of the last time."""

    attempts: int = 0
    last_error: str = ""


class Suspects:
    """The suspects of one spool. One process at a time."""

    def __init__(self, path: Path, *, limit: int) -> None:
        self._path = path
        self._limit = limit
        self._known: dict[str, Suspicion] = {}
        self._overtook: set[str] = set()
        """Messages sent while a suspect was held; dropped when no suspect is left."""
        self._again: set[str] = set()
        """Those of them after which a suspect arrived: they are sent again."""
        self._working: str = ""
        """The broker whose last event was a receipt; empty after a break."""
        self._load()

    def __contains__(self, name: object) -> bool:
        return name in self._known

    def __len__(self) -> int:
        return len(self._known)

    def suspicion(self, name: str) -> Suspicion:
        """Return the failures of a message."""
        return self._known.get(name, Suspicion())

    def id_on_wire(self, name: str) -> str:
        """Return the id under which a message is sent now."""
        return name + AGAIN if name in self._again else name

    def broke(self) -> None:
        """Note a break for which no single message can be blamed."""
        self._working = ""

    def failed(self, name: str, *, broker: str, error: str) -> Treatment:
        """Note a break while only this message was in flight; return what to do with it."""
        is_proven, self._working = self._working == broker, ""
        suspicion = self._known.setdefault(name, Suspicion())
        suspicion.attempts += 1
        suspicion.last_error = error[:_MAX_ERROR]
        self._save()
        if suspicion.attempts >= self._limit and is_proven:
            return Treatment.CONDEMN
        return Treatment.HOLD if suspicion.attempts >= self._limit - 1 else Treatment.RETRY

    def overtaking(self, name: str) -> None:
        """Note that a message is about to be sent before an older one that is held."""
        if name not in self._overtook:
            self._overtook.add(name)
            self._save()

    def arrived(self, name: str, *, broker: str, is_behind: Callable[[str], bool]) -> None:
        """Note a receipt: messages that overtook this one must be sent again.

        ``is_behind`` checks whether a message comes after this one. A message that overtook goes
        again even without a receipt of its own: it may have arrived all the same.
        """
        self._working = broker
        late = {other for other in self._overtook if is_behind(other)}
        if late or name in self._known:
            self._known.pop(name, None)
            self._again |= late
            self._overtook -= late
            self._save()

    def removed(self, name: str) -> None:
        """Drop all knowledge of a message that has left the spool."""
        if name in self._known or name in self._overtook or name in self._again:
            self._known.pop(name, None)
            self._overtook.discard(name)
            self._again.discard(name)
            self._save()

    def keep(self, is_there: Callable[[str], bool]) -> None:
        """Drop the knowledge of messages for which ``is_there`` is false."""
        for name in {*self._known, *self._overtook, *self._again}:
            if not is_there(name):
                self.removed(name)
        # Without a suspect, a message that overtook one can no longer be in the wrong order.
        if not self._known and self._overtook:
            self._overtook.clear()
            self._save()

    def _load(self) -> None:
        try:
            entry = json.loads(files.read_regular(self._path, limit=_MAX_FILE))
            self._known = {
                str(name): Suspicion(int(item["attempts"]), str(item["last_error"]))
                for name, item in entry["suspects"].items()
            }
            self._overtook, self._again = set(entry["overtook"]), set(entry["again"])
        except FileNotFoundError:
            return
        except OSError as error:
            words = "failed attempts are counted from 0"
            logger.warning("%s", files.describe_skipped(self._path, error, consequence=words))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            self._known, self._overtook, self._again = {}, set(), set()
            logger.warning("%s: cannot be read; failed attempts are counted from 0", self._path)

    def _save(self) -> None:
        try:
            if not (self._known or self._again):
                self._path.unlink(missing_ok=True)
                return
            entry = {
                "suspects": {
                    name: {"attempts": item.attempts, "last_error": item.last_error}
                    for name, item in self._known.items()
                },
                "overtook": sorted(self._overtook),
                "again": sorted(self._again),
            }
            files.write_atomic(self._path, json.dumps(entry, indent=1).encode())
        except OSError as error:  # sending goes on: it is what makes room on a full disk
            failure = LocalFailure.from_os(error, subject=self._path)
            logger.warning("%s; failed attempts are not remembered for the next run", failure)
