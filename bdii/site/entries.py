"""A site's own entries, as site.cfg describes it: its domain, and its BDII as a service."""

from __future__ import annotations

from appliance.core.glue import site_entries
from appliance.core.glue.site_entries import SiteDescription
from appliance.core.ldif import Entry
from bdii.site.settings import Site


def entries(site: Site, *, port: int) -> list[Entry]:
    """Return the entries, parents first, without values for omitted texts."""
    described = SiteDescription(
        name=site.name,
        host=site.host,
        port=port,
        contacts={
            "general": site.email,
            "security": site.security_email,
            "sysadmin": site.email,
            "usersupport": site.support_email,
        },
        description=site.description,
        web=site.web,
        location=site.location,
        country=site.country,
        latitude=site.latitude,
        longitude=site.longitude,
        other_info=site.other_info,
    )
    return site_entries.entries(described)
