"""Every field of every object, as in the golden file.

The names and forms are those of cloud-info-provider 1.2, with which
`tests/interop/test_information_peer.py` compares them.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from cloud_info_provider.facts import Accelerators, GocdbEntry, OfferedImage, ServerCertificate
from cloud_info_provider.formats import glue21json
from cloud_info_provider.formats.published_cloud import PublishedCloud
from cloud_info_provider.settings import ShareSettings
from tests.unit.test_glue import BIOMED, KEYSTONE, LARGE, OPS, SITE
from tests.unit.test_glue21json import FROM_REGISTRY, facts

GOLDEN = Path(__file__).parent / "information/cloud.json"
GPU = Accelerators("GPU", 2, "NVIDIA", "A100", "1", 40, "passthrough")
PLAIN = OfferedImage(
    "dddd-4", "plain", "", "https://m.example.org/base/", "", "", "", "", "", "", "https://g/file"
)
INFORMATION = {
    "sla": "https://sla.example.org",
    "network_info": "fast",
    "default_network_type": "public",
    "public_network_name": "net",
}


def published() -> PublishedCloud:
    gpu = replace(LARGE, id="3", name="gpu", vcpus=8, ram=4096, accelerators=GPU)
    shares = (
        replace(OPS, images=(*OPS.images, FROM_REGISTRY, PLAIN), flavors=(*OPS.flavors, gpu)),
        BIOMED,
    )
    found = facts(
        shares=shares,
        failed={"late.example.org": "no answer"},
        gocdb=GocdbEntry("1G0", "EXAMPLE-SITE"),
        certificate=ServerCertificate("/C=NL/CN=CA", ("/CN=Users",)),
        auditor_role=True,
    )
    configured = [
        ShareSettings("ops", "p0", "", ("VO:ops",), INFORMATION),
        ShareSettings("biomed", "p1", "", ("VO:biomed", "VOMS:/biomed/Role=x"), {}),
        ShareSettings("late.example.org", "p2", "", ("VO:late.example.org",), {}),
    ]
    site = replace(SITE, endpoint=replace(SITE.endpoint, implementation_version="Epoxy"))
    return PublishedCloud(found, site, configured, f"{KEYSTONE}/", KEYSTONE, "v3password")


def test_every_field_of_every_object() -> None:
    assert json.loads(glue21json.render(published()).text) == json.loads(GOLDEN.read_text())


def test_what_is_not_configured_is_left_out() -> None:
    cloud = published()
    bare = replace(
        cloud.site, cores=0, memory=0, hypervisor="UNKNOWN", hypervisor_version="UNKNOWN"
    )
    cloud = replace(cloud, site=replace(bare, endpoint=SITE.endpoint))
    cloud = replace(cloud, facts=replace(cloud.facts, failed={}, auditor_role=None))
    cloud = replace(cloud, facts=replace(cloud.facts, certificate=ServerCertificate()))
    document = json.loads(glue21json.render(cloud).text)
    (manager,) = document["CloudComputingManager"]
    assert not {"HypervisorName", "HypervisorVersion", "TotalCPUs", "TotalRAM"} & manager.keys()
    (endpoint,) = document["CloudComputingEndpoint"]
    assert "OtherInfo" not in endpoint
    assert (endpoint["HealthState"], endpoint["ImplementationVersion"]) == ("ok", "2.96")
    assert (endpoint["IssuerCA"], endpoint["TrustedCA"]) == ("UNKNOWN", ["UNKNOWN"])
    asked = replace(cloud.facts, certificate=ServerCertificate("/CN=CA"))
    document = json.loads(glue21json.render(replace(cloud, facts=asked)).text)
    assert document["CloudComputingEndpoint"][0]["TrustedCA"] == []


def test_a_cloud_of_which_nothing_was_read() -> None:
    cloud = published()
    empty = replace(cloud, facts=replace(cloud.facts, shares=()))
    document = json.loads(glue21json.render(replace(empty)).text)
    (manager,) = document["CloudComputingManager"]
    assert [manager[f"Instance{name}"] for name in ("MaxCPU", "MinCPU", "MaxRAM", "MinRAM")] == [
        0,
        0,
        0,
        0,
    ]
    assert "InterfaceVersion" not in document["CloudComputingEndpoint"][0]
