"""`ssmsend`: send what is in the spools, once: one spool and destination a configuration."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import time
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from appliance.core.run import cli, lock
from appliance.core.run.errors import ApplianceError, ExitStatus, LocalFailure
from appliance.core.run.finding import Finding
from appliance.core.run.layout import Layout
from appliance.core.run.record import RunRecord, read, recorded
from appliance.core.senders import FIRST, FURTHER, LAST_DELIVERED
from appliance.core.spool import Spool
from ssm import destinations
from ssm.cmds import startup
from ssm.destinations import ConfiguredDestination
from ssm.sending.claims import Claims
from ssm.sending.sent_journal import SentJournal, complaint
from ssm.settings import SenderSettings

if TYPE_CHECKING:  # start-up is a cost: most runs find an empty spool
    from ssm.sending.sender import Sender

_FIGURES = (
    "messages_sent",
    "bytes_sent",
    "messages_split",
    "dead_letters",
    "reconnects",
    "skipped",
    "missing_in_journal",
)
logger = logging.getLogger("ssmsend")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's own flags."""
    startup.add_arguments(parser, f"{FIRST} and {FURTHER}/*.cfg")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="sign every message, print what would be sent, send nothing",
    )
    parser.add_argument(
        "--send-test",
        action="store_true",
        help="with --check-live, send one test record to each destination for tests, and say what"
        " would be sent to the others",
    )
    parser.add_argument(
        "--limit",
        type=startup.positive,
        metavar="N",
        help="send at most N messages of each spool (default: all)",
    )
    parser.add_argument(
        "--max-time",
        type=startup.duration,
        default="3000",
        metavar="SECONDS",
        help="end after this number of seconds (default: 3000)",
    )


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Send, or only check the configurations."""
    os.umask(0o027)  # queues, locks and logs are for this user and group only
    return _Round(arguments).run()


def attempts(arguments: argparse.Namespace) -> Iterator[Finding]:
    """Yield the faults of the spools, of the own signature and of the brokers."""
    from ssm import live_check  # noqa: PLC0415  start-up is a cost

    found = destinations.load(cli.layout(arguments), only=arguments.config)
    usable = [(one.path, one.usable()) for one in found]
    yield from live_check.findings(usable)
    if arguments.send_test:
        from ssm import trial  # noqa: PLC0415

        yield from trial.findings(usable)


class _Round:
    """One run over all configurations: a failure of one holds back no other."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments, self._layout = arguments, cli.layout(arguments)
        self._is_run = not (arguments.check_config or arguments.dry_run)
        self._end = time.monotonic() + arguments.max_time.total_seconds()
        self._stop: startup.SignalFlag | None = None

    def run(self) -> ExitStatus:
        found = destinations.load(self._layout, only=self._arguments.config)
        statuses: list[ExitStatus] = []
        bugs: list[Exception] = []
        for number, destination in enumerate(found):
            if self._stop is not None and self._stop.is_up():
                logger.warning("%s: not begun, because of SIGTERM", destination.path)
                statuses.append(ExitStatus.PARTLY)
                continue
            # Each gets an equal share of the time that is left, so that none takes it all.
            now = time.monotonic()
            deadline = now + (self._end - now) / (len(found) - number)
            try:
                statuses.append(self._serve(destination, deadline, is_one_of_many=len(found) > 1))
            except ApplianceError as error:
                cli.report_in_form("ssmsend", error, self._arguments)
                statuses.append(error.status)
            except Exception as error:  # noqa: BLE001  a bug holds back no other destination, too
                bugs.append(error)
        if self._is_run and self._arguments.config is None:
            _forget_others({destination.record for destination in found}, self._layout)
        if bugs:
            raise bugs[0]
        return _together(statuses)

    def _serve(
        self, destination: ConfiguredDestination, deadline: float, *, is_one_of_many: bool
    ) -> ExitStatus:
        """Send the messages of one configuration, or check it."""
        records = self._layout.runs if self._is_run else None
        with recorded(destination.record, records) as record:
            record.counts = {**dict.fromkeys(_FIGURES, 0), **self._last_delivered(destination)}
            settings = destination.usable()
            startup.configure_log("ssmsend", settings, self._arguments)
            claims = _open_spool(settings)
            if not self._is_run:
                record.status = _look(settings, claims.spool, self._arguments)
                return record.status
            startup.announce("ssmsend", "sending")
            if is_one_of_many:
                logger.info("Configuration: %s", destination.path)
            record.status = self._send(settings, claims, record, deadline)
            return record.status

    def _last_delivered(self, destination: ConfiguredDestination) -> dict[str, float]:
        """Return the figure of earlier runs, which stays until a message is delivered."""
        counts = (read(destination.record, self._layout.runs) or {}).get("counts")
        found = counts.get(LAST_DELIVERED) if isinstance(counts, dict) else None
        return {LAST_DELIVERED: found} if isinstance(found, int | float) else {}

    def _send(
        self, settings: SenderSettings, claims: Claims, record: RunRecord, deadline: float
    ) -> ExitStatus:
        spool = claims.spool
        try:
            with lock.hold(settings.lock):
                claims.recover()
                if next(spool.names(), None) is None and not spool.skipped:
                    logger.info("No messages found to send.")
                    status = _keep_journal(settings, record)
                else:
                    sender = self._sender(settings, claims, record, deadline)
                    status = sender.run(limit=self._arguments.limit)
                    logger.info("SSM run has finished.")
                logger.info(startup.RULE)
                return status
        finally:
            # Counted whatever ended the run: the figure is what lies in the spool now.
            with contextlib.suppress(LocalFailure):
                record.counts["left"] = spool.count()

    def _sender(
        self, settings: SenderSettings, claims: Claims, record: RunRecord, deadline: float
    ) -> Sender:
        from ssm.sending.packer import load_packer  # noqa: PLC0415  start-up is a cost
        from ssm.sending.sender import Sender  # noqa: PLC0415
        from ssm.transport.brokers import brokers_of  # noqa: PLC0415

        packer = load_packer(settings)
        self._stop = startup.SignalFlag(signal.SIGTERM)
        return Sender(
            settings,
            claims,
            packer=packer,
            brokers=brokers_of(settings.link, trust=packer.trust),
            record=record,
            deadline=deadline,
            is_stopping=self._stop.is_up,
        )


