"""Downloads into the image directory: no unverified file gets a name, and no file stays."""

import contextlib
import gc
import hashlib
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from appliance.core import retry
from appliance.core.download.downloader import Downloader, Timeouts
from appliance.core.run.errors import AccessDenied, ApplianceError, LocalFailure, Unavailable
from appliance.core.trust.ca_directory import CADirectory
from appliance.core.trust.errors import Tampered, Untrusted
from cloudkeeper.formats import Unusable
from cloudkeeper.frontend.addresses import Address
from cloudkeeper.frontend.conversion import QemuImg
from cloudkeeper.frontend.disk_room import DiskRoom
from cloudkeeper.frontend.list_cache import ListCache
from cloudkeeper.frontend.memory import Memory
from cloudkeeper.frontend.refused import RefusedImages
from cloudkeeper.frontend.sources import SignedListSource
from cloudkeeper.frontend.transfer import Workshop
from cloudkeeper.model import Appliance, ApplianceId, Format, ImageSource, ListId, Offer
from tests.simulators import image_server
from tests.simulators.image_server import Broken, Dripping, ImageServer, Redirect, Slow, Status
from tests.testbed.pki import Authority

# With a partition: Glance refuses a boot sector without any.
RAW = bytes(446) + b"\x80\0\2\0\x83\0\3\0\1\0\0\0\x80\0\0\0" + bytes(48) + b"\x55\xaa"
RAW += b"data of a disk.." * 4096


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority.create(tmp_path_factory.mktemp("authority") / "ca", key="ec")
    made.publish(made.directory / "certificates")
    return made


@pytest.fixture(scope="module")
def web(authority: Authority) -> Iterator[ImageServer]:
    with image_server.serve(authority.issue("localhost", key="ec")) as server:
        yield server


@pytest.fixture(scope="module")
def client(authority: Authority) -> Downloader:
    return Downloader(CADirectory(authority.directory / "certificates"))


@pytest.fixture(scope="module")
def web_lists(
    authority: Authority, client: Downloader, tmp_path_factory: pytest.TempPathFactory
) -> SignedListSource:
    trust = CADirectory(authority.directory / "certificates")
    state = tmp_path_factory.mktemp("state")
    memory, cache = Memory(state / "lists.json"), ListCache(state / "lists", 100)
    return SignedListSource(Address("list", "", ""), client, trust, memory, cache)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "_sleep", lambda _: None)


@pytest.fixture
def workshop(tmp_path: Path, web_lists: SignedListSource) -> Workshop:
    made = Workshop(tmp_path / "images", (Format.RAW, Format.QCOW2), QemuImg(), refused(tmp_path))
    made.sweep()
    return made


def refused(directory: Path) -> RefusedImages:
    return RefusedImages(directory / "refused.json", (Format.RAW, Format.QCOW2))


def offer(
    uri: str,
    content: bytes = RAW,
    *,
    size: int | None = len(RAW),
    sha512: str = "",
    declared: str = "RAW",
) -> Offer:
    appliance = Appliance(
        ApplianceId("image-1"), ListId("list-1"), vo="ops", attributes={"hv:format": declared}
    )
    return Offer(
        appliance, ImageSource(uri, f"sha512:{sha512 or hashlib.sha512(content).hexdigest()}", size)
    )


def left(workshop: Workshop) -> list[str]:
    return sorted(path.name for path in workshop.directory.iterdir())


@pytest.mark.programs("qemu-img")
@pytest.mark.parametrize("size", [len(RAW), None], ids=["with size", "without size"])
@pytest.mark.parametrize("announced", [True, False])
def test_an_accepted_format_is_passed_untouched(
    web_lists: SignedListSource,
    web: ImageServer,
    workshop: Workshop,
    size: int | None,
    announced: bool,
) -> None:
    uri = web.put("/one.raw", RAW if announced else Broken(RAW, None))
    with workshop.prepare(offer(uri, size=size), web_lists) as data:
        path = Path(data.location)
        assert path.parent == workshop.directory
        assert (data.format, data.size, data.uri) == (Format.RAW, len(RAW), uri)
        found = subprocess.run(
            ["sha512sum", data.location], capture_output=True, text=True, check=True
        )
        assert found.stdout.split()[0] == data.checksum
        assert path.stat().st_mode & 0o777 == 0o640
        assert left(workshop) == [path.name]
    assert left(workshop) == []


