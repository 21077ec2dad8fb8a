"""Faults of images and of the BDII, each injected into a site of shipped containers.

`appliance check` finds each fault alone, by its id with the file and line of the host, and nothing
once it is healed. One start of the containers serves all faults of a test.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.dockerd import DockerDaemon
from tests.cosign import KeyPair
from tests.e2e import container_cloud
from tests.e2e.bdii_service import cloud as cloud_ldif
from tests.e2e.container_site import ACCOUNT, ContainerSite, host_site, run_appliance, wait
from tests.e2e.test_container_image_flow import REFERENCES, Flow, flow
from tests.simulators.image_lists import image_list, in_days, sign
from tests.simulators.image_server import Content, Status
from tests.testbed.api import GLANCE
from tests.testbed.pki import AUTHORITY_DN, HOST_DN

__all__ = ["flow"]


pytestmark = [pytest.mark.container, pytest.mark.matrix, pytest.mark.timeout(2400)]

PORT = int(os.environ.get("FEDCLOUD_TESTBED_PORT_BASE") or 26000) + 985
SETTINGS, LISTS = "etc/fedcloud/appliance.yaml", "etc/cloudkeeper/image-lists.conf"
SOURCES, FRONTEND = "etc/cloudkeeper/sources.yaml", "etc/cloudkeeper/cloudkeeper.yml"
BACKEND, VOS = "etc/cloudkeeper/cloudkeeper-os.conf", "etc/voms.json"
URLS, SITE_CFG = "etc/sitebdii/site-urls.conf", "etc/sitebdii/site.cfg"
HARBOR = "  type: harbor\n"

Place = tuple[str, str, int]
"""The id of a finding, its file below the root, and the line."""


def check(site: ContainerSite, *words: str) -> list[Place]:
    """Return what is found."""
    begun = time.monotonic()
    done = run_appliance(site, "check", "--json", *words)
    assert done.stdout, done.stderr
    assert time.monotonic() - begun < 120  # seconds, on a machine that does other things, too
    found = json.loads(done.stdout)["findings"]
    root = f"{site.root}/"
    return [(one["id"], one["path"].removeprefix(root), one["line"]) for one in found]


@contextlib.contextmanager
def edited(site: ContainerSite, name: str, old: str, new: str) -> Iterator[tuple[str, int]]:
    """Replace a text of a file for the block; yield the file and the line."""
    path = site.root / name
    text, mode = path.read_text(), path.stat().st_mode & 0o777
    assert old in text, (name, old)
    site.edit(name, text=text.replace(old, new, 1), mode=mode)
    try:
        yield name, text[: text.index(old)].count("\n") + 1
    finally:
        site.edit(name, text=text, mode=mode)


@dataclass(frozen=True)
class Fault:
    """A fault, and where it is found: in the place that its block yields."""

    row: str
    inject: Callable[[Flow], AbstractContextManager[tuple[str, int]]]
    words: Sequence[str] = ("cloudkeeper", "cloudkeeper-os")


def edit(row: str, name: str, old: str, new: str, **more: Sequence[str]) -> Fault:
    return Fault(row, lambda flow: edited(flow.site, name, old, new), **more)


@contextlib.contextmanager
def served(flow: Flow, content: Content) -> Iterator[tuple[str, int]]:
    """Serve something else than the list."""
    good = flow.web.contents["/ops/image.list"]
    flow.web.put("/ops/image.list", content)
    try:
        yield LISTS, 1
    finally:
        flow.web.contents["/ops/image.list"] = good


@contextlib.contextmanager
def listed(
    flow: Flow, *, by: str = "endorser", twist: bytes = b"", **changes: str
) -> Iterator[tuple[str, int]]:
    dn = f"{HOST_DN}/CN={by}.example.org"
    document = image_list([], dn=dn, ca=AUTHORITY_DN, **({"vo": "ops"} | changes))
    message = sign(document, flow.cloud.bed.host_credential(by))
    with served(flow, message.replace(twist, b"x") if twist else message) as place:
        yield place


@contextlib.contextmanager
def in_2017(
    flow: Flow, fault: AbstractContextManager[tuple[str, int]]
) -> Iterator[tuple[str, int]]:
    with edited(flow.site, SETTINGS, "engine:", "profile: 2017\nengine:"), fault as place:
        yield place


@contextlib.contextmanager
def shut(flow: Flow) -> Iterator[tuple[str, int]]:
    """Let nobody read the project."""
    public = set(flow.egi.front.public)
    flow.egi.front.public.clear()
    yield SOURCES, 1
    flow.egi.front.public |= public


@contextlib.contextmanager
def without_tag(flow: Flow) -> Iterator[tuple[str, int]]:
    reference = REFERENCES[0]
    content = flow.disks[reference].read_bytes()
    digest = flow.egi.push(reference, content)
    flow.egi.delete(reference, digest)
    yield SOURCES, 1
    assert flow.egi.push(reference, content) == digest


@contextlib.contextmanager
def in_source(flow: Flow, old: str, new: str) -> Iterator[tuple[str, int]]:
    """Edit the source; findings have the line of its name."""
    with edited(flow.site, SOURCES, old, new):
        yield SOURCES, 1


@contextlib.contextmanager
def unsigned(flow: Flow) -> Iterator[tuple[str, int]]:
    """Ask for signatures by a key that nobody has used."""
    made = KeyPair.create(flow.site.root.with_name("keys"), "publisher")
    key = flow.site.root / "etc/cloudkeeper/keys/publisher.pub"
    key.write_bytes(made.public.read_bytes())
    more = "  signing_key: /etc/cloudkeeper/keys/publisher.pub\n"
    with in_source(flow, HARBOR, f"{HARBOR}{more}") as place:
        yield place


@contextlib.contextmanager
def stopped(flow: Flow) -> Iterator[tuple[str, int]]:
    flow.site.compose("stop", "cloudkeeper-os")
    yield "", 0
    flow.site.compose("start", "cloudkeeper-os")
    wait(
        lambda: flow.site.health("cloudkeeper-os") == "healthy",
        seconds=120,
        what=lambda: flow.site.log("cloudkeeper-os"),
    )


@contextlib.contextmanager
def without_image(flow: Flow) -> Iterator[tuple[str, int]]:
    """Delete an image of the list from Glance, as an administrator may by mistake."""
    row = next(one for name, one in flow.offered("ops").items() if name not in REFERENCES)
    flow.cloud.admin.call("DELETE", GLANCE, f"/v2/images/{row.id}")
    yield LISTS, 1
    flow.sync()


@contextlib.contextmanager
def shrunk(flow: Flow) -> Iterator[tuple[str, int]]:
    good = flow.web.contents["/ops/image.list"]
    flow.publish([1])
    yield LISTS, 1
    flow.web.contents["/ops/image.list"] = good


@contextlib.contextmanager
def abandoned(flow: Flow) -> Iterator[tuple[str, int]]:
    """Leave a record without data in Glance, two days old by Glance's database."""
    wanted = {"name": "left", "disk_format": "raw", "container_format": "bare"}
    made = flow.cloud.door("img-ops").post(GLANCE, "/v2/images", wanted)["id"]
    with contextlib.closing(sqlite3.connect(flow.cloud.bed.layout.database("glance"))) as database:
        words = "update images set created_at = ?, updated_at = ? where id = ?"
        database.execute(words, ("2026-01-01 00:00:00", "2026-01-01 00:00:00", made))
        database.commit()
    yield VOS, 1
    flow.cloud.admin.call("DELETE", GLANCE, f"/v2/images/{made}")


