"""`appliance migrate` from plain upstream files: the six set-ups, to a new host and in place."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from appliance.admin.command import main
from appliance.core.run import place
from caso.cmds import extract
from cloud_info_provider.cmds import service
from cloudkeeper.cmds import backend, frontend
from ssm.cmds import send
from tests.testbed.pki import Authority
from tests.unit import earlier_site
from tests.unit.test_migrate import ini, shell, states

pytestmark = pytest.mark.root

OPS = "0a1b2c3d4e5f60718293a4b5c6d7e8f9"
KEYSTONE = "https://keystone.example.org:5000/v3"
CASO = {
    "etc/caso/caso.conf": f"""\
# cASO 5, as its documentation has it
[DEFAULT]
messengers = ssm
site_name = EXAMPLE-SITE
projects = {OPS}
extractor = nova
vo_property = egi.VO

[keystone_auth]
auth_type = v3password
auth_url = {KEYSTONE}
username = caso
user_domain_name = Default
password = "sec$$ret"

[ssm]
output_path = /var/spool/apel/outgoing/openstack
""",
    f"var/spool/caso/lastrun.{OPS}": "2026-11-29 20:14:12.887001+00:00",
}
SSM = {
    "etc/apel/sender.cfg": """\
[sender]
protocol = AMS
[broker]
host = msg.argo.grnet.gr
use_ssl = true
[certificates]
certificate = /etc/grid-security/hostcert.pem
key = /etc/grid-security/hostkey.pem
capath = /etc/grid-security/certificates
[messaging]
ams_project = accounting
destination = eu-egi-cloud-accounting
path = /var/spool/apel/outgoing/openstack
path_type = dirq
[logging]
logfile = /var/log/apel/ssmsend.log
level = INFO
console = true
""",
    "var/spool/apel/outgoing/openstack/61a0c000/61a0c0010000a0": "APEL-cloud-message: v0.4\n",
}
CLOUD_INFO = {
    "etc/cloud-info-provider/openstack.rc": f"""\
export OS_AUTH_URL={KEYSTONE}
export OS_USERNAME=cloud-info
export OS_PASSWORD='it is secret'
export OS_USER_DOMAIN_NAME=Default
""",
    "etc/cloud-info-provider/openstack.yaml": f"""\
site:
  name: EXAMPLE-SITE
compute:
  total_cores: 96
  total_ram: 384
  shares:
    ops:
      auth: {{project_id: {OPS}}}
      default_network_type: public
""",
}
CLOUDKEEPER = {
    "etc/cloudkeeper/cloudkeeper.yml": """\
---
cloudkeeper:
  image-lists:
    - https://lists.example.org/ops/image.list
    - https://TOKENTOKEN:x-oauth-basic@lists.example.org/vo/image.list
  ca-dir: /etc/grid-security/certificates
  image-dir: /var/spool/cloudkeeper/images
  external-tools:
    execution-timeout: 1200
  backend:
    endpoint: localhost:50051
  formats:
    - raw
""",
    "etc/cloudkeeper-os/cloudkeeper-os.conf": f"""\
[DEFAULT]
mapping_file = /etc/cloudkeeper-os/mapping.json
[keystone_authtoken]
auth_url = {KEYSTONE}
username = cloudkeeper
password = secretsecret
user_domain_name = default
project_domain_name = default
""",
    "etc/cloudkeeper-os/mapping.json": json.dumps({"ops": {"project": OPS}}),
}
ATROPE = {
    "etc/atrope/atrope.conf": f"""\
[DEFAULT]
state_path = /var/lib/atrope
[sources]
image_sources = /etc/atrope/sources.yaml
[glance]
auth_url = {KEYSTONE}
username = atrope
password = secretsecret
""",
    "etc/atrope/sources.yaml": """\
egi:
  type: harbor
  registry_host: registry.egi.eu
  project: egi_vm_images
  vos: [ops]
  enabled: true
""",
    "etc/voms.json": json.dumps({"ops": {"tenant": OPS}}),
}
CATCH_ALL = {
    "example.yaml": f"""\
---
gocdb: EXAMPLE-SITE
endpoint: {KEYSTONE}
region: RegionOne
protocol: openid
images:
  sync: true
  formats: [qcow2, raw]
accounting:
  enabled: false
  site_name: EXAMPLE-SITE
vos:
- name: ops
  auth:
    project_id: {OPS}
- name: vo.example.org
  auth:
    project_id: 1b2c3d4e5f60718293a4b5c6d7e8f90a
  defaultNetwork: private
