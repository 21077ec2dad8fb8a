"""``cloud-info-provider-service``: publish a cloud's offer to VOs, as GLUE in LDIF or JSON.

Standard output has a whole cloud or nothing. If a VO could not be read, the output lacks it, the
exit status is 1, and the reason is on standard error (docs/adr/0010). The other publishers keep
what such a VO published last (docs/adr/0052).
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from appliance.core import clock
from appliance.core.run import cli
from appliance.core.run.errors import (
    ConfigurationError,
    ExitStatus,
    Problem,
    Unavailable,
    UsageError,
)
from appliance.core.run.record import RunRecord, recorded
from cloud_info_provider import settings, vocabulary
from cloud_info_provider.facts import Facts
from cloud_info_provider.formats import selection
from cloud_info_provider.formats.published_cloud import PublishedCloud, Rendering
from cloud_info_provider.ignored import IGNORED_FLAGS
from cloud_info_provider.publishing.selection import OUTPUT, PUBLISH_FILE, PUBLISHERS, STDOUT
from cloud_info_provider.settings import ProviderSettings

if TYPE_CHECKING:
    from cloud_info_provider.publishing.settings import PublishSettings

PROGRAM = "cloud-info-provider-service"

logger = logging.getLogger(__name__)

# Seconds. Four attempts and those of one more login end before the BDII's time limit (300 s).
_TIMEOUT = 30
_LDIF, _JSON = "glue", "glue21json"

# For each flag: its values, the default first, and its other values in releases of
# cloud-info-provider.
_CHOICES: Mapping[str, tuple[Mapping[str, str], tuple[str, ...]]] = {
    "format": (selection.FORMATS, ("glue21", "cmdb")),
    "middleware": (
        {"openstack": "a cloud of OpenStack"},
        ("static", "ooi", "opennebula", "opennebularocci", "indigoon", "aws", "mesos", "onedata"),
    ),
    "publisher": (PUBLISHERS, ("ams", "json_stdout")),
}
# Flags of those releases that are rejected: their effect would be missed. Here those with a value.
_WITH_VALUE = (
    "template-dir",
    "template-extension",
    "glite-site-info-static",
    "auth-refresher",
    "os-cloud",
    "os-system-scope",
    "oidc-token-endpoint",
    "oidc-client-id",
    "oidc-client-secret",
    "oidc-refresh-token",
    "oidc-scopes",
    "oidc-credentials-path",
    "ams-token",
    "ams-host",
    "ams-topic",
    "ams-project",
    "ams-cert",
    "ams-key",
    "on-auth",
    "on-rpcxml-endpoint",
    "rocci-template-dir",
    "select-flavors",
    "auditor-role-cloud",
)
_WITHOUT_VALUE = (
    "full-bdii-ldif",
    "site-in-suffix",
    "rocci-remote-templates",
    "exit-on-share-errors",
    "only-appdb-images",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that cloud-info-provider 0.8 to 1.2 share, and those rejected or ignored."""
    made = parser.add_argument_group("flags of cloud-info-provider")
    made.add_argument(
        "--yaml-file",
        "--yaml",
        metavar="PATH",
        help=f"description of the site and its VOs (default: {settings.YAML_FILES[0]})",
    )
    made.add_argument(
        "--rc-file",
        metavar="PATH",
        help=f"account: OS_… variables in shell form, never executed (default: {settings.RC_FILE})",
    )
    for name, (values, _) in _CHOICES.items():
        meaning = "; ".join(f"{value}: {words}" for value, words in values.items())
        default = next(iter(values))
        made.add_argument(
            f"--{name}", default=default, metavar="NAME", help=f"{meaning} (default: {default})"
        )
    made.add_argument(
        "--all-images", action="store_true", help="publish images without a marketplace entry too"
    )
    made.add_argument(
        "--insecure", action="store_true", help="accept any certificate (for tests only)"
    )
    made.add_argument(
        "--timeout",
        type=_seconds,
        default=_TIMEOUT,
        metavar="SECONDS",
        help=f"seconds to wait for an answer of the cloud, 1 to 3600 (default: {_TIMEOUT})",
    )
    for name in vocabulary.ACCOUNT_FLAGS:
        made.add_argument(
            f"--os-{name.replace('_', '-')}",
            metavar="TEXT",
            help=f"use instead of OS_{name.upper()}",
        )
    made.add_argument(
        "--validate",
        action="store_true",
        help="print what EGI's validator finds in the entries of GLUE 2.0; publish nothing",
    )
    made.add_argument(
        "--output",
        metavar="PATH",
        help="file to write, all publishers but stdout; an object store gets its content"
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
        help="object of the same GOCDB id in the object store that somebody else wrote, and that"
        " this run may replace, or remove if its name is another one",
    )
    for name in (*_WITH_VALUE, *_WITHOUT_VALUE):
        nargs = 0 if name in _WITHOUT_VALUE else None
        made.add_argument(
            f"--{name}", dest="refused", action=_RejectFlag, nargs=nargs, help=argparse.SUPPRESS
        )
    for name in IGNORED_FLAGS:
        made.add_argument(f"--{name}", action="store_true", help=argparse.SUPPRESS)


