"""Projects of a real registry (Debian's docker-registry), behind Harbor's API and without it."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote

import pytest

from appliance.core import retry
from appliance.core.download.downloader import Downloader, Timeouts
from appliance.core.download.partial import PartialData, StillWrong
from appliance.core.registry import names
from appliance.core.registry.account import RegistryAccount
from appliance.core.registry.client import RegistryClient
from appliance.core.registry.login import Login
from appliance.core.registry.names import Digest, TaggedArtefact
from appliance.core.run.errors import AccessDenied, ApplianceError, Unavailable
from appliance.core.trust.ca_directory import CADirectory
from appliance.core.trust.errors import Malformed, Tampered
from cloudkeeper.frontend.registry import artefact, listing
from cloudkeeper.frontend.registry.artefact import Compression
from cloudkeeper.frontend.registry.kept import KeptByDigest
from cloudkeeper.frontend.registry.listing import (
    DistributionListing,
    HarborListing,
    ProjectListing,
)
from cloudkeeper.frontend.registry.manifests import Manifests
from cloudkeeper.frontend.registry.project import RegistryProject
from cloudkeeper.frontend.registry.referrers import Referrers
from cloudkeeper.frontend.registry.sboms import SBOMs
from cloudkeeper.frontend.registry.tags import TagHistory
from tests.simulators import harbor, image_server
from tests.simulators.harbor import Harbor, Reply
from tests.simulators.image_server import Status
from tests.testbed import oci_registry
from tests.testbed.oci_registry import (
    DISK,
    INDEX,
    MANIFEST,
    PASSWORD,
    USER,
    BasicLogin,
    TokenLogin,
    described_as,
)
from tests.testbed.pki import Authority, Credential

pytestmark = pytest.mark.usefixtures("few_system_authorities")

SHORT_TAGS = re.compile("[^-]*")
ROBOT = RegistryAccount(USER, PASSWORD, "/etc/cloudkeeper/registry.auth")
NOW = datetime(2026, 11, 30, tzinfo=UTC)
PROJECT = "egi_vm_images"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
CONTENT = b"QFI\xfb of a disk" * 100


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority.create(tmp_path_factory.mktemp("authority") / "ca", key="ec")
    made.publish(made.directory / "certificates")
    return made


@pytest.fixture(scope="module")
def host(authority: Authority) -> Credential:
    return authority.issue("localhost", key="ec")


@pytest.fixture(scope="module")
def web(authority: Authority) -> Downloader:
    return Downloader(CADirectory(authority.directory / "certificates"), attempts=1)


@pytest.fixture(scope="module")
def world(
    authority: Authority, host: Credential, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Harbor]:
    """Yield Harbor with a public and a private project."""
    signer = authority.issue("tokens.example.org", key="rsa")
    directory = tmp_path_factory.mktemp("registry")
    with harbor.serve(host, signer=signer) as made:
        login = TokenLogin(made.realm, authority.certificate)
        with oci_registry.serve(
            directory, credential=host, authority=authority.certificate, login=login
        ) as registry:
            made.registry = registry
            made.public.add(PROJECT)
            for repository in ("ubuntu", "linux/alma", "debian"):
                push(made, f"{PROJECT}/{repository}", "24.04")
                push(made, f"{PROJECT}/{repository}", "24.04-2026-11-01-0123abcd")
            push(made, "vo.example.org/matlab", "9", content=CONTENT * 2)
            yield made


@pytest.fixture(autouse=True)
def _no_faults(world: Harbor) -> Iterator[None]:
    yield
    world.faults.clear()
    world.page_size = 100
    world.cut = None
    world.referrers = None


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "_sleep", lambda _: None)


def push(
    world: Harbor, repository: str, tag: str, *, content: bytes = CONTENT, media_type: str = DISK
) -> str:
    assert world.registry is not None
    world.registry.headers = world.push_headers(repository)
    return world.registry.push(
        repository, tag, content, annotations=described_as(tag), media_type=media_type
    )


def client(web: Downloader, host: str, account: RegistryAccount | None = None) -> RegistryClient:
    return RegistryClient(web, Login(web, host, account))


def project_of(
    reader: RegistryClient, name: str, directory: Path, found: ProjectListing | None = None
) -> RegistryProject:
    """Return a project that one VO gets; without another listing, by Harbor's."""
    return RegistryProject(
        name,
        ("ops",),
        reader,
        found or HarborListing(reader, name, SHORT_TAGS),
        Manifests(reader, KeptByDigest(directory / "manifests")),
        TagHistory(directory / "tags.json"),
        SBOMs(Referrers(reader), KeptByDigest(directory / "sboms")),
    )


def listed(
    web: Downloader, world: Harbor, project: str, account: RegistryAccount | None = None
) -> list[TaggedArtefact]:
    found = HarborListing(client(web, world.host, account), project, SHORT_TAGS).artefacts({})
    return sorted(found, key=lambda one: one.reference)


def test_a_public_project_is_read_without_an_account(
    world: Harbor, web: Downloader, tmp_path: Path
) -> None:
    """By Harbor's listing and by tokens for anybody; the digests are those that the pushes had."""
    found = listed(web, world, PROJECT)
    assert [one.reference for one in found] == [
        f"{PROJECT}/debian:24.04",
        f"{PROJECT}/linux/alma:24.04",
        f"{PROJECT}/ubuntu:24.04",
    ]
    reader = client(web, world.host)
    content = Manifests(reader, KeptByDigest(tmp_path)).get(found[1], at=NOW)
    assert names.digest_of(content) == found[1].digest
    image = artefact.read(content, subject="image")
    assert image is not None
    assert (image.tag, image.size, image.compression) == ("24.04", len(CONTENT), Compression.NONE)
    assert image.annotations["org.opencontainers.image.source"] == "https://git.example.org/images"
    with reader.layer(found[1].repository, image.layer, timeouts=Timeouts()) as (size, blocks):
        assert (size, b"".join(blocks)) == (len(CONTENT), CONTENT)


