"""The JSON of a site in a real Swift, with a token of a real Keystone."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
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
        with Gocdb([Service("7G0", "EXAMPLE-SITE", self.testbed.keystone_url)]).serve() as gocdb:
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


def test_cloud_in_the_object(swift: SwiftService, testbed: Testbed, tmp_path: Path) -> None:
    """A VO added, an image shared and a flavor deleted appear in the object as EGI reads it."""
    seed, admin = testbed.seed(), testbed.admin()
    user = next(iter(seed.users.values()))
    catch_all = CatchAll(testbed, user, seed.projects[user.project].id, tmp_path / "site")
    projects = {project.vo: project.id for project in seed.projects.values() if project.vo}
    first, second, *_ = projects
    account = seed.accounts["information"]
    site = catch_all.root / "site.yaml"

    def read(*vos: str) -> ReadSite:
        """Publish the offer to some VOs, and return what EGI's service reads of it."""
        named = [{"name": vo, "auth": {"project_id": projects[vo]}} for vo in vos]
        described = {"gocdb": "EXAMPLE-SITE", "endpoint": testbed.keystone_url, "vos": named}
        site.write_text(json.dumps(described))
        catch_all.run(
            *("--os-auth-type", "v3password", "--os-username", account.name),
            *("--os-password", account.password, "--os-user-domain-name", "Default"),
            *("--os-cacert", str(testbed.ca_file), str(site)),
        )
        (name,) = catch_all.listed()
        return egi_information.read(catch_all.request("GET", f"{catch_all.place}/{name}").text)

    flavor = {"name": "short-lived", "vcpus": 1, "ram": 512, "disk": 1}
    made = admin.post(NOVA, "/flavors", {"flavor": flavor})["flavor"]["id"]
    image = {"name": "shared-later", "disk_format": "raw", "container_format": "bare"}
    shared = admin.post(GLANCE, "/v2/images", image | {"visibility": "shared"})["id"]
    try:
        admin.put(GLANCE, f"/v2/images/{shared}/file", b"x" * 512)
        before = read(first)
        assert [share.vo for share in before.shares] == [first]
        assert "short-lived" in {one.name for one in before.share(first).flavors}
        assert shared not in {one.id for one in before.share(first).images}
        admin.call("DELETE", NOVA, f"/flavors/{made}")
        path = f"/v2/images/{shared}/members"
        admin.post(GLANCE, path, {"member": projects[first]})
        accept_image(testbed, shared, projects[first])
        after = read(first, second)
    finally:
        admin.call("DELETE", GLANCE, f"/v2/images/{shared}")
    assert {share.vo for share in after.shares} == {first, second}
    assert "short-lived" not in {one.name for one in after.share(first).flavors}
    assert shared in {one.id for one in after.share(first).images}
    assert shared not in {one.id for one in after.share(second).images}


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
