"""The probes of `appliance check`. A new one is a line here and a function in the file it names."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

from appliance.admin.check import (
    across,
    backend,
    certificates,
    client_authorities,
    clock,
    engine,
    information,
    network,
    outside,
    ports,
    registered,
    schedule,
    served_site,
    space,
    waiting,
)
from appliance.admin.check.finding import in_profile
from appliance.admin.check.probe import LONG, CheckedSite, Need, Probe
from appliance.admin.inventory import Flow, flow_of
from appliance.core.run.finding import Finding

PROBES: Sequence[Probe] = (
    # this host
    Probe(("C01",), "what keeps the clock", Need.MACHINE, clock.keeper),
    Probe(("C01",), "clocks of the services", Need.NETWORK, clock.offset, LONG),
    Probe(("C02",), "space for images, spools and state", Need.HOST, space.find),
    Probe(("C03",), "memory", Need.MACHINE, space.memory),
    Probe(("C04",), "Docker engine, Compose and images", Need.HOST, engine.find, LONG),
    Probe(("C05",), "port of the site's BDII", Need.MACHINE, ports.find, flow=Flow.INFORMATION),
    Probe(("C06",), "connections to other hosts", Need.NETWORK, network.outbound, LONG),
    Probe(("C07",), "name of the site's BDII", Need.NETWORK, network.name, LONG),
    Probe(("C08",), "starters of the jobs", Need.HOST, schedule.find),
    Probe(("C08",), "cron", Need.MACHINE, schedule.starter),
    Probe(("C08",), "last runs of the jobs", Need.HOST, schedule.runs),
    Probe(("C40",), "age of the messages that wait", Need.HOST, waiting.find, flow=Flow.ACCOUNTING),
    Probe(("C10",), "revocation lists", Need.HOST, certificates.of_lists),
    Probe(("C10",), "age of the authorities", Need.HOST, certificates.of_anchors),
    Probe(("C10",), "copies of the host key", Need.HOST, certificates.of_copies),
    Probe(("C50",), "services of the BDII", Need.HOST, information.find, LONG, Flow.INFORMATION),
    Probe(("C50",), "BDII from outside", Need.DIRECTORY, outside.find, LONG, Flow.INFORMATION),
    Probe(
        ("C11",),
        "the name of the certificate in GOCDB",
        Need.GOCDB,
        registered.of_certificate,
        LONG,
        Flow.ACCOUNTING,
    ),
    Probe(("C61",), "port of the image backend", Need.HOST, backend.find, flow=Flow.IMAGES),
    Probe(("C12",), "the receiver's certificate", Need.HOST, certificates.of_receiver, LONG),
    # what EGI sees, with --as-egi
    Probe(
        ("C37", "C22"),
        "name and endpoint in GOCDB",
        Need.GOCDB,
        registered.of_cloud,
        LONG,
        is_as_egi=True,
    ),
    Probe(
        ("C70",),
        "the site in EGI's information service",
        Need.NETWORK,
        served_site.find,
        LONG,
        is_as_egi=True,
    ),
    Probe(
        ("C72",),
        "authorities that Keystone offers",
        Need.CLOUD,
        client_authorities.find,
        LONG,
        is_as_egi=True,
    ),
    # the configuration, also of files compared with each other
    Probe(("C21", "C20"), "files that the host itself reads", Need.CONFIGURATION, across.of_host),
    Probe(("C22",), "names of the site", Need.CONFIGURATION, across.of_names, LONG),
    Probe(("C23",), "tables of VOs", Need.CONFIGURATION, across.of_tables, LONG),
    Probe(("C24",), "destinations for tests", Need.CONFIGURATION, across.of_destinations, LONG),
    Probe(("C40",), "spools of cASO and of the sender", Need.CONFIGURATION, across.of_spools, LONG),
)
_OWN_BDIIS = tuple(f"ldap://{name}:" for name in ("cloudbdii", "localhost", "127.0.0.1", "[::1]"))
_OF_CLOUD = frozenset({"C30", "C31", "C36"})
"""The rows of a cloud that cannot be read."""
AS_EGI = frozenset({"C70", "C71", "C72", "C73", "C74", "C75"})
"""The rows that no check without ``--as-egi`` finds."""
_CONFIGURATION = ("C20", "C21", "C22", "C23", "C24", "C30", "C40")
"""The rows that the check of a configuration may find, of any program."""
_ROWS = {
    "caso": ("C01", "C02", "C30", "C31", "C32", "C33", "C34", "C36", "C42", "C71", "C73", "C75"),
    "ssmsend": ("C06", "C10", "C12", "C40", "C41", "C43"),
    "cloudkeeper": ("C06", "C10", "C60", "C61", "C62", "C63"),
    "cloudbdii": ("C22", "C30", "C31", "C34", "C36", "C37", "C50", "C51", "C71", "C73", "C74"),
    "sitebdii": ("C50", "C51"),
    "cloud-info": ("C22", "C30", "C31", "C34", "C36", "C37", "C51", "C71", "C73", "C74"),
    "cloudkeeper-os": ("C30", "C31", "C34", "C35", "C36", "C61", "C63"),
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
    found = [in_profile(one, site.host.profile) for one in site.programs.findings(name)]
    hidden = _consequences(name, found, site)
    return [one for one in found if one.identifier not in hidden or _is_cause(one)]


def _is_cause(finding: Finding) -> bool:
    """Check whether nothing else explains a finding: a list without BDIIs, or another host's."""
    return (finding.identifier == "C50.c" and not finding.line) or _is_of_another_host(finding)


def _is_of_another_host(finding: Finding) -> bool:
    """Check whether a finding is about a BDII below the site's that is not of this appliance."""
    return finding.text.startswith("ldap://") and not finding.text.startswith(_OWN_BDIIS)


def _consequences(name: str, found: Sequence[Finding], site: CheckedSite) -> Sequence[str]:
    """Return the rows that only follow from what another check reports with its file and line."""
    if name == "cloudkeeper" and _has_errors("cloudkeeper-os", site):
        return ("C61",)  # a backend that cannot list images
    if name == "cloudbdii" and any(one.is_error and one.family in _OF_CLOUD for one in found):
        return ("C50.b",)  # no cloud is published, because it cannot be read
    if name == "sitebdii" and "cloudbdii" in site.programs.services:
        if not information.runs("cloudbdii", site):
            return ("C50.b", "C50.c")
        others = site.programs.findings("cloudbdii")
        if any(one.identifier == "C50.b" or one.family in _OF_CLOUD for one in others):
            return ("C50.b",)
    return ()


def _has_errors(name: str, site: CheckedSite) -> bool:
    if name not in site.programs.services:
        return False
    return any(one.is_error for one in site.programs.findings(name))
