"""``appliance run JOB``: run a job once, and return its exit status.

If the job runs already, the command prints that and ends with status 0. Before a run, the container
and the copy of the host key of a killed run are removed. The last run is recorded as ``job-NAME``,
in a directory that no container can write to. A job whose flow is off is not started, which is not
a failure.

``appliance run JOB -- VERB`` runs a verb of the job's program for a person: beside a run of the
job, whether or not the flow is on, and without a record. So does ``-- --dry-run``.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path, PurePath
from typing import IO, Any, BinaryIO

from appliance.admin import changing, inventory, settings
from appliance.admin.images import needed
from appliance.admin.inventory import Job
from appliance.admin.mounts import secret_mounts, site_files
from appliance.admin.run import credentials, hostkey, journal, ping, supervise
from appliance.admin.runtime import compose, compose_output, native
from appliance.admin.runtime.engine import JOB_LABEL, Engine
from appliance.admin.schedule import horizon, state
from appliance.admin.state import mark
from appliance.core import clock, files
from appliance.core.run import cli, lock, log, record, system_log
from appliance.core.run.errors import (
    Busy,
    ExitStatus,
    LocalFailure,
    Unavailable,
    UsageError,
)
from appliance.core.run.layout import Layout

logger = logging.getLogger(__name__)

_STOP = timedelta(seconds=10)
_PATIENCE = timedelta(minutes=10)
"""Time for the same verb of another person to end."""
_NO_CHANGE, _DRY = {"--dry-run", "--dry_run", "--check-config"}, "-dry-run"
"""Arguments of a run that changes nothing, and the end of its name."""
_ROOM = 2**14  # bytes; enough for the messages of docker-compose itself


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own flags."""
    words = f"job to run: {', '.join(inventory.JOBS)}"
    parser.add_argument("job", metavar="JOB", help=words)
    parser.usage = "appliance run JOB [--wait] [--timeout SECONDS] [--log] [-- ARGUMENT ...]"
    verbs = "; ".join(f"{job.name}: {', '.join(sorted(job.verbs))}" for job in _with_verbs())
    parser.epilog = f"ARGUMENT is for the job's program, or begins with a verb of it. {verbs}."
    parser.add_argument(
        "--wait",
        action="store_true",
        help="if the job already runs, wait for its end and return its exit status",
    )
    parser.add_argument(
        "--timeout",
        type=_seconds,
        metavar="SECONDS",
        help="seconds after which to stop the job (default: timeouts in appliance.yaml)",
    )
    parser.add_argument(
        "--log",
        action="store_true",
        help="write the output to the job's file in /var/log, as timers do",
    )


def _with_verbs() -> list[Job]:
    return [job for job in inventory.JOBS.values() if job.verbs]


def run(arguments: argparse.Namespace) -> int:
    """Run the job, unless it runs already."""
    layout = cli.layout(arguments)
    job, arguments.rest = inventory.find(arguments.job).called(arguments.rest)
    if not job.base and not _NO_CHANGE.isdisjoint(arguments.rest):
        # Beside a run of the job, as a verb: its lock, its container and its record stay its own.
        job = replace(job, name=f"{job.name}{_DRY}", base=job.name)
    with contextlib.ExitStack() as stack:
        if os.geteuid() == 0 and not arguments.check_config and not job.base:
            stack.enter_context(
                record.recorded(f"job-{job.name}", inventory.records(layout), is_service=True)
            )
        host = settings.load(layout)
    for warning in host.warnings:
        logger.warning("%s", warning)
    if arguments.check_config:
        _check_files(job, layout, host)
        return ExitStatus.DONE
    if not job.base and (line := host.off(job.name)):
        print(line, flush=True)
        return ExitStatus.DONE
    if os.geteuid() != 0:
        words = "only root can start a job"
        raise UsageError(job.name, words, f"sudo appliance run {arguments.job}")
    if host.journal and not job.base:
        _log_to_journal(job, layout, arguments)
    for number in supervise.FORWARDED:
        # Every signal raises KeyboardInterrupt, so that the copy of the host key is removed.
        signal.signal(number, signal.default_int_handler)
    return _locked(job, layout, host, arguments)


def _check_files(job: Job, layout: Layout, host: settings.Host) -> None:
    """Check the state and the files of the host; a job without a service needs neither."""
    if job.service:
        mark.require(layout)
        if not host.is_native:
            settings.require_files(host)


