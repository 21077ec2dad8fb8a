"""Publishing to Swift, a web server and S3, each behind its own protocol, with faults."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from appliance.core import clock, retry
from appliance.core.run.errors import AccessDenied, ConfigurationError, Unavailable
from appliance.core.run.layout import Layout
from appliance.core.run.record import RunRecord
from appliance.core.web import WebAddress
from cloud_info_provider.publishing import publish, settings
from cloud_info_provider.publishing.s3 import S3Bucket, S3Key
from tests import egi_information
from tests.simulators.object_store import PASSWORD, REGION, Store, StoreFault, md5
from tests.testbed.patience import until
from tests.unit.test_publishing import ENDPOINT, GOCDB_ID, SITE, document

NAME = f"{SITE.replace('.', '-')}-{md5(ENDPOINT.encode())}.json"
KINDS = ("swift", "http", "s3")


pytestmark = pytest.mark.usefixtures("few_system_authorities")


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "_sleep", lambda _: None)


@pytest.fixture
def store() -> Iterator[Store]:
    with Store(objects={"cloud-info": {}}).serve() as made:
        yield made


class Publishing:
    """A site's publisher of one kind, run after run."""

    def __init__(self, store: Store, root: Path, kind: str) -> None:
        self.store, self.root, self.kind = store, root, kind
        self.objects = store.objects["cloud-info"]
        self.output = root / "var/lib/fedcloud/cloud-info/information.json"
        self.place = {
            "swift": f"Swift container cloud-info of {store.url.removeprefix('http://')}",
            "http": f"{store.url}/cloud-info",
            "s3": f"S3 bucket cloud-info of {store.url.removeprefix('http://')}",
        }[kind]
        self.configure()

    def configure(self, secret: str = PASSWORD, **more: object) -> None:
        directory = self.root / "etc/cloud-info-provider"
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / "secret"
        path.write_text(f"{secret}\n")
        path.chmod(0o600)
        url = self.store.url
        options: dict[str, dict[str, object]] = {
            "swift": {
                "auth_url": f"{url}/identity/v3",
                "username": "ci",
                "user_domain_id": "default",
                "password_file": path,
                "project_id": "p",
                "container": "cloud-info",
            },
            "http": {"url": f"{url}/cloud-info/", "username": "ci", "password_file": path},
            "s3": {
                "url": f"{url}/s3",
                "bucket": "cloud-info",
                "access_key": "AK",
                "secret_key_file": path,
                "region": REGION,
            },
        }
        chosen = options[self.kind] | {"timeout": 1} | more
        lines = "".join(f"  {name}: {value}\n" for name, value in chosen.items())
        (directory / "publish.yaml").write_text(f"{self.kind}:\n{lines}")

    def settings(self) -> settings.PublishSettings:
        arguments = argparse.Namespace(publisher=self.kind, output=None, publish_file=None)
        return settings.load(arguments, Layout(self.root))

    def run(self, text: str | None = None, *, replacing: str = "") -> RunRecord:
        record = RunRecord("test")
        publish.publish(
            self.settings(),
            document() if text is None else text,
            failed=(),
            record=record,
            replacing=replacing,
        )
        return record


@pytest.fixture(params=KINDS)
def publishing(store: Store, tmp_path: Path, request: pytest.FixtureRequest) -> Publishing:
    return Publishing(store, tmp_path, request.param)


def swift(store: Store, root: Path) -> Publishing:
    return Publishing(store, root, "swift")


def test_named_as_the_catch_all_names_it(publishing: Publishing) -> None:
    publishing.run()
    assert list(publishing.objects) == [NAME]
    site = egi_information.read(publishing.objects[NAME].decode())
    assert (site.name, site.gocdb_id) == (SITE, GOCDB_ID)
    assert publishing.objects[NAME] == publishing.output.read_bytes()


def test_unchanged_cloud_renews_the_time(publishing: Publishing) -> None:
    publishing.run(document(age=timedelta(hours=1)))
    first = egi_information.read(publishing.objects[NAME].decode())
    publishing.run(document())
    second = egi_information.read(publishing.objects[NAME].decode())
    assert second.expires - first.expires >= timedelta(minutes=59)
    assert list(publishing.objects) == [NAME]


