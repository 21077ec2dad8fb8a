"""F-T4: over each transport of image lists, forged, altered and foreign lists are refused.

The cases come from the table by which the code accepts a URL (`SCHEMES`): a new transport without a
server here is an error of this file. `tests.interop.test_refusals` does the same for each form,
kind of signature and digest.

The site knows one authority. Another one has the same name, and issues certificates for the same
names: only its key differs.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from appliance.core.download.deadline import POOLS
from appliance.core.download.downloader import Downloader
from appliance.core.hosts import SCHEMES
from appliance.core.trust.ca_directory import CADirectory
from cloudkeeper.frontend import addresses, imagelist
from cloudkeeper.frontend.list_cache import ListCache
from cloudkeeper.frontend.memory import Memory
from cloudkeeper.frontend.reading import OfferSources
from cloudkeeper.frontend.sources import SignedListSource
from cloudkeeper.frontend.sync_report import SyncReport
from tests.simulators import image_server
from tests.simulators.image_lists import LIST_ID, image, image_list, openssl_accepts, sign
from tests.simulators.image_server import ImageServer, Redirect
from tests.testbed.pki import AUTHORITY_DN, HOST_DN, Authority, Credential

ENDORSER = f"{HOST_DN}/CN=lists.example.org"
PAST = datetime.now(UTC) - timedelta(days=9)


@dataclass(frozen=True)
class Trust:
    """The site's authority, and a rogue one of the same name."""

    own: Authority
    rogue: Authority

    @property
    def certificates(self) -> Path:
        return self.own.directory / "certificates"

    def host(self) -> Credential:
        return self.own.issue("localhost", key="ec")

    def serve(self, scheme: str) -> AbstractContextManager[ImageServer]:
        return image_server.serve(SERVERS[scheme](self))


SERVERS: dict[str, Callable[[Trust], Credential | None]] = {
    "https": Trust.host,
    "http": lambda _: None,
}
"""The credential of a good server, for each transport."""


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    own, rogue = (
        Authority.create(tmp_path_factory.mktemp(name) / "ca", key="ec")
        for name in ("own", "rogue")
    )
    own.publish(own.directory / "certificates")
    return Trust(own, rogue)


@pytest.fixture(scope="module")
def variants(trust: Trust) -> dict[str, bytes]:
    """Return the genuine list, and for each way to fake it the one that nobody may accept."""
    one = image(1, uri="https://images.example.org/one.qcow2", content=b"genuine")
    document = image_list([one], dn=ENDORSER, ca=AUTHORITY_DN)
    genuine, foreign = (
        sign(document, authority.issue("lists.example.org", key="ec"))
        for authority in (trust.own, trust.rogue)
    )
    made = {
        "genuine": genuine,
        "altered": genuine.replace(b"one.qcow2", b"two.qcow2"),
        "forged": forged(genuine),
        "foreign": foreign,
        "unsigned": genuine.partition(b"\n\n")[2],
    }
    assert len(set(made.values())) == len(made)
    return made


def forged(message: bytes) -> bytes:
    """Flip the last bit of the signature's value."""
    found = re.search(rb"\nMI[A-Za-z0-9+/\n]+=*", message)
    assert found
    structure = bytearray(base64.b64decode(found[0]))
    structure[-1] ^= 1
    return message.replace(found[0], b"\n" + base64.encodebytes(structure).removesuffix(b"\n"))


def accepted(trust: Trust, memory: Path, *urls: str) -> tuple[list[str], list[str]]:
    """Return the identifiers of the accepted lists of a run, and its failures."""
    found, problems = addresses.read([(url, 0) for url in urls], path=Path("image-lists.conf"))
    assert problems == []
    directory = CADirectory(trust.certificates)
    client = Downloader(directory, attempts=1)
    report = SyncReport()
    known = Memory(memory)
    cache = ListCache(memory.parent / "lists", imagelist.MAX_BYTES)
    made = [SignedListSource(one, client, directory, known, cache) for one in found]
    sources = OfferSources(made)
    at = datetime.now(UTC)
    lists = [str(one.identifier) for _, lists in sources.accepted(report, at=at) for one in lists]
    assert len(lists) + report.refused_lists == len(urls)
    return lists, report.failures


def test_every_transport_is_in_this_file() -> None:
    assert set(SERVERS) == set(SCHEMES) == set(POOLS)


