"""`appliance vo` at a real Keystone with federation: members of the VO enter, nobody else."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from appliance.admin.command import main
from tests.testbed import Testbed
from tests.testbed.api import KEYSTONE
from tests.unit.checked_site import CASO, VOS

pytestmark = [pytest.mark.cloud, pytest.mark.root, pytest.mark.matrix, pytest.mark.timeout(900)]

VO, PROVIDER = "vo.joined.example", "egi-joined"
PLACE = f"/OS-FEDERATION/identity_providers/{PROVIDER}"
MAPPING = "/OS-FEDERATION/mappings/egi-joined"
OTHER = {
    "local": [{"user": {"name": "{0}"}, "group": {"name": "staff", "domain": {"name": "Default"}}}],
    "remote": [
        {"type": "HTTP_OIDC_SUB"},
        {"type": "HTTP_OIDC_ISS", "any_one_of": ["https://campus.example/é"]},
    ],
}
GROUP = "urn:mace:egi.eu:group"
ANOTHER_VO = {
    "local": [
        {
            "user": {"type": "ephemeral", "name": "{0}"},
            "group": {"name": "another", "domain": {"name": "Default"}},
        }
    ],
    "remote": [
        {"type": "HTTP_OIDC_SUB"},
        {"type": "HTTP_OIDC_ISS", "any_one_of": ["https://aai.egi.eu/auth/realms/egi"]},
        {
            "type": "HTTP_OIDC_EDUPERSON_ENTITLEMENT",
            "any_one_of": [f"{GROUP}:vo.another.example:role=vm_operator#aai.egi.eu"],
        },
    ],
}
"""Its claim has the name that a header of HTTP has here, where no Apache stands before Keystone."""
CONF = """\
[DEFAULT]
site_name = TEST-SITE
projects = {ops}
caso_tag =
messengers = noop
[keystone_auth]
auth_type = v3password
auth_url = {url}
username = accounting
password = {password}
user_domain_name = Default
cafile = {ca}
"""


@pytest.fixture
def federation(testbed: Testbed) -> Iterator[None]:
    admin = testbed.admin()
    admin.put(KEYSTONE, PLACE, {"identity_provider": {"enabled": True}})
    admin.put(KEYSTONE, MAPPING, {"mapping": {"rules": [OTHER, ANOTHER_VO]}})
    admin.put(KEYSTONE, f"{PLACE}/protocols/mapped", {"protocol": {"mapping_id": "egi-joined"}})
    yield
    admin.call("DELETE", KEYSTONE, PLACE)
    admin.call("DELETE", KEYSTONE, MAPPING)
    for kind in ("project", "group"):
        for one in admin.get(KEYSTONE, f"/{kind}s?name={VO}")[f"{kind}s"]:
            admin.call("DELETE", KEYSTONE, f"/{kind}s/{one['id']}")


@pytest.fixture
def root(testbed: Testbed, tmp_path: Path) -> Path:
    """Return a site beside the upstream tools that accounts one VO."""
    seed = testbed.seed()
    for name, text in {
        CASO: CONF.format(
            ops=seed.projects["vo-ops"].id,
            url=testbed.keystone_url,
            password=seed.accounts["accounting"].password,
            ca=testbed.ca_file,
        ),
        VOS: "{}",
    }.items():
        path = tmp_path / "site" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(text)
    (tmp_path / "site/var/spool/caso").mkdir(parents=True)
    return tmp_path / "site"


@pytest.fixture
def login(testbed: Testbed, tmp_path: Path) -> list[str]:
    """Return the administrator's login as flags."""
    password = (testbed.layout.secrets / "admin").read_text().strip()
    path = tmp_path / "openrc"
    path.touch(mode=0o600)
    path.write_text(
        f"OS_AUTH_URL={testbed.keystone_url}\nOS_USERNAME=admin\nOS_PASSWORD='{password}'\n"
        "OS_USER_DOMAIN_NAME=Default\nOS_PROJECT_NAME=admin\nOS_PROJECT_DOMAIN_NAME=Default\n"
        f"OS_CACERT={testbed.ca_file}\n"
    )
    return ["--openrc", str(path), "--identity-provider", PROVIDER, "--protocol", "mapped"]


