"""Messages on which connections broke: counted over runs, and told apart from a broker that is out of order.

A broker that dislikes a message may close the connection, or refuse it in words that no program
knows. From outside that looks like a broker that fails. So a message is condemned only when all of
this holds:

    it was in flight alone when a connection broke, ``limit`` times, in this run or earlier ones;
    the same broker has just taken another message;
    the very next thing that happened there is that this one broke the connection again.

A message that has failed ``limit`` - 1 times is held while others are tried. While none of them
goes through nobody is condemned, however long the broker is out of order. One that overtook a
suspect is remembered (docs/adr/0018), durably and before it is sent: if the suspect is taken after
all, the other goes once more, under an id of its own that no receiver discards as a repetition, so
that it is the last to arrive.

The counts lie in a file beside the spool. It is a memory, not a truth: without it, counting starts
over.
"""

from __future__ import annotations

import enum
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from appliance.core import files
from appliance.core.run.errors import LocalFailure

logger = logging.getLogger("ssm.ssm2")

AGAIN = ".again"
_MAX_FILE = 4 * 1024 * 1024
_MAX_ERROR = 500


class Treatment(enum.Enum):
    """What to do with a message that was alone when the connection broke."""

    RETRY = enum.auto()
    HOLD = enum.auto()
    """Try others first: whether they go through shows who is to blame."""
    CONDEMN = enum.auto()


@dataclass(slots=True)
class Suspicion:
    """How often a message failed alone, and with what words the last time."""

    attempts: int = 0
    last_error: str = ""


class Suspects:
    """The suspects of one spool; for one process."""

    def __init__(self, path: Path, *, limit: int) -> None:
        self._path = path
        self._limit = limit
        self._known: dict[str, Suspicion] = {}
        self._overtook: set[str] = set()
        """Sent while a suspect was held; forgotten when no suspect is left."""
        self._again: set[str] = set()
        """Of these, those that a suspect has arrived after."""
        self._working: str = ""
        """The broker whose last act was to take a message."""
        self._load()

    def __contains__(self, name: object) -> bool:
        return name in self._known

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def suspicion(self, name: str) -> Suspicion:
        """Return what is known against a message."""
        return self._known.get(name, Suspicion())

    def id_on_wire(self, name: str) -> str:
        """Return the id under which a message is sent."""
        return name + AGAIN if name in self._again else name

    def broke(self) -> None:
        """Note a break that is no single message's."""
        self._working = ""

    def failed(self, name: str, *, broker: str, error: str) -> Treatment:
        """Note that the connection to a broker broke while just this message was in flight."""
        is_proven, self._working = self._working == broker, ""
        suspicion = self._known.setdefault(name, Suspicion())
        suspicion.attempts += 1
        suspicion.last_error = error[:_MAX_ERROR]
        self._save()
        if suspicion.attempts >= self._limit and is_proven:
            return Treatment.CONDEMN
        return Treatment.HOLD if suspicion.attempts >= self._limit - 1 else Treatment.RETRY

    def overtaking(self, name: str) -> None:
        """Note that a message is about to be sent while a suspect waits."""
        if name not in self._overtook:
            self._overtook.add(name)
            self._save()

    def arrived(self, name: str, *, broker: str, is_behind: Callable[[str], bool]) -> None:
        """Note a receipt: those behind this one that have overtaken it must go again.

        To have overtaken is enough: who has no receipt, in this run or in one that was killed, may
        have arrived all the same.
        """
        self._working = broker
        late = {other for other in self._overtook if is_behind(other)}
        if late or name in self._known:
            self._known.pop(name, None)
            self._again |= late
            self._overtook -= late
            self._save()

    def removed(self, name: str) -> None:
        """Drop everything about a message that has left the spool."""
        if name in self._known or name in self._overtook or name in self._again:
            self._known.pop(name, None)
            self._overtook.discard(name)
            self._again.discard(name)
            self._save()

    def keep(self, is_there: Callable[[str], bool]) -> None:
        """Drop what is known of messages that have left the spool since."""
        for name in {*self._known, *self._overtook, *self._again}:
            if not is_there(name):
                self.removed(name)
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
            logger.warning("%s", files.describe_skipped(self._path, error))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            self._known, self._overtook, self._again = {}, set(), set()
            logger.warning("%s: cannot be read; failed attempts are counted anew", self._path)

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
        except OSError as error:  # a full disk must not keep from sending what fills it
            failure = LocalFailure.from_os(error, subject=self._path)
            logger.warning("%s; failed attempts are not remembered for the next run", failure)
