"""The LDAP schema of GLUE 2.0, read from the file that slapd reads, and entries checked by it.

slapd rejects an entry that the schema does not allow. In its quick mode slapadd does not look at
values at all and slapd then serves them; these checks do not depend on the way into the directory.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.core.glue.findings import GlueFinding, Severity
from appliance.core.ldif import Entry, LdifError, parse_dn
from appliance.core.run.errors import LocalFailure

FILE = Path("/etc/ldap/schema/GLUE20.schema")
"""Where the Debian package glue-schema has it."""

_TOKEN = re.compile(r"'[^']*'|[()$]|[^\s()$']+")
_INTEGER_SYNTAX = "1.3.6.1.4.1.1466.115.121.1.27"
# RFC 4517, 3.3.16: no leading zero, no plus sign, no minus zero.
INTEGER = re.compile(r"-?[1-9][0-9]*|0", re.ASCII)


@dataclass(frozen=True, slots=True)
class ObjectClass:
    """A class: the attributes that its entries must and may have, in lower case."""

    must: frozenset[str]
    may: frozenset[str]


@dataclass(frozen=True, slots=True)
class Schema:
    """Classes, attributes and attributes of special kinds, by name in lower case."""

    classes: Mapping[str, ObjectClass]
    spellings: Mapping[str, str]
    integers: Collection[str]
    single: Collection[str]


# The root of each tree, which is defined in core.schema.
_ORGANIZATION = ObjectClass(frozenset({"o"}), frozenset({"description"}))


@functools.cache
def read(path: Path, *, remedy: str = "install glue-schema") -> Schema:
    """Return the schema of a file; raises `LocalFailure`."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise LocalFailure.from_os(error, remedy=remedy) from error
    code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    attributes = list(_definitions(code, "attributetype"))
    classes: dict[str, ObjectClass] = {"organization": _ORGANIZATION}
    for words in _definitions(code, "objectclass"):  # a class comes after those it inherits from
        supers = map(str.lower, _names(words, "SUP"))
        above = [classes[name] for name in supers if name in classes]
        must, may = (map(str.lower, _names(words, keyword)) for keyword in ("MUST", "MAY"))
        made = ObjectClass(
            frozenset(must).union(*(each.must for each in above)),
            frozenset(may).union(*(each.may for each in above)),
        )
        classes |= {name.lower(): made for name in _names(words, "NAME")}
    named = [(name, words) for words in attributes for name in _names(words, "NAME")]
    return Schema(
        classes,
        {name.lower(): name for name, _ in named},
        frozenset(
            name.lower() for name, words in named if _INTEGER_SYNTAX in _names(words, "SYNTAX")
        ),
        frozenset(name.lower() for name, words in named if "SINGLE-VALUE" in words),
    )


def _definitions(code: str, keyword: str) -> Iterator[Sequence[str]]:
    """Yield the words of each definition, without its outer parentheses."""
    for found in re.finditer(rf"^{keyword}\s*\(", code, re.IGNORECASE | re.MULTILINE):
        words: list[str] = []
        depth = 1
        for token in _TOKEN.finditer(code, found.end()):
            depth += {"(": 1, ")": -1}.get(token[0], 0)
            if not depth:
                break
            words.append(token[0])
        yield words


def _names(words: Sequence[str], keyword: str) -> list[str]:
    """Return the names after a keyword, a single one or several in parentheses."""
    if keyword not in words:
        return []
    start = words.index(keyword) + 1
    if words[start] != "(":
        return [words[start].strip("'")]
    listed = words[start + 1 : words.index(")", start)]
    return [name.strip("'") for name in listed if name != "$"]


def finding(entry: Entry, schema: Schema) -> GlueFinding | None:
    """Return why slapd would reject an entry; None if it would accept it."""
    faults = list(_faults(entry, schema))
    if not faults:
        return None
    attribute, text = faults[0]
    more = f" (one of {len(faults)} faults)" if len(faults) > 1 else ""
    return GlueFinding(Severity.ERROR, "schema", entry.dn, attribute, f"{text}{more}")


def _faults(entry: Entry, schema: Schema) -> Iterator[tuple[str, str]]:
    given = {name.lower(): values for name, values in entry.attributes.items()}
    try:
        named = {kind.lower(): value for rdn in parse_dn(entry.dn)[:1] for kind, value in rdn}
    except LdifError as error:
        yield "", error.cause
        return
    classes = []
    for name in entry.get("objectClass"):
        if (known := schema.classes.get(name.lower())) is None:
            yield "objectClass", f"{name!r} is not a class of GLUE 2.0"
        else:
            classes.append(known)
    must = frozenset[str]().union(*(each.must for each in classes))
    may = must.union(*(each.may for each in classes))
    # slapd adds the attribute that names an entry
    for name in sorted(must - given.keys() - named.keys()):
        yield schema.spellings.get(name, name), "is missing; the schema demands it"
    for name, values in entry.attributes.items():
        folded = name.lower()
        if folded != "objectclass" and classes and folded not in may:
            yield name, "is no attribute of the classes of this entry"
        yield from ((name, text) for text in _faults_of_values(folded, values, schema))
    for name, value in named.items():
        if name in given and value not in given[name]:
            spelled = schema.spellings.get(name, name)
            yield spelled, f"lacks the value {value!r}, which is in the name of the entry"


def is_repeated(values: Sequence[str]) -> bool:
    """Check whether slapd takes two values for one: it ignores repeated and surrounding blanks."""
    if len(values) < 2:  # noqa: PLR2004  two are the least that can be equal
        return False
    return len({" ".join(filter(None, value.split(" "))) for value in values}) < len(values)


def _faults_of_values(name: str, values: Sequence[str], schema: Schema) -> Iterator[str]:
    if len(values) > 1 and name in schema.single:
        yield f"has {len(values)} values, one is allowed"
    if is_repeated(values):
        yield "has the same value twice"
    for value in values:
        if not value:
            yield "is empty"
        elif name in schema.integers and not INTEGER.fullmatch(value):
            yield f"{value!r} is not a whole number"
        # the reader of LDIF keeps bytes that are not UTF-8 as surrogates
        elif value != value.encode(errors="ignore").decode():
            yield "is not UTF-8"
