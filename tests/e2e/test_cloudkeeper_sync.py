"""`cloudkeeper sync` as a program: lists and images from an HTTPS server, a simulated backend.

sha512sum and qemu-img check what the backend receives; the openssl program decides about the lists.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from importlib import metadata
from pathlib import Path
from typing import Any

import grpc
import pytest

from appliance.admin.run import supervise
from appliance.core import retry
from cloudkeeper.frontend import slots, sync
from tests import foreign, run_records
from tests.e2e.images_frontend import PROGRAM, Done, make_disks, qemu_img, run, sha512
from tests.e2e.killpoints import Command, KillMatrix
from tests.simulators import cutting_proxy, image_backend, image_server
from tests.simulators.image_backend import Cloud
from tests.simulators.image_lists import (
    LIST_ID,
    image,
    image_id,
    image_list,
    in_days,
    openssl_accepts,
    sign,
)
from tests.simulators.image_server import Broken, ImageServer, Ranged, Ranges, Redirect, Slow
from tests.testbed.pki import AUTHORITY_DN, HOST_DN, Authority, Credential

pytestmark = pytest.mark.usefixtures("few_system_authorities")

ENDORSER = f"{HOST_DN}/CN=lists.example.org"
TOKEN = "s3cr3t-t0ken-of-this-site"


@dataclass
class World:
    """One site: its files, the servers that it uses, and the program."""

    root: Path
    web: ImageServer
    cloud: Cloud
    signer: Credential
    strangers: Credential
    certificates: Path
    files: dict[str, bytes]

    @property
    def spool(self) -> Path:
        return self.root / "images"

    def publish(
        self, images: list[dict[str, Any]], *, path: str = "/ops/image.list", **changes: Any
    ) -> bytes:
        document = image_list(
            images, dn=changes.pop("dn", ENDORSER), ca=changes.pop("ca", AUTHORITY_DN), **changes
        )
        message = sign(document, self.signer)
        self.web.put(path, message)
        return message

    def image(self, number: int, name: str, **changes: Any) -> dict[str, Any]:
        content = self.files[name]
        uri = self.web.put(f"/images/{name}", content)
        return image(
            number,
            uri=uri,
            content=content,
            **{"hv__format": name.rpartition(".")[2].upper()} | changes,
        )

    def configure(self, *lines: str) -> None:
        (self.root / "image-lists.conf").write_text(
            "\n".join(lines or [self.web.url("/ops/image.list")]) + "\n"
        )

    def command(self, *flags: str) -> list[str]:
        config = ["--root", str(self.root), "--config", str(self.root / "cloudkeeper.yml")]
        return ["sync", *config, "--backend-endpoint", self.cloud.endpoint, *flags]

    def sync(self, *flags: str) -> Done:
        return run(*self.command(*flags))

    def record(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            (self.root / "var/lib/fedcloud/runs/cloudkeeper.json").read_text()
        )
        return found


@pytest.fixture(scope="session")
def disks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return small images of every format by file name."""
    return make_disks(tmp_path_factory.mktemp("disks"))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("authority") / "ca", key="ec")


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Credential:
    other = Authority.create(
        tmp_path_factory.mktemp("strangers") / "ca",
        subject="/DC=EU/DC=EXAMPLE/CN=Stranger",
        key="ec",
    )
    return other.issue("lists.example.org", key="ec")


@pytest.fixture
def world(
    tmp_path: Path, authority: Authority, strangers: Credential, disks: dict[str, bytes]
) -> Iterator[World]:
    certificates = tmp_path / "certificates"
    authority.publish(certificates)
    signer = authority.find("lists.example.org") or authority.issue("lists.example.org", key="ec")
    host = authority.find("localhost") or authority.issue("localhost", key="ec")
    (tmp_path / "cloudkeeper.yml").write_text(
        "cloudkeeper:\n"
        f"  image-lists-file: {tmp_path}/image-lists.conf\n"
        f"  ca-dir: {certificates}\n"
        f"  image-dir: {tmp_path}/images\n"
        "  formats:\n    - qcow2\n    - raw\n"
        "  logging:\n    level: INFO\n"
    )
    with image_server.serve(host) as web, image_backend.serve() as cloud:
        made = World(tmp_path, web, cloud, signer, strangers, certificates, disks)
        made.configure()
        yield made


def key(number: int) -> tuple[str, str]:
    return (LIST_ID, image_id(number))


