"""A proxy that fails is named in one line, without its password, by all programs."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from appliance.core import retry
from appliance.core.cloud.login import Access
from appliance.core.cloud.session import Cloud
from appliance.core.download.downloader import Downloader
from appliance.core.run import cli, log
from appliance.core.run.errors import ApplianceError
from appliance.core.trust.ca_directory import CADirectory
from cloud_info_provider import certificate
from ssm.transport.request import KeptConnection
from tests.testbed.pki import Authority

# Debian 12's Python, 3.11.2, leaves the socket of a tunnel that is refused to the collector of
# garbage.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
)

SITE = "server.example.org:5000"
PASSWORD = "geheim-4711"
Ask = Callable[[Path, str], None]
_ACCOUNT = {"username": "x", "password": "y", "user_domain_id": "default"}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(retry, "_sleep", lambda _: None)
    yield
    log._secrets.clear()


@pytest.fixture(scope="module")
def anchors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("anchors")
    Authority.create(directory / "authority", key="ec").publish(directory / "certificates")
    return directory / "certificates"


@contextlib.contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """A proxy that has one answer to whatever it is asked."""

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                with client:
                    client.recv(65536)
                    client.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def ask_cloud(_: Path, site: str = SITE) -> None:
    url = f"https://{site}/v3"
    assert Cloud(Access("v3password", url, {**_ACCOUNT, "auth_url": url})).unscoped


def ask_for_image(anchors: Path, site: str = SITE) -> None:
    Downloader(CADirectory(anchors), attempts=1).fetch(f"https://{site}/x", name=site, max_bytes=10)


def ask_ams(anchors: Path, site: str = SITE) -> None:
    assert anchors
    host, _, port = site.partition(":")
    KeptConnection(host, int(port), tls=ssl.create_default_context()).open()


CLIENTS = pytest.mark.parametrize("ask", [ask_cloud, ask_for_image, ask_ams])


def said(ask: Ask, anchors: Path, site: str = SITE) -> ApplianceError:
    with pytest.raises(ApplianceError) as caught:
        ask(anchors, site)
    return caught.value


@CLIENTS
@pytest.mark.parametrize(
    "answer", ["407 Proxy Authentication Required", "403 Filtered", "502 Bad Gateway"]
)
def test_a_proxy_that_refuses(
    ask: Ask, answer: str, anchors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(f"HTTP/1.1 {answer}\r\n\r\n".encode()) as port:
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:{PASSWORD}@127.0.0.1:{port}")
        error = said(ask, anchors)
    assert f"{SITE}: " in str(error)
    assert f"the proxy 127.0.0.1:{port} refuses to connect: {answer.lower()}; " in str(error)
    assert ("http://NAME:PASSWORD@HOST:PORT" in error.remedy) == answer.startswith("407")
    assert (error.status, PASSWORD in str(error), "\n" in str(error)) == (3, False, False)


@CLIENTS
def test_a_proxy_that_is_not_there(
    ask: Ask, anchors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:{PASSWORD}@127.0.0.1:{port}")
        error = said(ask, anchors)
    assert f"{SITE}: " in str(error)
    assert (
        f"the proxy 127.0.0.1:{port} cannot be reached: connection refused; correct HTTPS_PROXY"
        in str(error)
    )
    assert "/etc/fedcloud/appliance.env" in error.remedy
    assert PASSWORD not in str(error)


@CLIENTS
@pytest.mark.parametrize(
    "text",
    [
        f"http://user:{PASSWORD}@",
        f"http://u:{PASSWORD}@proxy:99x",
        "http://proxy:0",
        "socks5://p:1",
    ],
)
def test_a_proxy_that_is_no_url_is_a_mistake_in_the_configuration(
    ask: Ask, text: str, anchors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", text)
    error = said(ask, anchors)
    assert str(error).startswith(
        "HTTPS_PROXY: is not the URL of an HTTP proxy; write http://HOST:PORT"
    )
    assert (error.status, PASSWORD in str(error)) == (2, False)


@pytest.mark.parametrize("excepted", ["127.0.0.1", "*", "localhost,127.0.0.1"])
@CLIENTS
def test_a_host_that_no_proxy_names_is_asked_directly(
    ask: Ask, excepted: str, anchors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as nobody, answering(b"HTTP/1.1 403 Filtered\r\n\r\n") as proxy:
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy}")
        monkeypatch.setenv("NO_PROXY", excepted)
        error = said(ask, anchors, f"127.0.0.1:{nobody.getsockname()[1]}")
    assert "connection refused" in str(error)
    assert "the proxy" not in str(error)


def test_who_issued_a_certificate_is_asked_through_the_proxy(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A cloud that is reached by a proxy alone cannot be asked directly."""
    with answering(b"HTTP/1.1 403 Filtered\r\n\r\n") as port, caplog.at_level(logging.WARNING):
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        assert (
            certificate.issuer(f"https://{SITE}/v3", verify=True, timeout=timedelta(seconds=5))
            == ""
        )
    assert "Tunnel connection failed: 403 Filtered" in caplog.text


def test_no_program_tells_a_proxy_s_password(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:{PASSWORD}%2F%C3%A9@proxy.example.org:3128")

    def quote(_: object) -> int:
        raise ValueError(f"Failed to parse: http://user:{PASSWORD}%2F%C3%A9@proxy; {PASSWORD}/é")

    assert cli.main(cli.Program("x", "x", lambda _: None, quote), []) == 4
    assert capsys.readouterr().err.startswith(
        "x: bug in this program: ValueError: Failed to parse: http://user:***@proxy; ***"
    )
