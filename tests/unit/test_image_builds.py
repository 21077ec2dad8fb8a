"""What the build says of the checkout it was made from."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from deploy import images


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a repository of one commit, with git kept from the settings of this account."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    (tmp_path / ".gitignore").write_text("/.cache/\n")
    for words in (
        ["init", "-q"], ["add", "."],
        ["-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "-q", "-m", "x"],
    ):  # fmt: skip
        subprocess.run(["git", "-C", tmp_path, *words], check=True)
    return tmp_path


def test_the_commit_is_marked_by_every_change_that_can_get_into_an_image(checkout: Path) -> None:
    head = subprocess.run(
        ["git", "-C", checkout, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    )
    (checkout / ".cache").mkdir()
    (checkout / ".cache/x").touch()
    assert images.commit(checkout) == head.stdout.strip()
    (checkout / "new.py").touch()
    assert images.commit(checkout) == f"{head.stdout.strip()}-changed"


def test_without_git_the_commit_is_unknown(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setenv("PATH", str(checkout))
        assert images.commit(checkout) == "unknown"
    shutil.rmtree(checkout / ".git")
    assert images.commit(checkout) == "unknown"


def test_a_directory_inside_of_another_checkout_has_not_its_commit(checkout: Path) -> None:
    (checkout / "unpacked").mkdir()
    assert images.commit(checkout / "unpacked") == "unknown"
