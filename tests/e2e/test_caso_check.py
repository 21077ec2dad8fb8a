"""`caso check` against the test bed: each broken set-up is one line with its remedy."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import foreign
from tests.e2e.caso_site import CasoSite, extra_project
from tests.testbed import Testbed

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(900)]


@pytest.fixture
def site(testbed: Testbed, tmp_path: Path) -> CasoSite:
    return CasoSite(tmp_path / "site", testbed)


def checked(
    site: CasoSite, *flags: str, expect: int = 0, user: int | None = None
) -> tuple[list[str], subprocess.CompletedProcess[str]]:
    """Return the lines with faults, after the word."""
    command = [site.command("caso")[0], "check", *site.command("caso")[1:], *flags]
    if user is not None:
        command = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *command]
    before = site.files()
    shown = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert shown.returncode == expect, f"{shown.returncode}\n{shown.stdout}{shown.stderr}"
    assert "Traceback" not in shown.stderr
    assert str(site.login["password"]) not in shown.stdout + shown.stderr
    assert site.files() == before
    lines = [line for line in shown.stdout.splitlines() if line.startswith("FAULT ")]
    return [line.removeprefix("FAULT").strip() for line in lines], shown


def test_a_good_site(site: CasoSite) -> None:
    faults, shown = checked(site)
    assert faults == []
    host = site.testbed.keystone_url.split("/")[2]
    assert f"{host}: accepts the account 'accounting' (v3password)" in shown.stdout
    for name in ("vo-ops", "vo-biomed"):
        project = site.testbed.seed().projects[name]
        assert f"project {name} ({project.id}): VO {project.vo}" in shown.stdout
        assert f"project {name} ({project.id}): the account may read nova" in shown.stdout
    assert "their clocks agree with this host's" in shown.stdout
    assert "the account may read names of users" in shown.stdout
    assert shown.stdout.splitlines()[-1].endswith(", 0 faults")


def test_the_same_as_json(site: CasoSite) -> None:
    site.default["projects"] = "nosuch"
    site.write()
    _, shown = checked(site, "--json", expect=1)
    (fault,) = [one for one in json.loads(shown.stdout) if one["state"] == "fault"]
    assert (fault["check"], fault["subject"]) == ("projects", "project nosuch")


@pytest.mark.parametrize(
    ("change", "reported"),
    [
        ({"password": "not-the-password"}, "wrong name, domain or password; correct the account"),
        ({"cafile": None}, "its TLS certificate is not trusted"),
        ({"auth_url": "https://127.0.0.1:9/v3"}, "cannot be reached: connection refused"),
    ],
)
def test_a_login_that_fails(change: dict[str, object], reported: str, site: CasoSite) -> None:
    site.login |= change
    site.write()
    (fault,) = checked(site, expect=3)[0]
    assert reported in fault


def test_an_unknown_project_and_one_without_a_role(site: CasoSite) -> None:
    lab = site.testbed.seed().projects["local-lab"].id
    site.default["projects"] = f"nosuch, {lab}"
    site.write()
    unknown, refused = checked(site, expect=1)[0]
    grant = "openstack role add --user accounting --user-domain Default --project"
    host = site.testbed.keystone_url.split("/")[2]
    assert unknown == f"project nosuch: no project is called so at {host}; correct its name"
    assert refused.endswith(f", or: {grant} {lab} reader")


def test_a_tagged_project_without_a_role(site: CasoSite) -> None:
    with extra_project(site.testbed, tags=["caso"], role=False, VO="vo.x") as project:
        (fault,) = checked(site, expect=1)[0]
    assert "has the tag 'caso', but the account 'accounting' has no role in it" in fault
    assert fault.endswith(f"--project {project} reader")


def test_a_project_without_a_vo(site: CasoSite) -> None:
    with extra_project(site.testbed, tags=["caso"], role=True) as project:
        (fault,) = checked(site, expect=1)[0]
    assert fault.startswith(f"project extra ({project}): no VO is known for it;")
    assert f"openstack project set --property VO='name of the VO' {project}" in fault


def test_a_project_with_two_vos(site: CasoSite) -> None:
    mapping = site.root / "voms.json"
    mapping.write_text(json.dumps({"other.vo": {"projects": ["vo-ops"]}}))
    (fault,) = checked(site, "--mapping-file", str(mapping), expect=1)[0]
    assert "its sources name different VOs: ops (property VO), ops (property egi.VO), oth" in fault


def test_no_role_on_the_system_is_a_warning(site: CasoSite) -> None:
    site.login["system_scope"] = ""
    site.write()
    faults, shown = checked(site)
    assert faults == []
    assert (
        "warning the system: the account 'accounting' has no role on it: records have no"
        " GlobalUserName" in shown.stdout
    )
    assert "--system all reader" in shown.stdout


@pytest.mark.root
def test_a_spool_that_may_not_be_written(testbed: Testbed) -> None:
    """The account of the job owns the state and the configuration, and root the spool."""
    with foreign.open_to_all() as directory:
        authority = directory / "ca.pem"
        shutil.copy(testbed.ca_file, authority)
        site = CasoSite(directory / "site", testbed, login={"cafile": authority})
        for path in (directory, *directory.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        site.configuration.chmod(0o600)
        for path in (site.state, site.configuration):
            shutil.chown(path, foreign.NOBODY, foreign.NOBODY)
        (fault,) = checked(site, expect=1, user=foreign.NOBODY)[0]
    cause = "permission denied (a directory of user 0, mode 0755)"
    assert fault.startswith(f"{site.spool}: {cause};")
    assert fault.endswith(f"chown -R {foreign.NOBODY}:{foreign.NOBODY} {site.spool}")


def test_a_broken_checkpoint_and_one_in_the_future(site: CasoSite) -> None:
    projects = site.testbed.seed().projects
    (site.state / f"lastrun.{projects['vo-ops'].id}").write_text("")
    future = site.state / f"lastrun.{projects['vo-biomed'].id}"
    future.write_text("2999-01-01 00:00:00+00:00")
    faults = checked(site, expect=1)[0]
    assert len(faults) == 2
    assert any("has no time from which to go on" in fault for fault in faults)
    assert any(f"{future}: has the time 2999-01-01" in fault for fault in faults)


def test_a_region_that_does_not_exist(site: CasoSite) -> None:
    site.default["region_name"] = "Atlantis"
    site.write()
    faults = checked(site, expect=1)[0]
    assert len(faults) == 3
    assert all("no public endpoint for compute in region Atlantis" in fault for fault in faults)


def test_a_name_that_gocdb_has_not(site: CasoSite) -> None:
    site.default["site_name"] = "My site"
    site.write()
    (fault,) = checked(site, expect=1)[0]
    assert fault.startswith("site_name: 'My site' has characters that no short name in GOCDB has")
