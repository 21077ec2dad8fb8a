"""The JSON of a site in a real Swift, with a token of a real Keystone, and the tree beside it."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from keystoneauth1 import session as keystone_session

from appliance.core.run.errors import AccessDenied, Unavailable
from appliance.core.run.layout import Layout
from appliance.core.run.record import RunRecord
from cloud_info_provider.publishing import publish, settings
from tests import egi_information
from tests.e2e.bdii_service import Bdii, images, running
from tests.e2e.test_bdii_site import site as site_level
from tests.egi_information import ReadSite
from tests.simulators.gocdb import Gocdb, Service
from tests.simulators.object_store import md5
from tests.testbed import Testbed
from tests.testbed.api import GLANCE, NOVA, Api, password_auth
from tests.testbed.seed import User
from tests.testbed.swift import SwiftService, serve
from tests.unit.test_publishing import ENDPOINT, GOCDB_ID, SITE, document

pytestmark = pytest.mark.cloud

NAME = f"{SITE.replace('.', '-')}-{md5(ENDPOINT.encode())}.json"
PROGRAM = Path(sys.executable).with_name("cloud-info-provider-service")


@pytest.fixture(scope="module")
def swift(instance: Testbed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SwiftService]:
    instance.up(["keystone"])
    instance.people()
    with serve(tmp_path_factory.mktemp("swift") / "data", instance) as service:
        yield service


class CatchAll:
    """An operator's account in the cloud that has the Swift, and an independent client."""

    def __init__(self, testbed: Testbed, user: User, project: str, root: Path) -> None:
        self.testbed, self.root = testbed, root
        self.container = f"cloud info {root.parent.name}"
        self.place = f"/{quote(self.container)}"
        auth = password_auth(
            testbed.keystone_url, user.name, user.password, domain=user.domain, project_id=project
        )
        self.client = keystone_session.Session(auth=auth, verify=str(testbed.ca_file))
        directory = root / "etc/cloud-info-provider"
        directory.mkdir(parents=True)
        secret = directory / "swift.secret"
        secret.write_text(user.password)
        secret.chmod(0o600)
        (directory / "publish.yaml").write_text(
            f"swift:\n  auth_url: {testbed.keystone_url}\n  username: {user.name}\n"
            f"  user_domain_name: {user.domain}\n  password_file: {secret}\n"
            f"  project_id: {project}\n  container: {self.container}\n  cacert: {testbed.ca_file}\n"
        )

    def request(self, method: str, path: str, **options: Any) -> Any:
        where = {"service_type": "object-store", "interface": "public"}
        return self.client.request(path, method, endpoint_filter=where, **options)

    def run(self, *words: str) -> None:
        """Run the program as an operator of a catch-all does."""
        clean = {name: text for name, text in os.environ.items() if not name.startswith("OS_")}
        with Gocdb([Service("7G0", "TEST-SITE", self.testbed.keystone_url)]).serve() as gocdb:
            flags = ["--root", str(self.root), "--gocdb-url", gocdb.url, "--all-images"]
            flags += ["--format", "glue21json", "--publisher", "swift"]
            done = subprocess.run(
                [str(PROGRAM), *flags, *words],
                capture_output=True,
                text=True,
                check=False,
                env=clean,
                timeout=240,
            )
        assert (done.returncode, done.stdout) == (0, ""), done.stderr

    def listed(self) -> list[str]:
        answer = self.request("GET", f"{self.place}?format=json")
        return [item["name"] for item in answer.json()]

    def publish(self, text: str, *, replacing: str = "") -> None:
        arguments = argparse.Namespace(publisher="swift", output=None, publish_file=None)
        chosen = settings.load(arguments, Layout(self.root))
        record = RunRecord("test")
        publish.publish(chosen, text, failed=(), record=record, replacing=replacing)


def test_swift_of_another_cloud(swift: SwiftService, instance: Testbed, tmp_path: Path) -> None:
    """Make the container, upload, renew, refuse a foreign object, replace it when asked."""
    people = instance.people()
    user = next(iter(people.users.values()))
    project = people.projects[user.project].id
    catch_all = CatchAll(instance, user, project, tmp_path / "site")
    place = catch_all.place

    catch_all.publish(document())
    catch_all.publish(document())
    assert catch_all.listed() == [NAME]
    stored = catch_all.request("GET", f"{place}/{NAME}")
    site = egi_information.read(stored.text)
    assert (site.name, site.gocdb_id, site.url) == (SITE, GOCDB_ID, ENDPOINT)
    assert stored.headers["Content-Type"] == "application/json"

    foreign = "SITE/cloud-info é.json"
    quoted = "SITE/cloud-info%20%C3%A9.json"
    catch_all.request("PUT", f"{place}/{quoted}", data=document().encode())
    catch_all.request("PUT", f"{place}/other.json", data=json.dumps({"x": []}).encode())
    with pytest.raises(Unavailable) as refused:
        catch_all.publish(document())
    assert f"--replace-object '{foreign}'" in str(refused.value)
    assert sorted(catch_all.listed()) == sorted([NAME, foreign, "other.json"])
    catch_all.publish(document(), replacing=foreign)
    assert sorted(catch_all.listed()) == sorted([NAME, "other.json"])


