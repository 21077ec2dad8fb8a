"""Signed lists as they last came, so that an unchanged one costs no content.

The server is asked whether its list has changed (``If-None-Match``, ``If-Modified-Since``). A kept
list takes the place of its answer only if that is 304, never that of a failure, and is verified as
if it had just come: certificates, CRLs and dates of expiry change while a list does not.

A file has one line of JSON, then the list. One that cannot be read or has another digest than its
line says does not count, and the list is fetched whole. Files that no run has needed for a month
are removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from appliance.core import files
from appliance.core.download.downloader import Fetched
from appliance.core.run.errors import LocalFailure

logger = logging.getLogger(__name__)

_UNUSED = timedelta(days=30)
# Characters of an ETag or a date; a longer one is not kept.
_LONGEST = 1024
_LARGEST_LINE = 8 * _LONGEST


@dataclass(frozen=True, slots=True)
class ListCache:
    """The lists in ``directory``, each of at most ``max_bytes``."""

    directory: Path
    max_bytes: int

    def get(self, place: str) -> Fetched | None:
        """Return the list that last came from a place, which has no secrets; None: none did."""
        try:
            found = files.read_regular(self.path(place), limit=self.max_bytes + _LARGEST_LINE)
            line, _, content = found.partition(b"\n")
            known = json.loads(line)
            fetched = Fetched(content, str(known["etag"]), str(known["modified"]))
            if known["url"] == place and known["sha256"] == hashlib.sha256(content).hexdigest():
                return fetched
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            pass
        return None

    def keep(self, place: str, fetched: Fetched, *, at: datetime) -> None:
        """Keep a list that is accepted at ``at``; if that fails, log it: the list itself counts."""
        path = self.path(place)
        try:
            if self.get(place) != fetched:
                self._write(path, place, fetched)
            os.utime(path, (at.timestamp(), at.timestamp()))
        except FileNotFoundError:  # the server gives its list no version
            pass
        except OSError as error:
            failure = LocalFailure.from_os(error, subject=path)
            logger.warning("%s; the next run fetches the whole list again", failure)

    def clean(self, *, at: datetime) -> None:
        """Remove the lists that no run has needed for a month."""
        with contextlib.suppress(OSError):
            for path in self.directory.iterdir():
                if path.stat().st_mtime < (at - _UNUSED).timestamp():
                    path.unlink()

    def _write(self, path: Path, place: str, fetched: Fetched) -> None:
        version = {"etag": fetched.etag, "modified": fetched.modified}
        if not any(version.values()) or max(map(len, version.values())) > _LONGEST:
            path.unlink(missing_ok=True)
            return
        digest = hashlib.sha256(fetched.content).hexdigest()
        line = json.dumps({"url": place, **version, "sha256": digest})
        files.make_directory(self.directory)
        files.write_atomic(path, [f"{line}\n".encode(), fetched.content])

    def path(self, place: str) -> Path:
        """Return the file for the list of a place."""
        return self.directory / f"{hashlib.sha256(place.encode()).hexdigest()[:32]}.list"
