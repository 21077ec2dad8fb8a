"""A bundle as one file, and as an artefact for registries.

    DIST/fedcloud-appliance-VERSION.tar    what administrators download
    DIST/fedcloud-appliance-VERSION.oci/   the same tar as the only layer of an OCI layout

``appliance upgrade --from oci://HOST/NAME@sha256:…`` reads the artefact.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

from appliance.admin.upgrade.remote_bundle import LAYER
from deploy import oci_layout
from deploy.oci_layout import LayerFile

_TYPE = "application/vnd.egi.fedcloud.bundle.v1"
_NOTE = "org.opencontainers.image."


def pack(bundle: Path, *, epoch: int) -> Path:
    """Write the tar of a bundle beside it: the same bundle makes the same bytes."""
    target = bundle.with_name(f"{bundle.name}.tar")
    unfinished = target.with_name(f".{target.name}.new")

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = "root"
        member.mtime = epoch
        return member

    with tarfile.open(unfinished, "w", format=tarfile.GNU_FORMAT) as archive:
        archive.add(bundle, bundle.name, recursive=False, filter=plain)
        for path in sorted(bundle.rglob("*")):
            name = f"{bundle.name}/{path.relative_to(bundle).as_posix()}"
            archive.add(path, name, recursive=False, filter=plain)
    unfinished.replace(target)
    return target


def write(packed: Path, *, version: str) -> tuple[Path, str]:
    """Write the OCI layout of a tar beside it; return the layout and the digest to announce."""
    layout = packed.with_suffix(".oci")
    layer = LayerFile(packed, LAYER, {f"{_NOTE}title": packed.name})
    annotations = {f"{_NOTE}version": version, f"{_NOTE}title": packed.name}
    digest = oci_layout.write(
        layout, [layer], name=version, artefact_type=_TYPE, annotations=annotations
    )
    return layout, digest