def test_the_program_itself(world: World) -> None:
    world.publish([world.image(1, "one.qcow2")])
    command = [str(PROGRAM), *world.command("--json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert [change["state"] for change in json.loads(done.stdout)["changes"]] == ["done"]
    assert list(world.cloud.appliances) == [key(1)]
    version = subprocess.run([str(PROGRAM), "version"], capture_output=True, text=True, check=True)
    assert version.stdout == f"{metadata.version('egi-fedcloud-appliance')}\n"


def test_images_reach_the_cloud_and_stay_there(world: World) -> None:
    """R34, R35."""
    world.publish([world.image(1, "one.qcow2"), world.image(2, "one.raw")])
    done = world.sync()
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert world.cloud.received == {
        key(1): sha512(world.files["one.qcow2"]),
        key(2): sha512(world.files["one.raw"]),
    }
    added = world.cloud.appliances[key(1)]
    assert (added.vo, added.operating_system, added.ram, added.core) == (
        "ops",
        "Linux Debian 12",
        2**30,
        1,
    )
    assert added.attributes["hv:dn"] == ENDORSER
    assert world.cloud.calls[0] == "PreAction"
    assert world.cloud.calls[-1] == "PostAction"
    assert list(world.spool.iterdir()) == []
    counts = world.record()["counts"]
    assert (counts["images_added"], counts["lists_accepted"]) == (2, 1)
    assert counts["transferred_bytes"] == len(world.files["one.qcow2"]) + len(
        world.files["one.raw"]
    )

    world.cloud.calls.clear()
    assert world.sync().returncode == 0
    assert world.cloud.calls == ["PreAction", "ImageLists", f"Appliances {LIST_ID}", "PostAction"]
    assert world.web.asked("/images/one.qcow2") == 1
    assert world.record()["counts"]["images_unchanged"] == 2


@pytest.mark.parametrize("name", ["one.ova", "one.vmdk"])
def test_other_formats_are_converted(world: World, name: str, tmp_path: Path) -> None:
    world.publish([world.image(1, name)])
    kept = tmp_path / "kept"

    # The backend of these tests reads the file; this one keeps it for qemu-img.
    def keep() -> None:
        for path in world.spool.glob("*.qcow2"):
            kept.write_bytes(path.read_bytes())

    original = world.cloud.received
    world.cloud.received = _Watching(keep)
    done = world.sync()
    world.cloud.received = original
    assert done.returncode == 0, done.stderr
    raw = tmp_path / "expected.raw"
    raw.write_bytes(world.files["one.raw"])
    qemu_img("compare", "-f", "raw", "-F", "qcow2", raw, kept)
    assert list(world.spool.iterdir()) == []


class _Watching(dict[tuple[str, str], str]):
    def __init__(self, look: Any) -> None:
        super().__init__()
        self.look = look

    def __setitem__(self, key: tuple[str, str], value: str) -> None:
        self.look()
        super().__setitem__(key, value)


def test_an_update_replaces_data_and_one_of_metadata_moves_none(world: World) -> None:
    world.publish([world.image(1, "one.qcow2"), world.image(2, "one.raw")])
    assert world.sync().returncode == 0
    changed = world.image(1, "two.qcow2", hv__version="2026.12.01")
    world.publish([changed, world.image(2, "one.raw", dc__title="Another title")])
    world.cloud.calls.clear()
    done = world.sync()
    assert done.returncode == 0, done.stderr
    assert world.cloud.received[key(1)] == sha512(world.files["two.qcow2"])
    assert world.cloud.appliances[key(1)].version == "2026.12.01"
    assert world.cloud.appliances[key(2)].title == "Another title"
    assert world.web.asked("/images/one.raw") == 1
    assert [call for call in world.cloud.calls if call.startswith("Update")] == [
        f"UpdateAppliance {image_id(1)}",
        f"UpdateAppliance {image_id(2)}",
    ]


def test_a_backend_that_cannot_update_metadata_gets_the_data_again(world: World) -> None:
    world.cloud.features = ""
    world.publish([world.image(1, "one.qcow2")])
    assert world.sync().returncode == 0
    world.publish([world.image(1, "one.qcow2", dc__title="Another title")])
    assert world.sync().returncode == 0
    assert world.web.asked("/images/one.qcow2") == 2


def test_what_a_list_no_longer_offers_is_removed(world: World) -> None:
    world.publish(
        [world.image(1, "one.qcow2"), world.image(2, "one.raw"), world.image(3, "one.raw")]
    )
    assert world.sync().returncode == 0
    world.publish(
        [world.image(1, "one.qcow2"), world.image(3, "one.raw", dc__date__expires=in_days(-1))]
    )
    done = world.sync("--json")
    assert done.returncode == 0, done.stderr
    assert list(world.cloud.appliances) == [key(1)]
    changes = {change["image"]: change for change in json.loads(done.stdout)["changes"]}
    assert changes[image_id(2)]["reason"] == "it is no longer in the list"
    assert changes[image_id(3)]["reason"] == "it has expired"


def test_an_image_stays_while_the_entry_of_its_successor_is_refused(world: World) -> None:
    """F-M1: a list gives an image another identifier, and one digit of its digest is missing."""
    world.publish([world.image(1, "one.qcow2"), world.image(2, "one.raw")])
    assert world.sync().returncode == 0
    renamed = world.image(3, "two.qcow2", sl__checksum__sha512="a" * 127)
    world.publish([renamed, world.image(2, "one.raw", dc__date__expires=in_days(-1))])
    done = world.sync()
    assert done.returncode == 1
    assert (
        f"1 image, because a refused image may be a new version: {image_id(3)}; if none"
        in done.stderr
    )
    assert list(world.cloud.appliances) == [key(1)]
    assert "a refused image may replace it" in world.sync("--dry-run").stdout
    path = world.root / "cloudkeeper.yml"
    path.write_text(f"{path.read_text()}  ignore-images: ['{image_id(3)}']\n")
    assert world.sync().returncode == 0
    assert world.cloud.appliances == {}


def test_many_removals_need_confirmation(world: World) -> None:
    everything = [world.image(number, "one.raw") for number in range(1, 7)]
    world.publish(everything)
    assert world.sync().returncode == 0
    world.publish(everything[:2])
    done = world.sync()
    assert done.returncode == 1
    assert (
        "4 of 6 images would be removed, so none is removed; to confirm that, "
        "run once: cloudkeeper sync --allow-remove 4" in done.stderr
    )
    assert len(world.cloud.appliances) == 6
    assert world.sync("--allow-remove", "3").returncode == 1
    done = world.sync("--allow-remove", "4")
    assert done.returncode == 0, done.stderr
    assert ("allow-remove", "4") in world.cloud.metadata
    assert len(world.cloud.appliances) == 2


def test_a_dry_run_prints_and_changes_nothing(world: World) -> None:
    world.publish([world.image(1, "one.qcow2")])
    done = world.sync("--dry-run")
    assert done.returncode == 0
    url, size = world.web.url("/ops/image.list"), f"{len(world.files['one.qcow2']) / 1024:.1f} KiB"
    assert done.stdout.splitlines() == [
        f"{url} for ops: 1 change, {size} to transfer, 0 images unchanged",
        f'  add  {image_id(1)} "Image 1 [Debian/12/KVM]"  {size}  it is new in the list',
        f"1 change, {size} to transfer, 0 images unchanged, nothing was done",
    ]
    assert world.cloud.calls == ["ImageLists", f"Appliances {LIST_ID}"]
    assert not (world.root / "var/lib").exists()
    planned = json.loads(world.sync("--dry-run", "--json").stdout)["changes"]
    assert [(change["action"], change["state"]) for change in planned] == [("Create", "planned")]
    assert world.web.asked("/images/one.qcow2") == 0


def test_texts_of_a_list_cannot_control_a_terminal(world: World) -> None:
    world.publish([world.image(1, "one.qcow2", dc__title="\x1b[2J\r\nops: would remove all")])
    done = world.sync("--dry-run")
    assert f'{image_id(1)} "\\x1b[2J\\r\\nops: would remove all"' in done.stdout.splitlines()[1]
    assert len(done.stdout.splitlines()) == 3


def test_a_vo_without_a_project_is_one_line_and_no_download(world: World) -> None:
    world.publish([world.image(1, "one.qcow2"), world.image(2, "one.raw")])
    world.publish([world.image(3, "two.raw")], path="/dteam.list", identifier="list-d", vo="dteam")
    world.configure(world.web.url("/ops/image.list"), world.web.url("/dteam.list"))
    world.cloud.unmapped.add("ops")
    done = world.sync()
    assert done.returncode == 1
    (line,) = world.record()["failures"]
    assert line.startswith(world.web.url("/ops/image.list"))
    assert "VO ops: is mapped to no project" in line
    assert (world.web.asked("/images/one.qcow2"), world.web.asked("/images/two.raw")) == (0, 1)
    assert list(world.cloud.appliances) == [("list-d", image_id(3))]


def test_a_bug_in_one_image_affects_no_other(world: World) -> None:
    """qemu-img prints something unexpected."""
    strange = world.root / "qemu-img"
    strange.write_text(
        '#!/bin/sh\ncase "$*" in *000000000001*) echo "{}";; '
        '*) exec /usr/bin/qemu-img "$@";; esac\n'
    )
    strange.chmod(0o755)
    world.publish([world.image(1, "one.qcow2"), world.image(2, "one.raw")])
    done = world.sync("--qemu-img-binary", str(strange))
    assert done.returncode == 1
    (line,) = world.record()["failures"]
    assert line.endswith("bug in cloudkeeper: KeyError: 'virtual-size'")
    assert list(world.cloud.appliances) == [key(2)]
    assert world.cloud.calls[-1] == "PostAction"


def test_a_proxy_of_the_environment_is_not_used_for_the_backend(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.publish([])
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "localhost")
    done = world.sync()
    assert done.returncode == 0, done.stderr


def _altered(message: bytes) -> bytes:
    return message.replace(b'"2026.11.01"', b'"2026.11.02"', 1)


def refused(world: World, words: str) -> None:
    """Assert that the list is refused with these words, and that the images in the cloud stay."""
    before = dict(world.cloud.appliances)
    assert before
    done = world.sync()
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if " - ERROR - " in line]
    assert len(lines) == 1, done.stderr
    assert words in lines[0]
    assert world.web.url("/ops/image.list") in lines[0]
    assert lines[0].endswith("its images stay as they are")
    assert world.cloud.appliances == before
    assert "Traceback" not in done.stderr


@pytest.fixture
def offered(world: World) -> World:
    """Return a site whose cloud has an image already."""
    world.publish([world.image(1, "one.qcow2")])
    assert world.sync().returncode == 0
    return world


def test_one_altered_byte_is_refused(offered: World) -> None:
    message = _altered(offered.publish([offered.image(1, "one.qcow2")]))
    assert not openssl_accepts(message, offered.certificates)
    offered.web.put("/ops/image.list", message)
    refused(offered, "the text is not the one that was signed")


def test_an_unsigned_list_is_refused(offered: World) -> None:
    document = image_list([offered.image(1, "two.qcow2")], dn=ENDORSER, ca=AUTHORITY_DN)
    offered.web.put("/ops/image.list", json.dumps(document).encode())
    refused(offered, "No blank line between message header and body")


def test_an_unknown_authority_is_refused(offered: World) -> None:
    document = image_list([], dn=ENDORSER, ca="/DC=EU/DC=EXAMPLE/CN=Stranger")
    message = sign(document, offered.strangers)
    assert not openssl_accepts(message, offered.certificates)
    offered.web.put("/ops/image.list", message)
    refused(offered, "is not among the trust anchors")


@pytest.mark.parametrize(
    ("kind", "status", "words"),
    [
        ("missing", 3, "the CA directory cannot be read: No such file or directory; install the"),
        ("empty", 3, "no CA certificate (HASH.0) can be read in this directory; install the IGTF"),
        ("a file", 2, "cloudkeeper.yml:3: [cloudkeeper] ca-dir: {} is not a directory"),
    ],
)
def test_a_ca_directory_without_authorities_is_one_line(
    offered: World, kind: str, status: int, words: str
) -> None:
    before = dict(offered.cloud.appliances)
    shutil.rmtree(offered.certificates)
    if kind == "empty":
        offered.certificates.mkdir()
    elif kind == "a file":
        offered.certificates.write_text("")
    done = offered.sync()
    assert done.returncode == status
    assert len(done.stderr.splitlines()) == 1
    assert words.format(offered.certificates) in done.stderr
    assert offered.cloud.appliances == before


def test_an_expired_list_is_refused(offered: World) -> None:
    message = offered.publish([], dc__date__expires=in_days(-0.001))
    assert openssl_accepts(message, offered.certificates)
    refused(offered, "it expired on ")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dn": f"{HOST_DN}/CN=other.example.org"}, "but its endorser is"),
        ({"ca": "/DC=EU/DC=EXAMPLE/CN=Other"}, "certificate is issued by"),
        ({"vo": "dteam"}, "belongs to a list of VO ops, but this list is for VO dteam"),
        ({"ad__vo": None}, "ad:vo is missing"),
        ({"dc__date__expires": "never"}, "dc:date:expires is not a date"),
        ({"hv__images": {}}, "hv:images of the list has the wrong type"),
    ],
    ids=["endorser", "authority", "vo", "no vo", "date", "images"],
)
def test_a_signed_list_with_wrong_content_is_refused(
    offered: World, changes: dict[str, Any], words: str
) -> None:
    message = offered.publish([offered.image(2, "two.qcow2")], **changes)
    assert openssl_accepts(message, offered.certificates)
    refused(offered, words)


