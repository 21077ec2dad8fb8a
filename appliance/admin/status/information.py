"""The age of the site's JSON, which the job cloud-info-json writes.

It is read from the state that the program keeps beside the file: the file itself may be large.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from appliance.admin.diff.view import ago
from appliance.admin.inventory import Flow
from appliance.admin.settings import Host
from appliance.core import clock, files, json_file
from appliance.core.run.layout import Layout
from appliance.core.site_document import LARGEST_STATE

_FILE = "/var/lib/fedcloud/cloud-info/information.json"


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """The file: when the cloud was read, and until when that counts.

    ``held`` is the number of objects whose removal is held; ``problem`` says why nothing is known.
    """

    path: Path
    now: datetime
    created: datetime | None = None
    valid_until: datetime | None = None
    held: int = 0
    problem: str = ""

    @property
    def complaint(self) -> str:
        """Return the complaint about the file; empty if there is none."""
        if self.problem:
            return self.problem
        logs = "see appliance logs cloud-info-json"
        if self.valid_until and self.valid_until < self.now:
            words = f"information: {self.path} expired {ago(self.now - self.valid_until)} ago"
            state = files.shell_word(self.path.with_suffix(".state"))
            return f"{words}, so readers ignore it; {logs}, or rm {state} if nobody needs it"
        if self.held:
            words = f"information: the last good {self.path} stays, because {self.held} objects"
            return f"{words} would vanish at once; {logs}"
        return ""

    def __str__(self) -> str:
        read = f"read from the cloud {ago(self.now - self.created)} ago" if self.created else ""
        return f"Information: {self.path}, {read or 'of unknown age'}"

    def as_json(self) -> object:
        """Return the value for `appliance status --json`."""
        return {
            "file": str(self.path),
            "created": self.created and self.created.isoformat(),
            "valid_until": self.valid_until and self.valid_until.isoformat(),
            "held": self.held,
        }


def of_file(layout: Layout, host: Host, *, now: datetime) -> PublishedFile | None:
    """Return the site's file; None if there is none, or the flow of information is off."""
    path = layout.path(_FILE)
    state = path.with_suffix(".state")
    if not host.flows[Flow.INFORMATION] or not state.exists():
        return None
    try:
        entry = json_file.read(state, limit=LARGEST_STATE)
        created, until = entry.get("created"), entry.get("valid_until")
        return PublishedFile(
            path,
            now,
            clock.parse(created) if created else None,
            clock.parse(until) if until else None,
            int(entry.get("held") or 0),
            "" if path.exists() else f"information: {path} does not exist",
        )
    except OSError as error:
        return PublishedFile(path, now, problem=str(files.describe_skipped(state, error)))
    except (ValueError, TypeError, AttributeError, OverflowError):
        words = f"information: {state} is damaged; rm {files.shell_word(state)}"
        return PublishedFile(path, now, problem=words)
