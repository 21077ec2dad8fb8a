"""``appliance vo plan|apply|remove``: the project, group, roles, mapping and tables of a VO.

``plan`` reads the cloud and prints everything as one difference; ``apply`` does what the reviewed
file of a plan says, and refuses if the mapping has changed since; ``remove`` lists what the VO has,
and waits for its name. The administrator's login comes from the command line, never from /etc.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from appliance.admin import changing, settings
from appliance.admin.accounts import accounts
from appliance.admin.accounts.needs import FlowAccount
from appliance.admin.config import show
from appliance.admin.migrate import apply as changes
from appliance.admin.settings import Host
from appliance.admin.site_yaml import export
from appliance.admin.vo import apply, credentials, plan, remove, shown, state, tables
from appliance.admin.vo.apply import Applier
from appliance.admin.vo.cloud import Requests, administrator
from appliance.admin.vo.credentials import AdministratorLogin
from appliance.admin.vo.mapping import ISSUER
from appliance.admin.vo.plan import VoPlan
from appliance.admin.vo.wish import COMPUTE_QUOTAS, VOLUME_QUOTAS, VoWish
from appliance.core import files
from appliance.core.run import cli, output
from appliance.core.run.errors import ExitStatus, UsageError
from appliance.core.run.layout import Layout

_VO = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own flags."""
    parser.add_argument(
        "action",
        choices=("plan", "apply", "remove"),
        help="print what a VO needs; do what a plan says; or take a VO's access away",
    )
    parser.add_argument("subject", metavar="VO|PLAN", help="name of the VO; apply: file of a plan")
    credentials.add_arguments(parser)
    _add_names(parser)
    parser.add_argument(
        "--format", choices=shown.FORMATS, default="person", help="plan: form of the output"
    )
    parser.add_argument(
        "--output",
        type=cli.file_to_write,
        metavar="FILE",
        help="plan: file to write the plan to, for apply",
    )
    parser.add_argument("--yes", action="store_true", help="remove: do not ask for the VO's name")
    parser.add_argument(
        "--delete-project", action="store_true", help="remove: delete the project, if it is empty"
    )


def _add_names(parser: argparse.ArgumentParser) -> None:
    for flag, words in (
        ("project", "name of the VO's project, if it is new (default: the VO's)"),
        ("group", "name of the VO's group (default: the VO's)"),
    ):
        parser.add_argument(f"--{flag}", default="", metavar="NAME", help=words)
    for flag, default, words in (
        ("domain", "Default", "domain of project and group"),
        ("role", "member", "role of the VO's members in the project"),
        ("entitlement-role", "vm_operator", "role in the VO that lets members in"),
        ("identity-provider", "egi.eu", "identity provider of EGI Check-in in Keystone"),
        ("protocol", "openid", "its protocol"),
        ("issuer", ISSUER, "issuer that a first rule names"),
    ):
        text = f"{words} (default: {default})"
        parser.add_argument(f"--{flag}", default=default, metavar="NAME", help=text)
    for name in (*COMPUTE_QUOTAS, *VOLUME_QUOTAS):
        unit = {"ram": " in MiB", "gigabytes": " of volumes"}.get(name, "")
        words = f"limit of {name}{unit} of the project (default: stays)"
        parser.add_argument(f"--{name}", type=_limit, metavar="N", help=words)


