"""The questions to the administrator, and the checks of the answers.

At a terminal each question offers the present value as its default. Otherwise standard input holds
one answer a line.
"""

from __future__ import annotations

import getpass
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from appliance.admin.inventory import Flow
from appliance.core.run.errors import UsageError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_VO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*=[A-Za-z0-9][A-Za-z0-9._-]*")
_HOST = re.compile(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+")
_NUMBER = re.compile(r"\d{1,9}")
_WORD = re.compile(r"\S+")
_LAST_PRINTABLE = 32
_NO_LISTS = "none"  # the images come from a registry, or are not wanted yet

KEEP = " keep "
"""Stands for the password in the file; the blanks keep it from being typed."""
Check = Callable[[str], str]
"""Returns what is wrong with an answer and how to write it; empty if it is right."""


@dataclass(frozen=True, slots=True)
class CloudAccount:
    """Name and password of an account of the cloud, in the domain ``Default``."""

    name: str
    password: str
    """Empty to keep the password in the file."""


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers about the site. Those of a flow that is off are empty."""

    flows: tuple[Flow, ...]
    site: str
    keystone: str
    authorities: str
    """The file (PEM) of authorities that verify the cloud's certificates."""
    projects: Mapping[str, str]
    """The id of the project of each VO."""
    accounts: Mapping[Flow, CloudAccount]
    certificate: str
    key: str
    """The files of the host certificate and its key, PEM."""
    host: str
    email: str
    cores: str
    memory: str
    """Cores and memory of all hypervisors together; memory in GB."""
    lists: tuple[str, ...]


class Interview:
    """Asks the questions; ``defaults`` are the values in the files, by question."""

    def __init__(self, defaults: Mapping[str, str]) -> None:
        self._defaults = defaults
        self._is_terminal = sys.stdin.isatty()

    def answers(self) -> Answers:
        """Ask all questions of the chosen flows.

        Raises:
            UsageError: The input ends, or an answer that is not from a terminal is wrong.

        """
        words = self._ask("flows", "Flows to take part in: accounting, information, images", _flows)
        flows = tuple(flow for flow in Flow if flow.value in _split(words))
        site = self._ask("site", "Name of the site, exactly as in GOCDB", _is(_NAME, "SITE-1"))
        keystone = self._ask("keystone", "URL of Keystone", _url)
        authorities = self._ask(
            "authorities", "File of the authorities that signed the cloud's certificates", _path
        )
        pairs = _split(
            self._ask("projects", "VOs with the ids of their projects: VO=ID, blanks between", _vos)
        )
        accounts = {flow: self._account(flow) for flow in flows}
        # Answers of flows that are off stay empty; their files are not changed.
        certificate = key = host = email = cores = memory = lists = ""
        if Flow.ACCOUNTING in flows:
            certificate = self._ask("certificate", "File of the host certificate (PEM)", _file)
            key = self._ask("key", "File of its key (PEM)", _file, offered=_beside(certificate))
        if Flow.INFORMATION in flows:
            host = self._ask(
                "host", "Name of this host, as others reach it", _is(_HOST, "bdii.example.org")
            )
            email = self._ask(
                "email", "E-mail address of the site's administrators", _is(_WORD, "NAME@HOST", "@")
            )
            cores = self._ask("cores", "Cores of all hypervisors together", _is(_NUMBER, "1024"))
            memory = self._ask(
                "memory", "Memory of all hypervisors together, in GB", _is(_NUMBER, "4096")
            )
        if Flow.IMAGES in flows:
            question = "URLs of image lists, blanks between, or none"
            lists = self._ask("lists", question, _urls)
        projects = dict(pair.split("=", 1) for pair in pairs)
        return Answers(
            flows=flows,
            site=site,
            keystone=keystone,
            authorities=authorities,
            projects=projects,
            accounts=accounts,
            certificate=certificate,
            key=key,
            host=host,
            email=email,
            cores=cores,
            memory=memory,
            lists=() if lists == _NO_LISTS else tuple(lists.split()),
        )

    def _account(self, flow: Flow) -> CloudAccount:
        name = self._ask(
            f"{flow}-account", f"Account for {flow}, in the domain Default", _is(_WORD, flow.value)
        )
        password = self._ask(f"{flow}-password", f"Password of {name}", _printable, is_secret=True)
        return CloudAccount(name, "" if password == KEEP else password)

    def _ask(
        self, key: str, question: str, check: Check, *, is_secret: bool = False, offered: str = ""
    ) -> str:
        """Ask until the answer passes its check; ``offered`` precedes the value in the files."""
        default = offered or self._defaults.get(key, "")
        prompt = f"{question}{f' [{default.strip()}]' if default else ''}: "
        while True:
            answer = self._read(prompt, question, is_secret=is_secret) or default
            wrong = check(answer.strip()) if answer else "must be answered"
            if not wrong:
                return answer
            if not self._is_terminal:
                raise UsageError(question, wrong)
            print(f"  {wrong}")

    def _read(self, prompt: str, question: str, *, is_secret: bool) -> str:
        if self._is_terminal:
            return (getpass.getpass(prompt) if is_secret else input(prompt)).strip()
        # An empty line accepts the default, so only the end of the input is an error.
        line = sys.stdin.readline()
        if not line:
            raise UsageError(
                question, "the input ends before this answer", "write one answer a line"
            )
        return line.strip()


def _split(words: str) -> list[str]:
    return words.replace(",", " ").split()


def _is(pattern: re.Pattern[str], example: str, needs: str = "") -> Check:
    return lambda text: (
        "" if pattern.fullmatch(text) and needs in text else f"{text!r}: write it as in {example}"
    )


def _flows(text: str) -> str:
    unknown = set(_split(text)) - {flow.value for flow in Flow}
    return (
        f"{', '.join(sorted(unknown))}: no such flow; write one or more of {', '.join(Flow)}"
        if unknown
        else ""
    )


def _url(text: str) -> str:
    return (
        ""
        if re.fullmatch(r"https?://[^\s/]+(/\S*)?/v3/?", text)
        else f"{text!r}: write https://HOST:5000/v3"
    )


def _urls(text: str) -> str:
    if text == _NO_LISTS:
        return ""
    return (
        ""
        if all(re.fullmatch(r"https?://\S+/\S+", url) for url in text.split())
        else "write https://HOST/PATH"
    )


def _path(text: str) -> str:
    return (
        "" if text.startswith("/") and _printable(text) == "" else f"{text!r}: write the whole path"
    )


def _file(text: str) -> str:
    return (
        ""
        if Path(text).is_absolute() and Path(text).is_file()
        else f"{text!r}: there is no such file"
    )


def _beside(certificate: str) -> str:
    """Return the key with the certificate's name and ``key`` for ``cert``; empty if none."""
    path = Path(certificate)
    key = path.with_name(path.name.replace("cert", "key"))
    return str(key) if key != path and key.is_file() else ""


def _vos(text: str) -> str:
    wrong = [pair for pair in _split(text) if not _VO.fullmatch(pair)]
    return f"{wrong[0]!r}: write VO=ID, as in vo.example.org=4c9e…" if wrong else ""


def _printable(text: str) -> str:
    return (
        ""
        if all(ord(character) >= _LAST_PRINTABLE for character in text)
        else "holds a control character"
    )
