"""``cloud-info-provider-service``: publish a cloud's offer to VOs, as GLUE in LDIF or JSON.

Standard output has a whole cloud or nothing. If a VO could not be read, the output lacks it, the
exit status is 1, and the reason is on standard error (docs/adr/0010). The other publishers keep
what such a VO published last (docs/adr/0052).
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from appliance.core import clock, egi_flags
from appliance.core.run import cli
from appliance.core.run.errors import (
    ConfigurationError,
    ExitStatus,
    Problem,
    Unavailable,
    UsageError,
)
from appliance.core.run.finding import Finding
from appliance.core.run.layout import Layout
from appliance.core.run.record import RunRecord, recorded
from cloud_info_provider import settings
from cloud_info_provider.cmds import flags
from cloud_info_provider.facts import Facts
from cloud_info_provider.formats import selection
from cloud_info_provider.formats.published_cloud import Rendering
from cloud_info_provider.publishing.selection import (
    OUTPUT,
    PUBLISH_FILE,
    PUBLISHERS,
    STDOUT,
    STORES,
)
from cloud_info_provider.settings import ProviderSettings

if TYPE_CHECKING:
    from cloud_info_provider.publishing.settings import PublishSettings

PROGRAM = "cloud-info-provider-service"

logger = logging.getLogger(__name__)

_LDIF, _JSON = "glue", "glue21json"

# For each flag: its values, the default first, and its other values in releases of
# cloud-info-provider.
_CHOICES: Mapping[str, tuple[Mapping[str, str], tuple[str, ...]]] = {
    "format": (selection.FORMATS, ("glue21", "cmdb")),
    "middleware": (
        {"openstack": "a cloud of OpenStack", "static": "what the description alone says"},
        ("ooi", "opennebula", "opennebularocci", "indigoon", "aws", "mesos", "onedata"),
    ),
    "publisher": (PUBLISHERS, ("ams", "json_stdout")),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that cloud-info-provider 0.8 to 1.2 share, and those rejected or ignored."""
    made = parser.add_argument_group("flags of cloud-info-provider")
    for name, (values, _) in _CHOICES.items():
        meaning = "; ".join(f"{value}: {words}" for value, words in values.items())
        default = next(iter(values))
        is_format = name == "format"
        usual = f"{_JSON} for publishers but stdout and for descriptions of release 1, else glue"
        made.add_argument(
            f"--{name}",
            type=str.lower,
            default=None if is_format else default,
            metavar="NAME",
            help=f"{meaning} (default: {usual if is_format else default})",
        )
    made.add_argument(
        "--validate",
        action="store_true",
        help="print what EGI's validator finds in the entries of GLUE 2.0; publish nothing",
    )
    made.add_argument(
        "--output",
        metavar="PATH",
        help="file to write, for every publisher but stdout; an object store gets its content"
        f" (default: path in publish.yaml, else {OUTPUT})",
    )
    made.add_argument(
        "--publish-file",
        metavar="PATH",
        help=f"settings of the publishers but stdout (default: {PUBLISH_FILE})",
    )
    made.add_argument(
        "--replace-object",
        metavar="NAME",
        help="object of this site in the object store that another program wrote: this run may"
        " replace it, or remove it if its name differs from the uploaded one",
    )
    flags.add(made)
    egi_flags.add_arguments(parser, (egi_flags.CLOUD, egi_flags.AUDITOR))


def provide(arguments: argparse.Namespace) -> ExitStatus:
    """Read the cloud, print the tree, and record the run."""
    for name, (values, others) in _CHOICES.items():
        value = getattr(arguments, name)
        if value is not None and value not in values:
            cause = "is not in this version" if value in others else "is unknown"
            raise UsageError(f"--{name}", f"{value!r} {cause}", f"write {' or '.join(values)}")
    _check_together(arguments)
    if arguments.check_config:
        configuration, _ = _configure(arguments)
        form = f"the form of cloud-info-provider {configuration.generation.releases}"
        print(
            f"{PROGRAM}: configuration is good: {configuration.yaml_file} ({form})",
            file=sys.stderr,
        )
        return ExitStatus.DONE
    if arguments.validate:
        return _validate(arguments)
    with recorded(PROGRAM, cli.layout(arguments).runs) as record:
        try:
            configuration, publishing = _configure(arguments)
            record.status = _run(configuration, publishing, arguments, record)
        finally:
            record.add("wall_seconds", (clock.now() - record.started).total_seconds())
    if arguments.compat_exit_codes and publishing is None and configuration.format == _JSON:
        # cloud-info-provider 1 ends with 0 if it could read some of the VOs, earlier releases not
        return ExitStatus.DONE
    return record.status


def attempts(arguments: argparse.Namespace) -> Iterator[Finding]:
    """Yield the faults of what a run reads in the cloud."""
    configuration, _ = _configure(arguments)
    from cloud_info_provider import live_check  # noqa: PLC0415  loads the OpenStack clients

    yield from live_check.findings(configuration)
    if arguments.as_egi:
        from cloud_info_provider import egi_check  # noqa: PLC0415

        yield from egi_check.findings(configuration, egi_flags.wanted(arguments))


