"""cloud-info-provider-service on a real cloud: its output agrees with the cloud's databases."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.interop import egi_profile
from tests.interop.egi_profile import Entries
from tests.interop.test_glue_profile import VOCABULARY, kinds, published
from tests.testbed import Seed, Testbed

PROGRAM = Path(sys.executable).with_name("cloud-info-provider-service")
NAMES = {
    "ExecutionEnvironment": "GLUE2ResourceID",
    "ApplicationEnvironment": "GLUE2ApplicationEnvironmentID",
}

pytestmark = pytest.mark.cloud


@dataclass(frozen=True)
class Shown:
    """The exit status, output and record of a run."""

    status: int
    out: str
    err: str
    record: dict[str, object]

    def entries(self, directory: Path) -> Entries:
        return egi_profile.load(self.out, directory)


@dataclass(frozen=True)
class Provider:
    """A site's root directory with the two files, and the program that reads them."""

    root: Path
    testbed: Testbed
    seed: Seed

    @property
    def rc(self) -> Path:
        return self.root / "etc/cloud-info-provider/openstack.rc"

    @property
    def yaml(self) -> Path:
        return self.root / "etc/cloud-info-provider/openstack.yaml"

    def configure(
        self, *, account: str = "information", shares: dict[str, str] | None = None
    ) -> None:
        """Write both files; ``shares`` maps VOs to projects, by default all VOs."""
        user = self.seed.accounts[account]
        if shares is None:
            shares = {
                project.vo: project.id for project in self.seed.projects.values() if project.vo
            }
        self.rc.parent.mkdir(parents=True, exist_ok=True)
        self.rc.write_text(
            f"export OS_AUTH_URL={self.testbed.keystone_url}\nexport OS_USERNAME={user.name}\n"
            f"export OS_PASSWORD='{user.password}'\nexport OS_USER_DOMAIN_NAME=Default\n"
            f"export OS_PROJECT_NAME=vo-ops\nOS_CACERT={self.testbed.ca_file}\n"
        )
        self.rc.chmod(0o600)
        listed = "".join(
            f"    {vo}:\n      auth: {{project_id: {project}}}\n" for vo, project in shares.items()
        )
        self.yaml.write_text(
            "site:\n  name: EXAMPLE-SITE\ncompute:\n  total_cores: 1000\n  total_ram: 4000\n"
            "  hypervisor: KVM\n  hypervisor_version: 8.0\n"
            + (f"  shares:\n{listed}" if listed else "")
        )

    def run(self, *flags: str) -> Shown:
        clean = {name: text for name, text in os.environ.items() if not name.startswith("OS_")}
        done = subprocess.run(
            [str(PROGRAM), "--root", str(self.root), *flags],
            capture_output=True,
            text=True,
            check=False,
            env=clean,
            timeout=240,
        )
        record = self.root / "var/lib/fedcloud/runs/cloud-info-provider-service.json"
        return Shown(
            done.returncode,
            done.stdout,
            done.stderr,
            json.loads(record.read_text()) if record.exists() else {},
        )


@pytest.fixture
def provider(testbed: Testbed, tmp_path: Path) -> Provider:
    made = Provider(tmp_path / "site", testbed, testbed.seed())
    made.configure()
    return made


@pytest.fixture(scope="module")
def whole(testbed: Testbed, tmp_path_factory: pytest.TempPathFactory) -> tuple[Shown, Entries]:
    """Return one run over all VOs with all images, and its entries in slapd."""
    root = tmp_path_factory.mktemp("whole")
    made = Provider(root / "site", testbed, testbed.seed())
    made.configure()
    shown = made.run("--all-images")
    assert (shown.status, shown.err) == (0, "")
    return shown, shown.entries(root / "slapd")


def rows(path: Path, query: str, *values: str) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return database.execute(query, values).fetchall()


def flavors_of(testbed: Testbed, project: str) -> set[str]:
    """Return the ids of the flavors that a project may boot, from Nova's tables."""
    query = """
        SELECT flavorid FROM flavors WHERE is_public = 1 AND disabled = 0
        UNION SELECT flavors.flavorid FROM flavors
        JOIN flavor_projects ON flavor_projects.flavor_id = flavors.id
        WHERE flavor_projects.project_id = ?"""
    return {row[0] for row in rows(testbed.layout.database("nova_api"), query, project)}


def images_of(testbed: Testbed, project: str) -> set[str]:
    """Return the ids of the active images that a project may boot, from Glance's tables."""
    query = """
        SELECT id FROM images WHERE status = 'active' AND deleted = 0 AND (
          visibility = 'public' OR owner = ?
          OR id IN (SELECT image_id FROM image_members
                    WHERE member = ? AND status = 'accepted' AND deleted = 0))"""
    return {row[0] for row in rows(testbed.layout.database("glance"), query, project, project)}


def of_vo(entries: Entries, kind: str, vo: str) -> set[str]:
    """Return OpenStack's ids of the flavors or images that are published for a VO."""
    return {
        re.sub(r"^.*#([0-9a-f-]+)_https://.*$", r"\1", entry[NAMES[kind]][0])
        for entry in entries.values()
        if f"GLUE2{kind}" in entry["objectClass"] and f"VO={vo}" in entry["GLUE2EntityOtherInfo"]
    }


