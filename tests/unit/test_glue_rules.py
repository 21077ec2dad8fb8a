"""The rules of EGI's profile and of the LDAP schema, each by an entry that breaks it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from appliance.core.glue import findings, profile, schema
from appliance.core.glue.findings import GlueFinding, Severity
from appliance.core.ldif import Entry, parse
from appliance.core.run.errors import LocalFailure
from cloud_info_provider.facts import Facts
from cloud_info_provider.formats import glue
from cloud_info_provider.formats.published_cloud import PublishedCloud
from cloud_info_provider.formats.validation import render
from tests.unit.test_glue import BIOMED, KEYSTONE, OPS, SITE, SMALL, UBUNTU, configured

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)


def judged(*entries: Entry) -> list[tuple[str, str]]:
    return [(each.code, each.attribute) for each in profile.findings(entries, now=NOW)]


def entry(*classes: str, dn: str = "GLUE2GroupID=x,o=glue", **attributes: str) -> Entry:
    given = {f"GLUE2{name}": (value,) for name, value in attributes.items()}
    return Entry(dn, {"objectClass": tuple(f"GLUE2{kind}" for kind in classes), **given})


ENDPOINT = entry(
    "Entity",
    "Endpoint",
    EntityCreationTime="2026-11-30T10:00:00Z",
    EndpointID="e",
    EndpointURL="https://n.example.org:8774/v2.1",
    EndpointCapability="security.accounting",
    EndpointInterfaceName="https",
    EndpointInterfaceVersion="2",
    EndpointImplementationName="Nova",
    EndpointImplementationVersion="2",
    EndpointQualityLevel="production",
    EndpointHealthState="ok",
    EndpointServingState="production",
    EndpointIssuerCA="/CN=ca",
)
POLICY = entry(
    *("Policy", "AccessPolicy"),
    dn="GLUE2PolicyID=p,GLUE2GroupID=x,o=glue",
    PolicyID="p",
    PolicyScheme="basic",
    PolicyRule="ALL",
    PolicyUserDomainForeignKey="ops",
)


def test_a_good_endpoint_has_no_finding() -> None:
    assert judged(ENDPOINT, POLICY) == []


@pytest.mark.parametrize(
    ("attribute", "value", "codes"),
    [
        ("EndpointURL", "", ["W038"]),
        ("EndpointURL", None, ["W034"]),
        ("EndpointURL", "https://localhost:8774", ["W037"]),
        ("EndpointURL", "gopher://n.example.org", ["W037"]),
        ("EndpointURL", "http://192.0.2.7:8774/v2.1", []),
        ("EndpointIssuerCA", None, ["I095"]),
        ("EndpointIssuerCA", "unknown", ["I019"]),
        ("EndpointIssuerCA", "UNKNOWN", []),
        ("EndpointTrustedCA", "unknown", ["I020"]),
        ("EndpointHealthState", "Unknown", ["W037"]),
        ("EndpointInterfaceName", "OpenStack", ["W037"]),
        ("EndpointCapability", "cloud.vm.uploadImage", ["W037"]),
        ("EndpointID", "_e", ["W040"]),
        ("EndpointImplementationVersion", "nova is not installed", ["W041"]),
        ("EntityCreationTime", None, ["I095"]),
        ("EntityCreationTime", "2026-11-30T12:01:59Z", []),
        ("EntityCreationTime", "2026-11-30T12:03:00Z", ["E001"]),
        ("EntityCreationTime", "2024-11-01T00:00:00Z", ["W001"]),
        ("EntityCreationTime", "2026-11-30T10:00:00.5Z", ["W037"]),
        ("EndpointStartTime", "2027-01-01T00:00:00Z", ["E010"]),
        ("EndpointStartTime", "2020-01-01T00:00:00Z", ["W006"]),
        ("EntityValidity", "7199", ["E002"]),
        ("EntityValidity", "7200", []),
        ("EntityValidity", "9" * 5000, ["W037"]),
        ("EntityOtherInfo", "ProfileName=WLCG", ["W003"]),
    ],
)
def test_values_of_an_endpoint(attribute: str, value: str | None, codes: list[str]) -> None:
    attributes = dict(ENDPOINT.attributes)
    attributes.pop(f"GLUE2{attribute}", None)
    if value is not None:
        attributes[f"GLUE2{attribute}"] = (value,)
    found = judged(replace(ENDPOINT, attributes=attributes), POLICY)
    assert found == [(code, f"GLUE2{attribute}") for code in codes]


def test_arc_s_validity_of_a_minute_is_ten() -> None:
    times = {"GLUE2EntityCreationTime": ("2026-11-30T11:51:00Z",), "GLUE2EntityValidity": ("60",)}
    assert judged(replace(ENDPOINT, attributes={**ENDPOINT.attributes, **times}), POLICY) == []
    alone = entry("Entity", EntityValidity="3600")
    assert ("W002", "GLUE2EntityValidity") in judged(alone)


def test_two_values_where_one_is_allowed() -> None:
    twice = {**ENDPOINT.attributes, "GLUE2EndpointURL": ("https://a.example.org",) * 2}
    assert judged(replace(ENDPOINT, attributes=twice), POLICY) == [("W036", "GLUE2EndpointURL")]


@pytest.mark.parametrize(
    ("figures", "code"),
    [
        ({"TotalLogicalCPUs": "9", "TotalPhysicalCPUs": "9"}, "I051"),
        ({"TotalLogicalCPUs": "1000000"}, "I052"),
        ({"TotalPhysicalCPUs": "9"}, "I053"),
        ({"TotalPhysicalCPUs": "97"}, "W030"),
        ({"TotalSlots": "193"}, "W031"),
        ({"SlotsUsedByLocalJobs": "96"}, "W032"),
        ({"SlotsUsedByGridJobs": "96"}, "W033"),
        ({"WorkingAreaTotal": "1000000"}, "I057"),
        ({"TotalSlots": "-1"}, "W037"),
    ],
)
def test_figures_of_a_manager(figures: dict[str, str], code: str) -> None:
    usual = {
        "TotalLogicalCPUs": "96",
        "TotalPhysicalCPUs": "96",
        "TotalSlots": "96",
        "SlotsUsedByGridJobs": "3",
    }

    def codes(given: dict[str, str]) -> set[str]:
        named = {f"ComputingManager{name}": value for name, value in given.items()}
        made = entry("ComputingManager", ComputingManagerComputingServiceForeignKey="s", **named)
        return {code for code, _ in judged(made)} - {"E025"}

    assert codes(usual) == set()
    assert code in codes(usual | figures)


def test_the_jobs_of_a_service_are_the_sum_of_their_states() -> None:
    jobs = {"ComputingServiceRunningJobs": "5", "ComputingServiceSuspendedJobs": "4"}
    good = entry("ComputingService", ComputingServiceTotalJobs="10", **jobs)
    bad = entry("ComputingService", ComputingServiceTotalJobs="11", **jobs)
    assert "W005" not in {code for code, _ in judged(good)}
    assert ("W005", "GLUE2ComputingServiceTotalJobs") in judged(bad)


@pytest.mark.parametrize(
    ("sizes", "codes"),
    [
        ({"Total": "5000", "Used": "1000", "Free": "4000"}, set()),
        ({"Total": "5000", "Used": "1000", "Free": "3990"}, set()),
        ({"Total": "5000", "Used": "1000", "Free": "3900"}, {"E014"}),
        ({"Total": "5000"}, {"E014"}),
        ({"Total": "5000", "Used": "6000"}, {"E014", "E016"}),
        ({"Total": "5000", "Free": "6000"}, {"E014", "E015"}),
        ({"Total": "5000", "Reserved": "6000"}, {"E014", "E017"}),
        ({"Total": "500", "Used": "500"}, {"I086"}),
        ({"Total": "1000000001", "Used": "1000000001"}, {"I087"}),
        ({}, {"W034"}),
    ],
)
def test_sizes_of_a_storage(sizes: dict[str, str], codes: set[str]) -> None:
    """Codes and limits as in EGIProfileTest.py of glue-validator 2.1.0."""
    kind = "StorageServiceCapacity"
    named = {f"{kind}{name}Size": value for name, value in sizes.items()}
    made = entry(kind, StorageServiceCapacityID="c", StorageServiceCapacityType="online", **named)
    assert {code for code, _ in judged(made)} - {"I095"} == codes


def test_a_storage_service_needs_a_protocol() -> None:
    service = entry("Service", "StorageService", ServiceID="s")
    protocol = entry(
        "StorageAccessProtocol",
        dn="GLUE2StorageAccessProtocolID=h,o=glue",
        StorageAccessProtocolID="h",
        StorageAccessProtocolType="https",
        StorageAccessProtocolVersion="1.1",
    )
    assert ("E025", "GLUE2StorageService") in judged(service)
    assert "E025" not in {code for code, _ in judged(service, protocol)}


def test_a_site_s_name_and_place() -> None:
    """A foreign key with another site's name is what two files with two names give."""
    place = "GLUE2LocationID=l,GLUE2DomainID=SITE-A,o=glue"
    found = judged(
        entry(
            "Location",
            dn=place,
            LocationDomainForeignKey="SITE-B",
            LocationLatitude="90",
            LocationLongitude="-180",
        )
    )
    assert {"E026", "E008", "E009"} <= {code for code, _ in found}


