"""Our JSON and cloud-info-provider 1.2's, of one cloud at one time, object by object."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests import egi_information
from tests.simulators.gocdb import Gocdb, Service
from tests.simulators.offering_cloud import PASSWORD, Cloud, flavor, image, server
from tests.testbed import Testbed

PROGRAM = Path(sys.executable).with_name("cloud-info-provider-service")
PEER = Path(sys.prefix).parent / "peer-information/bin/python"
# The peer asks a GOCDB whose address it has as a constant.
DRIVER = """
import functools, sys, requests
requests.get = functools.partial(lambda get, base, _, **rest: get(base, **rest), requests.get,
                                 sys.argv.pop(1))
from cloud_info_provider.core import main
main()
"""
GONE = "f" * 32

Json = dict[str, Any]
Document = dict[str, list[Json]]

# Docs/adr/0051 has the reason for each of these.
CHANGED = {
    "CloudComputingManager": {
        *("InstanceMinCPU", "InstanceMinRAM", "InstanceMaxCPU", "InstanceMaxRAM"),
    },
    "CloudComputingEndpoint": {"Capability", "HealthStateInfo", "InterfaceVersion"},
    "CloudComputingImage": {"MarketplaceURL"},
    "AccessPolicy": {"Rule"},
}
ADDED = {
    "CloudComputingInstanceType": {"NetworkInfo"},
    "CloudComputingVirtualAccelerator": {"Memory", "Version", "VirtualizationType"},
}


@dataclass(frozen=True)
class Side:
    """A cloud with three VOs and one that is gone, and how an account logs in."""

    url: str
    account: list[str]
    projects: dict[str, str]
    environment: dict[str, str]


@dataclass(frozen=True)
class Pair:
    """What both printed, and how many requests ours sent."""

    side: Side
    ours: Document
    theirs: Document
    text: str
    requests: int
    is_simulated: bool


def real(testbed: Testbed) -> Side:
    seed = testbed.seed()
    user = seed.accounts["information"]
    account = [
        *("--os-username", user.name, "--os-password", user.password),
        *("--os-cacert", str(testbed.ca_file)),
    ]
    projects = {project.vo: project.id for project in seed.projects.values() if project.vo}
    # the peer reads --os-cacert, and does not use it
    authorities = dict.fromkeys(("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"), str(testbed.ca_file))
    return Side(testbed.keystone_url, account, projects, authorities)


@contextlib.contextmanager
def simulated() -> Iterator[Side]:
    """Yield a cloud that has every kind of offer, and three VOs that share them."""
    gpus = {
        "Accelerator:Number": "2",
        "Accelerator:Vendor": "NVIDIA",
        "Accelerator:Model": "A100",
        "Accelerator:Memory": "40",
        "Accelerator:Version": "1",
        "Accelerator:VirtualizationType": "passthrough",
    }
    flavors = [flavor("1"), flavor("2", extra_specs=gpus), flavor("3", vcpus=8, ram=65536)]
    flavors[2]["extra_specs"] = {"infiniband": "true"}
    entry = {"ad:base_mpuri": "https://m.example.org/base/", "eu.egi.cloud.tag": "24.04", "n": 7}
    images = [
        image("a", file="/v2/images/a/file", APPLIANCE_ATTRIBUTES=json.dumps(entry)),
        image("b", file="/v2/images/b/file", vmcatcher_event_ad_mpuri=None, os_distro="debian"),
        image("c", file="/v2/images/c/file", name='Üñï "quoted", and = a comma'),
    ]
    projects = {f"vo{number}": f"p{number}" for number in range(3)}
    cloud = Cloud(
        flavors={"p0": flavors, "p1": flavors, "p2": flavors[:1]},
        images={"p0": images, "p1": images[:2], "p2": []},
        servers={"p0": [server("x"), server("y", "SHUTOFF"), server("z", "SUSPENDED")]},
        quotas={"p0": {"cores": 40, "instances": 10}},
    )
    with cloud.serve():
        account = ["--os-username", "ci", "--os-password", PASSWORD]
        yield Side(f"{cloud.url}/identity/v3", account, projects, {})


@pytest.fixture(scope="module", params=["simulated", pytest.param("real", marks=pytest.mark.cloud)])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    root = tmp_path_factory.mktemp("information")
    with contextlib.ExitStack() as stack:
        is_simulated = request.param == "simulated"
        if is_simulated:
            side = stack.enter_context(simulated())
        else:
            side = real(request.getfixturevalue("testbed"))
        gocdb = stack.enter_context(Gocdb([Service("7G0", "EXAMPLE-SITE", side.url)]).serve())
        site = root / "site.yaml"
        projects = {**side.projects, "gone.example.org": GONE}
        vos = [{"name": vo, "auth": {"project_id": key}} for vo, key in projects.items()]
        site.write_text(
            json.dumps({"gocdb": "EXAMPLE-SITE", "endpoint": side.url, "vos": vos}, indent=1)
        )
        login = ["--os-auth-type", "v3password", "--os-user-domain-name", "Default"]
        account = [*login, *side.account, str(site)]
        theirs = run([str(PEER), "-P", "-c", DRIVER, gocdb.url, *account], side)
        flags = ["--root", str(root), "--gocdb-url", gocdb.url]
        ours = run([str(PROGRAM), *flags, *account], side)
    assert theirs.returncode == 0, theirs.stderr
    assert ours.returncode == 1, ours.stderr
    assert f"gone.example.org: project {GONE}: " in ours.stderr
    record = root / "var/lib/fedcloud/runs/cloud-info-provider-service.json"
    return Pair(
        side,
        json.loads(ours.stdout),
        json.loads(theirs.stdout),
        ours.stdout,
        json.loads(record.read_text())["counts"]["requests"],
        is_simulated,
    )


def run(command: list[str], side: Side) -> subprocess.CompletedProcess[str]:
    clean = {name: text for name, text in os.environ.items() if not name.startswith("OS_")}
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env=clean | side.environment,
        timeout=240,
    )


def merged(objects: list[Json]) -> dict[str, Json]:
    """Return the objects by id; what the peer prints once for each VO becomes one object."""
    found: dict[str, Json] = {}
    for each in objects:
        first = found.setdefault(each["ID"], {**each, "Associations": {}})
        for kind, ids in each.get("Associations", {}).items():
            known = first["Associations"].setdefault(kind, [])
            known += [one for one in ids if one not in known]
    return found


def check(found: dict[str, set[str]], listed: dict[str, set[str]], pair: Pair) -> None:
    """Check that all is listed; the simulated cloud also shows that nothing is listed in vain."""
    found = {kind: fields for kind, fields in found.items() if fields}
    if pair.is_simulated:
        assert found == listed
    for kind, fields in found.items():
        assert fields <= listed.get(kind, set()), kind


def test_every_object_and_field_of_the_peer_is_ours_but_for_the_listed_ones(pair: Pair) -> None:
    assert sorted(pair.ours) == sorted(pair.theirs)
    differing: dict[str, set[str]] = {}
    for kind, objects in pair.theirs.items():
        theirs, ours = merged(objects), merged(pair.ours[kind])
        assert ours.keys() == theirs.keys(), kind
        assert len(ours) == len(pair.ours[kind]), kind
        for key, their in theirs.items():
            our = ours[key]
            fields = {name for name in their if our.get(name) != their[name]}
            differing.setdefault(kind, set()).update(fields - {"CreationTime", "Associations"})
            assert {kind: sorted(ids) for kind, ids in our["Associations"].items()} == {
                kind: sorted(ids) for kind, ids in their["Associations"].items()
            }
    check(differing, CHANGED, pair)


def test_fields_that_the_peer_lacks_are_listed(pair: Pair) -> None:
    added: dict[str, set[str]] = {}
    for kind, objects in pair.ours.items():
        theirs = {name for each in pair.theirs[kind] for name in each}
        added[kind] = {name for each in objects for name in each} - theirs
    check(added, ADDED, pair)


def test_the_reader_of_egi_finds_each_vo(pair: Pair) -> None:
    site = egi_information.read(pair.text)
    assert (site.name, site.gocdb_id) == ("EXAMPLE-SITE", "7G0")
    assert site.url == pair.side.url
    assert site.is_fresh(datetime.now(UTC))
    assert {share.vo: share.project_id for share in site.shares} == pair.side.projects
    assert all(share.flavors for share in site.shares)
    gpus = [gpu for share in site.shares for flavor in share.flavors for gpu in flavor.accelerators]
    assert {gpu["Type"] for gpu in gpus} == {"GPU"}


def test_requests_for_three_vos(pair: Pair) -> None:
    """Five a VO, one for Nova's version, and those of the VO that is gone."""
    assert pair.requests <= 24
