"""Batches: each message exactly once. `tests/e2e/test_batch_killed.py` kills real ones."""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from dirq.QueueSimple import QueueSimple

from caso.checkpoint import Checkpoints
from caso.kinds import cloud as wire
from caso.kinds.kind import UsageRecord
from caso.messengers.batch import Staging
from tests import foreign
from tests.wire.records import ADDRESSES

OCTOBER, NOVEMBER = datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC)
MOMENT = datetime(2026, 11, 22, 7, 0, 0, tzinfo=UTC)
compose = partial(wire.message, version="0.4")


class Site:
    def __init__(self, root: Path) -> None:
        self.checkpoints = Checkpoints(root / "caso")
        self.spool = root / "spool"
        self.staging = Staging(self.spool, self.checkpoints)
        self.written: list[tuple[bytes, int]] = []

    def note(self, sha256: bytes, records: Sequence[UsageRecord]) -> None:
        self.written.append((sha256, len(records)))

    def commit(self, project: str = "p1", records: int = 5, moment: datetime = MOMENT) -> Path:
        batch = self.staging.begin(project, compose=compose, size=2, written=self.note)
        for number in range(records):
            month = OCTOBER if number % 2 else NOVEMBER
            batch.add(f"VMUUID: {number}", month=month, record=ADDRESSES)
        batch.seal(self.checkpoints.later([project], moment))
        batch.commit()
        return batch.directory

    def messages(self) -> list[str]:
        """Return the messages that a sender with the dirq library finds, in its order."""
        found = []
        queue = QueueSimple(str(self.spool))
        for name in queue:
            assert queue.lock(name)
            found.append(queue.get(name).decode())
            queue.unlock(name)
        return found

    def leftovers(self) -> list[Path]:
        return [path for path in self.staging.path.rglob("*") if path.is_file()]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


WANTED = [
    "APEL-cloud-message: v0.4\nVMUUID: 1\n%%\nVMUUID: 3\n",
    "APEL-cloud-message: v0.4\nVMUUID: 0\n%%\nVMUUID: 2\n",
    "APEL-cloud-message: v0.4\nVMUUID: 4\n",
]


def test_oldest_month_first_and_the_checkpoint_last(site: Site) -> None:
    assert site.staging.hand_over(site.commit()) == 3
    assert site.messages() == WANTED
    assert site.checkpoints.find(["p1"]).moment == MOMENT
    assert site.leftovers() == []
    assert site.staging.recover().messages == 0


def test_each_message_is_named_by_its_digest(site: Site) -> None:
    site.staging.hand_over(site.commit())
    digests = {hashlib.sha256(text.encode()).digest(): text for text in site.messages()}
    assert {digest: digests[digest].count("VMUUID") for digest, _ in site.written} == dict(
        site.written
    )
    assert len(site.written) == 3


def test_a_sealed_batch_is_not_committed(site: Site) -> None:
    batch = site.staging.begin("p1", compose=compose, size=1, written=site.note)
    batch.add("VMUUID: 1", month=NOVEMBER, record=ADDRESSES)
    batch.seal({})
    assert site.staging.pending() == []
    assert site.staging.recover().messages == 0
    assert site.leftovers() == []


