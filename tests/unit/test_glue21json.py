"""The JSON of a cloud: what EGI's reader finds in it, and unusual facts."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cloud_info_provider.facts import Accelerators, Facts, GocdbEntry, OfferedImage, Share
from cloud_info_provider.formats import glue21json
from cloud_info_provider.formats.published_cloud import PublishedCloud, Rendering
from cloud_info_provider.settings import ShareSettings
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


def rendered(facts: Facts) -> Rendering:
    shares = configured(*(share.vo for share in facts.shares), *facts.failed)
    cloud = PublishedCloud(facts, SITE, shares, KEYSTONE, KEYSTONE, "v3password")
    return glue21json.render(cloud)


def render(facts: Facts) -> str:
    return rendered(facts).text


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


def test_a_number_that_json_does_not_have_is_not_written() -> None:
    """Python would write NaN, which other programs' readers reject with the whole document."""
    gpu = replace(GPU, accelerators=Accelerators("GPU", float("nan"), "NVIDIA", "A100", memory=40))
    with pytest.raises(ValueError, match="not JSON compliant"):
        render(facts(shares=(replace(BIOMED, flavors=(gpu,)),)))


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
    found = rendered(facts(shares=(share,)))
    assert [each.vo for each in egi_information.read(found.text).shares] == ["ops"]
    words = ["no VO may use any flavor"] if not share.flavors else []
    assert [line.partition(",")[0] for line in found.problems] == words


def test_a_vo_that_failed_keeps_its_access_and_is_named() -> None:
    made = facts()
    document = json.loads(render(replace(made, shares=made.shares[:1], failed={"biomed": "x"})))
    (endpoint,) = document["CloudComputingEndpoint"]
    assert (endpoint["HealthState"], endpoint["HealthStateInfo"]) == (
        "warning",
        "could not be read: biomed",
    )
    assert document["AccessPolicy"][0]["Rule"] == ["VO:biomed", "VO:ops"]


UNUSUAL = [
    "",
    " ",
    "a,b",
    'say "x"',
    "Üñï",
    "tab\there",
    "null\0",
    "half \ud800 a pair",
    "x" * 5000,
]


@pytest.mark.parametrize("name", UNUSUAL)
def test_names_that_people_give(name: str) -> None:
    """EGI's reader demands a name, and UTF-8; users choose by the name as it is."""
    image = replace(FROM_REGISTRY, name=name, description=name)
    flavor = replace(LARGE, name=name, accelerators=GPU.accelerators)
    share = replace(OPS, images=(image,), flavors=(flavor,), project_name=name)
    text = render(facts(shares=(share,)))
    text.encode("ascii")
    found = egi_information.read(text).share("ops")
    usual = {"": "cccc-3", " ": "cccc-3", "tab\there": "tab here", "null\0": "null"}
    shown = usual.get(name, "half   a pair" if "\ud800" in name else name)
    assert found.images[0].name == shown
    assert found.images[0].name.encode()
    assert found.flavors[0].name == (shown if shown != "cccc-3" else LARGE.id)


def test_flavors_of_two_regions_with_one_id() -> None:
    """OpenStack chooses ids in each region; both are published, each for its own VO."""
    near = replace(OPS, flavors=(replace(LARGE, id="1", name="near"),))
    far = replace(BIOMED, flavors=(replace(LARGE, id="1", name="far", vcpus=2),))
    site = egi_information.read(render(facts(shares=(near, far))))
    assert [flavor.name for flavor in site.share("ops").flavors] == ["near"]
    assert [flavor.name for flavor in site.share("biomed").flavors] == ["far"]


def test_two_projects_of_one_vo() -> None:
    second = replace(OPS, project_id="p9", images=(), flavors=(LARGE,))
    site = egi_information.read(render(facts(shares=(OPS, second))))
    assert [(share.vo, share.project_id) for share in site.shares] == [("ops", "p0"), ("ops", "p9")]
    assert [flavor.name for flavor in site.shares[1].flavors] == [LARGE.name]


def test_each_project_of_a_vo_has_its_own_description() -> None:
    """The file describes each project: its members, its networks, its agreement."""
    made = facts(shares=(OPS, replace(OPS, project_id="p9")))
    shares = [
        ShareSettings("ops", project, "", rules, {"sla": f"https://sla.example.org/{project}"})
        for project, rules in (("p0", ("VO:ops",)), ("p9", ("VO:ops", "VO:ops/Role=test")))
    ]
    cloud = PublishedCloud(made, SITE, shares, KEYSTONE, KEYSTONE, "v3password")
    document = json.loads(glue21json.render(cloud).text)
    assert [(one["ProjectID"], one["SLA"][-2:]) for one in document["Share"]] == [
        ("p0", "p0"),
        ("p9", "p9"),
    ]
    assert [one["Rule"] for one in document["MappingPolicy"]] == [
        ["VO:ops"],
        ["VO:ops", "VO:ops/Role=test"],
    ]
    (policy,) = document["AccessPolicy"]
    assert policy["Rule"] == ["VO:ops", "VO:ops/Role=test"]


def test_without_the_id_of_gocdb_there_is_no_site() -> None:
    """So the program warns, and keeps an id that it has known once."""
    with pytest.raises(egi_information.NoSite):
        egi_information.read(render(facts(gocdb=GocdbEntry())))


def test_the_same_facts_are_the_same_text() -> None:
    shares = facts().shares
    assert render(facts(shares=shares)) == render(facts(shares=shares[::-1]))
