"""The settings of ``bdii.conf``: keys of the upstream bdii package in shell form, and our own.

The file describes one BDII. With ``BDII_SITE_CFG`` it is a site's BDII, which pulls from others and
publishes the descriptions in the site's files. Without it, it is a resource's BDII, which publishes
the output of the programs and the files in its directories.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from appliance.core import hosts
from appliance.core.config import document, shell
from appliance.core.config.settings import Settings
from appliance.core.run.errors import ConfigurationError, Problem
from appliance.core.run.layout import Layout
from bdii.ignored import IGNORED
from bdii.site.settings import Site
from bdii.site.settings import read as read_site
from bdii.sources.last_good import Expiry

SECTION = "DEFAULT"
LEVELS = ("CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG")
# Bytes of a unix socket's address (sockaddr_un has 107), less some for slapd's own use.
_SOCKET_LENGTH = 100

_HOST = re.compile(r"[!-~]{1,200}")
_SITE_CFG = re.compile(r"^\s*(?:export\s+)?BDII_SITE_CFG=\S", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class BdiiSettings:
    """One BDII. Directories need not exist yet.

    Attributes:
        level: ``resource`` or ``site``.
        hostname: names the entry below o=infosys.
        addresses: that slapd listens on, IPv6 without brackets.
        port: that slapd listens on.
        state: directory of the state.
        run: directory of slapd's unix socket.
        ldif_directory: holds files with LDIF.
        provider_directory: holds programs that print LDIF.
        plugin_directory: holds programs that modify the merged tree.
        read_timeout: for one provider.
        breathe: pause between two cycles.
        delete_delay: for which a vanished entry stays published.
        expiry: age at which stale data are removed.
        shrink_hold: for which deletions of more than half of the tree wait.
        source_limit: bytes that one source may print.
        slapd: the program.
        schemas: directory of slapd's schemas.
        log_file: None for standard error.
        log_level: of `logging`.
        site: description of the site; None for a resource.
        runs: directory of run records.

    """

    level: str
    hostname: str
    addresses: tuple[str, ...]
    port: int
    state: Path
    run: Path
    ldif_directory: Path
    provider_directory: Path
    plugin_directory: Path
    read_timeout: timedelta
    breathe: timedelta
    delete_delay: timedelta
    expiry: Expiry
    shrink_hold: timedelta
    source_limit: int
    slapd: Path
    schemas: Path
    log_file: Path | None
    log_level: int
    site: Site | None
    runs: Path

    @property
    def socket(self) -> Path:
        """Path of slapd's unix socket, the only way to write."""
        return self.run / "ldapi"

    def listens_unlike(self, other: BdiiSettings) -> bool:
        """Check whether slapd must be restarted to apply these settings instead of the others."""
        return any(
            getattr(self, name) != getattr(other, name)
            for name in ("level", "addresses", "port", "state", "run", "slapd", "schemas")
        )


def level_of(path: Path) -> str:
    """Return the level of a configuration's BDII, even if the configuration has errors."""
    try:
        text = document.read_text(path)
    except ConfigurationError:
        return "resource"
    return "site" if _SITE_CFG.search(text) else "resource"


