"""Image files that several changes of a run need: fetched and converted once, removed after all.

A project of a registry offers the same images to each of its VOs, and the lists of several VOs
name the same files. Streamed, an image would be fetched once for every VO; its file is fetched
once, from the source that comes first, and uploaded for each. Files are the same when their digests
are; the size that each source states is compared with the bytes that were fetched.

A digest is no secret. A list that names the digest of another source's image must neither get a
file that it could not fetch itself, nor make others wait for a slow server of its own. Therefore
sources share a file only if they ask one server for it, with the same account and query; projects
of registries, which have accounts of their own, share no file with lists.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from appliance.core.trust.errors import Tampered
from cloudkeeper.frontend.stream import shown
from cloudkeeper.model import Format, ImageData, Offer


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
        """Note the offers that changes of a run will need, each of them once."""
        found = Counter(map(file_key, offers))
        with self._lock:
            self._wanted.update({key: number for key, number in found.items() if number > 1})

    def is_wanted(self, offer: Offer) -> bool:
        """Return whether changes with the same image are left, this one included."""
        with self._lock:
            return self._wanted[file_key(offer)] > 0

    def is_made(self, offer: Offer) -> bool:
        """Return whether the file of an offer is there already."""
        with self._lock:
            shared = self._made.get(file_key(offer))
            return shared is not None and shared.data is not None

    @contextlib.contextmanager
    def file(
        self, offer: Offer, make: Callable[[], AbstractContextManager[ImageData]]
    ) -> Iterator[ImageData]:
        """Yield the file of an image, which ``make`` makes unless it is there already.

        Raises:
            Tampered: the offer's source says another size than the file has.
            ApplianceError: as ``make``; the next one that wants the file tries again.

        """
        key = file_key(offer)
        with self._lock:
            shared = self._made.setdefault(key, _Shared())
            shared.users += 1
        try:
            with shared.lock:
                if shared.data is None:
                    shared.data = shared.file.enter_context(make())
            _check_size(offer, shared.data)
            yield replace(shared.data, uri=offer.source.uri)
        finally:
            with self._lock:
                shared.users -= 1
            self.forgo(offer)

    def forgo(self, offer: Offer) -> None:
        """Note that a change needs the file no longer; after the last one, remove it."""
        key, last = file_key(offer), None
        with self._lock:
            self._wanted[key] -= 1
            shared = self._made.get(key)
            # A change that is tried again is one more than expected.
            if shared and self._wanted[key] <= 0 and not shared.users:
                last = self._made.pop(key)
        if last:
            last.file.close()

    def drop_idle(self) -> None:
        """Remove the files that nothing uses at present; the next change makes its file again."""
        with self._lock:
            idle = {key: one for key, one in self._made.items() if not one.users}
            for key in idle:
                del self._made[key]
        for shared in idle.values():
            shared.file.close()

    def clear(self) -> None:
        """Remove the files of a run that has ended before all changes were made."""
        with self._lock:
            left, self._made = list(self._made.values()), {}
            self._wanted.clear()
        for shared in left:
            shared.file.close()


def file_key(offer: Offer) -> str:
    """Return what the offers of one file have in common, whichever source names it.

    It is no text for messages: it may hold a token.
    """
    # The list's format decides one thing only: whether a file without marks is raw.
    is_said_raw = offer.appliance.attributes.get("hv:format", "").lower() == Format.RAW
    source, parts = offer.source, urlsplit(offer.source.uri)
    content = f"{source.digest.lower()} {Format.RAW if is_said_raw else ''} {source.compression}"
    return f"{content} {parts.scheme}://{parts.netloc}?{parts.query} {_registry_of(offer)}"


def _registry_of(offer: Offer) -> str:
    """Return the registry and project of an offer; empty for one of a signed list."""
    list_id = offer.appliance.list_id
    return list_id.rpartition("/")[0]


def _check_size(offer: Offer, data: ImageData) -> None:
    size = offer.source.size or 0
    if size and data.received and size != data.received:
        words = f"the file with this digest has {data.received} bytes, the source says {size}"
        raise Tampered(shown(offer.source.uri), words)
