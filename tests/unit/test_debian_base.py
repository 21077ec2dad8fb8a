"""F-H8: builds use the same Debian packages until --fresh, which prints the changes."""

from __future__ import annotations

import io
import re
import subprocess
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from appliance.admin.install import progress
from deploy import debian

RECIPE = [b"time stamp", b"script", b"names"]
SLAPD = "slapd 2.5.13+dfsg-5 amd64 2023-02-08"
OPENSSL = "openssl 3.0.17-1~deb12u2 amd64 2025-08-10"
NEWER = "openssl 3.0.18-1~deb12u1 amd64 2026-10-02"


class Archive:
    """What `deploy/base` makes of the archive: its packages, on a day."""

    def __init__(self) -> None:
        self.packages = [OPENSSL, SLAPD]
        self.day = "2026-09-01"
        self.asked = 0

    def make(self, directory: Path) -> None:
        self.asked += 1
        directory.mkdir()
        (directory / "packages.list").write_text("".join(f"{line}\n" for line in self.packages))
        (directory / "archive-date").write_text(f"{self.day}\n")
        (directory / "base.tar").write_text("\n".join(self.packages))


def test_a_build_stays_as_it_is_until_today_s_packages_are_asked_for(tmp_path: Path) -> None:
    archive = Archive()
    first, changes = debian.fetch(tmp_path, RECIPE, archive.make, fresh=False)
    assert (changes, first.archive, archive.asked) == ([], date(2026, 9, 1), 1)
    archive.packages, archive.day = [NEWER, SLAPD, "tzdata 2026b-0 all 2026-09-30"], "2026-10-05"
    assert debian.fetch(tmp_path, RECIPE, archive.make, fresh=False) == (first, [])
    assert archive.asked == 1
    fresh, changes = debian.fetch(tmp_path, RECIPE, archive.make, fresh=True)
    assert changes == [
        "openssl 3.0.17-1~deb12u2 -> 3.0.18-1~deb12u1 of 2026-10-02",
        "tzdata 2026b-0 of 2026-09-30 is new",
    ]
    assert (fresh.archive, fresh.directory != first.directory) == (date(2026, 10, 5), True)
    assert [str(package) for package in fresh.packages()] == archive.packages
    assert debian.fetch(tmp_path, RECIPE, archive.make, fresh=False) == (fresh, [])


def test_the_same_versions_are_the_same_base_and_younger(tmp_path: Path) -> None:
    """A build of today without any update is known to be of today, and nothing of it changes."""
    archive = Archive()
    first, _ = debian.fetch(tmp_path, RECIPE, archive.make, fresh=False)
    written = (first.directory / "base.tar").stat().st_ino
    archive.day = "2026-11-29"
    again, changes = debian.fetch(tmp_path, RECIPE, archive.make, fresh=True)
    assert (again.directory, changes, again.archive) == (first.directory, [], date(2026, 11, 29))
    assert (again.directory / "base.tar").stat().st_ino == written


def test_another_recipe_is_another_base(tmp_path: Path) -> None:
    archive = Archive()
    first, _ = debian.fetch(tmp_path, RECIPE, archive.make, fresh=False)
    other, _ = debian.fetch(tmp_path, [*RECIPE, b"one more"], archive.make, fresh=False)
    assert other.directory != first.directory
    assert archive.asked == 2


@pytest.mark.parametrize("spoil", ["{", "[]", '{"directory": "gone", "archive": "2026-09-01"}'])
def test_a_note_that_leads_nowhere_is_no_note(tmp_path: Path, spoil: str) -> None:
    archive = Archive()
    first, _ = debian.fetch(tmp_path, RECIPE, archive.make, fresh=False)
    (note,) = tmp_path.glob("*.json")
    note.write_text(spoil)
    assert debian.fetch(tmp_path, RECIPE, archive.make, fresh=False)[0] == first


def test_a_failed_look_at_the_archive_leaves_what_there_was(tmp_path: Path) -> None:
    archive = Archive()
    first, _ = debian.fetch(tmp_path, RECIPE, archive.make, fresh=False)

    def fail(directory: Path) -> None:
        directory.mkdir()
        raise OSError("no network")

    with pytest.raises(OSError, match="no network"):
        debian.fetch(tmp_path, RECIPE, fail, fresh=True)
    assert debian.fetch(tmp_path, RECIPE, archive.make, fresh=False) == (first, [])
    assert not list(tmp_path.glob(".new*"))


def test_a_package_that_went_is_named(tmp_path: Path) -> None:
    archive = Archive()
    debian.fetch(tmp_path, RECIPE, archive.make, fresh=False)
    archive.packages = [OPENSSL]
    assert debian.fetch(tmp_path, RECIPE, archive.make, fresh=True)[1] == [
        "slapd 2.5.13+dfsg-5 is no longer in the images"
    ]


def test_a_downloaded_package_has_the_day_of_its_changelog(tmp_path: Path) -> None:
    """The header of the archive that a package is: dpkg-deb writes the changelog's time there."""
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    control = (
        "Package: example\nVersion: 1:2.0-3\nArchitecture: all\nMaintainer: nobody\n"
        "Description: example\n"
    )
    (tree / "DEBIAN/control").write_text(control)
    # 2025-10-02 00:00 UTC
    environment = {"SOURCE_DATE_EPOCH": "1759363200", "PATH": "/usr/bin:/bin"}
    subprocess.run(
        ["dpkg-deb", "--build", tree, tmp_path / "a.deb"],
        check=True,
        capture_output=True,
        env=environment,
    )
    script = Path(debian.__file__).with_name("base").read_text()
    function = re.findall(r"^downloaded\(\) \{\n.*?^\}\n", script, re.MULTILINE | re.DOTALL)[0]
    command = ["bash", "-c", f"{function}downloaded {tmp_path}/a.deb"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert shown == "example 1:2.0-3 all 2025-10-02\n"


class Terminal(io.StringIO):
    """A terminal, for whoever asks."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "begin"), [(Terminal(), "\r  images"), (io.StringIO(), "  images: begins\n")]
)
def test_a_step_says_that_it_begins_and_how_long_it_took(
    stream: io.StringIO, begin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal the line is redrawn while the step runs; a file gets two lines."""
    monkeypatch.setattr(progress, "_EVERY", 0.01)
    with progress.step("images", stream=stream) as detail:
        assert stream.getvalue().startswith(begin)
        detail("caso")
        wait_for(lambda: stream.getvalue().count("images: caso") >= 3 or not stream.isatty())
    last = stream.getvalue().rstrip("\n").rpartition("\r" if stream.isatty() else "\n")[2]
    assert re.fullmatch(r"  images:? +0 s(\x1b\[K)?", last), last


def wait_for(condition: Callable[[], bool]) -> None:
    import time

    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_step_that_fails_says_so() -> None:
    stream = io.StringIO()
    with pytest.raises(ValueError, match="x"), progress.step("images", stream=stream):
        raise ValueError("x")
    assert stream.getvalue() == "  images: begins\n  images: failed\n"
