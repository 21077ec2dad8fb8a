"""The sources of images, seen alike: signed lists, and projects of registries.

A source gives the lists that may be acted on (one per VO), opens the data of their images, and says
whether an image that it no longer lists has really been removed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from appliance.core.download.downloader import Downloader, Fetched, Question, Timeouts, basic
from appliance.core.trust.ca_directory import CADirectory
from cloudkeeper.frontend import imagelist
from cloudkeeper.frontend.addresses import Address
from cloudkeeper.frontend.imagelist import ListExpired
from cloudkeeper.frontend.list_cache import ListCache
from cloudkeeper.frontend.memory import Memory
from cloudkeeper.model import Appliance, ImageList, ImageSource, ListId, SignedImageList
from cloudkeeper.wire import own_properties

Stream = AbstractContextManager[tuple[int | None, Iterator[bytes]]]
"""Size (None: not announced) and content of an image, as `Downloader.stream` yields them."""


class ImageOpener(Protocol):
    """Opens the data of images."""

    def open(self, source: ImageSource, *, name: str, timeouts: Timeouts) -> Stream:
        """Open the data of an image; ``name`` stands for it in messages."""
        ...


class OfferSource(ImageOpener, Protocol):
    """A configured source of images; ``str()`` is its name in messages, without secrets."""

    def fetch(self, *, at: datetime) -> tuple[Sequence[ImageList], Sequence[str]]:
        """Return the offers of the source at ``at``, by VO, and warnings.

        Raises:
            ListExpired: the source is trusted, but its only list has expired.
            ApplianceError: the source cannot be read as a whole, or is not trusted.

        """
        ...

    def list_ids(self) -> frozenset[ListId]:
        """Return the identifiers of the source's lists, as known without reading it now."""
        ...

    def accept(self, *, at: datetime) -> None:
        """Remember what `fetch` has returned, now that it is acted on.

        Raises:
            LocalFailure: the memory cannot be written.

        """
        ...

    def doubt(self, missing: Appliance) -> str:
        """Return why an image that is not offered may still exist; empty if it has been removed.

        Raises:
            ApplianceError: the source does not say.

        """
        ...


@dataclass(slots=True)
class SignedListSource:
    """A signed image list at an address."""

    address: Address
    client: Downloader
    trust: CADirectory
    memory: Memory
    cache: ListCache
    _fetched: SignedImageList | None = None
    _message: Fetched | None = None

    def __str__(self) -> str:
        return str(self.address)

    def fetch(self, *, at: datetime) -> tuple[Sequence[ImageList], Sequence[str]]:
        """Return the list, once it is verified; see `OfferSource`."""
        try:
            found, warnings = self.verified(at=at)
        except ListExpired as error:
            self.memory.check(error.expired, url=self.address.place)  # as for any other list
            raise
        self.memory.check(found, url=self.address.place)
        self._fetched = found
        return [self._subscribed(found)], warnings

    def verified(self, *, at: datetime) -> tuple[SignedImageList, Sequence[str]]:
        """Return the list as it is now, verified but not compared with earlier ones, and warnings.

        Raises:
            ApplianceError: it cannot be fetched, or is not trusted.

        """
        address = self.address
        self._message = self.client.fetch_again(
            Question(address.url, address.name, basic(address.user, address.password)),
            self.cache.get(address.place),
            max_bytes=imagelist.MAX_BYTES,
        )
        found = imagelist.verify(
            self._message.content, trust=self.trust, at=at, endorser=address.endorser
        )
        return found.content, found.warnings

    def _subscribed(self, found: SignedImageList) -> ImageList:
        own = dict(self.address.properties)
        offers = tuple(
            replace(one, appliance=_with_properties(one.appliance, own)) for one in found.offers
        )
        return self.address.selection.part(replace(found, offers=offers))

    def is_known(self, *, at: datetime) -> bool:
        """Check whether an earlier run has accepted the list that was fetched."""
        found, place = self._fetched, self.address.place
        return found is not None and self.memory.has(found, url=place, at=at)

    def list_ids(self) -> frozenset[ListId]:
        """Return the lists that were accepted from this URL; see `OfferSource`."""
        return self.memory.lists_of(self.address.place)

    def accept(self, *, at: datetime) -> None:
        """Remember the list; see `OfferSource`."""
        if self._fetched and self._message:
            place = self.address.place
            self.memory.note(self._fetched, url=place, at=at, keeps_date=True)
            self.cache.keep(place, self._message, at=at)
            self.cache.clean(at=at)
            self._message = None  # it may be large

    def open(self, source: ImageSource, *, name: str, timeouts: Timeouts) -> Stream:
        """Open the URL that the list names; see `ImageOpener`."""
        return self.client.stream(source.uri, name=name, timeouts=timeouts, partial=source.partial)

    def doubt(self, missing: Appliance) -> str:
        """Return nothing: a signed list is complete; see `OfferSource`."""
        del missing
        return ""


def _with_properties(appliance: Appliance, own: Mapping[str, str]) -> Appliance:
    return replace(appliance, attributes=own_properties.added(appliance.attributes, own))
