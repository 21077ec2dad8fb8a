"""The id of a backend, the work of its calls, and the limit of a run's removals."""

import json
import uuid
from pathlib import Path

import pytest

from appliance.core.run.record import RunRecord, recorded
from cloudkeeper.backend.errors import Failed
from cloudkeeper.backend.ownership import Ownership
from cloudkeeper.backend.tally import RunTally
from cloudkeeper.model import ListId

LIST = ListId("list")


def test_the_id_stays(tmp_path: Path) -> None:
    made = Ownership(tmp_path / "state")
    assert str(uuid.UUID(made.id)) == made.id
    assert Ownership(tmp_path / "state").id == made.id
    assert (tmp_path / "state/id").read_text() == f"{made.id}\n"


@pytest.mark.parametrize("content", [b"", b"half-an-id", b"\xff\xfe"])
def test_an_id_that_cannot_be_read_is_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "id").write_bytes(content)
    made = Ownership(tmp_path)
    assert Ownership(tmp_path).id == made.id


def test_uploads_are_known_until_they_end(tmp_path: Path) -> None:
    made = Ownership(tmp_path)
    with made.upload() as first, made.upload() as second:
        assert made.uploads == {first, second}
    assert made.uploads == frozenset()


def test_only_one_may_work_on_something(tmp_path: Path) -> None:
    made = Ownership(tmp_path)
    with made.claim("it"), made.claim("another"):
        with pytest.raises(Failed, match="it: another call is working on it"), made.claim("it"):
            pass
        with pytest.raises(Failed), made.claim("it"):
            pass
    with made.claim("it"):
        pass


@pytest.mark.parametrize(
    ("there", "removed", "allowance", "is_allowed"),
    [(3, 3, 0, True), (4, 4, 0, False), (6, 3, 0, True), (8, 4, 0, True), (8, 5, 0, False),
     (9, 5, 0, False), (8, 5, 5, True), (8, 6, 5, False), (0, 0, 0, True)],
)  # fmt: skip
def test_no_more_than_half_and_no_more_than_three(
    there: int, removed: int, allowance: int, *, is_allowed: bool
) -> None:
    at_once = RunTally(RunRecord("x"), allowance=allowance)
    one_by_one = RunTally(RunRecord("x"), allowance=allowance)
    for tally in (at_once, one_by_one):
        tally.expect([LIST] * there + [ListId("other")] * 100)
    if is_allowed:
        at_once.allow_removal(LIST, removed)
        for _ in range(removed):
            one_by_one.allow_removal(LIST, 1)
        return
    with pytest.raises(Failed, match=f"{removed} of its {there} images would be removed"):
        at_once.allow_removal(LIST, removed)
    for _ in range(removed - 1):
        one_by_one.allow_removal(LIST, 1)
    with pytest.raises(Failed):
        one_by_one.allow_removal(LIST, 1)


@pytest.mark.parametrize(("failures", "status"), [([], 0), (["something"], 1)])
def test_the_record_says_whether_something_was_left(
    tmp_path: Path, failures: list[str], status: int
) -> None:
    with recorded("cloudkeeper-os", tmp_path) as opened:
        tally = RunTally(opened)
        tally.count("added", 2)
        for failure in failures:
            tally.fail(failure)
    record = json.loads((tmp_path / "cloudkeeper-os.json").read_bytes())
    assert (record["status"], record["failures"], record["counts"]) == (
        status,
        failures,
        {"added": 2},
    )
