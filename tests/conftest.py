"""Fixtures that several kinds of tests share: the test bed's cloud and broker, and a throw-away authority."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.testbed import Authority, Testbed
from tests.testbed.broker import Broker

_TOP = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def instance() -> Iterator[Testbed]:
    """The test bed, started as far as other fixtures need it; at the end as it was before, unless it is to be kept."""
    state = Path(os.environ.get("FEDCLOUD_TESTBED_STATE") or _TOP / ".cache/testbed/tests")
    testbed = Testbed(state, int(os.environ.get("FEDCLOUD_TESTBED_PORT_BASE") or 26000))
    was_running = testbed.running()
    yield testbed
    if not was_running and not os.environ.get("FEDCLOUD_TESTBED_KEEP"):
        testbed.down()


@pytest.fixture(scope="session")
def testbed(instance: Testbed) -> Testbed:
    """Return the test bed with cloud and broker up, and seeded."""
    instance.up()
    instance.seed()
    return instance


@pytest.fixture(scope="session")
def broker(instance: Testbed) -> Broker:
    """Return the broker, up, with whatever messages earlier tests left."""
    instance.up(["broker"])
    return instance.broker


@pytest.fixture
def pki(tmp_path: Path) -> Authority:
    """Return a certificate authority of this test's own."""
    return Authority.create(tmp_path / "authority")
