"""C60 to C63: each fault of sources, backend and images is found by `cloudkeeper --check-live`.

The list comes from a web server, the registry from Harbor's API, and the images are in a cloud in
memory behind the backend's own gRPC server: only these are simulators. Each fault alone has exactly
its id, file and line; once it is healed, nothing is found.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from appliance.core.config import settings
from appliance.core.download import downloader
from appliance.core.download.downloader import Timeouts
from appliance.core.run.finding import Finding, of_json
from cloudkeeper.frontend import live_check
from tests.cosign import KeyPair
from tests.e2e.images_frontend import Done, run
from tests.simulators import harbor
from tests.simulators.harbor import Harbor, Reply
from tests.simulators.image_lists import image, image_list, in_days, sign
from tests.simulators.image_server import Slow, Status
from tests.testbed.oci_registry import DISK, MANIFEST, described_as
from tests.testbed.pki import AUTHORITY_DN, HOST_DN, Authority
from tests.unit.image_site import RAW, ImageSite, authority, site, web  # noqa: F401
from tests.unit.test_check_cloud import refusing

# ruff: noqa: F811  the fixtures are those of the site

pytestmark = pytest.mark.programs("openssl")

ENDORSER = f"{HOST_DN}/CN=lists.example.org"
OTHER_ID = "9d5c0a10-0000-4000-8000-0000000000b0"
PROJECT, REPOSITORY = "egi_vm_images", "egi_vm_images/ubuntu"
REFERENCE = f"{REPOSITORY}:24.04"
SHORT = timedelta(seconds=0.3)


@dataclass
class Frontend:
    """A frontend, and the place of each of its settings."""

    site: ImageSite
    harbor: Harbor | None = None
    endpoint: str = ""
    options: list[str] = field(default_factory=list)

    @property
    def config(self) -> Path:
        return self.site.root / "cloudkeeper.yml"

    @property
    def lists(self) -> Path:
        return self.site.root / "image-lists.conf"

    @property
    def sources(self) -> Path:
        return self.site.root / "sources.yaml"

    def configure(self, *more: str, version: str = "7.2.13") -> None:
        """Write the configuration: a list in line 2 of its file, or a registry in line 3 of its."""
        root = self.site.root
        qemu = root / f"converter-{version}"
        qemu.write_text(f"#!/bin/sh\necho qemu-img version {version}\n")
        qemu.chmod(0o755)
        self.lists.write_text(f"# lists\n{self.site.web.url('/image.list')}\n")
        self.sources.write_text("# registries\n")
        if self.harbor:
            self.lists.write_text("# none\n")
            text = "# registries\n\negi:\n  type: harbor\n  vos: [ops]\n"
            text += f"  registry_host: {self.harbor.host}\n  project: {PROJECT}\n"
            self.sources.write_text("".join((text, *(f"  {line}\n" for line in more))))
        certificates = self.site.authority.directory / "certificates"
        self.config.write_text(
            f"cloudkeeper:\n  image-lists-file: {self.lists}\n  sources-file: {self.sources}\n"
            f"  ca-dir: {certificates}\n  image-dir: {root}/images\n  lock-file: {root}/lock\n"
            "  formats: [qcow2, raw]\n  logging: {file: ''}\n"
            f"  external-tools:\n    binaries:\n      qemu-img: {qemu}\n"
            f"  backend:\n    endpoint: {self.endpoint}\n"
        )

    def run(self, verb: str, *flags: str) -> Done:
        return run(verb, "--root", str(self.site.root), "--config", str(self.config), *flags)

    def sync(self) -> None:
        done = self.run("sync")
        assert done.returncode == 0, done.stderr

    def find(self, *flags: str) -> list[Finding]:
        settings._observed.clear()
        written = self.written()
        done = self.run("sync", "--check-live", "--log-json", *flags)
        lines = [json.loads(line) for line in done.stderr.splitlines() if line[0] == "{"]
        found = [of_json(line["finding"]) for line in lines if "finding" in line]
        assert done.returncode == int(any(one.is_error for one in found)), done.stderr
        # The backend logs in this process, too.
        logged = [line["logger"] for line in lines if "level" in line]
        assert not [each for each in logged if "backend" not in each], done.stderr
        assert self.written() == written, "a check writes nothing"
        return found

    def written(self) -> list[tuple[Path, int]]:
        root = self.site.root
        return sorted((path, path.stat().st_mtime_ns) for path in root.rglob("*"))

    def the_one(self) -> Finding:
        (found,) = self.find()
        assert found.tried
        return found


def place(found: Finding) -> tuple[str, Path, int]:
    return found.identifier, Path(found.path), found.line


@pytest.fixture
def frontend(site: ImageSite) -> Iterator[Frontend]:
    """Yield a frontend whose one list has been synchronised."""
    site.publish(site.image(1))
    with site.backend.running():
        made = Frontend(site, endpoint=site.backend.endpoint)
        made.configure()
        made.sync()
        yield made


def signed(authority: Authority, *images: dict[str, Any], by: str = "lists", **more: Any) -> bytes:
    signer = authority.find(f"{by}.example.org") or authority.issue(f"{by}.example.org", key="ec")
    dn = f"{HOST_DN}/CN={by}.example.org"
    return sign(image_list(images, dn=dn, ca=AUTHORITY_DN, **more), signer)


# --------------------------------------------------------------------------------------------------
# lists


def _unreachable(frontend: Frontend) -> None:
    frontend.lists.write_text("# lists\nhttp://127.0.0.1:1/image.list\n")


def _denied(frontend: Frontend) -> None:
    frontend.site.web.put("/image.list", Status(401))


def _answers_wrongly(frontend: Frontend) -> None:
    frontend.site.web.put("/image.list", Status(503))


def _altered(frontend: Frontend) -> None:
    message = signed(frontend.site.authority, image(1, uri="https://x.example.org/one"))
    frontend.site.web.put("/image.list", message.replace(b"x.example", b"y.example"))


def _unsigned(frontend: Frontend) -> None:
    text = json.dumps(image_list([], dn=ENDORSER, ca=AUTHORITY_DN)).encode()
    frontend.site.web.put("/image.list", text)


def _of_another_endorser(frontend: Frontend) -> None:
    message = signed(frontend.site.authority, frontend.site.image(1), by="others")
    frontend.site.web.put("/image.list", message)


def _of_another_vo(frontend: Frontend) -> None:
    frontend.site.publish(frontend.site.image(1), vo="biomed")


def _of_another_identifier(frontend: Frontend) -> None:
    frontend.site.publish(frontend.site.image(1), identifier=OTHER_ID)


def _of_last_year(frontend: Frontend) -> None:
    frontend.site.publish(frontend.site.image(1), dc__date__created=in_days(-300))


def _expired(frontend: Frontend) -> None:
    frontend.site.publish(frontend.site.image(1), dc__date__expires=in_days(-1))


@pytest.mark.parametrize(
    ("fault", "row", "words"),
    [
        (_unreachable, "C06.c", "connection refused"),
        (_denied, "C60.a", "renew the access token in this line"),
        (_answers_wrongly, "C60", "the server answers 503"),
        (_altered, "C60.b", "its images stay as they are"),
        (_unsigned, "C60.b", "between message header and body"),
        (_of_another_endorser, "C60.c", "cloudkeeper trust http"),
        (_of_another_vo, "C60.c", "cloudkeeper trust http"),
        (_of_another_identifier, "C60.c", "cloudkeeper trust http"),
        (_of_last_year, "C60.c", "before one of"),
        (_expired, "C60.d", "the endorser must renew it"),
    ],
)
def test_a_list_that_is_not_accepted(
    frontend: Frontend, fault: Callable[[Frontend], None], row: str, words: str
) -> None:
    """C60.a to C60.d, C06.c: with the line of the list."""
    message = frontend.site.web.contents["/image.list"]
    assert frontend.find() == []
    fault(frontend)
    found = frontend.the_one()
    assert place(found) == (row, frontend.lists, 2)
    assert words in found.text
    assert found.is_error
    frontend.site.web.put("/image.list", message)
    frontend.configure()
    assert frontend.find() == []


def test_the_remedy_for_a_changed_list_helps(frontend: Frontend) -> None:
    """C60.c: the command of the message, as it stands there."""
    _of_another_endorser(frontend)
    words = frontend.the_one().text.rpartition("cloudkeeper trust ")[2]
    assert frontend.run("trust", words, "--yes").returncode == 0
    assert frontend.find() == []


def test_a_list_whose_allowed_endorser_is_another_one(frontend: Frontend) -> None:
    """C60.c: an endorser that sources.yaml names."""
    frontend.lists.write_text("# none\n")
    frontend.sources.write_text(
        f"ours:\n  type: hepix\n  url: {frontend.site.web.url('/image.list')}\n"
        f"  endorser: {{dn: /CN=x, ca: {AUTHORITY_DN}}}\n"
    )
    assert place(frontend.the_one()) == ("C60.c", frontend.sources, 3)
    text = frontend.sources.read_text()
    frontend.sources.write_text(text.replace("/CN=x", ENDORSER))
    assert frontend.find() == []


def test_a_single_image_that_cannot_be_used(frontend: Frontend) -> None:
    """C60: a warning; the others go on."""
    one = frontend.site.image(1)
    frontend.site.publish(one, frontend.site.image(2, sl__checksum__sha512="x"))
    found = frontend.the_one()
    assert place(found) == ("C60", frontend.lists, 2)
    assert not found.is_error
    assert "sl:checksum:sha512" in found.text
    frontend.site.publish(one)
    assert frontend.find() == []


def test_a_list_that_never_ends(frontend: Frontend, monkeypatch: pytest.MonkeyPatch) -> None:
    """C60: it costs its own limit, and the rest is found all the same."""
    monkeypatch.setattr(downloader, "PROMPT", Timeouts(SHORT, SHORT, SHORT, SHORT))
    monkeypatch.setattr("cloudkeeper.frontend.commands.assembly.PROMPT", downloader.PROMPT)
    frontend.site.web.put("/image.list", Slow(b"x" * 4000, pause=0.2))
    frontend.configure(version="1.0")
    first, second = frontend.find()
    assert (first.identifier, place(second)) == ("C62.a", ("C60", frontend.lists, 2))
    monkeypatch.undo()
    monkeypatch.setattr(live_check, "READ", 0.5)  # the limit of all, whatever a request does
    frontend.configure()
    # A busy machine may be late with the backend, too.
    (found,) = (one for one in frontend.find() if one.family == "C60")
    assert place(found) == ("C60", frontend.lists, 2)
    assert "no result within 0.5 s" in found.text


# --------------------------------------------------------------------------------------------------
# the backend, the converter, and the images


def test_a_backend_that_is_down(frontend: Frontend) -> None:
    """C61.a: with the line that names it."""
    endpoint, frontend.endpoint = frontend.endpoint, f"unix://{frontend.site.root}/none"
    frontend.configure()
    found = frontend.the_one()
    assert place(found) == ("C61.a", frontend.config, 13)
    assert "no such file" in found.text.lower()
    assert "systemctl start cloudkeeper-os" in found.text
    frontend.endpoint = endpoint
    frontend.configure()
    assert frontend.find() == []
    # In a container the environment names it, and no file does.
    (found,) = frontend.find("--backend-endpoint", f"unix://{frontend.site.root}/none")
    assert (found.identifier, found.path, found.line) == ("C61.a", "", 0)


def test_a_backend_that_cannot_list(frontend: Frontend) -> None:
    """C61: a warning, because the check of the backend itself has the cause."""
    cloud = frontend.site.glance.cloud
    cloud.fault = refusing("/v3/auth/tokens", 401)
    with frontend.site.backend.running():
        frontend.endpoint = frontend.site.backend.endpoint
        frontend.configure()
        found = frontend.the_one()
        assert (found.identifier, found.is_error) == ("C61", False)
        assert "refuses the account" in found.text
        cloud.fault = lambda _: None
        assert frontend.find() == []


@pytest.mark.parametrize("version", ["2.9.1", "unknown"])
def test_a_converter_that_is_missing_or_too_old(frontend: Frontend, version: str) -> None:
    """C62.a."""
    frontend.configure(version=version)
    found = frontend.the_one()
    assert place(found) == ("C62.a", frontend.config, 11)
    assert "install qemu-utils" in found.text
    frontend.configure(version="2.10.0")
    assert frontend.find() == []
    (frontend.site.root / "converter-2.10.0").unlink()
    assert place(frontend.the_one()) == ("C62.a", frontend.config, 11)


def test_an_image_that_is_missing(frontend: Frontend) -> None:
    """C63.a: of a list that a sync has read; what is new since then is no fault."""
    frontend.site.glance.images.clear()
    found = frontend.the_one()
    assert place(found) == ("C63.a", frontend.lists, 2)
    assert not found.is_error
    assert image(1, uri="x")["hv:image"]["dc:identifier"] in found.text
    frontend.sync()
    assert frontend.find() == []
    later = in_days(-0.5)
    frontend.site.publish(frontend.site.image(1), frontend.site.image(2), dc__date__created=later)
    assert frontend.find() == []


@pytest.mark.long
def test_removals_that_are_held(frontend: Frontend) -> None:
    """C63.b: the command of the message, as it stands there, helps."""
    images = [frontend.site.image(one, RAW[:-1] + bytes([one])) for one in range(1, 7)]
    frontend.site.publish(*images, dc__date__created=in_days(-0.5))
    frontend.sync()
    frontend.site.publish(images[0], dc__date__created=in_days(-0.4))
    found = frontend.the_one()
    assert place(found) == ("C63.b", frontend.lists, 2)
    assert "no longer has 5 of 6 images" in found.text
    _, _, words = found.text.rpartition("cloudkeeper sync ")
    assert words == "--allow-remove 5"
    assert frontend.run("sync", *words.split()).returncode == 0
    assert frontend.find() == []


# --------------------------------------------------------------------------------------------------
# registries


@dataclass
class Registry:
    """A project with one image, in memory, behind Harbor's API and TLS."""

    tags: dict[str, bytes] = field(default_factory=dict)
    status: int = 0
    """The status of every answer; 0: the right one."""

    def push(self, tag: str, content: bytes) -> None:
        layer = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self.tags[layer] = content
        annotations = described_as(tag)
        described = {"mediaType": DISK, "digest": layer, "size": len(content)}
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": "application/vnd.egi.image",
            "config": {"mediaType": "application/json", "digest": layer, "size": 2},
            "layers": [described | {"annotations": annotations}],
        }
        made = json.dumps(manifest).encode()
        self.tags[tag] = f"sha256:{hashlib.sha256(made).hexdigest()}".encode()
        self.tags[self.tags[tag].decode()] = made

    def answer(self, path: str) -> Reply:
        if self.status:
            return Reply(self.status)
        if path.startswith(f"/api/v2.0/projects/{PROJECT}/repositories?"):
            return _json([{"name": REPOSITORY}])
        if path.startswith(f"/api/v2.0/projects/{PROJECT}/repositories/ubuntu/"):
            tags = {tag: found.decode() for tag, found in self.tags.items() if ":" not in tag}
            return _json(
                [{"digest": found, "tags": [{"name": tag}]} for tag, found in tags.items()]
            )
        content = self.tags.get(path.rpartition("/")[2])
        return Reply(404) if content is None else Reply(200, content)