def _together(statuses: Sequence[ExitStatus]) -> ExitStatus:
    """Return the exit status of a run over several configurations."""
    found = set(statuses)
    if len(found) == 1:
        return found.pop()
    # Nothing could be done in any of them, for different reasons.
    if found == {ExitStatus.USAGE, ExitStatus.NOTHING}:
        return ExitStatus.NOTHING
    return ExitStatus.PARTLY


def _forget_others(kept: Collection[str], layout: Layout) -> None:
    """Remove the records of configurations that no longer exist."""
    for path in layout.runs.glob("ssmsend-*"):
        if path.suffix in (".json", ".prom") and path.stem not in kept:
            with contextlib.suppress(OSError):
                path.unlink()


def _keep_journal(settings: SenderSettings, record: RunRecord) -> ExitStatus:
    """Do the upkeep of the journal, which a run without messages rarely needs."""
    journal = SentJournal(settings)
    journal.finish()
    for line in journal.failures():
        record.fail(line)
    return ExitStatus.PARTLY if record.failures else ExitStatus.DONE


def _open_spool(settings: SenderSettings) -> Claims:
    if not settings.path.is_dir():
        logger.warning(
            "%s: the spool does not exist (yet); producers make it with their first message",
            settings.path,
        )
    if settings.kept.is_dirq:
        return Claims(Spool(settings.path), journal=settings.lock_journal)
    from ssm.sending.directory_spool import DirectorySpool  # noqa: PLC0415  start-up is a cost

    # The kernel sends SIGIO when another program opens for writing a file on which we hold a read
    # lease, which we do for a moment to find out who is writing. Its default action is to kill us.
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    return Claims(DirectorySpool(settings.path), journal=settings.lock_journal)


def _look(settings: SenderSettings, spool: Spool, arguments: argparse.Namespace) -> ExitStatus:
    """Do what ``--check-config`` or ``--dry-run`` asks for; send and change nothing."""
    from ssm.sending.packer import load_packer  # noqa: PLC0415  start-up is a cost
    from ssm.sending.preview import preview  # noqa: PLC0415

    packer = load_packer(settings)
    if not arguments.check_config:
        destination = settings.link.destination
        return preview(spool, packer, destination=destination, limit=arguments.limit)
    from ssm.transport import brokers  # noqa: PLC0415  start-up is a cost

    brokers.check_tls(settings.link)
    if settings.kept.journal.months and (text := complaint(settings.kept.journal.path)):
        logger.warning("%s; correct its owner, or [journal] path", text)
    count = spool.count()
    for failure in spool.skipped.values():
        print(f"ssmsend: warning: {failure}")
    print(f"ssmsend: configuration is good; {count} messages wait in {settings.path}")
    return ExitStatus.DONE


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    return cli.main(
        cli.Program(
            "ssmsend",
            "Send the messages of one or more spools, signed, to message brokers.",
            add_arguments,
            run,
            attempts=attempts,
            attempted_row="C41",
            version_flags=("-v", "--version"),
        ),
        argv,
    )
