"""A host whose earlier release has accounted: the present one sends what that would have sent.

The earlier release is its own code, from the commit in releases.txt, with its own caso.conf.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from tests.demo import counters
from tests.e2e.test_extract_kinds import MISSING, address, volume
from tests.simulators.openstack import Cloud, serving
from tests.unit.test_releases import TOP, git, releases

PROGRAMS = Path(sys.prefix) / "bin"
OUTGOING = "var/spool/apel/outgoing"
LEDGER = "var/lib/fedcloud/caso/ledger.sqlite"
_START = "import sys; from caso.cmds.extract import main; sys.exit(main())"


@pytest.fixture(scope="module", params=releases())
def earlier(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """Return the code of a release, and its shipped caso.conf."""
    commit, code = releases()[request.param], tmp_path_factory.mktemp("release")
    packed = subprocess.run(
        ["git", "archive", commit, "appliance", "caso"], cwd=TOP, capture_output=True, check=False
    )
    # A clone without history lacks the commit: git fetch --unshallow.
    assert packed.returncode == 0, packed.stderr
    subprocess.run(["tar", "-x", "-C", str(code)], input=packed.stdout, check=True)
    return code, git("show", f"{commit}:etc/caso/caso.conf").stdout


@pytest.fixture
def cloud() -> Cloud:
    made = Cloud(projects=("one",), servers=6, deleted=2, changed=1)
    made.volumes = {"one": [volume(1, "one")]}
    made.addresses = [address(1, "one", "192.0.2.1")]
    return made


def configure(root: Path, shipped: str, cloud: Cloud) -> None:
    """Fill in a shipped caso.conf as an administrator does."""
    for old, new in (
        ("SITE-NAME", "S"),
        ("PROJECT-NAMES", "one"),
        ("https://yourkeystone/v3", f"{cloud.url}/v3"),
        ("#username = accounting", "username = u"),
        ("#user_domain_name = Default", "user_domain_name = Default"),
        ("#password =", "password = p-a-s-s"),
    ):
        assert old in shipped, old
        shipped = shipped.replace(old, new)
    path = root / "etc/caso/caso.conf"
    path.parent.mkdir(parents=True)
    path.touch(mode=0o600)
    path.write_text(shipped)


def run(root: Path, *arguments: str, code: Path | None = None) -> str:
    """Run caso-extract, of this release or of the code of another one; return what it printed."""
    own = [str(PROGRAMS / "caso-extract")]
    command = own if code is None else [sys.executable, "-c", _START]
    shown = subprocess.run(
        [*command, "--root", str(root), *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env=os.environ if code is None else {**os.environ, "PYTHONPATH": str(code)},
    )
    assert shown.returncode == 0, shown.stdout + shown.stderr
    return shown.stdout + shown.stderr


def messages(root: Path) -> dict[str, str]:
    """Return all messages of all spools, oldest first."""
    found = sorted((root / OUTGOING).glob("*/????????/" + "?" * 14))
    return {str(path.relative_to(root)): path.read_text() for path in found}


def sent(root: Path, *, after: dict[str, str]) -> list[dict[str, str]]:
    """Return the fields of new records, without the name of the program that made them."""
    texts = [text for name, text in messages(root).items() if name not in after]
    found = [{**record, "CloudType": ""} for record in counters.records(texts)]
    return sorted(found, key=lambda record: (record["VMUUID"], int(record["WallDuration"])))


def test_an_upgrade_does_not_change_what_is_sent(
    earlier: tuple[Path, str], cloud: Cloud, tmp_path: Path
) -> None:
    code, shipped = earlier
    before, after = tmp_path / "before", tmp_path / "after"
    first = cloud.now - timedelta(hours=2)
    with serving(cloud):
        configure(before, shipped, cloud)
        said = run(before, "--extract-to", first.isoformat(), code=code)
        waiting = messages(before)
        assert waiting, said
        assert not (before / LEDGER).exists()
        shutil.copytree(before, after)
        run(before, "--extract-to", cloud.now.isoformat(), code=code)
        said = run(after, "--extract-to", cloud.now.isoformat())
        assert sent(after, after=waiting) == sent(before, after=waiting) != []
        assert {path.name for path in (after / OUTGOING).iterdir()} == {"openstack"}
        lastrun = "var/spool/caso/lastrun.one"
        assert (after / lastrun).read_text() == (before / lastrun).read_text()
        lines = [line for line in said.splitlines() if MISSING in line]
        assert len(lines) == 1
        assert "output_path_storage" in lines[0]

        # The ledger begins with what lies there, so what was delivered cannot shrink.
        records = sum(1 for _ in counters.records(waiting.values()))
        assert f"read again what was delivered: {records} records of messages that wait" in said
        run(after, "--extract-from", "2026-01-01", "--extract-to", first.isoformat())
        longest: dict[str, int] = {}
        for record in counters.records(messages(after).values()):
            seconds = int(record["WallDuration"])
            longest[record["VMUUID"]] = max(seconds, longest.get(record["VMUUID"], 0))
        truth = cloud.truth("one", until=cloud.now)
        assert {key: longest[key] for key in truth} == truth
