"""The image of the machine: one disk, from Debian's packages and a bundle.

    DIST/FedCloud-Appliance.Debian.13-YYYY.MM.DD.qcow2
    DIST/FedCloud-Appliance.Debian.13-YYYY.MM.DD.ova      the same disk, as deploy/ova writes it
    DIST/FedCloud-Appliance.Debian.13-YYYY.MM.DD.oci/     the qcow2 as an artefact for registries
    DIST/SHA256SUMS  DIST/SHA512SUMS                      and their signatures, with a key

The day is that of the packages. All is made below a directory for the work, and renamed when it is
complete. The same packages, bundle and files make the same bytes, signatures apart.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from appliance.admin.install import progress
from appliance.core.run import cli
from appliance.core.run.errors import ApplianceError, ExitStatus
from deploy import images, sbom
from deploy.bundle import BundleError
from deploy.dockerd import DaemonError
from deploy.ova.virtual_machine import OvaError, VirtualMachine
from deploy.vm import boot, disk, identity, needs, published, recipe, tree
from deploy.vm.published import ImagePublisher

PROGRAM = "build-image"
CACHE = images.TOP / ".cache/deploy/vm-image"


def build(arguments: argparse.Namespace, work: Path) -> list[Path]:
    """Build the image in ``work``; return its forms in the directory that was asked for."""
    step = progress.step
    bundle = needs.find_bundle(arguments.bundle, images.TOP / "dist", work)
    with step("signature and checksums of the bundle"):
        verified = needs.check_bundle(bundle, arguments.key, work)
    base, changes = recipe.fetch(CACHE, fresh=arguments.fresh, step=step)
    for line in changes:
        print(f"  {line}", flush=True)
    known = identity.of(verified.digest, base, [recipe.HERE, tree.FILES])
    root, fat, raw = work / "tree", work / "boot.fat", work / "disk.raw"
    tree.make(root, base, bundle, known, key=arguments.key, step=step)
    machine = VirtualMachine(recipe.RELEASE, verified.version, known.day)
    bill = sbom.of_machine(root, bundle, machine)
    with step("disk"):
        boot.make(root, fat, known, size=disk.BOOT_SIZE)
        disk.make(root, fat, raw, known)
        shutil.rmtree(root)
        fat.unlink()
    with step("qcow2"):
        disk.compress(raw, work / "disk.qcow2")
    directory: Path = arguments.into
    directory.mkdir(parents=True, exist_ok=True)
    made = directory / f"{machine.name}.qcow2"
    shutil.move(work / "disk.qcow2", made)
    publisher = ImagePublisher(arguments.signing_key, arguments.source)
    return published.write(raw, made, machine, publisher, bill=bill)


def run(arguments: argparse.Namespace) -> None:
    """Check what a build needs, then build and print the paths of the image's forms."""
    needs.check_host()
    ImagePublisher(arguments.signing_key).check()
    parent = arguments.work
    parent.mkdir(parents=True, exist_ok=True)
    needs.check_room(parent)
    with tempfile.TemporaryDirectory(prefix="image.", dir=parent) as work:
        print(*build(arguments, Path(work)), sep="\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"scripts/{PROGRAM}", description="Build the image of a machine."
    )
    proof = parser.add_mutually_exclusive_group(required=True)
    words = "public key (PEM) that verifies the signature of the bundle"
    proof.add_argument("--key", type=Path, metavar="FILE", help=words)
    words = "accept a bundle without a signature; only for one that you built"
    proof.add_argument("--unsigned", action="store_true", help=words)
    words = "directory or tar of the bundle (default: the newest in dist)"
    parser.add_argument("bundle", nargs="?", type=Path, metavar="BUNDLE", help=words)
    dist = images.TOP / "dist"
    words = "directory for the image (default: dist)"
    parser.add_argument("--into", type=Path, default=dist, metavar="DIR", help=words)
    words = "directory for the work, on ext4 or xfs, 4 GB (default: .cache/deploy/vm-image)"
    parser.add_argument("--work", type=Path, default=CACHE, metavar="DIR", help=words)
    words = "use today's Debian packages, and print what changed (default: those of the last build)"
    parser.add_argument("--fresh", action="store_true", help=words)
    published.add_arguments(parser)
    return parser


def main() -> int:
    """Run the command line."""
    arguments = _parser().parse_args()
    try:
        run(arguments)
    except (BundleError, DaemonError, OvaError) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return ExitStatus.USAGE if isinstance(error, BundleError) else ExitStatus.NOTHING
    except ApplianceError as error:
        cli.report(PROGRAM, error)
        return error.status
    return ExitStatus.DONE


if __name__ == "__main__":
    sys.exit(main())
