"""C71 and C74 with the accounts of the provider: its `--check-live --as-egi`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.core.run.finding import Finding
from cloud_info_provider.cmds import service
from tests.simulators import offering_cloud
from tests.simulators.offering_cloud import flavor
from tests.simulators.probed_cloud import image
from tests.unit.test_check_cloud import place_of, printed
from tests.unit.test_information_accounts import site
from tests.unit.test_provider_settings import environment, load

__all__ = ["environment"]


@pytest.fixture
def offer() -> Iterator[offering_cloud.Cloud]:
    """Serve two projects; the cloud has no Neutron."""
    made = offering_cloud.Cloud(
        flavors={name: [flavor("1")] for name in ("p0", "p1")},
        images={name: [image("a")] for name in ("p0", "p1")},
        credentials={"ac-0": ("p0", "geheim-00")},
    )
    with made.serve():
        yield made


@pytest.fixture
def described(tmp_path: Path, offer: offering_cloud.Cloud) -> Path:
    text = site(offer, "project_id: p0", "project_id: p1")
    load(tmp_path, rc=f"OS_USERNAME=ci\nOS_PASSWORD={offering_cloud.PASSWORD}\n", text=text)
    (tmp_path / "etc/cloud-info-provider/clouds.yaml").write_text(
        "clouds: {auditor: {auth_type: v3applicationcredential, auth: {"
        f"auth_url: '{offer.url}/identity/v3', application_credential_id: ac-0,"
        " application_credential_secret: geheim-00}}}\n"
    )
    return tmp_path


def check(
    root: Path, capsys: pytest.CaptureFixture[str], *words: str, parts: str
) -> tuple[list[Finding], list[tuple[str, str]]]:
    command = ["--root", str(root), "--gocdb-url", "", "--check-live", "--log-json"]
    service.main([*command, "--as-egi", parts, *words])
    said = capsys.readouterr().err
    assert offering_cloud.PASSWORD not in said
    assert "geheim-00" not in said
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    values = [line["value"] for line in lines if "value" in line]
    return printed(said), [
        (one["option"], one["text"]) for one in values if one["section"] in ("note", "fact")
    ]


def test_the_role_of_the_auditor(
    described: Path, offer: offering_cloud.Cloud, capsys: pytest.CaptureFixture[str]
) -> None:
    """C74: a warning while the auditor may not list users, silent once it may."""
    flags = ("--auditor-role-cloud", "auditor")
    (found,), _ = check(described, capsys, *flags, parts="auditor")
    assert (found.identifier, found.is_error) == ("C74", False)
    assert "may not list users" in found.text
    offer.auditors = frozenset({"p0"})
    assert check(described, capsys, *flags, parts="auditor")[0] == []


def test_an_auditor_that_nobody_named(
    described: Path, offer: offering_cloud.Cloud, capsys: pytest.CaptureFixture[str]
) -> None:
    """The VOs and the URL of the description are noted as well."""
    found, noted = check(described, capsys, parts="auditor")
    assert found == []
    assert ("Keystone", f"{offer.url}/identity/v3") in noted
    assert [text for what, text in noted if what == "VO"] == ["vo0", "vo1"]
    ((_, text),) = (one for one in noted if one[0] == "C74")
    assert "auditor in the block egi of /etc/fedcloud/appliance.yaml" in text


def test_what_monitoring_boots_with_the_account_of_the_provider(
    described: Path, offer: offering_cloud.Cloud, capsys: pytest.CaptureFixture[str]
) -> None:
    """C71.a in the line of the VO; a Neutron that cannot be asked is C71."""
    offer.images["p1"] = [image("x", "")]
    found, _ = check(described, capsys, "--egi-vo", "vo1", parts="cloud")
    place = place_of(described, "- {name: vo1")
    rows = [(one.identifier, one.path, one.line) for one in found]
    assert rows == [("C71.a", *place), ("C71", *place)]
