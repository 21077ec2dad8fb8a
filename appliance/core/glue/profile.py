"""EGI's profile of GLUE 2.0: the rules for entries of clouds and sites, and for a whole tree.

The rules and their codes are those of glue-validator 2.1.0 with ``-g egi-glue2 -s egi-profile``:

    E001 E002 E008 E009 E010 E025 E026    times, coordinates, missing classes, the site's name
    E014 E015 E016 E017                   sizes of a storage that contradict each other
    W001 W002 W003 W004 W005 W006         times, profile, sums
    W030 W031 W032 W033                   figures of a manager that contradict each other
    W034 W036 W037 W038                   attributes: missing, repeated, of another type, empty
    W039 W040 W041 W042 W043 W044         identifiers, versions, platforms and systems
    I019 I020 I051 … I087 I095            unusual figures, recommended attributes that are missing

Classes that neither a cloud nor a site's BDII publishes (queues, shares of storage, benchmarks)
have no rules here. Three rules are our own: ``duplicate-id``, ``dangling-link`` and ``no-class``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from appliance.core.glue.findings import GlueFinding, Severity
from appliance.core.glue.vocabulary import is_of_type
from appliance.core.ldif import Entry, LdifError, normalise_dn, parse_dn

# Attributes of each class without the prefix GLUE2Class: ``Name:Type``, with ``*`` for one of
# several values, ``!`` for a mandatory and ``?`` for a recommended one.
_CLASSES = {
    "Entity": "CreationTime:DateTime? Validity:UInt64 OtherInfo*:Text",
    "Group": "ID:Text!",
    "Location": "ID:Text! Country:Text? Latitude:Real32? Longitude:Real32? DomainForeignKey*:Text",
    "Contact": "ID:Text! Detail:Text! Type:ContactType! DomainForeignKey:Text",
    "Domain": "ID:Text! Description:Text WWW*:URL",
    "AdminDomain": "Distributed:Boolean Owner*:Text AdminDomainForeignKey*:Text",
    "Service": "ID:Text! Capability*:Capability? Type:ServiceType! QualityLevel:QualityLevel! "
    "StatusInfo*:URL Complexity:Text AdminDomainForeignKey:Text!",
    "Endpoint": "ID:Text! URL:URL! Capability*:Capability? Technology:Technology "
    "InterfaceName:InterfaceName! InterfaceVersion:Text? WSDL*:URL Semantics*:URL Implementor:Text "
    "ImplementationName:Text! ImplementationVersion:Text! QualityLevel:QualityLevel! "
    "HealthState:HealthState! HealthStateInfo*:Text ServingState:ServingState! StartTime:DateTime "
    "IssuerCA:Text? TrustedCA*:Text DowntimeAnnounce:DateTime DowntimeEnd:DateTime "
    "DowntimeInfo:Text ServiceForeignKey:Text",
    "Policy": "ID:Text! Scheme:PolicyScheme! Rule*:Text! UserDomainForeignKey*:Text?",
    "AccessPolicy": "EndpointForeignKey:Text",
    "MappingPolicy": "ShareForeignKey:Text",
    "Share": "ID:Text! Description:Text ServiceForeignKey:Text",
    "Manager": "ID:Text! ProductName:Text! ProductVersion:Text! ServiceForeignKey:Text",
    "Resource": "ID:Text! ManagerForeignKey:Text",
    "ComputingService": "TotalJobs:UInt32? RunningJobs:UInt32? WaitingJobs:UInt32? "
    "StagingJobs:UInt32 SuspendedJobs:UInt32 PreLRMSWaitingJobs:UInt32",
    "ComputingEndpoint": "TotalJobs:UInt32 RunningJobs:UInt32 WaitingJobs:UInt32",
    "ComputingManager": "TotalPhysicalCPUs:UInt32! TotalLogicalCPUs:UInt32! TotalSlots:UInt32? "
    "SlotsUsedByLocalJobs:UInt32 SlotsUsedByGridJobs:UInt32? WorkingAreaTotal:UInt64 "
    "WorkingAreaFree:UInt64 ComputingServiceForeignKey:Text!",
    "ExecutionEnvironment": "Platform:Platform! VirtualMachine:Boolean TotalInstances:UInt32? "
    "UsedInstances:UInt32 UnavailableInstances:UInt32 PhysicalCPUs:UInt32? LogicalCPUs:UInt32? "
    "CPUMultiplicity:CPUMultiplicity? CPUVendor:Text? CPUModel:Text? CPUVersion:Text? "
    "CPUClockSpeed:UInt32? CPUTimeScalingFactor:Real32! WallTimeScalingFactor:Real32! "
    "MainMemorySize:UInt64! VirtualMemorySize:UInt64! OSFamily:OSFamily! OSName:OSName! "
    "OSVersion:Text! ConnectivityIn:Boolean! ConnectivityOut:Boolean! NetworkInfo*:Text "
    "ComputingManagerForeignKey:Text!",
    "ApplicationEnvironment": "ID:Text! AppName:Text! AppVersion:Text Repository:URL "
    "Description:Text ComputingManagerForeignKey:Text",
    "StorageServiceCapacity": "ID:Text! Type:StorageCapacity! TotalSize:UInt64! FreeSize:UInt64? "
    "UsedSize:UInt64? ReservedSize:UInt64? StorageServiceForeignKey:Text",
    "StorageAccessProtocol": "ID:Text! Type:StorageAccessProtocol! Version:Text! MaxStreams:UInt32 "
    "StorageServiceForeignKey:Text",
    "StorageManager": "StorageServiceForeignKey:Text!",
}
# Usual figures, from and below, with the codes of too small and too large ones.
_RANGES = {
    "ComputingManagerTotalLogicalCPUs": (10, 10**6, "I051", "I052"),
    "ComputingManagerTotalPhysicalCPUs": (10, 10**6, "I053", "I054"),
    "ComputingManagerTotalSlots": (10, 10**6, "I055", "I056"),
    "ComputingManagerWorkingAreaTotal": (0, 10**6, "", "I057"),
    "ComputingManagerWorkingAreaFree": (0, 10**6, "", "I058"),
    "ComputingServiceRunningJobs": (0, 10**6, "", "I014"),
    "ComputingServiceWaitingJobs": (0, 10**6, "", "I015"),
    "ComputingServiceStagingJobs": (0, 10**6, "", "I016"),
    "ComputingServiceSuspendedJobs": (0, 10**6, "", "I017"),
    "ExecutionEnvironmentTotalInstances": (10, 10**6, "I063", "I064"),
    "ExecutionEnvironmentPhysicalCPUs": (0, 11, "", "I067"),
    "ExecutionEnvironmentLogicalCPUs": (0, 1000, "", "I068"),
    "ExecutionEnvironmentCPUClockSpeed": (100, 10_001, "I070", "I069"),
    "ExecutionEnvironmentCPUTimeScalingFactor": (0.1, 1.000001, "I072", "I071"),
    "ExecutionEnvironmentWallTimeScalingFactor": (0.1, 1.000001, "I074", "I073"),
    "ExecutionEnvironmentMainMemorySize": (100, 10**6, "I076", "I075"),
    "ExecutionEnvironmentVirtualMemorySize": (100, 10**6, "I078", "I077"),
    "StorageServiceCapacityTotalSize": (1000, 10**9 + 1, "I086", "I087"),
}
# A figure that another one of the same entry limits: the factor, and whether it may be equal.
_LIMITS = (
    ("W030", "ComputingManagerTotalPhysicalCPUs", "ComputingManagerTotalLogicalCPUs", 1, True),
    ("W031", "ComputingManagerTotalSlots", "ComputingManagerTotalLogicalCPUs", 2, True),
    ("W032", "ComputingManagerSlotsUsedByLocalJobs", "ComputingManagerTotalSlots", 1, False),
    ("W033", "ComputingManagerSlotsUsedByGridJobs", "ComputingManagerTotalSlots", 1, False),
)
# Values that glue-validator checks a second time, under codes of their own.
_AGAIN = {
    "GLUE2ExecutionEnvironmentPlatform": "W042",
    "GLUE2ExecutionEnvironmentOSFamily": "W043",
    "GLUE2ExecutionEnvironmentOSName": "W044",
}
# Classes that a tree may not have without others.
_TOGETHER = (
    ("Domain", "Location"),
    ("Domain", "Contact"),
    ("ComputingService", "Service"),
    ("ComputingService", "ComputingManager"),
    ("ComputingManager", "ExecutionEnvironment"),
    ("ComputingEndpoint", "Endpoint"),
    ("Endpoint", "AccessPolicy"),
    ("Share", "MappingPolicy"),
    ("StorageService", "Service"),
    ("StorageService", "StorageAccessProtocol"),
    ("StorageEndpoint", "Endpoint"),
)
_MARGIN = timedelta(minutes=2)
_OLD = timedelta(days=730)
_SITE_KEYS = (
    "GLUE2LocationDomainForeignKey",
    "GLUE2ContactDomainForeignKey",
    "GLUE2ServiceAdminDomainForeignKey",
)
# Values that the profile does not want.
_UNFIT: Sequence[tuple[Severity, str, str, Callable[[str], bool]]] = (
    (Severity.WARNING, "W039", "GLUE2ServiceID", lambda value: value.startswith("_")),
    (Severity.WARNING, "W040", "GLUE2EndpointID", lambda value: value.startswith("_")),
    (
        *(Severity.WARNING, "W041", "GLUE2EndpointImplementationVersion"),
        lambda value: "is not installed" in value,
    ),
    (Severity.INFO, "I019", "GLUE2EndpointIssuerCA", lambda value: value == "unknown"),
    (Severity.INFO, "I020", "GLUE2EndpointTrustedCA", lambda value: value == "unknown"),
    (
        *(Severity.WARNING, "W003", "GLUE2EntityOtherInfo"),
        lambda value: value.startswith("ProfileName=") and value != "ProfileName=EGI",
    ),
)
_IDENTIFIER = re.compile(r"GLUE2(?P<kind>[A-Za-z]+)I[Dd]")
# The class that a foreign key leads to, by the end of its name; the first that fits counts.
_LINKS = (
    ("ComputingServiceForeignKey", "Service"),
    ("ComputingManagerForeignKey", "Manager"),
    ("AdminDomainForeignKey", "Domain"),
    ("UserDomainForeignKey", ""),  # nobody publishes user domains
    ("DomainForeignKey", "Domain"),
    ("ServiceForeignKey", "Service"),
    ("EndpointForeignKey", "Endpoint"),
    ("ManagerForeignKey", "Manager"),
    ("ResourceForeignKey", "Resource"),
    ("ShareForeignKey", "Share"),
)


@dataclass(frozen=True, slots=True)
class _AttributeRule:
    """The rule for one attribute of a class. ``level`` is ``!``, ``?`` or empty."""

    attribute: str
    type: str
    is_single: bool
    level: str


def _parsed(kind: str, text: str) -> Iterator[_AttributeRule]:
    for word in text.split():
        name, _, rest = word.partition(":")
        type_ = rest.rstrip("!?")
        attribute = f"GLUE2{kind}{name.removesuffix('*')}"
        yield _AttributeRule(attribute, type_, not name.endswith("*"), rest.removeprefix(type_))


_RULES: Mapping[str, tuple[_AttributeRule, ...]] = {
    f"GLUE2{kind}": tuple(_parsed(kind, text)) for kind, text in _CLASSES.items()
}
_Found = Callable[[Severity, str, str, str], GlueFinding]


def findings(
    entries: Sequence[Entry], *, now: datetime, with_creation_times: bool = True
) -> list[GlueFinding]:
    """Return all findings in a tree, in the order of its entries; none for a perfect one.

    Args:
        entries: the tree.
        now: the time at which it is published.
        with_creation_times: whether missing times of creation are reported; a provider leaves
            them to the BDII.

    """
    found = [finding for entry in entries for finding in _of_entry(entry, now)]
    if not with_creation_times:
        found = [each for each in found if (each.code, each.attribute) != _NO_CREATION_TIME]
    return [*found, *_of_classes(entries), *_of_links(entries)]


_NO_CREATION_TIME = ("I095", "GLUE2EntityCreationTime")


def _of_entry(entry: Entry, now: datetime) -> Iterator[GlueFinding]:
    found = partial(_finding, entry.dn)
    rules = [rule for kind in entry.get("objectClass") for rule in _RULES.get(kind, ())]
    if not entry.get("objectClass"):
        yield found(Severity.ERROR, "no-class", "objectClass", "is missing")
    for rule in rules:
        yield from _of_attribute(rule, entry, found)
    yield from _of_figures(entry, found)
    yield from _of_times(entry, now, found)
    yield from _of_place(entry, found)
    yield from _of_texts(entry, found)


def _finding(dn: str, severity: Severity, code: str, attribute: str, text: str) -> GlueFinding:
    return GlueFinding(severity, code, dn, attribute, text)


def _of_attribute(rule: _AttributeRule, entry: Entry, found: _Found) -> Iterator[GlueFinding]:
    name, values = rule.attribute, entry.get(rule.attribute)
    if not values and rule.level == "!":
        yield found(Severity.WARNING, "W034", name, "is mandatory and missing")
    elif not values and rule.level == "?":
        yield found(Severity.INFO, "I095", name, "is recommended and missing")
    if len(values) > 1 and rule.is_single:
        yield found(Severity.WARNING, "W036", name, f"has {len(values)} values, one is allowed")
    for value in values:
        if value == "":
            yield found(Severity.WARNING, "W038", name, "is empty")
        elif not is_of_type(rule.type, value):
            text = f"{value!r} is not of the type {rule.type}"
            yield found(Severity.WARNING, "W037", name, text)
            if name in _AGAIN:
                yield found(Severity.WARNING, _AGAIN[name], name, text)


def _number(entry: Entry, name: str) -> float | None:
    """Return the figure of an attribute; None if it is missing or no number."""
    try:
        figure = float(entry.get(f"GLUE2{name}")[0])
    except (IndexError, ValueError):
        return None
    return figure if math.isfinite(figure) else None


def _of_figures(entry: Entry, found: _Found) -> Iterator[GlueFinding]:
    for name, (least, end, small, large) in _RANGES.items():
        figure = _number(entry, name)
        if figure is not None and not least <= figure < end:
            text = f"{entry.get(f'GLUE2{name}')[0]} is unusual"
            yield found(Severity.INFO, small if figure < least else large, f"GLUE2{name}", text)
    for code, name, other, factor, may_be_equal in _LIMITS:
        figure, limit = _number(entry, name), _number(entry, other)
        if figure is None or limit is None:
            continue
        if figure > limit * factor or (figure == limit * factor and not may_be_equal):
            text = f"{figure:.0f} does not fit GLUE2{other}, {limit:.0f}"
            yield found(Severity.WARNING, code, f"GLUE2{name}", text)
    yield from _of_sum(entry, found)
    yield from _of_sizes(entry, found)


def _of_sizes(entry: Entry, found: _Found) -> Iterator[GlueFinding]:
    """Check that the parts of a storage sum up to its size, within half a percent and 1 GB."""
    total = _number(entry, "StorageServiceCapacityTotalSize")
    if total is None:
        return
    parts = {
        kind: _number(entry, f"StorageServiceCapacity{kind}Size")
        for kind in ("Free", "Used", "Reserved")
    }
    published = sum(part or 0 for part in parts.values())
    if not total * 0.995 - 1 <= published <= total * 1.005 + 1:
        text = f"{total:.0f}, but free, used and reserved GB sum up to {published:.0f}"
        yield found(Severity.ERROR, "E014", "GLUE2StorageServiceCapacityTotalSize", text)
    for code, (kind, part) in zip(("E015", "E016", "E017"), parts.items(), strict=True):
        if part is not None and part > total:
            name = f"GLUE2StorageServiceCapacity{kind}Size"
            text = f"{part:.0f} is more than the total size, {total:.0f}"
            yield found(Severity.ERROR, code, name, text)


def _of_sum(entry: Entry, found: _Found) -> Iterator[GlueFinding]:
    """Check that the jobs of a service are the sum of the jobs in each state, within a tenth."""
    total = _number(entry, "ComputingServiceTotalJobs")
    if total is None:
        return
    states = ("Running", "Waiting", "Staging", "Suspended", "PreLRMSWaiting")
    parts = sum(_number(entry, f"ComputingService{state}Jobs") or 0 for state in states)
    if not total * 0.9 <= parts <= total * 1.1:
        text = f"{total:.0f}, but the states sum up to {parts:.0f}"
        yield found(Severity.WARNING, "W005", "GLUE2ComputingServiceTotalJobs", text)


def _of_times(entry: Entry, now: datetime, found: _Found) -> Iterator[GlueFinding]:
    created = _time(entry, "GLUE2EntityCreationTime")
    for name, time, future, past in (
        ("GLUE2EntityCreationTime", created, "E001", "W001"),
        ("GLUE2EndpointStartTime", _time(entry, "GLUE2EndpointStartTime"), "E010", "W006"),
    ):
        if time is not None and time > now + _MARGIN:
            yield found(Severity.ERROR, future, name, f"{time:%Y-%m-%d %H:%M} is in the future")
        elif time is not None and time < now - _OLD:
            text = f"{time:%Y-%m-%d} is more than two years ago"
            yield found(Severity.WARNING, past, name, text)
    for validity in entry.get("GLUE2EntityValidity")[:1]:
        if created is None:
            text = "has no time of creation from which it counts"
            yield found(Severity.WARNING, "W002", "GLUE2EntityValidity", text)
        elif is_of_type("UInt32", validity) and created + _lasts(validity) < now:
            text = f"ended {validity} s after the time of creation"
            yield found(Severity.ERROR, "E002", "GLUE2EntityValidity", text)


def _lasts(validity: str) -> timedelta:
    """Return a validity; glue-validator takes ARC's 60 seconds for ten minutes."""
    return timedelta(seconds=600 if validity == "60" else int(validity))


