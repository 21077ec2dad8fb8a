"""How far the first boot of a machine has come, so that the next boot continues there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from appliance.core import files
from appliance.core.run import log
from appliance.core.run.layout import Layout

_FILE = "/var/lib/fedcloud/first-boot.json"
_LIMIT = 2**20


@dataclass(slots=True)
class BootProgress:
    """What has been done with which answers."""

    path: Path
    answers: str = ""
    """The SHA-256 of the answers; empty without any."""
    is_configured: bool = False
    """Whether they are in the files of the site."""
    is_started: bool = False
    """Whether services and jobs have been started with them."""
    problems: Sequence[str] = field(default=())
    """Lines that say what is missing."""

    @classmethod
    def read(cls, layout: Layout) -> BootProgress:
        """Return what the last boot has kept; nothing if the file cannot be used."""
        path = layout.path(_FILE)
        try:
            tree = json.loads(files.read_regular(path, limit=_LIMIT))
            problems = tuple(map(str, tree["problems"]))
            is_configured, is_started = tree["is_configured"] is True, tree["is_started"] is True
            return cls(path, str(tree["answers"]), is_configured, is_started, problems)
        except (OSError, ValueError, LookupError, TypeError):
            return cls(path)

    def begin(self, answers: bytes) -> None:
        """Forget what was done with other answers."""
        digest = hashlib.sha256(answers).hexdigest()
        if digest != self.answers:
            self.answers, self.is_configured, self.is_started = digest, False, False

    def keep(self, *, problems: Sequence[str] = ()) -> None:
        """Write it; only root can read it."""
        self.problems = tuple(map(log.redact, problems))
        tree = asdict(self)
        del tree["path"]
        files.write_atomic(self.path, json.dumps(tree, indent=1).encode(), mode=0o600)
