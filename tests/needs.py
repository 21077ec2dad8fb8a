"""A plugin of pytest: which tests are quick, and preparing what the others need.

    pytest -p tests.needs --quick [PATH …]    only tests that need nothing but Python packages
    pytest -p tests.needs --quick --short …   of these, without those that take long
    pytest -p tests.needs --prepare …         prepares what the selected tests need, and no more

Whoever is not root runs no test that needs root, with either option; a line counts those left out.

A test's folder and its markers, which pyproject.toml lists, say what it needs. Quick tests may use
openssl and the like where they are installed, and root's rights where they have them; none of them
may start another program of a Debian package.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

_TESTS = Path(__file__).resolve().parent
QUICK_FOLDERS = ("unit", "property", "wire")
_NEEDY = frozenset({"broker", "cloud", "container", "glance", "matrix", "timed", "vm"})
"""Markers that keep a test out of the quick ones."""
_OF_ROOT = frozenset({"container", "root", "vm"})
"""Markers of tests that only root can run: an engine needs root, too."""
_ROWS = {
    "cloud": {"broker", "cloud"},
    "glance": {"glance"},
    "unnamed": {"unnamed"},
    "containers": {"container", "vm"},
}
"""Tests that run one after the other, by their markers; of several rows, a test is of the first."""
_DEBIAN_PROGRAMS = frozenset(
    {
        "activemq", "bzip2", "docker", "docker-registry", "ip", "ldapmodify", "ldapsearch",
        "logrotate", "mmdebstrap", "nginx", "openssl", "qemu-img", "slapadd", "slapd", "strace",
        "systemd-analyze", "systemd-tmpfiles", "xz", "zstd",
    }
)  # fmt: skip
"""Programs of the packages that scripts/test installs."""

_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
"""Where programs are found; Debian's users have no sbin in theirs."""

_left = pytest.StashKey[int]()
_of_root = pytest.StashKey[int]()
_named: set[str] = set()
"""The programs that the running test names."""
_running = ""
"""The row of the running test."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("needs")
    group.addoption("--quick", action="store_true", help="only tests that need only Python")
    group.addoption("--short", action="store_true", help="no tests that are marked as long")
    group.addoption("--memory", type=Path, help="directory in memory, for files of quick folders")
    group.addoption("--prepare", action="store_true", help="prepare what the tests need")


def pytest_configure(config: pytest.Config) -> None:
    """Find the programs of root, and watch which ones quick tests start.

    The audit hook cannot be removed again.
    """
    config.stash[_left] = config.stash[_of_root] = 0
    os.environ["PATH"] = _PATH
    if config.getoption("quick"):
        sys.addaudithook(_refuse_debian_programs)


def _refuse_debian_programs(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "subprocess.Popen":
        executable = Path(os.fsdecode(arguments[0] or arguments[1][0])).name
        if executable in _DEBIAN_PROGRAMS - _named:
            pytest.fail(f"mark this test with pytest.mark.programs({executable!r})")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Note which programs the test names, and its row."""
    global _running  # noqa: PLW0603  # pytest calls plugins that are modules
    _named.clear()
    _named.update(_programs(item))
    _running = row(item)


def is_beside_the_cloud(config: pytest.Config) -> bool:
    """Check whether the running test needs Glance while another process tests the whole cloud."""
    return bool(config.getoption("forks", 1) > 1 and _running == "glance")


def is_quick(item: pytest.Item) -> bool:
    """Check whether a test can run here as it is, and depends on no other program's pace."""
    markers = _markers(item)
    return (
        _folder(item.path) in QUICK_FOLDERS
        and _NEEDY.isdisjoint(markers)
        and (os.geteuid() == 0 or "root" not in markers)
        and all(shutil.which(name, path=_PATH) for name in _programs(item))
    )


def memory(item: pytest.Item) -> Path | None:
    """Return the directory in memory for a test's files, if it is of a quick folder."""
    place: Path | None = item.config.getoption("memory", None)
    return place if place and _folder(item.path) in QUICK_FOLDERS else None


