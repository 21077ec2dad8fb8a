"""Typed access to a configuration, which collects all errors instead of stopping at the first.

A program reads each option once, through a getter that knows what is allowed. Then
`Settings.finish` raises one `ConfigurationError` with all problems, each with file, line and
option, or returns the warnings.
"""

from __future__ import annotations

import os
import re
import stat
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar
from urllib.parse import urlsplit

from appliance.core import hosts
from appliance.core.config.document import Document, Setting
from appliance.core.run import log, place
from appliance.core.run.errors import ConfigurationError, Problem
from appliance.core.suggestion import closest, did_you_mean

_BOOLEANS = {
    **dict.fromkeys(("true", "1", "on", "yes"), True),
    **dict.fromkeys(("false", "0", "off", "no"), False),
}
_UNUSABLE = "cannot be used"
_OUT_OF_REACH = "cannot be read: check owner and mode, of its directories too"
_USUAL = {"user": "username", "login": "username", "pass": "password", "passwd": "password"}
"""Names of options in other programs, and ours; the closest spelling would be another option."""
_WORD = 5
"""Characters of a placeholder that may occur in a real value."""
T = TypeVar("T")

Interpolation = Callable[[str, Callable[[str], str | None]], str]
"""Resolves references to other options in a value, given a look-up by name."""

Alias = tuple[str, str]
"""Section and option of an older spelling."""

OUTPUT_PATHS = ("output_path", "output_path_storage", "output_path_ip", "output_path_accelerator")
"""Options of cASO's [ssm]: the spool of each kind of record, servers first."""
COMPARED = frozenset(
    {
        *(
            ("DEFAULT", "site_name"),
            ("DEFAULT", "SITE_NAME"),
            ("site", "name"),
            ("DEFAULT", "gocdb"),
        ),
        *(
            *(("ssm", option) for option in OUTPUT_PATHS),
            ("messaging", "path"),
            ("messaging", "destination"),
            ("broker", "host"),
            ("certificates", "server_cert"),
            ("DEFAULT", "SITE_BDII_HOST"),
        ),
    }
)
"""Options that `appliance check` compares between programs. None of them is a secret."""


@dataclass(frozen=True, slots=True)
class Value:
    """The value of an option as a program understands it; line 0 is a default."""

    section: str
    option: str
    text: str
    path: Path
    line: int

    @property
    def place(self) -> str:
        """Return where a file sets the option, ``FILE:LINE``, or the word ``default``."""
        if self.path == Path():
            return "default"
        return f"{self.path}:{self.line}" if self.line else f"{self.path}"

    @property
    def named(self) -> str:
        """Return the option, with its section if the file has sections."""
        return self.option if self.section == "DEFAULT" else f"[{self.section}] {self.option}"


_observed: deque[Value] = deque(maxlen=8192)
_shown: deque[Value] = deque(maxlen=8192)
ENDPOINT = "endpoint"
"""The section of values that are URLs which a program contacts; ``option`` says what is there."""
FACT = "fact"
"""The section of values that a program has found out; ``option`` says what: `KEYSTONE`, `VO`."""
NOTE = "note"
"""The section of values for the reader of a check, no faults; ``option`` is an id, ``Cxx``."""
KEYSTONE, VO = "Keystone", "VO"
ROLES = "roles"
"""The section of values that are the account's roles: ``option`` is a project's id or `SYSTEM`."""
SYSTEM = "system"
MASK = "***"
_SECRET = re.compile(r"(?i)passw(?:or)?d|passcode|passphrase|secret|token")
_NO_SECRET = re.compile(r"(?i)[_-](?:file|url|endpoint|type|expiration)$")
"""Ends of names that hold a place, a form or a time, and no secret."""
_URL_ACCOUNT = re.compile(r"(?<=//)[^\s/@]+@")


class _Ignored(NamedTuple):
    """An option that is set and has no effect, in the order of the files."""

    path: Path
    line: int
    section: str
    option: str
    reason: str


_NOTHING = ("", "0", "0.0", "false", "no", "off", "none", "null", "undefined", "unknown")
"""Values that ask for nothing, in lower case."""


def observed() -> tuple[Value, ...]:
    """Return what this process has read of `COMPARED` options and endpoints, and forget it."""
    found = tuple(dict.fromkeys(_observed.copy()))  # other threads may read options meanwhile
    _observed.clear()
    return found


