"""The hop at which a login failed, and the remedy: the issuer, the federation, or Keystone.

A federated login (OpenID Connect) asks the issuer for its discovery document and an access token,
then exchanges that at Keystone's federation for a token. Each hop has its own operators and its
own failures, so an error names the hop, its host, and the option that leads there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from keystoneauth1 import exceptions

from appliance.core import hosts
from appliance.core.cloud.login import Access
from appliance.core.run.errors import AccessDenied, ApplianceError, Unavailable

if TYPE_CHECKING:
    import requests

ISSUER, FEDERATION, KEYSTONE = "the issuer of access tokens", "Keystone's federation", "Keystone"
_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND = 401, 403, 404
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_DETAIL = 160
"""Characters of an issuer's message that ours quotes."""
_NEXT_RUN = "nothing is lost, the next run continues from here"


class LoginFailure(ApplianceError):
    """The account could not log in, which fails the run and not one project."""


class LoginUnavailable(Unavailable, LoginFailure):
    """A hop of the login did not answer, or not as it must."""


class LoginDenied(AccessDenied, LoginFailure):
    """A hop of the login refused the account."""


@dataclass(frozen=True, slots=True)
class Step:
    """A request of a login; ``response`` is None if there was no answer."""

    url: str
    response: requests.Response | None


_trail: ContextVar[list[Step] | None] = ContextVar("_trail", default=None)


@contextlib.contextmanager
def trail() -> Iterator[list[Step]]:
    """Collect the steps of a login that this thread makes in the block."""
    steps: list[Step] = []
    token = _trail.set(steps)
    try:
        yield steps
    finally:
        _trail.reset(token)


def note(url: str, response: requests.Response | None) -> None:
    """Add a step to the login that this thread makes, if there is one."""
    if (steps := _trail.get()) is not None:
        steps.append(Step(url, response))


def is_secret_bearer(url: str, method: str, access: Access) -> bool:
    """Check whether a request carries a secret that a redirection must not send elsewhere."""
    return _trail.get() is not None and method == "POST" and _hop(access, url) != KEYSTONE


def explain(access: Access, steps: list[Step], error: Exception) -> LoginFailure:
    """Return the failure of a login whose requests were ``steps``."""
    last = steps[-1] if steps else Step(access.auth_url, None)
    hop = _hop(access, last.url)
    if isinstance(error, ApplianceError):
        return _at_hop(access, hop, error, last)
    if hop == FEDERATION:
        return _federation(access, last)
    if hop == ISSUER:
        return _issuer(access, last, error)
    return _keystone(access, last, error)


def _hop(access: Access, url: str) -> str:
    if not access.is_federated:
        return KEYSTONE
    if "/OS-FEDERATION/" in url and url.startswith(access.auth_url):
        return FEDERATION
    return KEYSTONE if url.startswith(f"{access.auth_url}/auth/") else ISSUER


def _at_hop(access: Access, hop: str, error: ApplianceError, last: Step) -> LoginFailure:
    """Add the hop to the failure of a host that cannot be reached or stays busy."""
    kind = LoginDenied if isinstance(error, AccessDenied) else LoginUnavailable
    if hop == KEYSTONE:
        return kind(error.subject, error.cause, error.remedy)
    remedy = error.remedy
    if last.response is not None:  # it answered: it is busy
        remedy = f"ask its operators if it lasts; {_NEXT_RUN}"
    elif remedy.startswith("check the URL"):
        remedy = f"check {_option_of(access, hop, last.url)}, the network and the service"
    return kind(error.subject, f"{hop}: {error.cause}", remedy)


def _option_of(access: Access, hop: str, url: str) -> str:
    if hop != ISSUER:
        return access.place("auth_url")
    is_token = access.options.get("access_token_endpoint") == url
    return access.place("access_token_endpoint" if is_token else "discovery_endpoint")


# ------------------------------------------------------------------------------------------------
# issuer


def _issuer(access: Access, last: Step, error: Exception) -> LoginFailure:
    if last.url == access.options.get("discovery_endpoint"):
        return _discovery(access, last, error)
    subject, status = hosts.of_url(last.url), _status(last.response)
    if status in _REDIRECTS:
        return LoginUnavailable(
            subject,
            f"{ISSUER} redirects a request for an access token to {_target(last.response)}",
            f"correct {_token_option(access)}",
        )
    if status >= _BAD_REQUEST:
        return _refusal(access, subject, status, _json(last.response))
    return _no_token(access, subject, _json(last.response))