def test_container_is_made(store: Store, tmp_path: Path) -> None:
    publishing = swift(store, tmp_path)
    store.objects.clear()
    publishing.run()
    assert list(store.objects["cloud-info"]) == [NAME]


def test_foreign_object_of_our_id_is_named(publishing: Publishing) -> None:
    """Two objects of one GOCDB id are two sites for EGI."""
    other = NAME if publishing.kind == "http" else "SITE/cloud-info.json"
    foreign = document().encode()
    publishing.objects[other] = foreign
    with pytest.raises(Unavailable) as caught:
        publishing.run()
    text = str(caught.value)
    words = f"has the name or the GOCDB id ({GOCDB_ID}) of this site's object"
    assert text.startswith(f"{publishing.place}: {other}: {words}")
    assert text.endswith(f"run this once more with --replace-object {other}")
    assert publishing.objects == {other: foreign}
    publishing.run(replacing=other)
    assert list(publishing.objects) == [NAME]


@pytest.mark.parametrize("content", [b"", b"{}", b"notes of somebody"])
def test_anything_under_our_name_is_left_alone(publishing: Publishing, content: bytes) -> None:
    publishing.objects[NAME] = content
    with pytest.raises(Unavailable, match="no record of writing it"):
        publishing.run()
    assert publishing.objects == {NAME: content}


def test_others_objects_are_left_alone(publishing: Publishing) -> None:
    others = {"A-1.json": document(site="OTHER", gocdb_id="2G0").encode(), "empty": b"", "x": b"[]"}
    publishing.objects.update(others)
    publishing.run()
    publishing.run()
    assert {name: publishing.objects[name] for name in others} == others
    if publishing.kind == "swift":  # each is read once while it stays as it is
        assert len([path for path in publishing.store.asked("GET") if "A-1" in path]) == 1


def test_object_that_somebody_wrote_over_ours(publishing: Publishing) -> None:
    publishing.run()
    publishing.objects[NAME] = document(age=timedelta(hours=3)).encode()
    with pytest.raises(Unavailable, match="no record of writing it"):
        publishing.run()


def test_lost_memory_does_not_overwrite(publishing: Publishing) -> None:
    publishing.run()
    publishing.output.with_suffix(".state").unlink()
    with pytest.raises(Unavailable, match="--replace-object"):
        publishing.run()
    publishing.run(replacing=NAME)
    publishing.run()


def test_upload_that_was_cut_before_its_note(publishing: Publishing) -> None:
    """A run killed after the PUT knows the object as its own: the tag was noted before."""
    publishing.store.faults = [StoreFault("GET", NAME, status=500)]
    if publishing.kind == "http":  # it reads the object before the PUT as well
        publishing.store.faults = [StoreFault("GET", "nothing")]
    else:
        with pytest.raises(Unavailable):
            publishing.run()
    publishing.store.faults = []
    publishing.run()
    publishing.run()
    assert list(publishing.objects) == [NAME]


@pytest.mark.parametrize("lost", ["PUT", "GET"])
def test_an_encrypted_object_whose_tag_nobody_could_note(
    store: Store, tmp_path: Path, lost: str
) -> None:
    """Its tag is no digest: the answer to the PUT has it, or the listing of a later run."""
    store.is_encrypted = True
    publishing = Publishing(store, tmp_path, "s3")
    fault = StoreFault(lost, NAME, status=0 if lost == "PUT" else 500)
    if lost == "PUT":  # stored, and the answer comes too late
        fault.delay = 2
    store.faults = [fault]
    with pytest.raises(Unavailable):
        publishing.run()
    store.faults = []
    assert until(lambda: NAME in publishing.objects, seconds=60)
    publishing.run()
    publishing.run()
    assert publishing.objects == {NAME: publishing.output.read_bytes()}
    publishing.objects[NAME] = document(gocdb_id="7G0").encode()
    with pytest.raises(Unavailable, match="no record of writing it"):
        publishing.run()


def test_new_endpoint_removes_the_earlier_name(store: Store, tmp_path: Path) -> None:
    publishing = swift(store, tmp_path)
    publishing.run()
    publishing.run(document(url="https://new.example.org:5000/v3"))
    assert len(publishing.objects) == 1
    assert NAME not in publishing.objects


