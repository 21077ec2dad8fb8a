"""A run up to its output: what flags choose, what a failing VO costs, which time is published."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.core import clock
from appliance.core.run.errors import ApplianceError
from appliance.core.run.layout import Layout
from appliance.core.run.record import RunRecord
from cloud_info_provider import reading
from cloud_info_provider.cmds import service
from cloud_info_provider.formats import selection
from cloud_info_provider.formats.published_cloud import PublishedCloud
from tests.simulators.offering_cloud import PASSWORD, Cloud, Fault, flavor, image
from tests.unit.test_information_accounts import site
from tests.unit.test_provider_settings import environment, load

__all__ = ["environment"]

ACCOUNT = f"OS_USERNAME=ci\nOS_PASSWORD={PASSWORD}\n"
THREE = ("project_id: p0", "project_id: p1", "project_id: p2")


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    private = flavor("2", **{"os-flavor-access:is_public": False})
    plain = image("b", vmcatcher_event_ad_mpuri=None, file="/v2/images/b/file")
    made = Cloud(
        flavors={name: [flavor("1"), private] for name in ("p0", "p1", "p2")},
        images={name: [image("a"), plain] for name in ("p0", "p1", "p2")},
    )
    with made.serve():
        yield made


def read(cloud: Cloud, root: Path, *flags: str) -> PublishedCloud:
    text = site(cloud, *THREE)
    configuration = load(root, "--gocdb-url", "", *flags, rc=ACCOUNT, text=text)
    return reading.read(configuration, Layout(root), RunRecord("x", is_kept=False))


def printed(published: PublishedCloud) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = json.loads(
        selection.renderer("glue21json")(published).text
    )
    return found


@pytest.mark.parametrize(
    ("choice", "expected"), [("all", {"1", "2"}), ("public", {"1"}), ("private", {"2"})]
)
def test_flavors_that_are_chosen(
    cloud: Cloud, tmp_path: Path, choice: str, expected: set[str]
) -> None:
    found = read(cloud, tmp_path, "--select-flavors", choice)
    assert {flavor.id for share in found.facts.shares for flavor in share.flavors} == expected


def test_images_without_a_marketplace_have_glance_s_url(cloud: Cloud, tmp_path: Path) -> None:
    images = {each["ID"]: each for each in printed(read(cloud, tmp_path))["CloudComputingImage"]}
    assert images["b"]["MarketplaceURL"] == f"{cloud.url}/image/v2/images/b/file"
    only = printed(read(cloud, tmp_path, "--only-appdb-images"))["CloudComputingImage"]
    assert [each["ID"] for each in only] == ["a"]


@pytest.mark.parametrize(
    "spoiled",
    [{"vcpus": "two"}, {"vcpus": None}, {"extra_specs": ["x"]}, {"id": "odd"}, {"ram": math.inf}],
)
def test_a_flavor_that_cannot_be_understood_is_left_out(
    cloud: Cloud, tmp_path: Path, spoiled: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """F-I16: it stopped its whole VO; one that is alone shows that the answer itself is wrong."""
    cloud.flavors["p0"].append(spoiled if "id" in spoiled else flavor("odd", **spoiled))
    cloud.flavors["p1"] = [{"id": "odd"}]
    facts = read(cloud, tmp_path).facts
    found = {share.vo: [one.id for one in share.flavors] for share in facts.shares}
    assert found == {"vo0": ["1", "2"], "vo2": ["1", "2"]}
    (line,) = (text for text in caplog.messages if "left out" in text)
    assert line.startswith("VO vo0: left out, because it cannot be understood: flavor 'odd': ")
    assert "the cloud's flavors: cannot be understood: flavor 'odd': " in facts.failed["vo1"]


def test_servers_whose_cores_cannot_be_understood_cost_no_vo(
    cloud: Cloud, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What a VO uses only adds to what is published."""
    cloud.servers = {"p0": [{"id": str(n), "status": "ACTIVE", "flavor": "x"} for n in range(3)]}
    facts = read(cloud, tmp_path).facts
    assert facts.failed == {}
    assert facts.shares[0].servers.running == 3
    (line,) = (text for text in caplog.messages if "left out" in text)
    assert line.startswith("VO vo0: cores of 3 servers left out, because they cannot be understood")


def test_a_server_without_a_flavor_is_counted(cloud: Cloud, tmp_path: Path) -> None:
    cloud.servers = {"p0": [{"id": "x", "status": "ACTIVE"}]}
    (first, *_) = read(cloud, tmp_path).facts.shares
    assert (first.servers.running, first.servers.vcpus) == (1, 0)


