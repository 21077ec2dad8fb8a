"""cloudkeeper-os.conf as cloudkeeper-os 0.9.x reads it, and the file that maps VOs to projects.

Our own options are ``image_dir``, ``remote_hosts``, ``region_name`` and those of
`cloudkeeper.backend.endpoint`; in ``[keystone_authtoken]`` ``cafile``, ``auth_type`` and the
options of its plugin. TLS is always verified: 0.9.x never verified it, and had no option for it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from appliance.core import hosts
from appliance.core.cloud import access, vo
from appliance.core.cloud.login import Access
from appliance.core.config import document, oslo
from appliance.core.config.settings import Settings
from appliance.core.run import place
from appliance.core.run.errors import ConfigurationError, Problem
from appliance.core.run.layout import Layout
from appliance.core.run.log import SystemLogs
from cloudkeeper.backend import endpoint
from cloudkeeper.backend.data_places import DataPlaces
from cloudkeeper.backend.endpoint import Listening
from cloudkeeper.backend.ignored import IGNORED

FILES = ("/etc/cloudkeeper-os/cloudkeeper-os.conf", "/etc/cloudkeeper/cloudkeeper-os.conf")
"""Paths of the file: in the container and the newest releases; in the manual."""
MAPPINGS = ("/etc/cloudkeeper-os/mapping.json", "/etc/cloudkeeper-os/voms.json", "/etc/voms.json")
_IMAGES = "/var/spool/cloudkeeper/images"
_STATE = "/var/lib/fedcloud/cloudkeeper-os"
_SECTION = "keystone_authtoken"
_DEFAULTS = {"username": "cloudkeeper", "user_domain_name": "default"}


@dataclass(frozen=True, slots=True)
class BackendSettings:
    """The settings of the backend."""

    access: Access
    projects: Mapping[str, vo.MappingEntry]
    """By VO."""
    mapping: Path
    listening: Listening
    places: DataPlaces
    visibility: str
    sharing: str
    """``copy``: an image for each project; ``share``: one for the projects of all VOs."""
    removals: str
    """A word of `RemovalPolicy`; empty for what the way of a call allows."""
    protocol: str
    """A word of `Numbering`."""
    former_projects: str
    """A word of `FormerProjects`."""
    state: Path
    runs: Path
    log_file: Path | None
    system_logs: SystemLogs
    is_debug: bool
    warnings: tuple[Problem, ...] = field(compare=False)
    path: Path = Path()


def load(
    path: Path | None, *, layout: Layout, overrides: Mapping[str, str], listens: bool = True
) -> BackendSettings:
    """Read a file, or the default one of the layout.

    ``overrides`` are options of ``[DEFAULT]`` from the command line. A backend that never
    ``listens``, in direct mode, needs no certificates for a port.

    Raises:
        ConfigurationError: the file or the mapping is wrong; it holds all problems.

    """
    path = path or _default_file(layout)
    read = document.read([path], oslo.parse)
    settings = Settings(
        read,
        interpolate=oslo.interpolate,
        overrides={("DEFAULT", name): text for name, text in overrides.items()},
    )
    settings.accept("DEFAULT", IGNORED)
    mapping, projects, problems = _projects(settings, layout)
    reach = _access(settings, read)
    visibility = settings.choice(
        "DEFAULT",
        "image_visibility",
        default="private",
        allowed=("public", "private", "shared", "community"),
    )
    values = {
        "access": reach,
        "listening": endpoint.read(settings, layout) if listens else endpoint.ignore(settings),
        "places": _places(settings, layout, reach),
        "visibility": visibility,
        "sharing": _sharing(settings, visibility),
        "removals": _policy(settings),
        "protocol": settings.choice(
            "DEFAULT", "protocol", default="auto", allowed=("auto", "1", "2")
        ),
        "former_projects": settings.choice(
            "DEFAULT", "former_projects", default="keep", allowed=("keep", "hide", "remove")
        ),
        "log_file": oslo.log_file(settings, "cloudkeeper-os.log"),
        "system_logs": oslo.system_logs(settings),
        "is_debug": settings.boolean("DEFAULT", "debug", default=False),
    }
    try:
        problems = [*settings.finish(), *problems]
    except ConfigurationError as error:
        problems = [*error.problems, *problems]
    if any(problem.is_fatal for problem in problems):
        raise ConfigurationError(problems)
    return BackendSettings(
        **values,  # type: ignore[arg-type]
        mapping=mapping,
        projects=projects,
        state=layout.path(_STATE),
        runs=layout.runs,
        path=path,
        warnings=tuple(problems),
    )


def _sharing(settings: Settings, visibility: str) -> str:
    word = settings.choice("DEFAULT", "image_sharing", default="copy", allowed=("copy", "share"))
    if word == "share" and visibility in ("public", "community"):
        cause = f"share: {visibility} images (image_visibility) need no members; write copy"
        settings.error("DEFAULT", "image_sharing", cause)
    return word


def _policy(settings: Settings) -> str:
    allowed = ("confirmed", "limited", "none")
    word = settings.choice("DEFAULT", "removals", default="confirmed", allowed=allowed)
    return word if settings.where("DEFAULT", "removals") else ""


def _default_file(layout: Layout) -> Path:
    candidates = [layout.path(name) for name in FILES]
    found = [path for path in candidates if document.may_exist(path)]
    if (
        len(found) > 1
        and all(os.access(path, os.R_OK) for path in found)
        and not found[0].samefile(found[1])
    ):
        raise ConfigurationError(
            [Problem(found[0], 0, "", f"there is {found[1]}, too; remove one of them")]
        )
    return (found or candidates[-1:])[0]


def _places(settings: Settings, layout: Layout, reach: Access) -> DataPlaces:
    """Read where image data may come from."""
    directory = settings.path(
        "DEFAULT", "image_dir", default=layout.path(_IMAGES), is_directory=True
    )
    remote = frozenset(word.lower() for word in settings.words("DEFAULT", "remote_hosts"))
    for word in sorted(remote):
        if not _is_place(word):
            cause = f"{word!r} is not HOST or HOST:PORT; write names without a scheme or path"
            settings.error("DEFAULT", "remote_hosts", cause)
    # The bundle that verifies the cloud verifies the frontend's web server, too.
    bundle = Path(reach.verify) if isinstance(reach.verify, str) else None
    return DataPlaces(directory, remote, bundle)


def _is_place(text: str) -> bool:
    try:
        host, _ = hosts.split_port(text, default_port=hosts.MAX_PORT)
    except ValueError:
        return False
    return hosts.is_host(host)


def _access(settings: Settings, read: document.Document) -> Access:
    auth_type = settings.text(
        _SECTION, "auth_type", default="v3password", aliases=[(_SECTION, "auth_plugin")]
    )
    auth_url = access.read_url(settings, _SECTION)
    defaults = _DEFAULTS if auth_type in ("v3password", "password") else {}
    options = access.read_options(settings, _SECTION, auth_type, defaults=defaults)
    if options.get("user_domain_name") == "default" and "user_domain_id" not in options:
        # 0.9.x calls the default domain by its id, "default". Its name is "Default", and only
        # MySQL compares names without case.
        options["user_domain_id"] = options.pop("user_domain_name")
    access.warn_of_open_files(settings, read, _SECTION, auth_type)
    if settings.boolean(_SECTION, "insecure", default=False):
        remedy = place.trust_remedy("set cafile to their authority")
        settings.error(_SECTION, "insecure", f"true: TLS is always verified; {remedy}")
    ca_file = settings.file(_SECTION, "cafile")
    return Access(
        auth_type=auth_type,
        auth_url=auth_url,
        options={**options, "auth_url": auth_url},
        region=settings.text("DEFAULT", "region_name", aliases=[(_SECTION, "region_name")]) or None,
        verify=str(ca_file) if ca_file else True,
        timeout=timedelta(
            seconds=settings.integer(_SECTION, "timeout", default=60, minimum=1, maximum=3600)
        ),
        uses_system_scope=False,
        project_domain_name=settings.text(_SECTION, "project_domain_name", default="default"),
        interface=settings.choice(
            "DEFAULT", "endpoint_type", default="public", allowed=("public", "internal")
        ),
        section=_SECTION,
        role="member",
        places=access.read_places(
            settings,
            _SECTION,
            auth_type,
            others=[("DEFAULT", name) for name in ("region_name", "endpoint_type", "mapping_file")],
        ),
    )


def _projects(
    settings: Settings, layout: Layout
) -> tuple[Path, Mapping[str, vo.MappingEntry], Sequence[Problem]]:
    usual = [layout.path(name) for name in MAPPINGS]
    path = settings.path(
        "DEFAULT", "mapping_file", default=(document.first_existing(usual) or usual)[0]
    )
    if not path.is_absolute():  # Settings has reported it
        return path, {}, ()
    try:
        mapping = vo.read_mapping(path)
    except ConfigurationError as error:
        return path, {}, error.problems
    problems = list(mapping.warnings)
    if not mapping.entries:
        problems.append(
            Problem(path, 0, "", "maps no VO, so no image could be added; add your VOs")
        )
    found: dict[str, vo.MappingEntry] = {}
    for entry in mapping.entries:
        if entry.vo in found:
            text = (
                f"is mapped to two projects, {found[entry.vo].project} and {entry.project}; keep "
                "the one for its images"
            )
            problems.append(Problem(path, entry.line, entry.vo, text))
        found[entry.vo] = entry
    return path, found, problems