""",
}
SETUPS: Mapping[str, Mapping[str, str]] = {
    "caso": CASO,
    "ssm": SSM,
    "cloud-info-provider": CLOUD_INFO,
    "cloudkeeper": CLOUDKEEPER,
    "atrope": ATROPE,
    "catch-all": CATCH_ALL,
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return earlier_site.bundle(tmp_path_factory.mktemp("migrate"))


@pytest.fixture
def new(tmp_path: Path, bundle: Path) -> Path:
    root = tmp_path / "new"
    earlier_site.install(root, bundle)
    return root


def old(tmp_path: Path, *setups: str) -> Path:
    root = tmp_path / "old"
    for setup in setups:
        for name, text in SETUPS[setup].items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return root


def migrate(root: Path, *words: object) -> int:
    return main(["migrate", "--root", str(root), *map(str, words)])


@pytest.mark.parametrize("setup", [*SETUPS])
def test_a_set_up_comes_to_a_new_host(
    setup: str, tmp_path: Path, new: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = old(tmp_path, setup)
    if setup == "ssm":
        tmp_path.chmod(0o755)  # messages are moved by the account 1999
    before = states(new)
    wanted = 1 if setup == "catch-all" else 0  # its accounts never existed
    assert migrate(new, "--from", source) == wanted
    assert states(new) == before
    if setup == "ssm":
        shutil.rmtree(source / "var")  # the account cannot reach pytest's directory
    assert migrate(new, "--from", source, "--apply") == wanted
    CHECKS[setup](new)
    after = states(new)
    assert migrate(new, "--from", source, "--apply") == wanted
    assert states(new) == after
    assert not any(word in "".join(capsys.readouterr()) for word in ("sec$", "secrets", "TOKENT"))


def caso_came(root: Path) -> None:
    text = (root / "etc/caso/caso.conf").read_text()
    assert text == CASO["etc/caso/caso.conf"]  # with its comment
    name = f"lastrun.{OPS}"
    assert (root / "var/spool/caso" / name).read_text() == CASO[f"var/spool/caso/{name}"]


def ssm_came(root: Path) -> None:
    assert (root / "etc/apel/sender.cfg").read_text() == SSM["etc/apel/sender.cfg"]


def cloud_info_came(root: Path) -> None:
    found = shell(root / "etc/cloud-info-provider/openstack.rc")
    assert found["OS_PASSWORD"] == "it is secret"
    name = "etc/cloud-info-provider/openstack.yaml"
    assert (root / name).read_text() == CLOUD_INFO[name]


def cloudkeeper_came(root: Path) -> None:
    found = yaml.safe_load((root / "etc/cloudkeeper/cloudkeeper.yml").read_text())["cloudkeeper"]
    assert found["image-lists"][1].endswith("@lists.example.org/vo/image.list")
    assert found["backend"]["endpoint"] == "unix:///run/cloudkeeper/backend.sock"
    assert found["external-tools"]["execution-timeout"] == 1200
    # One configuration of the backend, with its account.
    assert not (root / "etc/cloudkeeper/cloudkeeper-os.conf").exists()
    assert ini(root / "etc/cloudkeeper-os/cloudkeeper-os.conf")["keystone_authtoken.username"] == (
        "cloudkeeper"
    )
    settings = yaml.safe_load((root / "etc/fedcloud/appliance.yaml").read_text())
    assert settings["flows"]["images"] is True


def atrope_came(root: Path) -> None:
    found = yaml.safe_load((root / "etc/cloudkeeper/sources.yaml").read_text())
    assert found["egi"]["project"] == "egi_vm_images"
    account = ini(root / "etc/cloudkeeper/cloudkeeper-os.conf")
    assert account["keystone_authtoken.username"] == "atrope"
    assert account["keystone_authtoken.auth_url"] == KEYSTONE


def catch_all_came(root: Path) -> None:
    projects = {"ops": OPS, "vo.example.org": "1b2c3d4e5f60718293a4b5c6d7e8f90a"}
    found = ini(root / "etc/caso/caso.conf")
    assert found["DEFAULT.site_name"] == "EXAMPLE-SITE"
    assert found["DEFAULT.projects"] == ", ".join(projects.values())
    assert found["DEFAULT.region_name"] == "RegionOne"
    assert found["keystone_auth.auth_url"] == KEYSTONE
    mapping = json.loads((root / "etc/voms.json").read_text())
    assert mapping == {vo: {"projects": [project]} for vo, project in projects.items()}
    described = yaml.safe_load((root / "etc/cloud-info-provider/openstack.yaml").read_text())
    assert described["site"]["name"] == "EXAMPLE-SITE"
    shares = described["compute"]["shares"]
    assert {vo: one["auth"]["project_id"] for vo, one in shares.items()} == projects
    found = shell(root / "etc/cloud-info-provider/openstack.rc")
    assert (found["OS_AUTH_URL"], found["OS_REGION_NAME"]) == (KEYSTONE, "RegionOne")
    found = ini(root / "etc/cloudkeeper/cloudkeeper-os.conf")
    assert found["keystone_authtoken.auth_url"] == KEYSTONE
    settings = yaml.safe_load((root / "etc/fedcloud/appliance.yaml").read_text())
    assert settings["flows"]["images"] is False  # the catch-all manages them


CHECKS = {
    "caso": caso_came,
    "ssm": ssm_came,
    "cloud-info-provider": cloud_info_came,
    "cloudkeeper": cloudkeeper_came,
    "atrope": atrope_came,
    "catch-all": catch_all_came,
}


def test_our_programs_load_all_set_ups_together(
    tmp_path: Path,
    new: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = old(tmp_path, "caso", "ssm", "cloud-info-provider", "cloudkeeper", "atrope")
    shutil.rmtree(source / "var/spool/apel")
    authority = Authority.create(tmp_path / "ca", key="ec")
    folder = new / "etc/grid-security"
    authority.publish(folder / "certificates")
    credential = authority.issue("host.example.org", key="ec")
    shutil.copy2(credential.certificate, folder / "hostcert.pem")
    shutil.copy2(credential.key, folder / "hostkey.pem")
    assert migrate(new, "--from", source, "--apply") == 0
    monkeypatch.setenv(place.VARIABLE, f"{new}/etc=/etc {new}/var=/var {new}/run=/run")
    root = ["--root", str(new), "--check-config"]
    capsys.readouterr()
    for program, words in (
        (extract.main, []),
        (service.main, []),
        (frontend.main, ["sync"]),
        (backend.main, []),
    ):
        assert program([*words, *root]) == 0, capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["ssmsend", "-c", str(new / "etc/apel/sender.cfg"), *root])
    assert send.main() == 0, capsys.readouterr()


def test_plain_files_in_place(tmp_path: Path, bundle: Path) -> None:
    root = old(tmp_path, "caso", "ssm", "cloud-info-provider", "cloudkeeper")
    earlier_site.install(root, bundle)
    table = root / "var/spool/cron/crontabs/root"
    table.parent.mkdir(parents=True)
    table.write_text("10 * * * * /usr/bin/caso-extract\n")
    # The line is an administrator's own: it is named, and stays.
    assert migrate(root, "--apply") == 1
    assert table.read_text() == "10 * * * * /usr/bin/caso-extract\n"
    caso_came(root)
    ssm_came(root)
    cloud_info_came(root)
    cloudkeeper_came(root)
    assert not (root / "etc/cron.d/caso").exists()


def test_a_copy_of_etc_alone(tmp_path: Path, new: Path) -> None:
    source = old(tmp_path, "cloud-info-provider") / "etc"
    assert migrate(new, "--from", source, "--apply") == 0
    cloud_info_came(new)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("project_id: 0a1b", "project_id: '0a 1b"), "is not the id of a project"),
        (("- name: ops\n", "- nome: ops\n"), ":13: this VO has no name"),
        (("site_name: EXAMPLE-SITE", "site_name: EX SITE"), ":11: the name of the site is missing"),
        (("enabled: false", "enabled: true"), ":10: the catch-all accounts this site"),
        (("endpoint: https", "endpoint: $(x) https"), ":3: has characters"),
        (("region:", "regoin:"), ":4: regoin is not known here"),
        (("vos:\n", "vos:\n- name: ops\n"), ":13: this VO has no name, or no auth"),
    ],
)
def test_a_wrong_file_of_the_catch_all(
    change: tuple[str, str],
    said: str,
    tmp_path: Path,
    new: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = old(tmp_path, "catch-all")
    path = source / "example.yaml"
    text = path.read_text()
    assert change[0] in text
    text = text.replace(*change, 1)
    path.write_text(text.replace("e8f9\n", "e8f9'\n", 1) if "'" in change[1] else text)
    assert migrate(new, "--from", source, "--apply") == 1
    assert said in capsys.readouterr().out


def test_two_sites_of_the_catch_all(
    tmp_path: Path, new: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = old(tmp_path, "catch-all")
    shutil.copyfile(source / "example.yaml", source / "other.yaml")
    before = states(new)
    assert migrate(new, "--from", source, "--apply") == 1
    assert states(new) == before
    assert "2 sites" in capsys.readouterr().out


def test_vos_of_others_stay_in_the_map(tmp_path: Path, new: Path) -> None:
    path = new / "etc/voms.json"
    path.write_text(json.dumps({"vo.other.org": {"tenant": "other"}}))
    assert migrate(new, "--from", old(tmp_path, "catch-all"), "--apply") == 1
    assert json.loads(path.read_text()).keys() == {"vo.other.org", "ops", "vo.example.org"}


def test_shares_of_the_site_stay(
    tmp_path: Path, new: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = new / "etc/cloud-info-provider/openstack.yaml"
    path.write_text(path.read_text().replace("PROJECT-ID", OPS).replace("vo.example.org", "ops"))
    assert migrate(new, "--from", old(tmp_path, "catch-all"), "--apply") == 1
    assert f"{path}: has shares of its own; add vo.example.org" in capsys.readouterr().out
