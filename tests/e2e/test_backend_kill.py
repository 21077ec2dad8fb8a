"""`cloudkeeper-os` killed at its system calls, with a frontend that runs again."""

from __future__ import annotations

import random
import signal
import subprocess
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from cloudkeeper.wire import communicator_1x_pb2 as pb
from tests.e2e import images_cloud
from tests.e2e.images_backend import LIST, ONE, TWO, Backend, Client, Offer, SlowClient
from tests.e2e.images_cloud import Cloud
from tests.e2e.killpoints import Command, KillMatrix, environment

pytestmark = pytest.mark.glance

THREE = "5b4f1d2e-0000-4000-8000-000000000003"
SYSCALLS = (
    "write",
    "sendto",
    "sendmsg",
    "pread64",
    "fsync",
    "rename",
    "renameat",
    "mkdir",
    "unlink",
)
"""System calls that reach Glance, the frontend and the disk, and each block of an upload."""


@dataclass(frozen=True)
class Drive(Command):
    """Start the backend below strace, make a run, and stop it; end with its exit status."""

    backend: Backend | None = None
    changes: tuple[tuple[str, object], ...] = ()

    def run(self, *above: str, inside: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
        assert self.backend is not None
        backend = self.backend
        prefix = (*above, *inside)
        backend.prefix, backend.env = prefix, environment()
        try:
            backend.start()
            outcomes = self._make_run(backend.client(SlowClient))
        except (AssertionError, grpc.RpcError) as error:
            outcomes = str(error)
        status = backend.stop(signal.SIGTERM)
        if not prefix and outcomes:
            status = status or 1
        return subprocess.CompletedProcess([], status, outcomes, backend.log.read_text())

    def _make_run(self, client: Client) -> str:
        outcomes = [client.call("PreAction")]
        outcomes += [client.call(method, request) for method, request in self.changes]
        outcomes += [client.call("PostAction")]
        return "\n".join(
            f"{status} {message}" for status, message in outcomes if status != "SUCCESS"
        )


@dataclass
class Scenario:
    """One image is replaced, one is added, one of 0.9.x is removed."""

    cloud: Cloud
    root: Path

    def prepare(self) -> Drive:
        self.cloud.empty()
        backend = Backend.create(self.root / uuid.uuid4().hex, self.cloud)
        self.newer, self.added = raw(backend, "newer.raw"), raw(backend, "added.raw")
        first = str(uuid.uuid4())
        self.put(ONE, id=first, APPLIANCE_BACKEND=f"{uuid.uuid4()} {first}")
        self.put(THREE)
        removed = pb.Appliance(identifier=THREE, vo="ops", image_list_identifier=LIST)
        changes = (
            ("RemoveAppliance", removed),
            ("AddAppliance", self.added.message(identifier=TWO)),
            ("UpdateAppliance", self.newer.message()),
        )
        return Drive([], backend=backend, changes=changes)

    def put(self, identifier: str, **more: object) -> str:
        named = {"APPLIANCE_ID": identifier, "APPLIANCE_IMAGE_LIST_ID": LIST, "APPLIANCE_VO": "ops"}
        return self.cloud.put_image("img-ops", b"old", **named, APPLIANCE_STATUS="ACTIVE", **more)

    def verify(self) -> None:
        rows = {row.properties["APPLIANCE_ID"]: row for row in self.cloud.rows()}
        states = [
            (row.properties["APPLIANCE_ID"], row.state, row.status, row.os_hidden)
            for row in self.cloud.rows()
        ]
        assert sorted(states) == [(ONE, "ACTIVE", "active", 0), (TWO, "ACTIVE", "active", 0)]
        found = {
            name: images_cloud.sha512sum(self.cloud.file(row.id)) for name, row in rows.items()
        }
        assert found == {ONE: self.newer.sha512, TWO: self.added.sha512}
        assert self.cloud.files() == {row.id for row in rows.values()}


def raw(backend: Backend, name: str) -> Offer:
    path = backend.images / name
    path.write_bytes(random.Random(name).randbytes(3 * 2**20 // 2))
    return Offer(path, images_cloud.sha512sum(path), {"image": {"format": "RAW"}})


QUARTERS = [
    pytest.param(slice(first, None, 4), id=f"quarter {first}", marks=pytest.mark.matrix)
    for first in range(4)
]


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("chosen", [pytest.param(None, id="two"), *QUARTERS])
def test_killed_anywhere(cloud: Cloud, tmp_path: Path, chosen: slice | None) -> None:
    """Kill the backend at points that are counted in another run."""
    scenario = Scenario(cloud, tmp_path)
    matrix = KillMatrix(scenario.prepare, scenario.verify, syscalls=SYSCALLS)
    if chosen is None:
        matrix.run(sample=2, seed=3)
        return
    points = matrix.points()[chosen]
    missed = [point for point in points if not (matrix.interrupt(point) or matrix.interrupt(point))]
    assert len(missed) <= len(points) // 4, f"never reached: {missed}"
