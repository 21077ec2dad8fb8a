"""One signed test record to a destination for tests: ``--check-live --send-test``.

It takes the way of all messages, except that it lies in no spool and no journal: a test leaves
nothing here. To a destination for production nothing is sent; what would be sent is noted.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

from appliance.core import clock, senders
from appliance.core.config import document, ini
from appliance.core.config.settings import Settings, note
from appliance.core.run.errors import ApplianceError
from appliance.core.run.finding import Finding
from ssm.sending.packer import load_packer
from ssm.settings import SenderSettings
from ssm.transport.brokers import brokers_of
from ssm.transport.events import Connection, Lost, Receipt, Rejection

MARK = "fedcloud-check-test"
"""The site's name in a test record, and the beginning of its VMUUID."""
_ROW = "C41"
_RECEIPT = timedelta(seconds=20)
_POLL = 0.5
_OTHER_KINDS = ("storage", "-ip", "accelerator", "gpu")
"""Parts of the names of destinations that take no records of servers."""


def findings(found: Sequence[tuple[Path, SenderSettings]]) -> Iterator[Finding]:
    """Send a test record to each destination for tests, note the rest; yield what fails."""
    for path, settings in found:
        destination = settings.link.destination
        if any(word in destination for word in _OTHER_KINDS):
            text = f"{path}: {destination} takes no records of servers, so no test record fits it"
            note(_ROW, text)
            continue
        try:
            _of_one(path, settings)
        except ApplianceError as error:
            text = f"the test record was not sent: {' '.join(str(error).split())}"
            entry = Settings(document.read([path], ini.parse)).where("messaging", "destination")
            line, option = entry.line if entry else 0, "[messaging] destination"
            tried = f"sending a test record to {destination}"
            yield Finding(str(path), line, option, text, _ROW, tried=tried)


def _of_one(path: Path, settings: SenderSettings) -> None:
    """Send a test record, or note what would be sent.

    Raises:
        ApplianceError: It cannot be signed, or the broker does not take it.

    """
    link, packer = settings.link, load_packer(settings)
    text = record()
    wire = packer.pack(text, message_id=MARK)
    form = "signed and encrypted" if packer.recipient else "signed"
    shown = ", ".join(text.decode().splitlines()[1:])
    to = f"{link.destination} at {', '.join(map(str, link.brokers))}"
    what = f"{path}: one record, {form}, {len(wire)} bytes, to {to}: {shown}"
    names = (link.destination, *(broker.host for broker in link.brokers))
    if not any(map(senders.is_for_tests, names)):
        note(_ROW, f"{what}. It is not sent, because this destination is not one for tests")
        return
    connection = brokers_of(link, trust=packer.trust).connect()
    try:
        connection.send(link.destination, wire, message_id=MARK)
        taken = _receipt(connection)
    finally:
        connection.close()
    if isinstance(taken, Receipt):
        note(_ROW, f"sent and taken over{f' as {taken.argo_id}' if taken.argo_id else ''}: {what}")
        return
    raise _failure(connection, taken)


def _receipt(connection: Connection) -> Receipt | Rejection | Lost:
    end = time.monotonic() + _RECEIPT.total_seconds()
    while time.monotonic() < end:
        event = connection.next_event(timeout=_POLL)
        if isinstance(event, Receipt | Rejection | Lost):
            return event
    return Lost(f"no receipt within {_RECEIPT.seconds} s")


def _failure(connection: Connection, event: Rejection | Lost) -> ApplianceError:
    if event.error is not None:
        return event.error
    cause = event.text if isinstance(event, Rejection) else event.cause
    return ApplianceError(connection.broker, cause, "see the broker's operators")


def record() -> bytes:
    """Return a message with one record of a server that never was: a second, and a site's mark."""
    now = int(clock.now().timestamp())
    fields = {
        "CloudComputeService": MARK,
        "CloudType": MARK,
        "CpuCount": 1,
        "CpuDuration": 1,
        "EndTime": now,
        "FQAN": MARK,
        "LocalGroupId": MARK,
        "LocalUserId": MARK,
        "MachineName": MARK,
        "SiteName": MARK,
        "StartTime": now - 1,
        "Status": "completed",
        "VMUUID": f"{MARK}-{uuid.uuid4()}",
        "WallDuration": 1,
    }
    lines = (f"{name}: {value}" for name, value in fields.items())
    return "\n".join(["APEL-cloud-message: v0.4", *lines, ""]).encode()
