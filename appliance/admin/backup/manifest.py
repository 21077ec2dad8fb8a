"""The last file of a backup: what it is, whose it is, and the digest of every other file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

NAME = "MANIFEST.json"
LIMIT = 2**28  # bytes; a spool may have a million messages
_FORM = 1


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup says of itself."""

    version: str
    """The version of the appliance that made it."""
    site: str
    """The site's name; empty if it had none."""
    host: str
    taken: str
    """When it was begun, ISO 8601 in UTC."""
    digests: Mapping[str, str]
    """SHA-256 of each file by its path on an appliance."""
    schemas: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """``application_id`` and ``user_version`` of each SQLite file."""

    def as_bytes(self) -> bytes:
        """Return the text of the file."""
        return json.dumps({"form": _FORM, **asdict(self)}, indent=1).encode() + b"\n"


def parse(data: bytes) -> Manifest:
    """Return the manifest of a text.

    Raises:
        ValueError: It is none, or one of a later form.

    """
    try:
        found = json.loads(data)
        if found.pop("form") != _FORM:
            raise ValueError("the form of this backup is later than this appliance knows")
        schemas = {name: (int(one), int(two)) for name, (one, two) in found.pop("schemas").items()}
        digests = {str(name): str(hashed) for name, hashed in found.pop("digests").items()}
        texts = {name: str(found[name]) for name in ("version", "site", "host", "taken")}
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("it has no manifest") from error
    return Manifest(**texts, digests=digests, schemas=schemas)
