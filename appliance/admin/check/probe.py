"""A probe of `appliance check`, and the site that it looks at.

A new probe is a function in the file of its concern, and a line in
`appliance.admin.check.registry`. The function takes a `CheckedSite` and yields a `Finding` for each
fault. It may raise an `ApplianceError` if it cannot look; that is a finding under its first id. It
need not keep a time: it has a thread of its own, and is left behind when its deadline has passed.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from appliance.admin import egi, web_reader
from appliance.admin.check.programs import Programs
from appliance.admin.inventory import Flow
from appliance.admin.machine import Machine
from appliance.admin.settings import Host
from appliance.admin.web_reader import WebReader
from appliance.core.config.settings import FACT, Value
from appliance.core.run.finding import Finding
from appliance.core.run.layout import Layout

SHORT = timedelta(seconds=10)
"""The deadline of a probe that looks at this host."""
_ANSWER = timedelta(seconds=8)
"""The longest wait for a byte of a service of EGI; four times that for a whole answer."""
LONG = timedelta(seconds=55)
"""The deadline of a probe that waits for programs or for other hosts; all end within a minute."""


BOOT = timedelta(minutes=8)
"""The deadline of a probe that waits for a program which boots a server."""


class Need(enum.Enum):
    """What a probe needs to look at."""

    CONFIGURATION = "configuration"
    """The site's files, and what programs have read in them."""
    HOST = "host"
    """The site's directories, certificates and schedule."""
    MACHINE = "machine"
    """The machine: memory, clock, ports, engine. A site below another root shares it with others,
    so it is looked at from the root directory only.
    """
    CLOUD = "cloud"
    BROKER = "broker"
    REGISTRY = "registry"
    """Registries of images and image lists."""
    DIRECTORY = "directory"
    """The BDII."""
    GOCDB = "GOCDB"
    NETWORK = "network"
    """Any other name or port outside."""

    @property
    def is_offline(self) -> bool:
        """Check whether no other host is contacted."""
        return self in (Need.CONFIGURATION, Need.HOST, Need.MACHINE)


@dataclass(slots=True)
class CheckedSite:
    """What probes look at."""

    host: Host
    layout: Layout
    now: datetime
    programs: Programs
    machine: Machine = field(default_factory=Machine)
    writes: bool = False
    """Whether a probe may create something elsewhere, and delete it."""
    is_as_egi: bool = False
    """Whether to say what EGI's monitoring, services and users see of this site."""
    notes: list[tuple[str, str]] = field(default_factory=list)
    """Ids and texts that are no faults."""

    @property
    def values(self) -> Sequence[Value]:
        """Return the values that programs have read; waits until all have answered."""
        return self.programs.values

    @property
    def services(self) -> Sequence[str]:
        """Return the services of the programs that are checked."""
        return list(self.programs.services.values())

    def facts(self, what: str) -> list[Value]:
        """Return what programs have found out; waits until all have answered."""
        return [one for one in self.values if (one.section, one.option) == (FACT, what)]

    def reader(self, option: str) -> WebReader:
        """Return the reader of the service that an option of the block ``egi`` names."""
        return web_reader.of_site(
            self.layout,
            self.host.proxies,
            timeout=_ANSWER,
            setting=egi.place(option, self.host.settings_file),
            patience="check again later",
        )

    def is_on(self, flow: Flow) -> bool:
        """Check whether a flow is on."""
        return self.host.flows[flow]


@dataclass(frozen=True, slots=True)
class Probe:
    """A probe, which finds one or several rows of the table of faults."""

    identifiers: tuple[str, ...]
    """The rows that it may find, ``Cxx``, the main one first."""
    subject: str
    """What it looks at, for the reference."""
    needs: Need
    find: Callable[[CheckedSite], Iterable[Finding]]
    deadline: timedelta = SHORT
    flow: Flow | None = None
    """The flow without which nobody looks; None if all flows need it."""
    writes: bool = False
    """Whether it creates and deletes something: it runs with ``--write`` only."""
    is_as_egi: bool = False
    """Whether it runs with ``--as-egi`` only."""

    def finds(self, wanted: Sequence[str]) -> bool:
        """Check whether it may find one of these ids, ``Cxx`` or ``Cxx.y``; of none, all."""
        families = {name.partition(".")[0] for name in wanted}
        return not wanted or not families.isdisjoint(self.identifiers)
