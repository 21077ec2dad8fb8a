"""Plugins: programs that read the merged tree, and print modifications of its entries.

A plugin gets the tree as LDIF on standard input; it need not read it. It prints records in one of
two forms, as for the upstream BDII:

    dn: GLUE2ServiceID=…            each attribute named here is replaced
    GLUE2ServiceStatusInfo: …

    dn: GLUE2ServiceID=…            RFC 2849: add, replace or delete values
    changetype: modify
    replace: GLUE2ServiceStatusInfo
    GLUE2ServiceStatusInfo: …
    -

Plugins run one after another, by name; each sees what those before it have changed. A plugin that
fails keeps what it printed last. A modification of an entry that no source gives, or after which
slapd could not store the entry, is skipped and reported.
"""

from __future__ import annotations

import re
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from appliance.core import ldif
from appliance.core.ldif import Block, Entry, LdifError, MalformedRecord
from bdii import tree
from bdii.entry import formatted
from bdii.messages import few, printable, shortened
from bdii.sources import programs
from bdii.sources.model import LdifSource
from bdii.tree import Dn, Tree

_CHANGE = re.compile(rb"^changetype:[ ]*(\S*)[ \r]*\n", re.IGNORECASE | re.MULTILINE)
_SEPARATOR = re.compile(rb"^-[ \r]*(?:\n|\Z)", re.MULTILINE)
# The line of the name, which may be folded.
_NAME = re.compile(rb"\A(?:#.*\n)*(dn:.*(?:\n .*)*)(?:\n|\Z)", re.IGNORECASE)
_OPERATIONS = frozenset({"add", "replace", "delete"})


@dataclass(frozen=True, slots=True)
class Edit:
    """One modification of an attribute; ``replace`` without values removes it."""

    dn: Dn
    operation: str
    attribute: str
    values: tuple[str, ...]
    line: int


@dataclass(frozen=True, slots=True)
class Edited:
    """The tree after all plugins, what each printed, and lines for the administrator."""

    wanted: Tree
    printed: Mapping[str, Sequence[Edit]] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


def edit(
    wanted: Tree,
    plugins: Sequence[LdifSource],
    *,
    before: Mapping[str, Sequence[Edit]],
    scratch: Path | None,
    stop: threading.Event,
) -> Edited:
    """Run plugins on a tree; ``before`` is what each has printed in the cycle before."""
    printed: dict[str, Sequence[Edit]] = {}
    problems: list[str] = []
    for plugin in plugins:
        lines: list[str] = []
        found = _run(plugin, wanted, scratch, stop, lines)
        if found is not None:
            printed[plugin.name] = found
        edits = before.get(plugin.name, ()) if found is None else found
        wanted, more = applied(wanted, edits)
        problems += [printable(f"{plugin.name}: {line}") for line in few([*lines, *more])]
    kept = {plugin.name: before[plugin.name] for plugin in plugins if plugin.name in before}
    return Edited(wanted, kept | printed, tuple(problems))


def kept(wanted: Tree, before: Mapping[str, Sequence[Edit]], causes: Sequence[str]) -> Edited:
    """Return a tree with what plugins have printed last, which cannot be run because of these."""
    problems = [*causes]
    for name in sorted(before):
        wanted, more = applied(wanted, before[name])
        problems += [printable(f"{name}: {line}") for line in few(more)]
    return Edited(wanted, before, tuple(problems))


def _run(
    plugin: LdifSource,
    wanted: Tree,
    scratch: Path | None,
    stop: threading.Event,
    problems: list[str],
) -> list[Edit] | None:
    """Return what a plugin prints; None if it fails."""
    try:
        with (
            tempfile.TemporaryFile(dir=scratch) as given,
            tempfile.TemporaryFile(dir=scratch) as output,
            tempfile.TemporaryFile(dir=scratch) as errors,
        ):
            # a file and not a pipe: a plugin that reads nothing keeps nobody waiting
            for dn in tree.sorted_by_depth(wanted):
                given.write(formatted(wanted[dn]) + b"\n")
            given.seek(0)
            status = programs.run(plugin, output, errors, stop, given=given)
            if status:
                words = programs.last_lines(errors)[-1:]
                problems.append(": ".join([f"failed with {programs.how_ended(status)}", *words]))
                return None
            output.seek(0)
            return list(_edits(output, problems))
    except programs.ProgramFailure as error:
        problems.append(str(error))
    except OSError as error:
        problems.append(f"{error.strerror}: {error.filename or plugin.command[0]}")
    return None


