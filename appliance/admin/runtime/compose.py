"""Compose on this host: the program, its version, and the differences between versions.

Three generations run the same compose file: 1.29.2 (Python), v2 and v5 (Go; there is no v3 or v4).
v2 and v5 are plugins of Docker's client, `docker compose`, or a program, `docker-compose`. The file
of the plugin, started directly, behaves like the program. One path therefore describes each of
them, and Docker's client is not needed.

This module hides the differences from its callers:

- v2 and v5 draw their progress and a menu, and warn of containers that the file no longer has.
  `ENVIRONMENT` and `quiet` switch that off. 1.29.2 ignores variables that it does not know, but
  rejects an unknown flag.
- Docker engines since version 29 reject 1.29.2, because its protocol is too old. A plugin is
  therefore preferred to a program.
- The compose file uses nothing that 1.29.2 lacks, such as `name`, `up --wait` or `start_interval`,
  and nothing of ``build``, where v5 differs from v2.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from appliance.core.run.errors import Unavailable

PLUGIN = "docker compose"
"""The word in the configuration that stands for the plugin, in any directory."""
PROGRAMS = ("/usr/local/bin/docker-compose", "/usr/bin/docker-compose")
PLUGINS = tuple(
    f"{place}/docker-compose"
    for place in (
        *("/usr/local/lib/docker/cli-plugins", "/usr/local/libexec/docker/cli-plugins"),
        *("/usr/lib/docker/cli-plugins", "/usr/libexec/docker/cli-plugins"),
    )
)
"""Where Docker's client looks for plugins of the whole host.

Plugins in root's home directory do not count: units cannot see /root, and all callers must find the
same program.
"""
ENVIRONMENT: Mapping[str, str] = {
    "COMPOSE_ANSI": "never",
    "COMPOSE_PROGRESS": "quiet",
    "COMPOSE_MENU": "false",
    "COMPOSE_IGNORE_ORPHANS": "true",
    "DOCKER_CLI_HINTS": "false",
}
"""Variables that keep Compose's own output out of that of services and jobs."""
OLDEST = (1, 29)
_SETTING = "engine: compose: in /etc/fedcloud/appliance.yaml"
_INSTALL = (
    "install Compose: apt-get install docker-compose, or, for Docker 29 and later,"
    f" docker-compose-plugin; leave {_SETTING} empty"
)
_REPLACE = f"replace or remove this file, or name another Compose at {_SETTING}"
"""An installation of Compose does not help: a file that comes first in the order still does."""
_ANSWER = 30  # seconds; 1.29.2 starts in one
_ELF, _PYINSTALLER = b"\x7fELF", b"MEI\x0c\x0b\x0a\x0b\x0e"
_TAIL = 4096  # bytes; PyInstaller writes its mark into the last hundred


def find(root: Path = Path("/")) -> Path:
    """Return the Compose of this host: a plugin, else a program, else the usual path."""
    places = [*PLUGINS, *PROGRAMS]
    found = next((place for place in places if _is_program(root / place.lstrip("/"))), PROGRAMS[-1])
    return root / found.lstrip("/")


def resolve(text: str, root: Path = Path("/")) -> Path:
    """Return the program that ``engine: compose:`` selects; it may be empty.

    Raises:
        ValueError: The text is neither an absolute path nor `PLUGIN`.

    """
    if not text:
        return find(root)
    if " ".join(text.split()) == PLUGIN:
        plugins = [root / place.lstrip("/") for place in PLUGINS]
        return next(filter(_is_program, plugins), plugins[-1])
    path = Path(text)
    if not path.is_absolute():
        raise ValueError(text)
    return path


def version(program: Path) -> str:
    """Return the version of a Compose, such as ``5.0.1``.

    Raises:
        Unavailable: The program is missing, fails, or is older than 1.29.

    """
    require(program)
    command = [str(program), "version", "--short"]
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "LANG": "C.UTF-8",
        **ENVIRONMENT,
    }
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=_ANSWER,
            check=False,
            env=environment,
            # Compose reads .env in its working directory, which may also have been removed.
            cwd="/",
        )
    except subprocess.TimeoutExpired as error:
        cause = f"gave no answer in {_ANSWER} s"
        raise Unavailable(program, cause, "retry when the host is less busy") from error
    except OSError as error:
        raise not_started(program, error) from error
    match = re.search(r"(\d+)\.(\d+)\S*", done.stdout)
    if done.returncode or not match:
        words = " ".join((done.stderr or done.stdout).split())[:200]
        raise Unavailable(
            program,
            f"does not print its version: {words or f'exit status {done.returncode}'}",
            _REPLACE,
        )
    if (int(match[1]), int(match[2])) < OLDEST:
        raise Unavailable(
            program, f"is Compose {match[0]}; 1.29 is the oldest that works", _REPLACE
        )
    return match[0]


def require(program: Path) -> None:
    """Check that the program exists.

    Raises:
        Unavailable: It does not, or cannot be executed.

    """
    if not _is_program(program):
        raise Unavailable(program, "is not installed", _INSTALL)


def not_started(program: Path, error: OSError) -> Unavailable:
    """Return the error for a Compose that cannot be started, with the remedy for its cause."""
    remedy = _REPLACE if _is_program(program) else _INSTALL
    return Unavailable(program, (error.strerror or str(error)).lower(), remedy)


def is_at_fault(error: Unavailable) -> bool:
    """Check whether Compose itself is missing, too old or no program."""
    return error.remedy in (_INSTALL, _REPLACE)


def quiet(program: Path) -> list[str]:
    """Return the flags that keep a Compose from drawing its progress; none for 1.29.2.

    Releases of v2 before 2.27 do not read COMPOSE_PROGRESS. 1.29.2 takes a second to print its
    version, so the format of the file decides instead: a compiled program is Go's unless
    PyInstaller made it. A script may be any version, and gets no flag.
    """
    try:
        with program.open("rb") as file:
            is_compiled = file.read(len(_ELF)) == _ELF
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            is_go = is_compiled and _PYINSTALLER not in file.read()
    except OSError:  # the caller reports it when it starts the program
        return []
    return ["--progress", "quiet"] if is_go else []


def _is_program(path: Path) -> bool:
    try:
        return path.is_file() and bool(path.stat().st_mode & 0o111)
    except OSError:  # a directory of the path cannot be searched
        return False
