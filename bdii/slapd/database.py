"""A database for slapd, made anew from LDIF together with its configuration; slapd only ever starts on such a one.

So there is one way to start, after an update of the tree by the thousands, a crash or a power cut:
the LDIF is the truth and the database a copy. It need not be synced to the disk, and a broken one
is never met.

    STATE/db/N/slapd.conf  infosys.schema  tree.ldif  glue/  infosys/
"""

from __future__ import annotations

import functools
import logging
import re
import shutil
import subprocess
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from appliance.core import files, ldif
from appliance.core.ldif import Entry
from appliance.core.run.errors import LocalFailure, Unavailable
from bdii import tree
from bdii.messages import printable, shown
from bdii.settings import BdiiSettings
from bdii.slapd import configuration, infosys
from bdii.tree import NO_TREE, SUFFIX, Dn, Tree, ancestors

logger = logging.getLogger(__name__)

_TOOL_SECONDS = 600
_LINE = re.compile(r"\(line=(\d+)\)(?:: (?:\((\d+)\) )?(.*))?$")
_ABORTED = "txn_aborted!"
_MOST_CULPRITS = 10
"""Entries that are searched for one after another when slapadd fails without naming any."""
_TYPE = re.compile(
    r"attributetype\s*\(\s*[\d.]+\s+NAME\s+'(\w+)'.*?SYNTAX\s+([\d.]+)", re.IGNORECASE | re.DOTALL
)
_INTEGER_SYNTAX = "1.3.6.1.4.1.1466.115.121.1.27"
_INTEGER = re.compile(r"-?[1-9][0-9]*|0", re.ASCII)


@dataclass(frozen=True, slots=True)
class Database:
    """A directory that slapd can start on, the tree in it, and why each of the other entries is not."""

    directory: Path
    tree: Tree
    refused: Mapping[Dn, str]

    @property
    def configuration(self) -> Path:
        """Path of slapd's configuration."""
        return self.directory / "slapd.conf"


def make(
    settings: BdiiSettings, wanted: Tree, directory: Path, *, instead: Tree = NO_TREE
) -> Database:
    """Make a database that holds a tree.

    An entry that slapd refuses is taken from the tree ``instead``; if it is not there or refused
    too, it is left out with all below it. So is one at which slapadd fails without a word, if it
    fails at that entry alone. Raises `LocalFailure` or `Unavailable` when there is no disk, no
    slapd or no schema.
    """
    accepted, refused = dict(wanted), dict[Dn, str]()
    while found := _unfit(settings, accepted):
        _leave_out(accepted, refused, found, instead)
    culprits = 0
    while True:
        try:
            found = _load(settings, accepted, directory)
        except _Unexplained as error:
            culprits += 1
            if culprits > _MOST_CULPRITS:
                raise
            found = _culprit(settings, accepted, directory, error)
        if not found:
            return Database(directory, accepted, refused)
        _leave_out(accepted, refused, found, instead)


def _leave_out(
    accepted: dict[Dn, Entry], refused: dict[Dn, str], found: Mapping[Dn, str], instead: Tree
) -> None:
    refused |= found
    for dn in found:
        if (old := instead.get(dn)) is not None and old is not accepted[dn]:
            accepted[dn] = old
        else:
            del accepted[dn]
    for dn in [dn for dn in accepted if any(name not in accepted for name in ancestors(dn))]:
        refused.setdefault(dn, "the entry above it was refused")
        del accepted[dn]


def _unfit(settings: BdiiSettings, wanted: Tree) -> dict[Dn, str]:
    """Return the entries with values that slapd refuses over LDAP, with the reason.

    slapadd, when it is to be quick, takes any value.
    """
    integers = _integers(settings.schemas / "GLUE20.schema")
    return {dn: reason for dn, entry in wanted.items() if (reason := _why_unfit(entry, integers))}


def _why_unfit(entry: Entry, integers: Collection[str]) -> str:
    for name, values in entry.attributes.items():
        if name.lower() in integers and not all(map(_INTEGER.fullmatch, values)):
            return f"{name}: invalid per syntax, not a whole number"
        if not all(value.isascii() or _is_text(value) for value in values):
            return f"{name}: invalid per syntax, not UTF-8"
        if len(values) > 1 and len(
            {" ".join(filter(None, value.split(" "))) for value in values}
        ) < len(values):
            return f"{name}: a value provided more than once"
    return ""


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


