"""One account's door to the cloud: its token, the catalog, JSON in and out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keystoneauth1 import exceptions, session
from keystoneauth1.identity import v3

from appliance.core.run.errors import Unavailable
from tests.testbed.configuration import REGION

NOVA = "compute"
GLANCE = "image"
NEUTRON = "network"
CINDER = "block-storage"
KEYSTONE = "identity"

Json = dict[str, Any]
_TIMEOUT_SECONDS = 600
"""For one answer: a bound for what hangs, not a measure of the machine."""


class Api:
    """Requests in the name of one account; safe for several threads."""

    def __init__(self, auth: v3.Auth, *, ca_file: Path) -> None:
        self.session = session.Session(auth=auth, verify=str(ca_file), timeout=_TIMEOUT_SECONDS)

    @property
    def user_id(self) -> str:
        """The account's own id."""
        return str(self.session.get_user_id())

    @property
    def project_id(self) -> str:
        """The project that it is scoped to."""
        return str(self.session.get_project_id())

    def call(
        self,
        method: str,
        service: str,
        path: str,
        body: Json | bytes | None = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> Json:
        """Send a request below the service's URL; return the answer, ``{}`` without a body.

        :raises ApiError: the answer is an error
        """
        content: Json = {"json": body} if isinstance(body, dict) else {"data": body}
        if isinstance(body, bytes):
            headers = {"Content-Type": "application/octet-stream"} | dict(headers or {})
        where = {"service_type": service, "interface": "public", "region_name": REGION}
        try:
            # A server may close an idle connection just as the next request is sent on it: it has
            # heard nothing then.
            answer = self.session.request(
                path,
                method,
                endpoint_filter=where,
                headers=dict(headers or {}),
                connect_retries=1,
                **content,
            )
        except exceptions.HttpError as error:
            raise ApiError(method, service, path, error.http_status, str(error.message)) from error
        except exceptions.ClientException as error:
            raise Unavailable(service, f"{method} {path}: {error}") from error
        return dict(answer.json()) if answer.content else {}

    def get(self, service: str, path: str) -> Json:
        """Read."""
        return self.call("GET", service, path)

    def post(self, service: str, path: str, body: Json) -> Json:
        """Create, or act on what the path names."""
        return self.call("POST", service, path, body)

    def put(self, service: str, path: str, body: Json | bytes | None = None) -> Json:
        """Replace or assign."""
        return self.call("PUT", service, path, body)


class ApiError(Unavailable):
    """An answer with an error status."""

    def __init__(self, method: str, service: str, path: str, status: int, message: str) -> None:
        super().__init__(service, f"{method} {path} answered {status}: {message}")
        self.status_code = status


def password_auth(
    url: str,
    user: str,
    password: str,
    *,
    domain: str = "Default",
    project_id: str | None = None,
    system: bool = False,
) -> v3.Auth:
    """Return a password login, scoped to a project, to the system, or unscoped."""
    scope: Json = (
        {"system_scope": "all"}
        if system
        else {"project_id": project_id}
        if project_id
        else {"unscoped": True}
    )
    return v3.Password(url, username=user, password=password, user_domain_name=domain, **scope)


def application_credential_auth(url: str, id_: str, secret: str) -> v3.Auth:
    """Return the means to log in with an application credential, which has a scope of its own."""
    return v3.ApplicationCredential(
        url, application_credential_id=id_, application_credential_secret=secret
    )


def admin_auth(url: str, password: str) -> v3.Auth:
    """Return the login of the cloud's administrator, which only the test bed uses."""
    return v3.Password(
        url,
        username="admin",
        password=password,
        user_domain_name="Default",
        project_name="admin",
        project_domain_name="Default",
    )
