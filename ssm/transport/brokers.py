"""Which broker to talk to: those of the configuration, the last good one first; and how long to wait between tries."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator, Sequence

from appliance.core.run.errors import Unavailable
from ssm.settings import Broker
from ssm.transport.events import Connection

logger = logging.getLogger("ssm.ssm2")

_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 300.0


class Brokers:
    """Brokers that serve the same queues; ``connect`` opens a connection to one of them or raises `Unavailable`."""

    def __init__(
        self, brokers: Sequence[Broker], *, connect: Callable[[Broker], Connection]
    ) -> None:
        self._brokers = list(brokers)
        self._connect = connect

    def connect(self) -> Connection:
        """Return a connection to the first that answers; raises `Unavailable` with what each of them said."""
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
        raise type(failures[0])("brokers", others, failures[0].remedy)


def pauses() -> Iterator[float]:
    """Yield seconds to wait before each further try: doubling from 1 to 300, less up to a half by chance."""
    pause = _FIRST_PAUSE
    while True:
        yield pause * random.uniform(0.5, 1)  # noqa: S311  spreads clients, protects nothing
        pause = min(2 * pause, _LONGEST_PAUSE)