def shown() -> tuple[Value, ...]:
    """Return all options that this process has read, without secrets, and forget them."""
    found = tuple(dict.fromkeys(_shown.copy()))
    _shown.clear()
    return found


def note_roles(scope: str, roles: Iterable[str]) -> None:
    """Note the roles of the account in a project or the system, for `appliance accounts`.

    Without ``roles`` it is a project in which the account has some role.
    """
    if log.is_checking():
        _observed.append(Value(ROLES, scope, ",".join(sorted(roles)), Path(), 0))


def masked(option: str, text: str) -> str:
    """Return the value of an option with its secrets masked."""
    if text and _SECRET.search(option) and not _NO_SECRET.search(option):
        return MASK
    return log.redact(_URL_ACCOUNT.sub(f"{MASK}@", text))


def note_endpoint(what: str, url: str, *, path: Path = Path(), line: int = 0) -> None:
    """Note a URL that this process contacts, for `appliance check`; path and line set it.

    An account, a path or a query in the URL is left out, because it may be a secret.
    """
    try:
        parts = urlsplit(url)
        place = f"{parts.scheme}://{hosts.join_port(parts.hostname or '', parts.port)}"
    except ValueError:
        return  # it is reported as an error of its option
    if parts.hostname:
        _observed.append(Value(ENDPOINT, what, place, path, line))


def note_fact(what: str, text: str, *, path: Path = Path(), line: int = 0) -> None:
    """Note what this process has found out, for `appliance check`; path and line name it."""
    _observed.append(Value(FACT, what, text, path, line))


def note(identifier: str, text: str) -> None:
    """Note a text for the reader of a check under an id, which is no fault."""
    _observed.append(Value(NOTE, identifier, text, Path(), 0))


