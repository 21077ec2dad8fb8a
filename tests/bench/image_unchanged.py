"""Runs in which nothing has changed: many images of lists, and many artefacts of a registry.

The first run of a site fills a Glance that keeps records in memory; the second one settles what
only a second run can know; the third one is measured. Requests are counted by the servers: of
Keystone and Glance for each project, of the web server the conditional ones, and bytes of images.
Beside it stands a run with an empty list, which is the start-up of both programs: 1.7.1 with
cloudkeeper-os 0.9.9, the peer, listed all images of all projects once for each list.
"""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.image_site import Backend, Site, Taken, row
from tests.simulators import glance_memory, harbor, image_server
from tests.simulators.glance_memory import MemoryGlance
from tests.simulators.harbor import Harbor
from tests.simulators.image_lists import image
from tests.simulators.image_server import ImageServer, Ranged
from tests.testbed import oci_registry
from tests.testbed.oci_registry import TokenLogin, described_as

_PROJECTS, _IMAGES = 20, 1000
_REPOSITORIES, _ARTEFACTS = 50, 200
_REGISTRY_PROJECT = "egi_vm_images"
_SOURCES = """\
{kind}:
  type: {kind}
  registry_host: {host}
  project: {project}
  vos: [ops]
"""


@dataclass(frozen=True, slots=True)
class _Counted:
    """What the third run of a site took, and what it asked Keystone and Glance."""

    taken: Taken
    requests: Counter[str]


def _disk(site: Site) -> bytes:
    path = site.root / "small.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "64M"], check=True)
    return path.read_bytes()


def _third_run(
    site: Site, glance: MemoryGlance, backend: Backend, forget: Callable[[], None]
) -> _Counted:
    """Run three times; return what the last one took and asked, which follows ``forget``."""
    for _ in range(3):
        forget()
        glance.requests.clear()
        glance.cloud.requests.clear()
        taken = site.measure(site.sync(), backend)
    logins = {f"Keystone: {name}": number for name, number in glance.cloud.requests.items()}
    return _Counted(taken, Counter(glance.requests) + Counter(logins))


def _report(name: str, found: _Counted, idle: Taken, *, projects: int) -> None:
    used = found.taken.used
    row(f"{name}: CPU of frontend and backend", used.cpu, "s")
    row(f"{name}: CPU without a list, which is the start-up", idle.used.cpu, "s")
    row(f"{name}: wall", used.wall, "s")
    row(f"{name}: memory of the frontend", found.taken.frontend, "MiB")
    row(f"{name}: memory of the backend", found.taken.backend, "MiB")
    for request, number in sorted(found.requests.items()):
        row(f"{name}: {request}", number / projects, "a project")


def _idle(site: Site, backend: Backend) -> Taken:
    """Measure a run of a list without images, after one in which modules are loaded."""
    site.measure(site.sync(), backend)
    return site.measure(site.sync(), backend)


def _publish(site: Site, web: ImageServer, disk: bytes, vo: str, numbers: Sequence[int]) -> str:
    """Serve a signed list of images with one content; return its URL."""
    uri = web.url("/image.qcow2")
    images = [image(number, uri=uri, content=disk) for number in numbers]
    identifier = f"9d5c0a10-0000-4000-8000-{zlib.crc32(vo.encode()):012d}"
    text = site.signed(images, vo=vo, identifier=identifier)
    etag = f'"{hashlib.sha256(text).hexdigest()}"'
    return web.put(f"/{vo}/image.list", Ranged(text, etag=etag))


def measure(root: Path, *, size: int, times: int) -> None:
    """Measure 1 000 images of 20 lists, in 20 projects."""
    del size
    projects = {f"vo{number:02d}.example.org": f"p{number:02d}" for number in range(_PROJECTS)}
    site, each = Site.create(root, projects), _IMAGES // _PROJECTS
    disk = _disk(site)
    with (
        image_server.serve(None) as web,
        glance_memory.serving(*projects.values()) as glance,
        site.backend(glance.cloud.url) as backend,
    ):
        web.put("/image.qcow2", disk)
        site.configure(_publish(site, web, disk, "vo00.example.org", []))
        idle = _idle(site, backend)
        first = range(each, each * (_PROJECTS + 1), each)
        numbered = zip(projects, first, strict=True)
        site.configure(
            *(_publish(site, web, disk, vo, range(at, at + each)) for vo, at in numbered)
        )
        for _ in range(times):
            found = _third_run(site, glance, backend, web.requests.clear)
            assert len(glance.shown()) == _IMAGES
            _report("1 000 images of 20 lists", found, idle, projects=_PROJECTS)
            known = sum("If-None-Match" in headers for _, _, headers in web.requests)
            row("1 000 images of 20 lists: lists asked for if changed", known, "requests")
            others = web.asked("/image.qcow2")
            row("1 000 images of 20 lists: images asked for", others, "requests")


@contextlib.contextmanager
def _registry(site: Site) -> Iterator[Harbor]:
    """Run Debian's docker-registry behind Harbor's API, with the artefacts."""
    host = site.authority.issue("localhost", key="ec")
    signer = site.authority.issue("tokens.example.org", key="rsa")
    certificate = site.authority.certificate
    with harbor.serve(host, signer=signer) as front:
        login = TokenLogin(front.realm, certificate)
        directory = site.root / "registry"
        with oci_registry.serve(
            directory, credential=host, authority=certificate, login=login
        ) as registry:
            front.registry = registry
            front.public.add(_REGISTRY_PROJECT)
            disk = _disk(site)
            for number in range(_REPOSITORIES):
                repository = f"{_REGISTRY_PROJECT}/image{number}"
                registry.headers = front.push_headers(repository)
                for tag in map(str, range(_ARTEFACTS // _REPOSITORIES)):
                    notes = described_as(tag, description=f"Image {number}")
                    registry.push(repository, tag, disk, annotations=notes)
            yield front


def measure_registry(root: Path, *, size: int, times: int) -> None:
    """Measure 200 artefacts, by Harbor's API and by that of any registry."""
    del size
    site = Site.create(root, {"ops": "one"})
    (root / "etc/cloudkeeper").mkdir()
    sources = root / "etc/cloudkeeper/sources.yaml"
    with _registry(site) as front, image_server.serve(None) as web:
        for kind in ("harbor", "oci"):
            with (
                glance_memory.serving("one") as glance,
                site.backend(glance.cloud.url) as backend,
            ):
                sources.unlink(missing_ok=True)
                site.configure(_publish(site, web, b"", "ops", []))
                idle = _idle(site, backend)
                site.configure()
                text = _SOURCES.format(kind=kind, host=front.host, project=_REGISTRY_PROJECT)
                sources.write_text(text)
                account = sources.with_name("registry.auth")
                account.write_text(f"{front.host} {oci_registry.USER}:{oci_registry.PASSWORD}\n")
                account.chmod(0o600)
                for _ in range(times):
                    found = _third_run(site, glance, backend, front.paths.clear)
                    assert len(glance.shown()) == _ARTEFACTS
                    name = f"200 artefacts of a registry, {kind}"
                    _report(name, found, idle, projects=1)
                    for words in ("/artifacts", "/tags/list", "/manifests/", "/referrers/"):
                        row(f"{name}: {words}", front.asked(words), "requests")
                    row(f"{name}: layers asked for", front.asked("/blobs/"), "requests")
                    row(f"{name}: all of the registry", len(front.paths), "requests")
