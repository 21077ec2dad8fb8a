"""A source of usage: one service of the cloud, whose answers become records.

Each source is one file of this folder; `caso.sources.registry` lists them. A source reads pages as
they come, and does not hold what it has given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple, Protocol

from caso.kinds.kind import UsageRecord
from caso.kinds.months import ExtractionWindow
from caso.memory.servers import ServerMemory, nothing
from caso.sources.history import History, NoHistory

if TYPE_CHECKING:  # it loads the OpenStack clients, which reading the settings does not need
    from appliance.core.cloud.session import Scope
    from caso.sources.shared_usage import SharedUsage

BENCHMARK_TYPE = "accounting:benchmark_type"
BENCHMARK_VALUE = "accounting:benchmark_value"


@dataclass(frozen=True, slots=True)
class AcceleratorKeys:
    """The flavor properties that describe accelerators."""

    type: str = "Accelerator:Type"
    vendor: str = "Accelerator:Vendor"
    model: str = "Accelerator:Model"
    number: str = "Accelerator:Number"

    def all(self) -> tuple[str, ...]:
        """Return all of them."""
        return self.type, self.vendor, self.model, self.number


@dataclass(frozen=True, slots=True)
class Names:
    """The site and service as in GOCDB, and the flavor properties that matter."""

    site: str
    service: str
    benchmark_type: str = BENCHMARK_TYPE
    benchmark_value: str = BENCHMARK_VALUE
    accelerator: AcceleratorKeys = AcceleratorKeys()


@dataclass(frozen=True, slots=True)
class ProjectContext:
    """The VO of a project's records, and lookups of values that a listing does not return."""

    vo: str
    names: Names
    user_name: Callable[[str], str | None]
    image: Callable[[str], str]
    warn: Callable[[str], None]
    """Takes a line for the log."""
    kinds: frozenset[str] = frozenset({"cloud"})
    """The kinds of record that have a destination."""
    suspended_since: datetime | None = None
    """The moment from which suspended time is no wall time; None for never, as in cASO."""
    servers: ServerMemory = field(default_factory=nothing)
    """What earlier runs have seen of the project's servers."""
    history: History = field(default_factory=NoHistory)
    """What earlier runs saw."""
    usage: SharedUsage | None = None
    """The usage of many projects from one listing, if the run has many."""
    owners: dict[str, str] = field(default_factory=dict)
    """The users of servers with a public address, by the server's id: Nova's, for Neutron's."""


class Usage(NamedTuple):
    """A record, and the name of its kind."""

    kind: str
    record: UsageRecord
    is_estimated: bool = False
    """Whether its end is the last time at which a listing had the thing."""


class Unaccountable(NamedTuple):
    """A thing or a record that cannot be accounted, and why."""

    key: str
    reason: str
    text: str
    """The record as it would be sent, or the service's description of the thing."""
    kind: str = ""
    record: UsageRecord | None = None


class Source(Protocol):
    """A service of the cloud."""

    name: str
    """As in the option ``extractor``."""
    kinds: tuple[str, ...]
    """The kinds of record that it can give."""

    def records(
        self, scope: Scope, window: ExtractionWindow, context: ProjectContext
    ) -> Iterator[Usage | Unaccountable]:
        """Yield the records of a project, those of one thing one after another, oldest first.

        Raises:
            ApplianceError: the service does not answer, or not completely.

        """
