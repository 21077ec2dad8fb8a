"""C71, C73 and C75 with the account of accounting: `caso-extract --check-live --as-egi`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from appliance.core.cloud import monitored
from appliance.core.run.finding import Finding
from caso.cmds import extract
from caso.ledger.ledger import Ledger
from caso.ledger.model import LedgerRow, Month, Origin, Span, Stream
from tests.simulators import openstack
from tests.simulators.information_service import InformationService
from tests.simulators.openstack import Answer, Cloud
from tests.simulators.probed_cloud import (
    REF,
    ProbedCloud,
    entitlement,
    flavor,
    image,
    mapping,
    network,
)
from tests.testbed import Authority
from tests.unit.test_check_cloud import printed

PASSWORD = "geheim-48"
CASO = f"""\
[DEFAULT]
site_name = SITE
projects = one,two
extractor = nova
vo_property = VO
messengers = noop
[keystone_auth]
auth_type = v3password
auth_url = {{url}}/v3
username = accounting
password = {PASSWORD}
user_domain_name = Default
"""


@dataclass
class Asked:
    """A site of accounting, and what its check says with ``--as-egi``."""

    root: Path
    probed: ProbedCloud
    capsys: pytest.CaptureFixture[str]
    said: str = ""

    @property
    def path(self) -> Path:
        return self.root / "caso.conf"

    def check(self, *words: str, part: str = "cloud", vo: str = "vo.one") -> list[Finding]:
        command = ["--root", str(self.root), "--config-file", str(self.path), "--check-live"]
        flags = ["--as-egi", part, "--egi-vo", vo, *words, "--log-json"]
        status = extract.main([*command, *flags])
        self.said = self.capsys.readouterr().err
        assert PASSWORD not in self.said
        found = printed(self.said)
        assert status == any(one.is_error for one in found), self.said
        assert all(one.tried for one in found)
        return found

    def the_one(self, *words: str) -> Finding:
        (found,) = self.check(*words)
        return found

    def values(self, section: str) -> list[tuple[str, str]]:
        lines = [json.loads(line) for line in self.said.splitlines() if line.startswith("{")]
        made: list[dict[str, Any]] = [line["value"] for line in lines if "value" in line]
        return [(one["option"], one["text"]) for one in made if one["section"] == section]


@pytest.fixture
def probed() -> ProbedCloud:
    return ProbedCloud()


@pytest.fixture
def cloud(probed: ProbedCloud) -> Iterator[Cloud]:
    made = Cloud(projects=("one", "two"), servers=0, deleted=0, fault=probed.answer)
    with openstack.serving(made) as served:
        yield served


@pytest.fixture
def asked(
    tmp_path: Path,
    cloud: Cloud,
    probed: ProbedCloud,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Asked:
    monkeypatch.setattr(monitored, "_PAUSE", 0.01)
    made = Asked(tmp_path, probed, capsys)
    made.path.touch(mode=0o600)
    made.path.write_text(CASO.replace("{url}", cloud.url))
    return made


# --------------------------------------------------------------------------------------------------
# C71


def test_a_site_that_monitoring_can_use(asked: Asked, cloud: Cloud) -> None:
    """Nothing is found and nothing is made; the VOs and Keystone's URL are noted."""
    assert asked.check() == []
    assert asked.check("--egi-image", REF) == []
    assert asked.probed.made == []
    facts = asked.values("fact")
    assert facts == [("Keystone", f"{cloud.url}/v3"), ("VO", "vo.one"), ("VO", "vo.two")]


@pytest.mark.parametrize(
    ("images", "words", "text"),
    [
        ([], (), "no active image in the project has eu.egi.cloud.image_ref, so"),
        ([image("i1", "")], (), "no active image in the project has eu.egi.cloud.image_ref, so"),
        ([image("i1")], ("--egi-image", "x/y:1"), "has eu.egi.cloud.image_ref x/y:1, so"),
        (
            [image("i0", APPLIANCE_ATTRIBUTES="{not"), image("i1")],
            (),
            "the image i0 has a property APPLIANCE_ATTRIBUTES that is no JSON object",
        ),
        ([image("i0", APPLIANCE_ATTRIBUTES="[]")], (), "the image i0 has a property"),
    ],
)
def test_an_image_that_the_probe_does_not_take(
    images: list[dict[str, Any]], words: tuple[str, ...], text: str, asked: Asked
) -> None:
    """C71.a: in the line that lists the project; silent once it is healed."""
    asked.probed.images = images
    found = asked.the_one(*words)
    assert (found.identifier, found.path, found.line) == ("C71.a", str(asked.path), 3)
    assert text in found.text
    asked.probed.images = [image("i1", "", APPLIANCE_ATTRIBUTES=None), image("i2")]
    assert asked.check() == []


