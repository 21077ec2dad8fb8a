"""Attempts and the pauses between them."""

from __future__ import annotations

from itertools import islice

import pytest

from appliance.core import retry


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    seconds: list[float] = []
    monkeypatch.setattr(retry, "_sleep", seconds.append)
    return seconds


def test_an_action_that_succeeds_is_done_once(waited: list[float]) -> None:
    done = iter([1, 2])
    found = retry.call(
        lambda: next(done), on=ValueError, attempts=4, longest=8, decide=lambda _, pause: pause
    )
    assert (found, next(done), waited) == (1, 2, [])


def test_pauses_grow_until_the_last_attempt_fails(waited: list[float]) -> None:
    tried: list[int] = []

    def action() -> None:
        tried.append(1)
        raise ValueError(len(tried))

    with pytest.raises(ValueError, match="5"):
        retry.call(action, on=ValueError, attempts=5, longest=4, decide=lambda _, pause: pause)
    assert len(tried) == 5
    for seconds, longest in zip(waited, (1, 2, 4, 4), strict=True):
        assert longest / 2 <= seconds <= longest


@pytest.mark.parametrize("error", [KeyError("other kind"), ValueError("not worth it")])
def test_an_error_that_time_does_not_heal_passes(waited: list[float], error: Exception) -> None:
    def action() -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        retry.call(action, on=ValueError, attempts=4, longest=8, decide=lambda *_: None)
    assert raised.value is error
    assert waited == []


def test_a_decision_may_skip_the_pause(waited: list[float]) -> None:
    outcomes = iter([ValueError("a"), ValueError("b"), None])

    def action() -> str:
        if error := next(outcomes):
            raise error
        return "done"

    assert retry.call(action, on=ValueError, attempts=3, longest=8, decide=lambda *_: 0.0) == "done"
    assert waited == [0.0, 0.0]


def test_pauses_have_no_end_and_differ() -> None:
    limits = (1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300)
    for seconds, longest in zip(islice(retry.pauses(), 12), limits, strict=True):
        assert longest / 2 <= seconds <= longest
    assert next(retry.pauses()) != next(retry.pauses())
