"""The images of a bundle: proven against ``images.lock`` before and after the engine has loaded them.

The engine is asked through its own command line, since the docker SDK is not there yet when the
first version is installed.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

from appliance.admin.images.locked import short
from appliance.admin.install import progress
from appliance.core.run.errors import Unavailable

_PLACES = "/usr/bin:/usr/local/bin"
_GB = 10**9


def archives(bundle: Path) -> list[Path]:
    """Return the files that hold the images."""
    return sorted((bundle / "images").glob("*.tar"))


def check_bundle(bundle: Path, ids: Mapping[str, str]) -> None:
    """Raise `Unavailable` unless the bundle holds every image of the lock, with its id."""
    held: dict[str, str] = {}
    for path in archives(bundle):
        with tarfile.open(path) as archive:
            manifest = archive.extractfile("manifest.json")
            for image in json.load(manifest) if manifest else []:
                identifier = Path(image["Config"]).name.removesuffix(".json")
                held |= dict.fromkeys(image.get("RepoTags") or [], f"sha256:{identifier}")
    for tag, identifier in ids.items():
        if tag not in held:
            raise Unavailable(
                tag,
                "this image is missing from the bundle",
                "get the bundle again; nothing was changed",
            )
        if held[tag] != identifier:
            cause = (
                f"the bundle's image is {short(held[tag])}, images.lock says {short(identifier)}"
            )
            raise Unavailable(tag, cause, "get the bundle again; nothing was changed")


def check_engine(bundle: Path, ids: Mapping[str, str]) -> None:
    """Raise `Unavailable` when the engine does not answer, is podman's, or has no room for the images that it lacks."""
    if (
        "podman"
        in _docker("version", "--format", "{{range .Server.Components}}{{.Name}} {{end}}").lower()
    ):
        remedy = "install docker.io or docker-ce, or use --without-containers; nothing was changed"
        raise Unavailable(
            "docker", "podman answers on the engine's socket, which is not supported", remedy
        )
    if all(_present(tag) == identifier for tag, identifier in ids.items()):
        return
    place = Path(_docker("info", "--format", "{{.DockerRootDir}}").strip() or "/var/lib/docker")
    needed = sum(path.stat().st_size for path in archives(bundle))
    try:
        free = shutil.disk_usage(place).free
    except (
        OSError
    ):  # the engine is another machine's, or in a namespace of its own: only it can say
        return
    if free < needed:
        cause = f"the engine keeps its images there: {free / _GB:.1f} GB are free, {needed / _GB:.1f} GB are needed"
        raise Unavailable(place, cause, "make room or move it with data-root; nothing was changed")


def load(bundle: Path, ids: Mapping[str, str]) -> int:
    """Load what the engine lacks, and compare; returns how many images were missing. Raises `Unavailable`."""
    missing = [tag for tag, identifier in ids.items() if _present(tag) != identifier]
    if missing:
        with progress.step("container images", is_terse=True):
            for path in archives(bundle):
                _docker("load", "--quiet", "--input", str(path))
    for tag in missing:
        if (found := _present(tag)) != ids[tag]:
            raise Unavailable(
                tag,
                f"the engine has {short(found) or 'no such image'}, images.lock says {short(ids[tag])}",
            )
    return len(missing)


def _present(tag: str) -> str:
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
    """Return the path of Docker's client, of whatever package it is."""
    found = shutil.which("docker", path=_PLACES)
    if found is None:
        raise Unavailable(
            "docker", "is not installed", "install docker.io or docker-ce; nothing was changed"
        )
    return found