class _RejectFlag(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        parser.error(f"{self.option_strings[0]} is not in this version")


def _seconds(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 3600:  # noqa: PLR2004  an hour
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 1 to 3600")
    return int(text)


def provide(arguments: argparse.Namespace) -> ExitStatus:
    """Read the cloud, print the tree, and record the run."""
    for name, (values, others) in _CHOICES.items():
        if (value := getattr(arguments, name)) not in values:
            cause = "is not in this version" if value in others else "is unknown"
            raise UsageError(f"--{name}", f"{value!r} {cause}", f"write {' or '.join(values)}")
    if arguments.check_config:
        configuration, _ = _configure(arguments)
        print(f"{PROGRAM}: configuration is good: {configuration.yaml_file}", file=sys.stderr)
        return ExitStatus.DONE
    if arguments.validate:
        return _validate(arguments)
    with recorded(PROGRAM, cli.layout(arguments).runs) as record:
        try:
            record.status = _run(*_configure(arguments), arguments.replace_object or "", record)
        finally:
            record.add("wall_seconds", (clock.now() - record.started).total_seconds())
    return record.status


def _validate(arguments: argparse.Namespace) -> ExitStatus:
    """Print what is wrong with the entries, without a record of this run."""
    if arguments.format != _LDIF:
        raise UsageError("--validate", f"checks the format {_LDIF} only", "leave --format out")
    configuration, _ = _configure(arguments)
    checked = replace(configuration, format=selection.VALIDATION)
    facts, rendering = _read(checked, RunRecord(PROGRAM, is_kept=False))
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

        _check_format(arguments)
        try:
            publishing = load_publishing(arguments, cli.layout(arguments))
        except ConfigurationError as error:
            problems += error.problems
    if configuration is None or problems:
        raise ConfigurationError(problems)
    for problem in (*configuration.warnings, *(publishing.warnings if publishing else ())):
        logger.warning("%s", problem)
    return configuration, publishing


def _check_format(arguments: argparse.Namespace) -> None:
    if arguments.format != _JSON:
        words = f"{arguments.publisher} publishes EGI's JSON only"
        raise UsageError("--publisher", words, f"write --format {_JSON}")


def _run(
    configuration: ProviderSettings,
    publishing: PublishSettings | None,
    replacing: str,
    record: RunRecord,
) -> ExitStatus:
    try:
        facts, rendering = _read(configuration, record)
    except Unavailable:
        if publishing is not None:
            from cloud_info_provider.publishing import publish  # noqa: PLC0415  start-up is a cost

            publish.retry(publishing)
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
            replacing=replacing,
        )
    return ExitStatus.PARTLY if record.failures else ExitStatus.DONE


def _read(configuration: ProviderSettings, record: RunRecord) -> tuple[Facts, Rendering]:
    """Return the cloud as read, and as rendered."""
    from cloud_info_provider import gather  # noqa: PLC0415  loads the OpenStack clients

    account = gather.ProviderAccount(configuration)
    # the figures of a run that fails before the first VO is read
    record.counts |= {"vos": 0, "vos_failed": max(len(configuration.shares), 1)}
    try:
        shares = configuration.shares or (gather.own_share(account),)
        facts = gather.gather(account, shares)
    finally:
        record.add("requests", account.requests)
    access = configuration.access
    cloud = PublishedCloud(
        facts, configuration.site, shares, access.auth_url, access.auth_url, access.auth_type
    )
    rendering = selection.renderer(configuration.format)(cloud)
    record.counts |= {"vos": len(facts.shares), "vos_failed": len(facts.failed)}
    record.add("flavors", len({flavor.id for share in facts.shares for flavor in share.flavors}))
    record.add("images", len({image.id for share in facts.shares for image in share.images}))
    record.add("entries", rendering.count)
    for problem in rendering.problems:
        logger.warning("%s", problem)
    return facts, rendering


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    program = cli.Program(
        PROGRAM,
        "Publish a cloud's offer to VOs, in LDIF for a BDII or in JSON.",
        add_arguments,
        provide,
    )
    return cli.main(program, argv)
