"""The configurations of `ssmsend`: one file for each spool and its destination.

    /etc/apel/sender.cfg           record ssmsend
    /etc/apel/sender.d/NAME.cfg    record ssmsend-NAME

Each is a whole file in the form of SSM, and none inherits from another. Files with other endings
are ignored, so an example beside them sends nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from appliance.core import files
from appliance.core.run.errors import LocalFailure
from appliance.core.run.layout import Layout

FIRST, FURTHER = "/etc/apel/sender.cfg", "/etc/apel/sender.d"
LAST_DELIVERED = "last_delivered_timestamp_seconds"
"""The figure of a record: when a message was last acknowledged, also by an earlier run."""
_FOR_TESTS = re.compile(r"(^|[-._/])(test|devel|dev|msg-devel)([-._/:]|$)")
_UNSAFE = re.compile(r"[^\w.-]", re.ASCII)


@dataclass(frozen=True, slots=True)
class SenderFiles:
    """The configurations of a site: sender.cfg first, whether or not it exists."""

    paths: tuple[Path, ...]
    skipped: Mapping[Path, LocalFailure] = field(default_factory=dict)
    """Files of sender.d that cannot be used."""


def is_for_tests(name: str) -> bool:
    """Check whether a destination or a broker's host is one for tests, by its name."""
    return bool(_FOR_TESTS.search(name))


def configurations(layout: Layout) -> SenderFiles:
    """Return the configurations of a site."""
    first, further = layout.path(FIRST), layout.path(FURTHER)
    try:
        listing = files.listed(further, _is_configuration, follow=True)
    except FileNotFoundError:
        return SenderFiles((first,))
    except OSError as error:
        return SenderFiles((first,), {further: files.describe_unusable(further, error)})
    return SenderFiles((first, *listing.paths), listing.skipped)


def record_name(path: Path, layout: Layout) -> str:
    """Return the name of the run record of a configuration."""
    if path.parent != layout.path(FURTHER):
        return "ssmsend"
    return f"ssmsend-{_UNSAFE.sub('_', path.stem)}"


def _is_configuration(name: str) -> bool:
    return name.endswith(".cfg") and not name.startswith(".")
