"""What both commands do alike around their work."""

from __future__ import annotations

import argparse
import logging
import os
import signal
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.core import clock
from appliance.core.run import cli, log
from appliance.core.run.errors import LocalFailure
from appliance.core.version import __version__
from ssm.settings import Broker, Link, LogSettings, ReceiverSettings, SenderSettings

if TYPE_CHECKING:  # start-up is a cost
    import ssl

    from appliance.core.trust.ca_directory import CADirectory
    from appliance.core.trust.certificates import Identity
    from appliance.core.trust.tls import PeerTrust
    from ssm.transport.brokers import Brokers
    from ssm.transport.events import Connection

RULE = "=" * 40


def add_arguments(parser: argparse.ArgumentParser, config: str) -> None:
    """Add the flags that both commands have."""
    parser.add_argument(
        "-c", "--config", type=Path, metavar="FILE", help=f"configuration (default: {config})"
    )
    parser.add_argument(
        "-l", "--log_config", metavar="FILE", help="accepted, without effect: see [logging]"
    )


def configure_log(
    name: str, settings: SenderSettings | ReceiverSettings, arguments: argparse.Namespace
) -> None:
    """Log as the configuration says, and write its warnings; a log file that cannot be opened is one of them."""
    level = cli.log_level(arguments, settings.log.level)
    warnings = [str(problem) for problem in settings.warnings]
    try:
        _open_log(settings.log, level, arguments)
    except LocalFailure as error:
        log.configure(level=level, as_json=arguments.log_json)
        warnings.append(f"{error}; logging to standard error only")
    layout = cli.layout(arguments)
    if arguments.log_config or os.access(layout.path("/etc/apel/logging.cfg"), os.F_OK):
        warnings.append(
            "a separate logging configuration has no effect: set level and logfile in [logging]"
        )
    logger = logging.getLogger(name)
    for warning in warnings:
        logger.warning("%s", warning)


def _open_log(settings: LogSettings, level: int, arguments: argparse.Namespace) -> None:
    if arguments.check_config:
        if not os.access(settings.file.parent, os.W_OK | os.X_OK):
            raise LocalFailure(settings.file, "the log file's directory is missing or not writable")
        return
    log.configure(
        level=level, file=settings.file, console=settings.console, as_json=arguments.log_json
    )


def positive(text: str) -> int:
    """Convert a command-line number of things."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not allowed; write a whole number, 1 or more"
        )
    return int(text)


def duration(text: str) -> timedelta:
    """Convert a command-line number of seconds."""
    try:
        found = timedelta(seconds=float(text))
    except (ValueError, OverflowError):
        found = -timedelta.resolution
    if found < timedelta(0):
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; write a number of seconds")
    return found


def announce(name: str, what: str) -> None:
    """Write SSM's opening lines."""
    logger = logging.getLogger(name)
    logger.info(RULE)
    logger.info("Starting %s SSM version %s.", what, __version__)


def load_identity(link: Link) -> Identity:
    """Load certificate and key, and say when the certificate ends soon."""
    from appliance.core.trust.certificates import Identity  # noqa: PLC0415  start-up is a cost

    identity = Identity.load(link.certificate, key_path=link.key, at=clock.now())
    if warning := identity.expiry_warning(at=clock.now()):
        logging.getLogger("ssm.ssm2").warning("%s", warning)
    return identity


def brokers(link: Link, *, trust: CADirectory) -> Brokers:
    """Return the configured brokers, not yet connected to."""
    from ssm.transport.brokers import Brokers  # noqa: PLC0415  start-up is a cost

    connect, peers = _connect_ams if link.ams is not None else _connect_stomp, _peers(link, trust)
    return Brokers(link.brokers, connect=lambda broker: connect(broker, link, peers))


def check_tls(link: Link) -> None:
    """Raise `LocalFailure` when certificate, key or CA directory cannot be used for a connection."""
    from appliance.core.trust.ca_directory import CADirectory  # noqa: PLC0415  start-up is a cost

    _tls(link, _peers(link, CADirectory(link.capath)))


def _connect_ams(broker: Broker, link: Link, peers: PeerTrust) -> Connection:
    from ssm.transport import ams  # noqa: PLC0415  start-up is a cost

    tls = _tls(link, peers)
    assert link.ams is not None and tls is not None  # noqa: S101, PT018  AMS is chosen, and always over TLS
    return ams.Connection(broker, access=link.ams, tls=tls)


def _connect_stomp(broker: Broker, link: Link, peers: PeerTrust) -> Connection:
    from ssm.transport import stomp  # noqa: PLC0415  start-up is a cost

    return stomp.Connection(broker, tls=_tls(link, peers))


def _peers(link: Link, trust: CADirectory) -> PeerTrust:
    from appliance.core.trust.tls import PeerTrust  # noqa: PLC0415  start-up is a cost

    return PeerTrust(trust, with_system=link.ams is not None and link.ams.system_cas)


def _tls(link: Link, peers: PeerTrust) -> ssl.SSLContext | None:
    """Read CAs, certificate and key as they are now: each connection sees those that were renewed."""
    if not link.use_ssl:
        return None
    return peers.context(certificate=link.certificate, key=link.key)


class Flag:
    """Raised when this process gets a signal.

    No event, though one would do as much: a handler may interrupt the main thread while it holds an
    event's lock.
    """

    def __init__(self, number: signal.Signals) -> None:
        self._raised = self._taken = 0
        signal.signal(number, self._raise)

    def _raise(self, *_: object) -> None:
        self._raised += 1

    def is_up(self) -> bool:
        """Tell whether it has been raised since it was taken down."""
        return self._raised != self._taken

    def take(self) -> bool:
        """Tell whether it is up, and take it down; a signal that comes meanwhile raises it again."""
        raised = self._raised
        is_up, self._taken = raised != self._taken, raised
        return is_up
