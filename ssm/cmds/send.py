"""`ssmsend`: send what is in the spool, once."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import time
from typing import TYPE_CHECKING

from appliance.core.run import cli, lock
from appliance.core.run.errors import ExitStatus, LocalFailure
from appliance.core.run.record import RunRecord, recorded
from appliance.core.spool import Spool
from ssm.cmds import startup
from ssm.sending.claims import Claims
from ssm.settings import SenderSettings, load_sender

if TYPE_CHECKING:  # start-up is a cost: most runs find an empty spool
    from ssm.sending.sender import Sender

_CONFIG = "/etc/apel/sender.cfg"
_FIGURES = (
    "messages_sent",
    "bytes_sent",
    "messages_split",
    "dead_letters",
    "reconnects",
    "skipped",
)
logger = logging.getLogger("ssmsend")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's own flags."""
    startup.add_arguments(parser, _CONFIG)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="sign every message, print what would be sent, send nothing",
    )
    parser.add_argument(
        "--limit",
        type=startup.positive,
        metavar="N",
        help="send at most N messages (default: all)",
    )
    parser.add_argument(
        "--max-time",
        type=startup.duration,
        default="3000",
        metavar="SECONDS",
        help="end after this number of seconds (default: 3000)",
    )


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Send, or only check the configuration."""
    os.umask(0o027)  # queues, locks and logs are for this user and group only
    layout = cli.layout(arguments)
    is_run = not (arguments.check_config or arguments.dry_run)
    with recorded("ssmsend", layout.runs if is_run else None) as record:
        record.counts = dict.fromkeys(_FIGURES, 0)
        settings = load_sender(arguments.config or layout.path(_CONFIG), layout=layout)
        startup.configure_log("ssmsend", settings, arguments)
        claims = _open_spool(settings)
        if is_run:
            record.status = _send(settings, claims, record, arguments)
        else:
            record.status = _look(settings, claims.spool, arguments)
        return record.status


def _open_spool(settings: SenderSettings) -> Claims:
    if not settings.path.is_dir():
        logger.warning(
            "%s: the spool does not exist (yet); producers make it with their first message",
            settings.path,
        )
    if settings.is_dirq:
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
    count = spool.count()
    for failure in spool.skipped.values():
        print(f"ssmsend: warning: {failure}")
    print(f"ssmsend: configuration is good; {count} messages wait in {settings.path}")
    return ExitStatus.DONE


def _send(
    settings: SenderSettings, claims: Claims, record: RunRecord, arguments: argparse.Namespace
) -> ExitStatus:
    startup.announce("ssmsend", "sending")
    spool = claims.spool
    try:
        with lock.hold(settings.lock):
            claims.recover()
            if next(spool.names(), None) is None and not spool.skipped:
                logger.info("No messages found to send.")
                status = ExitStatus.DONE
            else:
                sender = _sender(settings, claims, record, arguments)
                status = sender.run(limit=arguments.limit)
                logger.info("SSM run has finished.")
            logger.info(startup.RULE)
            return status
    finally:
        # Counted whatever ended the run: the figure is what lies in the spool now.
        with contextlib.suppress(LocalFailure):
            record.counts["left"] = spool.count()


def _sender(
    settings: SenderSettings, claims: Claims, record: RunRecord, arguments: argparse.Namespace
) -> Sender:
    from ssm.sending.packer import load_packer  # noqa: PLC0415  start-up is a cost
    from ssm.sending.sender import Sender  # noqa: PLC0415
    from ssm.transport.brokers import brokers_of  # noqa: PLC0415

    packer = load_packer(settings)
    return Sender(
        settings,
        claims,
        packer=packer,
        brokers=brokers_of(settings.link, trust=packer.trust),
        record=record,
        deadline=time.monotonic() + arguments.max_time.total_seconds(),
        is_stopping=startup.SignalFlag(signal.SIGTERM).is_up,
    )


def main() -> int:
    """Run the program and return its exit status."""
    return cli.main(
        cli.Program(
            "ssmsend",
            "Send the messages of a spool, signed, to a message broker.",
            add_arguments,
            run,
            version_flags=("-v", "--version"),
        )
    )
