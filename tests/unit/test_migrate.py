"""`appliance migrate`: the seven earlier releases come out as expected.json has it."""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import certifi
import pytest
import yaml

from appliance.admin.command import main
from appliance.admin.migrate import difference, oslo_lines
from appliance.admin.runtime import native
from appliance.core.config import oslo
from appliance.core.config.document import Dialect
from appliance.core.run import place
from appliance.core.run.errors import ConfigurationError
from caso.checkpoint import Checkpoints
from caso.cmds import extract
from cloud_info_provider.cmds import service
from cloudkeeper.cmds import backend, frontend
from ssm.cmds import send
from tests.testbed.pki import Authority
from tests.unit import earlier_site
from tests.unit.earlier_site import TOP

pytestmark = pytest.mark.root

ASKED = ("20160403", "20180507", "2019x", "20200827")
"""Releases whose sender had a test queue."""
PROGRAMS = {
    "caso-extract": "caso.cmds.extract",
    "ssmsend": "ssm.cmds.send",
    "cloudkeeper": "cloudkeeper.cmds.frontend",
    "cloudkeeper-os": "cloudkeeper.cmds.backend",
}
CHECKED = ("caso", "ssmsend", "cloudkeeper", "cloudkeeper-os")
"""Jobs and services of accounting and images."""
TABLES = ("caso", "ssmsend", "cloudkeeper", "cloud-info")
WARNED = {
    "v2.0": "v2.0",
    "training.egi.eu is not enabled": "training.egi.eu is not enabled",
    "test queue": "test queue",
    "/var/spool/ssm": "/var/spool/ssm",
    "without a user": "without a user",
    "records were version 0.2": "version 0.2",
    "edits in /etc/apel": "edits had no effect",
    "leading blank": "leading blank",
    "every 4 hours": r"14 \*/4",
    "check that they are the same": "check that they are the same project",
    "name the ops project differently": "VO ops: accounting has ops, images have 0a1b",
    "no BDII files": "no files of the site BDII",
    "no schedule for cloud-info": "nothing scheduled cloud-info",
    "shell quotes": "keeps quotes",
}
"""Words of a warning in expected.json, with a pattern of ours."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return earlier_site.bundle(tmp_path_factory.mktemp("migrate"))


@pytest.fixture(params=earlier_site.RELEASES)
def release(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def migrate(root: Path, *words: object) -> int:
    return main(["migrate", "--root", str(root), *map(str, words)])


def answer(release: str) -> list[str]:
    # Only the tree of this release names a broker, which the site goes on to use.
    broker = "stomp://mq.example.org:6163/queue/global.accounting.cloud.central"
    place = broker if release == "20180507" else "ams"
    return ["--destination", place] if release in ASKED else []


def _program(command: list[str]) -> list[str]:
    """Return the program and its flags, without the account and the namespace around them."""
    at = next(number for number, word in enumerate(command) if "/opt/fedcloud/" in word)
    return command[at:]


# --------------------------------------------------------------------------------------------------
# what came out, as other readers see it


def ini(path: Path) -> dict[str, str]:
    found = configparser.RawConfigParser(default_section="", strict=True)
    found.read_string(path.read_text())
    return {f"{name}.{key}": text for name in found.sections() for key, text in found[name].items()}


def shell(path: Path) -> dict[str, str]:
    script = f"set -a; unset $(env | grep -o '^OS_[A-Z_]*') 2>/dev/null; . {path}; env -0"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    return dict(line.split("=", 1) for line in done.stdout.split("\0") if "=" in line)


def lists(root: Path) -> list[str]:
    lines = (root / "etc/cloudkeeper/image-lists.conf").read_text().splitlines()
    found = [line for line in lines if line.strip() and not line.startswith("#")]
    for entry in sources(root).values():
        parts = urlsplit(entry["url"])
        if entry["enabled"]:
            found.append(f"https://{entry['token']}:x-oauth-basic@{parts.netloc}{parts.path}")
    return found


def sources(root: Path) -> dict[str, Any]:
    return yaml.safe_load((root / "etc/cloudkeeper/sources.yaml").read_text()) or {}


def times(path: Path) -> str:
    (line,) = [
        line for line in path.read_text().splitlines() if re.match(r"[\d*]\S* \S+ \S+ \S+ ", line)
    ]
    found = line.split()
    assert found[5] == "root"
    return " ".join(found[:5])


def backend_file(root: Path) -> Path:
    newer = root / "etc/cloudkeeper-os/cloudkeeper-os.conf"
    return newer if newer.exists() else root / "etc/cloudkeeper/cloudkeeper-os.conf"


def vo_map(root: Path) -> dict[str, str]:
    places = ("cloudkeeper-os/mapping.json", "cloudkeeper-os/voms.json", "voms.json")
    path = next(path for name in places if (path := root / "etc" / name).exists())
    found = json.loads(path.read_text())
    return {vo: entry.get("tenant") or entry.get("project") for vo, entry in found.items()}


def holds(wanted: dict[str, Any], found: dict[str, str]) -> None:
    for key, value in wanted.items():
        if str(value).startswith("ask"):
            continue
        text = found[key]
        if isinstance(value, list):
            assert [word.strip() for word in text.split(",")] == value, key
        else:
            assert text == value, key


def conforms(root: Path, release: str) -> None:
    """Check the files of a root against expected.json."""
    wanted = earlier_site.EXPECTED[release]
    holds(wanted["caso.conf"], ini(root / "etc/caso/caso.conf"))
    holds(wanted["cloudkeeper-os.conf"], ini(backend_file(root)))
    holds(wanted["openstack.rc"], shell(root / "etc/cloud-info-provider/openstack.rc"))
    holds(wanted["sender.cfg"], ini(root / "etc/apel/sender.cfg"))
    assert vo_map(root) == wanted["vo_map"]
    assert lists(root) == wanted["image-lists"]
    for name, extension in wanted.get("image-list extensions", {}).items():
        entry = sources(root)[name]
        assert entry["prefix"] == extension["prefix"]
        assert entry["images"] == extension.get("images", [])
        assert entry["endorser"]["dn"] == extension["endorser_dn"]
        assert entry["endorser"]["ca"] == extension["endorser_ca"]
    frontend_file = yaml.safe_load((root / "etc/cloudkeeper/cloudkeeper.yml").read_text())
    for key, value in wanted.get("cloudkeeper.yml", {}).items():
        found: Any = frontend_file["cloudkeeper"]
        for part in key.split("."):
            found = found[part]
        assert found == value
    described = yaml.safe_load((root / "etc/cloud-info-provider/openstack.yaml").read_text())
    shares = described["compute"].get("shares", {})
    assert {name: one["auth"]["project_id"] for name, one in shares.items()} == wanted.get(
        "shares", {}
    )
    if wanted["sitebdii"]:
        pairs = [
            re.split(r"\s*=\s*", line, maxsplit=1)
            for line in (root / "etc/sitebdii/site.cfg").read_text().splitlines()
        ]
        assert ["SITE_NAME", wanted["sitebdii"]["SITE_NAME"]] in pairs
        assert [text for key, text in pairs if key == "OTHERINFO"] == wanted["sitebdii"][
            "OTHERINFO"
        ]
        names = (root / "etc/sitebdii/glite-info-site-defaults.conf").read_text()
        assert f"SITE_BDII_HOST={wanted['sitebdii']['SITE_BDII_HOST']}\n" in names
    held = Checkpoints(root / "var/spool/caso")
    for project, moment in wanted["lastrun"].items():
        assert str(held.find([project]).moment) == moment


def states(root: Path) -> dict[str, tuple[object, ...]]:
    """Return owner, mode and content of each file, but for what migrations have kept."""
    return {
        str(path.relative_to(root)): (
            path.lstat().st_uid,
            path.lstat().st_gid,
            path.lstat().st_mode,
            path.read_bytes() if path.is_file() and not path.is_symlink() else b"",
        )
        for path in sorted(root.rglob("*"))
        if not re.search(r"/(var/lib/fedcloud/migrate|run(/fedcloud)?)(/|$)", f"/{path}")
    }


@pytest.fixture
def host(tmp_path: Path, release: str, bundle: Path) -> Path:
    """Return the root of a host of the release on which the appliance was installed."""
    root = earlier_site.copy(release, tmp_path / "host")
    earlier_site.install(root, bundle)
    return root


def test_a_release_comes_out_as_expected(
    host: Path, release: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """R40."""
    wanted = earlier_site.EXPECTED[release]
    before = states(host)
    shown = migrate(host)
    plan = capsys.readouterr().out
    assert states(host) == before
    assert shown == (1 if release in ASKED else 0)
    assert migrate(host, "--apply", *answer(release)) == 0
    conforms(host, release)
    active = {name: times(path) for name in TABLES if (path := host / "etc/cron.d" / name).exists()}
    assert active == wanted["cron.d"]
    for name in wanted["removed"]:
        assert not (host / name).exists()
    assert (
        not (host / "var/spool/cron/crontabs/root").exists()
        or not (host / "var/spool/cron/crontabs/root").read_text()
    )
    for warning in wanted["warnings"]:
        (pattern,) = [ours for words, ours in WARNED.items() if words in warning] or [""]
        # An installation has written the files of the site BDII meanwhile.
        if pattern and "BDII" not in pattern:
            assert re.search(pattern, plan), warning
    for name in wanted.get("images.lock imports", {}).values():
        assert name in plan
    for vo, (accounting, images) in wanted.get("vo_map conflict", {}).items():
        assert f"VO {vo}: accounting has {accounting}, images have {images}" in plan


def test_a_second_run_changes_nothing(
    host: Path, release: str, capsys: pytest.CaptureFixture[str]
) -> None:
    migrate(host, "--apply", *answer(release))
    after = states(host)
    capsys.readouterr()
    assert migrate(host, "--apply") == 0
    assert states(host) == after
    assert "Nothing is left to change" in capsys.readouterr().out


def test_a_release_comes_to_a_new_host(
    tmp_path: Path, release: str, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, root = earlier_site.copy(release, tmp_path / "old"), tmp_path / "new"
    before = states(old)
    earlier_site.install(root, bundle)
    assert migrate(root, "--from", old, "--apply", *answer(release)) == 0
    conforms(root, release)
    assert states(old) == before
    # Nothing starts here yet: the earlier host may still account.
    assert not [name for name in TABLES if (root / "etc/cron.d" / name).exists()]
    assert "stop it there before anything starts here" in capsys.readouterr().out
    for name in ("etc/caso/caso.conf", str(backend_file(root).relative_to(root))):
        status = (root / name).stat()
        assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) in (
            (0o640, 0, 1999),
            (0o640, 0, 0),  # the mode of the shipped file that was there
        )
    after = states(root)
    assert migrate(root, "--from", old, "--apply", *answer(release)) == 0
    assert states(root) == after


def test_a_release_without_an_installation(tmp_path: Path, release: str) -> None:
    """The units of the release make way, and the installation that is due is named."""
    root = earlier_site.copy(release, tmp_path / "host")
    has_unit = (root / "etc/systemd/system/cloudkeeper-os.service").exists()
    arguments = ["--destination", "ams"] if release == "20170809" else answer(release)
    assert migrate(root, "--apply", *arguments) == (0 if release == "20160403" else 1)
    assert not (root / "etc/systemd/system/cloudkeeper-os.service").exists()
    kept = [*(root / "var/lib/fedcloud/migrate").rglob("cloudkeeper-os.service")]
    assert bool(kept) == has_unit
    if release in ("20170809", "20160403"):
        assert ini(root / "etc/apel/sender.cfg")["messaging.destination"] == (
            "eu-egi-cloud-accounting"
        )


@pytest.fixture(scope="module")
def grid_security(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with trust anchors, a host certificate and its key."""
    found = Authority.create(tmp_path_factory.mktemp("authority") / "ca", key="ec")
    folder = found.directory / "grid-security"
    found.publish(folder / "certificates")
    made = found.issue("bdii.example.org", key="ec")
    shutil.copy2(made.certificate, folder / "hostcert.pem")
    shutil.copy2(made.key, folder / "hostkey.pem")
    return folder


