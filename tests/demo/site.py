"""A demo site: files as an administrator writes them, programs as cron or units start them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRAMS = Path(sys.prefix) / "bin"
_HANGS = 3600
"""Seconds after which a program that is run to its end hangs, on the slowest machine."""


@dataclass(frozen=True, slots=True)
class Site:
    """A root directory with the configuration of our programs."""

    root: Path

    @classmethod
    def fresh(cls, root: Path) -> Site:
        """Begin an empty site; one that stands there from an earlier demo goes."""
        shutil.rmtree(root, ignore_errors=True)
        (root / "var/log").mkdir(parents=True)
        return cls(root)

    def write(self, name: str, text: str, *, mode: int = 0o640) -> Path:
        """Write a file of the site as an administrator would."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=mode)
        path.write_text(text)
        path.chmod(mode)
        return path

    def command(self, program: str, *arguments: str) -> list[str]:
        """Return the command line of a program for this site."""
        root = ("--root", str(self.root))
        # The first argument of `caso` is its verb.
        words = [*arguments, *root] if program == "caso" else [*root, *arguments]
        return [str(PROGRAMS / program), *words]

    def start(self, program: str, *arguments: str) -> subprocess.Popen[str]:
        """Start a program; its output goes to a file beside its logs."""
        with (self.root / f"var/log/{program}.out").open("a") as output:
            return subprocess.Popen(
                self.command(program, *arguments), stdout=output, stderr=output, text=True
            )

    @contextmanager
    def running(self, program: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """Start a program for a block; whatever happens there, it does not outlive it."""
        process = self.start(program, *arguments)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def run(self, program: str, *arguments: str, expect: tuple[int, ...] = (0,)) -> int:
        """Run a program; an unexpected exit status ends the demo with the program's output."""
        status = self.start(program, *arguments).wait(timeout=_HANGS)
        if status not in expect:
            said = (self.root / f"var/log/{program}.out").read_text()[-2000:]
            raise SystemExit(f"{program} ended with {status}:\n{said}")
        return status

    def counts(self, program: str) -> dict[str, Any]:
        """Return the figures that a program's last run recorded."""
        (path,) = (self.root / "var/lib/fedcloud/runs").rglob(
            f"{program}.json"
        )  # a container's is in its own directory
        record = json.loads(path.read_text())
        return dict(record["counts"])