def test_a_revoked_signer_is_refused(offered: World, tmp_path: Path) -> None:
    own = Authority.create(tmp_path / "own", subject="/DC=EU/DC=EXAMPLE/CN=Revoking", key="ec")
    gone = own.issue("lists.example.org", key="ec")
    own.revoke(gone)
    own.publish(offered.certificates)
    offered.web.put(
        "/ops/image.list",
        sign(image_list([], dn=ENDORSER, ca="/DC=EU/DC=EXAMPLE/CN=Revoking"), gone),
    )
    refused(offered, "was revoked by")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (image_server.Status(404), "the server answers 404"),
        (
            Broken(b"MIME-Version: 1.0\n", 1000),
            "the connection broke after 18 bytes: the answer breaks off",
        ),
        (Redirect("http://localhost:1/list"), "the server redirects from https to http"),
        (Redirect("/ops/image.list"), "the server redirects more than 5 times"),
        (Redirect("file:///etc/passwd"), "the server redirects from https to file"),
        (bytes(16 * 2**20 + 1), "is larger than 16777216 bytes"),
    ],
    ids=["404", "cut", "to http", "loop", "to a file", "large"],
)
def test_a_list_that_cannot_be_fetched(
    offered: World, content: image_server.Content, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "_sleep", lambda _: None)  # a minute, for the one that is cut
    offered.web.put("/ops/image.list", content)
    refused(offered, words)


def test_a_server_with_an_untrusted_certificate_is_refused(offered: World, tmp_path: Path) -> None:
    with image_server.serve(offered.strangers) as other:
        document = image_list([], dn=ENDORSER, ca=AUTHORITY_DN)
        other.put("/ops/image.list", sign(document, offered.signer))
        offered.configure(other.url("/ops/image.list"))
        done = offered.sync()
    assert done.returncode == 1
    assert "the server's certificate is not trusted: " in done.stderr
    assert len(offered.cloud.appliances) == 1


def test_bad_neighbours_stop_no_other(world: World) -> None:
    """An invalid line, a refused list, an unusable image and a failed call stop no other."""
    world.publish([world.image(1, "one.qcow2")], path="/vo/a.list", identifier="list-a", vo="a")
    document = _altered(
        world.publish([world.image(1, "one.qcow2")], path="/vo/b.list", identifier="list-b", vo="b")
    )
    world.web.put("/vo/b.list", document)
    images = [world.image(number, "one.raw") for number in range(1, 8)]
    # Images of one digest share a file, so each one that fails has a digest of its own.
    for digit in (0, 1, 3):
        images[digit]["hv:image"]["sl:checksum:sha512"] = str(digit) * 128
    images[1]["hv:image"]["hv:uri"] = world.web.url("/nowhere")
    images[2]["hv:image"]["hv:uri"] = "ftp://example.org/image"
    images[3]["hv:image"]["hv:uri"] = world.web.put(
        "/images/cut", Broken(world.files["one.raw"][:-1], None)
    )
    world.publish(images, path="/vo/c.list", identifier="list-c", vo="c")
    world.cloud.misbehave("AddAppliance", image_id(5), how="ERROR_RESOURCE_STATE")
    world.cloud.misbehave("AddAppliance", image_id(6), how="exception")
    world.configure(
        "# lists",
        "",
        "  " + world.web.url("/vo/a.list") + "\r",
        "htps://example.org/list",
        world.web.url("/vo/b.list"),
        world.web.url("/vo/c.list"),
    )
    done = world.sync()
    assert done.returncode == 1
    assert sorted(world.cloud.appliances) == [("list-a", image_id(1)), ("list-c", image_id(7))]
    reported = [
        line.split(" - ERROR - ")[1]
        for line in done.stderr.splitlines()
        if ".sync_report - ERROR - " in line
    ]
    assert world.record()["failures"] == reported
    expected = [
        f"{world.root}/image-lists.conf:4: does not begin with https://; write https://HOST/PATH",
        "/vo/b.list: ",
        f"image {image_id(3)} refused: hv:uri is not an http or https URL",
        "the source says sha512:0000000000000000…",
        "the server answers 404",
        "bytes, the source says",
        "AddAppliance: AddAppliance is made to fail (ERROR_RESOURCE_STATE)",
        "AddAppliance failed: UNKNOWN",
    ]
    assert len(reported) == len(expected), reported
    for line, words in zip(reported, expected, strict=True):
        assert words in line
    assert world.cloud.calls[-1] == "PostAction"
    assert list(world.spool.iterdir()) == []


@pytest.mark.parametrize("lines", [("# none",), ("htps://example.org/list",)])
def test_without_any_list_nothing_is_tried(world: World, lines: tuple[str, ...]) -> None:
    """F-H7: an error of the configuration with file and remedy, not a partial run."""
    world.configure(*lines)
    done = world.sync()
    assert done.returncode == 2
    assert world.cloud.calls == []
    cause = ":1: does not begin with https://; write https://HOST/PATH"
    if lines == ("# none",):
        cause = (
            ": has no image list; write one URL a line, or a registry into sources.yaml, "
            "or switch the flow off in /etc/fedcloud/appliance.yaml: flows: {images: off}"
        )
    assert done.stderr == f"cloudkeeper: {world.root}/image-lists.conf{cause}\n"
    assert world.record()["failures"] == [f"{world.root}/image-lists.conf{cause}"]
    assert world.record()["status"] == 2