def test_earlier_name_that_is_somebody_elses_now(publishing: Publishing) -> None:
    """A web server has no listing; there, too, only our own object is removed."""
    publishing.run()
    (old,) = publishing.objects
    publishing.objects[old] = b"notes of somebody"
    publishing.run(document(url="https://new.example.org:5000/v3"))
    assert publishing.objects[old] == b"notes of somebody"
    assert len(publishing.objects) == 2


@pytest.mark.parametrize("kept", [0, 1, 200])
def test_created_with_nothing_or_half_stored(publishing: Publishing, kept: int) -> None:
    """R13: the store answers 201."""
    publishing.store.faults = [StoreFault("PUT", NAME, kept=kept, times=1)]
    with pytest.raises(Unavailable, match="not published: the store accepted it, but") as caught:
        publishing.run()
    total = len(publishing.output.read_bytes())
    words = f"has {kept} of {total} bytes" if kept else "does not have it"
    assert words in str(caught.value)
    assert len(publishing.objects.get(NAME, b"")) == kept
    publishing.run()  # F-I13: the half was taken for a foreign object
    assert publishing.objects[NAME] == publishing.output.read_bytes()


@pytest.mark.parametrize("content", [b"", b"{", b'{"CloudComputingService": [{"ID": "ser'])
def test_an_upload_that_was_cut_off_is_no_foreign_object(
    publishing: Publishing, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """The connection or the machine died during the PUT, so nobody could note the tag."""
    publishing.run()
    publishing.objects[NAME] = content
    publishing.run()
    assert publishing.objects == {NAME: publishing.output.read_bytes()}
    assert "has only a part of a document" in caplog.text


@pytest.mark.parametrize("content", [b"{}", b"notes of somebody", b"<html>", b"[" * 5])
def test_what_is_no_part_of_a_document_stays_foreign(
    publishing: Publishing, content: bytes
) -> None:
    publishing.run()
    publishing.objects[NAME] = content
    with pytest.raises(Unavailable, match="no record of writing it"):
        publishing.run()
    assert publishing.objects == {NAME: content}


@pytest.mark.parametrize("is_new", [True, False])
def test_a_web_server_that_knows_conditions_keeps_what_others_write_meanwhile(
    store: Store, tmp_path: Path, is_new: bool
) -> None:
    """F-I14: another program stores its object between our check and our PUT."""
    publishing = Publishing(store, tmp_path, "http")
    if not is_new:
        publishing.run()
    foreign = document(age=timedelta(hours=3)).encode()
    store.faults = [StoreFault("PUT", NAME, meanwhile=foreign, times=1)]
    with pytest.raises(Unavailable) as caught:
        publishing.run()
    assert "another program changed it during this run, so nothing was uploaded" in str(
        caught.value
    )
    assert publishing.objects == {NAME: foreign}
    with pytest.raises(Unavailable, match="no record of writing it"):
        publishing.run()
    publishing.run(replacing=NAME)
    assert publishing.objects == {NAME: publishing.output.read_bytes()}


@pytest.mark.parametrize("tag", ["", 'W/"1"'])
def test_a_web_server_without_strong_tags(store: Store, tmp_path: Path, tag: str) -> None:
    publishing = Publishing(store, tmp_path, "http")
    store.web_tag = tag
    publishing.run()
    publishing.run()
    assert publishing.objects == {NAME: publishing.output.read_bytes()}


def test_wrong_etag(store: Store, tmp_path: Path) -> None:
    publishing = swift(store, tmp_path)
    store.faults = [StoreFault("PUT", NAME, etag="0" * 32)]
    with pytest.raises(Unavailable, match="not published: the store's ETag is 000"):
        publishing.run()


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (413, "it is full"),
        (507, "it is full"),
        (403, "cannot store"),
        (405, "answers 405"),
        (422, "answers 422"),
        (302, "answers 302"),
    ],
)
def test_store_that_refuses(publishing: Publishing, status: int, words: str) -> None:
    publishing.run(document(age=timedelta(hours=1)))
    before = dict(publishing.objects)
    publishing.store.faults = [StoreFault("PUT", NAME, status=status)]
    with pytest.raises(Unavailable) as caught:
        publishing.run()
    assert words in str(caught.value)
    assert str(caught.value).startswith(publishing.place)
    assert "\n" not in str(caught.value)
    assert publishing.objects == before
    publishing.store.faults = []
    publishing.run()
    assert publishing.objects[NAME] == publishing.output.read_bytes()