def test_a_private_project_is_read_by_a_robot_account(world: Harbor, web: Downloader) -> None:
    """R11: anonymous first; the robot's name has a dollar sign."""
    world.authorized.clear()
    (found,) = listed(web, world, "vo.example.org", ROBOT)
    assert found.reference == "vo.example.org/matlab:9"
    reader = client(web, world.host, ROBOT)
    assert listing.resolve(reader, found.repository, "9") == found.digest
    assert listing.resolve(reader, found.repository, "10") is None
    kinds = {path.partition("?")[0]: value.split()[0] for path, value in world.authorized}
    assert kinds["/service/token"] == "Basic"
    assert kinds["/v2/vo.example.org/matlab/manifests/9"] == "Bearer"


@pytest.mark.parametrize(
    ("account", "words"),
    [
        (
            None,
            (
                "the registry denies anonymous access; ask its administrators for a robot account"
                " that may pull from project vo.example.org, and write {host} USER:SECRET into"
                " /etc/cloudkeeper/registry.auth"
            ),
        ),
        (
            RegistryAccount(USER, "wrong", "/etc/cloudkeeper/registry.auth"),
            (
                "the registry denies access to account 'robot$site'; check"
                " /etc/cloudkeeper/registry.auth, and ask the registry's administrators whether"
                " the account is valid and may pull from project vo.example.org"
            ),
        ),
    ],
    ids=["anonymous", "wrong secret"],
)
def test_a_project_that_is_denied_is_named_with_what_to_ask_for(
    world: Harbor, web: Downloader, account: RegistryAccount | None, words: str
) -> None:
    for ask in (
        lambda: listed(web, world, "vo.example.org", account),
        lambda: listing.resolve(client(web, world.host, account), "vo.example.org/matlab", "9"),
    ):
        with pytest.raises(AccessDenied) as caught:
            ask()
        assert str(caught.value) == f"{world.host}/vo.example.org: " + words.replace(
            "{host}", world.host
        )


def test_pages_are_followed(world: Harbor, web: Downloader) -> None:
    world.page_size = 1
    before = len(world.paths)
    assert len(listed(web, world, PROJECT)) == 3
    assert sum("page=2" in path for path in world.paths[before:]) == 4


@pytest.mark.parametrize(
    ("link", "words"),
    [
        ("https://elsewhere.example.org/api", "leads to 'https://elsewhere.example.org/api', an"),
        ("http://{host}/api/v2.0/x", "another place"),
        ("{path}", "its listing does not end after 1 pages"),
    ],
)
def test_pages_that_lead_astray_are_refused(
    world: Harbor, web: Downloader, link: str, words: str
) -> None:
    """F-A9: the kind, at a registry: another host, without TLS, in a circle."""

    def fault(path: str) -> Reply:
        text = link.format(host=world.host, path=path)
        return Reply(200, b"[]", (("Link", f'<{text}>; rel="next"'),))

    world.faults.append(fault)
    with pytest.raises(Unavailable, match=re.escape(words)):
        listed(web, world, PROJECT)


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500])
def test_a_failing_page_fails_the_listing(world: Harbor, web: Downloader, status: int) -> None:
    """What a registry does not list completely proves the absence of nothing."""
    world.page_size = 1
    world.faults.append(lambda path: Reply(status) if "page=2" in path else None)
    with pytest.raises(ApplianceError):
        listed(web, world, PROJECT)


@pytest.mark.parametrize("page", ["page=1", "page=2"])
def test_a_page_that_is_redirected_to_another_host_is_refused(
    world: Harbor, patient: Downloader, host: Credential, page: str
) -> None:
    """The account does not go there, and what that host lists counts for nothing."""
    world.page_size = 1
    with image_server.serve(host) as elsewhere:
        reply = Reply(307, b"", (("Location", elsewhere.put("/page", b"[]")),))
        world.faults.append(lambda path: reply if f"{page}&" in path else None)
        with pytest.raises(Unavailable, match="its listing is redirected to another host"):
            listed(patient, world, "vo.example.org" if page == "page=1" else PROJECT, ROBOT)
        assert [headers.get("Authorization") for _, _, headers in elsewhere.requests] == [None]


def test_a_registry_that_is_busy_in_the_middle_of_a_listing_is_waited_for(
    world: Harbor, patient: Downloader
) -> None:
    world.page_size = 1
    busy = [429, 503]

    def fault(path: str) -> Reply | None:
        return (
            Reply(busy.pop(), b"", (("Retry-After", "1"),)) if "page=2" in path and busy else None
        )

    world.faults.append(fault)
    assert len(listed(patient, world, PROJECT)) == 3
    assert busy == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<html>log in</html>", "answers something that is not JSON"),
        (b"null", "its listing is not one of Harbor's"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"repositories": []}', "its listing is not one of Harbor's"),
        (b'[{"name": "other/ubuntu"}]', "lists 'other/ubuntu' as a repository"),
        (b'[{"name": "egi_vm_images/../x"}]', "lists 'egi_vm_images/../x' as a repository"),
        (b" " * (4 * 2**20 + 1), "is larger than 4 MiB"),
    ],
    ids=["html", "R1 null", "nesting", "no list", "another project", "path", "size"],
)
def test_listings_that_make_no_sense_are_refused(
    world: Harbor, web: Downloader, content: bytes, words: str
) -> None:
    world.faults.append(lambda _: Reply(200, content))
    with pytest.raises(ApplianceError, match=re.escape(words)):
        listed(web, world, PROJECT)


