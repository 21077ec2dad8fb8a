"""What a real Glance says of a project's quota, for `cloudkeeper.backend.quota`."""

from __future__ import annotations

import pytest

from tests.e2e.images_cloud import Cloud
from tests.testbed.api import GLANCE

pytestmark = [pytest.mark.glance, pytest.mark.matrix]


def test_without_limits_of_keystone_glance_names_none(cloud: Cloud) -> None:
    assert cloud.door("img-ops").get(GLANCE, "/v2/info/usage") == {"usage": {}}
