"""The id of a backend, the work of its calls, and the limit of a run's removals."""

import json
import uuid
from pathlib import Path

import pytest

from appliance.core.run.record import recorded
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
