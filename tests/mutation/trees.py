"""Copies of the checkout in which mutants live, and what its tests cover there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import coverage

from tests.mutation.targets import SHORT, TOP, Target

_PACKAGES = ("appliance", "bdii", "caso", "cloud_info_provider", "cloudkeeper", "ssm")


@dataclass(frozen=True, slots=True)
class Covered:
    """What the tests of a target do when nothing is mutated."""

    tests_of: Mapping[tuple[Path, int], frozenset[str]]
    """Ids of the tests that run a line of a module, by module and line number."""
    libraries: tuple[str, ...]
    """Modules of others that the tests import."""
    seconds: float


def copy_tree(target: Path) -> Path:
    """Copy the files that git tracks or would track; environments and caches are linked."""
    shutil.rmtree(target, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=TOP, capture_output=True, check=True,
    )  # fmt: skip
    for name in listed.stdout.decode().split("\0"):
        if name and (TOP / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(TOP / name, target / name)
    (target / ".cache").symlink_to(TOP / ".cache")
    return target


def environment(tree: Path) -> dict[str, str]:
    """Return the environment in which a program finds the packages of ``tree`` first."""
    return {
        **os.environ,
        "PYTHONPATH": str(tree),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
    }


def measure(target: Target, tree: Path) -> Covered:
    """Run the tests of a target without a mutant and note which line each of them runs.

    :raises RuntimeError: one of them fails already
    """
    data, settings, modules = tree / "covered", tree / "covered.ini", tree / "modules.json"
    include = ",".join(str(tree / source) for source in target.sources())
    settings.write_text(
        f"[run]\ndata_file={data}\ninclude={include}\n",
        encoding="utf-8",
    )
    plugin = tree / "noted_modules.py"
    plugin.write_text(_PLUGIN.format(path=str(modules), ours=_PACKAGES), encoding="utf-8")
    started = time.monotonic()
    under_coverage = [sys.executable, "-m", "coverage", "run", f"--rcfile={settings}"]
    pytest = ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "noted_modules", *SHORT]
    done = subprocess.run(
        [*under_coverage, *pytest, *target.tests],
        cwd=tree, env=environment(tree), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(
            f"the tests fail without a mutant:\n{(done.stdout + done.stderr)[-2000:]}"
        )
    seconds = time.monotonic() - started
    return Covered(_contexts(data, tree, target), tuple(json.loads(modules.read_text())), seconds)


_PLUGIN = """
import json, sys
import coverage
def pytest_runtest_setup(item):
    coverage.Coverage.current().switch_context(item.nodeid.partition("[")[0])
def pytest_sessionfinish():
    names = sorted(n for n, m in sys.modules.items() if getattr(m, "__file__", None))
    ours = {ours!r} + ("tests", "noted_modules", "conftest", "__main__", "coverage")
    names = [n for n in names if n.partition(".")[0] not in ours and not n.startswith("_pytest")]
    with open({path!r}, "w") as noted:
        json.dump([n for n in names if not n.startswith("test_")], noted)
"""


def _contexts(data: Path, tree: Path, target: Target) -> Mapping[tuple[Path, int], frozenset[str]]:
    measured = coverage.CoverageData(basename=str(data))
    measured.read()
    found: dict[tuple[Path, int], frozenset[str]] = {}
    for source in target.sources():
        lines = measured.contexts_by_lineno(str(tree / source))
        for line, contexts in lines.items():
            found[source, line] = frozenset(contexts) - {""}
        found[source, 0] = frozenset().union(*(found[source, line] for line in lines))
    return found
