"""The record of the last upgrade: ``/var/lib/fedcloud/upgrade.json``.

It is written before anything is changed, and says to which version the host can go back.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

from appliance.core import files, json_file
from appliance.core.run.errors import ConfigurationError, Problem
from appliance.core.run.layout import Layout

_PLACE = "/var/lib/fedcloud/upgrade.json"
_LIMIT = 2**20  # bytes


class UpgradeState(enum.StrEnum):
    """How far an upgrade has come."""

    BEGUN = "begun"
    DONE = "done"
    BACK = "back"
    """The host went back to the version before."""


@dataclass(frozen=True, slots=True)
class UpgradeRecord:
    """An upgrade from one version to another."""

    before: str
    after: str
    state: UpgradeState = UpgradeState.BEGUN
    tables: Mapping[str, int] = field(default_factory=dict)
    """The version of the tables of each SQLite file before the upgrade."""
    faults: tuple[str, ...] = ()
    """What was amiss before the upgrade, and therefore is no reason to go back."""


def read(layout: Layout) -> UpgradeRecord | None:
    """Return the record; None without one.

    Raises:
        ConfigurationError: The file is not such a record.

    """
    path = layout.path(_PLACE)
    try:
        tree = json_file.read(path, limit=_LIMIT)
        tables = {str(name): int(version) for name, version in tree["tables"].items()}
        faults = tuple(str(fault) for fault in tree["faults"])
        state = UpgradeState(tree["state"])
        return UpgradeRecord(str(tree["before"]), str(tree["after"]), state, tables, faults)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        cause = "is not the record of an upgrade; move it away, and run this again"
        raise ConfigurationError([Problem(path, 0, "", cause)]) from error


def write(record: UpgradeRecord, layout: Layout) -> None:
    """Write the record durably."""
    text = json.dumps(asdict(record), indent=1)
    files.write_atomic(layout.path(_PLACE), f"{text}\n".encode(), mode=0o600)


def note(record: UpgradeRecord, state: UpgradeState, layout: Layout) -> None:
    """Write how far an upgrade has come."""
    write(replace(record, state=state), layout)
