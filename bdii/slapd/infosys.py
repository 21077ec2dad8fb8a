"""The entry below ``o=infosys`` with the figures of the latest cycle.

Names and OIDs are those of the upstream bdii package. Monitoring reads the class ``UpdateStats``,
and the entry's modification time as the age of the tree, so every cycle modifies the entry.

The attribute ``TreeVersion`` of o=infosys itself is ours: while it is there and has the same value,
the tree is the same, so a site's BDII need not read it (docs/adr/0059).
"""

from __future__ import annotations

from dataclasses import dataclass

from appliance.core.ldif import Entry, child

SUFFIX = "o=infosys"
VERSION = "TreeVersion"
_VERSIONED = "VersionedTree"
BASE_ENTRY = Entry(SUFFIX, {"objectClass": ("organization", _VERSIONED), "o": ("infosys",)})

# Below the arc of UUIDs (ITU-T X.667), where nobody needs a number of a registry.
_OWN_ARC = "2.25.162230279499722441309288936500372826201"
_ARC = "1.3.6.1.4.1.8006.100.3"
# Attributes with their places below the arc.
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
ATTRIBUTES = ("o", "Hostname", *_FIGURES, VERSION)


@dataclass(frozen=True, slots=True)
class Statistics:
    """The figures of one cycle.

    Times are in seconds: to ask all sources, to read their answers, to run the plugins, for a query
    as strangers make it, and to change the directory. The failed changes are those missing in the
    directory at the end, not the attempts.
    """

    total: int = 0
    new: int = 0
    modified: int = 0
    deleted: int = 0
    failed_adds: int = 0
    failed_modifies: int = 0
    failed_deletes: int = 0
    collecting: float = 0
    reading: float = 0
    editing: float = 0
    querying: float = 0
    applying: float = 0


def name(host: str) -> str:
    """Return the name of the entry."""
    return child(SUFFIX, "Hostname", host)


def entry(host: str, statistics: Statistics) -> Entry:
    """Return the entry; the schema wants times in whole seconds."""
    figures = dict.fromkeys(_FIGURES, 0) | {
        "TotalEntries": statistics.total,
        "NewEntries": statistics.new,
        "ModifiedEntries": statistics.modified,
        "DeletedEntries": statistics.deleted,
        "FailedAdds": statistics.failed_adds,
        "FailedModifies": statistics.failed_modifies,
        "FailedDeletes": statistics.failed_deletes,
        "ProvidersTime": round(statistics.collecting),
        "PluginsTime": round(statistics.editing),
        "ReadTime": round(statistics.reading),
        "QueryTime": round(statistics.querying),
        "DBUpdateTime": round(statistics.applying),
        "UpdateTime": round(statistics.collecting + statistics.editing + statistics.applying),
    }
    attributes = {name: (str(figure),) for name, figure in figures.items()}
    return Entry(
        name(host),
        {"objectClass": ("UpdateStats",), "Hostname": (host,), **attributes},
    )


def schema() -> str:
    """Return the schema in slapd's form."""
    string = "EQUALITY caseIgnoreIA5Match SYNTAX 1.3.6.1.4.1.1466.115.121.1.26"
    integer = "EQUALITY integerMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.27"
    types = [("Hostname", 1, string), *((name, place, integer) for name, place in _FIGURES.items())]
    attributes = [
        f"attributetype ( {_ARC}.{place} NAME '{name}' {syntax} SINGLE-VALUE )\n"
        for name, place, syntax in types
    ]
    must = " $ ".join(["Hostname", *_FIGURES])
    # The OID of the class, unlike those of its attributes, begins with 1.2 instead of 1.3: a slip
    # in the upstream schema that clients know.
    oid = "1.2.6.1.4.1.8006.100.3"
    return "".join(
        [
            *attributes,
            f"objectclass ( {oid} NAME 'UpdateStats' MUST ( {must} ) )\n",
            f"attributetype ( {_OWN_ARC}.1 NAME '{VERSION}' {string} SINGLE-VALUE )\n",
            f"objectclass ( {_OWN_ARC}.2 NAME '{_VERSIONED}' AUXILIARY MAY {VERSION} )\n",
        ]
    )
