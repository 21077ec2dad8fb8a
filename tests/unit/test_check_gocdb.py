"""C22.b and C37: what the provider's `--check-live` says of the site's entry in GOCDB."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.core.run.finding import Finding
from cloud_info_provider.cmds import service
from tests.simulators import offering_cloud
from tests.simulators.gocdb import Gocdb, Service
from tests.unit.test_check_cloud import described, offer, place_of, printed

__all__ = ["described", "offer"]

OTHER = Service("1G0", "OTHER-SITE", "https://keystone.example.net:5000/v3")


@pytest.fixture
def gocdb(offer: offering_cloud.Cloud) -> Iterator[Gocdb]:
    ours = Service("2G0", "EXAMPLE-SITE", f"{offer.url}/identity/v3")
    with Gocdb([OTHER, ours]).serve() as served:
        yield served


def check(root: Path, url: str, capsys: pytest.CaptureFixture[str]) -> list[Finding]:
    status = service.main(["--root", str(root), "--gocdb-url", url, "--check-live", "--log-json"])
    said = capsys.readouterr().err
    assert offering_cloud.PASSWORD not in said
    found = printed(said)
    assert status == any(one.is_error for one in found), said
    assert all(one.tried for one in found)
    return found


def register(gocdb: Gocdb, url: str, *, site: str = "EXAMPLE-SITE", more: str = "") -> None:
    gocdb.services[1] = Service("2G0", site, url, (more,) if more else ())


def test_a_site_as_in_gocdb(
    described: Path,
    gocdb: Gocdb,
    offer: offering_cloud.Cloud,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The URL may be that of the service or of one of its endpoints; one request is made."""
    assert check(described, gocdb.url, capsys) == []
    assert len(gocdb.queries) == 1
    register(gocdb, "", more=f"{offer.url}/identity/v3")
    assert check(described, gocdb.url, capsys) == []


@pytest.mark.parametrize("path", ["/identity/v3/", "/identity", "/identity/"])
def test_a_url_that_is_written_otherwise(
    path: str,
    described: Path,
    gocdb: Gocdb,
    offer: offering_cloud.Cloud,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """C37.a: the line of the endpoint, and the text to write in GOCDB."""
    register(gocdb, f"{offer.url}{path}")
    (found,) = check(described, gocdb.url, capsys)
    assert (found.identifier, found.path, found.line) == (
        "C37.a",
        *place_of(described, "endpoint:"),
    )
    assert f"GOCDB has {offer.url}{path}," in found.text
    assert found.text.endswith(f"; write exactly {offer.url}/identity/v3 in GOCDB")
    register(gocdb, f"{offer.url}/identity/v3")
    assert check(described, gocdb.url, capsys) == []


@pytest.mark.parametrize(
    ("one", "other", "is_alike"),
    [
        ("https://k.example.org/v3", "https://k.example.org:443/v3/", True),
        ("https://k.example.org/v3", "https://k.example.org", True),
        ("https://k.example.org:5000/v3", "https://K.example.org:5000/", True),
        ("https://k.example.org:5000/v3", "https://k.example.org/v3", False),
        ("https://k.example.org/v3", "http://k.example.org:443/v3", False),
        ("https://k.example.org/v3", "https://k.example.org/cloudv3", False),
        ("https://k.example.org/v3", "https://k.example.net/v3", False),
        ("https://k.example.org/v3", "https://k.example.org:x/v3", False),
    ],
)
def test_urls_that_are_alike(one: str, other: str, is_alike: bool) -> None:
    from appliance.core import gocdb

    assert gocdb.is_alike(one, other) == is_alike


def test_an_endpoint_that_gocdb_has_not(
    described: Path, gocdb: Gocdb, capsys: pytest.CaptureFixture[str]
) -> None:
    """C37, a warning: the BDII serves the site all the same."""
    register(gocdb, "https://old.example.org:5000/v3")
    (found,) = check(described, gocdb.url, capsys)
    assert (found.identifier, found.path, found.line, found.is_error) == (
        "C37",
        *place_of(described, "endpoint:"),
        False,
    )


def test_a_site_that_gocdb_does_not_know(
    described: Path,
    gocdb: Gocdb,
    offer: offering_cloud.Cloud,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """C22.b: with the name that it has, or the nearest one."""
    register(gocdb, f"{offer.url}/identity/v3", site="EXAMPLE_SITE")
    (found,) = check(described, gocdb.url, capsys)
    assert (found.identifier, found.path, found.line) == ("C22.b", *place_of(described, "gocdb:"))
    assert found.text.endswith("at the site EXAMPLE_SITE; write that name")
    register(gocdb, "https://old.example.org:5000/v3", site="EXAMPLE_SITE")
    name, url = check(described, gocdb.url, capsys)
    assert (name.identifier, url.identifier) == ("C22.b", "C37")
    assert name.text.endswith("did you mean EXAMPLE_SITE?")
    register(gocdb, f"{offer.url}/identity/v3")
    assert check(described, gocdb.url, capsys) == []


def test_an_endpoint_of_another_known_site(
    described: Path,
    gocdb: Gocdb,
    offer: offering_cloud.Cloud,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """C22: both are known."""
    gocdb.services[0] = Service("1G0", "EXAMPLE-SITE", "https://old.example.org:5000/v3")
    register(gocdb, f"{offer.url}/identity/v3", site="OTHER-SITE")
    (found,) = check(described, gocdb.url, capsys)
    assert (found.identifier, found.path, found.line) == ("C22", *place_of(described, "gocdb:"))
    assert "at the site OTHER-SITE" in found.text


@pytest.mark.parametrize("fault", ["away", "broken", "error"])
def test_a_gocdb_that_does_not_answer_is_no_fault_of_the_site(
    fault: str, described: Path, gocdb: Gocdb, capsys: pytest.CaptureFixture[str]
) -> None:
    """One note; the cloud is checked all the same."""
    url = "http://127.0.0.1:1/gocdbpi/public/" if fault == "away" else gocdb.url
    gocdb.body = b"<html>" if fault == "broken" else None
    gocdb.status = 503 if fault == "error" else 200
    command = ["--root", str(described), "--gocdb-url", url, "--check-live"]
    assert service.main(command) == 0
    said = capsys.readouterr().err
    assert said.count("endpoint and name of the site are not compared with it") == 1
    account = described / "etc/cloud-info-provider/openstack.rc"
    account.write_text(account.read_text().replace(offering_cloud.PASSWORD, "falsch-45"))
    assert [one.identifier for one in check(described, url, capsys)] == ["C30.a"]
