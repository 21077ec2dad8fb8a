"""`appliance accounts` at a real Keystone: its commands suffice, and its remedies help."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from appliance.admin.command import main
from tests.e2e.openstack_client import OpenstackClient
from tests.testbed import Testbed
from tests.testbed.api import KEYSTONE

pytestmark = [pytest.mark.cloud, pytest.mark.root, pytest.mark.matrix, pytest.mark.timeout(900)]

USERS = ("least-accounting", "least-information", "least-images")
FILES = {
    "etc/caso/caso.conf": """\
[DEFAULT]
site_name = TEST-SITE
projects = {ops}, {biomed}
caso_tag =
extractor = nova, cinder, neutron
messengers = noop
[keystone_auth]
auth_type = v3password
auth_url = {url}
username = least-accounting
password = s3cret-accounting
user_domain_name = Default
cafile = {ca}
""",
    "etc/cloud-info-provider/openstack.rc": """\
export OS_AUTH_URL={url}
export OS_USERNAME=least-information
export OS_PASSWORD=s3cret-information
export OS_USER_DOMAIN_NAME=Default
export OS_CACERT={ca}
""",
    "etc/cloud-info-provider/openstack.yaml": """\
site: {{name: TEST-SITE}}
compute:
  total_cores: 10
  total_ram: 40
  hypervisor: KVM
  hypervisor_version: 8.0
  shares:
    ops: {{auth: {{project_id: {ops}}}}}
    biomed: {{auth: {{project_id: {biomed}}}}}
""",
    "etc/cloudkeeper-os/cloudkeeper-os.conf": """\
[DEFAULT]
mapping_file = {root}/etc/cloudkeeper-os/mapping.json
image_dir = {root}/images
[keystone_authtoken]
auth_url = {url}
username = least-images
password = s3cret-images
user_domain_name = Default
cafile = {ca}
""",
    "etc/cloudkeeper-os/mapping.json": (
        '{{"ops": {{"projects": ["{ops}"]}}, "biomed": {{"projects": ["{biomed}"]}}}}'
    ),
}


@dataclass
class Site:
    """The files of a site beside the upstream tools, and the cloud's administrator."""

    root: Path
    bed: Testbed
    capsys: pytest.CaptureFixture[str]

    def write(self) -> None:
        seed = self.bed.seed()
        for name, text in FILES.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            filled = text.format(
                ops=seed.projects["vo-ops"].id,
                biomed=seed.projects["vo-biomed"].id,
                url=self.bed.keystone_url,
                ca=self.bed.ca_file,
                root=self.root,
            )
            path.write_text(filled)
        for name in ("images", "var/spool/caso"):
            (self.root / name).mkdir(parents=True)

    def ran(self, *words: str, expect: int = 0) -> str:
        status = main(
            ["accounts", "accounting", "information", "images", *words, "--root", str(self.root)]
        )
        out, err = self.capsys.readouterr()
        assert status == expect, (out, err)
        assert "s3cret" not in out + err
        return out


@pytest.fixture
def client(testbed: Testbed) -> Iterator[OpenstackClient]:
    admin = testbed.admin()
    passwords = {name: f"s3cret-{name.partition('-')[2]}" for name in USERS}
    yield OpenstackClient(admin, passwords)
    for user in admin.get(KEYSTONE, "/users")["users"]:
        if user["name"] in USERS:
            admin.call("DELETE", KEYSTONE, f"/users/{user['id']}")


@pytest.fixture
def site(testbed: Testbed, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Site:
    made = Site(tmp_path / "site", testbed, capsys)
    made.write()
    return made


def test_the_commands_suffice_and_each_remedy_helps(site: Site, client: OpenstackClient) -> None:
    """C30 to C36: silent with the printed rights; one too few and two too many are found."""
    for account in json.loads(site.ran("--json"))["accounts"]:
        for line in account["commands"]:
            client.type(line)
    assert site.ran("--check").startswith("0 rights to change")

    seed = site.bed.seed()
    ops, lab = seed.projects["vo-ops"].id, seed.projects["local-lab"].id
    of = "--user least-information --user-domain Default"
    client.type(f"openstack role remove {of} --project {ops} reader")
    client.type(f"openstack role add {of} --project {lab} reader")
    of = "--user least-accounting --user-domain Default"
    client.type(f"openstack role add {of} --project {ops} member")
    client.type(f"openstack role remove {of} --system all reader")
    of = "--user least-images --user-domain Default"
    client.type(f"openstack role remove {of} --project {ops} member")
    client.type(f"openstack role add {of} --project {ops} reader")

    found = json.loads(site.ran("--check", "--json", expect=1))["rights"]
    seen = {(one["flow"], one["state"], one["identifier"]) for one in found}
    assert seen == {
        ("accounting", "missing", "C32.a"),
        ("accounting", "too much", ""),
        ("information", "missing", "C31.a"),
        ("information", "too much", ""),
        ("images", "missing", ""),
    }
    for one in found:
        # A remedy is the last command of its line; ROLE is the one that the project's list shows.
        (line,) = re.findall(r"openstack role (?:add|remove) [^;,)]+", one["text"])[-1:]
        client.type(line.replace(" ROLE", " reader").strip())
    client.type(f"openstack role remove {of} --project {ops} reader")
    assert site.ran("--check").startswith("0 rights to change")
