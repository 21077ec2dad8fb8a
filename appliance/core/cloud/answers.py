"""Answers of OpenStack's services: a successful one, or a failure in one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from appliance.core import hosts
from appliance.core.run.errors import CHECK_LOGS, AccessDenied, Unavailable

if TYPE_CHECKING:
    import requests

    from appliance.core.cloud.session import Scope

FORBIDDEN, NOT_FOUND = 403, 404
_REFUSED = (401, FORBIDDEN)


def accepted(
    response: requests.Response, *, service: str, what: str, scope: Scope
) -> requests.Response:
    """Return a successful answer to a listing; ``what`` is like ``servers``, for messages.

    Raises:
        AccessDenied: the service refuses the account; the remedy grants it a role in the project.
        Unavailable: the service answers with another error.

    """
    if response.status_code in _REFUSED:
        raise AccessDenied(
            hosts.of_url(response.url),
            f"{service} does not let the account list the {what} of project {scope.project_id}",
            scope.access.grant(f"--project {scope.project_id}"),
        )
    if not response.ok:
        raise unexpected(response, service=service, purpose=f"a listing of {what}")
    return response


def body(response: requests.Response, key: str, *, service: str, purpose: str) -> dict[str, Any]:
    """Return the object that an answer holds under ``key``; ``purpose`` is for messages.

    Raises:
        Unavailable: it holds something else, like the page of a proxy.

    """
    found = whole(response, service=service, purpose=purpose).get(key)
    if not isinstance(found, Mapping):
        raise unexpected(response, service=service, purpose=purpose)
    return dict(found)


def whole(response: requests.Response, *, service: str, purpose: str) -> dict[str, Any]:
    """Return the object that a successful answer is; ``purpose`` is for messages.

    Raises:
        Unavailable: it is something else, like the page of a proxy, or an error.

    """
    try:
        found = response.json() if response.ok else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise unexpected(response, service=service, purpose=purpose)
    return found


def unexpected(response: requests.Response, *, service: str, purpose: str) -> Unavailable:
    """Return the error for an answer of another form, or with an error status."""
    said = " ".join(response.text.split())[:120]
    words = f"{service} answers {response.status_code} to {purpose}: {said}"
    return Unavailable(hosts.of_url(response.url), words, CHECK_LOGS)
