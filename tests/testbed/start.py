"""The order in which services come up: as many at the same time as can.

keystone   schema ─ start ─ catalog ─┐
others     schema ───────────────────┴─ start
nova       schema ────────────────────── start, when placement answers
broker     start
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from appliance.core.run.errors import Unavailable
from tests.testbed import catalog
from tests.testbed.api import NOVA, Api
from tests.testbed.broker import Broker
from tests.testbed.layout import CLOUD_SERVICES, Layout
from tests.testbed.progress import Progress
from tests.testbed.services import Services

_SCHEMAS_AT_ONCE = 3
"""They are bound by the processor."""
_LONGEST_FIRST = ("keystone", "nova", "neutron", "cinder", "glance", "placement", "broker")


@dataclass(slots=True)
class Start:
    """One start of some services."""

    layout: Layout
    services: Services
    broker: Broker
    admin: Callable[[], Api]
    progress: Progress
    _failed: bool = False
    _catalog: threading.Event = field(default_factory=threading.Event)
    _placement: threading.Event = field(default_factory=threading.Event)
    _schemas: threading.Semaphore = field(
        default_factory=lambda: threading.Semaphore(_SCHEMAS_AT_ONCE)
    )

    def run(self, names: Sequence[str]) -> None:
        """Bring the named services up; raise the first failure when all others have ended."""
        if "placement" not in names:
            self._placement.set()
        ordered = [name for name in _LONGEST_FIRST if name in names]
        with ThreadPoolExecutor(len(ordered)) as pool:
            outcomes = [pool.submit(self._guard, name, ordered) for name in ordered]
        failures = [failure for outcome in outcomes if (failure := outcome.exception())]
        for failure in sorted(failures, key=lambda failure: isinstance(failure, _Forsaken)):
            raise failure

    def _guard(self, name: str, names: Sequence[str]) -> None:
        try:
            self._bring_up(name, names)
        except BaseException:
            self._failed = True
            self._catalog.set()  # nobody shall wait for what will not come
            self._placement.set()
            raise

    def _bring_up(self, name: str, names: Sequence[str]) -> None:
        if name == "broker":
            if not self.broker.is_running():
                with self.progress.step("broker: start"):
                    self.broker.start()
            return
        self.services.configure(name)
        if not self.services.has_schema(name):
            with self._schemas, self.progress.step(f"{name}: schema"):
                self.services.create_schema(name)
        if name != "keystone":
            self._wait_for(self._catalog)
        if name == "nova":
            self._wait_for(self._placement)
        if not self.services.runs(name):
            with self.progress.step(f"{name}: start"):
                self.services.start(name)
        match name:
            case "keystone":
                self._register(names)
            case "placement":
                self._placement.set()
            case "nova":
                self._check_compute_host()

    def _register(self, names: Sequence[str]) -> None:
        marks = [
            self.layout.done / f"catalog-{name}"
            for name in names
            if name in CLOUD_SERVICES and name != "keystone"
        ]
        if not all(mark.exists() for mark in marks):
            with self.progress.step("keystone: accounts and catalog"):
                catalog.register(self.admin(), self.layout, services=names)
        self._catalog.set()

    def _check_compute_host(self) -> None:
        if not self.admin().get(NOVA, "/os-hypervisors")["hypervisors"]:
            raise Unavailable("nova", "no compute host", f"see {self.layout.log / 'nova.log'}")

    def _wait_for(self, event: threading.Event) -> None:
        event.wait()
        if self._failed:
            raise _Forsaken("test bed", "another service did not come up")


class _Forsaken(Unavailable):
    """What a service needs did not come up; that has a failure of its own."""
