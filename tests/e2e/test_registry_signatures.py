"""`cloudkeeper sync` with SBOMs and signatures of artefacts, in a real registry.

Debian's docker-registry has no API for referrers, so the tag of their index is real there; the API
is the simulator's in front of it. The openssl program makes keys and signatures.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cosign import (
    BUNDLE_TYPE,
    KeyPair,
    bundle,
    encoded,
    envelope,
    message_signature,
    payload,
    statement,
)
from tests.e2e import registry_site
from tests.e2e.images_frontend import make_disks, sha512
from tests.e2e.registry_site import PROJECT, SOURCE, World
from tests.simulators.harbor import Harbor
from tests.testbed.pki import Authority

pytestmark = pytest.mark.usefixtures("few_system_authorities")

REPOSITORY = f"{PROJECT}/ubuntu"
REFERENCE = f"{REPOSITORY}:24.04"
SBOM = "application/vnd.cyclonedx+json"


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return make_disks(tmp_path_factory.mktemp("disks"))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Authority, Harbor]]:
    with registry_site.serve(tmp_path_factory.mktemp("served")) as found:
        yield found


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return KeyPair.create(tmp_path_factory.mktemp("keys"), "ours")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return KeyPair.create(tmp_path_factory.mktemp("keys"), "foreign")


@pytest.fixture
def world(
    tmp_path: Path, served: tuple[Authority, Harbor], disks: dict[str, bytes]
) -> Iterator[World]:
    with registry_site.site(tmp_path, *served, disks) as made:
        yield made


def trust(world: World, *keys: KeyPair) -> None:
    files = ", ".join(str(each.public) for each in keys)
    world.configure(*SOURCE, f"  signing_key: [{files}]")


def attach(world: World, digest: str, content: bytes, *, artefact_type: str) -> str:
    """Attach something to an artefact, by API or tag; return the digest of its manifest."""
    registry = world.registry(REPOSITORY)
    found = registry.attach(REPOSITORY, digest, content, artefact_type=artefact_type)
    if world.harbor.referrers is None:
        registry.push_referrers(REPOSITORY, digest, [found])
    else:
        world.harbor.referrers.setdefault(digest, []).append(found)
    made: str = found["digest"]
    return made


def manifest_of(world: World, digest: str) -> bytes:
    path = f"/v2/{REPOSITORY}/manifests/{digest}"
    accept = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
    return world.registry(REPOSITORY).request("GET", path, headers=accept).content


def by_tag(world: World, digest: str, key: KeyPair) -> None:
    content = payload(digest, f"{world.harbor.host}/{REPOSITORY}")
    registry = world.registry(REPOSITORY)
    registry.push_signature(REPOSITORY, digest, [(content, key.sign(content))])


def by_bundle(world: World, digest: str, key: KeyPair) -> None:
    content = encoded(bundle(dsseEnvelope=envelope(key, statement(digest))))
    attach(world, digest, content, artefact_type=BUNDLE_TYPE)


def by_api(world: World, digest: str, key: KeyPair) -> None:
    world.harbor.referrers = world.harbor.referrers or {}
    by_bundle(world, digest, key)


def by_message(world: World, digest: str, key: KeyPair) -> None:
    message = message_signature(key, manifest_of(world, digest))
    content = encoded(bundle(messageSignature=message))
    attach(world, digest, content, artefact_type=BUNDLE_TYPE)


Sign = Callable[[World, str, KeyPair], None]


def offered(world: World) -> str:
    return world.cloud.received.get(world.key(REFERENCE), "")


# Signatures.


@pytest.mark.parametrize("sign", [by_tag, by_bundle, by_api, by_message])
def test_a_signed_artefact_is_offered_and_no_other(
    world: World, key: KeyPair, foreign: KeyPair, sign: Sign
) -> None:
    """Then a version that is unsigned, signed by a stranger, at last by us; it costs no bytes."""
    digest = world.push(REFERENCE)
    assert "signed" not in world.call("list").stdout
    trust(world, key)
    assert REFERENCE not in world.call("list").stdout
    sign(world, digest, key)
    assert "for ops, vo.example.org: 1 image, all signed\n" in world.call("list").stdout
    done = world.sync()
    assert done.returncode == 0, done.stderr
    first, second = sha512(world.disks["one.qcow2"]), sha512(world.disks["two.qcow2"])
    assert offered(world) == first

    world.harbor.paths.clear()
    assert world.sync().returncode == 0
    assert all(path.startswith("/api/v2.0/") for path in world.harbor.paths), world.harbor.paths

    digest = world.push(REFERENCE, "two.qcow2")
    host = world.harbor.host
    for signer, words in (
        (None, f"is not signed with the key in {key.public}"),
        (foreign, "made with another key, or over another content"),
    ):
        if signer:
            sign(world, digest, signer)
        world.harbor.paths.clear()
        done = world.sync()
        assert (done.returncode, words in done.stderr) == (1, True), done.stderr
        assert f"image {REFERENCE} refused: {host}/{REFERENCE}: " in done.stderr
        assert f"ask who publishes it to sign {digest}" in done.stderr
        assert world.harbor.asked("/blobs/" + layer_of(world, digest)) == 0
        assert offered(world) == first
        assert len(world.cloud.appliances) == 2
    sign(world, digest, key)
    assert world.sync().returncode == 0
    assert offered(world) == second


def layer_of(world: World, digest: str) -> str:
    found: str = json.loads(manifest_of(world, digest))["layers"][0]["digest"]
    return found


def test_a_signature_of_another_artefact_is_no_signature(world: World, key: KeyPair) -> None:
    """Replayed under the tag of the newer artefact: it is ours, valid, and names the older one."""
    trust(world, key)
    old = world.push(REFERENCE)
    by_tag(world, old, key)
    assert world.sync().returncode == 0
    new = world.push(REFERENCE, "two.qcow2")
    content = payload(old, f"{world.harbor.host}/{REPOSITORY}")
    world.registry(REPOSITORY).push_signature(REPOSITORY, new, [(content, key.sign(content))])
    done = world.sync()
    assert done.returncode == 1
    assert f"signature: names the digest '{old}', of another artefact" in done.stderr
    assert offered(world) == sha512(world.disks["one.qcow2"])


def test_a_key_that_is_taken_out_counts_no_longer(
    world: World, key: KeyPair, foreign: KeyPair
) -> None:
    """What an earlier run has accepted is verified again; with both keys either one counts."""
    trust(world, key, foreign)
    by_tag(world, world.push(REFERENCE), key)
    assert world.sync().returncode == 0
    trust(world, foreign)
    done = world.sync()
    assert done.returncode == 1
    assert f"no signature counts for the key in {foreign.public}: signature: was" in done.stderr
    assert len(world.cloud.appliances) == 2
    trust(world, key)
    assert world.sync().returncode == 0


def test_what_is_attached_is_no_image(world: World, key: KeyPair) -> None:
    """A pattern that every tag matches; the tags of signatures and referrers are none."""
    digest = world.push(REFERENCE)
    by_tag(world, digest, key)
    by_bundle(world, digest, key)
    for kind in ("harbor", "oci"):
        source = [line.replace("type: harbor", f"type: {kind}") for line in SOURCE]
        world.configure(*source, "  tag_pattern: .*", "  repositories: [ubuntu]")
        done = world.sync()
        assert done.returncode == 0, done.stderr
        assert {name for _, name in world.cloud.appliances} == {REFERENCE}


# SBOMs.


@pytest.mark.parametrize("has_api", [True, False], ids=["api", "tag"])
def test_sboms_are_listed(world: World, *, has_api: bool) -> None:
    world.harbor.referrers = {} if has_api else None
    digest = world.push(REFERENCE)
    sbom = attach(world, digest, b'{"bomFormat": "CycloneDX"}', artefact_type=SBOM)
    expected = f"{world.harbor.host}/{REPOSITORY}@{sbom}"
    assert "  1 SBOM\n" in world.call("list").stdout
    for verb, key in (("list", "images"), ("plan", "changes"), ("sync", "changes")):
        found = json.loads(world.call(verb, "--json").stdout)
        assert [each["sboms"] for each in found[key]] == [[expected]] * 2
    assert world.cloud.appliances[world.key(REFERENCE)].attributes["sbom"] == expected
    world.harbor.paths.clear()
    assert world.sync().returncode == 0
    assert all(path.startswith("/api/v2.0/") for path in world.harbor.paths), world.harbor.paths
    assert world.harbor.asked("/blobs/") == 0


def test_the_key_is_shown(world: World, key: KeyPair) -> None:
    trust(world, key)
    done = world.sync("--check-config")
    assert done.returncode == 0, done.stderr
    assert f"{PROJECT} for ops vo.example.org, signed by {key.public}\n" in done.stdout