def test_an_expired_token_is_replaced(world: Harbor, web: Downloader) -> None:
    reader = client(web, world.host)
    first = listing.resolve(reader, f"{PROJECT}/ubuntu", "24.04")
    reader.login._authorizations[f"{PROJECT}/ubuntu"] = "Bearer worn.out"
    assert listing.resolve(reader, f"{PROJECT}/ubuntu", "24.04") == first


@pytest.fixture(scope="module")
def patient(authority: Authority) -> Downloader:
    """Return a client that resumes."""
    return Downloader(CADirectory(authority.directory / "certificates"))


@pytest.fixture(scope="module")
def blob(world: Harbor) -> tuple[str, Digest, bytes]:
    """Return repository, digest and content of a layer."""
    content = hashlib.shake_256(b"a disk").digest(42_000)
    world.public.add("large")
    push(world, "large/disk", "1", content=content)
    return "large/disk", names.digest_of(content), content


def test_a_layer_with_twenty_cuts_comes_whole_with_tokens_that_end_in_between(
    world: Harbor, patient: Downloader, blob: tuple[str, Digest, bytes]
) -> None:
    """F-M8, R10: the registry itself rejects the worn token, and answers each range.

    Accept-Ranges, which Harbor here does not pass on, is not waited for.
    """
    repository, digest, content = blob
    world.cut = 2_000
    reader = client(patient, world.host)
    before, paths = world.asked("/service/token"), len(world.paths)
    found = b""
    with reader.layer(repository, digest, timeouts=Timeouts()) as (size, blocks):
        assert size == len(content)
        for number, block in enumerate(blocks):
            found += block
            if number in (3, 11):
                reader.login._authorizations[repository] = "Bearer worn.out"
    assert names.digest_of(found) == digest
    assert world.asked("/service/token") - before == 3
    blobs = [path for path in world.paths[paths:] if "/blobs/" in path]
    assert len(blobs) == 21 + 3  # each token is asked for by an answer 401


def test_transfers_of_one_registry_share_a_login(web: Downloader) -> None:
    """A challenge to a request without the account is no rejection of it, whoever was faster."""
    login = Login(web, "registry.example.org", ROBOT)
    login.answer('Basic realm="x"', scope="egi/ubuntu", sent="")  # one thread
    login.answer('Basic realm="x"', scope="egi/ubuntu", sent="")  # another, asked before that
    assert login.authorization("egi/ubuntu") == ROBOT.basic
    with pytest.raises(AccessDenied, match="denies access to account"):
        login.answer('Basic realm="x"', scope="egi/ubuntu", sent=ROBOT.basic)


NAMES = ("debian", "linux/alma", "ubuntu")


def test_a_registry_asks_for_a_token_once_and_not_for_each_repository(
    world: Harbor, web: Downloader
) -> None:
    """The first challenge shows where tokens are, so that the others are requested at once."""
    reader = client(web, world.host)
    named = tuple(f"{PROJECT}/{name}" for name in NAMES)
    before = len(world.paths)
    found = DistributionListing(reader, PROJECT, SHORT_TAGS, named).artefacts({})
    assert {one.reference for one in found} == {f"{name}:24.04" for name in named}
    asked = Counter(path.partition("?")[0] for path in world.paths[before:])
    assert [asked[f"/v2/{name}/tags/list"] for name in named] == [2, 1, 1]
    assert asked["/service/token"] == 3


def test_a_token_that_is_not_given_before_it_is_asked_for_is_no_failure(
    world: Harbor, web: Downloader
) -> None:
    """The registry then asks for it, as for the first one; an account that it denies is named."""
    tokens: list[str] = []

    def fault(path: str) -> Reply | None:
        if "/service/token" not in path:
            return None
        tokens.append(path)
        return Reply(403) if len(tokens) == 2 else None

    world.faults.append(fault)
    reader = client(web, world.host)
    for name in NAMES[:2]:
        assert listing.resolve(reader, f"{PROJECT}/{name}", "24.04") is not None
    assert len(tokens) == 3  # the second one failed and was asked for again
    login = reader.login
    with pytest.raises(AccessDenied, match=r"vo\.example\.org: the registry denies anonymous"):
        listing.resolve(reader, "vo.example.org/matlab", "9")
    assert login.authorization("vo.example.org/matlab")  # which the registry has rejected


def test_a_layer_that_vanishes_while_it_is_resumed_is_one_line(
    world: Harbor, patient: Downloader, blob: tuple[str, Digest, bytes]
) -> None:
    repository, digest, _ = blob
    world.cut = 2_000
    reader = client(patient, world.host)
    with reader.layer(repository, digest, timeouts=Timeouts()) as (_, blocks):
        next(blocks)
        world.faults.append(lambda path: Reply(404) if "/blobs/" in path else None)
        with pytest.raises(Unavailable, match="the registry no longer has it"):
            list(blocks)


def test_a_layer_that_is_sent_in_another_encoding_is_refused_by_name(
    world: Harbor, patient: Downloader, blob: tuple[str, Digest, bytes]
) -> None:
    """R10."""
    repository, digest, content = blob
    encoded = Reply(200, content, (("Content-Encoding", "gzip"),))
    world.faults.append(lambda path: encoded if "/blobs/" in path else None)
    with (
        pytest.raises(Malformed, match="is sent with the Content-Encoding 'gzip'"),
        client(patient, world.host).layer(repository, digest, timeouts=Timeouts()),
    ):
        pytest.fail("it was given out")


