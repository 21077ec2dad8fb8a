"""The shares of openstack.yaml, ``compute.shares``, one for each VO; other lines stay.

A file in the form of EGI's catch-all has a list ``vos`` instead, which is compared and not edited.
The places of the shares come from PyYAML's marks, and the new text is read again: what cannot be
changed line by line is refused, and nothing is guessed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.core.config import yaml_file
from appliance.core.run.errors import ConfigurationError, Problem

if TYPE_CHECKING:
    import yaml

_EXAMPLE = "PROJECT-ID"
_PATH = ("compute", "shares")
_LIST = "vos"


def projects(path: Path, text: str) -> dict[str, str]:
    """Return the project of each VO, without the shipped example.

    Raises:
        ConfigurationError: The text is not YAML.

    """
    tree = yaml_file.parse(path, text)
    if is_catch_all(path, text):
        return _listed(tree)
    found = {}
    for vo in tree.children.get(".".join(_PATH), {}):
        entry = tree.get(f"{'.'.join(_PATH)}.{vo}.auth", "project_id")
        found[vo] = entry.text if entry else ""
    return {vo: project for vo, project in found.items() if project != _EXAMPLE}


def is_catch_all(path: Path, text: str) -> bool:
    """Return whether a file has the form of EGI's catch-all: ``gocdb``, ``endpoint``, ``vos``."""
    tree = yaml_file.parse(path, text)
    outermost = tree.sections.get(yaml_file.OUTERMOST, {})
    return "gocdb" in outermost or f"{_LIST}[0]" in tree.sections


def _listed(tree: yaml_file.Tree) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, options in tree.sections.items():
        if name.startswith(f"{_LIST}[") and name.endswith("]") and "name" in options:
            project = tree.get(f"{name}.auth", "project_id")
            found[options["name"].text] = project.text if project else ""
    return found


def set_projects(path: Path, text: str, wanted: Mapping[str, str]) -> str:
    """Return the text with exactly these shares; those that are right already stay as they are.

    Raises:
        ConfigurationError: The file has a form that cannot be changed line by line.

    """
    if projects(path, text) == dict(wanted) and _EXAMPLE not in text:
        return text
    if is_catch_all(path, text):
        raise _by_hand(path, text, wanted)
    changed = _Shares(path, text).changed(wanted)
    if projects(path, changed) != dict(wanted):
        raise _unreadable(path, 0)
    return changed


