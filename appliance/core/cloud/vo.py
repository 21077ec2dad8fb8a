"""The VO that a project serves: a property of the project in Keystone, or a mapping file.

All forms of mapping files of Keystone-VOMS, cASO and cloudkeeper-os are accepted, in JSON or YAML:

    {"vo": {"tenant": "name"}}
    {"vo": {"tenants": ["name"]}}
    {"vo": {"projects": ["name or id"]}}
    {"vo": {"project": "name or id", "domain": "name or id"}}
    {"vos": [{"name": "vo", "auth": {"project_id": "id"}}]}

A tag selects a project; it never assigns a VO to it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from appliance.core.cloud.project import Project
from appliance.core.config.document import read_text
from appliance.core.run.errors import ApplianceError, ConfigurationError, ExitStatus, Problem

PROPERTIES = ("VO", "egi.VO", "accounting:VO", "egi.eu:VO")
"""Properties that hold a project's VO at sites of the federation, the preferred one first."""

_KEYS = ("project", "projects", "tenant", "tenants")
_VO = re.compile(r"[!-~]{1,255}")
"""Name of a VO, or an FQAN: printable ASCII without blanks, as long as the repository's column."""
_ID = re.compile(r"[0-9a-f]{32}")


class NoVO(ApplianceError):
    """A project has no VO, or more than one."""

    status = ExitStatus.PARTLY


@dataclass(frozen=True, slots=True)
class MappingEntry:
    """One entry of a mapping file. ``project`` is a name or id; ``domain`` narrows a name."""

    vo: str
    project: str
    domain: str | None = None
    line: int = field(default=0, compare=False)
    """The line of its VO in the file; 0 if it is not known."""

    def fits(self, project: Project) -> bool:
        """Check whether this entry means the project."""
        if self.project == project.id:
            return True
        if self.project != project.name:
            return False
        if self.domain is None or self.domain.lower() == project.domain_id.lower():
            return True
        # Keystone's listing has the id of the domain only. A name cannot be compared with it and
        # counts as a match: at worst two entries match, which is reported as a conflict. Only the
        # first domain of a cloud has an id like its name, "default".
        return "default" not in (project.domain_id, self.domain.lower()) and not _ID.fullmatch(
            self.domain
        )


@dataclass(frozen=True, slots=True)
class VOMapping:
    """The entries of a mapping file; without one, ``path`` is where it would be."""

    path: Path
    entries: tuple[MappingEntry, ...] = ()
    warnings: tuple[Problem, ...] = ()

    def named(self, project: Project) -> list[tuple[str, str]]:
        """Return place and VO of each entry for a project; several VOs are a conflict."""
        found = (entry for entry in self.entries if entry.fits(project))
        return [
            (f"{self.path}:{entry.line}" if entry.line else f"{self.path}", entry.vo)
            for entry in found
        ]


_EXAMPLE = MappingEntry("vo.example.org", "mytenant")
"""The entry of `etc/voms.json` as it is installed."""
_LEFT_OUT = (
    "is still the placeholder, with its project 'mytenant', and is ignored; fill in your VOs, or"
    " remove the entry"
)


def vo_of(project: Project, *, mapping: VOMapping, preferred: tuple[str, ...] = ()) -> str:
    """Return the VO of a project.

    If the project has one of the properties ``preferred``, the usual ones do not count.

    Raises:
        NoVO: there is none, or the sources differ.

    """
    named = _properties(project, preferred) or _properties(project, PROPERTIES)
    named += dict.fromkeys(mapping.named(project))
    values = list(dict.fromkeys(value for _, value in named))
    if not values:
        raise NoVO(
            project,
            "no VO is known for it",
            f"openstack project set --property {(preferred or PROPERTIES)[0]}='name of the VO'"
            f" {project.id}, or name it in {mapping.path}",
        )
    if len(values) > 1:
        listed = ", ".join(f"{value} ({source})" for source, value in named)
        raise NoVO(project, f"its sources name different VOs: {listed}", "make them equal")
    if not _VO.fullmatch(values[0]) or "%%" in values[0]:
        raise NoVO(project, f"{values[0]!r} ({named[0][0]}) is not the name of a VO", "correct it")
    return values[0]


def _properties(project: Project, properties: tuple[str, ...]) -> list[tuple[str, str]]:
    return [
        (f"property {name}", value)
        for name in properties
        if (value := project.properties.get(name, "").strip())
    ]


def read_mapping(path: Path) -> VOMapping:
    """Read a mapping file.

    Raises:
        ConfigurationError: some entries have no known form; it has all of them.

    """
    return parse_mapping(path, read_text(path))


