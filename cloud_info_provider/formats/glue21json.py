"""GLUE 2.1 as one JSON object, in the form of cloud-info-provider 1.2: a pure function.

    {"CloudComputingService": [{"ID": …, "Associations": {"AdminDomain": [SITE]}, …}],
     "CloudComputingManager": […], "CloudComputingEndpoint": […],  one each
     "CloudComputingImage": […], "CloudComputingInstanceType": […],
     "CloudComputingVirtualAccelerator": […],                      GPUs of a flavor
     "Share": […], "MappingPolicy": […],                           one each for a VO's project
     "AccessPolicy": […]}                                          one, with all VOs

Names, identifiers and links are those of cloud-info-provider, where it has them. An image or flavor
of several VOs is one object that names their shares, because an identifier occurs once in GLUE. All
classes are present, also without objects: EGI's reader drops a site that lacks one. See
docs/adr/0051-json-for-egi.md for the differences.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from cloud_info_provider.facts import Accelerators, Flavor, OfferedImage, ServerCounts, Share
from cloud_info_provider.formats.published_cloud import (
    PublishedCloud,
    Rendering,
    missing_flavors,
    settings_of,
)
from cloud_info_provider.site_settings import Fact

Json = dict[str, Any]
_Thing = TypeVar("_Thing", Flavor, OfferedImage)

VALIDITY = timedelta(hours=12)
"""How long an object counts after its time of creation, as in cloud-info-provider."""
_UNKNOWN = "UNKNOWN"
_OF_MANAGER = (
    *("NetworkVirtualizationType", "CPUVirtualizationType", "ManagerVirtualdiskFormat"),
    *("ManagerFailover", "ManagerLiveMigration", "ManagerVMBackupRestore"),
)
"""Fields of the manager for what only the description says; the rest is in its ``OtherInfo``."""
# Control characters, and surrogates, which UTF-8 cannot hold.
_UNFIT = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]+")


def render(cloud: PublishedCloud) -> Rendering:
    """Return the JSON text, on one line."""
    document = _CloudObjects(cloud).document()
    text = json.dumps(document, allow_nan=False)
    count = sum(map(len, document.values()))
    return Rendering(f"{text}\n", count, tuple(missing_flavors(cloud.facts)))


class _CloudObjects:
    """The objects of one cloud."""

    def __init__(self, cloud: PublishedCloud) -> None:
        self.cloud = cloud
        self.facts = cloud.facts
        self.site = cloud.site
        self.shares = sorted(cloud.facts.shares, key=lambda share: (share.vo, share.project_id))
        self.service_id = f"{cloud.endpoint}_cloud.compute"
        self.manager_id = f"{self.service_id}_manager"
        self.endpoint_id = f"{cloud.endpoint}_OpenStack_v3"
        self.created = cloud.facts.answered.replace(microsecond=0).isoformat()

    def document(self) -> dict[str, list[Json]]:
        flavors = _with_shares((self.share_id(share), share.flavors) for share in self.shares)
        images = _with_shares((self.share_id(share), share.images) for share in self.shares)
        return {
            "CloudComputingService": [self.service()],
            "CloudComputingManager": [self.manager()],
            "CloudComputingEndpoint": [self.endpoint()],
            "CloudComputingImage": [self.image(image, ids) for image, ids in images],
            "CloudComputingInstanceType": [self.flavor(flavor, ids) for flavor, ids in flavors],
            "CloudComputingVirtualAccelerator": [
                self.accelerator(flavor, flavor.accelerators)
                for flavor, _ in flavors
                if flavor.accelerators
            ],
            "Share": [self.share(share) for share in self.shares if share.vo],
            "MappingPolicy": [self.mapping_policy(share) for share in self.shares if share.vo],
            "AccessPolicy": [self.access_policy()],
        }

    def object(
        self, identifier: str, name: str, associations: Mapping[str, Sequence[str]], fields: Json
    ) -> Json:
        """Return an object; fields without a value are left out."""
        made: Json = {
            "ID": identifier,
            "Validity": int(VALIDITY.total_seconds()),
            "CreationTime": self.created,
            "Name": name or None,
            "OtherInfo": fields.pop("OtherInfo", None) or None,
            "Associations": {kind: list(ids) for kind, ids in associations.items()},
            **fields,
        }
        return {field: value for field, value in made.items() if value is not None}

    def service(self) -> Json:
        gocdb = self.facts.gocdb
        other = {"gocdb_id": gocdb.id, "site_name": gocdb.site}
        return self.object(
            self.service_id,
            f"Cloud Compute service at {self.site.name}",
            {"AdminDomain": [self.site.name]},
            {
                "OtherInfo": {name: text for name, text in other.items() if text},
                "Type": "org.cloud.iaas",
                "QualityLevel": self.site.service_level,
                "StatusInfo": (
                    f"https://argo.egi.eu/egi/report-status/Critical/SITES/{self.site.name}"
                ),
                "ServiceAUP": "http://go.egi.eu/aup",
                # by convention: the kinds of endpoints, and the number of shares
                "Complexity": f"endpointType=1,share={len(self.shares)}",
                "Capability": list(self.site.capabilities),
                **_servers([share.servers for share in self.shares]),
            },
        )

    def manager(self) -> Json:
        flavors = {flavor for share in self.shares for flavor in share.flavors}
        cpus, memory = [flavor.vcpus for flavor in flavors], [flavor.ram for flavor in flavors]
        described = self.site.manager
        own = {name: fact for name, fact in described.items() if name in _OF_MANAGER}
        other = {name: fact for name, fact in described.items() if name not in _OF_MANAGER}
        return self.object(
            self.manager_id,
            "",
            {"CloudComputingService": [self.service_id]},
            {
                "OtherInfo": {name: _fact(fact) for name, fact in other.items()},
                "HypervisorName": _known(self.site.hypervisor),
                "HypervisorVersion": _known(self.site.hypervisor_version),
                "TotalCPUs": self.site.cores or None,
                "TotalRAM": self.site.memory or None,
                "InstanceMaxCPU": max(cpus, default=0),
                "InstanceMinCPU": min(cpus, default=0),
                "InstanceMaxRAM": max(memory, default=0),
                "InstanceMinRAM": min(memory, default=0),
                **{name: _fact(fact) for name, fact in own.items()},
            },
        )

    def endpoint(self) -> Json:
        state, info = "ok", "Endpoint functioning properly"
        if self.facts.failed:
            state, info = "warning", f"could not be read: {', '.join(sorted(self.facts.failed))}"
        certificate, auditor = self.facts.certificate, self.facts.auditor_role
        compute = self.shares[0].endpoint if self.shares else None
        terms = (compute and compute.terms) or self.site.endpoint
        return self.object(
            self.endpoint_id,
            f"Cloud computing endpoint for {self.endpoint_id}",
            {"CloudComputingService": [self.service_id]},
            {
                "OtherInfo": None if auditor is None else {"auditor_role": auditor},
                "Capability": list(self.site.capabilities),
                "QualityLevel": terms.level,
                "InterfaceName": "org.openstack.nova",
                "InterfaceVersion": compute.version.removeprefix("v") if compute else None,
                "HealthState": state,
                "HealthStateInfo": info,
                "ServingState": "production",
                "Technology": terms.technology,
                "Implementor": terms.implementor,
                "ImplementationName": terms.implementation,
                "ImplementationVersion": terms.implementation_version
                or (compute.microversion if compute else None),
                "DowntimeInfo": (
                    "https://goc.egi.eu/portal/index.php?Page_Type=Downtimes_Calendar"
                    f"&site={self.site.name}"
                ),
                "Semantics": "https://developer.openstack.org/api-ref/compute",
                "Authentication": self.cloud.auth_type,
                "IssuerCA": certificate.issuer or _UNKNOWN,
                # A server that was asked may have named none.
                "TrustedCA": list(certificate.client_authorities)
                if certificate.issuer
                else [_UNKNOWN],
                "URL": self.cloud.endpoint,
            },
        )

    def image(self, image: OfferedImage, shares: Sequence[str]) -> Json:
        base = {"base_mpuri": image.base} if image.base else {}
        return self.object(
            image.id,
            _text(image.name) or image.id,
            self.offered(shares),
            {
                "OtherInfo": {**base, **image.information, **image.attributes},
                "MarketplaceURL": image.marketplace or image.file,
                "OSPlatform": _text(image.architecture) or self.site.image_platform or _UNKNOWN,
                "OSName": _text(image.os_distribution) or _UNKNOWN,
                "OSVersion": _text(image.os_version) or _UNKNOWN,
                "Description": _text(image.description) or _UNKNOWN,
                "AccessInfo": image.access,
            },
        )

    def offered(self, shares: Sequence[str]) -> dict[str, Sequence[str]]:
        """Return the links of an image or flavor."""
        return {
            "Share": shares,
            "CloudComputingEndpoint": [self.endpoint_id],
            "CloudComputingManager": [self.manager_id],
        }

    def flavor(self, flavor: Flavor, shares: Sequence[str]) -> Json:
        links = self.offered(shares)
        terms = flavor.terms or self.site.flavors
        if flavor.accelerators:
            links["CloudComputingVirtualAccelerator"] = [_accelerator_id(flavor)]
        return self.object(
            flavor.id,
            _text(flavor.name) or flavor.id,
            links,
            {
                "Platform": terms.platform,
                "CPU": flavor.vcpus,
                "RAM": flavor.ram,
                "Disk": flavor.disk,
                "NetworkIn": _truth(terms.has_way_in),
                "NetworkOut": _truth(terms.has_way_out),
                "NetworkInfo": "infiniband" if flavor.has_infiniband else None,
            },
        )

    def accelerator(self, flavor: Flavor, found: Accelerators) -> Json:
        return self.object(
            _accelerator_id(flavor),
            f"{_text(flavor.name) or flavor.id}_gpu",
            {"CloudComputingInstanceType": [flavor.id]},
            {
                "Type": found.type,
                "Number": found.number,
                "Vendor": _text(found.vendor) or _UNKNOWN,
                "Model": _text(found.model) or _UNKNOWN,
                "Version": _text(found.version) or None,
                "Memory": found.memory,
                "ComputeCapability": [],
                "VirtualizationType": _text(found.virtualization) or None,
            },
        )

    def share_id(self, share: Share) -> str:
        return f"{self.endpoint_id}_share_{share.vo}_{share.project_id}"

    def share(self, share: Share) -> Json:
        information = settings_of(share, self.cloud.shares).information
        return self.object(
            self.share_id(share),
            f"{share.vo} - {share.project_id} share",
            {
                "CloudComputingService": [self.service_id],
                "CloudComputingEndpoint": [self.endpoint_id],
            },
            {
                "OtherInfo": {
                    "project_name": _text(share.project_name),
                    "project_domain_name": _text(share.project_domain),
                    "quotas": dict(share.quotas),
                },
                "InstanceMaxCPU": max((flavor.vcpus for flavor in share.flavors), default=0),
                "InstanceMaxRAM": max((flavor.ram for flavor in share.flavors), default=0),
                "SLA": information.get("sla"),
                **_servers([share.servers]),
                "MaxVM": share.quotas.get("instances", 0),
                "NetworkInfo": information.get("network_info"),
                "DefaultNetworkType": information.get("default_network_type"),
                "PublicNetworkName": information.get("public_network_name"),
                "ProjectID": share.project_id,
            },
        )

    def mapping_policy(self, share: Share) -> Json:
        return self.object(
            f"{self.share_id(share)}_Policy",
            "",
            {"Share": [self.share_id(share)], "PolicyUserDomain": [share.vo]},
            {
                "Rule": list(settings_of(share, self.cloud.shares).membership),
                "Scheme": "org.glite.standard",
            },
        )

    def access_policy(self) -> Json:
        configured = sorted(self.cloud.shares, key=lambda share: share.vo)
        rules = [rule for share in configured for rule in share.membership]
        return self.object(
            f"{self.endpoint_id}_policy",
            "",
            {"CloudComputingEndpoint": [self.endpoint_id]},
            {
                "Rule": list(dict.fromkeys(rules)),
                "Scheme": "org.glite.standard",
            },
        )


def _accelerator_id(flavor: Flavor) -> str:
    return f"{flavor.id}_gpu"


def _servers(counts: Iterable[ServerCounts]) -> Json:
    counted = list(counts)
    return {
        "TotalVM": sum(each.total for each in counted),
        "RunningVM": sum(each.running for each in counted),
        "SuspendedVM": sum(each.suspended for each in counted),
        "HaltedVM": sum(each.halted for each in counted),
    }


def _truth(value: bool | None) -> bool | str:
    return _UNKNOWN if value is None else value


def _fact(fact: Fact) -> str | int | bool:
    """Return a fact as a value of the peer's model, in which a list is one text."""
    return ",".join(fact) if isinstance(fact, tuple) else fact


def _known(text: str) -> str | None:
    return text if text != _UNKNOWN else None


def _text(text: str) -> str:
    """Return a text as it is, if readers can show it: users choose images by their names."""
    if _UNFIT.search(text):
        return _UNFIT.sub(" ", text).strip()
    return text if text.strip() else ""


def _with_shares(offers: Iterator[tuple[str, Sequence[_Thing]]]) -> list[tuple[_Thing, list[str]]]:
    """Return each flavor or image once, sorted by id, with the ids of its shares.

    Regions may have different flavors of one id; each is an object then.
    """
    found: dict[_Thing, list[str]] = {}
    for share, things in offers:
        for thing in things:
            found.setdefault(thing, []).append(share)
    return sorted(found.items(), key=lambda item: item[0].id)