def read(path: Path, *, layout: Layout) -> tuple[BdiiSettings, tuple[Problem, ...]]:
    """Return the settings of a configuration and of the site files that it names, and warnings.

    Raises `ConfigurationError` with all errors in all files.
    """
    options = Settings(document.read([path], shell.parse))
    site_file = options.path(SECTION, "BDII_SITE_CFG", default=Path())
    level = "resource" if site_file == Path() else "site"
    state = options.path(
        SECTION, "BDII_VAR_DIR", default=layout.path(f"/var/lib/fedcloud/bdii/{level}")
    )
    gip = layout.path("/etc/bdii/gip")
    site_paths = (
        options.path(SECTION, "BDII_SITE_DEFAULTS", default=gip / "glite-info-site-defaults.conf"),
        site_file,
        options.path(SECTION, "BDII_SITE_URLS", default=gip / "site-urls.conf"),
    )
    site_timeout = _seconds(options, "BDII_SITE_TIMEOUT", 30, minimum=1)
    has_images = options.boolean(SECTION, "BDII_SITE_IMAGES", default=True)
    port = options.integer(SECTION, "BDII_PORT", default=2170, minimum=1, maximum=hosts.MAX_PORT)
    log_file = options.path(SECTION, "BDII_LOG_FILE", default=Path())
    log_level = options.choice(SECTION, "BDII_LOG_LEVEL", default="INFO", allowed=LEVELS)
    megabytes = options.integer(
        SECTION, "BDII_SOURCE_LIMIT", default=100, minimum=1, maximum=10_000
    )
    settings = BdiiSettings(
        level=level,
        hostname=options.text(SECTION, "BDII_HOSTNAME", default="localhost") or "localhost",
        addresses=_addresses(options),
        # two names of one setting; SLAPD_PORT counts if a file has both
        port=options.integer(
            SECTION, "SLAPD_PORT", default=port, minimum=1, maximum=hosts.MAX_PORT
        ),
        state=state,
        run=options.path(SECTION, "BDII_RUN_DIR", default=state / "run"),
        ldif_directory=options.path(SECTION, "BDII_LDIF_DIR", default=state / "gip/ldif"),
        provider_directory=options.path(
            SECTION, "BDII_PROVIDER_DIR", default=state / "gip/provider"
        ),
        plugin_directory=options.path(SECTION, "BDII_PLUGIN_DIR", default=state / "gip/plugin"),
        read_timeout=_seconds(options, "BDII_READ_TIMEOUT", 300, minimum=1),
        breathe=_seconds(options, "BDII_BREATHE_TIME", 120, minimum=1),
        delete_delay=_seconds(options, "BDII_DELETE_DELAY", 0),
        expiry=Expiry(
            parts=_seconds(options, "BDII_EXPIRY", 43_200),
            # 0: the data of a silent source stay for ever
            silent=_seconds(options, "BDII_EXPIRY_SILENT", 604_800) or None,
        ),
        shrink_hold=_seconds(options, "BDII_SHRINK_HOLD", 3600),
        source_limit=megabytes * 1_000_000,
        slapd=options.path(SECTION, "SLAPD", default=Path("/usr/sbin/slapd")),
        schemas=options.path(SECTION, "BDII_SCHEMA_DIR", default=Path("/etc/ldap/schema")),
        log_file=None if log_file == Path() else log_file,
        log_level=getattr(logging, log_level),
        site=None,
        runs=layout.runs,
    )
    _check(options, settings)
    return _with_site(options, settings, site_paths, timeout=site_timeout, has_images=has_images)


def _seconds(options: Settings, option: str, default: int, *, minimum: int = 0) -> timedelta:
    return timedelta(seconds=options.integer(SECTION, option, default=default, minimum=minimum))


def _addresses(options: Settings) -> tuple[str, ...]:
    everywhere = "0.0.0.0"  # noqa: S104  a public, read-only service
    addresses = [options.text(SECTION, "SLAPD_HOST", default=everywhere)]
    if options.boolean(SECTION, "BDII_IPV6_SUPPORT", default=False):
        addresses.append(options.text(SECTION, "SLAPD_HOST6", default="::"))
    options.accept(SECTION, ["SLAPD_HOST6"])
    return tuple(addresses)


def _check(options: Settings, settings: BdiiSettings) -> None:
    if not _HOST.fullmatch(settings.hostname):
        text = f"{settings.hostname!r} is not a host name; write printable ASCII without blanks"
        options.error(SECTION, "BDII_HOSTNAME", text)
    options.ignore(SECTION, IGNORED["bdii.conf"])
    if len(bytes(settings.socket)) > _SOCKET_LENGTH:
        text = f"'{settings.run}' is too long for a socket; use a path of at most 90 characters"
        options.error(SECTION, "BDII_RUN_DIR", text)


def _with_site(
    options: Settings,
    settings: BdiiSettings,
    paths: tuple[Path, Path, Path],
    *,
    timeout: timedelta,
    has_images: bool,
) -> tuple[BdiiSettings, tuple[Problem, ...]]:
    """Finish reading, and report the errors of all files together."""
    problems: list[Problem] = []
    warnings: tuple[Problem, ...] = ()
    try:
        warnings = options.finish()
    except ConfigurationError as error:
        problems += error.problems
    if settings.level == "site":
        try:
            site, more = read_site(*paths, timeout=timeout)
            site = replace(site, has_images=has_images)
            settings, warnings = replace(settings, site=site), warnings + more
        except ConfigurationError as error:
            problems += error.problems
    if problems:
        raise ConfigurationError(problems)
    return settings, warnings
