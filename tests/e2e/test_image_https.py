"""Lists and images from Debian's nginx over HTTPS: cuts, resumes, redirects and trust. F-M8.

The access log of nginx shows what was transferred; sha512sum judges what arrived.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.core import retry
from tests.e2e.images_frontend import Done, sha512
from tests.simulators.image_lists import image, image_id
from tests.testbed import nginx
from tests.testbed.nginx import Logged, Nginx
from tests.testbed.pki import Authority
from tests.unit import backend_site
from tests.unit.image_site import RAW, ServedSite, authority  # noqa: F401

# ruff: noqa: F811  the fixture is that of sites in unit tests

LIST, DISK, SLOW = "/image.list", "/1.img", "/slow/1.img"
OTHER = RAW[:-512] + b"another end ".ljust(512, b".")
"""Another disk of the same size."""
REFUSED = (
    "the server's certificate is not trusted: unable to get local issuer certificate;"
    " install its CA, or ask its administrator"
)
AS_BEFORE = "its images stay as they are"


@pytest.fixture(scope="module")
def server(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    directory = tmp_path_factory.mktemp("nginx")
    strangers = Authority.create(directory / "strangers", key="ec")
    with nginx.serve(
        directory / "nginx",
        host=authority.issue("localhost", key="ec"),
        stranger=strangers.issue("localhost", key="ec"),
        authority=authority.certificate,
    ) as found:
        yield found


@pytest.fixture
def site(
    tmp_path: Path, server: Nginx, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ServedSite]:
    """Yield a site that has taken nothing yet from its list with one image."""
    monkeypatch.setattr(retry, "_sleep", lambda _: None)
    server.forget()
    with backend_site.made(tmp_path) as backend:
        found = ServedSite(backend, server, authority)
        found.publish(found.image(1))
        yield found


def publish(site: ServedSite, url: str) -> None:
    """Publish a list with one image at a URL, which is that of `RAW`."""
    site.publish(image(1, uri=url, content=RAW, hv__format="RAW"))


def stored(site: ServedSite) -> list[str]:
    """Return the SHA-512 of each image in the cloud, by coreutils."""
    return [sha512(content) for content in site.glance.files.values()]


def complaints(done: Done) -> list[str]:
    """Return the errors that a run logged."""
    return re.findall("- ERROR - (.*)", done.stderr)


def of(path: str, server: Nginx) -> list[Logged]:
    return [answer for answer in server.log() if answer.path == path]


def start(answer: Logged, size: int) -> int:
    """Return where a partial answer starts; it goes up to the end."""
    found = re.fullmatch(rf"bytes ([0-9]+)-{size - 1}/{size}", answer.content_range)
    assert found, answer
    return int(found[1])


def test_a_second_run_moves_no_byte_of_list_or_image(site: ServedSite, server: Nginx) -> None:
    done = site.run("sync")
    assert done.returncode == 0, done.stderr
    assert stored(site) == [sha512(RAW)]
    answers = [(answer.path, answer.status, answer.sent) for answer in server.log()]
    assert answers == [(LIST, 200, server.file(LIST).stat().st_size), (DISK, 200, len(RAW))]
    server.forget()
    done = site.run("sync")
    assert done.returncode == 0, done.stderr
    (answer,) = server.log()
    assert (answer.path, answer.status, answer.sent) == (LIST, 304, 0)


def test_a_reload_of_the_server_costs_no_byte_twice(site: ServedSite, server: Nginx) -> None:
    publish(site, server.url(SLOW))
    with server.cut(DISK, by=signal.SIGHUP):
        done = site.run("sync")
    assert done.returncode == 0, done.stderr
    assert stored(site) == [sha512(RAW)]
    first, *others = of(SLOW, server)
    assert len(others) >= 3
    assert (first.status, first.range) == (200, "")
    received = first.sent
    for answer in others:
        assert answer.status == 206
        assert answer.range == f"bytes={start(answer, len(RAW))}-"
        assert answer.if_range.startswith('"')
        assert start(answer, len(RAW)) == received
        received += answer.sent
    assert received == len(RAW)


def test_a_download_survives_workers_that_are_killed(site: ServedSite, server: Nginx) -> None:
    publish(site, server.url(SLOW))
    with server.cut(DISK, by=signal.SIGKILL) as workers:
        done = site.run("sync")
    assert done.returncode == 0, done.stderr
    assert stored(site) == [sha512(RAW)]
    assert len(workers) >= 3
    (last,) = of(SLOW, server)  # a worker logs an answer at its end
    assert last.status == 206
    assert 0 < last.sent == len(RAW) - start(last, len(RAW))


def test_a_file_replaced_in_mid_transfer_is_not_mixed(site: ServedSite, server: Nginx) -> None:
    def replace() -> None:
        server.put(DISK, OTHER)

    publish(site, server.url(SLOW))
    with server.cut(DISK, by=signal.SIGHUP, then=replace):
        done = site.run("sync")
    assert done.returncode == 1
    assert "has another file now: its ETag is" in done.stderr
    assert stored(site) == []
    first, *others = of(SLOW, server)
    assert first.status == 200
    assert 0 < first.sent < len(RAW)
    assert [(answer.status, bool(answer.range)) for answer in others] == [(200, True)]
    site.publish(site.image(1, OTHER))
    done = site.run("sync")
    assert done.returncode == 0, done.stderr
    assert stored(site) == [sha512(OTHER)]


def test_a_redirect_leads_to_the_list_and_the_image(site: ServedSite, server: Nginx) -> None:
    publish(site, server.url(f"/moved{DISK}"))
    done = site.run("sync", "--image-lists", server.url(f"/moved{LIST}"))
    assert done.returncode == 0, done.stderr
    assert stored(site) == [sha512(RAW)]
    assert [(answer.port, answer.path, answer.status) for answer in server.log()] == [
        (server.first, f"/moved{LIST}", 302),
        (server.second, LIST, 200),
        (server.first, f"/moved{DISK}", 302),
        (server.second, DISK, 200),
    ]


def test_a_list_of_an_untrusted_server_is_refused(site: ServedSite, server: Nginx) -> None:
    done = site.run("sync", "--image-lists", server.url(LIST, server.third))
    assert done.returncode == 1
    assert complaints(done) == [f"{server.url(LIST, server.third)}: {REFUSED}; {AS_BEFORE}"]
    assert server.log() == []
    assert site.glance.images == {}


def test_an_image_of_an_untrusted_server_is_refused(site: ServedSite, server: Nginx) -> None:
    publish(site, server.url(DISK, server.third))
    done = site.run("sync")
    assert done.returncode == 1
    (complaint,) = complaints(done)
    assert complaint.startswith(f"{server.url(LIST)}: add {image_id(1)} ")
    assert complaint.endswith(f": {server.url(DISK, server.third)}: {REFUSED}")
    assert [answer.path for answer in server.log()] == [LIST]
    assert stored(site) == []
