"""The few commands of the ``openstack`` client that the appliance prints, as Keystone's own calls.

The client itself is in no environment of the tests. Words are read as the client reads them, and an
unknown one fails.
"""

from __future__ import annotations

import argparse
import shlex
from dataclasses import dataclass

from tests.testbed.api import KEYSTONE, Api


@dataclass(frozen=True, slots=True)
class OpenstackClient:
    """The client with an administrator's login."""

    admin: Api
    passwords: dict[str, str]
    """What is typed at the prompt, by user."""

    def type(self, line: str) -> None:
        """Run a command."""
        program, noun, verb, *rest = shlex.split(line)
        assert program == "openstack", line
        if (noun, verb) == ("user", "create"):
            self._create(rest)
        else:
            assert noun == "role", line
            self._change_role({"add": "PUT", "remove": "DELETE"}[verb], rest)

    def _create(self, words: list[str]) -> None:
        parser = argparse.ArgumentParser(exit_on_error=False)
        parser.add_argument("--domain", required=True)
        parser.add_argument("--password-prompt", action="store_true", required=True)
        parser.add_argument("name")
        given = parser.parse_args(words)
        domain = self._find("domain", given.domain)
        user = {"name": given.name, "domain_id": domain, "password": self.passwords[given.name]}
        self.admin.post(KEYSTONE, "/users", {"user": user})

    def _change_role(self, method: str, words: list[str]) -> None:
        parser = argparse.ArgumentParser(exit_on_error=False)
        parser.add_argument("--user", required=True)
        parser.add_argument("--user-domain")
        where = parser.add_mutually_exclusive_group(required=True)
        where.add_argument("--project")
        where.add_argument("--system", choices=["all"])
        parser.add_argument("role")
        given = parser.parse_args(words)
        domain = given.user_domain and self._find("domain", given.user_domain)
        user = self._find("user", given.user, domain=domain)
        role = self._find("role", given.role)
        place = "/system"
        if given.project:
            place = f"/projects/{self._find('project', given.project)}"
        self.admin.call(method, KEYSTONE, f"{place}/users/{user}/roles/{role}")

    def _find(self, kind: str, wanted: str, *, domain: str | None = None) -> str:
        """Return the id of the one thing that has an id or a name."""
        query = f"?domain_id={domain}" if domain else ""
        listed = self.admin.get(KEYSTONE, f"/{kind}s{query}")[f"{kind}s"]
        by_id = [one["id"] for one in listed if one["id"] == wanted]
        by_name = [one["id"] for one in listed if one["name"] == wanted]
        (found,) = by_id or by_name
        return str(found)
