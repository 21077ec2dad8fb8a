"""The table of VOs: one answer, from which all files get the projects of each VO.

As an answer it is ``VO=ID VO=ID``; a VO that has several projects is written once for each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from appliance.admin.configure.answers import Check, split
from appliance.admin.configure.offers import CloudProject

_PAIR = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*=[A-Za-z0-9][A-Za-z0-9._-]*")

Table = Mapping[str, tuple[str, ...]]
"""By VO, its projects."""


def read(words: str) -> dict[str, tuple[str, ...]]:
    """Return the table of an answer."""
    found: dict[str, tuple[str, ...]] = {}
    for pair in split(words):
        vo, _, project = pair.partition("=")
        found[vo] = tuple(dict.fromkeys((*found.get(vo, ()), project)))
    return found


def text(table: Table) -> str:
    """Return a table as an answer."""
    return " ".join(f"{vo}={project}" for vo, projects in table.items() for project in projects)


def check(projects: Sequence[CloudProject]) -> Check:
    """Return the check of an answer; ``projects`` are those of the cloud, if it has answered."""
    return lambda words: next(_faults(words, projects), "")


def _faults(words: str, projects: Sequence[CloudProject]) -> Iterator[str]:
    vo_of: dict[str, str] = {}
    for pair in split(words):
        if not _PAIR.fullmatch(pair):
            yield f"{pair!r}: write VO=ID, as in vo.example.org=4c9e…"
            return
        vo, _, project = pair.partition("=")
        other = vo_of.setdefault(project, vo)
        if other != vo:
            yield f"project {project} is given to two VOs, {other} and {vo}; write one of them"
        yield from _differences(vo, project, projects)


def _differences(vo: str, name: str, projects: Sequence[CloudProject]) -> Iterator[str]:
    """Yield why accounting would refuse a project of the answer."""
    found = [one for one in projects if name in (one.id, one.name)]
    if projects and not found:
        yield f"{name!r}: the account sees no such project; give it a role there"
    if len({one.id for one in found}) > 1:
        ids = " or ".join(one.id for one in found)
        yield f"{name!r}: {len(found)} projects have this name; write one of the ids: {ids}"
    for one in found[:1]:
        if one.vo and one.vo != vo:
            yield (
                f"project {name}: its property in Keystone names the VO {one.vo}, not {vo};"
                f" write {one.vo}={name}, or change the property"
            )


def offered(present: Table, projects: Sequence[CloudProject]) -> dict[str, tuple[str, ...]]:
    """Return the present table, with the projects whose VO the cloud names and no file has."""
    merged = dict(present)
    named = {name for names in present.values() for name in names}
    for one in projects:
        if one.vo and named.isdisjoint((one.id, one.name)):
            merged[one.vo] = (*merged.get(one.vo, ()), one.id)
    return merged
