"""The backend's calls behind a real gRPC server, on a cloud in memory."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from appliance.core.run.layout import Layout
from cloudkeeper.backend import settings
from cloudkeeper.backend.calls import Servicer
from cloudkeeper.backend.ownership import Ownership
from cloudkeeper.backend.protocol import NumberedService, Numbering
from tests.e2e.images_backend import Client, short_directory
from tests.simulators import glance_memory
from tests.simulators.glance_memory import MemoryGlance

_CONFIG = """\
[DEFAULT]
image_dir = {root}/images
mapping_file = {root}/mapping.json
{options}
[keystone_authtoken]
auth_url = {url}/v3
password = p
"""
PROJECTS = ("one", "two")
MAPPING = {"ops": {"project": "one"}, "biomed": {"project": "two"}}


@dataclass
class BackendSite:
    """A backend's files, its cloud, and a client; `restarted` begins a new process's life."""

    root: Path
    glance: MemoryGlance
    options: str = ""
    endpoint: str = ""
    """Of the running backend."""
    server: grpc.Server | None = None

    def configure(self, options: str = "", mapping: dict[str, Any] | None = None) -> None:
        (self.root / "images").mkdir(exist_ok=True)
        (self.root / "mapping.json").write_text(json.dumps(mapping or MAPPING))
        text = _CONFIG.format(root=self.root, options=options, url=self.glance.cloud.url)
        config = self.root / "cloudkeeper-os.conf"
        config.touch(mode=0o600)
        config.write_text(text)

    @contextlib.contextmanager
    def running(self, *, tcp: bool = False) -> Iterator[Client]:
        """Serve on a socket, or on a port of loopback."""
        path = self.root / "cloudkeeper-os.conf"
        configured = settings.load(path, layout=Layout(self.root), overrides={})
        servicer = Servicer(configured, Ownership(configured.state))
        with ThreadPoolExecutor(4) as pool:
            self.server = server = grpc.server(pool)
            NumberedService(servicer, Numbering(configured.protocol)).add_to(server)
            self.endpoint = f"unix://{short_directory()}/s"
            port = server.add_insecure_port("127.0.0.1:0" if tcp else self.endpoint)
            self.endpoint = f"127.0.0.1:{port}" if tcp else self.endpoint
            server.start()
            with grpc.insecure_channel(self.endpoint) as channel:
                yield Client(channel)
            server.stop(None).wait()
            servicer.close()

    def record(self) -> dict[str, Any]:
        path = self.root / "var/lib/fedcloud/runs/cloudkeeper-os.json"
        found: dict[str, Any] = json.loads(path.read_text())
        return found


@contextlib.contextmanager
def made(
    root: Path, *, options: str = "", projects: Sequence[str] = PROJECTS
) -> Iterator[BackendSite]:
    """Make a site on a fresh cloud."""
    with glance_memory.serving(*projects) as glance:
        site = BackendSite(root, glance)
        site.configure(options)
        yield site
