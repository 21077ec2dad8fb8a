"""Readers of a registry's answers on documents that hold anything: they refuse in words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from appliance.core.registry.client import RegistryClient
from appliance.core.registry.names import Digest, TaggedArtefact
from appliance.core.run.errors import ApplianceError
from cloudkeeper.frontend.registry import artefact
from cloudkeeper.frontend.registry.artefact import DiskArtefact
from cloudkeeper.frontend.registry.listing import DistributionListing, HarborListing
from cloudkeeper.model import Appliance, ApplianceId, Format, ImageData, ListId
from cloudkeeper.wire import messages
from tests.property.test_signature_properties import JSON, paths, replaced
from tests.testbed.oci_registry import DISK, MANIFEST, described_as

LAYER = Digest(f"sha256:{'0' * 64}")
IMAGE = {
    "schemaVersion": 2,
    "mediaType": MANIFEST,
    "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": LAYER, "size": 2},
    "layers": [
        {"mediaType": DISK, "digest": LAYER, "size": 7, "annotations": described_as("24.04")}
    ],
    "annotations": {"org.opencontainers.image.source": "https://git.example.org/images"},
}
NUMBERS = st.integers() | st.sampled_from([2**63 - 1, 2**63, 10**400])
VALUES = (
    JSON | NUMBERS | st.text() | st.sampled_from(["<script>", "x" * 2**20, "\ud800", "\x1b[2J"])
)
PAGES: dict[str, Any] = {
    "/repositories?": [{"name": "egi/ubuntu"}, {"name": "egi/alma"}],
    "/artifacts?": [{"digest": LAYER, "tags": [{"name": "24.04"}, {"name": "22.04"}]}],
    "/_catalog?": {"repositories": ["egi/ubuntu"]},
    "/tags/list?": {"name": "egi/ubuntu", "tags": ["24.04"]},
}


def read(content: bytes) -> DiskArtefact | None:
    """Return the image of a manifest; None if it is refused in words, or is none."""
    try:
        return artefact.read(content, subject="image")
    except ApplianceError as error:
        str(error).encode()  # it can be printed
        return None


def test_the_manifest_below_is_an_image() -> None:
    assert read(json.dumps(IMAGE).encode())


@given(content=st.binary(max_size=200) | JSON.map(lambda tree: json.dumps(tree).encode()))
def test_anything_is_no_image(content: bytes) -> None:
    assert read(content) is None


@given(place=st.sampled_from(paths(IMAGE)), value=VALUES)
@example(place=("layers", 0, "size"), value=2**63)
@example(place=("layers", 0, "size"), value=10**400)
def test_a_manifest_with_another_value(place: tuple[str | int, ...], value: object) -> None:
    """Whatever is still accepted can be sent to the backend, and shown."""
    changed = replaced(IMAGE, place, value)
    found = read(json.dumps(changed).encode())
    if found is None:
        return
    assert all(text.isprintable() for pair in found.annotations.items() for text in pair)
    assert sum(map(len, found.annotations.values())) < 2**20
    sent = ImageData("/image", Format.QCOW2, "0" * 64, found.size)
    message = messages.to_message(
        Appliance(ApplianceId("a"), ListId("b"), vo="ops", attributes=found.annotations, data=sent)
    )
    assert message.image.size == found.size


@dataclass(frozen=True)
class Pages:
    """A client that gets given pages, of whatever content."""

    pages_by_path: dict[str, Any]
    host: str = "r.example.org"

    def pages(self, path: str, **_: object) -> Iterator[Any]:
        yield next(page for end, page in self.pages_by_path.items() if end in path)


@pytest.mark.parametrize("kind", [HarborListing, DistributionListing])
@given(data=st.data())
def test_listings_with_another_value(
    kind: type[HarborListing | DistributionListing], data: st.DataObject
) -> None:
    place = data.draw(st.sampled_from(paths(PAGES)))
    changed = replaced(PAGES, place, data.draw(VALUES))
    client = cast("RegistryClient", Pages(changed))
    found: list[TaggedArtefact] = []
    try:
        made = kind(client, "egi", re.compile("[^-]*"))
        if isinstance(made, DistributionListing):
            found += [TaggedArtefact(name, "", LAYER) for name in made._catalog()]
            found += [TaggedArtefact("egi/x", tag, LAYER) for tag in made._tags("egi/x")]
        else:
            found += made.artefacts({})
    except ApplianceError as error:
        str(error).encode()
    assert all(one.repository.startswith("egi/") for one in found)
    assert all(re.fullmatch("[A-Za-z0-9_.:/-]*", one.reference) for one in found)
