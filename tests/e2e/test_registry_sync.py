"""`cloudkeeper sync` with projects of a registry: docker-registry behind Harbor's API."""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import registry_site
from tests.e2e.images_frontend import make_disks, sha512
from tests.e2e.registry_site import PROJECT, SOURCE, STATE, World
from tests.simulators.harbor import Harbor, Reply
from tests.testbed.oci_registry import DISK, PASSWORD, USER, described_as
from tests.testbed.pki import Authority

pytestmark = pytest.mark.usefixtures("few_system_authorities")


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return make_disks(tmp_path_factory.mktemp("disks"))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Authority, Harbor]]:
    with registry_site.serve(tmp_path_factory.mktemp("served")) as found:
        yield found


@pytest.fixture
def world(
    tmp_path: Path, served: tuple[Authority, Harbor], disks: dict[str, bytes]
) -> Iterator[World]:
    with registry_site.site(tmp_path, *served, disks) as made:
        yield made


def test_the_images_of_a_project_reach_each_vo(world: World) -> None:
    """Four images for two VOs; afterwards nothing is moved, and no manifest is fetched again."""
    names = ("ubuntu:24.04", "ubuntu:22.04", "linux/alma:9", "debian:12")
    digests = {
        f"{PROJECT}/{name}": world.push(
            f"{PROJECT}/{name}", more_tags=(f"{name.rpartition(':')[2]}-2026-11-01",)
        )
        for name in names
    }
    done = world.sync()
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    expected = sha512(world.disks["one.qcow2"])
    assert world.cloud.received == {
        world.key(reference, vo): expected
        for reference in digests
        for vo in ("ops", "vo.example.org")
    }
    reference, host = f"{PROJECT}/ubuntu:24.04", world.harbor.host
    added = world.cloud.appliances[world.key(reference)]
    assert (added.title, added.vo, added.version) == (f"{host} {reference}", "ops", "24.04")
    assert added.mpuri == f"{host}/{reference}-{digests[reference]}"
    assert added.operating_system == "linux ubuntu 24.04"
    layer = subprocess.run(
        ["sha256sum"], input=world.disks["one.qcow2"], capture_output=True, check=True
    ).stdout.split()[0]
    assert dict(added.attributes) == {
        **described_as("24.04"),
        "org.opencontainers.image.source": "https://git.example.org/images",
        "eu.egi.cloud.image_ref": reference,
        "image_hash": f"sha256:{layer.decode()}",
    }

    world.harbor.paths.clear()
    world.cloud.calls.clear()
    assert world.sync().returncode == 0
    lists = [f"Appliances {world.list_id(vo)}" for vo in ("ops", "vo.example.org")]
    assert world.cloud.calls == ["PreAction", "ImageLists", *lists, "PostAction"]
    assert all(path.startswith("/api/v2.0/") for path in world.harbor.paths), world.harbor.paths
    assert world.record()["counts"]["images_unchanged"] == 8


def test_a_new_version_replaces_the_old_one(world: World) -> None:
    reference = f"{PROJECT}/ubuntu:24.04"
    world.push(reference)
    assert world.sync().returncode == 0
    world.push(reference, "two.qcow2")
    world.cloud.calls.clear()
    assert world.sync().returncode == 0
    assert world.cloud.received[world.key(reference)] == sha512(world.disks["two.qcow2"])
    assert [call for call in world.cloud.calls if reference in call] == [
        f"UpdateAppliance {reference}"
    ] * 2


def test_a_new_description_moves_no_data(world: World) -> None:
    """The manifest has another digest, the layer has not."""
    reference = f"{PROJECT}/ubuntu:24.04"
    world.push(reference)
    assert world.sync().returncode == 0
    digest = world.push(reference, description="Better words")
    world.harbor.paths.clear()
    assert world.sync().returncode == 0
    found = world.cloud.appliances[world.key(reference)]
    assert found.description == "Better words"
    assert found.mpuri.endswith(digest)
    assert world.harbor.asked("/blobs/") == 0


