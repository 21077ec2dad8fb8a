"""The rule for published data that shrink at once.

A broken source is a likelier cause than a site that closed. So removals of more than half are held
until a later answer, at least the hold time after the first one, still lacks the same share.
"""

from __future__ import annotations

from datetime import timedelta

HOLD = timedelta(hours=1)
"""The usual time between the two answers."""


def is_held(*, removed: int, size: int) -> bool:
    """Check whether the removal of ``removed`` of ``size`` items at once is held."""
    return 2 * removed > size
