"""Cloud records of a server, from Nova's description of it. Pure: lookups come in as functions.

    field        rule (cASO's; where it differs, why)
    start        ``created``. ``launched_at`` changes when a server is rebuilt, resized or rescued.
    end          ``terminated_at``; for a DELETED server without it, ``updated``. Never before the
                 start.
    status       ``completed`` exactly when the end is in the window. A server that was deleted
                 later, or is shut off, is ``started``. A state that the definition has no word for
                 is ``unknown``.
    cores,       of the flavor inside the server (microversion 2.47), so that a flavor deleted in
    memory,      the meantime still counts. Disk is root and ephemeral. CPU time is wall time by
    disk         cores, in parts for a resized server: `caso.sources.resizes`.
    image        the URL of an endorsed image, otherwise the image's id; none for a server booted
                 from a volume.
    wall         from ``created`` on; with ``suspended_since``, without the time since then in which
                 the server was suspended, paused, shelved or stopped: `caso.sources.suspension`.
    public IPs   the number of addresses of type ``floating``.
    names        cleaned by `caso.kinds.text.fit`.

A server without a usable name, owner, image, address, memory, disk or benchmark has records without
it: its hours count all the same.

All times are UTC, whatever the host's time zone. A server that was never launched has used nothing
and has no record; cASO accounts one second for it. A server that was still being built at the last
run had no record then, so it gets those of the months before the window as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple, TypeVar

from appliance.core import causes, clock
from caso.kinds.cloud import Benchmark, CloudRecord, ServerStatus
from caso.kinds.months import Cut, ExtractionWindow, cuts
from caso.kinds.text import fit
from caso.sources import resizes, suspension
from caso.sources.resizes import CoreStep, ServerCores
from caso.sources.source import ProjectContext

Server = dict[str, Any]
T = TypeVar("T")

LONGEST_BUILD = timedelta(days=1)
"""How long a server may take to build.

``launched_at`` of an older one shows a rebuild or a resize, and was accounted before.
"""

# States of Nova in which a server lives, or did until after the window's end.
_LIVING = (
    *[
        "ACTIVE",
        "BUILD",
        "CONFIRMING_RESIZE",
        "HARD_REBOOT",
        "MIGRATING",
        "PASSWORD",
        "REBOOT",
        "REBUILD",
        "RESCUE",
    ],
    *["RESIZE", "REVERT_RESIZE", "VERIFY_RESIZE", "SAVING", "SHUTOFF", "DELETED", "TERMINATED"],
)
_STATUS = {
    "ERROR": ServerStatus.ERROR,
    "PAUSED": ServerStatus.PAUSED,
    "SUSPENDED": ServerStatus.SUSPENDED,
    "STOPPED": ServerStatus.STOPPED,
    **dict.fromkeys(_LIVING, ServerStatus.STARTED),
}


class NotUnderstood(Exception):
    """Nova's description of a server is incomplete or wrong; the text is for the log."""


def records(
    server: Server,
    window: ExtractionWindow,
    context: ProjectContext,
    cores: ServerCores | None = None,
) -> Iterator[CloudRecord]:
    """Yield the records of a server, one for each month that the window touches, oldest first.

    ``cores`` knows the resized ones; without it, a server has always had its present flavor.

    Raises:
        NotUnderstood: this one server cannot be accounted. Errors of the lookups in ``context``
            are not about the server, and pass through unchanged.

    """
    with reading():
        life = life_of(server)
        born = life.born
        parts = list(cuts(born, life.died, life.reach(window))) if life.launched else []
        present = int(server["flavor"]["vcpus"]) if parts else 0
    if not parts or life.launched is None:
        return
    steps: Sequence[CoreStep] = (CoreStep(born, present),)
    if cores is not None:
        steps = cores.of(server, born, life.launched)
        if parts[-1].has_ended:
            cores.end(str(server["id"]), parts[-1].until)
    optional = _OptionalFields(server, context)
    for cut in parts:
        with reading():
            record = _record(server, born, cut, context, optional, steps)
        yield record


_WRONG = (LookupError, TypeError, AttributeError, ValueError, ArithmeticError)
"""What is raised where a description lacks something, or has something of another kind."""


class reading:  # noqa: N801  a context manager; one of contextlib costs each record more
    """Turn what goes wrong with a description into `NotUnderstood`."""

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        """Raise the error about the description, if there is one."""
        if isinstance(error, _WRONG):
            words = causes.of_answer(error)
            raise NotUnderstood(
                f"Nova's description of the server is incomplete or wrong: {words}"
            ) from error


class Life(NamedTuple):
    """When a server was created, ended and launched last."""

    born: datetime
    died: datetime | None
    launched: datetime | None
    """None: never. Such a server has used nothing."""

    def reach(self, window: ExtractionWindow) -> ExtractionWindow:
        """Return the window, extended to what no earlier run has accounted of this server."""
        born, died = self.born, self.died
        # Created before the window, launched in it: the last run saw a server without a launch.
        was_being_built = (
            self.launched is not None
            and window.start - LONGEST_BUILD <= born < window.start <= self.launched
        )
        # See `ExtractionWindow.is_first`.
        lived_before = (
            window.is_first and born < window.start and (died is None or died >= window.start)
        )
        return ExtractionWindow(born, window.end) if was_being_built or lived_before else window


