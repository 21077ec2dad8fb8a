"""`scripts/install` without the name of a bundle: it takes the newest one in dist/."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]


@pytest.mark.root
def test_a_tar_and_an_oci_layout_beside_a_bundle_are_no_bundles(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    shutil.copy(TOP / "scripts/install", tmp_path / "scripts")
    for version in ("1.9.0", "1.10.0"):
        bundle = tmp_path / f"dist/fedcloud-appliance-{version}"
        bundle.mkdir(parents=True)
        (bundle / "SHA256SUMS").touch()
        bundle.with_name(f"{bundle.name}.tar").touch()
        bundle.with_name(f"{bundle.name}.oci").mkdir()
    (tmp_path / "root").mkdir()
    root, script = tmp_path / "root", tmp_path / "scripts/install"
    command = ["bash", str(script), "--unsigned", "--root", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "/dist/fedcloud-appliance-1.10.0: altered or incomplete" in done.stderr
