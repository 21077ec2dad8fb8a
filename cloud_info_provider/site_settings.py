"""The administrator's description of site and cloud: values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from appliance.core.glue.site_entries import SiteDescription
from cloud_info_provider.facts import EndpointTerms, FlavorTerms

Fact = str | int | bool | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StorageEndpoint:
    """An endpoint of the storage service, with its software in ``terms``."""

    url: str
    version: str
    terms: EndpointTerms


@dataclass(frozen=True, slots=True)
class StorageSettings:
    """A storage service, which only the description knows; sizes in GB, None if unknown."""

    name: str
    level: str
    capabilities: tuple[str, ...]
    product: str
    product_version: str
    total: int | None
    used: int | None
    endpoints: tuple[StorageEndpoint, ...]


@dataclass(frozen=True, slots=True)
class SiteSettings:
    """The description of site and cloud.

    Attributes:
        name: as in GOCDB.
        cores: of all hypervisors.
        memory: of all hypervisors, in GB.
        hypervisor: name of the product.
        hypervisor_version: of the product.
        service_level: quality level of the service.
        capabilities: terms of GLUE 2.0.
        endpoint: what it says of the endpoints.
        flavors: what it says of all flavors.
        flavor_schema: a part of the identifiers of flavors.
        image_schema: a part of the identifiers of images.
        image_platform: architecture of images for which Glance has none; may be empty.
        manager: more about the hypervisors, by the names of GLUE 2.1.
        quotas: of a VO for which Nova shows none, by Nova's names.
        storage: the storage service; None without one.
        is_below_domain: whether the cloud's entries are below the site's entry.
        domain: the site and its BDII; None if another provider publishes them.

    """

    name: str
    cores: int
    memory: int
    hypervisor: str
    hypervisor_version: str
    service_level: str
    capabilities: tuple[str, ...]
    endpoint: EndpointTerms = field(default_factory=EndpointTerms)
    flavors: FlavorTerms = field(default_factory=FlavorTerms)
    flavor_schema: str = "resource"
    image_schema: str = "os"
    image_platform: str = ""
    manager: Mapping[str, Fact] = field(default_factory=dict, hash=False)
    quotas: Mapping[str, int] = field(default_factory=dict, hash=False)
    storage: StorageSettings | None = None
    is_below_domain: bool = False
    domain: SiteDescription | None = None
