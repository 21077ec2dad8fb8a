"""The image of the machine: one disk, from Debian's packages and a bundle.

    DIST/FedCloud-Appliance.Debian.13-YYYY.MM.DD.qcow2

The day is that of the packages. All is made below a directory for the work, and renamed when it is
complete. The same packages, bundle and files make the same bytes.
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
from deploy import images
from deploy.dockerd import DaemonError
from deploy.vm import boot, disk, identity, needs, recipe, tree

PROGRAM = "build-image"
CACHE = images.TOP / ".cache/deploy/vm-image"


def build(arguments: argparse.Namespace, work: Path) -> Path:
    """Build the image in ``work``; return its place in the directory that was asked for."""
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
    with step("disk"):
        boot.make(root, fat, known, size=disk.BOOT_SIZE)
        disk.make(root, fat, raw, known)
        shutil.rmtree(root)
        fat.unlink()
    name = f"FedCloud-Appliance.Debian.{recipe.RELEASE}-{known.day:%Y.%m.%d}"
    with step("qcow2"):
        disk.compress(raw, work / "disk.qcow2")
    directory: Path = arguments.into
    directory.mkdir(parents=True, exist_ok=True)
    made = directory / f"{name}.qcow2"
    shutil.move(work / "disk.qcow2", made)
    return made


def run(arguments: argparse.Namespace) -> None:
    """Check what a build needs, then build and print the path of the image."""
    needs.check_host()
    parent = arguments.work
    parent.mkdir(parents=True, exist_ok=True)
    needs.check_room(parent)
    with tempfile.TemporaryDirectory(prefix="image.", dir=parent) as work:
        print(build(arguments, Path(work)))


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
    return parser


def main() -> int:
    """Run the command line."""
    arguments = _parser().parse_args()
    try:
        run(arguments)
    except DaemonError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return ExitStatus.NOTHING
    except ApplianceError as error:
        cli.report(PROGRAM, error)
        return error.status
    return ExitStatus.DONE


if __name__ == "__main__":
    sys.exit(main())
