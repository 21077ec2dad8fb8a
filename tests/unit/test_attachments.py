"""Signatures and SBOMs of artefacts, found in a registry that is a table of answers."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from appliance.core.download import deadline
from appliance.core.download.answers import Answer
from appliance.core.download.downloader import Question, Timeouts
from appliance.core.download.pace import Pace
from appliance.core.download.resume import Asking, Attempt
from appliance.core.registry import names
from appliance.core.registry.client import RegistryClient
from appliance.core.registry.login import Login
from appliance.core.registry.names import Digest, TaggedArtefact
from appliance.core.run.errors import ApplianceError
from cloudkeeper.frontend.registry import signing_key
from cloudkeeper.frontend.registry.kept import KeptByDigest
from cloudkeeper.frontend.registry.manifests import Manifests
from cloudkeeper.frontend.registry.referrers import Referrers
from cloudkeeper.frontend.registry.sboms import SBOMs
from cloudkeeper.frontend.registry.signature_check import SignatureCheck
from cloudkeeper.frontend.registry.signatures import SignedArtefact
from tests.cosign import (
    BUNDLE_TYPE,
    SIMPLE_TYPE,
    KeyPair,
    bundle,
    encoded,
    envelope,
    payload,
    statement,
)

pytestmark = pytest.mark.programs("openssl")

HOST, REPOSITORY = "registry.example.org", "egi_vm_images/ubuntu"
MANIFEST = b'{"schemaVersion": 2, "layers": []}'
DIGEST = names.digest_of(MANIFEST)
WANTED = TaggedArtefact(REPOSITORY, "24.04", DIGEST)
TAG = DIGEST.replace(":", "-")
NOW = datetime(2026, 11, 30, tzinfo=UTC)
SBOM = "application/vnd.cyclonedx+json"
ANNOTATION = "dev.cosignproject.cosign/signature"


@dataclass
class Registry:
    """Answers by path; anything else is 404."""

    answers: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def ask(self, question: Question, **_: object) -> Iterator[Answer]:
        path = question.url.removeprefix(f"https://{HOST}/v2/{REPOSITORY}/")
        self.asked.append(path)
        status, content = self.answers.get(path, (404, b""))
        if status not in question.expected:
            raise ApplianceError(question.name, f"the server answers {status}")
        yield Answer(status, {}, len(content), iter([content]))

    @contextlib.contextmanager
    def resumed(self, ask: Asking, *, timeouts: Timeouts, **_: object) -> Iterator[Answer]:
        with (
            deadline.limit(timeouts.total) as limit,
            ask(Attempt(limit, Pace(timeouts.window), 1)) as answer,
        ):
            yield answer

    def blob(self, content: bytes) -> dict[str, Any]:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self.answers[f"blobs/{digest}"] = (200, content)
        return {"digest": digest, "size": len(content)}

    def sign(self, *signed: tuple[bytes, object], media_type: str = SIMPLE_TYPE) -> None:
        """Have payloads with their annotations under the tag of cosign 2."""
        layers = [
            {"mediaType": media_type, **self.blob(content), "annotations": {ANNOTATION: value}}
            for content, value in signed
        ]
        self.answers[f"manifests/{TAG}.sig"] = (200, encoded({"layers": layers}))

    def attach(self, *contents: bytes, artefact_type: str = BUNDLE_TYPE) -> list[str]:
        """Have artefacts of one layer as referrers, behind the API; return their digests."""
        found = []
        for content in contents:
            layer = {"mediaType": artefact_type, **self.blob(content)}
            manifest = encoded({"layers": [layer]})
            digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
            self.answers[f"manifests/{digest}"] = (200, manifest)
            found.append({"digest": digest, "artifactType": artefact_type})
        self.answers[f"referrers/{DIGEST}"] = (200, encoded({"manifests": found}))
        return [each["digest"] for each in found]


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return KeyPair.create(tmp_path_factory.mktemp("keys"), "ours")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return KeyPair.create(tmp_path_factory.mktemp("keys"), "foreign")


def client_of(registry: Registry) -> RegistryClient:
    web: Any = registry
    return RegistryClient(web, Login(web, HOST))


def check(registry: Registry, key: KeyPair, directory: Path, *more: SignedArtefact) -> str:
    """Return why the artefact, or ``more`` of which one suffices, is refused; empty if not."""
    client = client_of(registry)
    checked = SignatureCheck(
        client,
        Manifests(client, KeptByDigest(directory / "manifests")),
        Referrers(client),
        KeptByDigest(directory / "signatures"),
        [signing_key.read(key.public)],
    )
    try:
        checked.check([SignedArtefact(HOST, WANTED, MANIFEST), *more], at=NOW)
    except ApplianceError as error:
        return str(error)
    return ""


def signed(key: KeyPair) -> tuple[bytes, str]:
    content = payload(DIGEST, f"{HOST}/{REPOSITORY}")
    return content, key.sign(content)


def bundled(key: KeyPair) -> bytes:
    return encoded(bundle(dsseEnvelope=envelope(key, statement(DIGEST))))


# Signatures.


def test_bad_signatures_beside_a_good_one(
    registry: Registry, key: KeyPair, foreign: KeyPair, tmp_path: Path
) -> None:
    """Whoever may push could add one, so they cost nothing; each is a reason if none is good."""
    content, value = signed(key)
    large = content + b" " * 2**18
    bad = [
        (content, foreign.sign(content)),
        (large, key.sign(large)),
        (b"{}", key.sign(b"{}")),
        (content, None),
        (content, 7),
    ]
    registry.sign(*bad)
    refusal = check(registry, key, tmp_path)
    for words in (
        f"{HOST}/{REPOSITORY}:24.04: no signature counts for the key in {key.public}: ",
        "signature: was made with another key, or over another content",
        "is larger than 262144 bytes",
        "signature: its critical is missing or is not a dict",
        "and 1 more reasons",
        f"; ask who publishes it to sign {DIGEST}",
    ):
        assert words in refusal
    registry.sign(*bad, (content, value))
    assert check(registry, key, tmp_path) == ""


def test_bad_bundles_beside_a_good_one(
    registry: Registry, key: KeyPair, foreign: KeyPair, tmp_path: Path
) -> None:
    bad = [b"{", bundled(foreign), b"x" * (2**18 + 1)]
    registry.attach(*bad)
    assert "its bundle is not JSON, signature: was made with" in check(registry, key, tmp_path)
    registry.attach(*bad, bundled(key))
    assert check(registry, key, tmp_path) == ""


def test_an_unchanged_artefact_costs_no_request(
    registry: Registry, key: KeyPair, foreign: KeyPair, tmp_path: Path
) -> None:
    """What is kept is verified again: by another key it does not count."""
    registry.sign(signed(key))
    assert check(registry, key, tmp_path) == ""
    registry.asked.clear()
    assert check(registry, key, tmp_path) == ""
    assert registry.asked == []
    assert "was made with another key" in check(registry, foreign, tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b'{"form": 1}', b"\xff", b"[]"])
def test_what_is_kept_of_a_signature_is_not_trusted(
    registry: Registry, key: KeyPair, tmp_path: Path, content: bytes
) -> None:
    registry.sign(signed(key))
    assert check(registry, key, tmp_path) == ""
    (kept,) = (tmp_path / "signatures").iterdir()
    kept.write_bytes(content)
    registry.answers.pop(f"manifests/{TAG}.sig")
    assert "is not signed" in check(registry, key, tmp_path)
    registry.sign(signed(key))
    assert check(registry, key, tmp_path) == ""
    assert json.loads(kept.read_bytes())["form"] == SIMPLE_TYPE


@pytest.mark.parametrize("spoil", ["type", "number", "blob", "500", "html", "list", "digest"])
def test_signatures_that_cannot_be_read(
    registry: Registry, key: KeyPair, tmp_path: Path, spoil: str
) -> None:
    content, value = signed(key)
    registry.sign((content, value))
    tag = f"manifests/{TAG}.sig"
    (blob,) = (path for path in registry.answers if path.startswith("blobs/"))
    match spoil:
        case "type":
            registry.sign((content, value), media_type="application/json")
        case "number":
            registry.sign(*[(content, "AAAA")] * 50, (content, value))
        case "blob":
            registry.answers[blob] = (200, content + b" ")
        case "500":
            registry.answers[tag] = (500, b"")
        case "html":
            registry.answers[tag] = (200, b"<html>")
        case "list":
            registry.answers[tag] = (200, b'{"layers": {}}')
        case _:
            text = registry.answers[tag][1].replace(b"sha256:", b"md5:")
            registry.answers[tag] = (200, text)
    expected = {
        "type": "signature: is of media type 'application/json', not application/vnd.dev.cosign",
        "number": "has more than 50 signatures",
        "blob": "the bytes that came have digest sha256:",
        "500": "the server answers 500",
        "html": "its manifest is not JSON",
        "list": "its manifest has no list of layers",
        "digest": "signature: 'md5:",
    }
    assert expected[spoil] in check(registry, key, tmp_path)


@pytest.mark.parametrize("layers", [0, 2])
def test_a_bundle_is_one_layer(
    registry: Registry, key: KeyPair, tmp_path: Path, layers: int
) -> None:
    layer = {"mediaType": BUNDLE_TYPE, **registry.blob(bundled(key))}
    manifest = encoded({"layers": [layer] * layers})
    digest = names.digest_of(manifest)
    registry.answers[f"manifests/{digest}"] = (200, manifest)
    found = {"manifests": [{"digest": digest, "artifactType": BUNDLE_TYPE}]}
    registry.answers[f"referrers/{DIGEST}"] = (200, encoded(found))
    assert f"has {layers} layers; a bundle is one" in check(registry, key, tmp_path)


@pytest.mark.parametrize(
    "index",
    [MANIFEST, b'{"manifests": {}}', b"[]", b'{"manifests": [7, {"digest": "x"}]}'],
    ids=["the artefact", "no list", "list", "no descriptors"],
)
@pytest.mark.parametrize("place", ["api", "tag"])
def test_an_index_of_referrers_that_lists_nothing(
    registry: Registry, key: KeyPair, tmp_path: Path, index: bytes, place: str
) -> None:
    """R6: without an API some registries answer the artefact itself under the tag."""
    path = f"referrers/{DIGEST}" if place == "api" else f"manifests/{TAG}"
    registry.answers[path] = (200, index)
    assert "is not signed with the key in" in check(registry, key, tmp_path)


def test_more_referrers_than_can_be_meant(registry: Registry, key: KeyPair, tmp_path: Path) -> None:
    found = [{"digest": DIGEST, "artifactType": SBOM}] * 201
    registry.answers[f"referrers/{DIGEST}"] = (200, encoded({"manifests": found}))
    assert "has more than 200 referrers" in check(registry, key, tmp_path)


IMAGE = b'{"schemaVersion": 2, "layers": [{}]}'
INSIDE = TaggedArtefact(REPOSITORY, "24.04", names.digest_of(IMAGE))


def test_a_signature_may_be_of_the_image_in_an_index(
    registry: Registry, key: KeyPair, foreign: KeyPair, tmp_path: Path
) -> None:
    """R4: cosign signs the index, or the image, or both; afterwards neither costs a request."""
    inside = SignedArtefact(HOST, INSIDE, IMAGE)
    content = payload(INSIDE.digest, f"{HOST}/{REPOSITORY}")
    tag = f"manifests/{INSIDE.digest.replace(':', '-')}.sig"
    for signer, words in ((foreign, "was made with another key"), (key, "")):
        registry.sign((content, signer.sign(content)))
        registry.answers[tag] = registry.answers.pop(f"manifests/{TAG}.sig")
        assert words in (found := check(registry, key, tmp_path, inside))
        assert bool(found) is bool(words)
    assert "is not signed" in check(registry, key, tmp_path)  # the index alone
    registry.asked.clear()
    assert check(registry, key, tmp_path, inside) == ""
    assert registry.asked == []
    registry.answers.clear()
    registry.sign(signed(key))
    assert check(registry, key, tmp_path / "other", inside) == ""


def test_a_signature_of_another_image_is_none_of_an_index(
    registry: Registry, key: KeyPair, tmp_path: Path
) -> None:
    """R4, R7."""
    registry.sign(signed(key))
    registry.answers[f"manifests/{TAG[:-1]}x.sig"] = registry.answers[f"manifests/{TAG}.sig"]
    inside = SignedArtefact(HOST, INSIDE, IMAGE)
    registry.answers[f"manifests/{INSIDE.digest.replace(':', '-')}.sig"] = registry.answers.pop(
        f"manifests/{TAG}.sig"
    )
    refusal = check(registry, key, tmp_path, inside)
    assert f"names the digest '{DIGEST}', of another artefact" in refusal


# SBOMs.


def sboms(registry: Registry, directory: Path, *, at: datetime = NOW) -> tuple[str, str]:
    """Return the references of the artefact's SBOMs in a run, and the warning."""
    made = SBOMs(Referrers(client_of(registry)), KeptByDigest(directory))
    return made.of(WANTED, at=at), made.warning


