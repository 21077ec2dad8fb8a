"""A file that is another one than its list says: fetched once, until something about it changes.

The whole frontend in direct mode, against an image server that knows conditions (RFC 9110, 13).
"""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.simulators.image_lists import image
from tests.simulators.image_server import Ranged, Ranges
from tests.unit.image_site import RAW, ImageSite, authority, site, web  # noqa: F401

# ruff: noqa: F811  the fixtures are those of the site

pytestmark = pytest.mark.programs("openssl", "qemu-img")

_SPOILT = RAW[:-1] + b"?"
_DATE = "Mon, 30 Nov 2026 10:00:00 GMT"


class Served:
    """One image whose list describes `RAW`, and the bytes of its file that the server has sent."""

    def __init__(self, site: ImageSite, *, etag: str = '"1"', modified: str = "") -> None:
        self.site = site
        self.sent = 0
        site.web.requests.clear()
        self.uri = site.web.url("/one.img")
        self.listed = image(1, uri=self.uri, content=RAW, hv__format="RAW")
        self.put(_SPOILT, etag=etag, modified=modified)
        site.publish(self.listed)

    def put(
        self,
        content: bytes,
        *,
        etag: str = '"1"',
        modified: str = "",
        twist: Callable[[Ranges], None] = lambda _: None,
    ) -> None:
        def count(answer: Ranges, _: int) -> None:
            twist(answer)
            self.sent += len(answer.body)

        self.site.web.put("/one.img", Ranged(content, etag, modified, twist=count))

    def sync(self, *flags: str) -> tuple[int, str]:
        """Return exit status and failure of a run; the bytes are counted anew."""
        self.sent = 0
        done = self.site.run("sync", "--json", *flags)
        failures = json.loads(done.stdout)["failures"]
        assert len(failures) <= 1
        return done.returncode, "".join(failures)

    @property
    def stored(self) -> list[bytes]:
        return list(self.site.glance.files.values())


@pytest.mark.parametrize("flags", [[], ["--formats", "qcow2"]], ids=["stream", "file"])
@pytest.mark.parametrize(
    ("etag", "modified"), [('"1"', ""), ("", _DATE), ('W/"1"', ""), ('"1"', _DATE)]
)
def test_a_wrong_file_is_not_fetched_again(
    site: ImageSite, flags: list[str], etag: str, modified: str
) -> None:
    served = Served(site, etag=etag, modified=modified)
    status, first = served.sync(*flags)
    assert (status, served.sent >= len(RAW)) == (1, True)
    assert "its digest is sha512:" in first
    assert "fetched again when its list, or the file on the server, has changed" in first
    for _ in range(2):
        status, again = served.sync(*flags)
        assert (status, served.sent) == (1, 0)
        assert "found by an earlier run; the server has not changed the file since" in again
        digest = served.listed["hv:image"]["sl:checksum:sha512"]
        assert again.endswith(f"trust --forget sha512:{digest}")
    assert served.stored == []


@pytest.mark.parametrize("change", ["etag", "list", "url", "forget"])
def test_it_is_fetched_when_something_has_changed(site: ImageSite, change: str) -> None:
    served = Served(site)
    served.sync()
    content = RAW
    match change:
        case "etag":
            served.put(RAW, etag='"2"')
        case "list":
            content = _SPOILT
            site.publish(image(1, uri=served.uri, content=_SPOILT, hv__format="RAW"))
        case "url":
            site.web.put("/two.img", RAW)
            uri = site.web.url("/two.img")
            site.publish(image(1, uri=uri, content=RAW, hv__format="RAW"))
        case "forget":
            served.put(RAW)  # under the same ETag
            assert served.sync()[0] == 1
            digest = f"sha512:{served.listed['hv:image']['sl:checksum:sha512']}"
            shown = site.run("trust").stdout
            assert f"{digest} {served.uri}: its digest is" in shown
            done = site.run("trust", "--forget", digest, "--yes")
            assert done.returncode == 0, done.stderr
    assert served.sync() == (0, "")
    assert served.stored == [content]


def test_a_server_that_ignores_conditions_is_not_read(site: ImageSite) -> None:
    """Only what is on its way already moves: the connection is closed before the body is read."""
    served = Served(site)
    served.sync()
    served.put(
        _SPOILT,
        etag="",
        twist=lambda answer: answer.headers.update({"ETag": '"1"'}),
    )
    status, again = served.sync()
    assert status == 1
    assert "the server has not changed the file since" in again
    assert site.web.asked("/one.img") == 2


def test_a_server_without_versions_is_asked_again(site: ImageSite) -> None:
    """Nothing would show that the file has been corrected."""
    served = Served(site, etag="")
    served.sync()
    status, again = served.sync()
    assert (status, served.sent) == (1, len(RAW))
    assert "earlier run" not in again
    served.put(RAW, etag="")
    assert served.sync() == (0, "")


def test_the_image_before_it_stays(site: ImageSite) -> None:
    served = Served(site)
    served.put(RAW)
    assert served.sync() == (0, "")
    newer = image(1, uri=served.uri, content=RAW + b"2" * 512, hv__format="RAW", hv__version="2")
    site.publish(newer)
    served.put(RAW[:-1] + b"2" * 513, etag='"2"')
    for _ in range(2):
        assert served.sync()[0] == 1
    assert (served.sent, served.stored) == (0, [RAW])


def test_a_memory_of_an_earlier_release_is_read(site: ImageSite) -> None:
    """It has no wrong downloads; one that is damaged holds nothing."""
    served = Served(site)
    served.sync()
    path = site.root / "var/lib/fedcloud/cloudkeeper/refused.json"
    found = json.loads(path.read_text())
    assert found.pop("downloads")
    for text in (json.dumps(found), json.dumps({**found, "downloads": [1]}), "{"):
        path.write_text(text)
        assert served.sync()[0] == 1
        assert served.sent == len(RAW)


def test_no_secret_of_a_url_is_remembered(site: ImageSite) -> None:
    served = Served(site)
    uri = served.uri.replace("://", "://user:secret-token@") + "?key=secret-token"
    site.web.put("/one.img?key=secret-token", Ranged(_SPOILT))
    site.publish(image(1, uri=uri, content=RAW, hv__format="RAW"))
    assert served.sync()[0] == 1
    path = site.root / "var/lib/fedcloud/cloudkeeper/refused.json"
    assert served.uri in path.read_text()
    assert "secret-token" not in path.read_text()