@pytest.fixture
def mounted(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have programs find the files of the host below its root, as a container's mounts do."""
    pairs = " ".join(f"{host}/{name}=/{name}" for name in ("etc", "var", "run"))
    monkeypatch.setenv(place.VARIABLE, pairs)


@pytest.mark.usefixtures("mounted")
def test_our_programs_load_what_came_out(
    host: Path,
    release: str,
    grid_security: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def sender(words: list[str]) -> int:
        monkeypatch.setattr("sys.argv", ["ssmsend", *words])
        return send.main()

    (host / "etc/ssl/certs").mkdir(parents=True)
    shutil.copyfile(certifi.where(), host / "etc/ssl/certs/ca-certificates.crt")
    shutil.copytree(grid_security, host / "etc/grid-security", dirs_exist_ok=True)
    assert migrate(host, "--apply", *answer(release)) == 0
    capsys.readouterr()
    root = ["--root", str(host), "--check-config"]
    for program, words in (
        (extract.main, []),
        (sender, ["-c", str(host / "etc/apel/sender.cfg")]),
        (service.main, []),
        (frontend.main, ["sync"]),
        (backend.main, []),
    ):
        status = program([*words, *root])
        assert status == 0, (program.__module__, capsys.readouterr())


def test_no_secret_is_printed(
    host: Path, release: str, tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "new"
    earlier_site.install(new, bundle)
    migrate(host)
    migrate(new, "--from", host)
    migrate(host, "--apply", *answer(release))
    said = "".join(capsys.readouterr())
    assert not re.search(r"secret-\d|with space|1111111[1-9]?-2222", said)


def test_undo_brings_everything_back(host: Path, release: str) -> None:
    def texts() -> dict[str, object]:
        return {name: state[2:] for name, state in states(host).items()}

    before = texts()
    assert migrate(host, "--apply", *answer(release)) == 0
    (undo,) = (host / "var/lib/fedcloud/migrate").glob("*/undo")
    subprocess.run([str(undo)], check=True)
    assert {name: one for name, one in texts().items() if name in before} == before
    left = texts().keys() - before.keys()
    assert not [name for name in left if (host / name).is_file()]


def test_keys_of_a_command_line(host: Path, release: str) -> None:
    assert migrate(host, "--from", "/does/not/exist") == 2
    with pytest.raises(SystemExit) as stop:
        migrate(host, "--destination", "production")
    assert stop.value.code == 2
    if release in ASKED:
        before = states(host)
        assert migrate(host, "--apply") == 2
        assert states(host) == before


@pytest.mark.long
@pytest.mark.parametrize("release", ["2019x", "20220425"])
@pytest.mark.usefixtures("mounted")
def test_the_check_finds_nothing_wrong(
    host: Path,
    release: str,
    grid_security: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`appliance check --offline` with the programs themselves, as on a host without containers."""
    shutil.copytree(grid_security, host / "etc/grid-security", dirs_exist_ok=True)
    (host / "etc/ssl/certs").mkdir(parents=True)
    shutil.copyfile(certifi.where(), host / "etc/ssl/certs/ca-certificates.crt")
    assert migrate(host, "--apply", *answer(release)) == 0
    programs = host / "opt/fedcloud/current/bin"
    programs.mkdir(parents=True)
    for name, module in PROGRAMS.items():
        start = f"import sys; from {module} import main; sys.exit(main())"
        environment = f"{place.VARIABLE}='{os.environ[place.VARIABLE]}' PYTHONPATH='{TOP}'"
        (programs / name).write_text(
            f"#!/bin/sh\n{environment} exec '{sys.executable}' -c '{start}' \"$@\"\n"
        )
        (programs / name).chmod(0o755)
    monkeypatch.delenv(place.VARIABLE)
    (host / "var/lib/fedcloud/runtime").write_text("native\n")
    command = native.command
    monkeypatch.setattr(
        native, "command", lambda job, *words, **more: _program(command(job, *words, **more))
    )
    capsys.readouterr()
    main(["check", "--offline", "--json", "--root", str(host), *CHECKED])
    found = json.loads(capsys.readouterr().out)["findings"]
    # What is left: remarks about options of the site's own files that have no effect.
    assert [one for one in found if one["is_error"]] == []
    assert not [one for one in found if "can read it" in one["text"]]


# --------------------------------------------------------------------------------------------------
# the reader for hosts without oslo.config


@pytest.mark.parametrize(
    "text",
    [
        *sorted({path.read_text() for path in earlier_site.TREES.glob("*/etc/c*/*.conf")}),
        *sorted({path.read_text() for path in earlier_site.TOP.glob("etc/c*/*.conf")}),
        "[DEFAULT]\na = 1\n  2\n# c\n  3\n\n b = 4\n",
        "[DEFAULT]\na = '1'\nb = \"\nc-d: x = y\n[Big]\nA = 1\n[big]\nB=2\n",
        "a = 1\n[DEFAULT\n[]\nb\n= 1\n[x]\nb = 1\nb = 2\n   z\n",
        "[DEFAULT]\na =\n   1\n\n   2\n[x]\n  3\n",
        "\n  \n[DEFAULT]\r\na = 1\r\n",
    ],
)
def test_the_reader_of_hosts_reads_what_programs_read(text: str) -> None:
    def read(parse: Dialect) -> object:
        try:
            return parse(Path("x.conf"), text).sections
        except ConfigurationError as error:
            return {(problem.line, problem.option) for problem in error.problems}

    assert read(oslo_lines.parse) == read(oslo.parse)


def test_secrets_of_other_forms_are_masked() -> None:
    text = (
        "[a]\npassword =\n  hunter22\nother = 1\n  more\n"
        "password = a_file=hunter22\n#token: hunter22\nurl = https://u:p@hunter22@host/x\n"
        "auth: {password: hunter22, user: x}\nclient_secret: hunter22\n"
        "password_file = /etc/seen\n"
    )
    shown = "\n".join(difference.shown("/etc/x", "", text))
    assert "hunter22" not in shown
    assert all(word in shown for word in ("more", "@host/x", "/etc/seen"))
    account = difference.shown("/etc/cloudkeeper/registry.auth", "", "host robot$a:hunter22\n")
    assert account[-1] == "+host ***"
