"""Logs of programs that run unattended: one line for each event, without secrets."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import re
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote, quote_plus, unquote

from appliance.core import files
from appliance.core.run import place
from appliance.core.run.errors import LocalFailure, Problem

TEXT_FORMAT = "%(asctime)s - %(name)s - %(levelname)s - %(message)s"
_SYSTEM_FORMAT = "%(name)s: %(message)s"
_FACILITIES = (
    *("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron"),
    *("authpriv", "ftp", *(f"local{number}" for number in range(8))),
)
FACILITIES = tuple(f"LOG_{name.upper()}" for name in _FACILITIES)
"""The facilities of syslog, by their names in C."""
"""The format of SSM's logs, which EGI's log collectors parse."""

JSON_VARIABLE = "FEDCLOUD_LOG_JSON"
"""The variable of the environment that, if it is not empty, makes programs log JSON."""
_MASK = "***"
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
_SHORTEST = 6
"""Characters of a secret that is masked everywhere; a shorter one occurs in ordinary words."""
_ESCAPED = r"(?:(?<!\w)|(?<=\\[nrtfv]))"
"""The beginning of a word, also after a line end that `repr` wrote as two characters."""
_IN_ITS_PLACE = (
    r"(?i:((?:password|passwd|secret|token)[\"']?\s*[:=]\s*[\"']?){0}(?!\w)"
    r"|(//(?:[^\s/@]*:)?){0}(?=[:@]))"
)
"""Where a short secret is masked: as a value beside its name, and in the account of a URL."""
_secrets: set[str] = set()
_is_checking = _is_showing = False


def hide(secret: str | None) -> None:
    """Mask a text in all log lines and error messages of this process.

    It is masked as it is, with blanks folded, and as JSON, `repr` and URLs write it. A secret of
    letters alone is masked as a whole word, and one of fewer than six characters only where a
    password stands: otherwise messages would lose their words, and the gaps would show the secret.
    """
    if secret and secret.strip():
        _secrets.update(
            {
                *(secret, " ".join(secret.split()), repr(secret)[1:-1]),
                *(json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]),
                *(quote(secret), quote(secret, safe=""), quote_plus(secret)),
            }
        )


@functools.lru_cache(maxsize=256)
def _pattern(secret: str) -> re.Pattern[str]:
    text = re.escape(secret)
    # A secret with other characters than letters and digits is not part of a word.
    if len(secret) < (_SHORTEST if secret.isalnum() else _SHORTEST - 2):
        return re.compile(_IN_ITS_PLACE.replace("{0}", text))
    return re.compile(rf"()(){_ESCAPED}{text}(?!\w)" if secret.isalpha() else f"()(){text}")


def hide_proxies() -> None:
    """Mask the passwords of the environment's proxies, which libraries quote in messages."""
    for name, text in os.environ.items():
        if name.lower().endswith("_proxy"):
            hide(unquote(text.rpartition("@")[0].rpartition("//")[2].partition(":")[2]))


def redact(text: str) -> str:
    """Return ``text`` with all secrets masked, and with the paths of the host.

    The longest secret goes first, because one may be a part of another.
    """
    for secret in sorted(_secrets, key=len, reverse=True):
        text = _pattern(secret).sub(lambda match: f"{match[1] or match[2] or ''}{_MASK}", text)
    return place.on_host(text)


def one_line(text: str) -> str:
    """Return ``text`` with escapes for line ends and controls, so that no peer can forge a line."""
    return _CONTROLS.sub(lambda control: ascii(control[0])[1:-1], text)


class _TextFormatter(logging.Formatter):
    """One line for each event; a traceback follows, indented."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return one_line(redact(super().formatMessage(record)).rstrip("\n"))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        return "\n".join(
            f"  {one_line(line)}" for line in redact(super().formatException(ei)).split("\n")
        )


class _JSONFormatter(logging.Formatter):
    """One JSON object on each line: time (ISO 8601, UTC), logger, level, message, exception."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "logger": record.name,
            "level": record.levelname,
            "message": redact(record.getMessage()),
        }
        if isinstance(record.args, tuple) and record.args and isinstance(record.args[0], Problem):
            entry["problem"] = as_json(record.args[0])
        if record.exc_info:
            entry["exception"] = redact(self.formatException(record.exc_info))
        return json_line(entry)


def json_line(entry: Mapping[str, object]) -> str:
    """Return an object as JSON without line ends and controls, some of which JSON would allow."""
    text = json.dumps(entry, ensure_ascii=False)
    return _CONTROLS.sub(lambda control: f"\\u{ord(control[0]):04x}", text)


def as_json(problem: Problem) -> dict[str, object]:
    """Return the JSON form of a problem in the configuration; line 0 is the whole file."""
    return {
        "path": place.on_host(str(problem.path)),
        "line": problem.line,
        "option": problem.option,
        "text": redact(problem.text),
        "is_fatal": problem.is_fatal,
    }


