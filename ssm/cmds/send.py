"""`ssmsend`: sends what is in the spool, once."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import time
from typing import TYPE_CHECKING

from appliance.core import clock
from appliance.core.run import cli, lock
from appliance.core.run.errors import ExitStatus, LocalFailure
from appliance.core.run.record import RunRecord, recorded
from appliance.core.spool import Spool
from ssm.cmds import common
from ssm.outgoing import Outgoing
from ssm.settings import SenderSettings, load_sender

if TYPE_CHECKING:  # start-up is a cost: most runs find an empty spool
    from ssm.sender import Sender

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
    common.add_arguments(parser, _CONFIG)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="sign everything, print what would be sent, send nothing",
    )
    parser.add_argument(
        "--limit", type=common.positive, metavar="N", help="send at most N messages"
    )
    parser.add_argument(
        "--max-time",
        type=common.duration,
        default="3000",
        metavar="SECONDS",
        help="end after this time (default: 3000)",
    )


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Send, or only check the configuration."""
    os.umask(0o027)  # queues, locks and logs are for this program and its group
    layout = cli.layout(arguments)
    is_run = not (arguments.check_config or arguments.dry_run)
    with recorded("ssmsend", layout.runs if is_run else None) as record:
        record.counts = dict.fromkeys(_FIGURES, 0)
        settings = load_sender(arguments.config or layout.path(_CONFIG), layout=layout)
        common.configure_log("ssmsend", settings, arguments)
        outgoing = _open_spool(settings)
        if is_run:
            record.status = _send(settings, outgoing, record, arguments)
        else:
            record.status = _look(settings, outgoing, record, arguments)
        return record.status


def _open_spool(settings: SenderSettings) -> Outgoing:
    if not settings.path.is_dir():
        logger.warning(
            "%s: the spool does not exist (yet); producers make it with their first message",
            settings.path,
        )
    if settings.is_dirq:
        return Outgoing(Spool(settings.path), journal=settings.journal)
    from ssm.directory import DirectorySpool  # noqa: PLC0415  start-up is a cost

    # A program that opens a file for writing just while we ask whether one does sends this signal.
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    return Outgoing(DirectorySpool(settings.path), journal=settings.journal)


def _look(
    settings: SenderSettings, outgoing: Outgoing, record: RunRecord, arguments: argparse.Namespace
) -> ExitStatus:
    """Do what is asked for without sending anything."""
    sender = _sender(settings, outgoing, record, arguments)
    if not arguments.check_config:
        return sender.dry_run(limit=arguments.limit)
    common.check_tls(settings.link)
    count = outgoing.spool.count()
    for failure in outgoing.spool.skipped.values():
        print(f"ssmsend: warning: {failure}")
    print(f"ssmsend: the configuration is good; {count} messages wait in {settings.path}")
    return ExitStatus.DONE


def _send(
    settings: SenderSettings, outgoing: Outgoing, record: RunRecord, arguments: argparse.Namespace
) -> ExitStatus:
    common.announce("ssmsend", "sending")
    spool = outgoing.spool
    try:
        with lock.hold(settings.lock):
            outgoing.recover()
            if next(spool.names(), None) is None and not spool.skipped:
                logger.info("No messages found to send.")
                status = ExitStatus.DONE
            else:
                sender = _sender(settings, outgoing, record, arguments)
                status = sender.run(limit=arguments.limit)
                logger.info("SSM run has finished.")
            logger.info(common.RULE)
            return status
    finally:
        # Whatever ended the run: what lies there is what is left.
        with contextlib.suppress(LocalFailure):
            record.counts["left"] = spool.count()


def _sender(
    settings: SenderSettings, outgoing: Outgoing, record: RunRecord, arguments: argparse.Namespace
) -> Sender:
    from appliance.core.trust.ca_directory import CADirectory, CRLPolicy  # noqa: PLC0415  start-up is a cost
    from ssm import packer, sender  # noqa: PLC0415

    trust = CADirectory(settings.link.capath, crls=CRLPolicy(settings.crls))
    return sender.Sender(
        settings,
        outgoing,
        packer=packer.Packer(
            identity=common.load_identity(settings.link),
            trust=trust,
            recipient=packer.load_recipient(settings, trust=trust, at=clock.now()),
            cipher=settings.cipher,
            max_size=settings.max_message_size,
            max_wire=packer.max_wire(settings.link),
        ),
        brokers=common.brokers(settings.link, trust=trust),
        record=record,
        deadline=time.monotonic() + arguments.max_time.total_seconds(),
        is_stopping=common.Flag(signal.SIGTERM).is_up,
    )


def main() -> int:
    """Entry point of the console script."""
    description = "Send the messages of a spool, signed, to a message broker."
    return cli.main(
        cli.Program("ssmsend", description, add_arguments, run, version_flags=("-v", "--version"))
    )
