"""Image files that several changes of a run need: fetched and converted once, removed after all.

A project of a registry offers the same images to each of its VOs. Streamed, an image would be
fetched once for every VO; its file is fetched once and uploaded for each.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

from cloudkeeper.model import ImageData, Offer


@dataclass(slots=True)
class _Shared:
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Held while the file is made, for which the others wait."""
    users: int = 0
    """Changes that are using it, or wait for it."""
    data: ImageData | None = None
    file: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)


class SharedFiles:
    """The files of images that are wanted more than once; safe for use by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted: Counter[str] = Counter()
        self._made: dict[str, _Shared] = {}

    def expect(self, offers: Iterable[Offer]) -> None:
        """Note the offers that changes of one source will need, each of them once."""
        found = Counter(map(_key, offers))
        with self._lock:
            self._wanted.update({key: number for key, number in found.items() if number > 1})

    def is_wanted(self, offer: Offer) -> bool:
        """Return whether changes with the same image are left, this one included."""
        with self._lock:
            return self._wanted[_key(offer)] > 0

    @contextlib.contextmanager
    def file(
        self, offer: Offer, make: Callable[[], AbstractContextManager[ImageData]]
    ) -> Iterator[ImageData]:
        """Yield the file of an image, which ``make`` makes unless it is there already.

        Raises:
            ApplianceError: as ``make``; the next one that wants the file tries again.

        """
        key = _key(offer)
        with self._lock:
            shared = self._made.setdefault(key, _Shared())
            shared.users += 1
        try:
            with shared.lock:
                if shared.data is None:
                    shared.data = shared.file.enter_context(make())
            yield replace(shared.data, uri=offer.source.uri)
        finally:
            with self._lock:
                self._wanted[key] -= 1
                shared.users -= 1
                # Another source may offer the same file, so there may be more users than expected.
                is_last = self._wanted[key] <= 0 and not shared.users
                if is_last:
                    self._made.pop(key, None)
            if is_last:
                shared.file.close()

    def clear(self) -> None:
        """Remove the files of a run that has ended before all changes were made."""
        with self._lock:
            left, self._made = list(self._made.values()), {}
            self._wanted.clear()
        for shared in left:
            shared.file.close()


def _key(offer: Offer) -> str:
    # The list's format decides what a file without marks is.
    declared = offer.appliance.attributes.get("hv:format", "")
    return f"{offer.source.digest.lower()} {offer.source.compression} {declared}"
