"""Checksums of published files: ``SHA256SUMS`` and ``SHA512SUMS``, signed as a bundle's are.

``sha512sum --check --ignore-missing SHA512SUMS`` verifies those that an administrator downloaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from deploy import bundle

NAMES = {"SHA256SUMS": "sha256", "SHA512SUMS": "sha512"}
_BLOCK = 2**20


def write(directory: Path, files: Sequence[Path], *, key: Path | None) -> None:
    """Write the checksums of ``files`` into ``directory``, and their signatures if there is a key.

    Raises:
        BundleError: The key cannot be used.

    """
    sums = {path.name: _digests(path) for path in sorted(files)}
    for name, algorithm in NAMES.items():
        lines = [f"{found[algorithm]}  {file}\n" for file, found in sums.items()]
        (directory / name).write_text("".join(lines))
        (directory / f"{name}.sig").unlink(missing_ok=True)
        if key is not None:
            bundle.sign(directory, key, name)


def _digests(path: Path) -> dict[str, str]:
    found = {algorithm: hashlib.new(algorithm) for algorithm in NAMES.values()}
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            for digest in found.values():
                digest.update(block)
    return {algorithm: digest.hexdigest() for algorithm, digest in found.items()}