def _json(found: object) -> Reply:
    return Reply(200, json.dumps(found).encode())


@pytest.fixture
def registry() -> Registry:
    made = Registry()
    made.push("24.04", RAW)
    return made


@pytest.fixture
def egi(site: ImageSite, authority: Authority, registry: Registry) -> Iterator[Frontend]:
    """Yield a frontend that has synchronised the image of a registry."""
    host = authority.find("localhost") or authority.issue("localhost", key="ec")
    with harbor.serve(host, signer=host) as front, site.backend.running():
        front.faults.append(registry.answer)
        made = Frontend(site, front, site.backend.endpoint)
        made.configure()
        made.sync()
        yield made


def test_a_registry_that_denies_or_lacks_the_project(egi: Frontend, registry: Registry) -> None:
    """C60.e, C60.f and C60, with the line of the source."""
    assert egi.find() == []
    for status, row, words in (
        (401, "C60.e", "robot account"),
        (404, "C60.f", "no such project or repository"),
        (500, "C60", "answers 500"),
    ):
        registry.status = status
        found = egi.the_one()
        assert place(found) == (row, egi.sources, 3)
        assert words in found.text
    registry.status = 0
    egi.configure("repositories: [debian]")
    assert place(egi.the_one()) == ("C60.f", egi.sources, 3)
    egi.configure()
    assert egi.find() == []


