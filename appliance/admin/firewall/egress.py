"""Installation, check and removal of the chain; all other rules stay as and where they are."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from appliance.admin.firewall import chain, targets
from appliance.admin.firewall.chain import Bridges
from appliance.admin.firewall.tables import Tables
from appliance.admin.firewall.targets import Target
from appliance.admin.settings import Host
from appliance.core.config import document, yaml_file
from appliance.core.config.settings import Settings
from appliance.core.run.layout import Layout

_FAMILIES = (Tables(4), Tables(6))
_FORWARD = ("DOCKER-USER", "FORWARD")
"""The chain that the engine reserves for administrators; and the one if it manages no rules."""
_SECTION = "services.sitebdii"
_GUARDED = frozenset({"ldap", "public"})
"""Networks of the compose file whose bridges the chain covers."""


class NetworkMode(enum.StrEnum):
    """The network of the site's BDII; only that of bridges can be restricted."""

    BRIDGE = "bridge"
    HOST = "host"
    OTHER = "other networks"


@dataclass(frozen=True, slots=True)
class ChainPlan:
    """The bridges, targets with addresses, and DNS servers of the rules."""

    bridges: Bridges
    addresses: Mapping[Target, Sequence[str]]
    resolvers: Sequence[str]

    @property
    def unresolved(self) -> list[Target]:
        """Return the targets whose names cannot be resolved."""
        return [target for target, found in self.addresses.items() if not found]


def mode(host: Host) -> NetworkMode:
    """Return the network of the site's BDII in the network file."""
    read = document.read([host.network], yaml_file.parse)
    found = Settings(read)
    if found.text(_SECTION, "network_mode") == "host":
        return NetworkMode.HOST
    nested = f"{_SECTION}.networks"
    names = {*found.words(_SECTION, "networks"), *read.sections.get(nested, {})}
    names |= {
        name.removeprefix(f"{nested}.").split(".")[0]
        for name in read.sections
        if name.startswith(f"{nested}.")
    }
    return NetworkMode.BRIDGE if names and names <= _GUARDED else NetworkMode.OTHER


def plan(host: Host, layout: Layout) -> ChainPlan:
    """Read the targets, and resolve their names."""
    wanted = targets.read(layout)
    return ChainPlan(Bridges(host.bridge), targets.resolve(wanted), targets.resolvers(layout))


def put(wanted: ChainPlan) -> bool:
    """Apply the plan to the tables; return whether anything changed.

    Raises:
        Unavailable: A program is missing or fails.

    """
    # A list, not a generator for any(): both versions of IP must be changed.
    changes = [_put(tables, wanted) for tables in _FAMILIES if tables.exists()]
    return any(changes)


def remove(bridges: Bridges) -> bool:
    """Remove the chain from the tables; return whether there was one.

    Raises:
        Unavailable: A program is missing or fails.

    """
    changes = [
        _remove(tables, bridges.chain)
        for tables in _FAMILIES
        if tables.exists() and tables.is_installed()
    ]
    return any(changes)


def faults(bridges: Bridges) -> list[str]:
    """Return the faults of the chain and its jumps, without resolving names.

    Raises:
        Unavailable: A program is missing or fails.

    """
    return [fault for tables in _FAMILIES if tables.exists() for fault in _faults(tables, bridges)]


def _put(tables: Tables, wanted: ChainPlan) -> bool:
    name, present = wanted.bridges.chain, tables.rules()
    own = _of_chain(present, name)
    addresses = {
        # A name that cannot be resolved keeps its addresses in the present rules.
        target: found or chain.addresses_in(own, target)
        for target, found in wanted.addresses.items()
    }
    rules = chain.rules(name, tables.version, addresses, resolvers=wanted.resolvers)
    # The line with the counters creates the chain, or empties it in the same transaction.
    changes = [] if own == rules else [f":{name} - [0:0]", *rules]
    jumps = wanted.bridges.jumps(_hook(present))
    right = {hook for hook, lines in jumps.items() if _is_led(present, hook, lines, name)}
    changes += [f"-D{rule[2:]}" for rule in _jumps(present, name) if rule.split()[1] not in right]
    for hook in jumps.keys() - right:
        # The jumps must come first: a rule before them might accept what the chain rejects.
        for place, rule in enumerate(jumps[hook], start=1):
            changes.append(f"-I {hook} {place} {rule.removeprefix(f'-A {hook} ')}")
    if changes:
        tables.apply(changes)
    return bool(changes)


def _is_led(present: Sequence[str], hook: str, lines: Sequence[str], name: str) -> bool:
    """Return whether a chain begins with these jumps and has no others to the chain."""
    rules = _of_chain(present, hook)
    return rules[: len(lines)] == list(lines) and len(list(_jumps(rules, name))) == len(lines)


def _remove(tables: Tables, name: str) -> bool:
    present = tables.rules()
    if f"-N {name}" not in present:
        return False
    tables.apply([*(f"-D{rule[2:]}" for rule in _jumps(present, name)), f"-F {name}", f"-X {name}"])
    return True


def _faults(tables: Tables, bridges: Bridges) -> Iterator[str]:
    present = tables.rules()
    own = _of_chain(present, bridges.chain)
    # Targets are not resolved here, so only the last rule, which closes the chain, is checked.
    if not own or " -j REJECT" not in own[-1]:
        yield f"{tables.program}: the chain {bridges.chain} is missing or incomplete"
    for hook, lines in bridges.jumps(_hook(present)).items():
        if _of_chain(present, hook)[: len(lines)] != list(lines):
            yield f"{tables.program}: {hook} does not begin with {bridges.chain}"


def _hook(present: Sequence[str]) -> str:
    return next(
        name for name in _FORWARD if f"-N {name}" in present or f"-P {name}" in " ".join(present)
    )


def _of_chain(present: Sequence[str], name: str) -> list[str]:
    return [rule for rule in present if rule.startswith(f"-A {name} ")]


def _jumps(present: Sequence[str], name: str) -> Iterator[str]:
    return (rule for rule in present if rule.startswith("-A ") and rule.endswith(f" -j {name}"))
