"""Going to the background, as SSM's receiver does."""

from __future__ import annotations

import atexit
import os
import sys
from pathlib import Path

from appliance.core import files
from appliance.core.run.errors import Busy


def detach(pidfile: Path) -> None:
    """Go on in a child process without terminal, whose id stands in ``pidfile`` until it ends.

    To be called before there are threads, locks or connections. The parent ends with status 0.

    :raises Busy: the process that the file names is alive; a file left by one that is dead is taken over
    """
    if (holder := _living(pidfile)) is not None:
        raise Busy("Cannot start SSM", f"Pidfile {pidfile} already exists, process {holder} is alive", "stop it first")
    files.make_directory(pidfile.parent)
    if os.fork():
        os._exit(0)
    os.setsid()
    os.chdir("/")
    files.write_atomic(pidfile, f"{os.getpid()}\n".encode(), mode=0o644)
    atexit.register(pidfile.unlink, missing_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)


def _living(pidfile: Path) -> int | None:
    """Return the process that holds the file, None when there is none."""
    try:
        process = int(pidfile.read_text(encoding="ascii"))
        os.kill(process, 0)
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return None
    except PermissionError:  # alive, and somebody else's
        return process
    return process
