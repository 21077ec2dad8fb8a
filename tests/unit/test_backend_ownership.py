"""The id of a backend, the work of its calls, and the limit of a run's removals."""

import json
import uuid
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import timedelta
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
    made, soon = Ownership(tmp_path), timedelta(milliseconds=20)
    with made.claim("it"), made.claim("another"):
        for _ in range(2):
            with (
                pytest.raises(Failed, match="it: another call is still working on it"),
                made.claim("it", longest=soon),
            ):
                pass
    with made.claim("it"):
        pass


def test_a_call_waits_for_the_one_before(tmp_path: Path) -> None:
    """The next run's call, while that of a killed frontend is still ending."""
    made, order = Ownership(tmp_path), list[str]()

    def second() -> None:
        with made.claim("it"):
            order.append("second")

    with ThreadPoolExecutor(1) as pool:
        with made.claim("it"):
            waiting = pool.submit(second)
            assert not wait([waiting], timeout=0.1).done
            order.append("first")
        waiting.result(30)
    assert order == ["first", "second"]


def test_a_call_that_is_no_longer_wanted_does_not_wait(tmp_path: Path) -> None:
    made = Ownership(tmp_path)
    with (
        made.claim("it"),
        pytest.raises(Failed, match="still working"),
        made.claim("it", is_wanted=lambda: False),
    ):
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
