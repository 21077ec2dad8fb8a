"""What the running slapd serves, read back by OpenLDAP's client.

ldap3 reads some thousand entries a second, ldapsearch some ten thousand: a hundred thousand take
seconds instead of more than a minute.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import quote

from appliance.core import ldif
from appliance.core.directory import NoAnswer
from appliance.core.ldif import Entry
from bdii.sources import programs
from bdii.tree import SUFFIX

# For all entries. A slapd that hangs is ended earlier, which ends the search too.
_PATIENCE = timedelta(minutes=10)


def entries(socket: Path) -> Iterator[Entry]:
    """Yield the entries below o=glue, without operational attributes.

    Raises:
        NoAnswer: slapd does not answer, or its answer has no end.

    """
    command = [
        *programs.ENDS_WITH_US,
        *("env", "LDAPNOINIT=1", "ldapsearch"),  # without the defaults of ldap.conf
        *("-LLL", "-Q", "-Y", "EXTERNAL", "-o", "ldif-wrap=no"),
        *("-H", f"ldapi://{quote(str(socket), safe='')}", "-b", SUFFIX),
    ]
    # a pipe and not a file: the entries need no room on a disk that may be full
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        patience = threading.Timer(_PATIENCE.total_seconds(), process.kill)
        patience.start()
        try:
            for block in ldif.blocks(cast("BinaryIO", process.stdout)):
                yield from (found for found in block.read() if isinstance(found, Entry))
            words = cast("BinaryIO", process.stderr).read().decode(errors="replace").split("\n")[0]
        finally:
            patience.cancel()
            process.kill()  # if nobody wants the rest
    if process.returncode:
        raise NoAnswer(socket, f"the directory does not answer: {words or 'the search was ended'}")
