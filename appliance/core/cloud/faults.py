"""A failure of the cloud as a finding: its row in the table of faults, and the line behind it.

The row follows from the words of the failure, because these are what an administrator reads: a
message and its row never contradict each other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from appliance.core import hosts
from appliance.core.cloud.login import Access
from appliance.core.cloud.session import Scope
from appliance.core.config.settings import note_endpoint, note_roles
from appliance.core.run.errors import ApplianceError
from appliance.core.run.finding import Finding, place

_PROMPT = timedelta(seconds=8)
"""The longest wait for an answer in a check: a service that works answers within a second."""
_SECRETS = ("application_credential_secret", "password", "client_secret", "auth_type")
_ACCOUNT = (
    *("username", "user_id", "application_credential_id", "client_id"),
    *("password", "auth_type"),
)
_RULES: Sequence[tuple[str, str, Sequence[str]]] = (
    ("C30.d", r"application credential", _SECRETS),
    ("C30.a", r"refuses the (account|client)|gives the account .* no new token", _SECRETS),
    ("C30.a", r"no claim of this account|does not accept", ("identity_provider",)),
    ("C30", r"is not a Keystone|to a request for a token|identity provider", ("auth_url",)),
    ("C36.b", r"TLS certificate is not trusted|does not speak TLS|on plain HTTP", ("auth_url",)),
    ("C36.c", r"its catalog has no .* in region", ("region_name",)),
    ("C36", r"its catalog has no|the catalog: has no", ("interface", "auth_url")),
    ("C23.b", r"no project is called|projects have (this|the) name", ("projects",)),
    ("C31.a", r"sees no (such )?project|no token for it|has no role in it", ("projects",)),
    ("C31", r"is disabled|belongs to project", ("projects",)),
    ("C23.d", r"no VO is known", ("mapping_file",)),
    ("C23.c", r"name different VOs", ("mapping_file",)),
    ("C36.a", r"cannot be reached|still answers|did not end", ()),
)
"""Row, words of the failure, and the options behind it: the first that is set counts."""


def prompt(access: Access) -> Access:
    """Return the account with one attempt and a short wait for each request."""
    return replace(access, attempts=1, timeout=min(access.timeout, _PROMPT))


def finding(
    error: ApplianceError, access: Access, *, tried: str, otherwise: str = "C36"
) -> Finding:
    """Return the finding for a failure; ``otherwise`` is the row of one without a rule."""
    return of_text(" ".join(str(error).split()), access, tried=tried, otherwise=otherwise)


def of_text(
    text: str, access: Access, *, tried: str, otherwise: str, is_error: bool = True
) -> Finding:
    """Return the finding for the words of a failure."""
    row, options = next(
        ((row, options) for row, pattern, options in _RULES if re.search(pattern, text)),
        (otherwise, _ACCOUNT),
    )
    if row == "C36.a":  # Keystone's own URL, or one that its catalog names
        is_keystone = text.startswith(hosts.of_url(access.auth_url))
        options = ("auth_url",) if is_keystone else ("interface", "region_name", "auth_url")
    option = next((name for name in options if name in access.places), "")
    path, line = place(access.places.get(option, ""))
    if not path:  # the message may name the line itself
        path, line = place(text)
    return Finding(path, line, option, text, row, is_error=is_error, tried=tried)


def note_scope(scope: Scope) -> None:
    """Note the endpoints that an account uses in a project, and its roles there."""
    note_roles(scope.project_id or "", scope.roles)
    for service, url in scope.catalog().items():
        note_endpoint(service, url)
