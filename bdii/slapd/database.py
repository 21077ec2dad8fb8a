"""A database for slapd, made from LDIF together with its configuration.

A start of the service makes a new database, after a power cut too: the LDIF is the truth and the
database a copy, which need not be synced to disk.

    STATE/db/N/slapd.conf  infosys.schema  glue/  infosys/
"""

from __future__ import annotations

import contextlib
import errno
import logging
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, cast

from appliance.core import files, ldif
from appliance.core.glue import schema
from appliance.core.ldif import Entry
from appliance.core.run.errors import LocalFailure, Unavailable
from bdii import tree
from bdii.entry import formatted
from bdii.messages import printable, shortened
from bdii.settings import BdiiSettings
from bdii.slapd import configuration, infosys
from bdii.tree import SUFFIX, Dn, Tree, ancestors

logger = logging.getLogger(__name__)

_TOOL_SECONDS = 600
# The end of a message of slapadd: "(line=7)", "(line=7): (65) reason" or "(line=7): reason".
_LINE = re.compile(r"\(line=(\d+)\)(?:: (?:\((\d+)\) )?(.*))?$")
_ABORTED = "txn_aborted!"
# A file system with less room is full: slapadd has failed for it, whatever the entry.
_LEAST_ROOM = 1 << 20
# Entries to search for, one after another, while slapadd fails without naming any.
_MOST_CULPRITS = 10


@dataclass(frozen=True, slots=True)
class Database:
    """A directory that slapd can start on: the tree in it, and why other entries were rejected."""

    directory: Path
    tree: Tree
    refused: Mapping[Dn, str]


def make(settings: BdiiSettings, wanted: Tree, directory: Path) -> Database:
    """Make a database that holds a tree.

    An entry that slapd rejects is left out with all entries below it. The same applies to an entry
    at which slapadd fails without a message.

    Raises:
        LocalFailure: there is no room on the disk, no slapd or no schema.
        Unavailable: slapadd fails whatever single entry is left out.

    """
    accepted, refused = dict(wanted), dict[Dn, str]()
    while found := _invalid(settings, accepted):
        _leave_out(accepted, refused, found)
    culprits = 0
    while True:
        try:
            found = _load(settings, accepted, directory)
        except _UnexplainedFailure as error:
            culprits += 1
            if culprits > _MOST_CULPRITS:
                raise
            found = _culprit(settings, accepted, directory, error)
        if not found:
            return Database(directory, accepted, refused)
        _leave_out(accepted, refused, found)


def make_of_file(settings: BdiiSettings, text: Path, directory: Path) -> bool:
    """Make a database of an LDIF file that slapd has served; return whether all of it was loaded.

    Raises:
        LocalFailure: there is no room on the disk, no slapd or no schema.

    """
    _prepare(settings, directory)
    command = ["-f", str(directory / "slapd.conf"), "-b", SUFFIX, "-q", "-l", str(text)]
    return _run_tool(settings, "slapadd", *command).returncode == 0


def _leave_out(accepted: dict[Dn, Entry], refused: dict[Dn, str], found: Mapping[Dn, str]) -> None:
    refused |= found
    for dn in found:
        del accepted[dn]
    for dn in tree.sorted_by_depth(accepted):  # parents first, so that one missing empties a branch
        if (parent := ldif.parent(dn)) and parent not in accepted:
            refused.setdefault(dn, "the entry above it was refused")
            del accepted[dn]


def _invalid(settings: BdiiSettings, wanted: Tree) -> dict[Dn, str]:
    """Return the entries with values that slapd rejects over LDAP, with the reason.

    In its quick mode slapadd accepts any value, and slapd would serve it.
    """
    integers = _schema(settings).integers
    return {dn: reason for dn, entry in wanted.items() if (reason := _fault(entry, integers))}


