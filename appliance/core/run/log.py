"""Logging for programs that run unattended: one line an event, no secret in any of them."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from pathlib import Path

from appliance.core.run.errors import LocalFailure

TEXT_FORMAT = "%(asctime)s - %(name)s - %(levelname)s - %(message)s"
"""The form that SSM writes and that EGI's log collectors parse."""

_MASK = "***"
_secrets: set[str] = set()


def hide(secret: str | None) -> None:
    """Never let this text appear in a log line or an error message of this process."""
    if secret:
        _secrets.add(secret)


def redact(text: str) -> str:
    """Return ``text`` with every hidden secret masked, the longest first."""
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, _MASK)
    return text


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


class _JSONFormatter(logging.Formatter):
    """One JSON object a line: time (ISO 8601, UTC), logger, level, message and, with a traceback, exception."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "logger": record.name,
            "level": record.levelname,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return redact(json.dumps(entry, ensure_ascii=False))


def configure(
    *, level: int = logging.INFO, file: Path | None = None, console: bool = True, as_json: bool = False
) -> None:
    """Send the records of all loggers to standard error, to a file, or to both; a second call replaces the first.

    Libraries speak from WARNING up unless ``level`` is DEBUG. Raises `LocalFailure` when the file cannot be opened.
    """
    formatter = _JSONFormatter() if as_json else _TextFormatter(TEXT_FORMAT)
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)] if console else []
    if file is not None:
        try:
            handlers.append(logging.FileHandler(file, encoding="utf-8"))
        except OSError as error:
            raise LocalFailure.from_os(error, remedy="correct the log file's path or its directory's owner") from error
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    for handler in handlers or [logging.NullHandler()]:
        handler.setFormatter(formatter)
        root.addHandler(handler)
    root.setLevel(level)
    if level > logging.DEBUG:
        for library in (
            "keystoneauth",
            "keystoneclient",
            "novaclient",
            "glanceclient",
            "urllib3",
            "stomp",
            "stamina",
        ):
            logging.getLogger(library).setLevel(max(level, logging.WARNING))
    logging.captureWarnings(capture=True)
