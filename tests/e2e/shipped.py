"""The signed bundle of this checkout, made once for all tests."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deploy import bundle, images
from deploy.dockerd import DockerDaemon
from tests.testbed.bundle import make_key

TOP = Path(__file__).resolve().parents[2]
_CACHE = TOP / ".cache/shipped"
_FILES = (
    "docker-compose.yml",
    "scripts/install",
    "locks/admin.txt",
    "deploy/bundle.py",
    "deploy/sbom.py",
    "appliance/admin/images/locked.py",
)


@dataclass(frozen=True, slots=True)
class Shipped:
    """A bundle, and the private key that signed it."""

    bundle: Path
    key: Path

    @classmethod
    def of_checkout(cls, engine: DockerDaemon) -> Shipped:
        """Return the bundle of what is in the checkout now; those of other states of it go."""
        ids = images.ensure(engine, TOP / ".cache/deploy")

        def make(directory: Path) -> None:
            directory.mkdir(mode=0o700)
            key, _ = make_key(directory)
            key.chmod(0o600)
            bundle.make(engine, directory, key=key)

        with engine.bundling():
            directory = images.kept(_CACHE, [json.dumps(dict(ids)).encode(), *_content()], make)
            for other in _CACHE.iterdir():
                if other != directory:
                    shutil.rmtree(other)
        return cls(directory / f"fedcloud-appliance-{images.version()}", directory / "key.pem")

    def put(self, directory: Path) -> Path:
        """Have the bundle in another directory of the same file system, too; returns where."""
        place = directory / self.bundle.name
        shutil.copytree(
            self.bundle,
            place,
            copy_function=lambda source, target: Path(target).hardlink_to(source),
        )
        return place


def _content() -> Iterator[bytes]:
    """Return name and content of all that is in a bundle and in no image."""
    folders = (
        path for folder in bundle.FOLDERS for path in (TOP / folder).rglob("*") if path.is_file()
    )
    for path in sorted([*folders, *(TOP / name for name in _FILES)]):
        yield str(path.relative_to(TOP)).encode()
        yield path.read_bytes()
