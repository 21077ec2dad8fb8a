"""The images of a bundle: proven against ``images.lock`` before and after the engine has loaded them.

A line of ``images.lock`` is ``SERVICE TAG ID``, the id with ``sha256:`` before it; ``#`` begins a comment. The engine
is asked through its own command line, since the docker SDK is not there yet when the first version is installed.
"""

from __future__ import annotations

import json
import re
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

from appliance.core.run.errors import ConfigurationError, Problem, Unavailable

_DOCKER = "/usr/bin/docker"
_ID = re.compile(r"sha256:[0-9a-f]{64}")


def read_lock(path: Path) -> Mapping[str, str]:
    """Return the id of each tag; raises `ConfigurationError`."""
    ids, problems = {}, []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) == 3 and _ID.fullmatch(words[2]):  # noqa: PLR2004  see above
            ids[words[1]] = words[2]
        else:
            problems.append(Problem(path, number, "", "must be SERVICE TAG sha256:ID"))
    if problems:
        raise ConfigurationError(problems)
    return ids


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
            raise Unavailable(tag, "this image is missing from the bundle", "get the bundle again; nothing was changed")
        if held[tag] != identifier:
            cause = f"the bundle's image is {held[tag][:19]}, images.lock says {identifier[:19]}"
            raise Unavailable(tag, cause, "get the bundle again; nothing was changed")


def check_engine() -> None:
    """Raise `Unavailable` when the engine does not answer."""
    _docker("version", "--format", "{{.Server.Version}}")


def load(bundle: Path, ids: Mapping[str, str]) -> int:
    """Load what the engine lacks, and compare; returns how many images were missing. Raises `Unavailable`."""
    missing = [tag for tag, identifier in ids.items() if _present(tag) != identifier]
    if missing:
        for path in archives(bundle):
            _docker("load", "--quiet", "--input", str(path))
    for tag in missing:
        if (found := _present(tag)) != ids[tag]:
            raise Unavailable(tag, f"the engine has {found[:19] or 'no such image'}, images.lock says {ids[tag][:19]}")
    return len(missing)


def _present(tag: str) -> str:
    command = [_DOCKER, "image", "inspect", "--format", "{{.Id}}", tag]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def _docker(*words: str) -> None:
    done = subprocess.run([_DOCKER, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable("docker", f"{words[0]}: {' '.join(done.stderr.split())}", "see systemctl status docker")
