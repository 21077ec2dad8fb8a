"""The services of EGI that `appliance check` asks: the block ``egi`` of ``appliance.yaml``."""

from __future__ import annotations

from dataclasses import dataclass

from appliance.core import gocdb, hosts
from appliance.core.config.settings import Settings
from appliance.core.egi_flags import WORD

INFORMATION = "https://is.cloud.egi.eu"
_SECTION = "egi"


@dataclass(frozen=True, slots=True)
class EgiServices:
    """URLs of services, each empty if it is not asked, and what EGI's monitoring uses."""

    gocdb: str
    """GOCDB's public interface."""
    information: str
    """The information service, or the object of this site."""
    portal: str
    """A table of the accounting portal, as CSV or JSON."""
    image: str
    """The reference of the image that monitoring boots; empty: any."""
    vo: str
    """The VO of monitoring."""
    auditor: str
    """The cloud of the provider's clouds.yaml with the account of EGI's auditor; empty: none."""


def read(settings: Settings) -> EgiServices:
    """Return the block; errors in it are collected."""
    return EgiServices(
        gocdb=_url(settings, "gocdb", gocdb.URL),
        information=_url(settings, "information", INFORMATION),
        portal=_url(settings, "portal", ""),
        image=_word(settings, "image", ""),
        vo=_word(settings, "vo", "ops"),
        auditor=_word(settings, "auditor", ""),
    )


def _url(settings: Settings, option: str, default: str) -> str:
    url = settings.text(_SECTION, option, default=default)
    fault = hosts.url_fault(url) if url else ""
    if url and not fault and not url.startswith("https://"):
        fault = "is not a URL of TLS"
    if fault:
        settings.error(_SECTION, option, f"{fault}; write https://HOST/PATH, or leave it empty")
    return url


def _word(settings: Settings, option: str, default: str) -> str:
    text = settings.text(_SECTION, option, default=default)
    if not WORD.fullmatch(text):
        settings.error(_SECTION, option, f"{text!r} has characters that no name has; correct it")
    return text


def place(option: str, path: object) -> str:
    """Return where an administrator corrects an option, for messages."""
    return f"{option} in the block {_SECTION} of {path}"
