"""From a server as Nova describes it to cloud records. Pure: what must be asked for comes in as functions.

Field rules (cASO's, and where they differ, why):

* start: ``created``; ``launched_at`` moves when a server is rebuilt, resized or rescued.
* end: ``terminated_at``; a server DELETED without it ends when it was last updated; never before
its start.
* A server that was never launched has used nothing and has no record. cASO bills it one second. One
that was being
  built while the last run passed had none then; so it gets those of the months before the window
  too.
* All times are UTC, whatever the host's time zone.
* cores, memory and disk (root and ephemeral): of the flavor inside the server (microversion 2.47),
so that a flavor
  that is gone since still counts; CPU time is wall time by cores.
* status: ``completed`` exactly when the end lies in the window; a server that was deleted later, or
is shut off, is
  ``started``; what the definition has no word for is ``unknown``.
* image: the endorsed image's URL when the image carries one, else its id; none for a server booted
from a volume.
* public IPs: addresses of type ``floating``.
* names: made fit for the wire by `caso.text.fit`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from caso.months import Cut, ExtractionWindow, cuts
from caso.records import Benchmark, CloudRecord, ServerStatus
from caso.text import fit

Server = dict[str, Any]

LONGEST_BUILD = timedelta(days=1)
"""``launched_at`` moves when a server is rebuilt or resized, so of an old one it tells nothing."""

BENCHMARK_TYPE = "accounting:benchmark_type"
BENCHMARK_VALUE = "accounting:benchmark_value"

_STATUS = {
    "ERROR": ServerStatus.ERROR,
    "PAUSED": ServerStatus.PAUSED,
    "SUSPENDED": ServerStatus.SUSPENDED,
    "STOPPED": ServerStatus.STOPPED,
    **dict.fromkeys(
        (
            *(
                "ACTIVE",
                "BUILD",
                "CONFIRMING_RESIZE",
                "HARD_REBOOT",
                "MIGRATING",
                "PASSWORD",
                "REBOOT",
                "REBUILD",
            ),
            *(
                "RESCUE",
                "RESIZE",
                "REVERT_RESIZE",
                "VERIFY_RESIZE",
                "SAVING",
                "SHUTOFF",
                "DELETED",
                "TERMINATED",
            ),
        ),
        ServerStatus.STARTED,
    ),
}


@dataclass(frozen=True, slots=True)
class Names:
    """What a record names: the site as GOCDB knows it, and the flavor properties that hold the benchmark."""

    site: str
    service: str
    benchmark_type: str = BENCHMARK_TYPE
    benchmark_value: str = BENCHMARK_VALUE


@dataclass(frozen=True, slots=True)
class ProjectContext:
    """A project's VO, and how to find out what Nova does not tell. ``warn`` takes a line for the log."""

    vo: str
    names: Names
    user_name: Callable[[str], str | None]
    image: Callable[[str], str]
    warn: Callable[[str], None]


class NotUnderstood(Exception):
    """Nova's description of a server lacks something or makes no sense. In the log's words."""


def records(
    server: Server, window: ExtractionWindow, source: ProjectContext
) -> Iterator[CloudRecord]:
    """Yield a server's records, one for each month that the window touches, oldest first.

    Raises `NotUnderstood` for this server alone; what the functions of ``source`` raise says
    nothing of it, and passes.
    """
    with _reading():
        born, died, launched = _life(server)
        parts = list(cuts(born, died, _reach(window, born, died, launched))) if launched else []
        user_id, image_id = server["user_id"], server["image"]["id"] if server["image"] else ""
    if not parts:
        return
    user, image = source.user_name(user_id), source.image(image_id) if image_id else ""
    for cut in parts:
        with _reading():
            record = _record(server, born, cut, source, user=user or "", image=image)
        yield record


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        raise NotUnderstood(
            f"Nova's description of the server is not understood: {error!r}"
        ) from error


def _life(server: Server) -> tuple[datetime, datetime | None, datetime | None]:
    born = _moment(server["created"])
    if born.timestamp() <= 0:  # before it were thousands of records, one a month
        raise ValueError(f"created {server['created']}, when no server can have been")
    launched, terminated = server["OS-SRV-USG:launched_at"], server["OS-SRV-USG:terminated_at"]
    if terminated is not None:
        died: datetime | None = _moment(terminated)
    else:
        died = _moment(server["updated"]) if server["status"] == "DELETED" else None
    return born, died, None if launched is None else _moment(launched)


def _reach(
    window: ExtractionWindow, born: datetime, died: datetime | None, launched: datetime
) -> ExtractionWindow:
    was_being_built = window.start - LONGEST_BUILD <= born < window.start <= launched
    lived_before = (
        window.is_first and born < window.start and (died is None or died >= window.start)
    )
    return ExtractionWindow(born, window.end) if was_being_built or lived_before else window


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _record(
    server: Server, born: datetime, cut: Cut, source: ProjectContext, *, user: str, image: str
) -> CloudRecord:
    flavor = server["flavor"]
    status = (
        ServerStatus.COMPLETED
        if cut.has_ended
        else _STATUS.get(server["status"].upper(), ServerStatus.UNKNOWN)
    )
    return CloudRecord(
        vm_uuid=server["id"],
        site=source.names.site,
        service=source.names.service,
        vo=source.vo,
        project_id=server["tenant_id"],
        user_id=fit(server["user_id"]),
        user_name=fit(user) or None,
        name=fit(server["name"]),
        status=status,
        start=born,
        end=cut.until if cut.has_ended else None,
        wall=cut.until - born,
        cpu_count=int(flavor["vcpus"]),
        memory=int(flavor["ram"]),
        disk=int(flavor["disk"]) + int(flavor["ephemeral"]),
        public_ips=_floating(server["addresses"]),
        image=fit(image) or None,
        benchmark=_benchmark(flavor, source),
    )


def _floating(addresses: dict[str, list[dict[str, Any]]]) -> int:
    return sum(
        address.get("OS-EXT-IPS:type") == "floating"
        for network in addresses.values()
        for address in network
    )


def _benchmark(flavor: dict[str, Any], source: ProjectContext) -> Benchmark | None:
    name = flavor.get("original_name", "")
    if "extra_specs" not in flavor:
        source.warn(
            "Nova's policy hides the properties of flavors from the account: records go without Benchmark"
        )
        return None
    kind = fit(flavor["extra_specs"].get(source.names.benchmark_type) or "")
    value = flavor["extra_specs"].get(source.names.benchmark_value)
    if not kind and not value:
        return None
    try:
        number = float(value or "nan")
    except ValueError:
        number = math.nan
    if not kind or not math.isfinite(number) or number <= 0:
        source.warn(
            f"flavor {name}: {source.names.benchmark_type}={kind!r}, {source.names.benchmark_value}={value!r} is no "
            "benchmark: records go without it"
        )
        return None
    return Benchmark(kind, number)
