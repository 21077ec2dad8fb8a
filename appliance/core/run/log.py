"""Logging for programs that run unattended: one line an event, no secret in any of them."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import re
import sys
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote, quote_plus, unquote

from appliance.core import files
from appliance.core.run import place
from appliance.core.run.errors import LocalFailure, Problem

TEXT_FORMAT = "%(asctime)s - %(name)s - %(levelname)s - %(message)s"
"""The form that SSM writes and that EGI's log collectors parse."""

_MASK = "***"
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
_SHORTEST = 6
"""Characters of a secret that is masked wherever it stands; a shorter one would be found in ordinary words."""
_ESCAPED = r"(?:(?<!\w)|(?<=\\[nrtfv]))"
"""Where a word begins: also after a line end that `repr` has written as two characters."""
_IN_ITS_PLACE = r"(?i:((?:password|passwd|secret|token)[\"']?\s*[:=]\s*[\"']?){0}(?!\w)|(//(?:[^\s/@]*:)?){0}(?=[:@]))"
"""Where a short secret is masked: as a value beside its name, and in the account of a URL."""
_secrets: set[str] = set()
_is_checking = False


def hide(secret: str | None) -> None:
    """Never let this text appear in a log line or an error message of this process, however it is spelled there.

    That is: as it is, with its blanks folded, and as JSON, `repr` and URLs write it. A secret of
    letters alone is masked as a whole word, one of fewer than six characters only where a password
    stands: else every message would lose its words, and tell the secret by what is missing.
    """
    if secret and secret.strip():
        spellings = {
            secret,
            json.dumps(secret)[1:-1],
            json.dumps(secret, ensure_ascii=False)[1:-1],
            repr(secret)[1:-1],
        }
        spellings |= {
            quote(secret),
            quote(secret, safe=""),
            quote_plus(secret),
            " ".join(secret.split()),
        }
        _secrets.update(spellings)


@functools.lru_cache(maxsize=256)
def _pattern(secret: str) -> re.Pattern[str]:
    text = re.escape(secret)
    # with signs, it is part of no word
    if len(secret) < (_SHORTEST if secret.isalnum() else _SHORTEST - 2):
        return re.compile(_IN_ITS_PLACE.replace("{0}", text))
    return re.compile(rf"()(){_ESCAPED}{text}(?!\w)" if secret.isalpha() else f"()(){text}")


def hide_proxies() -> None:
    """Hide the passwords of proxies, as far as there are any: the environment has them, and libraries quote it."""
    for name, text in os.environ.items():
        if name.lower().endswith("_proxy"):
            hide(unquote(text.rpartition("@")[0].rpartition("//")[2].partition(":")[2]))


def redact(text: str) -> str:
    """Return ``text`` with every hidden secret masked, the longest first, and with paths as the host has them."""
    for secret in sorted(_secrets, key=len, reverse=True):
        text = _pattern(secret).sub(lambda match: f"{match[1] or match[2] or ''}{_MASK}", text)
    return place.on_host(text)


def one_line(text: str) -> str:
    """Return ``text`` with line ends and terminal controls spelled out: what a peer sends passes for no other line."""
    return _CONTROLS.sub(lambda control: ascii(control[0])[1:-1], text)


class _TextFormatter(logging.Formatter):
    """One line an event; below it, indented, the traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return one_line(redact(super().formatMessage(record)).rstrip("\n"))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        return "\n".join(
            f"  {one_line(line)}" for line in redact(super().formatException(ei)).split("\n")
        )


class _JSONFormatter(logging.Formatter):
    """One JSON object a line: time (ISO 8601, UTC), logger, level, message and, with a traceback, exception."""

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
        return json.dumps(entry, ensure_ascii=False)


def as_json(problem: Problem) -> dict[str, object]:
    """Return a finding of the configuration as JSON has it: path, line (0: the whole file), option, text, is_fatal."""
    return {
        "path": place.on_host(str(problem.path)),
        "line": problem.line,
        "option": problem.option,
        "text": redact(problem.text),
        "is_fatal": problem.is_fatal,
    }


class _Complaint(logging.Handler):
    """Tells once, on standard error, that lines are being lost; logging's own way shows tracebacks and arguments."""

    _is_told = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            self.complain(
                f"{getattr(self, 'baseFilename', 'standard error')}: {error.strerror}; log lines are lost"
            )
        else:
            self.complain(
                f"{record.filename}:{record.lineno}: a log line is lost: {type(error).__name__}: {error}"
            )

    def complain(self, text: str) -> None:
        if self._is_told or sys.stderr is None:
            return
        self._is_told = True
        with contextlib.suppress(OSError):  # standard error itself may be what is full or closed
            print(one_line(redact(text)), file=sys.stderr)


class _Console(_Complaint, logging.StreamHandler[TextIO]):
    pass


class _File(_Complaint, logging.FileHandler):
    """A log file that is opened again when its name leads to another one, or to none: logrotate has moved it away.

    logging.handlers has the like, which takes a tenth of a start to import, and ends the program
    when it cannot open.
    """

    def _open(self) -> TextIOWrapper:
        def opener(path: str, flags: int) -> int:
            return files.open_append(Path(path), flags, mode=0o666)  # less the umask, as always

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
                self.complain(
                    f"{self.baseFilename}: {error.strerror}; the log goes on in the file that was moved away"
                )
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


def keep(line: str, *, name: str) -> None:
    """Write to the log file, if there is one, what standard error is told: nobody may be there to read it."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _File):
            handler.handle(
                logging.makeLogRecord(
                    {"name": name, "levelno": logging.ERROR, "levelname": "ERROR", "msg": line}
                )
            )


def check_only(*, is_on: bool) -> None:
    """From now on log to standard error alone, or no longer: somebody waits there for what a check finds."""
    global _is_checking  # noqa: PLW0603  of the process, as its handlers are
    _is_checking = is_on


def is_checking() -> bool:
    """Return whether this process only checks its configuration."""
    return _is_checking


def configure(
    *,
    level: int = logging.INFO,
    file: Path | None = None,
    console: bool = True,
    as_json: bool = False,
) -> None:
    """Send the records of all loggers to standard error, to a file, or to both; a second call replaces the first.

    Libraries speak from WARNING up unless ``level`` is DEBUG. Raises `LocalFailure` when the file
    cannot be opened. While the configuration is only checked, everything goes to standard error,
    warnings at least.
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
                error, remedy="correct the log file's path or its directory's owner"
            ) from error
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        with contextlib.suppress(OSError):  # its last lines may still not fit on the disk
            old.close()
    for handler in handlers or [logging.NullHandler()]:
        handler.setFormatter(formatter)
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
