"""`cloudkeeper-os` as its service starts it, and a client that uses the generated stubs only."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from cloudkeeper.wire import communicator_1x_pb2 as pb
from cloudkeeper.wire import communicator_1x_pb2_grpc as stubs
from tests.e2e.images_cloud import ACCOUNT, PASSWORD, Cloud, qcow2

PROGRAM = Path(sys.prefix) / "bin/cloudkeeper-os"
LIST = "7c1d2e3f-0000-4000-8000-00000000000a"
ONE = "5b4f1d2e-0000-4000-8000-000000000001"
TWO = "5b4f1d2e-0000-4000-8000-000000000002"
_REST = 0.1

_CONFIG = """\
[DEFAULT]
grpc_socket = {socket}
image_dir = {root}/var/spool/cloudkeeper/images
{options}
[keystone_authtoken]
username = {account}
password = {password}
auth_url = {auth_url}
cafile = {ca_file}
"""


@dataclass
class Backend:
    """The program on a root directory of its own."""

    root: Path
    socket: Path
    prefix: tuple[str, ...] = ()
    env: Mapping[str, str] | None = None
    process: subprocess.Popen[bytes] | None = None
    channel: grpc.Channel | None = None

    @classmethod
    def create(
        cls, root: Path, cloud: Cloud, *, mapping: dict[str, Any] | None = None, options: str = ""
    ) -> Backend:
        backend = cls(root, short_directory() / "s")
        for name in ("etc/cloudkeeper-os", "var/spool/cloudkeeper/images", "var/log"):
            (root / name).mkdir(parents=True, exist_ok=True)
        backend.config.touch(mode=0o600)
        backend.config.write_text(
            _CONFIG.format(
                socket=backend.socket,
                root=root,
                options=options,
                account=ACCOUNT,
                password=PASSWORD,
                auth_url=cloud.bed.keystone_url,
                ca_file=cloud.bed.ca_file,
            )
        )
        mapping = mapping or {
            "ops": {"tenant": "img-ops"},
            "biomed": {"project": "img-biomed", "domain": "default"},
        }
        (root / "etc/cloudkeeper-os/mapping.json").write_text(json.dumps(mapping))
        return backend

    @property
    def config(self) -> Path:
        return self.root / "etc/cloudkeeper-os/cloudkeeper-os.conf"

    @property
    def images(self) -> Path:
        return self.root / "var/spool/cloudkeeper/images"

    @property
    def log(self) -> Path:
        return self.root / "var/log/cloudkeeper-os.log"

    @property
    def command(self) -> list[str]:
        return [*self.prefix, str(PROGRAM), "--root", str(self.root)]

    def start(self) -> None:
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command, stdout=output, stderr=output, start_new_session=True, env=self.env
            )
        deadline = time.monotonic() + 30
        while not self._listens():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal to the process and its tracer; return the exit status."""
        assert self.process is not None
        if self.channel:
            self.channel.close()
            self.channel = None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)
        return self.process.wait(timeout=90)

    def client(self, kind: type[Client] | None = None) -> Client:
        self.channel = self.channel or grpc.insecure_channel(self.endpoint)
        return (kind or Client)(self.channel)

    @property
    def endpoint(self) -> str:
        return f"unix://{self.socket}"

    def record(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            (self.root / "var/lib/fedcloud/runs/cloudkeeper-os.json").read_bytes()
        )
        return found

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0