@pytest.mark.parametrize("variant", ["altered", "forged", "foreign", "unsigned"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_only_the_genuine_list_is_accepted(
    tmp_path: Path, trust: Trust, variants: dict[str, bytes], scheme: str, variant: str
) -> None:
    """The signature alone decides: a list over plain HTTP is as safe as one over HTTPS."""
    with trust.serve(scheme) as server:
        wrong = server.put("/list", variants[variant])
        assert not openssl_accepts(variants[variant], trust.certificates)
        lists, failures = accepted(trust, tmp_path / "lists.json", wrong)
        assert lists == []
        (line,) = failures
        assert line.startswith(f"{wrong}: ")
        assert line.endswith("; its images stay as they are")
        # Nothing of it was remembered: the genuine list at the same URL is the first one.
        server.put("/list", variants["genuine"])
        assert accepted(trust, tmp_path / "lists.json", wrong) == ([LIST_ID], [])
        server.put("/list", variants[variant])
        assert accepted(trust, tmp_path / "lists.json", wrong) == ([], [line])


STRANGERS: dict[str, tuple[str, Callable[[Trust], Credential]]] = {
    "foreign": (
        "unable to get local issuer certificate",
        lambda trust: trust.rogue.issue("localhost", key="ec"),
    ),
    "another name": ("Hostname mismatch", lambda trust: trust.own.issue("other", key="ec")),
    "expired": (
        "certificate has expired",
        lambda trust: trust.own.issue(
            "old", hosts=("localhost",), key="ec", not_before=PAST, days=2
        ),
    ),
}


@pytest.mark.parametrize("stranger", STRANGERS)
def test_a_server_that_cannot_be_verified_gets_no_request(
    tmp_path: Path, trust: Trust, variants: dict[str, bytes], stranger: str
) -> None:
    """A genuine list from there is not even fetched, and neither are credentials sent."""
    words, credential = STRANGERS[stranger]
    with image_server.serve(credential(trust)) as server:
        url = server.put("/list", variants["genuine"]).replace("https://", "https://secret-token@")
        lists, (line,) = accepted(trust, tmp_path / "lists.json", url)
        assert (lists, server.requests) == ([], [])
    assert f"the server's certificate is not trusted: {words}" in line


@pytest.fixture
def redirected(trust: Trust, variants: dict[str, bytes]) -> Iterator[ImageServer]:
    """A plain server with the genuine list, the target of redirects."""
    with trust.serve("http") as server:
        server.put("/list", variants["genuine"])
        yield server


def test_plain_http_is_used_only_where_it_is_configured(
    tmp_path: Path, trust: Trust, redirected: ImageServer
) -> None:
    memory = tmp_path / "lists.json"
    with trust.serve("https") as server:
        url = server.put("/list", Redirect(redirected.url("/list")))
        lists, (line,) = accepted(trust, memory, url)
    assert (lists, redirected.requests) == ([], [])
    assert "the server redirects from https to http" in line
    assert accepted(trust, memory, redirected.url("/list")) == ([LIST_ID], [])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_redirect_leads_to_no_file(
    tmp_path: Path, trust: Trust, variants: dict[str, bytes], scheme: str
) -> None:
    (tmp_path / "list").write_bytes(variants["genuine"])
    with trust.serve(scheme) as server:
        url = server.put("/list", Redirect(f"file://{tmp_path}/list"))
        lists, (line,) = accepted(trust, tmp_path / "lists.json", url)
    assert lists == []
    assert re.search("the server redirects (from https )?to file", line)


def test_a_redirect_from_http_leads_to_no_server_that_cannot_be_verified(
    tmp_path: Path, trust: Trust, variants: dict[str, bytes], redirected: ImageServer
) -> None:
    with image_server.serve(trust.rogue.issue("localhost", key="ec")) as rogue:
        url = redirected.put("/moved", Redirect(rogue.put("/list", variants["genuine"])))
        lists, (line,) = accepted(trust, tmp_path / "lists.json", url)
        assert (lists, rogue.requests) == ([], [])
    assert "the server's certificate is not trusted: unable to get local issuer certificate" in line


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("file:///tmp/image.list", "does not begin with https://"),
        ("/tmp/image.list", "does not begin with https://"),
        ("ftp://lists.example.org/image.list", "does not begin with https://"),
        ("HTTP+unix://lists/image.list", "does not begin with https://"),
        ("http://secret-token@lists.example.org/image.list", "would send the token unencrypted"),
    ],
)
def test_other_transports_are_refused_in_the_configuration(url: str, words: str) -> None:
    found, (problem,) = addresses.read([(url, 1)], path=Path("image-lists.conf"))
    assert found == []
    assert words in str(problem)
    assert "secret" not in str(problem)
