"""`ssmreceive`: receives messages until it is told to stop."""

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
from ssm.cmds import common, daemon
from ssm.settings import ReceiverSettings, load_receiver

if TYPE_CHECKING:  # start-up is a cost
    from ssm.judge import Judge
    from ssm.store import Store

_CONFIG = "/etc/apel/receiver.cfg"
_NAMES = "/etc/apel/dns"
_FIGURES = (
    *("messages_received", "bytes_received", "stored", "rejected", "duplicates", "banned"),
    *("reconnects", "skipped"),
)
logger = logging.getLogger("ssmreceive")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's own flags."""
    common.add_arguments(parser, _CONFIG)
    parser.add_argument(
        "-d",
        "--dn_file",
        type=Path,
        metavar="FILE",
        help=f"names of accepted senders (default: {_NAMES})",
    )
    parser.add_argument("--daemon", action="store_true", help="go to the background")
    parser.add_argument("--count", type=common.positive, metavar="N", help="end after N messages")
    parser.add_argument(
        "--idle-exit",
        type=common.duration,
        metavar="SECONDS",
        help="end when no message has arrived for this time",
    )


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Receive, or only check the configuration."""
    os.umask(0o027)  # queues, locks and logs are for this program and its group
    layout = cli.layout(arguments)
    with contextlib.ExitStack() as stack:
        runs = None if arguments.check_config else layout.runs
        record = stack.enter_context(recorded("ssmreceive", runs))
        record.counts = dict.fromkeys(_FIGURES, 0)
        settings = load_receiver(arguments.config or layout.path(_CONFIG), layout=layout)
        common.configure_log("ssmreceive", settings, arguments)
        names = (arguments.dn_file or layout.path(_NAMES)).absolute()
        if arguments.check_config:
            _judge(settings, names, record)
            common.check_tls(settings.link)
            print(f"ssmreceive: the configuration is good; messages go to {settings.path}/incoming")
            return ExitStatus.DONE
        if arguments.daemon:
            _judge(settings, names, record)  # what is wrong is reported while somebody can read it
            daemon.detach(settings.pidfile)
        common.announce("ssmreceive", "receiving")
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
    """Receive until it is time to end.

    :raises ApplianceError: nothing was received, because there is no broker, or no room on the disk
    """
    from ssm import receiver  # noqa: PLC0415  start-up is a cost
    from ssm.store import Store  # noqa: PLC0415

    stop, reload = common.Flag(signal.SIGTERM), common.Flag(signal.SIGHUP)
    judge = _judge(settings, names, record)
    store = Store(settings.path, record=record)
    store.recover()

    def report(trouble: Unavailable | None) -> None:
        store.tidy()
        _name_skipped(store, record)
        told = list(record.failures)
        status = ExitStatus.PARTLY if told else ExitStatus.DONE
        if trouble is not None:  # of this moment: it may be over when the run ends
            record.fail(str(trouble))
            status = trouble.status
        record.close(status, cli.layout(arguments).runs)
        record.failures[:] = told

    made = receiver.Receiver(
        judge,
        store,
        brokers=common.brokers(settings.link, trust=judge.trust),
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
        _name_skipped(store, record)
        store.close()


def _name_skipped(store: Store, record: RunRecord) -> None:
    """Name what lies in the queues and cannot be used, each once."""
    for failure in store.skipped():
        if str(failure) not in record.failures:
            logger.warning("%s", failure)
            record.fail(str(failure))
            record.add("skipped")


def _judge(settings: ReceiverSettings, names: Path, record: RunRecord) -> Judge:
    from appliance.core.trust.ca_directory import CADirectory, CRLPolicy  # noqa: PLC0415  start-up is a cost
    from ssm.judge import Judge  # noqa: PLC0415
    from ssm.names import AcceptedNames  # noqa: PLC0415

    return Judge(
        trust=CADirectory(settings.link.capath, crls=CRLPolicy(settings.crls)),
        names=AcceptedNames(names, banned=names.with_name("banned-dns")),
        identity=common.load_identity(settings.link),
        max_bytes=settings.max_message_size,
        record=record,
    )


def main() -> int:
    """Entry point of the console script."""
    description = "Receive signed messages from a message broker into a queue on disk."
    return cli.main(
        cli.Program(
            "ssmreceive", description, add_arguments, run, version_flags=("-v", "--version")
        )
    )
