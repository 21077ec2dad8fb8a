"""Tables of cron, parsed by the rules of Debian's cron, which silently ignores files with faults.

A file needs a name of letters, digits, ``_`` and ``-``, the owner root, write access for root only,
and a newline at its end. A line needs a sixth field, the user. A bare ``%`` ends a command.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from appliance.admin.schedule import cron_times
from appliance.core.run.errors import Problem

_NAME = re.compile(r"[A-Za-z0-9_-]+")
_SETTING = re.compile(r"\s*[A-Za-z_][A-Za-z0-9_]*\s*=")
_OURS = re.compile(
    r"/usr/local/bin/(caso-extract|ssm-send|cloudkeeper|cloud-info)\.sh\b|/appliance run [a-z-]+"
)


@dataclass(frozen=True, slots=True)
class CronLine:
    """A job of a table. ``times`` are its five fields, or a word such as ``@daily``.

    In a user's own table ``user`` is empty.
    """

    path: Path
    number: int
    times: str
    user: str
    command: str

    @property
    def is_ours(self) -> bool:
        """Return whether it starts a job of the appliance."""
        return _OURS.search(self.command) is not None


def lines(path: Path, *, has_user: bool = True) -> Iterator[CronLine]:
    """Yield the jobs of a table, also those that cron ignores."""
    for number, text in enumerate(path.read_text(errors="surrogateescape").splitlines(), start=1):
        if not text.strip() or text.lstrip().startswith("#") or _SETTING.match(text):
            continue
        # A line is five fields, or one word such as @daily, before user and command.
        words = text.split(maxsplit=1 if text.lstrip().startswith("@") else 5)
        times, rest = " ".join(words[:-1]), words[-1]
        user, _, command = rest.partition(" ") if has_user else ("", "", rest)
        yield CronLine(path, number, times, user, command.strip())


def starts_ours(path: Path) -> bool:
    """Return whether a table starts a job of the appliance."""
    return any(_OURS.search(f"{line.user} {line.command}") for line in lines(path))


def problems(path: Path) -> Iterator[Problem]:
    """Yield the reasons why cron ignores a table of ``/etc/cron.d``, or a line of it."""
    if not _NAME.fullmatch(path.name):
        yield Problem(
            path,
            0,
            "",
            "cron ignores it for its name; rename it to letters, digits, - and _ only",
        )
    status = path.lstat()
    # cron checks the target of a link, whose own mode is always 0777.
    if stat.S_ISLNK(status.st_mode):
        status = path.stat()
    if status.st_mode & 0o022:
        yield Problem(
            path, 0, "", f"cron ignores it, because others can write to it; chmod 0644 {path}"
        )
    if status.st_uid != 0:
        yield Problem(
            path, 0, "", f"cron ignores it, because root does not own it; chown root: {path}"
        )
    with path.open(errors="surrogateescape", newline="") as file:
        text = file.read()
    if "\r" in text:
        number = text[: text.index("\r")].count("\n") + 1
        yield Problem(
            path,
            number,
            "",
            f"lines end in CR LF, and cron passes CR to the shell; sed -i 's/\\r$//' {path}",
        )
    if text and not text.endswith("\n"):
        yield Problem(
            path,
            text.count("\n") + 1,
            "",
            "cron ignores the whole file, because its last line has no newline; add one",
        )
    for line in lines(path):
        yield from _problems_of(line)


def _is_time(times: str) -> bool:
    try:
        cron_times.fields(times)
    except ValueError:
        return False
    return True


def _problems_of(line: CronLine) -> Iterator[Problem]:
    if not _is_time(line.times):
        yield Problem(
            line.path,
            line.number,
            "",
            "cron ignores the whole file, because the first five fields are no times; write them"
            " such as 14 * * * *",
        )
    if line.user.startswith("/") or not line.command:
        yield Problem(
            line.path,
            line.number,
            "",
            "the sixth field must be the user; write root before the command",
        )
    if re.search(r"(?<!\\)%", line.command):
        yield Problem(line.path, line.number, "", r"a % ends the command for cron; write \%")