def test_classes_that_need_others() -> None:
    """F-I7: a cloud without any flavor."""
    empty = Facts((replace(OPS, flavors=()),), {})
    listed, problems = glue.entries(empty, SITE, shares=configured("ops"), auth_url=KEYSTONE)
    (line,) = problems
    assert line == (
        "no VO may use any flavor, so no server can be started; make flavors public, or give the "
        "VOs' projects access to some"
    )
    found = findings.errors(profile.findings(listed, now=NOW))
    assert [(each.code, each.attribute) for each in found] == [("E025", "GLUE2ComputingManager")]
    assert str(found[0]) == (
        "error E025: GLUE2ComputingManager: entries of this class need entries of the class "
        "GLUE2ExecutionEnvironment; there are none"
    )


def test_repeated_identifiers_and_links_that_lead_nowhere() -> None:
    """DIRAC 3768: several environments of one ID, shares of environments that do not exist."""
    listed, _ = glue.entries(Facts((OPS,), {}), SITE, shares=configured("ops"), auth_url=KEYSTONE)
    assert findings.errors(profile.findings(listed, now=NOW)) == []
    (flavor,) = [each for each in listed if "GLUE2Resource" in each.get("objectClass")]
    elsewhere = replace(flavor, dn=flavor.dn.replace("GLUE2GroupID=cloud", "GLUE2GroupID=other"))
    (found,) = findings.errors(profile.findings([*listed, elsewhere], now=NOW))
    assert (found.code, found.dn, found.attribute) == (
        *("duplicate-id", elsewhere.dn, "GLUE2ResourceID"),
    )
    without = [each for each in listed if each is not flavor]
    links = findings.errors(
        profile.findings([*without, replace(flavor, dn="GLUE2ResourceID=z")], now=NOW)
    )
    assert {(each.code, each.attribute) for each in links} == {
        ("dangling-link", "GLUE2ShareResourceForeignKey")
    }


