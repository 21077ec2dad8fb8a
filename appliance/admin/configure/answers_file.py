"""The file of answers that ``--answers`` names, written by configuration management.

    profile: egi
    flows: [accounting, information]
    site: SITE-1
    keystone: https://keystone.example.org:5000/v3
    vos:
      vo.example.org: 4c9e1f
    accounts:
      accounting: {name: accounting, password_file: /etc/fedcloud/secrets/accounting}

A key that is missing keeps the value in the files of the site. One that is there and empty is
wrong: whoever writes ``flows: []`` wants something else than the flows of before. All wrong answers
are reported, each with its line.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from appliance.admin.configure import answers as checks
from appliance.admin.configure.interview import SiteQuestion
from appliance.admin.inventory import Flow
from appliance.core.config import document, secret_file, yaml_file
from appliance.core.config.settings import Settings
from appliance.core.run import log
from appliance.core.run.errors import ConfigurationError, Problem

_OUTERMOST = yaml_file.OUTERMOST
_SIMPLE = (
    *("profile", "flows", "site", "keystone", "authorities", "region", "certificate", "key"),
    *("broker", "queue", "host", "email", "cores", "memory", "lists"),
)
_ACCOUNTS = "accounts"
_VOS = "vos"
_MAY_BE_EMPTY = frozenset({"region"})
"""An empty answer of these is one: the first region of the catalog."""
_EMPTY = "is empty; write an answer, or leave out the line to keep what the site has"


class AnswersFile:
    """The answers of a file, by the keys of questions."""

    is_terminal = False
    asks_everything = True

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            ConfigurationError: It cannot be read, is not YAML or has unknown keys.

        """
        self._path = path
        read = yaml_file.parse(path, document.read_text(path))
        settings = Settings(read)
        self._lines: dict[str, int] = {}
        self._problems: list[Problem] = []
        self._found = {name: self._text(settings, _OUTERMOST, name, name) for name in _SIMPLE}
        for flow in Flow:
            self._account(settings, flow)
        vos = read.sections.get(_VOS, {})
        settings.accept(_VOS, vos)
        settings.accept(_ACCOUNTS, ())
        self._refuse_single_values(read, settings)
        self._refuse_empty_tables(read)
        self._found["projects"] = " ".join(
            f"{vo}={project}" for vo, entry in vos.items() for project in entry.text.split(",")
        )
        self._lines["projects"] = min((entry.line for entry in vos.values()), default=0)
        self._vos = {vo: entry.line for vo, entry in vos.items()}
        # What is unknown is an answer that would have no effect.
        self._problems += settings.finish()

    def _refuse_empty_tables(self, read: yaml_file.Tree) -> None:
        """Note each table without a line."""
        outermost, accounts = read.children.get("", {}), read.children.get(_ACCOUNTS, {})
        tables = {name: outermost[name] for name in (_VOS, _ACCOUNTS) if name in outermost}
        tables |= {f"{_ACCOUNTS}.{name}": entry for name, entry in accounts.items()}
        for name, entry in tables.items():
            if not read.sections.get(name) and not read.children.get(name):
                self._problems.append(Problem(self._path, entry.line, name, _EMPTY))

    def _refuse_single_values(self, read: document.Document, settings: Settings) -> None:
        """Note each table that the file has as a text or a list."""
        account = "{name: NAME, password_file: PATH}"
        tables = [(_OUTERMOST, _VOS, "VO: ID"), (_OUTERMOST, _ACCOUNTS, f"FLOW: {account}")]
        tables += [(_ACCOUNTS, flow.value, f"{flow}: {account}") for flow in Flow]
        for section, option, form in tables:
            if entry := read.sections.get(section, {}).get(option):
                settings.accept(section, [option])
                name = option if section == _OUTERMOST else f"{section}.{option}"
                cause = f"must be a table, with lines of the form {form}"
                self._problems.append(Problem(self._path, entry.line, name, cause))

    @property
    def names_vos(self) -> bool:
        """Return whether the file has the table of VOs."""
        return bool(self._vos)

    def answer(self, question: SiteQuestion) -> str:
        """Return the answer of the file; empty without one."""
        return self._found.get(question.key, "")

    def reject(self, question: SiteQuestion, wrong: str) -> None:
        """Note a wrong answer, to be reported with the others."""
        line = self._lines.get(question.key, 0)
        if question.key == "projects":
            line = next((number for vo, number in self._vos.items() if vo in wrong), line)
        self._problems.append(Problem(self._path, line, _name(question.key), wrong))

    def finish(self) -> None:
        """Report the wrong answers.

        Raises:
            ConfigurationError: There are some; it has all of them.

        """
        if self._problems:
            raise ConfigurationError(sorted(set(self._problems)))

    def _text(self, settings: Settings, section: str, option: str, key: str) -> str:
        text = settings.text(section, option).strip()
        entry = settings.where(section, option)
        if entry and not text and option not in _MAY_BE_EMPTY:
            name = option if section == _OUTERMOST else f"{section}.{option}"
            self._problems.append(Problem(self._path, entry.line, name, _EMPTY))
        self._lines[key] = entry.line if entry else self._lines.get(key, 0)
        return text

    def _account(self, settings: Settings, flow: Flow) -> None:
        section, key = f"{_ACCOUNTS}.{flow}", f"{flow}-password"
        settings.hold_account(section)
        self._found[f"{flow}-account"] = self._text(settings, section, "name", f"{flow}-account")
        password = self._text(settings, section, "password", key)
        log.hide(password)
        file = self._text(settings, section, "password" + secret_file.SUFFIX, key)
        if password and file:
            words = "password is set as well; remove one of the two"
            self._problems.append(Problem(self._path, self._lines[key], "password_file", words))
        self._found[key] = f"{checks.SECRET_FILE}{file}" if file else password


def _name(key: str) -> str:
    """Return the name of a question's key in the file."""
    names: Mapping[str, str] = {"projects": _VOS}
    flow, _, option = key.partition("-")
    named = "name" if option == "account" else option
    return f"{_ACCOUNTS}.{flow}.{named}" if option else names.get(key, key)
