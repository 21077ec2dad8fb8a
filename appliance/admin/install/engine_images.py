"""Loading of a bundle's images, which are compared with ``images.lock`` before and afterwards.

Docker's command line is used, because a first installation does not have the docker SDK yet.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from appliance.admin.images.locked import short
from appliance.admin.install import progress
from appliance.core.run.errors import Unavailable

_PLACES = "/usr/bin:/usr/local/bin"
_GB = 10**9


def archives(bundle: Path) -> list[Path]:
    """Return the files that hold the images."""
    return sorted((bundle / "images").glob("*.tar"))


def check_bundle(bundle: Path, ids: Mapping[str, str]) -> None:
    """Check that the bundle holds every image of the lock, with its id.

    Raises:
        Unavailable: An image is missing or has another id.

    """
    held: dict[str, str] = {}
    for path in archives(bundle):
        with path.open("rb") as file:
            held |= saved(file)
    check_held(held, ids)


def saved(file: IO[bytes]) -> dict[str, str]:
    """Return the ids of the images of an archive, by their tags.

    Raises:
        tarfile.TarError: It is none.
        ValueError: Likewise.

    """
    held: dict[str, str] = {}
    with tarfile.open(fileobj=file) as archive:
        # `docker save` writes the tags and the ids of all images of an archive to this file.
        manifest = archive.extractfile("manifest.json")
        for image in json.load(manifest) if manifest else []:
            identifier = Path(image["Config"]).name.removesuffix(".json")
            held |= dict.fromkeys(image.get("RepoTags") or [], f"sha256:{identifier}")
    return held


def check_held(held: Mapping[str, str], ids: Mapping[str, str]) -> None:
    """Check that the images of a bundle are all those of the lock, with their ids.

    Raises:
        Unavailable: An image is missing or has another id.

    """
    for tag, identifier in ids.items():
        if tag not in held:
            raise Unavailable(
                tag,
                "this image is missing from the bundle",
                "get the bundle again; nothing was changed",
            )
        if held[tag] != identifier:
            cause = f"the bundle's image is {short(held[tag])}, images.lock has {short(identifier)}"
            raise Unavailable(tag, cause, "get the bundle again; nothing was changed")


def check_engine(bundle: Path, ids: Mapping[str, str]) -> None:
    """Check that the engine can load the images that it lacks.

    Raises:
        Unavailable: The engine does not answer, is podman's, or has too little disk space.

    """
    if (
        "podman"
        in _docker("version", "--format", "{{range .Server.Components}}{{.Name}} {{end}}").lower()
    ):
        remedy = "install docker.io or docker-ce, or use --without-containers; nothing was changed"
        raise Unavailable(
            "docker", "podman answers on the engine's socket, which is not supported", remedy
        )
    if all(present(tag) == identifier for tag, identifier in ids.items()):
        return
    where = place()
    needed = sum(path.stat().st_size for path in archives(bundle))
    try:
        free = shutil.disk_usage(where).free
    except OSError:  # the engine is on another machine or in another mount namespace
        return
    if free < needed:
        cause = f"the engine's images need {needed / _GB:.1f} GB, {free / _GB:.1f} GB are free"
        raise Unavailable(
            where, cause, "free space, or move it with data-root; nothing was changed"
        )


def place() -> Path:
    """Return the directory of the engine's images, which may be a file system of its own.

    Raises:
        Unavailable: The engine does not answer.

    """
    return Path(_docker("info", "--format", "{{.DockerRootDir}}").strip() or "/var/lib/docker")


def load(bundle: Path, ids: Mapping[str, str]) -> int:
    """Load the images that the engine lacks; return how many were missing.

    Raises:
        Unavailable: The engine fails, or an image that it loaded has another id.

    """
    missing = [tag for tag, identifier in ids.items() if present(tag) != identifier]
    if missing:
        with progress.step("container images", is_terse=True):
            for path in archives(bundle):
                _docker("load", "--quiet", "--input", str(path))
    for tag in missing:
        if (found := present(tag)) != ids[tag]:
            loaded = short(found) or "no such image"
            cause = f"the engine has {loaded}, images.lock has {short(ids[tag])}"
            raise Unavailable(tag, cause, "get the bundle again, and run its install")
    return len(missing)


def present(tag: str) -> str:
    """Return the id of an image that the engine has; empty if it has none of this tag."""
    command = [_program(), "image", "inspect", "--format", "{{.Id}}", tag]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def _docker(*words: str) -> str:
    done = subprocess.run([_program(), *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(
            "docker", f"{words[0]}: {' '.join(done.stderr.split())}", "see systemctl status docker"
        )
    return done.stdout


def _program() -> str:
    """Return the path of Docker's client, from any package."""
    found = shutil.which("docker", path=_PLACES)
    if found is None:
        raise Unavailable(
            "docker", "is not installed", "install docker.io or docker-ce; nothing was changed"
        )
    return found
