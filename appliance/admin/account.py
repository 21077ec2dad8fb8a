"""The account that runs the containers and owns their files on the host."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

NAME = "fedcloud"
ID = 1999
"""Number of the user and of its group.

It is the same on every host, because files that containers write carry the number, not the name.
"""


@contextlib.contextmanager
def as_account() -> Iterator[None]:
    """Work as the account, which can replace directories of a spool by links while root writes."""
    os.setegid(ID)
    os.seteuid(ID)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
