"""`ssmreceive`: receive messages until a signal or a limit ends the run."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.core.run import cli, lock
from appliance.core.run.errors import ApplianceError, ExitStatus, LocalFailure, Unavailable
from appliance.core.run.record import RunRecord, recorded
from ssm.cmds import daemon, startup
from ssm.settings import ReceiverSettings, load_receiver

if TYPE_CHECKING:  # start-up is a cost
    from ssm.receiving.inbox import Inbox
    from ssm.receiving.judge import Judge

_CONFIG = "/etc/apel/receiver.cfg"
_NAMES = "/etc/apel/dns"
_FIGURES = (
    *("messages_received", "bytes_received", "stored", "rejected", "duplicates", "banned"),
    *("reconnects", "skipped"),
)
logger = logging.getLogger("ssmreceive")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's own flags."""
    startup.add_arguments(parser, _CONFIG)
    parser.add_argument(
        "-d",
        "--dn_file",
        type=Path,
        metavar="FILE",
        help=f"file with the DNs of accepted senders, one a line (default: {_NAMES})",
    )
    parser.add_argument(
        "--daemon", action="store_true", help="run in the background, without a terminal"
    )
    parser.add_argument(
        "--count", type=startup.positive, metavar="N", help="end after N messages (default: never)"
    )
    parser.add_argument(
        "--idle-exit",
        type=startup.duration,
        metavar="SECONDS",
        help="end when no message has arrived for this number of seconds (default: never)",
    )


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Receive, or only check the configuration."""
    os.umask(0o027)  # queues, locks and logs are for this user and group only
    layout = cli.layout(arguments)
    with contextlib.ExitStack() as stack:
        runs = None if arguments.check_config else layout.runs
        record = stack.enter_context(recorded("ssmreceive", runs))
        record.counts = dict.fromkeys(_FIGURES, 0)
        settings = load_receiver(arguments.config or layout.path(_CONFIG), layout=layout)
        startup.configure_log("ssmreceive", settings, arguments)
        names = (arguments.dn_file or layout.path(_NAMES)).absolute()
        if arguments.check_config:
            from ssm.transport import brokers  # noqa: PLC0415  start-up is a cost

            _judge(settings, names, record)
            brokers.check_tls(settings.link)
            print(f"ssmreceive: configuration is good; messages go to {settings.path}/incoming")
            return ExitStatus.DONE
        if arguments.daemon:
            _judge(settings, names, record)  # reports faults while there is still a terminal
            daemon.detach(settings.pidfile)
        startup.announce("ssmreceive", "receiving")
        stack.enter_context(lock.hold(settings.path / ".ssmreceive.lock"))
        if arguments.daemon:
            stack.enter_context(daemon.named_in(settings.pidfile))
        _receive(settings, names, record, arguments)
        logger.info("SSM run has finished.")
        record.status = ExitStatus.PARTLY if record.failures else ExitStatus.DONE
        return record.status


def _receive(
    settings: ReceiverSettings, names: Path, record: RunRecord, arguments: argparse.Namespace
) -> None:
    """Receive until a signal or a limit ends the run.

    Raises:
        ApplianceError: nothing was received: there is no broker, or no room on the disk.

    """
    from ssm.receiving import receiver  # noqa: PLC0415  start-up is a cost
    from ssm.receiving.inbox import Inbox  # noqa: PLC0415
    from ssm.transport.brokers import brokers_of  # noqa: PLC0415

    stop, reload = startup.SignalFlag(signal.SIGTERM), startup.SignalFlag(signal.SIGHUP)
    judge = _judge(settings, names, record)
    inbox = Inbox(settings.path, record=record)
    inbox.recover()

    def report(trouble: Unavailable | None) -> None:
        inbox.tidy()
        _name_skipped(inbox, record)
        lasting = list(record.failures)
        status = ExitStatus.PARTLY if lasting else ExitStatus.DONE
        if trouble is not None:  # of this moment only: it may be over when the run ends
            record.fail(str(trouble))
            status = trouble.status
        record.write(cli.layout(arguments).runs, status)
        record.failures[:] = lasting

    made = receiver.Receiver(
        judge,
        inbox,
        brokers=brokers_of(settings.link, trust=judge.trust),
        record=record,
        destination=settings.link.destination,
        limits=receiver.Limits(arguments.count, arguments.idle_exit),
        is_stopping=stop.is_up,
        reload=reload.take,
        report=report,
    )
    try:
        made.run()
    except (ApplianceError, OSError) as error:
        if not made.handled:
            raise
        failure = LocalFailure.from_os(error) if isinstance(error, OSError) else error
        record.fail(str(failure))
        logger.error("%s", failure)  # noqa: TRY400  one line, no traceback
    finally:
        _name_skipped(inbox, record)
        inbox.close()


def _name_skipped(inbox: Inbox, record: RunRecord) -> None:
    """Report each unusable path in the queues, once."""
    for failure in inbox.skipped():
        if str(failure) not in record.failures:
            logger.warning("%s", failure)
            record.fail(str(failure))
            record.add("skipped")


def _judge(settings: ReceiverSettings, names: Path, record: RunRecord) -> Judge:
    from ssm.receiving.judge import load_judge  # noqa: PLC0415  start-up is a cost

    return load_judge(settings, names, record)


def main() -> int:
    """Run the program and return its exit status."""
    return cli.main(
        cli.Program(
            "ssmreceive",
            "Receive signed messages from a message broker into a queue on disk.",
            add_arguments,
            run,
            version_flags=("-v", "--version"),
        )
    )