def _check_together(arguments: argparse.Namespace) -> None:
    """Raise `UsageError` for a flag that has no sense with the others."""
    if arguments.replace_object and arguments.publisher not in STORES:
        words = "belongs to a publisher that uploads"
        raise UsageError("--replace-object", words, f"add --publisher {' or '.join(STORES)}")
    if arguments.publisher == STDOUT:
        for flag in ("output", "publish_file"):
            if getattr(arguments, flag):
                words = "belongs to a publisher that writes a file"
                others = " or ".join(name for name in PUBLISHERS if name != STDOUT)
                name = f"--{flag.replace('_', '-')}"
                raise UsageError(name, words, f"add --publisher {others}")
    if arguments.ignore_share_errors and arguments.exit_on_share_errors:
        words = "contradicts --exit-on-share-errors"
        raise UsageError("--ignore-share-errors", words, "leave one of them out")


def _validate(arguments: argparse.Namespace) -> ExitStatus:
    """Print what is wrong with the entries, without a record of this run."""
    if arguments.format not in (None, _LDIF):
        raise UsageError("--validate", f"checks the format {_LDIF} only", "leave --format out")
    configuration, _ = _configure(arguments)
    checked = replace(configuration, format=selection.VALIDATION)
    facts, rendering = _read(checked, cli.layout(arguments), RunRecord(PROGRAM, is_kept=False))
    sys.stdout.write(rendering.text)
    for vo, reason in sorted(facts.failed.items()):
        print(f"{PROGRAM}: {vo}: {reason}", file=sys.stderr)
    is_good = not (facts.failed or rendering.problems or rendering.has_errors)
    return ExitStatus.DONE if is_good else ExitStatus.PARTLY


def _configure(arguments: argparse.Namespace) -> tuple[ProviderSettings, PublishSettings | None]:
    """Return the settings, and those of the publisher; none for standard output.

    Raises `ConfigurationError` with all errors in all files.
    """
    problems: list[Problem] = []
    configuration = publishing = None
    try:
        configuration = settings.load(arguments, cli.layout(arguments))
    except ConfigurationError as error:
        problems += error.problems
    if arguments.publisher != STDOUT:
        from cloud_info_provider.publishing.settings import (  # noqa: PLC0415  start-up is a cost
            load as load_publishing,
        )

        try:
            publishing = load_publishing(arguments, cli.layout(arguments))
        except ConfigurationError as error:
            problems += error.problems
    if configuration is None or problems:
        raise ConfigurationError(problems)
    _check_format(configuration, arguments)
    for line in flags.without_effect(arguments, configuration):
        logger.warning("%s", line)
    for problem in (*configuration.warnings, *(publishing.warnings if publishing else ())):
        logger.warning("%s", problem)
    return configuration, publishing


def _check_format(configuration: ProviderSettings, arguments: argparse.Namespace) -> None:
    if arguments.publisher != STDOUT and configuration.format != _JSON:
        words = f"{arguments.publisher} publishes EGI's JSON only"
        raise UsageError("--publisher", words, f"write --format {_JSON}")
    for flag in ("full-bdii-ldif", "site-in-suffix"):
        if getattr(arguments, flag.replace("-", "_")) and configuration.format != _LDIF:
            raise UsageError(f"--{flag}", f"belongs to the format {_LDIF}", f"add --format {_LDIF}")


def _run(
    configuration: ProviderSettings,
    publishing: PublishSettings | None,
    arguments: argparse.Namespace,
    record: RunRecord,
) -> ExitStatus:
    try:
        facts, rendering = _read(configuration, cli.layout(arguments), record)
    except Unavailable:
        if publishing is not None:
            from cloud_info_provider.publishing import publish  # noqa: PLC0415  start-up is a cost

            publish.retry(publishing, site=configuration.site.name)
        raise
    if publishing is None:
        # in one piece and flushed here: a full disk then fails the run, not the end of the process
        sys.stdout.write(rendering.text)
        sys.stdout.flush()
    for vo, reason in sorted(facts.failed.items()):
        record.fail(f"{vo}: {reason}")
        print(f"{PROGRAM}: {vo}: {reason}", file=sys.stderr)
    if publishing is not None:
        from cloud_info_provider.publishing import publish  # noqa: PLC0415  start-up is a cost

        publish.publish(
            publishing,
            rendering.text,
            failed=facts.failed.keys(),
            record=record,
            replacing=arguments.replace_object or "",
        )
    return ExitStatus.PARTLY if record.failures else ExitStatus.DONE


def _read(
    configuration: ProviderSettings, layout: Layout, record: RunRecord
) -> tuple[Facts, Rendering]:
    """Return the cloud as read, and as rendered."""
    from cloud_info_provider import reading  # noqa: PLC0415  loads the OpenStack clients

    cloud = reading.read(configuration, layout, record)
    rendering = selection.renderer(configuration.format)(cloud)
    record.add("entries", rendering.count)
    for problem in rendering.problems:
        logger.warning("%s", problem)
    return cloud.facts, rendering


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    program = cli.Program(
        PROGRAM,
        "Publish a cloud's offer to VOs, in LDIF for a BDII or in JSON.",
        add_arguments,
        provide,
        reads_flags_of_files=True,
        attempts=attempts,
    )
    return cli.main(program, argv)
