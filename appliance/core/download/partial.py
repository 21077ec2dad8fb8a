"""The part of a file that an earlier run has received."""

from __future__ import annotations

from dataclasses import dataclass

from appliance.core.run.errors import Unavailable


class StillWrong(Unavailable):
    """The server still has the file that an earlier run has refused, so its bytes stay there."""


@dataclass(slots=True)
class PartialData:
    """The first bytes of a file that are there already, and the version that they are of.

    Whoever downloads sets the version. ``number`` 0 means that there are none.
    """

    number: int = 0
    etag: str = ""
    modified: str = ""
    total: int | None = None
    """Bytes of the whole file; None if nobody says."""
    refused: PartialData | None = None
    """The version that an earlier run has found to be another file than the source describes."""

    @property
    def is_known(self) -> bool:
        """Whether something would show that the server has another file."""
        return bool(self.etag or self.modified)

    @property
    def is_resumable(self) -> bool:
        """Whether something would show that the rest is of the same file (RFC 9110, 13.1.5)."""
        return self.etag.startswith('"') or bool(self.modified)
