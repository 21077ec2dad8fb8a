"""``cloud-info-provider-service``: print what the cloud offers to VOs, as GLUE 2.0 in LDIF.

Standard output holds a whole tree or nothing. A VO that could not be read is missing in it; the
last lines then say ``# failed: VO``, the exit status is 1, and the reason is on standard error.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from appliance.core import clock, ldif
from appliance.core.run import cli
from appliance.core.run.errors import ExitStatus, UsageError
from appliance.core.run.record import RunRecord, recorded
from cloud_info_provider import settings, vocabulary
from cloud_info_provider.settings import ProviderSettings

PROGRAM = "cloud-info-provider-service"

logger = logging.getLogger(__name__)

_TIMEOUT = 30
"""Four attempts of this length, and those of a last login, are over before a BDII's patience (300 s) is."""

_CHOICES = {
    "middleware": (
        "openstack",
        ("static", "ooi", "opennebula", "opennebularocci", "indigoon", "aws", "mesos", "onedata"),
    ),
    "format": ("glue", ("glue21", "glue21json", "cmdb", "json")),
    "publisher": ("stdout", ("ams", "json_stdout", "file")),
}
"""For each flag: what it may be, and what it was in releases of cloud-info-provider."""
_WITH_VALUE = (
    *(
        "template-dir",
        "template-extension",
        "glite-site-info-static",
        "auth-refresher",
        "os-cloud",
        "os-system-scope",
    ),
    *(
        "oidc-token-endpoint",
        "oidc-client-id",
        "oidc-client-secret",
        "oidc-refresh-token",
        "oidc-scopes",
    ),
    *(
        "oidc-credentials-path",
        "ams-token",
        "ams-host",
        "ams-topic",
        "ams-project",
        "ams-cert",
        "ams-key",
    ),
    *(
        "on-auth",
        "on-rpcxml-endpoint",
        "rocci-template-dir",
        "select-flavors",
        "auditor-role-cloud",
    ),
)
_WITHOUT_VALUE = (
    *(
        "full-bdii-ldif",
        "site-in-suffix",
        "rocci-remote-templates",
        "exit-on-share-errors",
        "only-appdb-images",
    ),
)
_IGNORED = ("ignore-share-errors", "legacy-occi-os")
"""What they asked for is done anyway."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that cloud-info-provider 0.8 to 1.2 have in common, and those that say what is not done here."""
    made = parser.add_argument_group("as cloud-info-provider has them")
    made.add_argument(
        "--yaml-file", "--yaml", metavar="PATH", help="what the site says of itself and of its VOs"
    )
    made.add_argument(
        "--rc-file", metavar="PATH", help="account: OS_… variables in shell form; never executed"
    )
    for name, (default, _) in _CHOICES.items():
        made.add_argument(
            f"--{name}", default=default, metavar="NAME", help=f"{default} (the only one so far)"
        )
    made.add_argument(
        "--all-images", action="store_true", help="also images that come from no marketplace"
    )
    made.add_argument("--insecure", action="store_true", help="trust any certificate")
    made.add_argument(
        "--timeout",
        type=_seconds,
        default=_TIMEOUT,
        metavar="SECONDS",
        help="how long the cloud may be silent",
    )
    for name in vocabulary.ACCOUNT_FLAGS:
        made.add_argument(
            f"--os-{name.replace('_', '-')}", metavar="TEXT", help=f"instead of OS_{name.upper()}"
        )
    for name in _WITH_VALUE:
        made.add_argument(f"--{name}", dest="refused", action=_RejectFlag, help=argparse.SUPPRESS)
    for name in _WITHOUT_VALUE:
        made.add_argument(
            f"--{name}", dest="refused", action=_RejectFlag, nargs=0, help=argparse.SUPPRESS
        )
    for name in _IGNORED:
        made.add_argument(f"--{name}", action="store_true", help=argparse.SUPPRESS)


class _RejectFlag(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        parser.error(f"{self.option_strings[0]} is not in this version")


def _seconds(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 3600:  # noqa: PLR2004  an hour
        raise argparse.ArgumentTypeError("must be seconds from 1 to 3600")
    return int(text)


def provide(arguments: argparse.Namespace) -> ExitStatus:
    """Read the cloud, print the tree, and record what the run did."""
    for name, (default, others) in _CHOICES.items():
        if (told := getattr(arguments, name)) != default:
            cause = "is not in this version" if told in others else "is unknown"
            raise UsageError(f"--{name}", f"{told!r} {cause}", f"write {default}")
    if arguments.check_config:
        configuration = _configure(arguments)
        print(f"{PROGRAM}: configuration is usable: {configuration.yaml_file}", file=sys.stderr)
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
    from cloud_info_provider import gather, glue  # noqa: PLC0415  loads the OpenStack clients

    account = gather.CloudAccount(configuration)
    record.counts |= {"vos": 0, "vos_failed": max(len(configuration.shares), 1)}
    try:
        shares = configuration.shares or (gather.own_share(account),)
        facts = gather.gather(account, shares)
    finally:
        record.add("requests", account.requests)
    entries = glue.entries(
        facts, configuration.site, shares=shares, auth_url=configuration.access.auth_url
    )
    failed = [ldif.Comment(f"failed: {vo}") for vo in sorted(facts.failed)]
    sys.stdout.write("".join(ldif.write([*entries, *failed])))
    sys.stdout.flush()
    record.counts |= {"vos": len(facts.shares), "vos_failed": len(facts.failed)}
    record.add("flavors", len({flavor.id for share in facts.shares for flavor in share.flavors}))
    record.add("images", len({image.id for share in facts.shares for image in share.images}))
    record.add("entries", len(entries))
    for vo, reason in sorted(facts.failed.items()):
        record.fail(f"{vo}: {reason}")
        print(f"{PROGRAM}: {vo}: {reason}", file=sys.stderr)
    return ExitStatus.PARTLY if facts.failed else ExitStatus.DONE


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    program = cli.Program(
        PROGRAM,
        "Prints what a cloud offers to VOs, as GLUE 2.0 in LDIF for a BDII.",
        add_arguments,
        provide,
    )
    return cli.main(program, argv)
