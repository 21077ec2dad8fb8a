"""`appliance upgrade --check --from oci://…` on a real registry: what is accepted, and refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from appliance.admin.command import main
from appliance.admin.upgrade import remote_bundle
from appliance.core import retry
from appliance.core.download.downloader import Timeouts
from appliance.core.version import __version__
from deploy import bundle_artefact
from tests.simulators import harbor
from tests.simulators.harbor import Harbor
from tests.testbed import bundle as bundles
from tests.testbed import oci_registry
from tests.testbed.oci_registry import PASSWORD, USER, BasicLogin, TokenLogin
from tests.testbed.pki import Authority, Credential
from tests.unit import backup_site
from tests.unit.backup_site import put
from tests.unit.upgrade_site import NEWER, make_bundles, make_host

pytestmark = [pytest.mark.root, pytest.mark.programs("openssl", "docker-registry")]

NAME = "egi/fedcloud-appliance"
PRIVATE = "vo.example.org/fedcloud-appliance"
DOWNLOADS = "var/lib/fedcloud/upgrade/bundles"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with two signed bundles, and the public key."""
    directory = tmp_path_factory.mktemp("bundles")
    make_bundles(directory)
    return directory


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("authority") / "ca", key="ec")


@pytest.fixture(scope="module")
def credential(authority: Authority) -> Credential:
    return authority.issue("localhost", key="ec")


@pytest.fixture(scope="module")
def front(
    authority: Authority, credential: Credential, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Harbor]:
    """Yield a registry that asks for tokens, with one project for everybody."""
    signer = authority.issue("tokens.example.org", key="rsa")
    with harbor.serve(credential, signer=signer) as served:
        login = TokenLogin(served.realm, authority.certificate)
        with oci_registry.serve(
            tmp_path_factory.mktemp("registry"),
            credential=credential,
            authority=authority.certificate,
            login=login,
        ) as registry:
            served.registry = registry
            served.public.add("egi")
            yield served


