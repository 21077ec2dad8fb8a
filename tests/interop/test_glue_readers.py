"""A contract with programs that read the tree: their own filters and attributes, on both levels.

F-I2: an attribute that others read as an identifier is part of the interface. The queries are those
of the programs' sources: ginfo 1.9, nagios-plugins-bdii, DIRAC's Glue2 module, AppDB's SQL and its
import from LDAP, glite-info-provider-ldap 1.7, and the one-liners of EGI's manuals. The tree is
that of our provider, published by a resource's BDII and pulled by a site's.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest

from appliance.core import clock, ldif
from appliance.core.glue import profile
from cloud_info_provider.facts import Facts
from cloud_info_provider.formats import glue
from tests.e2e.bdii_service import Bdii, free_port, parse, running
from tests.e2e.test_bdii_site import resource, site
from tests.unit.test_glue import BIOMED, KEYSTONE, LARGE, OPS, SITE, SMALL, UBUNTU, configured

SITE_NAME = "TEST-SITE"
SERVICE = f"{KEYSTONE}_cloud.compute"
FLAVOR, IMAGE = (
    "http://schemas.openstack.org/template/resource#",
    "http://schemas.openstack.org/template/os#",
)


@dataclass(frozen=True)
class Levels:
    """The ports of a resource's BDII and of the site's above it."""

    resource: int
    site: int
    bdiis: tuple[Bdii, Bdii]


def provider_output() -> str:
    described = replace(SITE, name=SITE_NAME)
    facts = Facts((OPS, BIOMED), {})
    vos = configured("ops", "biomed")
    entries, problems = glue.entries(facts, described, shares=vos, auth_url=KEYSTONE)
    assert not problems
    return "".join(ldif.write(entries))


@pytest.fixture(scope="module")
def levels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Levels]:
    directory = tmp_path_factory.mktemp("levels")
    below = resource(directory / "resource")
    below.provide(provider_output())
    own = free_port()
    above = site(
        directory / "site",
        f"BDII ldap://127.0.0.1:{own}/mds-vo-name=resource,o=grid\n"
        f"CLOUD ldap://127.0.0.1:{below.port}/GLUE2GroupID=cloud,o=glue\n",
        SLAPD_PORT=own,
    )
    above.port = own
    with running(below), running(above):
        for bdii in (below, above):
            wait_for_the_cloud(bdii)
            bdii.statistics()
        yield Levels(below.port, above.port, (below, above))


def wait_for_the_cloud(bdii: Bdii) -> None:
    bdii.wait_for(
        lambda: any(dn.startswith("GLUE2ShareID=") for dn in bdii.entries()), what="the shares"
    )


def ldapsearch(port: int, *words: str) -> str:
    """Return what OpenLDAP's client prints; ``-h HOST -p PORT`` of the manuals is ``-H`` today."""
    command = ["ldapsearch", "-x", "-LLL", "-H", f"ldap://127.0.0.1:{port}", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


PYTHON_LDAP = """
import json, ldap, sys
url, base, filter = sys.argv[1:]
connection = ldap.initialize(url)
found = connection.result(connection.search(base, ldap.SCOPE_SUBTREE, filter))[1]
print(json.dumps([{k: [v.decode() for v in vs] for k, vs in entry.items()} for _, entry in found]))
"""


def ginfo(port: int, kind: str, extra: str = "") -> list[dict[str, list[str]]]:
    """Ask as ginfo does: through python-ldap, attributes by the schema's exact names."""
    command = ["/usr/bin/python3", "-c", PYTHON_LDAP, f"ldap://127.0.0.1:{port}", "o=glue"]
    done = subprocess.run(
        [*command, f"(&(objectClass=GLUE2{kind}){extra})"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    found: list[dict[str, list[str]]] = json.loads(done.stdout)
    return found


# The attributes that ginfo shows of each object; it fails without those that it joins objects by.
GINFO = {
    "AccessPolicy": "PolicyID EntityName PolicyScheme PolicyRule AccessPolicyEndpointForeignKey",
    "AdminDomain": "DomainID DomainDescription",
    "ComputingManager": "ManagerID ManagerProductName ManagerProductVersion "
    "ComputingManagerComputingServiceForeignKey",
    "Endpoint": "EndpointID EndpointURL EndpointCapability EndpointInterfaceName "
    "EndpointInterfaceVersion EndpointImplementationVersion EndpointQualityLevel "
    "EndpointHealthState EndpointServingState EndpointServiceForeignKey",
    "ExecutionEnvironment": "ResourceID ExecutionEnvironmentOSName "
    "ExecutionEnvironmentConnectivityOut ExecutionEnvironmentMainMemorySize "
    "ExecutionEnvironmentVirtualMemorySize",
    "Location": "LocationID LocationCountry LocationLatitude LocationLongitude",
    "MappingPolicy": "PolicyID PolicyScheme PolicyRule MappingPolicyShareForeignKey",
    "Service": "ServiceID ServiceCapability ServiceType ServiceQualityLevel "
    "ServiceAdminDomainForeignKey",
    "Share": "ShareID ShareServiceForeignKey",
}


@pytest.mark.parametrize("kind", GINFO)
def test_ginfo_finds_each_object_with_the_attributes_that_it_shows(
    kind: str, levels: Levels
) -> None:
    found = ginfo(levels.site, kind)
    assert found
    for entry in found:
        assert {f"GLUE2{name}" for name in GINFO[kind].split()} <= entry.keys()


def test_ginfo_joins_policies_endpoints_services_and_shares(levels: Levels) -> None:
    """``ginfo --service --vo VO:biomed``."""
    (policy,) = ginfo(levels.site, "AccessPolicy", "(GLUE2PolicyRule=VO:biomed)")
    (key,) = policy["GLUE2AccessPolicyEndpointForeignKey"]
    (endpoint,) = [e for e in ginfo(levels.site, "Endpoint") if e["GLUE2EndpointID"] == [key]]
    (service,) = ginfo(levels.site, "Service", "(GLUE2ServiceType=IaaS)")
    assert endpoint["GLUE2EndpointServiceForeignKey"] == service["GLUE2ServiceID"] == [SERVICE]
    (mapping,) = ginfo(levels.site, "MappingPolicy", "(GLUE2PolicyRule=VO:biomed)")
    shares = {share["GLUE2ShareID"][0] for share in ginfo(levels.site, "Share")}
    assert set(mapping["GLUE2MappingPolicyShareForeignKey"]) <= shares


def nagios(port: int, base: str = "o=grid", wanted: str = "(objectClass=GlueService)") -> int:
    """Count as check_bdii_entries does; a result other than success makes it critical."""
    return ldapsearch(port, "-b", base, wanted, "modifyTimestamp").count("dn: ")


def test_nagios_counts_entries_and_reads_how_fresh_they_are(levels: Levels) -> None:
    """F-I9: its default base is GLUE 1, which is empty and no failure."""
    for port in (levels.resource, levels.site):
        assert nagios(port) == 0
        assert nagios(port, "mds-vo-name=resource,o=grid", "(objectClass=GlueSite)") == 0
        assert nagios(port, "o=glue", "(objectClass=GLUE2ComputingService)") == 1
        statistics = "(|(objectClass=UpdateStats)(objectClass=InfoSystemStats))"
        assert nagios(port, "o=infosys", statistics) == 1
        text = ldapsearch(port, "-b", "o=infosys", statistics, "modifyTimestamp")
        stamp = re.search(r"^modifyTimestamp: (\d{14})Z$", text, re.MULTILINE)
        assert stamp is not None
        assert f"{clock.now() + timedelta(seconds=60):%Y%m%d%H%M%S}" > stamp[1]
        assert f"{clock.now() - timedelta(minutes=10):%Y%m%d%H%M%S}" < stamp[1]
    assert nagios(levels.site, f"GLUE2DomainID={SITE_NAME},o=glue", "(objectClass=GLUE2Location)")


def test_dirac_follows_a_vo_to_its_flavors(levels: Levels) -> None:
    """DIRAC puts identifiers into filters unescaped, and takes the site from the entry's name."""
    port = levels.site
    text = ldapsearch(
        *(port, "-o", "ldif-wrap=no", "-b", "o=glue"),
        "(&(objectClass=GLUE2Policy)(|(GLUE2PolicyRule=VO:biomed)(GLUE2PolicyRule=vo:biomed)))",
    )
    policies = parse(text)
    assert {dn.split("GLUE2DomainID=")[1].split(",")[0] for dn in policies} == {SITE_NAME}
    (share,) = [
        key
        for entry in policies.values()
        for key in entry.get("GLUE2MappingPolicyShareForeignKey", [])
    ]
    wanted = f"(&(objectClass=GLUE2Share)(|(GLUE2ShareID={share})))"
    ((_, found),) = parse(ldapsearch(port, "-o", "ldif-wrap=no", "-b", "o=glue", wanted)).items()
    # it skips shares of other classes than this, and reads a queue's figures of the others
    assert "GLUE2ComputingShare" not in found["objectClass"]
    keys = found["GLUE2ShareResourceForeignKey"]
    alternatives = "".join(f"(GLUE2ResourceID={key})" for key in keys)
    wanted = f"(&(objectClass=GLUE2ExecutionEnvironment)(|{alternatives}))"
    environments = parse(ldapsearch(port, "-o", "ldif-wrap=no", "-b", "o=glue", wanted))
    assert len(environments) == len(keys) == 2
    for entry in environments.values():
        assert int(entry["GLUE2ExecutionEnvironmentMainMemorySize"][0])
        assert entry["GLUE2ExecutionEnvironmentPlatform"] == ["amd64"]
        assert entry["GLUE2ExecutionEnvironmentOSName"] == ["Ubuntu"]
        assert entry["GLUE2ExecutionEnvironmentComputingManagerForeignKey"] == [
            f"{SERVICE}_manager"
        ]


def test_the_one_liners_of_egi_s_manuals_print_what_to_boot(levels: Levels) -> None:
    both = "(|(objectClass=GLUE2ApplicationEnvironment)(objectClass=GLUE2ExecutionEnvironment))"
    for port in (levels.resource, levels.site):
        text = ldapsearch(port, "-o", "ldif-wrap=no", "-b", "o=glue", both, "GLUE2EntityName")
        awk = ["awk", "/GLUE2EntityName/ {print $NF}"]
        printed = subprocess.run(awk, input=text, capture_output=True, text=True, check=True).stdout
        assert sorted(printed.split()) == sorted(
            [f"{FLAVOR}{SMALL.id}", f"{FLAVOR}{LARGE.id}", f"{IMAGE}aaaa-1", f"{IMAGE}bbbb-2"]
        )
        urls = ldapsearch(port, "-b", "o=glue", "objectClass=GLUE2Endpoint", "GLUE2EndpointURL")
        assert "GLUE2EndpointURL: https://n.example.org:8774/v2.1" in urls
    cloud = f"Glue2GroupID=cloud,Glue2DomainID={SITE_NAME},o=glue"
    wanted = ("objectClass=GLUE2ApplicationEnvironment", "GLUE2ApplicationEnvironmentRepository")
    text = ldapsearch(levels.site, "-b", cloud, *wanted)
    assert f"GLUE2ApplicationEnvironmentRepository: {UBUNTU.marketplace}" in text


def pulled(port: int, base: str, above: str, *, filters_images: bool) -> str:
    """Return LDIF as glite-info-provider-ldap -g pulls and rewrites it: by its regular expressions.

    From 1.5.0 on it leaves images out.
    """
    wanted = "(!(|(objectClass=GLUE2ApplicationEnvironment)(objectClass=GLUE2Activity)))"
    text = ldapsearch(port, "-b", base, wanted if filters_images else "(objectClass=*)")
    blocks = []
    for block in filter(str.strip, text.replace("\n ", "").split("\n\n")):
        assert block.startswith("dn: ")  # a name in base64 would be rewritten wrongly
        first, _, rest = block.partition("\n")
        name = re.sub(r",\s+", ",", first)
        blocks.append(f"{re.sub('(?i)o=glue', above, name, count=1)}\n{rest.rstrip()}\n")
    return "\n".join(blocks)


def test_a_site_and_a_top_bdii_of_upstream_pull_the_tree(levels: Levels) -> None:
    rewritten = pulled(
        levels.resource,
        "GLUE2GroupID=cloud,o=glue",
        f"GLUE2DomainID={SITE_NAME},o=glue",
        filters_images=True,
    )
    names = parse(rewritten)
    inside = f",GLUE2GroupID=cloud,GLUE2DomainID={SITE_NAME},o=glue"
    assert len(names) == 11  # group, service, manager, endpoint, 2 flavors, 2 shares, 3 policies
    assert all(dn.endswith(inside) for dn in names if not dn.startswith("GLUE2GroupID="))
    ours = set(parse(ldapsearch(levels.site, "-o", "ldif-wrap=no", "-b", "o=glue")))
    assert names.keys() <= ours


def appdb(levels: Levels) -> dict[str, dict[str, list[str]]]:
    """Return the tree of a top BDII that pulled ours, where AppDB reads."""
    text = pulled(
        levels.site,
        f"GLUE2DomainID={SITE_NAME},o=glue",
        "GLUE2GroupID=grid,o=glue",
        filters_images=False,
    )
    return parse(text)


def rows(levels: Levels, base: str, kind: str) -> list[dict[str, Any]]:
    return [
        {name: values[0] for name, values in entry.items()}
        for dn, entry in appdb(levels).items()
        if dn.endswith(base) and f"GLUE2{kind}" in entry["objectClass"]
    ]


def test_appdb_finds_endpoint_images_and_templates(levels: Levels) -> None:
    """AppDB joins rows by the service, whose ID it writes into a name unescaped."""
    cloud = f"GLUE2GroupID=cloud,GLUE2DomainID={SITE_NAME},GLUE2GroupID=grid,o=glue"
    (endpoint,) = [
        row
        for row in rows(levels, cloud, "Endpoint")
        if row["GLUE2EndpointID"].startswith("https://n.example.org:8774/v2.1")
    ]
    assert endpoint["GLUE2EndpointInterfaceName"].lower() in {"occi", "openstack"}
    service = endpoint["GLUE2ComputingEndpointComputingServiceForeignKey"]
    base = f"GLUE2ServiceID={service},{cloud}"
    images = {
        row["GLUE2EntityName"]: row.get("GLUE2ApplicationEnvironmentRepository")
        for row in rows(levels, base, "ApplicationEnvironment")
    }
    assert images == {f"{IMAGE}aaaa-1": UBUNTU.marketplace, f"{IMAGE}bbbb-2": None}
    templates = [
        (
            row["GLUE2EntityName"],
            row["GLUE2ExecutionEnvironmentMainMemorySize"],
            row["GLUE2ExecutionEnvironmentLogicalCPUs"],
            row["GLUE2ExecutionEnvironmentPhysicalCPUs"],
            row["GLUE2ResourceManagerForeignKey"],
        )
        for row in rows(levels, base, "ExecutionEnvironment")
    ]
    assert templates == [
        (f"{FLAVOR}1", "2048", "1", "1", f"{service}_manager"),
        (f"{FLAVOR}2", "65536", "16", "2", f"{service}_manager"),
    ]


def served(port: int) -> list[ldif.Entry]:
    text = ldapsearch(port, "-o", "ldif-wrap=no", "-b", "o=glue")
    return [
        ldif.Entry(dn, {name: tuple(values) for name, values in attributes.items()})
        for dn, attributes in parse(text).items()
    ]


def test_the_validator_finds_gaps_of_its_vocabulary_only_on_both_levels(levels: Levels) -> None:
    """F-I7: 0 errors, two warnings, no info but the one of docs/adr/0053."""
    vocabulary = [
        ("W037", "GLUE2EndpointInterfaceName"),
        ("W037", "GLUE2ServiceType"),
    ]
    large = ("I063", "GLUE2ExecutionEnvironmentTotalInstances")  # six large servers fill the cloud
    everybody = ("I095", "GLUE2PolicyUserDomainForeignKey")
    for port, infos in ((levels.resource, [large]), (levels.site, [large, everybody])):
        found = profile.findings(served(port), now=clock.now())
        assert sorted((each.code, each.attribute) for each in found) == infos + vocabulary


def test_bdii_update_says_the_same_before_it_publishes(levels: Levels) -> None:
    for bdii, infos in zip(levels.bdiis, ("1 info", "2 infos"), strict=True):
        done = bdii.once("--validate")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.endswith(f" entries: 0 errors, 2 warnings, {infos}\n")
