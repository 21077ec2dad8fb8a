"""tests/e2e/releases.txt and CHANGELOG.md name the same releases, with commits of this history."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from appliance.core.version import __version__

TOP = Path(__file__).parents[2]
_LINE = re.compile(r"(?P<version>\d+\.\d+\.\d+) (?P<commit>[0-9a-f]{40})")


def releases() -> dict[str, str]:
    lines = (TOP / "tests/e2e/releases.txt").read_text().splitlines()
    found = [_LINE.fullmatch(line) for line in lines if not line.startswith("#")]
    assert all(found), lines
    return {match["version"]: match["commit"] for match in found if match}


def git(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *words], cwd=TOP, capture_output=True, text=True, check=False)


def test_each_release_is_a_commit_of_its_version() -> None:
    """A clone without history, as CI may make one, has no commit to compare."""
    has_history = git("rev-parse", "--is-shallow-repository").stdout == "false\n"
    for version, commit in releases().items() if has_history else ():
        shown = git("show", f"{commit}:appliance/core/version.py")
        assert shown.returncode == 0, f"{version}: {shown.stderr}"
        assert f'__version__ = "{version}"' in shown.stdout


def test_each_release_has_its_section_in_the_changelog() -> None:
    text = (TOP / "CHANGELOG.md").read_text()
    sections = re.findall(r"^## (\S+) \(\d{4}-\d\d-\d\d\)$", text, re.MULTILINE)
    assert set(releases()) <= set(sections)
    assert not sections or sections[0] == __version__
