"""GOCDB asked for the clouds of EGI, and for the entry of a Keystone."""

from __future__ import annotations

from datetime import timedelta

from appliance.core import causes, gocdb, hosts, proxy
from appliance.core.gocdb import RegisteredService
from appliance.core.run.errors import Unavailable
from cloud_info_provider.facts import GocdbEntry

_REMEDY = "check --gocdb-url"
_OK = 200


def find(base: str, endpoint: str, site: str, *, timeout: timedelta) -> GocdbEntry:
    """Return the entry of an endpoint; if several sites have its URL, that of ``site``.

    Raises:
        Unavailable: GOCDB does not answer, or has no such entry.

    """
    found = [one for one in services(base, timeout=timeout) if gocdb.is_of(endpoint, one)]
    named = [GocdbEntry(one.id, one.site) for one in found if one.id]
    if not named:
        words = f"has no service {gocdb.CLOUD} with the URL {endpoint}"
        remedy = "correct the URL in the site's description, or add the service in GOCDB"
        raise Unavailable("GOCDB", words, remedy)
    return next((entry for entry in named if entry.site == site), named[0])


def services(base: str, *, timeout: timedelta) -> list[RegisteredService]:
    """Return all clouds.

    Raises:
        Unavailable: GOCDB does not answer.

    """
    content = _get(base, timeout)
    try:
        return gocdb.services(content)
    except ValueError as error:
        raise Unavailable(hosts.of_url(base), str(error), _REMEDY) from error


def _get(base: str, timeout: timedelta) -> bytes:
    import requests  # noqa: PLC0415  start-up is a cost

    from appliance.core.cloud.bounded import BoundedSession  # noqa: PLC0415

    host = hosts.of_url(base)
    try:
        with BoundedSession(longest=timeout, largest=gocdb.LARGEST) as session:
            answer = session.get(
                base, params=gocdb.query(gocdb.CLOUD), timeout=timeout.total_seconds()
            )
    except requests.exceptions.ProxyError as error:
        raise Unavailable(host, *proxy.explain(base, error, "no answer")) from error
    except requests.exceptions.RequestException as error:
        words = f"GOCDB cannot be reached: {causes.of_connection(error)}"
        raise Unavailable(host, words, "check the network and --gocdb-url") from error
    if answer.status_code != _OK:
        raise Unavailable(host, f"GOCDB answers {answer.status_code}", _REMEDY)
    return answer.content