def life_of(server: Server) -> Life:
    """Return the life of a server; anything may be raised by a description that is wrong."""
    # `created` and `updated` have a Z, `launched_at` and `terminated_at` have no zone; all are UTC.
    born = clock.parse(server["created"])
    if born.timestamp() <= 0:  # there would be a record for each month since then
        raise ValueError(f"created {server['created']}, before OpenStack existed")
    launched, terminated = server["OS-SRV-USG:launched_at"], server["OS-SRV-USG:terminated_at"]
    if terminated is not None:
        died: datetime | None = clock.parse(terminated)
    else:
        died = clock.parse(server["updated"]) if server["status"] == "DELETED" else None
    return Life(born, died, None if launched is None else clock.parse(launched))


class _OptionalFields:
    """The fields of a server without which its hours count all the same.

    A value that is missing or of the wrong kind is left out, and reported.
    """

    def __init__(self, server: Server, context: ProjectContext) -> None:
        self._server = server
        self._context = context
        flavor = server["flavor"]
        self.user_id = self._read("user_id", lambda: fit(server["user_id"])) or ""
        self.project_id = self._read("tenant_id", lambda: fit(server["tenant_id"])) or ""
        self.name = self._read("name", lambda: fit(server["name"])) or ""
        self.memory = self._read("flavor.ram", lambda: int(flavor["ram"]))
        self.disk = self._read("flavor.disk", lambda: int(flavor["disk"] + flavor["ephemeral"]))
        self.public_ips = self._read("addresses", lambda: public_ips(server["addresses"]))
        self.benchmark = self._read("flavor.extra_specs", lambda: _benchmark(flavor, context))
        image = self._read("image", lambda: server["image"] and server["image"]["id"])
        # The lookups ask other services: their failures are not about this server.
        self.user_name = fit(context.user_name(self.user_id) or "") if self.user_id else ""
        self.image = fit(context.image(image)) if isinstance(image, str) and image else ""

    def _read(self, name: str, value: Callable[[], T]) -> T | None:
        try:
            return value()
        except _WRONG:
            server = self._server.get("id")
            line = f"Nova describes server {server} without a usable {name}: its records have none"
            self._context.warn(line)
            return None


def public_ips(networks: dict[str, Any]) -> int:
    """Return the number of floating addresses in Nova's description of a server's networks."""
    return sum(
        address.get("OS-EXT-IPS:type") == "floating"
        for network in networks.values()
        for address in network
    )


def _record(
    server: Server,
    born: datetime,
    cut: Cut,
    context: ProjectContext,
    optional: _OptionalFields,
    steps: Sequence[CoreStep],
) -> CloudRecord:
    status = (
        ServerStatus.COMPLETED
        if cut.has_ended
        else _STATUS.get(str(server["status"]).upper(), ServerStatus.UNKNOWN)
    )
    suspended = suspension.of(server, cut.until)

    def used(moment: datetime) -> timedelta:
        moment = max(moment.replace(microsecond=0), born)
        return moment - born - (suspension.of(server, moment) or timedelta(0))

    return CloudRecord(
        vm_uuid=server["id"],
        site=context.names.site,
        service=context.names.service,
        vo=context.vo,
        project_id=optional.project_id,
        user_id=optional.user_id,
        user_name=optional.user_name or None,
        name=optional.name,
        status=status,
        start=born,
        end=cut.until if cut.has_ended else None,
        wall=cut.until - born - (suspended or timedelta(0)),
        suspended=suspended,
        cpu_count=resizes.cores_at(steps, cut.until),
        charged=resizes.charged(steps, cut.until, used) if len(steps) > 1 else None,
        memory=optional.memory,
        disk=optional.disk,
        public_ips=optional.public_ips,
        image=optional.image or None,
        benchmark=optional.benchmark,
    )


def _benchmark(flavor: dict[str, Any], context: ProjectContext) -> Benchmark | None:
    name = flavor.get("original_name", "")
    if "extra_specs" not in flavor:
        context.warn(
            "Nova's policy hides the properties of flavors from the account: records have no"
            " Benchmark"
        )
        return None
    kind = fit(flavor["extra_specs"].get(context.names.benchmark_type) or "")
    value = flavor["extra_specs"].get(context.names.benchmark_value)
    if not kind and not value:
        return None
    # Properties of flavors are texts, and anybody who may edit flavors can write anything.
    try:
        number = float(value or "nan")
    except ValueError:
        number = math.nan
    if not kind or not math.isfinite(number) or number <= 0:
        names = context.names
        context.warn(
            f"flavor {name}: {names.benchmark_type}={kind!r}, {names.benchmark_value}={value!r} is"
            " not a benchmark: its records have none"
        )
        return None
    return Benchmark(kind, number)
