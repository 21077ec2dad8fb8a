"""The unit's status line, which `systemctl status` shows: sd_notify(3), spoken by hand."""

from __future__ import annotations

import contextlib
import os
import socket

from appliance.core.run import log

_LONGEST = 2000
"""Characters of a line; systemd keeps it, and journals it, in whole."""


def status(text: str) -> None:
    """Set the status line of the unit that this process is a step of; nothing outside of units."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    name = f"\0{address[1:]}" if address.startswith("@") else address
    line = log.one_line(log.redact(text))[:_LONGEST]
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender,
    ):
        sender.sendto(f"STATUS={line}".encode(), name)
