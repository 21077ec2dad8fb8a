"""The complete set of properties that an image of a registry has in Glance.

The golden file was written by hand: atrope's properties by name and value, the annotations of the
artefact with its reference, marks of our own, what the data were made from, and those that the site
sets. Its values in braces differ from run to run.
"""

from __future__ import annotations

import json
from pathlib import Path

_FILE = Path(__file__).parent / "wire/glance-properties/registry.json"
OWN = {"hw_disk_bus": "scsi", "hw_qemu_guest_agent": "yes"}


def expected(**values: str) -> tuple[str, dict[str, str], dict[str, str]]:
    """Return name, properties and annotations of the image, with the values of a run."""
    text = _FILE.read_text()
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", value)
    found = json.loads(text)
    assert found["own"] == OWN
    properties = found["atrope"] | found["mark"] | found["provenance"] | found["own"]
    return found["name"], properties, found["APPLIANCE_ATTRIBUTES"]
