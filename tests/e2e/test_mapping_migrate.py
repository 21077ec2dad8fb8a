"""caso-mapping-migrate: the commands that cASO prints, and --nodry-run on a real Keystone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.caso_site import CasoSite, extra_project, lines
from tests.testbed import Testbed, secrets

pytestmark = pytest.mark.cloud


@pytest.fixture
def site(testbed: Testbed, tmp_path: Path) -> CasoSite:
    site = CasoSite(tmp_path / "site", testbed)
    mapping = site.root / "voms.json"
    site.default |= {"mapping_file": mapping, "projects": "vo-ops,a b"}
    site.write()
    mapping.write_text(
        json.dumps({"vo.x": {"projects": ["extra"]}, "/vo.y/Role=z": {"projects": ["p2"]}})
    )
    return site


def test_the_commands_are_the_peers(site: CasoSite) -> None:
    before = site.files()
    shown = site.run("caso-mapping-migrate", "--migrate-projects")
    assert shown.stdout.splitlines() == [
        "openstack project set --property VO=vo.x extra",
        "openstack project set --property VO=/vo.y/Role=z p2",
        "openstack project set --tag caso vo-ops",
        "openstack project set --tag caso 'a b'",
    ]
    assert site.files() == before
    theirs = site.run_peer("caso-mapping-migrate", "--migrate-projects").stdout.splitlines()
    commands = [line for line in theirs if line.startswith("openstack ")]
    assert commands == [line.replace("'", "") for line in shown.stdout.splitlines()]


def test_an_ordinary_account_may_not(site: CasoSite) -> None:
    (site.root / "voms.json").write_text(json.dumps({"vo.x": {"projects": ["vo-ops"]}}))
    (line,) = lines(site.run("caso-mapping-migrate", "--nodry-run", expect=3))
    assert line.startswith("caso-mapping-migrate: project vo-ops: ")
    assert (
        "refuses: You are not authorized to perform the requested action: identity:update_project."
        in line
    )


def test_an_administrator_may(site: CasoSite) -> None:
    testbed = site.testbed
    site.login |= {
        "username": "admin",
        "password": secrets.password(testbed.layout.secrets, "admin"),
    }
    site.default |= {"projects": "extra", "caso_tag": "later"}
    site.write()
    with extra_project(testbed, tags=["kept"], role=False) as project:
        (line,) = lines(
            site.run("caso-mapping-migrate", "--nodry-run", "--migrate-projects", expect=1)
        )
        assert (
            line
            == "caso-mapping-migrate: project p2: 0 projects have this name; use the id of one "
            "of them"
        )
        reported = testbed.admin().get("identity", f"/projects/{project}")["project"]
    assert reported["VO"] == "vo.x"
    assert sorted(reported["tags"]) == ["kept", "later"]
