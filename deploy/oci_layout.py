"""An OCI layout with one artefact: a directory that oras and skopeo push to a registry.

    DIRECTORY/
      oci-layout  index.json           the form of the directory, and what is in it
      blobs/sha256/…                   manifest, configuration, layers, by their digests

The same files make the same layout, so the digest of its manifest can be announced before it is
pushed. `attach` adds what refers to the artefact: a bill of materials, a signature.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
_EMPTY = "application/vnd.oci.empty.v1+json"
_NAME = "org.opencontainers.image.ref.name"


@dataclass(frozen=True, slots=True)
class LayerFile:
    """A file that becomes a layer, and its media type."""

    path: Path
    media_type: str
    annotations: Mapping[str, str] = field(default_factory=dict)


def write(
    directory: Path,
    layers: Sequence[LayerFile],
    *,
    name: str,
    artefact_type: str,
    annotations: Mapping[str, str],
) -> str:
    """Write a layout, in place of an earlier one; return the digest of its manifest.

    ``name`` is its tag. A layer is linked to its file, which must not be changed afterwards.
    """
    unfinished = directory.with_name(f".{directory.name}.new")
    shutil.rmtree(unfinished, ignore_errors=True)
    (unfinished / "blobs/sha256").mkdir(parents=True)
    config = _put(unfinished, b"{}")
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": artefact_type,
        "config": {"mediaType": _EMPTY, **config},
        "layers": [_layer(unfinished, one) for one in layers],
        "annotations": dict(annotations),
    }
    described = _put(unfinished, json.dumps(manifest, indent=1).encode())
    entry = {"mediaType": MANIFEST, **described, "annotations": {_NAME: name}}
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}
    (unfinished / "index.json").write_text(json.dumps(index, indent=1))
    (unfinished / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    shutil.rmtree(directory, ignore_errors=True)
    unfinished.rename(directory)
    return str(described["digest"])


def attach(
    directory: Path,
    subject: str,
    content: bytes,
    *,
    kind: str,
    annotations: Mapping[str, str] | None = None,
) -> str:
    """Add a document to a layout that refers to an artefact in it; return its manifest's digest.

    ``subject`` is the digest of the artefact's manifest, ``kind`` the media type of the document.
    """
    index = json.loads((directory / "index.json").read_text())
    (found,) = [entry for entry in index["manifests"] if entry["digest"] == subject]
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": kind,
        "config": {"mediaType": _EMPTY, **_put(directory, b"{}")},
        "layers": [{"mediaType": kind, **_put(directory, content)}],
        "subject": {"mediaType": MANIFEST, "digest": subject, "size": found["size"]},
        "annotations": dict(annotations or {}),
    }
    described = _put(directory, json.dumps(manifest, indent=1).encode())
    index["manifests"].append({"mediaType": MANIFEST, **described, "artifactType": kind})
    (directory / "index.json").write_text(json.dumps(index, indent=1))
    return str(described["digest"])


def _layer(directory: Path, one: LayerFile) -> dict[str, object]:
    with one.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    target = directory / "blobs/sha256" / digest
    try:
        os.link(one.path, target)
    except OSError:  # another file system
        shutil.copyfile(one.path, target)
    found = _descriptor(digest, one.path.stat().st_size)
    notes = {"annotations": dict(one.annotations)} if one.annotations else {}
    return {"mediaType": one.media_type, **found, **notes}


def _put(directory: Path, content: bytes) -> dict[str, object]:
    digest = hashlib.sha256(content).hexdigest()
    (directory / "blobs/sha256" / digest).write_bytes(content)
    return _descriptor(digest, len(content))


def _descriptor(digest: str, size: int) -> dict[str, object]:
    return {"digest": f"sha256:{digest}", "size": size}
