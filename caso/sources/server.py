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
    disk         cores.
    image        the URL of an endorsed image, otherwise the image's id; none for a server booted
                 from a volume.
    public IPs   the number of addresses of type ``floating``.
    names        cleaned by `caso.kinds.text.fit`.

All times are UTC, whatever the host's time zone. A server that was never launched has used nothing
and has no record; cASO accounts one second for it. A server that was still being built at the last
run had no record then, so it gets those of the months before the window as well.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from appliance.core import clock
from caso.kinds.cloud import Benchmark, CloudRecord, ServerStatus
from caso.kinds.months import Cut, ExtractionWindow, cuts
from caso.kinds.text import fit
from caso.sources.source import ProjectContext

Server = dict[str, Any]

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
    server: Server, window: ExtractionWindow, context: ProjectContext
) -> Iterator[CloudRecord]:
    """Yield the records of a server, one for each month that the window touches, oldest first.

    Raises:
        NotUnderstood: this one server cannot be accounted. Errors of the lookups in ``context``
            are not about the server, and pass through unchanged.

    """
    with _reading():
        born, died, launched = _life(server)
        parts = list(cuts(born, died, _reach(window, born, died, launched))) if launched else []
        user_id, image_id = server["user_id"], server["image"]["id"] if server["image"] else ""
    if not parts:
        return
    user, image = context.user_name(user_id), context.image(image_id) if image_id else ""
    for cut in parts:
        with _reading():
            record = _record(server, born, cut, context, user=user or "", image=image)
        yield record


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        raise NotUnderstood(
            f"Nova's description of the server is incomplete or wrong: {error!r}"
        ) from error


def _life(server: Server) -> tuple[datetime, datetime | None, datetime | None]:
    # `created` and `updated` have a Z, `launched_at` and `terminated_at` have no zone; all are UTC.
    born = clock.parse(server["created"])
    if born.timestamp() <= 0:  # there would be a record for each month since then
        raise ValueError(f"created {server['created']}, before OpenStack existed")
    launched, terminated = server["OS-SRV-USG:launched_at"], server["OS-SRV-USG:terminated_at"]
    if terminated is not None:
        died: datetime | None = clock.parse(terminated)
    else:
        died = clock.parse(server["updated"]) if server["status"] == "DELETED" else None
    return born, died, None if launched is None else clock.parse(launched)


def _reach(
    window: ExtractionWindow, born: datetime, died: datetime | None, launched: datetime
) -> ExtractionWindow:
    # Created before the window, launched in it: the last run saw a server without a launch.
    was_being_built = window.start - LONGEST_BUILD <= born < window.start <= launched
    # See `ExtractionWindow.is_first`.
    lived_before = (
        window.is_first and born < window.start and (died is None or died >= window.start)
    )
    return ExtractionWindow(born, window.end) if was_being_built or lived_before else window


def _record(
    server: Server, born: datetime, cut: Cut, context: ProjectContext, *, user: str, image: str
) -> CloudRecord:
    flavor = server["flavor"]
    status = (
        ServerStatus.COMPLETED
        if cut.has_ended
        else _STATUS.get(server["status"].upper(), ServerStatus.UNKNOWN)
    )
    return CloudRecord(
        vm_uuid=server["id"],
        site=context.names.site,
        service=context.names.service,
        vo=context.vo,
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
        public_ips=sum(
            address.get("OS-EXT-IPS:type") == "floating"
            for network in server["addresses"].values()
            for address in network
        ),
        image=fit(image) or None,
        benchmark=_benchmark(flavor, context),
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
