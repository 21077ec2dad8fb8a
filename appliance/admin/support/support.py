"""``appliance support-bundle FILE``: what a stranger needs to help, without secrets and ids.

It reads and changes nothing. The file is a plain tar.gz, so that you can look into it before you
send it.
"""

from __future__ import annotations

import argparse
import io
import os
import tarfile
from pathlib import Path

from appliance.admin import settings
from appliance.admin.support import contents
from appliance.admin.support.redaction import Redaction
from appliance.core import clock
from appliance.core.run import cli
from appliance.core.run.errors import ExitStatus, LocalFailure, UsageError

_TOP = "support"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own flags."""
    parser.add_argument(
        "file",
        type=cli.file_to_write,
        metavar="FILE",
        help="tar.gz to write; it must not exist yet",
    )


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Write the bundle, and print its name."""
    layout = cli.layout(arguments)
    settings.load(layout)
    if arguments.check_config:
        return ExitStatus.DONE
    if os.geteuid() != 0:
        cause = "only root can read what it needs"
        raise UsageError("appliance", cause, "sudo appliance support-bundle FILE")
    target: Path = arguments.file.absolute()
    if os.path.lexists(target):
        raise UsageError(target, "exists", "name a new file, such as one with the date")
    if not target.parent.is_dir():
        raise UsageError(target.parent, "is not a directory", "name a FILE in one that exists")
    from appliance.admin.backup import archive  # noqa: PLC0415  start-up is a cost

    count = 0
    try:
        with (
            archive.unfinished(target) as file,
            tarfile.open(fileobj=file, mode="w:gz") as tar,
        ):
            for name, text in contents.texts(layout, Redaction()):
                data = text.encode(errors="replace")
                member = tarfile.TarInfo(f"{_TOP}/{name.lstrip('/')}")
                member.size, member.mtime = len(data), int(clock.now().timestamp())
                tar.addfile(member, io.BytesIO(data))
                count += 1
    except OSError as error:
        remedy = "free space there or name another FILE; nothing is left of this one"
        raise LocalFailure.from_os(error, subject=target, remedy=remedy) from error
    print(f"{target}: {count} files. Look into it before you send it: tar -tzf {target}")
    return ExitStatus.DONE


VERB = cli.Program(
    "support-bundle",
    "Write versions, checks, status, configuration and logs to one file, without secrets.",
    add_arguments,
    run,
)