def test_a_registry_that_cannot_be_reached_or_is_not_trusted(
    egi: Frontend, authority: Authority, tmp_path: Path
) -> None:
    """C06.c, C60.b."""
    assert egi.harbor
    host, egi.harbor.host = egi.harbor.host, "localhost:1"
    egi.configure()
    assert place(egi.the_one()) == ("C06.c", egi.sources, 3)
    egi.harbor.host = host
    egi.configure()
    Authority.create(tmp_path / "foreign", key="ec").publish(tmp_path / "others")
    text, usual = egi.config.read_text(), str(authority.directory / "certificates")
    egi.config.write_text(text.replace(usual, str(tmp_path / "others")))
    found = egi.the_one()
    assert place(found) == ("C60.b", egi.sources, 3)
    assert "the server's certificate is not trusted" in found.text
    egi.config.write_text(text)
    assert egi.find() == []


def test_an_image_without_a_signature(egi: Frontend, tmp_path: Path) -> None:
    """C60.b."""
    key = KeyPair.create(tmp_path, "publisher")
    egi.configure(f"signing_key: {key.public}")
    found = egi.the_one()
    assert place(found) == ("C60.b", egi.sources, 3)
    assert f"image {REFERENCE} is refused" in found.text
    assert found.text.count("ask who publishes it to sign sha256:") == 1
    egi.configure()
    assert egi.find() == []


