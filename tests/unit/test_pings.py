"""Pings of jobs to a dead-man switch, which is a real HTTPS server of the test."""

from __future__ import annotations

import contextlib
import signal
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.simulators.answering import answering, over_tls
from tests.testbed import Authority
from tests.unit.test_run_job import Site, appliance, site  # noqa: F401

# ruff: noqa: F811  the fixtures are those of the tests of runs

pytestmark = pytest.mark.root
SECRET = "6f1e9c1a-77aa-4c0e-a2a6-1d2f3a4b5c6d"


@dataclass
class Switch:
    """A dead-man switch: the requests in the order in which they came."""

    url: str = ""
    heard: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, path without the secret, and body."""
    answer: tuple[int, str] = (200, "")
    """Status, and the place that a redirect leads to."""
    may_answer: threading.Event = field(default_factory=threading.Event)

    def until(self, count: int) -> list[tuple[str, str, str]]:
        deadline = time.monotonic() + 30
        while len(self.heard) < count:
            assert time.monotonic() < deadline, self.heard
            time.sleep(0.01)
        return self.heard


class _Handler(BaseHTTPRequestHandler):
    switch: Switch

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length).decode()
        path = self.path.removeprefix(f"/{SECRET}")
        self.switch.heard.append((self.command, path, body))
        self.switch.may_answer.wait(30)
        status, place = self.switch.answer
        with contextlib.suppress(OSError):  # the client may have given up
            self.send_response(status)
            if place:
                self.send_header("Location", place)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"OK")

    do_POST = do_GET  # noqa: N815  the name that the library calls

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def serving(pki: Authority) -> Iterator[Switch]:
    switch = Switch()
    switch.may_answer.set()
    handler = type("Handler", (_Handler,), {"switch": switch})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    own = pki.issue("localhost", hosts=["localhost"])
    switch.url = f"{over_tls(server, own)}://localhost:{server.server_port}"
    with answering(server):
        yield switch
        switch.may_answer.set()


@pytest.fixture
def switch(site: Site, pki: Authority) -> Iterator[Switch]:
    """A switch that the job caso pings."""
    with serving(pki) as found:
        ping(site, pki, found.url)
        yield found


def ping(site: Site, pki: Authority, url: str, *, mode: int = 0o600) -> Path:
    path = site.root / "etc/fedcloud/pings/caso"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{url}/{SECRET}\n")
    path.chmod(mode)
    settings = site.root / "etc/fedcloud/appliance.yaml"
    if "caso_file" not in settings.read_text():
        settings.write_text(f"{settings.read_text()}pings: {{caso_file: {path}}}\n")
    environment = site.root / "etc/fedcloud/appliance.env"
    bundle = site.place / "authorities.pem"
    bundle.write_bytes(pki.certificate.read_bytes())
    if "CA_BUNDLE=" not in environment.read_text():
        text = f"{environment.read_text()}FEDCLOUD_CA_BUNDLE={bundle}\n"
        environment.write_text(text)
    return path


@pytest.mark.long
def test_a_good_run_pings_its_start_and_its_end(site: Site, switch: Switch) -> None:
    done = site.run("caso")
    assert (done.returncode, done.stderr.count("ping")) == (0, 0), done.stderr
    assert switch.heard == [("GET", "/start", ""), ("GET", "", "")]
    assert SECRET not in done.stdout + done.stderr
    assert SECRET not in "".join(site.reported("arguments") + site.reported("environment"))


@pytest.mark.long
def test_a_bad_run_pings_its_last_line(site: Site, switch: Switch) -> None:
    site.behave("exit 3")
    assert site.run("caso").returncode == 3
    method, path, body = switch.heard[1]
    assert (method, path) == ("POST", "/fail")
    assert body.startswith("caso-extract ended with exit status 3; ")
    site.engine.images.clear()
    assert site.run("caso").returncode == 3
    assert [path for _, path, _ in switch.heard[2:]] == ["/start", "/fail"]
    assert "egifedcloud/caso" in switch.heard[3][2]


def test_a_stopped_run_is_bad(site: Site, switch: Switch) -> None:
    site.behave("exec sleep 60")
    process = site.start("caso")
    site.until_started()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert switch.until(2)[1][:2] == ("POST", "/fail")
    assert "was stopped by SIGTERM" in switch.heard[1][2]


def test_a_killed_run_is_reported_by_the_next_one(site: Site, switch: Switch) -> None:
    site.behave("exec sleep 60")
    process = site.start("caso")
    site.until_started()
    switch.until(1)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    site.behave("exit 0")
    assert site.run("caso").returncode == 0
    assert [path for _, path, _ in switch.heard] == ["/start", "/fail", "/start", ""]
    assert switch.heard[1][2].startswith("the run that began at 20")
    assert switch.heard[1][2].endswith("Z was killed")
    assert site.run("caso").returncode == 0
    assert [path for _, path, _ in switch.heard[4:]] == ["/start", ""]


def test_what_is_no_run_pings_nothing(site: Site, switch: Switch) -> None:
    """A dry run, a check, a verb, another job, one that is off, and a second start."""
    site.run("caso", "--", "--dry-run")
    site.run("caso", "--check-config")
    site.run("caso", "--", "projects")
    site.run("ssmsend")
    assert switch.heard == []
    site.behave("exec sleep 2")
    first = site.start("caso")
    site.until_started(len(site.runs) + 1)
    assert "running since" in site.run("caso").stdout
    first.communicate(timeout=60)
    assert len(switch.heard) == 2
    settings = site.root / "etc/fedcloud/appliance.yaml"
    text = settings.read_text().replace("{images: on}", "{images: on, accounting: off}")
    settings.write_text(text)
    assert "is off in" in site.run("caso").stdout
    assert len(switch.heard) == 2


def test_a_host_that_hangs_costs_no_run_anything(site: Site, switch: Switch) -> None:
    """The job starts and ends meanwhile; its lock is free while the process waits, for seconds."""
    switch.may_answer.clear()
    first = site.start("caso")
    site.until_started()
    record = site.root / "var/lib/fedcloud/runs/jobs/job-caso.json"
    deadline = time.monotonic() + 30
    while not record.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert first.poll() is None
    second = site.run("caso")
    assert "running since" not in second.stdout
    assert second.returncode == 0
    assert site.record("caso")["status"] == 0
    assert len(site.runs) == 2
    out, err = first.communicate(timeout=60)
    assert first.wait() == 0
    assert "ping of caso: " in err + out
    assert SECRET not in second.stdout + second.stderr + out + err


@pytest.mark.parametrize(
    ("answer", "words"),
    [((404, ""), "answers 404 Not Found; check the URL in"), ((500, ""), "answers 500")],
)
def test_a_host_that_refuses_is_logged(
    site: Site, switch: Switch, answer: tuple[int, str], words: str
) -> None:
    switch.answer = answer
    done = site.run("caso")
    assert done.returncode == 0
    assert words in done.stderr
    assert SECRET not in done.stderr


def test_no_redirect_is_followed(site: Site, pki: Authority, switch: Switch) -> None:
    with serving(pki) as other:
        switch.answer = (302, f"{other.url}/{SECRET}")
        done = site.run("caso")
        assert other.heard == []
    assert done.returncode == 0
    assert "ping of caso: localhost:" in done.stderr
    assert "answers 302 Found" in done.stderr


def test_a_closed_port_and_a_foreign_certificate_are_logged(
    site: Site, pki: Authority, switch: Switch, tmp_path: Path
) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        ping(site, pki, f"https://localhost:{held.getsockname()[1]}")
        done = site.run("caso")
    assert done.returncode == 0
    assert "cannot be reached: connection refused" in done.stderr.lower()
    ping(site, pki, switch.url)
    (site.place / "authorities.pem").write_bytes(
        Authority.create(tmp_path / "foreign").certificate.read_bytes()
    )
    done = site.run("caso")
    assert done.returncode == 0
    assert "its TLS certificate is not trusted" in done.stderr
    assert switch.heard == []
    assert SECRET not in done.stderr


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        ("https://localhost/x\n", 0o644, "others can read it, and it is a secret; chmod 0600"),
        (f"http://localhost/{SECRET}\n", 0o600, "is not a URL of TLS; write https://HOST/PATH"),
        (f"ftp:{SECRET}\n", 0o600, "is not a URL; write https://HOST/PATH"),
        ("", 0o600, "does not hold a secret; write it on the first line"),
        (None, 0o600, "No such file or directory"),
    ],
)
def test_a_file_that_cannot_be_used_is_logged(
    site: Site, pki: Authority, switch: Switch, text: str | None, mode: int, words: str
) -> None:
    path = ping(site, pki, switch.url, mode=mode)
    path.write_text(text or "")
    if text is None:
        path.unlink()
    done = site.run("caso")
    assert done.returncode == 0
    assert words.lower() in done.stderr.lower()
    assert SECRET not in done.stderr
    assert switch.heard == []


def test_a_url_in_the_settings_is_an_error_that_does_not_quote_it(
    site: Site, pki: Authority
) -> None:
    settings = site.root / "etc/fedcloud/appliance.yaml"
    url = f"https://hc-ping.com/{SECRET}"
    settings.write_text(f"{settings.read_text()}pings:\n  caso_file: {url}\n")
    line = len(settings.read_text().splitlines())
    done = site.run("caso")
    assert done.returncode == 2
    assert f"{settings}:{line}: [pings] caso_file: must be the absolute path" in done.stderr
    assert SECRET not in done.stderr
    settings.write_text(settings.read_text().replace("caso_file", "cas_file"))
    done = site.run("caso")
    assert "did you mean caso_file" in done.stderr
    assert SECRET not in done.stderr


class _Proxy(socketserver.StreamRequestHandler):
    asked: list[bytes]

    def handle(self) -> None:
        self.asked.append(self.rfile.readline())
        self.wfile.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")


def test_pings_go_through_the_proxy_of_the_site(site: Site, switch: Switch) -> None:
    asked: list[bytes] = []
    handler = type("Handler", (_Proxy,), {"asked": asked})
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler)
    environment = site.root / "etc/fedcloud/appliance.env"
    proxy = f"HTTPS_PROXY=http://127.0.0.1:{server.server_address[1]}\nNO_PROXY=other.example.org\n"
    environment.write_text(environment.read_text() + proxy)
    with answering(server):
        done = site.run("caso")
    assert done.returncode == 0
    port = switch.url.rpartition(":")[2]
    target = f"CONNECT localhost:{port} HTTP/1.".encode()
    assert [line.startswith(target) for line in asked] == [True, True]
    assert switch.heard == []
    assert "refuses to connect: 403" in done.stderr
