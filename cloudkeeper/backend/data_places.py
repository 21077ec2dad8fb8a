"""The places that image data may come from; a setting, which loads no client library."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class DataPlaces:
    """The places that image data may come from, by the backend's own configuration."""

    directory: Path
    """Files and sockets of a frontend on this host."""
    remote_hosts: frozenset[str] = frozenset()
    """Web servers of frontends on other hosts: HOST, or HOST:PORT, in lower case."""
    authorities: Path | None = None
    """Of the web servers, beside those of the system (PEM)."""
    is_with_frontend: bool = False
    """Whether the frontend is in this process, so that sockets need no connection."""

    def __str__(self) -> str:
        return ", ".join((str(self.directory), *sorted(self.remote_hosts)))