def _schema(settings: BdiiSettings) -> schema.Schema:
    remedy = "install glue-schema, or set BDII_SCHEMA_DIR"
    return schema.read(settings.schemas / schema.FILE.name, remedy=remedy)


def _fault(entry: Entry, integers: Collection[str]) -> str:
    """Return why slapd rejects the values of an entry; empty if it accepts them."""
    for name, values in entry.attributes.items():
        if name.lower() in integers and not all(map(schema.INTEGER.fullmatch, values)):
            return f"{name}: invalid per syntax, not a whole number"
        # the reader of LDIF keeps bytes that are not UTF-8 as surrogates, which encode() drops here
        if not all(value == value.encode(errors="ignore").decode() for value in values):
            return f"{name}: invalid per syntax, not UTF-8"
        if schema.is_repeated(values):
            return f"{name}: a value provided more than once"
    return ""


def _prepare(settings: BdiiSettings, directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    for name in ("glue", "infosys"):
        files.make_directory(directory / name)
    for name, content in configuration.files(settings, directory).items():
        with files.named(directory / name):
            (directory / name).write_text(content)
    _introduce(settings, directory)


def _introduce(settings: BdiiSettings, directory: Path) -> None:
    """Let both databases know the attributes of GLUE before there is an entry that stays.

    slapd numbers an attribute when it first writes one. If that change cannot be committed, because
    the disk is full, the number is taken back in the database, but not in all of slapd's memory:
    the next entry with this attribute can be written and never read, and each search that meets it
    ends there with an error (OpenLDAP 2.5, back-mdb).
    """
    glue = _schema(settings).spellings.values()
    names = {SUFFIX: ("o", "description", *glue), infosys.SUFFIX: infosys.ATTRIBUTES}
    for suffix, known in names.items():
        classes = {"objectClass": ("organization", "extensibleObject")}
        entry = Entry(suffix, {**classes, **dict.fromkeys(known, ("1",))})
        removal = f"dn: {suffix}\nchangetype: delete\n\n".encode()
        for tool, given in (("slapadd", formatted(entry) + b"\n"), ("slapmodify", removal)):
            arguments = ["-q", "-s", "-f", str(directory / "slapd.conf"), "-b", suffix]
            done = _run_tool(settings, tool, *arguments, given=[given])
            if done.returncode:
                _require_room(settings, directory)
                raise _unexplained(settings, directory, tool, done)


class _UnexplainedFailure(Unavailable):
    """slapadd failed without naming an entry."""


def _culprit(
    settings: BdiiSettings, wanted: Tree, directory: Path, error: _UnexplainedFailure
) -> dict[Dn, str]:
    """Return the entry at which slapadd fails; raises ``error`` if no single entry is the cause."""
    names = tree.sorted_by_depth(wanted)  # in this order each beginning of the list is a tree

    def fails(part: Sequence[Dn]) -> bool:
        try:
            _load(settings, {dn: wanted[dn] for dn in part}, directory)
        except _UnexplainedFailure:
            return True
        return False

    if len(names) == 1 or fails(names[:1]):
        raise error
    good, bad = 1, len(names)
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (good, middle) if fails(names[:middle]) else (middle, bad)
    suspect = names[bad - 1]
    # A full disk fails at any entry; only one that fails alone is the cause.
    above = [dn for dn in reversed([*ancestors(suspect)]) if dn in wanted]
    if fails(above) or not fails([*above, suspect]):
        raise error
    logger.warning("%s: slapadd fails at this entry", printable(shortened(suspect)))
    return {suspect: f"slapadd fails at this entry: {error.cause}"}


def _load(settings: BdiiSettings, wanted: Tree, directory: Path) -> dict[Dn, str]:
    """Load a tree into a new database with slapadd; return the rejected entries and reasons."""
    _prepare(settings, directory)
    lines: dict[int, Dn] = {}
    # -q: quick, without checks and syncs; -c: continue after a rejected entry
    command = ["-f", str(directory / "slapd.conf"), "-b", SUFFIX, "-q", "-c"]
    # no file: the database may lie in memory, where there is no room for a copy
    done = _run_tool(settings, "slapadd", *command, given=_text(wanted, lines))
    if done.returncode:
        _require_room(settings, directory)
    words = configuration.messages(done.stderr)
    # After an entry at which slapadd aborts the whole transaction, all messages are consequences.
    aborted = [line for line in words if _ABORTED in line and _LINE.search(line)][:1]
    refused = dict(_rejected(aborted or words, lines))
    if done.returncode and not refused:
        raise _unexplained(settings, directory, "slapadd", done)
    return refused


def has_room(directory: Path) -> bool:
    """Check whether the file system of a database is not full."""
    return shutil.disk_usage(directory).free >= _LEAST_ROOM


def _require_room(settings: BdiiSettings, directory: Path) -> None:
    if not has_room(directory):
        error = OSError(errno.ENOSPC, "has no room for the tree", str(directory))
        raise LocalFailure.from_os(error, remedy=configuration.room_remedy(settings))


def _unexplained(
    settings: BdiiSettings, directory: Path, tool: str, done: subprocess.CompletedProcess[str]
) -> _UnexplainedFailure:
    words = configuration.messages(done.stderr)
    printed = " ".join(words)[-400:] or f"status {done.returncode}"
    remedy = f"{configuration.room_remedy(settings)}, or check the schemas"
    return _UnexplainedFailure(directory, f"{tool} failed: {printed}", remedy)


def _text(wanted: Tree, lines: dict[int, Dn]) -> Iterator[bytes]:
    """Yield the LDIF of a tree, parents first, and note the lines in which its entries begin."""
    number = 1
    for dn in tree.sorted_by_depth(wanted):
        block = formatted(wanted[dn]) + b"\n"
        lines[number] = dn
        number += block.count(b"\n")
        yield block


def _rejected(words: Sequence[str], lines: Mapping[int, Dn]) -> Iterator[tuple[Dn, str]]:
    """Yield the entries that slapadd's messages name by their lines, with the reason.

    For an entry that slapadd cannot parse, the reason is in the preceding message.
    """
    for before, message in pairwise(["", *words]):
        found = _LINE.search(message)
        if found is None or int(found[1]) not in lines:
            continue
        reason = found[3] or before.rpartition("str2entry: ")[2]
        yield lines[int(found[1])], f"{found[3]} ({found[2]})" if found[2] else reason


def _run_tool(
    settings: BdiiSettings, name: str, *arguments: str, given: Iterable[bytes] = ()
) -> subprocess.CompletedProcess[str]:
    """Run a tool of slapd: slapd itself, which acts by the name that it is called by.

    ``given`` is its standard input; a tool that ends before it has read all of it is not at fault.
    """
    try:
        with (
            tempfile.TemporaryFile() as errors,
            subprocess.Popen(
                [name, *arguments],
                executable=settings.slapd,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            ) as process,
        ):
            patience = threading.Timer(_TOOL_SECONDS, process.kill)
            patience.start()
            try:
                with contextlib.suppress(BrokenPipeError), cast("BinaryIO", process.stdin) as file:
                    file.writelines(given)
                process.wait()
                has_ended = patience.is_alive()
            finally:
                patience.cancel()  # it would keep this program from ending
            errors.seek(0)
            printed = errors.read().decode(errors="replace")
    except OSError as error:
        is_program = str(error.filename) == str(settings.slapd)
        remedy = "install slapd, or set SLAPD" if is_program else ""
        raise LocalFailure.from_os(
            error, subject=error.filename or settings.state, remedy=remedy
        ) from error
    if not has_ended:
        cause = f"{name} did not end within {_TOOL_SECONDS} s"
        raise Unavailable(settings.slapd, cause, "check the load of this host")
    return subprocess.CompletedProcess([name], process.returncode, stderr=printed)