def test_a_tag_that_goes_back_waits_for_a_person(world: World) -> None:
    reference = f"{PROJECT}/ubuntu:24.04"
    first = world.push(reference)
    assert world.sync().returncode == 0
    second = world.push(reference, "two.qcow2")
    assert world.sync().returncode == 0
    assert world.push(reference) == first
    name = f"{world.harbor.host}/{reference}"
    for _ in range(2):
        done = world.sync()
        assert done.returncode == 1
        assert (
            f"{name}: the tag went back to {first}, which {second} had replaced; "
            f"ask who publishes it; if that is right: cloudkeeper trust {name}\n"
        ) in done.stderr
        assert world.cloud.received[world.key(reference)] == sha512(world.disks["two.qcow2"])
    shown = world.call("trust").stdout
    assert f"  {reference}  {second} since " in shown
    assert f"held: it went back to {first}; to accept that: cloudkeeper trust {name}\n" in shown

    done = world.call("trust", name)
    assert (done.returncode, f"now   {first}" in done.stdout) == (2, True)
    done = world.call("trust", f"{world.harbor.host}/{PROJECT}", "--yes")
    assert (done.returncode, done.stderr) == (0, "")
    assert world.sync().returncode == 0
    assert world.cloud.received[world.key(reference)] == sha512(world.disks["one.qcow2"])
    assert "held" not in world.call("trust").stdout
    assert "no tag went back" in world.call("trust", name).stdout

    world.push(reference, "two.qcow2")
    assert world.sync().returncode == 1  # the second one was replaced by the first
    assert "held: " in world.call("trust").stdout
    assert world.call("trust", "--forget", name, "--yes").returncode == 0
    assert world.sync().returncode == 0
    assert world.cloud.received[world.key(reference)] == sha512(world.disks["two.qcow2"])


def test_gc_keeps_what_the_tags_name(world: World) -> None:
    """A replaced manifest goes; tags are forgotten when project and images are gone."""
    reference = f"{PROJECT}/ubuntu:24.04"
    first = world.push(reference)
    assert world.sync().returncode == 0
    second = world.push(reference, "two.qcow2")
    assert world.sync().returncode == 0
    kept = world.root / STATE / "manifests"
    before = files_of(world.root / STATE)
    names = {digest.removeprefix("sha256:") for digest in (first, second)}
    assert {path.name for path in kept.iterdir()} == names
    assert world.call("gc").returncode == 0
    after = files_of(world.root / STATE)
    removed = before.keys() - after.keys()
    assert f"manifests/{first.removeprefix('sha256:')}" in removed
    assert [path.name for path in kept.iterdir()] == [second.removeprefix("sha256:")]
    assert len([name for name in after if name.startswith("sboms/")]) == 1
    world.harbor.paths.clear()
    assert world.sync().returncode == 0
    assert world.harbor.asked("/manifests/") == world.harbor.asked("/referrers/") == 0

    world.configure(
        "other:", "  type: harbor", "  registry_host: {host}", "  project: p", "  vos: [v]"
    )
    history = world.root / STATE / "tags.json"
    assert world.call("gc").returncode == 0
    assert list(json.loads(history.read_text())) == [world.harbor.host]
    world.cloud.appliances.clear()
    done = world.call("gc")
    assert f"removed {world.harbor.host}: memory of 1 tag, {reference}" in done.stdout
    assert json.loads(history.read_text()) == {}


def test_an_image_is_removed_when_the_registry_says_that_it_is_gone(world: World) -> None:
    kept, gone = f"{PROJECT}/ubuntu:24.04", f"{PROJECT}/debian:12"
    world.push(kept)
    digest = world.push(gone)
    assert world.sync().returncode == 0
    world.delete(gone, digest)
    assert world.sync().returncode == 0
    assert {key[1] for key in world.cloud.appliances} == {kept}
    assert world.harbor.asked("/debian/manifests/12") > 0


def test_images_of_a_repository_that_a_source_leaves_out_are_removed(world: World) -> None:
    """The registry has them, and the administrator does not want them; so for the tags."""
    kept, gone = f"{PROJECT}/ubuntu:24.04", f"{PROJECT}/debian:12"
    world.push(kept)
    world.push(gone)
    assert world.sync().returncode == 0
    world.configure(*SOURCE, "  repositories: [ubunut]")
    done = world.sync()
    words = f"{PROJECT}: has no repository {PROJECT}/ubunut; correct repositories in sources.yaml"
    assert words in done.stderr
    assert {key[1] for key in world.cloud.appliances} == {kept, gone}
    world.configure(*SOURCE, "  repositories: [ubuntu]")
    assert world.sync().returncode == 0
    assert {key[1] for key in world.cloud.appliances} == {kept}


