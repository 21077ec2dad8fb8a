"""An artefact of a registry as an image: its manifest, read and judged.

EGI's images are artefacts of one layer, the disk; annotations of manifest and layer describe it
(`org.openstack.glance.*`, `eu.egi.cloud.*`). An artefact without ``eu.egi.cloud.tag`` is none of
them: a container image, a chart, an SBOM.

Builders of containers (buildx) wrap one image in an index, beside attestations of how they built
it; the platform of an attestation is ``unknown/unknown``. Such an index stands for its image. What
the index itself says about the image, in annotations or elsewhere, does not count. The manifests
and lists of Docker's own media types have the same form, and are read by the same rules.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from appliance.core.registry import names
from appliance.core.registry.names import Digest
from appliance.core.trust.errors import Malformed

TAG = "eu.egi.cloud.tag"
DESCRIPTION = "eu.egi.cloud.description"
GLANCE = "org.openstack.glance."
_DISK = "application/x-qemu-disk"
_MOST_ANNOTATIONS = 200
_LONGEST_KEY = 255
_LONGEST_VALUE = 4096
"""Characters of an annotation; a description of EGI's images has some hundred."""
_LARGEST = 2**50
"""Bytes of a layer; of a larger one, times and numbers of the protocol would overflow."""
INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    *INDEX_TYPES,
)
"""What a registry is asked for; Docker's own types have the same form as those of OCI."""
_ATTESTATION = "unknown/unknown"
_MOST_NAMED = 5


class Compression(enum.StrEnum):
    """How a layer is compressed, beside what its format does inside."""

    NONE = ""
    GZIP = "+gzip"
    ZSTD = "+zstd"


@dataclass(frozen=True, slots=True)
class DiskArtefact:
    """An image that an artefact carries. ``size`` is that of the layer, in bytes."""

    layer: Digest
    size: int
    compression: Compression
    annotations: Mapping[str, str]

    @property
    def tag(self) -> str:
        """The version, as EGI's information service shows it."""
        return self.annotations[TAG]


def wrapped(content: bytes, *, subject: str) -> Digest | None:
    """Return the digest of the only image of an index, None for a manifest of another kind.

    Raises:
        Malformed: it is not a manifest, is two kinds in one, or is not an index of one image.

    """
    index = _load(content, subject)
    if not _is_index(index):
        return None
    if "layers" in index or index.get("mediaType", INDEX_TYPES[0]) not in INDEX_TYPES:
        # Other readers could take it for something else than we do (CVE-2021-41190).
        raise Malformed(subject, "lists manifests, but is neither an OCI index nor Docker's")
    by_platform = [(_platform(each), each) for each in _list(index, "manifests", subject)]
    images = [(name, each) for name, each in by_platform if name != _ATTESTATION]
    if len(images) != 1:
        named = ", ".join(repr(name[:80]) for name, _ in images[:_MOST_NAMED])
        words = f"is an index of {len(images)} images{f' ({named})' if named else ''}"
        raise Malformed(subject, f"{words}; an index for one image is taken")
    ((_, image),) = images
    return names.digest(image.get("digest"), subject=f"{subject}: image of the index")


def _is_index(manifest: dict[str, Any]) -> bool:
    return manifest.get("mediaType") in INDEX_TYPES or "manifests" in manifest


def _platform(descriptor: dict[str, Any]) -> str:
    found = descriptor.get("platform")
    if not isinstance(found, dict):
        return "no platform"
    return f"{found.get('os')}/{found.get('architecture')}"


def read(content: bytes, *, subject: str) -> DiskArtefact | None:
    """Return the image that a manifest describes, None when it describes something else.

    Raises:
        Malformed: it is not a manifest, or its image cannot be used.

    """
    manifest = _load(content, subject)
    if manifest.get("schemaVersion") == 1:
        remedy = "ask its publisher to push it as an OCI artefact"
        raise Malformed(subject, "is a manifest of Docker's schema 1, which is not read", remedy)
    if _is_index(manifest):
        raise Malformed(subject, "is an index in an index; an image has one manifest")
    layers = _list(manifest, "layers", subject)
    annotations = dict(_annotations(manifest, subject))
    for layer in layers:
        annotations |= _annotations(layer, subject)
    if not annotations.get(TAG):
        return None
    if len(layers) != 1:
        raise Malformed(subject, f"has {len(layers)} layers; an image has one")
    (layer,) = layers
    size = layer.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 < size <= _LARGEST:
        raise Malformed(subject, f"its layer has the size {str(size)[:40]!r}")
    return DiskArtefact(
        names.digest(layer.get("digest"), subject=f"{subject}: layer"),
        size,
        _compression(layer, subject),
        MappingProxyType(annotations),
    )


def _load(content: bytes, subject: str) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        raise Malformed(subject, "its manifest is not JSON") from None
    if not isinstance(found, dict):
        raise Malformed(subject, "its manifest is not a JSON object")
    return found


def _list(manifest: dict[str, Any], key: str, subject: str) -> list[dict[str, Any]]:
    found = manifest.get(key)
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise Malformed(subject, f"its manifest has no list of {key}")
    return found


def _compression(layer: dict[str, Any], subject: str) -> Compression:
    media_type = layer.get("mediaType")
    by_type = {f"{_DISK}{each}": each for each in Compression}
    if not isinstance(media_type, str) or media_type not in by_type:
        words = f"its layer is of media type {str(media_type)[:80]!r}, not one of"
        raise Malformed(subject, f"{words} {', '.join(by_type)}")
    return by_type[media_type]


def _annotations(part: dict[str, Any], subject: str) -> Mapping[str, str]:
    """Return the annotations that can be shown; drop others, since they are decoration only."""
    found = part.get("annotations") or {}
    if not isinstance(found, dict):
        raise Malformed(subject, "its annotations are not a JSON object")
    usable = {key: value for key, value in found.items() if _is_usable(key, value)}
    return dict(sorted(usable.items())[:_MOST_ANNOTATIONS])


def _is_usable(key: str, value: object) -> bool:
    return (
        isinstance(value, str)
        and len(key) <= _LONGEST_KEY
        and len(value) <= _LONGEST_VALUE
        and (key + value).isprintable()
    )