def _edits(output: BinaryIO, problems: list[str]) -> Iterator[Edit]:
    for block in ldif.blocks(output):
        try:
            yield from _changes(block) if _CHANGE.search(block.data) else _replacements(block)
        except LdifError as error:
            problems.append(f"{error}, skipped")


def _replacements(block: Block) -> Iterator[Edit]:
    for entry in _entries(block):
        dn = tree.normal(entry.dn)
        for name, values in entry.attributes.items():
            yield Edit(dn, "replace", name, values, entry.line)


def _changes(block: Block) -> Iterator[Edit]:
    """Yield the modifications of a change record: its parts, read as records of their own."""
    kind = _CHANGE.search(block.data)
    name = _NAME.match(block.data)
    if kind is None or name is None:
        raise LdifError(f"line {block.line}", "the record has no dn:")
    if kind[1].lower() != b"modify":
        words = f"changetype {kind[1].decode(errors='replace')!r} where only modify is supported"
        raise LdifError(f"line {block.line}", words)
    # of the part in the output, less the lines of the name that precede each part
    line = block.line + block.data[: kind.end()].count(b"\n") - name[1].count(b"\n") - 1
    for part in _SEPARATOR.split(block.data[kind.end() :]):
        if part.strip():
            record = Block(block.offset, line, name[1] + b"\n" + part)
            yield from map(_change, _entries(record))
        line += part.count(b"\n") + 1


def _entries(block: Block) -> Iterator[Entry]:
    for record in block.read():
        if isinstance(record, MalformedRecord):
            raise LdifError(f"line {record.line}", record.cause)
        if isinstance(record, Entry):
            yield record


def _change(part: Entry) -> Edit:
    operation, names = next(iter(part.attributes.items()), ("", ("",)))
    if operation.lower() not in _OPERATIONS:
        words = f"{operation!r} where add, replace or delete is expected"
        raise LdifError(f"line {part.line}", words)
    values = part.get(names[0])
    others = {name.lower() for name in part.attributes} - {operation.lower(), names[0].lower()}
    if others or len(names) > 1 or (operation.lower() == "add" and not values):
        raise LdifError(f"line {part.line}", f"not a modification of {names[0]}")
    return Edit(tree.normal(part.dn), operation.lower(), names[0], values, part.line)


def applied(wanted: Tree, edits: Sequence[Edit]) -> tuple[Tree, list[str]]:
    """Return a tree with modifications made, and a line for each entry that is left as it is."""
    changed = dict(wanted)
    problems = []
    by_name: dict[Dn, list[Edit]] = {}
    for one in edits:
        by_name.setdefault(one.dn, []).append(one)
    for dn, of_entry in by_name.items():
        words = f"line {of_entry[0].line}: {shortened(dn)}"
        if dn not in wanted:
            problems.append(f"{words}: no source gives this entry, skipped")
            continue
        try:
            entry = wanted[dn]
            for one in of_entry:
                entry = _modified(entry, one)
            _require_name(wanted[dn], entry)
            changed[dn] = tree.checked(entry)[1]
        except LdifError as error:
            problems.append(f"{words}: {error.cause}, skipped")
    return changed, problems


def _require_name(before: Entry, after: Entry) -> None:
    """Raise `LdifError` if a value that is in the entry's name has gone: slapd would refuse it."""
    for attribute, value in ldif.parse_dn(before.dn)[0]:
        if value in before.get(attribute) and value not in after.get(attribute):
            raise LdifError(before.dn, f"its name needs {attribute}: {value}")


def _modified(entry: Entry, one: Edit) -> Entry:
    old = entry.get(one.attribute)
    match one.operation:
        case "add":
            values = (*old, *(value for value in one.values if value not in old))
        case "delete" if one.values:
            values = tuple(value for value in old if value not in one.values)
        case "delete":
            values = ()
        case _:
            values = one.values
    return tree.with_values(entry, one.attribute, values)
