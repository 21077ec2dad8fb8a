"""A tree of entries by normalised name: what the engine's pure core works on."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import NewType

from appliance.core import ldif
from appliance.core.ldif import Entry, LdifError
from bdii.messages import shown

Dn = NewType("Dn", str)
"""A name in normal form (`ldif.normalise_dn`)."""

Tree = Mapping[Dn, Entry]

NO_TREE: Tree = {}
SUFFIX = Dn("o=glue")
LONGEST = 4096
"""Characters that a name may have; real ones have some hundred. A bound for what strangers can make us do."""
LONGEST_RELATIVE = 245
"""Octets that an entry's own part of its name may have in slapd's spelling: LMDB has room for twice that in a key."""
LARGEST = 1_000_000
"""Characters that the values of one entry may have together: slapd hangs up on a request of more than 16 MB."""
MADE = 3
CREATION_TIME = "GLUE2EntityCreationTime"
OTHER_INFO = "GLUE2EntityOtherInfo"
_SEPARATOR = re.compile(r"(?<!\\)(?:\\\\)*,")


def normal(dn: str) -> Dn:
    """Return the normal form of a name; raises `LdifError`."""
    return Dn(ldif.normalise_dn(dn))


def depth(dn: Dn) -> int:
    """Return how many relative names a name has."""
    return len(_SEPARATOR.findall(dn)) + 1


def ancestors(dn: Dn) -> Iterator[Dn]:
    """Yield the names above one, nearest first."""
    while dn := Dn(ldif.parent(dn)):
        yield dn


def of(entries: Iterable[Entry]) -> tuple[dict[Dn, Entry], list[str]]:
    """Return entries as a tree, and a line for each that cannot be part of one. Of two with one name the first stays.

    Part of the tree is what lies at or below o=glue and has values in all its attributes.
    """
    tree: dict[Dn, Entry] = {}
    shared: dict[tuple[str, ...], tuple[str, ...]] = {}
    problems = []
    for entry in entries:
        try:
            dn = _checked(entry)
        except LdifError as error:
            problems.append(f"line {entry.line}: {error}, left out")
            continue
        if dn != SUFFIX and not dn.endswith(f",{SUFFIX}"):
            problems.append(f"line {entry.line}: {entry.dn}: not below {SUFFIX}, left out")
        elif entry.get("objectClass"):
            tree.setdefault(dn, _stored(entry, shared))
        else:
            problems.append(f"line {entry.line}: {entry.dn}: has no objectClass, left out")
    return tree, problems


def _checked(entry: Entry) -> Dn:
    dn = entry.dn
    if len(dn) > LONGEST:
        raise LdifError(shown(dn), f"is a name of more than {LONGEST} characters")
    try:
        dn.encode()
    except UnicodeEncodeError:
        raise LdifError(shown(dn), "is not UTF-8") from None
    name = normal(dn)
    own = name.removesuffix(ldif.parent(name))
    # slapd spells escaped characters by three octets
    if len(own.encode()) - 1 + own.count("\\") > LONGEST_RELATIVE:
        raise LdifError(
            shown(dn),
            f"begins with a name of more than {LONGEST_RELATIVE} octets, which no slapd stores",
        )
    if sum(len(value) for values in entry.attributes.values() for value in values) > LARGEST:
        raise LdifError(shown(dn), f"has values of more than {LARGEST} characters")
    return name


def sorted_by_depth(tree: Tree) -> list[Dn]:
    """Return the names, parents before their children."""
    return sorted(tree, key=lambda dn: (depth(dn), dn))


def complete(tree: Mapping[Dn, Entry]) -> tuple[dict[Dn, Entry], list[Dn]]:
    """Return a tree in which every entry has its parent, and the names of the entries left out for the want of one.

    Missing containers that are known by their name alone (GLUE2GroupID=…) are made, up to `MADE` in
    a row.
    """
    whole: dict[Dn, Entry] = {SUFFIX: tree.get(SUFFIX) or _container(SUFFIX)}
    left_out = []
    for dn in sorted_by_depth(tree):
        missing = (
            []
            if ldif.parent(dn) in whole
            else [name for name in ancestors(dn) if name not in whole]
        )
        if len(missing) <= MADE and all(map(_is_container, missing)):
            whole |= {name: _container(name) for name in reversed(missing)}
            whole[dn] = tree[dn]
        else:
            left_out.append(dn)
    return whole, left_out


def _is_container(dn: Dn) -> bool:
    """Tell whether a name alone says what its entry is."""
    return dn.startswith("glue2groupid=") and len(ldif.parse_dn(dn)[0]) == 1


def _container(dn: Dn) -> Entry:
    ((_, value),) = ldif.parse_dn(dn)[0]
    if dn == SUFFIX:
        return Entry(dn, {"objectClass": ("organization",), "o": (value,)})
    spelled = re.sub(
        "(?i)glue2(group|domain)id=", lambda found: f"GLUE2{found[1].capitalize()}ID=", dn
    )
    return Entry(spelled, {"objectClass": ("GLUE2Group",), "GLUE2GroupID": (value,)})


def _stored(entry: Entry, shared: dict[tuple[str, ...], tuple[str, ...]]) -> Entry:
    """Return the entry without empty values, which slapd refuses, without repeated ones, and small in memory.

    Names of attributes and classes are the same few in all entries of a tree, so each is kept once.
    """
    attributes = {}
    for name, values in entry.attributes.items():
        kept = values if len(values) == 1 else tuple(dict.fromkeys(values))
        if not all(kept):
            kept = tuple(filter(None, kept))
        if kept:
            attributes[sys.intern(name)] = (
                shared.setdefault(kept, kept) if name == "objectClass" else kept
            )
    return replace(entry, attributes=attributes)


def is_same(one: Entry, other: Entry, *, ignoring: str = "") -> bool:
    """Tell whether two entries have the same attributes with the same values, in any order."""
    return one is other or _content(one, ignoring) == _content(other, ignoring)


def _content(entry: Entry, ignoring: str) -> dict[str, frozenset[str]]:
    ignored = ignoring.lower()
    return {
        folded: frozenset(values)
        for name, values in entry.attributes.items()
        if (folded := name.lower()) != ignored
    }


def time_text(time: datetime) -> str:
    """Return a time in UTC in GLUE's form."""
    return f"{time:%Y-%m-%dT%H:%M:%SZ}"


def with_values(entry: Entry, name: str, values: Iterable[str]) -> Entry:
    """Return the entry with these values in one attribute; without it when there are none."""
    folded, wanted = name.lower(), tuple(values)
    attributes = {key: old for key, old in entry.attributes.items() if key.lower() != folded}
    return replace(entry, attributes=attributes | ({name: wanted} if wanted else {}))


BASE: Tree = complete(
    of(
        Entry(
            f"GLUE2GroupID={name},o=glue", {"objectClass": ("GLUE2Group",), "GLUE2GroupID": (name,)}
        )
        for name in ("resource", "grid")
    )[0]
)[0]
"""What every BDII publishes: the containers that clients have always found."""
