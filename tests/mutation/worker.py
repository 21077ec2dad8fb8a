"""Judges mutants, one a line of JSON on standard input, in the copy of the tree it stands in.

Libraries are imported once; each mutant gets a fork of this process, in which pytest imports the
mutated module. Answers are lines of JSON: ``{"verdict": "killed" | "survived" | "timeout"}``.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.mutation.targets import SHORT

_KILLED, _SURVIVED, _NO_TESTS = 1, 0, 5
_LIBRARIES_ARE_IMPORTED = "ignore::pytest.PytestAssertRewriteWarning"
"""Plugins of pytest are among the libraries, too early for it to rewrite their assertions."""


def main() -> None:
    """Judge until standard input ends."""
    libraries = json.loads(sys.stdin.readline())
    for name in libraries:
        with contextlib.suppress(ImportError):  # some names exist only while pytest runs
            importlib.import_module(name)
    _shorten_properties()
    for line in sys.stdin:
        job = json.loads(line)
        path, original = Path(job["path"]), Path(job["path"]).read_bytes()
        path.write_text(job["source"], encoding="utf-8")
        try:
            verdict = _judge(job["tests"], limit=job["limit"])
        finally:
            path.write_bytes(original)
        print(json.dumps({"verdict": verdict}), flush=True)


def _shorten_properties() -> None:
    """Let property tests draw fewer examples, since each of them runs for hundreds of mutants."""
    from hypothesis import settings

    settings.register_profile("mutants", max_examples=25, deadline=None)
    settings.load_profile("mutants")


def _judge(tests: Sequence[str], *, limit: float) -> str:
    child = os.fork()
    if child == 0:
        _run_tests(tests)
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            if code == _NO_TESTS:
                raise RuntimeError(f"pytest found none of {tests}")
            return "survived" if code == _SURVIVED else "killed"
        time.sleep(0.01)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "timeout"


def _run_tests(tests: Sequence[str]) -> None:
    """Run pytest in a fork and end with its exit status, whatever it leaves open."""
    code = _KILLED
    try:
        os.setpgid(0, 0)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nowhere, descriptor)
        pytest = importlib.import_module("pytest")
        flags = ["-x", "-q", "-p", "no:cacheprovider", "-W", _LIBRARIES_ARE_IMPORTED, *SHORT]
        code = pytest.main([*flags, *tests])
    finally:
        os._exit(int(code))


if __name__ == "__main__":
    main()
