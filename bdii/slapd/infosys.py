"""The entry below ``o=infosys`` in which a BDII tells of its latest cycle.

Names and OIDs are those of the bdii package, which is what monitoring asks for: the object class
``UpdateStats``, and the time of its modification for the freshness of the tree. So it is modified
in each cycle.
"""

from __future__ import annotations

from dataclasses import dataclass

from appliance.core.ldif import Entry, child

SUFFIX = "o=infosys"
BASE = Entry(SUFFIX, {"objectClass": ("organization",), "o": ("infosys",)})

_FIGURES = {
    "TotalEntries": 2,
    "UpdateTime": 3,
    "DBUpdateTime": 4,
    "NewEntries": 5,
    "QueryTime": 6,
    "ProvidersTime": 7,
    "PluginsTime": 8,
    "FailedAdds": 9,
    "ModifiedEntries": 10,
    "DeletedEntries": 11,
    "FailedDeletes": 12,
    "FailedModifies": 13,
    "ReadTime": 14,
}
"""Attributes with their places below 1.3.6.1.4.1.8006.100.3."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """One cycle. Times are in seconds; the failed ones are what the directory does not hold, not what was tried."""

    total: int = 0
    new: int = 0
    modified: int = 0
    deleted: int = 0
    failed_adds: int = 0
    failed_modifies: int = 0
    failed_deletes: int = 0
    collecting: float = 0
    applying: float = 0


def entry(host: str, statistics: Statistics) -> Entry:
    """Return the entry; times are rounded to whole seconds, as the schema wants."""
    figures = dict.fromkeys(_FIGURES, 0) | {
        "TotalEntries": statistics.total,
        "NewEntries": statistics.new,
        "ModifiedEntries": statistics.modified,
        "DeletedEntries": statistics.deleted,
        "FailedAdds": statistics.failed_adds,
        "FailedModifies": statistics.failed_modifies,
        "FailedDeletes": statistics.failed_deletes,
        "ProvidersTime": round(statistics.collecting),
        "DBUpdateTime": round(statistics.applying),
        "UpdateTime": round(statistics.collecting + statistics.applying),
    }
    attributes = {name: (str(figure),) for name, figure in figures.items()}
    return Entry(
        child(SUFFIX, "Hostname", host),
        {"objectClass": ("UpdateStats",), "Hostname": (host,), **attributes},
    )


def schema() -> str:
    """Return the schema in slapd's form."""
    arc = "1.3.6.1.4.1.8006.100.3"
    string, integer = "1.3.6.1.4.1.1466.115.121.1.26", "1.3.6.1.4.1.1466.115.121.1.27"
    attributes = [
        f"attributetype ( {arc}.1 NAME 'Hostname' EQUALITY caseIgnoreIA5Match SYNTAX {string} SINGLE-VALUE )",
        *(
            f"attributetype ( {arc}.{place} NAME '{name}' EQUALITY integerMatch SYNTAX {integer} SINGLE-VALUE )"
            for name, place in _FIGURES.items()
        ),
    ]
    must = " $ ".join(["Hostname", *_FIGURES])
    # The class, unlike its attributes, has an arc with a 2 where 1.3 begins: a slip of theirs that
    # clients know.
    return "\n".join(
        [
            *attributes,
            f"objectclass ( 1.2.6.1.4.1.8006.100.3 NAME 'UpdateStats' MUST ( {must} ) )",
            "",
        ]
    )