class Client:
    """Calls that return status and message from the trailing metadata."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub: Any = stubs.CommunicatorStub(channel)  # type: ignore[no-untyped-call]

    def call(self, method: str, request: object = None, **more: Any) -> tuple[str, str]:
        _, call = getattr(self._stub, method).with_call(
            Empty() if request is None else request, timeout=120, **more
        )
        return _outcome(call)

    def failure(self, method: str, request: object) -> tuple[str, dict[str, str]]:
        """Return the message and the trailing metadata of a call that fails."""
        _, call = getattr(self._stub, method).with_call(request, timeout=120)
        found = dict(call.trailing_metadata())
        assert found["status"] != "SUCCESS"
        return found["message"], found

    def stream(self, method: str, request: object = None, **more: Any) -> tuple[list[Any], str]:
        call = getattr(self._stub, method)(
            Empty() if request is None else request, timeout=60, **more
        )
        return list(call), _outcome(call)[0]

    def run(self, *changes: tuple[str, object]) -> list[tuple[str, str]]:
        """Make a whole run; return the results of the changes."""
        assert self.call("PreAction")[0] == "SUCCESS"
        outcomes = [self.call(method, request) for method, request in changes]
        assert self.call("PostAction")[0] == "SUCCESS"
        return outcomes

    def lists(self) -> set[str]:
        found, status = self.stream("ImageLists")
        assert status == "SUCCESS"
        return {item.image_list_identifier for item in found}

    def appliances(self, list_id: str = LIST, *, vo: str | None = None) -> dict[str, pb.Appliance]:
        """Return the appliances of a list, as our frontend asks for them if it sends a VO."""
        request = pb.ImageListIdentifier(image_list_identifier=list_id)
        metadata = [] if vo is None else [("vo", vo)]
        found, status = self.stream("Appliances", request, metadata=metadata)
        assert status == "SUCCESS"
        return {item.identifier: item for item in found}


class SlowClient(Client):
    """Lets the backend's thread come to rest after each call, so that one thread serves all calls.

    A point at which a program is killed is a number of calls of one thread. When threads took turns
    as they were free, half of the points of one run lay beyond the end of the next.
    """

    def call(self, method: str, request: object = None, **more: Any) -> tuple[str, str]:
        outcome = super().call(method, request, **more)
        time.sleep(_REST)
        return outcome

    def stream(self, method: str, request: object = None, **more: Any) -> tuple[list[Any], str]:
        found = super().stream(method, request, **more)
        time.sleep(_REST)
        return found


def _outcome(call: Any) -> tuple[str, str]:
    reported = dict(call.trailing_metadata())
    return reported.get("status", ""), reported.get("message", "")


@dataclass
class Offer:
    """An appliance to add: a file in the image directory, and the message about it."""

    path: Path
    sha512: str
    fields: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def make(cls, directory: Path, name: str = "one.qcow2", **fields: Any) -> Offer:
        path = directory / name
        return cls(path, qcow2(path), fields)

    def message(self, *, with_image: bool = True, **fields: Any) -> pb.Appliance:
        values: dict[str, Any] = {
            "identifier": ONE,
            "title": "Example image [Ubuntu/22.04/KVM]",
            "description": "Image of the example site, with a line break\nand UTF-8: añil",
            "mpuri": f"https://appdb.egi.eu/store/vo/image/{ONE}:7/",
            "group": "General group",
            "ram": 2147483648,
            "core": 2,
            "version": "2026.01.31",
            "architecture": "x86_64",
            "operating_system": "Linux Ubuntu 22.04",
            "vo": "ops",
            "expiration_date": 1924991999,
            "image_list_identifier": LIST,
            "attributes": {
                "dc:identifier": ONE,
                "hv:version": "2026.01.31",
                "sl:os": "Linux",
                "sl:osname": "Ubuntu",
                "sl:osversion": "22.04",
            },
        }
        values |= self.fields | fields
        if with_image:
            image: dict[str, Any] = {
                "mode": "LOCAL",
                "location": str(self.path),
                "format": "QCOW2",
                "checksum": self.sha512,
            }
            image |= {
                "size": self.path.stat().st_size,
                "uri": "https://images.example.org/one.qcow2",
            }
            values["image"] = image | dict(values.get("image", {}))
        return pb.Appliance(**values)


def short_directory() -> Path:
    """Return a new directory for sockets, whose paths must be short; it ends with this process."""
    directory = tempfile.mkdtemp(prefix="b")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return Path(directory)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def started(backend: Backend) -> Iterator[Client]:
    backend.start()
    try:
        yield backend.client()
    finally:
        backend.stop()
