"""Pings of a run to a dead-man switch, as healthchecks.io has them: start, good, bad.

    GET  URL/start     the run begins
    GET  URL           it was complete
    POST URL/fail      it was not; the body is the last line of what went wrong

A thread sends them, so that a slow or dead host neither delays nor fails a job. When the run is
over and its lock is free, the process waits a few seconds at most for what is not sent yet.

A run that was killed cannot say so. It leaves a mark, and the next run reports it before its own
start; the switch itself notices a host that is gone.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from appliance.admin import inventory, pings, web_reader
from appliance.admin.inventory import Job
from appliance.admin.settings import Host
from appliance.admin.web_reader import WebReader
from appliance.core import clock, files
from appliance.core.run import log
from appliance.core.run.errors import ApplianceError, LocalFailure
from appliance.core.run.layout import Layout

logger = logging.getLogger(__name__)

WAIT = timedelta(seconds=5)
"""How long a process stays for pings after its run, all in all."""
_ANSWER = timedelta(seconds=3)
_LONGEST_LINE = 2000
_LARGEST_MARK = 1000
_START, _GOOD, _BAD = "/start", "", "/fail"


class RunPings:
    """The pings of one run of a job; without a URL they do nothing."""

    def __init__(self, job: str, url: str, reader: WebReader, mark: Path) -> None:
        self._job, self._url, self._reader, self._mark = job, url, reader, mark
        self._waiting: queue.SimpleQueue[tuple[str, str] | None] = queue.SimpleQueue()
        self._sender = threading.Thread(target=self._send_all, daemon=True)

    def begin(self) -> None:
        """Report a run that was killed, if there was one, and the start of this one."""
        if not self._url:
            return
        self._sender.start()
        try:
            earlier = files.read_regular(self._mark, limit=_LARGEST_MARK).decode(errors="replace")
            line = f"the run that began at {earlier.strip()} was killed"
            self._waiting.put((_BAD, line))
        except FileNotFoundError:
            pass
        except OSError as error:
            logger.warning("ping of %s: %s", self._job, LocalFailure.from_os(error))
        self._waiting.put((_START, ""))
        with self._unharmed():
            files.make_directory(self._mark.parent, mode=0o755)
            files.write_atomic(self._mark, f"{clock.now():%Y-%m-%d %H:%M:%SZ}\n".encode())

    def end(self, line: str) -> None:
        """Report the end of the run; an empty ``line`` says that it was complete."""
        if self._url:
            with self._unharmed():
                self._mark.unlink(missing_ok=True)
            self._waiting.put((_BAD, line) if line else (_GOOD, ""))

    def close(self) -> None:
        """Wait until all pings are sent, or for `WAIT`."""
        self._waiting.put(None)
        if self._sender.is_alive():
            self._sender.join(WAIT.total_seconds())
            if self._sender.is_alive():
                words = f"no answer within {WAIT.total_seconds():g} s after the run"
                logger.warning("ping of %s: %s", self._job, words)

    @contextlib.contextmanager
    def _unharmed(self) -> Iterator[None]:
        """Log a mark that cannot be written or removed: the job matters more."""
        try:
            yield
        except OSError as error:
            logger.warning("ping of %s: %s", self._job, LocalFailure.from_os(error))

    def _send_all(self) -> None:
        while (found := self._waiting.get()) is not None:
            ending, line = found
            content = log.redact(line)[:_LONGEST_LINE].encode(errors="backslashreplace")
            try:
                self._reader.send(self._url + ending, content if ending == _BAD else None)
            except ApplianceError as error:
                logger.warning("ping of %s: %s", self._job, error)


@contextlib.contextmanager
def of_run(job: Job, layout: Layout, host: Host) -> Iterator[RunPings]:
    """Yield the pings of a run; a file that cannot be used is logged, and the job runs."""
    url, path = "", host.pings.get(job.name)
    if path:
        try:
            url = pings.url_of(path)
        except LocalFailure as error:
            logger.warning("ping of %s: %s", job.name, error)
    reader = web_reader.of_site(
        layout, host.proxies, timeout=_ANSWER, setting=str(path), patience="see its host"
    )
    found = RunPings(job.name, url, reader, inventory.records(layout) / f".ping-{job.name}")
    try:
        yield found
    finally:
        found.close()