@pytest.mark.parametrize("is_readable", [True, False])
def test_images_for_a_vo_that_a_project_no_longer_names(world: World, *, is_readable: bool) -> None:
    """F-M7: removed by the policy, and only in a run that has read all sources."""
    world.push(f"{PROJECT}/ubuntu:24.04")
    assert world.sync().returncode == 0
    path = world.root / "cloudkeeper.yml"
    path.write_text(f"{path.read_text()}  ended-lists: remove\n")
    world.configure(*SOURCE[:-1], "  vos: [ops]")
    if not is_readable:
        world.harbor.faults.append(lambda path: Reply(500) if "/repositories" in path else None)
    done = world.sync()
    assert (done.returncode == 0) is is_readable
    vos = {found.vo for found in world.cloud.appliances.values()}
    assert vos == ({"ops"} if is_readable else {"ops", "vo.example.org"})
    assert ("could not be read, and may replace them" in done.stderr) is not is_readable


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Reply(500), "the server answers 500"),
        (Reply(403), "the registry denies anonymous access"),
        (Reply(404), "the registry has no such project or repository"),
        (Reply(200, b"<html>maintenance</html>"), "that is not JSON"),
        (Reply(200, b'{"a": 1}'), "its listing is not one of Harbor's"),
        (Reply(200, b"null"), "its listing is not one of Harbor's"),
    ],
    ids=["500", "403", "404", "html", "no list", "R1 null"],
)
def test_a_project_that_cannot_be_listed_loses_no_image(
    world: World, fault: Reply, words: str
) -> None:
    """R1: gone needs evidence; atrope deletes all images of such a project."""
    world.push(f"{PROJECT}/ubuntu:24.04")
    assert world.sync().returncode == 0
    world.harbor.faults.append(lambda path: fault if "/repositories" in path else None)
    done = world.sync()
    assert (done.returncode, words in done.stderr) == (1, True), done.stderr
    assert "its images stay as they are" in done.stderr
    assert len(world.cloud.appliances) == 2


@pytest.mark.parametrize("status", [200, 401, 503])
def test_what_the_listing_omits_but_the_registry_has_is_kept(world: World, status: int) -> None:
    """An empty listing with status 200, and a registry that does not confirm it."""
    reference = f"{PROJECT}/ubuntu:24.04"
    world.push(reference)
    assert world.sync().returncode == 0

    def fault(path: str) -> Reply | None:
        if "/repositories" in path:
            return Reply(200, b"[]")
        return Reply(status) if status != 200 and "/manifests/" in path else None

    world.harbor.faults.append(fault)
    done = world.sync()
    assert done.returncode == 1
    assert f"{reference} is kept: " in done.stderr
    assert len(world.cloud.appliances) == 2


@pytest.mark.parametrize("kind", ["manifests", "blobs"])
def test_what_is_listed_and_was_garbage_collected_fails_alone(world: World, kind: str) -> None:
    """R5: 404 for the manifest, or for the layer at its start; the present image stays."""
    old, other = f"{PROJECT}/ubuntu:24.04", f"{PROJECT}/debian:12"
    world.push(old)
    assert world.sync().returncode == 0
    manifest = world.push(old, "two.qcow2")
    world.push(other)
    layer = hashlib.sha256(world.disks["two.qcow2"]).hexdigest()
    gone = manifest if kind == "manifests" else f"sha256:{layer}"
    world.harbor.faults.append(lambda path: Reply(404) if path.endswith(f"{kind}/{gone}") else None)
    done = world.sync()
    words = "the registry has no manifest" if kind == "manifests" else "no longer has it"
    assert (done.returncode, words in done.stderr) == (1, True), done.stderr
    expected = sha512(world.disks["one.qcow2"])
    assert world.cloud.received[world.key(old)] == expected
    assert world.cloud.received[world.key(other)] == expected
    world.harbor.faults.clear()
    assert world.sync().returncode == 0
    assert world.cloud.received[world.key(old)] == sha512(world.disks["two.qcow2"])


