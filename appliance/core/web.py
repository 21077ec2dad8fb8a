"""Requests to services of the web other than OpenStack's, bounded in size and time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.core import causes, hosts, proxy
from appliance.core.run import place
from appliance.core.run.errors import CHECK_LOGS, Unavailable

if TYPE_CHECKING:
    import requests


@dataclass(frozen=True, slots=True)
class WebAddress:
    """A server: its URL, and how it is verified. ``authorities`` is a file; None: the system's."""

    url: str
    authorities: Path | None
    timeout: timedelta
    trust: str = "add the authority that issued it to those of the system"
    """What to do where its certificate is not trusted."""


def send(
    server: WebAddress,
    method: str,
    url: str,
    *,
    headers: Mapping[str, str],
    content: bytes | None,
    largest: int,
) -> requests.Response:
    """Send a request and return the answer, of at most ``largest`` bytes. No redirect is followed.

    Raises:
        Unavailable: there is no answer.

    """
    import requests  # noqa: PLC0415  start-up is a cost

    from appliance.core.cloud.bounded import BoundedSession  # noqa: PLC0415

    host = hosts.of_url(url)
    try:
        with BoundedSession(largest=largest) as session:
            # Neither ~/.netrc nor a redirect chooses who gets the password.
            session.auth = _no_auth
            return session.request(
                method,
                url,
                headers=dict(headers),
                data=content,
                timeout=server.timeout.total_seconds(),
                verify=str(server.authorities) if server.authorities else True,
                allow_redirects=False,
            )
    except requests.exceptions.ProxyError as error:
        raise Unavailable(host, *proxy.explain(url, error, "no answer")) from error
    except requests.exceptions.SSLError as error:
        remedy = place.trust_remedy(server.trust)
        raise Unavailable(
            host, f"its TLS certificate is not trusted: {causes.of_connection(error)}", remedy
        ) from error
    except requests.exceptions.Timeout as error:
        words = f"does not answer within {server.timeout.total_seconds():g} s"
        raise Unavailable(host, words, CHECK_LOGS) from error
    except requests.exceptions.RequestException as error:
        words = f"cannot be reached: {causes.of_connection(error)}"
        raise Unavailable(host, words, "check the URL, the network and the service") from error


def _no_auth(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request
