"""A project of a registry as a source of images: for each VO a list of what its tags name.

    list tags ─ resolve to digests ─ manifests by digest ─ signatures ─ annotations ─┬ VO 1
                                                           (with a key)   and SBOMs  └ VO 2 …

The project is read once for all its VOs. An artefact without a signature that is wanted is refused,
and its images in the cloud stay. The identifier of an image is its reference
(``PROJECT/REPOSITORY:TAG``), which a new version keeps; a list's identifier is the registry, the
project and the VO. A tag that moves back to an artefact that it named before is held until the
administrator confirms it, because withdrawn images would come back.

A tag may name an index of one image (`artefact`). Then the digest of the index is the version: it
is the one in ``appdb_id``, as atrope writes it from Harbor's listing. The history of the tag keeps
the digest of the image's manifest, too, so that a replaced image cannot return in a new index. A
signature may be of either, because the digest of an index determines its image. SBOMs of both
count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from appliance.core import clock
from appliance.core.download.downloader import Timeouts
from appliance.core.registry.client import RegistryClient
from appliance.core.registry.names import Digest, TaggedArtefact
from appliance.core.run.errors import ApplianceError
from appliance.core.trust.errors import Tampered
from cloudkeeper.frontend.registry import artefact, listing
from cloudkeeper.frontend.registry.artefact import DESCRIPTION, GLANCE, DiskArtefact
from cloudkeeper.frontend.registry.listing import ProjectListing
from cloudkeeper.frontend.registry.manifests import Manifests
from cloudkeeper.frontend.registry.sboms import SBOMs
from cloudkeeper.frontend.registry.signature_check import SignatureCheck
from cloudkeeper.frontend.registry.signatures import SignedArtefact
from cloudkeeper.frontend.registry.tags import TagHistory
from cloudkeeper.frontend.selection import ALL, Selection
from cloudkeeper.frontend.sources import Stream
from cloudkeeper.model import (
    LAYER_KEY,
    REFERENCE_KEY,
    Appliance,
    ApplianceId,
    ImageList,
    ImageSource,
    ListId,
    Offer,
    Refusal,
)
from cloudkeeper.wire import own_properties

_BLOBS = "/blobs/"
_SYSTEM = ("os_type", "os_distro", "os_version")


@dataclass(frozen=True, slots=True)
class _ReadImage:
    """An artefact that may be offered, with the references of its SBOMs."""

    tagged: TaggedArtefact
    image: TaggedArtefact
    disk: DiskArtefact
    sboms: str


@dataclass(slots=True)
class RegistryProject:
    """A project, its listing, and the ``vos`` that get its images."""

    project: str
    vos: tuple[str, ...]
    client: RegistryClient
    listing: ProjectListing
    manifests: Manifests
    history: TagHistory
    sboms: SBOMs
    signatures: SignatureCheck | None = None
    """None: artefacts need no signature."""
    properties: tuple[tuple[str, str], ...] = ()
    """Names and values of the site's own properties of its images in Glance."""
    selection: Selection = ALL
    """The images to take; of the others, nothing is read."""
    _found: dict[str, Digest] = field(default_factory=dict)
    """Digests of the offers of this run, by reference."""
    _images: dict[str, Digest] = field(default_factory=dict)
    """Digests of the images of those that are an index, by reference."""
    went_back: dict[str, Digest] = field(default_factory=dict)
    """Digests of the tags that went back, by reference; known after `fetch`."""
    off_pin: dict[str, Digest] = field(default_factory=dict)
    """Digests of the tags for which another one is pinned, by reference; known after `fetch`."""
    failures: dict[str, ApplianceError] = field(default_factory=dict)
    """Why artefacts are refused, by reference; known after `fetch`."""

    def __str__(self) -> str:
        return f"{self.client.host}/{self.project}"

    def fetch(self, *, at: datetime) -> tuple[Sequence[ImageList], Sequence[str]]:
        """Return the images of the project for each VO; see `OfferSource`."""
        images: list[_ReadImage] = []
        refused: list[Refusal] = []
        ignored: list[str] = []
        self._found, self._images, self.went_back, self.off_pin = {}, {}, {}, {}
        self.failures = {}
        for tagged in self.listing.artefacts(self.history.latest(self.client.host)):
            if not self.selection.takes(tagged.reference, self._title(tagged.reference)):
                ignored.append(tagged.reference)
                continue
            try:
                found = self._read(tagged, at=at)
            except ApplianceError as error:  # one artefact must not affect the others
                refused.append(Refusal(ApplianceId(tagged.reference), str(error)))
                self.failures[tagged.reference] = error
                continue
            if found:
                images.append(found)
                self._note(found)
        lists = [self._list(vo, images, refused, ignored) for vo in self.vos]
        return lists, self._warnings()

    def _note(self, found: _ReadImage) -> None:
        reference = found.tagged.reference
        self._found[reference] = found.tagged.digest
        if found.image != found.tagged:
            self._images[reference] = found.image.digest

    def list_ids(self) -> frozenset[ListId]:
        """Return the list of each VO, which the configuration names; see `OfferSource`."""
        return frozenset(map(self._list_id, self.vos))

    def _list_id(self, vo: str) -> ListId:
        return ListId(f"{self.client.host}/{self.project}/{vo}")

    def accept(self, *, at: datetime) -> None:
        """Remember the digests of the tags; see `OfferSource`."""
        self.history.note(
            self.client.host,
            self._found,
            at=at,
            images=self._images,
            held=self.went_back,
            project=self.project,
        )
        for kept in (self.manifests.kept, self.sboms.kept):
            kept.clean(at=at)
        if self.signatures:
            self.signatures.kept.clean(at=at)

    def open(self, source: ImageSource, *, name: str, timeouts: Timeouts) -> Stream:
        """Open the layer of an artefact; see `ImageOpener`."""
        del name  # a registry's errors name the repository
        repository, _, digest = source.uri.partition("/v2/")[2].partition(_BLOBS)
        return self.client.layer(
            repository, Digest(digest), timeouts=timeouts, partial=source.partial
        )

    def doubt(self, missing: Appliance) -> str:
        """Return why a tag that is not listed may still exist; see `OfferSource`.

        The listing has succeeded in this run, with the same account: so 404 means that there is no
        such tag, and not that it is hidden. Tags and repositories that the configuration leaves out
        are not listed on purpose.
        """
        repository, _, tag = missing.identifier.rpartition(":")
        chosen = self.listing.repositories
        if (chosen and repository not in chosen) or not self.listing.tags.fullmatch(tag):
            return ""
        digest = listing.resolve(self.client, repository, tag)
        if digest is None:
            return ""
        found = self.manifests.resolve(TaggedArtefact(repository, tag, digest), at=clock.now())
        if artefact.read(found.manifest, subject=missing.identifier) is None:
            return ""
        return "the registry has it, but does not list it"

    def _read(self, tagged: TaggedArtefact, *, at: datetime) -> _ReadImage | None:
        host = self.client.host
        if tagged.fault:
            name = f"{host}/{tagged.reference}"
            raise Tampered(name, tagged.fault, "ask the registry's administrators")
        found = self.manifests.resolve(tagged, at=at)
        disk = artefact.read(found.manifest, subject=f"{host}/{tagged.reference}")
        if disk is None:
            return None
        if self.history.is_off_pin(host, tagged, image=found.image.digest):
            self.off_pin[tagged.reference] = tagged.digest
        if self.history.has_gone_back(host, tagged, image=found.image.digest):
            self.went_back[tagged.reference] = tagged.digest
        self.history.check(host, tagged, image=found.image.digest)
        if self.signatures:
            signed = [SignedArtefact(host, part, content) for part, content in found.parts]
            self.signatures.check(signed, at=at)
        sboms = (self.sboms.of(part, at=at) for part, _ in found.parts)
        return _ReadImage(tagged, found.image, disk, " ".join(filter(None, sboms)))

    def _warnings(self) -> list[str]:
        origins = sorted(self.signatures.origins) if self.signatures else []
        words = "signatures name {}: its images are taken for copies of that registry"
        return [*filter(None, [self.sboms.warning]), *map(words.format, origins)]

    def _list(
        self,
        vo: str,
        images: Sequence[_ReadImage],
        refused: Sequence[Refusal],
        ignored: Sequence[str],
    ) -> ImageList:
        identifier = self._list_id(vo)
        left = tuple(
            Appliance(ApplianceId(each), identifier, vo=vo, title=self._title(each))
            for each in ignored
        )
        offers = tuple(self._offer(image, vo=vo, list_id=identifier) for image in images)
        return ImageList(
            identifier=identifier, vo=vo, offers=offers, refused=tuple(refused), ignored=left
        )

    def _title(self, reference: str) -> str:
        return f"{self.client.host} {reference}"

    def _offer(self, image: _ReadImage, *, vo: str, list_id: ListId) -> Offer:
        tagged, found = image.tagged, image.disk
        notes = found.annotations
        system = " ".join(filter(None, (notes.get(GLANCE + name) for name in _SYSTEM)))
        host = self.client.host
        appliance = Appliance(
            identifier=ApplianceId(tagged.reference),
            list_id=list_id,
            vo=vo,
            title=self._title(tagged.reference),
            description=notes.get(DESCRIPTION, ""),
            mpuri=f"{host}/{tagged.reference}-{tagged.digest}",
            group=self.project,
            version=found.tag,
            architecture=notes.get(f"{GLANCE}architecture", ""),
            operating_system=system,
            attributes=own_properties.added(
                _attributes(tagged, found), dict(self.properties), sbom=image.sboms
            ),
        )
        uri = f"https://{host}/v2/{tagged.repository}{_BLOBS}{found.layer}"
        compression = found.compression.lstrip("+")
        source = ImageSource(uri, found.layer, found.size, compression)
        return Offer(appliance, source, version=tagged.digest)


def _attributes(tagged: TaggedArtefact, found: DiskArtefact) -> Mapping[str, str]:
    return {**found.annotations, REFERENCE_KEY: tagged.reference, LAYER_KEY: found.layer}