def test_one_bad_artefact_costs_only_itself(world: World) -> None:
    good, bad = f"{PROJECT}/ubuntu:24.04", f"{PROJECT}/debian:12"
    world.push(good)
    world.push(bad, media_type="application/octet-stream")
    done = world.sync()
    assert done.returncode == 1
    assert f"image {bad} refused: " in done.stderr
    assert "its layer is of media type 'application/octet-stream'" in done.stderr
    assert {key[1] for key in world.cloud.appliances} == {good}


def test_an_index_of_one_image_is_taken_by_its_digest(world: World) -> None:
    """R4: as buildx pushes it; both digests are kept, so gc and the next run fetch nothing."""
    reference, name = f"{PROJECT}/ubuntu:24.04", f"{world.harbor.host}/{PROJECT}/ubuntu:24.04"
    image = world.push(reference)
    index = world.wrap(reference, image)
    assert world.sync().returncode == 0
    assert world.cloud.received[world.key(reference)] == sha512(world.disks["one.qcow2"])
    added = world.cloud.appliances[world.key(reference)]
    assert (added.mpuri, added.version) == (f"{name}-{index}", "24.04")
    state = world.root / STATE
    assert json.loads((state / "tags.json").read_text()) == {
        world.harbor.host: {reference: [image, index]}
    }
    assert world.call("gc").returncode == 0
    assert {f"sha256:{path.name}" for path in (state / "manifests").iterdir()} == {image, index}
    world.harbor.paths.clear()
    assert world.sync().returncode == 0
    assert world.harbor.asked("/v2/") == 0

    second = world.push(reference, "two.qcow2")
    assert world.sync().returncode == 0
    world.wrap(reference, image)
    world.wrap(f"{PROJECT}/ubuntu:22.04", image, second)
    done = world.sync()
    assert done.returncode == 1
    assert f"{name}: the tag went back to {index}, which {second} had replaced" in done.stderr
    assert "is an index of 2 images ('linux/amd64', 'linux/amd64'); an index for" in done.stderr
    assert world.cloud.received[world.key(reference)] == sha512(world.disks["two.qcow2"])
    world.delete(f"{PROJECT}/ubuntu:22.04", world.wrap(f"{PROJECT}/ubuntu:22.04", image, second))
    assert world.call("trust", name, "--yes").returncode == 0
    for _ in range(2):
        assert world.sync().returncode == 0
        assert world.cloud.received[world.key(reference)] == sha512(world.disks["one.qcow2"])


def test_what_the_listing_omits_and_an_index_has_is_kept(world: World) -> None:
    """R4: gone needs evidence, also behind an index whose image cannot be read."""
    reference = f"{PROJECT}/ubuntu:24.04"
    world.wrap(reference, image := world.push(reference))
    assert world.sync().returncode == 0
    world.harbor.faults.append(lambda path: Reply(200, b"[]") if "/repositories" in path else None)
    for fault in (lambda _: None, lambda path: Reply(404) if path.endswith(image) else None):
        world.harbor.faults.append(fault)
        (world.root / STATE / "manifests" / image.removeprefix("sha256:")).unlink()
        done = world.sync()
        assert (done.returncode, f"{reference} is kept: " in done.stderr) == (1, True), done.stderr
        assert len(world.cloud.appliances) == 2


def test_a_tag_that_is_gone_stays_while_its_successor_is_refused(world: World) -> None:
    """F-M1: the publisher pushes the next image wrongly, and deletes the present one."""
    former, bad = f"{PROJECT}/ubuntu:24.04", f"{PROJECT}/ubuntu:26.04"
    digest = world.push(former)
    assert world.sync().returncode == 0
    world.push(bad, "two.qcow2", media_type="application/octet-stream")
    world.delete(former, digest)
    for flags in ((), ("--allow-remove", "9")):
        done = world.sync(*flags)
        assert done.returncode == 1
        again = f"cloudkeeper sync --list {world.list_id('ops')} --allow-remove 1"
        assert (
            f"1 image, because a refused image may be a new version: {bad}; if none is"
            in done.stderr
        )
        assert f"or run once: {again}" in done.stderr
        assert len(world.cloud.appliances) == 2
    assert world.record()["counts"]["removals_withheld"] == 2
    world.sync("--list", world.list_id("ops"), "--allow-remove", "1")
    assert set(world.cloud.appliances) == {world.key(former, "vo.example.org")}
    world.configure(*SOURCE, f"  ignore: ['{bad}']")
    assert world.sync().returncode == 0
    assert world.cloud.appliances == {}