def test_a_directory_of_the_spool_that_is_none_is_passed_over_and_named_once(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """F-H1: the producer's side."""
    minute = int(time.time()) // 60 * 60
    site.spool.mkdir()
    odd = [site.spool / f"{moment:08x}" for moment in (minute, minute + 60)]
    for path in odd:
        path.touch()
    assert sum(site.staging.hand_over(site.commit(project)) for project in ("p1", "p2")) == 6
    named = [
        message
        for message in caplog.messages
        if "skipped: is a file; if nobody needs it: rm " in message
    ]
    assert 1 <= len(named) == len(set(named)) <= 2
    for path in odd:
        path.unlink()  # dirq itself does not pass them by
    assert site.messages() == [*WANTED, *WANTED]


def test_an_uncommitted_batch_is_forgotten(site: Site) -> None:
    batch = site.staging.begin("p1", compose=compose, size=1, written=site.note)
    batch.add("VMUUID: 1", month=NOVEMBER, record=ADDRESSES)
    assert site.messages() == []
    assert site.staging.pending() == []
    assert site.staging.recover().messages == 0
    assert site.leftovers() == []
    assert site.checkpoints.find(["p1"]).moment is None


def test_a_committed_batch_is_finished_by_the_next_run(site: Site) -> None:
    site.commit()
    assert site.staging.pending() == ["p1"]
    assert site.messages() == []
    assert site.staging.recover().messages == 3
    assert site.messages() == WANTED
    assert site.checkpoints.find(["p1"]).moment == MOMENT


def test_recovery_does_not_move_a_checkpoint_back(site: Site) -> None:
    site.commit()
    site.checkpoints.write({"lastrun.p1": str(MOMENT + timedelta(days=1))})
    site.staging.recover()
    assert site.checkpoints.find(["p1"]).moment == MOMENT + timedelta(days=1)


def test_killed_after_the_manifest_went(site: Site) -> None:
    directory = site.commit(records=0)
    (directory / "manifest.json").unlink()
    assert site.staging.recover().messages == 0
    assert not directory.exists()


def test_a_manifest_names_only_checkpoints(site: Site, tmp_path: Path) -> None:
    directory = site.commit(records=0)
    wanted = {"../evil": "x", "lastrun./../evil": "x", "lastrun.p1": str(MOMENT)}
    (directory / "manifest.json").write_text(json.dumps({"checkpoints": wanted}))
    site.staging.recover()
    assert [path.name for path in site.checkpoints.directory.iterdir()] == ["lastrun.p1"]


def test_a_broken_manifest_is_one_line(site: Site) -> None:
    directory = site.commit()
    (directory / "manifest.json").write_text('{"checkpoints": {"lastrun.p1": "soon"}}')
    site.commit(project="p2")
    found = site.staging.recover()
    assert str(found.stuck["p1"]).startswith(
        f"{directory}/manifest.json: is broken; remove this file"
    )
    assert found.stuck.keys() == {"p1"}
    assert found.messages == 3  # those of p1 are in the spool too, but its batch is not finished
    assert site.checkpoints.find(["p2"]).moment == MOMENT


@pytest.mark.root
def test_foreign_names_hold_back_their_own_project_at_most(site: Site) -> None:
    """F-H1: committed batches are handed over, other things are reported."""
    site.commit(project="p2")
    made = foreign.make(site.staging.path, prefix="q-")
    foreign.make(site.staging.path, prefix="r-", suffix=".new")
    found = site.staging.recover()
    assert site.messages() == WANTED
    assert site.checkpoints.find(["p2"]).moment == MOMENT
    assert len(made) == len(foreign.NAMES)
    # Directories that can be read are taken for empty batches; the others are put aside, and named
    # each time.
    aside = {f"{path.name}.foreign" for path in made} - {"q-directory.foreign", "q-locked.foreign"}
    for _ in range(2):
        left = {path.name for path in site.staging.path.iterdir()}
        assert {name for name in left if name.startswith("q-")} == aside
        assert {name for name in left if name.startswith("r-")} == {
            name.replace("q-", "r-") for name in aside
        }
        assert not found.stuck
        assert len(found.foreign) == len(left)
        assert all("; look at it, then: rm -r " in str(line) for line in found.foreign)
        found = site.staging.recover()
    assert site.staging.pending() == []


def test_a_batch_with_foreign_files_is_handed_over_all_the_same(site: Site) -> None:
    """F-H1: they stay, are named by each run, and hold back nothing."""
    directory = site.commit()
    made = foreign.make(directory)
    assert site.staging.recover().messages == 3
    assert site.messages() == WANTED
    assert site.checkpoints.find(["p1"]).moment == MOMENT
    assert not directory.exists()
    for _ in range(2):
        found = site.staging.recover()
        [line] = found.foreign
        aside = f"{directory}.foreign"
        assert (
            str(line) == f"{aside}: another program made it, or a file in it; look at it, "
            f"then: rm -r {aside}"
        )
        assert not found.stuck
    assert len(list(Path(f"{directory}.foreign").iterdir())) == len(made)
    assert site.staging.hand_over(site.commit()) == 3


@pytest.mark.root
def test_a_directory_of_root_stops_one_project(site: Site) -> None:
    """F-H1: 0700 and root's, in the place of a batch, seen by the account of the containers."""
    with foreign.open_to_all() as root:
        area = Staging(root / "spool", Checkpoints(root / "state"))
        foreign.make(area.path)
        for path in (root / "spool", area.path.parent, area.path, root):
            path.chmod(0o777)
        code = (
            "from pathlib import Path; from caso.messengers.batch import Staging\n"
            "from caso.checkpoint import Checkpoints\n"
            f"found = Staging(Path({str(root / 'spool')!r}), "
            f"Checkpoints(Path({str(root / 'state')!r}))).recover()\n"
            "print(found.stuck); print(sorted(map(str, found.foreign)))"
        )
        (area.path / "p.new").mkdir(mode=0o700)
        said, aside = foreign.as_nobody(code).splitlines()
        assert (
            f"/locked: skipped: permission denied (a directory of user {os.geteuid()}, mode "
            "0700); chown -R" not in said
        )
        assert said.count("LocalFailure") == 1
        assert "locked" in said
        assert "/p.foreign" in aside  # it was no batch yet, so its project goes on


def test_two_configurations_may_share_a_spool(site: Site, tmp_path: Path) -> None:
    other = Staging(site.spool, Checkpoints(tmp_path / "other"))
    site.commit()
    assert other.recover().messages == 0
    assert site.staging.pending() == ["p1"]


def test_a_full_message_does_not_wait_in_memory(site: Site) -> None:
    batch = site.staging.begin("p1", compose=compose, size=2, written=site.note)
    for number in range(7):
        batch.add(f"VMUUID: {number}", month=NOVEMBER, record=ADDRESSES)
    assert batch.messages == 3
    batch.discard()
    assert site.leftovers() == []
