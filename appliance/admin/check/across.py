"""Comparison of files that are valid each, but contradict each other.

Contradictions lose records or publish two sites. The values that programs have read are in their
answers (`appliance.admin.check.inside`); the projects of each VO are read from the host's tables.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from appliance.admin.check.finding import of_problem
from appliance.admin.check.probe import CheckedSite
from appliance.admin.mounts import site_files
from appliance.admin.runtime import native
from appliance.admin.settings import PROFILES, Host
from appliance.core import senders
from appliance.core.cloud import vo
from appliance.core.config import document, shell, yaml_file
from appliance.core.config.settings import OUTPUT_PATHS, Value, state_of
from appliance.core.run.errors import ConfigurationError
from appliance.core.run.finding import Finding
from appliance.core.run.layout import Layout

SITE_NAMES = {
    ("DEFAULT", "site_name"),
    ("DEFAULT", "SITE_NAME"),
    ("site", "name"),
    ("DEFAULT", "gocdb"),
}
_PROJECT_ID = re.compile(r"[0-9a-f]{32}")
_SHARES = "compute.shares."
_LISTED = "vos["
"""Where shares are in the form of EGI's catch-all, a list."""

Table = Mapping[str, tuple[int, frozenset[str]]]
"""By VO, the number of its line and its projects."""
_ReadTable = Callable[[Path], Table]


def of_host(site: CheckedSite) -> Iterator[Finding]:
    """Yield the findings in the files that the host itself reads."""
    yield from host_files(site.host, site.layout, services=site.services)


def of_names(site: CheckedSite) -> Iterator[Finding]:
    """Yield a finding for each file with another name of the site."""
    yield from site_names(site.values)


def of_tables(site: CheckedSite) -> Iterator[Finding]:
    """Yield a finding for each VO that has different projects in two tables."""
    yield from vo_tables(site.host, site.layout, services=site.services)


def of_destinations(site: CheckedSite) -> Iterator[Finding]:
    """Yield a finding for each destination for tests."""
    yield from test_destinations(site.values, site.host.profile)


def of_spools(site: CheckedSite) -> Iterator[Finding]:
    """Yield a finding for each directory that cASO writes to and no sender reads."""
    yield from spools(site.values)


def site_names(values: Sequence[Value]) -> Iterator[Finding]:
    """Yield a finding for each file with another name of the site than most files have.

    If no name has the majority, the one in site.cfg is taken as the right one.
    """
    named = [
        value for value in values if (value.section, value.option) in SITE_NAMES and value.line
    ]
    if len({value.text for value in named}) < 2:  # noqa: PLR2004  two names
        return
    named = list(dict.fromkeys(named))
    counted = Counter(value.text for value in named)
    # False sorts before True: the file that others are compared with, of the commonest name.
    judge = min(named, key=lambda value: (-counted[value.text], value.path.name != "site.cfg"))
    for value in named:
        if value.text != judge.text:
            text = (
                f"{value.text!r} here, {judge.text!r} in {judge.path}:{judge.line};"
                " write GOCDB's name in both"
            )
            yield Finding(str(value.path), value.line, value.option, text, "C22.a")


def spools(values: Sequence[Value]) -> Iterator[Finding]:
    """Yield a finding for each directory that cASO writes to and no sender reads.

    Records of servers always go somewhere; those of another kind only if its option is set.
    """
    read = [one for one in values if (one.section, one.option) == ("messaging", "path")]
    if not read:
        return
    for option in OUTPUT_PATHS:
        written = _of(values, "ssm", option)
        if (
            written is None
            or not (written.line or option == OUTPUT_PATHS[0])
            or any(Path(one.text) == Path(written.text) for one in read)
        ):
            continue
        if option == OUTPUT_PATHS[0]:
            text = (
                f"records go to {written.text}, but {_where(read[0])} sends from {read[0].text};"
                " write one path in both"
            )
        else:
            text = (
                f"records go to {written.text}, but no configuration of the sender reads it; add"
                f" one with this path to {senders.FURTHER}, or correct the path"
            )
        yield Finding(str(written.path), written.line, f"[ssm] {option}", text, "C40.b")


def test_destinations(values: Sequence[Value], profile: str) -> Iterator[Finding]:
    """Yield a finding for each test host or queue that a production site sends to."""
    if profile != PROFILES[0]:
        return
    right = {
        ("broker", "host"): "msg.argo.grnet.gr",
        ("messaging", "destination"): "the topic for production, such as eu-egi-cloud-accounting",
    }
    for value in values:
        place = (value.section, value.option)
        if place in right and senders.is_for_tests(value.text):
            text = (
                f"{value.text} is for tests, the profile is {profile};"
                f" write {right[place]}, or set profile: private"
            )
            option = f"[{value.section}] {value.option}"
            yield Finding(str(value.path), value.line, option, text, "C24.a")


