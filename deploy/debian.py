"""The Debian packages of images: the base and a few more, cached by their versions.

    CACHE/base/RECIPE.json   the HASH that a build uses, and the day of Debian's archive
    CACHE/base/HASH/         base.tar, slapd/*.deb, qemu/*.deb, and their versions: packages.list

RECIPE is a hash of the request: the script, the names of the packages, the time stamp of all files.
HASH also covers packages.list, and therefore every version. The archive is read only if the cache
has nothing for the recipe, or for a build with today's packages. Other builds need no network and
give the same bytes.
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
"""Seconds after which an unused base is removed; a build that runs now may still read it."""


@dataclass(frozen=True, slots=True)
class Package:
    """A Debian package, with the day on which it was built."""

    name: str
    version: str
    architecture: str
    built: str

    def __str__(self) -> str:
        return f"{self.name} {self.version} {self.architecture} {self.built}"


@dataclass(frozen=True, slots=True)
class Base:
    """A directory of the cache, and the last day on which the archive had these versions."""

    directory: Path
    archive: date

    def packages(self) -> list[Package]:
        """Return the packages in it, by name."""
        return [Package(*line.split()) for line in (self.directory / LIST).read_text().splitlines()]


def fetch(
    cache: Path, asked: Sequence[bytes], make: Callable[[Path], None], *, fresh: bool
) -> tuple[Base, list[str]]:
    """Return the base for a build, and a line for each difference to that of the last build.

    ``make`` fills a directory from the archive, see `deploy/base`. With ``fresh`` it is called even
    if the cache has a base.
    """
    cache.mkdir(parents=True, exist_ok=True)
    note = cache / f"{digest(asked)}.json"
    kept = _read(note, cache)
    if kept and not fresh:
        return kept, []
    unfinished = cache / f".new.{os.getpid()}"
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        make(unfinished)
        archive = date.fromisoformat((unfinished / _ARCHIVE).read_text().strip())
        # Not part of the base: the same versions must give the same directory on every day.
        (unfinished / _ARCHIVE).unlink()
        found = Base(cache / digest([*asked, (unfinished / LIST).read_bytes()]), archive)
        if not found.directory.exists():
            unfinished.rename(found.directory)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    _write(note, found)
    _remove_unused(cache)
    return found, list(differences(kept.packages(), found.packages())) if kept else []


def differences(before: Iterable[Package], after: Iterable[Package]) -> Iterator[str]:
    """Yield a line for each package that was added, removed, or has another version."""
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


def digest(parts: Iterable[bytes]) -> str:
    """Return the name of a directory of the cache, which depends on these parts only."""
    found = hashlib.sha256()
    for part in parts:
        found.update(len(part).to_bytes(8, "big") + part)
    return found.hexdigest()[:16]


def _read(note: Path, cache: Path) -> Base | None:
    """Return the base in the cache; None if there is none or it is incomplete."""
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
    """Remove directories that no recipe uses."""
    used = {base.directory for note in cache.glob("*.json") if (base := _read(note, cache))}
    for path in cache.iterdir():
        if path.is_dir() and path not in used and time.time() - path.stat().st_mtime > _KEEP:
            shutil.rmtree(path, ignore_errors=True)
