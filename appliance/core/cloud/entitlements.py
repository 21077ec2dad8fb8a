"""Keystone's mapping of EGI's entitlements: each VO is in it, has a project, none twice (C73).

A rule of a mapping has the condition ``urn:mace:egi.eu:group:VO:role=…`` and gives its users a
group, whose roles lead to projects, or projects directly. Whoever may not read mappings sees none.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from keystoneauth1 import exceptions

from appliance.core.cloud import identity
from appliance.core.cloud.session import Cloud, Scope, understood
from appliance.core.config.settings import note
from appliance.core.run.errors import ApplianceError
from appliance.core.run.finding import Finding, place

_ROW = "C73"
_VO = re.compile(r"urn:mace:egi\.eu:group:([A-Za-z0-9._-]+)")
_PATTERN = re.compile(r"urn:mace:egi\\?\.eu:group:(.{1,200}?)(?::role|$)")
"""The part of a condition that names a VO, as a regular expression where the rule has one."""
_REFUSED = (exceptions.Forbidden, exceptions.Unauthorized, exceptions.NotFound)
_TRIED = "GET /v3/OS-FEDERATION/mappings"
_MOST_GROUPS = 500


@dataclass(frozen=True, slots=True)
class VOProject:
    """A project of a VO, as the configuration has it."""

    vo: str
    project_id: str
    place: str
    """Where it is set, ``FILE:LINE``; empty if a property of the project says it."""


@dataclass(frozen=True, slots=True)
class _Target:
    """What a rule gives: a group or a project, by id, or by name and domain."""

    kind: str
    id: str
    name: str


def findings(cloud: Cloud, projects: Sequence[VOProject]) -> Iterator[Finding]:
    """Yield a finding for each VO without a rule or without a project, or with several projects."""
    try:
        scope = cloud.system or cloud.unscoped
        mappings = _mappings(cloud, scope)
        targets = _targets(mappings)
        if not targets:
            note(_ROW, "Keystone has no mapping with entitlements of EGI")
            return
        found = _projects(cloud, scope, targets)
    except (*_REFUSED, ApplianceError) as error:
        text = "the account may not read Keystone's mappings, so no entitlement was compared"
        note(_ROW, text if isinstance(error, _REFUSED) else f"{error}")
        return
    places = {one.vo: one.place for one in projects}
    yield from _unmapped(places, found, mappings)
    for vo, ids in sorted(found.items()):
        if len(ids) != 1:
            yield _of_vo(vo, ids, places.get(vo, ""))
    owners: dict[str, set[str]] = defaultdict(set)
    for vo, ids in found.items():
        for identifier in ids:
            owners[identifier].add(vo)
    for project, vos in sorted(owners.items()):
        if len(vos) > 1:
            first, *_ = sorted(vos)
            text = f"the VOs {' and '.join(sorted(vos))} lead to one project, {project}"
            remedy = "give each a project of its own in the mapping"
            yield _finding(f"{text}; {remedy}", "C73.b", first, places.get(first, ""))


def _unmapped(
    places: Mapping[str, str], found: Mapping[str, set[str]], mappings: Sequence[Any]
) -> Iterator[Finding]:
    """Yield a finding for each VO of the configuration that no rule is for."""
    for vo in sorted(places.keys() - found.keys()):
        if not _is_covered(vo, mappings):
            text = (
                "no rule of Keystone's mappings has the entitlement of the VO, so its users cannot"
                f" log in with EGI Check-in; see what it needs: appliance vo plan {vo}"
            )
            yield _finding(text, "C73.c", vo, places[vo])


def _of_vo(vo: str, ids: set[str], where: str) -> Finding:
    if ids:
        named = " and ".join(sorted(ids))
        text = f"the entitlement of the VO leads to {len(ids)} projects, {named}"
        return _finding(f"{text}; leave one of them in the mapping", "C73.b", vo, where)
    text = (
        "the entitlement of the VO leads to no project, so its users cannot log in; openstack role"
        " add --group GROUP --project PROJECT member"
    )
    return _finding(text, "C73.a", vo, where)


def _finding(text: str, row: str, vo: str, where: str) -> Finding:
    path, line = place(where)
    return Finding(path, line, vo, text, row, is_error=row == "C73.a", tried=_TRIED)


# --------------------------------------------------------------------------------------------------
# mappings


def _mappings(cloud: Cloud, scope: Scope) -> Sequence[Any]:
    found = _get(cloud, scope, "/OS-FEDERATION/mappings").get("mappings")
    return found if isinstance(found, list) else []


def _get(cloud: Cloud, scope: Scope, path: str) -> dict[str, Any]:
    with understood(cloud.host, "Keystone", passing=_REFUSED):
        body = scope.identity.get(path).json()
        if not isinstance(body, dict):
            raise TypeError(type(body))
        return body


def _targets(mappings: Sequence[Any]) -> dict[str, set[_Target]]:
    """Return what each VO gets by the rules of all mappings."""
    found: dict[str, set[_Target]] = {}
    for mapping in mappings:
        for rule in _objects(mapping, "rules"):
            given = {target for local in _objects(rule, "local") for target in _given(local)}
            for vo in _vos(rule):
                found.setdefault(vo, set()).update(given)
    return found


def _objects(one: Any, key: str) -> Iterator[Mapping[str, Any]]:
    listed = one.get(key) if isinstance(one, Mapping) else None
    for item in listed if isinstance(listed, list) else ():
        if isinstance(item, Mapping):
            yield item


def _vos(rule: Mapping[str, Any]) -> set[str]:
    """Return the VOs in the conditions of a rule; dots may be escaped in a regular expression."""
    words = (word.replace("\\", "") for word in _conditions(rule))
    return {named[1] for word in words if (named := _VO.search(word))}


def _conditions(rule: Mapping[str, Any]) -> Iterator[str]:
    for remote in _objects(rule, "remote"):
        for key in ("any_one_of", "whitelist"):
            listed = remote.get(key)
            yield from map(str, listed if isinstance(listed, list) else ())


def _is_covered(vo: str, mappings: Sequence[Any]) -> bool:
    """Check whether a rule for several VOs, by a regular expression, is for this one, too."""
    rules = (rule for mapping in mappings for rule in _objects(mapping, "rules"))
    words = (word for rule in rules for word in _conditions(rule))
    return any(_matches(named[1], vo) for word in words if (named := _PATTERN.search(word)))


def _matches(pattern: str, vo: str) -> bool:
    try:
        return re.fullmatch(pattern, vo) is not None
    except re.error:  # Keystone ignores such a rule, too
        return False


def _given(local: Mapping[str, Any]) -> Iterator[_Target]:
    group = local.get("group")
    if isinstance(group, Mapping):
        yield _Target("group", str(group.get("id") or ""), str(group.get("name") or ""))
    for project in _objects(local, "projects"):
        yield _Target("project", str(project.get("id") or ""), str(project.get("name") or ""))


def _projects(
    cloud: Cloud, scope: Scope, targets: Mapping[str, set[_Target]]
) -> dict[str, set[str]]:
    """Return the ids of each VO's projects."""
    names: dict[str, str] = {name: key for key, name in identity.all_names(cloud).items()}
    known: dict[_Target, set[str]] = {}
    for target in sorted({one for given in targets.values() for one in given}, key=str):
        if target.kind == "project":
            found = target.id or names.get(target.name, target.name)
            known[target] = {found}
        elif len(known) < _MOST_GROUPS:
            known[target] = _of_group(cloud, scope, target)
    return {
        vo: {project for one in given for project in known.get(one, ())}
        for vo, given in targets.items()
    }


def _of_group(cloud: Cloud, scope: Scope, target: _Target) -> set[str]:
    identifier = target.id
    if not identifier:
        listed = _get(cloud, scope, f"/groups?{urlencode({'name': target.name})}")
        identifier = next((str(one.get("id")) for one in _objects(listed, "groups")), "")
    if not identifier:
        return set()
    query = urlencode({"group.id": identifier})
    listed = _get(cloud, scope, f"/role_assignments?{query}")
    scopes = (one.get("scope") for one in _objects(listed, "role_assignments"))
    given = (one.get("project") for one in scopes if isinstance(one, Mapping))
    return {str(one.get("id")) for one in given if isinstance(one, Mapping)}
