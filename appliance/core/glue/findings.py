"""What is wrong with GLUE 2.0 entries: one line each, and the totals."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass


class Severity(enum.StrEnum):
    """How much a finding matters, in glue-validator's three steps."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class GlueFinding:
    """A finding: the rule by its code, and what it is about.

    ``code`` is glue-validator's (``E025``, ``W037``, …), or a word for a rule that it does not
    have: ``schema``, ``duplicate-id``, ``dangling-link``.
    """

    severity: Severity
    code: str
    dn: str
    attribute: str
    text: str

    def __str__(self) -> str:
        where = ": ".join(filter(None, (self.dn, self.attribute)))
        return f"{self.severity} {self.code}: {where}: {self.text}"


def totals(found: Iterable[GlueFinding]) -> str:
    """Return the numbers of findings, such as ``0 errors, 2 warnings, 0 infos``."""
    counts = Counter(finding.severity for finding in found)
    return ", ".join(
        f"{counts[severity]} {severity}{'' if counts[severity] == 1 else 's'}"
        for severity in Severity
    )


def errors(found: Iterable[GlueFinding]) -> list[GlueFinding]:
    """Return the findings that are errors."""
    return [finding for finding in found if finding.severity is Severity.ERROR]
