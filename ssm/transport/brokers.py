"""Which broker to talk to, and how long to wait between tries.

The brokers of the configuration serve the same queues. They are tried in order, and the one that
answered last is tried first the next time.
"""

from __future__ import annotations

import contextlib
import logging
import ssl
from collections.abc import Callable, Sequence
from datetime import timedelta

from appliance.core.run.errors import Unavailable
from appliance.core.trust.ca_directory import CADirectory
from appliance.core.trust.tls import PeerTrust
from ssm.settings import Broker, Link
from ssm.transport.events import Connection

logger = logging.getLogger("ssm.ssm2")

_PROMPT = timedelta(seconds=10)
"""Time limit of an answer in a check, which has 40 s for everything."""


class Brokers:
    """Brokers that serve the same queues.

    ``connect`` opens a connection to one of them or raises `Unavailable`.
    """

    def __init__(
        self, brokers: Sequence[Broker], *, connect: Callable[[Broker], Connection]
    ) -> None:
        self._brokers = list(brokers)
        self._connect = connect

    def connect(self) -> Connection:
        """Return a connection to the first broker that answers.

        Raises:
            Unavailable: no broker answers; the message has the cause for each of them.

        """
        failures: list[Unavailable] = []
        for broker in list(self._brokers):
            try:
                connection = self._connect(broker)
            except Unavailable as error:
                failures.append(error)
                continue
            self._brokers.remove(broker)
            self._brokers.insert(0, broker)
            logger.info("Connected to %s.", broker)
            return connection
        if len(failures) == 1:
            raise failures[0]
        others = "; ".join(f"{error.subject}: {error.cause}" for error in failures)
        # The kind and the remedy are those of the preferred broker.
        raise type(failures[0])("brokers", others, failures[0].remedy)


def brokers_of(link: Link, *, trust: CADirectory) -> Brokers:
    """Return the brokers of a configuration, not yet connected to."""
    peers = _peers(link, trust)
    return Brokers(link.brokers, connect=lambda broker: _connect(broker, link, peers))


def check_tls(link: Link) -> None:
    """Raise `LocalFailure` when certificate, key or CA directory is unusable for a connection."""
    _tls(link, _peers(link, CADirectory(link.capath)))


def rehearse(broker: Broker, link: Link, *, trust: CADirectory) -> None:
    """Log in as a run does, ask AMS for the right to publish as well, and send no message.

    Raises:
        ApplianceError: a run could not send to this broker.

    """
    peers = _peers(link, trust)
    if link.ams is None:
        _connect(broker, link, peers).close()
        return
    from ssm.transport import ams  # noqa: PLC0415  start-up is a cost

    tls = _tls(link, peers)
    assert tls is not None  # noqa: S101  AMS is always over TLS
    client = ams.client_of(broker, access=link.ams, tls=tls, answer_time=_PROMPT)
    with contextlib.closing(client):
        client.open()
        client.try_publish(link.destination)


def _connect(broker: Broker, link: Link, peers: PeerTrust) -> Connection:
    """Open a connection; the module of the other protocol is never loaded."""
    tls = _tls(link, peers)
    if link.ams is None:
        from ssm.transport import stomp  # noqa: PLC0415  start-up is a cost

        return stomp.STOMPConnection(broker, tls=tls)
    from ssm.transport import ams  # noqa: PLC0415  start-up is a cost

    assert tls is not None  # noqa: S101  AMS is always over TLS
    return ams.AMSConnection(broker, access=link.ams, tls=tls)


def _peers(link: Link, trust: CADirectory) -> PeerTrust:
    return PeerTrust(trust, with_system=link.ams is not None and link.ams.system_cas)


def _tls(link: Link, peers: PeerTrust) -> ssl.SSLContext | None:
    """Return a context made from the files as they are now; None for a link without TLS.

    Each connection gets a new one: a receiver runs for longer than its certificate is valid.
    """
    if not link.use_ssl:
        return None
    return peers.context(certificate=link.certificate, key=link.key)
