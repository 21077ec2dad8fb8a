"""A tree of entries by normalised name: the value that all parts of the package exchange."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import NewType

from appliance.core import ldif
from appliance.core.ldif import Entry, LdifError
from bdii.entry import CREATION_TIME, content_digest, traits, without_repeated
from bdii.messages import shortened

# A name in normal form (`ldif.normalise_dn`).
Dn = NewType("Dn", str)

Tree = Mapping[Dn, Entry]

NO_TREE: Tree = {}
SUFFIX = Dn("o=glue")
# Characters of a name. Real names have some hundred; the bound limits what strangers can cause.
LONGEST = 4096
# Bytes of the first part of a name in slapd's spelling: LMDB's keys have room for twice that.
LONGEST_RELATIVE = 245
# Characters of all values of one entry: slapd closes the connection at requests of over 16 MB.
LARGEST = 1_000_000
# Missing containers, one below the other, that `complete` adds above an entry.
MOST_CONTAINERS = 3
# A comma that no odd number of backslashes escapes.
_SEPARATOR = re.compile(r"(?<!\\)(?:\\\\)*,")


def normal(dn: str) -> Dn:
    """Return the normal form of a name; raises `LdifError`."""
    own, _, above = dn.partition(",")
    if own and above and not ("\\" in own or '"' in own):
        with contextlib.suppress(LdifError):  # the careful reader finds the error again
            return Dn(f"{ldif.normalise_dn(own)},{_normal_above(above)}")
    return Dn(ldif.normalise_dn(dn))


@functools.lru_cache(maxsize=1000)
def _normal_above(dn: str) -> str:
    """Return the normal form of a name that many entries have above them."""
    return ldif.normalise_dn(dn)


def parent(dn: Dn) -> Dn:
    """Return the name above a name; empty for a name of one part."""
    own, _, above = dn.partition(",")
    return Dn(ldif.parent(dn) if own.endswith("\\") else above)


def ancestors(dn: Dn) -> Iterator[Dn]:
    """Yield the names above a name, nearest first."""
    while dn := parent(dn):
        yield dn


def of(entries: Iterable[Entry]) -> tuple[dict[Dn, Entry], list[str]]:
    """Return entries as a tree, and a line for each rejected entry.

    Of several entries with the same name it holds the first; another one is a problem unless it is
    equal.
    """
    tree: dict[Dn, Entry] = {}
    problems = []
    for entry in entries:
        try:
            dn, accepted = checked(entry)
        except LdifError as error:
            problems.append(f"line {entry.line}: {error}, left out")
            continue
        first = tree.setdefault(dn, accepted)
        if not is_same(first, accepted):
            problems.append(differing(entry, first.line))
    return tree, problems


def differing(entry: Entry, line: int) -> str:
    """Return the line about an entry that differs from that of the same name in a ``line``."""
    words = f"differs from the entry of the same name in line {line}"
    return f"line {entry.line}: {shortened(entry.dn)}: {words}, left out"


def checked(entry: Entry) -> tuple[Dn, Entry]:
    """Return an entry that a tree can hold, with its name in normal form.

    Raises:
        LdifError: the entry is not at or below o=glue, has no class, or slapd cannot store it.

    """
    dn = _checked_name(entry)
    if dn != SUFFIX and not dn.endswith(f",{SUFFIX}"):
        raise LdifError(entry.dn, f"not below {SUFFIX}")
    accepted = without_repeated(entry)
    if not accepted.get("objectClass"):
        raise LdifError(entry.dn, "has no objectClass")
    return dn, accepted


def _checked_name(entry: Entry) -> Dn:
    """Return the normal form of an entry's name; raises `LdifError` if slapd cannot store it."""
    dn = entry.dn
    if len(dn) > LONGEST:
        raise LdifError(shortened(dn), f"is a name of more than {LONGEST} characters")
    # the reader of LDIF keeps bytes that are not UTF-8 as surrogates, which encode() drops here
    if dn != dn.encode(errors="ignore").decode():
        raise LdifError(shortened(dn), "is not UTF-8")
    name = normal(dn)
    if name != name.encode(errors="ignore").decode():  # it was escaped
        raise LdifError(shortened(dn), "is not UTF-8")
    # the common case first: only a value that ends in "=" looks like an empty one
    may_be_empty = "=," in name or "=+" in name
    if may_be_empty and not all(value for rdn in ldif.parse_dn(name) for _, value in rdn):
        raise LdifError(shortened(dn), "has an empty value in its name")
    own = name.removesuffix(parent(name))
    # slapd spells an escaped character with three bytes, the normal form with two
    if len(own.encode()) - 1 + own.count("\\") > LONGEST_RELATIVE:
        cause = f"begins with a name of more than {LONGEST_RELATIVE} bytes, too long for slapd"
        raise LdifError(shortened(dn), cause)
    if sum(len(value) for values in entry.attributes.values() for value in values) > LARGEST:
        raise LdifError(shortened(dn), f"has values of more than {LARGEST} characters")
    return name