def test_two_lists_of_one_identifier(world: World) -> None:
    """The first one is used; the second one removes nothing that it lacks."""
    world.publish([world.image(1, "one.qcow2")])
    world.publish([], path="/copy/image.list")
    world.configure(world.web.url("/ops/image.list"), world.web.url("/copy/image.list"))
    for _ in range(2):
        done = world.sync()
        assert done.returncode == 1
        first = world.web.url("/ops/image.list")
        assert (
            f"/copy/image.list: has the same identifier as {first}, {LIST_ID}; remove one of them"
            in done.stderr
        )
        assert list(world.cloud.appliances) == [key(1)]


def test_the_identifier_of_a_failed_list_stays_reserved(
    offered: World, authority: Authority
) -> None:
    """Another endorser uses the identifier of a list that cannot be fetched at the moment."""
    other = authority.find("other.example.org") or authority.issue("other.example.org", key="ec")
    images = [offered.image(1, "two.qcow2", hv__version="2")]
    document = image_list(images, dn=f"{HOST_DN}/CN=other.example.org", ca=AUTHORITY_DN)
    offered.web.put("/other.list", sign(document, other))
    offered.web.put("/ops/image.list", image_server.Status(404))
    offered.configure(offered.web.url("/ops/image.list"), offered.web.url("/other.list"))
    before = dict(offered.cloud.received)
    done = offered.sync()
    assert done.returncode == 1
    assert (
        f"its endorser is {HOST_DN}/CN=other.example.org of {AUTHORITY_DN}, but was {ENDORSER}"
        in done.stderr
    )
    assert (offered.cloud.received, offered.web.asked("/images/two.qcow2")) == (before, 0)


def test_an_old_list_is_refused(offered: World) -> None:
    old = offered.publish([offered.image(1, "one.qcow2")], dc__date__created="2026-01-02T03:04:05Z")
    refused(offered, "it was created 2026-01-02 03:04:05Z, before one of 20")
    offered.publish([offered.image(1, "one.qcow2")], dc__date__created=None)
    refused(offered, "it was created at an unknown time, before one of 20")
    assert offered.sync("--dry-run").returncode == 1
    offered.web.put("/ops/image.list", old)
    assert offered.sync().returncode == 1


def test_tokens_are_sent_to_their_host_and_shown_nowhere(world: World) -> None:
    """R37, D12."""
    message = world.publish([world.image(1, "one.qcow2")])
    url = world.web.put("/ops/image.list", message, token=TOKEN)
    world.configure(url.replace("https://", f"https://{TOKEN}:x-oauth-basic@"))
    done = world.sync("--debug")
    assert done.returncode == 0, done.stderr
    world.web.tokens["/ops/image.list"] = "another"
    denied = world.sync("--debug")
    assert denied.returncode == 1
    assert "the server answers 401" in denied.stderr
    assert "check the access token in its URL" in denied.stderr
    log = (world.root / "var/log/cloudkeeper/cloudkeeper.log").read_text()
    for text in (done.stdout, done.stderr, denied.stderr, log, json.dumps(world.record())):
        assert TOKEN not in text


def test_credentials_do_not_follow_to_another_host(world: World, authority: Authority) -> None:
    message = world.publish([])
    with image_server.serve(authority.find("localhost")) as other:
        other.put("/list", message)
        world.web.put("/ops/image.list", Redirect(other.url("/list")))
        world.configure(
            world.web.url("/ops/image.list").replace("https://", f"https://{TOKEN}:x-oauth-basic@")
        )
        assert world.sync().returncode == 0
        assert "Authorization" in world.web.requests[0][2]
        assert [headers.get("Authorization") for _, _, headers in other.requests] == [None]


def test_no_backend_is_one_line_and_no_download(world: World) -> None:
    """D15."""
    world.publish([world.image(1, "one.qcow2")])
    done = world.sync("--backend-endpoint", "127.0.0.1:1")
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1].startswith(
        "cloudkeeper: backend 127.0.0.1:1: cannot be reached: "
    )
    assert world.web.requests == []


def test_a_backend_that_refuses_the_run(world: World) -> None:
    world.cloud.misbehave("PreAction", how="ERROR_AUTHENTICATION")
    done = world.sync()
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1].endswith(
        "PreAction: PreAction is made to fail (ERROR_AUTHENTICATION)"
    )
    assert world.record()["status"] == 3


def test_a_backend_that_reports_no_result_has_failed(world: World) -> None:
    world.publish([world.image(1, "one.qcow2")])
    world.cloud.misbehave("AddAppliance", how="silence")
    done = world.sync()
    assert done.returncode == 1
    assert "the backend reported no result" in done.stderr


@pytest.mark.parametrize(("times", "expected"), [(1, 0), (10, 1)], ids=["a restart", "a poison"])
def test_an_image_that_crashes_the_backend_stops_no_other(
    world: World, times: int, expected: int
) -> None:
    """F-S1, for images: the suspect is retried alone, after all others, then skipped."""
    world.publish(
        [world.image(1, "one.qcow2"), world.image(2, "one.raw"), world.image(3, "two.qcow2")]
    )
    poison = image_id(1).encode()
    with cutting_proxy.before(world.cloud.endpoint, poison=poison, times=times) as proxy:
        done = world.sync("--backend-endpoint", proxy.endpoint)
    assert done.returncode == expected, done.stderr
    assert set(world.cloud.appliances) == {key(number) for number in (1, 2, 3)[expected:]}
    assert world.cloud.calls[-1] == "PostAction"
    said = world.record()
    assert (said["counts"]["images_failed"], said["counts"]["images_added"]) == (
        expected,
        3 - expected,
    )
    assert proxy.cuts == min(times, 2)
    if expected:
        [line] = said["failures"]
        assert f"add {image_id(1)}" in line
        assert "the backend became unreachable twice at this image, which is skipped" in line


def test_foreign_files_in_the_image_directory_stop_nothing(world: World) -> None:
    """F-H1: files with a name of ours are removed; a directory is reported."""
    world.publish([world.image(1, "one.qcow2")])
    made = foreign.make(world.spool, prefix="cloudkeeper-") + foreign.make(
        world.spool, prefix="own-"
    )
    done = world.sync()
    assert done.returncode == 1, done.stderr
    assert set(world.cloud.appliances) == {key(1)}
    left = {path.name for path in world.spool.iterdir()}
    assert left == {"cloudkeeper-directory", "cloudkeeper-locked"} | {
        p.name for p in made if p.name.startswith("own-")
    }
    first, second = world.record()["failures"]
    stuck = world.spool / "cloudkeeper-directory"
    assert first == f"{stuck}: skipped: is a directory; if nobody needs it: rm -r {stuck}"
    assert "cloudkeeper-locked" in second


def test_a_pipe_in_place_of_the_memory_is_one_line(world: World) -> None:
    """F-H1: the run waited for it for ever; without the memory no list is trusted."""
    memory = world.root / "var/lib/fedcloud/cloudkeeper/lists.json"
    memory.parent.mkdir(parents=True)
    os.mkfifo(memory)
    done = world.sync()
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1].startswith(f"cloudkeeper: {memory}: Is a pipe")
    assert world.record()["counts"]["lists_left"] == 1, "F-S2"


