"""Fixtures of end-to-end tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import bundle, images
from deploy.engine import Engine
from tests.e2e.images_cloud import Cloud
from tests.e2e.vm_site import Appliance
from tests.testbed import Testbed
from tests.testbed.bundle import make_key
from tests.testbed.vm import Machine

TOP = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def cloud(instance: Testbed) -> Cloud:
    """Return Keystone and Glance of the test bed, with projects for images."""
    return Cloud.up(instance)


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """Return an engine that has the images of this checkout."""
    engine = Engine(Path(os.environ.get("FEDCLOUD_ENGINE") or TOP / ".cache/docker"))
    with engine.used():
        with engine.alone():
            images.ensure(engine, TOP / ".cache/deploy")
        yield engine


@pytest.fixture(scope="session")
def machine(engine: Engine) -> Iterator[Machine]:
    """Return a machine that has booted, without any network; below /media is a signed bundle of this checkout."""
    directory = TOP / f".cache/vm/{os.getpid()}"
    shutil.rmtree(directory, ignore_errors=True)
    (directory / "media").mkdir(parents=True)
    key, _ = make_key(directory)
    key.chmod(0o600)
    with engine.alone():
        bundle.make(engine, directory / "media", key=key, say=lambda _: None)
    machine = Machine.create(engine, directory, cache=TOP / ".cache/deploy")
    try:
        machine.run("systemctl", "stop", "cron")  # its hours are not the tests'
        yield machine
    finally:
        machine.destroy()


@pytest.fixture(scope="session")
def appliance(machine: Machine, testbed: Testbed) -> Appliance:
    """Return the appliance, installed from its bundle, twice, and configured for the test bed; nothing is started."""
    return Appliance.install(machine, testbed)
