"""The HTTP proxy of the environment: HTTP_PROXY, HTTPS_PROXY and NO_PROXY.

Containers get these variables from appliance.env. requests reads them itself; this module serves
connections that are made without requests, and messages about failures.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import os
import re
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from urllib.parse import SplitResult, unquote, urlsplit

from appliance.core import hosts
from appliance.core.run.errors import UsageError

_PORT = 80  # of a proxy whose URL has no port, as in requests
_FILE = "on an appliance in /etc/fedcloud/appliance.env"
_REFUSAL = re.compile(r"Tunnel connection failed: (\d+.*?)['\")]*$")
_ACCOUNT = f"write its account into HTTPS_PROXY, http://NAME:PASSWORD@HOST:PORT, {_FILE}"
_REMEDIES = {
    "401": _ACCOUNT,
    "403": "have its operators allow this host and port, or name the host in NO_PROXY",
    "407": _ACCOUNT,
    **dict.fromkeys(
        ("500", "502", "503", "504"), "check that the proxy's host can reach this host and port"
    ),
}
_OTHER_REMEDY = f"correct HTTPS_PROXY, or name the host in NO_PROXY, {_FILE}"


def check() -> None:
    """Raise `UsageError` for a proxy that is not a URL; libraries report it late, or not at all."""
    for scheme in ("http", "https"):
        _named(scheme)


_lock = threading.Lock()
_before: list[dict[str, str | None]] = []
"""The values before each block that has not ended; several threads may be in one."""


@contextlib.contextmanager
def environment(named: Mapping[str, str]) -> Iterator[None]:
    """Use these proxies in the block, by HTTP_PROXY, HTTPS_PROXY and NO_PROXY, as jobs do.

    Blocks of several threads may overlap. The last one that ends restores the environment.
    """
    found = {name.lower(): text for name, text in named.items()}
    with _lock:
        _before.append({name: os.environ.get(name) for name in found})
        os.environ.update(found)
    try:
        yield
    finally:
        with _lock:
            _leave()


def _leave() -> None:
    if len(_before) > 1:
        first, second, *_ = _before
        _before[:2] = [second | first]  # the earlier values are those before all blocks
        return
    for name, text in _before.pop().items():
        if text is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = text


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
            f"{scheme.upper()}_PROXY",
            "is not the URL of an HTTP proxy",
            f"write http://HOST:PORT, {_FILE}",
        )
    return parts


def find(url: str) -> SplitResult | None:
    """Return the proxy for a URL; None if there is none, or NO_PROXY names the host.

    Raises:
        UsageError: the environment names a proxy that is not a URL.

    """
    import urllib.request  # noqa: PLC0415

    parts = urlsplit(url)
    return None if urllib.request.proxy_bypass(hosts.of_url(url)) else _named(parts.scheme)


def https_connection(
    host: str, port: int, *, timeout: float, tls: ssl.SSLContext
) -> http.client.HTTPSConnection:
    """Return a connection, not yet open, through the proxy for this host if there is one."""
    proxy = _of_tunnel(host, port)
    if proxy is None:
        return http.client.HTTPSConnection(host, port, timeout=timeout, context=tls)
    place = proxy.hostname or "", proxy.port or _PORT
    connection = http.client.HTTPSConnection(*place, timeout=timeout, context=tls)
    connection.set_tunnel(host, port, headers=_headers(proxy))
    return connection


def tunnel(host: str, port: int, *, timeout: float) -> socket.socket:
    """Return a connection without TLS, through the proxy for this host if there is one."""
    proxy = _of_tunnel(host, port)
    if proxy is None:
        return socket.create_connection((host, port), timeout)
    place = proxy.hostname or "", proxy.port or _PORT
    connection = http.client.HTTPConnection(*place, timeout=timeout)
    connection.set_tunnel(host, port, headers=_headers(proxy))
    connection.connect()
    return connection.sock


def _of_tunnel(host: str, port: int) -> SplitResult | None:
    """Return the proxy for a connection over TLS, which must itself speak plain HTTP."""
    proxy = find(f"https://{hosts.join_port(host, port)}")
    if proxy is not None and proxy.scheme != "http":
        raise UsageError(
            "HTTPS_PROXY",
            "connections to a proxy over TLS are not supported",
            f"write http://HOST:PORT, {_FILE}",
        )
    return proxy


def is_refusal(error: Exception) -> bool:
    """Check whether a proxy refused to connect, which a retry does not change."""
    found = _REFUSAL.search(str(error))
    return found is not None and found[1].startswith("4")


def explain(url: str, error: Exception, cause: str) -> tuple[str, str]:
    """Return cause and remedy of a proxy's failure; ``cause`` explains that it did not answer."""
    proxy = find(url)
    place = f"the proxy {proxy.hostname}:{proxy.port or _PORT}" if proxy else "the proxy"
    if found := _REFUSAL.search(str(error)):
        remedy = _REMEDIES.get(found[1][:3], _OTHER_REMEDY)
        return f"{place} refuses to connect: {found[1].lower()}", remedy
    return f"{place} cannot be reached: {cause}", _OTHER_REMEDY


def _headers(proxy: SplitResult) -> dict[str, str]:
    if not proxy.username:
        return {}
    login = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(login.encode()).decode('ascii')}"}
