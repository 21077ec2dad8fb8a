"""The configuration of the accounting programs, with the options of cASO 1.1.1 to 5.2.2.

Values come from files, then from ``OS_GROUP__OPTION`` in the environment, then from flags; later
ones win. The files are those that oslo.config reads for a project named caso. Options of cASO that
have no effect here are accepted; one that asks for a feature that is missing here gets a warning.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from pathlib import Path

from appliance.core import clock
from appliance.core.cloud import access
from appliance.core.cloud import vo as vo_module
from appliance.core.cloud.login import Access
from appliance.core.config import document, oslo
from appliance.core.config.document import Document, Setting
from appliance.core.config.settings import Settings, state_of
from appliance.core.run import place
from appliance.core.run.errors import ConfigurationError, Problem
from appliance.core.run.layout import Layout
from appliance.core.run.log import SystemLogs
from caso import ignored
from caso.checkpoint import is_file_name
from caso.kinds.text import LONGEST
from caso.ledger.model import MONTHS
from caso.messengers import record_types
from caso.messengers.messenger import Messenger
from caso.messengers.registry import reader
from caso.sources import registry as sources
from caso.sources.source import BENCHMARK_TYPE, BENCHMARK_VALUE, AcceleratorKeys, Names

_SPOOL = "/var/spool/caso"
_SENT_JOURNAL = "/var/lib/fedcloud/ssm/sent.sqlite"
_STATE = "/var/lib/fedcloud/caso"
# cASO 1 had its files directly in /etc.
_MAPPINGS = ("/etc/caso/voms.json", "/etc/voms.json")
_FILES = ("/etc/caso/caso.conf", "/etc/caso.conf")
_NO_PROJECTS = "PROJECT-NAMES"  # the placeholder in the shipped file
_NOTHING = "not in this version, ignored"

_OTHER_EXTRACTORS = ("prometheus", "ceilometer")


@dataclass(frozen=True, slots=True)
class Period:
    """The time to account, where the administrator sets it."""

    start: datetime | None
    end: datetime | None


@dataclass(frozen=True, slots=True)
class CasoConfiguration:
    """The configuration of all accounting programs."""

    access: Access
    names: Names
    projects: tuple[str, ...]
    projects_place: str
    """``FILE:LINE`` of the projects; empty if no file has them."""
    local_projects: tuple[str, ...]
    """Projects of the site's own, which are reported and never sent."""
    tag: str
    vo_properties: tuple[str, ...]
    """Empty for the usual properties."""
    mapping: vo_module.VOMapping
    spool: Path
    """Directory of the checkpoints and the quarantine."""
    lock: Path
    ledger: Path
    sent_journal: Path
    """SSM's journal of sent messages, from which a lost ledger is made again."""
    retention: int
    """Months of the ledger that are kept, besides the current one."""
    sources: tuple[str, ...]
    """Names of the services to account."""
    messengers: tuple[Messenger, ...]
    missing: tuple[str, ...]
    """Kinds of record that cASO sends by default, and that this site neither sends nor excludes."""
    period: Period
    suspended_since: datetime | None
    """The moment from which suspended time is no wall time; None for never."""
    since: datetime | None
    """Start of the first window of a project without a checkpoint; None for the beginning."""
    regions: tuple[str, ...]
    """Regions to account, in this order; an empty one is the first of the catalog."""
    parallel: int
    state: Path
    """Directory of files that only this program reads: the memory of names and servers."""
    names_age: timedelta
    """How long the name of a user or the property of an image is remembered; 0 for not at all."""
    max_skew: timedelta
    """The difference of clocks above which nothing is spooled."""
    is_dry_run: bool
    log_file: Path | None
    system_logs: SystemLogs
    is_debug: bool
    paths: tuple[Path, ...]
    warnings: tuple[Problem, ...]

    @property
    def quarantine(self) -> Path:
        """Return the directory of records that the repository would refuse."""
        return self.spool / "quarantine"


def default_files(layout: Layout) -> list[Path]:
    """Return the configuration file that is read when none is given: the first that exists."""
    candidates = [layout.path(name) for name in _FILES]
    home = os.environ.get("HOME")
    # After `setpriv` or `su` it may be the home of another user.
    if home and layout.root == Path("/") and os.access(home, os.X_OK):
        candidates = [Path(home, ".caso/caso.conf"), Path(home, "caso.conf"), *candidates]
    return document.first_existing(candidates)


def default_directories(layout: Layout) -> list[Path]:
    """Return the directories whose ``*.conf`` files are read when none is given."""
    candidates = [layout.path(f"{name}.d") for name in _FILES]
    # os.path.isdir, because Path.is_dir raises where the parent is not readable.
    return [path for path in candidates if os.path.isdir(path)][:1]  # noqa: PTH112


