"""The plan for a VO: the steps from what the cloud has to what the wish says, and back.

A plan is made from a wish and a state, and is the same for the same two; so the one that is applied
can be compared with the one that was reviewed.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from appliance.admin.vo import mapping, wish
from appliance.admin.vo.cloud import COMPUTE, IDENTITY, VOLUME
from appliance.admin.vo.mapping import FederationMapping
from appliance.admin.vo.state import PROPERTY, VoState
from appliance.admin.vo.wish import COMPUTE_QUOTAS, VOLUME_QUOTAS, VoWish
from appliance.core.config import document
from appliance.core.run.errors import ConfigurationError, Problem

FORMAT = 1
PROJECT, GROUP = "{project}", "{group}"
"""Stand for the ids of a project and a group that earlier steps make."""
NEW_PROJECT = "ID-OF-THE-NEW-PROJECT"


@dataclass(frozen=True, slots=True)
class CloudStep:
    """A request that changes the cloud, and the command that does the same."""

    command: str
    undo: str
    """The command that takes it back; it may have `PROJECT` and `GROUP`."""
    service: str
    method: str
    path: str
    body: Mapping[str, Any] | None = None
    makes: str = ""
    """``project`` or ``group`` if the answer has the id of a new one."""


@dataclass(frozen=True, slots=True)
class VoPlan:
    """The steps for a VO, and the change of the mapping, which comes last."""

    wish: VoWish
    keystone: str
    before: FederationMapping
    rule: Mapping[str, Any] | None
    """The rule that is added to the mapping; None if a rule lets the VO in already."""
    project: str
    """The id of the project; empty if a step makes it."""
    group: str
    domain: str
    """The id of the domain of project and group."""
    steps: tuple[CloudStep, ...] = ()
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def is_empty(self) -> bool:
        """Return whether the cloud has everything."""
        return not self.steps and self.rule is None

    @property
    def after(self) -> str:
        """Return the text of the mapping's rules after the change."""
        if self.rule is None:
            return self.before.text
        return mapping.added(self.before.text, self.rule)

    @property
    def digest_after(self) -> str:
        """Return the digest of the mapping after the change."""
        return FederationMapping(self.before.id, self.after).digest


def make(wanted: VoWish, state: VoState, *, keystone: str) -> VoPlan:
    """Return the plan."""
    rules = state.mapping.of_vo(wanted.vo)
    issuer, role = wanted.issuer, wanted.entitlement
    rule = mapping.rule_of(
        wanted.vo, wanted.group, wanted.domain, role=role, issuer=issuer, like=state.mapping.rules
    )
    return VoPlan(
        wanted,
        keystone,
        state.mapping,
        None if rules else rule,
        state.project,
        state.group,
        state.domain,
        tuple(_steps(wanted, state)),
        tuple(_notes(wanted, state, rules)),
    )


def _steps(wanted: VoWish, state: VoState) -> Iterator[CloudStep]:
    yield from _project(wanted, state)
    yield from _quotas(wanted, state)
    if not state.group:
        group = {"name": wanted.group, "domain_id": state.domain, "description": f"VO {wanted.vo}"}
        command = _line("group", "create", "--domain", wanted.domain, wanted.group)
        undo = f"openstack group delete {GROUP}"
        yield CloudStep(command, undo, IDENTITY, "POST", "/groups", {"group": group}, makes="group")
    yield from _grants(wanted, state)


def _project(wanted: VoWish, state: VoState) -> Iterator[CloudStep]:
    if not state.project:
        project = {
            "name": wanted.project,
            "domain_id": state.domain,
            "description": f"VO {wanted.vo}",
            PROPERTY: wanted.vo,
        }
        words = ("--domain", wanted.domain, "--property", f"{PROPERTY}={wanted.vo}")
        command = _line("project", "create", *words, wanted.project)
        undo = f"openstack project delete {PROJECT}"
        body = {"project": project}
        yield CloudStep(command, undo, IDENTITY, "POST", "/projects", body, makes="project")
    elif not state.has_property:
        command = _line("project", "set", "--property", f"{PROPERTY}={wanted.vo}", state.project)
        # Keystone removes a property that is set to nothing, as the client does.
        undo = _line("project", "set", "--property", f"{PROPERTY}=", state.project)
        path, body = f"/projects/{state.project}", {"project": {PROPERTY: wanted.vo}}
        yield CloudStep(command, undo, IDENTITY, "PATCH", path, body)


