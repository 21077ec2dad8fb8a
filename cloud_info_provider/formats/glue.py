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

With ``--site-in-suffix`` the group is below ``GLUE2DomainID=SITE``, and with ``--full-bdii-ldif``
the entries of the site and of its BDII are there too. Beside the service of the cloud there is that
of its storage, if the site describes one.

A flavor or image that several VOs may use is published once; ``GLUE2EntityOtherInfo: VO=…`` names
the VOs, and a share names its flavors in ``GLUE2ShareResourceForeignKey``. Shares are of the class
Share: ComputingShare demands figures of batch queues. The same facts always give the same entries,
in the same order. The BDII adds times of creation, because only it knows when an entry changed.

Identifiers, ``GLUE2EntityName`` of flavors and images, and the names of service and interface are
those of cloud-info-provider 0.8 to 0.13, because programs read them (docs/adr/0053).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from appliance.core import ldif
from appliance.core.glue import site_entries
from appliance.core.glue.site_entries import SiteDescription
from appliance.core.glue.vocabulary import OS_FAMILIES, OS_NAMES
from appliance.core.ldif import Entry, child, normalise_dn
from appliance.core.version import __version__
from cloud_info_provider.facts import Endpoint, Facts, Flavor, OfferedImage, ServerCounts, Share
from cloud_info_provider.formats import storage
from cloud_info_provider.formats.entry import Value, clean, new_entry, pairs, shown
from cloud_info_provider.formats.published_cloud import (
    PublishedCloud,
    Rendering,
    missing_flavors,
    settings_of,
)
from cloud_info_provider.settings import ShareSettings, SiteSettings

ROOT = "o=glue"
GROUP = "cloud"

# The prefix of identifiers, as in cloud-info-provider.
_TEMPLATE = "http://schemas.openstack.org/template"
_SCHEME = "org.glite.standard"
_UNKNOWN = "UNKNOWN"
# Names of systems in GLUE 2.0, by their names in Glance (os_distro) where those are different.
_SYSTEMS = {
    "fedora": "Fedoracore",
    "rhel": "RedhatEnterpriseAS",
    "scientific": "ScientificSL",
    "sled": "SUSE LINUX",
    "sles": "SUSE LINUX",
    "windows": "Microsoft WINDOWS",
    **{name.lower(): name for name in OS_NAMES},
}
_Thing = TypeVar("_Thing", Flavor, OfferedImage)


def render(cloud: PublishedCloud) -> Rendering:
    """Return the tree as LDIF. Its last lines name the VOs that failed (docs/adr/0010)."""
    tree, problems = entries(cloud.facts, cloud.site, shares=cloud.shares, auth_url=cloud.auth_url)
    failed = [ldif.Comment(f"failed: {vo}") for vo in sorted(cloud.facts.failed)]
    return Rendering("".join(ldif.write([*tree, *failed])), len(tree), tuple(problems))


def entries(
    facts: Facts, site: SiteSettings, *, shares: Sequence[ShareSettings], auth_url: str
) -> tuple[list[Entry], list[str]]:
    """Return the whole tree, and a line for each flavor, image or share that is not in it.

    Policies name the VOs of all configured shares, so that a VO that could not be read loses no
    right. Totals of the cloud are left out if a share is missing in them.

    Args:
        facts: the cloud as read.
        site: its description.
        shares: all configured shares, read or not.
        auth_url: Keystone's URL, which names the cloud.

    """
    tree = _CloudTree(facts, site, shares, auth_url)
    unique: dict[str, Entry] = {}
    problems = tree.problems()
    for entry in tree.entries():
        # a directory takes ids that differ in blanks only for the same
        first = unique.setdefault(normalise_dn(entry.dn), entry)
        if first is not entry:
            name = ldif.parse_dn(entry.dn)[0][0][1]
            problems.append(f"{name!r}: a second entry with this id is left out; change its id")
    return list(unique.values()), problems


