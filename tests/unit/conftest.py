"""Unit tests do without the CAs of the system, which take time at each connection."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _few_authorities(few_system_authorities: None) -> None:
    pass
