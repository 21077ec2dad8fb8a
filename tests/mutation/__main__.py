"""Mutates modules and reports which mutants no test notices: ``scripts/mutants [NAME …]``.

A name is a target of `tests.mutation.targets` or a module's path. A mutant survives when all tests
that run its line pass. ``equivalents.txt`` lists the survivors that change nothing, with reasons.
The exit status is 1 when fewer than 95 % of the others are noticed. Verdicts are kept for the
commit, so that a run that was interrupted goes on; with ``--within`` it ends in time with status
75, which asks for another run.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from tests.mutation import trees
from tests.mutation.operators import Mutant, mutants
from tests.mutation.targets import TARGETS, TOP, Target
from tests.mutation.trees import Covered

_GOAL = 0.95
_EQUIVALENTS = Path(__file__).with_name("equivalents.txt")
_SLOWER = 5
"""A mutant may take this many times as long as the tests without one, and `_LEAST` seconds."""
_LEAST = 30.0
_SECOND_LOOK = 4
"""The second time a mutant may take this many times as long, and nothing is judged beside it."""
_AGAIN = 75
"""EX_TEMPFAIL of sysexits.h."""


@dataclass(frozen=True, slots=True)
class Case:
    """A mutant of a module, and the tests that are to notice it."""

    source: Path
    mutant: Mutant
    target: Target
    covered: Covered

    @property
    def tests(self) -> list[str]:
        """The tests that run the mutant's line; at import, all tests of the module.

        Their files are in the order of the target: the first one that notices ends the judgement.
        """
        ids = self.covered.tests_of.get((self.source, self.mutant.line))
        if ids is None:
            return []
        found = ids or self.covered.tests_of[self.source, 0]
        files = self.target.tests
        return sorted(found, key=lambda one: (files.index(one.partition("::")[0]), one))

    @property
    def key(self) -> str:
        """Identify the mutant within a commit; a text may stand twice in a function."""
        return f"{self.source}:{self.mutant.start}:{self.mutant.end}:{self.mutant.after}"

    def __str__(self) -> str:
        return f"{self.source}:{self.mutant}"


def main(argv: Sequence[str] | None = None) -> int:
    """Judge the mutants that the command line asks for."""
    arguments = _arguments(argv)
    scratch = TOP / ".cache" / "mutation"
    workers = [_Worker(trees.copy_tree(scratch / str(n))) for n in range(arguments.jobs)]
    cases = list(_cases(arguments.names, workers[0].tree))
    if arguments.sample and arguments.sample < len(cases):
        # Nobody keeps a secret with it: the same seed has to give the same sample.
        cases = random.Random(arguments.seed).sample(cases, arguments.sample)
    kept = _Kept(scratch / "verdicts")
    left = [case for case in cases if case.key not in kept.verdicts]
    libraries = sorted({name for case in left for name in case.covered.libraries})
    for worker in workers:
        worker.start(libraries)
    # The tool would report any failure of its own as a mutant that is noticed.
    for case in {case.source: case for case in left if case.tests}.values():
        workers[0].check(case)
    _judge(left, workers, kept, end=time.monotonic() + arguments.within)
    if any(case.key not in kept.verdicts for case in cases):
        print("mutants: the time is over; run it again to go on", file=sys.stderr)
        return _AGAIN
    return _report(cases, [kept.verdicts[case.key] for case in cases])


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/mutants", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(TARGETS)}, or a path")
    parser.add_argument("--sample", type=int, default=0, metavar="N", help="judge N of them only")
    parser.add_argument("--seed", type=int, default=2026, help="of the sample (default 2026)")
    parser.add_argument("--jobs", type=int, default=2, help="processes side by side (default 2)")
    parser.add_argument(
        "--within", type=float, default=float("inf"), metavar="SECONDS",
        help="judge no further mutant after this time",
    )  # fmt: skip
    arguments = parser.parse_args(argv)
    for name in arguments.names:
        if not _wanted(name):
            parser.error(f"{name}: neither a target nor one of its modules")
    return arguments


def _wanted(name: str) -> list[tuple[Target, list[Path]]]:
    """Return the targets that a name stands for, each with the modules that are meant."""
    if name in TARGETS:
        return [(TARGETS[name], TARGETS[name].sources())]
    meant = Path(name)
    return [(one, [meant]) for one in TARGETS.values() if meant in one.sources()]


def _cases(names: Sequence[str], tree: Path) -> Iterator[Case]:
    for name in names or TARGETS:
        for target, sources in _wanted(name):
            covered = trees.measure(target, tree)
            for source in sources:
                for mutant in mutants((TOP / source).read_bytes()):
                    yield Case(source, mutant, target, covered)


class _Kept:
    """The verdicts on the mutants of a commit, in a file of JSON lines.

    A checkout with changes of its own keeps none: nobody could say of which sources they are.
    """

    def __init__(self, directory: Path) -> None:
        commit, changes = (
            subprocess.run(["git", *words], cwd=TOP, capture_output=True, check=True).stdout
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        )
        directory.mkdir(parents=True, exist_ok=True)
        self._path = directory / commit.decode().strip()
        if changes:
            self._path = directory / "changed"
            self._path.unlink(missing_ok=True)
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        self.verdicts: dict[str, str] = dict(json.loads(line) for line in lines)

    def add(self, case: Case, verdict: str) -> None:
        """Note a verdict."""
        self.verdicts[case.key] = verdict
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([case.key, verdict]) + "\n")


class _Worker:
    """A process that judges in a tree of its own."""

    def __init__(self, tree: Path) -> None:
        self.tree = tree
        self._process: subprocess.Popen[str] | None = None

    def start(self, libraries: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.mutation.worker"],
            cwd=self.tree, env=trees.environment(self.tree),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._send(list(libraries))

    def judge(self, case: Case, patience: float = 1) -> str:
        if not case.tests:
            return "not-covered"
        mutated = case.mutant.apply((TOP / case.source).read_bytes())
        return self._verdict(case, mutated, patience)

    def check(self, case: Case) -> None:
        """Raise `RuntimeError` unless the tests of a case pass here when nothing is mutated."""
        if self._verdict(case, (TOP / case.source).read_bytes()) != "survived":
            raise RuntimeError(f"{case.source}: its tests fail without a mutant: {case.tests}")

    def _verdict(self, case: Case, source: bytes, patience: float = 1) -> str:
        limit = patience * (_LEAST + _SLOWER * case.covered.seconds)
        job = {"path": str(case.source), "source": source.decode(), "tests": case.tests}
        self._send(job | {"limit": limit})
        assert self._process is not None
        assert self._process.stdout is not None
        return str(json.loads(self._process.stdout.readline())["verdict"])

    def _send(self, value: object) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(value) + "\n")
        self._process.stdin.flush()


def _judge(cases: Sequence[Case], workers: Sequence[_Worker], kept: _Kept, *, end: float) -> None:
    """Judge the cases side by side until ``end``, then once more, alone, those that were too slow.

    On a loaded machine a time-out says nothing about the mutant.
    """
    free: SimpleQueue[_Worker] = SimpleQueue()
    for worker in workers:
        free.put(worker)

    def judge(case: Case) -> str:
        if time.monotonic() > end:
            return "left"
        worker = free.get()
        try:
            return worker.judge(case)
        finally:
            free.put(worker)

    slow = []
    with ThreadPoolExecutor(len(workers)) as pool:
        for number, (case, verdict) in enumerate(
            zip(cases, pool.map(judge, cases), strict=True), 1
        ):
            if verdict == "timeout":
                slow.append(case)
            elif verdict != "left":
                kept.add(case, verdict)
            if number % 25 == 0 or number == len(cases):
                print(f"  {number} of {len(cases)}", file=sys.stderr, flush=True)
    for case in slow:
        if time.monotonic() <= end:
            kept.add(case, workers[0].judge(case, _SECOND_LOOK))


def _report(cases: Sequence[Case], verdicts: Sequence[str]) -> int:
    equivalents = set(_equivalents())
    noticed = counted = 0
    for case, verdict in zip(cases, verdicts, strict=True):
        is_noticed = verdict in ("killed", "timeout")
        if not is_noticed and str(case) in equivalents:
            continue
        counted += 1
        noticed += is_noticed
        if not is_noticed:
            print(f"{verdict}: {case.source}:{case.mutant.line}: {case}")
    share = noticed / counted if counted else 1.0
    print(f"mutants: {noticed} of {counted} noticed, {share:.1%}; to reach: {_GOAL:.0%}")
    return share < _GOAL


def _equivalents() -> Iterator[str]:
    """Yield the mutants of ``equivalents.txt``; lines that begin with ``#`` give reasons."""
    for line in _EQUIVALENTS.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            yield line


if __name__ == "__main__":
    sys.exit(main())
