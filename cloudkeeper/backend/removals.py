"""The limit of removals, which is the backend's own: no frontend lifts it, no new run resets it.

Of the images of a list, three may be removed within a day, or half of those that were there when
the day began, whichever is more. What was removed is kept in the state directory and counted over
all runs and restarts, so that many small runs do not pass the limit. Hiding an image counts as its
removal. A removal is noted before it is made; one that fails and is repeated counts once.

Who may remove more is the word of cloudkeeper-os.conf (`RemovalPolicy`). Without that word, the
frontend of this host, which uses the socket, passes on what its administrator has confirmed with
``--allow-remove N``; a frontend that comes over TCP cannot.
"""

from __future__ import annotations

import enum
import logging
import threading
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from appliance.core import clock, json_file
from appliance.core.run import place
from appliance.core.run.errors import LocalFailure
from cloudkeeper.backend.errors import Failed
from cloudkeeper.model import ListId
from cloudkeeper.wire.status import CallStatus

logger = logging.getLogger(__name__)

# Removals of a list that are always allowed: half of a small list would be none or one.
_ALWAYS = 3
_WINDOW = timedelta(hours=24)
_LARGEST = 2**24


class RemovalPolicy(enum.StrEnum):
    """The word of the configuration on removals."""

    NONE = "none"
    """Nothing is removed or hidden; images that a new version replaces still go."""
    LIMITED = "limited"
    """No more than the limit, whatever a frontend says."""
    CONFIRMED = "confirmed"
    """More than the limit, if the frontend says that an administrator has confirmed the number."""


@dataclass(slots=True)
class RecentRemovals:
    """The removals of a list within the last day, by image.

    ``there`` is the number of its images when the first of them was made.
    """

    there: int
    removed: dict[str, datetime] = field(default_factory=dict)


class RemovalMemory:
    """The recent removals, in the file at ``path``; only one process uses it.

    Raises:
        LocalFailure: the file cannot be read.

    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lists = _read(path)

    def recent(self, list_id: ListId, *, there: int) -> RecentRemovals:
        """Return the recent removals of a list that has ``there`` images now."""
        known = self._lists.get(list_id)
        now = clock.now()
        # A time to come is of a clock that was wrong; it would count for ever.
        kept = {
            image: min(at, now)
            for image, at in (known.removed.items() if known else ())
            if now - at < _WINDOW
        }
        return RecentRemovals(known.there if known and kept else there, kept)

    def note(self, list_id: ListId, recent: RecentRemovals, images: Iterable[str]) -> None:
        """Note images of a list that are about to be removed.

        Raises:
            LocalFailure: the file cannot be written.

        """
        now = clock.now()
        recent.removed |= {image: now for image in images if image not in recent.removed}
        self._write({**self._lists, list_id: recent})

    def _write(self, lists: dict[ListId, RecentRemovals]) -> None:
        now = clock.now()
        kept = {
            key: found
            for key, found in lists.items()
            if any(now - at < _WINDOW for at in found.removed.values())
        }
        document = {
            key: {
                "there": found.there,
                "removed": {image: at.isoformat() for image, at in found.removed.items()},
            }
            for key, found in kept.items()
        }
        json_file.write(self._path, document)
        self._lists = kept


class RunRemovals:
    """The removals of one run; safe for use by several threads.

    ``allowance`` is the number that an administrator has confirmed, as the frontend says.
    """

    def __init__(self, memory: RemovalMemory, *, policy: RemovalPolicy, allowance: int = 0) -> None:
        self._memory = memory
        self._policy = policy
        self._allowance = allowance if policy is RemovalPolicy.CONFIRMED else 0
        self._lock = threading.Lock()
        self._at_start: Counter[ListId] = Counter()
        self._asked: dict[ListId, set[str]] = {}

    def expect(self, lists: Iterable[ListId]) -> None:
        """Count the images that are there when the run begins, by the list of each."""
        with self._lock:
            self._at_start.update(lists)

    def allow(self, list_id: ListId, images: Collection[str]) -> None:
        """Count images of a list before they are removed or hidden.

        The frontend has a limit, too. The backend has its own, because a frontend that is not
        ours, or a compromised one, has none.

        Raises:
            Failed: too many would be removed.
            LocalFailure: the removals cannot be noted, so none is made.

        """
        if not images:
            return
        with self._lock:
            if self._policy is RemovalPolicy.NONE:
                raise self._refusal(list_id, "removals = none: nothing is removed or hidden")
            # Refused ones count as well, so that the last line of a run names the whole number.
            asked = self._asked.setdefault(list_id, set())
            asked.update(images)
            if len(asked) <= self._allowance:
                return  # not noted: what is confirmed uses up nothing of the limit
            recent = self._memory.recent(list_id, there=self._at_start[list_id])
            total = len(recent.removed.keys() | asked)
            if total > max(_ALWAYS, recent.there // 2):
                raise self._refusal(
                    list_id,
                    f"{total} of its {recent.there} images would be removed within a day: more "
                    f"than half, and more than {_ALWAYS}",
                    f"run: {_confirmation(len(asked))}",
                )
            self._memory.note(list_id, recent, images)

    def _refusal(self, list_id: ListId, cause: str, confirmation: str = "") -> Failed:
        needed = "set removals = confirmed in [DEFAULT] of cloudkeeper-os.conf and restart it"
        if self._policy is RemovalPolicy.CONFIRMED:
            remedy = f"to confirm that, {confirmation}"
        elif confirmation:
            remedy = f"to confirm that, {needed}, then {confirmation}"
        else:
            remedy = f"to have images removed, {needed}"
        return Failed(f"image list {list_id}", cause, remedy, status=CallStatus.RESOURCE_STATE)


def _confirmation(number: int) -> str:
    """Return the command of the frontend, which a container's administrator starts as a job."""
    program = "appliance run cloudkeeper --" if place.is_container() else "cloudkeeper"
    return f"{program} sync --allow-remove {number}"


def _read(path: Path) -> dict[ListId, RecentRemovals]:
    try:
        found = json_file.read(path, limit=_LARGEST)
        return {
            ListId(key): RecentRemovals(
                int(each["there"]),
                {image: clock.parse(at) for image, at in each["removed"].items()},
            )
            for key, each in found.items()
        }
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise LocalFailure.from_os(error, subject=path) from error
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError):
        logger.warning("%s: has unreadable contents; the removals of the last day are lost", path)
        return {}