PEER_SERVICE = "GLUE2ServiceID=http://k.example.org/v3_cloud.compute,GLUE2GroupID=cloud,o=glue"


def peer(flavors: int, images: int) -> list[Entry]:
    """Return what cloud-info-provider 0.13.0 prints, with the attributes of its template."""
    capability = "['executionmanagement.dynamicvmdeploy', 'security.accounting']"
    made = [
        Entry("o=glue", {"objectClass": ("organization",), "o": ("glue",)}),
        entry("Group", dn="GLUE2GroupID=cloud,o=glue", GroupID="cloud"),
        entry(
            *("Entity", "Service", "ComputingService"),
            dn=PEER_SERVICE,
            ServiceAdminDomainForeignKey="X",
            ServiceID="http://k.example.org/v3_cloud.compute",
            ServiceQualityLevel="production",
            ServiceType="IaaS",
            ServiceCapability=capability,
        ),
        entry(
            *("Entity", "Manager", "ComputingManager"),
            dn=f"GLUE2ManagerID=m,{PEER_SERVICE}",
            ManagerID="m",
            ManagerProductName="None",
            ManagerProductVersion="None",
            ComputingManagerComputingServiceForeignKey="http://k.example.org/v3_cloud.compute",
            ComputingManagerTotalLogicalCPUs="0",
            ComputingManagerWorkingAreaTotal="0",
        ),
        entry(
            *("Entity", "Endpoint", "ComputingEndpoint"),
            dn=f"GLUE2EndpointID=e,{PEER_SERVICE}",
            EndpointID="e",
            EndpointHealthState="ok",
            EndpointInterfaceName="OpenStack",
            EndpointInterfaceVersion="v2.1",
            EndpointQualityLevel="production",
            EndpointServingState="production",
            EndpointURL="http://k.example.org/v2.1",
            EndpointCapability=capability,
            EndpointImplementationName="OpenStack Nova",
            EndpointImplementationVersion="UNKNOWN",
            EndpointTechnology="webservice",
        ),
    ]
    for number in range(flavors):
        environment = {
            "ConnectivityIn": "TRUE",
            "ConnectivityOut": "TRUE",
            "VirtualMachine": "TRUE",
            "MainMemorySize": "2048",
            "Platform": "amd64",
            "OSFamily": "linux",
            "ComputingManagerForeignKey": "m",
            "CPUModel": "virtual model",
            "CPUMultiplicity": "multicpu-multicore",
            "CPUVendor": "virtual vendor",
            "LogicalCPUs": "2",
            "PhysicalCPUs": "2",
        }
        made.append(
            entry(
                *("Entity", "Resource", "ExecutionEnvironment"),
                dn=f"GLUE2ResourceID={number},{PEER_SERVICE}",
                **{f"ExecutionEnvironment{name}": value for name, value in environment.items()},
            )
        )
    made += [
        entry(
            *("Entity", "ApplicationEnvironment"),
            dn=f"GLUE2ApplicationEnvironmentID=i{number},{PEER_SERVICE}",
            ApplicationEnvironmentID=f"i{number}",
            ApplicationEnvironmentAppName="x",
            ApplicationEnvironmentRepository="http://g.example.org/file",
            ApplicationEnvironmentComputingManagerForeignKey="m",
        )
        for number in range(images)
    ]
    return made