@pytest.mark.root
def test_the_record_of_a_run_that_fails(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """F-S2: after each kind of failure the record shows that run and its failures."""

    def figures(status: int, words: str, **counts: float) -> None:
        said = run_records.read(world.root, "cloudkeeper")
        assert said.status == status
        assert words in said.failures[0]
        assert {name: said.counts[name] for name in counts} == counts

    first, second = world.image(1, "one.qcow2"), world.image(2, "one.raw")
    world.publish([first])
    assert world.sync().returncode == 0
    assert run_records.read(world.root, "cloudkeeper").counts["lists_left"] == 0
    assert world.sync("--backend-endpoint", "127.0.0.1:1").returncode == 3
    figures(3, "backend 127.0.0.1:1: cannot be reached", lists_left=1)
    assert world.sync("--crl-policy", "perhaps").returncode == 2
    figures(2, "crl-policy")
    world.publish([first, second])
    world.cloud.misbehave("AddAppliance", image_id(2), how="ERROR_RESOURCE_RETRIEVAL")
    assert world.sync().returncode == 1
    figures(1, "AddAppliance is made to fail", images_failed=1, images_unchanged=1, lists_left=0)
    world.cloud.faults.clear()
    world.cloud.misbehave("ImageLists", how="ERROR_AUTHENTICATION")
    assert world.sync().returncode == 3
    figures(3, "(ERROR_AUTHENTICATION)", lists_left=1)
    world.cloud.faults.clear()
    world.web.put("/ops/image.list", image_server.Status(500))
    assert world.sync().returncode == 1
    figures(1, "its images stay as they are", lists_left=1, lists_refused=1)
    world.publish([first, second])
    with foreign.small_disk(world.spool, size="64k") as disk:
        foreign.fill(disk / "of-somebody")
        assert world.sync().returncode == 1
        figures(1, "MiB are needed, 0 MiB are free", images_failed=1)
    monkeypatch.setattr("cloudkeeper.frontend.sync.Synchronisation.run", lambda *_, **__: 1 / 0)
    assert world.sync().returncode == 4
    figures(4, "bug in this program: ZeroDivisionError", lists_left=1)
    (world.root / "cloudkeeper.yml").write_text("cloudkeeper: [\n")
    assert world.sync().returncode == 2
    figures(2, "cloudkeeper.yml:")


def test_a_list_whose_images_cannot_be_listed_is_left_alone(offered: World) -> None:
    offered.cloud.misbehave("Appliances", LIST_ID, how="ERROR_RESOURCE_RETRIEVAL")
    offered.cloud.calls.clear()
    refused(offered, "Appliances is made to fail")
    assert [call for call in offered.cloud.calls if "Appliance " in call] == []


def test_harmful_and_altered_images_are_refused(world: World, tmp_path: Path) -> None:
    qemu_img(
        "create", "-f", "qcow2", "-b", "/etc/passwd", "-F", "raw", tmp_path / "bad.qcow2", "1M"
    )
    world.files = world.files | {"bad.qcow2": (tmp_path / "bad.qcow2").read_bytes()}
    altered = world.image(2, "one.qcow2")
    world.publish([world.image(1, "bad.qcow2"), altered])
    world.web.put("/images/one.qcow2", world.files["one.qcow2"].replace(b"content", b"CONTENT", 1))
    done = world.sync()
    assert done.returncode == 1
    assert "has a backing file; an image must be complete" in done.stderr
    assert "its digest is sha512:" in done.stderr
    assert world.cloud.appliances == {}
    assert list(world.spool.iterdir()) == []


def test_what_the_cloud_refuses_for_good_is_not_moved_again(world: World) -> None:
    """F-M2, F-M11: remembered by digest until the formats, the program or the image change."""
    world.publish([world.image(1, "one.qcow2"), world.image(2, "two.qcow2")])
    for number, status in ((1, "ERROR_RESOURCE_RETRIEVAL"), (2, "ERROR_RESOURCE_RETRIEVAL")):
        world.cloud.misbehave("AddAppliance", image_id(number), how=status)
    world.cloud.final.add(image_id(1))
    first = world.sync()
    assert first.returncode == 1
    digest = f"sha512:{sha512(world.files['one.qcow2'])}"
    again = f"after a change of Glance's configuration: cloudkeeper trust --forget {digest}"
    assert again in first.stderr
    second = world.sync()
    assert "found by an earlier run; the same file is not fetched again" in second.stderr
    # A failure that may pass, such as a quota, is tried in each run.
    assert (world.web.asked("/images/one.qcow2"), world.web.asked("/images/two.qcow2")) == (1, 2)
    world.cloud.faults.clear()
    forget = ("trust", "--forget", digest, "--yes")
    assert run(*forget, *world.command()[1:]).returncode == 0
    assert world.sync().returncode == 0
    assert set(world.cloud.received) == {key(1), key(2)}


OTHER_LIST = "7c1d2e3f-0000-4000-8000-0000000000ff"


def _two_lists(world: World) -> None:
    """Synchronise a list of two images and another one of five."""
    both = (world.web.url("/ops/image.list"), world.web.url("/other/image.list"))
    world.configure(*both)
    world.publish([world.image(1, "one.qcow2"), world.image(2, "two.qcow2")])
    several = [world.image(number, "one.qcow2") for number in range(11, 16)]
    world.publish(several, path="/other/image.list", dc__identifier=OTHER_LIST)
    assert world.sync().returncode == 0
    world.cloud.calls.clear()


def _policy(world: World, word: str) -> None:
    path = world.root / "cloudkeeper.yml"
    lines = [line for line in path.read_text().splitlines() if "ended-lists" not in line]
    path.write_text("\n".join([*lines, f"  ended-lists: {word}"]) + "\n")


def _changes(world: World) -> list[str]:
    asking = ("PreAction", "ImageLists", "Appliances", "PostAction")
    made = [call for call in world.cloud.calls if not call.startswith(asking)]
    world.cloud.calls.clear()
    return sorted(made)  # images are transferred side by side


def test_images_of_a_list_that_left_the_configuration_are_kept_and_counted(world: World) -> None:
    """F-M7: keep, the default, in one line with the number and the option."""
    _two_lists(world)
    world.configure()
    for _ in range(2):
        done = world.sync()
        assert (done.returncode, _changes(world)) == (0, [])
        assert done.stdout == (
            "kept in the cloud: 5 images of lists that have ended (ended-lists: keep): "
            f"image list {OTHER_LIST} (5): it is no longer configured\n"
        )
        assert world.record()["counts"]["images_of_ended_lists"] == 5
    assert world.sync("--dry-run").stdout.count("kept in the cloud: 5 images") == 1


def test_images_of_a_list_that_left_the_configuration_are_hidden_and_shown_again(
    world: World,
) -> None:
    """F-M7: hide, within the guard of removals; nothing is transferred when the list is back."""
    _two_lists(world)
    _policy(world, "hide")
    world.configure()
    held = world.sync()
    assert held.returncode == 1
    words = f"image list {OTHER_LIST}: 5 of 5 images would be removed, so none is removed; to"
    assert words in held.stderr
    assert _changes(world) == []
    assert world.sync("--allow-remove", "5").returncode == 0
    assert _changes(world) == [f"HideAppliance {image_id(number)}" for number in range(11, 16)]
    assert world.record()["counts"]["images_hidden"] == 5
    again = world.sync()
    assert (again.returncode, _changes(world)) == (0, [])
    assert (
        "kept in the cloud: 5 images of lists that have ended (ended-lists: hide)" in again.stdout
    )
    asked = world.web.asked("/images/one.qcow2")
    world.configure(world.web.url("/ops/image.list"), world.web.url("/other/image.list"))
    assert world.sync().returncode == 0
    assert _changes(world) == [f"UpdateAppliance {image_id(number)}" for number in range(11, 16)]
    assert world.web.asked("/images/one.qcow2") == asked
    assert world.sync().returncode == 0
    assert _changes(world) == []


def test_small_lists_that_end_together_are_removed_after_a_confirmation(world: World) -> None:
    """A file of lists that is emptied by mistake: the limit of a list allows each of them."""
    names = ("/a.list", "/b.list", "/c.list")
    for number, path in enumerate(names):
        images = [world.image(10 * number + each, "one.qcow2") for each in (1, 2)]
        world.publish(images, path=path, dc__identifier=f"{OTHER_LIST[:-1]}{number}")
    world.configure(*map(world.web.url, names))
    assert world.sync().returncode == 0
    _changes(world)
    _policy(world, "remove")
    world.configure(world.web.url("/a.list"))
    done = world.sync()
    words = "2 lists have ended: 4 of 6 images would be removed, so none is removed; to confirm"
    assert words in done.stderr
    assert (done.returncode, _changes(world)) == (1, [])
    assert world.record()["counts"]["removals_withheld"] == 4
    assert world.sync("--allow-remove", "4").returncode == 0
    assert len(_changes(world)) == 4


def test_images_of_an_expired_list_are_removed(world: World) -> None:
    """F-M7: remove, for a list that is still configured."""
    _two_lists(world)
    _policy(world, "remove")
    world.publish([world.image(1, "one.qcow2")], dc__date__expires=in_days(-1))
    done = world.sync()
    assert done.returncode == 1
    assert "it expired on" in done.stderr
    assert "ended-lists: remove applies to its images" in done.stderr
    assert _changes(world) == [f"RemoveAppliance {image_id(number)}" for number in (1, 2)]


@pytest.mark.parametrize(
    "what",
    ["unread", "forged", "forgotten", "flag", "failed", "refused", "unknown", "old backend"],
)
def test_no_image_goes_unless_its_list_has_certainly_ended(world: World, what: str) -> None:
    """The refusals of F-M7: each keeps all images, and says why."""
    _two_lists(world)
    _policy(world, "hide" if what == "old backend" else "remove")
    world.configure()
    flags = ["--allow-remove", "9"]
    memory = world.root / "var/lib/fedcloud/cloudkeeper/lists.json"
    if what == "unread":  # a source that is new, and cannot be read
        world.configure(world.web.url("/ops/image.list"), world.web.url("/nowhere"))
        words = "it may be the list of"
    elif what == "forged":  # an expired list, by somebody else
        world.configure(world.web.url("/ops/image.list"), world.web.url("/other/image.list"))
        document = image_list([], dn=f"{HOST_DN}/CN=other.example.org", ca=AUTHORITY_DN)
        document["hv:imagelist"]["dc:identifier"] = OTHER_LIST
        document["hv:imagelist"]["dc:date:expires"] = in_days(-1)
        world.web.put("/other/image.list", sign(document, world.strangers))
        words = "its images stay as they are"
    elif what == "forgotten":
        memory.unlink()
        words = "this frontend has never accepted it"
    elif what == "flag":
        flags += ["--image-lists-file", str(world.root / "image-lists.conf")]
        words = "no effect when the command line names the sources"
    elif what == "failed":  # a new image of the same VO may replace one
        world.publish([world.image(number, "one.qcow2") for number in (1, 2, 3)])
        world.cloud.misbehave("AddAppliance", image_id(3), how="ERROR")
        words = "an image for VO ops was not added, which may replace one of them"
    elif what == "refused":
        several = [world.image(1, "one.qcow2"), world.image(2, "two.qcow2")]
        world.publish([*several, world.image(3, "one.qcow2", hv__uri="file:/x")])
        words = "), and may replace one of them for VO ops; ask its publisher to correct them"
    elif what == "unknown":
        world.cloud.misbehave("Appliances", LIST_ID, how="ERROR_RESOURCE_RETRIEVAL")
        words = "was not compared with the cloud, and may replace one of them for VO ops"
    else:
        world.cloud.features = "metadata-update,vo-check"
        words = "this backend cannot hide images"
    done = world.sync(*flags)
    assert words in done.stdout + done.stderr
    assert [call for call in _changes(world) if call.startswith(("Remove", "Hide"))] == []
    assert sum(name == OTHER_LIST for name, _ in world.cloud.appliances) == 5


def test_a_change_of_formats_is_reported_and_done_when_asked_for(world: World) -> None:
    """F-M12: the site wants raw from now on; nothing is converted before --reconvert."""
    world.publish([world.image(1, "one.qcow2"), world.image(2, "one.raw")])
    assert world.sync().returncode == 0
    path = world.root / "cloudkeeper.yml"
    path.write_text(path.read_text().replace("    - qcow2\n", ""))
    world.cloud.calls.clear()
    for _ in range(2):
        done = world.sync()
        assert (done.returncode, _changes(world)) == (0, [])
        assert done.stdout == (
            "kept in a format that formats no longer accepts (qcow2): 1 image; to convert them, "
            "run: cloudkeeper sync --reconvert\n"
        )
    assert world.sync("--reconvert").returncode == 0
    assert _changes(world) == [f"UpdateAppliance {image_id(1)}"]
    assert world.cloud.formats == {key(1): "raw", key(2): "raw"}
    done = world.sync("--reconvert")
    assert (done.returncode, done.stdout, _changes(world)) == (0, "", [])


def test_a_failed_update_leaves_the_old_image_to_the_backend(offered: World) -> None:
    before = dict(offered.cloud.received)
    changed = offered.image(1, "two.qcow2", hv__version="2")
    offered.publish([changed])
    offered.web.put("/images/two.qcow2", image_server.Status(404))
    offered.cloud.calls.clear()
    done = offered.sync()
    assert done.returncode == 1
    assert offered.cloud.calls == ["PreAction", "ImageLists", f"Appliances {LIST_ID}", "PostAction"]
    assert offered.cloud.received == before


def test_mutual_tls(world: World, authority: Authority) -> None:
    world.publish([world.image(1, "one.qcow2")])
    host = authority.find("localhost")
    client = authority.issue("frontend.example.org", key="ec")
    assert host is not None
    pair = (host.key.read_bytes(), host.certificate.read_bytes())
    credentials = grpc.ssl_server_credentials(
        [pair], root_certificates=authority.certificate.read_bytes(), require_client_auth=True
    )
    flags = ["--authentication", "--certificate", str(client.certificate), "--key", str(client.key)]
    with image_backend.serve(credentials=credentials) as cloud:
        endpoint = f"localhost:{cloud.port}"
        known = [
            "--backend-endpoint",
            endpoint,
            "--backend-certificate",
            str(authority.certificate),
        ]
        done = world.sync(*known, *flags)
        assert done.returncode == 0, done.stderr
        assert list(cloud.appliances) == [key(1)]
        assert world.sync("--backend-endpoint", endpoint).returncode == 3
        stranger = [
            "--backend-endpoint",
            endpoint,
            "--backend-certificate",
            str(world.strangers.certificate),
        ]
        done = world.sync(*stranger, *flags)
    assert done.returncode == 3
    assert "cannot be reached" in done.stderr


def test_a_second_run_does_not_wait(world: World) -> None:
    holder = world.root / "var/lock/cloudkeeper/cloudkeeper.lock"
    script = "import sys, pathlib\nfrom appliance.core.run import lock\n"
    script += f"with lock.hold(pathlib.Path({str(holder)!r})):\n"
    script += "    print('held', flush=True)\n    sys.stdin.read()\n"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        done = world.sync()
        other.communicate("")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"cloudkeeper: {holder}: running since ")
    assert f"(pid {other.pid})" in done.stderr
    assert world.cloud.calls == []


