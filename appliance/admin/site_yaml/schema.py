"""A site's file of EGI's catch-all, in its schema: read strictly, and written.

The schema is ``schema.json`` of EGI-Federation/fedcloud-catchall-operations. It allows no other
keys at the top, in ``images`` and in ``accounting``; a VO may have more keys. Older files have
``auth`` for ``auth_type``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from appliance.core import hosts
from appliance.core.config import document, yaml_file
from appliance.core.config.document import Setting
from appliance.core.config.yaml_file import OUTERMOST, Tree
from appliance.core.run.errors import ConfigurationError, Problem
from appliance.core.suggestion import did_you_mean

_TOP = (
    *("gocdb", "endpoint", "auth", "auth_type", "region", "protocol"),
    *("vos", "images", "accounting"),
)
_BELOW: Mapping[str, tuple[str, ...]] = {
    "images": ("sync", "formats"),
    "accounting": ("enabled", "site_name"),
}
_VO_KEYS = ("name", "auth")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,255}")
_VO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_PROJECT = re.compile(r"[A-Za-z0-9_-]{1,64}")
_WORD = re.compile(r"[A-Za-z0-9._-]+")
_TRUTHS = {
    **dict.fromkeys(("true", "yes", "on"), True),
    **dict.fromkeys(("false", "no", "off"), False),
}


@dataclass(frozen=True, slots=True)
class SiteYaml:
    """What the file says, with the lines of what is not used here."""

    gocdb: str
    endpoint: str
    region: str = ""
    protocol: str = ""
    auth_type: str = ""
    projects: Mapping[str, str] = field(default_factory=dict)
    """The id of each VO's project."""
    sync: bool | None = None
    """Whether the catch-all manages the images; None if the file does not say."""
    formats: tuple[str, ...] = ()
    accounts: bool | None = None
    """Whether the catch-all does the accounting; None if the file does not say."""
    accounting_name: str = ""
    """The site's name in records, if it differs."""
    remarks: tuple[Problem, ...] = field(default=(), compare=False)
    """What the file has and this host does not use."""


def read(path: Path) -> SiteYaml:
    """Read a file.

    Raises:
        ConfigurationError: It is not of the schema; it has all problems.

    """
    reader = _SchemaReader(yaml_file.parse(path, document.read_text(path)), path)
    found = reader.site()
    if reader.problems:
        raise ConfigurationError(sorted(reader.problems))
    return found