def test_the_peer_s_tree_has_as_many_findings_as_glue_validator_gave_it() -> None:
    """Measured: glue-validator 2.1.0 on the LDIF of cloud-info-provider 0.13.0."""
    found = profile.findings(peer(2, 4), now=NOW)
    assert findings.totals(found) == "1 error, 17 warnings, 22 infos"
    codes = [each.code for each in found]
    assert (codes.count("W034"), codes.count("W037"), codes.count("E025")) == (13, 4, 1)


# --------------------------------------------------------------------------------------------------
# the LDAP schema

SCHEMA = """\
# objectclass ( 1.0 NAME 'GLUE2Nothing' MUST GLUE2Nothing )
attributetype ( 1.1 NAME 'GLUE2AID'
        DESC 'with (parentheses) and a $' EQUALITY caseExactMatch
        SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 SINGLE-VALUE )
attributetype ( 1.2 NAME ( 'GLUE2Size' 'GLUE2Length' )
        SYNTAX 1.3.6.1.4.1.1466.115.121.1.27 )
attributetype ( 1.5 NAME 'GLUE2Mark' SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 )
objectclass ( 1.3 NAME 'GLUE2Base' ABSTRACT MAY ( GLUE2Size $
\tGLUE2Note ) )
objectclass ( 1.4 NAME 'GLUE2A' SUP GLUE2Base STRUCTURAL MUST ( GLUE2AID $ GLUE2Mark )
	MAY GLUE2Other )
"""


@pytest.fixture
def rules(tmp_path: Path) -> schema.Schema:
    (tmp_path / "X.schema").write_text(SCHEMA)
    return schema.read(tmp_path / "X.schema")