def vos(testbed: Testbed) -> Iterator[tuple[str, str]]:
    return ((project.vo, project.id) for project in testbed.seed().projects.values() if project.vo)


def test_flavors_and_images_of_each_vo_are_those_of_the_databases(
    testbed: Testbed, whole: tuple[Shown, Entries]
) -> None:
    """R06: the account `information` has the role `reader` in the projects, and no other."""
    for vo, project in vos(testbed):
        assert of_vo(whole[1], "ExecutionEnvironment", vo) == flavors_of(testbed, project)
        assert of_vo(whole[1], "ApplicationEnvironment", vo) == images_of(testbed, project)
    assert of_vo(whole[1], "ExecutionEnvironment", "biomed") > of_vo(
        whole[1], "ExecutionEnvironment", "ops"
    )


def test_a_share_names_the_flavors_of_its_vo(
    testbed: Testbed, whole: tuple[Shown, Entries]
) -> None:
    shares = {
        entry["GLUE2ShareID"][0]: entry for entry in whole[1].values() if "GLUE2ShareID" in entry
    }
    assert len(shares) == 3
    for vo, project in vos(testbed):
        entry = shares[f"{testbed.keystone_url}_cloud.compute_share_{vo}_{project}"]
        linked = {
            re.sub(r"^.*#([0-9a-f-]+)_https://.*$", r"\1", key)
            for key in entry["GLUE2ShareResourceForeignKey"]
        }
        assert linked == flavors_of(testbed, project)


def test_servers_and_quotas_are_those_of_the_databases(
    testbed: Testbed, whole: tuple[Shown, Entries]
) -> None:
    for vo, project in vos(testbed):
        info = next(
            entry["GLUE2EntityOtherInfo"]
            for entry in whole[1].values()
            if "GLUE2ShareID" in entry and f"VO={vo}" in entry["GLUE2EntityOtherInfo"]
        )
        query = """
            SELECT vm_state, count(*) FROM instances
            WHERE project_id = ? AND deleted = 0 GROUP BY vm_state"""
        states = {
            state: int(number) for state, number in rows(testbed.nova_database, query, project)
        }
        halted, suspended = states.get("stopped", 0), states.get("suspended", 0)
        total = sum(states.values())
        assert {
            f"TotalVM={total}",
            f"HaltedVM={halted}",
            f"SuspendedVM={suspended}",
            f"RunningVM={total - halted - suspended}",
        } <= set(info)
        query = "SELECT resource, hard_limit FROM quotas WHERE project_id = ?"
        quotas = {
            f"quota_{name}={limit}"
            for name, limit in rows(testbed.layout.database("nova_api"), query, project)
        }
        assert quotas
        assert quotas <= set(info)


def test_the_published_tree_passes_the_profile(
    whole: tuple[Shown, Entries], tmp_path: Path
) -> None:
    found = egi_profile.findings(egi_profile.load(published(whole[0].out), tmp_path))
    assert kinds(found) <= VOCABULARY


