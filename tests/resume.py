"""A plugin of pytest: long lists of tests in several runs, each of which ends in time.

    pytest -p tests.resume --passed FILE [--within SECONDS] …

Tests whose ids are in FILE are left out, and those that pass are added to it. After SECONDS no
further test begins, and the exit status is 75, which asks for another run.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

AGAIN = 75
"""EX_TEMPFAIL of sysexits.h."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the two options."""
    group = parser.getgroup("resume")
    group.addoption("--passed", type=Path, required=True, help="ids of the tests that have passed")
    group.addoption("--within", type=float, default=float("inf"), help="seconds for all tests")


def pytest_configure(config: pytest.Config) -> None:
    """Begin with the ids that earlier runs left."""
    config.pluginmanager.register(_Progress(config), "resume-progress")


class _Progress:
    """What has passed, in this run and before."""

    def __init__(self, config: pytest.Config) -> None:
        self._path: Path = config.getoption("passed")
        self._end = time.monotonic() + config.getoption("within")
        self._passed = set(self._path.read_text().splitlines()) if self._path.exists() else set()
        self._failed: set[str] = set()

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Leave out what has passed."""
        config.hook.pytest_deselected(items=[one for one in items if one.nodeid in self._passed])
        items[:] = [one for one in items if one.nodeid not in self._passed]

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """End the run in time; the test that was to begin has neither passed nor failed."""
        if time.monotonic() > self._end:
            pytest.exit(f"the time is over before {item.nodeid}; run it again", AGAIN)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the ids of tests of which all three phases have passed."""
        if not report.passed:
            self._failed.add(report.nodeid)
        elif report.when == "teardown" and report.nodeid not in self._failed:
            with self._path.open("a") as file:
                file.write(f"{report.nodeid}\n")
