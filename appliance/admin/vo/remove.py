"""``appliance vo remove``: take the access of a VO away, after a look at what it has.

The rule goes first, so that nobody enters, then the group's role, then the group. The project stays
for the accounting of its last hours; ``--delete-project`` deletes it when it is empty.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.admin.vo import mapping, state
from appliance.admin.vo.apply import keep_mapping, read_mapping, write_mapping
from appliance.admin.vo.cloud import IDENTITY, Requests, checked, get
from appliance.admin.vo.state import VoState
from appliance.admin.vo.wish import VoWish
from appliance.core.run import output
from appliance.core.run.errors import Unavailable

_SHOWN = 10
"""Names of servers, volumes or images that are listed; the rest is counted."""


@dataclass(frozen=True, slots=True)
class Removal:
    """What a VO has at this site."""

    wish: VoWish
    state: VoState
    lost: Mapping[str, Sequence[str]]
    """Names by kind: servers, volumes, images."""
    elsewhere: bool
    """Whether the group has a role in other projects, too."""

    @property
    def is_empty(self) -> bool:
        """Return whether nothing of the VO is here."""
        return not (self.state.project or self.rules or self.state.group)

    @property
    def rules(self) -> list[object]:
        """Return the rules that let the VO, and no other, in."""
        return [
            rule
            for rule in self.state.mapping.of_vo(self.wish.vo)
            if mapping.vos(rule) == {self.wish.vo}
        ]


def read(cloud: Requests, wish: VoWish) -> Removal:
    """Read what the VO has."""
    found = state.read(cloud, wish)
    lost = state.lost(cloud, found.project) if found.project else {}
    return Removal(wish, found, lost, elsewhere=_is_elsewhere(cloud, found))


def _is_elsewhere(cloud: Requests, found: VoState) -> bool:
    if not found.group:
        return False
    listed = get(cloud, f"/role_assignments?group.id={found.group}")["role_assignments"]
    places = [one.get("scope", {}).get("project", {}).get("id") for one in listed]
    return any(place != found.project for place in places)


def lines(removal: Removal, *, deletes: bool) -> Iterator[str]:
    """Yield what would be lost, then what would be done."""
    found = removal.state
    if found.project:
        yield f"project {found.project_name} ({found.project}) has:"
        for kind, names in removal.lost.items():
            yield f"  {len(names)} {kind}"
            yield from (f"    {name}" for name in names[:_SHOWN])
            if len(names) > _SHOWN:
                yield f"    and {len(names) - _SHOWN} more"
    for rule in removal.rules:
        yield f"- rule of mapping {found.mapping.id}: {json.dumps(rule)}"
    shared = len(found.mapping.of_vo(removal.wish.vo)) - len(removal.rules)
    if shared:
        yield f"! {output.count(shared, 'rule')} for several VOs stay; edit them by hand"
    if found.group:
        verb = "stays, it has roles elsewhere" if removal.elsewhere else "is deleted"
        yield f"- group {removal.wish.group}: loses its role in the project, and {verb}"
    if found.project:
        yield f"- project {found.project_name}: {'is deleted' if deletes else 'stays'}"


def refuse_full(removal: Removal) -> None:
    """Check that the project is empty before it is deleted.

    Raises:
        Unavailable: It is not: Keystone would delete it and leave everything without an owner.

    """
    full = [f"{len(names)} {kind}" for kind, names in removal.lost.items() if names]
    if full:
        cause = f"still has {', '.join(full)}, which would stay without an owner"
        remedy = "delete them first, or leave out --delete-project"
        raise Unavailable(f"project {removal.state.project_name}", cause, remedy)


def run(cloud: Requests, removal: Removal, *, deletes: bool, kept: Path) -> Iterator[str]:
    """Take the access away; yield a line for each step that is done."""
    found, rules = removal.state, removal.rules
    if rules:
        now = read_mapping(cloud, found.mapping.id)
        if now.digest != found.mapping.digest:
            raise Unavailable(f"mapping {now.id}", "has changed meanwhile", "run this again")
        place = keep_mapping(kept, now)
        write_mapping(cloud, now, mapping.without(now.text, rules))
        yield f"done: mapping {now.id}; undo: openstack mapping set --rules {place} {now.id}"
    yield from _group(cloud, removal)
    if deletes and found.project:
        _send(cloud, "DELETE", f"/projects/{found.project}")
        yield f"done: project {found.project_name} is deleted"


def _group(cloud: Requests, removal: Removal) -> Iterator[str]:
    found = removal.state
    for who, role in sorted(found.grants):
        if who == found.group:
            _send(cloud, "DELETE", f"/projects/{found.project}/groups/{who}/roles/{role}")
            words = f"--group {who} --project {found.project} {role}"
            yield f"done: openstack role remove {words}; undo: openstack role add {words}"
    if found.group and not removal.elsewhere:
        _send(cloud, "DELETE", f"/groups/{found.group}")
        words = f"--domain {removal.wish.domain} {removal.wish.group}"
        yield f"done: group {removal.wish.group}; undo: openstack group create {words}"


def _send(cloud: Requests, method: str, path: str) -> None:
    checked(cloud.send(IDENTITY, method, path), f"{method} {path}")