def row(item: pytest.Item) -> str:
    """Return what a test has in common with those that run in one process, one after the other.

    A cloud's images and accounts are there once, and some tests count its requests. So are the
    machine, and names and fixed ports of containers; tests that use neither are a row of their own.
    """
    markers = _markers(item)
    for name, needed in _ROWS.items():
        if markers & needed:
            return name
    return str(item.path)


def rank(item: pytest.Item) -> tuple[int, int]:
    """Return the place of an item's row, and the item's place in it.

    Rows of several files, which are the longest ones, come first. In them, what needs the engine is
    last, because images are built and put into a bundle meanwhile; the machine needs the bundle.
    """
    names, markers = [*_ROWS], _markers(item)
    if row(item) not in names:
        return len(names), 0
    return names.index(row(item)), len(markers & {"container", "vm"})


def is_shared(item: pytest.Item) -> bool:
    """Check whether several processes may run tests of an item's row at once."""
    return row(item) not in _ROWS and _folder(item.path) != "e2e"


@cache
def _folder(path: Path) -> str:
    return path.relative_to(_TESTS).parts[0]


def _programs(item: pytest.Item) -> Iterator[str]:
    for marker in item.iter_markers("programs"):
        yield from marker.args


def _markers(item: pytest.Item) -> set[str]:
    return {marker.name for marker in item.iter_markers()}


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the quick tests, after -k and -m have chosen."""
    if config.getoption("quick"):
        skipped = {"long"} if config.getoption("short") else set()
        found = {item: is_quick(item) and skipped.isdisjoint(_markers(item)) for item in items}
        config.stash[_left] = _keep(config, items, found)
    elif config.getoption("prepare") and os.geteuid() != 0:
        found = {item: _OF_ROOT.isdisjoint(_markers(item)) for item in items}
        config.stash[_of_root] = _keep(config, items, found)


def _keep(config: pytest.Config, items: list[pytest.Item], found: dict[pytest.Item, bool]) -> int:
    """Keep what is found to be wanted; return how many tests are left out."""
    others = [item for item in items if not found[item]]
    items[:] = [item for item in items if found[item]]
    config.hook.pytest_deselected(items=others)
    return len(others)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Prepare what the selected tests need; the first failure ends the session."""
    config = session.config
    if not config.getoption("prepare") or config.getoption("collectonly"):
        return
    wanted = sorted({need for item in session.items for need in _needs(item)})
    if not wanted:
        return
    capture = config.pluginmanager.getplugin("capturemanager")
    assert capture is not None
    with capture.global_and_fixture_disabled():
        done = subprocess.run([_TESTS.parent / "scripts/prepare", *wanted], check=False)
    if done.returncode:
        pytest.exit("what the tests need is missing", returncode=done.returncode)


def _needs(item: pytest.Item) -> Iterator[str]:
    """Yield what scripts/prepare has to prepare for a test."""
    if is_quick(item):
        return
    markers = _markers(item)
    yield "packages"
    if markers & {"broker", "cloud", "glance"}:
        yield "testbed"
    if "cloud" in markers or item.path.stem.endswith("_peer"):
        yield "peer"
    if item.path.stem == "test_information_peer":
        yield "peer-information"
    if item.path.stem == "test_configure_ansible":
        yield "ansible"
    if item.path.stem == "test_vo_ansible":
        yield "ansible-openstack"
    if "container" in markers:
        yield "container"
    if item.path.is_relative_to(_TESTS / "isolation"):
        yield "isolated"
    if item.path.is_relative_to(_TESTS / "vm"):
        yield "vm"


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say in one line how many tests are left out, and why."""
    if count := config.stash[_of_root]:
        terminalreporter.write_line(f"Left to root: {count} tests; for them, run this as root.")
    if config.getoption("quick"):
        terminalreporter.write_line(
            f"Left to scripts/test: {config.stash[_left]} tests of these folders, which need root, "
            "a Debian package or more time, and tests/interop, tests/isolation and tests/e2e."
        )
