"""Paths in messages: the host's, although a program in a container sees other ones.

docker-compose.yml gives each container the variable FEDCLOUD_PLACES, pairs ``CONTAINER=HOST`` of
the paths of its mounts, separated by blanks. All that a program prints, logs or records then names
the host's paths, and a remedy may depend on `is_container`.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
from collections.abc import Mapping

VARIABLE = "FEDCLOUD_PLACES"
NATIVE = "FEDCLOUD_NATIVE"
"""Variable of programs that `appliance run` starts without containers."""
SECRETS = (
    *("/etc/caso/caso.conf.d", "/etc/apel", "/etc/cloud-info-provider"),
    "/etc/cloudkeeper/secrets",
)
"""The directories of files of secrets; each container has one of them."""
SETTINGS = "/etc/fedcloud/appliance.env"
_BEFORE, _AFTER = r"(?<![\w./-])", r"(?![\w-]|\.\w)"
"""Delimiters of a path in a text; a full stop may end the sentence."""


def is_container() -> bool:
    """Check whether this process runs in a container of the appliance."""
    return VARIABLE in os.environ


def on_host(text: str) -> str:
    """Return a text with the container's paths replaced by the host's.

    A path that is the host's already stays, so applying it twice changes nothing more.
    """
    places = os.environ.get(VARIABLE)
    return _replaced(text, places) if places else text


def command(job: str, program: str, *words: str) -> str:
    """Return the command line that runs a program with these words on this host.

    A program that `appliance run` started is run by it again, as the ``job`` or a verb of it.
    """
    is_job = is_container() or NATIVE in os.environ
    start = f"appliance run {job} --" if is_job else program
    return f"{start} {shlex.join(words)}"


def is_mounted(path: str) -> bool:
    """Check whether a path lies in a mount, whose host path an administrator can change."""
    return any(
        path == place or path.startswith(f"{place}/")
        for place in _pairs(os.environ.get(VARIABLE, ""))
    )


def inside(path: str) -> str:
    """Return where a program in a container finds a file that an option names as on the host.

    A path in a mount stays, and so does one that no mount shows, and each one on a host.
    """
    if is_mounted(path):
        return path
    places = _pairs(os.environ.get(VARIABLE, ""))
    # The longest first: one mount may lie in another.
    for within, outside in sorted(places.items(), key=lambda pair: -len(pair[1])):
        if path == outside or path.startswith(f"{outside}/"):
            return within + path[len(outside) :]
    return path


def trust_remedy(otherwise: str) -> str:
    """Return the setting that makes a program trust an authority; ``otherwise`` on a host."""
    if not is_container():
        return otherwise
    return f"name a file that holds the authority as FEDCLOUD_CA_BUNDLE in {SETTINGS}"


def unseen(path: object) -> str:
    """Return why a program in a container cannot see a file, and the remedy; empty if it can."""
    if not is_container() or is_mounted(str(path)):
        return ""
    if str(path).startswith("/etc/grid-security/"):
        words = "start the job with appliance run, which mounts it"
    else:
        words = (
            f"for an authority, remove this line and name the file as FEDCLOUD_CA_BUNDLE in"
            f" {SETTINGS}; for another file, add a volume to a copy of"
            " /etc/fedcloud/networks/bridge.yml"
        )
    return f"{path} is not mounted in the container; {words}"


def unseen_secret(path: object) -> str:
    """Return why a program in a container cannot see a file of a secret; empty if it can."""
    directory = next((name for name in SECRETS if is_mounted(name)), "")
    if not directory or is_mounted(str(path)):
        return unseen(path)
    words = f"write it on the host, or move it into {directory}"
    return f"{path} is not mounted in the container; {words}"


@functools.lru_cache(maxsize=2)
def _pairs(places: str) -> Mapping[str, str]:
    pairs = (word.partition("=") for word in places.split())
    # A relative path would be replaced in the middle of other words.
    return {
        inside: outside
        for inside, _, outside in pairs
        if inside.startswith("/") and outside.startswith("/")
    }


def _replaced(text: str, places: str) -> str:
    pairs = _pairs(places)
    moved = {inside: outside for inside, outside in pairs.items() if inside != outside}
    if not moved or "/" not in text:
        return text
    return _pattern(places).sub(lambda match: moved.get(match[0], match[0]), text)


@functools.lru_cache(maxsize=2)
def _pattern(places: str) -> re.Pattern[str]:
    pairs = _pairs(places)
    # The longest first: one mount may lie in another.
    names = sorted({*pairs, *pairs.values()}, key=len, reverse=True)
    return re.compile(f"{_BEFORE}(?:{'|'.join(map(re.escape, names))}){_AFTER}")
