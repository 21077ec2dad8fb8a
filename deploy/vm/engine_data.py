"""The data of the machine's Docker engine, filled with the images of a bundle.

An engine of the build loads the images. It gives each layer two random names, which are replaced by
names that depend on the layer, so that the same images make the same files:

    image/overlay2/layerdb/sha256/CHAIN/cache-id   the name of the layer's directory
    overlay2/NAME/{diff,link,lower,work,committed} its files; link is its short name
    overlay2/l/SHORT -> ../NAME/diff               what lower files of later layers name

All else in the data of an engine is made by the machine's engine when it starts.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path

from appliance.admin.images import locked
from appliance.admin.install import engine_images
from deploy.dockerd import DaemonError, DockerDaemon

_KEPT = ("imagedb/content", "layerdb/sha256", "repositories.json")
_SHORT = 26
"""Characters of a short name, as the engine makes them: base 32."""


def fill(bundle: Path, work: Path, target: Path) -> None:
    """Make ``target``, the data root of an engine with the images of a verified bundle.

    ``work`` must be in the file system of ``target``.

    Raises:
        DaemonError: The engine fails, or cannot use overlays there.
        Unavailable: The images are not those of the bundle's lock.

    """
    ids = locked.read(bundle / "images.lock")
    engine_images.check_bundle(bundle, ids)
    engine = DockerDaemon(work)
    try:
        with engine.used():
            for path in engine_images.archives(bundle):
                engine.docker("load", "--quiet", "--input", path)
            _check(engine, ids)
        normalise(work / "data", target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _check(engine: DockerDaemon, ids: Mapping[str, str]) -> None:
    driver = engine.docker("info", "--format", "{{.Driver}}").stdout.strip()
    if driver != "overlay2":
        cause = f"the engine uses {driver}, not overlay2; build on ext4 or xfs"
        raise DaemonError(f"{engine.directory}: {cause}")
    for tag, identifier in ids.items():
        found = engine.docker("image", "inspect", "--format", "{{.Id}}", tag).stdout.strip()
        if found != identifier:
            raise DaemonError(f"{tag}: the engine has {found}, images.lock has {identifier}")


def normalise(data: Path, target: Path) -> None:
    """Move layers and images of a stopped engine to a new data root, under names of their own.

    Each name of a layer is the hash of it and of all layers below, CHAIN.
    """
    database = target / "image/overlay2"
    for name in _KEPT:
        (database / name).parent.mkdir(parents=True, exist_ok=True)
        (data / "image/overlay2" / name).rename(database / name)
    for path in (target, target / "image", database):
        path.chmod(0o710 if path == target else 0o700)
    (target / "overlay2/l").mkdir(parents=True, mode=0o710)
    (target / "overlay2").chmod(0o710)
    chains = sorted((database / "layerdb/sha256").iterdir())
    shorts = {_link(data, chain).read_text(): _short(chain.name) for chain in chains}
    for chain in chains:
        _move(data, target, chain, shorts)


def _move(data: Path, target: Path, chain: Path, shorts: Mapping[str, str]) -> None:
    short = _short(chain.name)
    layer = target / "overlay2" / chain.name
    _link(data, chain).parent.rename(layer)
    (chain / "cache-id").write_text(chain.name)
    (layer / "link").write_text(short)
    lower = layer / "lower"
    if lower.exists():
        names = [shorts[name.removeprefix("l/")] for name in lower.read_text().split(":")]
        lower.write_text(":".join(f"l/{name}" for name in names))
    (target / "overlay2/l" / short).symlink_to(f"../{chain.name}/diff")


def _link(data: Path, chain: Path) -> Path:
    return data / "overlay2" / (chain / "cache-id").read_text() / "link"


def _short(chain: str) -> str:
    return base64.b32encode(hashlib.sha256(chain.encode()).digest()).decode()[:_SHORT]
