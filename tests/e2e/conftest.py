"""Fixtures of end-to-end tests."""

from __future__ import annotations

import pytest

from tests.e2e.images_cloud import Cloud
from tests.testbed import Testbed


@pytest.fixture(scope="session")
def cloud(instance: Testbed) -> Cloud:
    """Return Keystone and Glance of the test bed, with projects for images."""
    return Cloud.up(instance)
