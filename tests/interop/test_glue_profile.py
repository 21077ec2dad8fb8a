"""The tree as a site's BDII publishes it, under slapd's schema and the EGI profile."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.core import ldif
from cloud_info_provider.facts import Facts, OfferedImage, ServerCounts
from cloud_info_provider.formats import glue
from tests.interop import egi_profile
from tests.interop.egi_profile import Entries, Finding
from tests.unit.test_glue import BARE, BIOMED, KEYSTONE, LARGE, OPS, SITE, configured

DOMAIN = """\
dn: o=glue
objectClass: organization
o: glue

dn: GLUE2DomainID=EXAMPLE-SITE,o=glue
objectClass: GLUE2Domain
objectClass: GLUE2AdminDomain
GLUE2DomainID: EXAMPLE-SITE

dn: GLUE2LocationID=location.EXAMPLE-SITE,GLUE2DomainID=EXAMPLE-SITE,o=glue
objectClass: GLUE2Location
GLUE2LocationID: location.EXAMPLE-SITE
GLUE2LocationCountry: Spain
GLUE2LocationLatitude: 43.5
GLUE2LocationLongitude: -3.8
GLUE2LocationDomainForeignKey: EXAMPLE-SITE

dn: GLUE2ContactID=general.contact.EXAMPLE-SITE,GLUE2DomainID=EXAMPLE-SITE,o=glue
objectClass: GLUE2Contact
GLUE2ContactID: general.contact.EXAMPLE-SITE
GLUE2ContactDetail: mailto:a@example.org
GLUE2ContactType: general
GLUE2ContactDomainForeignKey: EXAMPLE-SITE

