"""Figures of clients while the BDII changes, breaks and starts again, for `scripts/bench info`.

A poller asks for o=glue every 20 ms on a new connection; a second client reads the whole tree, and
a third one does so slowly. Rows: polls refused, seconds without an answer, answers that were cut or
had fewer entries than each tree.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.e2e.bdii_service import Bdii, running
from tests.e2e.ldap_clients import Poller, TreeReader, asking, connect

Row = Callable[[str, float, str], None]
Provide = Callable[[Bdii, int, str], None]
_IDLE = 600
_DELETED = 1000


def measure(directory: Path, entries: int, *, provide: Provide, row: Row) -> None:
    """Measure a BDII with so many entries; ``provide`` writes the answer of its provider."""
    bdii = Bdii(directory, {"BDII_SOURCE_LIMIT": 500, "BDII_BREATHE_TIME": 3600})
    bdii.script(f"exec cat {bdii.directory}/cloud.ldif")
    provide(bdii, entries, "image")
    with running(bdii):
        bdii.wait_for(lambda: bdii.statistics()["TotalEntries"] == entries, seconds=300)
        for name, event in _events(bdii, entries, provide).items():
            _watched(bdii, f"{entries} {name}", event, least=entries - _DELETED, row=row)
        with contextlib.ExitStack() as held:
            for _ in range(_IDLE):
                held.enter_context(connect(bdii.port))
            poller = Poller(bdii.port)
            with asking(poller):
                time.sleep(2)
            row(f"{entries} with {_IDLE} idle connections: polls answered", poller.answered, "")
            row(f"{entries} with {_IDLE} idle connections: refused", len(poller.refused), "polls")
            row(f"{entries} with {_IDLE} idle connections: slowest", poller.slowest, "s")


def _events(bdii: Bdii, entries: int, provide: Provide) -> dict[str, Callable[[], None]]:
    """Return what happens to the BDII, by name, in this order."""

    def update() -> None:
        provide(bdii, entries, "changed image")
        bdii.wait_for_cycles(2)

    def delete() -> None:
        provide(bdii, entries - _DELETED, "changed image")
        bdii.wait_for_cycles(3)

    def engine() -> None:
        before = bdii.engine()
        os.kill(before, signal.SIGKILL)
        bdii.wait_for(lambda: bdii.engine() != before)
        time.sleep(2)
        bdii.wait_for_cycles(1)

    def both() -> None:
        bdii.signal(signal.SIGKILL)
        bdii.start()
        time.sleep(2)
        bdii.wait_for_cycles(1)

    def slapd() -> None:
        before = bdii.slapd()
        os.kill(before, signal.SIGKILL)
        bdii.wait_for(lambda: bdii.slapd() != before)

    def restart() -> None:
        bdii.signal(signal.SIGTERM)
        bdii.start()
        bdii.wait_for(lambda: bool(bdii.entries("o=glue", "1.1")), seconds=120)

    return {
        "update": update,
        "deletion": delete,
        "addition": update,
        "reload": lambda: bdii.wait_for_cycles(3),
        "engine killed": engine,
        "engine and its parent killed": both,
        "slapd killed": slapd,
        "restart": restart,
    }


def _watched(bdii: Bdii, case: str, event: Callable[[], None], *, least: int, row: Row) -> None:
    """Let something happen while clients ask, and print what they met."""
    poller = Poller(bdii.port)
    readers = TreeReader(bdii.port), TreeReader(bdii.port, pause=0.02)
    with asking(poller), asking(readers[0]), asking(readers[1]):
        time.sleep(0.5)
        event()
        time.sleep(0.5)
    row(f"{case}: refused", len(poller.refused), "polls")
    row(f"{case}: without an answer", poller.longest, "s")
    cut = sum(len(reader.faults) for reader in readers)
    row(f"{case}: whole trees refused or cut", cut, f"of {sum(map(_count, readers))}")
    partial = sum(size < least for reader in readers for size in reader.sizes)
    row(f"{case}: partial trees", partial, "answers")


def _count(reader: TreeReader) -> int:
    return len(reader.sizes) + len(reader.faults)