def test_flavors_without_a_disk(asked: Asked) -> None:
    """C71.b."""
    asked.probed.flavors = [flavor("tiny", disk=7)]
    assert asked.the_one().identifier == "C71.b"
    asked.probed.flavors.append(flavor("small", disk=8))
    assert asked.check() == []


@pytest.mark.parametrize(
    "networks",
    [
        [],
        [network("n1", status="DOWN")],
        [network("a", owner="x", shared=True), network("b", owner="x", shared=True)],
        [network("a", owner="x")],
    ],
)
def test_a_project_without_a_network(networks: list[dict[str, Any]], asked: Asked) -> None:
    """C71.c; one shared network is what Nova chooses by itself."""
    asked.probed.networks = networks
    assert asked.the_one().identifier == "C71.c"
    asked.probed.networks = [network("a", owner="x", shared=True)]
    assert asked.check() == []


def test_a_site_without_the_vo_of_monitoring(asked: Asked) -> None:
    (found,) = asked.check(vo="ops")
    assert found.identifier == "C71"
    assert "no project of the VO ops is known here" in found.text


def test_a_server_is_booted_and_deleted(asked: Asked) -> None:
    """The image, the flavor with the fewest vCPUs, then the least memory, and the own network."""
    asked.probed.images = [image("i0", "other/x:1"), image("i1")]
    asked.probed.flavors = [
        flavor("large", vcpus=2, ram=512),
        flavor("medium", ram=4096),
        flavor("small", ram=1024),
        flavor("tiny", ram=64, disk=1),
    ]
    asked.probed.networks = [network("a", owner="x", shared=True), network("n1")]
    assert asked.check("--write", "--egi-image", REF) == []
    (made,) = asked.probed.made
    assert (made["imageRef"], made["flavorRef"], made["networks"]) == (
        "i1",
        "small",
        [{"uuid": "n1"}],
    )
    assert asked.probed.deleted == ["new-1"]
    assert asked.probed.servers == {}


def test_nova_chooses_the_network_as_for_the_probe(asked: Asked) -> None:
    asked.probed.networks = [network("a", owner="x", shared=True)]
    assert asked.check("--write") == []
    assert "networks" not in asked.probed.made[0]


def fails(probed: ProbedCloud) -> None:
    probed.boots = ["BUILD", "ERROR"]


def refuses(probed: ProbedCloud) -> None:
    words = {"code": 403, "message": "Quota exceeded for cores"}
    probed.refusal = Answer(403, {"forbidden": words})


def never(probed: ProbedCloud) -> None:
    probed.boots = ["BUILD"]


def stays(probed: ProbedCloud) -> None:
    probed.keeps = True


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (fails, "ends in the status ERROR: No valid host was found."),
        (refuses, "Nova refuses to boot the image i1: Quota exceeded for cores; "),
        (never, "is not active after 0 s"),
        (stays, "the server new-1 is still there"),
    ],
)
def test_a_server_that_does_not_boot(
    fault: Callable[[ProbedCloud], None],
    words: str,
    asked: Asked,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """C71.d: what was made is deleted all the same."""
    for name in ("BOOT", "_GONE"):
        monkeypatch.setattr(monitored, name, timedelta(seconds=0.1))
    fault(asked.probed)
    found = asked.the_one("--write")
    assert (found.identifier, found.path, found.line) == ("C71.d", str(asked.path), 3)
    assert words in found.text
    assert asked.probed.deleted == ["new-1"] * len(asked.probed.made)
    asked.probed.refusal, asked.probed.keeps, asked.probed.boots = None, False, ["ACTIVE"]
    asked.probed.servers.clear()
    assert asked.check("--write") == []


def server(number: str, *, age: timedelta, **metadata: str) -> dict[str, Any]:
    created = (datetime.now(UTC) - age).strftime("%Y-%m-%dT%H:%M:%SZ")
    kept = {"tenant_id": "one", "status": "ACTIVE", "created": created, "metadata": metadata}
    return {"id": number, "name": f"fedcloud-check-{number}", **kept}


def test_servers_of_a_killed_run_are_named_then_deleted(asked: Asked) -> None:
    """Neither the servers of others, nor those of a check that runs now."""
    mark = {"fedcloud-check": "1"}
    asked.probed.servers = {
        "old": server("old", age=timedelta(hours=1), **mark),
        "now": server("now", age=timedelta(minutes=5), **mark),
        "user": server("user", age=timedelta(hours=1)),
        "argo": server("argo", age=timedelta(hours=1), **{"argo-mon-host": "x"}),
    }
    assert asked.check() == []
    text = "with --write, deletes fedcloud-check-old (old) of a former run"
    assert asked.values("note") == [("C71", text)]
    assert asked.probed.deleted == []
    assert asked.check("--write") == []
    assert asked.probed.deleted == ["old", "new-1"]
    assert set(asked.probed.servers) == {"now", "user", "argo"}
    assert asked.check() == []
    assert asked.values("note") == []


# --------------------------------------------------------------------------------------------------
# C73


def test_an_entitlement_without_a_project(asked: Asked) -> None:
    """C73.a, in the line of the VO's project."""
    asked.probed.groups["g2"] = []
    found = asked.the_one()
    assert (found.identifier, found.option, found.path, found.line) == (
        "C73.a",
        "vo.two",
        str(asked.path),
        3,
    )
    del asked.probed.groups["g2"]
    assert asked.the_one().identifier == "C73.a"
    asked.probed.groups["g2"] = ["two"]
    assert asked.check() == []


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ((entitlement("vo.one"), {"projects": [{"name": "two"}]}), "leads to 2 projects, one and"),
        ((entitlement("vo.new"), {"projects": [{"name": "one"}]}), "vo.new and vo.one lead to one"),
    ],
)
def test_an_entitlement_twice(rule: Any, words: str, asked: Asked) -> None:
    """C73.b: a VO with two projects, and two VOs with one; other mappings do not count."""
    asked.probed.mappings.append(mapping((r"^urn:geant:other:group:x$", {"group": {"id": "g1"}})))
    assert asked.check() == []
    asked.probed.mappings.append(mapping(rule))
    found = {one.identifier for one in asked.check()}
    assert found == {"C73.b"}
    assert words in asked.said
    asked.probed.mappings.pop()
    assert asked.check() == []