_BAD_REQUEST = 400


def _discovery(access: Access, last: Step, error: Exception) -> LoginFailure:
    subject, place = hosts.of_url(last.url), access.place("discovery_endpoint")
    found, status = _json(last.response), _status(last.response)
    if isinstance(error, exceptions.OidcPluginNotSupported):
        return LoginDenied(
            subject,
            f"{ISSUER} does not offer logins by {access.auth_type.removeprefix('v3oidc')}",
            f"choose another auth_type, or ask its operators; {place} names it",
        )
    if status >= _BAD_REQUEST:
        cause = f"{ISSUER} answers {status} where its discovery document should be"
    elif isinstance(found, dict) and found:
        cause = f"{ISSUER} names no token endpoint in its discovery document"
    else:
        cause = f"{ISSUER} answers with something else than a discovery document"
    remedy = f"correct {place}: the issuer's URL and /.well-known/openid-configuration"
    return LoginUnavailable(subject, cause, remedy)


def _token_option(access: Access) -> str:
    if "access_token_endpoint" in access.options:
        return access.place("access_token_endpoint")
    return f"the token endpoint that {access.place('discovery_endpoint')} leads to"


def _refusal(access: Access, subject: str, status: int, answer: Any) -> LoginFailure:
    """Explain an answer of the token endpoint by its error code (RFC 6749, 5.2)."""
    answer = answer if isinstance(answer, dict) else {}
    code, words = (str(answer.get(name) or "") for name in ("error", "error_description"))
    detail = " ".join(f"{code}: {words}".strip(": ").split())[:_DETAIL]
    who = f"the client {access.options.get('client_id', '')!r}"
    cause = f"{ISSUER} refuses {who}: it answers {status}"
    cause = f"{cause}, {detail}" if detail else cause
    if code == "invalid_scope":
        return LoginDenied(
            subject, cause, f"correct {access.place('scope')}, or have the scope allowed"
        )
    if code == "invalid_grant" and "username" in access.options:
        return LoginDenied(subject, cause, f"correct {access.place('username')} and password")
    if code in ("unauthorized_client", "unsupported_grant_type", "access_denied"):
        grant = access.auth_type.removeprefix("v3oidc")
        return LoginDenied(subject, cause, f"have its operators allow {who} to log in by {grant}")
    if code == "invalid_client" or status in (_UNAUTHORIZED, _FORBIDDEN):
        return LoginDenied(subject, cause, f"correct {access.place('client_id')} and client_secret")
    # 405: a path of the issuer that does not take POST, so not its token endpoint.
    if status in (_NOT_FOUND, 405):
        cause = f"{ISSUER} answers {status} to a request for an access token"
        return LoginUnavailable(subject, cause, f"correct {_token_option(access)}")
    remedy = f"compare {access.place('client_id')} with the client that the issuer has registered"
    return LoginUnavailable(subject, cause, remedy)


def _no_token(access: Access, subject: str, answer: Any) -> LoginFailure:
    wanted = access.options.get("access_token_type", "access_token")
    if not isinstance(answer, dict):
        cause = f"{ISSUER} answers with something else than a token"
        return LoginUnavailable(subject, cause, f"correct {_token_option(access)}")
    others = [name for name in ("access_token", "id_token") if name in answer and name != wanted]
    remedy = "have its operators give this client access tokens"
    if others:
        place = access.place("access_token_type")
        remedy = f"set {place} to {others[0]} if Keystone accepts that, or {remedy}"
    cause = f"{ISSUER} gives no {wanted}" + (f", only {others[0]}" if others else "")
    return LoginUnavailable(subject, cause, remedy)


# --------------------------------------------------------------------------------------------
# federation


