"""Checks of programs, all at the same time, each in its own container.

They begin when the first probe asks for an answer. If the engine has not yet made all networks of
the compose file, one container follows the other: Compose 1.29 makes a missing network twice if two
commands need it at the same time, and no service could start then.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from appliance.admin import inventory
from appliance.admin.check import inside, trust
from appliance.admin.check.finding import identify, of_error
from appliance.admin.check.inside import CheckAnswer, Depth, ProgramSettings
from appliance.admin.images import needed
from appliance.admin.mounts import secret_mounts
from appliance.admin.run import hostkey
from appliance.admin.runtime import compose
from appliance.admin.runtime.engine import Engine
from appliance.admin.service import kept, secrets
from appliance.admin.settings import Host
from appliance.core import clock
from appliance.core.config.settings import Value
from appliance.core.run.errors import ApplianceError, ConfigurationError, LocalFailure, Unavailable
from appliance.core.run.finding import Finding
from appliance.core.run.layout import Layout

_FRESH = 3.0
"""Seconds: an editor may still be writing a file that has changed so recently."""
_PAUSE = 1.0
_EFFECTS = frozenset({"--write", "--send-test"})
"""Further flags that have an effect elsewhere."""
_AT_ONCE = 4
"""Containers at the same time; each uses a processor for a second or two."""


class Programs:
    """The programs that are checked, and their answers."""

    def __init__(
        self,
        host: Host,
        layout: Layout,
        services: Mapping[str, str],
        *,
        depth: Depth,
        extra: Mapping[str, Sequence[str]] = MappingProxyType({}),
    ) -> None:
        self.services = services
        """By job or service, the service of the compose file."""
        self._extra = extra
        """By job or service, further flags of its live check."""
        self._host, self._layout, self._depth = host, layout, depth
        self._lock = threading.Lock()
        self._answers: dict[str, Future[_ProgramAnswer]] = {}

    def findings(self, name: str) -> Sequence[Finding]:
        """Return what the check of a program has found; waits for it."""
        return self._begun()[name].result().findings

    def answer(self, name: str) -> CheckAnswer:
        """Return the whole answer of a program; waits for it."""
        found = self._begun()[name].result()
        return CheckAnswer(found.findings, found.values, found.settings)

    @property
    def values(self) -> Sequence[Value]:
        """Return the values that all programs have read; waits for them."""
        return [value for one in self._begun().values() for value in one.result().values]

    @property
    def read(self) -> list[Value]:
        """Return the values of the programs that have answered until now."""
        done = [one for one in self._answers.values() if one.done() and one.exception() is None]
        return [value for one in done for value in one.result().values]

    @property
    def asked(self) -> list[str]:
        """Return the programs that have answered until now."""
        return [
            name for name, one in self._answers.items() if one.done() and one.result().is_answer
        ]

    def _begun(self) -> Mapping[str, Future[_ProgramAnswer]]:
        with self._lock:
            if not self._answers and self.services:
                self._answers = {name: Future() for name in self.services}
                threading.Thread(target=self._ask_all, daemon=True).start()
        return self._answers

    def _ask_all(self) -> None:
        try:
            at_once = _AT_ONCE if self._has_no_engine or self._has_networks() else 1
        except ApplianceError as error:
            failed = _ProgramAnswer((of_error("", error, identifier="C04.a"),), (), is_answer=False)
            for future in self._answers.values():
                future.set_result(failed)
            return
        gate = threading.Semaphore(at_once)
        for name in self.services:
            gate.acquire()
            threading.Thread(target=self._answer, args=(name, gate), daemon=True).start()

    @property
    def _has_no_engine(self) -> bool:
        return self._host.is_native or self._host.is_beside

    def _has_networks(self) -> bool:
        with Engine(self._host.socket) as engine:
            return inside.networks(self._host) <= engine.networks()

    def _answer(self, name: str, gate: threading.Semaphore) -> None:
        future = self._answers[name]
        try:
            future.set_result(self._ask(name, self.services[name]))
        except BaseException as error:  # noqa: BLE001  it belongs to the probe that waits for it
            future.set_exception(error)
        finally:
            gate.release()

    def _ask(self, name: str, service: str) -> _ProgramAnswer:
        host, layout = self._host, self._layout
        try:
            # A connection of its own: the SDK's is not made for several threads.
            with contextlib.nullcontext() if self._has_no_engine else Engine(host.socket) as engine:
                extra = self._extra.get(name, ())
                answer = _noted(engine, name, service, host, layout, depth=self._depth, extra=extra)
        except (ApplianceError, OSError) as error:
            return _ProgramAnswer(tuple(_of_failure(name, error)), (), is_answer=False)
        return _ProgramAnswer(
            answer.findings, answer.values, is_answer=True, settings=answer.settings
        )


@dataclass(frozen=True, slots=True)
class _ProgramAnswer:
    """The answer of a program, or the findings that explain why there is none."""

    findings: tuple[Finding, ...]
    values: tuple[Value, ...]
    is_answer: bool
    settings: tuple[ProgramSettings, ...] = ()


def _noted(
    engine: Engine | None,
    name: str,
    service: str,
    host: Host,
    layout: Layout,
    *,
    depth: Depth,
    extra: Sequence[str] = (),
) -> CheckAnswer:
    """Check a program; note a service that passes, so that its start does not check it again."""
    if engine is None:
        return patiently(name, service, host, layout, depth=depth, extra=extra)
    image = next(iter(needed.require(engine, host, [service]).values()))
    is_service = name in inventory.SERVICES
    before = kept.take(service, host, layout, image=image) if is_service else None
    answer = patiently(name, service, host, layout, depth=depth, extra=extra)
    # An editor may have replaced a file in between; it is unknown which one was checked.
    if before and answer.is_usable and before == kept.take(service, host, layout, image=image):
        kept.note_check(before, service, layout)
    return answer


def patiently(
    name: str,
    service: str,
    host: Host,
    layout: Layout,
    *,
    depth: Depth = Depth.CONFIGURATION,
    extra: Sequence[str] = (),
) -> CheckAnswer:
    """Check a program; check again if a file with an error is just being written."""
    try:
        answer = _ask(name, service, host, layout, depth, extra)
    except ApplianceError as error:
        # A file that exists now has been replaced meanwhile; any other one is missing.
        if not Path(error.subject).is_absolute() or not Path(error.subject).exists():
            raise
        answer = None  # an editor has just replaced the file by renaming a new one
    # What has an effect elsewhere is not done twice.
    if answer is not None and not _EFFECTS.isdisjoint(extra):
        return answer
    if answer is None or any(map(_is_being_written, answer.findings)):
        time.sleep(_PAUSE)
        answer = _ask(name, service, host, layout, depth, extra)
    return answer


def _ask(
    name: str, service: str, host: Host, layout: Layout, depth: Depth, extra: Sequence[str]
) -> CheckAnswer:
    job = inventory.JOBS.get(name)
    if job is None:
        unit = inventory.SERVICES.get(service, "")
        is_inside = unit and not (host.is_native or host.is_beside)
        secret = [*secrets.mounts(service, unit, layout)] if is_inside else []
        return inside.ask(name, service, host, layout, mounts=secret, depth=depth, extra=extra)
    warnings: list[str] = []
    with hostkey.staged(
        job, layout, at=clock.now(), name=f"check-{name}", warn=warnings.append
    ) as mounts:
        seen = [*mounts, *_secrets(service, host, layout)]
        answer = inside.ask(name, service, host, layout, mounts=seen, depth=depth, extra=extra)
    return replace(
        answer, findings=(*answer.findings, *(trust.of_warning(name, one) for one in warnings))
    )


def _secrets(service: str, host: Host, layout: Layout) -> list[str]:
    """Return the mounts of files of secrets; without containers every path is seen."""
    if host.is_native or host.is_beside:
        return []
    return secret_mounts.of_service(service, layout)


def _is_being_written(found: Finding) -> bool:
    """Check whether a finding is an error in a file that has just changed."""
    try:
        return found.is_error and abs(time.time() - Path(found.path).stat().st_mtime) < _FRESH
    except OSError:
        return False


def _of_failure(name: str, error: ApplianceError | OSError) -> Iterator[Finding]:
    known = error if isinstance(error, ApplianceError) else LocalFailure.from_os(error)
    if isinstance(known, ConfigurationError):
        for problem in known.problems:
            row = identify(problem.option, problem.text)
            yield Finding(str(problem.path), problem.line, problem.option, problem.text, row, name)
    elif os.strerror(errno.ENOSPC) in known.cause:
        yield of_error(name, known, identifier="C02.b")
    elif row := trust.row_of(known):
        yield of_error(name, known, identifier=row)
    else:
        yield of_error(name, known, identifier=row_of_container(known))


def row_of_container(error: ApplianceError) -> str:
    """Return the row of a failure to run a container or to use its image."""
    cause = error.cause
    if isinstance(error, Unavailable) and compose.is_at_fault(error):
        return "C04.b"
    if "Docker engine" in cause:
        return "C04.a"
    if "as in" in cause and "images.lock" in cause:
        return "C04.d"
    return "C04.c" if "image" in cause else "C04"
