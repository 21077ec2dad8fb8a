"""The jobs in their containers, as the compose file starts them, against the test bed's cloud and broker."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.engine import Engine
from tests.e2e import container_cloud
from tests.e2e.container_site import ACCOUNT, ContainerSite, wait
from tests.e2e.images_cloud import ACCOUNT as IMAGES_ACCOUNT
from tests.e2e.images_cloud import PASSWORD as IMAGES_PASSWORD
from tests.e2e.images_cloud import Cloud
from tests.e2e.images_frontend import make_disks, sha512
from tests.e2e.ssm_site import Site
from tests.simulators import image_server
from tests.simulators.image_lists import image, image_id, image_list, sign
from tests.testbed import Testbed
from tests.testbed.pki import AUTHORITY_DN, HOST_DN

pytestmark = [pytest.mark.container, pytest.mark.cloud, pytest.mark.broker]

PORT = int(os.environ.get("FEDCLOUD_TESTBED_PORT_BASE") or 26000) + 910

_CASO = """\
[DEFAULT]
site_name = TEST-SITE
messengers = ssm
projects = vo-fedcloud
extractor = nova
extract_from = 2020-01-01
[keystone_auth]
auth_type = v3password
auth_url = {url}
username = {user}
password = {password}
user_domain_name = Default
"""


@pytest.fixture
def site(engine: Engine, testbed: Testbed, tmp_path: Path) -> Iterator[ContainerSite]:
    root = tmp_path / "root"
    root.mkdir()
    with engine.alone():
        site = ContainerSite.lay_out(engine, root, version="1.29.2", project="jobs", port=PORT, network="host")
        site.set(FEDCLOUD_CA_BUNDLE=testbed.ca_file)
        try:
            yield site
        finally:
            site.down()


def test_usage_of_a_real_cloud_arrives_over_a_real_broker(
    site: ContainerSite, testbed: Testbed, tmp_path: Path
) -> None:
    """R12, R19, R20, R21: the record is in the spool, goes with the staged key, and is gone from the spool then."""
    account = testbed.seed().accounts["accounting"]
    text = _CASO.format(url=testbed.keystone_url, user=account.name, password=account.password)
    site.edit("etc/caso/caso.conf", text=text)
    site.edit("etc/voms.json", text='{"fedcloud.egi.eu": {"projects": ["vo-fedcloud"]}}\n')
    said = site.job("caso", "caso-extract")
    spool = site.root / "var/spool/apel/outgoing/openstack"
    elements = [path for path in spool.rglob("*") if path.is_file()]
    assert elements, said
    assert {path.stat().st_uid for path in spool.rglob("*")} == {ACCOUNT}
    wanted = sorted(path.read_text() for path in elements)

    broker = testbed.broker
    peer = Site.create(
        tmp_path / "peer", broker.trust, hosts=f"{broker.host}:{broker.tls_port}", queue="/queue/container.jobs"
    )
    shutil.copytree(broker.trust.ca_directory, site.root / "etc/grid-security/certificates", dirs_exist_ok=True)
    sender = broker.trust.host("sender")
    key = site.root / "run/fedcloud/keys/ssmsend"
    key.parent.mkdir(parents=True)
    shutil.copy(sender.key, key)
    key.chmod(0o400)
    os.chown(key, ACCOUNT, ACCOUNT)
    shipped = (site.root / "etc/apel/sender.cfg").read_text()
    assert "eu-egi-cloud-accounting" in shipped
    sender_cfg = (peer.root / "etc/apel/sender.cfg").read_text()
    for old, new in (
        (str(sender.certificate), "/etc/grid-security/hostcert.pem"),
        (str(sender.key), "/etc/grid-security/hostkey.pem"),
        (str(broker.trust.ca_directory), "/etc/grid-security/certificates"),
        (str(peer.root), ""),
        ("console: false", "console: true"),
    ):
        sender_cfg = sender_cfg.replace(old, new)
    site.edit("etc/apel/sender.cfg", text=sender_cfg)
    grid = "/etc/grid-security"
    mounts = (f"{sender.certificate}:{grid}/hostcert.pem:ro", f"{key}:{grid}/hostkey.pem:ro")
    said = site.job("ssm", "ssmsend", mounts=mounts)
    assert not [path for path in spool.rglob("*") if path.is_file()], said
    assert peer.run("ssmreceive", "--count", str(len(wanted))).returncode == 0
    assert sorted(element["body"] for element in peer.elements()) == wanted


def test_an_image_of_a_signed_list_appears_in_glance(site: ContainerSite, cloud: Cloud, tmp_path: Path) -> None:
    """R34, R35: two containers that share /image_data, one of them reading only, and a real Glance."""
    cloud.empty()
    (tmp_path / "disks").mkdir()
    content = make_disks(tmp_path / "disks")["one.qcow2"]
    container_cloud.offer(
        site, url=cloud.bed.keystone_url, user=IMAGES_ACCOUNT, password=IMAGES_PASSWORD, projects={"ops": "img-ops"}
    )
    site.compose("up", "-d", "cloudkeeper-os")
    wait(lambda: site.health("cloudkeeper-os") == "healthy", seconds=60, what=lambda: site.log("cloudkeeper-os"))
    with image_server.serve(site.authority.issue("localhost", key="ec")) as web:
        uri = web.put("/one.qcow2", content)
        entry = image(1, uri=uri, content=content, hv__format="QCOW2")
        dn = f"{HOST_DN}/CN=lists.example.org"
        made = image_list([entry], dn=dn, ca=AUTHORITY_DN, vo="ops", identifier="list-ops")
        web.put("/image.list", sign(made, site.authority.issue("lists.example.org", key="ec")))
        site.edit("etc/cloudkeeper/image-lists.conf", text=f"{web.url('/image.list')}\n")
        said = site.job("cloudkeeper", "cloudkeeper", "sync")
    (row,) = [row for row in cloud.rows("img-ops") if row.state == "ACTIVE"]
    assert row.properties["APPLIANCE_ID"] == image_id(1), said
    assert sha512(cloud.file(row.id).read_bytes()) == sha512(content)
    assert not list((site.root / "image_data").iterdir())
