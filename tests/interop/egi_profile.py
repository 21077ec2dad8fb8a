"""The EGI profile of GLUE 2.0, checked on a tree as slapd stores it.

`load` lets slapadd take LDIF under the GLUE 2.0 schema, so that each entry has its obligatory
attributes, right syntax, single values and a parent, and reads the database back with slapcat.
`findings` then applies what glue-validator 2.1.0 applies with ``-g egi-glue2 -s egi-profile`` to
the classes of clouds and sites, under the same codes, and looks for links that lead nowhere.
Nothing here shares code with what writes or reads LDIF in the product.
"""

from __future__ import annotations

import base64
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

Entries = dict[str, dict[str, list[str]]]
"""Attributes by name, by DN as slapcat prints it."""

_CONFIGURATION = """\
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/GLUE20.schema
modulepath /usr/lib/ldap
moduleload back_mdb
database mdb
suffix "o=glue"
directory {directory}
maxsize 268435456
"""


@dataclass(frozen=True, order=True)
class Finding:
    """A finding: ``error``, ``warning`` or ``info``, with glue-validator's code."""

    severity: str
    code: str
    attribute: str
    value: str
    dn: str


def load(text: str, directory: Path) -> Entries:
    """Return the entries of a new slapd database made of ``text``; fail if slapadd rejects one."""
    directory.mkdir(parents=True, exist_ok=True)
    configuration = directory / "slapd.conf"
    configuration.write_text(_CONFIGURATION.format(directory=directory))
    added = subprocess.run(
        ["/usr/sbin/slapadd", "-q", "-f", str(configuration), "-b", "o=glue"],
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    assert added.returncode == 0, added.stderr
    dumped = subprocess.run(
        ["/usr/sbin/slapcat", "-f", str(configuration), "-b", "o=glue", "-o", "ldif-wrap=no"],
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(_entries(dumped.stdout))


def _entries(text: str) -> Iterator[tuple[str, dict[str, list[str]]]]:
    for block in filter(None, text.split("\n\n")):
        attributes: dict[str, list[str]] = {}
        for line in block.splitlines():
            name, value = line.split(":", 1)
            plain = (
                base64.b64decode(value[1:].strip()).decode() if value.startswith(":") else value[1:]
            )
            attributes.setdefault(name, []).append(plain)
        yield attributes.pop("dn")[0], attributes


# --------------------------------------------------------------------------------------------------
# mandatory and recommended attributes of classes

_MUST = {
    "GLUE2Group": "GroupID",
    "GLUE2Domain": "DomainID",
    "GLUE2Location": "LocationID",
    "GLUE2Contact": "ContactID ContactDetail ContactType",
    "GLUE2Service": "ServiceID ServiceType ServiceQualityLevel ServiceAdminDomainForeignKey",
    "GLUE2Endpoint": "EndpointID EndpointURL EndpointInterfaceName EndpointImplementationName "
    "EndpointImplementationVersion EndpointQualityLevel EndpointHealthState EndpointServingState",
    "GLUE2Policy": "PolicyID PolicyScheme PolicyRule",
    "GLUE2Share": "ShareID",
    "GLUE2Manager": "ManagerID ManagerProductName ManagerProductVersion",
    "GLUE2Resource": "ResourceID",
    "GLUE2ComputingManager": "ComputingManagerTotalPhysicalCPUs ComputingManagerTotalLogicalCPUs "
    "ComputingManagerComputingServiceForeignKey",
    "GLUE2ExecutionEnvironment": " ".join(
        f"ExecutionEnvironment{name}"
        for name in (
            *(
                "Platform",
                "CPUTimeScalingFactor",
                "WallTimeScalingFactor",
                "MainMemorySize",
                "VirtualMemorySize",
            ),
            *(
                "OSFamily",
                "OSName",
                "OSVersion",
                "ConnectivityIn",
                "ConnectivityOut",
                "ComputingManagerForeignKey",
            ),
        )
    ),
    "GLUE2ApplicationEnvironment": "ApplicationEnvironmentID ApplicationEnvironmentAppName",
}
_SHOULD = {
    "GLUE2Entity": "EntityCreationTime",
    "GLUE2Location": "LocationCountry LocationLatitude LocationLongitude",
    "GLUE2Service": "ServiceCapability",
    "GLUE2Endpoint": "EndpointCapability EndpointInterfaceVersion EndpointIssuerCA",
    "GLUE2Policy": "PolicyUserDomainForeignKey",
    "GLUE2ComputingService": (
        "ComputingServiceTotalJobs ComputingServiceRunningJobs ComputingServiceWaitingJobs"
    ),
    "GLUE2ComputingManager": "ComputingManagerTotalSlots ComputingManagerSlotsUsedByGridJobs",
    "GLUE2ExecutionEnvironment": " ".join(
        f"ExecutionEnvironment{name}"
        for name in (
            *(
                "TotalInstances",
                "PhysicalCPUs",
                "LogicalCPUs",
                "CPUMultiplicity",
                "CPUVendor",
                "CPUModel",
            ),
            *("CPUVersion", "CPUClockSpeed"),
        )
    ),
}
_TOGETHER = {
    "GLUE2Domain": ("GLUE2Location", "GLUE2Contact"),
    "GLUE2ComputingService": ("GLUE2Service", "GLUE2ComputingManager"),
    "GLUE2ComputingEndpoint": ("GLUE2Endpoint",),
    "GLUE2ComputingManager": ("GLUE2ExecutionEnvironment",),
    "GLUE2Share": ("GLUE2MappingPolicy",),
    "GLUE2Endpoint": ("GLUE2AccessPolicy",),
}
"""Classes that a tree may not have without others."""

# --------------------------------------------------------------------------------------------------
# permitted values

_URL = re.compile(
    r"(https?|ldap)://([\w.-]+\.[a-zA-Z]{2,6}|\d{1,3}(\.\d{1,3}){3})(:\d+)?(/.*)?", re.ASCII
)
_TIME = re.compile(
    r"\d{4}-(0\d|1[0-2])-([0-2]\d|3[01])T([01]\d|2[0-3]):[0-5]\d:[0-5]\dZ?", re.ASCII
)
_WORDS = {
    "GLUE2ServiceType": "bdii_site bdii_top org.glite.Argus other",
    "GLUE2EndpointInterfaceName": "bdii_site bdii_top webdav http https ldap other",
    "GLUE2ServiceCapability": (
        "executionmanagement.dynamicvmdeploy security.accounting information.model "
        "information.discovery information.monitoring data.management.storage"
    ),
    "GLUE2ServiceQualityLevel": "development pre-production production testing",
    "GLUE2EndpointQualityLevel": "development pre-production production testing",
    "GLUE2EndpointHealthState": "critical ok other unknown warning",
    "GLUE2EndpointServingState": "closed draining production queueing",
    "GLUE2EndpointTechnology": "corba jndi webservice",
    "GLUE2PolicyScheme": "basic gacl org.glite.standard",
    "GLUE2ContactType": "general security sysadmin usersupport",
    "GLUE2ExecutionEnvironmentPlatform": "amd64 i386 i686 itanium powerpc sparc x86_64",
    "GLUE2ExecutionEnvironmentOSFamily": "linux macosx solaris windows",
    "GLUE2ExecutionEnvironmentOSName": "CentOS Debian Fedoracore Gentoo Ubuntu",
    "GLUE2ExecutionEnvironmentCPUMultiplicity": (
        "multicpu-multicore multicpu-singlecore singlecpu-multicore singlecpu-singlecore"
    ),
    "GLUE2ExecutionEnvironmentVirtualMachine": "TRUE FALSE UNDEFINED",
    "GLUE2ExecutionEnvironmentConnectivityIn": "TRUE FALSE UNDEFINED",
    "GLUE2ExecutionEnvironmentConnectivityOut": "TRUE FALSE UNDEFINED",
}
_WORDS["GLUE2EndpointCapability"] = _WORDS["GLUE2ServiceCapability"]
_SHAPES: Mapping[str, re.Pattern[str]] = {
    "GLUE2EntityCreationTime": _TIME,
    "GLUE2EndpointURL": _URL,
    "GLUE2EndpointSemantics": _URL,
    "GLUE2ApplicationEnvironmentRepository": _URL,
    "GLUE2ServiceStatusInfo": _URL,
    "GLUE2LocationLatitude": re.compile(r"-?\d+(\.\d+)?"),
    "GLUE2LocationLongitude": re.compile(r"-?\d+(\.\d+)?"),
}
_NUMBERS = re.compile(
    r"Total\w+|\w*Jobs|\w+CPUs|\w+Size|CPUClockSpeed|WorkingAreaTotal|SlotsUsed\w+"
)
"""Whole numbers, by the end of the attribute's name."""
_OWN_WORDS = {"OSName": "W044", "Platform": "W042", "OSFamily": "W043"}
"""Vocabularies that glue-validator reports a second time, under these codes."""

_MANAGER, _ENVIRONMENT = "GLUE2ComputingManager", "GLUE2ExecutionEnvironment"
_RANGES: tuple[tuple[str, str, str, Callable[[float], bool]], ...] = (
    ("info", "I051", f"{_MANAGER}TotalLogicalCPUs", lambda n: 10 <= n < 1_000_000),
    ("info", "I053", f"{_MANAGER}TotalPhysicalCPUs", lambda n: 10 <= n < 1_000_000),
    ("info", "I055", f"{_MANAGER}TotalSlots", lambda n: 10 <= n < 1_000_000),
    ("info", "I057", f"{_MANAGER}WorkingAreaTotal", lambda n: n < 1_000_000),
    ("info", "I063", f"{_ENVIRONMENT}TotalInstances", lambda n: 10 <= n < 1_000_000),
    ("info", "I067", f"{_ENVIRONMENT}PhysicalCPUs", lambda n: n <= 10),
    ("info", "I068", f"{_ENVIRONMENT}LogicalCPUs", lambda n: n < 1000),
    ("info", "I069", f"{_ENVIRONMENT}CPUClockSpeed", lambda n: 100 <= n <= 10_000),
    ("info", "I071", f"{_ENVIRONMENT}CPUTimeScalingFactor", lambda n: n <= 1),
    ("info", "I073", f"{_ENVIRONMENT}WallTimeScalingFactor", lambda n: n <= 1),
    ("info", "I075", f"{_ENVIRONMENT}MainMemorySize", lambda n: 100 <= n < 1_000_000),
    ("info", "I077", f"{_ENVIRONMENT}VirtualMemorySize", lambda n: 100 <= n < 1_000_000),
)
_IDENTIFIERS = (
    "Domain",
    "Service",
    "Manager",
    "Endpoint",
    "Share",
    "Resource",
    "ApplicationEnvironment",
    "Policy",
)
_KEY = re.compile(
    r"GLUE2\w+?(Computing\w+|AdminDomain|[A-Z][a-z]+|ApplicationEnvironment)ForeignKey"
)
_KINDS_OF_KEYS = {
    "ComputingService": "Service",
    "ComputingManager": "Manager",
    "AdminDomain": "Domain",
}


def findings(entries: Entries) -> list[Finding]:
    """Return all findings, sorted; an empty list for a perfect tree."""
    found = [finding for dn, attributes in entries.items() for finding in _of_entry(dn, attributes)]
    found += _of_tree(entries)
    return sorted(found)


def _of_entry(dn: str, attributes: Mapping[str, list[str]]) -> Iterator[Finding]:
    for kind in attributes["objectClass"]:
        for severity, code, table in (("warning", "W034", _MUST), ("info", "I095", _SHOULD)):
            for name in table.get(kind, "").split():
                if f"GLUE2{name}" not in attributes:
                    yield Finding(severity, code, f"GLUE2{name}", "missing", dn)
    for name, values in attributes.items():
        for value in values:
            yield from _of_value(dn, name, value)
    for severity, code, name, is_usual in _RANGES:
        for value in attributes.get(name, ()):
            if not is_usual(float(value)):
                yield Finding(severity, code, name, value, dn)
    yield from _of_sums(dn, attributes)
    yield from _of_place(dn, attributes)


def _of_value(dn: str, name: str, value: str) -> Iterator[Finding]:
    if name.startswith("GLUE2") and not value.strip():
        yield Finding("warning", "W038", name, value, dn)
    words, shape = _WORDS.get(name), _SHAPES.get(name)
    if _NUMBERS.fullmatch(
        re.sub("^GLUE2(ComputingService|ComputingManager|ExecutionEnvironment)", "", name)
    ):
        shape = re.compile(r"\d{1,19}")
    if (words and value not in words.split()) or (shape and not shape.fullmatch(value)):
        yield Finding("warning", "W037", name, value, dn)
        for end, code in _OWN_WORDS.items():
            if name.endswith(f"Environment{end}"):
                yield Finding("warning", code, name, value, dn)
    if name in ("GLUE2ServiceID", "GLUE2EndpointID") and value.startswith("_"):
        yield Finding("warning", "W039", name, value, dn)


def _of_sums(dn: str, attributes: Mapping[str, list[str]]) -> Iterator[Finding]:
    def number(name: str) -> int | None:
        return int(attributes[name][0]) if name in attributes else None

    total = number("GLUE2ComputingServiceTotalJobs")
    if total is not None:
        states = ("Running", "Waiting", "Staging", "Suspended", "PreLRMSWaiting")
        parts = sum(number(f"GLUE2ComputingService{state}Jobs") or 0 for state in states)
        if not total * 0.9 <= parts <= total * 1.1:
            yield Finding(
                "warning", "W005", "GLUE2ComputingServiceTotalJobs", f"{total}, parts {parts}", dn
            )
    logical = number(f"{_MANAGER}TotalLogicalCPUs")
    slots = number(f"{_MANAGER}TotalSlots")
    pairs = (
        ("W030", f"{_MANAGER}TotalPhysicalCPUs", logical),
        ("W031", f"{_MANAGER}TotalSlots", logical and logical * 2),
        ("W033", f"{_MANAGER}SlotsUsedByGridJobs", slots and slots - 1),
    )
    for code, name, limit in pairs:
        value = number(name)
        if value is not None and limit is not None and value > limit:
            yield Finding("warning", code, name, f"{value} > {limit}", dn)


def _of_place(dn: str, attributes: Mapping[str, list[str]]) -> Iterator[Finding]:
    domain = re.search(r"GLUE2Domain(?:ID|Id)=([^,]+),", dn)
    for name in (
        "GLUE2ServiceAdminDomainForeignKey",
        "GLUE2LocationDomainForeignKey",
        "GLUE2ContactDomainForeignKey",
    ):
        for value in attributes.get(name, ()):
            if domain and domain[1] != value:
                yield Finding("error", "E026", name, value, dn)


def _of_tree(entries: Entries) -> Iterator[Finding]:
    classes = {kind for attributes in entries.values() for kind in attributes["objectClass"]}
    for kind, needed in _TOGETHER.items():
        for other in needed:
            if kind in classes and other not in classes:
                yield Finding("error", "E025", kind, f"without {other}", "")
    known = {
        kind: Counter(
            value
            for attributes in entries.values()
            for value in attributes.get(f"GLUE2{kind}ID", ())
        )
        for kind in _IDENTIFIERS
    }
    for kind, identifiers in known.items():
        for identifier, number in identifiers.items():
            if number > 1:
                yield Finding("error", "duplicate", f"GLUE2{kind}ID", identifier, "")
    for dn, attributes in entries.items():
        yield from _of_links(dn, attributes, known)


def _of_links(
    dn: str, attributes: Mapping[str, list[str]], known: Mapping[str, Counter[str]]
) -> Iterator[Finding]:
    for name, values in attributes.items():
        key = _KEY.fullmatch(name)
        if key is None or name.endswith("UserDomainForeignKey"):  # no tool publishes user domains
            continue
        kind = _KINDS_OF_KEYS.get(key[1], key[1])
        for value in values if kind in known else ():
            if value not in known[kind]:
                yield Finding("error", "dangling", name, value, dn)