def test_a_layer_with_other_content_is_refused(world: World) -> None:
    """Forged by whoever stands between; the good version stays."""
    reference = f"{PROJECT}/ubuntu:24.04"
    world.push(reference)
    assert world.sync().returncode == 0
    world.push(reference, "two.qcow2")
    forged = bytearray(world.disks["two.qcow2"])
    forged[-1] ^= 1
    world.harbor.faults.append(
        lambda path: Reply(200, bytes(forged)) if "/blobs/" in path else None
    )
    done = world.sync()
    assert (done.returncode, "its digest is sha256:" in done.stderr) == (1, True), done.stderr
    assert world.cloud.received[world.key(reference)] == sha512(world.disks["one.qcow2"])
    assert list((world.root / "images").iterdir()) == []


def test_own_properties_are_set_without_data(world: World) -> None:
    """One update of metadata per image for a change of the file; nothing else removes them."""
    reference = f"{PROJECT}/ubuntu:24.04"
    forged: Any = {"property:hw_disk_bus": "of the artefact", "sbom": "of the artefact"}
    world.push(reference, **forged)
    own = ("  properties:", "    hw_disk_bus: scsi", "    os_require_quiesce: yes")
    world.configure(*SOURCE, *own)
    assert world.sync().returncode == 0

    def held() -> dict[str, str]:
        attributes = world.cloud.appliances[world.key(reference)].attributes
        return {key: attributes[key] for key in attributes if ":" in key or key == "sbom"}

    assert held() == {"property:hw_disk_bus": "scsi", "property:os_require_quiesce": "yes"}
    world.cloud.calls.clear()
    assert world.sync().returncode == 0
    assert not [call for call in world.cloud.calls if "Update" in call]
    world.configure(*SOURCE, *own[:2])
    received = dict(world.cloud.received)
    world.cloud.received.clear()
    done = world.sync("--json")
    assert {each["reason"] for each in json.loads(done.stdout)["changes"]} == {
        "changed: property:os_require_quiesce"
    }
    assert held() == {"property:hw_disk_bus": "scsi"}
    assert (world.cloud.received, len(received)) == ({}, 2)


def test_a_backend_that_knows_no_own_properties_is_not_sent_any(world: World) -> None:
    """As cloudkeeper-os 0.9.x: it keeps the attributes, and could not change them without data."""
    reference = f"{PROJECT}/ubuntu:24.04"
    world.push(reference)
    assert world.sync().returncode == 0
    world.cloud.features = ""
    world.configure(*SOURCE, "  properties:", "    hw_disk_bus: scsi")
    world.cloud.calls.clear()
    done = world.sync()
    assert done.returncode == 1
    words = "VO ops: the backend cannot set the properties of sources.yaml; use the cloudkeeper-os"
    assert f"{world.harbor.host}/{PROJECT}: {words} of this release, or remove them" in done.stderr
    assert not [call for call in world.cloud.calls if "Update" in call]


