"""Fixtures of end-to-end tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from deploy import images
from deploy.dockerd import DockerDaemon
from tests import warm
from tests.e2e.images_cloud import Cloud
from tests.e2e.ledger_site import CasoPrograms
from tests.e2e.vm_site import Appliance, booted
from tests.testbed import Testbed
from tests.testbed.vm import Machine

TOP = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def cloud(instance: Testbed) -> Cloud:
    """Return Keystone and Glance of the test bed, with projects for images."""
    return Cloud.up(instance)


@pytest.fixture(scope="session")
def engine() -> Iterator[DockerDaemon]:
    """Return an engine that has the images of this checkout."""
    engine = DockerDaemon(Path(os.environ.get("FEDCLOUD_ENGINE") or TOP / ".cache/docker"))
    with engine.used():
        images.ensure(engine, TOP / ".cache/deploy")
        yield engine


@pytest.fixture(scope="session")
def machine(engine: DockerDaemon) -> Iterator[Machine]:
    """Return a booted machine without network; below /media is a signed bundle of this checkout."""
    with booted(engine) as machine:
        yield machine


@pytest.fixture(scope="module")
def new_machine(engine: DockerDaemon) -> Iterator[Machine]:
    """Return a machine for the tests of one file, which leave it with another release."""
    with booted(engine) as machine:
        yield machine


@pytest.fixture(scope="session")
def appliance(machine: Machine, testbed: Testbed) -> Appliance:
    """Return the installed appliance, configured for the test bed, with nothing started."""
    return Appliance.install(machine, testbed)


@pytest.fixture(scope="session")
def caso_programs() -> CasoPrograms:
    """Return the programs of accounting, which start without their imports."""
    entries = {"caso-extract": "caso.cmds.extract:main", "caso": "caso.cmds.control:main"}
    return {name: partial(warm.start, entry) for name, entry in entries.items()}
