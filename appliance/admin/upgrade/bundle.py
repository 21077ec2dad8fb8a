"""A bundle for an upgrade, a directory or a tar: verified as its installer does, without unpacking.

The signature verifies the list of checksums, and the list every file. Only then are the small files
of a tar written to a temporary directory: those of the configuration, and the lock of the images.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from appliance.admin.install import engine_images
from appliance.core import files
from appliance.core.run.errors import LocalFailure, Unavailable, UsageError

SUMS, SIGNATURE = "SHA256SUMS", "SHA256SUMS.sig"
_SMALL = 2**22  # bytes of a file that is kept in memory
_LINE = re.compile(r"([0-9a-f]{64}) [ *](?:\./)?(\S.*)")
_WHEEL = re.compile(r"wheels/egi_fedcloud_appliance-([\w.]+)-py3-none-any\.whl")
_NEEDED = re.compile(r"files/.*|images\.lock|state-forms\.json|install|requirements(-all)?\.txt")
"""Files that a preview reads."""
_IMAGES = re.compile(r"images/[^/]+\.tar")
_AGAIN = "get the bundle again; nothing was changed"


@dataclass(frozen=True, slots=True)
class VerifiedBundle:
    """A bundle whose signature and checksums hold."""

    version: str
    digest: str
    """The name of this bundle: SHA-256 of its list of checksums, as the installer records it."""
    sizes: Mapping[str, int]
    images: Mapping[str, str]
    """The ids of the images in it, by their tags."""
    top: Path
    """A directory with at least the files that a preview reads."""

    def size(self, folder: str) -> int:
        """Return the bytes of all files below a folder."""
        return sum(size for name, size in self.sizes.items() if name.startswith(f"{folder}/"))


def verified(path: Path, key: Path | None, into: Path) -> VerifiedBundle:
    """Return a bundle; without ``key`` it may be unsigned. ``into`` gets small files of a tar.

    Raises:
        Unavailable: It is no bundle, altered, incomplete, or signed by another key.
        LocalFailure: It cannot be read.

    """
    try:
        walk = _of_directory if path.is_dir() else _of_tar
        return _verified(path, key, into, walk(path))
    except (tarfile.TarError, EOFError) as error:
        raise Unavailable(path, "is not a readable tar", _AGAIN) from error
    except OSError as error:
        raise LocalFailure.from_os(error, subject=error.filename or path) from error


def _verified(
    path: Path, key: Path | None, into: Path, found: Iterator[tuple[str, BinaryIO]]
) -> VerifiedBundle:
    images: dict[str, str] = {}
    digests, sizes, small = _summed(path, found, images)
    if SUMS not in small:
        raise Unavailable(path, f"is not a bundle of the appliance: it has no {SUMS}", _AGAIN)
    if key is not None:
        _check_signature(path, key, small[SUMS], small.get(SIGNATURE))
    _check_sums(path, small[SUMS], digests)
    versions = [match[1] for name in digests if (match := _WHEEL.fullmatch(name))]
    if len(versions) != 1:
        raise Unavailable(path, "does not contain a wheel of the appliance", _AGAIN)
    top = path
    if not path.is_dir():
        top = into
        for name, data in small.items():
            files.make_directory((into / name).parent)
            (into / name).write_bytes(data)
    return VerifiedBundle(versions[0], digests[SUMS], sizes, images, top)


def _summed(
    path: Path, found: Iterator[tuple[str, BinaryIO]], images: dict[str, str]
) -> tuple[dict[str, str], dict[str, int], dict[str, bytes]]:
    """Return digest and size of each file, and the contents of small ones; add the images."""
    digests: dict[str, str] = {}
    sizes: dict[str, int] = {}
    small: dict[str, bytes] = {}
    for name, file in found:
        hashed, size, kept = hashlib.sha256(), 0, bytearray()
        is_kept = name in (SUMS, SIGNATURE) or _NEEDED.fullmatch(name)
        while piece := file.read(2**20):
            hashed.update(piece)
            size += len(piece)
            if is_kept and size <= _SMALL:
                kept += piece
        if name in digests:
            raise Unavailable(path, f"has {name} twice", _AGAIN)
        digests[name], sizes[name] = hashed.hexdigest(), size
        if _IMAGES.fullmatch(name):
            images |= _saved(file)
        if is_kept and size <= _SMALL:
            small[name] = bytes(kept)
    return digests, sizes, small


def _saved(file: BinaryIO) -> dict[str, str]:
    """Return the images of an archive; none of a damaged one, whose checksum is judged later."""
    file.seek(0)
    try:
        return engine_images.saved(file)
    except (tarfile.TarError, ValueError, LookupError, TypeError, EOFError):
        return {}


def _check_sums(path: Path, sums: bytes, digests: Mapping[str, str]) -> None:
    listed: dict[str, str] = {}
    for line in sums.decode(errors="replace").splitlines():
        if not (match := _LINE.fullmatch(line)):
            raise Unavailable(path, f"{SUMS} has a line of another form", _AGAIN)
        listed[match[2]] = match[1]
    held = {name: one for name, one in digests.items() if name not in (SUMS, SIGNATURE)}
    for name, digest in listed.items():
        if held.get(name) != digest:
            raise Unavailable(path, f"altered or incomplete: {name}", _AGAIN)
    if others := sorted(held.keys() - listed.keys()):
        raise Unavailable(path, f"has files that {SUMS} does not list: {others[0]}", _AGAIN)


def _check_signature(path: Path, key_path: Path, sums: bytes, signature: bytes | None) -> None:
    if signature is None:
        cause = "is not signed"
        raise Unavailable(path, cause, "use --unsigned if you have built it; nothing was changed")
    try:
        key = load_pem_public_key(files.read_regular(key_path, limit=_SMALL, follow=True))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UsageError(key_path, "is not a public key in PEM", "name the publisher's") from error
    try:
        # Ed25519 signs the file itself, other keys sign its SHA-256.
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, sums)
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, sums, padding.PKCS1v15(), hashes.SHA256())
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, sums, ec.ECDSA(hashes.SHA256()))
        else:
            raise UsageError(key_path, "is a key of an unknown kind", "name the publisher's")
    except InvalidSignature as error:
        cause = f"its signature does not match {key_path}"
        raise Unavailable(path, cause, "nothing was changed") from error


def _of_directory(top: Path) -> Iterator[tuple[str, BinaryIO]]:
    if not (top / SUMS).is_file():  # before all files of another directory are read
        raise Unavailable(top, f"is not a bundle of the appliance: it has no {SUMS}", _AGAIN)
    for path in sorted(top.rglob("*")):
        if path.is_symlink():
            raise Unavailable(top, "contains links", _AGAIN)
        if not path.is_dir():
            with files.open_regular(path) as file:
                yield path.relative_to(top).as_posix(), file


def _of_tar(path: Path) -> Iterator[tuple[str, BinaryIO]]:
    """Yield the files of a tar, without the one directory above all of them."""
    tops: set[str] = set()
    with files.open_regular(path, follow=True) as file, tarfile.open(fileobj=file) as tar:
        for member in tar:
            parts = PurePosixPath(member.name).parts
            tops.add(parts[0] if parts else "")
            is_plain = member.isreg() or member.isdir()
            if len(tops) != 1 or not is_plain or {"..", "/"} & {*parts}:
                raise Unavailable(path, "does not contain a bundle of the appliance", _AGAIN)
            content = tar.extractfile(member)
            if content is not None:
                yield "/".join(parts[1:]), content  # type: ignore[misc]  # its read is used