def test_store_that_is_full_for_a_day(publishing: Publishing) -> None:
    """Our object is still known as ours: each of many uploads that failed has its own digest."""
    publishing.run(document(age=timedelta(hours=11)))
    publishing.store.faults = [StoreFault("PUT", NAME, status=507)]
    for number in range(20):
        with pytest.raises(Unavailable, match="it is full"):
            publishing.run(document(age=timedelta(hours=10) - number * timedelta(minutes=30)))
    publishing.store.faults = []
    publishing.run()
    assert publishing.objects[NAME] == publishing.output.read_bytes()


def test_failed_upload_is_retried_without_the_cloud(publishing: Publishing) -> None:
    publishing.store.faults = [StoreFault("PUT", NAME, status=403)]
    with pytest.raises(AccessDenied):
        publishing.run()
    publishing.store.faults = []
    publish.retry(publishing.settings(), site=SITE)
    assert publishing.objects[NAME] == publishing.output.read_bytes()
    asked = len(publishing.store.requests)
    publish.retry(publishing.settings(), site=SITE)
    assert len(publishing.store.requests) == asked  # it is there


def test_damaged_file_is_not_uploaded(
    publishing: Publishing, caplog: pytest.LogCaptureFixture
) -> None:
    publishing.run()
    stored = publishing.objects[NAME]
    publishing.output.write_bytes(b"{]")
    publish.retry(publishing.settings(), site=SITE)
    assert publishing.objects == {NAME: stored}
    assert caplog.text.count("information.json: its content is damaged, so the next good") == 1
    publishing.run()
    assert publishing.objects[NAME] == publishing.output.read_bytes() != stored


def test_retry_without_success_is_logged(
    publishing: Publishing, caplog: pytest.LogCaptureFixture
) -> None:
    publish.retry(publishing.settings(), site=SITE)  # nothing was ever published
    assert publishing.objects == {}
    publishing.store.faults = [StoreFault("PUT", NAME, status=403)]
    with pytest.raises(AccessDenied):
        publishing.run()
    publish.retry(publishing.settings(), site=SITE)
    assert "cannot store" in caplog.text


def test_token_that_ends_half_way(store: Store, tmp_path: Path) -> None:
    """401 between two requests: a new token, the upload goes on."""
    publishing = swift(store, tmp_path)
    store.dead_tokens = {"token-1"}
    publishing.run()
    assert list(publishing.objects) == [NAME]
    assert store.tokens == 2


def test_token_that_is_refused_for_good(store: Store, tmp_path: Path) -> None:
    publishing = swift(store, tmp_path)
    store.faults = [StoreFault("PUT", NAME, status=401)]
    with pytest.raises(AccessDenied, match="'ci' a role that may write there"):
        publishing.run()


def test_wrong_password_names_its_line(store: Store, tmp_path: Path) -> None:
    publishing = swift(store, tmp_path)
    publishing.configure(secret="falsch-99")
    with pytest.raises(Unavailable) as caught:
        publishing.run()
    assert "publish.yaml:5" in str(caught.value)
    assert "falsch-99" not in str(caught.value)


def test_slow_store(store: Store, tmp_path: Path) -> None:
    publishing = Publishing(store, tmp_path, "http")
    store.faults = [StoreFault("PUT", NAME, delay=1.2)]
    with pytest.raises(Unavailable, match="does not answer within 1 s"):
        publishing.run()
    assert publishing.output.exists()


def test_no_store_there(publishing: Publishing, tmp_path: Path) -> None:
    gone = {"swift": ("auth_url", "/v3"), "http": ("url", "/x"), "s3": ("url", "")}[publishing.kind]
    publishing.configure(**{gone[0]: f"http://127.0.0.1:9{gone[1]}"})
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:9: cannot be reached"):
        publishing.run()


def test_document_without_an_id(publishing: Publishing) -> None:
    with pytest.raises(Unavailable, match="has no gocdb_id"):
        publishing.run(document(gocdb_id=""))
    assert publishing.objects == {}
    assert publishing.output.exists()


