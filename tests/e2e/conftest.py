"""Fixtures of end-to-end tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import images
from deploy.engine import Engine
from tests.e2e.images_cloud import Cloud
from tests.testbed import Testbed


@pytest.fixture(scope="session")
def cloud(instance: Testbed) -> Cloud:
    """Return Keystone and Glance of the test bed, with projects for images."""
    return Cloud.up(instance)


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """Return an engine that has the images of this checkout."""
    top = Path(__file__).resolve().parents[2]
    engine = Engine(Path(os.environ.get("FEDCLOUD_ENGINE") or top / ".cache/docker"))
    with engine.used():
        with engine.alone():
            images.ensure(engine, top / ".cache/deploy")
        yield engine