def ran(capsys: pytest.CaptureFixture[str], *words: str, expect: int = 0) -> str:
    status = main(["vo", *words])
    out, err = capsys.readouterr()
    assert status == expect, (out, err)
    return out


def entered(testbed: Testbed, entitlements: str) -> list[str]:
    """Return the projects of a user whom the web server before Keystone has these claims of."""
    url = f"{testbed.keystone_url}{PLACE}/protocols/mapped/auth"
    claims = {
        "OIDC-sub": "user-1",
        "OIDC-iss": "https://aai.egi.eu/auth/realms/egi",
        "OIDC-eduperson-entitlement": entitlements,
    }
    answer = requests.get(url, headers=claims, verify=str(testbed.ca_file), timeout=60)
    if answer.status_code != 201:
        return []
    token = {"X-Auth-Token": answer.headers["X-Subject-Token"]}
    listed = requests.get(
        f"{testbed.keystone_url}/auth/projects",
        headers=token,
        verify=str(testbed.ca_file),
        timeout=60,
    )
    return [one["name"] for one in listed.json()["projects"]]


def rules(testbed: Testbed) -> str:
    """Return the rules as Keystone keeps them, from its database."""
    database = testbed.layout.database("keystone")
    shown = subprocess.run(
        ["sqlite3", f"file:{database}?mode=ro", "select rules from mapping where id='egi-joined'"],
        capture_output=True,
        text=True,
        check=True,
    )
    return str(json.loads(shown.stdout))  # its column is JSON, which holds a text of JSON


def test_a_vo_joins_and_leaves(
    testbed: Testbed,
    federation: None,
    root: Path,
    login: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert federation is None
    file, where = str(tmp_path / "plan.json"), ["--root", str(root)]
    before = rules(testbed)
    out = ran(capsys, "plan", VO, "--cores", "7", "--output", file, *login, *where)
    assert f"+ openstack project create --domain Default --property egi.VO={VO} {VO}" in out
    assert rules(testbed) == before
    member = f"{GROUP}:{VO}:role=vm_operator#aai.egi.eu"
    assert entered(testbed, member) == []

    out = ran(capsys, "apply", file, *login[:2], *where)
    # Keystone keeps the texts: those of the other provider are the same bytes.
    assert rules(testbed).startswith(before[:-1])
    assert entered(testbed, f"{GROUP}:x:role=y#z;{member}") == [VO]
    assert entered(testbed, member.replace(".", "-")) == []
    assert entered(testbed, member.replace("vm_operator", "member")) == []
    admin = testbed.admin()
    (project,) = admin.get(KEYSTONE, f"/projects?name={VO}")["projects"]
    assert project["egi.VO"] == VO
    limits = admin.get("compute", f"/os-quota-sets/{project['id']}")["quota_set"]
    assert limits["cores"] == 7
    assert json.loads((root / VOS).read_text()) == {VO: {"projects": [project["id"]]}}
    assert "Nothing is left to change." in ran(capsys, "apply", file, *login[:2], *where)

    # The undo of the mapping is the file that it names.
    (line,) = [one for one in out.splitlines() if "mapping set" in one]
    kept: Any = json.loads(Path(shlex.split(line)[5]).read_text())
    assert kept == [OTHER, ANOTHER_VO]

    ran(capsys, "remove", VO, "--yes", *login, *where)
    assert rules(testbed) == before
    assert entered(testbed, member) == []
    ran(capsys, "remove", VO, "--yes", "--delete-project", *login, *where)
    assert admin.get(KEYSTONE, f"/projects?name={VO}")["projects"] == []


def test_a_mapping_that_changed_meanwhile(
    testbed: Testbed,
    federation: None,
    root: Path,
    login: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert federation is None
    file, where = str(tmp_path / "plan.json"), ["--root", str(root)]
    ran(capsys, "plan", VO, "--output", file, *login, *where)
    testbed.admin().call("PATCH", KEYSTONE, MAPPING, {"mapping": {"rules": [OTHER, OTHER]}})
    before = rules(testbed)
    ran(capsys, "apply", file, *login[:2], *where, expect=3)
    assert rules(testbed) == before
    assert testbed.admin().get(KEYSTONE, f"/projects?name={VO}")["projects"] == []