@pytest.mark.programs("qemu-img")
def test_a_converted_file_has_no_checksum_yet(
    web_lists: SignedListSource, web: ImageServer, workshop: Workshop
) -> None:
    converting = replace(workshop, accepted=(Format.QCOW2,))
    with converting.prepare(offer(web.put("/one.raw", RAW)), web_lists) as data:
        assert (data.format, data.checksum, data.is_converted) == (Format.QCOW2, "", True)
        assert Path(data.location).stat().st_size == data.size
        assert len(left(workshop)) == 1
    assert left(workshop) == []


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        (
            {"sha512": "0" * 128},
            Tampered,
            r"its digest is sha512:[0-9a-f]{16}…, the source says sha512:0000000000000000…",
        ),
        (
            {"size": len(RAW) + 1},
            Tampered,
            f"the server has {len(RAW)} bytes, the source says {len(RAW) + 1}",
        ),
        ({"size": 1}, Tampered, "the source says 1"),
        ({"size": 2**60}, LocalFailure, r"MiB are needed, \d+ MiB are free; free some space"),
    ],
    ids=["checksum", "short", "long", "disk"],
)
def test_what_is_not_as_listed_is_refused_and_removed(
    web_lists: SignedListSource,
    web: ImageServer,
    workshop: Workshop,
    changes: dict[str, int | str],
    error: type[ApplianceError],
    words: str,
) -> None:
    uri = web.put("/one.raw", RAW)
    with pytest.raises(error, match=words), workshop.prepare(offer(uri, **changes), web_lists):  # type: ignore[arg-type]
        pytest.fail("it was given out")
    assert left(workshop) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (Broken(RAW[:-1], len(RAW)), "the connection broke after"),
        (
            Broken(RAW[:-1], None),
            f"the server sent {len(RAW) - 1} bytes, the source says {len(RAW)}",
        ),
        (Broken(RAW + b"x", None), f"the server sent more than {len(RAW)} bytes"),
        (Status(404), "the server answers 404"),
        (Redirect("/one.raw?"), "the server redirects more than 5 times"),
        (Broken(RAW, 10**4000), "one.raw: "),
    ],
    ids=["cut", "short", "long", "404", "loop", "digits"],
)
def test_a_download_that_goes_wrong(
    web_lists: SignedListSource,
    web: ImageServer,
    workshop: Workshop,
    content: image_server.Content,
    words: str,
) -> None:
    web.put("/one.raw?", content)
    uri = web.put("/one.raw", content)
    with (
        pytest.raises((Unavailable, Tampered), match=words),
        workshop.prepare(offer(uri), web_lists),
    ):
        pytest.fail("it was given out")
    assert left(workshop) == []


@pytest.mark.programs("qemu-img")
def test_secrets_in_an_image_s_url_are_not_told(
    web_lists: SignedListSource, web: ImageServer, workshop: Workshop
) -> None:
    url = web.put("/signed.raw?signature=s3cr3t", RAW).replace("https://", "https://user:s3cr3t@")
    for wrong in (
        offer(url, sha512="0" * 128),
        offer(url, size=1),
        offer(url.replace("signed", "gone")),
    ):
        with pytest.raises(ApplianceError) as failure, workshop.prepare(wrong, web_lists):
            pytest.fail("it was given out")
        assert str(failure.value).startswith("https://localhost:")
        assert "s3cr3t" not in str(failure.value)
    with workshop.prepare(offer(url), web_lists) as data:
        assert data.uri == url


