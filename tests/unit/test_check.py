"""`appliance check --offline`: findings of programs, and comparisons between files."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from appliance.admin import settings
from appliance.admin.check import across, certificates, inside, space
from appliance.admin.check.finding import identify
from appliance.admin.command import main
from appliance.admin.inventory import CONTAINERS
from appliance.admin.runtime import compose_output, native
from appliance.core.config.settings import Value
from appliance.core.run.layout import Layout
from tests.simulators import docker_engine

pytestmark = pytest.mark.root

TOP = Path(__file__).parents[2]
VERSION = "1.2.3"
CASO, SENDER, SITE = "/etc/caso/caso.conf", "/etc/apel/sender.cfg", "/etc/sitebdii/site.cfg"
STAND_IN = """#!/bin/sh
# Stands in for docker-compose: answers a check with the file of the service's name, or with the
# file for its first check, if there is one.
cd "$(dirname "$0")"
if [ "$1" = version ]; then cat version; exit; fi
for service in caso ssm cloudkeeper cloudbdii sitebdii cloudkeeper-os; do
  case " $* " in *" $service sh -c "*) break ;; esac
done
echo "$service" >>asked
if [ -e "$service.fails" ]; then cat "$service.fails" >&2; exit 1; fi
echo 'Creating fedcloud_run ... done' >&2
echo 'fedcloud-check begun' >&2
if [ -e "$service.first" ]; then cat "$service.first" >&2; rm "$service.first"
elif [ -e "$service" ]; then cat "$service" >&2
else echo 'fedcloud-check ended 0' >&2
fi
"""


def value(section: str, option: str, text: str, path: str, line: int = 1) -> Value:
    return Value(section, option, text, Path(path), line)


# --------------------------------------------------------------------------------------------------
# what programs say


def said(*entries: object, status: int = 0) -> list[str]:
    lines = [entry if isinstance(entry, str) else json.dumps(entry) for entry in entries]
    return [
        "Creating fedcloud_caso_run ... done",
        "fedcloud-check begun",
        *lines,
        f"fedcloud-check ended {status}",
    ]


def problem(
    line: int, option: str, text: str, *, is_fatal: bool = True, path: str = CASO
) -> dict[str, Any]:
    reported = {"path": path, "line": line, "option": option, "text": text, "is_fatal": is_fatal}
    return {"level": "ERROR" if is_fatal else "WARNING", "message": "x", "problem": reported}


def test_each_line_of_a_program_is_a_finding_with_the_host_s_file_and_line() -> None:
    """F-H6: warnings too, independent of the log file; lower levels are no findings."""
    answer = inside.read(
        "caso",
        said(
            problem(12, "site_name", "is still the placeholder 'SITE-NAME'; the site's name"),
            problem(40, "use_syslog", "has no effect here", is_fatal=False),
            {"level": "WARNING", "message": "/etc/apel/logging.cfg: has no effect"},
            {"level": "ERROR", "message": "the spool cannot be read"},
            {"level": "INFO", "message": "starts"},
            "Traceback of somebody else",
            {
                "value": {
                    "section": "ssm",
                    "option": "output_path",
                    "text": "/x",
                    "path": CASO,
                    "line": 3,
                }
            },
            status=2,
        ),
    )
    assert [(one.identifier, one.path, one.line, one.is_error) for one in answer.findings] == [
        ("C20.a", CASO, 12, True),
        ("C21", CASO, 40, False),
        ("C21", "/etc/apel/logging.cfg", 0, False),
        ("C21", "", 0, True),
    ]
    assert answer.values == (value("ssm", "output_path", "/x", CASO, 3),)
    assert not answer.is_usable


@pytest.mark.parametrize(
    ("status", "lines", "words"),
    [
        (4, ["caso-extract: bug in this program"], "the check is broken: caso-extract: bug"),
        (137, [], "status 137"),
        (
            32,
            [
                "mount: /etc: special device /srv/etc does not exist.",
                "       dmesg(1) may have more information after failed mount system call.",
            ],
            "status 32: mount: /etc: special device /srv/etc does not exist.",
        ),
    ],
)
def test_a_program_that_fails_without_a_word_is_a_finding(
    status: int, lines: list[str], words: str
) -> None:
    (finding,) = inside.read("caso", said(*lines, status=status)).findings
    assert words in str(finding)


def test_two_programs_of_one_container_are_distinguished() -> None:
    lines = said(problem(1, "a", "no"), status=2) + said(status=3)
    assert [one.text for one in inside.read("cloudbdii", lines).findings] == [
        "no",
        "the check ended with exit status 3",
    ]


@pytest.mark.parametrize(
    ("option", "text", "row"),
    [
        ("site_name", "is still the placeholder 'SITE-NAME'; …", "C20.a"),
        ("auth_url", "is still the placeholder 'yourkeystone'; …", "C20.b"),
        ("", "APPDB_TOKEN is still there", "C20.c"),
        ("user", "unknown option; did you mean username?", "C21.a"),
        ("username", "belongs in [keystone_auth]; here it is ignored", "C21.b"),
        ("vo", "is not JSON: Expecting value", "C23.a"),
        ("user_domain_name", "must be set: the domain of the account, often Default", "C30.b"),
        ("auth_url", "Keystone's version 2 no longer exists; write …", "C30.c"),
        ("anything", "else", "C21"),
    ],
)
def test_the_row_of_a_finding(option: str, text: str, row: str) -> None:
    """C20 to C30: as the table of faults numbers them."""
    assert identify(option, text) == row


# -------------------------------------------------------------------------------------------- files
# with each other


def test_the_site_has_one_name() -> None:
    """C22.a, F-H6: four files; the two and their lines are named, site.cfg is the judge."""
    values = [
        value("DEFAULT", "site_name", "A", CASO, 12),
        value("site", "name", "B", "/etc/cloud-info-provider/openstack.yaml", 3),
        value("DEFAULT", "SITE_NAME", "B", "/etc/sitebdii/glite-info-site-defaults.conf", 2),
        value("DEFAULT", "SITE_NAME", "B", SITE, 4),
    ]
    (finding,) = across.site_names(values)
    assert (
        str(finding)
        == f"{CASO}:12: site_name: 'A' here, 'B' in {SITE}:4; write GOCDB's name in both"
    )
    assert finding.identifier == "C22.a"
    assert list(across.site_names(values[1:])) == []
    assert [one.path for one in across.site_names([*values[:1], *values[1:3]])] == [CASO]
    # The odd one out is named, also if it is site.cfg itself: three files are right.
    odd = [*values[:3], value("DEFAULT", "SITE_NAME", "C", SITE, 4)]
    odd[0] = value("DEFAULT", "site_name", "B", CASO, 12)
    (finding,) = across.site_names([*odd, odd[0]])
    assert str(finding).startswith(f"{SITE}:4: SITE_NAME: 'C' here, 'B' in {CASO}:12; write GOCDB")
    # a default
    assert (
        list(across.site_names([values[0], value("DEFAULT", "SITE_NAME", "host", SITE, 0)])) == []
    )


def test_records_go_where_the_sender_looks() -> None:
    """C40.b, F-H6."""
    written, read = "/var/spool/apel/outgoing/other", "/var/spool/apel/outgoing/openstack"
    values = [
        value("ssm", "output_path", written, CASO, 110),
        value("messaging", "path", read, SENDER, 0),
    ]
    (finding,) = across.spools(values)
    assert (finding.identifier, finding.path, finding.line) == ("C40.b", CASO, 110)
    assert (
        finding.text
        == f"records go to {written}, but {SENDER} sends from {read}; write one path in both"
    )
    assert list(across.spools([value("ssm", "output_path", f"{read}/", CASO), values[1]])) == []
    assert list(across.spools(values[:1])) == []


def test_records_of_each_kind_go_where_a_sender_looks() -> None:
    outgoing, further = "/var/spool/apel/outgoing", "/etc/apel/sender.d/storage.cfg"
    cloud = [
        value("ssm", "output_path", f"{outgoing}/openstack", CASO, 0),
        value("messaging", "path", f"{outgoing}/openstack", SENDER, 33),
    ]
    storage = value("ssm", "output_path_storage", f"{outgoing}/openstack-storage", CASO, 12)
    # The default of a kind that nobody has asked for is not read.
    unset = value("ssm", "output_path_ip", f"{outgoing}/openstack-ip", CASO, 0)
    (finding,) = across.spools([*cloud, storage, unset])
    assert str(finding) == (
        f"{CASO}:12: [ssm] output_path_storage: records go to {outgoing}/openstack-storage, but no"
        " configuration of the sender reads it; add one with this path to /etc/apel/sender.d, or"
        " correct the path"
    )
    reader = value("messaging", "path", f"{outgoing}/openstack-storage", further, 33)
    assert list(across.spools([*cloud, storage, unset, reader])) == []
    # The order of the files does not matter.
    assert list(across.spools([reader, *reversed(cloud), storage])) == []


def test_each_destination_for_tests_is_found() -> None:
    further = "/etc/apel/sender.d/storage.cfg"
    values = [
        value("messaging", "destination", "eu-egi-cloud-accounting", SENDER, 7),
        value("messaging", "destination", "storage-test", further, 8),
    ]
    (finding,) = across.test_destinations(values, "egi")
    assert (finding.path, finding.line) == (further, 8)


@pytest.mark.parametrize(
    ("section", "option", "text", "is_found"),
    [
        ("broker", "host", "msg-devel.argo.grnet.gr", True),
        ("broker", "host", "test-msg01.example.org", True),
        ("broker", "host", "msg.argo.grnet.gr", False),
        ("broker", "host", "latest.example.org", False),
        ("messaging", "destination", "/queue/global.accounting.test.cloud.central", True),
        ("messaging", "destination", "eu-egi-cloud-accounting", False),
    ],
)
def test_a_production_site_sends_to_no_test_federation(
    section: str, option: str, text: str, is_found: bool
) -> None:
    """C24.a, F-H6: only with the profile egi."""
    values = [value(section, option, text, SENDER, 7)]
    found = list(across.test_destinations(values, "egi"))
    assert [(one.identifier, one.line) for one in found] == ([("C24.a", 7)] if is_found else [])
    assert list(across.test_destinations(values, "private")) == []


# --------------------------------------------------------------------------------------------------
# the command


@dataclass
class Site:
    """A host's files, its engine, and what answers in docker-compose's place."""

    root: Path
    place: Path
    engine: docker_engine.Engine

    def write(self, name: str, text: str) -> Path:
        path = self.root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def answer(self, service: str, *lines: object, status: int = 0, first: bool = False) -> None:
        reported = "".join(f"{line}\n" for line in said(*lines, status=status)[2:])
        (self.place / (f"{service}.first" if first else service)).write_text(reported)

    def check(
        self, *words: str, capsys: pytest.CaptureFixture[str]
    ) -> tuple[int, list[dict[str, Any]]]:
        status = main(["check", "--offline", "--json", *words, "--root", str(self.root)])
        shown = capsys.readouterr()
        assert "Traceback" not in shown.err
        return status, json.loads(shown.out)["findings"]

    def asked(self) -> list[str]:
        path = self.place / "asked"
        names = path.read_text().split() if path.exists() else []
        path.unlink(missing_ok=True)
        return names


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    place = tmp_path / "place"
    place.mkdir()
    program = place / "docker-compose"
    program.write_text(STAND_IN)
    program.chmod(0o755)
    (place / "version").write_text("1.29.2\n")
    monkeypatch.setattr(space, "IMAGES", 0)
    (tmp_path / "root/image_data").mkdir(parents=True)
    with (
        tempfile.TemporaryDirectory(prefix="e") as short,
        docker_engine.serve(Path(short)) as engine,
    ):
        made = Site(tmp_path / "root", place, engine)
        for name in CONTAINERS:
            engine.images[f"egifedcloud/{name}:{VERSION}"] = "sha256:1"
        made.write("etc/fedcloud/docker-compose.yml", "services: {}\n")
        made.write("etc/fedcloud/networks/bridge.yml", "services: {}\n")
        made.write("etc/fedcloud/appliance.env", f"FEDCLOUD_VERSION={VERSION}\n")
        made.write(
            "etc/fedcloud/appliance.yaml",
            f"engine:\n  socket: {engine.socket}\n  compose: {program}\nflows:\n  images: on\n",
        )
        yield made


@pytest.mark.parametrize(
    ("words", "services"),
    [
        (["caso"], ["caso"]),
        (["bdii"], ["cloudbdii", "sitebdii"]),
        (["cloudkeeper-os", "cloudkeeper"], ["cloudkeeper-os", "cloudkeeper"]),
    ],
)
def test_jobs_services_and_units_can_be_checked(
    site: Site, words: list[str], services: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert site.check(*words, capsys=capsys) == (0, [])
    assert sorted(site.asked()) == sorted(services)


def test_without_a_name_everything_that_is_on_is_checked(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    """F-H7: what is off is left alone, and green."""
    settings_file = site.root / "etc/fedcloud/appliance.yaml"
    settings_file.write_text(settings_file.read_text() + "  accounting: off\n")
    assert main(["check", "--offline", "--root", str(site.root)]) == 0
    assert sorted(site.asked()) == ["cloudbdii", "cloudkeeper", "cloudkeeper-os", "sitebdii"]
    shown = capsys.readouterr().out
    assert "caso: not started: the flow accounting is off" in shown
    assert shown.endswith("cloudkeeper, cloudbdii, sitebdii, cloudkeeper-os: nothing found\n")


def test_networks_that_are_missing_are_made_by_one_container(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    """Compose 1.29 makes a network twice if two commands need it, and then no service starts."""
    site.write(
        "etc/fedcloud/networks/bridge.yml",
        "services:\n  sitebdii:\n    networks: [ldap]\n  job:\n    networks:\n      out: {}\n",
    )
    names = ["caso", "cloudkeeper", "cloudbdii", "sitebdii", "cloudkeeper-os"]
    program = site.place / "docker-compose"
    program.write_text(STAND_IN.replace("echo 'Cr", "mkdir alone || exit 9\nsleep 0.1\necho 'Cr"))
    with program.open("a") as file:
        file.write("rmdir alone\n")
    assert site.check(*names, capsys=capsys) == (0, [])
    assert site.asked() == names
    site.engine.networks += ["ldap", "out"]
    status, _ = site.check(*names, capsys=capsys)
    assert status == 1  # now some run at the same time, which this stand-in refuses


def test_findings_are_a_table_with_the_errors_first(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.answer(
        "caso", problem(9, "b", "odd", is_fatal=False), problem(12, "a", "wrong; write b"), status=2
    )
    assert main(["check", "--offline", "caso", "--root", str(site.root)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [
        ["C21", "error", "caso", f"{CASO}:12:", "a:", "wrong;", "write", "b"],
        ["C21", "warning", "caso", f"{CASO}:9:", "b:", "odd"],
        ["caso:", "1", "error,", "1", "warning"],
    ]


def test_a_file_that_is_being_written_is_read_again(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half of a file looks like a fault; one that stays is one."""
    path = site.write("etc/caso/caso.conf", "x")
    fault = problem(3, "", "neither 'option = value' nor a [section]", path=str(path))
    site.answer("caso", fault, status=2, first=True)
    assert site.check("caso", capsys=capsys) == (0, [])
    assert site.asked() == ["caso", "caso"]
    site.answer("caso", fault, status=2)
    os.utime(path, (time.time() - 60, time.time() - 60))
    status, findings = site.check("caso", capsys=capsys)
    assert (status, len(findings)) == (1, 1)
    assert site.asked() == ["caso"]


