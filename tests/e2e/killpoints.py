"""Kill a program at each of its system calls, run it again, and check the result.

Nothing may be lost or done twice.

strace counts the calls of one undisturbed run; then, for each call, the program is run on a fresh
state and gets SIGKILL on entering that call, which is then not executed: the state is the one
between two calls. Counting is per system call and per thread, as strace's ``when=`` counts.

    matrix = KillMatrix(prepare=make_state, verify=check_state)
    matrix.run(sample=10, seed=1)        # or sample=None for every point
"""

from __future__ import annotations

import collections
import os
import random
import re
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

CHANGES = (
    *(
        "fsync",
        "fdatasync",
        "rename",
        "renameat",
        "renameat2",
        "link",
        "linkat",
        "unlink",
        "unlinkat",
    ),
    *("mkdir", "rmdir", "utimensat", "ftruncate", "pwrite64", "sendto"),
)
"""System calls that change files or send data. TLS connections send by ``write``."""

_CALL = re.compile(r"^(\d+) +([a-z_0-9]+)\(")
_KILLED = 128 + 9


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """On entering the ``number``-th (from 1) call of ``syscall`` in one thread."""

    syscall: str
    number: int

    def __str__(self) -> str:
        return f"{self.syscall}#{self.number}"


def environment() -> dict[str, str]:
    """Return the environment of programs that are to be killed.

    Their coverage is not measured: other tests do that, and the calls of coverage would be points.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    return {**kept, "PYTHONDONTWRITEBYTECODE": "1"}


@dataclass(frozen=True, slots=True)
class Command:
    """A program to run, with ``env`` added to its environment.

    The program itself begins at ``argv[begin]``. The words before that start it and survive.
    """

    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    timeout: float = 600
    begin: int = 0

    def run(self, *above: str, inside: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
        """Run it to its end, after the command ``above``; the program itself after ``inside``."""
        return subprocess.run(
            [*above, *self.argv[: self.begin], *inside, *self.argv[self.begin :]],
            env={**environment(), **self.env},
            cwd=self.cwd,
            timeout=self.timeout,
            capture_output=True,
            text=True,
            check=False,
        )


@dataclass(frozen=True, slots=True)
class KillMatrix:
    """One program under every interruption.

    ``prepare`` makes a fresh state and returns the command that works on it; ``verify`` raises
    `AssertionError` when the state after the second run is not the wanted one. ``between`` is
    called between the two runs.
    """

    prepare: Callable[[], Command]
    verify: Callable[[], None]
    between: Callable[[], None] = lambda: None
    syscalls: Sequence[str] = CHANGES
    statuses: Sequence[int] = (0,)
    """Exit statuses wanted of a run that nobody kills."""
    child: str = ""
    """What the program reports, as a pattern, when a program that it started was killed instead.

    Calls are counted in each process. One whose number of calls differs from run to run may be the
    first to come to a point.
    """

    def points(self) -> list[Point]:
        """Run undisturbed on a fresh state, verify the end, and return all points."""
        command = self.prepare()
        with tempfile.NamedTemporaryFile("r", suffix=".strace") as log:
            done = command.run(
                *("strace", "-f", "--seccomp-bpf", "-qqq", "-s", "0", "-o", log.name),
                *("-e", f"trace={self._existing()}", "-e", "signal=none"),
            )
            calls = collections.Counter(
                match.groups() for line in log if (match := _CALL.match(line))
            )
        assert done.returncode in self.statuses, f"undisturbed run: {_shown(done)}"
        self.verify()
        most: dict[str, int] = {}
        for (_, syscall), number in calls.items():
            most[syscall] = max(number, most.get(syscall, 0))
        return sorted(
            Point(syscall, n) for syscall, number in most.items() for n in range(1, number + 1)
        )

    def interrupt(self, point: Point) -> bool:
        """Kill at a point, run again, verify; return whether the program got to the point."""
        command = self.prepare()
        trace = (
            f"trace={point.syscall}",
            f"inject={point.syscall}:signal=KILL:when={point.number}",
            "signal=none",
        )
        options = (word for expression in trace for word in ("-e", expression))
        # -D: the program is the child of this process, strace is not.
        killed = command.run(inside=("strace", "-D", "-f", "-qqq", "-o", os.devnull, *options))
        struck = killed.returncode in (-9, _KILLED) or (
            bool(self.child) and re.search(self.child, killed.stderr) is not None
        )
        assert struck or killed.returncode in self.statuses, f"first run: {_shown(killed)}"
        self.between()
        again = command.run()
        assert again.returncode in self.statuses, f"run after the kill: {_shown(again)}"
        self.verify()
        return struck

    def run(self, *, sample: int | None, seed: int = 0) -> None:
        """Kill at ``sample`` points drawn by ``seed``, or at all of them.

        A point near the end is not in every run of a program with threads: in a sample the next one
        drawn takes its place.

        Raises:
            AssertionError: with all failures; also when a tenth of all points, or more points than
                the sample has, were never reached, because then the test has tested too little.

        """
        points = self.points()
        wanted, may_miss = len(points), len(points) // 10
        if sample is not None:
            points = random.Random(seed).sample(points, len(points))
            wanted = may_miss = min(sample, wanted)
        struck = 0
        missed: list[Point] = []
        failures: list[str] = []
        for point in points:
            if struck + len(failures) == wanted or len(missed) > may_miss:
                break
            try:
                if self.interrupt(point) or self.interrupt(point):
                    struck += 1
                else:
                    missed.append(point)
            except AssertionError as error:
                failures.append(f"{point}: {error}")
        assert not failures, f"{len(failures)} of {len(points)} points:\n" + "\n".join(failures)
        assert len(missed) <= may_miss, f"{struck} kills struck; never reached: {missed}"

    def _existing(self) -> str:
        return ",".join(f"?{syscall}" for syscall in self.syscalls)


def _shown(done: subprocess.CompletedProcess[str]) -> str:
    return f"status {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