class _CloudTree:
    """The entries of one cloud; the methods follow the drawing above."""

    def __init__(
        self,
        facts: Facts,
        site: SiteSettings,
        configured: Sequence[ShareSettings],
        auth_url: str,
    ) -> None:
        self.facts = facts
        self.site = site
        self.configured = configured
        self.auth_url = auth_url
        self.service_id = f"{auth_url}_cloud.compute"
        self.manager_id = f"{self.service_id}_manager"
        self.flavor_prefix = f"{_TEMPLATE}/{clean(site.flavor_schema)}#"
        self.image_prefix = f"{_TEMPLATE}/{clean(site.image_schema)}#"
        self.system = _commonest_system(facts)
        self.suffixes = _suffixes(facts)
        above = site_entries.domain_dn(site.name) if site.is_below_domain else ROOT
        self.group_dn = child(above, "GLUE2GroupID", GROUP)
        self.service_dn = child(self.group_dn, "GLUE2ServiceID", self.service_id)

    def entries(self) -> Iterator[Entry]:
        shares = sorted(self.facts.shares, key=lambda share: (share.vo, share.project_id))
        servers = [share.servers for share in shares]
        found = {*(share.endpoint for share in shares), *self.facts.endpoints}
        endpoints = sorted(found, key=lambda endpoint: endpoint.url)
        yield new_entry(ROOT, ["organization"], {"o": "glue"})
        if self.site.domain is not None:
            yield from self.domain(self.site.domain)
        yield new_entry(self.group_dn, ["GLUE2Group"], {"GLUE2GroupID": GROUP})
        yield self.service(servers)
        yield self.manager(servers)
        for endpoint in endpoints:
            yield self.endpoint(endpoint)
            if self.configured:
                yield self.access_policy(endpoint)
        flavors = (
            (share.vo, self.flavor_id(flavor, share.endpoint), flavor)
            for share in shares
            for flavor in _named(share.flavors)
        )
        for identifier, flavor, vos in _by_vo(flavors):
            yield self.flavor(identifier, flavor, vos)
        images = ((share.vo, image.id, image) for share in shares for image in _named(share.images))
        for _, image, vos in _by_vo(images):
            yield self.image(image, vos)
        for share in shares:
            if share.vo:
                yield self.share(share)
                yield self.mapping_policy(share)
        if self.site.storage is not None:
            yield from storage.entries(self.site.storage, site=self.site.name, above=self.group_dn)

    def domain(self, described: SiteDescription) -> Iterator[Entry]:
        """Yield the entries of the site and its BDII, with the group that holds the latter."""
        group = child(site_entries.domain_dn(described.name), "GLUE2GroupID", "resource")
        for each in site_entries.entries(described):
            if ldif.parent(each.dn) == group:
                yield new_entry(group, ["GLUE2Group"], {"GLUE2GroupID": "resource"})
            yield each

    def problems(self) -> list[str]:
        """Return a line for each flavor and image without an id, and one if there is no flavor."""
        shares = self.facts.shares
        lines = [
            f"VO {share.vo}: {kind} without an id is left out: {thing.name!r}"
            for share in shares
            for kind, things in (("a flavor", share.flavors), ("an image", share.images))
            for thing in things
            if not clean(thing.id)
        ]
        return lines + missing_flavors(self.facts)

    def service(self, servers: Sequence[ServerCounts]) -> Entry:
        is_whole = not self.facts.failed
        halted = sum(each.suspended + each.halted for each in servers)
        running = sum(each.running for each in servers)
        return new_entry(
            self.service_dn,
            ["GLUE2Entity", "GLUE2Service", "GLUE2ComputingService"],
            {
                "GLUE2ServiceID": self.service_id,
                "GLUE2EntityName": f"Cloud compute service of {self.site.name}",
                "GLUE2ServiceType": "IaaS",
                "GLUE2ServiceQualityLevel": self.site.service_level,
                "GLUE2ServiceCapability": self.site.capabilities,
                "GLUE2ServiceAdminDomainForeignKey": self.site.name,
                # by convention: the kinds of endpoints, and the number of shares
                "GLUE2ServiceComplexity": f"endpointType=1,share={len(self.configured)}",
                # GLUE 2.0 counts jobs: a server is one, and a stopped server a suspended job.
                "GLUE2ComputingServiceTotalJobs": running + halted if is_whole else None,
                "GLUE2ComputingServiceRunningJobs": running if is_whole else None,
                "GLUE2ComputingServiceWaitingJobs": 0 if is_whole else None,
                "GLUE2ComputingServiceSuspendedJobs": halted if is_whole else None,
                "GLUE2EntityOtherInfo": pairs(
                    {
                        "InfoProviderName": "cloud-info-provider-service",
                        "InfoProviderVersion": __version__,
                    }
                ),
            },
        )

    def manager(self, servers: Sequence[ServerCounts]) -> Entry:
        used = None if self.facts.failed else sum(each.vcpus for each in servers)
        return new_entry(
            child(self.service_dn, "GLUE2ManagerID", self.manager_id),
            ["GLUE2Entity", "GLUE2Manager", "GLUE2ComputingManager"],
            {
                "GLUE2ManagerID": self.manager_id,
                "GLUE2EntityName": f"Cloud Manager for {self.auth_url}",
                "GLUE2ManagerProductName": self.site.hypervisor,
                "GLUE2ManagerProductVersion": self.site.hypervisor_version,
                "GLUE2ManagerServiceForeignKey": self.service_id,
                "GLUE2ComputingManagerComputingServiceForeignKey": self.service_id,
                "GLUE2ComputingManagerTotalPhysicalCPUs": self.site.cores,
                "GLUE2ComputingManagerTotalLogicalCPUs": self.site.cores,
                "GLUE2ComputingManagerTotalSlots": self.site.cores,
                "GLUE2ComputingManagerSlotsUsedByGridJobs": used,
                # GB of memory, not of disk: cloud-info-provider has it here, and readers expect it.
                "GLUE2ComputingManagerWorkingAreaTotal": self.site.memory or None,
                "GLUE2EntityOtherInfo": pairs(
                    {
                        name.removeprefix("Manager"): shown(fact)
                        for name, fact in self.site.manager.items()
                    }
                ),
            },
        )

    def endpoint_id(self, endpoint: Endpoint) -> str:
        terms = endpoint.terms or self.site.endpoint
        return f"{endpoint.url}_{terms.interface}_{endpoint.version}_{terms.authentication}"

    def endpoint_dn(self, endpoint: Endpoint) -> str:
        return child(self.service_dn, "GLUE2EndpointID", self.endpoint_id(endpoint))

    def vos(self, endpoint: Endpoint) -> list[ShareSettings]:
        """Return the configured shares of an endpoint's region."""
        read = {share.vo for share in self.facts.shares if share.endpoint == endpoint}
        found = (
            share
            for share in self.configured
            if share.vo in read or share.region == endpoint.region
        )
        return sorted(found, key=lambda share: share.vo)

    def endpoint(self, endpoint: Endpoint) -> Entry:
        failed = [share.vo for share in self.vos(endpoint) if share.vo in self.facts.failed]
        info = f"could not be read: {', '.join(failed)}" if failed else None
        terms = endpoint.terms or self.site.endpoint
        return new_entry(
            self.endpoint_dn(endpoint),
            ["GLUE2Entity", "GLUE2Endpoint", "GLUE2ComputingEndpoint"],
            {
                "GLUE2EndpointID": self.endpoint_id(endpoint),
                "GLUE2EntityName": f"OpenStack compute endpoint of {self.site.name}",
                "GLUE2EndpointURL": endpoint.url,
                "GLUE2EndpointInterfaceName": terms.interface,
                "GLUE2EndpointInterfaceVersion": endpoint.version,
                "GLUE2EndpointTechnology": terms.technology,
                "GLUE2EndpointCapability": self.site.capabilities,
                "GLUE2EndpointImplementor": terms.implementor,
                "GLUE2EndpointImplementationName": terms.implementation,
                "GLUE2EndpointImplementationVersion": terms.implementation_version
                or endpoint.microversion,
                "GLUE2EndpointQualityLevel": terms.level,
                "GLUE2EndpointHealthState": "warning" if failed else "ok",
                "GLUE2EndpointHealthStateInfo": info,
                "GLUE2EndpointServingState": "production",
                "GLUE2EndpointIssuerCA": endpoint.issuer or _UNKNOWN,
                "GLUE2EndpointTrustedCA": self.facts.certificate.client_authorities,
                "GLUE2EndpointSemantics": "https://docs.openstack.org/api-ref/compute/",
                "GLUE2EndpointServiceForeignKey": self.service_id,
                "GLUE2ComputingEndpointComputingServiceForeignKey": self.service_id,
                "GLUE2EntityOtherInfo": pairs(
                    {
                        "Authn": terms.authentication,
                        "Region": endpoint.region,
                        "auditor_role": self.auditor_role(),
                    }
                ),
            },
        )

    def auditor_role(self) -> str | None:
        """Return whether an auditor has a role; None if nobody asked for it."""
        role = self.facts.auditor_role
        return None if role is None else str(role).upper()

    def access_policy(self, endpoint: Endpoint) -> Entry:
        vos = self.vos(endpoint)
        return _policy(
            self.endpoint_dn(endpoint),
            f"{self.endpoint_id(endpoint)}_policy",
            "GLUE2AccessPolicy",
            vos,
            f"Access of {', '.join(dict.fromkeys(share.vo for share in vos))}",
            {"GLUE2AccessPolicyEndpointForeignKey": self.endpoint_id(endpoint)},
        )

    def flavor_id(self, flavor: Flavor, endpoint: Endpoint) -> str:
        suffix = self.suffixes.get((endpoint.url, flavor.id), "")
        return f"{self.flavor_prefix}{clean(flavor.id)}_{self.auth_url}{suffix}"

    def flavor(self, identifier: str, flavor: Flavor, vos: Sequence[str]) -> Entry:
        sockets = _number(flavor.extra_specs.get("hw:cpu_sockets"), default=1)
        cpus = "multicpu" if sockets > 1 else "singlecpu"
        cores = "multicore" if flavor.vcpus > sockets else "singlecore"
        family, system, version = self.system
        terms = flavor.terms or self.site.flavors
        return new_entry(
            child(self.service_dn, "GLUE2ResourceID", identifier),
            ["GLUE2Entity", "GLUE2Resource", "GLUE2ExecutionEnvironment"],
            {
                "GLUE2ResourceID": identifier,
                "GLUE2EntityName": f"{self.flavor_prefix}{clean(flavor.id)}",
                "GLUE2ResourceManagerForeignKey": self.manager_id,
                "GLUE2ExecutionEnvironmentComputingManagerForeignKey": self.manager_id,
                "GLUE2ExecutionEnvironmentPlatform": terms.platform,
                "GLUE2ExecutionEnvironmentVirtualMachine": "TRUE",
                "GLUE2ExecutionEnvironmentTotalInstances": self.capacity(flavor),
                "GLUE2ExecutionEnvironmentMainMemorySize": flavor.ram,
                "GLUE2ExecutionEnvironmentVirtualMemorySize": flavor.ram,
                "GLUE2ExecutionEnvironmentLogicalCPUs": flavor.vcpus,
                "GLUE2ExecutionEnvironmentPhysicalCPUs": sockets,
                "GLUE2ExecutionEnvironmentCPUMultiplicity": f"{cpus}-{cores}",
                "GLUE2ExecutionEnvironmentCPUVendor": "virtual",
                "GLUE2ExecutionEnvironmentCPUModel": "virtual",
                "GLUE2ExecutionEnvironmentCPUVersion": "virtual",
                # Figures of physical machines, which GLUE demands or recommends, at values that
                # leave a reader's results unchanged.
                "GLUE2ExecutionEnvironmentCPUClockSpeed": 1000,
                "GLUE2ExecutionEnvironmentCPUTimeScalingFactor": 1,
                "GLUE2ExecutionEnvironmentWallTimeScalingFactor": 1,
                "GLUE2ExecutionEnvironmentOSFamily": family,
                "GLUE2ExecutionEnvironmentOSName": system,
                "GLUE2ExecutionEnvironmentOSVersion": version,
                # by convention TRUE unless a site says no, as cloud-info-provider has it
                "GLUE2ExecutionEnvironmentConnectivityIn": shown(terms.has_way_in is not False),
                "GLUE2ExecutionEnvironmentConnectivityOut": shown(terms.has_way_out is not False),
                "GLUE2ExecutionEnvironmentNetworkInfo": (
                    "infiniband" if flavor.has_infiniband else None
                ),
                "GLUE2EntityOtherInfo": pairs(
                    {
                        "VO": vos,
                        "name": flavor.name,
                        "disk": flavor.disk,
                        "ephemeral": flavor.ephemeral,
                        **_accelerators(flavor),
                    }
                ),
            },
        )

    def capacity(self, flavor: Flavor) -> int | None:
        """Return how many servers of a flavor an empty cloud can hold; None if that is unknown."""
        limits = []
        if self.site.cores:
            limits.append(self.site.cores // max(flavor.vcpus, 1))
        if self.site.memory:
            limits.append(self.site.memory * 1024 // max(flavor.ram, 1))
        return min(limits, default=None)

    def image(self, image: OfferedImage, vos: Sequence[str]) -> Entry:
        identifier = f"{self.image_prefix}{clean(image.id)}_{self.auth_url}"
        return new_entry(
            child(self.service_dn, "GLUE2ApplicationEnvironmentID", identifier),
            ["GLUE2Entity", "GLUE2ApplicationEnvironment"],
            {
                "GLUE2ApplicationEnvironmentID": identifier,
                "GLUE2EntityName": f"{self.image_prefix}{clean(image.id)}",
                "GLUE2ApplicationEnvironmentAppName": clean(image.name) or image.id,
                "GLUE2ApplicationEnvironmentAppVersion": image.version,
                "GLUE2ApplicationEnvironmentRepository": image.marketplace or image.file,
                "GLUE2ApplicationEnvironmentDescription": image.description,
                "GLUE2ApplicationEnvironmentComputingManagerForeignKey": self.manager_id,
                "GLUE2EntityOtherInfo": pairs(
                    {
                        "VO": vos,
                        "base_mpuri": image.base,
                        "Platform": image.architecture or self.site.image_platform,
                        "OSFamily": image.os_type,
                        "OSName": image.os_distribution,
                        "OSVersion": image.os_version,
                        **image.information,
                    }
                ),
            },
        )

    def share_id(self, share: Share) -> str:
        return f"{self.service_id}_share_{share.vo}_{share.project_id}"

    def share(self, share: Share) -> Entry:
        flavors = {self.flavor_id(flavor, share.endpoint) for flavor in _named(share.flavors)}
        quotas = {f"quota_{name}": quota for name, quota in sorted(share.quotas.items())}
        return new_entry(
            child(self.service_dn, "GLUE2ShareID", self.share_id(share)),
            ["GLUE2Entity", "GLUE2Share"],
            {
                "GLUE2ShareID": self.share_id(share),
                "GLUE2EntityName": f"Share of {share.vo}",
                "GLUE2ShareDescription": f"Share of the VO {share.vo}"
                + (f" in project {share.project_name}" if share.project_name else ""),
                "GLUE2ShareServiceForeignKey": self.service_id,
                "GLUE2ShareEndpointForeignKey": self.endpoint_id(share.endpoint),
                "GLUE2ShareResourceForeignKey": sorted(flavors),
                "GLUE2EntityOtherInfo": pairs(
                    {
                        "VO": share.vo,
                        "project_id": share.project_id,
                        "project_name": share.project_name,
                        "project_domain_name": share.project_domain,
                        **settings_of(share, self.configured).information,
                        **quotas,
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
            [settings_of(share, self.configured)],
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
    return new_entry(
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


def _named(things: Iterable[_Thing]) -> Iterator[_Thing]:
    return (thing for thing in things if clean(thing.id))


def _by_vo(
    offers: Iterable[tuple[str, str, _Thing]],
) -> Iterator[tuple[str, _Thing, list[str]]]:
    """Yield each flavor or image once, sorted by identifier, with the VOs that may use it."""
    found: dict[tuple[str, str], tuple[_Thing, dict[str, None]]] = {}
    for vo, identifier, thing in offers:
        found.setdefault((identifier, thing.id), (thing, {}))[1][vo] = None
    for (identifier, _), (thing, vos) in sorted(found.items(), key=lambda item: item[0]):
        yield identifier, thing, list(vos)


def _suffixes(facts: Facts) -> Mapping[tuple[str, str], str]:
    """Return the region's name for each flavor, by endpoint and id, that another region has too.

    The regions of a cloud number their flavors independently. The same flavor in two regions is one
    entry; different flavors of one id are two.
    """
    first: dict[str, tuple[str, Flavor]] = {}
    suffixes = {}
    for share in sorted(facts.shares, key=lambda share: (share.endpoint.url, share.vo)):
        url = share.endpoint.url
        for flavor in share.flavors:
            known_at, known = first.setdefault(flavor.id, (url, flavor))
            if known_at != url and known != flavor:
                suffixes[url, flavor.id] = f"_{share.endpoint.region or url}"
    return suffixes


def _commonest_system(facts: Facts) -> tuple[str, str, str]:
    """Return family, name and version of the system of most images that GLUE 2.0 has a name for.

    A flavor has no system: the image decides which one runs. GLUE demands values all the same.
    """
    images = {image.id: image for share in facts.shares for image in share.images}
    systems = Counter(
        (image.os_type.lower(), _SYSTEMS[name], image.os_version or _UNKNOWN)
        for image in images.values()
        if (name := image.os_distribution.lower()) in _SYSTEMS
    )
    # the greatest of several commonest ones, so that their order does not matter
    family, name, version = max(
        systems, key=lambda system: (systems[system], system), default=("", "other", _UNKNOWN)
    )
    return (family if family in OS_FAMILIES else "linux"), name, version


def _accelerators(flavor: Flavor) -> dict[str, Value]:
    """Return the properties ``Accelerator:…`` of a flavor, and those that other names stand for."""
    shown: dict[str, Value] = {
        name.replace("Accelerator:", "Accelerator"): text
        for name, text in sorted(flavor.extra_specs.items())
        if name.startswith("Accelerator:")
    }
    if (found := flavor.accelerators) is not None:
        shown |= {
            "AcceleratorType": found.type,
            "AcceleratorNumber": str(found.number),
            "AcceleratorVendor": found.vendor,
            "AcceleratorModel": found.model,
            "AcceleratorVersion": found.version,
            "AcceleratorMemory": found.memory,
            "AcceleratorVirtualizationType": found.virtualization,
        }
    return shown


def _number(text: str | None, *, default: int) -> int:
    return int(text) if text is not None and text.isdecimal() and int(text) else default
