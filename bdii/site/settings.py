"""What a site says of itself, in the three files that site administrators have.

glite-info-site-defaults.conf   ``SITE_NAME=…``, ``SITE_BDII_HOST=…``, in shell form
site.cfg                        ``KEY = value``; ``OTHERINFO`` any number of times
site-urls.conf                  ``NAME ldap://host:port/base``, one BDII to pull from a line
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from appliance.core.config import document, shell
from appliance.core.config.document import Document, Entry
from appliance.core.config.settings import Settings
from appliance.core.run.errors import ConfigurationError, Problem

SECTION = "DEFAULT"
_ASSIGNMENT = re.compile(r"(?P<key>\w+)\s*=\s*(?P<value>.*)")
_PULL = re.compile(
    r"(?P<name>[-.\w]+)\s+(?P<url>ldap://(?:\[[0-9A-Fa-f:.]+\]|[-.\w]+):\d{1,5})/(?P<base>\S+)"
)
_RESOURCE = re.compile(r"(?:.*,)?mds-vo-name=resource,o=grid", re.IGNORECASE)
_DOMAIN = re.compile(r"mds-vo-name=(?P<name>[^,]+),o=grid", re.IGNORECASE)
_HOST = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")
_NO_NAME = "{!r} is not the name of a site in GOCDB: letters, digits and . _ -"
_GLUE = re.compile(r"(?:.*,)?o=glue", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Pull:
    """A BDII to pull from: ``url`` without a path, ``base`` of GLUE 2.0."""

    name: str
    url: str
    base: str


@dataclass(frozen=True, slots=True)
class Site:
    """A site. Texts that the administrator left out are empty."""

    name: str
    host: str
    """Where this BDII is reached from outside."""
    email: str
    security_email: str
    support_email: str
    description: str = ""
    web: str = ""
    location: str = ""
    country: str = ""
    latitude: str = ""
    longitude: str = ""
    other_info: tuple[str, ...] = ()
    pulls: tuple[Pull, ...] = ()
    problems: tuple[Problem, ...] = ()
    """Wrong lines of site-urls.conf, each with the name at its beginning; the others are good."""
    timeout: timedelta = timedelta(seconds=30)


def read(
    defaults: Path, site_file: Path, urls: Path, *, timeout: timedelta
) -> tuple[Site, tuple[Problem, ...]]:
    """Read the three files; returns the warnings too. Raises `ConfigurationError` with everything that is wrong."""
    problems: list[Problem] = []
    name, host, site = "", "", None
    pulls: tuple[Pull, ...] = ()
    skipped: tuple[Problem, ...] = ()
    try:
        name, host = _read_defaults(defaults)
    except ConfigurationError as error:
        problems += error.problems
    try:
        pulls, skipped = read_pulls(urls)
    except ConfigurationError as error:
        problems += error.problems
    try:
        site, warnings = _read_site(site_file, name)
    except ConfigurationError as error:
        problems += error.problems
    if problems or site is None:
        raise ConfigurationError(sorted(problems))
    return replace(site, host=host, pulls=pulls, problems=skipped, timeout=timeout), warnings


def _read_defaults(path: Path) -> tuple[str, str]:
    get = Settings(document.read([path], shell.parse))
    name = get.text(
        SECTION,
        "SITE_NAME",
        default=".".join(socket.getfqdn().split(".")[1:]),
        required="the site's name in GOCDB",
        placeholders=["SITE-NAME"],
    )
    host = get.text(
        SECTION,
        "SITE_BDII_HOST",
        default=socket.getfqdn(),
        required="the name under which this machine is reached from outside",
        placeholders=["bdii.example.com"],
    )
    if host and not _HOST.fullmatch(host):
        get.error(SECTION, "SITE_BDII_HOST", f"{host!r} is not the name of a host")
    if name and not _NAME.fullmatch(name):
        get.error(SECTION, "SITE_NAME", _NO_NAME.format(name))
    get.finish()
    return name, host


def _read_site(path: Path, name: str) -> tuple[Site, tuple[Problem, ...]]:
    document_, other_info = _parse_site(path, document.read_text(path))
    get = Settings(document_)

    def text(key: str, required: str = "") -> str:
        return get.text(
            SECTION, key, required=required, placeholders=["@example.com"] if required else ()
        )

    site = Site(
        name=get.text(
            SECTION, "SITE_NAME", required="the site's name in GOCDB", placeholders=["SITE-NAME"]
        ),
        host="",
        email=text("SITE_EMAIL", "the administrators' mail address"),
        security_email=text("SITE_SECURITY_EMAIL", "the mail address for security incidents"),
        support_email=text("SITE_SUPPORT_EMAIL", "the mail address for users"),
        description=text("SITE_DESC"),
        web=text("SITE_WEB"),
        location=text("SITE_LOC"),
        country=text("SITE_COUNTRY"),
        latitude=_degrees(get, "SITE_LAT", 90),
        longitude=_degrees(get, "SITE_LONG", 180),
        other_info=tuple(entry.text for entry in other_info if entry.text),
    )
    get.accept(SECTION, ["SITE_DISTRIBUTED"])
    if site.name and not _NAME.fullmatch(site.name):
        get.error(SECTION, "SITE_NAME", _NO_NAME.format(site.name))
    if name and site.name and site.name != name:
        get.error(
            SECTION,
            "SITE_NAME",
            f"{site.name!r} here, {name!r} in glite-info-site-defaults.conf; write one name",
        )
    return site, get.finish()


def _degrees(get: Settings, key: str, most: int) -> str:
    text = get.text(SECTION, key)
    try:
        is_right = not text or abs(float(text)) <= most
    except ValueError:
        is_right = False
    if not is_right:
        get.error(
            SECTION,
            key,
            f"{text!r} is not allowed; write degrees from -{most} to {most}, such as 43.46",
        )
    return text


def _parse_site(path: Path, text: str) -> tuple[Document, list[Entry]]:
    """Return the assignments of a site.cfg, and apart from them those of OTHERINFO."""
    made, other_info, problems = Document(paths=[path]), list[Entry](), list[Problem]()
    for number, line in _lines(text):
        match = _ASSIGNMENT.fullmatch(line)
        if match is None:
            problems.append(Problem(path, number, "", f"not 'KEY = value': {line[:40]!r}"))
            continue
        entry = Entry(match["value"].strip(), path, number)
        if match["key"] == "OTHERINFO":
            other_info.append(entry)
        elif earlier := made.get(SECTION, match["key"]):
            text = f"is set a second time; first in line {earlier.line}; remove one"
            problems.append(Problem(path, number, match["key"], text))
        else:
            made.set(SECTION, match["key"], entry)
    if problems:
        raise ConfigurationError(problems)
    return made, other_info


def read_pulls(path: Path) -> tuple[tuple[Pull, ...], tuple[Problem, ...]]:
    """Read a site-urls.conf, bases translated; return its good lines and what is wrong with others.

    Raises `ConfigurationError` when the file cannot be read, or has no good line among wrong ones.
    """
    pulls: dict[str, Pull] = {}
    problems = []
    for number, line in _lines(document.read_text(path)):
        match = _PULL.fullmatch(line)
        base = _translated(match["base"]) if match else ""
        name = match["name"] if match else _first_word(line)
        if match is None:
            cause = f"not 'NAME ldap://host:port/base', the port included: {line[:60]!r}"
        elif not base:
            cause = f"base {match['base']!r} is neither below o=glue nor mds-vo-name=…,o=grid"
        elif name in pulls:
            cause = "this name stands here a second time"
        else:
            pulls[name] = Pull(name, match["url"], base)
            continue
        problems.append(Problem(path, number, name, cause))
    if problems and not pulls:
        raise ConfigurationError(problems)
    return tuple(pulls.values()), tuple(problems)


def _first_word(line: str) -> str:
    name = line.split(maxsplit=1)[0]
    return name if _NAME.fullmatch(name) else ""


def _translated(base: str) -> str:
    """Return the base in GLUE 2.0 that one of either version means; empty when it means none."""
    if _GLUE.fullmatch(base):
        return base
    if _RESOURCE.fullmatch(base):
        return "GLUE2GroupID=resource,o=glue"
    domain = _DOMAIN.fullmatch(base)
    return f"GLUE2DomainID={domain['name']},o=glue" if domain else ""


def _lines(text: str) -> list[tuple[int, str]]:
    numbered = enumerate(text.splitlines(), start=1)
    return [
        (number, line.strip())
        for number, line in numbered
        if line.strip() and line.strip()[0] != "#"
    ]