def _time(entry: Entry, name: str) -> datetime | None:
    try:
        return datetime.strptime(f"{entry.get(name)[0]}+0000", "%Y-%m-%dT%H:%M:%SZ%z")
    except (IndexError, ValueError):
        return None


def _of_place(entry: Entry, found: _Found) -> Iterator[GlueFinding]:
    domain = _domain(entry.dn)
    for name in _SITE_KEYS:
        for value in entry.get(name):
            if domain and value != domain:
                text = f"{value!r} is not the site in whose tree it is, {domain!r}"
                yield found(Severity.ERROR, "E026", name, text)
    for name, most, code in (("Longitude", 180, "E008"), ("Latitude", 90, "E009")):
        figure = _number(entry, f"Location{name}")
        if figure is not None and abs(figure) >= most:
            text = f"{figure} is not between -{most} and {most}"
            yield found(Severity.ERROR, code, f"GLUE2Location{name}", text)


def _of_texts(entry: Entry, found: _Found) -> Iterator[GlueFinding]:
    for severity, code, name, is_unfit in _UNFIT:
        for value in entry.get(name):
            if is_unfit(value):
                yield found(severity, code, name, f"{value!r} is not allowed")


def _domain(dn: str) -> str:
    """Return the site in a name; empty for an entry outside of a site's tree."""
    try:
        rdns = parse_dn(dn)
    except LdifError:
        return ""
    names = (value for rdn in rdns for kind, value in rdn if kind.lower() == "glue2domainid")
    return next(names, "")