def _federation(access: Access, last: Step) -> LoginFailure:
    """Explain why Keystone gives no token for an access token."""
    subject, status = hosts.of_url(last.url), _status(last.response)
    provider, protocol = (
        access.options.get(name, "") for name in ("identity_provider", "protocol")
    )
    if status == _NOT_FOUND:
        return LoginUnavailable(
            subject,
            f"{FEDERATION} knows no identity provider {provider!r} with protocol {protocol!r}",
            f"correct {access.place('identity_provider')} and {access.place('protocol')};"
            f" openstack federation protocol list --identity-provider {provider}",
        )
    if status == _UNAUTHORIZED and not _is_keystones(last.response):
        return LoginDenied(
            subject,
            f"{FEDERATION} does not accept the access token",
            f"have Keystone's web server accept tokens of the issuer for {provider!r} and compare"
            f" audience and scope ({access.place('scope')})",
        )
    if status == _UNAUTHORIZED:
        return LoginDenied(
            subject,
            f"the mapping of the identity provider {provider!r} matches no claim of this account",
            f"openstack federation protocol show --identity-provider {provider} {protocol} names"
            " the mapping; add a rule for this client, or check that its access token is valid",
        )
    if status == _FORBIDDEN:
        return LoginDenied(
            subject,
            f"{FEDERATION} does not accept this issuer for the identity provider {provider!r}",
            f"openstack identity provider set --remote-id ISSUER_URL {provider}",
        )
    if status >= _BAD_REQUEST:
        cause = f"{FEDERATION} answers {status} to an access token"
        return LoginUnavailable(subject, cause, "check the logs of Keystone and its web server")
    is_moved = status in _REDIRECTS
    found = f"redirects to {_target(last.response)}" if is_moved else "answers with a page"
    return LoginUnavailable(
        subject,
        f"{FEDERATION} {found} instead of accepting the access token: it expects a person at a"
        " browser",
        "have Keystone's web server accept access tokens at this path (mod_auth_openidc: AuthType"
        f" oauth20 or auth-openidc), or correct {access.place('protocol')}",
    )


# ----------------------------------------------------------------------------------------------
# Keystone


def _keystone(access: Access, last: Step, error: Exception) -> LoginFailure:
    subject, name = hosts.of_url(access.auth_url), repr(access.account)
    status = error.http_status if isinstance(error, exceptions.HttpError) else 0
    if access.is_application_credential and status == _NOT_FOUND and _is_keystones(last.response):
        cause = f"knows no application credential {name}: it or its user was deleted"
        return LoginDenied(subject, cause, access.renewal())
    if access.is_application_credential and status == _UNAUTHORIZED:
        cause = f"refuses the application credential {name}: it has expired or its secret is wrong"
        return LoginDenied(subject, cause, access.renewal())
    if isinstance(error, exceptions.Unauthorized):
        cause = f"refuses the account {name}: wrong name, domain or password"
        where = access.places.get("password")
        remedy = f"the account at {where}" if where else f"[{access.section}]"
        return LoginDenied(subject, cause, f"correct {remedy}")
    cause = "answers, but is not a Keystone"
    if status:
        cause = f"answers {status} to a request for a token"
    elif isinstance(error, exceptions.ClientException) and not isinstance(
        error, exceptions.InvalidResponse
    ):
        return LoginUnavailable(subject, f"no token: {error}", f"check [{access.section}]")
    return LoginUnavailable(subject, cause, f"check {access.place('auth_url')}; it ends in /v3")


# -----------------------------------------------------------------------------------------------
# answers


def _status(response: requests.Response | None) -> int:
    return response.status_code if response is not None else 0


def _json(response: requests.Response | None) -> Any:
    try:
        return response.json() if response is not None else None
    except ValueError:
        return None


def _is_keystones(response: requests.Response | None) -> bool:
    """Check whether Keystone itself refused, and not the web server before it."""
    # mod_auth_openidc answers with a Bearer challenge (RFC 6750, 3) before Keystone is reached.
    if response is None or "bearer" in response.headers.get("WWW-Authenticate", "").lower():
        return False
    answer = _json(response)
    return isinstance(answer, dict) and isinstance(answer.get("error"), dict)


def _target(response: requests.Response | None) -> str:
    """Return the host that an answer redirects to; the rest of the URL may hold secrets."""
    location = urlsplit(response.headers.get("Location", "") if response is not None else "")
    return location.hostname or "another path"