"""
VOCABULARY = {
    ("W037", "GLUE2ServiceType", "IaaS"),
    ("W037", "GLUE2EndpointInterfaceName", "OpenStack"),
}
# The profile's vocabularies of 2013 have no clouds (docs/adr/0053).


def published(text: str) -> str:
    """Put a provider's LDIF below the site's domain, with times of creation, as the BDIIs do."""
    unfolded = text.replace("\n ", "")
    moved = re.sub(
        r"^(dn: .*),o=glue$", r"\1,GLUE2DomainID=EXAMPLE-SITE,o=glue", unfolded, flags=re.MULTILINE
    )
    below = moved.split("\n\n", 1)[1]
    dated = "objectClass: GLUE2Entity\nGLUE2EntityCreationTime: 2026-11-22T07:00:00Z"
    return DOMAIN + below.replace("objectClass: GLUE2Entity", dated)


def text_of(facts: Facts) -> str:
    vos = configured(*(share.vo for share in facts.shares), *facts.failed)
    listed, _ = glue.entries(facts, SITE, shares=vos, auth_url=KEYSTONE)
    return "".join(ldif.write(listed))


# Ten servers of the largest flavor fit into the cloud, so that no figure is below the profile's
# usual range.
WHOLE = Facts(
    (OPS, replace(BIOMED, flavors=(*OPS.flavors, replace(LARGE, vcpus=9, ram=32768)))), {}
)


def kinds(found: list[Finding]) -> set[tuple[str, str, str]]:
    return {(finding.code, finding.attribute, finding.value) for finding in found}


def test_a_provider_s_output_is_valid_under_the_schema_as_it_is(tmp_path: Path) -> None:
    entries = egi_profile.load(text_of(WHOLE), tmp_path)
    assert len(entries) == 14
    assert not [
        finding
        for finding in egi_profile.findings(entries)
        if finding.code == "dangling" and "Domain" not in finding.attribute
    ]


def test_a_published_tree_has_no_finding_but_gaps_of_the_vocabulary(tmp_path: Path) -> None:
    """F-I7: two warnings a flavor; an endpoint without TLS and a CA gave an info."""
    found = egi_profile.findings(egi_profile.load(published(text_of(WHOLE)), tmp_path))
    assert kinds(found) == VOCABULARY
    assert len(found) == len(VOCABULARY)
    plain = replace(OPS, endpoint=replace(OPS.endpoint, url="http://n.example.org", issuer=""))
    found = egi_profile.findings(
        egi_profile.load(published(text_of(Facts((plain,), {}))), tmp_path / "plain")
    )
    assert kinds(found) == VOCABULARY


def test_unusual_names_are_published_whole(tmp_path: Path) -> None:
    name = ' #Ünïcode, image = "x"; <1>+\\ '
    image = OfferedImage(name, name, "", "", name, "1\n2", "", "", "", "")
    flavor = replace(LARGE, id=name, name=name)
    facts = Facts(
        (replace(BIOMED, vo="/ops/Role=a+b,c", images=(image, BARE), flavors=(flavor,)),), {}
    )
    entries = egi_profile.load(text_of(facts), tmp_path)
    (environment,) = (
        e for e in entries.values() if "GLUE2ExecutionEnvironment" in e["objectClass"]
    )
    booted = f"http://schemas.openstack.org/template/resource#{name.strip()}"
    assert environment["GLUE2EntityName"] == [booted]
    assert environment["GLUE2ResourceID"] == [f"{booted}_{KEYSTONE}"]
    assert f"name={name.strip()}" in environment["GLUE2EntityOtherInfo"]
    assert len(entries) == 11


def test_a_tree_without_one_vo_has_no_finding_but_what_is_not_known_then(tmp_path: Path) -> None:
    facts = Facts((OPS,), {"biomed": "no route to host"})
    found = egi_profile.findings(egi_profile.load(published(text_of(facts)), tmp_path))
    missing = {finding.attribute for finding in found if finding.code == "I095"}
    assert {
        finding.code
        for finding in found
        if (finding.code, finding.attribute, finding.value) not in VOCABULARY
    } == {"I095"}
    assert missing == {
        "GLUE2ComputingServiceTotalJobs",
        "GLUE2ComputingServiceRunningJobs",
        "GLUE2ComputingServiceWaitingJobs",
        "GLUE2ComputingManagerSlotsUsedByGridJobs",
    }


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        (r"GLUE2ManagerProductVersion: .*\n", "", "W034"),
        (r"GLUE2ExecutionEnvironmentOSVersion: .*\n", "", "W034"),
        (r"GLUE2EndpointIssuerCA: .*\n", "", "I095"),
        (r"GLUE2EndpointHealthState: ok", "GLUE2EndpointHealthState: Unknown", "W037"),
        (r"GLUE2EndpointURL: .*", "GLUE2EndpointURL: nova", "W037"),
        (r"(GLUE2ComputingServiceTotalJobs): \d+", r"\1: 9", "W005"),
        (r"(GLUE2ComputingManagerTotalSlots): \d+", r"\1: 3", "W033"),
        (r"(GLUE2ExecutionEnvironmentPhysicalCPUs): \d+", r"\1: 16", "I067"),
        (r"(GLUE2EntityCreationTime): .*", r"\1: 2026-11-22T07:00:00.123Z", "W037"),
        (r"(GLUE2ServiceAdminDomainForeignKey): .*", r"\1: OTHER-SITE", "E026"),
        (r"(GLUE2ShareEndpointForeignKey): .*", r"\1: nowhere", "dangling"),
        (r"(GLUE2ShareResourceForeignKey): .*", r"\1: nowhere", "dangling"),
        (r"(GLUE2MappingPolicyShareForeignKey): .*", r"\1: nowhere", "dangling"),
        (r"(GLUE2ExecutionEnvironmentComputingManagerForeignKey): .*", r"\1: nowhere", "dangling"),
        (r"dn: GLUE2PolicyID=[^\n]*_policy,.*?\n\n", "", "E025"),
    ],
)
def test_the_check_itself_finds_faults(tmp_path: Path, old: str, new: str, code: str) -> None:
    flags = re.DOTALL if old.startswith("dn:") else re.NOFLAG
    altered = re.sub(old, new, published(text_of(WHOLE)), count=1, flags=flags)
    assert altered != published(text_of(WHOLE))
    assert code in {
        finding.code for finding in egi_profile.findings(egi_profile.load(altered, tmp_path))
    }


def test_servers_are_counted_once_in_each_share_and_once_in_the_cloud(tmp_path: Path) -> None:
    facts = Facts(
        (
            replace(OPS, servers=ServerCounts(1, 2, 4, 9)),
            replace(BIOMED, servers=ServerCounts(8, 16, 32, 5)),
        ),
        {},
    )
    entries: Entries = egi_profile.load(text_of(facts), tmp_path)
    (service,) = (e for e in entries.values() if "GLUE2ComputingService" in e["objectClass"])
    jobs = {
        name.removeprefix("GLUE2ComputingService"): v
        for name, v in service.items()
        if name.endswith("Jobs")
    }
    assert jobs == {
        "TotalJobs": ["63"],
        "RunningJobs": ["9"],
        "WaitingJobs": ["0"],
        "SuspendedJobs": ["54"],
    }
