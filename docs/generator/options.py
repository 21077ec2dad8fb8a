"""Options of the configuration files, as rows: facts from the code, words from a table."""

from __future__ import annotations

import re
import tempfile
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docs.generator import recorder, sites
from docs.generator.recorder import Reading, Recording

_DESCRIPTIONS = Path(__file__).with_name("descriptions.toml")
_LARGEST = 2**31
"""Maximum of a number without a limit of its own."""
_KINDS = {
    "text": "text",
    "boolean": "true or false",
    "words": "list, separated by commas",
    "path": "absolute path",
    "file": "existing file",
}
_COMPOSE_DEFAULT = re.compile(r"\$\{(\w+):-([^}]*)\}")
_LEVEL = re.compile(r"(?<=/bdii/)(resource|site)\b")
ENVIRONMENT = "appliance.env"
"""Compose reads this file itself: its options are known by name, the defaults are in its files."""

FAMILIES: Mapping[str, Sequence[str]] = {
    "caso.conf": ("caso.conf", "login"),
    "sender.cfg": ("sender.cfg",),
    "receiver.cfg": ("receiver.cfg", "sender.cfg"),
    "bdii.conf": ("bdii.conf",),
    "glite-info-site-defaults.conf": ("glite-info-site-defaults.conf",),
    "site.cfg": ("site.cfg",),
    "openstack.rc": ("openstack.rc", "login"),
    "openstack.yaml": ("openstack.yaml",),
    "publish.yaml": ("publish.yaml", "login"),
    "cloudkeeper.yml": ("cloudkeeper.yml",),
    "sources.yaml": ("sources.yaml",),
    "cloudkeeper-os.conf": ("cloudkeeper-os.conf", "login"),
    "appliance.yaml": ("appliance.yaml",),
    ENVIRONMENT: (ENVIRONMENT,),
}
"""Each file, with the tables of descriptions.toml that describe its options, in order."""


@dataclass(frozen=True, slots=True)
class Option:
    """One row: an option that has an effect."""

    name: str
    kind: str
    default: str
    upstream: str
    text: str


@dataclass(frozen=True, slots=True)
class ConfigurationFile:
    """What one file may hold, by section; ``ignored`` is known and has no effect."""

    name: str
    options: Mapping[str, Sequence[Option]]
    ignored: Mapping[str, Mapping[str, str]]
    """Option to the reason that the program gives, which may be empty."""


class DescriptionError(Exception):
    """An option without a description, or a description without an option."""


class _Descriptions:
    """The table of words, which notes which of them were used."""

    def __init__(self) -> None:
        self._table: Mapping[str, Any] = tomllib.loads(_DESCRIPTIONS.read_text())
        self._used: set[tuple[str, str, str]] = set()
        self._missing: list[str] = []

    def find(self, file: str, section: str, option: str) -> Mapping[str, Any]:
        for table in FAMILIES[file]:
            named = "account" if table == "login" else section
            if found := self._table.get(table, {}).get(named, {}).get(option):
                self._used.add((table, named, option))
                described = {"text": found} if isinstance(found, str) else dict(found)
                return {"is_of_plugin": True, **described} if table == "login" else described
        self._missing.append(f"{file}: [{section}] {option}: not described in {_DESCRIPTIONS.name}")
        return {"text": ""}

    def check(self) -> None:
        """Raise `DescriptionError` for all that is missing and all that describes nothing."""
        known = {
            (table, section, option)
            for table, sections in self._table.items()
            for section, options in sections.items()
            for option in options
        }
        unused = [
            f"{_DESCRIPTIONS.name}: {table}: [{section}] {option}: no program reads it"
            for table, section, option in sorted(known - self._used)
        ]
        if self._missing or unused:
            raise DescriptionError("\n".join([*self._missing, *unused]))


def configuration_files() -> dict[str, ConfigurationFile]:
    """Return every configuration file by its name; raises `DescriptionError`."""
    words = _Descriptions()
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory).resolve()
        with recorder.record() as found:
            sites.load_all(root)
            sites.load_with_ignored(root, _ignored(found, "bdii.conf"))
        files = {name: _file(name, found, words, root) for name in FAMILIES}
    words.check()
    return files