class _SchemaReader:
    def __init__(self, tree: Tree, path: Path) -> None:
        self._tree, self._path = tree, path
        self.problems: list[Problem] = []
        self._remarks: list[Problem] = []

    def site(self) -> SiteYaml:
        """Return what the file says; `problems` has what is wrong."""
        self._refuse_unknown()
        projects = self._projects()
        formats = self._text("images", "formats")
        return SiteYaml(
            gocdb=self._required("gocdb", _NAME, "the site's name exactly as in GOCDB"),
            endpoint=self._endpoint(),
            region=self._word(OUTERMOST, "region"),
            protocol=self._word(OUTERMOST, "protocol"),
            auth_type=self._word(OUTERMOST, "auth_type") or self._word(OUTERMOST, "auth"),
            projects=projects,
            sync=self._truth("images", "sync"),
            formats=tuple(filter(None, formats.split(","))) if self._are_words(formats) else (),
            accounts=self._truth("accounting", "enabled"),
            accounting_name=self._word("accounting", "site_name"),
            remarks=tuple(self._remarks),
        )

    def _refuse_unknown(self) -> None:
        top = self._tree.sections.get(OUTERMOST, {}) | self._tree.children.get("", {})
        for name, entry in top.items():
            key = name.partition("[")[0] if name.startswith("vos[") else name
            if key not in _TOP:
                self._refuse(entry, name, f"unknown key{_hint(name, _TOP)}")
        for section, known in _BELOW.items():
            self._refuse_scalar(section)
            below = self._tree.sections.get(section, {}) | self._tree.children.get(section, {})
            for name, entry in below.items():
                if name not in known:
                    self._refuse(entry, f"{section}.{name}", f"unknown key{_hint(name, known)}")

    def _refuse_scalar(self, section: str) -> None:
        entry = self._tree.get(OUTERMOST, section)
        if entry is not None and section not in self._tree.children.get("", {}):
            self._refuse(entry, section, f"must have keys: {', '.join(_BELOW[section])}")

    def _required(self, name: str, form: re.Pattern[str], meaning: str) -> str:
        entry = self._tree.get(OUTERMOST, name)
        text = entry.text if entry else ""
        if not form.fullmatch(text):
            shown = f"{text!r} is not allowed" if text else "must be set"
            self._refuse(entry, name, f"{shown}: {meaning}")
        return text

    def _endpoint(self) -> str:
        anything = re.compile(r".+")
        text = self._required("endpoint", anything, "Keystone's URL exactly as in GOCDB")
        if text and ((fault := hosts.url_fault(text)) or not text.isascii() or "'" in text):
            # A URL with an account or a query is not quoted, because these may be secrets.
            shown = "" if set(text) & set("@?#") else f"{text!r} "
            entry = self._tree.get(OUTERMOST, "endpoint")
            words = f"{shown}{fault or 'has characters of no URL'}; write https://HOST:5000/v3"
            self._refuse(entry, "endpoint", words)
        return text

    def _text(self, section: str, name: str) -> str:
        entry = self._tree.get(section, name)
        return entry.text if entry else ""

    def _word(self, section: str, name: str) -> str:
        text = self._text(section, name)
        if text and not _WORD.fullmatch(text):
            words = f"{text!r} is not allowed; write letters, digits, '.', '_' and '-'"
            self._refuse(self._tree.get(section, name), name, words)
        return text

    def _are_words(self, formats: str) -> bool:
        wrong = [word for word in formats.split(",") if word and not _WORD.fullmatch(word)]
        for word in wrong:
            entry = self._tree.get("images", "formats")
            self._refuse(entry, "images.formats", f"{word!r} is no format; write one like qcow2")
        return not wrong

    def _truth(self, section: str, name: str) -> bool | None:
        text = self._text(section, name)
        if text and text.lower() not in _TRUTHS:
            words = f"{text!r} is not allowed; write true or false"
            self._refuse(self._tree.get(section, name), f"{section}.{name}", words)
        return _TRUTHS.get(text.lower())

    def _projects(self) -> dict[str, str]:
        found: dict[str, str] = {}
        if (
            entry := (
                self._tree.get(OUTERMOST, "vos") or self._tree.children.get("", {}).get("vos")
            )
        ) and (entry.text or "vos" in self._tree.children.get("", {})):
            self._refuse(entry, "vos", "must be a list of VOs, each with name and auth")
        for section, entry in self._tree.children.get("", {}).items():
            if section.startswith("vos["):
                self._vo(section, entry, found)
        return found

    def _vo(self, section: str, entry: Setting, found: dict[str, str]) -> None:
        vo, auth = self._text(section, "name"), f"{section}.auth"
        if not _VO.fullmatch(vo):
            shown = f"{vo!r} is no name of a VO" if vo else "has no name"
            self._refuse(self._tree.get(section, "name") or entry, "vos", f"{shown}; correct it")
            return
        if "auth" not in self._tree.children.get(section, {}):
            self._refuse(entry, vo, "has no auth; write auth: {project_id: ID}")
            return
        project = self._tree.get(auth, "project_id")
        if project is None or not project.text:
            self._remark(entry, vo, "has no project_id, so it is left out")
        elif not _PROJECT.fullmatch(project.text):
            self._refuse(project, vo, f"{project.text!r} is not the id of a project")
        elif vo in found:
            self._refuse(entry, vo, "is in the list a second time; remove one")
        else:
            found[vo] = project.text
        self._remark_rest(section, auth, entry, vo)

    def _remark_rest(self, section: str, auth: str, entry: Setting, vo: str) -> None:
        others = self._tree.sections.get(section, {}) | self._tree.children.get(section, {})
        rest = [name for name in others if name not in _VO_KEYS]
        rest += [
            f"auth.{name}" for name in self._tree.sections.get(auth, {}) if name != "project_id"
        ]
        for name in rest:
            self._remark(entry, vo, f"{name} is not used here")

    def _refuse(self, entry: Setting | None, name: str, text: str) -> None:
        self.problems.append(Problem(self._path, entry.line if entry else 0, name, text))

    def _remark(self, entry: Setting, name: str, text: str) -> None:
        self._remarks.append(Problem(self._path, entry.line, name, text, is_fatal=False))


def _hint(name: str, known: tuple[str, ...]) -> str:
    otherwise = f"allowed are {', '.join(known)}"
    return f"; {did_you_mean(name, known, otherwise=otherwise)}"


def text(site: SiteYaml) -> str:
    """Return the file of a site, with the keys in the order of the catch-all's files."""
    import yaml  # noqa: PLC0415  start-up is a cost

    shown: str = yaml.safe_dump(
        dict(_tree(site)), sort_keys=False, explicit_start=True, default_flow_style=False
    )
    return shown


def _tree(site: SiteYaml) -> Iterator[tuple[str, object]]:
    yield "gocdb", site.gocdb
    yield "endpoint", site.endpoint
    for name in ("auth_type", "region", "protocol"):
        if value := getattr(site, name):
            yield name, value
    images = {"sync": site.sync, "formats": list(site.formats) or None}
    accounting = {"enabled": site.accounts, "site_name": site.accounting_name or None}
    for name, options in (("images", images), ("accounting", accounting)):
        if given := {key: value for key, value in options.items() if value is not None}:
            yield name, given
    vos = [{"name": vo, "auth": {"project_id": project}} for vo, project in site.projects.items()]
    yield "vos", vos