REFERENCE, TAG = "egi_vm_images/ubuntu:24.04", "24.04"


@dataclass
class ShownSite:
    """A site of several VOs whose cloud is in an object, and below two BDIIs, at the same time."""

    testbed: Testbed
    catch_all: CatchAll
    projects: dict[str, str]
    resource: Bdii
    site: Bdii

    @property
    def description(self) -> Path:
        return self.catch_all.root / "site.yaml"

    def describe(self, *vos: str) -> None:
        named = [{"name": vo, "auth": {"project_id": self.projects[vo]}} for vo in vos]
        described = {"gocdb": "TEST-SITE", "endpoint": self.testbed.keystone_url, "vos": named}
        self.description.write_text(json.dumps(described))

    def object(self) -> ReadSite:
        """Publish the offer to the VOs, and return what EGI's service reads of it."""
        self.catch_all.run(str(self.description))
        (name,) = self.catch_all.listed()
        stored = self.catch_all.request("GET", f"{self.catch_all.place}/{name}")
        return egi_information.read(stored.text)

    def tree(self) -> set[tuple[str, str, str]]:
        """Return what the BDII of the site has: VO, kind and name of each flavor and image.

        A share is there by the id of its project. All are of a service of this site.
        """
        found = set()
        entries = self.site.entries("GLUE2DomainID=TEST-SITE,o=glue")
        sites = [entry.get("GLUE2ServiceAdminDomainForeignKey", []) for entry in entries.values()]
        assert {name for names in sites for name in names} == {"TEST-SITE"}
        for entry in entries.values():
            other = [text.partition("=") for text in entry.get("GLUE2EntityOtherInfo", [])]
            vos = [value for name, _, value in other if name == "VO"]
            names = entry.get("GLUE2ApplicationEnvironmentAppName", [])
            names += [value for name, _, value in other if name in ("name", "project_id")]
            found |= {(vo, entry["objectClass"][1], name) for vo in vos for name in names}
        return found


@pytest.fixture
def shown(swift: SwiftService, testbed: Testbed, tmp_path: Path) -> ShownSite:
    seed = testbed.seed()
    user = next(iter(seed.users.values()))
    catch_all = CatchAll(testbed, user, seed.projects[user.project].id, tmp_path / "site")
    account = seed.accounts["information"]
    rc = catch_all.root / "etc/cloud-info-provider/openstack.rc"
    rc.write_text(
        f"OS_AUTH_TYPE=v3password\nOS_USERNAME={account.name}\nOS_PASSWORD={account.password}\n"
        f"OS_USER_DOMAIN_NAME=Default\nOS_CACERT={testbed.ca_file}\n"
    )
    rc.chmod(0o600)
    projects = {project.vo: project.id for project in seed.projects.values() if project.vo}
    rarely: dict[str, Any] = {"BDII_BREATHE_TIME": 600}  # each cycle is one that the test asks for
    (tmp_path / "resource").mkdir()
    resource = Bdii(tmp_path / "resource", rarely)
    urls = f"CLOUD ldap://127.0.0.1:{resource.port}/GLUE2GroupID=cloud,o=glue\n"
    made = ShownSite(
        testbed, catch_all, projects, resource, site_level(tmp_path / "above", urls, **rarely)
    )
    resource.script(
        f"exec {PROGRAM} --root {catch_all.root} --all-images --format glue {made.description}"
    )
    return made


IMAGE = {
    "name": f"registry.egi.eu {REFERENCE}",
    "vmcatcher_event_ad_mpuri": f"registry.egi.eu/{REFERENCE}-sha256:12",
    "APPLIANCE_ATTRIBUTES": json.dumps(
        {"eu.egi.cloud.image_ref": REFERENCE, "eu.egi.cloud.tag": TAG}
    ),
}
"""An image of EGI's registry, with the properties that its catch-all gives it."""


