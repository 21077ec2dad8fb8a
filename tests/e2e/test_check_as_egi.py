"""C71 and C73 on a real cloud: `caso-extract --check-live --as-egi cloud`."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.core.run.finding import Finding, of_json
from tests.e2e.caso_site import PROGRAMS, CasoSite
from tests.testbed import Testbed
from tests.testbed.api import GLANCE, KEYSTONE, NOVA, Api

pytestmark = [pytest.mark.cloud, pytest.mark.matrix, pytest.mark.timeout(900)]

REF = "egi_vm_images/ubuntu:24.04"
VOS = {"vo-fedcloud": "fedcloud.egi.eu", "vo-ops": "ops", "vo-biomed": "biomed"}


@pytest.fixture
def site(testbed: Testbed, tmp_path: Path) -> CasoSite:
    return CasoSite(tmp_path / "site", testbed)


def check(site: CasoSite, *flags: str) -> tuple[list[str], list[str]]:
    """Return the ids of EGI's faults, and the notes."""
    command = [str(PROGRAMS / "caso-extract"), *site.command("caso-extract")[1:]]
    words = ["--check-live", "--log-json", "--as-egi", "cloud", "--egi-image", REF, *flags]
    shown = subprocess.run(
        [*command, *words], capture_output=True, text=True, timeout=400, check=False
    )
    assert "Traceback" not in shown.stderr
    lines = [json.loads(line) for line in shown.stderr.splitlines() if line.startswith("{")]
    found: list[Finding] = [of_json(line["finding"]) for line in lines if "finding" in line]
    values = [line["value"] for line in lines if "value" in line]
    notes = [one["text"] for one in values if one["section"] == "note"]
    return [f"{one.identifier} {one.text}" for one in found if one.family >= "C70"], notes


def servers(admin: Api, project: str) -> list[str]:
    listed = admin.get(NOVA, f"/servers/detail?all_tenants=1&project_id={project}")["servers"]
    return [one["name"] for one in listed if one["name"].startswith("fedcloud-check")]


@contextlib.contextmanager
def image(admin: Api) -> Iterator[None]:
    """Make a public image with the annotation that atrope and cloudkeeper write."""
    wanted = {
        "name": f"registry.egi.eu {REF}",
        "visibility": "public",
        "disk_format": "raw",
        "container_format": "bare",
        "APPLIANCE_ATTRIBUTES": json.dumps({"eu.egi.cloud.image_ref": REF}),
    }
    made = str(admin.post(GLANCE, "/v2/images", wanted)["id"])
    try:
        admin.put(GLANCE, f"/v2/images/{made}/file", b"x".ljust(1024, b"\0"))
        yield
    finally:
        admin.call("DELETE", GLANCE, f"/v2/images/{made}")


@contextlib.contextmanager
def role(admin: Api, name: str, project: str, who: str) -> Iterator[None]:
    """Give a role, ``who`` is like ``users/ID`` or ``groups/ID``."""
    number = admin.get(KEYSTONE, f"/roles?name={name}")["roles"][0]["id"]
    path = f"/projects/{project}/{who}/roles/{number}"
    admin.put(KEYSTONE, path)
    try:
        yield
    finally:
        admin.call("DELETE", KEYSTONE, path)


@contextlib.contextmanager
def mapping(admin: Api, groups: dict[str, str]) -> Iterator[None]:
    """Make the mapping of EGI's guide: the group of each VO's members."""
    rules = [
        {
            "local": [{"user": {"name": "{0}"}}, {"group": {"id": group}}],
            "remote": [
                {"type": "HTTP_OIDC_SUB"},
                {
                    "type": "OIDC-eduperson_entitlement",
                    "regex": True,
                    "any_one_of": [f"^urn:mace:egi.eu:group:{vo}:role=vm_operator#aai.egi.eu$"],
                },
            ],
        }
        for vo, group in groups.items()
    ]
    admin.put(KEYSTONE, "/OS-FEDERATION/mappings/egi-check", {"mapping": {"rules": rules}})
    try:
        yield
    finally:
        admin.call("DELETE", KEYSTONE, "/OS-FEDERATION/mappings/egi-check")


@contextlib.contextmanager
def group(admin: Api, vo: str) -> Iterator[str]:
    body = {"group": {"name": f"egi-{vo}", "domain_id": "default"}}
    made = str(admin.post(KEYSTONE, "/groups", body)["group"]["id"])
    try:
        yield made
    finally:
        admin.call("DELETE", KEYSTONE, f"/groups/{made}")


def test_what_monitoring_boots(site: CasoSite) -> None:
    """Without an image, without the role to boot, then a real server that is gone afterwards."""
    admin, seed = site.testbed.admin(), site.testbed.seed()
    project, account = seed.projects["vo-ops"].id, seed.accounts["accounting"].id
    (found,), _ = check(site)
    assert found.startswith("C71.a no active image in the project has eu.egi.cloud.image_ref")
    with image(admin):
        assert check(site)[0] == []
        (found,), _ = check(site, "--write")
        assert found.startswith("C71.d Nova refuses to boot the image ")
        assert "member" in found
        with role(admin, "member", project, f"users/{account}"):
            assert check(site, "--write")[0] == []
    assert servers(admin, project) == []


def test_entitlements_of_a_real_mapping(site: CasoSite) -> None:
    admin, seed = site.testbed.admin(), site.testbed.seed()
    with image(admin), contextlib.ExitStack() as made:
        assert check(site) == ([], ["Keystone has no mapping with entitlements of EGI"])
        groups = {vo: made.enter_context(group(admin, vo)) for vo in VOS.values()}
        for name, vo in VOS.items():
            if vo != "ops":
                made.enter_context(
                    role(admin, "member", seed.projects[name].id, f"groups/{groups[vo]}")
                )
        made.enter_context(mapping(admin, groups))
        (found,), _ = check(site)
        assert found.startswith("C73.a the entitlement of the VO leads to no project")
        ops = seed.projects["vo-ops"].id
        with role(admin, "member", ops, f"groups/{groups['ops']}"):
            assert check(site) == ([], [])
            with role(admin, "member", ops, f"groups/{groups['biomed']}"):
                assert {text[:5] for text in check(site)[0]} == {"C73.b"}
