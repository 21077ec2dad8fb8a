"""The HTTP proxy of the environment: HTTP_PROXY, HTTPS_PROXY and NO_PROXY, which containers have from appliance.env.

requests finds it by itself; what speaks TLS without requests, and whoever tells of a failure, asks
here.
"""

from __future__ import annotations

import base64
import http.client
import re
import ssl
from urllib.parse import SplitResult, unquote, urlsplit

from appliance.core import hosts
from appliance.core.run.errors import UsageError

_PORT = 80  # as requests has it
_FILE = "on an appliance in /etc/fedcloud/appliance.env"
_REFUSAL = re.compile(r"Tunnel connection failed: (\d+.*?)['\")]*$")
_ACCOUNT = f"write its account into HTTPS_PROXY, http://NAME:PASSWORD@HOST:PORT, {_FILE}"
_REMEDIES = {
    "401": _ACCOUNT,
    "403": "have it let this host and port pass, or name the host in NO_PROXY",
    "407": _ACCOUNT,
    **dict.fromkeys(
        ("500", "502", "503", "504"), "check that this host and port answer to the proxy's machine"
    ),
}
_OTHER_REMEDY = f"correct HTTPS_PROXY, or name the host in NO_PROXY, {_FILE}"


def check() -> None:
    """Raise `UsageError` for a proxy that is no URL: libraries tell of that in their own ways, or not at all."""
    for scheme in ("http", "https"):
        _named(scheme)


def _named(scheme: str) -> SplitResult | None:
    import urllib.request  # noqa: PLC0415  twenty milliseconds

    proxy = urllib.request.getproxies().get(scheme)
    if not proxy:
        return None
    try:
        parts = urlsplit(proxy if "//" in proxy else f"http://{proxy}")
        is_one = bool(parts.hostname) and parts.scheme in ("http", "https") and parts.port != 0
    except ValueError:
        is_one = False
    if not is_one:
        raise UsageError(
            f"{scheme.upper()}_PROXY", "is no HTTP proxy's URL", f"write http://HOST:PORT, {_FILE}"
        )
    return parts


def find(url: str) -> SplitResult | None:
    """Return the proxy for a URL; None when there is none, or when NO_PROXY names the host.

    Raises:
        UsageError: what the environment names is none.

    """
    import urllib.request  # noqa: PLC0415

    parts = urlsplit(url)
    return None if urllib.request.proxy_bypass(hosts.of_url(url)) else _named(parts.scheme)


def https_connection(
    host: str, port: int, *, timeout: float, tls: ssl.SSLContext
) -> http.client.HTTPSConnection:
    """Return a connection that is to be opened yet, through the proxy if there is one for this host."""
    proxy = find(f"https://{hosts.join_port(host, port)}")
    if proxy is None:
        return http.client.HTTPSConnection(host, port, timeout=timeout, context=tls)
    if proxy.scheme != "http":
        raise UsageError(
            "HTTPS_PROXY",
            "this program speaks no TLS with a proxy",
            f"write http://HOST:PORT, {_FILE}",
        )
    place = proxy.hostname or "", proxy.port or _PORT
    connection = http.client.HTTPSConnection(*place, timeout=timeout, context=tls)
    connection.set_tunnel(host, port, headers=_headers(proxy))
    return connection


def is_refusal(error: Exception) -> bool:
    """Say whether a proxy answered that it will not connect: asking again brings nothing."""
    found = _REFUSAL.search(str(error))
    return found is not None and found[1].startswith("4")


def explain(url: str, error: Exception, cause: str) -> tuple[str, str]:
    """Return cause and remedy for a proxy's failure on the way to ``url``; ``cause`` is how it did not answer."""
    proxy = find(url)
    place = f"the proxy {proxy.hostname}:{proxy.port or _PORT}" if proxy else "the proxy"
    if found := _REFUSAL.search(str(error)):
        return f"{place} does not connect: {found[1].lower()}", _REMEDIES.get(
            found[1][:3], _OTHER_REMEDY
        )
    return f"{place} cannot be reached: {cause}", _OTHER_REMEDY


def _headers(proxy: SplitResult) -> dict[str, str]:
    if not proxy.username:
        return {}
    login = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(login.encode()).decode('ascii')}"}