def test_listing_in_pages(store: Store, tmp_path: Path) -> None:
    for kind in ("swift", "s3"):
        publishing = Publishing(store, tmp_path / kind, kind)
        publishing.objects.clear()
        other = document(site="OTHER", gocdb_id="2G0").encode()
        publishing.objects.update({f"{number:04}.json": other for number in range(7)})
        publishing.objects["zz.json"] = document().encode()
        store.page = 3  # a store may give fewer than it was asked for
        with pytest.raises(Unavailable, match=r"zz\.json"):
            publishing.run()


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b'[{"name": 1}]', b"null"])
def test_listing_that_is_none(store: Store, tmp_path: Path, body: bytes) -> None:
    for kind in ("swift", "s3"):
        publishing = Publishing(store, tmp_path / kind, kind)
        store.faults = [StoreFault("GET", "/cloud-info", status=200, body=body)]
        with pytest.raises(Unavailable, match="to a listing, but with none"):
            publishing.run()
        assert publishing.objects == {}


def test_s3_listing_that_is_cut(store: Store, tmp_path: Path) -> None:
    """A store of the first form ignores list-type, and gives no token for the next page."""
    publishing = Publishing(store, tmp_path, "s3")
    body = b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>"
    store.faults = [StoreFault("GET", "/cloud-info", status=200, body=body)]
    with pytest.raises(Unavailable, match="lists only 0 of its objects"):
        publishing.run()
    assert publishing.objects == {}


def test_names_in_s3_are_unescaped(store: Store, tmp_path: Path) -> None:
    publishing = Publishing(store, tmp_path, "s3")
    publishing.objects["a&b <c>.json"] = document().encode()
    with pytest.raises(Unavailable, match=r"a&b <c>\.json"):
        publishing.run()


def test_s3_in_another_region(store: Store, tmp_path: Path) -> None:
    """R12: the message quotes the region that the store expects."""
    publishing = Publishing(store, tmp_path, "s3")
    body = b"<Error><Code>AuthorizationHeaderMalformed</Code><Region>south-2</Region></Error>"
    store.faults = [StoreFault("GET", "/s3/", status=400, body=body)]
    with pytest.raises(Unavailable, match=r"in region south-2, not north-1; write region: south-2"):
        publishing.run()
    store.faults = [StoreFault("GET", "/s3/", 301, headers={"x-amz-bucket-region": "south-2"})]
    with pytest.raises(Unavailable, match="in region south-2"):
        publishing.run()


def test_s3_requests_are_plain(store: Store, tmp_path: Path) -> None:
    """R12: other stores than Amazon's refuse checksum headers and chunked signatures."""
    Publishing(store, tmp_path, "s3").run()
    sent = {name for headers in store.headers for name in headers}
    assert not {name for name in sent if name.startswith(("x-amz-checksum", "x-amz-sdk"))}
    put = store.headers[[method for method, _ in store.requests].index("PUT")]
    assert put["content-length"].isdecimal()
    assert "content-encoding" not in put
    assert "transfer-encoding" not in put
    assert all(path.startswith("/s3/cloud-info") for _, path in store.requests)


def test_a_bucket_with_dots(store: Store, tmp_path: Path) -> None:
    """R12: as a part of the host's name it would fit no certificate."""
    publishing = Publishing(store, tmp_path, "s3")
    store.objects["cloud.info.example.org"] = {}
    publishing.configure(bucket="cloud.info.example.org")
    publishing.run()
    assert list(store.objects["cloud.info.example.org"]) == [NAME]
    assert {path.partition("?")[0] for _, path in store.requests} == {
        "/s3/cloud.info.example.org",
        f"/s3/cloud.info.example.org/{NAME}",
    }