def reference(digest: str) -> str:
    return f"{HOST}/{REPOSITORY}@{digest}"


def test_an_sbom_is_asked_for_until_it_is_known(registry: Registry, tmp_path: Path) -> None:
    """Once a day for a week, because it is attached after the artefact; then it is kept."""
    asked = []
    for hours in (0, 1, 23, 24, 47, 48, 24 * 6):
        registry.asked.clear()
        assert sboms(registry, tmp_path, at=NOW + timedelta(hours=hours)) == ("", "")
        asked.append(bool(registry.asked))
    assert asked == [True, False, False, True, False, True, True]
    (digest,) = registry.attach(b"{}", artefact_type=SBOM)
    week = NOW + timedelta(days=7)
    assert sboms(registry, tmp_path, at=week) == (reference(digest), "")
    registry.answers.clear()
    registry.asked.clear()
    assert sboms(registry, tmp_path, at=week + timedelta(days=30)) == (reference(digest), "")
    assert registry.asked == []


def test_an_artefact_without_sbom_is_not_asked_for_ever(registry: Registry, tmp_path: Path) -> None:
    """Also not after the clock went back, when it is asked once more."""
    assert sboms(registry, tmp_path) == ("", "")
    assert sboms(registry, tmp_path, at=NOW - timedelta(days=400)) == ("", "")
    registry.asked.clear()
    assert sboms(registry, tmp_path, at=NOW + timedelta(days=8)) == ("", "")
    assert registry.asked == []


