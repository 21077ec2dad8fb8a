"""What `appliance check --offline` tells an administrator to do helps: it is done as it is printed.

A site is made from the shipped files, filled in. The programs run in this process, everything else
is the real check.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from appliance.admin.command import main
from appliance.core.spool import Spool
from tests import foreign
from tests.unit import checked_site
from tests.unit.checked_site import (
    BACKEND,
    CASO,
    DEFAULTS,
    ENV,
    LISTS,
    RC,
    SENDER,
    SHARES,
    SITE_CFG,
    SPOOL,
    VOS,
    Site,
)

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checked_site.ship(
        tmp_path_factory.mktemp("site"), pki=tmp_path_factory.mktemp("authority")
    )


@pytest.fixture
def site(shipped: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with checked_site.healthy(shipped, monkeypatch) as made:
        yield made


# --------------------------------------------------------------------------------------------------
# remedies


@dataclass(frozen=True)
class Told:
    """A printed line, and the value that the administrator knows."""

    line: str
    value: str

    @property
    def path(self) -> Path:
        return Path(self.line.partition(":")[0])

    @property
    def number(self) -> int:
        match = re.match(r"/[^:]+:(\d+): ", self.line)
        assert match, self.line
        return int(match[1])

    @property
    def option(self) -> str:
        return re.sub(r"^/[^:]+(:\d+)?: (\[\S+\] )?(?=\w+: )", "", self.line).partition(":")[0]


def change(path: Path, number: int, edit: Callable[[str], str]) -> None:
    """Replace one line; an empty one is taken out."""
    lines = path.read_text().splitlines(keepends=True)
    lines[number - 1] = edit(lines[number - 1])
    path.write_text("".join(lines))


def written(value: str) -> Callable[[str], str]:
    return lambda line: re.sub(r"([=:]\s*).*", lambda found: found[1] + value, line, count=1)


def remove(_: Site, reported: Told, __: re.Match[str]) -> None:
    change(reported.path, reported.number, lambda _: "")


def write(_: Site, reported: Told, found: re.Match[str]) -> None:
    word = dict(enumerate(found.groups()))
    value = reported.value or str(word[0]).replace("HOST", "keystone.example.net")
    change(reported.path, reported.number, written(value))


def write_both(site: Site, reported: Told, _: re.Match[str]) -> None:
    write(site, reported, re.fullmatch("(.*)", reported.value) or _)
    other = re.search(r"(?:in|but) (/[^:\s]+):(\d+)", reported.line)
    assert other, reported.line
    change(Path(other[1]), int(other[2]), written(reported.value))


def fill_in(_: Site, reported: Told, found: re.Match[str]) -> None:
    change(reported.path, reported.number, lambda line: line.replace(found[1], reported.value))


def add(_: Site, reported: Told, found: re.Match[str]) -> None:
    section = f"[{found[1]}]\n"
    text = reported.path.read_text()
    assert section in text
    reported.path.write_text(text.replace(section, f"{section}{found[2]} = {reported.value}\n"))


def move(_: Site, reported: Told, found: re.Match[str]) -> None:
    line = reported.path.read_text().splitlines(keepends=True)[reported.number - 1]
    change(reported.path, reported.number, lambda _: "")
    text = reported.path.read_text()
    reported.path.write_text(text.replace(f"[{found[1]}]\n", f"[{found[1]}]\n{line}"))


def rename_section(_: Site, reported: Told, found: re.Match[str]) -> None:
    above = reported.path.read_text().splitlines()[: reported.number]
    header = max(number for number, line in enumerate(above, start=1) if line.startswith("["))
    change(reported.path, header, lambda _: f"[{found[1]}]\n")


def rename(_: Site, reported: Told, found: re.Match[str]) -> None:
    change(reported.path, reported.number, lambda line: line.replace(reported.option, found[1]))


def part(_: Site, reported: Told, __: re.Match[str]) -> None:
    change(reported.path, reported.number, lambda line: re.sub(r"(.*?) +(#.*)", r"\2\n\1", line))


def shell(_: Site, __: Told, found: re.Match[str]) -> None:
    subprocess.run(["/bin/bash", "-ec", found[1]], check=True, stdin=subprocess.DEVNULL)


def schedule(site: Site, _: Told, found: re.Match[str]) -> None:
    assert main(["schedule", found[1], "--root", str(site.root)]) == 0


def name_authorities(site: Site, reported: Told, found: re.Match[str]) -> None:
    remove(site, reported, found)
    path, named = (site.root / name.lstrip("/") for name in (found[1], reported.value))
    named.parent.mkdir()
    named.touch()
    text = re.sub(r"(?m)^FEDCLOUD_CA_BUNDLE=.*", f"FEDCLOUD_CA_BUNDLE={named}", path.read_text())
    path.write_text(text)


def switch_off(site: Site, _: Told, found: re.Match[str]) -> None:
    path = site.root / found[1].lstrip("/")
    path.write_text(re.sub(rf"(?m)^(  {found[2]}: ).*", r"\1off", path.read_text()))


REMEDIES: Mapping[str, Callable[[Site, Told, re.Match[str]], None]] = {
    r" remove this line and name the file as FEDCLOUD_CA_BUNDLE in ([^\s,;]+)": name_authorities,
    r"switch the flow off in (\S+): flows: \{(\w+): off\}": switch_off,
    r"[;,] (?:or )?remove (?:this line|it|one|the entry)(?:$| \()": remove,
    r"belongs in \[(\S+)\]; here it is ignored; move it there$": move,
    r"unknown section; did you mean (\S+)\?$": rename_section,
    r"; did you mean (\S+)\?$": rename,
    r"; write .* in both$": write_both,
    r"; write a comment on a line of its own$": part,
    r"is still the placeholder '(.+?)'; .": fill_in,
    r"\[(\S+)\] (\S+): must be set: .": add,
    r"[;:] (?:if nobody needs it: )?((?:chmod|chown|rm) .*)$": shell,
    r"appliance schedule (\w+)": schedule,
    r"; (?:nothing is executed here: )?write ([^\s,]+)": write,
}
"""Remedies in messages, and how each is carried out; the first that matches counts."""


def carry_out(site: Site, line: str, value: str) -> None:
    """Do what a printed line says, with the ``value`` that only the administrator knows."""
    for pattern, remedy in REMEDIES.items():
        if found := re.search(pattern, line):
            remedy(site, Told(line, value), found)
            return
    pytest.fail(f"no remedy: {line}")


# --------------------------------------------------------------------------------------------------
# faults


@dataclass(frozen=True)
class Fault:
    """``edits`` are FILE, OLD, NEW; ``value`` is what the administrator answers with."""

    edits: Sequence[tuple[str, str, str]]
    value: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    words: str = ""
    """Of the line that is followed, where the fault has several."""


def fault(name: str, old: str, new: str, value: str = "") -> Fault:
    return Fault([(name, old, new)], value)


FAULTS = {
    "F-H2 site name": fault(CASO, "site_name = SITE", "site_name = SITE-NAME", "SITE"),
    "F-H2 projects": fault(CASO, "projects = project", "projects = PROJECT-NAMES", "project"),
    "F-H2 Keystone": fault(CASO, "keystone.example.net", "yourkeystone", "keystone.example.net"),
    "F-H2 mail": fault(SITE_CFG, "site-sec@example.net", "site-sec@example.com", "@example.net"),
    "F-H2 host": fault(DEFAULTS, "bdii.example.net", "bdii.example.com", "bdii.example.net"),
    "F-H2 project's id": fault(SHARES, "0" * 32, "PROJECT-ID", "0" * 32),
    "F-H2 token": fault(LISTS, "https://", "https://APPDB_TOKEN:x-oauth-basic@", "token"),
    "F-H2 table of VOs": fault(VOS, "{\n", '{\n"vo.example.org": {"tenant": "mytenant"},\n'),
    "cores": fault(SHARES, "total_cores: 8", "total_cores: 0", "8"),
    "version 2": fault(CASO, ":5000/v3", ":5000/v2.0"),
    "password": fault(CASO, "\npassword = geheimes", "", "geheimes"),
    "domain": fault(CASO, "\nuser_domain_name", "\n#user_domain_name", "Default"),
    "F-H4 port": fault(BACKEND, "#grpc_port", "grpc_port"),
    "F-H4 address": fault(BACKEND, "#listen_address", "listen_address"),
    "F-H5 authorities": Fault(
        [(CASO, "#cafile =", "cafile = /opt/ca.pem")],
        "/opt/ca.pem",
        {"FEDCLOUD_PLACES": "/etc/caso={root}/etc/caso"},
    ),
    "F-H6 twice in caso.conf": fault(
        CASO, "site_name = SITE", "site_name = SITE\nsite_name = SITE"
    ),
    "F-H6 twice in openstack.rc": fault(
        RC, "export OS_PASSWORD", "export OS_PASSWORD=x\nexport OS_PASSWORD"
    ),
    "F-H6 twice in YAML": fault(SHARES, "total_cores: 8", "total_cores: 8\n    total_cores: 8"),
    "F-H6 twice in site.cfg": fault(SITE_CFG, "SITE_LOC =", "SITE_LOC =\nSITE_LOC ="),
    "F-H6 twice in sender.cfg": fault(SENDER, "level: INFO", "level: INFO\nlevel: INFO"),
    "F-H6 spools": fault(CASO, f"#output_path = {SPOOL}", f"output_path = {SPOOL}s", SPOOL),
    "F-H6 names": fault(CASO, "site_name = SITE", "site_name = OTHER", "SITE"),
    "F-H6 user": fault(BACKEND, "username = cl", "user = cl"),
    "F-H6 host for tests": fault(SENDER, "host: msg.argo", "host: msg-devel.argo"),
    "F-H6 queue for tests": fault(
        SENDER, "destination: eu-egi-cloud-accounting", "destination: x.test"
    ),
    "F-H6 settings of the host": fault(ENV, "FEDCLOUD_CA_BUNDLE", "FEDCLOUD_CABUNDLE"),
    "F-H6 unknown section": fault(CASO, "[ssm]", "[sms]\nmax_size = 5"),
    "F-H7 no list": fault(LISTS, "https://", "# https://"),
    "F-H12 misplaced": Fault(
        [(CASO, "\nusername =", "\n#user ="), (CASO, "[DEFAULT]", "[DEFAULT]\nusername = a")],
        words="belongs in",
    ),
    "F-H12 misplaced and in its place": fault(CASO, "[DEFAULT]", "[DEFAULT]\nusername = a"),
    "F-H12 comment": fault(CASO, "password = geheimes", "password = geheimes # note"),
    "F-H12 comment of the backend": fault(
        BACKEND, "password = geheimes", "password = geheimes # note"
    ),
    "C21.e command": fault(RC, "PASSWORD=geheimes", "PASSWORD=$(cat /x)", "'x'"),
}


def replaced(site: Site, text: str) -> str:
    return text.replace("{root}", str(site.root))


@pytest.mark.parametrize("name", FAULTS)
def test_each_remedy_helps(site: Site, name: str) -> None:
    """F-H2, F-H4, F-H5, F-H6, F-H7, F-H12: the remedy removes the finding and adds none."""
    planted = FAULTS[name]
    for file, old, new in planted.edits:
        site.edit(file, (replaced(site, old), replaced(site, new)))
    site.environment.update(
        {key: replaced(site, text) for key, text in planted.environment.items()}
    )
    found = site.check()
    assert found
    line = next(line for line in found if planted.words in line)
    carry_out(site, line, replaced(site, planted.value))
    assert site.check() == []


# ------------------------------------------------------------------------------------------ beside
# the configuration

STARTERS = {
    "flock": (
        "etc/cron.d/flocked",
        "# locked\n*/30 * * * * root flock -n /run/l /usr/local/bin/caso-extract.sh\n",
    ),
    "docker": (
        "var/spool/cron/crontabs/egi",
        "MAILTO=root\n5 * * * * docker run --rm egifedcloud/ssm ssmsend\n",
    ),
    "hourly": ("etc/cron.hourly/accounting", "#!/bin/sh\n/usr/bin/caso-extract\n"),
}


@pytest.mark.parametrize("name", STARTERS)
def test_a_foreign_starter_s_line_is_the_one_to_remove(site: Site, name: str) -> None:
    """R20: the line that is named, and no other."""
    file, text = STARTERS[name]
    path = site.root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755 if text.startswith("#!") else 0o600)
    (line,) = site.check()
    carry_out(site, line, "")
    assert site.check() == []
    assert path.read_text() == text.splitlines(keepends=True)[0]


MISSPELT = {
    CASO: ("[DEFAULT]", "[DEFAULT]\nspooldri = /x"),
    BACKEND: ("[DEFAULT]", "[DEFAULT]\nremoval = none"),
    "etc/cloudkeeper/cloudkeeper.yml": ("cloudkeeper:\n", "cloudkeeper:\n  image-dri: /x\n"),
    "etc/apel/sender.cfg": ("[messaging]\n", "[messaging]\npahts: /x\n"),
    "etc/sitebdii/bdii.conf": ("BDII_SITE_CFG=", "BDII_PROT=2171\nBDII_SITE_CFG="),
    "etc/fedcloud/appliance.yaml": ("profile:", "profil: egi\nprofile:"),
}
"""By file, an optional option that is almost a known one."""


def test_a_misspelt_option_is_a_warning_in_every_file(site: Site) -> None:
    """Upstream ignores such options, so a file with one works with it, and must work here."""
    for file, change in MISSPELT.items():
        site.edit(file, change)
    with contextlib.redirect_stdout(io.StringIO()) as reported:
        assert main(["check", "--offline", "--json", "--root", str(site.root)]) == 1
    found = json.loads(reported.getvalue())["findings"]
    assert {one["path"] for one in found} == {f"{site.root}/{file}" for file in MISSPELT}
    for one in found:
        assert (one["id"], one["is_error"]) == ("C21.a", False), one
        assert "unknown option, ignored; did you mean " in one["text"], one


def test_an_account_that_a_misspelt_option_leaves_incomplete_is_an_error(site: Site) -> None:
    """The one exception: the program could not log in."""
    for file in (CASO, BACKEND):
        site.edit(file, ("\npassword =", "\npasword ="))
    with contextlib.redirect_stdout(io.StringIO()) as reported:
        assert main(["check", "--offline", "--json", "--root", str(site.root)]) == 1
    found = json.loads(reported.getvalue())["findings"]
    errors = {one["path"] for one in found if one["id"] == "C21.a" and one["is_error"]}
    assert errors == {f"{site.root}/{file}" for file in (CASO, BACKEND)}


def test_jobs_that_nothing_starts_are_started_by_the_remedy(site: Site) -> None:
    """F-H14."""
    for path in (site.root / "etc/cron.d").iterdir():
        path.rename(site.root / "etc/fedcloud/cron.d" / path.name)
    (line,) = site.check()
    carry_out(site, line, "")
    assert site.check() == []


def test_a_certificate_s_key_and_a_password_that_others_can_read(site: Site) -> None:
    """F-H6: warnings have remedies too."""
    paths = [
        site.root / CASO,
        site.root / RC,
        site.root / BACKEND,
        site.root / "etc/grid-security/hostkey.pem",
    ]
    for path in paths:
        path.chmod(0o644)
    found = site.check()
    assert len(found) == len(paths)
    for line in found:
        carry_out(site, line, "")
    assert site.check() == []


@pytest.mark.parametrize(
    "kind", ["file", "link", "element link", "element pipe", "element directory", "closed"]
)
def test_what_others_left_in_a_spool_is_removed_by_the_remedy(kind: str) -> None:
    """F-H1, F-S4: the command goes through the shell as it is printed."""
    with foreign.open_to_all() as root:
        directory = root / "it's a spool"
        minute = directory / "22222222"
        minute.mkdir(parents=True)
        path = minute / ("b" * 14) if kind.startswith("element") else directory / "11111111"
        match kind.rpartition(" ")[2]:
            case "file":
                path.touch()
            case "link":
                path.symlink_to("/etc/passwd")
            case "pipe":
                os.mkfifo(path)
            case _:
                path.mkdir(mode=0o700)
        for place in (directory, minute):
            place.chmod(0o777)
        (line,) = skipped(directory)
        found = re.search(r"[;:] (?:if nobody needs it: )?((?:chown|rm) .*)$", line)
        assert found, line
        subprocess.run(["/bin/bash", "-ec", found[1]], check=True, stdin=subprocess.DEVNULL)
        assert skipped(directory) == []


def skipped(directory: Path) -> list[str]:
    """Return what the sender's account passes over in a spool."""
    spool = Spool(directory)
    with foreign.acting_as_nobody():
        for name in spool.names():
            spool.lock(name)
        spool.count()
    return [str(line) for line in spool.skipped.values()]
