"""`ssmsend`: sends what is in the spool, once."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import time
from typing import TYPE_CHECKING

from appliance.core import clock
from appliance.core.run import cli, lock
from appliance.core.run.errors import ExitStatus
from appliance.core.run.record import RunRecord, recorded
from appliance.core.spool import Spool
from ssm.cmds import common
from ssm.outgoing import Outgoing
from ssm.settings import SenderSettings, load_sender

if TYPE_CHECKING:  # start-up is a cost: most runs find an empty spool
    from ssm.sender import Sender

_CONFIG = "/etc/apel/sender.cfg"
logger = logging.getLogger("ssmsend")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's own flags."""
    common.add_arguments(parser, _CONFIG)
    parser.add_argument("--dry-run", action="store_true", help="sign everything, say what would be sent, send nothing")
    parser.add_argument("--limit", type=common.positive, metavar="N", help="send at most N messages")
    parser.add_argument(
        "--max-time", type=common.duration, default="3000", metavar="SECONDS", help="end after so long (default: 3000)"
    )


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Send, or only check the configuration."""
    os.umask(0o027)  # queues, locks and logs are for this program and its group
    layout = cli.layout(arguments)
    settings = load_sender(arguments.config or layout.path(_CONFIG), layout=layout)
    common.configure_log("ssmsend", settings, arguments)
    if not settings.path.is_dir():
        logger.warning("%s: the spool does not exist (yet); producers make it with their first message", settings.path)
    outgoing = Outgoing(Spool(settings.path), journal=settings.journal)
    if arguments.check_config:
        _sender(settings, outgoing, RunRecord("ssmsend"), arguments)
        common.check_tls(settings.link)
        print(f"ssmsend: the configuration is good; {outgoing.spool.count()} messages wait in {settings.path}")
        return ExitStatus.DONE
    if arguments.dry_run:
        sender = _sender(settings, outgoing, RunRecord("ssmsend"), arguments)
        return sender.dry_run(limit=arguments.limit)
    common.announce("ssmsend", "sending")
    with recorded("ssmsend", layout.runs) as record, lock.hold(settings.lock):
        record.counts |= dict.fromkeys(("messages_sent", "dead_letters", "left"), 0)
        outgoing.recover()
        status = ExitStatus.DONE
        if next(outgoing.spool.names(), None) is None:
            logger.info("No messages found to send.")
        else:
            status = _sender(settings, outgoing, record, arguments).run(limit=arguments.limit)
            logger.info("SSM run has finished.")
        logger.info(common.RULE)
        record.status = status
    return status


def _sender(settings: SenderSettings, outgoing: Outgoing, record: RunRecord, arguments: argparse.Namespace) -> Sender:
    from appliance.core.trust.ca_directory import CADirectory, CRLPolicy  # noqa: PLC0415  start-up is a cost
    from ssm import sender  # noqa: PLC0415

    trust = CADirectory(settings.link.capath, crls=CRLPolicy(settings.crls))
    packer = sender.Packer(
        identity=common.load_identity(settings.link),
        trust=trust,
        recipient=sender.load_recipient(settings, trust=trust, at=clock.now()),
        cipher=settings.cipher,
        max_size=settings.max_message_size,
        max_wire=sender.max_wire(settings.link),
    )
    return sender.Sender(
        settings,
        outgoing,
        packer=packer,
        brokers=common.brokers(settings.link, trust=trust),
        record=record,
        deadline=time.monotonic() + arguments.max_time.total_seconds(),
        is_stopping=common.Flag(signal.SIGTERM).is_up,
    )


def main() -> int:
    """Entry point of the console script."""
    description = "Send the messages of a spool, signed, to a message broker."
    return cli.main(cli.Program("ssmsend", description, add_arguments, run, version_flags=("-v", "--version")))