def test_a_page_that_breaks_is_asked_for_again(world: Harbor, patient: Downloader) -> None:
    broken = [1, 1]

    def fault(path: str) -> Reply | None:
        if "/repositories?" in path and broken:
            broken.pop()
            return Reply(200, b"[", (("Content-Length", "7"),))
        return None

    world.faults.append(fault)
    assert listed(patient, world, PROJECT)
    broken[:] = [1] * 3
    with pytest.raises(Unavailable, match=r"broke after 1 bytes"):
        listed(patient, world, PROJECT)


def test_a_store_that_denies_is_no_word_of_the_registry(
    world: Harbor, patient: Downloader, host: Credential, blob: tuple[str, Digest, bytes]
) -> None:
    """R10: the account does not go to the store, and is not blamed for it.

    A store that answers 400 to any Authorization gets none.
    """
    repository, digest, _ = blob
    with image_server.serve(host) as store:
        place = store.put("/blob", Status(403))
        reply = Reply(307, b"", (("Location", place),))
        world.faults.append(lambda path: reply if "/blobs/" in path else None)
        reader = client(patient, world.host, ROBOT)
        with (
            pytest.raises(AccessDenied, match="to which the server redirects, answers 403"),
            reader.layer(repository, digest, timeouts=Timeouts()),
        ):
            pytest.fail("it was given out")
        assert [headers.get("Authorization") for _, _, headers in store.requests] == [None]


@pytest.mark.parametrize(
    ("challenge", "words"),
    [
        ('Bearer realm="http://{host}/service/token"', "is not an https URL"),
        ('Bearer realm="https://u:p@{host}/service/token"', "is not an https URL"),
        ('Bearer service="x"', "is not an https URL"),
        ('Negotiate realm="x"', "the registry denies anonymous access"),
    ],
)
def test_challenges_that_cannot_be_answered(
    world: Harbor, web: Downloader, challenge: str, words: str
) -> None:
    text = challenge.format(host=world.host)
    world.faults.append(lambda _: Reply(401, b"", (("WWW-Authenticate", text),)))
    with pytest.raises(ApplianceError, match=words):
        listing.resolve(client(web, world.host), f"{PROJECT}/ubuntu", "24.04")


@pytest.mark.parametrize(
    "content",
    [
        b"<html>log in</html>",
        b"{}",
        b"[]",
        b'{"token": "", "access_token": ""}',
        b'{"token": null, "access_token": 7}',
        b'{"token": "a\\nb"}',
    ],
    ids=["html", "no token", "list", "empty", "number", "two lines"],
)
def test_a_token_service_that_gives_no_token(
    world: Harbor, web: Downloader, content: bytes
) -> None:
    """R8: with status 200."""
    world.faults.append(lambda path: Reply(200, content) if "/service/token" in path else None)
    with pytest.raises(Malformed, match="token service: its answer holds no token"):
        listing.resolve(client(web, world.host), f"{PROJECT}/ubuntu", "24.04")


def test_a_token_may_be_an_access_token(world: Harbor, web: Downloader) -> None:
    """R8: OAuth's name alone. It is asked for by GET, with a scope; /v2/ itself never is."""
    expected = listing.resolve(client(web, world.host), f"{PROJECT}/ubuntu", "24.04")
    scope = f"repository:{PROJECT}/ubuntu:pull"
    found = world.token([scope], "")
    assert found is not None
    reply = Reply(200, json.dumps({"access_token": json.loads(found)["token"]}).encode())
    world.faults.append(lambda path: reply if "/service/token" in path else None)
    before = len(world.paths)
    assert listing.resolve(client(web, world.host), f"{PROJECT}/ubuntu", "24.04") == expected
    asked = [unquote(path) for path in world.paths[before:] if "/v2/" not in path]
    assert asked == [f"/service/token?service=registry&scope={scope}"]
    assert "/v2/" not in world.paths


def hide_from_anybody(world: Harbor) -> None:
    """Have 404 for every request without Authorization."""
    world.authorized.clear()

    def fault(path: str) -> Reply | None:
        is_named = any(path == asked for asked, _ in world.authorized)
        return None if is_named else Reply(404)

    world.faults.append(fault)


def test_what_is_hidden_from_anybody_is_asked_for_with_the_account(
    world: Harbor, web: Downloader
) -> None:
    """Login proven: Harbor's 404 to anybody says nothing about what the account may see."""
    hide_from_anybody(world)
    (found,) = listed(web, world, "vo.example.org", ROBOT)
    assert found.reference == "vo.example.org/matlab:9"
    assert {value for _, value in world.authorized} == {ROBOT.basic}
    world.authorized.clear()
    with pytest.raises(Unavailable) as caught:
        listed(web, world, "vo.example.org")
    assert str(caught.value) == hidden(world, "vo.example.org", "vo.example.org")
    with pytest.raises(Unavailable, match="no such project or repository, or hides it from accou"):
        listed(web, world, "missing.example.org", ROBOT)
    assert any("/missing.example.org/" in path for path, _ in world.authorized)


def hidden(world: Harbor, place: str, project: str) -> str:
    """Return the message for what a registry hides from anybody."""
    return (
        f"{world.host}/{place}: the registry has no such project or repository, or hides it from"
        " anonymous access; check the name; if it is right, ask its administrators for a robot"
        f" account that may pull from project {project}, and write {world.host} USER:SECRET into"
        " /etc/cloudkeeper/registry.auth"
    )


