"""Lines of failures: one line for many projects that fail in the same way."""

from __future__ import annotations

from collections.abc import Iterable

from appliance.core.run.errors import ApplianceError

_NAMED = 3
"""Subjects that have a line each, or are named in a line for more."""


def lines(failures: Iterable[ApplianceError]) -> list[str]:
    """Return the lines of failures, each once.

    A service that is down, or a spool that cannot be written, fails in every project. Of more than
    a few subjects with the same cause and remedy, one line names the first and counts the others.
    """
    alike: dict[tuple[str, str], dict[str, ApplianceError]] = {}
    for failure in failures:
        alike.setdefault((failure.cause, failure.remedy), {}).setdefault(failure.subject, failure)
    found: list[str] = []
    for (cause, remedy), by_subject in alike.items():
        subjects = list(by_subject)
        if len(subjects) <= _NAMED:
            found += map(str, by_subject.values())
        else:
            more = len(subjects) - _NAMED
            subject = f"{', '.join(subjects[:_NAMED])} and {more} more"
            found.append(str(ApplianceError(subject, cause, remedy)))
    return list(dict.fromkeys(found))
