"""What `caso check` tries: the cloud, each project, and the places of state and messages.

Nothing is written. Every request is one that a run of accounting sends as well, but only the first
page of a listing is read. A check that fails stops no other, except for the login.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from appliance.core import clock, files
from appliance.core.cloud import faults, identity, offer
from appliance.core.cloud.compute import Servers
from appliance.core.cloud.session import Cloud, Scope, understood
from appliance.core.config.settings import SYSTEM, note_roles
from appliance.core.run.errors import AccessDenied, ApplianceError, ExitStatus, LocalFailure
from appliance.core.suggestion import did_you_mean
from caso import silence
from caso.checkpoint import Checkpoints
from caso.kinds.months import ExtractionWindow
from caso.ledger.ledger import Ledger
from caso.messengers.ssm import SSM
from caso.project import about
from caso.selection import Selected, select
from caso.settings import CasoConfiguration
from caso.sources import registry as sources
from caso.sources.source import ProjectContext, Source

State = Literal["good", "warning", "fault"]

_SHORT_WINDOW = timedelta(hours=1)
_DAY = timedelta(days=1)
_NOVA = "nova"
_SITE_NAME = re.compile(r"[A-Za-z0-9._-]+")
"""The form of a site's short name in GOCDB."""
_LEAST_SPACE = 100 * 2**20
_LEAST_FILES = 1000


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one check, as a line."""

    name: str
    """What was checked, one word."""
    state: State
    subject: str
    text: str
    """What is good, or what is wrong and the remedy."""
    is_final: bool = False
    """Whether nothing else of the cloud could be checked."""
    error: ApplianceError | None = None
    """The failure, if there is one."""


def results(configuration: CasoConfiguration) -> Iterator[Result]:
    """Yield the results of all checks, those of this host first."""
    yield _site_name(configuration)
    for name, path in _places(configuration):
        yield _place(name, path)
    yield _tried("ledger", str(configuration.ledger), lambda: _ledger(configuration))
    cloud = Cloud(configuration.access)
    login = _tried("login", cloud.host, lambda: _login(cloud), is_final=True)
    yield login
    if login.is_final:
        return
    yield _system(cloud)
    selected: list[Selected] = []
    yield from _selection(cloud, configuration, selected)
    kinds = {kind for source in _needed(configuration) for kind in source.kinds}
    delivered = silence.read(configuration, _kinds(configuration) & kinds)
    known = _known_to_the_ledger(configuration)
    for one in selected:
        subject, moment = str(one.project), known.get(one.project.id)
        yield Result("vo", "good", subject, f"VO {one.vo}")
        call = functools.partial(_checkpoint, configuration, one, moment)
        yield _tried("checkpoint", subject, call)
        yield from _silence(configuration, one, delivered)
        yield from _rights(cloud, configuration, one)
    yield from _clocks(cloud, configuration.max_skew)


def _tried(name: str, subject: str, call: Callable[[], str], *, is_final: bool = False) -> Result:
    """Return the result of a call that returns what is good, or raises what is wrong."""
    try:
        return Result(name, "good", subject, call())
    except (ApplianceError, OSError) as error:
        failure = LocalFailure.from_os(error) if isinstance(error, OSError) else error
        return _fault(name, failure, subject=subject, is_final=is_final)


def _fault(
    name: str, error: ApplianceError, *, subject: str = "", is_final: bool = False
) -> Result:
    text = f"{error.cause}; {error.remedy}" if error.remedy else error.cause
    named = error.subject or subject
    return Result(name, "fault", named, " ".join(text.split()), is_final, error)


# ---------------------------------------------------------------------------------------- this host


def _site_name(configuration: CasoConfiguration) -> Result:
    site = configuration.names.site
    if _SITE_NAME.fullmatch(site):
        return Result("site", "good", "site_name", f"{site} has the form of a name in GOCDB")
    words = "has characters that no short name in GOCDB has; write it exactly as in GOCDB"
    return Result("site", "fault", "site_name", f"{site!r} {words}")


def _places(configuration: CasoConfiguration) -> Iterable[tuple[str, Path]]:
    yield "state", configuration.spool
    for messenger in configuration.messengers:
        if isinstance(messenger, SSM):
            for path in dict.fromkeys(messenger.outputs.values()):
                yield "spool", path


def _place(name: str, path: Path) -> Result:
    """Check whether this account may write into a directory, or make it, and the space there."""
    return _tried(name, str(path), lambda: _space(path))


def _space(path: Path) -> str:
    there = path
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "is not a directory", str(there))
    if not os.access(there, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
        refused = PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(there))
        raise files.describe_unusable(there, refused)
    free, left = shutil.disk_usage(there).free, os.statvfs(there)
    if left.f_flag & os.ST_RDONLY:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(there))
    # Some file systems have no fixed number of files, and give zero.
    if free < _LEAST_SPACE or (left.f_files and left.f_favail < _LEAST_FILES):
        words = f"{free // 2**20} MiB and {left.f_favail} files are free"
        remedy = "free space" if free < _LEAST_SPACE else "remove small files"
        raise LocalFailure(there, words, f"{remedy} on this file system")
    missing = "" if there == path else "; the first run makes it"
    return f"can be written, {free // 2**20} MiB free{missing}"


def _ledger(configuration: CasoConfiguration) -> str:
    """Read the whole file, as far as SQLite checks it."""
    with Ledger(configuration.ledger, read_only=True) as ledger:
        if ledger.is_new:
            return "is not there yet; the first run makes it"
        ledger.file.check()
        months = len(ledger.deliveries.months())
    return f"can be read, with deliveries of {months} months"


# ---------------------------------------------------------------------------------------- the cloud


def _login(cloud: Cloud) -> str:
    access, scope = cloud.access, cloud.unscoped
    bound = f", bound to project {scope.project_id}" if access.is_bound else ""
    return f"accepts the account {access.account!r} ({access.auth_type}){bound}"


def _system(cloud: Cloud) -> Result:
    """Check the role on the system, which names users and finds tagged projects."""
    access = cloud.access
    missing = "records have no GlobalUserName, and tagged projects without a role are not seen"
    remedy = access.grant("--system all")
    try:
        scope = cloud.system
        if scope is None:
            words = f"the account {access.account!r} has no role on it: {missing}; {remedy}"
        elif _may_list_users(cloud, scope):
            return Result("users", "good", "the system", "the account may read names of users")
        else:
            words = f"the account {access.account!r} may not read names of users: {missing}"
    except ApplianceError as error:  # records do without names
        words = f"{error}: {missing}"
    return Result("users", "warning", "the system", words)


def _may_list_users(cloud: Cloud, scope: Scope) -> bool:
    note_roles(SYSTEM, scope.roles)
    return identity.may_list_users(cloud, scope)


def _selection(
    cloud: Cloud, configuration: CasoConfiguration, selected: list[Selected]
) -> Iterator[Result]:
    """Yield the faults of the projects, and add those without a fault to ``selected``."""
    try:
        found, failures = select(cloud, configuration)
    except ApplianceError as error:
        yield _fault("projects", error)
        return
    selected += found
    for failure in (_named(cloud, failure) for failure in failures):
        yield _fault("vo" if failure.status is ExitStatus.PARTLY else "projects", failure)
    tag = f", by the tag {configuration.tag!r} and the option projects" if configuration.tag else ""
    if found:
        yield Result("projects", "good", cloud.host, f"{len(found)} projects are accounted{tag}")


_UNSEEN = "sees no such project"


def _named(cloud: Cloud, failure: ApplianceError) -> ApplianceError:
    """Return a failure to find a project; if none has its name, with the nearest name."""
    known = identity.all_names(cloud) if _UNSEEN in failure.cause else {}
    wanted = failure.subject.removeprefix("project ")
    if not known or wanted in known or wanted in known.values():
        return failure
    hint = did_you_mean(wanted, known.values(), otherwise="correct its name")
    return AccessDenied(failure.subject, f"no project is called so at {cloud.host}", hint)


def _rights(cloud: Cloud, configuration: CasoConfiguration, one: Selected) -> Iterator[Result]:
    subject = str(one.project)
    for region in configuration.regions:
        named = f"{subject}, region {region}" if len(configuration.regions) > 1 else subject
        try:
            scope = cloud.in_region(region).project(one.project.id)
            faults.note_scope(scope)
            yield from _flavors(configuration, scope, named)
            for source in _needed(configuration):
                found = list(_source(configuration, scope, one, source, named))
                yield from found
                if source.name == _NOVA and all(each.state != "fault" for each in found):
                    yield from _deleted(scope, named)
        except ApplianceError as error:
            yield _fault("rights", about(one, error), subject=named)


def _kinds(configuration: CasoConfiguration) -> frozenset[str]:
    return frozenset(kind.name for one in configuration.messengers for kind in one.kinds)


def _needed(configuration: CasoConfiguration) -> Iterator[Source]:
    """Yield the sources whose records have a destination."""
    for name in configuration.sources:
        source = sources.source(name)
        if _kinds(configuration) & set(source.kinds):
            yield source


def _known_to_the_ledger(configuration: CasoConfiguration) -> dict[str, datetime]:
    """Return the least checkpoint of each project; a broken ledger has a line of its own."""
    known: dict[str, datetime] = {}
    with (
        contextlib.suppress(ApplianceError),
        Ledger(configuration.ledger, read_only=True) as ledger,
    ):
        for stream, reached in ledger.windows.all().items():
            if reached.checkpoint is not None:
                project = stream.origin.project
                known[project] = min(reached.checkpoint, known.get(project, reached.checkpoint))
    return known


def _silence(
    configuration: CasoConfiguration, one: Selected, delivered: silence.Delivered
) -> Iterator[Result]:
    accounted = None
    with contextlib.suppress(LocalFailure):  # which has a line of its own
        accounted = Checkpoints(configuration.spool).find((*one.aliases, *one.former)).moment
    for name, text in silence.find(one, delivered, accounted, at=clock.now()):
        yield Result(name, "warning", str(one.project), text)


def _checkpoint(configuration: CasoConfiguration, one: Selected, known: datetime | None) -> str:
    names = (*one.aliases, *one.former)
    try:
        found = Checkpoints(configuration.spool).find(names)
    except LocalFailure:
        if known is None:
            raise
        return f"accounted up to {known.isoformat(timespec='seconds')}, as the ledger says"
    if found.moment is None:
        return "never accounted: the first run takes all servers of the past, or those of --since"
    if found.moment > clock.now():
        raise LocalFailure(
            f"{configuration.spool}/lastrun.{names[0]}",
            f"has the time {found.moment.isoformat()}, which is in the future",
            "check this host's clock, then write the time of the last good run into it",
        )
    return f"accounted up to {found.moment.isoformat(timespec='seconds')}"


def _flavors(configuration: CasoConfiguration, scope: Scope, subject: str) -> Iterator[Result]:
    """Check whether the properties of flavors are visible, and hold a benchmark."""
    try:
        with understood(scope.access.auth_url, "Nova"):
            found = list(offer.flavors(scope, offer.compute(scope)))
    except ApplianceError as error:  # records do without a benchmark
        yield Result("flavors", "warning", subject, f"flavors cannot be listed: {error}")
        return
    if any("extra_specs" not in flavor for flavor in found):
        words = (
            "Nova does not show the properties of flavors, so records have no Benchmark; allow"
            " os_compute_api:os-flavor-extra-specs:index in Nova's policy"
        )
        yield Result("flavors", "warning", subject, words)
        return
    keys = configuration.names.benchmark_type, configuration.names.benchmark_value
    have = [flavor for flavor in found if all(flavor["extra_specs"].get(key) for key in keys)]
    words = f"{len(found)} flavors, {len(have)} with a benchmark"
    if found and not have:
        remedy = f"openstack flavor set --property {keys[0]}=TYPE --property {keys[1]}=VALUE FLAVOR"
        words = f"none of {len(found)} flavors has the properties of a benchmark; {remedy}"
        yield Result("flavors", "warning", subject, words)
    else:
        yield Result("flavors", "good", subject, words)


def _source(
    configuration: CasoConfiguration, scope: Scope, one: Selected, source: Source, subject: str
) -> Iterator[Result]:
    """Read the beginning of what a source gives, as a run does."""
    warnings: list[str] = []
    now = clock.now().replace(microsecond=0)
    context = ProjectContext(
        vo=one.vo,
        names=configuration.names,
        user_name=lambda _user: None,
        image=lambda image: image,
        warn=warnings.append,
        kinds=_kinds(configuration),
    )
    window = ExtractionWindow(now - _SHORT_WINDOW, now)

    def read() -> str:
        with contextlib.closing(_records(source, scope, window, context)) as found:
            shown = next(found, None)
        return f"the account may read {source.name}" + ("" if shown else ", which is empty")

    yield _tried("rights", subject, read)
    for warning in warnings:
        yield Result("rights", "warning", subject, warning)


def _deleted(scope: Scope, subject: str) -> Iterator[Result]:
    """Check whether listings show the servers that were deleted in the last day.

    Without them, a run cannot describe a server that lived between two runs.
    """
    servers, now = Servers(scope), clock.now().replace(microsecond=0)
    begin = now - _DAY
    ended = {row["instance_id"] for row in servers.used(begin, now) if row["ended_at"] is not None}
    if not ended:
        return
    unseen = ended - {server["id"] for server in servers.changed(begin)}
    if unseen:
        words = (
            f"listings of Nova lack {len(unseen)} of {len(ended)} servers that were deleted since"
            f" {begin:%Y-%m-%d %H:%MZ}, such as {min(unseen)}, so their records lack details; give"
            " the account the role reader in the project, and let a proxy pass on changes-since"
        )
        yield Result("deleted", "warning", subject, words)


def _records(
    source: Source, scope: Scope, window: ExtractionWindow, context: ProjectContext
) -> Generator[object]:
    """Yield the records of a source, as a generator that can be closed."""
    yield from source.records(scope, window, context)


def _clocks(cloud: Cloud, limit: timedelta) -> Iterator[Result]:
    try:
        warnings = cloud.transport.clocks.judge(limit)
    except ApplianceError as error:
        yield _fault("clocks", error)
        return
    for warning in warnings:
        yield Result("clocks", "warning", cloud.host, warning)
    if not warnings:
        services = ", ".join(sorted(cloud.transport.clocks.offsets()))
        yield Result("clocks", "good", services, "their clocks agree with this host's")
