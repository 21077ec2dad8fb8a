"""A project's quota for images, asked for before data move.

Glance says what a project may store and has stored if its limits are those of Keystone
(``use_keystone_limits``, from 2.13 of its API on). Otherwise the first refusal of an upload says
it: an image that is not smaller than the refused one is not sent in the same run.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from appliance.core.cloud.glance import Glance
from appliance.core.run.errors import ApplianceError
from cloudkeeper.backend.errors import Failed
from cloudkeeper.wire.status import CallStatus

_MIB = 2**20
# The name of Glance for the size of all images of a project, in MiB.
_SIZE = "image_size_total"
_COUNT = "image_count_total"
_REMEDY = "raise the quota, or delete images of the project; the next run retries"


@dataclass(slots=True)
class ProjectQuota:
    """What is left of the quota of one project, in one run; safe for use by several threads."""

    name: str
    glance: Glance
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _left: dict[str, int] | None = None
    """Bytes and images that are left, as far as Glance has a limit; None: not asked yet."""
    _refused: tuple[int, str] | None = None
    """Bytes of the smallest image that was refused in this run, and why."""

    def check(self, size: int) -> None:
        """Check whether an image may be stored.

        Raises:
            Failed: its project has no room for it.

        """
        with self._lock:
            left = self._known()
            if self._refused and size >= self._refused[0]:
                refused, cause = self._refused
                words = f"one of {_mib(refused)} was refused in this run"
                self._fail(f"{words}, and this one has {_mib(size)}: {cause}")
            if size > left.get(_SIZE, size):
                words = f"{_mib(max(left[_SIZE], 0))} are left, and it has {_mib(size)}"
                self._fail(words)
            if left.get(_COUNT, 1) < 1:
                self._fail("no further image is allowed")

    def note_stored(self, size: int) -> None:
        """Count an image that has been stored."""
        with self._lock:
            for name, number in ((_SIZE, size), (_COUNT, 1)):
                if self._left and name in self._left:
                    self._left[name] -= number

    def note_refused(self, size: int, cause: str) -> None:
        """Remember that Glance has refused an image because of its size, and why."""
        with self._lock:
            if self._refused is None or size < self._refused[0]:
                self._refused = size, cause

    def _known(self) -> Mapping[str, int]:
        if self._left is None:
            self._left = _left(self.glance)
        return self._left

    def _fail(self, words: str) -> NoReturn:
        raise Failed(
            f"project {self.name}",
            f"has no room for the image: {words}; nothing was sent",
            _REMEDY,
            status=CallStatus.APPLIANCE_TRANSFER,
        )


def _left(glance: Glance) -> dict[str, int]:
    """Return what Glance says is left; nothing if it does not say, or nothing readable."""
    try:
        usage: Any = glance.usage()
        return {
            name: unit * (int(usage[name]["limit"]) - int(usage[name]["usage"]))
            for name, unit in ((_SIZE, _MIB), (_COUNT, 1))
            if name in usage and int(usage[name]["limit"]) >= 0  # -1: no limit
        }
    except (ApplianceError, LookupError, TypeError, ValueError):
        return {}  # the upload then shows whether there is room


def _mib(size: int) -> str:
    return f"{-(-size // _MIB)} MiB"