def _quotas(wanted: VoWish, state: VoState) -> Iterator[CloudStep]:
    for service, names in ((COMPUTE, COMPUTE_QUOTAS), (VOLUME, VOLUME_QUOTAS)):
        limits = {
            name: wanted.quotas[name]
            for name in names
            if name in wanted.quotas and wanted.quotas[name] != state.quotas.get(name)
        }
        if limits:
            command = _quota_command(limits)
            before = {name: state.quotas[name] for name in limits if name in state.quotas}
            undo = _quota_command(before) if before else ""
            path = f"/os-quota-sets/{PROJECT}"
            yield CloudStep(command, undo, service, "PUT", path, {"quota_set": limits})


def _quota_command(limits: Mapping[str, int]) -> str:
    flags = " ".join(f"--{name} {limit}" for name, limit in limits.items())
    return f"openstack quota set {flags} {PROJECT}"


def _grants(wanted: VoWish, state: VoState) -> Iterator[CloudStep]:
    role = state.roles[wanted.role]
    if (state.group, role) not in state.grants or not state.group:
        words = f"--group {GROUP} --project {PROJECT} {shlex.quote(wanted.role)}"
        yield _grant(words, f"/projects/{PROJECT}/groups/{GROUP}/roles/{role}")
    for account in state.accounts:
        if account.user and (account.user, state.roles[account.role]) not in state.grants:
            words = f"--user {account.user} --project {PROJECT} {account.role}"
            place = f"/projects/{PROJECT}/users/{account.user}/roles/{state.roles[account.role]}"
            yield _grant(words, place)


def _grant(words: str, path: str) -> CloudStep:
    return CloudStep(
        f"openstack role add {words}", f"openstack role remove {words}", IDENTITY, "PUT", path
    )


def _notes(wanted: VoWish, state: VoState, rules: list[Any]) -> Iterator[str]:
    for account in state.accounts:
        if not account.user:
            words = "has no user of its own in Keystone: give it its role"
            yield f"{account.flow}: the account {account.name!r} {words} (appliance accounts)"
    if len(rules) > 1:
        yield f"{len(rules)} rules of the mapping let the VO {wanted.vo} in"
    elif (
        rules
        and wanted.group not in json.dumps(rules)
        and (state.group or "-") not in json.dumps(rules)
    ):
        yield f"the mapping puts the VO {wanted.vo} into another group than {wanted.group!r}"


def _line(*words: str) -> str:
    return shlex.join(("openstack", *words))


def filled(text: str, ids: Mapping[str, str]) -> str:
    """Return a command or a path with the ids in place of what stands for them."""
    for name, identifier in ids.items():
        text = text.replace(f"{{{name}}}", identifier)
    return text


# -------------------------------------------------------------------------------------- the file


def as_text(plan: VoPlan) -> str:
    """Return the file of a plan."""
    tree = {
        "format": FORMAT,
        "wish": plan.wish.as_json(),
        "keystone": plan.keystone,
        "mapping": {
            "id": plan.before.id,
            "before": plan.before.digest,
            "after": plan.digest_after,
            "rule": plan.rule,
        },
        "project": plan.project,
        "group": plan.group,
        "steps": [asdict(step) for step in plan.steps],
    }
    return json.dumps(tree, indent=2, ensure_ascii=False) + "\n"


@dataclass(frozen=True, slots=True)
class ReviewedPlan:
    """A plan as a file has it."""

    wish: VoWish
    keystone: str
    before: str
    after: str
    """Digests of the mapping."""
    rule: Mapping[str, Any] | None
    commands: tuple[str, ...]


def read(path: Path) -> ReviewedPlan:
    """Read the file of a plan.

    Raises:
        ConfigurationError: It is none, or one of another version.

    """
    try:
        tree = json.loads(document.read_text(path))
        if tree["format"] != FORMAT:
            cause = f"has the format {tree['format']!r}, this version writes {FORMAT}"
            raise ConfigurationError([Problem(path, 0, "format", f"{cause}; plan again")])
        digests = tree["mapping"]
        return ReviewedPlan(
            wish.of_json(tree["wish"]),
            str(tree["keystone"]),
            str(digests["before"]),
            str(digests["after"]),
            digests["rule"],
            tuple(str(step["command"]) for step in tree["steps"]),
        )
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        if isinstance(error, ConfigurationError):
            raise
        cause = "is not a plan of appliance vo plan; write one with --output"
        raise ConfigurationError([Problem(path, 0, "", cause)]) from None
