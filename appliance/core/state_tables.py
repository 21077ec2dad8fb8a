"""The versions of what the programs keep, for programs and for an upgrade that compares releases.

A release that changes tables writes a new version here. ``readable_by`` is the oldest version whose
programs can use the new tables as they are; where it is the new version itself, there is no way
back after the first run. Files that are ``remade`` are a memory only: each program that does not
know their version makes its own again.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

LEDGER, MEMORY, SENT_JOURNAL, RUN_RECORDS = 1, 3, 1, 1


@dataclass(frozen=True, slots=True)
class StateForm:
    """The form of a file, or of the files of a directory, in the state directory."""

    name: str
    path: str
    version: int
    readable_by: int
    is_remade: bool = False


FORMS = (
    StateForm("ledger", "/var/lib/fedcloud/caso/ledger.sqlite", LEDGER, 1),
    StateForm("memory", "/var/lib/fedcloud/caso/memory.sqlite", MEMORY, MEMORY, is_remade=True),
    StateForm("sent journal", "/var/lib/fedcloud/ssm/sent.sqlite", SENT_JOURNAL, 1),
    StateForm("run records", "/var/lib/fedcloud/runs", RUN_RECORDS, 1),
)
BUNDLE_FILE = "state-forms.json"
"""The file of a bundle that holds the forms of its release."""


def text() -> str:
    """Return the forms of this release, as a bundle holds them."""
    return json.dumps([asdict(one) for one in FORMS], indent=1) + "\n"


def read(content: str) -> tuple[StateForm, ...]:
    """Return the forms that another release has written; fields that it adds are ignored.

    Raises:
        ValueError: The text is none of ours.

    """
    try:
        return tuple(
            StateForm(
                str(one["name"]),
                str(one["path"]),
                int(one["version"]),
                int(one["readable_by"]),
                bool(one["is_remade"]),
            )
            for one in json.loads(content)
        )
    except (LookupError, TypeError) as error:
        raise ValueError(str(error)) from error
