"""The description of a site, in the three files that site administrators have.

glite-info-site-defaults.conf   ``SITE_NAME=…``, ``SITE_BDII_HOST=…``, in shell form
site.cfg                        ``KEY = value``; ``OTHERINFO`` any number of times
site-urls.conf                  ``NAME ldap://host:port/base``, one BDII to pull from a line
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

from appliance.core import hosts
from appliance.core.config import document, shell
from appliance.core.config.document import Document, Setting
from appliance.core.config.settings import Settings
from appliance.core.glue import degrees
from appliance.core.run.errors import ConfigurationError, Problem
from bdii.ignored import IGNORED

SECTION = "DEFAULT"
_ASSIGNMENT = re.compile(r"(?P<key>\w+)\s*=\s*(?P<value>.*)")
_PULL = re.compile(
    r"(?P<name>[-.\w]+)\s+(?P<url>ldap://(?:\[[0-9A-Fa-f:.]+\]|[-.\w]+):(?P<port>\d{1,5}))"
    r"/(?P<base>\S+)"
)
# Bases of GLUE 1, which existing files have: Mds-Vo-name=resource,o=grid and =SITE,o=grid.
_RESOURCE = re.compile(r"(?:.*,)?mds-vo-name=resource,o=grid", re.IGNORECASE)
_DOMAIN = re.compile(r"mds-vo-name=(?P<name>[^,]+),o=grid", re.IGNORECASE)
_GLUE = re.compile(r"(?:.*,)?o=glue", re.IGNORECASE)
_HOST = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")
_NO_NAME = "{!r} is not a site name of GOCDB; use letters, digits and . _ -"


@dataclass(frozen=True, slots=True)
class Pull:
    """A BDII to pull from: ``url`` without a path, ``base`` in GLUE 2.0."""

    name: str
    url: str
    base: str
    place: tuple[Path, int] = field(default=(Path(), 0), compare=False)
    """File and line that name it."""


@dataclass(frozen=True, slots=True)
class Site:
    """A site. Texts that the administrator left out are empty.

    Attributes:
        name: as in GOCDB.
        host: the public name of this BDII.
        email: of the administrators.
        security_email: for security incidents.
        support_email: for users.
        description: for readers.
        web: URL of the site's page.
        location: the town.
        country: in which the town is.
        latitude: in degrees.
        longitude: in degrees.
        other_info: values of ``OTHERINFO``.
        pulls: the BDIIs to pull from.
        problems: wrong lines of site-urls.conf, named by their first word; the others are used.
        named_in: the file and line of the name.
        has_images: whether the images of the BDIIs below are published.
        timeout: for one BDII to answer.

    """

    name: str
    host: str
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
    timeout: timedelta = timedelta(seconds=30)
    named_in: str = ""
    has_images: bool = True


def read(
    defaults: Path, site_file: Path, urls: Path, *, timeout: timedelta
) -> tuple[Site, tuple[Problem, ...]]:
    """Return the site of the three files, and warnings.

    Raises `ConfigurationError` with all errors in all files.
    """
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
    if not pulls:
        words = "names no BDII, so no cloud is published; write NAME ldap://HOST:PORT/BASE"
        warnings += (Problem(urls, 0, "", words, is_fatal=False),)
    return replace(site, host=host, pulls=pulls, problems=skipped, timeout=timeout), warnings


def _read_defaults(path: Path) -> tuple[str, str]:
    options = Settings(document.read([path], shell.parse))
    name = options.text(
        SECTION,
        "SITE_NAME",
        default=".".join(socket.getfqdn().split(".")[1:]),
        required="the site's name in GOCDB",
        placeholders=["SITE-NAME"],
    )
    host = options.text(
        SECTION,
        "SITE_BDII_HOST",
        default=socket.getfqdn(),
        required="the public name of this machine",
        placeholders=["bdii.example.com"],
    )
    if host and not _HOST.fullmatch(host):
        text = f"{host!r} is not a host name; write a name or address without scheme and port"
        options.error(SECTION, "SITE_BDII_HOST", text)
    if name and not _NAME.fullmatch(name):
        options.error(SECTION, "SITE_NAME", _NO_NAME.format(name))
    options.finish()
    return name, host


def _read_site(path: Path, name: str) -> tuple[Site, tuple[Problem, ...]]:
    assignments, other_info = _parse_site(path, document.read_text(path))
    options = Settings(assignments)

    def text(key: str, required: str = "", placeholder: str = "@example.com") -> str:
        placeholders = [placeholder] if required else []
        return options.text(SECTION, key, required=required, placeholders=placeholders)

    site = Site(
        name=text("SITE_NAME", "the site's name in GOCDB", "SITE-NAME"),
        host="",
        email=text("SITE_EMAIL", "the administrators' mail address"),
        security_email=text("SITE_SECURITY_EMAIL", "the mail address for security incidents"),
        support_email=text("SITE_SUPPORT_EMAIL", "the mail address for users"),
        description=text("SITE_DESC"),
        web=text("SITE_WEB"),
        location=text("SITE_LOC"),
        country=text("SITE_COUNTRY"),
        latitude=_degrees(options, "SITE_LAT", degrees.LATITUDE),
        longitude=_degrees(options, "SITE_LONG", degrees.LONGITUDE),
        other_info=tuple(entry.text for entry in other_info if entry.text),
        named_in=_where(options, "SITE_NAME"),
    )
    options.accept(SECTION, IGNORED["site.cfg"])
    if site.name and not _NAME.fullmatch(site.name):
        options.error(SECTION, "SITE_NAME", _NO_NAME.format(site.name))
    if name and site.name and site.name != name:
        words = f"{site.name!r} here, {name!r} in glite-info-site-defaults.conf"
        options.error(SECTION, "SITE_NAME", f"{words}; write the same name in both files")
    return site, options.finish()


def _where(options: Settings, key: str) -> str:
    entry = options.where(SECTION, key)
    return f"{entry.path}:{entry.line}" if entry else ""


def _degrees(options: Settings, key: str, most: int) -> str:
    text = options.text(SECTION, key)
    if fault := degrees.fault(text, most):
        options.error(SECTION, key, fault)
    return text


def _parse_site(path: Path, text: str) -> tuple[Document, list[Setting]]:
    """Return the assignments of a site.cfg; those of OTHERINFO, which repeats, as a list."""
    made, other_info, problems = Document(paths=[path]), list[Setting](), list[Problem]()
    for number, line in _lines(text):
        match = _ASSIGNMENT.fullmatch(line)
        if match is None:
            problems.append(Problem(path, number, "", f"not 'KEY = value': {line[:40]!r}"))
            continue
        entry = Setting(match["value"].strip(), path, number)
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
    """Return the BDIIs of a site-urls.conf, bases translated to GLUE 2.0, and its wrong lines.

    Raises `ConfigurationError` if the file cannot be read, or if all its lines are wrong.
    """
    pulls: dict[str, Pull] = {}
    problems = []
    for number, line in _lines(document.read_text(path)):
        match = _PULL.fullmatch(line)
        base = _translated(match["base"]) if match else ""
        name = match["name"] if match else _first_word(line)
        if match is None:
            cause = f"not 'NAME ldap://host:port/base', the port included: {line[:60]!r}"
        elif not 1 <= int(match["port"]) <= hosts.MAX_PORT:
            cause = f"{match['port']} is no port; write a number from 1 to {hosts.MAX_PORT}"
        elif not base:
            cause = f"base {match['base']!r} is neither below o=glue nor mds-vo-name=…,o=grid"
        elif name in pulls:
            cause = "an earlier line has the same name; rename one of them"
        else:
            pulls[name] = Pull(name, match["url"], base, (path, number))
            continue
        problems.append(Problem(path, number, name, cause))
    if problems and not pulls:
        raise ConfigurationError(problems)
    return tuple(pulls.values()), tuple(problems)


def _first_word(line: str) -> str:
    name = line.split(maxsplit=1)[0]
    return name if _NAME.fullmatch(name) else ""


def _translated(base: str) -> str:
    """Return the GLUE 2.0 base for a base of GLUE 1 or 2; empty if it is neither."""
    if _GLUE.fullmatch(base):
        return base
    if _RESOURCE.fullmatch(base):
        return "GLUE2GroupID=resource,o=glue"
    domain = _DOMAIN.fullmatch(base)
    return f"GLUE2DomainID={domain['name']},o=glue" if domain else ""


def _lines(text: str) -> list[tuple[int, str]]:
    """Return the numbers and texts of lines that are neither blank nor comments."""
    numbered = enumerate(map(str.strip, text.splitlines()), start=1)
    return [(number, line) for number, line in numbered if line and line[0] != "#"]