def load(arguments: argparse.Namespace, layout: Layout) -> CasoConfiguration:
    """Read the whole configuration.

    Raises:
        ConfigurationError: it has faults; all of them are listed.

    """
    paths = [Path(path) for path in arguments.config_file or ()] or default_files(layout)
    directories = [Path(path) for path in arguments.config_dir or ()] or default_directories(layout)
    for directory in directories:
        paths += _files_in(directory)
    if not paths:
        places = layout.path(_FILES[0])
        raise ConfigurationError(
            [
                Problem(
                    places,
                    0,
                    "",
                    "does not exist; create it, or give another one with --config-file",
                )
            ]
        )
    read = document.read(paths, oslo.parse)
    _overlay_environment(read)
    _overlay_flags(read, arguments)
    settings = Settings(read, interpolate=oslo.interpolate)
    ignored.accept(settings)
    return _configuration(settings, read, layout, since=getattr(arguments, "since", None))


def _files_in(directory: Path) -> list[Path]:
    try:
        return sorted(path for path in directory.iterdir() if path.name.endswith(".conf"))
    except OSError as error:
        cause = f"cannot be read as a directory: {(error.strerror or str(error)).lower()}"
        raise ConfigurationError([Problem(directory, 0, "", cause)]) from error


def _configuration(
    settings: Settings, read: Document, layout: Layout, *, since: datetime | None
) -> CasoConfiguration:
    spool = settings.path("DEFAULT", "spooldir", default=layout.path(_SPOOL), is_directory=True)
    site = settings.text(
        "DEFAULT",
        "site_name",
        required="the site's name exactly as in GOCDB",
        placeholders=("SITE-NAME",),
    )
    names = Names(
        site=_name(settings, "site_name", site),
        service=_name(
            settings, "service_name", settings.text("DEFAULT", "service_name", default="$site_name")
        ),
        benchmark_type=settings.text(
            "benchmark",
            "name_key",
            default=BENCHMARK_TYPE,
            aliases=[("DEFAULT", "benchmark_name_key")],
        ),
        benchmark_value=settings.text(
            "benchmark",
            "value_key",
            default=BENCHMARK_VALUE,
            aliases=[("DEFAULT", "benchmark_value_key")],
        ),
        accelerator=_accelerator_keys(settings),
    )
    mapping, wrong = _mapping(settings, layout)
    regions = _regions(settings)
    projects = _projects(settings)
    messengers = _messengers(settings, layout)
    sent = {kind.name for messenger in messengers for kind in messenger.kinds}
    state = layout.path(_STATE) if spool == layout.path(_SPOOL) else spool
    return CasoConfiguration(
        access=_access(settings, read, regions[0]),
        names=names,
        projects=projects,
        projects_place=_place(settings, "projects", aliases=[("DEFAULT", "tenants")]),
        local_projects=_local_projects(settings, projects),
        tag=settings.text("DEFAULT", "caso_tag", default="caso"),
        vo_properties=settings.words("DEFAULT", "vo_property"),
        mapping=mapping,
        spool=spool,
        lock=settings.path(
            "DEFAULT",
            "lock_path",
            # cASO's variable, which it reads in place of a default.
            default=Path(os.environ.get("CASO_LOCK_PATH") or spool),
            is_directory=True,
        ),
        ledger=settings.path("ledger", "path", default=state / "ledger.sqlite"),
        sent_journal=settings.path("ledger", "sent_journal", default=layout.path(_SENT_JOURNAL)),
        retention=settings.integer("ledger", "months", default=MONTHS, minimum=2, maximum=240),
        sources=_sources(settings),
        messengers=messengers,
        missing=record_types.missing(settings, sent),
        period=_period(settings),
        suspended_since=_moment(settings, "suspended_since"),
        since=since,
        regions=regions,
        parallel=settings.integer("DEFAULT", "parallel_projects", default=4, minimum=1, maximum=64),
        # Sites with several clouds on one host have a spool directory for each.
        state=state,
        names_age=timedelta(
            hours=settings.integer("DEFAULT", "names_age", default=168, maximum=8760)
        ),
        max_skew=timedelta(
            seconds=settings.integer(
                "DEFAULT", "max_clock_skew", default=60, minimum=1, maximum=300
            )
        ),
        is_dry_run=settings.boolean("DEFAULT", "dry_run", default=False),
        log_file=oslo.log_file(settings, "caso-extract.log"),
        system_logs=oslo.system_logs(settings),
        is_debug=settings.boolean("DEFAULT", "debug", default=False),
        paths=tuple(read.paths),
        warnings=_finish(settings, wrong),  # last: by now every option has been read
    )


