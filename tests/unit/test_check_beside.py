"""`appliance check` on a site that runs cASO and SSM, where no installer of ours has run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.admin import settings
from appliance.admin.command import main
from appliance.core.run.layout import Layout
from tests.simulators import openstack
from tests.simulators.ams_service import AMS
from tests.simulators.openstack import Answer, Cloud, Request
from tests.testbed import Authority
from tests.testbed.pki import HOST_DN

pytestmark = [pytest.mark.root, pytest.mark.long]

TOP = Path(__file__).parents[2]
CASO = """\
[DEFAULT]
site_name = SITE
projects = one
extractor = nova
vo_property = VO
messengers = ssm
[ssm]
output_path = {root}/var/spool/apel/outgoing/openstack
[keystone_auth]
auth_type = v3password
auth_url = {url}/v3
username = accounting
password = geheim-46
user_domain_name = Default
"""
SENDER = """\
[sender]
protocol: AMS
[broker]
host: 127.0.0.1:{port}
system_cas: false
[messaging]
ams_project: accounting
token: t0ken-47
destination: eu-egi-cloud-accounting
path: {root}/var/spool/apel/outgoing/openstack
path_type: dirq
[logging]
logfile: {root}/var/log/apel/ssmsend.log
"""


def nova(request: Request) -> Answer | None:
    if request.path == "/v3/users":
        return Answer(body={"users": [{"id": "u", "name": "accounting"}]})
    if request.path.rstrip("/") == "/compute/v2.1":
        version = {"id": "v2.1", "status": "CURRENT", "version": "2.96", "min_version": "2.1"}
        return Answer(body={"version": version | {"links": []}})
    if request.path.endswith("/flavors/detail"):
        specs = {"accounting:benchmark_type": "hepscore23", "accounting:benchmark_value": "10"}
        return Answer(body={"flavors": [{"id": "1", "name": "f", "extra_specs": specs}]})
    return None


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    with openstack.serving(Cloud(servers=2, deleted=0, fault=nova)) as served:
        yield served


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "ca", key="ec")


@pytest.fixture
def ams(authority: Authority) -> Iterator[AMS]:
    own = authority.issue("ams.example.net", hosts=["127.0.0.1"], key="ec")
    with AMS(own, authority.certificate) as service:
        service.create("eu-egi-cloud-accounting")
        service.tokens.add("t0ken-47")
        yield service
        assert service.topics["eu-egi-cloud-accounting"] == []


@pytest.fixture
def root(tmp_path: Path, cloud: Cloud, ams: AMS, authority: Authority) -> Path:
    return lay_out(tmp_path / "site", url=cloud.url, port=ams.port, authority=authority)


def lay_out(root: Path, *, url: str, port: int, authority: Authority) -> Path:
    """Write the files of cASO and SSM for a cloud and an AMS, and a certificate for the host."""
    for name, text in {"etc/caso/caso.conf": CASO, "etc/apel/sender.cfg": SENDER}.items():
        path = root / name
        path.parent.mkdir(parents=True)
        path.touch(mode=0o600)
        path.write_text(text.format(root=root, url=url, port=port))
    for name in ("var/spool/apel/outgoing/openstack", "var/spool/caso", "var/log/apel"):
        (root / name).mkdir(parents=True)
    grid = root / "etc/grid-security"
    authority.publish(grid / "certificates")
    host = authority.issue("host.example.net", key="ec")
    for name, source, mode in (
        ("hostcert.pem", host.certificate, 0o444),
        ("hostkey.pem", host.key, 0o400),
    ):
        shutil.copy(source, grid / name)
        (grid / name).chmod(mode)
    return root


def files(root: Path) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and "run/fedcloud" not in str(path)
    }


def check(root: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    before = files(root)
    status = main(["check", "--json", "--root", str(root)])
    assert files(root) == before
    tree: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert status == bool(tree["findings"])
    return tree


def test_nothing_is_found_and_nothing_written(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = check(root, capsys)
    assert tree["checked"] == ["caso", "ssmsend"]
    assert tree["findings"] == []
    assert tree["certificate"]["gocdb"] == f"{HOST_DN}/CN=host.example.net"
    assert tree["certificate"]["rfc2253"].startswith("CN=host.example.net,")


def test_settings_alone_are_no_installation(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A site may have the file for the block `egi`, which names the services that are asked."""
    path = root / "etc/fedcloud/appliance.yaml"
    path.parent.mkdir()
    path.write_text("egi:\n  vo: ops\n")
    assert settings.load(Layout(root)).is_beside
    tree = check(root, capsys)
    assert (tree["checked"], tree["findings"]) == (["caso", "ssmsend"], [])


@pytest.mark.parametrize(
    "name",
    [
        "etc/fedcloud/docker-compose.yml",
        "etc/fedcloud/images.lock",
        "var/lib/fedcloud/version",
        "opt/fedcloud/state-id",
    ],
)
def test_what_an_installer_leaves_is_an_installation(name: str, tmp_path: Path) -> None:
    assert settings.load(Layout(tmp_path)).is_beside
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text("1.0.0\n")
    assert not settings.load(Layout(tmp_path)).is_beside


def test_faults_of_the_cloud_and_of_the_files(
    root: Path, cloud: Cloud, capsys: pytest.CaptureFixture[str]
) -> None:
    """The lines are those of the site's own files; messages name no command of ours as a job."""
    cloud.fault = lambda request: (
        Answer(401, {"error": {"code": 401, "message": "no", "title": "Unauthorized"}})
        if request.path == "/v3/auth/tokens"
        else nova(request)
    )
    path = root / "etc/apel/sender.cfg"
    path.write_text(path.read_text().replace("openstack\n", "other\n"))
    found = {one["id"]: one for one in check(root, capsys)["findings"]}
    caso = root / "etc/caso/caso.conf"
    assert (found["C30.a"]["path"], found["C30.a"]["line"]) == (str(caso), 13)
    assert (found["C40.b"]["path"], found["C40.b"]["line"]) == (str(caso), 8)
    assert not any("appliance run" in one["text"] for one in found.values())


def test_a_site_with_only_one_of_the_programs(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "etc/apel/sender.cfg").unlink()
    assert check(root, capsys)["checked"] == ["caso"]
