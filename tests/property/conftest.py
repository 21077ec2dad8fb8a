"""How many examples a property is tried with: a quarter of them in a quick run, all of them in CI.

No example has a time limit: hypothesis' own, a fifth of a second, fails on a loaded machine.
"""

from __future__ import annotations

import pytest
from hypothesis import settings


def pytest_configure(config: pytest.Config) -> None:
    """Choose the number of examples of tests that name none."""
    settings.register_profile("all", deadline=None)
    settings.register_profile("quick", deadline=None, max_examples=25)
    settings.load_profile("quick" if config.getoption("quick", default=False) else "all")
