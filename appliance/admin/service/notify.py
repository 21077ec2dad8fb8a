"""The status line of a unit in `systemctl status`: the protocol of sd_notify(3)."""

from __future__ import annotations

import contextlib
import os
import socket

from appliance.core.run import log

_LONGEST = 2000
"""Limit in characters; systemd keeps and logs the whole line."""


def status(text: str) -> None:
    """Set the status line of the unit that this process belongs to, if any."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    # systemd writes abstract socket names, which begin with a zero byte, with @.
    name = f"\0{address[1:]}" if address.startswith("@") else address
    line = log.one_line(log.redact(text))[:_LONGEST]
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender,
    ):
        sender.sendto(f"STATUS={line}".encode(), name)
