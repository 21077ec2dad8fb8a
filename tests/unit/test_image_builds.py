"""What the build says of the checkout it was made from, and when it believes that an image is there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from deploy import images
from deploy.engine import Engine


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
    monkeypatch.setattr(images, "TOP", tmp_path)
    return tmp_path


def test_the_commit_is_marked_by_every_change_that_can_get_into_an_image(checkout: Path) -> None:
    head = subprocess.run(["git", "-C", checkout, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    (checkout / ".cache").mkdir()
    (checkout / ".cache/x").touch()
    assert images.commit() == head.stdout.strip()
    (checkout / "new.py").touch()
    assert images.commit() == f"{head.stdout.strip()}-changed"


def test_without_git_the_commit_is_unknown(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setenv("PATH", str(checkout))
        assert images.commit() == "unknown"
    shutil.rmtree(checkout / ".git")
    assert images.commit() == "unknown"


def test_a_directory_inside_of_another_checkout_has_not_its_commit(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (checkout / "unpacked").mkdir()
    monkeypatch.setattr(images, "TOP", checkout / "unpacked")
    assert images.commit() == "unknown"


class _Engine(Engine):
    """An engine that has images by tag and knows nothing else."""

    held: dict[str, str]

    def docker(
        self, *arguments: str | Path, check: bool = True, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        assert (arguments[:3], check, stdin) == (("image", "inspect", "--format"), False, None)
        found = [self.held[str(name)] for name in arguments[4:] if name in self.held]
        status = int(len(found) != len(arguments[4:]))
        return subprocess.CompletedProcess([], status, "".join(f"{one}\n" for one in found), "")


def test_an_image_whose_tag_leads_to_another_one_is_built_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = _Engine(tmp_path)
    names = ["caso", "ssm"]
    ids = {name: f"sha256:{name}" for name in names}
    engine.held = {images.tag(name): ids[name] for name in names}
    monkeypatch.setattr(images, "_sources", lambda: "same")
    monkeypatch.setattr(images, "build", lambda *_: {"built": "again"})
    note = json.dumps({"sources": "same", "ids": ids})
    (tmp_path / "images.json").write_text(note)
    assert images.ensure(engine, tmp_path) == ids
    engine.held[images.tag("ssm")] = "sha256:other"
    assert images.ensure(engine, tmp_path) == {"built": "again"}
    (tmp_path / "images.json").write_text(note)
    del engine.held[images.tag("ssm")]
    assert images.ensure(engine, tmp_path) == {"built": "again"}