def test_several_sboms_are_listed_in_order(registry: Registry, tmp_path: Path) -> None:
    digests = registry.attach(*(b"%d" % number for number in range(6)), artefact_type=SBOM)
    expected = " ".join(reference(digest) for digest in sorted(digests)[:4])
    assert sboms(registry, tmp_path) == (expected, "")


@pytest.mark.parametrize("content", [b"", b"[]", b'{"sboms": ["x"], "times": [1, 2]}', b'{"times'])
def test_what_is_kept_of_sboms_may_be_spoilt(
    registry: Registry, tmp_path: Path, content: bytes
) -> None:
    (digest,) = registry.attach(b"{}", artefact_type=SBOM)
    assert sboms(registry, tmp_path) == (reference(digest), "")
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(content)
    assert sboms(registry, tmp_path) == (reference(digest), "")
    assert json.loads(kept.read_bytes())["sboms"] == [digest]


def test_a_registry_that_does_not_list_referrers_is_asked_once(
    registry: Registry, tmp_path: Path
) -> None:
    """One warning in a run, and no refusal; what an earlier run has found stays."""
    (digest,) = registry.attach(b"{}", artefact_type=SBOM)
    assert sboms(registry, tmp_path) == (reference(digest), "")
    other = TaggedArtefact(REPOSITORY, "22.04", Digest(f"sha256:{'2' * 64}"))
    third = TaggedArtefact(REPOSITORY, "20.04", Digest(f"sha256:{'3' * 64}"))
    registry.answers[f"referrers/{other.digest}"] = (500, b"")
    registry.asked.clear()
    made = SBOMs(Referrers(client_of(registry)), KeptByDigest(tmp_path))
    found = [made.of(each, at=NOW) for each in (other, third, WANTED)]
    assert found == ["", "", reference(digest)]
    assert registry.asked == [f"referrers/{other.digest}"]
    assert made.warning.startswith("the SBOMs of some images are not known: ")


def test_html_of_the_api_is_no_answer(registry: Registry, key: KeyPair, tmp_path: Path) -> None:
    registry.answers[f"referrers/{DIGEST}"] = (200, b"<html>")
    assert "that is not JSON" in check(registry, key, tmp_path)
    assert "that is not JSON" in sboms(registry, tmp_path)[1]
