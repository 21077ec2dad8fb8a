"""The image flow in three acts: signed lists over HTTPS, cloudkeeper, cloudkeeper-os, Glance.

What Glance holds is read from its own database; what users get is downloaded as a user of the VO
and compared by sha512sum and qemu-img.
"""

from __future__ import annotations

import json
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.demo.report import Row
from tests.demo.sabotage import kill_at_work, strike, until_struck
from tests.demo.site import Site
from tests.simulators import image_server
from tests.simulators.image_lists import image, image_list, openssl_accepts, sign
from tests.simulators.image_server import ImageServer
from tests.testbed import Testbed
from tests.testbed.api import GLANCE, Api, password_auth
from tests.testbed.configuration import REGION
from tests.testbed.patience import CEILING, Patience
from tests.testbed.pki import AUTHORITY_DN, HOST_DN
from tests.testbed.seeding.identity import People

VO, PROJECT = "ops", "vo-ops"
VOS = {VO: PROJECT, "biomed": "vo-biomed"}
"""The project of each VO; the lists are for the first one."""
_BIG = 192 * 2**20

_FRONTEND = """\
cloudkeeper:
  image-lists-file: {root}/etc/cloudkeeper/image-lists.conf
  ca-dir: {ca_directory}
  crl-policy: require
  image-dir: {root}/image_data
  formats: [qcow2, raw]
  logging: {{level: INFO, file: {root}/var/log/cloudkeeper.log}}
  lock-file: {root}/run/cloudkeeper.lock
"""
_BACKEND = """\
[DEFAULT]
image_dir = {root}/image_data
mapping_file = {root}/etc/cloudkeeper-os/mapping.json
[keystone_authtoken]
username = {account}
password = {password}
auth_url = {auth_url}
cafile = {ca_file}
"""


