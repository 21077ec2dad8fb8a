"""What is wrong with a tree before it is published: the text of ``bdii-update --validate``.

A cycle publishes whatever slapd accepts: foreign entries are their provider's affair. This check is
for the administrator who wants to know what EGI's monitoring will say.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from appliance.core.glue import profile, schema
from appliance.core.glue.findings import errors, totals
from bdii import tree
from bdii.messages import printable
from bdii.tree import Tree


@dataclass(frozen=True, slots=True)
class Validation:
    """A line for each finding and one with their numbers; whether there are errors."""

    lines: tuple[str, ...]
    has_errors: bool


def validate(wanted: Tree, *, schemas: Path, now: datetime) -> Validation:
    """Judge a tree by the LDAP schema and by EGI's profile.

    Raises:
        LocalFailure: the schema cannot be read.

    """
    remedy = "install glue-schema, or set BDII_SCHEMA_DIR"
    rules = schema.read(schemas / schema.FILE.name, remedy=remedy)
    entries = [wanted[dn] for dn in tree.sorted_by_depth(wanted)]
    found = [reason for entry in entries if (reason := schema.finding(entry, rules)) is not None]
    found += profile.findings(entries, now=now)
    lines = [*(printable(str(finding)) for finding in found)]
    return Validation(
        (*lines, f"{len(entries)} entries: {totals(found)}"), has_errors=bool(errors(found))
    )