def test_a_failing_vo_fails_the_run_if_all_are_needed(cloud: Cloud, tmp_path: Path) -> None:
    cloud.faults = [Fault("/v2/images", "p1", 403)]
    assert len(read(cloud, tmp_path).facts.shares) == 2
    with pytest.raises(ApplianceError) as raised:
        read(cloud, tmp_path, "--exit-on-share-errors")
    assert "vo1: " in str(raised.value)


def test_json_of_a_run_with_a_failing_vo(
    cloud: Cloud, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cloud.faults = [Fault("/v2/images", "p1", 403)]
    path = tmp_path / "etc/cloud-info-provider/openstack.yaml"
    load(tmp_path, rc=ACCOUNT, text=site(cloud, *THREE))
    flags = ["--root", str(tmp_path), "--gocdb-url", "", str(path)]
    assert service.main(flags) == 1
    shown = capfd.readouterr()
    document = json.loads(shown.out)  # no comment, as in LDIF
    assert [share["ProjectID"] for share in document["Share"]] == ["p0", "p2"]
    assert f"vo1: 127.0.0.1:{cloud.url.rpartition(':')[2]}: Glance answers 403" in shown.err
    assert f"{path}:5" in shown.err


@pytest.mark.parametrize(("flags", "status"), [((), 0), (("--format", "glue"), 1)])
def test_upstream_s_exit_status_of_a_run_with_a_failing_vo(
    cloud: Cloud, tmp_path: Path, flags: Sequence[str], status: int
) -> None:
    """cloud-info-provider 1.2 leaves a VO out and ends with 0; 0.13, which has LDIF, with 1."""
    cloud.faults = [Fault("/v2/images", "p1", 403)]
    load(tmp_path, rc=ACCOUNT, text=site(cloud, *THREE))
    common = ["--root", str(tmp_path), "--gocdb-url", "", "--compat-exit-codes", *flags]
    assert service.main(common) == status
    assert service.main([*common, "--exit-on-share-errors"]) == 1


def test_the_time_is_that_of_the_last_answer(cloud: Cloud, tmp_path: Path) -> None:
    """Reading may go on for long after it, for VOs that answer late and in vain."""
    cloud.faults = [Fault("/v2/images", "p1", 403, delay=1.5)]
    found = read(cloud, tmp_path)
    ended = clock.now()
    assert [share.vo for share in found.facts.shares] == ["vo0", "vo2"]
    assert (ended - found.facts.answered).total_seconds() > 1
    service_object = printed(found)["CloudComputingService"][0]
    assert service_object["CreationTime"].startswith(f"{found.facts.answered:%Y-%m-%dT%H:%M:%S}")


def test_one_look_at_the_cloud_is_five_requests_for_each_vo(cloud: Cloud, tmp_path: Path) -> None:
    read(cloud, tmp_path)
    assert cloud.requests.total() == 3 * 5 + 1


def test_a_cloud_that_cannot_be_read_prints_nothing(
    cloud: Cloud, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cloud.faults = [replace(Fault("/", status=404), project="")]
    load(tmp_path, rc=ACCOUNT, text=site(cloud, *THREE))
    assert service.main(["--root", str(tmp_path), "--gocdb-url", "", "--format", "json"]) == 3
    shown = capfd.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1


@pytest.mark.parametrize("place", ["account", "vo"])
def test_a_wrong_region_is_one_line_with_its_place(
    cloud: Cloud, tmp_path: Path, capfd: pytest.CaptureFixture[str], place: str
) -> None:
    """F-I6: it was "an answer of the cloud is not understood"."""
    vo = "project_id: p0" if place == "account" else "project_id: p0, region_name: Atlantis"
    rc = f"{ACCOUNT}OS_REGION_NAME=Atlantis\n" if place == "account" else ACCOUNT
    load(tmp_path, rc=rc, text=site(cloud, vo))
    assert service.main(["--root", str(tmp_path), "--gocdb-url", "", "--format", "glue"]) == 3
    (line,) = capfd.readouterr().err.splitlines()
    directory = tmp_path / "etc/cloud-info-provider"
    where = f"{directory}/openstack.rc:3" if place == "account" else f"{directory}/openstack.yaml:4"
    assert "its catalog has no public endpoint for compute in region Atlantis" in line
    assert f"correct region_name ({where})" in line


def test_the_name_of_a_middleware_in_capitals(
    cloud: Cloud, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """F-I6."""
    load(tmp_path, rc=ACCOUNT, text=site(cloud, *THREE))
    flags = ["--root", str(tmp_path), "--gocdb-url", "", "--middleware", "OpenStack"]
    assert service.main(flags) == 0
    assert capfd.readouterr().err == ""
