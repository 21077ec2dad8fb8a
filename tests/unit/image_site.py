"""A frontend with one list on a web server, and a backend on a cloud in memory.

A module whose tests need one imports the fixtures `web`, `authority` and `site`.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from appliance.core import retry
from tests.e2e.images_frontend import BOOT_SECTOR, Done, run
from tests.simulators import image_server
from tests.simulators.glance_memory import MemoryGlance
from tests.simulators.image_lists import image, image_list, sign
from tests.simulators.image_server import ImageServer
from tests.testbed.pki import AUTHORITY_DN, HOST_DN, Authority
from tests.unit import backend_site
from tests.unit.backend_site import BackendSite

RAW = BOOT_SECTOR + b"block of a disk ".ljust(512, b".") * 4095
_FRONTEND = """\
cloudkeeper:
  image-lists: [{url}]
  ca-dir: {certificates}
  image-dir: {root}/images
  lock-file: {root}/lock
  formats: [qcow2, raw]
  ended-lists: remove
  logging: {{file: "", level: INFO}}
  backend:
    endpoint: {endpoint}
"""


class FileServer(Protocol):
    """A web server of files."""

    def put(self, path: str, content: bytes, /) -> str:
        """Serve ``content`` at ``path``; return the URL."""

    def url(self, path: str, /) -> str:
        """Return the URL of a path."""


@dataclass
class ServedSite:
    """A frontend, its list on a server of files, and a backend on a cloud of its own."""

    backend: BackendSite
    web: FileServer
    authority: Authority

    @property
    def root(self) -> Path:
        return self.backend.root

    @property
    def glance(self) -> MemoryGlance:
        return self.backend.glance

    @property
    def state(self) -> Path:
        return self.root / "var/lib/fedcloud/cloudkeeper-os"

    def publish(self, *images: dict[str, Any], **changes: Any) -> None:
        signer = self.authority.find("lists.example.org")
        assert signer
        dn = f"{HOST_DN}/CN=lists.example.org"
        document = image_list(images, dn=dn, ca=AUTHORITY_DN, **changes)
        self.web.put("/image.list", sign(document, signer))

    def image(self, number: int, content: bytes = RAW, **changes: Any) -> dict[str, Any]:
        uri = self.web.put(f"/{number}.img", content)
        return image(number, uri=uri, content=content, hv__format="RAW", **changes)

    def configure(self, endpoint: str = "direct") -> list[str]:
        """Write cloudkeeper.yml; return the flags that name it."""
        config = self.root / "cloudkeeper.yml"
        text = _FRONTEND.format(
            url=self.web.url("/image.list"),
            certificates=self.authority.directory / "certificates",
            root=self.root,
            endpoint=endpoint,
        )
        if endpoint == "direct":
            text += f"    config-file: {self.root}/cloudkeeper-os.conf\n"
        config.write_text(text)
        return ["--root", str(self.root), "--config", str(config)]

    def run(self, verb: str, *flags: str, endpoint: str = "direct") -> Done:
        return run(verb, *self.configure(endpoint), *flags)

    def through_grpc(self, verb: str, *flags: str) -> Done:
        with self.backend.running():
            return self.run(verb, *flags, endpoint=self.backend.endpoint)

    def record(self, program: str) -> dict[str, Any]:
        path = self.root / f"var/lib/fedcloud/runs/{program}.json"
        found: dict[str, Any] = json.loads(path.read_text())
        return {name: found[name] for name in ("status", "failures", "counts", "notes")}

    def stored(self) -> list[tuple[Mapping[str, Any], bytes]]:
        """Return images with their properties and bytes, without ids."""
        return sorted(
            (
                (_plain(found), self.glance.files.get(image_id, b""))
                for image_id, found in self.glance.images.items()
            ),
            key=lambda each: json.dumps(each[0], sort_keys=True),
        )


@dataclass
class ImageSite(ServedSite):
    """A site whose server the tests can have misbehave."""

    web: ImageServer


def _plain(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the properties of an image but for ids and times, which two clouds do not share."""
    backend, image_id = found["APPLIANCE_BACKEND"].split()
    assert image_id == found["id"]
    assert uuid.UUID(backend)
    plain: dict[str, Any] = json.loads(json.dumps(found).replace(image_id, "ID"))
    return plain | {"APPLIANCE_BACKEND": "", "created_at": "", "cloudkeeper_synced_at": ""}


@contextlib.contextmanager
def made(root: Path, web: ImageServer, authority: Authority) -> Iterator[ImageSite]:
    root.mkdir(exist_ok=True)
    with backend_site.made(root) as backend:
        yield ImageSite(backend, web, authority)


@pytest.fixture(scope="module")
def web() -> Iterator[ImageServer]:
    with image_server.serve(None) as server:
        yield server


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    found = Authority.create(tmp_path_factory.mktemp("authority") / "ca", key="ec")
    found.publish(found.directory / "certificates")
    found.issue("lists.example.org", key="ec")
    return found


@pytest.fixture
def site(
    tmp_path: Path, web: ImageServer, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ImageSite]:
    """Yield a site on a server and under an authority that the module's tests share."""
    web.requests.clear()
    monkeypatch.setattr(retry, "_sleep", lambda _: None)
    with made(tmp_path, web, authority) as found:
        yield found