@pytest.fixture(autouse=True)
def _no_faults(front: Harbor, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(retry, "_sleep", lambda _: None)
    yield
    front.faults.clear()
    front.paths.clear()
    front.cut, front.blob_bytes = None, 0


@dataclass
class Artefact:
    """A pushed bundle, and what `appliance upgrade --from` calls it."""

    front: Harbor
    repository: str
    digest: str
    layer: str
    size: int

    @property
    def reference(self) -> str:
        return f"oci://{self.front.host}/{self.repository}@{self.digest}"

    @property
    def blob(self) -> Path:
        """The file of the layer in the registry's own store."""
        assert self.front.registry is not None
        name = self.layer.removeprefix("sha256:")
        store = self.front.registry.data / "docker/registry/v2/blobs/sha256"
        return store / name[:2] / name / "data"


def publish(front: Harbor, bundle: Path, repository: str = NAME) -> Artefact:
    """Pack a bundle as `scripts/build --oci` does, and push it."""
    packed = bundle_artefact.pack(bundle, epoch=1_700_000_000)
    layout, digest = bundle_artefact.write(packed, version=NEWER)
    assert front.registry is not None
    front.registry.headers = front.push_headers(repository)
    assert oci_registry.push_layout(front.registry, layout, repository, tag=NEWER) == digest
    text = (layout / "blobs/sha256" / digest.removeprefix("sha256:")).read_text()
    (layer,) = json.loads(text)["layers"]
    return Artefact(front, repository, digest, layer["digest"], layer["size"])


@pytest.fixture(scope="module")
def artefact(front: Harbor, made: Path, tmp_path_factory: pytest.TempPathFactory) -> Artefact:
    bundle = tmp_path_factory.mktemp("newer") / f"fedcloud-appliance-{NEWER}"
    return publish(front, Path(shutil.copytree(made / bundle.name, bundle)))


@pytest.fixture
def own(front: Harbor, made: Path, tmp_path: Path) -> Callable[[Callable[[Path], None]], Artefact]:
    """Return a function that changes a bundle, signs it again and pushes it."""

    def make(change: Callable[[Path], None]) -> Artefact:
        bundle = tmp_path / f"fedcloud-appliance-{NEWER}"
        shutil.copytree(made / bundle.name, bundle)
        change(bundle)
        return publish(front, bundle)

    return make


@pytest.fixture
def host(made: Path, authority: Authority, tmp_path: Path) -> Path:
    root = tmp_path / "host"
    make_host(root, made)
    set_variable(root, "FEDCLOUD_CA_BUNDLE", str(authority.certificate))
    return root


def set_variable(host: Path, name: str, value: str) -> None:
    """Set a variable in place of the shipped line, which may be a comment."""
    path = host / "etc/fedcloud/appliance.env"
    text, number = re.subn(rf"(?m)^#? ?{name}=.*", f"{name}={value}", path.read_text(), count=1)
    put(path, text if number else f"{text}{name}={value}\n")


def check(host: Path, reference: str, *words: object) -> int:
    """Look at an upgrade, which must change nothing but the directory of downloads."""
    before = kept(host)
    command = ["upgrade", "--check", "--from", reference, "--root", str(host)]
    status = main([*command, *map(str, words)])
    assert kept(host) == before
    return status


def kept(host: Path) -> dict[str, object]:
    found = backup_site.snapshot(host)
    own = ("var/lib/fedcloud/upgrade/", "run/fedcloud/upgrade.lock")
    return {name: one for name, one in found.items() if not f"{name}/".startswith(own)}


def downloads(host: Path) -> list[str]:
    return sorted(path.suffix for path in (host / DOWNLOADS).glob("*"))


def refusal(capsys: pytest.CaptureFixture[str], status: int, host: Path, reference: str) -> str:
    assert check(host, reference) == status
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_bundle_that_is_fetched_once(
    host: Path, artefact: Artefact, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(host, artefact.reference) == 1
    shown = capsys.readouterr().out
    assert f"{__version__} -> {NEWER}; the signature and all checksums hold" in shown
    (path,) = (host / DOWNLOADS).iterdir()
    assert (path.stat().st_mode & 0o777, path.stat().st_size) == (0o600, artefact.size)
    assert (host / DOWNLOADS).stat().st_mode & 0o777 == 0o700
    assert artefact.front.blob_bytes == artefact.size
    assert check(host, artefact.reference) == 1
    assert artefact.front.blob_bytes == artefact.size


@pytest.mark.matrix
def test_a_kept_bundle_that_was_damaged_is_fetched_again(host: Path, artefact: Artefact) -> None:
    assert check(host, artefact.reference) == 1
    (path,) = (host / DOWNLOADS).iterdir()
    with path.open("r+b") as file:
        file.write(b"\xff" * 100)
    assert check(host, artefact.reference) == 1
    assert artefact.front.blob_bytes == 2 * artefact.size


def test_a_tag_is_refused_with_the_digest(
    host: Path, artefact: Artefact, capsys: pytest.CaptureFixture[str]
) -> None:
    """The remedy is carried out as it is written."""
    place = f"oci://{artefact.front.host}/{NAME}"
    line = refusal(capsys, 2, host, f"{place}:{NEWER}")
    assert f"{place}:{NEWER}: names a tag" in line
    assert artefact.front.blob_bytes == 0
    _, _, remedy = line.partition("use --from ")
    assert remedy == artefact.reference
    assert check(host, remedy) == 1


@pytest.mark.parametrize(
    "text",
    [
        "oci://",
        "oci://host",
        "oci://host/Upper@sha256:00",
        "oci://host/name@sha256:00",
        "oci://h/n@",
    ],
)
def test_what_is_no_reference(text: str, host: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert remote_bundle.FORM in refusal(capsys, 2, host, text)


def test_a_private_project_is_read_with_an_account(
    host: Path, artefact: Artefact, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    front = artefact.front
    private = publish(front, made / f"fedcloud-appliance-{NEWER}", PRIVATE)
    line = refusal(capsys, 3, host, private.reference)
    assert f"write {front.host} USER:SECRET into /etc/fedcloud/registry.auth" in line
    accounts = put(host / "etc/fedcloud/registry.auth", f"{front.host} {USER}:wrong\n", 0o640)
    assert f"{accounts}: others can read it; chmod 600" in refusal(
        capsys, 2, host, private.reference
    )
    accounts.chmod(0o600)
    line = refusal(capsys, 3, host, private.reference)
    assert "robot$site" in line
    assert "/etc/fedcloud/registry.auth:1" in line
    put(accounts, f"{front.host} {USER}:{PASSWORD}\n", 0o600)
    assert check(host, private.reference) == 1
    assert PASSWORD not in capsys.readouterr().out


def test_a_registry_that_asks_for_a_password(
    host: Path,
    artefact: Artefact,
    authority: Authority,
    credential: Credential,
    made: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with oci_registry.serve(
        tmp_path / "basic",
        credential=credential,
        authority=authority.certificate,
        login=BasicLogin(),
    ) as registry:
        layout = made / f"fedcloud-appliance-{NEWER}.oci"
        bundle_artefact.write(
            bundle_artefact.pack(made / f"fedcloud-appliance-{NEWER}", epoch=1), version=NEWER
        )
        digest = oci_registry.push_layout(registry, layout, NAME, tag=NEWER)
        reference = f"oci://{registry.host}/{NAME}@{digest}"
        assert "the registry denies anonymous access" in refusal(capsys, 3, host, reference)
        put(host / "etc/fedcloud/registry.auth", f"{registry.host} {USER}:{PASSWORD}\n", 0o600)
        assert check(host, reference) == 1


def test_an_altered_byte_in_the_registry(
    host: Path, artefact: Artefact, capsys: pytest.CaptureFixture[str]
) -> None:
    good = artefact.blob.read_bytes()
    try:
        artefact.blob.write_bytes(good[:1000] + bytes([good[1000] ^ 1]) + good[1001:])
        line = refusal(capsys, 3, host, artefact.reference)
        assert "the layer that came has the digest sha256:" in line
        assert downloads(host) == []
    finally:
        artefact.blob.write_bytes(good)
    assert check(host, artefact.reference) == 1


def test_a_truncated_layer_is_completed_by_the_next_run(
    host: Path, artefact: Artefact, capsys: pytest.CaptureFixture[str]
) -> None:
    good = artefact.blob.read_bytes()
    try:
        artefact.blob.write_bytes(good[:5000])
        line = refusal(capsys, 3, host, artefact.reference)
        assert f"has 5000 bytes, and should have {artefact.size}" in line
    finally:
        artefact.blob.write_bytes(good)
    assert downloads(host) == [".part"]
    artefact.front.blob_bytes = 0
    assert check(host, artefact.reference) == 1
    assert artefact.front.blob_bytes == artefact.size - 5000


@pytest.mark.parametrize("number", [0, 1, 70_000])
def test_what_a_killed_run_has_fetched_is_not_fetched_again(
    number: int, host: Path, artefact: Artefact
) -> None:
    name = f"{artefact.layer.replace(':', '-')}.part"
    put(host / DOWNLOADS / "of-another.part", "x")
    (host / DOWNLOADS / name).write_bytes(artefact.blob.read_bytes()[:number])
    assert check(host, artefact.reference) == 1
    assert artefact.front.blob_bytes == artefact.size - number
    assert downloads(host) == [".tar"]


@pytest.mark.matrix
def test_a_part_of_another_file_is_not_kept(
    host: Path, artefact: Artefact, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"{artefact.layer.replace(':', '-')}.part"
    put(host / DOWNLOADS / name, "x" * 100)
    assert "has the digest" in refusal(capsys, 3, host, artefact.reference)
    assert check(host, artefact.reference) == 1


def test_a_connection_that_breaks_is_resumed(host: Path, artefact: Artefact) -> None:
    """The front ends each answer after some bytes."""
    artefact.front.cut = artefact.size // 3 + 1
    assert check(host, artefact.reference) == 1
    assert artefact.front.asked("/blobs/") == 3


def test_a_slow_registry(
    host: Path,
    artefact: Artefact,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    short = timedelta(milliseconds=200)
    monkeypatch.setattr(remote_bundle, "_TIMEOUTS", Timeouts(short, short, short, short))

    def late(path: str) -> None:
        if "/blobs/" in path:
            time.sleep(1)

    artefact.front.faults.append(late)
    line = refusal(capsys, 3, host, artefact.reference)
    assert "is too slow" in line
    assert "run the same command again" in line


def test_one_image_short(
    own: Callable[[Callable[[Path], None]], Artefact],
    made: Path,
    host: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def drop(bundle: Path) -> None:
        lock = bundle / "images.lock"
        line = f"ssm egifedcloud/ssm:{NEWER} sha256:{'0' * 64}\n"
        lock.write_text(lock.read_text() + line)
        bundles.seal(bundle, key=made / "key.pem")

    line = refusal(capsys, 3, host, own(drop).reference)
    assert f"egifedcloud/ssm:{NEWER}: this image is missing from the bundle" in line


def test_the_bundle_of_another_key(
    own: Callable[[Callable[[Path], None]], Artefact],
    tmp_path: Path,
    host: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "other").mkdir()
    other, _ = bundles.make_key(tmp_path / "other")
    found = own(lambda bundle: bundles.seal(bundle, key=other))
    line = refusal(capsys, 3, host, found.reference)
    assert f"{found.reference}: its signature does not match" in line


def test_an_altered_bundle_that_was_pushed(
    own: Callable[[Callable[[Path], None]], Artefact],
    host: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The digests hold, so the same bundle would come again."""
    found = own(lambda bundle: (bundle / "images/caso.tar").unlink())
    line = refusal(capsys, 3, host, found.reference)
    assert f"{found.reference}: altered or incomplete: images/caso.tar; ask its publisher" in line


def test_an_older_bundle_in_a_registry(
    artefact: Artefact, host: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(host / "var/lib/fedcloud/version", "100.0\n")
    line = refusal(capsys, 2, host, artefact.reference)
    assert f"{artefact.reference}: is of version {NEWER}, older than 100.0" in line


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_another_artefact(
    layers: int, artefact: Artefact, host: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An image has a layer of another type; an artefact may have none, or several."""
    registry = artefact.front.registry
    assert registry is not None
    registry.headers = artefact.front.push_headers(NAME)
    kind = remote_bundle.LAYER if layers > 1 else "application/x-qemu-disk"
    layer = {"mediaType": kind, **registry.push_blob(NAME, b"disk")}
    config = {"mediaType": "application/vnd.oci.empty.v1+json", **registry.push_blob(NAME, b"{}")}
    manifest = {
        "schemaVersion": 2,
        "mediaType": oci_registry.MANIFEST,
        "config": config,
        "layers": [layer] * layers,
    }
    digest = registry.push_manifest(NAME, "other", manifest)
    line = refusal(capsys, 3, host, f"oci://{artefact.front.host}/{NAME}@{digest}")
    assert "is not a bundle" in line


@pytest.mark.parametrize("name", [NAME, "egi/nothing"])
def test_what_the_registry_does_not_have(
    name: str, artefact: Artefact, host: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference = f"oci://{artefact.front.host}/{name}@sha256:{'0' * 64}"
    line = refusal(capsys, 3, host, reference)
    assert "the registry has no such bundle" in line
    assert "publisher's announcement" in line


def test_a_manifest_of_another_digest(
    artefact: Artefact, host: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def forge(path: str) -> harbor.Reply | None:
        return harbor.Reply(200, b"{}") if "/manifests/" in path else None

    artefact.front.faults.append(forge)
    line = refusal(capsys, 3, host, artefact.reference)
    assert "the manifest that came has the digest" in line


def test_a_registry_that_is_not_trusted(
    artefact: Artefact, host: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set_variable(host, "FEDCLOUD_CA_BUNDLE", "")
    line = refusal(capsys, 3, host, artefact.reference)
    assert "certificate is not trusted" in line
    assert "FEDCLOUD_CA_BUNDLE" in line


def test_a_proxy_that_is_not_there(
    artefact: Artefact, host: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set_variable(host, "HTTPS_PROXY", "http://127.0.0.1:9")
    set_variable(host, "NO_PROXY", "none")
    line = refusal(capsys, 3, host, artefact.reference)
    assert "the proxy 127.0.0.1:9" in line


def test_a_disk_without_space(
    artefact: Artefact, host: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the first byte comes."""
    place = host / "var/lib/fedcloud/upgrade"
    place.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", place], check=True)
    try:
        command = ["upgrade", "--check", "--from", artefact.reference, "--root", str(host)]
        assert main(command) == 3
        (line,) = capsys.readouterr().err.splitlines()
        assert "are free; free space there" in line
        assert artefact.front.blob_bytes == 0
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.mark.matrix
def test_the_same_bundle_makes_the_same_artefact(made: Path, tmp_path: Path) -> None:
    """The digest can be announced before the bundle is pushed."""
    found = set()
    for number in (1, 2):
        bundle = tmp_path / str(number) / f"fedcloud-appliance-{NEWER}"
        shutil.copytree(made / bundle.name, bundle)
        for path in bundle.rglob("*"):
            os.utime(path, (number, number))
            if number == 2:
                os.chown(path, 1999, 1999)
        packed = bundle_artefact.pack(bundle, epoch=1)
        found.add(bundle_artefact.write(packed, version=NEWER)[1])
        found.add(bundle_artefact.write(packed, version=NEWER)[1])
    assert len(found) == 1
