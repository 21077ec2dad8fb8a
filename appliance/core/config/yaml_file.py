"""The YAML of configuration files: mappings of mappings, with scalars and lists of scalars in them.

A mapping becomes a section, named by the keys that lead to it with dots between (``cloudkeeper.backend``; the top level
is the section ````); a list becomes a section too, whose options are the numbers of its items from 0. Scalars are kept
as they are written: what they mean is for the getters of `Settings` to say. Aliases and a second document are refused.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from appliance.core.config.document import Document, Entry
from appliance.core.run.errors import ConfigurationError, Problem

_MAX_DEPTH = 8


def parse(path: Path, text: str) -> Document:
    """Parse a file of this dialect; nothing may be given twice."""
    try:
        root = yaml.compose(text, Loader=yaml.CSafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        cause = getattr(error, "problem", None) or getattr(error, "reason", None) or "cannot be read"
        line = mark.line + 1 if mark else 0
        raise ConfigurationError([Problem(path, line, "", f"is no YAML: {cause}")]) from None
    reader = _Reader(path)
    if isinstance(root, yaml.MappingNode):
        reader.take(root, ())
    elif root is not None and root.value:
        reader.note(root, "", "must begin with a key, write 'name:' and its options below it")
    if reader.problems:
        raise ConfigurationError(reader.problems)
    return reader.document


class _Reader:
    def __init__(self, path: Path) -> None:
        self.document = Document(paths=[path])
        self.problems: list[Problem] = []
        self._path = path
        self._seen: set[int] = set()

    def note(self, node: yaml.Node, option: str, text: str) -> None:
        self.problems.append(Problem(self._path, node.start_mark.line + 1, option, text))

    def take(self, node: yaml.Node, keys: tuple[str, ...]) -> None:
        """Take what stands below ``keys``."""
        name = ".".join(keys)
        if id(node) in self._seen or len(keys) > _MAX_DEPTH:
            self.note(node, name, "is an alias or too deep; write it out where it is meant")
            return
        self._seen.add(id(node))
        match node:
            case yaml.ScalarNode():
                section, option = ".".join(keys[:-1]), keys[-1]
                text = "" if node.tag == "tag:yaml.org,2002:null" else node.value
                self.document.set(section, option, Entry(text, self._path, node.start_mark.line + 1))
            case yaml.SequenceNode():
                self.document.sections.setdefault(name, {})
                for number, item in enumerate(node.value):
                    self.take(item, (*keys, str(number)))
            case yaml.MappingNode():
                self._take_mapping(node, keys)

    def _take_mapping(self, node: yaml.MappingNode, keys: tuple[str, ...]) -> None:
        section = ".".join(keys)
        self.document.sections.setdefault(section, {})
        lines: dict[str, int] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self.note(key, section, "has a key that is no word")
            elif key.value in lines:
                self.note(key, ".".join((*keys, key.value)), f"stands here twice; first in line {lines[key.value]}")
            else:
                lines[key.value] = key.start_mark.line + 1
                self.take(value, (*keys, key.value))
