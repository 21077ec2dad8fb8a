"""Faults of GLUE entries as findings of a check: one for each rule and attribute."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping

from appliance.core.glue.findings import GlueFinding, Severity
from appliance.core.run.finding import Finding

_MISSING = "W034"
"""The rule for a mandatory attribute."""
_AGAIN = frozenset({"W042", "W043", "W044"})
"""The rules that report a value of a wrong type a second time."""
_LONGEST = 120
"""Characters of a name in a message."""


def findings(
    found: Iterable[GlueFinding],
    place: Callable[[str], tuple[str, int]],
    *,
    tried: str,
    keys: Mapping[str, str],
    chosen: Container[str],
) -> Iterator[Finding]:
    """Yield the faults of a tree (C51), those of a rule and an attribute together.

    Errors and missing attributes are faults, other warnings only where an option is their cause:
    clouds publish values that the profile does not have, such as ``IaaS``, because readers look
    for them.

    Args:
        found: what EGI's profile says of the tree.
        place: returns file and line behind an attribute.
        tried: the tree, for messages.
        keys: the option behind an attribute, for the remedy.
        chosen: the attributes whose option is set.

    """
    groups: dict[tuple[str, str], list[GlueFinding]] = {}
    for one in found:
        is_warning = one.severity is Severity.WARNING and one.code not in _AGAIN
        is_of_option = is_warning and one.attribute in chosen
        if one.severity is Severity.ERROR or one.code == _MISSING or is_of_option:
            groups.setdefault((one.code, one.attribute), []).append(one)
    for (code, attribute), ones in groups.items():
        first, others = ones[0], len({one.dn for one in ones}) - 1
        name = f" of {first.dn[:_LONGEST]}" if first.dn else ""
        more = f" (and of {others} more)" if others else ""
        key = keys.get(attribute, "")
        remedy = f"correct {key}" if key else "correct what its provider says"
        text = f"{attribute}{name}{more}: {first.text} ({code}); {remedy}"
        row = "C51.a" if code == _MISSING else "C51"
        is_error = first.severity is Severity.ERROR
        path, line = place(attribute)
        yield Finding(path, line, key, text, row, is_error=is_error, tried=tried)
