"""What the images take from Debian: the base and a few packages, kept under the versions that they are of.

    CACHE/base/RECIPE.json   which of them a build takes, and the day of the archive that offered it
    CACHE/base/HASH/         base.tar, slapd/*.deb, qemu/*.deb and packages.list, what is in them

RECIPE is a hash of what is asked for: the script, the names of the packages, the time stamp of all
files. HASH also covers packages.list, and with it every version. The archive is asked when nothing
is kept for the recipe, or by a build that wants today's packages; otherwise builds stay as they
are, byte for byte, without a network.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

LIST = "packages.list"
_ARCHIVE = "archive-date"
_KEEP = 86400
"""Seconds after which a base that no build takes any more may go: one that runs now may still read it."""


@dataclass(frozen=True, slots=True)
class Package:
    """One Debian package, with the day on which it was built."""

    name: str
    version: str
    architecture: str
    built: str

    def __str__(self) -> str:
        return f"{self.name} {self.version} {self.architecture} {self.built}"


@dataclass(frozen=True, slots=True)
class Base:
    """What a build takes: a directory of the cache, and the day of the archive that still offered just that."""

    directory: Path
    archive: date

    def packages(self) -> list[Package]:
        """Return what is in it, by name."""
        return [Package(*line.split()) for line in (self.directory / LIST).read_text().splitlines()]


def fetch(
    cache: Path, asked: Sequence[bytes], make: Callable[[Path], None], *, fresh: bool
) -> tuple[Base, list[str]]:
    """Return what a build is to take, and a line for each difference to what the last one took.

    ``make`` fills a directory from the archive, see `deploy/base`. With ``fresh``, it is called
    even if something is kept.
    """
    cache.mkdir(parents=True, exist_ok=True)
    note = cache / f"{_digest(asked)}.json"
    kept = _read(note, cache)
    if kept and not fresh:
        return kept, []
    unfinished = cache / f".new.{os.getpid()}"
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        make(unfinished)
        archive = date.fromisoformat((unfinished / _ARCHIVE).read_text().strip())
        # the same versions are the same base, whenever they were offered
        (unfinished / _ARCHIVE).unlink()
        found = Base(cache / _digest([*asked, (unfinished / LIST).read_bytes()]), archive)
        if not found.directory.exists():
            unfinished.rename(found.directory)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    _write(note, found)
    _remove_unused(cache)
    return found, list(differences(kept.packages(), found.packages())) if kept else []


def differences(before: Iterable[Package], after: Iterable[Package]) -> Iterator[str]:
    """Yield a line for each package that came, went, or has another version."""
    old, new = ({package.name: package for package in packages} for packages in (before, after))
    for name in sorted(old.keys() | new.keys()):
        match old.get(name), new.get(name):
            case None, Package(version=version, built=built):
                yield f"{name} {version} of {built} is new"
            case Package(version=version), None:
                yield f"{name} {version} is no longer in the images"
            case Package(version=former), Package(version=version, built=built) if (
                former != version
            ):
                yield f"{name} {former} -> {version} of {built}"


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()[:16]


def _read(note: Path, cache: Path) -> Base | None:
    """Return what is kept; None when nothing is, or when it is not whole."""
    try:
        found = json.loads(note.read_text())
        base = Base(cache / found["directory"], date.fromisoformat(found["archive"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return base if (base.directory / LIST).exists() else None


def _write(note: Path, base: Base) -> None:
    unfinished = note.with_suffix(f".{os.getpid()}")
    unfinished.write_text(
        json.dumps({"directory": base.directory.name, "archive": base.archive.isoformat()}) + "\n"
    )
    unfinished.replace(note)


def _remove_unused(cache: Path) -> None:
    """Remove what no recipe leads to any more."""
    used = {base.directory for note in cache.glob("*.json") if (base := _read(note, cache))}
    for path in cache.iterdir():
        if path.is_dir() and path not in used and time.time() - path.stat().st_mtime > _KEEP:
            shutil.rmtree(path, ignore_errors=True)