@contextlib.contextmanager
def offered(admin: Api) -> Iterator[tuple[str, str]]:
    """Yield the ids of a public flavor and of an image that no VO has."""
    flavor = {"name": "short-lived", "vcpus": 1, "ram": 512, "disk": 1}
    made = admin.post(NOVA, "/flavors", {"flavor": flavor})["flavor"]["id"]
    formats = {"disk_format": "raw", "container_format": "bare", "visibility": "shared"}
    image = admin.post(GLANCE, "/v2/images", {**IMAGE, **formats})["id"]
    try:
        admin.put(GLANCE, f"/v2/images/{image}/file", b"x" * 512)
        yield made, image
    finally:
        admin.call("DELETE", GLANCE, f"/v2/images/{image}")


def test_cloud_in_the_object_and_at_the_site_level(shown: ShownSite) -> None:
    """A VO added, an image shared and a flavor deleted appear as readers of both see them.

    A BDII adds with the first answer that has an entry, and removes with the second one that
    lacks it (docs/adr/0054), at each of both levels.
    """
    admin, projects = shown.testbed.admin(), shown.projects
    first, second, *_ = projects
    short_lived = (first, "GLUE2Resource", "short-lived")
    in_registry = (first, "GLUE2ApplicationEnvironment", IMAGE["name"])
    shares = {vo: (vo, "GLUE2Share", project) for vo, project in projects.items()}
    with offered(admin) as (flavor, image), running(shown.resource):
        shown.describe(first)
        before = shown.object()
        shown.resource.wait_for_cycles(1)
        with running(shown.site):
            shown.site.wait_for(lambda: short_lived in shown.tree(), what="the flavor")
            assert shares[first] in shown.tree()
            assert not {in_registry, shares[second]} & shown.tree()

            admin.call("DELETE", NOVA, f"/flavors/{flavor}")
            path = f"/v2/images/{image}/members"
            admin.post(GLANCE, path, {"member": projects[first]})
            accept_image(shown.testbed, image, projects[first])
            shown.describe(first, second)
            after = shown.object()
            shown.resource.wait_for_cycles(1)
            shown.site.wait_for_cycles(1)
            tree = shown.tree()
            assert {in_registry, shares[first], shares[second], short_lived} <= tree
            assert (second, *in_registry[1:]) not in tree
            (entry,) = (one for dn, one in images(shown.site.entries()).items() if image in dn)
            shown.resource.wait_for_cycles(1)
            shown.site.wait_for_cycles(1)
            assert short_lived in shown.tree()
            shown.site.wait_for_cycles(1)
            assert shown.tree() == tree - {short_lived}
    assert entry["GLUE2ApplicationEnvironmentAppVersion"] == [TAG]
    assert entry["GLUE2ApplicationEnvironmentRepository"] == [IMAGE["vmcatcher_event_ad_mpuri"]]
    assert [share.vo for share in before.shares] == [first]
    assert "short-lived" in {one.name for one in before.share(first).flavors}
    assert image not in {one.id for one in before.share(first).images}
    check_object(after, {vo: projects[vo] for vo in (first, second)}, shown.testbed, image)


def check_object(found: ReadSite, projects: dict[str, str], testbed: Testbed, image: str) -> None:
    """Check site, VOs, projects, images and versions that EGI's reader finds in the object."""
    assert (found.name, found.url) == ("TEST-SITE", testbed.keystone_url)
    assert {share.vo: share.project_id for share in found.shares} == projects
    first, second = (found.share(vo) for vo in projects)
    assert "short-lived" not in {one.name for one in first.flavors}
    (shared,) = (one for one in first.images if one.id == image)
    assert (shared.name, shared.identifier, shared.version) == (IMAGE["name"], REFERENCE, TAG)
    assert image not in {one.id for one in second.images}


def accept_image(testbed: Testbed, image: str, project: str) -> None:
    """Accept a shared image for a project, as one of its users."""
    seed = testbed.seed()
    user = next(user for user in seed.users.values() if seed.projects[user.project].id == project)
    auth = password_auth(
        testbed.keystone_url, user.name, user.password, domain=user.domain, project_id=project
    )
    api = Api(auth, ca_file=testbed.ca_file)
    api.put(GLANCE, f"/v2/images/{image}/members/{project}", {"status": "accepted"})


def test_account_that_may_not_write(swift: SwiftService, instance: Testbed, tmp_path: Path) -> None:
    """The role reader is not enough for Swift."""
    people = instance.people()
    account = next(a for a in people.accounts.values() if a.projects and "reader" in a.roles)
    project = people.projects[account.projects[0]]
    user = User(account.id, account.name, "Default", "default", project.name, account.password)
    catch_all = CatchAll(instance, user, project.id, tmp_path / "site")
    with pytest.raises(AccessDenied, match=r"give the account .* a role that may write there"):
        catch_all.publish(document())
    assert (tmp_path / "site/var/lib/fedcloud/cloud-info/information.json").exists()