def _finish(settings: Settings, others: Sequence[Problem]) -> tuple[Problem, ...]:
    """Raise the faults of all files together, those of the mapping file included.

    Return the warnings when there are no faults.
    """
    try:
        found = [*settings.finish(), *others]
    except ConfigurationError as error:
        raise ConfigurationError([*error.problems, *others]) from error
    if any(problem.is_fatal for problem in found):
        raise ConfigurationError(found)
    return tuple(found)


def _overlay_environment(read: Document) -> None:
    for variable, text in sorted(os.environ.items()):
        group, separator, option = variable.removeprefix("OS_").partition("__")
        # oslo.config's rule; OS_USERNAME and the like have no double underscore.
        if variable.startswith("OS_") and separator and group and option:
            section = "DEFAULT" if group == "DEFAULT" else group.lower()
            read.set(
                section, option.lower(), Setting(text, Path(f"environment variable {variable}"), 0)
            )


_FLAGS = (
    *["projects", "extractor", "caso_tag", "vo_property", "mapping_file"],
    *["extract_from", "extract_to", "dry_run", "log_file", "log_dir"],
)


_LOG_SWITCHES = ("use_syslog", "use_journal")


def _overlay_flags(read: Document, arguments: argparse.Namespace) -> None:
    for name in _FLAGS:
        value = getattr(arguments, name, None)
        if value is not None:
            read.set(
                "DEFAULT",
                name,
                Setting(str(value), Path(f"command line: --{name.replace('_', '-')}"), 0),
            )
    for name in _LOG_SWITCHES:
        for given, text in ((name, "true"), (f"no{name}", "false")):
            if getattr(arguments, given, False):
                flag = Path(f"command line: --{given.replace('_', '-')}")
                read.set("DEFAULT", name, Setting(text, flag, 0))


def _name(settings: Settings, option: str, value: str) -> str:
    # The rules of `caso.kinds.cloud`: one such name would put every record into quarantine.
    is_plain = value.isascii() and value.isprintable() and "%%" not in value
    if value and (not is_plain or len(value) > LONGEST or value.lower() in ("none", "null")):
        settings.error(
            "DEFAULT",
            option,
            f"{value!r} would be refused by the repository; write the name as in GOCDB",
        )
    return value


def _accelerator_keys(settings: Settings) -> AcceleratorKeys:
    usual = AcceleratorKeys()
    return AcceleratorKeys(
        **{
            option.name: settings.text(
                "accelerator", f"{option.name}_key", default=getattr(usual, option.name)
            )
            for option in fields(usual)
        }
    )


def _projects(settings: Settings) -> tuple[str, ...]:
    found = settings.words("DEFAULT", "projects", aliases=[("DEFAULT", "tenants")])
    if _NO_PROJECTS in found:
        remedy = "list the projects that have no tag, or leave the value empty: projects ="
        settings.error(
            "DEFAULT", "projects", f"is still the placeholder {_NO_PROJECTS!r}; {remedy}"
        )
    return found


def _uses_system_scope(settings: Settings, group: str) -> bool:
    found = settings.text(group, "system_scope", default="all")
    if found not in ("all", ""):
        settings.error(group, "system_scope", f"{found!r}: write all, or leave the value empty")
    return found == "all"


def _place(settings: Settings, option: str, aliases: Sequence[tuple[str, str]] = ()) -> str:
    entry = settings.where("DEFAULT", option, aliases=aliases)
    return f"{entry.path}:{entry.line}" if entry and entry.line else ""


def _local_projects(settings: Settings, projects: Sequence[str]) -> tuple[str, ...]:
    found = settings.words("DEFAULT", "local_projects")
    for name in found:
        if name in projects:
            words = f"{name!r} is in projects, too; a local project is never sent: remove one"
            settings.error("DEFAULT", "local_projects", words)
    return found


def _sources(settings: Settings) -> tuple[str, ...]:
    chosen = settings.words("DEFAULT", "extractor", default=sources.NAMES)
    for name in chosen:
        if name in _OTHER_EXTRACTORS:
            settings.warn("DEFAULT", "extractor", f"{name}: {_NOTHING}")
        elif name not in sources.NAMES:
            settings.error(
                "DEFAULT",
                "extractor",
                f"{name!r} is not an extractor; write {', '.join(sources.NAMES)}",
            )
    known = tuple(name for name in sources.NAMES if name in chosen)
    if not known:
        settings.error("DEFAULT", "extractor", "none of these is in this version; write nova")
    return known