def _of_classes(entries: Iterable[Entry]) -> Iterator[GlueFinding]:
    present = {kind for entry in entries for kind in entry.get("objectClass")}
    for kind, needed in _TOGETHER:
        if f"GLUE2{kind}" in present and f"GLUE2{needed}" not in present:
            text = f"entries of this class need entries of the class GLUE2{needed}; there are none"
            yield GlueFinding(Severity.ERROR, "E025", "", f"GLUE2{kind}", text)


def _of_links(entries: Sequence[Entry]) -> Iterator[GlueFinding]:
    """Check that identifiers are unique in their class, and that foreign keys lead somewhere."""
    known: dict[str, dict[str, str]] = {}
    for entry in entries:
        kind, identifier = _identity(entry)
        if not kind:
            continue
        first = known.setdefault(kind, {}).setdefault(identifier, entry.dn)
        # groups are containers, of which each tree has its own; a name twice is judged elsewhere
        if first != entry.dn and kind != "Group" and normalise_dn(first) != normalise_dn(entry.dn):
            text = f"{identifier!r} is also that of {first}"
            yield GlueFinding(Severity.ERROR, "duplicate-id", entry.dn, f"GLUE2{kind}ID", text)
    for entry in entries:
        for name, values in entry.attributes.items():
            kind = next((kind for end, kind in _LINKS if name.endswith(end)), "")
            # Sites are not in the tree of a resource's BDII, so only known classes are judged.
            for value in values if kind in known else ():
                if value not in known[kind]:
                    text = f"{value!r} is not the ID of any entry of the class GLUE2{kind}"
                    yield GlueFinding(Severity.ERROR, "dangling-link", entry.dn, name, text)


def _identity(entry: Entry) -> tuple[str, str]:
    """Return the kind and the identifier by which an entry is named; empty if it is not GLUE's."""
    try:
        kind, value = parse_dn(entry.dn)[0][0]
    except (IndexError, LdifError):
        return "", ""
    found = _IDENTIFIER.fullmatch(kind)
    return (found["kind"], value) if found else ("", "")
