"""A site whose containers reach the cloud through a forward proxy alone, set in the one place that
there is for it.

They are in networks of their own, where no address of this machine's loopback leads to the test
bed: what arrives there has come through the proxy, which listens in their network, and stands in
its log.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from deploy.dockerd import DockerDaemon
from tests.e2e import container_cloud
from tests.e2e.container_site import ContainerSite, wait
from tests.e2e.images_cloud import ACCOUNT as IMAGES_ACCOUNT
from tests.e2e.images_cloud import PASSWORD as IMAGES_PASSWORD
from tests.e2e.images_cloud import Cloud
from tests.e2e.images_frontend import make_disks, sha512
from tests.simulators import image_server
from tests.simulators.image_lists import image, image_id, image_list, sign
from tests.testbed import Testbed, forward_proxy
from tests.testbed.forward_proxy import ForwardProxy
from tests.testbed.pki import AUTHORITY_DN, HOST_DN

pytestmark = [pytest.mark.container, pytest.mark.cloud]

PORT = int(os.environ.get("FEDCLOUD_TESTBED_PORT_BASE") or 26000) + 920
PASSWORD = "geheim-4711"


@pytest.fixture(scope="module")
def site(
    engine: DockerDaemon, testbed: Testbed, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ContainerSite]:
    root = tmp_path_factory.mktemp("proxied") / "root"
    root.mkdir()
    with engine.alone():
        site = ContainerSite.lay_out(engine, root, version="1.29.2", project="proxied", port=PORT)
        site.set(FEDCLOUD_CA_BUNDLE=testbed.ca_file)
        try:
            site.compose("up", "--no-start", "cloudkeeper-os", "cloudbdii")
            yield site
        finally:
            site.down()


@pytest.fixture
def proxy(site: ContainerSite, tmp_path: Path) -> Iterator[ForwardProxy]:
    """Have a proxy in the network by which jobs get out, and the site use it."""
    shown = site.engine.docker("network", "inspect", f"{site.project}_out").stdout
    gateway = json.loads(shown)[0]["IPAM"]["Config"][0]["Gateway"]
    with forward_proxy.serve(tmp_path, host=gateway, password=PASSWORD) as proxy:
        site.set(HTTPS_PROXY=proxy.url, HTTP_PROXY="", NO_PROXY="")
        yield proxy


def extract(site: ContainerSite, testbed: Testbed, *, expect: int = 0) -> str:
    container_cloud.account_for(site, testbed)
    return site.job("caso", "caso-extract", "--dry-run", expect=expect)


def test_usage_is_extracted_through_the_proxy(
    site: ContainerSite, proxy: ForwardProxy, testbed: Testbed
) -> None:
    said = extract(site, testbed)
    wanted = {urlsplit(testbed.layout.url(name)).netloc for name in ("keystone", "nova")}
    assert {request.split()[1] for request in proxy.requests} >= wanted, said
    assert PASSWORD not in said


def test_the_cloud_and_who_issued_its_certificate_are_seen_through_the_proxy(
    site: ContainerSite, proxy: ForwardProxy, testbed: Testbed
) -> None:
    container_cloud.name_site(site)
    container_cloud.offer_test_bed(site, testbed)
    found = site.job("cloud-info", "cloud-info-provider-service")
    assert re.search(
        r"^GLUE2EndpointTrustedCA: \S|^GLUE2EndpointIssuerCA: /", found, re.MULTILINE
    ), found
    assert {request.split()[0] for request in proxy.requests} == {"CONNECT"}
    assert PASSWORD not in found


def test_an_image_comes_and_goes_to_glance_through_the_proxy(
    site: ContainerSite, proxy: ForwardProxy, cloud: Cloud, tmp_path: Path
) -> None:
    """R34, R35: frontend and backend share /image_data, one of them read-only, without proxy."""
    cloud.empty()
    (tmp_path / "disks").mkdir()
    content = make_disks(tmp_path / "disks")["one.qcow2"]
    container_cloud.offer(
        site,
        url=cloud.bed.keystone_url,
        user=IMAGES_ACCOUNT,
        password=IMAGES_PASSWORD,
        projects={"ops": "img-ops"},
    )
    site.compose("up", "-d", "cloudkeeper-os")
    wait(
        lambda: site.health("cloudkeeper-os") == "healthy",
        seconds=60,
        what=lambda: site.log("cloudkeeper-os"),
    )
    with image_server.serve(site.authority.issue("localhost", key="ec")) as web:
        entry = image(1, uri=web.put("/one.qcow2", content), content=content, hv__format="QCOW2")
        dn = f"{HOST_DN}/CN=lists.example.org"
        made = image_list([entry], dn=dn, ca=AUTHORITY_DN, vo="ops", identifier="list-ops")
        web.put("/image.list", sign(made, site.authority.issue("lists.example.org", key="ec")))
        site.edit("etc/cloudkeeper/image-lists.conf", text=f"{web.url('/image.list')}\n")
        said = site.job("cloudkeeper", "cloudkeeper", "sync")
        servers = {urlsplit(url).netloc for url in (web.base, cloud.bed.keystone_url)}
    (row,) = [row for row in cloud.rows("img-ops") if row.state == "ACTIVE"]
    assert row.properties["APPLIANCE_ID"] == image_id(1), said
    assert sha512(cloud.file(row.id).read_bytes()) == sha512(content)
    assert not list((site.root / "image_data").iterdir())
    asked = {request.split()[1] for request in proxy.requests}
    assert asked >= servers
    assert not [name for name in asked if name.endswith(":50051")]
    logs = said + site.log("cloudkeeper-os")
    kept = [
        path for path in site.root.rglob("*") if path.is_file() and path.name != "appliance.env"
    ]
    assert PASSWORD not in logs
    assert not [path for path in kept if PASSWORD.encode() in path.read_bytes()]


def test_a_host_without_a_proxy_is_asked_directly(
    site: ContainerSite, proxy: ForwardProxy, testbed: Testbed
) -> None:
    site.set(NO_PROXY="example.org,127.0.0.1")
    said = extract(site, testbed, expect=3)
    assert f"{urlsplit(testbed.keystone_url).netloc}: cannot be reached: connection refused" in said
    assert proxy.requests == []


def test_a_proxy_that_does_not_let_us_through_is_one_line(
    site: ContainerSite, proxy: ForwardProxy, testbed: Testbed
) -> None:
    site.set(HTTPS_PROXY=proxy.url.replace(PASSWORD, f"{PASSWORD}-not"))
    said = extract(site, testbed, expect=3)
    place, keystone = f"{proxy.host}:{proxy.port}", urlsplit(testbed.keystone_url).netloc
    words = (
        f"{keystone}: cannot be reached: the proxy {place} refuses to connect: 401 "
        "unauthorized; write its account into"
    )
    assert [line for line in said.splitlines() if words in line] == [
        line for line in said.splitlines() if place in line
    ]
    assert words in said
    assert PASSWORD not in said
