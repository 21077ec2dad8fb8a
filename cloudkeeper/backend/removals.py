"""The limit of removals, which is the backend's own: no frontend lifts it, no new run resets it.

Of the images of a list, three may be removed within a day, or half of those that were there when
the day began, whichever is more. What was removed is kept in the state directory and counted over
all runs and restarts, so that many small runs do not pass the limit. Hiding an image counts as its
removal. A removal is noted before it is made; one that fails and is repeated counts once.

The day is one of the machine's uptime, so a clock that is set forward does not shorten it. Over a
restart of the machine only the calendar is known, and counts for six hours at most.

Who may remove more is the word of cloudkeeper-os.conf (`RemovalPolicy`). Without that word, the
frontend of this host, which uses the socket or direct mode, passes on what its administrator has
confirmed with ``--allow-remove N``; a frontend that comes over TCP cannot.
"""

from __future__ import annotations

import enum
import logging
import threading
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from appliance.core import clock, json_file
from appliance.core.clock import Moment
from appliance.core.run import place
from appliance.core.run.errors import LocalFailure
from cloudkeeper.backend.errors import Failed
from cloudkeeper.model import ListId
from cloudkeeper.wire.status import CallStatus

logger = logging.getLogger(__name__)

# Removals of a list that are always allowed: half of a small list would be none or one.
_ALWAYS = 3
_WINDOW = timedelta(hours=24)
_PAUSE = timedelta(hours=6)
"""The longest time that a restart of the machine counts for."""
_LARGEST = 2**24


class RemovalPolicy(enum.StrEnum):
    """The word of the configuration on removals."""

    NONE = "none"
    """Nothing is removed or hidden; images that a new version replaces still go."""
    LIMITED = "limited"
    """No more than the limit, whatever a frontend says."""
    CONFIRMED = "confirmed"
    """More than the limit, if the frontend says that an administrator has confirmed the number."""


@dataclass(frozen=True, slots=True)
class RecentRemovals:
    """The removals of a list within the last day: the age of each, by image.

    ``there`` is the number of its images when the first of them was made.
    """

    there: int
    removed: Mapping[str, timedelta] = field(default_factory=dict)

    def later(self, by: timedelta) -> RecentRemovals:
        """Return those that still count after some time."""
        ages = {image: age + by for image, age in self.removed.items()}
        return replace(self, removed={key: age for key, age in ages.items() if age < _WINDOW})


class RemovalMemory:
    """The recent removals, in the file at ``path``; only one process uses it.

    Raises:
        LocalFailure: the file cannot be read.

    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at, self._lists = _read(path)

    def recent(self, list_id: ListId, *, there: int) -> RecentRemovals:
        """Return the recent removals of a list that has ``there`` images now.

        Raises:
            LocalFailure: the file cannot be written.

        """
        earlier, self._at = self._at, Moment.now()
        passed = self._at.since(earlier, over_restart=_PAUSE)
        later = {key: found.later(passed) for key, found in self._lists.items()}
        self._lists = {key: found for key, found in later.items() if found.removed}
        if self._lists and not self._at.is_of_boot(earlier):
            # Or the next restart of the machine would count from the same moment again.
            self._write(self._lists)
        return self._lists.get(list_id) or RecentRemovals(there)

    def note(self, list_id: ListId, recent: RecentRemovals, images: Iterable[str]) -> None:
        """Note images of a list that are about to be removed; ``recent`` are those before.

        Raises:
            LocalFailure: the file cannot be written.

        """
        new = dict.fromkeys(images, timedelta())
        noted = replace(recent, removed={**new, **recent.removed})
        self._write({**self._lists, list_id: noted})

    def _write(self, lists: dict[ListId, RecentRemovals]) -> None:
        document = {
            "boot": self._at.uptime.boot,
            "uptime": self._at.uptime.length.total_seconds(),
            "at": self._at.at.isoformat(),
            "lists": {key: _as_json(found) for key, found in lists.items()},
        }
        json_file.write(self._path, document)
        self._lists = lists


def _as_json(found: RecentRemovals) -> Mapping[str, object]:
    ages = {image: age.total_seconds() for image, age in found.removed.items()}
    return {"there": found.there, "removed": ages}


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

    def check_confirmed(self) -> None:
        """Check that whoever calls may confirm removals of what nothing shows to be ours.

        Raises:
            Failed: the configuration limits removals.

        """
        if self._policy is not RemovalPolicy.CONFIRMED:
            raise Failed(
                "incomplete images",
                f"removals = {self._policy}: those without a mark are not deleted",
                "set removals = confirmed in [DEFAULT] of cloudkeeper-os.conf and restart it, or "
                "delete them with openstack image delete",
                status=CallStatus.RESOURCE_STATE,
            )

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


def _read(path: Path) -> tuple[Moment, dict[ListId, RecentRemovals]]:
    try:
        found = json_file.read(path, limit=_LARGEST)
        length = timedelta(seconds=float(found["uptime"]))
        at = Moment(clock.Uptime(str(found["boot"]), length), clock.parse(found["at"]))
        return at, {ListId(key): _from_json(each) for key, each in found["lists"].items()}
    except FileNotFoundError:
        pass
    except OSError as error:
        raise LocalFailure.from_os(error, subject=path) from error
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError):
        logger.warning("%s: has unreadable contents; the removals of the last day are lost", path)
    return Moment.now(), {}


def _from_json(found: Mapping[str, Any]) -> RecentRemovals:
    # An age below zero would count for longer than a day.
    ages = {
        image: max(timedelta(seconds=float(age)), timedelta())
        for image, age in found["removed"].items()
    }
    return RecentRemovals(int(found["there"]), ages)
