"""Stops what an earlier demo left running and removes what it made; runs on a bare Python."""

from __future__ import annotations

import contextlib
import shutil
import sys
from datetime import timedelta
from pathlib import Path
from types import ModuleType

from appliance.core.run import lock
from appliance.core.run.errors import ApplianceError
from tests.demo import introduction

TOP = Path(__file__).parents[2]
_PATIENCE = timedelta(minutes=5)


def clean(state: Path) -> None:
    """Remove the demo's cloud and sites below ``state``, and nothing else that may lie there."""
    from tests.testbed.layout import SERVICES, Layout  # once `_bare_testbed` has been
    from tests.testbed.processes import Records

    layout = Layout(state / "testbed", 0)
    if not (layout.state / "instance.json").exists():
        print(f"{state} holds nothing of the demo")
        return
    with lock.hold(layout.lock, wait=_PATIENCE):
        Records(layout.run).stop(SERVICES)
        # the one with the mark last: what fails can be run again
        for path in (*state.glob("site-*"), layout.state):
            shutil.rmtree(path)
    with contextlib.suppress(OSError):
        state.rmdir()
    print(f"what the demo made in {state} is gone")


def _bare_testbed() -> None:
    """Let modules of the test bed be imported without its ``__init__``, which needs packages."""
    package = ModuleType("tests.testbed")
    package.__path__ = [str(TOP / "tests/testbed")]
    sys.modules[package.__name__] = package


def main(arguments: list[str]) -> int:
    """Clean up; a known failure ends it with one line and status 3."""
    _bare_testbed()
    try:
        clean(Path(introduction.parser().parse_args(arguments).state or TOP / ".cache/demo"))
    except (ApplianceError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