class Settings:
    """Typed access to one document.

    ``interpolate`` resolves references to other options, if the dialect has them. ``overrides``
    has values of the command line by section and option, which win over the files.
    """

    def __init__(
        self,
        document: Document,
        *,
        interpolate: Interpolation | None = None,
        overrides: dict[tuple[str, str], str] | None = None,
    ) -> None:
        self._document = document
        self._interpolate = interpolate
        self._overrides = overrides or {}
        self._known: dict[str, set[str]] = {}
        self._found: dict[tuple[str, str], Setting] = {}
        self._defaults: dict[tuple[str, str], str] = {}
        self._offered: dict[tuple[str, str], str] = {}
        """Defaults that other options cannot refer to."""
        self._problems: list[Problem] = []
        self._accounts: set[str] = set()
        self._deprecated: dict[tuple[str, str], str] = {}
        self._ignored: list[_Ignored] = []

    def text(
        self,
        section: str,
        option: str,
        *,
        default: str = "",
        aliases: Iterable[Alias] = (),
        required: str = "",
        placeholders: Collection[str] = (),
    ) -> str:
        """Return an option as text.

        ``required`` is the remedy that is reported if it is missing or empty. A value that is one
        of ``placeholders``, or contains a longer one, is an error.
        """
        entry = self._find(section, option, aliases)
        self._defaults[section, option] = default  # other options may refer to it
        value = self._expand(entry.text, section) if entry else self._expand(default, section)
        self._observe(entry, section, option, value)
        if required and not value:
            self._report(entry, section, option, f"must be set: {required}")
        for placeholder in placeholders:
            if value == placeholder or (len(placeholder) > _WORD and placeholder in value):
                remedy = required or "write your own value"
                self._report(
                    entry, section, option, f"is still the placeholder {placeholder!r}; {remedy}"
                )
                break
        return value

    def integer(
        self,
        section: str,
        option: str,
        *,
        default: int,
        minimum: int = 0,
        maximum: int = 2**31,
        aliases: Iterable[Alias] = (),
    ) -> int:
        """Return an option as a whole number within limits."""

        def convert(text: str) -> int:
            # int() also accepts blanks, signs and underscores; oslo.config does the same.
            if not minimum <= int(text) <= maximum:
                raise ValueError
            return int(text)

        allowed = f"a whole number from {minimum} to {maximum}"
        return self._converted(section, option, default, convert, allowed, aliases)

    def boolean(
        self, section: str, option: str, *, default: bool, aliases: Iterable[Alias] = ()
    ) -> bool:
        """Return an option as a truth value."""

        def convert(text: str) -> bool:
            return _BOOLEANS[text.lower()]

        return self._converted(section, option, default, convert, "true or false", aliases)

    def choice(
        self,
        section: str,
        option: str,
        *,
        default: str,
        allowed: Collection[str],
        aliases: Iterable[Alias] = (),
    ) -> str:
        """Return an option that is one of some words, in any case of its letters."""
        by_folded = {word.lower(): word for word in allowed}

        def convert(text: str) -> str:
            return by_folded[text.lower()]

        return self._converted(
            section, option, default, convert, " or ".join(allowed), aliases, words=allowed
        )

    def words(
        self,
        section: str,
        option: str,
        *,
        default: Iterable[str] = (),
        aliases: Iterable[Alias] = (),
    ) -> tuple[str, ...]:
        """Return the words of an option that separates them by commas, without empty ones."""
        entry = self._find(section, option, aliases)
        words = tuple(default)
        self._offered[section, option] = ",".join(words)
        if entry is None:
            return words
        text = self._expand(entry.text, section)
        self._observe(entry, section, option, text)
        return tuple(word for part in text.split(",") if (word := part.strip()))

    def path(
        self,
        section: str,
        option: str,
        *,
        default: Path,
        aliases: Iterable[Alias] = (),
        is_directory: bool = False,
        is_output: bool = False,
    ) -> Path:
        """Return an absolute path: of anything, of a directory, or of a file to write."""
        entry = self._find(section, option, aliases)
        self._defaults[section, option] = str(default)
        if entry is None or not entry.text:
            self._observe(entry, section, option, str(default))
            return default
        text = self._expand(entry.text, section)
        self._observe(entry, section, option, text)
        try:
            value = Path(text).expanduser()
        except RuntimeError:
            cause = f"{text!r}: this host has no such user; write an absolute path"
            self._report(entry, section, option, cause)
            return default
        if not value.is_absolute():
            self._report(entry, section, option, f"must be an absolute path, not {str(value)!r}")
            return value
        value = Path(place.inside(str(value)))
        if is_directory and (state := state_of(value)) not in (
            "is a directory",
            "does not exist",
        ):
            self._report(entry, section, option, f"{value} {state or 'is not a directory'}")
        elif is_directory and (unseen := _lost(value)):
            self._report(entry, section, option, unseen)
        elif is_output and (state := state_of(value)).startswith((_UNUSABLE, "is a directory")):
            self._report(entry, section, option, f"{value} {state}")
        return value

    def file(
        self,
        section: str,
        option: str,
        *,
        default: Path | None = None,
        aliases: Iterable[Alias] = (),
    ) -> Path | None:
        """Return the path of a file, which must be readable; None if unset without default."""
        entry = self._find(section, option, aliases)
        if (entry is None or not entry.text) and default is None:
            return None
        value = self.path(section, option, default=default or Path(), aliases=aliases)
        if value.is_absolute() and (state := state_of(value)):
            unseen = place.unseen(value) if state == "does not exist" else ""
            self._report(entry, section, option, unseen or f"file {value} {state}")
        return value

    def where(self, section: str, option: str, *, aliases: Iterable[Alias] = ()) -> Setting | None:
        """Return the setting of an option, with file and line; None if it is not set."""
        return self._find(section, option, aliases)

    def error(self, section: str, option: str, text: str, *, entry: Setting | None = None) -> None:
        """Report an error of an option; ``entry`` has its place if it is not an option's own."""
        self._report(entry or self._entry(section, option), section, option, text)

    def warn(self, section: str, option: str, text: str, *, entry: Setting | None = None) -> None:
        """Report a warning about an option."""
        self._report(entry or self._entry(section, option), section, option, text, is_fatal=False)

    def deprecate(self, section: str, option: str, text: str) -> None:
        """Report an older spelling, which still works, in a check of the configuration."""
        if log.is_checking():
            self.warn(section, option, f"deprecated: {text}")

    def hold_account(self, section: str) -> None:
        """Make misspelled options of a section errors, because it names an account."""
        self._accounts.add(section)

    def accept(self, section: str, options: Iterable[str]) -> None:
        """Accept options of upstream that have no effect here."""
        self._known.setdefault(section, set()).update(options)

    def ignore(
        self,
        section: str,
        options: Mapping[str, str],
        *,
        is_missed: bool = True,
        entry: Setting | None = None,
    ) -> None:
        """Accept options of upstream that have no effect here, each with the reason.

        `finish` reports those that are set to anything: in a run if upstream's effect ``is_missed``
        here, in a check of the configuration in any case. ``entry`` has the place of an option that
        is no single value.
        """
        self.accept(section, options)
        if not (is_missed or log.is_checking()):
            return
        for option, reason in options.items():
            found = entry or self._document.get(section, option)
            if found and (entry or found.text.lower() not in _NOTHING):
                self._ignored.append(_Ignored(found.path, found.line, section, option, reason))

    def finish(self) -> tuple[Problem, ...]:
        """Return the warnings, unknown options among them.

        Raises:
            ConfigurationError: there are errors; it has all of them, and the warnings.

        """
        if log.is_showing():
            self._show()
        self._warn_of_unknown()
        for (section, option), text in self._deprecated.items():
            self.deprecate(section, option, text)
        self._report_ignored()
        # A set, because a program may read an option more than once.
        problems = sorted({*self._problems, *self._document.remarks})
        if any(problem.is_fatal for problem in problems):
            raise ConfigurationError(problems)
        return tuple(problems)

    def _show(self) -> None:
        """Note all options that have been read, defaults among them, for ``--show-config``."""
        for (section, option), entry in self._found.items():
            text = masked(option, self._expand(entry.text, section))
            _shown.append(Value(section, option, text, entry.path, entry.line))
        for (section, option), default in (self._defaults | self._offered).items():
            if (section, option) not in self._found:
                text = masked(option, self._expand(default, section))
                _shown.append(Value(section, option, text, Path(), 0))

    def _find(self, section: str, option: str, aliases: Iterable[Alias] = ()) -> Setting | None:
        places = ((section, option), *aliases)
        for where in places:
            self._known.setdefault(where[0], set()).add(where[1])
        entries = [entry for where in places if (entry := self._document.get(*where))]
        # The last file wins by whichever name it sets the option, as in oslo.config.
        found = self._override(section, option) or max(entries, key=self._rank, default=None)
        if found:
            self._found[section, option] = found
            self._deprecate_alias(found, section, option)
        return found

    def _observe(self, entry: Setting | None, section: str, option: str, text: str) -> None:
        if (section, option) in COMPARED:
            # A default has no place; the last file is where it would be set.
            path = entry.path if entry else (self._document.paths or [Path()])[-1]
            _observed.append(Value(section, option, text, path, entry.line if entry else 0))

    def _deprecate_alias(self, found: Setting, section: str, option: str) -> None:
        if found.line and self._document.get(section, option) is not found:
            for name, options in self._document.sections.items():
                old = next((key for key, entry in options.items() if entry is found), "")
                if old:
                    self._deprecated[name, old] = f"write {option} in [{section}]"

    def _rank(self, entry: Setting) -> int:
        paths = self._document.paths
        return paths.index(entry.path) if entry.path in paths else len(paths)

    def _override(self, section: str, option: str) -> Setting | None:
        text = self._overrides.get((section, option))
        return Setting(text, Path("command line"), 0) if text is not None else None

    def _entry(self, section: str, option: str) -> Setting | None:
        return self._found.get((section, option)) or self._document.get(section, option)

    def _expand(self, text: str, section: str, pending: frozenset[str] = frozenset()) -> str:
        if self._interpolate is None:
            return text

        def lookup(name: str) -> str | None:
            if name in pending:  # it refers to itself, perhaps through other options
                return None
            group, _, option = name.rpartition(".")
            for where in ((group or section, option), ("DEFAULT", name)):
                entry = self._override(*where) or self._entry(*where)
                value = entry.text if entry else self._defaults.get(where)
                if value is not None:
                    return self._expand(value, where[0], pending | {name})
            return None

        return self._interpolate(text, lookup)

    def _converted(
        self,
        section: str,
        option: str,
        default: T,
        convert: Callable[[str], T],
        allowed: str,
        aliases: Iterable[Alias],
        words: Collection[str] = (),
    ) -> T:
        entry = self._find(section, option, aliases)
        self._offered[section, option] = _written(default)
        if entry is None or not entry.text:
            return default
        text = self._expand(entry.text, section)
        try:
            return convert(text)
        except (ValueError, LookupError):
            hint = _hint(text, words)
            self._report(entry, section, option, f"{text!r} is not allowed; write {allowed}{hint}")
            return default

    def _report(
        self, entry: Setting | None, section: str, option: str, text: str, *, is_fatal: bool = True
    ) -> None:
        path = entry.path if entry else (self._document.paths or [Path("configuration")])[-1]
        name = option if section == "DEFAULT" else f"[{section}] {option}".rstrip()
        self._problems.append(
            Problem(path, entry.line if entry else 0, name, text, is_fatal=is_fatal)
        )

    def _warn_of_unknown(self) -> None:
        for section, options in self._document.sections.items():
            if section not in self._known:
                words = f"unknown section{_hint(section, self._known)}"
                # One line for the section: its options are unknown for the same reason.
                for entry in list(options.values())[:1]:
                    self._report(entry, section, "", words, is_fatal=False)
                continue
            for option in options.keys() - self._known[section]:
                self._report_unknown(section, option)

    def _report_ignored(self) -> None:
        """Report the options without effect: in a run all in one line, in a check one by one."""
        found = sorted(set(self._ignored))
        shown = found if log.is_checking() else found[:1]
        others = [str(each.line) for each in found[len(shown) :]]
        for each in shown:
            text = f"has no effect here: {each.reason}"
            if others:
                lines = f"line{'s' if len(others) > 1 else ''} {', '.join(others)}"
                text = f"has no effect here, nor have options of {lines}; --check-config says why"
            entry = Setting("", each.path, each.line)
            self.warn(each.section, each.option, text, entry=entry)

    def _is_slip(self, section: str, option: str, near: str) -> bool:
        """Check whether a singular stands for a plural of this section, or the other way round.

        That is likelier than an option in the wrong section.
        """
        is_form = near in (f"{option}s", option.removesuffix("s"))
        return is_form and self._document.get(section, near) is None

    def _report_unknown(self, section: str, option: str) -> None:
        """Report an unknown option: as an error if an account would lack it, else as a warning."""
        elsewhere = [
            name for name, known in self._known.items() if name != section and option in known
        ]
        usual = _USUAL.get(option, "")
        meant = usual if usual in self._known[section] else option
        near = closest(meant, self._known[section])
        if elsewhere and not self._is_slip(section, option, near):
            home = next((name for name in elsewhere if name in self._accounts), elsewhere[0])
            is_missed = self._document.get(home, option) is None
            hint = "; move it there" if is_missed else ", and is set there too; remove this line"
            text, is_account = (
                f"belongs in [{home}]; here it is ignored{hint}",
                home in self._accounts,
            )
        else:
            is_account = section in self._accounts
            is_missed = bool(near) and self._document.get(section, near) is None
            # An error stops the program, so nothing is ignored then.
            fault = "unknown option" if is_account and is_missed else "unknown option, ignored"
            text = f"{fault}{_hint(meant, self._known[section])}"
        entry = self._document.get(section, option)
        self._report(entry, section, option, text, is_fatal=is_account and is_missed)


def _written(value: object) -> str:
    """Return a default as a file would have it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def state_of(path: Path) -> str:
    """Return why a path is not a file that can be read; empty if it is one."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "does not exist"
    except PermissionError:
        return _OUT_OF_REACH
    except OSError as error:  # too long, below a file instead of a directory, a failing disk
        return f"{_UNUSABLE}: {(error.strerror or str(error)).lower()}"
    if stat.S_ISREG(mode):
        return "" if os.access(path, os.R_OK) else _OUT_OF_REACH
    return "is a directory" if stat.S_ISDIR(mode) else "is not a file"


def _lost(path: Path) -> str:
    """Return why a directory cannot be made in a container: its own layer is read-only."""
    if not place.is_container() or place.is_mounted(str(path)) or os.access(path, os.F_OK):
        return ""
    above = next((one for one in path.parents if os.access(one, os.F_OK)), path)
    return (
        ""
        if os.access(above, os.W_OK)
        else f"{path} is not mounted in the container; write the shipped directory"
    )


def _hint(name: str, known: Collection[str]) -> str:
    question = did_you_mean(name, known)
    return f"; {question}" if question else ""
