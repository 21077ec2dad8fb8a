"""What `appliance check` prints: text, JSON, or the line of a Nagios plugin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from appliance.admin.check.certificates import CertificateName
from appliance.admin.check.parallel import Outcome
from appliance.core.run import output
from appliance.core.run.errors import ExitStatus
from appliance.core.run.finding import Finding

_GUIDE = "docs/how-to/check-a-site.md"
_PLUGIN = ("OK", "WARNING", "CRITICAL", "UNKNOWN")
"""Words of a Nagios plugin, by its exit status."""


@dataclass(slots=True)
class CheckReport:
    """The findings of a check, and what was checked or is off."""

    findings: list[Finding] = field(default_factory=list)
    looked: list[str] = field(default_factory=list)
    """The main ids of the probes that have looked."""
    asked: list[str] = field(default_factory=list)
    """The jobs and services whose programs have answered."""
    off: list[str] = field(default_factory=list)
    name: CertificateName | None = None
    """The name of the host's certificate, which GOCDB must have."""
    notes: list[tuple[str, str]] = field(default_factory=list)
    """Ids and texts that are no faults."""
    bugs: list[Exception] = field(default_factory=list)

    def add(self, outcome: Outcome, *, only: Sequence[str] = ()) -> None:
        """Add what came of a probe; of the findings only those with the ids that are wanted."""
        if outcome.bug is not None:
            self.bugs.append(outcome.bug)
        if outcome.has_looked:
            self.looked.append(outcome.probe.identifiers[0])
        for one in outcome.findings:
            if not only or one.identifier in only or one.family in only:
                self.findings.append(one)

    def sort(self) -> None:
        """Sort the findings, errors first; keep one of several with the same place and id.

        Without a line, what the host has found at a path counts for its programs, too, and the same
        words about a path are shown once.
        """
        first: dict[object, Finding] = {}
        of_host = {(one.path, one.identifier) for one in self.findings if not one.program}
        for one in sorted(self.findings, key=lambda one: (not one.is_error, one)):
            if one.line:
                place: object = (one.path, one.line, one.identifier)
            elif one.path and one.program and (one.path, one.identifier) in of_host:
                continue
            else:
                place = (str(one), one.identifier) if one.path else (str(one), one.program)
            first.setdefault(place, one)
        self.findings = list(first.values())

    @property
    def status(self) -> ExitStatus:
        """Return the exit status."""
        if not self.findings:
            return ExitStatus.DONE
        return ExitStatus.PARTLY if self.has_looked else ExitStatus.NOTHING

    @property
    def has_looked(self) -> bool:
        """Check whether anything could be probed that shows a fault of the site."""
        return bool(self.asked) or any(row not in _COMPARISONS for row in self.looked)

    @property
    def plugin_status(self) -> int:
        """Return the exit status of a Nagios plugin."""
        if not self.findings:
            return 0
        if not self.has_looked:
            return 3
        return 2 if any(one.is_error for one in self.findings) else 1

    def print_text(self) -> None:
        """Print a line for each finding, then one that counts them."""
        width = max((len(one.program) for one in self.findings), default=0)
        for line in self._lines(width):
            output.line(line)
        for row, text in self.notes:
            output.line(f"{row:5}  note     {text}")
        for line in self.off:
            output.line(line)
        if self.name:
            output.line(str(self.name))
        output.line(f"{self._subject()}: {self._count()}")

    def print_nagios(self) -> None:
        """Print the line of a plugin, with performance data, then the findings."""
        errors, warnings = self._numbers()
        data = f"errors={errors};;1 warnings={warnings};1 probes={len(self.looked)}"
        word = _PLUGIN[self.plugin_status]
        output.line(f"FEDCLOUD {word} - {self._subject()}: {self._count()} | {data}")
        for line in self._lines(0):
            # A bar would begin performance data.
            output.line(line.replace("|", "/"))

    def print_json(self) -> None:
        """Print the findings, and what was checked, as one JSON object."""
        found = [_as_json(one) for one in self.findings]
        output.document(
            {
                "findings": found,
                "checked": self.asked,
                "off": self.off,
                "notes": [{"id": row, "text": text} for row, text in self.notes],
                "probes": sorted(set(self.looked)),
                "certificate": asdict(self.name) if self.name else None,
            }
        )

    def _lines(self, width: int) -> Sequence[str]:
        lines = []
        for one in self.findings:
            kind = "error  " if one.is_error else "warning"
            program = [f"{one.program:{width}}"] if width else []
            tried = f" [tried: {one.tried}]" if one.tried else ""
            lines.append("  ".join([f"{one.identifier:5}", kind, *program, f"{one}{tried}"]))
        return lines

    def _subject(self) -> str:
        if self.asked:
            return ", ".join(self.asked)
        return "this host" if self.has_looked else "nothing could be checked"

    def _numbers(self) -> tuple[int, int]:
        errors = sum(one.is_error for one in self.findings)
        return errors, len(self.findings) - errors

    def _count(self) -> str:
        errors, warnings = self._numbers()
        if not self.findings:
            return "nothing found"
        return f"{output.count(errors, 'error')}, {output.count(warnings, 'warning')}"


_COMPARISONS = frozenset({"C20", "C21", "C22", "C23", "C24", "C40"})
"""Main ids of probes that compare what programs have read: of no worth without an answer."""


def _as_json(finding: Finding) -> dict[str, Any]:
    tree = finding.as_json()
    tree["id"] = tree.pop("identifier")
    return tree | {"doc": f"{_GUIDE}#{finding.family.lower()}"}