class _Shares:
    """The lines of the shares in a text."""

    def __init__(self, path: Path, text: str) -> None:
        import yaml  # noqa: PLC0415  start-up is a cost

        self._path, self._text = path, text
        self._lines = text.splitlines(keepends=True)
        node: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
        self._key: yaml.Node | None = None
        for name in _PATH:
            self._key, node = _child(node, name)
        self._node = node

    def changed(self, wanted: Mapping[str, str]) -> str:
        """Return the text with the wanted shares."""
        import yaml  # noqa: PLC0415  start-up is a cost

        node = self._node
        if self._key is None:
            return self._with_section(wanted)
        if not isinstance(node, yaml.MappingNode) or node.flow_style:
            is_empty = node is None or not node.value
            line = self._key.start_mark.line
            if not is_empty:
                raise _unreadable(self._path, line + 1)
            return self._filled(wanted, line, self._key.start_mark.column)
        return self._edited(wanted, node)

    def _with_section(self, wanted: Mapping[str, str]) -> str:
        """Return the text with a new list of shares, in ``compute`` or at the end."""
        import yaml  # noqa: PLC0415  start-up is a cost

        key, node = _child(yaml.compose(self._text, Loader=yaml.SafeLoader), _PATH[0])
        if key is None:
            end = "" if self._text.endswith("\n") or not self._text else "\n"
            block = _block(wanted, 8)
            return f"{self._text}{end}{_PATH[0]}:\n    {_PATH[1]}:\n{block}"
        if not isinstance(node, yaml.MappingNode) or node.flow_style:
            raise _unreadable(self._path, key.start_mark.line + 1)
        at, indent = node.start_mark.line, node.start_mark.column
        new = f"{' ' * indent}{_PATH[1]}:\n{_block(wanted, indent + 4)}"
        return self._joined(at, at, new)

    def _filled(self, wanted: Mapping[str, str], line: int, indent: int) -> str:
        """Return the text with shares below a key that has none."""
        head = f"{' ' * indent}{_PATH[1]}:\n"
        return self._joined(line, line + 1, head + _block(wanted, indent + 4))

    def _edited(self, wanted: Mapping[str, str], node: yaml.MappingNode) -> str:
        """Return the text with shares replaced, added and removed; from the last to the first."""
        indent = node.value[0][0].start_mark.column
        pairs = [(key, value, self._end(value)) for key, value in node.value]
        present = {str(key.value) for key, _, _ in pairs if key.value in wanted}
        new = {vo: project for vo, project in wanted.items() if vo not in present}
        at = pairs[-1][2]
        text = self._joined(at, at, _block(new, indent)) if new else self._text
        for key, value, end in reversed(pairs):
            self._lines = text.splitlines(keepends=True)
            if key.value in wanted:
                text = self._with_project(value, wanted[key.value], key)
            else:
                text = self._joined(key.start_mark.line, end, "")
        return text

    def _with_project(self, share: yaml.Node, project: str, key: yaml.Node) -> str:
        """Return the text with another project in one share."""
        _, auth = _child(share, "auth")
        _, value = _child(auth, "project_id")
        if value is None:
            raise _unreadable(self._path, key.start_mark.line + 1)
        if value.value == project:
            return "".join(self._lines)
        begin, end = value.start_mark, value.end_mark
        line = self._lines[begin.line]
        if begin.line != end.line:
            raise _unreadable(self._path, begin.line + 1)
        self._lines[begin.line] = f"{line[: begin.column]}{_scalar(project)}{line[end.column :]}"
        return "".join(self._lines)

    def _end(self, value: yaml.Node) -> int:
        """Return the line after a share; comments that are as deep as its options belong to it."""
        end = value.start_mark.line + 1
        depth = value.start_mark.column
        last = end
        while end < len(self._lines):
            line = self._lines[end]
            stripped = line.strip()
            if stripped and len(line) - len(line.lstrip()) < depth:
                break
            end += 1
            last = end if stripped else last
        return last

    def _joined(self, begin: int, end: int, new: str) -> str:
        before = "".join(self._lines[:begin])
        if new and before and not before.endswith("\n"):
            before += "\n"
        return f"{before}{new}{''.join(self._lines[end:])}"


def _child(node: yaml.Node | None, name: str) -> tuple[yaml.Node | None, yaml.Node | None]:
    """Return key and value of a name in a mapping; None without it."""
    import yaml  # noqa: PLC0415  start-up is a cost

    pairs = node.value if isinstance(node, yaml.MappingNode) else ()
    return next(((key, value) for key, value in pairs if key.value == name), (None, None))


def _block(wanted: Mapping[str, str], indent: int) -> str:
    blanks = " " * indent
    return "".join(
        f"{blanks}{_scalar(vo)}:\n{blanks}    auth:\n"
        f"{blanks}        project_id: {_scalar(project)}\n"
        for vo, project in wanted.items()
    )


def _scalar(text: str) -> str:
    """Return a text in YAML's spelling: in quotes if it would be a number, a date or a boolean."""
    import yaml  # noqa: PLC0415  start-up is a cost

    return text if yaml.safe_load(text) == text else json.dumps(text)


def _by_hand(path: Path, text: str, wanted: Mapping[str, str]) -> ConfigurationError:
    line = next((n for n, one in enumerate(text.splitlines(), 1) if one.startswith(f"{_LIST}:")), 0)
    listed = ", ".join(f"{vo}={project}" for vo, project in wanted.items())
    cause = f"in the form of EGI's catch-all this list is not edited; write {listed} into it"
    return ConfigurationError([Problem(path, line, _LIST, cause)])


def _unreadable(path: Path, line: int) -> ConfigurationError:
    cause = "has a form that cannot be changed line by line; write each VO on a line of its own"
    return ConfigurationError([Problem(path, line, ".".join(_PATH), cause)])
