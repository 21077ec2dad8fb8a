"""``appliance status --watch``: the screen, drawn again and again until Ctrl-C.

It is drawn over itself, line by line, so nothing flickers, and on the terminal's second page, so
that the first one is as before when it ends (xterm's control sequences, mode 1049).
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence

from appliance.admin.status import screen
from appliance.admin.status.site import SiteStatus
from appliance.core.run.errors import ApplianceError, ExitStatus, UsageError

_BEGIN, _END = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_HOME, _REST_OF_LINE, _REST_OF_PAGE = "\x1b[H", "\x1b[K", "\x1b[J"
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def require(*, others: Sequence[str]) -> None:
    """Check that the screen can be drawn again.

    Raises:
        UsageError: another form was asked for, or standard output is not a terminal.

    """
    if others:
        raise UsageError("--watch", f"cannot be used with --{others[0]}", "leave one of them out")
    if not sys.stdout.isatty():
        words = "needs a terminal, and standard output is none"
        raise UsageError("--watch", words, "run appliance status --json from a timer instead")


def run(look: Callable[[], SiteStatus], *, pause: float) -> ExitStatus:
    """Draw until a signal arrives; return the exit status of the last look."""
    status = ExitStatus.DONE
    with _until_signal() as ended, _page():
        while not ended.is_set():
            shown, status = _taken(look)
            _draw(shown)
            ended.wait(pause)
    return status


def _taken(look: Callable[[], SiteStatus]) -> tuple[list[str], ExitStatus]:
    """Return the lines and the status of one look; a file that is being edited ends nothing."""
    terminal = screen.Terminal.of_output()
    try:
        found = look()
    except ApplianceError as error:
        shown = [terminal.fit(line, screen.WIDTH) for line in str(error).splitlines()]
        return shown, error.status
    return screen.lines(found, terminal), found.status


def _draw(lines: Sequence[str]) -> None:
    height = shutil.get_terminal_size((screen.WIDTH, screen.HEIGHT + 1)).lines
    shown = f"{_REST_OF_LINE}\n".join(lines[:height])
    sys.stdout.write(f"{_HOME}{shown}{_REST_OF_LINE}{_REST_OF_PAGE}")
    sys.stdout.flush()


@contextlib.contextmanager
def _page() -> Iterator[None]:
    sys.stdout.write(_BEGIN)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # the terminal may have gone
            sys.stdout.write(_END)
            sys.stdout.flush()


@contextlib.contextmanager
def _until_signal() -> Iterator[threading.Event]:
    """Yield an event that is set by Ctrl-C, and by what else ends a program."""
    ended = threading.Event()
    before = {number: signal.signal(number, lambda *_: ended.set()) for number in _SIGNALS}
    try:
        yield ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