def _of(values: Iterable[Value], section: str, option: str) -> Value | None:
    return next((one for one in values if (one.section, one.option) == (section, option)), None)


def _where(value: Value) -> str:
    return f"{value.path}:{value.line}" if value.line else str(value.path)


def vo_tables(host: Host, layout: Layout, *, services: Iterable[str]) -> Iterator[Finding]:
    """Yield a finding for each VO that has different projects in two tables.

    Names are compared with names and ids with ids: without the cloud it is unknown which name
    belongs to which id.
    """
    tables = dict(_tables(host, layout, set(services)))
    read: dict[Path, Table] = {}
    for path, reader in tables.items():
        try:
            read[path] = reader(path)
        except ConfigurationError:
            continue  # the program that reads the table reports it
    paths = list(read)
    for number, first in enumerate(paths):
        for second in paths[number + 1 :]:
            yield from _differences(first, read[first], second, read[second])


def _differences(
    first: Path,
    ones: Table,
    second: Path,
    others: Table,
) -> Iterator[Finding]:
    for name, (line, projects) in ones.items():
        other = others.get(name)
        if other is None or projects & other[1] or not _are_alike(projects, other[1]):
            continue
        here, there = (", ".join(sorted(names)) for names in (projects, other[1]))
        text = f"serves {here} here, {there} in {second}:{other[0]}; write one project in both"
        yield Finding(str(first), line, name, text, "C23.c", is_error=False)


def _are_alike(ones: frozenset[str], others: frozenset[str]) -> bool:
    kinds = {bool(_PROJECT_ID.fullmatch(name)) for name in ones | others}
    return len(kinds) == 1


def _tables(host: Host, layout: Layout, services: set[str]) -> Iterator[tuple[Path, _ReadTable]]:
    if "caso" in services:
        yield layout.path(host.mounts["FEDCLOUD_CASO_MAPPING"]), _mapping
    if "cloudkeeper-os" in services:
        yield layout.path(host.mounts["FEDCLOUD_BACKEND_MAPPING"]), _mapping
    if services & {"cloudbdii", "cloud-info"}:
        yield layout.path("/etc/cloud-info-provider/openstack.yaml"), _shares


def _mapping(path: Path) -> Table:
    text = document.read_text(path)
    found: dict[str, set[str]] = {}
    for entry in vo.read_mapping(path).entries:
        found.setdefault(entry.vo, set()).add(entry.project)
    return {name: (_line(text, name), frozenset(projects)) for name, projects in found.items()}


def _line(text: str, name: str) -> int:
    # The JSON parser keeps no line numbers; a VO's name is quoted where its entry begins.
    before, found, _ = text.partition(f'"{name}"')
    return before.count("\n") + 1 if found else 1


def _shares(path: Path) -> Table:
    tree = yaml_file.parse(path, document.read_text(path))
    found = {}
    for name, section in _sections_of_shares(tree):
        if entry := tree.get(section, "project_id"):
            found[name] = (entry.line, frozenset({entry.text}))
    return found


def _sections_of_shares(tree: yaml_file.Tree) -> Iterator[tuple[str, str]]:
    """Yield each VO and the section of its project, in our form and in that of the catch-all."""
    for section, options in tree.sections.items():
        if section.startswith(_SHARES) and section.endswith(".auth"):
            yield section.removeprefix(_SHARES).removesuffix(".auth"), section
        elif section.startswith(_LISTED) and "name" in options:
            yield options["name"].text, f"{section}.auth"


def _authorities(host: Host, layout: Layout) -> Iterator[Finding]:
    """Yield a finding if the file of web servers' authorities cannot be read.

    Without containers the authorities of this system are used then; a container is not started.
    """
    if not (host.is_native or host.is_beside):
        return
    option = "FEDCLOUD_CA_BUNDLE"
    entry = site_files.environment(layout).get(shell.SECTION, option)
    usual = {*native.AUTHORITIES, *(str(layout.path(one)) for one in native.AUTHORITIES)}
    if entry and entry.text not in {"", *usual} and (fault := state_of(Path(entry.text))):
        text = (
            f"{entry.text} {fault}, so only the authorities of this system are trusted; correct the"
            " path, or leave it empty"
        )
        yield Finding(str(entry.path), entry.line, option, text, "C21", is_error=False)


def host_files(host: Host, layout: Layout, *, services: Iterable[str]) -> Iterator[Finding]:
    """Yield the findings in the files that the host itself reads."""
    yield from (of_problem(problem) for problem in host.warnings)
    yield from _authorities(host, layout)
    if "cloudkeeper-os" in services:
        try:
            site_files.check(site_files.variables(layout), layout)
        except ConfigurationError as error:
            yield from (of_problem(problem, program="cloudkeeper-os") for problem in error.problems)