def test_a_vo_that_no_rule_is_for(asked: Asked) -> None:
    """C73.c, in the line of the VO's project; a rule with a pattern that matches it counts."""
    asked.probed.mappings = [mapping((entitlement("vo.one"), {"group": {"id": "g1"}}))]
    found = asked.the_one()
    assert (found.identifier, found.option, found.path, found.line, found.is_error) == (
        "C73.c",
        "vo.two",
        str(asked.path),
        3,
        False,
    )
    assert "appliance vo plan vo.two" in found.text
    for pattern, is_for_it in ((r"vo\.t.*", True), (r"vo\.x.*", False), ("vo.t(", False)):
        rule = {"local": [], "remote": [{"any_one_of": [entitlement(pattern)], "regex": True}]}
        asked.probed.mappings.append({"id": "more", "rules": [rule]})
        rows = {(one.identifier, one.option) for one in asked.check()}
        assert (("C73.c", "vo.two") not in rows) == is_for_it, pattern
        asked.probed.mappings.pop()


@pytest.mark.parametrize(
    ("mappings", "is_open", "words"),
    [
        ([], True, "Keystone has no mapping with entitlements of EGI"),
        ([{"rules": [{"remote": [{"any_one_of": 3}], "local": 1}]}, 7], True, "has no mapping"),
        ([], False, "the account may not read Keystone's mappings"),
    ],
)
def test_what_cannot_be_compared_is_a_note(
    mappings: list[Any], is_open: bool, words: str, asked: Asked
) -> None:
    asked.probed.mappings, asked.probed.is_open = mappings, is_open
    assert asked.check() == []
    ((row, text),) = asked.values("note")
    assert row == "C73"
    assert words in text


def test_a_login_that_fails_is_reported_once(asked: Asked, cloud: Cloud) -> None:
    """And Keystone's URL is known all the same."""
    words = {"error": {"code": 401, "message": "no", "title": "Unauthorized"}}
    cloud.fault = lambda request: (
        Answer(401, words) if request.path == "/v3/auth/tokens" else asked.probed.answer(request)
    )
    assert [one.identifier for one in asked.check()] == ["C30.a"]
    assert asked.values("fact") == [("Keystone", f"{cloud.url}/v3")]


# --------------------------------------------------------------------------------------------------
# C75

NOW = datetime.now(UTC)
BORDER = NOW.replace(day=1, hour=0, minute=0, second=0, microsecond=0) - timedelta(seconds=1)
"""The last second of the month before this one."""


def used(key: str, hours: int, until: datetime, vo: str = "vo.one") -> LedgerRow:
    month = Month(until.year * 100 + until.month)
    return LedgerRow(key, month, hours * 3600, until, vo, "user", 2 * hours * 3600)


