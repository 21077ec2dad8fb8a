"""Lists that have not changed: 304 and no content, judged as if they had just come."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from appliance.core import retry
from appliance.core.download.downloader import Downloader, Fetched
from appliance.core.run.errors import ApplianceError, Unavailable
from appliance.core.trust.ca_directory import CADirectory
from cloudkeeper.frontend import addresses, imagelist
from cloudkeeper.frontend.list_cache import ListCache
from cloudkeeper.frontend.memory import Memory
from cloudkeeper.frontend.sources import SignedListSource
from tests.simulators import image_server
from tests.simulators.image_lists import image, image_list, in_days, openssl_accepts, sign
from tests.simulators.image_server import Content, ImageServer, Ranged, Ranges, Status
from tests.testbed.pki import AUTHORITY_DN, HOST_DN, Authority, Credential

pytestmark = pytest.mark.programs("openssl")

ENDORSER = f"{HOST_DN}/CN=lists.example.org"
DATE = "Mon, 30 Nov 2026 06:00:00 GMT"
PLACE = "https://lists.example.org/ops"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority.create(tmp_path_factory.mktemp("authority") / "ca", key="ec")
    made.publish(made.directory / "certificates")
    return made


@pytest.fixture(scope="module")
def signer(authority: Authority) -> Credential:
    return authority.issue("lists.example.org", key="ec")


@pytest.fixture(scope="module")
def web(authority: Authority) -> Iterator[ImageServer]:
    with image_server.serve(authority.issue("localhost", key="ec")) as server:
        yield server


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "_sleep", lambda _: None)


@dataclass
class Site:
    """Runs of one site, with its state directory; ``answers`` are what the server answered."""

    state: Path
    web: ImageServer
    certificates: Path
    answers: list[tuple[int, int]] = field(default_factory=list)
    """Status and bytes of content."""

    def serve(self, message: bytes, *, etag: str = '"v1"', modified: str = "") -> None:
        def note(answer: Ranges, _: int) -> None:
            self.answers.append((answer.status, len(answer.body)))

        self.put(Ranged(message, etag=etag, modified=modified, twist=note))

    def put(self, content: Content) -> None:
        self.web.put("/ops", content)

    def run(self, *, at: datetime | None = None, keeps: bool = True) -> list[str]:
        """Return the identifiers of the images of the accepted list."""
        (address,), _ = addresses.read([(self.web.url("/ops"), 1)], path=Path("image-lists.conf"))
        trust = CADirectory(self.certificates)
        memory = Memory(self.state / "lists.json")
        cache = ListCache(self.state / "lists", imagelist.MAX_BYTES)
        source = SignedListSource(address, Downloader(trust), trust, memory, cache)
        moment = at or datetime.now(UTC)
        (found,), _ = source.fetch(at=moment)
        if keeps:
            source.accept(at=moment)
        return [offer.appliance.identifier for offer in found.offers]

    @property
    def kept(self) -> list[Path]:
        return sorted((self.state / "lists").glob("*"))


@pytest.fixture
def site(tmp_path: Path, web: ImageServer, authority: Authority) -> Site:
    certificates = tmp_path / "certificates"
    authority.publish(certificates)
    return Site(tmp_path / "state", web, certificates)


def signed(signer: Credential, number: int = 1, **changes: str) -> bytes:
    one = image(number, uri="https://images.example.org/one.qcow2", content=b"disk")
    return sign(image_list([one], dn=ENDORSER, ca=AUTHORITY_DN, **changes), signer)


@pytest.mark.parametrize(("etag", "modified"), [('"v1"', ""), ("", DATE), ('W/"v1"', DATE)])
def test_an_unchanged_list_costs_no_content(
    site: Site, signer: Credential, etag: str, modified: str
) -> None:
    """images.md 7.22."""
    message = signed(signer)
    site.serve(message, etag=etag, modified=modified)
    first = site.run()
    assert len(first) == 1
    assert site.run() == site.run() == first
    assert site.answers == [(200, len(message)), (304, 0), (304, 0)]


def test_a_changed_list_comes_whole(site: Site, signer: Credential) -> None:
    site.serve(signed(signer))
    first = site.run()
    message = signed(signer, 2)
    site.serve(message, etag='"v2"')
    second = site.run()
    assert first != second
    assert site.run() == second
    assert site.answers[1:] == [(200, len(message)), (304, 0)]
    assert len(site.kept) == 1


def test_a_list_without_a_version_is_not_kept(site: Site, signer: Credential) -> None:
    message = signed(signer)
    site.serve(message)
    site.run()
    assert len(site.kept) == 1
    site.serve(message + b"\n", etag="")
    site.run()
    site.run()
    assert site.kept == []
    assert [status for status, _ in site.answers] == [200, 200, 200]


@pytest.mark.parametrize("failure", [Status(500), Status(404), Status(403)])
def test_a_kept_list_never_takes_the_place_of_a_failure(
    site: Site, signer: Credential, failure: Status
) -> None:
    site.serve(signed(signer))
    site.run()
    site.put(failure)
    with pytest.raises(Unavailable, match=f"answers {failure.code}"):
        site.run()


def test_a_304_that_nobody_asked_for_is_a_failure(site: Site) -> None:
    site.put(Status(304))
    with pytest.raises(Unavailable, match="answers 304"):
        site.run()


def test_a_kept_list_expires(site: Site, signer: Credential) -> None:
    site.serve(signed(signer, dc__date__expires=in_days(2)))
    site.run()
    with pytest.raises(ApplianceError, match="expired"):
        site.run(at=datetime.now(UTC) + timedelta(days=3))
    assert site.answers[-1] == (304, 0)


def test_a_kept_list_of_a_signer_who_was_revoked_is_refused(
    site: Site, authority: Authority
) -> None:
    """The list is the same; the CRL is not."""
    signer = authority.issue("lists.example.org", key="ec")
    message = signed(signer)
    site.serve(message)
    site.run()
    assert openssl_accepts(message, site.certificates)
    authority.revoke(signer)
    authority.publish(site.certificates)
    with pytest.raises(ApplianceError, match="revoked"):
        site.run()
    assert site.answers[-1] == (304, 0)


@pytest.mark.parametrize(
    "damage",
    [
        lambda found: found[:-1],
        lambda found: found.replace(b"smime", b"SMIME", 1),
        lambda _: b"",
        lambda _: b"\n",
        lambda _: b"[" * 100_000,
        lambda _: b"[]\nx",
        lambda found: found.partition(b"\n")[2],
        lambda found: b'{"url": 1}\n' + found.partition(b"\n")[2],
        lambda found: found.replace(b"https://localhost", b"https://otherhost", 1),
    ],
    ids=[
        *("shorter", "altered", "empty", "no line", "nesting", "no object", "the list alone"),
        *("keys", "another place"),
    ],
)
def test_a_damaged_copy_costs_one_whole_list(
    site: Site, signer: Credential, damage: object
) -> None:
    assert callable(damage)
    message = signed(signer)
    site.serve(message)
    first = site.run()
    (path,) = site.kept
    path.write_bytes(damage(path.read_bytes()))
    assert site.run() == site.run() == first
    assert site.answers == [(200, len(message)), (200, len(message)), (304, 0)]


def test_a_run_that_only_looks_keeps_nothing(site: Site, signer: Credential) -> None:
    site.serve(signed(signer))
    site.run(keeps=False)
    assert not site.state.exists()


def test_a_list_that_is_refused_is_not_kept(site: Site, signer: Credential) -> None:
    site.serve(signed(signer).replace(b"one.qcow2", b"two.qcow2"))
    with pytest.raises(ApplianceError):
        site.run()
    assert site.kept == []


def test_a_state_directory_that_cannot_be_written_costs_only_the_copy(
    site: Site, signer: Credential, caplog: pytest.LogCaptureFixture
) -> None:
    site.state.mkdir()
    (site.state / "lists").write_text("a file of somebody")
    site.serve(signed(signer))
    assert len(site.run()) == 1
    (line,) = [record.getMessage() for record in caplog.records]
    assert "is not a directory; the next run fetches the whole list again" in line


def test_the_copies_of_lists_that_nobody_needs_are_removed(site: Site, signer: Credential) -> None:
    cache = ListCache(site.state / "lists", 1000)
    now = datetime.now(UTC)
    cache.keep(PLACE, Fetched(b"a", '"1"'), at=now - timedelta(days=31))
    cache.keep(f"{PLACE}2", Fetched(b"b", '"1"'), at=now - timedelta(days=29))
    site.serve(signed(signer))
    site.run()
    assert len(site.kept) == 2
    assert cache.get(PLACE) is None
    assert cache.get(f"{PLACE}2") == Fetched(b"b", '"1"')


def test_a_copy_has_no_secret_and_is_for_the_account_and_its_group(tmp_path: Path) -> None:
    cache = ListCache(tmp_path / "lists", 1000)
    text = "https://t0ken-of-site:x-oauth-basic@lists.example.org/list?key=s3cr3t-key"
    (address,), _ = addresses.read([(text, 1)], path=Path("image-lists.conf"))
    cache.keep(address.place, Fetched(b"a", '"1"'), at=datetime.now(UTC))
    (path,) = (tmp_path / "lists").iterdir()
    content = path.read_text()
    assert "t0ken" not in content
    assert "s3cr3t" not in content
    assert json.loads(content.partition("\n")[0])["url"].startswith("https://lists.example.org/")
    assert path.stat().st_mode & 0o007 == 0


def test_a_version_that_is_too_long_is_not_kept(tmp_path: Path) -> None:
    cache = ListCache(tmp_path / "lists", 1000)
    cache.keep(PLACE, Fetched(b"a", '"' + "x" * 2000 + '"'), at=datetime.now(UTC))
    assert cache.get(PLACE) is None