@pytest.mark.parametrize(
    ("query", "signature"),
    [
        ("lifecycle=", "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
        (
            "max-keys=2&prefix=J",
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        ),
    ],
)
def test_s3_signature_of_amazons_examples(
    monkeypatch: pytest.MonkeyPatch, query: str, signature: str
) -> None:
    """The examples of Amazon's description of version 4 for S3."""
    monkeypatch.setattr(clock, "now", lambda: datetime(2013, 5, 24, tzinfo=UTC))
    key = S3Key("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "us-east-1")
    server = WebAddress("https://examplebucket.s3.amazonaws.com", None, timedelta(seconds=1))
    signed = S3Bucket(server, bucket="b", key=key)._signed("GET", "/", query, b"")
    assert signed["Authorization"].endswith(f"Signature={signature}")


def test_basic_and_bearer(store: Store, tmp_path: Path) -> None:
    publishing = Publishing(store, tmp_path, "http")
    publishing.run()
    assert {headers["authorization"] for headers in store.headers} == {"Basic Y2k6Z2VoZWltLTQy"}
    store.headers.clear()
    path = tmp_path / "etc/cloud-info-provider/publish.yaml"
    secret = tmp_path / "etc/cloud-info-provider/secret"
    path.write_text(f"http:\n  url: {store.url}/cloud-info\n  token_file: {secret}\n")
    publishing.run()
    assert {headers["authorization"] for headers in store.headers} == {f"Bearer {PASSWORD}"}
    secret.write_text("тайна\n")
    with pytest.raises(ConfigurationError, match=r"http\.token: is not ASCII") as caught:
        publishing.run()
    assert "тайна" not in str(caught.value)


Spoil = Callable[[Path, Path], object]


def _replace(old: str, new: str) -> Spoil:
    return lambda path, _: path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("kind", "spoil", "words"),
    [
        ("swift", lambda _, secret: secret.chmod(0o644), "mode 0644); chmod 600"),
        ("swift", lambda _, secret: secret.chmod(0o640), "mode 0640); chmod 600"),
        ("swift", lambda _, secret: secret.unlink(), "no such file"),
        ("swift", lambda _, secret: secret.write_text("\n"), "does not hold a secret"),
        ("swift", _replace("password_file", "password"), "write it into a file of mode 0600"),
        ("swift", _replace("  project_id: p\n", ""), "project_id: must be set"),
        (
            "swift",
            _replace("container: cloud-info", "container: a/b"),
            "cannot be a container's name",
        ),
        ("swift", _replace("container", "contaner"), "container: must be set"),
        ("swift", _replace("swift:", "swfit:"), "auth_url: must be set"),
        ("http", _replace("/cloud-info/", "/x?y=1"), "continues after its path"),
        ("http", _replace("  username: ci\n", ""), "name and password belong together"),
        ("http", _replace("password_file: ", "password_file: x"), "must be the absolute path"),
        ("s3", _replace("bucket: cloud-info", "bucket: a/b"), "cannot be the name of a bucket"),
        ("s3", _replace("access_key: AK", "access_key: ÄK"), "s3.access_key: 'ÄK' is not ASCII"),
        ("s3", _replace("region: ", "region: ü"), "s3.region: 'ünorth-1' is not ASCII"),
        ("s3", _replace("url: http://", "url: http://ü"), "s3.url: "),
        ("s3", _replace("secret_key_file", "other"), "secret_key_file: must be set"),
    ],
)
def test_wrong_settings(store: Store, tmp_path: Path, kind: str, spoil: Spoil, words: str) -> None:
    publishing = Publishing(store, tmp_path, kind)
    path = tmp_path / "etc/cloud-info-provider/publish.yaml"
    spoil(path, path.with_name("secret"))
    with pytest.raises(ConfigurationError) as caught:
        publishing.settings()
    assert words in str(caught.value).replace("No such", "no such")
    assert str(path) in str(caught.value)
    assert PASSWORD not in str(caught.value)


def test_secret_in_place_of_its_file_is_not_shown(store: Store, tmp_path: Path) -> None:
    publishing = Publishing(store, tmp_path, "http")
    path = tmp_path / "etc/cloud-info-provider/publish.yaml"
    path.write_text(f"http:\n  url: {store.url}\n  username: ci\n  password_file: {PASSWORD}\n")
    with pytest.raises(ConfigurationError, match="must be the absolute path of a file") as caught:
        publishing.settings()
    assert PASSWORD not in str(caught.value)


def test_missing_file_of_settings(tmp_path: Path) -> None:
    arguments = argparse.Namespace(publisher="swift", output=None, publish_file=None)
    with pytest.raises(ConfigurationError, match=r"publish\.yaml"):
        settings.load(arguments, Layout(tmp_path))


def test_state_is_json_that_status_reads(publishing: Publishing) -> None:
    publishing.run()
    state: Any = json.loads(publishing.output.with_suffix(".state").read_text())
    assert state["site"] == SITE
    assert datetime.fromisoformat(state["valid_until"]) > datetime.now(UTC)
    assert state["held"] == 0
    assert PASSWORD not in publishing.output.with_suffix(".state").read_text()
