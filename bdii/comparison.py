"""What this BDII would publish beside what another one serves, before the first replaces the other.

Times are not compared: creation time and validity differ between any two programs.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from urllib.parse import unquote, urlsplit

from appliance.core import hosts
from appliance.core.ldif import Entry, LdifError
from appliance.core.run.errors import UsageError
from bdii import tree
from bdii.entry import CREATION_TIME
from bdii.messages import printable, shortened
from bdii.sources import ldapsearch
from bdii.tree import SUFFIX, Dn, Tree

_PORT = 2170
_PATIENCE = timedelta(seconds=120)
# Bytes of the other BDII's answer: that of some million entries.
_LARGEST = 2**30
_TIMES = {CREATION_TIME.lower(), "glue2entityvalidity"}
_COLUMNS = ("WHAT", "ENTRY", "ATTRIBUTE", "HERE", "THERE")
# Characters of the values in one cell of the table; --json prints all of them.
_CELL = 60


@dataclass(frozen=True, slots=True)
class EntryDifference:
    """An entry that only one side has (no ``attribute``), or an attribute that differs."""

    what: str
    dn: str
    attribute: str = ""
    here: tuple[str, ...] = ()
    there: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OtherBdii:
    """The place of another BDII, and the part of its tree to compare."""

    host: str
    port: int
    base: Dn

    @classmethod
    def of_url(cls, url: str) -> OtherBdii:
        """Return the place that a URL names, ``ldap://HOST[:PORT][/BASE]``; raises `UsageError`."""
        remedy = "write ldap://HOST:PORT, or ldap://HOST:PORT/BASE"
        try:
            parts = urlsplit(url)
            # urlsplit raises ValueError for a port that is not a number, and for half a bracket
            host, port = parts.hostname, parts.port or _PORT
            base = tree.normal(unquote(parts.path.removeprefix("/")) or SUFFIX)
        except (ValueError, LdifError):
            host, port, base = None, 0, SUFFIX
        if host is None or parts.scheme != "ldap" or parts.query or parts.fragment:
            raise UsageError("--diff", f"{url!r} is not a URL of a BDII", remedy)
        if not _is_below(base, SUFFIX):
            raise UsageError("--diff", f"{url!r} names a base outside {SUFFIX}", remedy)
        return cls(host, port, base)

    def read(self) -> Tree:
        """Return the entries that it serves.

        Raises:
            Unavailable: it has no such base, cannot be reached, or does not answer in time.

        """
        url = f"ldap://{hosts.join_port(self.host, self.port)}"
        entries = ldapsearch.read(url, self.base, patience=_PATIENCE, limit=_LARGEST)
        return {tree.normal(entry.dn): entry for entry in entries}

    def part_of(self, wanted: Tree) -> Tree:
        """Return the part of a tree that is compared."""
        return {dn: entry for dn, entry in wanted.items() if _is_below(dn, self.base)}


def _is_below(dn: Dn, base: Dn) -> bool:
    return dn == base or dn.endswith(f",{base}")


def compare(here: Tree, there: Tree) -> Iterator[EntryDifference]:
    """Yield the differences, parents before their children."""
    for dn in tree.sorted_by_depth({**there, **here}):
        ours, theirs = here.get(dn), there.get(dn)
        if ours is None or theirs is None:
            (entry,) = (one for one in (ours, theirs) if one is not None)
            yield EntryDifference("only there" if ours is None else "only here", entry.dn)
        else:
            yield from _attributes(ours, theirs)


def _attributes(ours: Entry, theirs: Entry) -> Iterator[EntryDifference]:
    one, other = _folded(ours), _folded(theirs)
    for name in sorted(one.keys() | other.keys()):
        spelled, here = one.get(name, ("", ()))
        also_spelled, there = other.get(name, ("", ()))
        if _comparable(name, here) != _comparable(name, there):
            yield EntryDifference("differs", ours.dn, spelled or also_spelled, here, there)


def _folded(entry: Entry) -> Mapping[str, tuple[str, tuple[str, ...]]]:
    """Return the attributes by name in lower case, with the name as it is spelled."""
    return {
        name.lower(): (name, values)
        for name, values in entry.attributes.items()
        if name.lower() not in _TIMES
    }


def _comparable(name: str, values: Iterable[str]) -> frozenset[str]:
    return frozenset(value.lower() if name == "objectclass" else value for value in values)


def classes(found: Tree) -> Mapping[str, int]:
    """Return how many entries have each class of GLUE 2."""
    return collections.Counter(
        name
        for entry in found.values()
        for name in sorted(set(entry.get("objectClass")))
        if name.lower().startswith("glue2")
    )


def table(url: str, here: Tree, there: Tree, found: list[EntryDifference]) -> Iterator[str]:
    """Yield the lines for a terminal."""
    yield f"HERE   {len(here)} entries that would be published"
    yield f"THERE  {len(there)} entries of {url}"
    if not found:
        yield "No difference."
        return
    rows = [
        _COLUMNS,
        *(
            (one.what, shortened(one.dn), one.attribute or "-", _cell(one.here), _cell(one.there))
            for one in found
        ),
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield printable("  ".join(cells).rstrip())
    kinds = collections.Counter(one.what for one in found)
    yield ", ".join(f"{count} {what}" for what, count in sorted(kinds.items()))


def _cell(values: tuple[str, ...]) -> str:
    text = ", ".join(sorted(values)) or "-"
    return text if len(text) <= _CELL else f"{text[: _CELL - 1]}…"


def as_json(url: str, here: Tree, there: Tree, found: list[EntryDifference]) -> object:
    """Return the value for ``--json``."""
    return {
        "url": url,
        "here": {"entries": len(here), "classes": dict(sorted(classes(here).items()))},
        "there": {"entries": len(there), "classes": dict(sorted(classes(there).items()))},
        "differences": [asdict(one) for one in found],
    }
