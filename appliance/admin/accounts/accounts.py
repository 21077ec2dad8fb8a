"""``appliance accounts``: print the commands that make each flow's account, or check its rights.

Nothing is changed anywhere: the commands are for an administrator of the cloud. With ``--check``
each program logs in with its own account, and the cloud shows what is missing or too much.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence

from appliance.admin import settings
from appliance.admin.accounts import commands, needs, rights
from appliance.admin.accounts.needs import AccountNeed, FlowAccount
from appliance.admin.accounts.rights import Right
from appliance.admin.check.inside import Depth, ProgramSettings
from appliance.admin.check.programs import Programs
from appliance.admin.config import show
from appliance.admin.config.show import Reading
from appliance.admin.inventory import Flow
from appliance.admin.settings import Host
from appliance.core.run import cli, output
from appliance.core.run.errors import ExitStatus, Unavailable, UsageError
from appliance.core.run.finding import Finding
from appliance.core.run.layout import Layout


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own flags."""
    parser.add_argument(
        "flows",
        nargs="*",
        metavar="FLOW",
        help=f"flows whose accounts are wanted: {', '.join(Flow)} (default: those that are on)",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="log in with each account, and print the rights that it lacks or does not need",
    )
    parser.add_argument(
        "--form",
        choices=commands.FORMS,
        default="",
        help="kind of the accounts (default: the configured one, else password)",
    )
    parser.add_argument(
        "--group", default="", metavar="NAME", help="group of federated accounts, for the commands"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Print the commands, or the rights that are wrong."""
    layout = cli.layout(arguments)
    host = settings.load(layout)
    wanted = _wanted(arguments.flows, host, layout)
    if arguments.check and (arguments.form or arguments.group):
        raise UsageError("--form, --group", "are for the commands", "leave out --check")
    if not (host.is_native or host.is_beside):
        settings.require_files(host)
    if arguments.check_config:
        return ExitStatus.DONE
    if os.geteuid() != 0:
        raise UsageError("accounts", "only root can read all files", "sudo appliance accounts")
    accounts = list(_accounts(wanted, host, layout))
    if arguments.check:
        return _check(accounts, host, layout, as_json=arguments.json)
    _refuse_credentials(accounts, arguments.form)
    _print(accounts, form=arguments.form, group=arguments.group, as_json=arguments.json)
    return _unset(accounts)


def _wanted(words: Sequence[str], host: Host, layout: Layout) -> list[AccountNeed]:
    """Return the needs of the flows that are named; else of those that this site runs."""
    unknown = [word for word in words if word not in set(Flow)]
    if unknown:
        hint = f"write one or more of {', '.join(Flow)}"
        raise UsageError(unknown[0], "there is no such flow", hint)
    if host.is_beside and not words:  # no setting says which flows are on
        return [need for need in needs.NEEDS if layout.path(need.file).exists()]
    chosen = set(words) or {flow for flow, is_on in host.flows.items() if is_on}
    return [need for need in needs.NEEDS if need.flow in chosen]


def _accounts(
    wanted: Sequence[AccountNeed], host: Host, layout: Layout, reading: Reading | None = None
) -> Iterator[FlowAccount]:
    """Yield the account of each flow; ``reading`` is what the programs have read already.

    Raises:
        Unavailable: A program has not answered.

    """
    names = [_name(need, host) for need in wanted]
    read, failures = reading or show.programs(host, layout, names)
    by_program = {one.program: one for one in read}
    for need in wanted:
        # A program without any value has not run; one whose configuration has errors has.
        found = by_program.get(need.program, ProgramSettings(need.program, ()))
        if not found.values:
            # A failure of no program, such as one of the engine, is of all.
            causes = [str(one) for one in failures if one.program in ("", _name(need, host))]
            cause = f"has not shown its configuration: {causes[0] if causes else 'no answer'}"
            raise Unavailable(need.program, cause, "appliance check --offline")
        yield needs.read(need, found, host, layout)


def names_of_flows(host: Host, layout: Layout) -> list[str]:
    """Return the jobs and services whose programs have the accounts of the flows that are on."""
    return [_name(need, host) for need in _wanted((), host, layout)]


def of_flows(host: Host, layout: Layout, reading: Reading) -> list[FlowAccount]:
    """Return the accounts of the flows that are on.

    Raises:
        Unavailable: A program has not answered.

    """
    return list(_accounts(_wanted((), host, layout), host, layout, reading))


def _name(need: AccountNeed, host: Host) -> str:
    return need.beside if host.is_beside else need.job


def _refuse_credentials(accounts: Sequence[FlowAccount], form: str) -> None:
    for account in accounts if form == commands.CREDENTIAL else ():
        if fault := commands.credential_faults(account):
            others = " ".join(
                one.need.flow for one in accounts if not commands.credential_faults(one)
            )
            remedy = f"appliance accounts --form {form} {others}" if others else "leave out --form"
            raise UsageError(account.need.flow, fault, remedy)


def _print(accounts: Sequence[FlowAccount], *, form: str, group: str, as_json: bool) -> None:
    made = {one.need.flow: list(commands.lines(one, form=form, group=group)) for one in accounts}
    if as_json:
        output.document({"accounts": [_as_json(one, made[one.need.flow]) for one in accounts]})
        return
    for number, one in enumerate(accounts):
        if number:
            output.line()
        for line in made[one.need.flow]:
            output.line(line)


def _unset(accounts: Sequence[FlowAccount]) -> ExitStatus:
    """Report what the site has not set yet, so that commands are missing or have a usual name."""
    for one in accounts:
        for fault in one.unset:
            output.remark(f"accounts: {one.need.flow}: {fault}")
    return ExitStatus.PARTLY if any(one.unset for one in accounts) else ExitStatus.DONE


def _as_json(account: FlowAccount, lines: Sequence[str]) -> dict[str, object]:
    return {
        "flow": account.need.flow,
        "account": account.access.account if account.access.options else None,
        "place": account.place or None,
        "role": account.need.role,
        "system_role": account.need.system_role or None,
        "projects": [{"project": one.project, "vo": one.vo or None} for one in account.projects],
        "unset": list(account.unset),
        "commands": [line for line in lines if not line.startswith("#")],
    }


def _check(
    accounts: Sequence[FlowAccount], host: Host, layout: Layout, *, as_json: bool
) -> ExitStatus:
    """Print the rights that are missing or too much."""
    found = list(_rights(accounts, host, layout))
    if as_json:
        names = ("flow", "state", "text", "identifier")
        output.document({"rights": [{name: getattr(one, name) for name in names} for one in found]})
    else:
        for one in found:
            row = f"{one.identifier}: " if one.identifier else ""
            output.line(f"{one.flow}: {one.state}: {row}{one.text}")
        words = ", ".join(one.need.flow for one in accounts)
        output.line(f"{output.count(len(found), 'right')} to change in the accounts of {words}")
    return ExitStatus.PARTLY if found else ExitStatus.DONE


def _rights(accounts: Sequence[FlowAccount], host: Host, layout: Layout) -> Iterator[Right]:
    names = [_name(one.need, host) for one in accounts]
    services = {name: show.service(name) for name in names}
    programs = Programs(host, layout, services, depth=Depth.LIVE)
    for account, name in zip(accounts, names, strict=True):
        answer = programs.answer(name)
        is_answer = name in programs.asked and not _stops(answer.findings)
        yield from rights.compare(account, answer.findings, answer.values, is_answer=is_answer)


def _stops(findings: Sequence[Finding]) -> bool:
    """Check whether errors of the configuration have kept a program from logging in."""
    return any(one.is_error and not one.tried for one in findings)


VERB = cli.Program(
    "accounts",
    "Print the commands that make the account of each flow, or check the rights of the accounts.",
    add_arguments,
    run,
)