@contextlib.contextmanager
def open_port(flow: Flow) -> Iterator[tuple[str, int]]:
    more = "[DEFAULT]\ngrpc_port = 50051\nlisten_address = 0.0.0.0\n"
    more += "accept_anyone_without_tls = true\n"
    with edited(flow.site, BACKEND, "[DEFAULT]\n", more) as (name, line):
        yield name, line + 3


@contextlib.contextmanager
def misspelt_option(flow: Flow) -> Iterator[tuple[str, int]]:
    with edited(flow.site, BACKEND, "[DEFAULT]\n", "[DEFAULT]\nimge_dir = /x\n") as (name, line):
        yield name, line + 1


@contextlib.contextmanager
def misspelt(flow: Flow) -> Iterator[tuple[str, int]]:
    """Misspell the project of a VO: its id, of which no name is near."""
    project = flow.cloud.projects["img-ops"]
    with edited(flow.site, VOS, project, "img-opz") as place:
        yield place


TOKEN = ("https://", "https://APPDB_TOKEN:x-oauth-basic@")
FAULTS = (
    Fault("C06.c", lambda flow: edited(flow.site, LISTS, flow.web.base, "https://localhost:1")),
    Fault("C06.c", lambda flow: in_source(flow, flow.egi.host, "localhost:1")),
    edit("C20.b", LISTS, *TOKEN),
    Fault("C20.c", lambda flow: in_2017(flow, edited(flow.site, LISTS, *TOKEN))),
    Fault("C21.a", misspelt_option),
    Fault("C23.b", misspelt),
    Fault("C60", lambda flow: served(flow, Status(401))),
    Fault("C60.a", lambda flow: in_2017(flow, served(flow, Status(401)))),
    Fault("C60.b", lambda flow: listed(flow, twist=b"ops list")),
    Fault("C60.c", lambda flow: listed(flow, by="another")),
    Fault("C60.c", lambda flow: listed(flow, vo="biomed")),
    Fault("C60.d", lambda flow: listed(flow, dc__date__expires=in_days(-1))),
    Fault("C60.e", shut),
    Fault("C60.f", lambda flow: in_source(flow, HARBOR, f"{HARBOR}  repositories: [nosuch]\n")),
    Fault("C60.f", without_tag),
    Fault("C60.b", unsigned),
    Fault("C61.a", stopped),
    Fault("C61.b", open_port, ("--only", "C61")),
    edit("C62.a", FRONTEND, "/usr/bin/qemu-img", "/usr/bin/nosuch"),
    Fault("C63.a", without_image),
    Fault("C63.b", shrunk),
    Fault("C63.c", abandoned),
    edit("C30.a", BACKEND, "password = ", "password = wrong-"),
)


