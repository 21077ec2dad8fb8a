"""The JSON of a cloud: what EGI's reader finds in it, and unusual facts."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cloud_info_provider.facts import Accelerators, Facts, GocdbEntry, OfferedImage, Share
from cloud_info_provider.formats import glue21json
from cloud_info_provider.formats.published_cloud import PublishedCloud
from tests import egi_information
from tests.unit.test_glue import BIOMED, KEYSTONE, LARGE, OPS, SITE, configured

ANSWERED = datetime(2026, 11, 30, 12, 0, 7, 999, tzinfo=UTC)
REF = "egi_vm_images/ubuntu:24.04"
FROM_REGISTRY = OfferedImage(
    id="cccc-3",
    name=f"registry.egi.eu {REF}",
    marketplace=f"registry.egi.eu/{REF}-sha256:12",
    base="",
    description="Ubuntu",
    version="",
    architecture="x86_64",
    os_type="linux",
    os_distribution="ubuntu",
    os_version="24.04",
    attributes={"eu.egi.cloud.image_ref": REF, "eu.egi.cloud.tag": "24.04"},
)
GPU = replace(
    LARGE, id="3", name="gpu", accelerators=Accelerators("GPU", 0.5, "NVIDIA", "A100", memory=40)
)


def render(facts: Facts, *vos: str) -> str:
    shares = configured(*(vos or [share.vo for share in facts.shares]), *facts.failed)
    cloud = PublishedCloud(facts, SITE, shares, KEYSTONE, KEYSTONE, "v3password")
    return glue21json.render(cloud).text


def facts(**changes: Any) -> Facts:
    shares = (
        replace(OPS, images=(*OPS.images, FROM_REGISTRY)),
        replace(BIOMED, flavors=(*BIOMED.flavors, GPU)),
    )
    made = Facts(shares, {}, answered=ANSWERED, gocdb=GocdbEntry("1G0", "EXAMPLE-SITE"))
    return replace(made, **changes)


def test_what_egi_reads() -> None:
    site = egi_information.read(render(facts()))
    assert (site.name, site.gocdb_id, site.url) == ("EXAMPLE-SITE", "1G0", KEYSTONE)
    assert site.expires == ANSWERED.replace(microsecond=0) + timedelta(hours=12)
    ops, biomed = site.share("ops"), site.share("biomed")
    assert (ops.project_id, biomed.project_id) == ("p0", "p1")
    (registry,) = (image for image in ops.images if image.id == "cccc-3")
    assert (registry.identifier, registry.version) == (REF, "24.04")
    assert [flavor.name for flavor in ops.flavors] == ["m1.small"]
    (gpu,) = (flavor for flavor in biomed.flavors if flavor.name == "gpu")
    assert [(one["Number"], one["Model"], one["Memory"]) for one in gpu.accelerators] == [
        (0.5, "A100", 40)
    ]


def test_an_image_of_several_vos_is_one_object() -> None:
    document = json.loads(render(facts()))
    for kind, objects in document.items():
        ids = [each["ID"] for each in objects]
        assert sorted(set(ids)) == sorted(ids), kind
    shared = document["CloudComputingImage"][0]
    assert len(shared["Associations"]["Share"]) == 2


@pytest.mark.parametrize("share", [replace(OPS, images=()), replace(OPS, flavors=())])
def test_a_cloud_that_offers_nothing_is_a_site_all_the_same(share: Share) -> None:
    """EGI's reader demands every class, and drops a site that lacks one."""
    site = egi_information.read(render(facts(shares=(share,))))
    assert [each.vo for each in site.shares] == ["ops"]


def test_a_vo_that_failed_keeps_its_access_and_is_named() -> None:
    made = facts()
    document = json.loads(render(replace(made, shares=made.shares[:1], failed={"biomed": "x"})))
    (endpoint,) = document["CloudComputingEndpoint"]
    assert (endpoint["HealthState"], endpoint["HealthStateInfo"]) == (
        "warning",
        "could not be read: biomed",
    )
    assert document["AccessPolicy"][0]["Rule"] == ["VO:biomed", "VO:ops"]