def _limit(text: str) -> int:
    if text.isdecimal() and int(text) < 2**31:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 2147483647")


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Plan, apply or remove."""
    layout = cli.layout(arguments)
    host = settings.load(layout)
    if arguments.check_config:
        return ExitStatus.DONE
    if os.geteuid() != 0:
        words = f"sudo appliance vo {arguments.action} {arguments.subject}"
        raise UsageError("vo", "only root can read the site's files", words)
    if arguments.action == "apply":
        return _apply(arguments, host, layout)
    wish = _wish(arguments)
    login = credentials.read(arguments)
    with administrator(login, host, layout) as cloud:
        if arguments.action == "remove":
            return _remove(cloud, wish, arguments, layout)
        return _plan(cloud, wish, login, arguments, host, layout)


def _wish(arguments: argparse.Namespace) -> VoWish:
    vo: str = arguments.subject
    if not vo or not set(vo) <= _VO:
        cause = f"{vo!r} is not the name of a VO"
        raise UsageError(arguments.action, cause, "write it as in vo.example.org")
    given = vars(arguments)
    quotas: Mapping[str, int] = {
        name: given[name] for name in (*COMPUTE_QUOTAS, *VOLUME_QUOTAS) if given[name] is not None
    }
    return VoWish(
        vo=vo,
        project=arguments.project or vo,
        domain=arguments.domain,
        group=arguments.group or vo,
        role=arguments.role,
        entitlement=arguments.entitlement_role,
        provider=arguments.identity_provider,
        protocol=arguments.protocol,
        issuer=arguments.issuer,
        quotas=quotas,
    )


def _made(
    cloud: Requests,
    wish: VoWish,
    login: AdministratorLogin,
    served: Sequence[FlowAccount],
) -> VoPlan:
    return plan.make(wish, state.read(cloud, wish, served), keystone=login.auth_url)


def _plan(
    cloud: Requests,
    wish: VoWish,
    login: AdministratorLogin,
    arguments: argparse.Namespace,
    host: Host,
    layout: Layout,
) -> ExitStatus:
    names = dict.fromkeys([*accounts.names_of_flows(host, layout), *export.names_asked(host)])
    reading = show.programs(host, layout, list(names))
    made = _made(cloud, wish, login, accounts.of_flows(host, layout, reading))
    writes = tables.writes(wish.vo, made.project, host, layout)
    site, *described = tables.described(wish.vo, made.project, host, layout, reading)
    before, after = described
    match arguments.format:
        case "ansible":
            alone = tables.described_alone(wish.vo, made.project, host, layout, reading)
            print(shown.ansible(made, alone, layout.path("/var/lib/fedcloud")), end="")
        case "patch":
            print(shown.patch(made, writes, (before, after), site), end="")
        case _:
            for line in shown.person(made, writes, (before, after)):
                output.line(line)
    if arguments.output:
        files.write_atomic(arguments.output.absolute(), plan.as_text(made).encode(), mode=0o600)
        output.remark(f"vo: the plan is in {arguments.output}: appliance vo apply")
    return ExitStatus.DONE


def _apply(arguments: argparse.Namespace, host: Host, layout: Layout) -> ExitStatus:
    reviewed = plan.read(Path(arguments.subject))
    login = credentials.read(arguments)
    with changing.alone(layout), administrator(login, host, layout) as cloud:
        reading = show.programs(host, layout, accounts.names_of_flows(host, layout))
        made = _made(cloud, reviewed.wish, login, accounts.of_flows(host, layout, reading))
        apply.refuse_other(made, reviewed)
        applier = Applier(cloud, made, layout)
        try:
            for line in applier.run(host):
                output.line(line)
        finally:
            # Also after a failure: what was done until then can be taken back.
            for command in applier.undo:
                output.line(f"undo: {command}")
    if not applier.undo:
        output.line("Nothing is left to change.")
    output.line("Next: appliance check")
    return ExitStatus.DONE


def _remove(
    cloud: Requests, wish: VoWish, arguments: argparse.Namespace, layout: Layout
) -> ExitStatus:
    removal = remove.read(cloud, wish)
    if removal.is_empty:
        output.line(f"nothing of the VO {wish.vo} is at this site")
        return ExitStatus.DONE
    for line in remove.lines(removal, deletes=arguments.delete_project):
        output.line(line)
    if arguments.delete_project:
        remove.refuse_full(removal)
    _confirm(wish.vo, is_given=arguments.yes)
    with changing.alone(layout):
        kept = changes.new_directory(layout) / "mapping-before.json"
        for line in remove.run(cloud, removal, deletes=arguments.delete_project, kept=kept):
            output.line(line)
    return ExitStatus.DONE


def _confirm(vo: str, *, is_given: bool) -> None:
    """Wait for the VO's name.

    Raises:
        UsageError: There is no terminal, or another text was typed.

    """
    if is_given:
        return
    if not sys.stdin.isatty():
        raise UsageError("vo remove", "there is no terminal to ask at", "add --yes")
    if input(f"Type {vo} to take its access away: ").strip() != vo:
        raise UsageError("vo remove", "another name was typed, and nothing was changed")


VERB = cli.Program(
    "vo",
    "Print, apply or take back what a VO needs in the cloud and on this host.",
    add_arguments,
    run,
)