def _file(name: str, found: Recording, words: _Descriptions, root: Path) -> ConfigurationFile:
    ignored = _ignored(found, name)
    options: dict[str, list[Option]] = defaultdict(list)
    for (section, option), readings in sorted(_readings(found, name).items()):
        described = words.find(name, section, option)
        options[section].append(_row(name, readings, described, root))
    if name == ENVIRONMENT:
        defaults = _compose_defaults()
        for option in sorted(ignored.pop("DEFAULT")):
            described = words.find(name, "DEFAULT", option)
            default = described.get("default") or _quoted(defaults.get(option, "")) or "none"
            kind = _with_unit("text", described)
            options["DEFAULT"].append(Option(option, kind, default, "ours", described["text"]))
    return ConfigurationFile(name, options, ignored)


def _readings(found: Recording, name: str) -> dict[tuple[str, str], list[Reading]]:
    readings = defaultdict(list)
    for reading in found.readings:
        if reading.file.name == name:
            readings[reading.section, reading.option].append(reading)
    return readings


def _ignored(found: Recording, name: str) -> dict[str, dict[str, str]]:
    """Return what is accepted and never read, by section, with the program's own reason."""
    readings = _readings(found, name)
    calls = [reading for several in readings.values() for reading in several]
    read = {*readings, *(alias for reading in calls for alias in reading.aliases)}
    ignored: dict[str, dict[str, str]] = defaultdict(dict)
    for file, section, option in found.accepted:
        # The names of VOs are accepted as options of the mapping that holds them.
        is_vo = (section, option) == ("compute.shares", "VO")
        if file.name == name and (section, option) not in read and not is_vo:
            ignored[section][option] = found.warnings.get((file, section, option), "")
    return ignored


def _row(
    name: str, readings: Sequence[Reading], described: Mapping[str, Any], root: Path
) -> Option:
    # Of several calls, the one that knows most: a choice before the same option as text.
    first = max(readings, key=lambda one: (bool(one.allowed), one.kind != "text"))
    defaults = dict.fromkeys(_default(one, root) for one in readings)
    default = next((text for text in defaults if text), "")
    is_required = all(one.is_required for one in readings) and not default
    demand = "required by some plugins" if described.get("is_of_plugin") else "required"
    kind = _kind(first)
    if name.endswith((".yml", ".yaml")):
        kind = kind.removesuffix(", separated by commas")
    return Option(
        name=first.option,
        kind=_with_unit(kind, described),
        default=described.get("default") or default or (demand if is_required else "none"),
        upstream=_upstream(first.section, readings, described),
        text=described["text"],
    )


def _kind(reading: Reading) -> str:
    if reading.limits:
        least, most = reading.limits
        return f"{least} to {most}" if most < _LARGEST else f"{least} or more"
    if reading.allowed:
        return ", ".join(f"`{word}`" for word in reading.allowed)
    return "directory" if reading.is_directory else _KINDS[reading.kind]


def _with_unit(kind: str, described: Mapping[str, Any]) -> str:
    return f"{kind} ({described['unit']})" if "unit" in described else kind


def _default(reading: Reading, root: Path) -> str:
    value = reading.default
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return ", ".join(f"`{word}`" for word in value)
    text = "" if value is None or value == Path() else str(value)
    return _quoted(_LEVEL.sub("LEVEL", text.replace(str(root), "")))


def _quoted(text: str) -> str:
    return f"`{text}`" if text else ""


def _upstream(section: str, readings: Iterable[Reading], described: Mapping[str, Any]) -> str:
    if described.get("ours"):
        return "ours"
    aliases = dict.fromkeys(alias for one in readings for alias in one.aliases)
    older = [name if home == section else f"[{home}] {name}" for home, name in aliases]
    origin = "keystoneauth" if described.get("is_of_plugin") else "same"
    return "; also ".join([origin, *(f"`{name}`" for name in older)])


def _compose_defaults() -> dict[str, str]:
    files = [
        sites.TOP / "docker-compose.yml",
        *sorted((sites.TOP / "etc/fedcloud/networks").glob("*.yml")),
    ]
    found = [pair for file in files for pair in _COMPOSE_DEFAULT.findall(file.read_text())]
    return {name: default for name, default in reversed(found) if default}
