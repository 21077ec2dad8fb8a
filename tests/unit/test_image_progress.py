"""Progress: lines that are drawn again on a terminal, and lines of the log everywhere."""

from __future__ import annotations

import io
import logging
import os
import pty
import re
import time
from collections.abc import Iterator

import pytest

from appliance.core.run import log
from cloudkeeper.frontend import progress
from cloudkeeper.frontend.progress import Progress

MIB = 2**20


class Clock:
    now = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: made.now)
    return made


class Terminal:
    """A real terminal, and what it shows."""

    def __init__(self) -> None:
        self._master, slave = pty.openpty()
        self.out = os.fdopen(slave, "w", encoding="utf-8")
        self.raw = ""

    def screen(self) -> list[str]:
        """Return the lines that are on the screen (ECMA-48: CUU, ED)."""
        os.set_blocking(self._master, False)
        while True:
            try:
                self.raw += os.read(self._master, 2**16).decode()
            except BlockingIOError:
                break
        lines = [""]
        for text, up in re.findall(r"([^\x1b\n]*\n?)(?:\x1b\[(\d+)A\x1b\[J)?", self.raw):
            lines[-1] += text.rstrip("\r\n")
            if text.endswith("\n"):
                lines.append("")
            if up:
                lines = [*lines[: -1 - int(up)], ""]
        return lines[:-1]

    def close(self) -> None:
        self.out.close()
        os.close(self._master)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal()
    yield made
    made.close()


def test_a_transfer_is_one_line_with_bytes_rate_and_time_left(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    shown = Progress()
    with shown.displayed(terminal.out):
        with shown.following("egi_vm_images/ubuntu:24.04", 200 * MIB) as meter:
            now = meter._marked_at + 5
            monkeypatch.setattr(time, "monotonic", lambda: now)
            for _ in meter.counted([bytes(MIB)] * 50):
                pass
            with shown.following("second", None):
                first, second = terminal.screen()
        assert re.fullmatch(
            r"egi_vm_images/ubuntu:24\.04 +25 % +50\.0 MiB of 200\.0 MiB +10\.0 MiB/s +"
            r"0:00:15 left",
            first,
        )
        assert second.split() == ["second", "0", "bytes", "0", "bytes/s"]
        assert terminal.screen() == []
    assert terminal.screen() == []


def test_a_log_is_printed_above_the_lines(terminal: Terminal) -> None:
    handler = logging.StreamHandler(terminal.out)
    handler.setLevel(logging.ERROR)  # the level of all loggers is that of the test before
    logging.getLogger().addHandler(handler)
    try:
        shown = Progress()
        with shown.displayed(terminal.out), shown.following("first", 10):
            logging.getLogger("test").error("the list is wrong")
            above, line = terminal.screen()
            assert above == "the list is wrong"
            assert line.startswith("first  ")
        logging.getLogger("test").error("and another")
        assert terminal.screen() == ["the list is wrong", "and another"]
    finally:
        logging.getLogger().removeHandler(handler)


def test_nothing_is_drawn_in_a_file_or_pipe() -> None:
    out = io.StringIO()
    shown = Progress()
    with shown.displayed(out), shown.following("first", 10) as meter:
        assert list(meter.counted([b"1234567890"])) == [b"1234567890"]
    with shown.displayed(None), shown.following("first", 10):
        pass
    assert out.getvalue() == ""


def test_a_narrow_terminal_gets_no_second_line(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    shown = Progress()
    with shown.displayed(terminal.out), shown.following("n" * 200, 10):
        (line,) = terminal.screen()
        assert len(line) == 49


def test_no_name_controls_the_terminal_or_shows_a_secret(terminal: Terminal) -> None:
    log.hide("s3cr3t-of-a-list")
    shown = Progress()
    with shown.displayed(terminal.out), shown.following("\x1b[2Js3cr3t-of-a-list", 10):
        (line,) = terminal.screen()
        assert line.startswith("\\x1b[2J***")


def received(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage().partition(" bytes received")[0] for record in caplog.records]


@pytest.mark.parametrize(
    ("seconds", "lines"),
    [
        (1, 10),  # each tenth, but not within ten seconds: 100 s in all
        (20, 10),  # each tenth
        (130, 20),  # each further minute, at most one for each block
    ],
)
def test_the_log_has_the_begin_each_tenth_or_minute_and_the_end(
    clock: Clock, caplog: pytest.LogCaptureFixture, seconds: int, lines: int
) -> None:
    caplog.set_level(logging.INFO, logger=progress.__name__)
    size = 100 if seconds == 1 else 20
    with Progress().following("image", size) as meter:
        for _ in meter.counted([b"x"] * size):
            clock.now += seconds
    first, *between, last = [record.getMessage() for record in caplog.records]
    assert first == f"image: receiving {size} bytes"
    assert last.startswith(f"image: received {size} bytes in {size * seconds}.0 s, ")
    assert len(between) == pytest.approx(lines, abs=1)
    assert between[0].startswith("image: ")
    assert f" of {size} bytes received, " in between[0]