def test_configuration_is_checked_without_doing_anything(world: World) -> None:
    done = world.sync("--check-config")
    assert done.returncode == 0
    assert f"lists:         {world.web.url('/ops/image.list')}" in done.stdout
    world.configure("nonsense", world.web.url("/ops/image.list"))
    done = world.sync("--check-config")
    assert done.returncode == 2
    assert (
        done.stderr
        == f"cloudkeeper: {world.root}/image-lists.conf:1: does not begin with https://; "
        "write https://HOST/PATH\n"
    )
    assert (world.web.requests, world.cloud.calls) == ([], [])


@pytest.mark.parametrize(
    ("parallel", "names"),
    [
        (1, ["one.qcow2", "two.qcow2", "one.raw"]),
        (2, ["one.qcow2", "two.qcow2", "one.raw"]),
        (2, ["one.qcow2", "one.qcow2", "one.qcow2"]),
    ],
    ids=["one", "two", "shared"],
)
def test_a_stopped_run_cleans_up(world: World, parallel: int, names: list[str]) -> None:
    """SIGTERM during downloads: no file stays, and the run ends with PostAction.

    Of a file that three images need, one is fetched, for which another one waits.
    """
    world.publish([world.image(number, name) for number, name in enumerate(names)])
    for name in names:
        world.web.put(f"/images/{name}", Slow(world.files[name], 1))
    expected = min(parallel, len(set(names)))

    def asked() -> int:
        return sum(path.startswith("/images/") for _, path, _ in world.web.requests)

    command = [str(PROGRAM), *world.command("--parallel-transfers", str(parallel))]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        deadline = time.monotonic() + 90
        while asked() < expected and time.monotonic() < deadline:
            time.sleep(0.05)
        running.terminate()
        _, errors = running.communicate(timeout=60)
    assert running.returncode == 3
    assert errors.splitlines()[-1] == "cloudkeeper: interrupted; run it again"
    assert list(world.spool.iterdir()) == []
    assert asked() == expected
    assert world.cloud.calls[-1] == "PostAction"
    assert not any(call.startswith("AddAppliance") for call in world.cloud.calls)
    assert world.record()["failures"] == ["interrupted"]
    assert world.record()["status"] == 3


