"""What a sync contacts, tried once: sources, the backend, and the images in the cloud.

All sources and the backend are asked at the same time, each in a thread that is left behind when
its time is over. Nothing is written, and no run of the backend begins: a plan needs none.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from appliance.core import clock
from appliance.core.run import lock
from appliance.core.run.errors import ApplianceError
from appliance.core.run.finding import Finding
from cloudkeeper.frontend.backend_client import BackendClient, BackendUnreachable
from cloudkeeper.frontend.commands import assembly
from cloudkeeper.frontend.comparison import Comparison
from cloudkeeper.frontend.conversion import QemuImg
from cloudkeeper.frontend.live_sources import ReadSource, ReadSources, named, places
from cloudkeeper.frontend.plan import AcceptedFormats
from cloudkeeper.frontend.registry.project import RegistryProject
from cloudkeeper.frontend.remedies import command
from cloudkeeper.frontend.settings import FrontendSettings
from cloudkeeper.frontend.sync_report import ComparedList, SyncReport
from cloudkeeper.model import Create, ListId, Offer, Update

READ, COMPARED = 24.0, 34.0
"""Seconds from the start until sources and backend are given up, and the comparison."""
_LISTED = "the lists of images in the cloud"
_COMPARISON = "the comparison of the sources with the cloud"
_Result = TypeVar("_Result")


def findings(configured: FrontendSettings, *, state: Path) -> Iterator[Finding]:
    """Yield the faults of what a sync needs (C60 to C63); ``state`` is the frontend's directory."""
    begun, at = time.monotonic(), clock.now()
    yield from _of_converter(configured)
    backend, listed = None, None
    try:
        # Not closed: a thread that is left behind may still use it, and the process ends soon.
        backend = assembly.backend(configured)
        listed = _begin(functools.partial(_listed, backend))
    except ApplianceError as error:
        yield _of_backend(error, configured)
    read: list[ReadSource] = []
    yield from _of_sources(configured, read, state=state, at=at, until=begun + READ)
    if backend is None or listed is None:
        return
    try:
        known = _wait(listed, begun + READ)
    except ApplianceError as error:
        yield _of_backend(error, configured)
        return
    if known is None:
        backend.cancel()
        yield _placed(f"{configured.endpoint}: {_late(READ)}", "C61", _LISTED, configured)
        return
    work = functools.partial(_of_images, read, backend, known, configured, at=at)
    found = _wait(_begin(lambda: list(work())), begun + COMPARED)
    if found is None:
        backend.cancel()
        found = [_placed(f"{_COMPARISON}: {_late(COMPARED)}", "C63", _COMPARISON, configured)]
    yield from found


def _of_sources(
    configured: FrontendSettings,
    read: list[ReadSource],
    *,
    state: Path,
    at: datetime,
    until: float,
) -> Iterator[Finding]:
    """Read all sources at the same time; yield their faults, and add the good ones to ``read``."""
    made = assembly.sources(configured, state=state, is_prompt=True)
    sources = [ReadSource(*one) for one in zip(made, places(configured), strict=True)]
    answers = [_begin(functools.partial(_read, one, at=at)) for one in sources]
    for source, answer in zip(sources, answers, strict=True):
        try:
            found = _wait(answer, until)
        except ApplianceError as error:
            yield source.failure(error)
            continue
        if found is None:
            yield source.finding(_late(READ), "C60", tried=f"reading {source.source}")
            continue
        yield from found.refusals()
        read.append(found)


def _begin(work: Callable[[], _Result]) -> Future[_Result]:
    """Start work in a daemon thread: the process ends although the thread still waits."""
    made: Future[_Result] = Future()

    def run() -> None:
        try:
            made.set_result(work())
        except BaseException as error:  # noqa: BLE001  raised again by whoever waits
            made.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return made


def _wait(work: Future[_Result], until: float) -> _Result | None:
    """Return the result of work; None if it is late."""
    try:
        return work.result(timeout=max(until - time.monotonic(), 0))
    except TimeoutError:
        if work.done():  # the work itself has failed with it
            raise
        return None


def _late(seconds: float) -> str:
    return f"no result within {seconds:g} s; look at its host and at the network, and check again"


def _of_converter(configured: FrontendSettings) -> Iterator[Finding]:
    if fault := QemuImg(configured.qemu_img, configured.patience).fault():
        path, line = _shown(configured.qemu_img_place)
        option = "external-tools.binaries" if path else ""
        yield Finding(path, line, option, fault, "C62.a", tried="qemu-img --version")


