"""The rules of delivery under any sequence of events, against a model of broker and repository."""

from hypothesis import given
from hypothesis import strategies as st

from ssm.sending.window import SendWindow

STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["send", "receipt", "foreign", "break", "give up", "suspect", "hold", "release"]
        ),
        st.integers(0, 9),
    ),
    max_size=120,
)


@given(count=st.integers(1, 10), steps=STEPS)
def test_nothing_leaves_without_its_receipt_and_order_is_kept(
    count: int, steps: list[tuple[str, int]]
) -> None:
    ids = [f"m{number}" for number in range(count)]
    window = SendWindow(ids)
    arrived: list[str] = []
    receipts: set[str] = set()
    removed: list[str] = []
    given_up: set[str] = set()
    suspects: set[str] = set()
    for action, choice in steps:
        in_flight = window.in_flight
        match action:
            case "send":
                if (name := window.next_to_send()) is not None:
                    window.mark_sent(name)
                    arrived.append(name)
            case "receipt" if in_flight:
                name = in_flight[choice % len(in_flight)]
                receipts.add(name)
                suspects.discard(name)
                removed += window.receipt(name)
            case "foreign":
                assert (
                    window.receipt(
                        ids[choice % count] if ids[choice % count] not in in_flight else "x"
                    )
                    == []
                )
            case "break":
                window.connection_broke()
                receipts.clear()
            case "give up" if (name := window.next_to_send()) is not None:
                given_up.add(name)
                removed += window.give_up(name)
            case "suspect" | "hold" if (name := window.next_to_send()) is not None:
                suspects.add(name)
                window.suspect(name, hold=action == "hold")
            case "release":
                window.release()
        assert set(removed) <= set(arrived)
        assert len(window.in_flight) <= 1 or suspects.isdisjoint(window.in_flight)
    assert removed == [name for name in ids if name in set(removed)]
    # Each time the connection broke, the next to arrive was the oldest that had not been removed:
    # so the last arrivals of those that left, in order of arrival, are in order.
    last = {name: position for position, name in enumerate(arrived)}
    kept = [last[name] for name in removed]
    assert kept == sorted(kept)
    assert not given_up & set(removed)


@given(count=st.integers(1, 10))
def test_after_a_break_there_is_one_at_a_time_until_a_receipt(count: int) -> None:
    window = SendWindow([str(number) for number in range(count)])
    while (name := window.next_to_send()) is not None:
        window.mark_sent(name)
    assert len(window.in_flight) == count
    window.connection_broke()
    assert window.next_to_send() == "0"
    window.mark_sent("0")
    assert window.next_to_send() is None
    assert window.receipt("0") == ["0"]
    assert window.is_empty == (count == 1)
    assert window.next_to_send() == (None if count == 1 else "1")


def test_messages_that_overtook_another_are_sent_again_after_it() -> None:
    """F-S1: and not when the message is given up."""
    for is_taken in (True, False):
        window = SendWindow("abc")
        window.suspect("a", hold=True)
        window.mark_sent("b")
        assert window.receipt("b") == []
        window.release()
        assert window.next_to_send() == "a"
        window.mark_sent("a")
        assert window.next_to_send() is None
        if is_taken:
            assert window.overtakers("a") == ["b"]
            assert window.receipt("a") == ["a"]
            assert window.next_to_send() == "b"
        else:
            assert window.give_up("a") == ["b"]
            assert window.next_to_send() == "c"
