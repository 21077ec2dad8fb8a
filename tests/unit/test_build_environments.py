"""Commands of scripts run modules in environments that have the libraries of these modules."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
_RUN = re.compile(r'"\$ENVS/uv/bin/python" -m (deploy[\w.]*)')
BARE = sorted({name for path in (TOP / "scripts").iterdir() if path.is_file()
               for name in _RUN.findall(path.read_text())})  # fmt: skip
"""Modules that run in the environment of the package installer, which has no library."""


@pytest.mark.parametrize("module", BARE)
def test_a_module_of_the_bare_environment_needs_no_library(module: str) -> None:
    code = f"import sys; sys.path.insert(0, {str(TOP)!r}); import {module}"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_there_are_such_modules() -> None:
    assert "deploy.images" in BARE
    assert "deploy.bundle" not in BARE
