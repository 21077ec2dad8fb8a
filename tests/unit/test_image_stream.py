"""Images that go from their server to Glance in one pass: F-M15, without a file in between.

Frontend and backend are the real ones, with gRPC and the stream's socket between them; server and
cloud are simulators. Digests of what was stored are those of coreutils.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import itertools
import logging
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from appliance.core import retry
from appliance.core.download.downloader import Downloader, Timeouts
from appliance.core.run.errors import Unavailable
from appliance.core.trust.ca_directory import CADirectory
from appliance.core.trust.errors import Tampered
from cloudkeeper import formats
from cloudkeeper.backend import calls
from cloudkeeper.backend import stream as fetched
from cloudkeeper.backend.data_places import DataPlaces
from cloudkeeper.backend.errors import Failed
from cloudkeeper.backend.upload import open_image
from cloudkeeper.frontend import grpc_connection, transfer
from cloudkeeper.frontend.comparison import Comparison
from cloudkeeper.frontend.conversion import QemuImg
from cloudkeeper.frontend.reading import OfferSources
from cloudkeeper.frontend.refused import RefusedImages
from cloudkeeper.frontend.stream import NeedsFile, OfferedStream, Received
from cloudkeeper.frontend.sync import Synchronisation
from cloudkeeper.frontend.sync_report import SyncReport
from cloudkeeper.frontend.transfer import Workshop
from cloudkeeper.model import (
    Appliance,
    ApplianceId,
    Format,
    ImageData,
    ImageList,
    ImageSource,
    ListId,
    Offer,
    TransferMode,
)
from cloudkeeper.wire import communicator_1x_pb2_grpc as stubs
from cloudkeeper.wire import image_socket
from cloudkeeper.wire.messages import to_message
from cloudkeeper.wire.status import OWN_DIGEST, CallStatus
from tests.e2e.images_frontend import BOOT_SECTOR
from tests.simulators import image_server
from tests.simulators.image_server import Broken, Dripping, ImageServer, Ranged
from tests.simulators.openstack import Answer
from tests.testbed.pki import Authority
from tests.unit import backend_site
from tests.unit.backend_site import BackendSite

MIB = 2**20
RAW = BOOT_SECTOR + b"block of a disk ".ljust(512, b".") * (5 * 2048)
"""A boot sector and five MiB."""
QCOW2 = struct.pack(">4sIQIIQ", b"QFI\xfb", 2, 0, 0, 16, MIB)
LIST = ListId("7c1d2e3f-0000-4000-8000-00000000000a")


@dataclass
class Web:
    """A source of images on a web server."""

    client: Downloader
    offers: list[Offer] = field(default_factory=list)
    lists: list[ImageList] = field(default_factory=list)
    """In place of one list of the offers."""

    def __str__(self) -> str:
        return "list"

    def fetch(self, *, at: datetime) -> tuple[Sequence[ImageList], Sequence[str]]:
        del at
        one = ImageList(identifier=LIST, vo="ops", offers=tuple(self.offers))
        return self.lists or [one], ()

    def list_ids(self) -> frozenset[ListId]:
        return frozenset({LIST})

    def accept(self, *, at: datetime) -> None:
        pass

    def open(
        self, source: ImageSource, *, name: str, timeouts: Timeouts
    ) -> AbstractContextManager[tuple[int | None, Iterator[bytes]]]:
        return self.client.stream(source.uri, name=name, timeouts=timeouts)

    def doubt(self, missing: Appliance) -> str:
        del missing
        return ""


@dataclass
class Flow:
    """Everything between a web server and Glance."""

    site: BackendSite
    web: ImageServer
    source: Web
    workshop: Workshop

    def put(
        self,
        content: image_server.Content = RAW,
        *,
        digest: str = "",
        size: int | None = len(RAW),
        declared: str = "",
    ) -> str:
        """Offer one image; return its URL."""
        uri = self.web.put("/one.img", content)
        given = content if isinstance(content, bytes) else RAW
        appliance = Appliance(
            ApplianceId("5b4f1d2e-0000-4000-8000-000000000001"),
            LIST,
            vo="ops",
            title="one",
            attributes={"hv:format": declared, "hv:version": "1"},
        )
        wanted = digest or f"sha512:{hashlib.sha512(given).hexdigest()}"
        self.source.offers = [Offer(appliance, ImageSource(uri, wanted, size))]
        return uri

    def run(self, *, over_tcp: bool = False, parallel: int = 1) -> SyncReport:
        report = SyncReport()
        with (
            self.site.running(tcp=over_tcp),
            grpc_connection.client(self.site.endpoint) as backend,
        ):
            found = OfferSources([self.source])
            run = Synchronisation(Comparison(found, backend), self.workshop, parallel=parallel)
            run.run(report, at=datetime(2026, 11, 30, tzinfo=UTC))
        assert list(self.workshop.directory.glob("cloudkeeper-*")) == []
        return report

    def failure(self) -> str:
        """Run, which fails for one reason and stores nothing; return it."""
        (line,) = self.run().failures
        assert self.site.glance.images == {}
        return line

    def stored(self) -> str:
        """Return the SHA-512 of the stored image, by coreutils."""
        ((name, content),) = self.site.glance.files.items()
        image = self.site.glance.images[name]
        assert (image["status"], image["os_hidden"]) == ("active", False)
        done = subprocess.run(["sha512sum"], input=content, capture_output=True, check=True)
        return done.stdout.split()[0].decode()


@pytest.fixture(scope="module")
def web() -> Iterator[ImageServer]:
    with image_server.serve(None) as server:
        yield server


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Downloader:
    made = Authority.create(tmp_path_factory.mktemp("authority") / "ca", key="ec")
    made.publish(made.directory / "certificates")
    return Downloader(CADirectory(made.directory / "certificates"))


@pytest.fixture
def flow(
    tmp_path: Path, web: ImageServer, client: Downloader, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Flow]:
    monkeypatch.setattr(retry, "_sleep", lambda _: None)
    web.requests.clear()
    accepted = (Format.QCOW2, Format.RAW)
    refused = RefusedImages(tmp_path / "refused.json", accepted)
    with backend_site.made(tmp_path) as site:
        workshop = Workshop(tmp_path / "images", accepted, QemuImg(), refused)
        yield Flow(site, web, Web(client), workshop)


def qcow2(path: Path) -> bytes:
    (path / "one.raw").write_bytes(RAW)
    command = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "one.raw", "one.qcow2"]
    subprocess.run(command, check=True, cwd=path)
    return (path / "one.qcow2").read_bytes()


def test_a_stream_with_twenty_cuts_is_stored_whole(flow: Flow) -> None:
    """F-M8, in one pass: hash and upload go on over all connections."""
    flow.put(Ranged(RAW, cut=260_000))
    report = flow.run()
    assert report.failures == []
    assert flow.web.asked("/one.img") == 21
    assert flow.stored() == hashlib.sha512(RAW).hexdigest()


def test_a_stream_of_a_file_that_changes_is_not_stored(flow: Flow) -> None:
    """F-M8: the server has another file of the same size when it is asked again."""
    versions = [Ranged(RAW, cut=3_000_000), Ranged(RAW[::-1], etag='"v2"')]
    uri = flow.put()
    flow.web.put("/one.img", lambda number: versions[min(number, 1)])
    words = 'has another file now: its ETag is "v2", and was "v1"; the next run starts again'
    line = flow.failure()
    assert words in line
    assert uri in line


def test_streams_run_side_by_side(flow: Flow) -> None:
    """Each download waits until the other one has begun."""
    both = threading.Barrier(2, timeout=30)

    other = RAW[:-1] + b"!"  # the same image would be fetched once

    def together(content: bytes) -> bytes:
        both.wait()
        return content

    flow.put()
    (one,) = flow.source.offers
    uri = flow.web.put("/two.img", lambda _: together(other))
    flow.web.put("/one.img", lambda _: together(RAW))
    appliance = replace(
        one.appliance, identifier=ApplianceId("5b4f1d2e-0000-4000-8000-000000000002"), title="two"
    )
    digest = f"sha512:{hashlib.sha512(other).hexdigest()}"
    flow.source.offers = [one, Offer(appliance, replace(one.source, uri=uri, digest=digest))]
    report = flow.run(parallel=2)
    assert report.failures == []
    assert flow.site.glance.shown() == ["one", "two"]
    assert set(flow.site.glance.files.values()) == {RAW, other}


@pytest.mark.programs("qemu-img")
@pytest.mark.parametrize("kind", ["large raw", "qcow2", "small raw"])
@pytest.mark.parametrize("algorithm", ["sha512", "sha256"])
def test_an_image_passes_without_a_file(
    flow: Flow, tmp_path: Path, kind: str, algorithm: str
) -> None:
    # The large one passes through each buffer more than once.
    kinds = {"large raw": RAW + RAW[:-7] + RAW, "small raw": RAW[:1024], "qcow2": b""}
    content = kinds[kind] or qcow2(tmp_path)
    done = subprocess.run([f"{algorithm}sum"], input=content, capture_output=True, check=True)
    digits = done.stdout.split()[0].decode()
    flow.put(content, digest=f"{algorithm}:{digits}", size=len(content))
    seen: list[str] = []

    def watch(method: str, path: str) -> Answer | None:
        if (method, path[-5:]) == ("PUT", "/file"):
            seen.extend(found.name for found in flow.workshop.directory.iterdir())
        return None

    flow.site.glance.fault = watch
    report = flow.run()
    assert report.failures == []
    assert report.transferred_bytes == len(content)
    assert flow.stored() == hashlib.sha512(content).hexdigest()
    assert [Path(name).suffix for name in seen] == [".sock"]
    assert flow.web.asked("/one.img") == 1
    assert flow.site.record()["counts"]["uploaded_bytes"] == len(content)


def test_an_image_that_is_streamed_for_lack_of_room_needs_no_file(flow: Flow) -> None:
    """The file of the others stayed until the run ended: one change more was waited for."""
    flow.put()
    (offer,) = flow.source.offers
    flow.workshop.shared.expect([offer] * 3)
    workshop = flow.workshop
    with replace(workshop, quota=1).prepare(offer, flow.source, may_stream=True) as data:
        assert Path(data.location.removeprefix("unix:")).suffix == ".sock"
    for left in (1, 0):
        with workshop.prepare(offer, flow.source, may_stream=True) as data:
            assert data.mode is TransferMode.LOCAL
        assert workshop.shared.is_made(offer) is bool(left)
    assert list(workshop.directory.iterdir()) == []


@pytest.mark.programs("qemu-img")
@pytest.mark.parametrize("backend", ["this release", "an older one", "another host"])
def test_a_converted_image_is_hashed_once(
    flow: Flow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    """As raw, a disk of 10 GiB takes 10 s for each digest; older backends insist on a checksum."""
    hashed: list[str] = []
    file_digest = hashlib.file_digest

    def spy(file: Any, name: str) -> Any:
        hashed.append(name)
        return file_digest(file, name)

    monkeypatch.setattr(hashlib, "file_digest", spy)
    if backend == "an older one":
        known = tuple(each for each in calls._FEATURES if each != OWN_DIGEST)
        monkeypatch.setattr(calls, "_FEATURES", known)
        monkeypatch.setattr(calls, "CONVERTED", "unknown")
    flow.workshop = replace(flow.workshop, accepted=(Format.RAW,))
    content = qcow2(tmp_path)
    flow.put(content, size=len(content))
    assert flow.run(over_tcp=backend == "another host").failures == []
    assert flow.stored() == hashlib.sha512(RAW).hexdigest()
    assert hashed == ([] if backend == "this release" else ["sha512"])


def test_data_that_glance_has_already_are_not_read(flow: Flow) -> None:
    flow.put()
    assert flow.run().failures == []
    uploads = [line for line in flow.site.glance.requests if line.startswith("PUT")]
    (offer,) = flow.source.offers
    newer = Offer(
        Appliance(
            offer.appliance.identifier,
            LIST,
            vo="ops",
            title="one",
            attributes={"hv:format": "", "hv:version": "2"},
        ),
        offer.source,
    )
    flow.source.offers = [newer]
    assert flow.run().failures == []
    assert [line for line in flow.site.glance.requests if line.startswith("PUT")] == uploads


@pytest.mark.parametrize(
    ("content", "changes", "words"),
    [
        (RAW, {"digest": f"sha512:{'0' * 128}"}, "the source says sha512:0000000000000000…"),
        (RAW, {"digest": f"sha256:{'0' * 64}"}, "the source says sha256:0000000000000000…"),
        (RAW, {"size": len(RAW) + 1}, f"the server has {len(RAW)} bytes, the source says"),
        (Broken(RAW[:-1], None), {}, f"sent {len(RAW) - 1} bytes, the source says {len(RAW)}"),
        (Broken(RAW + b"x", None), {}, f"the server sent more than {len(RAW)} bytes"),
        (Broken(RAW[: 3 * MIB], len(RAW)), {}, f"the connection broke after {3 * MIB} bytes"),
    ],
    ids=["sha512", "sha256", "listed size", "short", "long", "cut"],
)
def test_a_source_that_goes_wrong_is_reported_by_its_name(
    flow: Flow, content: image_server.Content, changes: dict[str, str | int], words: str
) -> None:
    """The reason is the source's, not that the backend failed; nothing is stored."""
    uri = flow.put(content, **changes)  # type: ignore[arg-type]
    line = flow.failure()
    assert f"{uri}: " in line
    assert words in line
    assert "backend" not in line