@pytest.mark.programs("qemu-img")
def test_an_image_that_points_at_other_files_is_refused(
    web_lists: SignedListSource, web: ImageServer, workshop: Workshop, tmp_path: Path
) -> None:
    path = tmp_path / "bad.qcow2"
    command = [
        "qemu-img",
        "create",
        "-q",
        "-f",
        "qcow2",
        "-b",
        "/etc/passwd",
        "-F",
        "raw",
        str(path),
        "1M",
    ]
    subprocess.run(command, check=True)
    bad = path.read_bytes()
    uri = web.put("/bad.qcow2", bad)
    with (
        pytest.raises(Unusable, match="has a backing file"),
        workshop.prepare(offer(uri, bad, size=len(bad)), web_lists),
    ):
        pytest.fail("it was given out")
    assert left(workshop) == []


@pytest.mark.root
def test_a_full_disk(web_lists: SignedListSource, web: ImageServer, workshop: Workshop) -> None:
    """R10: the check beforehand sees that there is room; then somebody else takes it."""
    uri = web.put("/one.raw", RAW)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(workshop.directory)], check=False
    )
    if mounted.returncode:
        pytest.fail("this test mounts a file system: run it as root")
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(DiskRoom, "free", lambda _: 2**40)
            with (
                pytest.raises(LocalFailure, match="No space left on device; free space"),
                workshop.prepare(offer(uri), web_lists),
            ):
                pytest.fail("it was given out")
        assert left(workshop) == []
        with (
            pytest.raises(LocalFailure, match="0 MiB are needed, 0 MiB are free"),
            workshop.prepare(offer(uri), web_lists),
        ):
            pytest.fail("it was given out")
    finally:
        subprocess.run(["umount", str(workshop.directory)], check=True)


def test_what_a_killed_run_left_is_swept_and_nothing_else(workshop: Workshop) -> None:
    """R10."""
    (workshop.directory / "cloudkeeper-abc.download.part").write_bytes(b"x")
    (workshop.directory / "cloudkeeper-abc.qcow2").write_bytes(b"x")
    (workshop.directory / "image-of-somebody.qcow2").write_bytes(b"x")
    assert workshop.sweep() == []
    assert left(workshop) == ["image-of-somebody.qcow2"]


@pytest.mark.programs("qemu-img")
def test_a_link_that_somebody_planted_leads_nowhere(
    web_lists: SignedListSource, web: ImageServer, workshop: Workshop, tmp_path: Path
) -> None:
    uri = web.put("/one.raw", RAW)
    with workshop.prepare(offer(uri), web_lists) as data:
        name = Path(data.location).stem + ".download.part"
    precious = tmp_path / "precious"
    precious.write_bytes(b"of somebody")
    link = workshop.directory / name
    link.symlink_to(precious)
    with workshop.prepare(offer(uri), web_lists) as data:
        assert Path(data.location).lstat().st_size == len(RAW)
    assert precious.read_bytes() == b"of somebody"
    link.symlink_to(tmp_path / "nowhere")
    assert workshop.sweep() == []
    with workshop.prepare(offer(uri), web_lists):
        assert not (tmp_path / "nowhere").exists()


def test_busy_servers_are_retried(web: ImageServer, client: Downloader) -> None:
    uri = web.put("/busy", Status(503, times=2, then=b"at last"))
    assert client.fetch(uri, name=uri, max_bytes=10) == b"at last"
    uri = web.put("/busier", Status(503, times=5))
    with pytest.raises(Unavailable, match="the server answers 503"):
        client.fetch(uri, name=uri, max_bytes=10)
    assert web.asked("/busier") == 3
    uri = web.put("/gone", Status(404))
    with pytest.raises(Unavailable):
        client.fetch(uri, name=uri, max_bytes=10)
    assert web.asked("/gone") == 1
    uri = web.put("/closed", Status(403))
    with pytest.raises(AccessDenied, match="check the access token"):
        client.fetch(uri, name=uri, max_bytes=10)