@pytest.fixture
def portal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InformationService]:
    """Serve the portal's table over TLS, with an authority that the environment names."""
    authority = Authority.create(tmp_path_factory.mktemp("ca"), key="ec")
    own = authority.issue("portal.example.net", hosts=["127.0.0.1"], key="ec")
    with InformationService().serve(own) as served, pytest.MonkeyPatch.context() as patch:
        patch.setenv("REQUESTS_CA_BUNDLE", str(authority.certificate))
        yield served


def publish(portal: InformationService, text: str, *, status: int = 200) -> None:
    portal.answers["/months"] = (status, text.encode(), {})


@pytest.fixture
def delivering(asked: Asked, portal: InformationService) -> Callable[[], list[Finding]]:
    """Return a check of a site that has delivered 40 hours of one VO and 10 of another."""
    text = asked.path.read_text().replace("= noop", "= ssm")
    spool = f"spooldir = {asked.root}/caso\n[ssm]\noutput_path = {asked.root}/out\n"
    asked.path.write_text(text.replace("[keystone_auth]", f"{spool}[keystone_auth]"))
    (asked.root / "out").mkdir()
    rows = [used("a", 40, BORDER), used("b", 10, BORDER, "vo.two"), used("c", 5, NOW)]
    with Ledger(asked.root / "caso/ledger.sqlite") as made:
        origin = Origin(f"{asked.path}", "", "one")
        intent = made.deliveries.intent("batch", Stream(origin, "cloud", "ssm"))
        intent.add(b"\1" * 32, rows)
        intent.seal(Span(BORDER - timedelta(days=2), NOW), checkpoint=NOW)
        made.deliveries.confirm("batch")

    def check() -> list[Finding]:
        before = {path: path.read_bytes() for path in asked.root.rglob("*") if path.is_file()}
        found = asked.check("--portal-url", f"{portal.url}/months", part="portal")
        assert {path: path.read_bytes() for path in before} == before
        return [one for one in found if one.family == "C75"]

    return check


MONTH = f"{BORDER:%Y-%m}"
GOOD = f"vo,month,vms,wall_hours\nvo.one,{MONTH}-01T00:00:00Z,1,40.2\nvo.two,{MONTH},1,10\n"


def test_months_that_have_arrived(
    delivering: Callable[[], list[Finding]], portal: InformationService
) -> None:
    """The running month does not count: the portal is a day behind."""
    publish(portal, GOOD)
    assert delivering() == []
    publish(
        portal,
        json.dumps(
            [
                {"vo": "vo.one", "month": MONTH, "wall_hours": 40},
                {"vo": "vo.two", "month": MONTH, "wall_hours": 10},
            ]
        ),
    )
    assert delivering() == []


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("1,40.2", "1,30", "not all has arrived; send that month again: "),
        (f"vo.two,{MONTH},1,10\n", "", "not all has arrived; send that month again: "),
        ("1,40.2", "2,80", "delivered by another program, or twice; look who else sends it: "),
    ],
)
def test_a_month_that_differs_at_the_portal(
    old: str,
    new: str,
    words: str,
    delivering: Callable[[], list[Finding]],
    portal: InformationService,
    asked: Asked,
) -> None:
    """C75: one finding for a VO and month; silent once it is healed."""
    publish(portal, GOOD.replace(old, new))
    (found,) = delivering()
    assert (found.identifier, found.path) == ("C75", f"{asked.root}/caso/ledger.sqlite")
    assert words in found.text
    verb = f"caso republish --month {MONTH}" if "again" in words else "caso reconcile --from"
    assert verb in found.text
    publish(portal, GOOD)
    assert delivering() == []


@pytest.mark.parametrize(
    ("text", "status", "words"),
    [
        ("<html>", 200, "its answer is no table of months"),
        ("vo,month,wall_hours\na,b,c\n", 200, "its answer is no table of months"),
        ("no", 503, "answers 503 to a request for the portal's months"),
    ],
)
def test_a_portal_without_a_table(
    text: str,
    status: int,
    words: str,
    delivering: Callable[[], list[Finding]],
    portal: InformationService,
) -> None:
    publish(portal, text, status=status)
    (found,) = delivering()
    assert (found.identifier, found.is_error) == ("C75", False)
    assert words in found.text
    assert "correct portal in the block egi of /etc/fedcloud/appliance.yaml" in found.text


def test_a_site_without_a_ledger(asked: Asked, portal: InformationService) -> None:
    """One that runs cASO, for example: a note, and no request."""
    found = asked.check("--portal-url", f"{portal.url}/months", part="portal")
    assert found == []
    assert asked.values("note") == [
        ("C75", "nothing was delivered by this ledger yet, so no month is compared")
    ]
    assert portal.paths == []
    assert not (asked.root / "var").exists()
