"""The dialect of oslo.config: ``key = value``, continuation lines, quotes, ``$option``."""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from pathlib import Path

from oslo_config import iniparser

from appliance.core.config.document import Document, Setting, lines, remark_comment
from appliance.core.config.settings import Settings, state_of
from appliance.core.run.errors import ConfigurationError, Problem
from appliance.core.run.log import FACILITIES, SystemLogs

LOG_OPTIONS = (
    *(
        "verbose",
        "use_syslog",
        "syslog_log_facility",
        "use_journal",
        "use_json",
        "use_stderr",
        "use_eventlog",
    ),
    *(
        "watch_log_file",
        "log_config_append",
        "log_config",
        "log_date_format",
        "log_format",
        "log_color",
    ),
    *(
        "default_log_levels",
        "publish_errors",
        "instance_format",
        "instance_uuid_format",
        "fatal_deprecations",
    ),
    *(
        "log_rotate_interval",
        "log_rotate_interval_type",
        "max_logfile_count",
        "max_logfile_size_mb",
    ),
    *("log_rotation_type", "rate_limit_interval", "rate_limit_burst", "rate_limit_except_level"),
    *(
        "logging_context_format_string",
        "logging_default_format_string",
        "logging_debug_format_suffix",
    ),
    *("logging_exception_prefix", "logging_user_identity_format"),
)
"""Options of all releases of oslo.log that a file may set, and that have no effect here."""

_ELSEWHERE = ("log_config_append", "log_config")
"""Options among them that would send the log elsewhere, where an administrator would look."""


def system_logs(settings: Settings) -> SystemLogs:
    """Return the logs of the system to use; warn of options that have no effect here."""
    for option in _ELSEWHERE:
        entry = settings.where("DEFAULT", option)
        if entry and entry.text.lower() not in ("", "false", "no", "off", "0"):
            text = "has no effect here: the log goes to standard error, or to log_file"
            settings.warn("DEFAULT", option, text)
    return SystemLogs(
        syslog=settings.boolean("DEFAULT", "use_syslog", default=False),
        journal=settings.boolean("DEFAULT", "use_journal", default=False),
        facility=settings.choice(
            "DEFAULT", "syslog_log_facility", default="LOG_USER", allowed=FACILITIES
        ),
    )


def parse(path: Path, text: str) -> Document:
    """Parse a file; sections other than DEFAULT are folded to lower case, as in oslo.config.

    Dashes in names of options count as underscores; oslo.config does so for older names only. An
    option that is set twice is an error; oslo.config silently takes the last one.
    """
    reader = _OsloReader(path)
    reader.parse(lines(text))
    if reader.problems:
        raise ConfigurationError(reader.problems)
    return reader.document


class _OsloReader(iniparser.BaseParser):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.document = Document(paths=[path])
        self.problems: list[Problem] = []
        self._section = ""
        self._key_line = 0

    def _split_key_value(self, line: str) -> tuple[str, list[str]]:
        self._key_line = self.lineno
        if ":" not in line and "=" not in line:
            return "", []
        key, value = super()._split_key_value(line)
        return str(key), value

    def new_section(self, section: str) -> None:
        self._section = section if section == "DEFAULT" else section.lower()
        self.document.sections.setdefault(self._section, {})

    def assignment(self, key: str, value: list[str]) -> None:
        if not self._section:
            text = "stands above the first section; write [DEFAULT]"
            self.problems.append(Problem(self.path, self._key_line, key, text))
            return
        name, entry = key.replace("-", "_"), Setting("\n".join(value), self.path, self._key_line)
        if earlier := self.document.get(self._section, name):
            first = f"first in line {earlier.line}; remove one"
            text = f"is set a second time in [{self._section}]; {first}"
            self.problems.append(Problem(self.path, self._key_line, name, text))
        self.document.remarks += remark_comment(entry.text, self.path, entry.line, name)
        self.document.set(self._section, name, entry)

    def _note(self, text: str) -> None:
        # The message does not quote the line, which may be a part of a secret.
        self.problems.append(Problem(self.path, self.lineno, "", text))

    # The parser stops at its first error; these methods continue, to report all of them.
    def error_empty_key(self, _line: str) -> None:  # type: ignore[override]
        self._note("neither 'option = value' nor a [section]")

    def error_unexpected_continuation(self, _line: str) -> None:  # type: ignore[override]
        self._note("begins with a blank, and there is no option to continue; remove the blank")

    def error_no_section_end_bracket(self, _line: str) -> None:  # type: ignore[override]
        self._note("not a section header, write [name]")

    def error_no_section_name(self, _line: str) -> None:  # type: ignore[override]
        self._note("a section without a name, write [name]")


class _Template(string.Template):
    idpattern = r"[_a-z][\._a-z0-9]*"
    flags = re.IGNORECASE


def interpolate(text: str, lookup: Callable[[str], str | None]) -> str:
    r"""Replace ``$name``, ``${name}`` and ``$group.name``; ``$$`` and ``\$`` are a dollar sign.

    A name that ``lookup`` does not know stays as it is: a password may contain a dollar sign.
    """

    class _Names(dict[str, str]):
        def __missing__(self, name: str) -> str:
            value = lookup(name)
            if value is None:
                raise KeyError(name)
            return value

    return _Template(text.replace(r"\$", "$$")).safe_substitute(_Names())


def log_file(settings: Settings, name: str) -> Path | None:
    """Return the log file of oslo.log's options; ``name`` is its name if they set none."""
    directory = settings.text("DEFAULT", "log_dir", aliases=[("DEFAULT", "logdir")])
    file = settings.text("DEFAULT", "log_file", aliases=[("DEFAULT", "logfile")])
    if not file and not directory:
        return None
    path = Path(directory, file or name)
    option = "log_dir" if directory and not Path(file).is_absolute() else "log_file"
    if (state := state_of(path.parent)) != "is a directory":
        settings.error(
            "DEFAULT", option, f"the log's directory {path.parent} {state or 'is a file'}"
        )
    elif (state := state_of(path)) == "is a directory":
        settings.error("DEFAULT", option, f"the log {path} {state}")
    return path
