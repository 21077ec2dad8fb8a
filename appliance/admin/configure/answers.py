"""The answers about a site, and the checks of single answers."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from appliance.admin.inventory import Flow
from appliance.admin.settings import PROFILES
from appliance.core import files

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
HOST = re.compile(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+")
BROKER = re.compile(r"[A-Za-z0-9.-]+:\d{1,5}")
QUEUE = re.compile(r"[!-~]{1,255}")
NUMBER = re.compile(r"\d{1,9}")
WORD = re.compile(r"\S+")
_LAST_PRINTABLE = 32
NO_LISTS = "none"  # the images come from a registry, or are not wanted yet

_PRIVATE_KEY, _CERTIFICATE = b"PRIVATE KEY-----", b"-----BEGIN CERTIFICATE-----"
_PEM_LIMIT = 2**20  # bytes; a file with a chain has some kilobytes

KEEP = " keep "
"""Stands for the password in the file; the blanks keep it from being typed."""
SECRET_FILE = "file:"  # noqa: S105  the word itself is no secret
"""Begins the answer that names a file of the password instead of the password."""
Check = Callable[[str], str]
"""Returns what is wrong with an answer and how to write it; empty if it is right."""


@dataclass(frozen=True, slots=True)
class CloudAccount:
    """Name and password of an account of the cloud, in the domain ``Default``."""

    name: str
    password: str
    """Empty to keep the password in the file, or with ``password_file``."""
    password_file: str = ""
    """The file that holds the password; empty without one."""


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers about the site. Those of a flow that is off are empty."""

    profile: str
    """The federation: one of `PROFILES`."""
    flows: tuple[Flow, ...]
    site: str
    keystone: str
    authorities: str
    """The file (PEM) of authorities that verify the cloud's certificates."""
    region: str
    """The region of the cloud; empty for the first of its catalog, or to keep what is set."""
    projects: Mapping[str, tuple[str, ...]]
    """The projects of each VO, by id or name."""
    accounts: Mapping[Flow, CloudAccount]
    certificate: str
    key: str
    """The files of the host certificate and its key, PEM."""
    broker: str
    """The STOMP broker of a federation other than EGI, HOST:PORT."""
    queue: str
    """The queue of its accounting repository."""
    host: str
    email: str
    cores: str
    memory: str
    """Cores and memory of all hypervisors together; memory in GB."""
    lists: tuple[str, ...]


def split(words: str) -> list[str]:
    """Return the words of an answer, which blanks or commas separate."""
    return words.replace(",", " ").split()


def is_like(pattern: re.Pattern[str], example: str, needs: str = "") -> Check:
    """Return the check that an answer has a form, and contains ``needs``."""
    return lambda text: (
        "" if pattern.fullmatch(text) and needs in text else f"{text!r}: write it as in {example}"
    )


def profile(text: str) -> str:
    """Check the name of a federation."""
    return "" if text in PROFILES else f"{text!r}: write one of {', '.join(PROFILES)}"


def flows(text: str) -> str:
    """Check the names of flows."""
    known = ", ".join(Flow)
    if not split(text):
        return f"{text!r}: write one or more of {known}"
    unknown = set(split(text)) - {flow.value for flow in Flow}
    if not unknown:
        return ""
    return f"{', '.join(sorted(unknown))}: no such flow; write one or more of {known}"


def keystone(text: str) -> str:
    """Check the URL of Keystone."""
    return (
        ""
        if re.fullmatch(r"https?://[^\s/@?#]+(/[^\s@?#]*)?/v3/?", text)
        else f"{text!r}: write https://HOST:5000/v3"
    )


def lists(text: str) -> str:
    """Check the URLs of image lists."""
    if text == NO_LISTS:
        return ""
    return (
        ""
        if all(re.fullmatch(r"https?://\S+/\S+", url) for url in text.split())
        else "write https://HOST/PATH"
    )


def path(text: str) -> str:
    """Check the path of a file, which may be missing yet."""
    return (
        "" if text.startswith("/") and printable(text) == "" else f"{text!r}: write the whole path"
    )


def file(text: str) -> str:
    """Check the path of a file that exists."""
    return (
        ""
        if Path(text).is_absolute() and Path(text).is_file()
        else f"{text!r}: there is no such file"
    )


def certificate(text: str) -> str:
    """Check the path of a certificate; its copy is readable by every user, so no key is in it."""
    if wrong := file(text):
        return wrong
    if _PRIVATE_KEY in _content(text):
        return f"{text!r}: holds a private key; name the file of the certificate alone"
    return ""


def key(text: str) -> str:
    """Check the path of a private key, which is not that of the certificate."""
    if wrong := file(text):
        return wrong
    found = _content(text)
    if _CERTIFICATE in found and _PRIVATE_KEY not in found:
        return f"{text!r}: holds a certificate; name the file of its key"
    return ""


def _content(path: str) -> bytes:
    """Return the start of a file; empty if it cannot be read, which its copy reports."""
    try:
        with files.open_regular(Path(path), follow=True) as opened:
            return opened.read(_PEM_LIMIT)
    except OSError:
        return b""


def password(directory: str) -> Check:
    """Return the check of a password, which is never quoted, or of the file that holds it.

    ``directory`` is the one that the program's container sees; empty without containers.
    """

    def check(text: str) -> str:
        if not text.startswith(SECRET_FILE):
            return printable(text)
        name = text.removeprefix(SECRET_FILE)
        if wrong := file(name):
            return wrong
        is_seen = not directory or Path(directory) in Path(os.path.normpath(name)).parents
        return "" if is_seen else f"{name!r}: no container sees it; move it into {directory}"

    return check


def printable(text: str) -> str:
    """Check that an answer is one line without control characters."""
    return (
        ""
        if all(ord(character) >= _LAST_PRINTABLE for character in text)
        else "holds a control character"
    )