def _messengers(settings: Settings, layout: Layout) -> tuple[Messenger, ...]:
    chosen = settings.words("DEFAULT", "messengers", default=("noop",))
    known = [name for name in chosen if reader(name)]
    for name in chosen:
        if name not in known:
            settings.error("DEFAULT", "messengers", f"{name!r} is not a messenger; write ssm")
    if not chosen:
        settings.error("DEFAULT", "messengers", "names no messenger; write ssm")
    # Without a known one, the options of the one to write are checked.
    readers = [(name, reader(name)) for name in known or ("ssm",)]
    read = [found(settings, layout, name) for name, found in readers if found]
    sending = [messenger for messenger in read if messenger.name != "noop"]
    if known and not sending:
        settings.warn(
            "DEFAULT",
            "messengers",
            "noop: records are discarded, and not extracted again; write ssm",
        )
    # With ssm and ssmv2 together cASO sends each record in both forms, and one replaces the other.
    newest = {one.name: one for one in sorted(sending, key=lambda one: one.describe())}
    return tuple(newest.values()) or tuple(read[:1])


def _period(settings: Settings) -> Period:
    period = Period(_moment(settings, "extract_from"), _moment(settings, "extract_to"))
    if period.start and period.start > (now := clock.now()):
        text = f"{period.start.isoformat()} is in the future"
        settings.error(
            "DEFAULT", "extract_from", f"{text}; it is {now.isoformat(timespec='seconds')}"
        )
    elif period.start and period.end and period.start >= period.end:
        settings.error("DEFAULT", "extract_from", "is not before extract_to")
    return period


def _moment(settings: Settings, option: str) -> datetime | None:
    text = settings.text("DEFAULT", option)
    if not text:
        return None
    try:
        return clock.parse(text)
    except ValueError:
        settings.error(
            "DEFAULT", option, f"{text!r} is not a time; write it like 2026-11-01T00:00:00"
        )
        return None


def _mapping(settings: Settings, layout: Layout) -> tuple[vo_module.VOMapping, Sequence[Problem]]:
    aliases = [("extractor", "mapping_file")]
    usual = [layout.path(name) for name in _MAPPINGS]
    found = document.first_existing(usual) or usual[:1]
    path = settings.path("DEFAULT", "mapping_file", default=found[0], aliases=aliases)
    state = state_of(path)
    if not state:  # no fault: it can be read
        try:
            mapping = vo_module.read_mapping(path)
        except ConfigurationError as error:
            return vo_module.VOMapping(path), error.problems
        return mapping, mapping.warnings
    if state not in ("does not exist", "is not a file"):
        settings.error("DEFAULT", "mapping_file", f"{path} {state}")
    elif settings.where("DEFAULT", "mapping_file", aliases=aliases):
        settings.warn(
            "DEFAULT", "mapping_file", f"{path} does not exist; VOs come from Keystone only"
        )
    return vo_module.VOMapping(path), ()


def _regions(settings: Settings) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(settings.words("DEFAULT", "region_name")))
    for region in found:
        if not is_file_name(region):  # it stands in the names of batches
            settings.error("DEFAULT", "region_name", f"{region!r} is not the name of a region")
    return found or ("",)


def load_account(path: Path) -> Access:
    """Read the account of a file, and no other option.

    Raises:
        ConfigurationError: the account has errors; it has all of them.

    """
    read = document.read([path], oslo.parse)
    settings = Settings(read, interpolate=oslo.interpolate)
    found = _access(settings, read, "")
    settings.finish()
    return found


def _access(settings: Settings, read: Document, region: str) -> Access:
    group = settings.text("keystone_auth", "auth_section") or "keystone_auth"
    auth_type = settings.text(
        group,
        "auth_type",
        aliases=[(group, "auth_plugin")],
        required="write v3password or v3applicationcredential",
    )
    auth_url = access.read_url(settings, group)
    options = {**access.read_options(settings, group, auth_type), "auth_url": auth_url}
    access.warn_of_open_files(settings, read, group, auth_type)
    insecure = settings.boolean("keystone_auth", "insecure", default=False)
    if insecure:
        settings.warn(
            "keystone_auth",
            "insecure",
            "true: anybody on the network may read the password;"
            f" {place.trust_remedy('set cafile')}",
        )
    ca_file = settings.file("keystone_auth", "cafile")
    certificate = settings.file("keystone_auth", "certfile")
    key = settings.file("keystone_auth", "keyfile")
    pair: str | tuple[str, str] | None = str(certificate) if certificate else None
    if certificate and key:
        pair = (str(certificate), str(key))
    return Access(
        auth_type=auth_type,
        auth_url=auth_url,
        options=options,
        region=region or None,
        verify=not insecure and (str(ca_file) if ca_file else True),
        certificate=pair,
        timeout=timedelta(
            seconds=settings.integer(
                "keystone_auth", "timeout", default=60, minimum=1, maximum=3600
            )
        ),
        uses_system_scope=_uses_system_scope(settings, group),
        project_domain_id=settings.text(group, "project_domain_id"),
        project_domain_name=settings.text(group, "project_domain_name"),
        places=access.read_places(
            settings,
            group,
            auth_type,
            others=[("DEFAULT", name) for name in ("projects", "region_name", "mapping_file")],
        ),
    )