def test_what_docker_compose_cannot_do_is_a_finding(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    """F-H10: nothing could be asked: 3; with another program that answers: 1."""
    text = (
        'ERROR: for x  invalid mount config for type "bind": bind source path does not '
        "exist: /etc/caso/caso.conf\n"
    )
    (site.place / "caso.fails").write_text(text)
    status, (finding,) = site.check("caso", capsys=capsys)
    assert (status, finding["path"]) == (3, "/etc/caso/caso.conf")
    assert (
        finding["text"] == "does not exist, but caso mounts it; "
        "run the bundle's install again, which writes the shipped file"
    )
    assert site.check("caso", "sitebdii", capsys=capsys)[0] == 1


@pytest.mark.parametrize(
    ("network", "project"), [("bridge", "fedcloud"), ("host", "fedcloud-check")]
)
def test_a_service_that_runs_in_the_host_s_network_can_be_checked(
    site: Site, network: str, project: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """F-H2: in its own project, because the engine rejects links in the host's network."""
    path = f"etc/fedcloud/networks/{network}.yml"
    shutil.copy(TOP / path, site.root / path)
    site.write(
        "etc/fedcloud/appliance.env", f"FEDCLOUD_VERSION={VERSION}\nFEDCLOUD_NETWORK={network}\n"
    )
    program = site.place / "docker-compose"
    program.write_text(STAND_IN.replace("for service", 'echo "$@" >calls\nfor service'))
    assert site.check("cloudkeeper-os", capsys=capsys) == (0, [])
    assert f"-p {project} " in (site.place / "calls").read_text()


def test_an_engine_that_is_down_and_an_image_that_is_missing(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    """C04.a, C04.c."""
    del site.engine.images[f"egifedcloud/caso:{VERSION}"]
    status, (finding,) = site.check("caso", capsys=capsys)
    assert (status, finding["id"]) == (3, "C04.c")
    text = (
        (site.root / "etc/fedcloud/appliance.yaml").read_text().replace("docker.sock", "gone.sock")
    )
    site.write("etc/fedcloud/appliance.yaml", text)
    status, (finding,) = site.check("caso", capsys=capsys)
    assert (status, finding["id"]) == (3, "C04.a")
    assert "systemctl start docker" in finding["text"]
    for verb in ("accounts", "export-site-yaml"):  # they ask the same programs
        assert main([verb, "--root", str(site.root)]) == 3
        (line,) = capsys.readouterr().err.splitlines()
        assert "gone.sock: the Docker engine does not run; see systemctl status docker" in line
        assert ": : " not in line


def test_the_host_s_engine_compose_and_images(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    """C04.b, C04.c, C04.d: each image is reported once, also one whose program is not checked."""
    assert site.check("--only", "C04", capsys=capsys) == (0, [])
    (site.place / "version").write_text("1.27.4\n")
    status, (finding,) = site.check("--only", "C04", capsys=capsys)
    assert (status, finding["id"]) == (1, "C04.b")
    assert "is Compose 1.27.4; 1.29 is the oldest that works" in finding["text"]
    (site.place / "version").write_text("1.29.2\n")
    for name in ("cloud-info", "caso"):
        tag = f"egifedcloud/{name}:{VERSION}"
        identifier = site.engine.images.pop(tag)
        status, (finding,) = site.check("--only", "C04", capsys=capsys)
        assert (status, finding["id"]) == (1, "C04.c")
        assert tag in finding["text"]
        site.engine.images[tag] = identifier
    tag, other = f"egifedcloud/caso:{VERSION}", f"sha256:{'1' * 64}"
    site.write("etc/fedcloud/images.lock", f"caso {tag} {other}\n")
    status, (finding,) = site.check("--only", "C04", capsys=capsys)
    assert finding["id"] == "C04.d"
    site.engine.images[tag] = other
    assert site.check("--only", "C04", capsys=capsys) == (0, [])
    (site.place / "docker-compose").unlink()
    _, findings = site.check("--only", "C04", capsys=capsys)
    assert {one["id"] for one in findings} >= {"C04.b"}


def test_a_misspelt_name_is_one_line_with_the_nearest(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "--offline", "csao", "--root", str(site.root)]) == 2
    assert "csao: there is no such job or service; did you mean caso?" in capsys.readouterr().err


def test_an_unknown_name_is_one_line_with_each_known_name_once(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    for verb in ("check", "images"):
        assert main([verb, "zzz", "--root", str(site.root)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        names = line.partition("write one of ")[2].split(", ")
        assert "cloudkeeper-os" in names
        assert len(set(names)) == len(names)


@pytest.mark.parametrize("form", ["--json", "--nagios"])
def test_a_host_without_any_program_is_not_healthy(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A misspelt directory, or a host where nothing was installed."""
    assert main(["check", "--offline", form, "--root", str(tmp_path)]) == 3
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "has neither the appliance nor a file of cASO, SSM or cloud-info-provider" in err


def test_the_host_s_own_files_are_checked_too(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    """C21.a, C21.d, F-H6."""
    env = site.root / "etc/fedcloud/appliance.env"
    env.write_text(f"FEDCLOUD_VERSION={VERSION}\nFEDCLOUD_CABUNDLE=/x\n")
    for name in ("cloudkeeper", "cloudkeeper-os"):
        site.write(f"etc/{name}/cloudkeeper-os.conf", "[DEFAULT]\n")
    status, findings = site.check("cloudkeeper-os", capsys=capsys)
    assert status == 1
    assert [(one["id"], Path(one["path"]).name, one["line"]) for one in findings] == [
        ("C21.d", "cloudkeeper-os.conf", 0),
        ("C21.a", "appliance.env", 2),
    ]
    env.write_text("FEDCLOUD_VERSION=1\nFEDCLOUD_VERSION=2\n")
    assert main(["check", "--offline", "--root", str(site.root)]) == 2
    assert (
        "appliance.env:2: FEDCLOUD_VERSION: is set a second time; first in line 1"
        in capsys.readouterr().err
    )


def test_vo_tables_that_contradict_each_other(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    """C23.c: names are compared with names, ids with ids, also in the catch-all's form."""
    one, other = "0" * 32, "1" * 32
    site.write(
        "etc/caso/voms.json",
        f'{{"ops": {{"projects": ["{one}"]}},\n "vo": {{"projects": ["name"]}}}}\n',
    )
    site.write(
        "etc/voms.json",
        f'{{"ops": {{"projects": ["{other}"]}},\n "vo": {{"projects": ["{one}"]}}}}\n',
    )
    layout = Layout(site.root)
    host = settings.load(layout)
    (finding,) = across.vo_tables(host, layout, services=["caso", "cloudkeeper-os"])
    assert (finding.identifier, finding.line, finding.option) == ("C23.c", 1, "ops")
    assert f"serves {one} here, {other} in {site.root}/etc/voms.json:1" in finding.text
    site.write(
        "etc/cloud-info-provider/openstack.yaml",
        f"compute:\n  shares:\n    ops:\n      auth:\n        project_id: {one}\n",
    )
    (finding,) = across.vo_tables(host, layout, services=["cloudkeeper-os", "cloudbdii"])
    assert (
        f"{other} here, {one} in {site.root}/etc/cloud-info-provider/openstack.yaml:5"
        in finding.text
    )
    site.write(
        "etc/cloud-info-provider/openstack.yaml",
        f"gocdb: SITE\nendpoint: https://k.example.org\nvos:\n- name: vo\n  auth: {{}}\n"
        f"- name: ops\n  auth:\n    project_id: {one}\n",
    )
    (finding,) = across.vo_tables(host, layout, services=["cloudkeeper-os", "cloudbdii"])
    assert (
        f"{other} here, {one} in {site.root}/etc/cloud-info-provider/openstack.yaml:8"
        in finding.text
    )
    site.write("etc/voms.json", "{")  # the program that reads it says so
    assert list(across.vo_tables(host, layout, services=["cloudkeeper-os", "cloudbdii"])) == []


# --------------------------------------------------------------------------------------------------
# certificates and lists


@pytest.mark.parametrize(
    ("days", "count", "words"),
    [(0, 2, ""), (9, 2, "its newest revocation list is 9 days old"), (0, 0, "holds no")],
)
def test_revocation_lists_that_nobody_fetches(
    tmp_path: Path, days: int, count: int, words: str
) -> None:
    """C10.g, F-H6: in a directory with many files, broken ones among them."""
    directory = tmp_path / "etc/grid-security/certificates"
    directory.mkdir(parents=True)
    (directory / "0a1b2c3d.0").write_text("no certificate")
    now = datetime.now(UTC)
    for number in range(count):
        path = directory / f"{number:08x}.r0"
        path.write_bytes(b"\0broken")
        os.utime(path, (now.timestamp() - days * 86400 - 5,) * 2)
    found = [str(one) for one in certificates.stale_lists(Layout(tmp_path), at=now)]
    assert len(found) == bool(words)
    assert all(words in line and "appliance run fetch-crl" in line for line in found)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Creating fedcloud_caso_run ... ", True),
        ("\x1b[1A\x1b[2K\rCreating fedcloud_caso_run ... \x1b[32mdone\x1b[0m\r\x1b[1B", True),
        ('Creating network "fedcloud_out" with the default driver', True),
        (" Container fedcloud-caso-run-1  Created", True),
        ('time="2026-11-29T00:00:00Z" level=warning msg="no version"', True),
        ("Some networks were defined but are not used by any service: out, bdii", True),
        ("2", True),
        ("", True),
        ("Starting today", False),
        ("ERROR: for x  no", False),
        ("2026-11-29 00:00:00,000 - ssmsend - INFO - Starting sending SSM version 1.", False),
    ],
)
def test_docker_compose_s_own_words(line: str, expected: bool) -> None:
    """F-H12."""
    assert compose_output.is_noise(line) is expected


def test_without_containers_the_program_is_asked_as_its_job_runs(
    site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """F-H6: on a host without an engine; the account needs no access to the test's directory."""
    site.write("var/lib/fedcloud/runtime", "native\n")
    program = site.write("opt/fedcloud/current/bin/caso-extract", "")
    finding = json.dumps(problem(12, "site_name", "must be set"))
    program.write_text(
        f"#!/bin/sh\ntest \"$*\" = '--check-config --log-json' || exit 9\necho '{finding}' "
        f">&2\nexit 2\n"
    )
    program.chmod(0o755)
    command = native.command
    monkeypatch.setattr(native, "command", lambda *words, **more: command(*words, **more)[-3:])
    (site.root / "etc/fedcloud/docker-compose.yml").unlink()
    status, (found,) = site.check("caso", capsys=capsys)
    assert (status, found["path"], found["line"], found["program"]) == (1, CASO, 12, "caso")
    program.unlink()
    status, (found,) = site.check("caso", capsys=capsys)
    assert (status, found["path"]) == (3, str(program))
