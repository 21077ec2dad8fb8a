"""Where a message is read: an administrator of the host sees other paths than a program in a container.

The compose file hands each container the variable FEDCLOUD_PLACES, which pairs the paths of its
mounts: ``CONTAINER=HOST``, separated by blanks. Whatever a program prints, logs or records then
names the host's path, and a remedy may depend on `is_container`.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping

VARIABLE = "FEDCLOUD_PLACES"
SETTINGS = "/etc/fedcloud/appliance.env"
_BEFORE, _AFTER = r"(?<![\w./-])", r"(?![\w-]|\.\w)"
"""What delimits a path in a text; a full stop may end the sentence."""


def is_container() -> bool:
    """Say whether this process runs in a container of the appliance."""
    return VARIABLE in os.environ


def on_host(text: str) -> str:
    """Return a text with the container's paths replaced by the host's.

    Applied twice, it changes nothing more: a path that is the host's already is left alone.
    """
    told = os.environ.get(VARIABLE)
    return _replaced(text, told) if told else text


def is_mounted(path: str) -> bool:
    """Say whether a path lies in one of the mounts that the host's administrator can change."""
    return any(
        path == place or path.startswith(f"{place}/")
        for place in _pairs(os.environ.get(VARIABLE, ""))
    )


def trust_remedy(otherwise: str) -> str:
    """Return what makes a program trust another authority: a setting of the host, or ``otherwise``."""
    if not is_container():
        return otherwise
    return f"name a file that holds the authority as FEDCLOUD_CA_BUNDLE in {SETTINGS}"


def unseen(path: object) -> str:
    """Return what keeps a program in a container from a file, and what to do; empty when it sees the file's place."""
    if not is_container() or is_mounted(str(path)):
        return ""
    if str(path).startswith("/etc/grid-security/"):
        return f"{path} is not mounted in the container; start the job by appliance run, which mounts it"
    return (
        f"{path} is not mounted in the container; for authorities remove this line and name the file as"
        f" FEDCLOUD_CA_BUNDLE in {SETTINGS}, for others add a volume in a copy of /etc/fedcloud/networks/bridge.yml"
    )


@functools.lru_cache(maxsize=2)
def _pairs(told: str) -> Mapping[str, str]:
    pairs = (word.partition("=") for word in told.split())
    return {
        inside: outside
        for inside, _, outside in pairs
        if inside.startswith("/") and outside.startswith("/")
    }


def _replaced(text: str, told: str) -> str:
    pairs = _pairs(told)
    moved = {inside: outside for inside, outside in pairs.items() if inside != outside}
    if not moved or "/" not in text:
        return text
    return _pattern(told).sub(lambda match: moved.get(match[0], match[0]), text)


@functools.lru_cache(maxsize=2)
def _pattern(told: str) -> re.Pattern[str]:
    pairs = _pairs(told)
    # The longest first: a mount may lie in another, and a path of the host below one of the
    # container.
    names = sorted({*pairs, *pairs.values()}, key=len, reverse=True)
    return re.compile(f"{_BEFORE}(?:{'|'.join(map(re.escape, names))}){_AFTER}")
