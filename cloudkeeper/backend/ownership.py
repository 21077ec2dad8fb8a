"""Which images are this backend's own, and which of them its calls are working on.

A backend has an id, kept in its state directory, and writes it into every image that it makes. An
incomplete image with this id was left by a killed call, unless a call of this process is still
uploading it. An incomplete image with another id may belong to a backend that runs elsewhere.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Callable, Hashable, Iterator
from datetime import timedelta
from pathlib import Path

from appliance.core import files
from appliance.core.run import lock
from cloudkeeper.backend.errors import Failed
from cloudkeeper.backend.layers import LayerMemory
from cloudkeeper.wire.status import CallStatus

logger = logging.getLogger(__name__)

# Bytes to read of the id's file; a UUID has 36.
_LONGEST = 1000
# For the call of a killed frontend to end: less than a frontend's deadline for a short call.
_SHORT_WAIT = timedelta(minutes=4)
LONG_WAIT = timedelta(minutes=35)
"""The wait of a call with data: Glance may take half an hour to answer the other call's upload."""
# Between two looks at whether a waiting call is still wanted.
_POLL = timedelta(seconds=1)


class Ownership:
    """The id of one backend and the work of its calls; safe for use by several threads.

    ``state`` is the backend's state directory.
    """

    def __init__(self, state: Path) -> None:
        self.layers = LayerMemory(state / "layers.json")
        self._state = state
        self._id = ""
        self._lock = threading.Condition()
        self._uploads: set[str] = set()
        self._claims: set[Hashable] = set()
        self._completed: dict[Hashable, str] = {}

    @property
    def id(self) -> str:
        """The id of the backend, which the first use makes, if need be, and keeps.

        Raises:
            OSError: a new one cannot be written.

        """
        with self._lock:
            self._id = self._id or _persistent_id(self._state / "id")
            return self._id

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes away from the state directory during the block.

        Raises:
            Busy: another one uses it.
            OSError: the directory cannot be written.

        """
        with lock.hold(self._state / "lock"):
            logger.debug("backend %s", self.id)  # a directory that is read only fails here
            yield

    @property
    def uploads(self) -> frozenset[str]:
        """Ids of the images that calls are uploading."""
        with self._lock:
            return frozenset(self._uploads)

    @contextlib.contextmanager
    def upload(self) -> Iterator[str]:
        """Yield the id for a new image, which is among `uploads` until the block ends."""
        # Glance accepts an id from the client. Chosen here, it is known before the record exists,
        # so a run that begins meanwhile never takes the record for an orphan.
        image_id = str(uuid.uuid4())
        with self._lock:
            self._uploads.add(image_id)
        try:
            yield image_id
        finally:
            with self._lock:
                self._uploads.discard(image_id)

    def note(self, subject: Hashable, image_id: str) -> None:
        """Remember the image that a call has completed for a subject."""
        with self._lock:
            self._completed[subject] = image_id

    def completed(self, subject: Hashable) -> str:
        """Return the image that the last call has completed for a subject; empty if none has."""
        with self._lock:
            return self._completed.get(subject, "")

    @contextlib.contextmanager
    def claim(
        self,
        subject: Hashable,
        *,
        longest: timedelta = _SHORT_WAIT,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> Iterator[None]:
        """Keep other calls away from a subject during the block, after the one that has it ends.

        That one is often the call of a frontend that was killed: it aborts its upload at its next
        block, or Glance is about to complete it.

        Raises:
            Failed: another call still works on it after the ``longest`` wait, or this one is no
                longer wanted.

        """
        with self._lock:
            self._await(subject, time.monotonic() + longest.total_seconds(), is_wanted)
            self._claims.add(subject)
        try:
            yield
        finally:
            with self._lock:
                self._claims.discard(subject)
                self._lock.notify_all()

    def _await(self, subject: Hashable, ends: float, is_wanted: Callable[[], bool]) -> None:
        if subject in self._claims:
            logger.info("%s: waiting for another call, which is working on it", subject)
        while subject in self._claims:
            left = ends - time.monotonic()
            if left <= 0 or not is_wanted():
                cause = "another call is still working on it"
                raise Failed(
                    subject, cause, "the next run retries", status=CallStatus.RESOURCE_STATE
                )
            self._lock.wait(min(left, _POLL.total_seconds()))

    def is_claimed(self, subject: Hashable) -> bool:
        """Check whether a call is working on a subject."""
        with self._lock:
            return subject in self._claims


def _persistent_id(path: Path) -> str:
    """Return the id in a file; write a new one if there is none that can be used."""
    try:
        return str(uuid.UUID(files.read_regular(path, limit=_LONGEST).decode("ascii").strip()))
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        words = error.strerror if isinstance(error, OSError) else "holds no id"
        logger.warning(
            "%s: %s; a new id was written; incomplete images that carry the old id are deleted "
            "once they are a day old",
            path,
            words,
        )
    made = str(uuid.uuid4())
    files.make_directory(path.parent)
    files.write_atomic(path, f"{made}\n".encode())
    return made
