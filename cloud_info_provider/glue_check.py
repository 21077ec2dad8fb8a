"""What EGI's validator would say of the cloud's entries, with the options behind them (C51)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from appliance.core import clock
from appliance.core.config import document, yaml_file
from appliance.core.glue import judgement, profile
from appliance.core.run.errors import ConfigurationError
from appliance.core.run.finding import Finding
from cloud_info_provider.compute_options import COMPUTE, ENDPOINTS, TEMPLATES
from cloud_info_provider.facts import Facts
from cloud_info_provider.formats import glue
from cloud_info_provider.settings import ProviderSettings, ShareSettings

_OPTIONS = {
    "GLUE2ManagerProductName": (COMPUTE, "hypervisor"),
    "GLUE2ManagerProductVersion": (COMPUTE, "hypervisor_version"),
    "GLUE2ComputingManagerTotalPhysicalCPUs": (COMPUTE, "total_cores"),
    "GLUE2ComputingManagerTotalLogicalCPUs": (COMPUTE, "total_cores"),
    "GLUE2ComputingManagerWorkingAreaTotal": (COMPUTE, "total_ram"),
    "GLUE2EndpointInterfaceName": (ENDPOINTS, "api_type"),
    "GLUE2EndpointTechnology": (ENDPOINTS, "api_endpoint_technology"),
    "GLUE2EndpointQualityLevel": (ENDPOINTS, "production_level"),
    "GLUE2EndpointImplementationName": (COMPUTE, "middleware"),
    "GLUE2EndpointImplementationVersion": (COMPUTE, "middleware_version"),
    "GLUE2ExecutionEnvironmentPlatform": (TEMPLATES, "platform"),
    "GLUE2ServiceCapability": (COMPUTE, "capabilities"),
}
"""The options of openstack.yaml behind attributes: section and name."""
_KEYS = {attribute: ".".join(place) for attribute, place in _OPTIONS.items()}
_TRIED = "the entries of the next cycle, by EGI's profile of GLUE 2.0"


def findings(
    configuration: ProviderSettings, facts: Facts, shares: Sequence[ShareSettings]
) -> Iterator[Finding]:
    """Yield the faults of the entries that are made of these facts, which count no servers."""
    url = configuration.access.auth_url
    tree, _ = glue.entries(facts, configuration.site, shares=shares, auth_url=url)
    found = profile.findings(tree, now=clock.now(), with_creation_times=False)
    path = configuration.yaml_file
    try:
        options = yaml_file.parse(path, document.read_text(path))
    except ConfigurationError:  # there is none, and all comes from flags
        options = yaml_file.Tree(paths=[path])

    def place(attribute: str) -> tuple[str, int]:
        section, option = _OPTIONS.get(attribute, ("", ""))
        entry = options.sections.get(section, {}).get(option)
        heading = options.children.get("", {}).get(section.partition(".")[0])
        known = entry or heading
        return (str(known.path), known.line) if known else ("", 0)

    chosen = [
        attribute
        for attribute, (section, option) in _OPTIONS.items()
        if option in options.sections.get(section, {})
    ]
    yield from judgement.findings(found, place, tried=_TRIED, keys=_KEYS, chosen=chosen)