def compressed(kind: str, content: bytes) -> bytes:
    if kind == "gzip":
        return gzip.compress(content)
    command = ["zstd", "-q", "-c"]
    return subprocess.run(command, input=content, capture_output=True, check=True).stdout


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_compressed_layers_are_decompressed(world: World, kind: str) -> None:
    reference = f"{PROJECT}/ubuntu:24.04"
    content = compressed(kind, world.disks["one.qcow2"])
    world.push(reference, content=content, media_type=f"{DISK}+{kind}")
    done = world.sync()
    assert done.returncode == 0, done.stderr
    assert world.cloud.received[world.key(reference)] == sha512(world.disks["one.qcow2"])


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda content: content[: len(content) // 2], "data end early"),
        (lambda _: b"QFI\xfb, which is no compressed data", "is not {} data"),
        (lambda content: content + b"junk behind the end", "has other data behind its {} data"),
    ],
    ids=["cut", "plain", "junk"],
)
def test_compressed_layers_that_are_broken(world: World, kind: str, spoil: Any, words: str) -> None:
    content = spoil(compressed(kind, world.disks["one.qcow2"]))
    world.push(f"{PROJECT}/ubuntu:24.04", content=content, media_type=f"{DISK}+{kind}")
    done = world.sync()
    assert (done.returncode, words.format(kind) in done.stderr) == (1, True), done.stderr
    assert world.cloud.appliances == {}


def test_a_private_project_by_the_account_of_its_host(world: World) -> None:
    """The robot's secret is in no output, and is not sent to another host."""
    world.push("vo.example.org/matlab:9")
    world.configure(
        "vo:",
        "  type: harbor",
        "  registry_host: {host}",
        "  project: vo.example.org",
        "  vos: [vo.example.org]",
    )
    done = world.sync()
    assert done.returncode == 1
    assert "the registry denies anonymous access; ask its administrators for a robot" in done.stderr
    accounts = f"# robots\n{{host}} {USER}:{PASSWORD}\nother.example.org x:y\n"
    world.configure(
        *(world.root / "etc/cloudkeeper/sources.yaml").read_text().splitlines(), accounts=accounts
    )
    done = world.sync("--debug")
    assert done.returncode == 0, done.stderr
    assert PASSWORD not in done.stdout + done.stderr
    key = (world.list_id("vo.example.org", "vo.example.org"), "vo.example.org/matlab:9")
    assert world.cloud.received == {key: sha512(world.disks["one.qcow2"])}


def files_of(directory: Path) -> dict[str, tuple[bytes, int]]:
    """Return content and time of each file below a directory, by name."""
    return {
        str(path.relative_to(directory)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_a_dry_run_changes_nothing(world: World) -> None:
    """Neither the cloud nor a file: before the first run, and where a run has left its memory."""
    world.push(f"{PROJECT}/ubuntu:24.04")
    done = world.sync("--dry-run")
    assert done.returncode == 0
    host = world.harbor.host
    size = f"{len(world.disks['one.qcow2']) / 1024:.1f} KiB"
    row = f"  add  {host} {PROJECT}/ubuntu:24.04  {size}  it is new in the list\n"
    assert done.stdout.count(row) == 2  # VOs
    assert files_of(world.root / STATE) == {}
    assert world.cloud.appliances == {}

    gone = world.push(f"{PROJECT}/debian:12")
    assert world.sync().returncode == 0
    world.push(f"{PROJECT}/ubuntu:24.04", "two.qcow2")
    world.delete(f"{PROJECT}/debian:12", gone)
    before = files_of(world.root / STATE)
    assert {name.partition("/")[0] for name in before} >= {"tags.json", "manifests"}
    assert "  remove  " in world.sync("--dry-run").stdout
    assert files_of(world.root / STATE) == before


def test_the_configuration_is_shown(world: World) -> None:
    done = world.sync("--check-config")
    assert done.returncode == 0, done.stderr
    shown = f"registries:    {world.harbor.host}/{PROJECT} for ops vo.example.org"
    assert shown in done.stdout


@pytest.mark.parametrize("verb", ["import", "release"])
def test_a_backend_that_cannot_hand_over_images_is_asked_for_nothing(
    world: World, verb: str
) -> None:
    """One of cloudkeeper-os 0.9 would lose the image by an update without data."""
    world.push(f"{PROJECT}/ubuntu:24.04")
    assert world.sync().returncode == 0
    world.cloud.calls.clear()
    done = world.call(verb, f"{PROJECT}/ubuntu:24.04", "--yes")
    words = "this backend cannot take images over; use cloudkeeper-os of the same release"
    assert (done.returncode, done.stderr) == (2, f"cloudkeeper: {verb}: {words}\n")
    assert world.cloud.calls == ["ImageLists"]
