"""`appliance check --as-egi` on a site that runs cASO and SSM beside EGI's catch-all.

No installer of ours has run, so no file names a service of EGI: a proxy leads EGI's own names to
simulators.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from appliance.admin.command import main
from appliance.admin.runtime import native
from tests.simulators import leading_proxy, openstack
from tests.simulators.ams_service import AMS
from tests.simulators.gocdb import Gocdb, Service
from tests.simulators.information_service import InformationService
from tests.simulators.openstack import Cloud
from tests.simulators.probed_cloud import REF, ProbedCloud, image, mapping, network
from tests.testbed import Authority
from tests.testbed.pki import HOST_DN
from tests.unit.test_check_beside import ams, authority, files, root
from tests.unit.test_publishing import document

__all__ = ["ams", "authority", "root"]

pytestmark = [pytest.mark.root, pytest.mark.long]

DN = f"{HOST_DN}/CN=host.example.net"
SENDERS = "eu.egi.cloud.accounting"
RULE = ("^urn:mace:egi.eu:group:ops:role=member#aai.egi.eu$", {"group": {"id": "g"}})


@pytest.fixture
def probed() -> ProbedCloud:
    """Return a cloud with a project of the VO of EGI's monitoring."""
    return ProbedCloud(
        networks=[network("n", owner="ops")], mappings=[mapping(RULE)], groups={"g": ["ops"]}
    )


@pytest.fixture
def cloud(probed: ProbedCloud) -> Iterator[Cloud]:
    made = Cloud(projects=("ops",), servers=2, deleted=0, fault=probed.answer)
    with openstack.serving(made) as served:
        yield served


def published(url: str) -> str:
    """Return the JSON that the catch-all publishes of this site."""
    read = json.loads(document(url=url))
    for one in read["CloudComputingImage"]:
        one["MarketplaceURL"] = f"registry.egi.eu/{REF}-sha256:1"
        one["OtherInfo"] = {"eu.egi.cloud.image_ref": REF, "eu.egi.cloud.tag": "24.04"}
    return json.dumps(read)


@pytest.fixture
def gocdb(authority: Authority, cloud: Cloud) -> Iterator[Gocdb]:
    own = authority.issue("goc.egi.eu", key="ec")
    services = [
        Service("1G0", "SITE", f"{cloud.url}/v3"),
        Service("2G0", "SITE", "", kind=SENDERS, dn=DN),
    ]
    with Gocdb(services).serve(own) as served:
        yield served


@pytest.fixture
def egi(authority: Authority, cloud: Cloud) -> Iterator[InformationService]:
    own = authority.issue("is.cloud.egi.eu", key="ec")
    with InformationService({"x.json": published(f"{cloud.url}/v3")}).serve(own) as made:
        yield made


@pytest.fixture
def site(
    root: Path,
    authority: Authority,
    gocdb: Gocdb,
    egi: InformationService,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Path]:
    """Return the site; the machine has a proxy, and trusts an authority."""
    path = root / "etc/caso/caso.conf"
    path.write_text(path.read_text().replace("= one", "= ops").replace("= VO", "= name"))
    monkeypatch.setattr(native, "AUTHORITIES", (str(authority.certificate),))
    ports = {
        "goc.egi.eu": urlsplit(gocdb.url).port or 0,
        "is.cloud.egi.eu": urlsplit(egi.url).port or 0,
    }
    with leading_proxy.serving(ports) as (url, asked):
        monkeypatch.setenv("https_proxy", url)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield root
        assert set(asked) <= {"goc.egi.eu:443", "is.cloud.egi.eu:443"}


def check(root: Path, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """Return what is found; nothing of the site changes."""
    before = files(root)
    status = main(["check", "--as-egi", "--json", *words, "--root", str(root)])
    assert files(root) == before
    tree: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert status == bool(tree["findings"])
    return tree


def found(root: Path, capsys: pytest.CaptureFixture[str]) -> list[tuple[str, str, int]]:
    """Return ids and places; no message names a job, which this host has not."""
    tree = check(root, capsys)
    assert not any("appliance run" in one["text"] for one in tree["findings"])
    return [(one["id"], one["path"], one["line"]) for one in tree["findings"]]


def test_a_site_as_egi_wants_it(
    site: Path, probed: ProbedCloud, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is found and nothing made; notes say what could not be seen."""
    tree = check(site, capsys)
    assert tree["findings"] == []
    assert tree["checked"] == ["caso", "ssmsend"]
    assert {"C11", "C37", "C70", "C72"} <= set(tree["probes"])
    first, second = tree["notes"]
    assert first == {"id": "C72", "text": "Keystone is reached without TLS, so it offers nothing"}
    assert second["id"] == "C75"
    place = f"as portal in the block egi of {site}/etc/fedcloud/appliance.yaml"
    assert second["text"].endswith(place)
    assert (probed.made, probed.deleted) == ([], [])


def test_each_fault_has_its_id_and_its_line(
    site: Path,
    cloud: Cloud,
    probed: ProbedCloud,
    gocdb: Gocdb,
    egi: InformationService,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """C11.a, C22.b, C37.a, C70.a, C71.a and C73.a at once; silent once they are healed."""
    caso, key = site / "etc/caso/caso.conf", site / "etc/grid-security/hostcert.pem"
    kept = list(gocdb.services), dict(egi.documents), list(probed.images)
    gocdb.services[:] = [
        Service("1G0", "SITE-OLD", "https://other.example.org:5000/v3"),
        Service("3G0", "SITE-NEW", f"{cloud.url}/"),
        Service("2G0", "SITE", "", kind=SENDERS, dn="/C=XX/CN=other"),
    ]
    egi.documents["x.json"] = published("https://other.example.org:5000/v3")
    probed.images = [image("i", "")]
    probed.groups["g"] = []
    rows = found(site, capsys)
    lines = caso.read_text().splitlines()
    number = {line.partition(" ")[0]: place for place, line in enumerate(lines, 1)}
    assert sorted(rows) == sorted(
        [
            ("C11.a", str(key), 0),
            ("C22.b", str(caso), number["site_name"]),
            ("C37.a", str(caso), number["auth_url"]),
            ("C70.a", str(caso), number["auth_url"]),
            ("C71.a", str(caso), number["projects"]),
            ("C73.a", str(caso), number["projects"]),
        ]
    )
    gocdb.services[:], probed.images = kept[0], kept[2]
    egi.documents.update(kept[1])
    probed.groups["g"] = ["ops"]
    assert found(site, capsys) == []


def test_a_test_record_of_a_site_of_ssm(
    site: Path, ams: AMS, capsys: pytest.CaptureFixture[str]
) -> None:
    """Production gets none, a topic for tests gets one, and its use is C24.a as ever."""
    notes = {one["id"]: one["text"] for one in check(site, capsys, "--send-test")["notes"]}
    assert "It is not sent" in notes["C41"]
    path = site / "etc/apel/sender.cfg"
    path.write_text(path.read_text().replace("cloud-accounting", "cloud-accounting-devel"))
    ams.create("eu-egi-cloud-accounting-devel")
    tree = check(site, capsys, "--send-test")
    assert [one["id"] for one in tree["findings"]] == ["C24.a"]
    notes = {one["id"]: one["text"] for one in tree["notes"]}
    assert notes["C41"].startswith("sent and taken over as ")
    assert len(ams.topics["eu-egi-cloud-accounting-devel"]) == 1


def test_services_of_egi_that_are_away(
    site: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line for each service, although two probes ask GOCDB; the cloud is looked at as ever."""
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    rows = found(site, capsys)
    assert sorted(row for row, _, _ in rows) == ["C11", "C70"]
