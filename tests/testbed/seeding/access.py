"""The doors that seeding goes through: the administrator's, and those of the projects' users."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tests.testbed import secrets
from tests.testbed.api import Api, password_auth
from tests.testbed.layout import Layout


@dataclass(slots=True)
class Access:
    """Logs in when a door is used for the first time."""

    layout: Layout
    ca_file: Path
    admin: Api
    _doors: dict[str, Api] = field(default_factory=dict)

    def password(self, name: str) -> str:
        """Return the password of a user or account."""
        return secrets.password(self.layout.secrets, f"user-{name}")

    def door(self, user: str, *, domain: str, project_id: str) -> Api:
        """Return the door of a user, scoped to a project."""
        key = f"{user} {project_id}"
        if key not in self._doors:
            auth = password_auth(
                self.layout.url("keystone"),
                user,
                self.password(user),
                domain=domain,
                project_id=project_id,
            )
            self._doors[key] = Api(auth, ca_file=self.ca_file)
        return self._doors[key]