def test_the_certificate_s_issuer_is_the_one_that_openssl_shows(
    testbed: Testbed, whole: tuple[Shown, Entries]
) -> None:
    certificate = subprocess.run(
        [
            "openssl",
            "x509",
            "-in",
            str(testbed.ca_file),
            "-noout",
            "-subject",
            "-nameopt",
            "compat",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    (endpoint,) = (entry for entry in whole[1].values() if "GLUE2EndpointID" in entry)
    assert endpoint["GLUE2EndpointIssuerCA"] == [certificate.removeprefix("subject=")]
    assert endpoint["GLUE2EndpointURL"] == [testbed.layout.url("nova")]


def test_without_all_images_only_those_of_the_marketplace(
    testbed: Testbed, provider: Provider, tmp_path: Path
) -> None:
    shown = provider.run()
    entries = shown.entries(tmp_path / "slapd")
    query = """
        SELECT image_id, value FROM image_properties
        WHERE name = 'vmcatcher_event_ad_mpuri' AND deleted = 0"""
    marketplace = {row[0]: row[1] for row in rows(testbed.layout.database("glance"), query)}
    offered: set[str] = set()
    for vo, project in vos(testbed):
        assert (
            of_vo(entries, "ApplicationEnvironment", vo)
            == images_of(testbed, project) & marketplace.keys()
        )
        offered |= images_of(testbed, project)
    urls = {
        entry["GLUE2ApplicationEnvironmentRepository"][0]
        for entry in entries.values()
        if "GLUE2ApplicationEnvironmentID" in entry
    }
    assert urls == {url for image, url in marketplace.items() if image in offered}


def test_two_runs_print_the_same_bytes(provider: Provider) -> None:
    first, second = provider.run("--all-images"), provider.run("--all-images")
    assert first.out == second.out
    assert first.out.isascii()


def test_five_requests_a_vo_and_one_more(testbed: Testbed, provider: Provider) -> None:
    agents = {
        "keystone": "egi-fedcloud-appliance",
        "nova": "egi-fedcloud-appliance",
        "glance": "python-glanceclient",
    }

    def counted() -> dict[str, int]:
        return {
            name: testbed.access_log(name).read_text().count(agent)
            for name, agent in agents.items()
        }

    before = counted()
    shown = provider.run()
    sent = {name: number - before[name] for name, number in counted().items()}
    # For each VO a token, flavors, servers, quotas and images; Nova's version document once.
    assert sent == {"keystone": 3, "nova": 1 + 3 * 3, "glance": 3}
    assert isinstance(shown.record["counts"], dict)
    assert shown.record["counts"]["requests"] == 16


def test_a_failing_vo_is_reported_and_stops_no_other(
    testbed: Testbed, provider: Provider, tmp_path: Path
) -> None:
    projects = testbed.seed().projects
    lab = projects["local-lab"].id  # the account has no role there
    provider.configure(
        shares={
            "ops": projects["vo-ops"].id,
            "lab.example.org": lab,
            "biomed": projects["vo-biomed"].id,
        }
    )
    shown = provider.run("--all-images")
    assert shown.status == 1
    assert shown.out.endswith("\n\n# failed: lab.example.org\n\n")
    assert shown.out.count("# failed") == 1
    line = f"cloud-info-provider-service: lab.example.org: project {lab}: "
    assert shown.err.startswith(line)
    assert "openstack role add" in shown.err
    assert shown.err.count("\n") == 1
    entries = shown.entries(tmp_path / "slapd")
    for vo in ("ops", "biomed"):
        assert of_vo(entries, "ApplicationEnvironment", vo) == images_of(
            testbed, projects[f"vo-{vo}"].id
        )
    (policy,) = (entry for entry in entries.values() if "GLUE2AccessPolicy" in entry["objectClass"])
    assert "VO:lab.example.org" in policy["GLUE2PolicyRule"]
    assert isinstance(shown.record["failures"], list)
    assert [line.partition(":")[0] for line in shown.record["failures"]] == ["lab.example.org"]


def test_a_wrong_password_is_one_line_and_nothing_is_printed(provider: Provider) -> None:
    provider.rc.write_text(
        re.sub("OS_PASSWORD='.*'", "OS_PASSWORD='wrong-one'", provider.rc.read_text())
    )
    shown = provider.run()
    assert (shown.status, shown.out) == (3, "")
    assert shown.err.count("\n") == 1
    assert "wrong name, domain or password" in shown.err
    assert "wrong-one" not in shown.err
    assert shown.record["status"] == 3


def test_an_unreachable_keystone_is_reported_and_nothing_is_printed(provider: Provider) -> None:
    """F-I6: twelve lines preceded the one."""
    provider.rc.write_text(
        re.sub("OS_AUTH_URL=.*", "OS_AUTH_URL=https://127.0.0.1:9/v3", provider.rc.read_text())
    )
    shown = provider.run()
    assert (shown.status, shown.out) == (3, "")
    (line,) = shown.err.splitlines()
    assert "127.0.0.1:9: cannot be reached: connection refused" in line
    assert f"check auth_url ({provider.rc}:1)" in line


def test_an_untrusted_certificate_is_reported_and_nothing_is_printed(provider: Provider) -> None:
    provider.rc.write_text(re.sub("OS_CACERT=.*\n", "", provider.rc.read_text()))
    shown = provider.run()
    assert (shown.status, shown.out) == (3, "")
    assert "its TLS certificate is not trusted" in shown.err


def test_a_single_project_finds_its_vo_in_keystone(
    testbed: Testbed, provider: Provider, tmp_path: Path
) -> None:
    provider.configure(shares={})
    shown = provider.run("--all-images")
    assert (shown.status, shown.err) == (0, "")
    entries = shown.entries(tmp_path / "slapd")
    assert of_vo(entries, "ApplicationEnvironment", "ops") == images_of(
        testbed, testbed.seed().projects["vo-ops"].id
    )
    assert len([entry for entry in entries.values() if "GLUE2ShareID" in entry]) == 1


def test_an_application_credential_serves_its_own_project(
    testbed: Testbed, provider: Provider, tmp_path: Path
) -> None:
    credential = testbed.seed().application_credential
    project = testbed.seed().projects[credential.project]
    provider.configure(shares={str(project.vo): project.id})
    provider.rc.write_text(
        f"OS_AUTH_URL={testbed.keystone_url}\nOS_CACERT={testbed.ca_file}\n"
        f"OS_APPLICATION_CREDENTIAL_ID={credential.id}\n"
        f"OS_APPLICATION_CREDENTIAL_SECRET={credential.secret}\n"
    )
    shown = provider.run("--all-images")
    assert (shown.status, shown.err) == (0, "")
    found = of_vo(shown.entries(tmp_path / "slapd"), "ApplicationEnvironment", str(project.vo))
    assert found == images_of(testbed, project.id)


def test_a_full_disk_under_the_output_is_no_success(provider: Provider) -> None:
    with open("/dev/full", "w", encoding="ascii") as full:
        done = subprocess.run(
            [str(PROGRAM), "--root", str(provider.root)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 3
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