@pytest.mark.long
def test_tags_that_go_back_or_are_gone(egi: Frontend, registry: Registry) -> None:
    """C60.c, C60.f, C63.a; a new image that no sync has seen is no fault."""
    old = dict(registry.tags)
    registry.push("24.04", RAW[:-1] + b"2")
    new = dict(registry.tags)
    assert egi.find() == []
    egi.sync()
    registry.tags = old
    found = egi.the_one()
    assert place(found) == ("C60.c", egi.sources, 3)
    assert f"cloudkeeper trust {egi.harbor and egi.harbor.host}/{REFERENCE}" in found.text
    registry.tags = {}
    found = egi.the_one()
    assert place(found) == ("C60.f", egi.sources, 3)
    assert not found.is_error
    assert f"no longer has {REFERENCE}" in found.text
    registry.tags = new
    assert egi.find() == []
    egi.site.glance.images.clear()
    assert place(egi.the_one()) == ("C63.a", egi.sources, 3)
    egi.sync()
    assert egi.find() == []


def test_sources_that_hang_cost_their_limit_together(
    egi: Frontend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C60: ten sources that never answer end with the first one's limit."""
    monkeypatch.setattr(live_check, "READ", 0.6)
    release = threading.Event()

    def hangs(_: str) -> Reply:
        release.wait(30)
        return Reply(503)

    assert egi.harbor
    egi.harbor.faults.insert(0, hangs)
    text = egi.sources.read_text().partition("egi:\n")[2]
    egi.sources.write_text("".join(f"s{number}:\n{text}" for number in range(10)))
    # A busy machine may be late with the backend, too.
    found = [one for one in egi.find() if one.identifier != "C61"]
    assert [one.identifier for one in found] == ["C60"] * 10
    assert len({one.line for one in found}) == 10
    assert not release.is_set()  # nobody waited for an answer
    release.set()