def parse_mapping(path: Path, text: str) -> VOMapping:
    """Return the mapping in a text; ``path`` is for messages, and its suffix names the language.

    Raises:
        ConfigurationError: some entries have no known form; it has all of them.

    """
    problems: list[Problem] = []
    entries: list[MappingEntry] = []
    for vo, body in _vos(path, text):
        try:
            entries += _entries(vo, body, line=_line_of(text, vo, otherwise=0))
        except ValueError as error:
            problems.append(Problem(path, _line_of(text, vo), vo, str(error)))
    if problems:
        raise ConfigurationError(problems)
    # The shipped example is not an error: every appliance has the file, and a site whose projects
    # have their VOs in Keystone has nothing to write into it. The backend of images refuses a file
    # without any other entry.
    named = tuple(entry for entry in entries if entry != _EXAMPLE)
    left_out = Problem(path, _line_of(text, _EXAMPLE.vo), _EXAMPLE.vo, _LEFT_OUT, is_fatal=False)
    return VOMapping(path, named, (left_out,) if len(named) < len(entries) else ())


def _vos(path: Path, text: str) -> list[tuple[str, Any]]:
    tree = (
        _parsed_yaml(path, text) if path.suffix in (".yaml", ".yml") else _parsed_json(path, text)
    )
    if not _is_object(tree):
        raise ConfigurationError(
            [Problem(path, 1, "", 'must be like {"VO": {"projects": ["name or id"]}}')]
        )
    pairs = list(tree.items()) if isinstance(tree, dict) else list(tree)
    if (
        len(pairs) == 1
        and pairs[0][0] == "vos"
        and isinstance(pairs[0][1], list)
        and not _is_object(pairs[0][1])
    ):
        return [_listed_vo(path, text, item) for item in pairs[0][1]]
    return [(str(vo), body) for vo, body in pairs]


def _is_object(value: Any) -> bool:
    return isinstance(value, dict | _Pairs)


def _listed_vo(path: Path, text: str, item: Any) -> tuple[str, Any]:
    options = dict(item) if _is_object(item) else {}
    name = options.get("name")
    if not isinstance(name, str) or not name:
        cause = 'each item must be like {"name": "VO", "auth": {"project_id": "id"}}'
        raise ConfigurationError([Problem(path, _line_of(text, "vos"), "vos", cause)])
    return name, options.get("auth")


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with all its members, also those of the same name."""


def _parsed_json(path: Path, text: str) -> Any:
    try:
        tree = json.loads(text, object_pairs_hook=_Pairs)
    except RecursionError as error:
        raise ConfigurationError(
            [Problem(path, 1, "", "is nested too deeply; write one level of VOs")]
        ) from error
    except ValueError as error:
        line = getattr(error, "lineno", 1)
        raise ConfigurationError(
            [Problem(path, line, "", f"is not JSON: {getattr(error, 'msg', error)}")]
        ) from error
    return tree if isinstance(tree, _Pairs) else None


def _parsed_yaml(path: Path, text: str) -> Any:
    import yaml  # noqa: PLC0415  start-up is a cost

    from appliance.core.config import yaml_file  # noqa: PLC0415  start-up is a cost

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigurationError([yaml_file.problem(path, text, error)]) from error
    except RecursionError as error:
        raise ConfigurationError(
            [Problem(path, 1, "", "is nested too deeply; write one level of VOs")]
        ) from error
    # PyYAML raises these for `2001-13-45`, `!!int ""` and `!!timestamp x`.
    except (ValueError, LookupError, AttributeError) as error:
        cause = "holds a date, a number or a tag that YAML does not know; put names in quotes"
        raise ConfigurationError([Problem(path, 1, "", cause)]) from error


def _entries(vo: str, body: Any, *, line: int) -> Iterator[MappingEntry]:
    options = dict(body) if _is_object(body) else {}
    names = [name for key in _KEYS for name in _listed(options.get(key))]
    names += _listed(options.get("project_id"))
    if not vo or not names:
        raise ValueError('names no project; write {"projects": ["name or id"]}')
    domain = options.get("domain")
    for name in names:
        yield MappingEntry(vo, name, domain if isinstance(domain, str) else None, line)


def _listed(value: Any) -> list[str]:
    """Return a name, or a list of names, as a list; no other value names a project."""
    if isinstance(value, str):
        return [value] if value else []
    found: Iterable[Any] = (
        value if isinstance(value, list) and not isinstance(value, _Pairs) else ()
    )
    return [item for item in found if isinstance(item, str) and item]


def _line_of(text: str, vo: str, *, otherwise: int = 1) -> int:
    """Return the line of a VO's name: in quotes, or as a key or value of YAML without them."""
    before, found, _ = text.partition(f'"{vo}"')
    if found:
        return before.count("\n") + 1
    form = rf"^[ \t-]*(?:name:[ \t]*)?'?{re.escape(vo)}'?[ \t]*(?::|$)"
    plain = re.search(form, text, re.MULTILINE)
    return text.count("\n", 0, plain.end()) + 1 if plain else otherwise
