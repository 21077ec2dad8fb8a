"""Known failures: the subject that failed, the cause, and the remedy.

    ApplianceError                      a known failure, reported in one line
    ├── UsageError              exit 2  the command line
    ├── ConfigurationError      exit 2  problems of the site's files, each with file and line
    ├── Unavailable             exit 3  a service or resource that this run needs
    │   ├── AccessDenied        exit 3  it answered, and refused us
    │   └── LocalFailure        exit 3  the machine itself: a full disk, an unreadable file
    └── Busy                    exit 1  another run holds the lock

Only ``main()`` (see `appliance.core.run.cli`) turns a failure into an exit status. Any other
exception that reaches it is a bug: exit 4.
"""

from __future__ import annotations

import enum
import errno
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


class ExitStatus(enum.IntEnum):
    """The exit status of a program, for cron, systemd and administrators."""

    DONE = 0
    """All done, or nothing to do."""
    PARTLY = 1
    """Something was left undone; it has been listed."""
    USAGE = 2
    """The command line or the configuration is wrong; nothing was tried."""
    NOTHING = 3
    """Nothing could be done: network, authentication, disk."""
    BUG = 4
    """The program itself is wrong."""


class ApplianceError(Exception):
    """A known failure of one subject (a host, a file, a project), reported in one line.

    ``cause`` says what is wrong, ``remedy`` what the administrator can do about it; neither ends in
    a full stop.
    """

    status = ExitStatus.NOTHING

    def __init__(self, subject: object, cause: str, remedy: str = "") -> None:
        super().__init__(subject, cause, remedy)
        self.subject = str(subject)
        self.cause = cause
        self.remedy = remedy

    def __str__(self) -> str:
        line = f"{self.subject}: {self.cause}" if self.subject else self.cause
        return " ".join(f"{line}; {self.remedy}".split()) if self.remedy else " ".join(line.split())


class UsageError(ApplianceError):
    """The command line asks for something impossible."""

    status = ExitStatus.USAGE


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """A problem in a configuration file. ``line`` counts from 1; 0 means the whole file."""

    path: Path
    line: int
    option: str
    text: str
    is_fatal: bool = True

    def __str__(self) -> str:
        where = f"{self.path}:{self.line}" if self.line else str(self.path)
        where = "" if self.path == Path() else where  # a problem of several files together
        return ": ".join(part for part in (where, self.option, self.text) if part)


class ConfigurationError(ApplianceError):
    """All problems that were found in the configuration."""

    status = ExitStatus.USAGE

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("", "\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


class Unavailable(ApplianceError):
    """A service gave no answer, or one that cannot be used."""


class AccessDenied(Unavailable):
    """A service refused these credentials or this request."""


class LocalFailure(Unavailable):
    """A failure of this machine: a full disk, a file that cannot be read or written."""

    @classmethod
    def from_os(
        cls, error: OSError, *, subject: object = None, remedy: str = "", missing: str = ""
    ) -> LocalFailure:
        """Translate an `OSError`; the subject defaults to the file that the error names.

        ``missing`` is the remedy if there is no such file.
        """
        where = subject if subject is not None else (error.filename or "")
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            remedy = missing or remedy
        return cls(
            where, error.strerror or str(error), remedy or _REMEDIES.get(error.errno or 0, "")
        )


class Busy(ApplianceError):
    """Another run holds the lock, and did not release it in time."""

    status = ExitStatus.PARTLY


CHECK_LOGS = "check its logs, and those of a proxy before it"
"""The remedy for an answer of a service that cannot be used."""
# What an administrator can do about an error of the kernel, whichever the file.
_REMEDIES = {
    errno.EPERM: "check the owner of the file and of the directory that it is in",
    errno.EACCES: "check owner and mode of the file and of the directories above it",
    errno.ENOSPC: (
        "free space on this file system; nothing is lost, the next run continues from here"
    ),
    errno.EROFS: "the file system is read-only: mount it writable",
    errno.EDQUOT: "raise the quota; nothing is lost, the next run continues from here",
}
