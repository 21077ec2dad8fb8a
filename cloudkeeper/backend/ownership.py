"""What outlives a run: the backend's own id, and what its calls are doing right now.

The id stands in every image that this backend makes. An image that is not complete and carries it
was left by a killed call, unless a living one is working on it; one with another id may belong to a
living backend elsewhere.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import uuid
from collections.abc import Hashable, Iterator
from pathlib import Path

from appliance.core import files
from cloudkeeper.backend.errors import Failed
from cloudkeeper.wire.status import CallStatus

logger = logging.getLogger(__name__)

_LONGEST = 1000


class Ownership:
    """One backend with its state directory; safe for use by several threads."""

    def __init__(self, state: Path) -> None:
        self.id = _persistent_id(state / "id")
        self._lock = threading.Lock()
        self._uploads: set[str] = set()
        self._claims: set[Hashable] = set()

    @property
    def uploads(self) -> frozenset[str]:
        """Ids of the images that are being made."""
        with self._lock:
            return frozenset(self._uploads)

    @contextlib.contextmanager
    def upload(self) -> Iterator[str]:
        """Give the id of a new image, which is known as being made until the block ends."""
        image_id = str(uuid.uuid4())
        with self._lock:
            self._uploads.add(image_id)
        try:
            yield image_id
        finally:
            with self._lock:
                self._uploads.discard(image_id)

    @contextlib.contextmanager
    def claim(self, subject: Hashable) -> Iterator[None]:
        """Work on something alone.

        :raises Failed: another call is working on it
        """
        with self._lock:
            if subject in self._claims:
                raise Failed(
                    subject, "another call is working on it", status=CallStatus.RESOURCE_STATE
                )
            self._claims.add(subject)
        try:
            yield
        finally:
            with self._lock:
                self._claims.discard(subject)


def _persistent_id(path: Path) -> str:
    try:
        return str(uuid.UUID(files.read_regular(path, limit=_LONGEST).decode("ascii").strip()))
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        words = error.strerror if isinstance(error, OSError) else "holds no id"
        more = "made anew; incomplete images of the old one are deleted after a day"
        logger.warning("%s: %s: %s", path, words, more)
    made = str(uuid.uuid4())
    files.make_directory(path.parent)
    files.write_atomic(path, f"{made}\n".encode())
    return made