def test_what_is_hidden_behind_a_challenge_is_named_with_what_to_ask_for(
    world: Harbor, web: Downloader
) -> None:
    """401, a token for anybody, then 404: the message is that of a missing account."""
    place = "vo.example.org/matlab"
    world.authorized.clear()

    def fault(path: str) -> Reply | None:
        is_named = any(path == asked for asked, _ in world.authorized)
        return Reply(404) if is_named and "/tags/list" in path else None

    world.faults.append(fault)
    found = DistributionListing(client(web, world.host), "vo.example.org", SHORT_TAGS, (place,))
    with pytest.raises(Unavailable) as caught:
        list(found.artefacts({}))
    assert [value.partition(" ")[0] for _, value in world.authorized] == ["Bearer"]
    assert str(caught.value) == hidden(world, place, "vo.example.org")


def test_a_layer_that_was_wrong_is_not_sent_again(world: Harbor, web: Downloader) -> None:
    """Debian's docker-registry says by 304 that it has the same; without bytes."""
    reader, repository = client(web, world.host), f"{PROJECT}/ubuntu"
    digest, version = names.digest_of(CONTENT), PartialData()
    with reader.layer(repository, digest, timeouts=Timeouts(), partial=version) as (_, blocks):
        assert b"".join(blocks) == CONTENT
    assert version.etag
    before = world.blob_bytes
    again = PartialData(refused=version)
    with (
        pytest.raises(StillWrong),
        reader.layer(repository, digest, timeouts=Timeouts(), partial=again),
    ):
        pytest.fail("it was sent")
    assert world.blob_bytes == before
    other = PartialData(refused=PartialData(etag='"another"'))
    with reader.layer(repository, digest, timeouts=Timeouts(), partial=other) as (_, blocks):
        assert b"".join(blocks) == CONTENT


def test_a_tag_has_gone_only_when_the_account_finds_none(world: Harbor, web: Downloader) -> None:
    """Login proven: removals depend on it. An account that cannot prove itself proves nothing."""
    repository = "vo.example.org/matlab"
    hide_from_anybody(world)
    with pytest.raises(AccessDenied, match="denies access to account"):
        listing.resolve(client(web, world.host, ROBOT), repository, "9")  # Basic, not a token
    world.faults[:] = [lambda path: Reply(404) if "/manifests/" in path else None]
    world.authorized.clear()
    assert listing.resolve(client(web, world.host, ROBOT), repository, "9") is None
    assert world.authorized == [(f"/v2/{repository}/manifests/9", ROBOT.basic)]


def paged(**pages: tuple[dict[str, object], str]) -> Callable[[str], Reply | None]:
    """Return a fault that answers listings, by their query, with a page and the next link."""

    def fault(path: str) -> Reply | None:
        place, _, query = path.partition("?")
        name = f"{place.rpartition('/')[2].strip('_')}_{re.sub('[^a-z0-9]', '', query)}"
        if name not in pages:
            return None
        page, link = pages[name]
        headers = (("Link", f'<{link}>; rel="next"'),) if link else ()
        return Reply(200, json.dumps(page).encode(), headers)

    return fault


def test_links_of_a_registry_are_followed_as_they_are(world: Harbor, web: Downloader) -> None:
    """R9: relative and opaque, of the catalog and of tags; `last` is nothing that we make up."""
    name = f"{PROJECT}/ubuntu"
    world.faults.append(
        paged(
            catalog_n50=({"repositories": [name]}, "/v2/_catalog?next_page=q%2Bx%3D"),
            catalog_nextpageq2x3=({"repositories": [f"{PROJECT}/debian"]}, ""),
            list_n50=({"tags": ["24.04-2026-11-01-0123abcd"]}, "list?next_page=t%2F"),
            list_nextpaget2=({"tags": ["24.04"]}, ""),
        )
    )
    # The names above are those of the queries without what is no small letter or digit.
    before = len(world.paths)
    reader = client(web, world.host)
    found = list(DistributionListing(reader, PROJECT, SHORT_TAGS).artefacts({}))
    assert [one.reference for one in found] == [f"{name}:24.04", f"{PROJECT}/debian:24.04"]
    asked = world.paths[before:]
    assert "/v2/_catalog?next_page=q%2Bx%3D" in asked
    assert f"/v2/{name}/tags/list?next_page=t%2F" in asked
    assert not any("last=" in path for path in asked)


@pytest.mark.parametrize("kind", ["catalog", "list"])
def test_links_of_a_registry_end_at_a_repeat(world: Harbor, web: Downloader, kind: str) -> None:
    """R9: a registry that ignores its own marker sends the same link for ever."""
    page: dict[str, object] = {"repositories": [f"{PROJECT}/ubuntu"], "tags": ["24.04"]}
    link = "/v2/_catalog?last=a" if kind == "catalog" else f"/v2/{PROJECT}/ubuntu/tags/list?last=a"
    pages = {f"{kind}_n50": (page, link), f"{kind}_lasta": (page, link)}
    world.faults.append(paged(**({"catalog_n50": (page, "")} | pages)))
    with pytest.raises(Unavailable, match="its listing does not end after 2 pages"):
        list(DistributionListing(client(web, world.host), PROJECT, SHORT_TAGS).artefacts({}))


def with_header(world: Harbor, repository: str, value: str | None) -> Digest:
    """Have a Docker-Content-Digest in answers about 24.04 of a repository; return its digest."""
    digest = world._digest(repository, "24.04")
    path = f"/v2/{repository}/manifests/{digest}"
    content = world.passed_on("GET", path, world.push_headers(repository) | listing.ACCEPT).content
    headers = () if value is None else (("Docker-Content-Digest", value),)
    reply = Reply(200, content, headers)
    world.faults.append(lambda path: reply if f"/{repository}/manifests/" in path else None)
    return Digest(digest)


