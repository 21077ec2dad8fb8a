"""caso-extract with a federated account at a real Keystone.

Its web server, which takes access tokens, and the issuer are simulated.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.caso_site import CasoSite, lines
from tests.simulators import federation_gate
from tests.simulators import issuer as issuers
from tests.simulators.issuer import DISCOVERY, TOKEN, Issuer
from tests.simulators.openstack import Answer
from tests.testbed import Testbed
from tests.testbed.api import KEYSTONE

pytestmark = pytest.mark.cloud
PROVIDER = "/OS-FEDERATION/identity_providers/egi-test"
MAPPING = "/OS-FEDERATION/mappings/egi-test"


def rules(group: str, claim: str = "accounting-client") -> dict[str, Any]:
    """Return a mapping that puts one client into a group."""
    remote = [{"type": "HTTP_OIDC_SUB"}, {"type": "HTTP_OIDC_SUB", "any_one_of": [claim]}]
    local = [{"user": {"name": "{0}"}, "group": {"id": group}}]
    return {"mapping": {"rules": [{"local": local, "remote": remote}]}}


@pytest.fixture(scope="module")
def group(testbed: Testbed) -> Iterator[str]:
    """Return the group of federated accounts, with the role reader in the tagged projects."""
    admin = testbed.admin()
    wanted = {"group": {"name": "egi-test", "domain_id": "default"}}
    made = str(admin.post(KEYSTONE, "/groups", wanted)["group"]["id"])
    roles = {role["name"]: role["id"] for role in admin.get(KEYSTONE, "/roles")["roles"]}
    for project in testbed.seed().projects.values():
        if "caso" in project.tags:
            admin.put(KEYSTONE, f"/projects/{project.id}/groups/{made}/roles/{roles['reader']}")
    admin.put(KEYSTONE, PROVIDER, {"identity_provider": {"enabled": True}})
    admin.put(KEYSTONE, MAPPING, rules(made))
    protocol = {"protocol": {"mapping_id": "egi-test"}}
    admin.put(KEYSTONE, f"{PROVIDER}/protocols/mapped", protocol)
    yield made
    admin.call("DELETE", KEYSTONE, PROVIDER)
    admin.call("DELETE", KEYSTONE, MAPPING)
    admin.call("DELETE", KEYSTONE, f"/groups/{made}")


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with issuers.serving(Issuer()) as served:
        yield served


@pytest.fixture
def site(testbed: Testbed, group: str, issuer: Issuer, tmp_path: Path) -> Iterator[CasoSite]:
    assert group
    made = CasoSite(tmp_path / "site", testbed)
    with federation_gate.serving(issuer, testbed.keystone_url, testbed.ca_file) as gate:
        made.login = {
            "auth_type": "v3oidcclientcredentials",
            "auth_url": gate.url,
            "identity_provider": "egi-test",
            "protocol": "mapped",
            "client_id": issuer.client_id,
            "client_secret": issuer.secret,
            "discovery_endpoint": issuer.discovery,
            "cafile": testbed.ca_file,
        }
        made.write()
        yield made


def test_a_federated_account_counts_what_a_password_counts(
    site: CasoSite, testbed: Testbed, issuer: Issuer, tmp_path: Path
) -> None:
    """F-L1: one login at the issuer; real Keystone rescopes its token for each project."""
    until = (datetime.now(UTC) - timedelta(seconds=2)).isoformat(timespec="seconds")
    site.run("caso-extract", "--extract-to", until)
    assert issuer.requests == {DISCOVERY: 1, TOKEN: 1}
    other = CasoSite(tmp_path / "other", testbed)
    other.run("caso-extract", "--extract-to", until)

    def counted(records: list[dict[str, str]]) -> set[tuple[str, str]]:
        return {(record["VMUUID"], record["WallDuration"]) for record in records}

    assert counted(site.records()) == counted(other.records())
    assert site.records()


def test_faults_of_a_federation_at_a_real_keystone(
    site: CasoSite, testbed: Testbed, group: str, issuer: Issuer
) -> None:
    """F-L3: Keystone's own answers are distinguished."""
    admin = testbed.admin()
    host = str(site.login["auth_url"]).split("/")[2]
    admin.call("PATCH", KEYSTONE, MAPPING, rules(group, claim="somebody-else"))
    try:
        [line] = lines(site.run("caso-extract", expect=3))
        assert line.startswith(
            f"caso-extract: {host}: the mapping of the identity provider 'egi-test' matches no "
            "claim of this"
        )
    finally:
        admin.call("PATCH", KEYSTONE, MAPPING, rules(group))
    site.login["identity_provider"] = "egi-none"
    site.write()
    [line] = lines(site.run("caso-extract", expect=3))
    assert (
        "knows no identity provider 'egi-none' with protocol 'mapped'; correct identity_pro" in line
    )
    site.login["identity_provider"] = "egi-test"
    site.write()
    issuer.fault = lambda path: Answer(body={"access_token": "x"}) if path == TOKEN else None
    [line] = lines(site.run("caso-extract", expect=3))
    assert f"{host}: Keystone's federation does not accept the access token" in line
