"""`caso-mapping-migrate`: copy the mapping file into Keystone, as properties of projects."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from appliance.core.cloud.vo import PROPERTIES, MappingEntry
from appliance.core.run import cli
from appliance.core.run.errors import (
    ApplianceError,
    ConfigurationError,
    ExitStatus,
    Problem,
    UsageError,
)
from caso.cmds import startup
from caso.settings import CasoConfiguration

if TYPE_CHECKING:
    from appliance.core.cloud.identity import AllProjects

PROGRAM = "caso-mapping-migrate"
SENTENCE = "Copy the VO mapping file into Keystone."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of all accounting programs, and of this one."""
    startup.add_arguments(parser)
    parser.add_argument(
        *cli.flags("migrate-projects"),
        action="store_true",
        help="tag the projects that the configuration lists, too",
    )
    parser.set_defaults(dry_run=True)  # as in cASO: changes only with --nodry-run


def migrate(arguments: argparse.Namespace) -> ExitStatus:
    """Print the commands that copy the mapping file; with ``--nodry-run``, copy it."""
    configuration = startup.configure(arguments)
    if arguments.check_config:
        return startup.report_check(configuration)
    tagged = configuration.projects if arguments.migrate_projects else ()
    if tagged and not configuration.tag:
        raise UsageError("--migrate-projects", "the configuration has no tag", "set caso_tag")
    _refuse_two_vos(configuration)
    if not configuration.mapping.entries and not tagged:
        print(f"{configuration.mapping.path}: names no project; nothing is to be copied")
        return ExitStatus.DONE
    if configuration.is_dry_run:
        print(
            "Nothing is changed. Run these as an administrator, or run again with --nodry-run:",
            file=sys.stderr,
        )
        for command in _commands(configuration, tagged):
            print(shlex.join(command))
        return ExitStatus.DONE
    # They load the OpenStack clients.
    from appliance.core.cloud.identity import AllProjects  # noqa: PLC0415
    from appliance.core.cloud.session import Cloud  # noqa: PLC0415

    projects = AllProjects(Cloud(configuration.access))
    failed = [
        *_set_properties(configuration, projects),
        *_set_tags(configuration, tagged, projects),
    ]
    for error in failed:
        cli.report(PROGRAM, error)
    wanted = len(configuration.mapping.entries) + len(tagged)
    if not failed:
        return ExitStatus.DONE
    return ExitStatus.PARTLY if len(failed) < wanted else ExitStatus.NOTHING


def _property(configuration: CasoConfiguration) -> str:
    return (configuration.vo_properties or PROPERTIES)[0]


def _refuse_two_vos(configuration: CasoConfiguration) -> None:
    """Raise `ConfigurationError` when a project has two VOs: the last would silently win."""
    mapping = configuration.mapping
    vos: dict[tuple[str, str | None], list[MappingEntry]] = {}
    for entry in mapping.entries:
        vos.setdefault((entry.project, entry.domain), []).append(entry)
    problems = [
        Problem(
            *(mapping.path, found[-1].line, project),
            f"has several VOs: {', '.join(one.vo for one in found)}; keep one of them",
        )
        for (project, _), found in vos.items()
        if len({one.vo for one in found}) > 1
    ]
    if problems:
        raise ConfigurationError(problems)


def _commands(configuration: CasoConfiguration, tagged: Sequence[str]) -> Iterator[list[str]]:
    base = ["openstack", "project", "set"]
    for entry in configuration.mapping.entries:
        domain = ["--domain", entry.domain] if entry.domain else []
        yield [
            *base,
            *domain,
            "--property",
            f"{_property(configuration)}={entry.vo}",
            entry.project,
        ]
    for project in tagged:
        yield [*base, "--tag", configuration.tag, project]


def _set_properties(
    configuration: CasoConfiguration, projects: AllProjects
) -> Iterator[ApplianceError]:
    for entry in configuration.mapping.entries:
        try:
            projects.set_property(entry, name=_property(configuration), value=entry.vo)
        except ApplianceError as error:
            yield error


def _set_tags(
    configuration: CasoConfiguration, tagged: Sequence[str], projects: AllProjects
) -> Iterator[ApplianceError]:
    for name in tagged:
        try:
            projects.add_tag(MappingEntry("", name), configuration.tag)
        except ApplianceError as error:
            yield error


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    return cli.main(
        cli.Program(
            PROGRAM,
            SENTENCE,
            add_arguments,
            migrate,
            compatible_status=startup.compatible_status,
        ),
        argv,
    )