def test_a_source_that_drips_is_left_at_its_deadline(
    flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "_PATIENCE", timedelta(seconds=0.5))
    monkeypatch.setattr(transfer, "_SLOWEST", len(RAW))
    begin = f"HTTP/1.1 200 OK\r\nContent-Length: {len(RAW)}\r\n\r\n".encode()
    uri = flow.put(Dripping(begin + RAW[: 2 * MIB], b"x"))
    line = flow.failure()
    assert f"{uri}: is too slow: only {2 * MIB}"[:-3] in line


@pytest.mark.parametrize(
    "code", [409, 413, pytest.param(415, marks=pytest.mark.programs("qemu-img"))]
)
def test_a_refusal_in_mid_upload_is_reported(flow: Flow, code: int) -> None:
    """Glance answers before the end, and reads no more: its answer is the reason."""
    flow.put()

    def refuse(method: str, path: str) -> Answer | None:
        is_upload = (method, path[-5:]) == ("PUT", "/file")
        return Answer(code, f"<h1>{code}</h1>the reason") if is_upload else None

    flow.site.glance.fault, flow.site.glance.reads = refuse, 2 * MIB
    line = flow.failure()
    assert f"Glance: {code} the reason" in line


@pytest.mark.programs("qemu-img")
def test_a_backend_that_ends_in_mid_stream(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is the backend's then, and nothing is left of stream and image."""
    monkeypatch.setattr(grpc_connection, "_RESTART", timedelta(seconds=0.1))
    flow.put()

    stream = flow.source.client.stream

    @contextlib.contextmanager
    def ends(url: str, **more: Any) -> Iterator[tuple[int | None, Iterator[bytes]]]:
        def blocks(given: Iterator[bytes]) -> Iterator[bytes]:
            for number, block in enumerate(given):
                if number == 3:
                    assert flow.site.server
                    flow.site.server.stop(0).wait()
                yield block

        with stream(url, **more) as (size, given):
            yield size, blocks(given)

    monkeypatch.setattr(flow.source.client, "stream", ends)
    failures = flow.run().failures
    assert f"backend {flow.site.endpoint}: cannot be reached" in failures[0]
    assert flow.site.glance.shown() == []


def test_a_broken_upload_is_sent_again_as_a_file(
    flow: Flow, caplog: pytest.LogCaptureFixture
) -> None:
    """A stream cannot be rewound: the transport must not repeat the rest of it as the whole."""
    flow.put()
    answers = iter([Answer(500, "in the middle")])

    def fail(method: str, path: str) -> Answer | None:
        if (method, path[-5:]) != ("PUT", "/file"):
            return None
        flow.site.glance.reads = None
        return next(answers, None)

    flow.site.glance.fault, flow.site.glance.reads = fail, 2 * MIB
    assert flow.run().failures == []
    assert flow.stored() == hashlib.sha512(RAW).hexdigest()
    assert "still answers 500" in caplog.text
    assert "the image is sent again as a file" in caplog.text
    assert flow.site.record()["failures"] == []


@pytest.mark.programs("qemu-img")
def test_a_final_refusal_is_remembered_for_a_verified_file_only(flow: Flow) -> None:
    """F-M2: the second run moves no byte; the first proves that the file is the listed one."""
    flow.put()

    def refuse(method: str, path: str) -> Answer | None:
        is_upload = (method, path[-5:]) == ("PUT", "/file")
        return Answer(415, "Image failed safety checks") if is_upload else None

    flow.site.glance.fault = refuse
    assert "Glance takes the disk for unsafe" in flow.failure()
    assert flow.web.asked("/one.img") == 2
    assert "found by an earlier run" in flow.failure()
    assert flow.web.asked("/one.img") == 2


@pytest.mark.parametrize("start", [4096, MIB], ids=["in the middle", "at the beginning"])
def test_a_mark_of_another_format_is_refused_and_remembered(
    flow: Flow, monkeypatch: pytest.MonkeyPatch, start: int
) -> None:
    """F-M5: a hybrid ISO, whose own mark is at 32 KiB; the last block is never sent."""
    monkeypatch.setattr(formats, "START", start)
    content = RAW[:0x8000] + b"\x01CD001" + RAW[0x8006:]
    flow.put(content, declared="RAW")
    assert "the mark of iso" in flow.failure()
    assert flow.site.glance.files == {}
    asked = flow.web.asked("/one.img")
    assert "found by an earlier run" in flow.failure()
    assert flow.web.asked("/one.img") == asked


@pytest.mark.programs("qemu-img")
@pytest.mark.parametrize("is_old", [True, False])
def test_other_backends_get_files(
    flow: Flow, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, is_old: bool
) -> None:
    """A backend of 0.9.x announces nothing; one over TCP may be on another host."""
    caplog.set_level(logging.INFO)
    if is_old:
        monkeypatch.setattr(calls, "_FEATURES", ("metadata-update", "vo-check"))
    flow.put()
    assert flow.run(over_tcp=not is_old).failures == []
    assert flow.stored() == hashlib.sha512(RAW).hexdigest()
    words = "reads no streams" if is_old else "is reached over TCP"
    assert f"{words}: images are sent as files" in caplog.text


# ------------------------------------------------------------------------------------------------
# the frontend's side alone


@contextlib.contextmanager
def offered(tmp_path: Path, blocks: Iterator[bytes]) -> Iterator[tuple[ImageData, OfferedStream]]:
    received = Received("https://example.org/one", len(RAW), RAW[:MIB], blocks)
    stream = OfferedStream(received, Format.RAW)
    with stream.serving(tmp_path / "one.sock", checksum="0" * 128, uri="") as data:
        yield data, stream


def rest() -> Iterator[bytes]:
    yield from (RAW[at : at + MIB] for at in range(MIB, len(RAW), MIB))


def ask(path: Path, data: ImageData, *, password: str = "") -> tuple[int, bytes]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        connection = http.client.HTTPConnection("frontend")
        connection.sock = sock
        secret = base64.b64encode(f"{data.username}:{password or data.password}".encode())
        connection.request("GET", "/", headers={"Authorization": f"Basic {secret.decode()}"})
        answer = connection.getresponse()
        try:
            return answer.status, answer.read()
        except http.client.IncompleteRead as error:
            return answer.status, error.partial


def test_one_request_with_the_token_gets_the_image(tmp_path: Path) -> None:
    """Another client that says nothing keeps nobody waiting; a token counts once."""
    with offered(tmp_path, rest()) as (data, _), socket.socket(socket.AF_UNIX) as silent:
        path = image_socket.socket_of(data.location)
        assert path == tmp_path / "one.sock"
        assert path.stat().st_mode & 0o777 == 0o600
        silent.connect(str(path))
        assert ask(path, data, password="guess") == (403, b"")
        assert ask(path, data) == (200, RAW)
        assert ask(path, data) == (403, b"")
    assert not path.exists()


def test_the_last_block_waits_for_the_end_of_the_source(tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield from rest()
        raise Unavailable("https://example.org/one", "the connection broke")

    class BackendError(Exception):
        pass

    def fail() -> None:
        with offered(tmp_path, broken()) as (data, _):
            path = image_socket.socket_of(data.location)
            assert path
            got.append(ask(path, data))
            raise BackendError

    got: list[tuple[int, bytes]] = []
    with pytest.raises(Unavailable, match="the connection broke"):
        fail()
    ((status, content),) = got
    assert status == 200
    assert RAW.startswith(content)
    assert len(content) < len(RAW)


def test_a_client_that_leaves_is_no_failure_of_the_source(tmp_path: Path) -> None:
    class BackendError(Exception):
        pass

    def fail() -> None:
        with offered(tmp_path, rest()) as (data, _):
            path = image_socket.socket_of(data.location)
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(str(path))
            raise BackendError

    with pytest.raises(BackendError):
        fail()


def test_an_interrupt_waits_for_no_server(tmp_path: Path) -> None:
    """SIGTERM in the middle: the socket goes, and nobody waits for the download."""
    silent, begun = threading.Event(), threading.Event()

    def stuck() -> Iterator[bytes]:
        begun.set()
        silent.wait()
        yield b""

    def interrupt() -> None:
        with offered(tmp_path, stuck()) as (data, _):
            path = image_socket.socket_of(data.location)
            assert path
            thread = threading.Thread(target=ask, args=(path, data))
            thread.start()
            begun.wait()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert list(tmp_path.iterdir()) == []
    silent.set()


def test_a_late_mark_asks_for_a_file(tmp_path: Path) -> None:
    content = b"\x00" * 0x7000
    received = Received(
        "name", 0x9000, content, iter([b"\0" * 0x1000 + b"\x01CD001".ljust(0x1000)])
    )
    stream = OfferedStream(received, Format.RAW)

    def fail() -> None:
        with stream.serving(tmp_path / "one.sock", checksum="", uri="") as data:
            path = image_socket.socket_of(data.location)
            assert path
            got.append(ask(path, data)[1])
            raise Tampered("backend", "cut")

    got: list[bytes] = []
    with pytest.raises(NeedsFile, match="has the mark of iso"):
        fail()
    assert len(got[0]) < 0x9000


# ------------------------------------------------------------------------------------------------
# the backend's side alone


@dataclass
class Peer:
    """A frontend, or its web server, that sends what a test wants and then holds the connection."""

    server: socket.socket
    answer: bytes
    late: bytes = b""
    """Sent when `goes_on` is set."""
    goes_on: threading.Event = field(default_factory=threading.Event)
    holds: threading.Event = field(default_factory=threading.Event)
    asked: list[bytes] = field(default_factory=list)

    def serve(self) -> None:
        connection, _ = self.server.accept()
        with connection:
            self.asked.append(connection.recv(65536))
            with contextlib.suppress(OSError):
                connection.sendall(self.answer)
                if self.late and self.goes_on.wait(20):
                    connection.sendall(self.late)
            self.holds.wait(20)


@contextlib.contextmanager
def peer(server: socket.socket, content: bytes, *, status: str = "200 OK") -> Iterator[Peer]:
    header = f"HTTP/1.1 {status}\r\nContent-Length: {len(RAW)}\r\n\r\n".encode()
    found = Peer(server, header + content)
    thread = threading.Thread(target=found.serve)
    thread.start()
    try:
        with server:
            yield found
    finally:
        found.holds.set()
        thread.join()


def at_socket(path: Path) -> socket.socket:
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()
    return server


def described(location: str, **changes: object) -> ImageData:
    data = ImageData(
        location,
        Format.RAW,
        hashlib.sha512(RAW).hexdigest(),
        len(RAW),
        mode=TransferMode.REMOTE,
        username="user",
        password="s3cret",
    )
    return replace(data, **changes)  # type: ignore[arg-type]


def fetch(data: ImageData, places: DataPlaces, sent: list[bytes]) -> Mapping[str, str]:
    with open_image(data, places=places, is_wanted=lambda: True) as image:
        assert len(image) == data.size
        sent.extend(bytes(block) for block in image)
        return image.digests


@pytest.mark.parametrize(
    ("content", "status", "changes", "words"),
    [
        (RAW, "403 Forbidden", {}, "the frontend answers 403 Forbidden"),
        (RAW, "200 OK", {"size": len(RAW) - 1}, f"has {len(RAW)} bytes, but the frontend sent"),
        (RAW, "200 OK", {"format": Format.QCOW2}, "is raw, but the frontend sent qcow2"),
        (RAW, "200 OK", {"checksum": "0" * 128}, "its sha512 is [0-9a-f]{16}…"),
        (RAW, "200 OK", {"checksum": "0" * 64}, "its sha256 is [0-9a-f]{16}…"),
        (
            QCOW2.ljust(len(RAW), b"\0"),
            "200 OK",
            {},
            "is qcow2, but the frontend sent raw",
        ),
        (RAW[:0x8000] + b"\x01CD001" + RAW[0x8006:], "200 OK", {}, "iso"),
        (b"", "200 OK", {}, "ended after 0 of"),
        (RAW[: 2 * MIB + 5], "200 OK", {}, f"ended after {2 * MIB + 5} of {len(RAW)} bytes"),
        (RAW[:-1], "200 OK", {}, f"ended after {len(RAW) - 1} of {len(RAW)} bytes"),
    ],
)
def test_a_stream_that_is_not_the_image_loses_its_last_block(
    tmp_path: Path, content: bytes, status: str, changes: dict[str, object], words: str
) -> None:
    """F-M4 and images.md §7.4, whatever the frontend is."""
    server = at_socket(tmp_path / "one.sock")
    data = described(image_socket.to_location(tmp_path / "one.sock"), **changes)
    sent: list[bytes] = []
    with peer(server, content, status=status) as frontend:
        frontend.holds.set()
        with pytest.raises(Failed, match=f"^stream one: .*{words}"):
            fetch(data, DataPlaces(tmp_path), sent)
    assert len(b"".join(sent)) < len(RAW)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size": 0}, "has no size"),
        ({"format": Format.OVA}, "is an archive"),
        ({"checksum": ""}, "has no SHA-512 or SHA-256"),
    ],
)
def test_a_stream_that_cannot_be_verified_is_not_asked_for(
    tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    location = image_socket.to_location(tmp_path / "one.sock")
    with at_socket(tmp_path / "one.sock") as server:
        server.setblocking(False)
        with pytest.raises(Failed, match=words):
            fetch(described(location, **changes), DataPlaces(tmp_path), [])
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_frontend_that_hangs_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed, its socket would close; stopped, it says nothing for ever."""
    monkeypatch.setattr(fetched, "_SILENCE", timedelta(seconds=0.1))
    monkeypatch.setattr(fetched, "_POLL", timedelta(seconds=0.05))
    data = described(image_socket.to_location(tmp_path / "one.sock"))
    with (
        peer(at_socket(tmp_path / "one.sock"), RAW[: 2 * MIB]),
        pytest.raises(Failed, match=f"ended after {2 * MIB} of .* nothing came"),
    ):
        fetch(data, DataPlaces(tmp_path), [])


def test_a_first_block_that_comes_late_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The frontend has answered, and resumes a download that broke after its first MiB."""
    monkeypatch.setattr(fetched, "_CONNECT", timedelta(seconds=0.1))
    monkeypatch.setattr(fetched, "_POLL", timedelta(seconds=0.2))
    data, sent = described(image_socket.to_location(tmp_path / "one.sock")), list[bytes]()
    with peer(at_socket(tmp_path / "one.sock"), b"") as found:
        found.late = RAW
        asked = itertools.count()

        def is_wanted() -> bool:
            if next(asked):  # asked again, because nothing had come
                found.goes_on.set()
            return True

        with open_image(data, places=DataPlaces(tmp_path), is_wanted=is_wanted) as image:
            sent.extend(bytes(block) for block in image)
    assert b"".join(sent) == RAW


def test_an_upload_that_is_no_longer_wanted_ends_at_once(tmp_path: Path) -> None:
    data = described(image_socket.to_location(tmp_path / "one.sock"))
    answers = iter([True, True])
    with (
        peer(at_socket(tmp_path / "one.sock"), RAW),
        open_image(
            data, places=DataPlaces(tmp_path), is_wanted=lambda: next(answers, False)
        ) as image,
        pytest.raises(Failed, match="is stopping; nothing was stored"),
    ):
        list(image)


@pytest.mark.parametrize("ends_well", [True, False])
@pytest.mark.parametrize("is_seen", [True, False])
def test_an_upload_of_a_killed_frontend_is_not_repeated_beside_it(
    flow: Flow, ends_well: bool, is_seen: bool
) -> None:
    """The next run begins while the backend is still at it, and finds one version or none."""
    path = flow.workshop.directory / "one.sock"
    server = at_socket(path)
    flow.put()
    (offer,) = flow.source.offers
    data = described(image_socket.to_location(path))
    first = to_message(replace(offer.appliance, data=data))
    with flow.site.running() as client, server, ThreadPoolExecutor(1) as pool:
        client.call("PreAction")
        pending = pool.submit(client.call, "AddAppliance", first)
        connection, _ = server.accept()
        with connection:
            connection.recv(65536)
            header = f"HTTP/1.1 200 OK\r\nContent-Length: {len(RAW)}\r\n\r\n"
            connection.sendall(header.encode() + RAW[:-1])
            while not flow.site.glance.images:
                time.sleep(0.01)
            hidden = dict(flow.site.glance.images)
            if not is_seen:  # the run lists the images before the record is there
                flow.site.glance.images.clear()
            client.call("PreAction")
            flow.site.glance.images.update(hidden)
            connection.sendall(RAW[-1:] if ends_well else b"")
        assert (pending.result()[0] == "SUCCESS") is ends_well
        with peer(at_socket(path.with_name("two.sock")), RAW) as second:
            again = replace(data, location=image_socket.to_location(path.with_name("two.sock")))
            second.holds.set()
            if ends_well:  # it is not asked
                with socket.socket(socket.AF_UNIX) as nobody:
                    nobody.connect(str(path.with_name("two.sock")))
            message = to_message(replace(offer.appliance, data=again))
            assert client.call("AddAppliance", message)[0] == "SUCCESS"
        client.call("PostAction")
    assert len(flow.site.glance.images) == 1
    assert flow.stored() == hashlib.sha512(RAW).hexdigest()


def test_the_next_run_waits_for_the_upload_of_a_killed_frontend(
    flow: Flow, caplog: pytest.LogCaptureFixture
) -> None:
    """Its call is aborted, and the image is stored by the next run, not left to the one after."""
    caplog.set_level(logging.INFO)
    path, second_path = (flow.workshop.directory / name for name in ("one.sock", "two.sock"))
    flow.put()
    (offer,) = flow.source.offers
    first, second = (
        to_message(replace(offer.appliance, data=described(image_socket.to_location(each))))
        for each in (path, second_path)
    )
    with (
        flow.site.running() as client,
        at_socket(path) as server,
        peer(at_socket(second_path), RAW) as again,
        ThreadPoolExecutor(1) as pool,
    ):
        again.holds.set()
        client.call("PreAction")
        with grpc.insecure_channel(flow.site.endpoint) as channel:
            stub: Any = stubs.CommunicatorStub(channel)  # type: ignore[no-untyped-call]
            killed = stub.AddAppliance.future(first)
            connection = server.accept()[0]
            connection.recv(65536)
            header = f"HTTP/1.1 200 OK\r\nContent-Length: {len(RAW)}\r\n\r\n"
            connection.sendall(header.encode() + RAW[:-1])
            while not flow.site.glance.images:
                time.sleep(0.01)
            client.call("PreAction")
            pending = pool.submit(client.call, "AddAppliance", second)
            while "waiting for another call" not in caplog.text:
                time.sleep(0.01)
            assert not killed.done()
        with connection:  # it stays open: another process of the frontend may have it
            assert pending.result() == ("SUCCESS", "")
        client.call("PostAction")
    assert len(flow.site.glance.images) == 1
    assert flow.stored() == hashlib.sha512(RAW).hexdigest()


def test_a_stream_is_sent_once(tmp_path: Path) -> None:
    data = described(image_socket.to_location(tmp_path / "one.sock"))
    with (
        peer(at_socket(tmp_path / "one.sock"), RAW),
        open_image(data, places=DataPlaces(tmp_path), is_wanted=lambda: True) as image,
    ):
        assert b"".join(map(bytes, image)) == RAW
        assert image.digest("sha512") == data.checksum
        for again in (lambda: list(image), lambda: image.digest("md5")):
            with pytest.raises(Failed) as failure:
                again()
            assert failure.value.wants_file


def test_a_socket_elsewhere_is_not_connected_to(tmp_path: Path) -> None:
    """§7.8: the place is the word of the backend's own configuration."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images/link").symlink_to(tmp_path)
    (tmp_path / "images/two.sock").symlink_to(tmp_path / "one.sock")
    (tmp_path / "images/file.sock").touch()
    inside = [tmp_path / "images" / name for name in ("link/one.sock", "two.sock", "file.sock")]
    with at_socket(tmp_path / "one.sock") as server:
        server.setblocking(False)
        for path in (tmp_path / "one.sock", *inside, Path("/dev/log")):
            data = described(image_socket.to_location(path))
            with pytest.raises(Failed, match="set image_dir to the image-dir of the frontend"):
                fetch(data, DataPlaces(tmp_path / "images"), [])
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("http://localhost:1/x", "add it to remote_hosts in cloudkeeper-os.conf"),
        ("https://user:s3cret@metadata.example.org/x", "from metadata.example.org are not allowed"),
        ("http://127.0.0.1.example.org/x", "are not allowed"),
        ("file:///etc/passwd", "is not a URL of a web server"),
        ("/etc/passwd", "is not a URL of a web server"),
        ("http://[/", "is not a URL"),
    ],
)
def test_other_hosts_need_the_configuration(tmp_path: Path, location: str, words: str) -> None:
    places = DataPlaces(tmp_path, frozenset({"127.0.0.1", "localhost:2", "metadata"}))
    with pytest.raises(Failed, match=words) as failure:
        fetch(described(location), places, [])
    assert "s3cret" not in str(failure.value)


@pytest.mark.parametrize("allowed", ["127.0.0.1", "127.0.0.1:PORT"])
def test_the_remote_mode_of_1_7_1(tmp_path: Path, allowed: str) -> None:
    """An nginx on the frontend's host, with user name and password, that the backend allows."""
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    places = DataPlaces(tmp_path, frozenset({allowed.replace("PORT", str(port))}))
    sent: list[bytes] = []
    with peer(server, RAW) as nginx:
        digests = fetch(described(f"http://127.0.0.1:{port}/one.raw"), places, sent)
    assert b"".join(sent) == RAW
    assert digests == {"sha512": hashlib.sha512(RAW).hexdigest()}
    (request,) = nginx.asked
    assert request.startswith(b"GET /one.raw HTTP/1.1\r\n")
    secret = base64.b64encode(b"user:s3cret")
    assert b"Authorization: Basic " + secret in request


def test_a_failed_upload_from_another_host_asks_for_no_file(tmp_path: Path) -> None:
    """1.7.1 would not send one, so the failure stays one of the run."""
    server = socket.create_server(("127.0.0.1", 0))
    data = described(f"http://127.0.0.1:{server.getsockname()[1]}/one.raw")
    places = DataPlaces(tmp_path, frozenset({"127.0.0.1"}))

    def fail() -> None:
        with open_image(data, places=places, is_wanted=lambda: True):
            raise Failed("x", "Glance is busy", status=CallStatus.ERROR, wants_file=True)

    with peer(server, RAW), pytest.raises(Failed) as failure:
        fail()
    assert not failure.value.wants_file


def test_redirections_are_not_followed(tmp_path: Path) -> None:
    server = socket.create_server(("127.0.0.1", 0))
    data = described(f"http://127.0.0.1:{server.getsockname()[1]}/one.raw")
    places = DataPlaces(tmp_path, frozenset({"127.0.0.1"}))
    with (
        peer(server, b"", status="302 Found\r\nLocation: http://127.0.0.1:1/"),
        pytest.raises(Failed, match="the frontend answers 302 Found"),
    ):
        fetch(data, places, [])


# ------------------------------------------------------------------------------------------------
# one image for several VOs


def for_vos(flow: Flow) -> None:
    """Offer the image to two VOs, in a list each, as a project of a registry does."""
    (offer,) = flow.source.offers
    flow.source.lists = [
        ImageList(
            identifier=ListId(f"{LIST}/{vo}"),
            vo=vo,
            offers=(
                replace(
                    offer,
                    appliance=replace(offer.appliance, vo=vo, list_id=ListId(f"{LIST}/{vo}")),
                ),
            ),
        )
        for vo in ("ops", "biomed")
    ]


@pytest.mark.parametrize("parallel", [1, 2])
def test_an_image_for_two_vos_is_fetched_once(flow: Flow, parallel: int) -> None:
    """F-M13."""
    flow.put()
    for_vos(flow)
    assert flow.run(parallel=parallel).failures == []
    assert flow.web.asked("/one.img") == 1
    found = [hashlib.sha512(each).hexdigest() for each in flow.site.glance.files.values()]
    assert found == [hashlib.sha512(RAW).hexdigest()] * 2


def test_a_failed_download_for_two_vos_fails_for_both(flow: Flow) -> None:
    flow.put(digest=f"sha512:{'0' * 128}")
    for_vos(flow)
    failures = flow.run().failures
    assert [line.count("the source says sha512:0000") for line in failures] == [1, 1]
    assert flow.site.glance.images == {}


def test_two_vos_without_room_for_a_file_get_streams(
    flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Workshop, "room", lambda _: 0)
    flow.put()
    for_vos(flow)
    assert flow.run().failures == []
    assert flow.web.asked("/one.img") == 2
