"""The end of a sender's run: each message that stays in the spool, in the log and run record."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from appliance.core.run.errors import LocalFailure
from appliance.core.run.record import RunRecord
from appliance.core.spool import ElementName
from ssm.sending.claims import Claims

logger = logging.getLogger("ssm.ssm2")

_LISTED = 20
"""Names of messages in one line; the others are counted."""


def name_skipped(failures: Iterable[LocalFailure], record: RunRecord) -> None:
    """Report the paths that could not be used."""
    for failure in failures:
        logger.warning("%s", failure)
        record.fail(str(failure))
        record.add("skipped")


def name_left(
    claims: Claims, left: list[ElementName], record: RunRecord, *, is_complete: bool
) -> None:
    """Report the messages that were not sent, each with its reason.

    ``left`` were claimed and given back. An incomplete run counts those that it did not reach.
    """
    for name in claims.foreign:
        logger.warning("Message was locked. %s will not be sent.", name)
    if claims.foreign:
        record.fail(f"{_some(claims.foreign)}: locked by another sender")
    for name, reason in claims.refused.items():
        logger.error("Message %s was left: %s", name, reason)
        record.fail(f"{name}: {reason}")
    further = 0 if is_complete else claims.count_unreached(left)
    if left:
        _fail(record, f"{_some(left)}: not sent; the next run continues from here")
    if further > 0:
        _fail(record, f"{further} further messages: not reached; the next run continues from here")


def _fail(record: RunRecord, line: str) -> None:
    logger.warning("%s", line)
    record.fail(line)


def _some(names: list[ElementName]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
