"""Entries of LDAP from values: texts that slapd accepts, and no attribute without a value."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from appliance.core.ldif import Entry
from cloud_info_provider.site_settings import Fact

# Characters of a value: more is of no use to readers, and slapd limits the size of an entry.
_LONGEST_TEXT = 1024
# Blanks, control characters and surrogates: slapd rejects some, LDIF cannot show others.
_UNFIT = re.compile(r"[\s\x00-\x1f\x7f\ud800-\udfff]+")

Value = str | int | Iterable[str] | None


def new_entry(dn: str, classes: Sequence[str], attributes: Mapping[str, Value]) -> Entry:
    """Return an entry; attributes without a value are left out."""
    made: dict[str, tuple[str, ...]] = {"objectClass": tuple(classes)}
    for name, value in attributes.items():
        cleaned = tuple(dict.fromkeys(text for item in _listed(value) if (text := clean(item))))
        if cleaned:
            made[name] = cleaned
    return Entry(dn, made)


def _listed(value: Value) -> Iterable[str | int]:
    return (value,) if isinstance(value, str | int) else value or ()


def clean(value: str | int) -> str:
    """Return a value as a text that slapd and LDIF can hold; it may be empty."""
    return _UNFIT.sub(" ", str(value)).strip()[:_LONGEST_TEXT]


def shown(fact: Fact) -> Value:
    """Return a fact as a value of LDAP, where TRUE and FALSE are the truth values."""
    return str(fact).upper() if isinstance(fact, bool) else fact


def pairs(values: Mapping[str, Value]) -> Iterator[str]:
    """Yield ``name=value`` for each value, for OtherInfo."""
    for name, value in values.items():
        for item in _listed(value):
            if text := clean(item):
                yield f"{name}={text}"
