"""The storage service of a site in GLUE 2.0, as cloud-info-provider 0.8 to 0.13 has it.

GLUE2ServiceID                            StorageService
├── GLUE2ManagerID                        StorageManager
├── GLUE2EndpointID                       StorageEndpoint, one a URL
├── GLUE2StorageAccessProtocolID          one a protocol of the endpoints
└── GLUE2StorageServiceCapacityID         sizes in GB
"""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from appliance.core.ldif import Entry, child
from cloud_info_provider.formats.entry import clean, new_entry, pairs
from cloud_info_provider.site_settings import StorageEndpoint, StorageSettings

_HTTP = ("http", "https")


def entries(storage: StorageSettings, *, site: str, above: str) -> Iterator[Entry]:
    """Yield the entries of a site's storage service below ``above``."""
    yield from _StorageTree(storage, site, above).entries()


class _StorageTree:
    def __init__(self, storage: StorageSettings, site: str, above: str) -> None:
        self.storage = storage
        self.site = site
        self.id = f"{clean(storage.name)}_cloud.storage"
        self.dn = child(above, "GLUE2ServiceID", self.id)

    def entries(self) -> Iterator[Entry]:
        yield self.service()
        yield self.manager()
        for endpoint in sorted(self.storage.endpoints, key=lambda one: one.url):
            yield self.endpoint(endpoint)
        schemes = {urlsplit(endpoint.url).scheme for endpoint in self.storage.endpoints}
        for scheme in sorted(schemes.intersection(_HTTP)):
            yield self.protocol(scheme)
        yield self.capacity()

    def service(self) -> Entry:
        return new_entry(
            self.dn,
            ["GLUE2Entity", "GLUE2Service", "GLUE2StorageService"],
            {
                "GLUE2ServiceID": self.id,
                "GLUE2EntityName": f"Cloud storage service of {self.site}",
                "GLUE2ServiceType": "STaaS",
                "GLUE2ServiceQualityLevel": self.storage.level,
                "GLUE2ServiceCapability": self.storage.capabilities,
                "GLUE2ServiceAdminDomainForeignKey": self.site,
            },
        )

    def manager(self) -> Entry:
        identifier = f"{self.id}_manager"
        return new_entry(
            child(self.dn, "GLUE2ManagerID", identifier),
            ["GLUE2Entity", "GLUE2Manager", "GLUE2StorageManager"],
            {
                "GLUE2ManagerID": identifier,
                "GLUE2EntityName": f"Cloud Storage Manager at {self.storage.name}",
                "GLUE2ManagerProductName": self.storage.product,
                "GLUE2ManagerProductVersion": self.storage.product_version,
                "GLUE2ManagerServiceForeignKey": self.id,
                "GLUE2StorageManagerStorageServiceForeignKey": self.id,
            },
        )

    def endpoint(self, endpoint: StorageEndpoint) -> Entry:
        terms = endpoint.terms
        kind = f"{terms.interface}_{endpoint.version}_{terms.authentication}"
        identifier = clean(f"{endpoint.url}_{kind}")
        return new_entry(
            child(self.dn, "GLUE2EndpointID", identifier),
            ["GLUE2Entity", "GLUE2Endpoint", "GLUE2StorageEndpoint"],
            {
                "GLUE2EndpointID": identifier,
                "GLUE2EndpointURL": endpoint.url,
                "GLUE2EndpointInterfaceName": terms.interface,
                "GLUE2EndpointInterfaceVersion": endpoint.version,
                "GLUE2EndpointTechnology": terms.technology,
                "GLUE2EndpointCapability": self.storage.capabilities,
                "GLUE2EndpointImplementor": terms.implementor,
                "GLUE2EndpointImplementationName": terms.implementation,
                "GLUE2EndpointImplementationVersion": terms.implementation_version,
                "GLUE2EndpointQualityLevel": terms.level,
                # nobody asks the storage; cloud-info-provider says ok
                "GLUE2EndpointHealthState": "ok",
                "GLUE2EndpointServingState": "production",
                "GLUE2EndpointIssuerCA": "UNKNOWN",
                "GLUE2EndpointServiceForeignKey": self.id,
                "GLUE2StorageEndpointStorageServiceForeignKey": self.id,
                "GLUE2EntityOtherInfo": pairs({"Authn": terms.authentication}),
            },
        )

    def protocol(self, scheme: str) -> Entry:
        """Return a protocol, which EGI's profile demands beside a storage service."""
        identifier = f"{self.id}_{scheme}"
        return new_entry(
            child(self.dn, "GLUE2StorageAccessProtocolID", identifier),
            ["GLUE2Entity", "GLUE2StorageAccessProtocol"],
            {
                "GLUE2StorageAccessProtocolID": identifier,
                "GLUE2StorageAccessProtocolType": scheme,
                "GLUE2StorageAccessProtocolVersion": "1.1",
                "GLUE2StorageAccessProtocolStorageServiceForeignKey": self.id,
            },
        )

    def capacity(self) -> Entry:
        identifier = f"{self.id}_capacity"
        total, used = self.storage.total, self.storage.used
        return new_entry(
            child(self.dn, "GLUE2StorageServiceCapacityID", identifier),
            ["GLUE2Entity", "GLUE2StorageServiceCapacity"],
            {
                "GLUE2StorageServiceCapacityID": identifier,
                "GLUE2StorageServiceCapacityType": "online",
                "GLUE2StorageServiceCapacityStorageServiceForeignKey": self.id,
                "GLUE2StorageServiceCapacityTotalSize": total,
                "GLUE2StorageServiceCapacityUsedSize": used,
                "GLUE2StorageServiceCapacityFreeSize": (
                    None if total is None or used is None else total - used
                ),
            },
        )