def _log_to_journal(job: Job, layout: Layout, arguments: argparse.Namespace) -> None:
    """Send the messages about a job to the journal, and to the terminal if there is one."""
    path, fields = layout.path(str(system_log.JOURNAL)), {journal.JOB: job.name}
    try:
        handler = system_log.JournalHandler("appliance", path, fields)
    except OSError as error:
        logger.warning("logs: journal: %s", LocalFailure.from_os(error, subject=path))
        return
    level = logging.DEBUG if arguments.debug else logging.INFO
    log.configure(level=level, console=sys.stderr.isatty(), also=[handler])


def _locked(job: Job, layout: Layout, host: settings.Host, arguments: argparse.Namespace) -> int:
    """Run the job under its lock, or say that it runs already."""
    if job.base:
        with lock.hold(layout.path(f"/run/fedcloud/{job.name}.lock"), wait=_PATIENCE):
            changing.refuse(layout)
            return _JobRun(job, layout, host, arguments).recorded()
    if arguments.wait:
        changing.await_end(layout, limit=host.timeouts[job.name])
    # Before the lock: a run that ends in between must be recognised as the one waited for.
    earlier = record.read(f"job-{job.name}", inventory.records(layout))
    this = _JobRun(job, layout, host, arguments)
    try:
        # Outside the lock: a slow host must not keep the next run from its start.
        with (
            ping.of_run(job, layout, host) as pings,
            lock.hold(layout.path(f"/run/fedcloud/{job.name}.lock")),
        ):
            # Under the job's lock, which a restore takes after its own.
            if words := changing.reason(layout):
                print(f"{job.name}: not started: {words}", flush=True)
                return ExitStatus.DONE
            pings.begin()
            return _pinged(this, pings)
    except Busy as busy:
        print(f"{job.name}: {busy.cause}", flush=True)
        if not arguments.wait:
            return ExitStatus.DONE
        return _end_of_other(job, layout, limit=host.timeouts[job.name], earlier=earlier)


def _pinged(this: _JobRun, pings: ping.RunPings) -> int:
    """Run the job, and ping its end, however it ends."""
    try:
        status = this.recorded()
    except BaseException as error:
        pings.end(str(error) or "interrupted")
        raise
    pings.end(this.last_line() if status else "")
    return status


def _end_of_other(
    job: Job, layout: Layout, *, limit: timedelta, earlier: Mapping[str, object] | None
) -> int:
    """Wait for the run that holds the lock; return its exit status.

    ``earlier`` is the record from before the lock was requested. If it has not changed, that run
    was killed before it could write its own.
    """
    with lock.hold(layout.path(f"/run/fedcloud/{job.name}.lock"), wait=limit + 2 * supervise.GRACE):
        last = record.read(f"job-{job.name}", inventory.records(layout))
    if last is None or last == earlier:
        cause = "the other run was killed, or could not write its record"
        raise Unavailable(job.name, cause, f"run it again: appliance run {job.name}")
    counts = last.get("counts")
    status = counts.get("job_exit_status") if isinstance(counts, dict) else None
    return int(status) if isinstance(status, int | float) else ExitStatus.NOTHING


