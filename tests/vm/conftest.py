"""The image that all machines of these tests boot."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
BUILT = TOP / ".cache/vm-image/fedcloud.qcow2"


@pytest.fixture(scope="session")
def image() -> Path:
    """Return the disk: that of FEDCLOUD_VM_DISK, else one that is built from this checkout."""
    if given := os.environ.get("FEDCLOUD_VM_DISK"):
        return Path(given)
    if not BUILT.exists():
        BUILT.parent.mkdir(parents=True, exist_ok=True)
        options: list[str | Path] = ["--unsigned", "--into", BUILT.parent]
        bundle = _last_line([TOP / "scripts/build", *options])
        Path(_last_line([TOP / "scripts/build-image", *options, bundle])).rename(BUILT)
    return BUILT


def _last_line(command: list[str | Path]) -> str:
    return subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True
    ).stdout.splitlines()[-1]