@functools.cache
def _integers(schema: Path) -> frozenset[str]:
    """Return the attributes of a schema that are whole numbers, in lower case."""
    try:
        text = schema.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise LocalFailure.from_os(
            error, remedy="install glue-schema, or set BDII_SCHEMA_DIR"
        ) from error
    return frozenset(
        name.lower() for name, syntax in _TYPE.findall(text) if syntax == _INTEGER_SYNTAX
    )


def _prepare(settings: BdiiSettings, directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    for name in ("glue", "infosys"):
        files.make_directory(directory / name)
    for name, content in (
        ("infosys.schema", infosys.schema()),
        ("slapd.conf", configuration.text(settings, directory)),
    ):
        with files.named(directory / name):
            (directory / name).write_text(content)


class _Unexplained(Unavailable):
    """The tool slapadd failed, and named no entry."""


def _culprit(
    settings: BdiiSettings,
    wanted: Tree,
    directory: Path,
    error: _Unexplained,
) -> dict[Dn, str]:
    """Return the entry at which slapadd fails; raises ``error`` when no single one is to blame."""
    names = tree.sorted_by_depth(wanted)  # so that each beginning of the list is a tree

    def fails(part: Sequence[Dn]) -> bool:
        try:
            _load(settings, {dn: wanted[dn] for dn in part}, directory)
        except _Unexplained:
            return True
        return False

    if len(names) == 1 or fails(names[:1]):
        raise error
    good, bad = 1, len(names)
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (good, middle) if fails(names[:middle]) else (middle, bad)
    suspect = names[bad - 1]
    above = [dn for dn in reversed([*ancestors(suspect)]) if dn in wanted]
    if fails(above) or not fails([*above, suspect]):
        raise error
    logger.warning("%s: slapadd fails at this entry", printable(shown(suspect)))
    return {suspect: f"slapadd fails at this entry: {error.cause}"}


def _load(settings: BdiiSettings, wanted: Tree, directory: Path) -> dict[Dn, str]:
    """Load a tree with slapadd into a new database; returns what it refused, with the reason."""
    _prepare(settings, directory)
    text = directory / "tree.ldif"
    lines: dict[int, Dn] = {}
    number = 1
    with files.named(text), text.open("w", encoding="ascii") as file:
        for dn in tree.sorted_by_depth(wanted):
            block = ldif.format_entry(wanted[dn]) + "\n"
            lines[number] = dn
            number += block.count("\n")
            file.write(block)
    command = ["-f", str(directory / "slapd.conf"), "-b", SUFFIX, "-q", "-c", "-l", str(text)]
    done = _tool(settings, "slapadd", *command)
    words = done.stderr.splitlines()
    # What follows an entry at which the whole transaction was given up are only consequences.
    aborted = [line for line in words if _ABORTED in line and _LINE.search(line)][:1]
    refused = dict(_refused(aborted or words, lines))
    if done.returncode and not refused:
        told = " ".join(done.stderr.split())[-400:] or f"status {done.returncode}"
        remedy = "check the free space and the schemas"
        raise _Unexplained(directory, f"slapadd failed: {told}", remedy)
    return refused


def _refused(words: Sequence[str], lines: Mapping[int, Dn]) -> Iterator[tuple[Dn, str]]:
    """Yield the entries that slapadd's messages name by their lines, with the reason.

    For an entry that it cannot even parse the reason is the message before.
    """
    for before, message in pairwise(["", *words]):
        found = _LINE.search(message)
        if found is not None and int(found[1]) in lines:
            reason = (
                f"{found[3]} ({found[2]})"
                if found[2]
                else found[3] or before.rpartition("str2entry: ")[2]
            )
            yield lines[int(found[1])], reason


def _tool(settings: BdiiSettings, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a tool of slapd, which is slapd itself under another name."""
    try:
        return subprocess.run(
            [name, *arguments],
            executable=settings.slapd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TOOL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(settings.slapd, f"{name} did not end within {_TOOL_SECONDS} s") from None
    except OSError as error:
        raise LocalFailure.from_os(
            error, subject=settings.slapd, remedy="install slapd, or set SLAPD"
        ) from error
