"""What ``bdii.conf`` says: the keys of the bdii package's daemon and start script, in shell form, and some of our own.

The file describes one BDII. With ``BDII_SITE_CFG`` it is a site's, which pulls from others and
publishes what its site files say; without, it is the resource's, which publishes what the programs
and files of its directories print.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from appliance.core.config import document, shell
from appliance.core.config.settings import Settings
from appliance.core.run.errors import ConfigurationError, Problem
from appliance.core.run.layout import Layout
from bdii.ignored import IGNORED
from bdii.site.settings import Site
from bdii.site.settings import read as read_site

SECTION = "DEFAULT"
LEVELS = ("CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG")
_SOCKET_LENGTH = 100  # of the 107 octets that a socket's address has

_HOST = re.compile(r"[!-~]{1,200}")

_SITE_CFG = re.compile(r"^\s*(?:export\s+)?BDII_SITE_CFG=\S", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class BdiiSettings:
    """One BDII. Directories need not exist yet."""

    level: str
    """``resource`` or ``site``."""
    hostname: str
    """Names the entry below o=infosys."""
    addresses: tuple[str, ...]
    """What slapd listens on, IPv6 without brackets."""
    port: int
    state: Path
    run: Path
    """Holds slapd's unix socket."""
    ldif_directory: Path
    provider_directory: Path
    read_timeout: timedelta
    """For one provider."""
    breathe: timedelta
    """Between two cycles."""
    delete_delay: timedelta
    """How long a vanished entry stays."""
    expiry: timedelta
    """How long data stay whose source fails."""
    shrink_hold: timedelta
    """How long deletions wait that take more than half of the tree."""
    source_limit: int
    """What one source may print, in octets."""
    slapd: Path
    schemas: Path
    log_file: Path | None
    log_level: int
    site: Site | None
    runs: Path

    @property
    def socket(self) -> Path:
        """Slapd's unix socket, the only way to write."""
        return self.run / "ldapi"

    def listens_unlike(self, other: BdiiSettings) -> bool:
        """Tell whether slapd would have to be started anew to go from one to the other."""
        return any(
            getattr(self, name) != getattr(other, name)
            for name in ("level", "addresses", "port", "state", "run", "slapd", "schemas")
        )


def level_of(path: Path) -> str:
    """Return the level of the BDII of a configuration, even of one that has errors."""
    try:
        text = document.read_text(path)
    except ConfigurationError:
        return "resource"
    return "site" if _SITE_CFG.search(text) else "resource"


def read(path: Path, *, layout: Layout) -> tuple[BdiiSettings, tuple[Problem, ...]]:
    """Read a configuration and the site files that it names; returns the warnings too.

    Raises `ConfigurationError` with everything that is wrong in all of them.
    """
    get = Settings(document.read([path], shell.parse))
    site_file = get.path(SECTION, "BDII_SITE_CFG", default=Path())
    level = "resource" if site_file == Path() else "site"
    state = get.path(
        SECTION, "BDII_VAR_DIR", default=layout.path(f"/var/lib/fedcloud/bdii/{level}")
    )
    gip = layout.path("/etc/bdii/gip")
    site_paths = (
        get.path(SECTION, "BDII_SITE_DEFAULTS", default=gip / "glite-info-site-defaults.conf"),
        site_file,
        get.path(SECTION, "BDII_SITE_URLS", default=gip / "site-urls.conf"),
    )
    site_timeout = _seconds(get, "BDII_SITE_TIMEOUT", 30, minimum=1)
    port = get.integer(SECTION, "BDII_PORT", default=2170, minimum=1, maximum=65535)
    log_file = get.path(SECTION, "BDII_LOG_FILE", default=Path())
    settings = BdiiSettings(
        level=level,
        hostname=get.text(SECTION, "BDII_HOSTNAME", default="localhost") or "localhost",
        addresses=_addresses(get),
        port=get.integer(SECTION, "SLAPD_PORT", default=port, minimum=1, maximum=65535),
        state=state,
        run=get.path(SECTION, "BDII_RUN_DIR", default=state / "run"),
        ldif_directory=get.path(SECTION, "BDII_LDIF_DIR", default=state / "gip/ldif"),
        provider_directory=get.path(SECTION, "BDII_PROVIDER_DIR", default=state / "gip/provider"),
        read_timeout=_seconds(get, "BDII_READ_TIMEOUT", 300, minimum=1),
        breathe=_seconds(get, "BDII_BREATHE_TIME", 120, minimum=1),
        delete_delay=_seconds(get, "BDII_DELETE_DELAY", 0),
        expiry=_seconds(get, "BDII_EXPIRY", 43200),
        shrink_hold=_seconds(get, "BDII_SHRINK_HOLD", 3600),
        source_limit=get.integer(
            SECTION, "BDII_SOURCE_LIMIT", default=100, minimum=1, maximum=10_000
        )
        * 1_000_000,
        slapd=get.path(SECTION, "SLAPD", default=Path("/usr/sbin/slapd")),
        schemas=get.path(SECTION, "BDII_SCHEMA_DIR", default=Path("/etc/ldap/schema")),
        log_file=None if log_file == Path() else log_file,
        log_level=getattr(
            logging, get.choice(SECTION, "BDII_LOG_LEVEL", default="INFO", allowed=LEVELS)
        ),
        site=None,
        runs=layout.runs,
    )
    _check(get, settings)
    return _with_site(get, settings, site_paths, site_timeout)


def _seconds(get: Settings, option: str, default: int, *, minimum: int = 0) -> timedelta:
    return timedelta(seconds=get.integer(SECTION, option, default=default, minimum=minimum))


def _addresses(get: Settings) -> tuple[str, ...]:
    addresses = [get.text(SECTION, "SLAPD_HOST", default="0.0.0.0")]  # noqa: S104  a public, read-only service
    if get.boolean(SECTION, "BDII_IPV6_SUPPORT", default=False):
        addresses.append(get.text(SECTION, "SLAPD_HOST6", default="::"))
    get.accept(SECTION, ["SLAPD_HOST6"])
    return tuple(addresses)


def _check(get: Settings, settings: BdiiSettings) -> None:
    if not _HOST.fullmatch(settings.hostname):
        get.error(SECTION, "BDII_HOSTNAME", f"{settings.hostname!r} is not the name of a host")
    for option, instead in IGNORED.items():
        get.accept(SECTION, [option])
        if get.where(SECTION, option) is not None:
            get.warn(SECTION, option, f"has no effect here: {instead}")
    if len(bytes(settings.socket)) > _SOCKET_LENGTH:
        text = f"{settings.run} is too long for a socket's address; write a directory of at most 90 characters"
        get.error(SECTION, "BDII_RUN_DIR", text)


def _with_site(
    get: Settings, settings: BdiiSettings, paths: tuple[Path, Path, Path], timeout: timedelta
) -> tuple[BdiiSettings, tuple[Problem, ...]]:
    """Finish reading: the errors of all files are told together."""
    problems: list[Problem] = []
    warnings: tuple[Problem, ...] = ()
    try:
        warnings = get.finish()
    except ConfigurationError as error:
        problems += error.problems
    if settings.level == "site":
        try:
            site, more = read_site(*paths, timeout=timeout)
            settings, warnings = replace(settings, site=site), warnings + more
        except ConfigurationError as error:
            problems += error.problems
    if problems:
        raise ConfigurationError(problems)
    return settings, warnings
