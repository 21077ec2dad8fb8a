"""The rights that an account lacks or should not have, as the cloud itself shows them.

Each program logs in with its account in its own container (``--check-live``), tries what a run
reads, and notes the roles that its tokens have. Missing rights are the findings of that check; what
is too much follows from the roles.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from appliance.admin.accounts.needs import MEMBER, RANKS, READER, FlowAccount
from appliance.core.config.settings import ROLES, SYSTEM, Value
from appliance.core.run.finding import Finding

MISSING, EXCESS, UNKNOWN = "missing", "too much", "not checked"
_FAMILIES = ("C23", "C30", "C31", "C32", "C33", "C34", "C35", "C36")
_NO_RIGHT = re.compile(r"properties of a benchmark|no image is visible")
"""Findings of these families that are faults of the cloud's contents."""


@dataclass(frozen=True, slots=True)
class Right:
    """A right that is missing or too much."""

    flow: str
    state: str
    """`MISSING`, `EXCESS`, or `UNKNOWN` if the program could not log in at all."""
    text: str
    """What is wrong, and the remedy."""
    identifier: str = ""
    """The row of a finding of the check."""


def compare(
    account: FlowAccount, findings: Sequence[Finding], values: Sequence[Value], *, is_answer: bool
) -> Iterator[Right]:
    """Yield the rights that are missing, then those that are too much.

    Without ``is_answer`` the program has not tried the cloud; its errors say why.
    """
    if not is_answer:
        for one in findings:
            if one.is_error:
                yield Right(account.need.flow, UNKNOWN, str(one), one.identifier)
        return
    for one in findings:
        if one.family in _FAMILIES and not _NO_RIGHT.search(one.text):
            yield Right(account.need.flow, MISSING, str(one), one.identifier)
    scopes = _scopes(values)
    yield from _of_images(account, scopes)
    for scope, roles in scopes.items():
        yield from _excess(account, scope, roles)
    yield from _elsewhere(account, scopes)


def _scopes(values: Sequence[Value]) -> dict[str, set[str]]:
    """Return the roles in the system and in each project; none where only some role is known."""
    found: dict[str, set[str]] = {}
    for value in values:
        if value.section == ROLES:
            found.setdefault(value.option, set()).update(filter(None, value.text.split(",")))
    return found


def _of_images(account: FlowAccount, scopes: dict[str, set[str]]) -> Iterator[Right]:
    """Yield the projects in which an account may read and not write.

    A check without ``--write`` reads only, so the role is what shows it.
    """
    if account.need.role != MEMBER:
        return
    for scope, roles in scopes.items():
        if roles and not roles & set(RANKS[1:]) and READER in roles:
            grant = account.access.grant(f"--project {scope}")
            text = f"project {scope}: has the role {READER} only, and makes no image; {grant}"
            yield Right(account.need.flow, MISSING, text)


def _excess(account: FlowAccount, scope: str, roles: set[str]) -> Iterator[Right]:
    is_system = scope == SYSTEM
    needed = account.need.system_role if is_system else account.need.role
    above = RANKS[RANKS.index(needed) + 1 :] if needed else RANKS
    held = [role for role in above if role in roles]
    if not held or (account.publishes and not is_system):
        return
    where = "the system" if is_system else f"project {scope}"
    # The higher role implies the others, so it is the one that was given.
    text = f"{where}: has the role {held[-1]}, and {needed or 'none'} suffices"
    yield Right(account.need.flow, EXCESS, f"{text}; {_removal(account, scope, held[-1])}")


def _elsewhere(account: FlowAccount, scopes: dict[str, set[str]]) -> Iterator[Right]:
    """Yield the projects in which the account has a role, and that its flow does not use."""
    for scope, roles in scopes.items():
        if not roles and scope != SYSTEM:
            text = f"project {scope}: has a role there, and no VO of the site uses it"
            yield Right(account.need.flow, EXCESS, f"{text}; {_removal(account, scope, 'ROLE')}")


def _removal(account: FlowAccount, scope: str, role: str) -> str:
    """Return the command that takes a role away, or how an application credential loses it."""
    if account.access.is_application_credential:
        return account.access.renewal()
    where = ("--system", "all") if scope == SYSTEM else ("--project", scope)
    of_domain = ("--user-domain", account.domain) if account.domain else ()
    who = ("--user", account.user, *of_domain)
    if account.access.is_federated:
        who = ("--group", "GROUP")
    return shlex.join(("openstack", "role", "remove", *who, *where, role))