def depth(dn: Dn) -> int:
    """Return the number of names above a name."""
    return len(_SEPARATOR.findall(dn)) if "\\" in dn else dn.count(",")


def sorted_by_depth(tree: Iterable[Dn]) -> list[Dn]:
    """Return the names, parents before their children."""
    return sorted(tree, key=lambda dn: (depth(dn), dn))


def complete(tree: Mapping[Dn, Entry]) -> tuple[dict[Dn, Entry], list[Dn]]:
    """Return a tree in which every entry has its parent, and the names of the orphans left out.

    A missing parent is added if its name alone defines it (GLUE2GroupID=…), up to
    `MOST_CONTAINERS` in a row.
    """
    if SUFFIX in tree and all(parent(dn) in tree for dn in tree if dn != SUFFIX):
        return dict(tree), []  # the common case, without sorting
    whole: dict[Dn, Entry] = {SUFFIX: tree.get(SUFFIX) or _container(SUFFIX)}
    left_out = []
    for dn in sorted_by_depth(tree):
        # the common case first: looking through all ancestors costs more than one look-up
        has_parent = parent(dn) in whole
        missing = [] if has_parent else [name for name in ancestors(dn) if name not in whole]
        if len(missing) <= MOST_CONTAINERS and all(map(_is_container, missing)):
            whole |= {name: _container(name) for name in reversed(missing)}
            whole[dn] = tree[dn]
        else:
            left_out.append(dn)
    return whole, left_out


def _is_container(dn: Dn) -> bool:
    """Check whether a name alone defines its entry."""
    return dn.startswith("glue2groupid=") and len(ldif.parse_dn(dn)[0]) == 1


def _container(dn: Dn) -> Entry:
    """Return the entry of a container, its name spelled as in the schema."""
    ((_, value),) = ldif.parse_dn(dn)[0]
    if dn == SUFFIX:
        return Entry(dn, {"objectClass": ("organization",), "o": (value,)})
    spelled = re.sub(
        "(?i)glue2(group|domain)id=", lambda found: f"GLUE2{found[1].capitalize()}ID=", dn
    )
    return Entry(spelled, {"objectClass": ("GLUE2Group",), "GLUE2GroupID": (value,)})


def is_same(one: Entry, other: Entry, *, ignoring: str = "") -> bool:
    """Check whether two entries have the same attributes with the same values, in any order.

    ``ignoring`` may be the creation time.
    """
    if one is other:
        return True
    is_equal = content_digest(one) == content_digest(other)
    return is_equal and (
        ignoring == CREATION_TIME or sorted(traits(one).created) == sorted(traits(other).created)
    )


def time_text(time: datetime) -> str:
    """Return a time in UTC in GLUE's form."""
    return f"{time:%Y-%m-%dT%H:%M:%SZ}"


def with_values(entry: Entry, name: str, values: Iterable[str]) -> Entry:
    """Return the entry with these values of one attribute; without it if there are none."""
    folded, wanted = name.lower(), tuple(values)
    attributes = {key: old for key, old in entry.attributes.items() if key.lower() != folded}
    return Entry(entry.dn, attributes | ({name: wanted} if wanted else {}), entry.line)


# Every BDII publishes these containers: clients have always found them.
BASE: Tree = {
    dn: _container(dn)
    for dn in map(normal, (SUFFIX, "GLUE2GroupID=resource,o=glue", "GLUE2GroupID=grid,o=glue"))
}