@pytest.mark.parametrize("value", [None, "", " ", "sha512:00", "md5:0", "x"])
def test_a_header_that_says_nothing_about_the_digest_is_ignored(
    world: Harbor, web: Downloader, tmp_path: Path, value: str | None
) -> None:
    """R2: absent, empty, of another algorithm; the body is hashed."""
    repository = f"{PROJECT}/ubuntu"
    digest = with_header(world, repository, value)
    reader = client(web, world.host)
    assert listing.resolve(reader, repository, "24.04") == digest
    tagged = TaggedArtefact(repository, "24.04", digest)
    assert Manifests(reader, KeptByDigest(tmp_path)).get(tagged, at=NOW)


@pytest.mark.parametrize("value", [f"sha256:{'0' * 64}", "sha256:0", "sha256:"])
def test_a_header_that_contradicts_the_body_costs_that_artefact(
    world: Harbor, web: Downloader, tmp_path: Path, value: str
) -> None:
    """R2: where the tag is resolved, and where the manifest is fetched; the others go on."""
    repository = f"{PROJECT}/ubuntu"
    digest = with_header(world, repository, value)
    reader = client(web, world.host)
    words = f"the registry calls it '{value}', but its manifest has digest {digest}"
    with pytest.raises(Tampered, match=re.escape(f"{world.host}/{repository}:24.04: {words}")):
        listing.resolve(reader, repository, "24.04")
    manifests = Manifests(reader, KeptByDigest(tmp_path / "manifests"))
    with pytest.raises(Tampered, match=re.escape(words)):
        manifests.get(TaggedArtefact(repository, "24.04", digest), at=NOW)

    repositories = [f"{PROJECT}/debian", repository, f"{PROJECT}/linux/alma"]
    world.faults.append(paged(catalog_n50=({"repositories": repositories}, "")))
    distribution = DistributionListing(reader, PROJECT, SHORT_TAGS)
    ((found,), _) = project_of(reader, PROJECT, tmp_path, distribution).fetch(at=NOW)
    taken = {offer.appliance.identifier for offer in found.offers}
    assert taken == {f"{PROJECT}/debian:24.04", f"{PROJECT}/linux/alma:24.04"}
    (refused,) = found.refused
    assert (refused.identifier, words in refused.reason) == (f"{repository}:24.04", True)


def test_a_known_digest_costs_no_content(world: Harbor, web: Downloader) -> None:
    """The registry answers 304 to the digest of the last run."""
    reader = client(web, world.host)
    digest = listing.resolve(reader, f"{PROJECT}/ubuntu", "24.04")
    assert digest is not None
    headers = listing.ACCEPT | {"If-None-Match": f'"{digest}"'}
    path = f"/v2/{PROJECT}/ubuntu/manifests/24.04"
    answer = reader.get(path, scope=f"{PROJECT}/ubuntu", headers=headers)
    assert (answer.status, answer.content) == (304, b"")
    assert listing.resolve(reader, f"{PROJECT}/ubuntu", "24.04", known=digest) == digest


def test_a_manifest_is_fetched_once_and_judged_by_its_digest(
    world: Harbor, web: Downloader, tmp_path: Path
) -> None:
    reader = client(web, world.host)
    (_, _, wanted) = listed(web, world, PROJECT)
    manifests = Manifests(reader, KeptByDigest(tmp_path / "manifests"))
    content = manifests.get(wanted, at=NOW)
    before = len(world.paths)
    assert manifests.get(wanted, at=NOW) == content
    assert len(world.paths) == before
    (kept,) = (tmp_path / "manifests").iterdir()
    kept.write_bytes(content + b" ")
    assert manifests.get(wanted, at=NOW) == content  # fetched again
    world.faults.append(lambda path: Reply(200, content + b" ") if "manifests" in path else None)
    kept.unlink()
    with pytest.raises(Tampered, match="the manifest that came has digest"):
        manifests.get(wanted, at=NOW)
    assert not kept.exists()


def test_a_registry_without_harbor_is_listed_by_its_catalog(
    authority: Authority, host: Credential, web: Downloader, tmp_path: Path
) -> None:
    """R8: docker-registry, which asks for Basic authentication."""
    with oci_registry.serve(
        tmp_path / "registry",
        credential=host,
        authority=authority.certificate,
        login=BasicLogin(),
    ) as registry:
        pushed = {
            f"site/{name}:1": registry.push(
                f"site/{name}", "1", CONTENT, annotations=described_as("1")
            )
            for name in ("one", "two")
        }
        registry.push("elsewhere/three", "1", CONTENT, annotations=described_as("1"))
        reader = client(web, registry.host, ROBOT)
        for repositories in ((), ("site/one", "site/two")):
            found = DistributionListing(reader, "site", SHORT_TAGS, repositories).artefacts({})
            assert {one.reference: one.digest for one in found} == pushed
        again = DistributionListing(reader, "site", SHORT_TAGS).artefacts(
            {reference: Digest(digest) for reference, digest in pushed.items()}
        )
        assert {one.reference: one.digest for one in again} == pushed
        with pytest.raises(AccessDenied, match="denies anonymous access"):
            list(DistributionListing(client(web, registry.host), "site", SHORT_TAGS).artefacts({}))