def test_images_are_transferred_side_by_side(world: World) -> None:
    """Each of two servers waits until the other one is asked, too."""
    both = threading.Barrier(2, timeout=30)

    def together(name: str) -> Callable[[int], bytes]:
        def content(_: int) -> bytes:
            both.wait()
            return world.files[name]

        return content

    world.publish([world.image(1, "one.qcow2"), world.image(2, "one.raw")])
    for name in ("one.qcow2", "one.raw"):
        world.web.put(f"/images/{name}", together(name))
    done = world.sync()
    assert done.returncode == 0, done.stderr
    assert world.cloud.received == {
        key(1): sha512(world.files["one.qcow2"]),
        key(2): sha512(world.files["one.raw"]),
    }


OTHER_VOS = {"biomed": "9d5c0a10-0000-4000-8000-0000000000b0", "vo.x": f"{LIST_ID[:-2]}c0"}
SERIAL = "metadata-update,vo-check,properties,hide"


def publish_for_three(world: World, name: str, **changes: dict[str, Any]) -> dict[str, str]:
    """Publish a list for each of three VOs, all with one file; return the path of each."""
    places = {"ops": LIST_ID, **OTHER_VOS}
    for number, (vo, identifier) in enumerate(places.items(), start=1):
        uri = world.web.put(f"/{vo}/{name}", world.files[name])
        one = world.image(number, name, hv__uri=uri, dc__title=f"Image of {vo}")
        one["hv:image"] |= changes.get(vo, {})
        world.publish([one], path=f"/{vo}/image.list", vo=vo, identifier=identifier)
    world.configure(*(world.web.url(f"/{vo}/image.list") for vo in places))
    return {vo: f"/{vo}/{name}" for vo in places}


@pytest.mark.parametrize("features", [f"{SERIAL},parallel", SERIAL], ids=["parallel", "serial"])
@pytest.mark.parametrize("name", ["one.qcow2", "one.vmdk"])
def test_one_file_of_three_lists_is_fetched_once(world: World, features: str, name: str) -> None:
    """F-M13: one download, one conversion, and for each VO the image as its own list has it.

    Digests are compared as values: one list writes capitals.
    """
    world.cloud.features = features
    digest = sha512(world.files[name]).upper()
    paths = publish_for_three(world, name, biomed={"sl:checksum:sha512": digest})
    done = world.sync()
    assert done.returncode == 0, done.stderr
    assert sum(world.web.asked(path) for path in paths.values()) == 1
    assert len(world.cloud.received) == len(paths)
    assert len(set(world.cloud.received.values())) == 1
    assert done.stderr.count("converting from") == (name == "one.vmdk")
    found = {
        one.vo: (one.title, one.attributes["hv:uri"]) for one in world.cloud.appliances.values()
    }
    assert found == {vo: (f"Image of {vo}", world.web.url(path)) for vo, path in paths.items()}
    assert list(world.spool.iterdir()) == []


def test_each_list_of_one_file_is_verified_itself(world: World) -> None:
    """The size and the digest that a list states are its own, and so is its signature."""
    name = "one.qcow2"
    wrong = str(len(world.files[name]) + 1)
    paths = publish_for_three(world, name, biomed={"hv:size": wrong})
    world.web.put("/vo.x/image.list", b"forged")
    done = world.sync()
    assert done.returncode == 1
    assert {one.vo for one in world.cloud.appliances.values()} == {"ops"}
    assert [world.web.asked(path) for path in paths.values()] == [1, 0, 0]
    size = len(world.files[name])
    words = f"the file with this digest has {size} bytes, the source says {wrong}"
    assert f"{world.web.url(paths['biomed'])}: {words}" in done.stderr

    altered = "0" + sha512(world.files[name])[1:]
    paths = publish_for_three(world, name, biomed={"sl:checksum:sha512": altered})
    done = world.sync()
    assert done.returncode == 1
    assert "its digest is" in done.stderr
    assert {one.vo for one in world.cloud.appliances.values()} == {"ops", "vo.x"}


def test_a_file_that_one_source_cannot_give_is_fetched_from_the_next(world: World) -> None:
    paths = publish_for_three(world, "one.qcow2")
    world.web.put(paths["ops"], Broken(b"", announced=None))
    done = world.sync()
    assert done.returncode == 1, done.stderr
    assert {one.vo for one in world.cloud.appliances.values()} == set(OTHER_VOS)
    assert sum(world.web.asked(paths[vo]) for vo in OTHER_VOS) == 1


def test_a_raw_disk_without_marks_is_raw_only_for_lists_that_say_so(world: World) -> None:
    """What one list declares decides nothing for another one."""
    world.files["bare.raw"] = b"\0" * 2**20
    publish_for_three(world, "bare.raw", biomed={"hv:format": "QCOW2"})
    done = world.sync()
    assert done.returncode == 1
    assert {one.vo for one in world.cloud.appliances.values()} == {"ops", "vo.x"}
    assert "has none of the formats" in done.stderr


def test_a_backend_that_does_not_announce_it_gets_one_image_at_a_time(world: World) -> None:
    """cloudkeeper-os 0.9.x."""
    world.cloud.features = ""
    both = threading.Barrier(2)

    def alone(name: str) -> Callable[[int], bytes]:
        def content(_: int) -> bytes:
            with pytest.raises(threading.BrokenBarrierError):
                both.wait(timeout=0.3)
            both.reset()
            return world.files[name]

        return content

    world.publish([world.image(1, "one.raw"), world.image(2, "one.qcow2")])
    for name in ("one.raw", "one.qcow2"):
        world.web.put(f"/images/{name}", alone(name))
    assert world.sync("--parallel-transfers", "4").returncode == 0
    assert len(world.cloud.appliances) == 2


