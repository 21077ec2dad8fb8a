"""The bundle for an installation: images, wheels, files, bills of materials, checksums, signature.

    DIST/fedcloud-appliance-VERSION/
      install  signing-key.pem      the installer, and the public key when there is a signature
      images/images.tar             what `docker load` takes
      images.lock                   service, tag and id of each image, one a line
      debian-packages.txt           name, version, architecture, day of each Debian package
      wheels/  requirements.txt     the host's programs, by their hashes
      requirements-all.txt          all programs
      state-forms.json              the versions of what its programs keep
      files/                        what goes to /etc, /usr/local/bin and the like
      sbom/NAME.cdx.json            the content of each image
      SHA256SUMS  SHA256SUMS.sig    of all other files; signed with the publisher's key

It is made under a temporary name and renamed when it is complete.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from appliance.admin.images import locked
from appliance.admin.install import progress
from appliance.core import state_tables
from deploy import bundle_artefact, contents, debian, images, sbom
from deploy.dockerd import DaemonError, DockerDaemon
from deploy.images import LOCKS, TOP

CACHE = TOP / ".cache/deploy"
FOLDERS = ("bin", "cron.d", "deploy/native", "etc", "systemd")
HOST_EXTRA = "admin"
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class BundleError(Exception):
    """The bundle cannot be made; the message is one line."""


def make(
    engine: DockerDaemon,
    directory: Path,
    *,
    key: Path | None,
    fresh: bool = False,
    step: progress.Step = progress.silent,
) -> Path:
    """Make the bundle in ``directory``; return its own directory.

    It is signed if there is a ``key``. A ``fresh`` one has the Debian packages of today.

    Raises:
        BundleError: The key cannot be used, or a program fails.
        DaemonError: The engine does not start, or an image cannot be built.

    """
    if key is not None:
        check_key(key)
    ids = images.ensure(engine, CACHE, fresh=fresh, step=step)
    base = images.fetch_base(CACHE)
    name = f"fedcloud-appliance-{images.version()}"
    unfinished = directory / f".{name}.new"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        with step("bundle") as detail:
            detail("files and wheels")
            _put_files(unfinished)
            _put_wheels(unfinished)
            detail("images")
            _put_images(engine, unfinished, ids, base)
        with step("bills of materials") as detail:
            _put_sboms(engine, unfinished, detail)
        with step("checksums" if key is None else "checksums and signature"):
            if key is not None:
                _run(
                    [
                        "openssl",
                        "pkey",
                        "-in",
                        key,
                        "-pubout",
                        "-out",
                        unfinished / "signing-key.pem",
                    ]
                )
            # After the key was copied: it is listed, too.
            _put_sums(unfinished)
            if key is not None:
                sign(unfinished, key)
        return _name(unfinished, directory / name)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def check_key(key: Path) -> None:
    """Check that the file is a private key that only its owner can read.

    Raises:
        BundleError: It is missing, not a key, or others can read it.

    """
    try:
        mode = key.stat().st_mode
    except OSError as error:
        raise BundleError(
            f"{key}: {error.strerror}; name the publisher's private key, or use --unsigned"
        ) from None
    if mode & _OTHERS:
        raise BundleError(f"{key}: others can read this key; chmod 600 {key}")
    _run(["openssl", "pkey", "-in", key, "-noout"], why=f"{key}: is not a private key in PEM form")


def sign(bundle: Path, key: Path, name: str = "SHA256SUMS") -> None:
    """Sign the list of checksums: the file with an Ed25519 key, its SHA-256 with other keys."""
    sums, signature = bundle / name, bundle / f"{name}.sig"
    kind = _run(["openssl", "pkey", "-in", key, "-noout", "-text"])
    if "ED25519" in kind:
        _run(
            ["openssl", "pkeyutl", "-sign", "-inkey", key, "-rawin", "-in", sums, "-out", signature]
        )
    else:
        _run(["openssl", "dgst", "-sha256", "-sign", key, "-out", signature, sums])


def _put_files(bundle: Path) -> None:
    files = bundle / "files"
    files.mkdir()
    for folder in FOLDERS:
        shutil.copytree(
            TOP / folder,
            files / Path(folder).name,
            ignore=shutil.ignore_patterns("__pycache__", "*~", ".*"),
        )
    shutil.copy(TOP / "docker-compose.yml", files)
    (bundle / state_tables.BUNDLE_FILE).write_text(state_tables.text())
    installer = TOP / "scripts/install"
    if installer.exists():
        shutil.copy(installer, bundle / "install")


def _put_wheels(bundle: Path) -> None:
    """Copy the wheels of all programs, for each Python; a host with containers needs some."""
    shutil.copy(LOCKS / f"{HOST_EXTRA}.txt", bundle / "requirements.txt")
    everything = contents.everything([LOCKS / f"{name}.txt" for name in images.EXTRAS])
    (bundle / "requirements-all.txt").write_text(everything)
    (bundle / "wheels").mkdir()
    for wheel in sorted(
        images.fetch_host_wheels(CACHE, bundle / "requirements-all.txt").glob("*.whl")
    ):
        shutil.copy(wheel, bundle / "wheels")
    images.build_wheel(images.fetch_wheels(CACHE), bundle / "wheels")


def _put_images(
    engine: DockerDaemon, bundle: Path, ids: Mapping[str, str], base: debian.Base
) -> None:
    (bundle / "images").mkdir()
    tags = [images.tag(name) for name in contents.IMAGES]
    engine.docker("save", "--output", bundle / "images/images.tar", *tags)
    lines = [f"{name} {images.tag(name)} {ids[name]}\n" for name in contents.IMAGES]
    head = f"# service tag id\n{locked.PACKAGES_OF} {base.archive}\n"
    (bundle / "images.lock").write_text(head + "".join(lines))
    head = (
        f"# Debian packages as of {base.archive}: name version architecture,"
        " and the day that each was built on\n"
    )
    (bundle / "debian-packages.txt").write_text(
        head + "".join(f"{package}\n" for package in base.packages())
    )


def _put_sboms(engine: DockerDaemon, bundle: Path, detail: progress.Detail) -> None:
    (bundle / "sbom").mkdir()
    at = datetime.fromtimestamp(int(images.epoch()), UTC)
    for name in contents.IMAGES:
        detail(name)
        (bundle / f"sbom/{name}.cdx.json").write_text(
            sbom.of_image(engine, images.tag(name), at=at)
        )


def _put_sums(bundle: Path) -> None:
    # Fixed modes, independent of the checkout and its umask.
    for path in bundle.rglob("*"):
        is_program = path.is_dir() or path.name == "install" or path.parent.name == "bin"
        path.chmod(0o755 if is_program else 0o644)
    bundle.chmod(0o755)
    lines = []
    for path in sorted(path for path in bundle.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        lines.append(f"{digest}  {path.relative_to(bundle)}\n")
    (bundle / "SHA256SUMS").write_text("".join(lines))


def _name(unfinished: Path, finished: Path) -> Path:
    """Rename the bundle to its name; only now remove an earlier one of the same version."""
    old = finished.with_name(f".{finished.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if finished.exists():
        finished.rename(old)
    unfinished.rename(finished)
    shutil.rmtree(old, ignore_errors=True)
    return finished


def _run(command: list[str | Path], *, why: str = "") -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        words = " ".join((done.stderr or done.stdout).split())[-600:]
        raise BundleError(why or f"{' '.join(map(str, command[:3]))}: {words}")
    return done.stdout


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/build", description="Build the images and the bundle."
    )
    proof = parser.add_mutually_exclusive_group(required=True)
    proof.add_argument(
        "--key",
        type=Path,
        metavar="FILE",
        help="private key (PEM, preferably Ed25519) that signs the bundle",
    )
    proof.add_argument(
        "--unsigned",
        action="store_true",
        help="make no signature; for an installation on the host that built it",
    )
    parser.add_argument(
        "--into",
        type=Path,
        default=TOP / "dist",
        metavar="DIR",
        help="directory for the bundle (default: dist)",
    )
    words = "use today's Debian packages, and print what changed (default: those of the last build)"
    parser.add_argument("--fresh", action="store_true", help=words)
    words = "also write the bundle as a tar, and that as an OCI layout, to push to a registry"
    parser.add_argument("--oci", action="store_true", help=words)
    arguments = parser.parse_args()
    engine = DockerDaemon(TOP / ".cache/docker")
    try:
        with engine.used():
            bundle = make(
                engine, arguments.into, key=arguments.key, fresh=arguments.fresh, step=progress.step
            )
    except (BundleError, DaemonError) as error:
        print(f"build: {error}", file=sys.stderr)
        return 2 if isinstance(error, BundleError) else 3
    if arguments.oci:
        with progress.step("tar and OCI layout"):
            packed = bundle_artefact.pack(bundle, epoch=int(images.epoch()))
            layout, digest = bundle_artefact.write(packed, version=images.version())
        print(f"{packed}\n{layout}: {digest}")
    print(bundle)
    return 0


if __name__ == "__main__":
    sys.exit(main())