def manifest_of(**changes: object) -> bytes:
    """Return a manifest as `OCIRegistry.push` makes it, with changes."""
    layer = {
        "mediaType": DISK,
        "digest": f"sha256:{'0' * 64}",
        "size": 7,
        "annotations": described_as("1"),
    }
    made: dict[str, object] = {"schemaVersion": 2, "config": {}, "layers": [layer]}
    made |= {key: value for key, value in changes.items() if not key.startswith("layer_")}
    for key, value in changes.items():
        if key.startswith("layer_"):
            layer[key.removeprefix("layer_")] = value
    return json.dumps(made).encode()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda made: made(layers=[]), None),
        (lambda made: made(layers=[], annotations=described_as("1")), "has 0 layers"),
        (
            lambda made: made(layer_mediaType="application/octet-stream"),
            "'application/octet-stream'",
        ),
        (lambda made: made(layer_mediaType=None), "is of media type 'None'"),
        (lambda made: made(layer_digest="sha512:00"), "'sha512:00' is not a SHA-256 digest"),
        (lambda made: made(layer_size=-1), "its layer has the size '-1'"),
        (lambda made: made(layer_size=True), "its layer has the size 'True'"),
        (lambda made: made(layer_size=2**63), "its layer has the size '9223372036854775808'"),
        (lambda made: made(mediaType=INDEX, manifests=[{}, {}]), "is an index in an index"),
        (lambda made: made(layers={}), "its manifest has no list of layers"),
        (lambda made: made(annotations=[1]), "its annotations are not a JSON object"),
        (lambda _: b"[]", "its manifest is not a JSON object"),
        (lambda _: b"{", "its manifest is not JSON"),
    ],
)
def test_manifests_that_are_no_image(
    make: Callable[[Callable[..., bytes]], bytes], words: str | None
) -> None:
    content = make(manifest_of)
    if words is None:
        assert artefact.read(content, subject="image") is None
        return
    with pytest.raises(Malformed, match=re.escape(words)):
        artefact.read(content, subject="image")


def index_of(*platforms: object, **changes: object) -> bytes:
    """Return an index of one manifest for each platform (None: without one), with changes."""
    manifests = [
        {"mediaType": MANIFEST, "digest": f"sha256:{str(number) * 64}", "size": 7}
        | ({"platform": platform} if platform is not None else {})
        for number, platform in enumerate(platforms)
    ]
    made = {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}
    return json.dumps(made | changes).encode()


ATTESTED = {"os": "unknown", "architecture": "unknown"}
LINUX = {"os": "linux", "architecture": "amd64"}


@pytest.mark.parametrize(
    ("content", "image"),
    [
        (index_of(LINUX, ATTESTED), "0"),
        (index_of(ATTESTED, LINUX, ATTESTED), "1"),
        (index_of(None), "0"),
        (index_of(LINUX, artifactType="x", annotations={"eu.egi.cloud.tag": "1"}, more=1), "0"),
        (manifest_of(), None),
    ],
    ids=["buildx", "two attestations", "no platform", "annotated", "no index"],
)
def test_an_index_of_one_image_stands_for_it(content: bytes, image: str | None) -> None:
    """R4."""
    found = artefact.wrapped(content, subject="image")
    assert found == (image and f"sha256:{image * 64}")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            index_of(LINUX, LINUX | {"architecture": "arm64"}, ATTESTED),
            "image: is an index of 2 images ('linux/amd64', 'linux/arm64'); an index for one",
        ),
        (index_of(None, LINUX), "is an index of 2 images ('no platform', 'linux/amd64')"),
        (index_of(LINUX, {"os": "\x1b[2J"}), "('linux/amd64', '\\x1b[2J/None')"),
        (index_of(ATTESTED), "is an index of 0 images; an index for one image is taken"),
        (index_of(), "is an index of 0 images"),
        (index_of(LINUX, layers=[]), "lists manifests, but is neither an OCI index nor Docker's"),
        (
            index_of(LINUX, mediaType=MANIFEST),
            "lists manifests, but is neither an OCI index nor Docker's",
        ),
        (index_of(manifests=[{"digest": "sha512:00"}]), "'sha512:00' is not a SHA-256 digest"),
        (index_of(manifests={}), "its manifest has no list of manifests"),
        (b"[]", "its manifest is not a JSON object"),
    ],
)
def test_an_index_that_is_not_of_one_image_is_refused_by_name(content: bytes, words: str) -> None:
    """R4."""
    with pytest.raises(Malformed, match=re.escape(words)):
        artefact.wrapped(content, subject="image")


def test_a_tag_may_be_pinned_before_its_first_use(
    world: Harbor, web: Downloader, tmp_path: Path
) -> None:
    """The digests are the registry's own; another one costs this image only."""
    repository = f"{PROJECT}/ubuntu"
    right = Digest(world._digest(repository, "24.04"))
    wrong = Digest(f"sha256:{'0' * 64}")
    project = project_of(client(web, world.host), PROJECT, tmp_path)
    project.history.pin(world.host, {f"{repository}:24.04": wrong})
    (found,), _ = project.fetch(at=NOW)
    assert [one.identifier for one in found.refused] == [f"{repository}:24.04"]
    assert f"its digest is {right}, but {wrong} is pinned" in found.refused[0].reason
    assert len(found.offers) == 2
    assert project.off_pin == {f"{repository}:24.04": right}
    project.history.pin(world.host, {f"{repository}:24.04": right})
    (found,), _ = project.fetch(at=NOW)
    assert (len(found.offers), found.refused, project.off_pin) == (3, (), {})


