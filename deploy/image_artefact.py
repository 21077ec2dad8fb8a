"""The disk of the machine as an artefact for registries, described as EGI's own images are.

    DIST/NAME.oci/       an OCI layout: the qcow2, its bill of materials, its signature

`cloudkeeper` brings it into a Glance: it has one layer, whose annotations are properties of the
image there. Bill and signature refer to it, so a copy with its referrers keeps them.
"""

from __future__ import annotations

from pathlib import Path

from deploy import oci_layout
from deploy.artefact_signature import ANNOTATIONS, BUNDLE, check_artefact_key, signature
from deploy.oci_layout import LayerFile
from deploy.ova.virtual_machine import VirtualMachine

_DISK = "application/x-qemu-disk"
_TYPE = "application/vnd.egi.image"
_BILL = "application/vnd.cyclonedx+json"
_NOTE = "org.opencontainers.image."
_ADMINISTRATOR = "debian"
"""The account that cloud-init makes on Debian."""


def write(
    disk: Path,
    machine: VirtualMachine,
    *,
    revision: str,
    bill: str,
    source: str = "",
    key: Path | None,
) -> tuple[Path, str]:
    """Write the layout of a qcow2 beside it; return the layout and the digest of its manifest.

    ``revision`` is the commit, ``source`` the URL of its repository, ``bill`` a CycloneDX document.
    The artefact is signed if there is a ``key``. But for the signature, in which ECDSA has a random
    number, the same disk makes the same bytes.

    Raises:
        BundleError: The key cannot be used.

    """
    if key is not None:
        check_artefact_key(key)
    directory = disk.with_suffix(".oci")
    notes = {"revision": revision, "source": source, "version": machine.version}
    digest = oci_layout.write(
        directory,
        [LayerFile(disk, _DISK, describe(machine))],
        name=machine.release,
        artefact_type=_TYPE,
        annotations={f"{_NOTE}{name}": value for name, value in notes.items() if value},
    )
    oci_layout.attach(directory, digest, bill.encode(), kind=_BILL)
    if key is not None:
        content = signature(digest, key)
        oci_layout.attach(directory, digest, content, kind=BUNDLE, annotations=ANNOTATIONS)
    return directory, digest


def describe(machine: VirtualMachine) -> dict[str, str]:
    """Return the annotations of the disk. The tag is the short one, which moves to newer builds."""
    glance = {
        "os_distro": "debian",
        "os_version": machine.release,
        "os_type": "linux",
        "os_admin_user": _ADMINISTRATOR,
        "architecture": "x86_64",
        "disk_format": "qcow2",
        "container_format": "bare",
    }
    about = f"FedCloud Appliance {machine.version} on Debian {machine.release}, {machine.day}"
    return {f"org.openstack.glance.{name}": value for name, value in glance.items()} | {
        "eu.egi.cloud.tag": machine.release,
        "eu.egi.cloud.description": about,
    }
