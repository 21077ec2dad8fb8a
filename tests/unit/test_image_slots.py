"""Transfers side by side: who may begin when, and what an interrupt leaves."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from cloudkeeper.frontend.slots import Slots
from cloudkeeper.frontend.waiting import result_of

GIB = 2**30


@dataclass
class Transfers:
    """Transfers that run until a test ends them; ``begun`` are their names in order."""

    free: int = 100 * GIB
    begun: list[str] = field(default_factory=list)
    aborted: bool = False
    _gates: dict[str, threading.Event] = field(default_factory=dict)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def slots(self, number: int, per_host: int | None = None) -> Slots:
        return Slots(number, free=lambda: self.free, abort=self.abort, per_host=per_host)

    def action(self, name: str) -> Callable[[], str]:
        gate = self._gates[name] = threading.Event()

        def run() -> str:
            with self._changed:
                self.begun.append(name)
                self._changed.notify_all()
            assert gate.wait(30)
            if self.aborted:
                raise RuntimeError(name)
            return name

        return run

    def submit(
        self, slots: Slots, name: str, *, size: int = 0, image: str = "", length: float = 0
    ) -> Callable[[], str]:
        """Submit a transfer whose name begins with its host."""
        return slots.submit(
            self.action(name), host=name[0], image=image or name, size=size, length=length
        )

    def end(self, *names: str) -> None:
        for name in names:
            self._gates[name].set()

    def abort(self) -> None:
        self.aborted = True
        self.end(*self._gates)

    def wait_for(self, number: int) -> list[str]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.begun) >= number, 30)
            return list(self.begun)


@pytest.fixture
def transfers() -> Iterator[Transfers]:
    made = Transfers()
    yield made
    made.end(*made._gates)


def test_results_are_those_of_the_actions(transfers: Transfers) -> None:
    with transfers.slots(2) as slots:
        results = [transfers.submit(slots, name) for name in ("a1", "a2", "a3")]
        transfers.end("a1", "a2", "a3")
        assert [result() for result in results] == ["a1", "a2", "a3"]


def test_an_error_is_raised_where_the_result_is_read(transfers: Transfers) -> None:
    def fail() -> str:
        raise ValueError("wrong")

    with transfers.slots(1) as slots:
        failed = slots.submit(fail, host="a", image="x", size=0)
        following = transfers.submit(slots, "a1")
        transfers.end("a1")
        assert following() == "a1"
        with pytest.raises(ValueError, match="wrong"):
            failed()


def test_no_more_run_than_there_are_slots(transfers: Transfers) -> None:
    with transfers.slots(2) as slots:
        results = [transfers.submit(slots, name) for name in ("a1", "b1", "c1")]
        assert sorted(transfers.wait_for(2)) == ["a1", "b1"]
        transfers.end("b1")
        assert transfers.wait_for(3)[2] == "c1"
        transfers.end("a1", "c1")
        for result in results:
            result()


def test_a_host_has_half_of_the_slots_while_others_wait(transfers: Transfers) -> None:
    """A slow server holds its own slots, and no other server waits for it."""
    with transfers.slots(4) as slots:
        with slots._changed:  # all wait before the first one begins
            results = [transfers.submit(slots, f"a{number}") for number in range(5)]
            results += [transfers.submit(slots, f"b{number}") for number in range(3)]
        assert sorted(transfers.wait_for(4)) == ["a0", "a1", "b0", "b1"]
        transfers.end("b0")  # a is slow; b goes on
        assert transfers.wait_for(5)[4] == "b2"
        transfers.end("b1")  # no other host waits any more
        assert transfers.wait_for(6)[5] == "a2"
        transfers.end("b2")
        assert transfers.wait_for(7)[6] == "a3"
        transfers.end(*(f"a{number}" for number in range(5)))
        assert len([result() for result in results]) == 8


def test_a_host_alone_has_all_slots(transfers: Transfers) -> None:
    with transfers.slots(3) as slots:
        results = [transfers.submit(slots, f"a{number}") for number in range(3)]
        assert len(transfers.wait_for(3)) == 3
        transfers.end("a0", "a1", "a2")
        for result in results:
            result()


def test_the_bytes_of_running_transfers_are_taken_off_the_free_space(
    transfers: Transfers,
) -> None:
    transfers.free = 10 * GIB
    with transfers.slots(3) as slots:
        with slots._changed:
            results = [
                transfers.submit(slots, "a1", size=6 * GIB),
                transfers.submit(slots, "b1", size=5 * GIB),
                transfers.submit(slots, "c1", size=4 * GIB),
            ]
        assert sorted(transfers.wait_for(2)) == ["a1", "c1"]  # b1 waits for room
        transfers.end("a1")
        assert transfers.wait_for(3)[2] == "b1"
        transfers.end("b1", "c1")
        for result in results:
            result()


def test_the_first_transfer_of_a_file_runs_alone(transfers: Transfers) -> None:
    """The same image for another VO needs the file, and would only keep a slot."""
    with transfers.slots(2) as slots:
        with slots._changed:
            results = [
                transfers.submit(slots, "a1", image="one"),
                transfers.submit(slots, "a2", image="one"),
                transfers.submit(slots, "a3", image="one"),
                transfers.submit(slots, "b1", image="two"),
            ]
        assert sorted(transfers.wait_for(2)) == ["a1", "b1"]
        transfers.end("b1")
        results[3]()
        results += [transfers.submit(slots, "b2", image="three")]
        assert transfers.wait_for(3)[2] == "b2"  # a slot was free, and a2 had not begun
        transfers.end("a1", "b2")
        assert sorted(transfers.wait_for(5)[3:]) == ["a2", "a3"]  # side by side
        transfers.end("a2", "a3")
        for result in results:
            result()


def test_one_that_never_fits_begins_alone_and_reports_that_itself(transfers: Transfers) -> None:
    with transfers.slots(2) as slots:
        result = transfers.submit(slots, "a1", size=1000 * GIB)
        transfers.end("a1")
        assert result() == "a1"


def test_a_directory_that_is_gone_is_reported_by_the_transfers(transfers: Transfers) -> None:
    """A thread that ended with the error would leave the run waiting for ever."""

    def free() -> int:
        raise FileNotFoundError

    with Slots(2, free=free, abort=transfers.abort) as slots:
        results = [transfers.submit(slots, name) for name in ("a1", "b1")]
        transfers.end("a1", "b1")
        assert [result() for result in results] == ["a1", "b1"]


def test_an_interrupt_ends_the_running_ones_and_begins_no_other(transfers: Transfers) -> None:
    slots = transfers.slots(2)

    def interrupted() -> None:
        with slots:
            for name in ("a1", "b1", "c1", "d1"):
                transfers.submit(slots, name)
            transfers.wait_for(2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert transfers.aborted
    assert len(transfers.begun) == 2
    assert not any(thread.is_alive() for thread in slots._threads)


def test_without_slots_a_transfer_runs_when_its_result_is_read(transfers: Transfers) -> None:
    with transfers.slots(0) as slots:
        results = [transfers.submit(slots, name) for name in ("a1", "a2")]
        transfers.end("a1", "a2")
        assert transfers.begun == []
        assert [result() for result in results] == ["a1", "a2"]
        assert slots._threads == []


def test_small_images_go_first(transfers: Transfers) -> None:
    """Of unknown size last; and fairness between servers goes before size."""
    with transfers.slots(1) as slots:
        waits = [transfers.submit(slots, "first")]
        transfers.wait_for(1)
        lengths = {"large": 9.0, "unknown": float("inf"), "small": 1.0, "middle": 5.0}
        waits += [transfers.submit(slots, f"h-{name}", length=n) for name, n in lengths.items()]
        transfers.end("first", *(f"h-{name}" for name in lengths))
        for each in waits:
            each()
    assert transfers.begun[1:] == ["h-small", "h-middle", "h-large", "h-unknown"]


def test_a_host_never_gets_more_than_its_limit(transfers: Transfers) -> None:
    """Not even while no other one waits."""
    with transfers.slots(4, per_host=2) as slots:
        waits = [transfers.submit(slots, name) for name in ("a1", "a2", "a3", "b1")]
        assert sorted(transfers.wait_for(3)) == ["a1", "a2", "b1"]
        transfers.end("b1")
        assert waits[3]() == "b1"
        assert len(transfers.begun) == 3
        transfers.end("a1")
        assert transfers.wait_for(4)[3] == "a3"
        transfers.end("a2", "a3")
        assert [each() for each in waits[:3]] == ["a1", "a2", "a3"]


def test_a_signal_that_another_thread_receives_ends_the_wait() -> None:
    """Python runs its handler in the main thread, which a wait for a lock keeps from that."""
    future: Future[str] = Future()
    late = threading.Timer(60, future.set_result, ["late"])
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)

    def receive() -> None:
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

    other = threading.Timer(0.1, receive)
    late.start()
    other.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            result_of(future)
        assert not future.done()
    finally:
        signal.signal(signal.SIGTERM, before)
        late.cancel()
        other.join()


def test_a_result_that_does_not_come_in_time() -> None:
    future: Future[str] = Future()
    with pytest.raises(TimeoutError):
        result_of(future, within=timedelta())