def test_docker_s_own_types_are_read_by_the_same_rules(
    world: Harbor, web: Downloader, tmp_path: Path
) -> None:
    """A list of Docker's around a manifest of Docker's, as docker-registry keeps both."""
    assert world.registry is not None
    world.public.add("docker")
    repository = "docker/one"
    world.registry.headers = world.push_headers(repository)
    config, layer = (world.registry.push_blob(repository, each) for each in (b"{}", CONTENT))
    image = {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": {"mediaType": "application/vnd.docker.container.image.v1+json", **config},
        "layers": [{"mediaType": DISK, **layer, "annotations": described_as("1")}],
    }
    content = json.dumps(image).encode()
    digest = world.registry.push_manifest(
        repository, "inner-1", content, media_type=DOCKER_MANIFEST
    )
    descriptor = {"mediaType": DOCKER_MANIFEST, "digest": digest, "size": len(content)}
    wrapping = {
        "schemaVersion": 2,
        "mediaType": DOCKER_LIST,
        "manifests": [descriptor | {"platform": LINUX}],
    }
    outer = world.registry.push_manifest(
        repository, "1", json.dumps(wrapping).encode(), media_type=DOCKER_LIST
    )
    reader = client(web, world.host)
    (tagged,) = DistributionListing(reader, "docker", SHORT_TAGS, (repository,)).artefacts({})
    assert (tagged.tag, tagged.digest) == ("1", outer)
    resolved = Manifests(reader, KeptByDigest(tmp_path)).resolve(tagged, at=NOW)
    assert resolved.image.digest == digest
    found = artefact.read(resolved.manifest, subject="image")
    assert found is not None
    assert (found.layer, found.tag) == (names.digest_of(CONTENT), "1")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            index_of(LINUX, LINUX, mediaType=DOCKER_LIST),
            "is an index of 2 images",
        ),
        (
            index_of(LINUX, mediaType=DOCKER_MANIFEST),
            "lists manifests, but is neither an OCI index nor Docker's",
        ),
    ],
)
def test_docker_s_lists_are_refused_by_the_same_rules(content: bytes, words: str) -> None:
    with pytest.raises(Malformed, match=re.escape(words)):
        artefact.wrapped(content, subject="image")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mediaType": DOCKER_LIST}, "an index in"),
        ({"layer_mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip"}, "media type"),
        ({"schemaVersion": 1}, "is a manifest of Docker's schema 1, which is not read; ask"),
    ],
)
def test_docker_s_manifests_are_refused_by_the_same_rules(
    changes: dict[str, object], words: str
) -> None:
    with pytest.raises(Malformed, match=words):
        artefact.read(manifest_of(**changes), subject="image")


def test_sboms_of_an_index_and_of_its_image_are_listed(
    world: Harbor, web: Downloader, tmp_path: Path
) -> None:
    """R4."""
    assert world.registry is not None
    world.public.add("wrapped")
    image = push(world, "wrapped/one", "1")
    platform = {"mediaType": MANIFEST, "digest": image, "size": 7, "platform": LINUX}
    content = index_of(manifests=[platform])
    index = world.registry.push_manifest("wrapped/one", "1", content, media_type=INDEX)
    kind = {"artifactType": "application/vnd.cyclonedx+json"}
    attached = {index: f"sha256:{'1' * 64}", image: f"sha256:{'0' * 64}"}
    world.referrers = {digest: [{"digest": sbom} | kind] for digest, sbom in attached.items()}
    reader = client(web, world.host)
    ((found,), warnings) = project_of(reader, "wrapped", tmp_path).fetch(at=NOW)
    (offer,) = found.offers
    expected = " ".join(f"{world.host}/wrapped/one@{sbom}" for sbom in attached.values())
    assert (offer.appliance.attributes["sbom"], warnings) == (expected, [])


def test_two_layers_are_refused_by_a_real_manifest(
    world: Harbor, web: Downloader, tmp_path: Path
) -> None:
    assert world.registry is not None
    repository = "layers/two"
    world.registry.headers = world.push_headers(repository)
    world.registry.push(repository, "1", CONTENT, annotations=described_as("1"), more_layers=1)
    (found,) = listed(web, world, "layers", ROBOT)
    reader = client(web, world.host, ROBOT)
    content = Manifests(reader, KeptByDigest(tmp_path)).get(found, at=NOW)
    with pytest.raises(Malformed, match="has 2 layers; an image has one"):
        artefact.read(content, subject=found.reference)


def test_annotations_that_cannot_be_shown_cost_no_image() -> None:
    """A megabyte of text, control characters and numbers are left out; markup is a text."""
    shown = described_as("1", description="<script>alert(1)</script> & <b>")
    annotations = shown | {"a": "x" * 2**20, "b\n": "y", "c": "\x1b[31m"}
    content = manifest_of(layer_annotations=annotations | {"d": 7}, unknown=[1])
    image = artefact.read(content, subject="image")
    assert image is not None
    assert image.annotations == shown


def test_a_manifest_may_refer_to_another_one() -> None:
    """R3: `subject`, `artifactType`, the empty config, keys that nobody knows."""
    content = manifest_of(
        mediaType=MANIFEST,
        artifactType="application/vnd.egi.image",
        config={"mediaType": "application/vnd.oci.empty.v1+json", "size": 2, "data": "e30="},
        subject={"mediaType": MANIFEST, "digest": f"sha256:{'1' * 64}", "size": 7},
        unknown={"a": [1]},
    )
    assert artefact.wrapped(content, subject="image") is None
    image = artefact.read(content, subject="image")
    assert image is not None
    assert (image.layer, image.size, image.tag) == (f"sha256:{'0' * 64}", 7, "1")


def test_an_artefact_without_egi_s_tag_is_no_image() -> None:
    plain = {key: text for key, text in described_as("1").items() if key != "eu.egi.cloud.tag"}
    content = manifest_of(layer_annotations=plain)
    assert artefact.read(content, subject="image") is None


@pytest.mark.parametrize("kind", list(Compression))
def test_the_kinds_of_layers(kind: Compression) -> None:
    content = manifest_of(layer_mediaType=f"{DISK}{kind}")
    image = artefact.read(content, subject="image")
    assert image is not None
    assert image.compression is kind
