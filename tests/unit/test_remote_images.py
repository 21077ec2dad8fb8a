"""The remote mode: a backend on another host fetches images from the frontend over HTTP.

The backend is ours over TCP, with an image directory of its own, or one that fetches and checks as
0.9.9 does. Single requests are those of requests and of plain sockets.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from appliance.core.run.errors import LocalFailure, Unavailable
from cloudkeeper.frontend import remote_images
from cloudkeeper.frontend.remote_images import RemoteImages
from cloudkeeper.frontend.remote_place import RemotePlace
from cloudkeeper.model import Format, ImageData, TransferMode
from tests.e2e.images_backend import free_port
from tests.simulators import image_backend
from tests.simulators.image_lists import LIST_ID, image_id
from tests.unit.image_site import RAW, ImageSite, authority, site, web  # noqa: F401

# ruff: noqa: F811  the fixtures are those of the site

pytestmark = pytest.mark.programs("openssl")


def flags(*more: str) -> list[str]:
    return ["--remote-mode", "--nginx-port", str(free_port()), *more]


@contextlib.contextmanager
def elsewhere(site: ImageSite, options: str = "remote_hosts = 127.0.0.1") -> Iterator[str]:
    """Run the backend over TCP, with an image directory of its own; yield its endpoint."""
    site.backend.configure(options)
    config = site.root / "cloudkeeper-os.conf"
    text = config.read_text()
    config.write_text(text.replace(f"image_dir = {site.root}/images", f"image_dir = {site.root}/o"))
    with site.backend.running(tcp=True):
        yield site.backend.endpoint


def test_our_backend_on_another_host(site: ImageSite) -> None:
    """Nothing is changed by a second run, and an update passes as well."""
    site.publish(site.image(1), site.image(2, RAW[:1024]))
    with elsewhere(site) as endpoint:
        done = site.run("sync", *flags(), endpoint=endpoint)
        assert done.returncode == 0, done.stderr
        assert sorted(site.glance.files.values()) == sorted([RAW, RAW[:1024]])
        assert site.run("sync", *flags(), endpoint=endpoint).returncode == 0
        site.publish(site.image(1, RAW[:-1] + b"!", hv__version="2"), site.image(2, RAW[:1024]))
        assert site.run("sync", *flags(), endpoint=endpoint).returncode == 0
    assert sorted(site.glance.files.values()) == sorted([RAW[:-1] + b"!", RAW[:1024]])
    assert list((site.root / "images").iterdir()) == []


def test_a_backend_that_does_not_allow_this_host(site: ImageSite) -> None:
    site.publish(site.image(1))
    with elsewhere(site, options="") as endpoint:
        done = site.run("sync", *flags(), endpoint=endpoint)
    assert done.returncode == 1
    assert "images from 127.0.0.1 are not allowed; add it to remote_hosts" in done.stderr
    assert site.glance.images == {}


def test_a_backend_that_fetches_as_0_9_9_does(site: ImageSite) -> None:
    """It reports no digest, and compares none; image by image, as it is never asked otherwise."""
    site.publish(site.image(1), site.image(2, RAW[:1024]))
    with image_backend.serve(tcp=True) as cloud:
        cloud.features = ""
        done = site.run("sync", *flags(), endpoint=cloud.endpoint)
    assert done.returncode == 0, done.stderr
    assert cloud.received == {
        (LIST_ID, image_id(1)): hashlib.sha512(RAW).hexdigest(),
        (LIST_ID, image_id(2)): hashlib.sha512(RAW[:1024]).hexdigest(),
    }


def test_a_port_that_is_taken_is_one_line(site: ImageSite) -> None:
    site.publish(site.image(1))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        words = ["--remote-mode", "--nginx-port", str(port)]
        done = site.run("sync", *words, endpoint="127.0.0.1:1")
    assert done.returncode == 3
    (line,) = [one for one in done.stderr.splitlines() if one.startswith("cloudkeeper: ")]
    assert f"127.0.0.1:{port}: images cannot be served there: address already in use; in" in line


@dataclass
class Offered:
    """A file of the remote mode, and the requests for it."""

    images: RemoteImages
    data: ImageData

    def get(self, *, password: str = "", first: int = 0, location: str = "") -> requests.Response:
        account = (self.data.username, password or self.data.password)
        headers = {"Range": f"bytes={first}-"} if first else {}
        where = location or self.data.location
        return requests.get(where, auth=account, headers=headers, timeout=30)


@pytest.fixture
def images() -> Iterator[RemoteImages]:
    port = free_port()
    with RemoteImages(RemotePlace("127.0.0.1", port, f"http://127.0.0.1:{port}")) as found:
        yield found


@pytest.fixture
def local(tmp_path: Path) -> ImageData:
    path = tmp_path / "one.raw"
    path.write_bytes(RAW)
    return ImageData(str(path), Format.RAW, "", len(RAW), uri="https://images.example.org/one")


def test_an_image_is_sent_once_to_who_has_its_password(
    images: RemoteImages, local: ImageData
) -> None:
    with images.offered(local) as data:
        offered = Offered(images, data)
        assert (data.mode, data.checksum) == (TransferMode.REMOTE, hashlib.sha512(RAW).hexdigest())
        token = data.location.split("/")[3]
        assert len(token) >= 43  # 256 bits
        refused = offered.get(password="wrong")
        assert (refused.status_code, refused.headers["WWW-Authenticate"][:5]) == (401, "Basic")
        other = data.location.replace(token, token[::-1])
        assert offered.get(location=other).status_code == 404
        assert (
            offered.get(location=data.location.replace("one.raw", "../one.raw")).status_code == 404
        )
        found = offered.get()
        assert (found.status_code, found.content) == (200, RAW)
        assert offered.get().status_code == 410
    assert offered.get().status_code == 404


def test_a_client_goes_on_where_the_connection_broke(
    images: RemoteImages, local: ImageData
) -> None:
    with images.offered(local) as data:
        offered = Offered(images, data)
        assert offered.get(first=len(RAW)).status_code == 416
        found = offered.get(first=len(RAW) - 1000)
        assert (found.status_code, found.content) == (206, RAW[-1000:])
        assert (
            found.headers["Content-Range"] == f"bytes {len(RAW) - 1000}-{len(RAW) - 1}/{len(RAW)}"
        )


def test_a_second_client_waits(images: RemoteImages, local: ImageData) -> None:
    """The first one has the header, and takes nothing more."""
    large = 64 * 2**20
    with Path(local.location).open("ab") as file:
        file.truncate(large)
    with images.offered(local) as data:
        offered = Offered(images, data)
        account = (data.username, data.password)
        with requests.get(data.location, auth=account, stream=True, timeout=30) as first:
            assert offered.get().status_code == 503
            assert sum(map(len, first.iter_content(2**20))) == large


def test_success_without_the_whole_image_is_a_failure(
    images: RemoteImages, local: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0.9 offers users what has arrived; who has the data already does not ask."""
    monkeypatch.setattr(remote_images, "_SETTLED", remote_images._POLL)
    with images.offered(local):
        pass

    def fetch_nothing() -> None:
        with images.offered(local) as data:
            assert Offered(images, data).get(password="wrong").status_code == 401
            assert Offered(images, data).get(first=len(RAW)).status_code == 416

    words = "reports success, but has not fetched the whole image"
    with pytest.raises(Unavailable, match=words):
        fetch_nothing()


def test_a_file_that_cannot_be_read(images: RemoteImages, local: ImageData) -> None:
    Path(local.location).unlink()
    with pytest.raises(LocalFailure, match="No such file"), images.offered(local):
        pass


def test_clients_that_ask_for_nothing_hold_no_other_back(
    images: RemoteImages, local: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that has waited longest is closed for a new one; nothing else closes it here."""
    monkeypatch.setattr(remote_images._RemoteHandler, "timeout", None)
    with images.offered(local) as data, contextlib.ExitStack() as stack:
        port = int(data.location.split(":")[2].split("/")[0])
        idle = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
            for _ in range(remote_images._MOST + 1)
        ]
        assert idle[0].recv(1) == b""
        for _ in range(2):
            assert Offered(images, data).get(password="wrong").status_code == 401
        idle[-1].sendall(b"GET /")
        idle[-1].settimeout(0.2)
        with pytest.raises(TimeoutError):
            idle[-1].recv(1)
        assert Offered(images, data).get().content == RAW
