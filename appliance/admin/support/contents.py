"""The texts of a support bundle: versions, checks, status, configuration, records and logs."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from appliance.admin import settings
from appliance.admin.backup import places
from appliance.admin.inventory import JOBS, UNITS
from appliance.admin.machine import Machine
from appliance.admin.support.redaction import Redaction
from appliance.core import files
from appliance.core.run.layout import Layout
from appliance.core.version import __version__

_LARGEST = 2**20
"""Bytes of one text; of a longer log the end counts."""
_TIMEOUT = 180
"""Seconds for one of our own commands."""
_LINES = "500"
_COMMANDS = (
    ("uname", "-srm"),
    ("df", "-h"),
    ("free", "-m"),
    ("docker", "--version"),
    ("docker-compose", "--version"),
    ("systemctl", "list-units", "--all", "--plain", "--no-pager", "bdii*", "cloud*", "fedcloud*"),
)
_FORMS = frozenset({".auth", ".cfg", ".conf", ".env", ".json", ".rc", ".yaml", ".yml"})
"""Suffixes of configuration; any other file may hold nothing but a secret."""
_VERBS = {
    "check.json": ("check", "--offline", "--json"),
    "status.json": ("status", "--json"),
    "schedule.txt": ("schedule",),
    **{f"logs/{unit}.txt": ("logs", unit, "--lines", _LINES) for unit in UNITS},
}


def texts(layout: Layout, redaction: Redaction) -> Iterator[tuple[str, str]]:
    """Yield name and text of each part, without secrets.

    The configuration is read first, because its secrets may occur in all that follows.
    """
    found = [(name, _read(path)) for name, path in places.configuration(layout)]
    for name, text in found:
        redaction.learn(name, text, root=layout.root)
    for name, text in found:
        if Path(name).suffix in _FORMS or name.startswith("/etc/cron.d/"):
            yield f"configuration{redaction.text(name)}", redaction.configuration(name, text)
    yield "versions.txt", redaction.text("\n".join(_versions(layout)))
    for part, words in _VERBS.items():
        yield part, redaction.text(_own(words, layout))
    for name, path in places.state(layout):
        if name.startswith(f"{places.RECORDS}/") and path.is_file():
            part = f"records{name.removeprefix(places.RECORDS)}"
            yield redaction.text(part), redaction.text(_read(path))
    for log in dict.fromkeys(job.log for job in JOBS.values()):
        path = layout.path(f"/var/log/{log}")
        if path.is_file():
            yield f"logs/{log}", redaction.text(_read(path))
    yield "state.txt", redaction.text("".join(_listing(layout)))


def _versions(layout: Layout) -> Iterator[str]:
    yield f"appliance {__version__}, in use {settings.in_use(layout) or 'none'}"
    yield f"Python {sys.version}"
    yield _read(layout.path("/etc/os-release"))
    machine = Machine()
    for command in _COMMANDS:
        status, shown = machine.ask(command)
        yield f"$ {' '.join(command)}\n{shown}({status})"


def _own(words: tuple[str, ...], layout: Layout) -> str:
    """Return the output of one of our own commands; for JSON, standard output alone."""
    command = [sys.executable, "-P", "-m", "appliance.admin.command", *words]
    try:
        done = subprocess.run(
            [*command, "--root", str(layout.root)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"appliance {' '.join(words)}: no answer within {_TIMEOUT} seconds\n"
    shown = done.stdout if "--json" in words and done.stdout else done.stdout + done.stderr
    return shown[-_LARGEST:].decode(errors="replace")


def _read(path: Path) -> str:
    """Return a text, or the end of a long one; why not, if it cannot be read."""
    try:
        with files.open_regular(path, follow=True) as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - _LARGEST))
            data = file.read(_LARGEST)
    except OSError as error:
        return f"{path}: {error.strerror}\n"
    # The first line of a part may be the end of a secret that nothing recognises.
    return (data if size <= _LARGEST else data.partition(b"\n")[2]).decode(errors="replace")


def _listing(layout: Layout) -> Iterator[str]:
    """Yield a line for each file of the state: access, owner, size and name."""
    for name, path in places.state(layout):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        mode = stat.filemode(status.st_mode)
        yield f"{mode} {status.st_uid}:{status.st_gid} {status.st_size:>12} {name}\n"
