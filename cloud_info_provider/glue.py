"""From facts to GLUE 2.0 (GFD.147, its LDAP rendering GFD.218): a pure function.

    o=glue
    └── GLUE2GroupID=cloud
        └── GLUE2ServiceID                        ComputingService
            ├── GLUE2ManagerID                    ComputingManager: the hypervisors
            ├── GLUE2EndpointID                   ComputingEndpoint, one a region
            │   └── GLUE2PolicyID                 AccessPolicy: the VOs
            ├── GLUE2ResourceID                   ExecutionEnvironment, one a flavor
            ├── GLUE2ApplicationEnvironmentID     one an image
            └── GLUE2ShareID                      Share, one a VO and project
                └── GLUE2PolicyID                 MappingPolicy: the VO

Flavors and images that several VOs may use stand there once; ``GLUE2EntityOtherInfo: VO=…`` says
for which, and a share names its flavors in ``GLUE2ShareResourceForeignKey``. Shares are plain ones:
ComputingShare demands figures of batch queues. Identifiers are those of cloud-info-provider 0.8 to
0.13. The same facts always give the same entries, in the same order; times of creation are the
BDII's business, since it knows when an entry changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from appliance.core.ldif import Entry, child, normalise_dn
from appliance.core.version import __version__
from cloud_info_provider.facts import Endpoint, Facts, Flavor, OfferedImage, ServerCounts, Share
from cloud_info_provider.settings import ShareSettings, SiteSettings

ROOT = "o=glue"
GROUP = "cloud"

_FLAVOR = "http://schemas.openstack.org/template/resource#"
_IMAGE = "http://schemas.openstack.org/template/os#"
_SCHEME = "org.glite.standard"
_LONGEST_TEXT = 1024
_UNFIT = re.compile(r"[\s\x00-\x1f\x7f\ud800-\udfff]+")

Value = str | int | Iterable[str] | None
_Thing = TypeVar("_Thing", Flavor, OfferedImage)


def entries(
    facts: Facts, site: SiteSettings, *, shares: Sequence[ShareSettings], auth_url: str
) -> list[Entry]:
    """Return the whole tree. ``shares`` are all that are configured, read or not; ``auth_url`` names the cloud.

    Policies name the VOs of all configured shares, so that one that cannot be read loses no right.
    Totals of the cloud are left out when a share is missing in them.
    """
    tree = _CloudTree(facts, site, {share.vo: share for share in shares}, auth_url)
    seen: set[str] = set()
    unique = []
    for entry in tree.entries():
        name = normalise_dn(entry.dn)
        if name not in seen:  # ids that differ in blanks only are one name in a directory
            seen.add(name)
            unique.append(entry)
    return unique


def _entry(dn: str, classes: Sequence[str], attributes: Mapping[str, Value]) -> Entry:
    """Return an entry without the attributes that have no value."""
    made: dict[str, tuple[str, ...]] = {"objectClass": tuple(classes)}
    for name, value in attributes.items():
        listed = (value,) if isinstance(value, str | int) else value or ()
        cleaned = tuple(dict.fromkeys(text for item in listed if (text := _clean(item))))
        if cleaned:
            made[name] = cleaned
    return Entry(dn, made)


def _clean(value: str | int) -> str:
    return _UNFIT.sub(" ", str(value)).strip()[:_LONGEST_TEXT]


def _pairs(values: Mapping[str, Value]) -> Iterator[str]:
    """Yield ``name=value`` of those that have a value, for OtherInfo."""
    for name, value in values.items():
        for item in (value,) if isinstance(value, str | int) else value or ():
            if text := _clean(item):
                yield f"{name}={text}"


class _CloudTree:
    """One cloud's entries; the methods follow the drawing above."""

    def __init__(
        self,
        facts: Facts,
        site: SiteSettings,
        configured: Mapping[str, ShareSettings],
        auth_url: str,
    ) -> None:
        self.facts = facts
        self.site = site
        self.configured = configured
        self.auth_url = auth_url
        self.service_id = f"{auth_url}_cloud.compute"
        self.manager_id = f"{self.service_id}_manager"
        self.group_dn = child(ROOT, "GLUE2GroupID", GROUP)
        self.service_dn = child(self.group_dn, "GLUE2ServiceID", self.service_id)

    def entries(self) -> Iterator[Entry]:
        shares = sorted(self.facts.shares, key=lambda share: (share.vo, share.project_id))
        servers = [share.servers for share in shares]
        endpoints = sorted({share.endpoint for share in shares}, key=lambda endpoint: endpoint.url)
        yield _entry(ROOT, ["organization"], {"o": "glue"})
        yield _entry(self.group_dn, ["GLUE2Group"], {"GLUE2GroupID": GROUP})
        yield self.service(servers)
        yield self.manager(servers)
        for endpoint in endpoints:
            yield self.endpoint(endpoint)
            yield self.access_policy(endpoint)
        for flavor, vos in _by_vo((share.vo, share.flavors) for share in shares):
            yield self.flavor(flavor, vos)
        for image, vos in _by_vo((share.vo, share.images) for share in shares):
            yield self.image(image, vos)
        for share in shares:
            yield self.share(share)
            yield self.mapping_policy(share)

    def service(self, servers: Sequence[ServerCounts]) -> Entry:
        is_whole = not self.facts.failed
        halted = sum(each.suspended + each.halted for each in servers)
        running = sum(each.running for each in servers)
        return _entry(
            self.service_dn,
            ["GLUE2Entity", "GLUE2Service", "GLUE2ComputingService"],
            {
                "GLUE2ServiceID": self.service_id,
                "GLUE2EntityName": f"Cloud compute service of {self.site.name}",
                "GLUE2ServiceType": "org.cloud.iaas",
                "GLUE2ServiceQualityLevel": self.site.service_level,
                "GLUE2ServiceCapability": self.site.capabilities,
                "GLUE2ServiceAdminDomainForeignKey": self.site.name,
                "GLUE2ServiceComplexity": f"endpointType=1,share={len(self.configured)}",
                # A virtual machine is the job of this service; stopped ones are suspended jobs.
                "GLUE2ComputingServiceTotalJobs": running + halted if is_whole else None,
                "GLUE2ComputingServiceRunningJobs": running if is_whole else None,
                "GLUE2ComputingServiceWaitingJobs": 0 if is_whole else None,
                "GLUE2ComputingServiceSuspendedJobs": halted if is_whole else None,
                "GLUE2EntityOtherInfo": _pairs(
                    {
                        "InfoProviderName": "cloud-info-provider-service",
                        "InfoProviderVersion": __version__,
                    }
                ),
            },
        )

    def manager(self, servers: Sequence[ServerCounts]) -> Entry:
        is_whole = not self.facts.failed
        return _entry(
            child(self.service_dn, "GLUE2ManagerID", self.manager_id),
            ["GLUE2Entity", "GLUE2Manager", "GLUE2ComputingManager"],
            {
                "GLUE2ManagerID": self.manager_id,
                "GLUE2EntityName": f"Cloud manager of {self.site.name}",
                "GLUE2ManagerProductName": self.site.hypervisor,
                "GLUE2ManagerProductVersion": self.site.hypervisor_version,
                "GLUE2ManagerServiceForeignKey": self.service_id,
                "GLUE2ComputingManagerComputingServiceForeignKey": self.service_id,
                "GLUE2ComputingManagerTotalPhysicalCPUs": self.site.cores,
                "GLUE2ComputingManagerTotalLogicalCPUs": self.site.cores,
                "GLUE2ComputingManagerTotalSlots": self.site.cores,
                "GLUE2ComputingManagerSlotsUsedByGridJobs": sum(each.vcpus for each in servers)
                if is_whole
                else None,
                # GB of memory: clouds have published it here since 0.8, and readers expect it.
                "GLUE2ComputingManagerWorkingAreaTotal": self.site.memory or None,
            },
        )

    def endpoint_id(self, endpoint: Endpoint) -> str:
        return f"{endpoint.url}_OpenStack_{endpoint.version}_{self.site.authentication}"

    def endpoint_dn(self, endpoint: Endpoint) -> str:
        return child(self.service_dn, "GLUE2EndpointID", self.endpoint_id(endpoint))

    def vos(self, endpoint: Endpoint) -> list[ShareSettings]:
        """Return the configured shares of an endpoint's region."""
        read = {share.vo for share in self.facts.shares if share.endpoint == endpoint}
        found = (
            share
            for share in self.configured.values()
            if share.vo in read or share.region == endpoint.region
        )
        return sorted(found, key=lambda share: share.vo)

    def endpoint(self, endpoint: Endpoint) -> Entry:
        failed = [share.vo for share in self.vos(endpoint) if share.vo in self.facts.failed]
        return _entry(
            self.endpoint_dn(endpoint),
            ["GLUE2Entity", "GLUE2Endpoint", "GLUE2ComputingEndpoint"],
            {
                "GLUE2EndpointID": self.endpoint_id(endpoint),
                "GLUE2EntityName": f"OpenStack compute endpoint of {self.site.name}",
                "GLUE2EndpointURL": endpoint.url,
                "GLUE2EndpointInterfaceName": "org.openstack.nova",
                "GLUE2EndpointInterfaceVersion": endpoint.version,
                "GLUE2EndpointTechnology": "webservice",
                "GLUE2EndpointCapability": self.site.capabilities,
                "GLUE2EndpointImplementor": "OpenStack Foundation",
                "GLUE2EndpointImplementationName": "OpenStack Nova",
                "GLUE2EndpointImplementationVersion": self.site.middleware_version
                or endpoint.microversion,
                "GLUE2EndpointQualityLevel": self.site.endpoint_level,
                "GLUE2EndpointHealthState": "warning" if failed else "ok",
                "GLUE2EndpointHealthStateInfo": f"could not be read: {', '.join(failed)}"
                if failed
                else None,
                "GLUE2EndpointServingState": "production",
                "GLUE2EndpointIssuerCA": endpoint.issuer,
                "GLUE2EndpointSemantics": "https://docs.openstack.org/api-ref/compute/",
                "GLUE2EndpointServiceForeignKey": self.service_id,
                "GLUE2ComputingEndpointComputingServiceForeignKey": self.service_id,
                "GLUE2EntityOtherInfo": _pairs(
                    {"Authn": self.site.authentication, "Region": endpoint.region}
                ),
            },
        )

    def access_policy(self, endpoint: Endpoint) -> Entry:
        vos = self.vos(endpoint)
        return _policy(
            self.endpoint_dn(endpoint),
            f"{self.endpoint_id(endpoint)}_policy",
            "GLUE2AccessPolicy",
            vos,
            f"Access of {', '.join(share.vo for share in vos)}",
            {"GLUE2AccessPolicyEndpointForeignKey": self.endpoint_id(endpoint)},
        )

    def flavor_id(self, flavor: Flavor) -> str:
        return f"{_FLAVOR}{_clean(flavor.id)}_{self.auth_url}"

    def flavor(self, flavor: Flavor, vos: Sequence[str]) -> Entry:
        sockets = _number(flavor.extra_specs.get("hw:cpu_sockets"), default=1)
        kind = f"{'multicpu' if sockets > 1 else 'singlecpu'}-{'multicore' if flavor.vcpus > sockets else 'singlecore'}"
        identifier = self.flavor_id(flavor)
        return _entry(
            child(self.service_dn, "GLUE2ResourceID", identifier),
            ["GLUE2Entity", "GLUE2Resource", "GLUE2ExecutionEnvironment"],
            {
                "GLUE2ResourceID": identifier,
                "GLUE2EntityName": flavor.name,
                "GLUE2ResourceManagerForeignKey": self.manager_id,
                "GLUE2ExecutionEnvironmentComputingManagerForeignKey": self.manager_id,
                "GLUE2ExecutionEnvironmentPlatform": self.site.platform,
                "GLUE2ExecutionEnvironmentVirtualMachine": "TRUE",
                "GLUE2ExecutionEnvironmentTotalInstances": self.capacity(flavor),
                "GLUE2ExecutionEnvironmentMainMemorySize": flavor.ram,
                "GLUE2ExecutionEnvironmentVirtualMemorySize": flavor.ram,
                "GLUE2ExecutionEnvironmentLogicalCPUs": flavor.vcpus,
                "GLUE2ExecutionEnvironmentPhysicalCPUs": sockets,
                "GLUE2ExecutionEnvironmentCPUMultiplicity": kind,
                "GLUE2ExecutionEnvironmentCPUVendor": "virtual",
                "GLUE2ExecutionEnvironmentCPUModel": "virtual",
                "GLUE2ExecutionEnvironmentCPUVersion": "virtual",
                # Mandatory or recommended figures of physical machines, at the values that change
                # no reader's result.
                "GLUE2ExecutionEnvironmentCPUClockSpeed": 1000,
                "GLUE2ExecutionEnvironmentCPUTimeScalingFactor": 1,
                "GLUE2ExecutionEnvironmentWallTimeScalingFactor": 1,
                # What runs in it is the image's choice.
                "GLUE2ExecutionEnvironmentOSFamily": "linux",
                "GLUE2ExecutionEnvironmentOSName": "other",
                "GLUE2ExecutionEnvironmentOSVersion": "UNKNOWN",
                "GLUE2ExecutionEnvironmentConnectivityIn": "TRUE",
                "GLUE2ExecutionEnvironmentConnectivityOut": "TRUE",
                "GLUE2ExecutionEnvironmentNetworkInfo": "infiniband"
                if _has_infiniband(flavor)
                else None,
                "GLUE2EntityOtherInfo": _pairs(
                    {
                        "VO": vos,
                        "disk": flavor.disk,
                        "ephemeral": flavor.ephemeral,
                        **{
                            name.replace("Accelerator:", "Accelerator"): text
                            for name, text in sorted(flavor.extra_specs.items())
                            if name.startswith("Accelerator:")
                        },
                    }
                ),
            },
        )

    def capacity(self, flavor: Flavor) -> int | None:
        """Return how many servers of this flavor the empty cloud would hold; None when its size is not configured."""
        limits = []
        if self.site.cores:
            limits.append(self.site.cores // max(flavor.vcpus, 1))
        if self.site.memory:
            limits.append(self.site.memory * 1024 // max(flavor.ram, 1))
        return min(limits, default=None)

    def image(self, image: OfferedImage, vos: Sequence[str]) -> Entry:
        identifier = f"{_IMAGE}{_clean(image.id)}_{self.auth_url}"
        return _entry(
            child(self.service_dn, "GLUE2ApplicationEnvironmentID", identifier),
            ["GLUE2Entity", "GLUE2ApplicationEnvironment"],
            {
                "GLUE2ApplicationEnvironmentID": identifier,
                "GLUE2EntityName": image.name,
                "GLUE2ApplicationEnvironmentAppName": _clean(image.name) or image.id,
                "GLUE2ApplicationEnvironmentAppVersion": image.version,
                "GLUE2ApplicationEnvironmentRepository": image.marketplace,
                "GLUE2ApplicationEnvironmentDescription": image.description,
                "GLUE2ApplicationEnvironmentComputingManagerForeignKey": self.manager_id,
                "GLUE2EntityOtherInfo": _pairs(
                    {
                        "VO": vos,
                        "base_mpuri": image.base,
                        "Platform": image.architecture,
                        "OSFamily": image.os_type,
                        "OSName": image.os_distribution,
                        "OSVersion": image.os_version,
                    }
                ),
            },
        )

    def share_id(self, share: Share) -> str:
        return f"{self.service_id}_share_{share.vo}_{share.project_id}"

    def share(self, share: Share) -> Entry:
        configured = self.configured[share.vo]
        return _entry(
            child(self.service_dn, "GLUE2ShareID", self.share_id(share)),
            ["GLUE2Entity", "GLUE2Share"],
            {
                "GLUE2ShareID": self.share_id(share),
                "GLUE2EntityName": f"Share of {share.vo}",
                "GLUE2ShareDescription": f"Share of the VO {share.vo} in project {share.project_name}",
                "GLUE2ShareServiceForeignKey": self.service_id,
                "GLUE2ShareEndpointForeignKey": self.endpoint_id(share.endpoint),
                "GLUE2ShareResourceForeignKey": sorted(
                    {self.flavor_id(flavor) for flavor in share.flavors}
                ),
                "GLUE2EntityOtherInfo": _pairs(
                    {
                        "VO": share.vo,
                        "project_id": share.project_id,
                        "project_name": share.project_name,
                        "project_domain_name": share.project_domain,
                        **configured.information,
                        **{f"quota_{name}": quota for name, quota in sorted(share.quotas.items())},
                        "TotalVM": share.servers.total,
                        "RunningVM": share.servers.running,
                        "SuspendedVM": share.servers.suspended,
                        "HaltedVM": share.servers.halted,
                    }
                ),
            },
        )

    def mapping_policy(self, share: Share) -> Entry:
        return _policy(
            child(self.service_dn, "GLUE2ShareID", self.share_id(share)),
            f"{self.share_id(share)}_Policy",
            "GLUE2MappingPolicy",
            [self.configured[share.vo]],
            f"Members of {share.vo}",
            {"GLUE2MappingPolicyShareForeignKey": self.share_id(share)},
        )


def _policy(
    parent: str,
    identifier: str,
    kind: str,
    vos: Sequence[ShareSettings],
    name: str,
    links: Mapping[str, Value],
) -> Entry:
    return _entry(
        child(parent, "GLUE2PolicyID", identifier),
        ["GLUE2Entity", "GLUE2Policy", kind],
        {
            "GLUE2PolicyID": identifier,
            "GLUE2EntityName": name,
            "GLUE2PolicyScheme": _SCHEME,
            "GLUE2PolicyRule": [rule for share in vos for rule in share.membership],
            "GLUE2PolicyUserDomainForeignKey": [share.vo for share in vos],
            **links,
        },
    )


def _by_vo(offers: Iterable[tuple[str, Sequence[_Thing]]]) -> list[tuple[_Thing, list[str]]]:
    """Return each thing once, sorted by id, with the VOs that it is offered to."""
    found: dict[str, tuple[_Thing, dict[str, None]]] = {}
    for vo, things in offers:
        for thing in things:
            found.setdefault(thing.id, (thing, {}))[1][vo] = None
    return [(thing, list(vos)) for _, (thing, vos) in sorted(found.items())]


def _number(text: str | None, *, default: int) -> int:
    return int(text) if text is not None and text.isdecimal() and int(text) else default


def _has_infiniband(flavor: Flavor) -> bool:
    return flavor.extra_specs.get("infiniband", "").lower() == "true"