class _LossReporter(logging.Handler):
    """Reports once, on standard error, that lines are lost.

    The report of logging itself shows a traceback and the arguments, which may be secret.
    """

    _has_reported = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            subject = getattr(self, "baseFilename", "standard error")
            self.report_loss(f"{subject}: {error.strerror}; log lines are lost")
        else:
            words = f"a log line is lost: {type(error).__name__}: {error}"
            self.report_loss(f"{record.filename}:{record.lineno}: {words}")

    def report_loss(self, text: str) -> None:
        if self._has_reported or sys.stderr is None:
            return
        self._has_reported = True
        with contextlib.suppress(OSError):  # standard error itself may be full or closed
            print(one_line(redact(text)), file=sys.stderr)


class _Console(_LossReporter, logging.StreamHandler[TextIO]):
    pass


class _File(_LossReporter, logging.FileHandler):
    """A log file that is opened again after logrotate has renamed it.

    ``logging.handlers.WatchedFileHandler`` does the same, but importing it takes a tenth of a
    program's start, and it ends the program if the file cannot be opened.
    """

    def _open(self) -> TextIOWrapper:
        def opener(path: str, flags: int) -> int:
            return files.open_append(
                Path(path), flags, mode=0o666
            )  # the umask applies, as in open()

        return open(
            self.baseFilename,
            "a",
            encoding=self.encoding,
            errors=self.errors,
            opener=opener,
        )

    def emit(self, record: logging.LogRecord) -> None:
        if (old := self.stream) is not None and not self._is_name_of(old):
            try:
                fresh = self._open()
            except OSError as error:
                words = "the log continues in the renamed file"
                self.report_loss(f"{self.baseFilename}: {error.strerror}; {words}")
            else:
                with contextlib.suppress(OSError):
                    old.close()
                self.stream = fresh
        super().emit(record)

    def _is_name_of(self, stream: TextIO) -> bool:
        try:
            return os.path.samestat(Path(self.baseFilename).stat(), os.fstat(stream.fileno()))
        except OSError:
            return False


class Once:
    """Logs each line once, for lines that would repeat; several threads may use one object."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._lock = threading.Lock()
        self._lines: set[str] = set()

    def __call__(self, line: str, level: int = logging.WARNING) -> None:
        """Log a line, unless it was logged before."""
        with self._lock:
            is_new = line not in self._lines
            self._lines.add(line)
        if is_new:
            self._logger.log(level, "%s", line)


def keep(line: str, *, name: str) -> None:
    """Write a line that was printed to standard error to the log file too, if there is one."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _File):
            handler.handle(
                logging.makeLogRecord(
                    {"name": name, "levelno": logging.ERROR, "levelname": "ERROR", "msg": line}
                )
            )


def check_only(*, is_on: bool, is_showing: bool = False) -> None:
    """Switch on or off that all logs go to standard error, where a check prints its findings.

    With ``is_showing``, options are noted with their values, see `is_showing`.
    """
    global _is_checking, _is_showing
    _is_checking, _is_showing = is_on, is_showing


def is_checking() -> bool:
    """Check whether this process only checks its configuration."""
    return _is_checking


def is_showing() -> bool:
    """Check whether this process prints all options that it reads."""
    return _is_showing


@dataclass(frozen=True, slots=True)
class SystemLogs:
    """The logs of the system that a configuration asks for."""

    syslog: bool = False
    journal: bool = False
    facility: str = "LOG_USER"
    """One of `FACILITIES`, for syslog."""


def configure(
    *,
    level: int = logging.INFO,
    file: Path | None = None,
    console: bool = True,
    as_json: bool = False,
    also: Sequence[logging.Handler] = (),
) -> None:
    """Send the records of all loggers to standard error, to a file, or to both.

    ``also`` are handlers of logs that have times and priorities of their own.

    A second call replaces the first. Libraries log from WARNING up unless ``level`` is DEBUG.
    While the configuration is only checked, all goes to standard error, warnings at least.

    Raises:
        LocalFailure: the file cannot be opened.

    """
    if _is_checking:
        level, file, console = min(level, logging.WARNING), None, True
    formatter = _JSONFormatter() if as_json else _TextFormatter(TEXT_FORMAT)
    handlers: list[logging.Handler] = [_Console(sys.stderr)] if console else []
    if file is not None:
        try:
            handlers.append(_File(file, encoding="utf-8", errors="backslashreplace"))
        except OSError as error:
            raise LocalFailure.from_os(
                error, remedy="correct the path of the log file, or the owner of its directory"
            ) from error
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        with contextlib.suppress(OSError):  # its last lines may not fit on a full disk
            old.close()
    for handler in handlers or [logging.NullHandler()]:
        handler.setFormatter(formatter)
        root.addHandler(handler)
    for handler in also:
        handler.setFormatter(_TextFormatter(_SYSTEM_FORMAT))
        root.addHandler(handler)
    root.setLevel(level)
    for library in (
        "keystoneauth",
        "keystoneclient",
        "novaclient",
        "glanceclient",
        "urllib3",
        "stomp",
    ):
        libraries = logging.NOTSET if level <= logging.DEBUG else max(level, logging.WARNING)
        logging.getLogger(library).setLevel(libraries)
    logging.captureWarnings(capture=True)