def test_slow_servers(web: ImageServer, client: Downloader) -> None:
    uri = web.put("/slow", Slow(b"x" * 40, 0.05))
    short = Timeouts(timedelta(seconds=5), timedelta(seconds=5), timedelta(seconds=0.2))
    with pytest.raises(Unavailable, match="is too slow"):
        client.fetch(uri, name=uri, max_bytes=100, timeouts=short)
    uri = web.put("/stuck", Slow(b"x" * 2, 3))
    stuck = Timeouts(timedelta(seconds=5), timedelta(seconds=0.2), timedelta(seconds=5))
    with pytest.raises(Unavailable, match="the connection broke after 0 bytes: no answer in time"):
        client.fetch(uri, name=uri, max_bytes=100, timeouts=stuck)


@pytest.mark.parametrize(
    ("begin", "drop"),
    [
        (b"HTTP/1.1 200 OK\r\nX: ", b"x"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
    ],
    ids=["header", "length", "no length", "chunks", "length of a chunk"],
)
def test_servers_that_drip(web: ImageServer, client: Downloader, begin: bytes, drop: bytes) -> None:
    """No single wait is long, and the download would never end."""
    uri = web.put("/drip", Dripping(begin, drop))
    times = Timeouts(timedelta(seconds=20), timedelta(seconds=20), timedelta(seconds=0.3))
    with pytest.raises(Unavailable, match="is too slow"):
        client.fetch(uri, name=uri, max_bytes=10**7, timeouts=times)


def test_nothing_stays_open_when_the_time_is_over_at_once(
    web: ImageServer, client: Downloader
) -> None:
    uri = web.put("/one.raw", RAW)
    times = Timeouts(timedelta(seconds=20), timedelta(seconds=20), timedelta(microseconds=1))
    for _ in range(5):
        with pytest.raises(Unavailable, match="is too slow"):
            client.fetch(uri, name=uri, max_bytes=10**7, timeouts=times)
    gc.collect()  # warns about each socket that is not closed, which fails the test


def test_a_server_that_never_ends_its_handshake(client: Downloader) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"https://localhost:{silent.getsockname()[1]}/x"
        times = Timeouts(timedelta(seconds=20), timedelta(seconds=20), timedelta(seconds=0.3))
        with pytest.raises(Unavailable, match="is too slow"):
            client.fetch(uri, name=uri, max_bytes=10, timeouts=times)


def test_servers_are_proven(authority: Authority, client: Downloader, tmp_path: Path) -> None:
    """D12."""
    stranger = Authority.create(tmp_path / "ca", subject="/DC=EU/DC=EXAMPLE/CN=Stranger", key="ec")
    past = datetime.now(UTC) - timedelta(days=9)
    cases = {
        "unable to get local issuer certificate": stranger.issue("localhost", key="ec"),
        "Hostname mismatch": authority.issue("other.example.org", key="ec"),
        "certificate has expired": authority.issue(
            "old", hosts=("localhost",), key="ec", not_before=past, days=2
        ),
    }
    for words, credential in cases.items():
        with image_server.serve(credential) as server, pytest.raises(Untrusted, match=words):
            client.fetch(server.put("/x", b"x"), name="x", max_bytes=10)


@pytest.mark.parametrize(
    "location",
    [
        "https://[",
        "https://localhost:99999/",
        "https://" + "a" * 300 + "/",
        "https://a..b/",
        "https:///x",
        "//",
        "https://%/",
    ],
)
def test_redirects_to_invalid_urls(web: ImageServer, client: Downloader, location: str) -> None:
    with pytest.raises(
        Unavailable, match=r"^x: (the server redirects|cannot be|the server answers)"
    ):
        client.fetch(web.put("/moved", Redirect(location)), name="x", max_bytes=10)


def test_no_server(client: Downloader) -> None:
    with pytest.raises(Unavailable, match="x: cannot be reached: connection refused"):
        client.fetch("https://localhost:1/x", name="x", max_bytes=10)
    with pytest.raises(
        Unavailable, match=r"x: cannot be reached: (name or service not known|temporary failure)"
    ):
        client.fetch("https://nowhere.invalid/x", name="x", max_bytes=10)


def test_credentials_of_the_user_s_netrc_are_not_used(
    web: ImageServer, client: Downloader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine localhost login a password b\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    web.requests.clear()
    with contextlib.suppress(Unavailable):
        client.fetch(web.put("/x", b"x"), name="x", max_bytes=10)
    assert [headers.get("Authorization") for _, _, headers in web.requests] == [None]


def test_a_file_that_cannot_be_used_is_fetched_once(
    web_lists: SignedListSource, web: ImageServer, workshop: Workshop, tmp_path: Path
) -> None:
    """F-M2: QED in this case. Another version or other formats of the cloud judge it again."""
    content = b"QED\0".ljust(4096, b"\0")
    wanted = offer(web.put("/one.qed", content), content, size=len(content), declared="RAW")
    for number in (1, 2):
        with (
            pytest.raises(Unusable, match="is a QED disk, which is not supported"),
            workshop.prepare(wanted, web_lists),
        ):
            pytest.fail("it was given out")
        assert web.asked("/one.qed") == 1, number
    again = replace(workshop, refused=refused(tmp_path))
    with (
        pytest.raises(Unusable, match="found by an earlier run; the same file is not fetched"),
        again.prepare(wanted, web_lists),
    ):
        pytest.fail("it was given out")
    secret = replace(wanted, source=replace(wanted.source, uri=f"{wanted.source.uri}?token=s3cret"))
    with pytest.raises(Unusable, match=r"^one\.qed: "):
        again.refused.check(secret)
    others = RefusedImages(tmp_path / "refused.json", (Format.QCOW2,))
    with pytest.raises(Unusable), replace(workshop, refused=others).prepare(wanted, web_lists):
        pytest.fail("it was given out")
    assert web.asked("/one.qed") == 2


@pytest.mark.programs("qemu-img")
def test_a_wrong_compression_of_one_source_says_nothing_of_another(
    web_lists: SignedListSource, web: ImageServer, workshop: Workshop
) -> None:
    """An artefact with a wrong media type made every image of its digest refused for good."""
    good = offer(web.put("/one.raw", RAW))
    wrong = replace(good, source=replace(good.source, compression="gzip"))
    with pytest.raises(Unusable, match="is not gzip data"), workshop.prepare(wrong, web_lists):
        pytest.fail("it was given out")
    with workshop.prepare(good, web_lists) as data:
        assert data.size == len(RAW)


@pytest.mark.programs("qemu-img")
def test_a_failure_that_may_pass_is_not_remembered(
    web_lists: SignedListSource, web: ImageServer, workshop: Workshop
) -> None:
    uri = web.put("/passing.raw", b"x" * len(RAW))
    with pytest.raises(Tampered), workshop.prepare(offer(uri), web_lists):
        pytest.fail("it was given out")
    web.put("/passing.raw", RAW)
    with workshop.prepare(offer(uri), web_lists) as data:
        assert data.size == len(RAW)


@pytest.mark.parametrize(
    ("declared", "compression", "may_stream", "expected"),
    [
        ("RAW", "", True, 0),
        ("qcow2", "", True, 0),
        ("RAW", "", False, len(RAW)),
        # Compressed or in another format, it needs room for its content or its conversion, too.
        ("RAW", "gzip", True, 2 * len(RAW)),
        ("VMDK", "", True, 2 * len(RAW)),
        ("VHD", "", True, 2 * len(RAW)),
        ("", "", True, len(RAW)),
    ],
)
def test_only_an_image_that_becomes_a_file_needs_room(
    workshop: Workshop, declared: str, compression: str, may_stream: bool, expected: int
) -> None:
    made = offer("https://x/one.raw", declared=declared)
    wanted = replace(made, source=replace(made.source, compression=compression))
    assert workshop.disk_bytes(wanted, may_stream=may_stream) == expected
    unknown = replace(made, source=replace(made.source, size=None))
    assert workshop.disk_bytes(unknown, may_stream=may_stream) == 0


def test_an_image_for_several_vos_becomes_a_file(workshop: Workshop) -> None:
    wanted = offer("https://x/one.raw")
    workshop.shared.expect([wanted, wanted])
    assert workshop.disk_bytes(wanted, may_stream=True) == len(RAW)
