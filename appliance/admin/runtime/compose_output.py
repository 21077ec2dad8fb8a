"""Docker-compose as a program that we call: its environment, its noise, and its failures in words of ours.

What it prints about itself goes to standard error, together with what the program in the container
prints there.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence
from typing import BinaryIO

from appliance.admin import settings
from appliance.admin.runtime import compose
from appliance.admin.settings import Host
from appliance.core.run.errors import Unavailable

_NOISE = re.compile(
    r"(?:Creating|Recreating|Starting|Stopping|Removing|Pulling) \S+ +(?:\(.*\))?\.\.\..*"
    r"|Creating (?:network|volume) \".*"
    r"|Attaching to .*|Found orphan containers .*"
    r"|(?:Container|Network|Volume) \S+ +(?:Creating|Created|Starting|Started|Running|Recreate|Recreated|Removed)"
    r"|time=\"[^\"]*\" level=(?:warning|info) .*"
    r"|(?:ERROR: )?\d{1,3}"
)
"""Lines of Compose 1.29 and 2 that say what it does; and the program's exit status, which 1.29 reports as an error."""
_SUMMARY = "Encountered errors while bringing up the project"
"""The last line of 1.29, which says nothing; the reason stands before it."""
_FAILURE = re.compile(
    r"(?:ERROR: |Error response from daemon: |Error: |Cannot connect to the Docker daemon|error while interpolating"
    r"|required variable |Couldn't connect|invalid (?:spec|mount|compose)|service \S+ |validating |yaml: )"
)
"""How a failure of docker-compose itself begins."""
_CONTROLS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\b]")
_SOURCE = re.compile(r"(?:bind source path does not exist: |invalid mount config[^/]*)(/[^\s\"']+)")
_PORT = re.compile(
    r"[Bb]ind for (\S+) failed|listen tcp\d? (\S+): bind: address already in use|exposing port \w+ (\S+)"
)
_ENGINE = re.compile(
    r"(?:Cannot|Couldn't|Can't) connect to (?:the )?Docker daemon|Connection refused|docker\.sock"
)
_VARIABLE = re.compile(r"required variable (\w+) is missing|Missing mandatory value for \"?(\w+)")
_PREFIX = re.compile(
    r"^(?:ERROR: |Error response from daemon: |for \S+ +|Cannot \w+ container for service \S+: )+"
)


def environment(host: Host) -> dict[str, str]:
    """Return docker-compose's environment; the units keep root's home directory out of reach."""
    found = dict(settings.compose_environment(host))
    return found | {"HOME": os.environ.get("HOME") or found["HOME"]}


def is_noise(line: str) -> bool:
    """Say whether a line of standard error is docker-compose's own, and tells nothing that anybody needs."""
    words = _CONTROLS.sub("", line).strip()
    return not words or bool(_NOISE.fullmatch(words))


class Relay:
    """Passes on what comes by docker-compose's standard error, line by line, but for its own words.

    What looks like a failure of docker-compose is held back until it is known whether the program
    has run.
    """

    def __init__(self, output: BinaryIO) -> None:
        self._output = output
        self.held: list[str] = []

    def __call__(self, line: bytes) -> None:
        """Pass on a line, or hold it back."""
        text = line.decode(errors="replace")
        if is_noise(text):
            return
        if _FAILURE.match(_CONTROLS.sub("", text)):
            self.held.append(text)
            return
        self._write(line)

    def release(self) -> None:
        """Pass on what was held back: the program itself has said that."""
        for text in self.held:
            self._write(text.encode())
        self.held.clear()

    def _write(self, line: bytes) -> None:
        # a full disk or a closed terminal ends no job
        with contextlib.suppress(OSError, ValueError):
            self._output.write(line)
            self._output.flush()


def not_installed(program: str, error: OSError) -> Unavailable:
    """Return the error of a docker-compose that cannot be started."""
    return Unavailable(program, (error.strerror or str(error)).lower(), compose.REMEDY)


def failure(subject: str, said: Sequence[str]) -> Unavailable:
    """Return why docker-compose could not run a container at all, from what it wrote to standard error."""
    lines = [
        _CONTROLS.sub("", line).strip()
        for line in said
        if not is_noise(line) and _SUMMARY not in line
    ]
    text = " ".join(lines)
    if match := _SOURCE.search(text):
        return Unavailable(
            match[1],
            f"does not exist, and {subject} has it mounted",
            "put it there, as scripts/install did",
        )
    if match := _PORT.search(text):
        port = next(filter(None, match.groups()))
        remedy = (
            f"stop that program: ss -ltnp 'sport = :{port.rpartition(':')[2]}' shows which it is"
        )
        return Unavailable(port, "is taken by another program", remedy)
    if match := _VARIABLE.search(text):
        return Unavailable(
            "/etc/fedcloud/appliance.env",
            f"{match[1] or match[2]} must be set",
            "run scripts/install again",
        )
    if _ENGINE.search(text):
        return Unavailable(subject, "the Docker engine does not answer", "systemctl start docker")
    last = next((_PREFIX.sub("", line) for line in reversed(lines) if line), "it said nothing")
    return Unavailable(
        subject, f"its container cannot be started: {last[:300]}", "see systemctl status docker"
    )