@dataclass(slots=True)
class Stage:
    """A site with both programs, the server of an endorser, and the disks that it offers."""

    testbed: Testbed
    people: People
    site: Site
    say: Callable[[str], None]
    web: ImageServer = field(init=False)
    backend: subprocess.Popen[str] = field(init=False)
    disks: dict[str, Path] = field(default_factory=dict)
    """Files offered, by title; that of an OVA is the raw disk inside."""

    @contextmanager
    def open(self) -> Iterator[None]:
        """Write the site's files, start server and backend; stop them at the end."""
        root, account = self.site.root, self.people.accounts["images"]
        (root / "image_data").mkdir(exist_ok=True)
        (root / "run").mkdir(exist_ok=True)
        where = {"root": root}
        self.site.write(
            "etc/cloudkeeper/cloudkeeper.yml",
            _FRONTEND.format(ca_directory=self.testbed.ca_directory, **where),
        )
        backend = _BACKEND.format(
            account=account.name,
            password=account.password,
            auth_url=self.testbed.keystone_url,
            ca_file=self.testbed.ca_file,
            **where,
        )
        self.site.write("etc/cloudkeeper-os/cloudkeeper-os.conf", backend, mode=0o600)
        self.site.write(
            "etc/cloudkeeper-os/mapping.json",
            json.dumps({vo: {"project": self.project(vo)} for vo in VOS}),
        )
        with image_server.serve(self.testbed.host_credential("lists")) as self.web:
            self.site.write(
                "etc/cloudkeeper/image-lists.conf",
                f"# One list\n{self.web.url('/ops/image.list')}\n",
            )
            self.start_backend()
            try:
                yield
            finally:
                self.backend.terminate()
                self.backend.wait(timeout=CEILING)

    def undisturbed(self) -> list[Row]:
        """Offer a qcow2 image, a raw one and an OVA; synchronise."""
        self._clear()
        self._make_disks()
        self._publish()
        self.site.run("cloudkeeper", "sync")
        added = self.site.counts("cloudkeeper")["images_added"]
        return [self._row("images from a signed list", str(added))]

    def list_altered(self) -> list[Row]:
        """Change one byte of the signed list on the server; the images must stay."""
        before = self._active()
        message = self.web.contents["/ops/image.list"]
        assert isinstance(message, bytes)
        altered = message.replace(b'"hv:version": "2026.11.01"', b'"hv:version": "2026.11.02"', 1)
        self.web.put("/ops/image.list", altered)
        self.site.run("cloudkeeper", "sync", expect=(1, 3))
        reason = next(
            (line for line in reversed(self._log()) if "/ops/image.list" in line),
            "no reason was given",
        )
        self.say(f"  {reason.split(' - ')[-1]}")
        refused = self.site.counts("cloudkeeper")["lists_refused"]
        is_refused_by_openssl = not openssl_accepts(altered, self.testbed.ca_directory)
        self.web.put("/ops/image.list", message)
        kept = before.keys() & self._active().keys()
        act = "one byte of the image list altered"
        return [
            Row(
                act, "lists refused", "1", str(refused), str(int(is_refused_by_openssl)), "openssl"
            ),
            Row(
                act,
                "images that stay",
                str(len(before)),
                str(len(kept)),
                str(self._identical()),
                _COUNTED_BY,
            ),
        ]

    def backend_killed(self) -> list[Row]:
        """Offer a large image, kill the backend while it uploads, start it and run again."""
        return until_struck(self._backend_killed, self.say)

    def _backend_killed(self) -> tuple[Row, list[Row]]:
        act = "cloudkeeper-os killed in mid-upload, started again"
        name = f"large-{len(self.disks)}"  # another one at each attempt
        self._disk(name, self.site.root / f"{name}.qcow2", size=_BIG)
        self._publish()
        with self.site.running("cloudkeeper", "sync") as process:
            is_running = kill_at_work(
                process, has_begun=lambda: bool(self._states("saving")), kill=self.backend.kill
            )
            self.backend.wait()
            half = self._unfinished()
            self.say(f"  killed with {half} image half uploaded, started again")
            # At once, as systemd does: cloudkeeper waits a minute for a backend that has died.
            self.start_backend()
            process.wait(timeout=CEILING)
        self.site.run("cloudkeeper", "sync")
        struck = strike(
            act, is_running=is_running, is_half_done=half > 0, counted_by="Glance's database"
        )
        return struck, [
            self.listed(act),
            Row(
                act,
                "leftovers",
                "0",
                str(self._unfinished()),
                str(self._strangers()),
                "Glance's store, file by file",
            ),
        ]

    def start_backend(self) -> None:
        """Start `cloudkeeper-os` and return when it listens."""
        self.backend = self.site.start("cloudkeeper-os")
        log = self.site.root / "var/log/cloudkeeper-os.out"
        patience = Patience(lambda: log.stat().st_size, idle=300)
        while self.backend.poll() is None and not patience.is_over():
            with socket.socket(socket.AF_UNIX) as probe:
                if probe.connect_ex(str(self.site.root / "run/cloudkeeper/backend.sock")) == 0:
                    return
            time.sleep(0.05)
        raise SystemExit(f"cloudkeeper-os does not listen: see {log}")

    def _clear(self) -> None:
        """Remove what an earlier demo left in the projects."""
        for vo in VOS:
            for (image_id,) in self.query(
                "SELECT id FROM images WHERE owner = ? AND deleted = 0", self.project(vo)
            ):
                self.testbed.admin().call("DELETE", GLANCE, f"/v2/images/{image_id}")

    # ----------------------------------------------------------------------------------------------
    # the endorser

    def _make_disks(self) -> None:
        root = self.site.root
        self._disk("qcow2 image", root / "one.qcow2")
        self._disk("raw image", root / "two.raw")
        vmdk, ova, inside = root / "three.vmdk", root / "three.ova", root / "three.raw"
        self._disk("OVA", inside)
        _qemu_img(
            "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", inside, vmdk
        )
        (root / "three.ovf").write_text("<Envelope/>")
        subprocess.run(
            ["tar", "-C", root, "--format=ustar", "-cf", ova, "three.ovf", "three.vmdk"], check=True
        )

    def _disk(self, title: str, path: Path, *, size: int = 2**20) -> None:
        make_disk(path, size=size)
        self.disks[title] = path

    def _publish(self) -> None:
        """Sign a list of all disks and serve it."""
        images = []
        for number, (title, disk) in enumerate(self.disks.items(), start=1):
            offered = disk.with_suffix(".ova") if title == "OVA" else disk
            content = offered.read_bytes()
            uri = self.web.put(f"/{offered.name}", offered)
            kind = offered.suffix[1:].upper()
            images.append(image(number, uri=uri, content=content, dc__title=title, hv__format=kind))
        endorser = self.testbed.host_credential("endorser")
        document = image_list(
            images, dn=f"{HOST_DN}/CN=endorser.example.org", ca=AUTHORITY_DN, vo=VO
        )
        self.web.put("/ops/image.list", sign(document, endorser))

    # --------------------------------------------------------------------------------------------
    # the other counters

    @property
    def _project(self) -> str:
        return self.project(VO)

    def project(self, vo: str) -> str:
        """Return the id of a VO's project."""
        return self.people.projects[VOS[vo]].id

    def query(self, query: str, *values: str) -> list[Any]:
        """Return the rows that Glance's database has for a query."""
        database = self.testbed.layout.database("glance")
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            return connection.execute(query, values).fetchall()

    def _active(self) -> Mapping[str, str]:
        """Return ids and titles of the list's images that the VO can boot, by Glance's database."""
        query = """
            SELECT images.id, images.name FROM images JOIN image_properties ON image_id = images.id
            WHERE images.owner = ? AND images.status = 'active' AND images.deleted = 0
              AND image_properties.deleted = 0
              AND image_properties.name = 'APPLIANCE_STATUS'
              AND image_properties.value = 'ACTIVE'
              AND images.id NOT IN (
                SELECT image_id FROM image_properties WHERE name = 'image_list' AND deleted = 0)"""
        return dict(self.query(query, self._project))

    def _states(self, status: str) -> list[Any]:
        return self.query(
            "SELECT id FROM images WHERE owner = ? AND status = ? AND deleted = 0",
            self._project,
            status,
        )

    def _unfinished(self) -> int:
        return len(self._states("saving")) + len(self._states("queued"))

    def _strangers(self) -> int:
        """Count files in Glance's store that belong to no image."""
        known = {row[0] for row in self.query("SELECT id FROM images WHERE deleted = 0")}
        return len(
            {path.name for path in (self.testbed.layout.data("glance") / "images").iterdir()}
            - known
        )

    def user(self, vo: str) -> Api:
        """Return the cloud as a user of a VO sees it."""
        user = next(user for user in self.people.users.values() if user.project == VOS[vo])
        auth = password_auth(
            self.testbed.keystone_url,
            user.name,
            user.password,
            domain=user.domain,
            project_id=self.project(vo),
        )
        return Api(auth, ca_file=self.testbed.ca_file)

    def _identical(self) -> int:
        """Count images that a user of the VO downloads exactly as they were offered."""
        session = self.user(VO).session
        where = {"service_type": GLANCE, "interface": "public", "region_name": REGION}
        found = 0
        for image_id, title in self._active().items():
            copy = self.site.root / "downloaded"
            copy.write_bytes(
                session.get(f"/v2/images/{image_id}/file", endpoint_filter=where).content
            )
            found += _is_same(copy, self.disks[title], is_converted=title == "OVA")
        return found

    def listed(self, act: str) -> Row:
        """Return the row of all images of the list, as they are now."""
        return self._row("images from a signed list", str(len(self.disks)), act=act)

    def _row(self, flow: str, done: str, *, act: str = "images, undisturbed") -> Row:
        return Row(act, flow, done, str(len(self._active())), str(self._identical()), _COUNTED_BY)

    def _log(self) -> list[str]:
        return (self.site.root / "var/log/cloudkeeper.out").read_text().splitlines()


_COUNTED_BY = "sha512sum and qemu-img, on downloads"


def make_disk(path: Path, *, size: int = 2**20) -> None:
    """Write a disk of random content in the format of the path's suffix."""
    raw = path.with_suffix(".content")
    boot_sector = bytes(446) + b"\x80\0\2\0\x83\0\3\0\1\0\0\0\xff\7\0\0" + bytes(48) + b"\x55\xaa"
    with raw.open("wb") as file, Path("/dev/urandom").open("rb") as noise:
        file.write(boot_sector)
        file.write(noise.read(size - len(boot_sector)))
    _qemu_img("convert", "-f", "raw", "-O", path.suffix[1:], raw, path)
    raw.unlink()


def _qemu_img(*arguments: str | Path) -> None:
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, capture_output=True)


def _is_same(copy: Path, original: Path, *, is_converted: bool) -> bool:
    if is_converted:  # what is inside counts
        command = ["qemu-img", "compare", "-f", "qcow2", "-F", "raw", str(copy), str(original)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    sums = subprocess.run(
        ["sha512sum", copy, original], capture_output=True, text=True, check=True
    ).stdout
    return len({line.split()[0] for line in sums.splitlines()}) == 1
