"""Access tokens for a refresh token (RFC 6749, 6), as EGI Check-in gives them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from appliance.core import causes, hosts, proxy
from appliance.core.cloud.hops import ISSUER, LoginDenied, LoginFailure, LoginUnavailable
from appliance.core.cloud.login import Access
from appliance.core.run import log, place
from cloud_info_provider.account import TokenRefresh

if TYPE_CHECKING:
    import requests
    from requests.auth import AuthBase

_LARGEST = 2**20
_DETAIL = 160
"""Characters of an issuer's message that ours quotes."""


def access_token(refresh: TokenRefresh, access: Access) -> str:
    """Return a new access token; raises `LoginFailure` with the hop that failed."""
    answer = _ask(refresh, access)
    try:
        found: Any = answer.json()
    except ValueError:
        found = None
    if answer.ok and isinstance(found, dict) and isinstance(found.get("access_token"), str):
        log.hide(str(found.get("refresh_token") or ""))
        return str(found["access_token"])
    raise _refusal(refresh, answer, found)


def _ask(refresh: TokenRefresh, access: Access) -> requests.Response:
    import requests  # noqa: PLC0415  start-up is a cost

    from appliance.core.cloud.bounded import BoundedSession  # noqa: PLC0415

    form = {
        "grant_type": "refresh_token",
        "refresh_token": refresh.refresh_token,
        "client_id": refresh.client_id,
        "scope": refresh.scopes,
    }
    secret = refresh.client_secret
    host = hosts.of_url(refresh.endpoint)
    where = refresh.places["token_endpoint"]
    try:
        with BoundedSession(longest=access.timeout, largest=_LARGEST) as session:
            session.trust_env = True
            return session.post(
                refresh.endpoint,
                data=form,
                auth=_basic(refresh) if secret else _no_auth,
                timeout=access.timeout.total_seconds(),
                verify=access.verify,
                allow_redirects=False,  # the token must not follow
            )
    except requests.exceptions.ProxyError as error:
        raise LoginUnavailable(
            host, *proxy.explain(refresh.endpoint, error, "no answer")
        ) from error
    except requests.exceptions.SSLError as error:
        remedy = place.trust_remedy(f"set {access.trust_option} to the authority that issued it")
        raise LoginUnavailable(host, f"{ISSUER}: its TLS certificate is not trusted", remedy) from (
            error
        )
    except requests.exceptions.RequestException as error:
        words = f"{ISSUER} cannot be reached: {causes.of_connection(error)}"
        raise LoginUnavailable(host, words, f"check {where} and the network") from error


def _basic(refresh: TokenRefresh) -> AuthBase:
    """Return the client's account; from texts, requests could only make Latin-1."""
    from requests.auth import HTTPBasicAuth  # noqa: PLC0415  start-up is a cost

    return HTTPBasicAuth(refresh.client_id.encode(), refresh.client_secret.encode())


def _no_auth(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Send no account; requests would else take one from ~/.netrc."""
    return request


def _refusal(refresh: TokenRefresh, answer: requests.Response, found: Any) -> LoginFailure:
    host, status, places = hosts.of_url(refresh.endpoint), answer.status_code, refresh.places
    error = found if isinstance(found, dict) else {}
    code, words = (str(error.get(name) or "") for name in ("error", "error_description"))
    detail = " ".join(f"{code}: {words}".strip(": ").split())[:_DETAIL]
    cause = f"{ISSUER} answers {status} to a refresh token" + (f", {detail}" if detail else "")
    if code == "invalid_grant":
        remedy = f"it has ended or was revoked: write a new one to {places['refresh_token']}"
        return LoginDenied(host, cause, remedy)
    if code == "invalid_client" or status in (401, 403):
        remedy = f"correct {places['client_id']} and {places['client_secret']}"
        return LoginDenied(host, cause, remedy)
    if code == "invalid_scope":
        return LoginDenied(host, cause, f"correct {places['scopes']}")
    return LoginUnavailable(host, cause, f"correct {places['token_endpoint']}")
