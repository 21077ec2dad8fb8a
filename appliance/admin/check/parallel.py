"""Probes in parallel: each has a thread and a deadline, so one that hangs costs only itself."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from appliance.admin.check.finding import of_error
from appliance.admin.check.probe import CheckedSite, Probe
from appliance.core.run.errors import ApplianceError, LocalFailure
from appliance.core.run.finding import Finding


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a probe."""

    probe: Probe
    findings: tuple[Finding, ...]
    has_looked: bool
    """Whether it has looked; otherwise the finding says why not."""
    bug: Exception | None = None


def outcomes(probes: Sequence[Probe], site: CheckedSite) -> Iterator[Outcome]:
    """Run all probes at the same time; yield the outcome of each as it ends."""
    ended: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
    begun = time.monotonic()
    # Daemons: the process ends although a thread still waits for another host.
    for probe in probes:
        threading.Thread(
            target=lambda one=probe: ended.put(_outcome(one, site)), daemon=True
        ).start()
    waiting = set(probes)
    while waiting:
        first = min(waiting, key=lambda one: one.deadline)
        left = begun + first.deadline.total_seconds() - time.monotonic()
        try:
            outcome = ended.get(timeout=max(left, 0))
        except queue.Empty:
            outcome = _late(first)
        if outcome.probe in waiting:  # one that ended after its deadline has been reported
            waiting.remove(outcome.probe)
            yield outcome


def _outcome(probe: Probe, site: CheckedSite) -> Outcome:
    found: list[Finding] = []
    try:
        found += probe.find(site)
    except (ApplianceError, OSError) as error:
        known = error if isinstance(error, ApplianceError) else LocalFailure.from_os(error)
        failure = of_error("", known, identifier=probe.identifiers[0], tried=probe.subject)
        return Outcome(probe, (*found, failure), has_looked=False)
    except Exception as error:  # noqa: BLE001  a bug in one probe must not hide what others find
        return Outcome(probe, tuple(found), has_looked=False, bug=error)
    return Outcome(probe, tuple(found), has_looked=True)


def _late(probe: Probe) -> Outcome:
    seconds = int(probe.deadline.total_seconds())
    text = (
        f"{probe.subject}: this probe gave no result within {seconds} s;"
        " look at the load of this host and at the services that it asks, and check again"
    )
    finding = Finding("", 0, "", text, probe.identifiers[0], tried=probe.subject)
    return Outcome(probe, (finding,), has_looked=False)