def fault(rules: schema.Schema, **attributes: str | tuple[str, ...]) -> str:
    given = {
        f"GLUE2{name}": (value,) if isinstance(value, str) else value
        for name, value in attributes.items()
    }
    named = Entry("GLUE2AID=x,o=glue", {"objectClass": ("GLUE2A",), **given})
    found = schema.finding(named, rules)
    return "" if found is None else f"{found.attribute}: {found.text}"


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({}, ""),
        ({"Mark": ()}, ""),
        ({"AID": "x", "SIZE": "7", "Note": "n", "Other": "o"}, ""),
        ({"AID": "y"}, "GLUE2AID: lacks the value 'x', which is in the name of the entry"),
        ({"Size": "07"}, "GLUE2Size: '07' is not a whole number"),
        ({"Size": "+1"}, "GLUE2Size: '+1' is not a whole number"),
        ({"Note": ""}, "GLUE2Note: is empty"),
        ({"Note": "\udcff"}, "GLUE2Note: is not UTF-8"),
        ({"Note": ("a b", " a  b")}, "GLUE2Note: has the same value twice"),
        ({"AID": ("x", "y")}, "GLUE2AID: has 2 values, one is allowed"),
        ({"Nothing": "n"}, "GLUE2Nothing: is no attribute of the classes of this entry"),
        (
            {"Nothing": "n", "Note": ""},
            "GLUE2Nothing: is no attribute of the classes of this entry (one of 2 faults)",
        ),
    ],
)
def test_what_a_schema_allows(
    rules: schema.Schema, attributes: dict[str, str], expected: str
) -> None:
    assert fault(rules, **{"Mark": "m", **attributes}) == expected


def test_a_missing_attribute_or_an_unknown_class(rules: schema.Schema) -> None:
    assert fault(rules) == "GLUE2Mark: is missing; the schema demands it"
    found = schema.finding(Entry("GLUE2AID=x,o=glue", {"objectClass": ("GLUE2Nothing",)}), rules)
    assert str(found) == (
        "error schema: GLUE2AID=x,o=glue: objectClass: 'GLUE2Nothing' is not a class of GLUE 2.0"
    )
    found = schema.finding(Entry("GLUE2AID,o=glue", {"objectClass": ("GLUE2A",)}), rules)
    assert found is not None
    assert "is not a distinguished name" in found.text
    assert schema.finding(parse(b"dn: o=glue\nobjectClass: organization\no: glue\n")[0], rules) is (
        None
    )


def test_without_a_schema(tmp_path: Path) -> None:
    with pytest.raises(LocalFailure, match="install glue-schema"):
        schema.read(tmp_path / "none.schema")


# --------------------------------------------------------------------------------------------------
# what the provider prints


def cloud(facts: Facts) -> PublishedCloud:
    vos = configured(*(share.vo for share in facts.shares))
    return PublishedCloud(facts, SITE, vos, KEYSTONE, KEYSTONE, "v3password")


def test_a_validated_cloud(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(schema, "FILE", tmp_path / "none")
    whole = render(cloud(Facts((OPS, BIOMED), {})))
    *lines, last = whole.text.splitlines()
    service = f"GLUE2ServiceID={KEYSTONE}_cloud.compute,GLUE2GroupID=cloud,o=glue"
    assert lines[0] == (
        f"warning W037: {service}: GLUE2ServiceType: 'IaaS' is not of the type ServiceType"
    )
    assert lines[1].endswith(
        "GLUE2EndpointInterfaceName: 'OpenStack' is not of the type InterfaceName"
    )
    assert last == "14 entries: 0 errors, 2 warnings, 1 info"
    assert "I063" in lines[2]  # six servers of the larger flavor fill the cloud
    assert not whole.has_errors
    empty = render(cloud(Facts((replace(OPS, flavors=()),), {})))
    assert empty.has_errors
    twice = (replace(OPS, flavors=(SMALL, replace(SMALL, id="1 ")), images=(UBUNTU,)),)
    assert len(render(cloud(Facts(twice, {}))).problems) == 1


def test_totals() -> None:
    found = [GlueFinding(Severity.INFO, "I1", "", "", ""), *profile.findings([], now=NOW)]
    assert findings.totals(found) == "0 errors, 0 warnings, 1 info"