def test_a_failed_addition_keeps_what_its_list_removes_also_side_by_side(world: World) -> None:
    """F-M1. The other list is not affected."""
    world.publish([world.image(1, "one.raw")])
    other = [world.image(7, "one.raw")]
    world.publish(other, path="/dteam.list", identifier="list-d", vo="dteam")
    world.configure(world.web.url("/ops/image.list"), world.web.url("/dteam.list"))
    assert world.sync().returncode == 0
    world.publish([world.image(2, "one.qcow2"), world.image(3, "two.qcow2")])
    world.web.put("/images/two.qcow2", Broken(b"short", None))
    other = [world.image(8, "one.raw")]
    world.publish(other, path="/dteam.list", identifier="list-d", vo="dteam")
    assert world.sync("--parallel-transfers", "3").returncode == 1
    assert set(world.cloud.appliances) == {key(1), key(2), ("list-d", image_id(8))}


def _converting(world: World) -> None:
    slow = world.root / "qemu-img"
    wait = f"{{ touch {world.root}/converting; sleep 300; }}"
    slow.write_text(f'#!/bin/sh\n[ "$1" != convert ] || {wait}\nexec /usr/bin/qemu-img "$@"\n')
    slow.chmod(0o755)
    configuration = world.root / "cloudkeeper.yml"
    text = configuration.read_text() + f"  external-tools: {{binaries: {{qemu-img: {slow}}}}}\n"
    configuration.write_text(text)


def _uploading(world: World) -> None:
    world.cloud.misbehave("AddAppliance", how="hang")


def _pausing(world: World) -> None:
    def wait(answer: Ranges, _: int) -> None:
        answer.status, answer.body = 503, b""
        answer.headers["Retry-After"] = "100"

    world.web.put("/images/one.vmdk", Ranged(b"", twist=wait))


@pytest.mark.parametrize(
    ("hold", "name", "holds"),
    [
        (_converting, "one.vmdk", lambda world: (world.root / "converting").exists()),
        (_uploading, "one.qcow2", lambda world: any("Add" in call for call in world.cloud.calls)),
        (_pausing, "one.vmdk", lambda world: world.web.asked("/images/one.vmdk")),
    ],
    ids=["conversion", "upload", "pause"],
)
def test_a_run_is_stopped_in_each_step_of_a_transfer(
    world: World,
    hold: Callable[[World], None],
    name: str,
    holds: Callable[[World], object],
) -> None:
    """SIGTERM reaches the threads: the run ends at once, and leaves no program and no file."""
    world.publish([world.image(1, name)])
    hold(world)
    command = [str(PROGRAM), *world.command()]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        deadline = time.monotonic() + 90
        while not holds(world) and time.monotonic() < deadline:
            time.sleep(0.05)
        running.terminate()
        _, errors = running.communicate(timeout=60)  # the least wait is 100 s
    assert holds(world)
    assert running.returncode == 3, errors
    assert errors.splitlines()[-1] == "cloudkeeper: interrupted; run it again"
    assert list(world.spool.iterdir()) == []
    assert world.cloud.calls[-1] == "PostAction"
    found = subprocess.run(["pgrep", "-f", str(world.spool)], capture_output=True, check=False)
    assert found.stdout == b""


def _stop_at(world: World, call: str, *, times: int) -> threading.Thread:
    """Send this process SIGTERM when the backend gets a call, and again while it has not ended."""

    def stop() -> None:
        ends = time.monotonic() + 60
        while not any(made.startswith(call) for made in world.cloud.calls):
            assert time.monotonic() < ends
            time.sleep(0.02)
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.5)

    thread = threading.Thread(target=stop)
    thread.start()
    return thread


def test_a_backend_that_hangs_does_not_hold_up_a_stop(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """§7.28: the end of the run has a limit, less than the time until SIGKILL."""
    limits = sync._STOP + slots._END
    assert limits + timedelta(seconds=5) < supervise.GRACE
    monkeypatch.setattr(sync, "_STOP", timedelta(seconds=0.3))
    world.publish([world.image(1, "one.qcow2")])
    world.cloud.misbehave("AddAppliance", how="hang")
    world.cloud.misbehave("PostAction", how="hang")
    stopping = _stop_at(world, "AddAppliance", times=1)
    done = world.sync()
    stopping.join()
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1] == "cloudkeeper: interrupted; run it again"
    assert "PostAction did not finish in time" in done.stderr
    assert list(world.spool.iterdir()) == []


def test_a_second_signal_waits_for_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """§7.28: neither for transfers nor for the backend; the record says how the run ended."""
    monkeypatch.setattr(sync.Synchronisation, "_abort", lambda _: time.sleep(0.2))  # nothing ends
    world.publish([world.image(1, "one.qcow2")])
    world.cloud.misbehave("AddAppliance", how="hang")
    stopping = _stop_at(world, "AddAppliance", times=2)
    done = world.sync()
    stopping.join()
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1] == "cloudkeeper: interrupted; run it again"
    assert "PostAction" not in world.cloud.calls
    assert world.record()["failures"] == ["interrupted"]


def test_exit_codes_of_the_peer(world: World) -> None:
    assert world.sync("--compat-exit-codes").returncode == 12
    assert world.sync("--compat-exit-codes", "--backend-endpoint", "127.0.0.1:1").returncode == 1
    world.publish([])
    assert world.sync("--compat-exit-codes").returncode == 0


def killing(world: World, parallel: int) -> KillMatrix:
    """Return the matrix of a run that adds, replaces, converts and removes an image.

    The threads of qemu-img wake each other by ``write``, between 4 and 23 times in one conversion,
    so that it may be killed alone; its image has failed then.
    """
    old = [world.image(1, "one.qcow2"), world.image(2, "one.raw")]
    new = [
        world.image(1, "two.qcow2", hv__version="2"),
        world.image(3, "one.raw"),
        world.image(4, "one.ova"),
    ]

    def prepare() -> Command:
        world.cloud.appliances.clear()
        world.cloud.received.clear()
        world.publish(old)
        assert world.sync().returncode == 0
        world.publish(new)
        flags = ("--parallel-transfers", str(parallel))
        return Command([str(PROGRAM), *world.command(*flags)])

    def verify() -> None:
        assert sorted(world.cloud.appliances) == [key(1), key(3), key(4)]
        assert world.cloud.received[key(1)] == sha512(world.files["two.qcow2"])
        assert world.cloud.received[key(3)] == sha512(world.files["one.raw"])
        assert list(world.spool.iterdir()) == []

    return KillMatrix(
        prepare,
        verify,
        syscalls=("fsync", "rename", "unlink", "mkdir", "ftruncate", "sendto", "write"),
        child=r"qemu-img \w+ failed \(-9\)",
    )


def test_killed_and_run_again(world: World) -> None:
    killing(world, parallel=1).run(sample=3, seed=3)


@pytest.mark.matrix
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("parallel", [1, 2])
def test_killed_at_every_system_call_and_run_again(world: World, parallel: int) -> None:
    killing(world, parallel).run(sample=None)


def test_a_new_identifier_does_not_cost_the_image(world: World) -> None:
    """F-M1: the list gives an image a new identifier, and its download fails at first."""
    world.publish([world.image(1, "one.qcow2")])
    assert world.sync().returncode == 0
    renamed = world.image(2, "one.qcow2")
    world.publish([renamed])
    content = world.web.contents["/images/one.qcow2"]
    world.web.put("/images/one.qcow2", image_server.Status(404))
    done = world.sync()
    assert done.returncode == 1
    assert "an addition or update of its list failed, so nothing of it is removed" in done.stderr
    assert list(world.cloud.appliances) == [key(1)]
    world.web.put("/images/one.qcow2", content)
    assert world.sync().returncode == 0
    assert list(world.cloud.appliances) == [key(2)]
    calls = [call.split()[0] for call in world.cloud.calls if "Appliance " in call]
    assert calls[-2:] == ["AddAppliance", "RemoveAppliance"]
