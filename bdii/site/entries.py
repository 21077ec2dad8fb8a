"""A site's own entries: its domain with location and contacts, and its BDII as a service."""

from __future__ import annotations

from collections.abc import Iterator

from appliance.core import ldif
from appliance.core.ldif import Entry
from appliance.core.version import __version__
from bdii.site.settings import Site
from bdii.tree import SUFFIX

# Types, identifiers and the version of the interface are those of upstream's provider for sites:
# clients look for them.
_CAPABILITIES = ("information.model", "information.discovery", "information.monitoring")


def entries(site: Site, *, port: int) -> list[Entry]:
    """Return the entries, parents first; omitted texts have empty values."""
    domain = ldif.child(SUFFIX, "GLUE2DomainID", site.name)
    return [*_domain(site, domain), *_service(site, domain, f"{site.host}:{port}")]


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
    }
    classes = ("GLUE2Entity", *(f"GLUE2{kind}" for kind in kinds))
    return Entry(
        ldif.child(parent, name, identifier), {"objectClass": classes, name: (identifier,), **given}
    )


def _domain(site: Site, domain: str) -> Iterator[Entry]:
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
    contacts = {
        "general": site.email,
        "security": site.security_email,
        "sysadmin": site.email,
        "usersupport": site.support_email,
    }
    for kind, address in contacts.items():
        yield _entity(
            domain,
            ("Contact",),
            f"{kind}.contact.{site.name}",
            EntityName=f"{kind} contact of {site.name}",
            ContactDetail=address if ":" in address else f"mailto:{address}",
            ContactType=kind,
            ContactDomainForeignKey=site.name,
        )


def _service(site: Site, domain: str, address: str) -> Iterator[Entry]:
    group = ldif.child(domain, "GLUE2GroupID", "resource")
    service = _entity(
        group,
        ("Service",),
        f"{site.name}_sitebdii",
        EntityName=f"BDII of {site.name}",
        ServiceType="bdii_site",
        ServiceQualityLevel="production",
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
        EndpointQualityLevel="production",
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
