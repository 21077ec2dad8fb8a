"""OpenLDAP's client as a program: its time and the size of its answer can be limited.

Whoever answers is foreign; docs/adr/0011 has the reasons.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from datetime import timedelta

from appliance.core import ldif
from appliance.core.ldif import Entry
from appliance.core.run.errors import Unavailable
from bdii.messages import printable
from bdii.sources import programs
from bdii.sources.model import LdifSource

NO_SUCH_OBJECT = 32
"""LDAP's result code, which is the exit status."""


def command(url: str, base: str, *asked: str, patience: timedelta) -> list[str]:
    """Return the command that reads a subtree of another BDII."""
    seconds = f"{patience.total_seconds():.0f}"
    return [
        *("env", "LDAPNOINIT=1", "ldapsearch"),  # without the defaults of ldap.conf
        *("-LLL", "-x", "-o", "ldif-wrap=no"),
        *("-o", f"nettimeout={seconds}", "-l", seconds),
        *("-H", url, "-b", base, *asked),
    ]


def read(url: str, base: str, *, patience: timedelta, limit: int) -> Iterator[Entry]:
    """Yield the entries of a subtree of another BDII, of which ``limit`` bytes are accepted.

    Raises:
        Unavailable: it cannot be reached, has no such base, or its answer has no end.

    """
    words = command(url, base, patience=patience)
    source = LdifSource(url, words, is_program=True, timeout=patience, limit=limit)
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        try:
            status = programs.run(source, output, errors, threading.Event())
        except programs.ProgramFailure as error:
            raise Unavailable(url, f"the search {error}") from None
        if status:
            said = next(iter(programs.last_lines(errors)), programs.how_ended(status))
            if status == NO_SUCH_OBJECT:
                raise Unavailable(url, f"has no {printable(base)}", "name a base that it has")
            remedy = "check host and port, and that the BDII runs"
            raise Unavailable(url, f"does not answer: {said}", remedy)
        output.seek(0)
        for block in ldif.blocks(output):
            yield from (record for record in block.read() if isinstance(record, Entry))
