"""`caso offers`: print what an account sees of the cloud, for who has no client of OpenStack.

It reads the account only, and needs no other option of the file. The failure of a login is part of
the answer, so that the caller knows a refusal from a cloud that is silent.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.core.run import cli, output
from appliance.core.run.errors import AccessDenied, ApplianceError, ExitStatus
from caso import settings

if TYPE_CHECKING:
    from appliance.core.cloud.project import Project
    from appliance.core.cloud.session import Cloud

_UNTRUSTED = "C36.b"
"""The row of faults of a cloud whose certificate is not trusted."""
_DEFAULT = "/etc/caso/caso.conf"


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config-file",
        type=Path,
        metavar="PATH",
        help=f"file with the account in [keystone_auth] (default: {_DEFAULT})",
    )


def _run(arguments: argparse.Namespace) -> ExitStatus:
    """Print one JSON object."""
    layout = cli.layout(arguments)
    cli.configure_log(arguments)
    access = settings.load_account(arguments.config_file or layout.path(_DEFAULT))
    if arguments.check_config:
        return ExitStatus.DONE
    if arguments.config_file:
        # The file of the caller may be gone when a person reads the message.
        access = replace(access, places={})
    from appliance.core.cloud import faults  # noqa: PLC0415  loads the OpenStack clients
    from appliance.core.cloud.session import Cloud  # noqa: PLC0415

    try:
        output.document(_offers(Cloud(faults.prompt(access))))
    except ApplianceError as error:
        row = faults.finding(error, access, tried="").identifier
        output.document({"failure": _failure(error, row)})
        return ExitStatus.NOTHING
    return ExitStatus.DONE


def _failure(error: ApplianceError, row: str) -> dict[str, object]:
    return {
        "is_denied": isinstance(error, AccessDenied),
        "is_untrusted": row == _UNTRUSTED,
        "subject": error.subject,
        "cause": f"{error.cause}; {error.remedy}" if error.remedy else error.cause,
    }


def _offers(cloud: Cloud) -> dict[str, object]:
    from appliance.core.cloud import identity  # noqa: PLC0415

    projects = [one for one in identity.projects(cloud) if one.is_enabled]
    regions = cloud.project(projects[0].id).regions() if projects else []
    return {"regions": regions, "projects": [_described(one) for one in projects]}


def _described(project: Project) -> dict[str, str]:
    """Return a project with the VO that its properties name, or why none is known."""
    from appliance.core.cloud import vo  # noqa: PLC0415

    found = {"id": project.id, "name": project.name, "vo": "", "fault": ""}
    if not any(project.properties.get(name, "").strip() for name in vo.PROPERTIES):
        return found
    try:
        return found | {"vo": vo.vo_of(project, mapping=vo.VOMapping(Path()))}
    except vo.NoVO as error:
        return found | {"fault": error.cause}


VERB = cli.Program(
    "offers",
    "Print regions and projects that an account sees, as one JSON object.",
    _add_arguments,
    _run,
)
