"""The end of an application credential, as Keystone reports it to the credential itself."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from keystoneauth1 import exceptions

from appliance.core import clock, hosts
from appliance.core.cloud.login import Access
from appliance.core.run.errors import ApplianceError

if TYPE_CHECKING:
    from keystoneauth1.identity.base import BaseIdentityPlugin

    from appliance.core.cloud.transport import Transport

logger = logging.getLogger(__name__)

_SOON = timedelta(days=30)
_UNKNOWN = (
    ApplianceError,
    exceptions.ClientException,
    AttributeError,
    KeyError,
    TypeError,
    ValueError,
)


def warn(plugin: BaseIdentityPlugin, access: Access, transport: Transport) -> None:
    """Warn when the credential that ``plugin`` logged in with ends within 30 days.

    If Keystone does not report the end, there is no warning.
    """
    try:
        ends = _end(plugin, access, transport)
    except _UNKNOWN as error:
        logger.debug("the end of the application credential is not known: %s", error)
        return
    transport.credential_ends = ends
    if ends is not None and ends - clock.now() < _SOON:
        transport.warn_once(
            f"{hosts.of_url(access.auth_url)}: the application credential {access.account!r} ends"
            f" on {ends:%Y-%m-%d %H:%MZ}; {access.renewal()}"
        )


def _end(plugin: BaseIdentityPlugin, access: Access, transport: Transport) -> datetime | None:
    """Return when the credential ends, None for never."""
    token = plugin.get_access(transport)
    number = token.application_credential_id  # type: ignore[attr-defined]
    url = f"{access.auth_url}/users/{token.user_id}/application_credentials/{number}"
    expires = transport.get(url, auth=plugin).json()["application_credential"]["expires_at"]
    return datetime.fromisoformat(expires).replace(tzinfo=UTC) if expires else None
