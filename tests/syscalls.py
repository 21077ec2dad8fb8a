"""The system calls of a piece of Python on files, by strace: only they show an fsync."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

_CHANGES = "fsync,fdatasync,rename,renameat2,link,linkat,unlink,unlinkat,mkdir,rmdir,write"


def trace(script: str, *arguments: object, below: Path, inject: str = "") -> list[str]:
    """Run a script and return its changes below a directory, like ``rename .state.tmp state``.

    The directory itself is ``.``. ``inject`` is strace's: ``renameat2:error=EINVAL``.
    """
    options = ["-e", f"inject={inject}"] if inject else []
    traced = ",".join([_CHANGES, *inject.split(":")[:1]]).rstrip(",")
    command = ["strace", "-qq", "-y", "-s", "1000", "-e", f"trace={traced}", *options]
    command += [sys.executable, "-c", script, *map(str, arguments)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    calls = []
    for line in shown.splitlines():
        paths = re.findall(rf'["<]{re.escape(str(below))}(?:/([^">]*))?[">]', line)
        if paths:
            calls.append(" ".join([line.split("(")[0], *(path or "." for path in paths)]))
    return calls
