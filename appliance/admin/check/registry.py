"""The probes of `appliance check`. A new one is a line here and a function in the file it names."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

from appliance.admin.check import across, certificates, schedule
from appliance.admin.check.probe import LONG, CheckedSite, Need, Probe
from appliance.admin.inventory import flow_of
from appliance.core.run.finding import Finding

PROBES: Sequence[Probe] = (
    # this host
    Probe(("C08",), "starters of the jobs", Need.HOST, schedule.find),
    Probe(("C10",), "age of the revocation lists", Need.HOST, certificates.of_lists),
    # the configuration, also of files compared with each other
    Probe(("C21", "C20"), "files that the host itself reads", Need.CONFIGURATION, across.of_host),
    Probe(("C22",), "names of the site", Need.CONFIGURATION, across.of_names, LONG),
    Probe(("C23",), "tables of VOs", Need.CONFIGURATION, across.of_tables, LONG),
    Probe(("C24",), "destinations for tests", Need.CONFIGURATION, across.of_destinations, LONG),
    Probe(("C40",), "spools of cASO and of the sender", Need.CONFIGURATION, across.of_spools, LONG),
)
_CONFIGURATION = ("C20", "C21", "C22", "C23", "C24", "C30", "C40")
"""The rows that the check of a configuration may find, of any program."""
_ROWS = {
    "caso": ("C01", "C02", "C30", "C31", "C32", "C33", "C34", "C36", "C42"),
    "ssmsend": ("C10",),
    "cloudkeeper": ("C10",),
    "cloudbdii": ("C30", "C31", "C34", "C36"),
    "cloud-info": ("C30", "C31", "C34", "C36"),
    "cloudkeeper-os": ("C30", "C31", "C34", "C35", "C36"),
}
"""By job or service, the rows that its own checks may find, live ones too."""


def of_programs(names: Sequence[str]) -> Iterator[Probe]:
    """Yield a probe for each job or service whose program is checked."""
    for name in names:
        rows = dict.fromkeys((*_CONFIGURATION, *_ROWS.get(name, ()), "C04", "C10"))
        yield Probe(
            tuple(rows),
            f"configuration of {name}, and what it contacts",
            Need.CONFIGURATION,
            functools.partial(_of_program, name),
            LONG,
            flow_of(name),
        )


def _of_program(name: str, site: CheckedSite) -> Sequence[Finding]:
    return site.programs.findings(name)
