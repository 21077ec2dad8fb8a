"""Options of the section ``site``: with ``--full-bdii-ldif`` the site and its BDII are printed.

Release 0.8 of cloud-info-provider had them, for a site whose only provider this is.
"""

from __future__ import annotations

from appliance.core import hosts
from appliance.core.config.settings import Settings
from appliance.core.glue import degrees
from appliance.core.glue.site_entries import SiteDescription
from cloud_info_provider import compute_options

_SITE = "site"
_CONTACTS = {
    "general": ("general_contact", "the mail address of the site"),
    "security": ("security_contact", "the mail address for security incidents"),
    "sysadmin": ("sysadmin_contact", "the administrators' mail address"),
    "usersupport": ("user_support_contact", "the mail address for users"),
}
_TEXTS = ("url", "country", "longitude", "latitude", "ngi", "production_level")
NAMES = (*(option for option, _ in _CONTACTS.values()), *_TEXTS, "bdii_host", "bdii_port")
"""All options, which are accepted without the flag too."""
# As in upstream's sample.
_PLACEHOLDER = "@example.org"


def read(settings: Settings, name: str) -> SiteDescription:
    """Return the site; errors are left in ``settings``."""
    contacts = {
        kind: settings.text(_SITE, option, required=words, placeholders=[_PLACEHOLDER])
        for kind, (option, words) in _CONTACTS.items()
    }
    host = settings.text(
        _SITE,
        "bdii_host",
        required="the public name of the site's BDII",
        placeholders=["site.bdii.example.org"],
    )
    if host and not hosts.is_host(host):
        words = f"{host!r} is not a host name; write a name or address without scheme and port"
        settings.error(_SITE, "bdii_host", words)
    ngi = settings.text(_SITE, "ngi")
    return SiteDescription(
        name=name,
        host=host,
        port=settings.integer(_SITE, "bdii_port", default=2170, minimum=1, maximum=hosts.MAX_PORT),
        contacts=contacts,
        description=name,
        web=settings.text(_SITE, "url"),
        country=settings.text(_SITE, "country"),
        latitude=_degrees(settings, "latitude", degrees.LATITUDE),
        longitude=_degrees(settings, "longitude", degrees.LONGITUDE),
        other_info=(f"EGI_NGI={ngi}",) if ngi else (),
        level=compute_options.level(settings, _SITE, "production_level"),
    )


def _degrees(settings: Settings, option: str, most: int) -> str:
    text = settings.text(_SITE, option)
    if fault := degrees.fault(text, most):
        settings.error(_SITE, option, fault)
    return text
