"""A site's own entries: its domain with location and contacts, and its BDII as a service."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from appliance.core import ldif
from appliance.core.ldif import Entry
from appliance.core.version import __version__

SUFFIX = "o=glue"
# Types, identifiers and the version of the interface are those of upstream's provider for sites:
# clients look for them.
_CAPABILITIES = ("information.model", "information.discovery", "information.monitoring")


@dataclass(frozen=True, slots=True)
class SiteDescription:
    """A site and its BDII. Texts that the administrator left out are empty.

    Attributes:
        name: as in GOCDB.
        host: the public name of the site's BDII.
        port: of the site's BDII.
        contacts: mail addresses by type: general, security, sysadmin, usersupport.
        description: for readers.
        web: URL of the site's page.
        location: the town.
        country: in which the town is.
        latitude: in degrees.
        longitude: in degrees.
        other_info: more facts, each ``NAME=VALUE``.
        level: quality level of the BDII.

    """

    name: str
    host: str
    port: int
    contacts: Mapping[str, str]
    description: str = ""
    web: str = ""
    location: str = ""
    country: str = ""
    latitude: str = ""
    longitude: str = ""
    other_info: tuple[str, ...] = ()
    level: str = "production"


def entries(site: SiteDescription) -> list[Entry]:
    """Return the entries, parents first, without values for omitted texts."""
    domain = domain_dn(site.name)
    return [*_domain(site, domain), *_service(site, domain, f"{site.host}:{site.port}")]


def domain_dn(name: str) -> str:
    """Return the name of a site's entry, above all others of the site."""
    return ldif.child(SUFFIX, "GLUE2DomainID", name)


def _entity(
    parent: str, kinds: tuple[str, ...], identifier: str, **attributes: str | tuple[str, ...]
) -> Entry:
    """Return an entry named by the ID of its first kind.

    Keywords are names of attributes without the prefix ``GLUE2``.
    """
    name = f"GLUE2{kinds[0]}ID"
    given = {
        f"GLUE2{key}": (value,) if isinstance(value, str) else value
        for key, value in attributes.items()
        if value
    }
    classes = ("GLUE2Entity", *(f"GLUE2{kind}" for kind in kinds))
    return Entry(
        ldif.child(parent, name, identifier), {"objectClass": classes, name: (identifier,), **given}
    )


def _domain(site: SiteDescription, domain: str) -> Iterator[Entry]:
    has_profile = any(info.startswith("ProfileName=") for info in site.other_info)
    profile = () if has_profile else ("ProfileName=EGI", "ProfileVersion=1.0")
    yield _entity(
        SUFFIX,
        ("Domain", "AdminDomain"),
        site.name,
        EntityName=site.name,
        DomainDescription=site.description,
        DomainWWW=site.web,
        EntityOtherInfo=(*site.other_info, *profile),
    )
    yield _entity(
        domain,
        ("Location",),
        f"location.{site.name}",
        EntityName=site.location,
        LocationCountry=site.country,
        LocationLatitude=site.latitude,
        LocationLongitude=site.longitude,
        LocationDomainForeignKey=site.name,
    )
    for kind, address in site.contacts.items():
        yield _entity(
            domain,
            ("Contact",),
            f"{kind}.contact.{site.name}",
            EntityName=f"{kind} contact of {site.name}",
            ContactDetail=address if ":" in address else f"mailto:{address}",
            ContactType=kind,
            ContactDomainForeignKey=site.name,
        )


def _service(site: SiteDescription, domain: str, address: str) -> Iterator[Entry]:
    group = ldif.child(domain, "GLUE2GroupID", "resource")
    service = _entity(
        group,
        ("Service",),
        f"{site.name}_sitebdii",
        EntityName=f"BDII of {site.name}",
        ServiceType="bdii_site",
        ServiceQualityLevel=site.level,
        ServiceCapability=_CAPABILITIES,
        ServiceAdminDomainForeignKey=site.name,
    )
    yield service
    endpoint = _entity(
        service.dn,
        ("Endpoint",),
        f"{address}_sitebdii_endpoint",
        EntityName=f"BDII of {site.name} over LDAP",
        EndpointURL=f"ldap://{address}/{domain}",
        EndpointInterfaceName="bdii_site",
        EndpointInterfaceVersion="3.0.0",
        EndpointImplementationName="BDII",
        EndpointImplementationVersion=__version__,
        EndpointCapability=_CAPABILITIES,
        EndpointQualityLevel=site.level,
        EndpointServingState="production",
        EndpointHealthState="ok",
        EndpointIssuerCA="UNKNOWN",  # LDAP without TLS; EGI's profile wants a value
        EndpointServiceForeignKey=f"{site.name}_sitebdii",
    )
    yield endpoint
    yield _entity(
        endpoint.dn,
        ("Policy", "AccessPolicy"),
        f"{address}_sitebdii_endpoint_Policy",
        EntityName=f"access to the BDII of {site.name}",
        PolicyScheme="org.glite.standard",
        PolicyRule="ALL",
        AccessPolicyEndpointForeignKey=f"{address}_sitebdii_endpoint",
    )
