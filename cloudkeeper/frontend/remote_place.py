"""The place of the remote mode; a setting, which loads no server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RemotePlace:
    """Where images are served, and the URL by which the backend reaches that."""

    address: str
    port: int
    url: str
    """Without a slash at its end."""
