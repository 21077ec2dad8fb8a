"""The output of docker-compose: noise, lines of the program in the container, and failures.

docker-compose writes its own messages to standard error, where the program in the container writes
too. The patterns here separate them; they cover Compose 1.29.2, v2 and v5.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence
from typing import BinaryIO

from appliance.admin import settings
from appliance.admin.settings import Host
from appliance.core.run.errors import Unavailable

_NOISE = re.compile(
    r"(?:Creating|Recreating|Starting|Stopping|Removing|Pulling) \S+ +(?:\(.*\))?\.\.\..*"
    r"|Creating (?:network|volume) \".*"
    r"|Attaching to .*|Found orphan containers .*"
    r"|Some networks were defined but are not used by any service: .*"
    r"|(?:Container|Network|Volume) \S+ +"
    r"(?:Creating|Created|Starting|Started|Running|Recreate|Recreated|Removed)"
    r"|time=\"[^\"]*\" level=(?:warning|info) .*"
    r"|(?:ERROR: )?\d{1,3}"
)
"""Progress lines of Compose 1.29 and v2.

The last pattern is the exit status of the program, which 1.29 reports as an error.
"""
_SUMMARY = "Encountered errors while bringing up the project"
"""The last line of a failure of 1.29; the reason is in the line before it."""
_FAILURE = re.compile(
    r"(?:ERROR: |Error response from daemon: |Error: |Cannot connect to the Docker daemon"
    r"|error while interpolating|required variable |Couldn't connect"
    r"|invalid (?:spec|mount|compose)|service \S+ |validating |yaml: )"
)
"""The beginning of a failure of docker-compose itself."""
_CONTROLS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\b]")
_SOURCE = re.compile(r"(?:bind source path does not exist: |invalid mount config[^/]*)(/[^\s\"']+)")
_PORT = re.compile(
    r"[Bb]ind for (\S+) failed|listen tcp\d? (\S+): bind: address already in use"
    r"|exposing port \w+ (\S+)"
)
_ENGINE = re.compile(
    r"(?:Cannot|Couldn't|Can't) connect to (?:the )?Docker daemon"
    r"|Connection refused|docker\.sock"
)
_VARIABLE = re.compile(r"required variable (\w+) is missing|Missing mandatory value for \"?(\w+)")
_PREFIX = re.compile(
    r"^(?:ERROR: |Error response from daemon: |for \S+ +|Cannot \w+ container for service \S+: )+"
)


def environment(host: Host) -> dict[str, str]:
    """Return docker-compose's environment, with the caller's HOME.

    Units set HOME to a directory in /run, because they cannot see root's home directory.
    """
    found = dict(settings.compose_environment(host))
    return found | {"HOME": os.environ.get("HOME") or found["HOME"]}


def is_noise(line: str) -> bool:
    """Return whether a line of standard error is a progress line of docker-compose."""
    words = _CONTROLS.sub("", line).strip()
    return not words or bool(_NOISE.fullmatch(words))


class Relay:
    """Copies docker-compose's standard error, line by line, without its progress lines.

    Lines that look like a failure of docker-compose are held back until the caller knows whether
    the program has run: the program may have written them itself.
    """

    def __init__(self, output: BinaryIO) -> None:
        self._output = output
        self.held: list[str] = []

    def __call__(self, line: bytes) -> None:
        """Copy a line, drop it, or hold it back."""
        text = line.decode(errors="replace")
        if is_noise(text):
            return
        if _FAILURE.match(_CONTROLS.sub("", text)):
            self.held.append(text)
            return
        self._write(line)

    def release(self) -> None:
        """Write the lines that were held back: the program has written them itself."""
        for text in self.held:
            self._write(text.encode())
        self.held.clear()

    def _write(self, line: bytes) -> None:
        # A full disk or a closed terminal must not end the job.
        with contextlib.suppress(OSError, ValueError):
            self._output.write(line)
            self._output.flush()


def failure(subject: str, said: Sequence[str]) -> Unavailable:
    """Return why docker-compose could not run a container, from its standard error."""
    lines = [
        _CONTROLS.sub("", line).strip()
        for line in said
        if not is_noise(line) and _SUMMARY not in line
    ]
    text = " ".join(lines)
    # From the most specific pattern to the most general: several may match one failure.
    if match := _SOURCE.search(text):
        return Unavailable(
            match[1],
            f"does not exist, but {subject} mounts it",
            "run the bundle's install again, which writes the shipped file",
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
            "run the bundle's install again",
        )
    if _ENGINE.search(text):
        return Unavailable(subject, "the Docker engine does not answer", "systemctl start docker")
    last = next((_PREFIX.sub("", line) for line in reversed(lines) if line), "it printed nothing")
    return Unavailable(
        subject, f"its container cannot be started: {last[:300]}", "see systemctl status docker"
    )
