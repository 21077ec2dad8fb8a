"""Units of systemd: which changes a running service notices only after a restart."""

from __future__ import annotations


def changes_service(before: bytes, after: bytes) -> bool:
    """Return whether two texts of a unit differ in how the service runs.

    Sections other than ``[Service]`` are about its start, and count from ``daemon-reload`` on.
    """
    return _service(before) != _service(after)


def _service(unit: bytes) -> list[str]:
    """Return the lines of the section ``[Service]``, without comments."""
    lines, section = [], ""
    for line in unit.decode(errors="replace").splitlines():
        text = line.strip()
        if text.startswith("["):
            section = text
        elif section == "[Service]" and text and not text.startswith(("#", ";")):
            lines.append(text)
    return lines
