"""The dialect of YAML files, whose values stay texts.

A mapping is a section named by its path, ``compute.endpoints.defaults``; its scalars are the
section's options. Scalars of the outermost mapping are in section ``DEFAULT``. Versions keep all
their digits, since no value becomes a float. A value that is null or missing is empty, a list of
scalars is one text with commas, and a list of mappings is the sections ``path[0]``, ``path[1]`` …
`Tree.children` has the names below a path where the file chooses them, such as VOs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from appliance.core.config.document import Document, Setting
from appliance.core.run.errors import ConfigurationError, Problem

if TYPE_CHECKING:
    import yaml

OUTERMOST = "DEFAULT"
_DEEPEST = 20
_NULL = "tag:yaml.org,2002:null"
# Messages show names as they are, one problem a line.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(slots=True)
class Tree(Document):
    """A document that also has the tree of its sections."""

    children: dict[str, dict[str, Setting]] = field(default_factory=dict)
    """By the path of a mapping, the mappings in it by key, each with its line."""


def parse(path: Path, text: str) -> Tree:
    """Parse a file.

    Raises:
        ConfigurationError: the text is not YAML, or has forms that are not read here.

    """
    import yaml  # noqa: PLC0415  start-up is a cost

    try:
        # compose() stops before values are made, so `1.10` and `010` keep their digits.
        root: Any = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise ConfigurationError([problem(path, text, error)]) from error
    reader = _YamlReader(Tree(paths=[path]), path)
    if root is not None:
        reader.read(root)
    if reader.problems:
        raise ConfigurationError(reader.problems)
    return reader.tree


def problem(path: Path, text: str, error: Exception) -> Problem:
    """Return what is wrong in a text in which PyYAML found ``error``, with its line."""
    forbidden = getattr(error, "character", None)
    if isinstance(forbidden, int):  # such an error has no mark
        line = text.partition(chr(forbidden))[0].count("\n") + 1
        cause = f"is not YAML: it has the control character U+{forbidden:04X}; delete it"
        return Problem(path, line, "", cause)
    mark = getattr(error, "problem_mark", None)
    cause = getattr(error, "problem", None) or "it cannot be read"
    return Problem(path, mark.line + 1 if mark else 0, "", _explain(cause))


def _explain(cause: str) -> str:
    hint = (
        "; indent with blanks, not with TABs"
        if "\\t" in cause or "start any token" in cause
        else ""
    )
    return f"is not YAML: {cause}{hint}"


@dataclass(slots=True)
class _YamlReader:
    tree: Tree
    path: Path
    problems: list[Problem] = field(default_factory=list)
    _seen: set[int] = field(default_factory=set)

    def read(self, root: Any) -> None:
        if root.id == "mapping":
            self._mapping("", root, depth=0)
        else:
            self._note(root, "", "must be lines of the form 'name: value'")

    def _mapping(self, section: str, node: yaml.MappingNode, *, depth: int) -> None:
        if not self._is_new(node, section, depth):
            return
        lines: dict[str, int] = {}
        for key, value in node.value:
            if key.id != "scalar" or key.tag == "tag:yaml.org,2002:merge":
                self._note(key, section, "this form of key is not read here; write 'name: value'")
                continue
            name, line = key.value, key.start_mark.line + 1
            if _CONTROL.search(name):
                self._note(
                    key, section, f"the name {name[:40]!r} has control characters; correct it"
                )
                continue
            if name in lines:
                text = f"is set a second time; first in line {lines[name]}; remove one"
                self._note(key, f"{section}.{name}".lstrip("."), text)
                continue
            lines[name] = line
            self._value(section, name, value, line=line, depth=depth)

    def _value(self, section: str, name: str, node: Any, *, line: int, depth: int) -> None:
        below = f"{section}.{name}".lstrip(".")
        if node.id == "mapping":
            self._child(section, name, below, line)
            self._mapping(below, node, depth=depth + 1)
        elif node.id == "sequence" and any(item.id == "mapping" for item in node.value):
            for number, item in enumerate(node.value):
                self._value(
                    section,
                    f"{name}[{number}]",
                    item,
                    line=item.start_mark.line + 1,
                    depth=depth + 1,
                )
        elif node.id == "sequence":
            if self._is_new(node, below, depth):
                text = ",".join(self._items(below, node))
                self.tree.set(section or OUTERMOST, name, Setting(text, self.path, line))
        else:
            self.tree.set(section or OUTERMOST, name, Setting(_text(node), self.path, line))

    def _items(self, name: str, node: yaml.SequenceNode) -> Iterator[str]:
        for item in node.value:
            if item.id != "scalar":
                self._note(item, name, "a list within a list is not read here")
            elif "," in item.value:
                self._note(item, name, "a comma within an item of a list is not read here")
            else:
                yield _text(item)

    def _child(self, section: str, name: str, below: str, line: int) -> None:
        if below in self.tree.sections:  # `a: {b.c: …}` beside `a: {b: {c: …}}`
            self._note_line(
                line, below, "has the same path as another name in this file; rename one of them"
            )
        self.tree.sections.setdefault(below, {})
        self.tree.children.setdefault(section, {})[name] = Setting("", self.path, line)

    def _is_new(self, node: yaml.Node, name: str, depth: int) -> bool:
        """Check that a collection is met for the first time, not by an alias, and not too deep."""
        if id(node) in self._seen or depth > _DEEPEST:
            self._note(
                node,
                name,
                "aliases and nesting as deep as this are not read here; write the values out",
            )
            return False
        self._seen.add(id(node))
        return True

    def _note(self, node: yaml.Node, name: str, text: str) -> None:
        self._note_line(node.start_mark.line + 1, name, text)

    def _note_line(self, line: int, name: str, text: str) -> None:
        self.problems.append(Problem(self.path, line, name, text))


def _text(node: yaml.Node) -> str:
    return "" if node.tag == _NULL else str(node.value)