class _JobRun:
    """A run of a job, under its lock."""

    def __init__(
        self, job: Job, layout: Layout, host: settings.Host, arguments: argparse.Namespace
    ) -> None:
        self._job, self._layout, self._host = job, layout, host
        self._arguments: Sequence[str] = arguments.rest
        self._timeout: timedelta = arguments.timeout or host.timeouts[job.base or job.name]
        self._is_logged: bool = arguments.log

    def last_line(self) -> str:
        """Return the last line of what the run left undone, in the words of its program."""
        from appliance.admin.status import one_each, records  # noqa: PLC0415  for bad runs only

        found = {path.stem: tree for path, tree in records.last_records(self._layout)[0].items()}
        trees = one_each.one_a_job(found)
        program = PurePath(self._job.command[0]).name
        tree = trees.get(program) or trees.get(f"job-{self._job.name}") or {}
        lines = tree.get("failures")
        return str(lines[-1]) if isinstance(lines, list) and lines else "see appliance status"

    def recorded(self) -> int:
        """Run, and write the record, however the run ends."""
        program = f"job-{self._job.name}"
        records = None if self._job.base else inventory.records(self._layout)
        with record.recorded(program, records) as self._record:
            try:
                if not self._job.base:
                    state.refuse_second(self._job, self._layout)
                if self._job.service:  # fetch-crl keeps nothing there
                    mark.require(self._layout)
                status = self._run()
            except (Exception, KeyboardInterrupt) as error:
                self._record.add("job_exit_status", record.status_of(error))
                raise
            self._record.add("job_exit_status", status)
            is_ours = status in set(ExitStatus)
            self._record.status = ExitStatus(status) if is_ours else ExitStatus.NOTHING
        return status

    def _run(self) -> int:
        if not self._job.service:
            return self._run_on_host()
        return self._run_natively() if self._host.is_native else self._run_in_container()

    def _run_natively(self) -> int:
        """Run the program of a job on the host itself; signals go to the child."""
        named = site_files.variables(self._layout).get("FEDCLOUD_CA_BUNDLE", "")
        environment = native.environment(
            self._host.proxies, named_authorities=named, root=self._layout.root
        )
        if self._is_for_journal:
            environment[log.JSON_VARIABLE] = "1"
        with (
            hostkey.staged(self._job, self._layout, at=clock.now()) as mounts,
            credentials.staged(self._job, self._layout) as secrets,
        ):
            binds = [*mounts]
            if secrets:
                target = str(self._layout.path(credentials.PLACE))
                binds.append(f"{secrets}:{target}")
                environment[credentials.VARIABLE] = target
            arguments = [*self._own_arguments(), *self._arguments]
            command = native.command(self._job, self._layout, mounts=binds, arguments=arguments)
            return self._supervised(command, environment, forward=lambda _: False)

    def _run_on_host(self) -> int:
        program, *flags = self._job.command
        if not Path(program).exists():
            raise Unavailable(program, "is not installed", f"apt-get install {Path(program).name}")
        environment = {**settings.compose_environment(self._host), **self._host.proxies}
        # fetch-crl ignores the variables of the environment without this flag.
        flags += through_proxy(self._host)
        return self._supervised(
            [program, *flags, *self._arguments], environment, forward=lambda _: False
        )

    def _run_in_container(self) -> int:
        settings.require_files(self._host)
        compose.require(self._host.compose)
        name = self._job.name
        with Engine(self._host.socket) as engine:
            # A container whose wrapper was killed would run beside the new one.
            if left := engine.remove_job(name, grace=_STOP):
                logger.warning("%s: removed %d container(s) that a killed run had left", name, left)
            needed.require(engine, self._host, [self._job.service])
            with (
                hostkey.staged(self._job, self._layout, at=clock.now()) as mounts,
                credentials.staged(self._job, self._layout) as secrets,
            ):
                try:
                    return self._supervised(
                        self._compose_run(mounts, secrets),
                        settings.compose_environment(self._host),
                        forward=lambda name: self._signal(engine, name),
                        engine=engine,
                    )
                finally:
                    self._remove_rest(engine)

    def _remove_rest(self, engine: Engine) -> None:
        """Remove a container that docker-compose has left; a failure is only a warning."""
        try:
            engine.remove_job(self._job.name, grace=timedelta(0))
        except Unavailable as error:
            logger.warning(
                "%s: its container was not removed: %s; the next run removes it",
                self._job.name,
                error,
            )

    def _signal(self, engine: Engine, signal_name: str) -> bool:
        """Send a signal to the container; return False if the child must get it instead."""
        try:
            return engine.signal_job(self._job.name, signal_name)
        except Unavailable as error:
            logger.warning("%s: %s", self._job.name, error)
            return False

    def _compose_run(self, mounts: Sequence[str], secrets: Path | None) -> list[str]:
        own = secret_mounts.of_service(self._job.service, self._layout)
        volumes = [flag for mount in (*mounts, *own) for flag in ("-v", mount)]
        if secrets:
            volumes += ["-v", f"{secrets}:{credentials.PLACE}:ro"]
            volumes += ["-e", f"{credentials.VARIABLE}={credentials.PLACE}"]
        flags = [
            "run",
            "--rm",
            "-T",
            "--no-deps",
            "--label",
            f"{JOB_LABEL}={self._job.name}",
            *volumes,
        ]
        program = [*self._job.command, *self._own_arguments(), *self._arguments]
        overrides = settings.log_overrides(self._host) if self._is_for_journal else []
        return settings.compose_command(self._host, *overrides, *flags, self._job.service, *program)

    def _own_arguments(self) -> list[str]:
        """Return the arguments that the appliance adds to those of the caller."""
        if self._job.name not in ("caso", f"caso{_DRY}"):
            return []
        return horizon.arguments(self._layout, changes_nothing=bool(self._job.base))

    def _supervised(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        forward: supervise.Forward,
        engine: Engine | None = None,
    ) -> int:
        program, begun = self._job.command[0], clock.now()
        logger.info("%s: starts", self._job.name)
        with self._output() as own, self._unless_full(own) as output:
            relay = (
                compose_output.Relay(output or sys.stderr.buffer) if engine and sys.stderr else None
            )
            outcome = supervise.run(
                command,
                environment=environment,
                output=output,
                timeout=self._timeout,
                forward=forward,
                errors=relay,
            )
            # Only docker-compose's standard error is filtered; other programs have no relay.
            if engine and relay and relay.held:
                self._judge(engine, relay, outcome, begun=begun)
        if outcome.stopped_by:
            self._record.fail(f"{program} was stopped by {outcome.stopped_by}")
            logger.error("%s: %s was stopped by %s", self._job.name, program, outcome.stopped_by)
            # A program that handles SIGTERM may end with 0, but its work is not done.
            return outcome.code or ExitStatus.NOTHING
        if outcome.code:
            self._record.fail(f"{program} ended with exit status {outcome.code}; {self._where()}")
        level = logging.ERROR if outcome.code else logging.INFO
        logger.log(level, "%s: %s ended with exit status %d", self._job.name, program, outcome.code)
        return outcome.code

    def _judge(
        self,
        engine: Engine,
        relay: compose_output.Relay,
        outcome: supervise.ChildExit,
        *,
        begun: datetime,
    ) -> None:
        """Write the lines that were held back, if the program has run.

        Raises:
            Unavailable: docker-compose failed, and the program never ran.

        """
        if (
            outcome.code
            and not outcome.stopped_by
            and not engine.has_ended(self._job.name, since=begun)
        ):
            raise compose_output.failure(self._job.name, relay.held)
        relay.release()

    def _where(self) -> str:
        """Return a clause that says where the output of this run is."""
        if self._is_for_journal:
            return f"see appliance logs {self._job.name}"
        path = self._layout.path(f"/var/log/{self._job.log}")
        try:
            is_log = self._is_logged or os.path.samestat(path.stat(), os.fstat(1))
        except OSError:
            is_log = False
        return (
            f"see /var/log/{self._job.log}"
            if is_log
            else "its output went to the terminal or caller"
        )

    @contextlib.contextmanager
    def _output(self) -> Iterator[BinaryIO | None]:
        """Yield the journal, or the log file, opened for this run so that it can be rotated."""
        if self._is_for_journal:
            with contextlib.ExitStack() as stack:
                yield self._journal(stack)
            return
        if not self._is_logged:
            yield None
            return
        path = self._layout.path(f"/var/log/{self._job.log}")
        try:
            descriptor = files.open_append(path, os.O_NOFOLLOW)
        except OSError as error:  # the job runs all the same; systemd's journal gets its output
            failure = LocalFailure.from_os(error, subject=path)
            logger.warning("%s; the output of the job goes to standard output", failure)
            yield None
            return
        with open(descriptor, "ab", buffering=0) as file:
            yield file

    @property
    def _is_for_journal(self) -> bool:
        """Whether the output goes to systemd's journal; that of a verb is for a person."""
        return bool(self._host.journal) and not self._job.base

    def _journal(self, stack: contextlib.ExitStack) -> BinaryIO | None:
        """Return the journal as a file; None, for standard output, if it does not listen."""
        path = self._layout.path(str(system_log.JOURNAL))
        try:
            return stack.enter_context(journal.output(self._job, path))
        except OSError as error:
            failure = LocalFailure.from_os(error, subject=path)
            logger.warning("%s; the output of the job goes to standard output", failure)
            return None

    @contextlib.contextmanager
    def _unless_full(self, output: BinaryIO | None) -> Iterator[BinaryIO | None]:
        """Yield the output, or /dev/null if its file system is full.

        docker-compose ends when it cannot write. The job itself may be able to work, and may even
        free the space.
        """
        if not _is_full(sys.stdout if output is None else output):
            yield output
            return
        self._record.fail(
            f"/var/log/{self._job.log}: its file system is full;"
            f" the output of {self._job.name} is lost"
        )
        with open(os.devnull, "wb") as nowhere:
            yield nowhere


def _is_full(output: IO[Any]) -> bool:
    """Return whether a file is on a full file system, where even root cannot write."""
    try:
        number = output.fileno()
        room = os.fstatvfs(number)
        return stat.S_ISREG(os.fstat(number).st_mode) and room.f_bfree * room.f_frsize < _ROOM
    except (OSError, ValueError, AttributeError):  # closed, or not a file
        return False


def through_proxy(host: settings.Host) -> list[str]:
    """Return the flags that make fetch-crl use the proxy in its environment."""
    return ["--define", "http_proxy=ENV"] if "HTTP_PROXY" in host.proxies else []


def _seconds(text: str) -> timedelta:
    if not text.isdecimal() or not 0 < int(text) < 10**7:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds, such as 3600")
    return timedelta(seconds=int(text))


VERB = cli.Program(
    "run", "Run a job once, and return its exit status.", add_arguments, run, has_rest=True
)
