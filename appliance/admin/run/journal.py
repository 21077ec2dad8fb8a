"""The output of a job in systemd's journal: an entry for each line.

The programs log JSON then (`log.JSON_VARIABLE`), of which the message, the level and the logger
become fields of the entry. A line in another form, such as that of another program, is a message.
The job's container needs no access to the journal.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from appliance.admin.inventory import Job
from appliance.core.run.system_log import JOURNAL, SystemJournal, priority_of

JOB = "FEDCLOUD_JOB"
"""The field that names the job."""
_LONGEST = 48 * 1024
"""Bytes of a line, as journald itself cuts them (LineMax=)."""
_LAST_LINES = 5
"""Seconds for the last lines; a grandchild may hold the pipe open."""
_MEMBERS = {"logger": "LOGGER", "exception": "EXCEPTION"}


def entry(line: bytes, job: Job) -> dict[str, str]:
    """Return the fields of a line of a job's output."""
    text = line.decode(errors="backslashreplace").rstrip("\n")
    found = {"MESSAGE": text, "PRIORITY": str(priority_of(logging.INFO))}
    try:
        tree = json.loads(text) if text.startswith("{") else None
    except (ValueError, RecursionError):
        tree = None
    if isinstance(tree, dict) and isinstance(tree.get("message"), str):
        found = _of_log(tree)
    program = job.command[0].rpartition("/")[2]
    return found | {"SYSLOG_IDENTIFIER": program, JOB: job.name}


def _of_log(tree: Mapping[str, object]) -> dict[str, str]:
    level = logging.getLevelNamesMapping().get(str(tree.get("level")), logging.INFO)
    found = {"MESSAGE": str(tree["message"]), "PRIORITY": str(priority_of(level))}
    members = ((field, tree.get(member)) for member, field in _MEMBERS.items())
    return found | {field: text for field, text in members if isinstance(text, str)}


@contextlib.contextmanager
def output(job: Job, path: Path = JOURNAL) -> Iterator[BinaryIO]:
    """Yield a file whose lines go to the journal, and to the terminal if there is one.

    Raises:
        OSError: there is no journal, or it does not listen.

    """
    journal = SystemJournal(path)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    thread = threading.Thread(target=_relay, args=(reader, journal, job), daemon=True)
    thread.start()
    try:
        with open(writer, "wb", buffering=0) as file:
            yield file
    finally:
        thread.join(_LAST_LINES)


def _relay(reader: int, journal: SystemJournal, job: Job) -> None:
    """Send each line until all writers have closed the pipe."""
    lost = 0
    with open(reader, "rb") as file:
        while line := file.readline(_LONGEST):
            try:
                journal.send(entry(line, job))
            except OSError:  # a log must not stop what it is about
                lost += 1
            if sys.stdout is not None and sys.stdout.isatty():
                with contextlib.suppress(OSError):
                    sys.stdout.buffer.write(line)
                    sys.stdout.buffer.flush()
    journal.close()
    if lost:
        logging.getLogger(__name__).warning(
            "%s: the journal has not taken %d lines", job.name, lost
        )
