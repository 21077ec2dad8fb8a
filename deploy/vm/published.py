"""What is published of a machine beside its qcow2: the OVA, the artefact, and checksums of all."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from appliance.admin.install import progress
from deploy import checksums, image_artefact, images
from deploy.artefact_signature import check_artefact_key
from deploy.ova import archive
from deploy.ova.virtual_machine import VirtualMachine


@dataclass(frozen=True, slots=True)
class ImagePublisher:
    """Who publishes: the private ``key`` that signs, and the URL of the ``source``."""

    key: Path | None = None
    source: str = ""

    def check(self) -> None:
        """Check the key, before anything is built.

        Raises:
            BundleError: It cannot sign artefacts.

        """
        if self.key is not None:
            check_artefact_key(self.key)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of a publisher."""
    words = "private key (PEM, ECDSA P-256) that signs checksums and artefact (default: none)"
    parser.add_argument("--signing-key", type=Path, metavar="FILE", help=words)
    words = "URL of the repository, for the annotations of the artefact"
    parser.add_argument("--source", default="", metavar="URL", help=words)


def write(
    raw: Path, qcow2: Path, machine: VirtualMachine, publisher: ImagePublisher, *, bill: str
) -> list[Path]:
    """Write all forms of a disk beside its ``qcow2``; return their paths, that of the qcow2 last.

    ``bill`` is its bill of materials.

    Raises:
        OvaError: The disk is too large for an OVA.
        BundleError: The key cannot be used.

    """
    with progress.step("OVA"):
        ova = archive.write(raw, qcow2.parent, machine)
    with progress.step("artefact"):
        layout, _ = image_artefact.write(
            qcow2,
            machine,
            revision=images.commit(),
            source=publisher.source,
            bill=bill,
            key=publisher.key,
        )
    with progress.step("checksums"):
        checksums.write(qcow2.parent, [qcow2, ova], key=publisher.key)
    return [ova, layout, qcow2]
