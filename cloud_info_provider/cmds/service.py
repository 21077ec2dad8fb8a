"""``cloud-info-provider-service``: print a cloud's offer to VOs, as GLUE in LDIF or JSON.

Standard output has a whole cloud or nothing. If a VO could not be read, the output lacks it, the
exit status is 1, and the reason is on standard error (docs/adr/0010).
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence

from appliance.core import clock
from appliance.core.run import cli
from appliance.core.run.errors import ExitStatus, UsageError
from appliance.core.run.record import RunRecord, recorded
from cloud_info_provider import settings, vocabulary
from cloud_info_provider.formats import selection
from cloud_info_provider.formats.published_cloud import PublishedCloud
from cloud_info_provider.ignored import IGNORED_FLAGS
from cloud_info_provider.settings import ProviderSettings

PROGRAM = "cloud-info-provider-service"

logger = logging.getLogger(__name__)

# Seconds. Four attempts and those of one more login end before the BDII's time limit (300 s).
_TIMEOUT = 30

# For each flag: its values, the default first, and its other values in releases of
# cloud-info-provider.
_CHOICES: Mapping[str, tuple[Mapping[str, str], tuple[str, ...]]] = {
    "format": (selection.FORMATS, ("glue21", "cmdb")),
    "middleware": (
        {"openstack": "a cloud of OpenStack"},
        ("static", "ooi", "opennebula", "opennebularocci", "indigoon", "aws", "mesos", "onedata"),
    ),
    "publisher": ({"stdout": "standard output"}, ("ams", "json_stdout", "file")),
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
        configuration = _configure(arguments)
        print(f"{PROGRAM}: configuration is good: {configuration.yaml_file}", file=sys.stderr)
        return ExitStatus.DONE
    with recorded(PROGRAM, cli.layout(arguments).runs) as record:
        try:
            record.status = _run(_configure(arguments), record)
        finally:
            record.add("wall_seconds", (clock.now() - record.started).total_seconds())
    return record.status


def _configure(arguments: argparse.Namespace) -> ProviderSettings:
    configuration = settings.load(arguments, cli.layout(arguments))
    for problem in configuration.warnings:
        logger.warning("%s", problem)
    return configuration


def _run(configuration: ProviderSettings, record: RunRecord) -> ExitStatus:
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
    # in one piece and flushed here: a full disk then fails the run, not the end of the process
    sys.stdout.write(rendering.text)
    sys.stdout.flush()
    record.counts |= {"vos": len(facts.shares), "vos_failed": len(facts.failed)}
    record.add("flavors", len({flavor.id for share in facts.shares for flavor in share.flavors}))
    record.add("images", len({image.id for share in facts.shares for image in share.images}))
    record.add("entries", rendering.count)
    for problem in rendering.problems:
        logger.warning("%s", problem)
    for vo, reason in sorted(facts.failed.items()):
        record.fail(f"{vo}: {reason}")
        print(f"{PROGRAM}: {vo}: {reason}", file=sys.stderr)
    return ExitStatus.PARTLY if facts.failed else ExitStatus.DONE


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    program = cli.Program(
        PROGRAM,
        "Print a cloud's offer to VOs, in LDIF for a BDII or in JSON.",
        add_arguments,
        provide,
    )
    return cli.main(program, argv)