@pytest.mark.cloud
def test_faults_of_images(flow: Flow) -> None:
    """C06.c, C20 to C30, C60 to C63, each alone."""
    for number, reference in enumerate(REFERENCES[:2]):
        flow.push(reference, f"registry{number}")
    flow.publish(range(1, 7))
    flow.sync()
    programs = ("cloudkeeper", "cloudkeeper-os")
    assert check(flow.site, *programs) == []
    wrong = []
    for fault in FAULTS:
        with fault.inject(flow) as place:
            found = check(flow.site, *fault.words)
        if found != [(fault.row, *place)]:
            wrong.append((fault.row, place, found))
        if left := check(flow.site, *programs):
            wrong.append((fault.row, ("healed", 0), left))
    assert not wrong, "\n".join(map(str, wrong))


# --------------------------------------------------------------------------------------------------
# the BDII


@pytest.fixture
def directory(engine: DockerDaemon, tmp_path: Path) -> Iterator[ContainerSite]:
    """Yield a site whose resource publishes a file of LDIF, and whose site's BDII pulls it."""
    with host_site(engine, tmp_path / "root", port=PORT) as site:
        container_cloud.name_site(site)
        text = f"engine:\n  socket: {engine.socket}\nflows: {{images: off, accounting: off}}\n"
        site.edit(SETTINGS, text=text)
        site.set(FEDCLOUD_BDII_LISTEN=f"0.0.0.0:{PORT}")
        static = site.root / "var/lib/fedcloud/bdii/resource/gip/ldif/cloud.ldif"
        static.parent.mkdir(parents=True)
        static.write_text(cloud_ldif())
        for path in (static.parent.parent, static.parent, static):
            os.chown(path, ACCOUNT, ACCOUNT)
        site.compose("up", "-d", "cloudbdii", "sitebdii")
        for service in ("cloudbdii", "sitebdii"):
            wait(
                lambda name=service: site.health(name) == "healthy",  # type: ignore[misc]
                seconds=120,
                what=lambda name=service: site.log(name),  # type: ignore[misc]
            )
        yield site


def test_faults_of_the_directory(directory: ContainerSite) -> None:
    """C50.b, C50.c, C51, each alone, and C50.a; the provider without a cloud has its own ids."""
    site, wrong = directory, []
    assert check(site, "sitebdii") == []
    for row, name, old, new in (
        ("C50.c", URLS, "cloudbdii:2170", "cloudbdii:2171"),
        ("C50.c", URLS, "GLUE2GroupID=cloud", "GLUE2GroupID=other"),
        ("C51", SITE_CFG, "SITE_WEB =", "SITE_WEB = cloud.example.org"),
        ("C20.b", SITE_CFG, "site-sec@example.org", "site-sec@example.com"),
    ):
        with edited(site, name, old, new) as place:
            found = check(site, "sitebdii")
        if found != [(row, *place)]:
            wrong.append((row, place, found))
        if left := check(site, "sitebdii"):
            wrong.append((row, ("healed", 0), left))
    assert not [one for one in check(site, "--only", "C50") if one[0] in ("C50.f", "C50.g")]
    site.compose("stop", "sitebdii")
    assert "C50.a" in {row for row, _, _ in check(site, "--only", "C50")}
    assert not wrong, "\n".join(map(str, wrong))
    assert not re.search("Traceback", site.log("cloudbdii"))
