from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from appliance.core.run.errors import LocalFailure
from caso.checkpoint import Checkpoints
from tests import foreign

MOMENT = datetime(2026, 11, 22, 7, 22, 42, 712270, tzinfo=UTC)


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path)


def put(checkpoints: Checkpoints, name: str, text: str | bytes) -> None:
    (checkpoints.directory / name).write_bytes(text if isinstance(text, bytes) else text.encode())


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-22 07:22:42.712270+00:00",
        "2026-11-22 07:22:42.712270+00:00\n",
        "2026-11-22T08:22:42.712270+01:00",
        "2026-11-22T07:22:42.712270Z",
        "2026-11-22 07:22:42.712270",
    ],
)
def test_forms_of_a_time(text: str, checkpoints: Checkpoints) -> None:
    put(checkpoints, "lastrun.ops", text)
    assert checkpoints.find(["ops"]).moment == MOMENT


@pytest.mark.parametrize("text", ["2026-11-22", "2026-11-22T00:00", "2026-11-22 00:00:00+00:00"])
def test_a_day_is_enough(text: str, checkpoints: Checkpoints) -> None:
    put(checkpoints, "lastrun.ops", text)
    assert checkpoints.find(["ops"]).moment == datetime(2026, 11, 22, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "2026",
        "2026-1",
        "2026-11-2",
        "2026-11-22 0",
        "10",
        "yesterday",
        b"\0" * 32,
        b"\xff",
        "0001-01-01 00:00:00+14:00",
    ],
)
def test_a_truncated_time_is_never_read_as_another(
    text: str | bytes, checkpoints: Checkpoints
) -> None:
    put(checkpoints, "lastrun.ops", text)
    with pytest.raises(LocalFailure) as caught:
        checkpoints.find(["ops"])
    assert str(caught.value).startswith(
        f"{checkpoints.directory}/lastrun.ops: has no time from which to go on; write"
    )


def test_a_broken_file_has_a_twin(checkpoints: Checkpoints) -> None:
    put(checkpoints, "lastrun.ops", "")
    put(checkpoints, "lastrun.0a1b", str(MOMENT))
    put(checkpoints, "lastrun", "2017-08-30 09:14:05.318273+00:00")
    found = checkpoints.find(["ops", "0a1b"])
    assert (found.moment, found.broken) == (MOMENT, (checkpoints.directory / "lastrun.ops",))


def test_a_broken_file_is_not_answered_with_the_old_common_one(checkpoints: Checkpoints) -> None:
    put(checkpoints, "lastrun.ops", "")
    put(checkpoints, "lastrun", "2017-08-30 09:14:05.318273+00:00")
    with pytest.raises(LocalFailure):
        checkpoints.find(["ops"])


def test_the_first_name_counts_then_the_common_file_then_nothing(checkpoints: Checkpoints) -> None:
    assert checkpoints.find(["ops"]).moment is None
    put(checkpoints, "lastrun", "2017-08-30 09:14:05.318273+00:00")
    assert checkpoints.find(["ops"]).moment == datetime(2017, 8, 30, 9, 14, 5, 318273, tzinfo=UTC)
    put(checkpoints, "lastrun.0a1b", "2026-01-01")
    put(checkpoints, "lastrun.ops", "2025-01-01")
    found = checkpoints.find(["ops", "0a1b"]).moment
    assert found
    assert found.year == 2025


def test_no_checkpoint_moves_back(checkpoints: Checkpoints) -> None:
    put(checkpoints, "lastrun.ops", str(MOMENT))
    earlier, later = MOMENT - timedelta(days=3), MOMENT + timedelta(hours=1)
    assert checkpoints.later(["ops", "0a1b", "ops"], earlier) == {"lastrun.0a1b": str(earlier)}
    wanted = checkpoints.later(["ops"], later)
    assert wanted == {"lastrun.ops": "2026-11-22 08:22:42.712270+00:00"}
    put(checkpoints, "lastrun.ops", str(later + timedelta(days=1)))  # somebody was faster
    checkpoints.write(wanted)
    assert checkpoints.find(["ops"]).moment == later + timedelta(days=1)


def test_names_that_no_file_can_have(checkpoints: Checkpoints) -> None:
    assert checkpoints.later(["a/b", "", "x" * 300, "id"], MOMENT) == {"lastrun.id": str(MOMENT)}
    assert checkpoints.find(["a/b"]).moment is None


def test_files_are_readable_for_the_peer(checkpoints: Checkpoints) -> None:
    checkpoints.write(checkpoints.later(["ops"], MOMENT))
    path = checkpoints.directory / "lastrun.ops"
    assert path.read_text() == "2026-11-22 07:22:42.712270+00:00"
    assert path.stat().st_mode & 0o444 == 0o444


def test_foreign_names_are_no_checkpoints_and_the_twin_counts(checkpoints: Checkpoints) -> None:
    """F-H1: a pipe with the name of a checkpoint held up all projects."""
    made = foreign.make(checkpoints.directory, prefix="lastrun.")
    put(checkpoints, "lastrun.id", "2026-11-22")
    for path in made:
        name = path.name.removeprefix("lastrun.")
        if not name.isprintable():
            continue  # JSON cannot contain such a name
        if "dangling" in name:  # leads to no file: there is no checkpoint
            assert checkpoints.find([name]).moment is None
            continue
        with pytest.raises(LocalFailure, match=r"skipped: .*; "):
            checkpoints.find([name])
        found = checkpoints.find([name, "id"])
        assert found.moment == datetime(2026, 11, 22, tzinfo=UTC)
        assert len(found.unreadable) == 1
    later = checkpoints.later(["directory", "pipe", "id"], MOMENT)
    checkpoints.write(later)
    assert checkpoints.find(["pipe"]).moment == checkpoints.find(["id"]).moment == MOMENT
    with pytest.raises(IsADirectoryError):
        checkpoints.write({"lastrun.directory": str(MOMENT)})