def _read(one: ReadSource, *, at: datetime) -> ReadSource:
    lists, _ = one.source.fetch(at=at)  # its warnings are about CRLs, which another probe checks
    return replace(one, lists=lists)


def _listed(backend: BackendClient) -> Sequence[ListId]:
    backend.check()
    return backend.list_ids()


def _of_backend(error: ApplianceError, configured: FrontendSettings) -> Finding:
    if not isinstance(error, BackendUnreachable):
        text = f"{error}; see what the check of cloudkeeper-os finds"
        return replace(_placed(text, "C61", _LISTED, configured), is_error=False)
    is_local = configured.endpoint.startswith("unix:")
    remedy = f"run: systemctl start cloudkeeper-os; {error.remedy}" if is_local else error.remedy
    text = f"{error.subject}: {error.cause}; {remedy}"
    return _placed(text, "C61.a", f"a connection to {configured.endpoint}", configured)


def _placed(text: str, row: str, tried: str, configured: FrontendSettings) -> Finding:
    """Return a finding in the line that names the backend."""
    path, line = _shown(configured.endpoint_place)
    return Finding(path, line, "", text, row, tried=tried)


def _shown(place: tuple[Path, int]) -> tuple[str, int]:
    """Return file and line of an option; none if a flag or the environment has set it."""
    path, line = place
    return (str(path), line) if path.is_absolute() else ("", 0)


def _of_images(
    read: Sequence[ReadSource],
    backend: BackendClient,
    known: Sequence[ListId],
    configured: FrontendSettings,
    *,
    at: datetime,
) -> Iterator[Finding]:
    """Yield the differences that a sync which has ended would not have left (C60.f, C63)."""
    report = SyncReport(is_logged=False)
    sources = ReadSources([one.source for one in read], keeps=False, read=read)
    formats = AcceptedFormats(frozenset(configured.formats))
    # A sync that runs has not brought all images yet.
    is_running = bool(lock.holder(configured.lock_file))
    by_name = {str(one.source): one for one in read}
    for _ in Comparison(sources, backend, 0, formats).plans(known, report, at=at):
        pass
    for compared in report.compared:
        one = _Compared(by_name[compared.source], compared)
        yield from one.held_back()
        if not is_running:
            yield from one.missing(at=at)
            yield from one.gone()


@dataclass(frozen=True, slots=True)
class _Compared:
    """A list of a source beside its images in the cloud."""

    source: ReadSource
    compared: ComparedList

    @property
    def tried(self) -> str:
        return f"the images of VO {self.compared.vo} in Glance, compared with the source"

    def held_back(self) -> Iterator[Finding]:
        """Yield a finding if the guard holds removals back."""
        plan = self.compared.plan
        if number := len(plan.withheld):
            again = command("sync", "--allow-remove", str(number))
            text = (
                f"VO {self.compared.vo}: the source no longer has {number} of"
                f" {number + plan.unchanged} images, so none is removed; to confirm that, run"
                f" once: {again}"
            )
            yield self._warning(text, "C63.b")

    def missing(self, *, at: datetime) -> Iterator[Finding]:
        """Yield a finding if images are not as in the source, which an earlier run has read."""
        names = [
            offer.appliance.identifier
            for offer in self._offers()
            if self.source.was_read_before(offer, at=at)
        ]
        if names:
            text = (
                f"VO {self.compared.vo}: missing or outdated in Glance, although an earlier sync"
                f" has read the source: {named(names)}; see {command('plan')} and"
                f" {command('status')}"
            )
            yield self._warning(text, "C63.a")

    def gone(self) -> Iterator[Finding]:
        """Yield a finding if a registry no longer has a tag whose image is in the cloud."""
        if not isinstance(self.source.source, RegistryProject):
            return  # the endorser of a list removes images as a matter of course
        plan = self.compared.plan
        listed = self.source.identifiers(plan.list_id)
        images = [change.appliance.identifier for change in (*plan.removals, *plan.waiting)]
        if leaving := [each for each in images if each not in listed]:
            text = (
                f"VO {self.compared.vo}: the registry no longer has {named(leaving)}, so the next"
                " sync removes what is in Glance; if users need it, ask who publishes it to push"
                " the tag again"
            )
            yield self._warning(text, "C60.f")

    def _offers(self) -> Iterator[Offer]:
        for change in self.compared.plan.changes:
            if isinstance(change, Create | Update):
                yield change.offer

    def _warning(self, text: str, row: str) -> Finding:
        return self.source.finding(text, row, tried=self.tried, is_error=False)
