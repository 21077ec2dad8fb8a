"""The tree of GLUE objects: shape, identifiers, links, VOs of each entry, unusual texts."""

from collections.abc import Mapping
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.core import ldif
from cloud_info_provider.facts import (
    Accelerators,
    Endpoint,
    EndpointTerms,
    Facts,
    Flavor,
    OfferedImage,
    ServerCertificate,
    ServerCounts,
    Share,
)
from cloud_info_provider.formats import glue
from cloud_info_provider.settings import ShareSettings, SiteSettings

KEYSTONE = "https://k.example.org:5000/v3"
SERVICE = f"{KEYSTONE}_cloud.compute"
ENDPOINT = Endpoint("https://n.example.org:8774/v2.1", "v2.1", "2.96", "", "/C=NL/O=CA/CN=One")
SITE = SiteSettings(
    name="EXAMPLE-SITE",
    cores=96,
    memory=384,
    hypervisor="KVM",
    hypervisor_version="8.0",
    service_level="production",
    capabilities=("executionmanagement.dynamicvmdeploy", "security.accounting"),
    endpoint=EndpointTerms(level="testing"),
)
SMALL = Flavor("1", "m1.small", 1, 2048, 20, 0, {})
LARGE = Flavor(
    "2",
    "hpc.ib",
    16,
    65536,
    200,
    10,
    {"hw:cpu_sockets": "2", "Accelerator:Model": "A100"},
    has_infiniband=True,
)
UBUNTU = OfferedImage(
    "aaaa-1",
    "EGI Ubuntu",
    "https://m.example.org/1:2/",
    "https://m.example.org/1/",
    "Ubuntu for EGI",
    "2026.10",
    "x86_64",
    "linux",
    "ubuntu",
    "24.04",
)
BARE = OfferedImage("bbbb-2", "", "", "", "", "", "", "", "", "")
OPS = Share(
    "ops",
    "p0",
    "vo-ops",
    "Default",
    ENDPOINT,
    (SMALL,),
    (UBUNTU,),
    ServerCounts(2, 1, 1, 7),
    {"cores": 40, "instances": -1},
)
BIOMED = Share(
    "biomed", "p1", "vo-biomed", "egi", ENDPOINT, (SMALL, LARGE), (UBUNTU, BARE), ServerCounts(), {}
)


def configured(*vos: str, **more: Mapping[str, str]) -> list[ShareSettings]:
    return [ShareSettings(vo, "p", "", (f"VO:{vo}",), more.get(vo, {})) for vo in vos]


def tree(
    facts: Facts, site: SiteSettings = SITE, **more: Mapping[str, str]
) -> dict[str, ldif.Entry]:
    vos = [*(share.vo for share in facts.shares), *facts.failed]
    listed, _ = glue.entries(facts, site, shares=configured(*vos, **more), auth_url=KEYSTONE)
    found = {entry.dn: entry for entry in listed}
    assert len(found) == len(listed)
    return found


def of_class(entries: Mapping[str, ldif.Entry], name: str) -> list[ldif.Entry]:
    return [entry for entry in entries.values() if f"GLUE2{name}" in entry.get("objectClass")]


def single(entries: Mapping[str, ldif.Entry], name: str) -> ldif.Entry:
    (found,) = of_class(entries, name)
    return found


def test_names_of_the_whole_tree() -> None:
    below = f"GLUE2ServiceID={SERVICE},GLUE2GroupID=cloud,o=glue"
    endpoint = f"{ENDPOINT.url}_OpenStack_v2.1_oidc"
    flavor, image = (
        "http://schemas.openstack.org/template/resource#",
        "http://schemas.openstack.org/template/os#",
    )
    assert list(tree(Facts((OPS, BIOMED), {}))) == [
        "o=glue",
        "GLUE2GroupID=cloud,o=glue",
        below,
        f"GLUE2ManagerID={SERVICE}_manager,{below}",
        f"GLUE2EndpointID={endpoint},{below}",
        f"GLUE2PolicyID={endpoint}_policy,GLUE2EndpointID={endpoint},{below}",
        f"GLUE2ResourceID={flavor}1_{KEYSTONE},{below}",
        f"GLUE2ResourceID={flavor}2_{KEYSTONE},{below}",
        f"GLUE2ApplicationEnvironmentID={image}aaaa-1_{KEYSTONE},{below}",
        f"GLUE2ApplicationEnvironmentID={image}bbbb-2_{KEYSTONE},{below}",
        f"GLUE2ShareID={SERVICE}_share_biomed_p1,{below}",
        (
            f"GLUE2PolicyID={SERVICE}_share_biomed_p1_Policy,"
            f"GLUE2ShareID={SERVICE}_share_biomed_p1,{below}"
        ),
        f"GLUE2ShareID={SERVICE}_share_ops_p0,{below}",
        f"GLUE2PolicyID={SERVICE}_share_ops_p0_Policy,GLUE2ShareID={SERVICE}_share_ops_p0,{below}",
    ]


def test_parents_come_before_children() -> None:
    seen: set[str] = set()
    for dn in tree(Facts((OPS, BIOMED), {})):
        assert ldif.parent(dn) in {*seen, ""}
        seen.add(dn)


def test_flavors_and_images_name_their_vos() -> None:
    entries = tree(Facts((OPS, BIOMED), {}))
    small, large = of_class(entries, "ExecutionEnvironment")
    assert [value for value in small.get("GLUE2EntityOtherInfo") if value.startswith("VO=")] == [
        "VO=biomed",
        "VO=ops",
    ]
    assert "VO=ops" not in large.get("GLUE2EntityOtherInfo")
    shares = {entry.get("GLUE2ShareID")[0][-6:]: entry for entry in of_class(entries, "Share")}
    assert shares["ops_p0"].get("GLUE2ShareResourceForeignKey") == small.get("GLUE2ResourceID")
    assert set(shares["med_p1"].get("GLUE2ShareResourceForeignKey")) == {
        *small.get("GLUE2ResourceID"),
        *large.get("GLUE2ResourceID"),
    }


def test_figures_of_flavors() -> None:
    small, large = of_class(tree(Facts((BIOMED,), {})), "ExecutionEnvironment")
    # 96 cores / 1, 384 GB / 2 GB = 192
    assert small.get("GLUE2ExecutionEnvironmentTotalInstances") == ("96",)
    assert large.get("GLUE2ExecutionEnvironmentTotalInstances") == ("6",)  # 96 / 16, 384 GB / 64 GB
    assert large.get("GLUE2ExecutionEnvironmentPhysicalCPUs") == ("2",)
    assert large.get("GLUE2ExecutionEnvironmentCPUMultiplicity") == ("multicpu-multicore",)
    assert large.get("GLUE2ExecutionEnvironmentNetworkInfo") == ("infiniband",)
    assert "AcceleratorModel=A100" in large.get("GLUE2EntityOtherInfo")
    assert small.get("GLUE2ExecutionEnvironmentCPUMultiplicity") == ("singlecpu-singlecore",)
    assert small.get("GLUE2ExecutionEnvironmentNetworkInfo") == ()


def test_unknown_values_are_left_out() -> None:
    entries = tree(Facts((BIOMED,), {}), replace(SITE, cores=0, memory=0))
    assert single(entries, "ComputingManager").get("GLUE2ComputingManagerTotalLogicalCPUs") == (
        "0",
    )
    assert (
        of_class(entries, "ExecutionEnvironment")[0].get("GLUE2ExecutionEnvironmentTotalInstances")
        == ()
    )
    bare = of_class(entries, "ApplicationEnvironment")[1]
    assert bare.get("GLUE2ApplicationEnvironmentAppName") == ("bbbb-2",)
    assert bare.get("GLUE2ApplicationEnvironmentRepository") == ()


def test_a_share_has_its_project_quotas_and_servers() -> None:
    entries = tree(
        Facts((OPS,), {}), ops={"default_network_type": "public", "sla": "https://sla.example.org"}
    )
    assert set(single(entries, "Share").get("GLUE2EntityOtherInfo")) == {
        "VO=ops",
        "project_id=p0",
        "project_name=vo-ops",
        "project_domain_name=Default",
        "default_network_type=public",
        "sla=https://sla.example.org",
        "quota_cores=40",
        "quota_instances=-1",
        "TotalVM=4",
        "RunningVM=2",
        "SuspendedVM=1",
        "HaltedVM=1",
    }


def test_a_vo_that_failed_loses_no_right_and_falsifies_no_total() -> None:
    whole, partly = tree(Facts((OPS, BIOMED), {})), tree(Facts((OPS,), {"biomed": "no route"}))
    policy = "GLUE2AccessPolicy"
    assert single(whole, policy[5:]) == single(partly, policy[5:])
    assert single(partly, "AccessPolicy").get("GLUE2PolicyRule") == ("VO:biomed", "VO:ops")
    assert single(whole, "ComputingService").get("GLUE2ComputingServiceTotalJobs") == ("4",)
    assert single(partly, "ComputingService").get("GLUE2ComputingServiceTotalJobs") == ()
    assert single(partly, "ComputingManager").get("GLUE2ComputingManagerSlotsUsedByGridJobs") == ()
    assert single(whole, "ComputingEndpoint").get("GLUE2EndpointHealthState") == ("ok",)
    assert single(partly, "ComputingEndpoint").get("GLUE2EndpointHealthState") == ("warning",)
    assert single(partly, "ComputingEndpoint").get("GLUE2EndpointHealthStateInfo") == (
        "could not be read: biomed",
    )
    assert not [dn for dn in partly if "biomed" in dn]


def test_the_order_in_which_the_cloud_answers_does_not_matter() -> None:
    one, _ = glue.entries(
        Facts((OPS, BIOMED), {}), SITE, shares=configured("ops", "biomed"), auth_url=KEYSTONE
    )
    turned = replace(BIOMED, flavors=BIOMED.flavors[::-1], images=BIOMED.images[::-1])
    other, _ = glue.entries(
        Facts((turned, OPS), {}), SITE, shares=configured("biomed", "ops"), auth_url=KEYSTONE
    )
    assert one == other


def test_every_region_has_an_endpoint() -> None:
    far = replace(ENDPOINT, url="https://far.example.org/v2.1", region="Far")
    shares = [
        ShareSettings("ops", "p0", "", ("VO:ops",), {}),
        ShareSettings("biomed", "p1", "Far", ("VO:biomed",), {}),
    ]
    facts = Facts((OPS, replace(BIOMED, endpoint=far)), {})
    listed, _ = glue.entries(facts, SITE, shares=shares, auth_url=KEYSTONE)
    entries = {entry.dn: entry for entry in listed}
    rules = {
        entry.get("GLUE2AccessPolicyEndpointForeignKey")[0]: entry.get("GLUE2PolicyRule")
        for entry in of_class(entries, "AccessPolicy")
    }
    assert rules == {
        "https://far.example.org/v2.1_OpenStack_v2.1_oidc": ("VO:biomed",),
        "https://n.example.org:8774/v2.1_OpenStack_v2.1_oidc": ("VO:ops",),
    }


texts = st.text(max_size=30) | st.sampled_from(
    [" ", "\ud800", "a\nb: c", 'x="1", y', "é" * 5000, "#x", "\0"]
)


@settings(deadline=None)
@given(st.lists(st.tuples(texts, texts, texts), max_size=4), texts)
def test_no_text_of_the_cloud_breaks_the_output(
    items: list[tuple[str, str, str]], project: str
) -> None:
    images = tuple(
        OfferedImage(f"{n}{i}", name, m, m, name, m, m, m, m, m)
        for n, (i, name, m) in enumerate(items)
    )
    flavors = tuple(
        Flavor(f"{n}{i}", name, 1, 1, 1, 1, {name: m}) for n, (i, name, m) in enumerate(items)
    )
    share = replace(OPS, images=images, flavors=flavors, project_name=project)
    entries = list(tree(Facts((share,), {})).values())
    written = "".join(ldif.write(entries)).encode("ascii")
    assert ldif.parse(written) == entries
    assert all(
        value.strip() == value and value
        for entry in entries
        for values in entry.attributes.values()
        for value in values
    )


def test_names_that_programs_read_as_identifiers() -> None:
    """F-I2: AppDB's SQL and EGI's manuals boot what GLUE2EntityName says."""
    entries = tree(Facts((OPS, BIOMED), {}))
    flavor, image = (
        "http://schemas.openstack.org/template/resource#",
        "http://schemas.openstack.org/template/os#",
    )
    names = [
        [entry.get("GLUE2EntityName")[0] for entry in of_class(entries, kind)]
        for kind in ("ExecutionEnvironment", "ApplicationEnvironment")
    ]
    assert names == [[f"{flavor}1", f"{flavor}2"], [f"{image}aaaa-1", f"{image}bbbb-2"]]
    assert "name=m1.small" in of_class(entries, "Resource")[0].get("GLUE2EntityOtherInfo")
    (named, _) = of_class(entries, "ApplicationEnvironment")
    assert named.get("GLUE2ApplicationEnvironmentAppName") == ("EGI Ubuntu",)
    manager = single(entries, "ComputingManager")
    assert manager.get("GLUE2EntityName") == (f"Cloud Manager for {KEYSTONE}",)
    assert single(entries, "Service").get("GLUE2ServiceType") == ("IaaS",)
    assert single(entries, "Endpoint").get("GLUE2EndpointInterfaceName") == ("OpenStack",)


def test_api_type_names_the_interface() -> None:
    """F-I2: the option had no effect; it also is the way back to the names of the first release."""
    entries = tree(
        Facts((OPS,), {}), replace(SITE, endpoint=EndpointTerms(interface="org.openstack.nova"))
    )
    endpoint = single(entries, "Endpoint")
    assert endpoint.get("GLUE2EndpointInterfaceName") == ("org.openstack.nova",)
    identifier = f"{ENDPOINT.url}_org.openstack.nova_v2.1_oidc"
    assert endpoint.get("GLUE2EndpointID") == (identifier,)
    assert single(entries, "Share").get("GLUE2ShareEndpointForeignKey") == (identifier,)


def system(*images: OfferedImage) -> tuple[str, str, str]:
    entries = tree(Facts((replace(OPS, images=images),), {}))
    found = single(entries, "ExecutionEnvironment")
    family, name, version = (
        found.get(f"GLUE2ExecutionEnvironmentOS{part}")[0] for part in ("Family", "Name", "Version")
    )
    return family, name, version


def test_a_flavor_has_the_system_of_most_images() -> None:
    """F-I7: a flavor has none, but the profile demands one of its list."""
    alma = replace(UBUNTU, id="cccc-3", os_distribution="almalinux", os_version="9")
    windows = replace(BARE, id="dddd-4", os_type="windows", os_distribution="windows")
    assert system(UBUNTU, BARE) == ("linux", "Ubuntu", "24.04")
    assert system(UBUNTU, alma, replace(alma, id="e"), replace(UBUNTU, id="f")) == (
        *("linux", "Ubuntu", "24.04"),
    )
    assert system(windows) == ("windows", "Microsoft WINDOWS", "UNKNOWN")
    assert system(UBUNTU, windows) == system(windows, UBUNTU)
    # GLUE 2.0 has no name for these
    assert system(alma, BARE) == system() == ("linux", "other", "UNKNOWN")


def test_a_shared_image_counts_once() -> None:
    debian = replace(UBUNTU, id="d", os_distribution="debian", os_version="12")
    other = replace(debian, id="e")
    shares = (replace(OPS, images=(UBUNTU, debian, other)), replace(BIOMED, images=(UBUNTU,)))
    environment = of_class(tree(Facts(shares, {})), "ExecutionEnvironment")[0]
    assert environment.get("GLUE2ExecutionEnvironmentOSName") == ("Debian",)


def test_flavors_of_two_regions_with_one_id_are_two_entries() -> None:
    """A reader must not find the memory of one region's flavor for that of another one."""
    far = replace(ENDPOINT, url="https://z.example.org/v2.1", region="Far")
    shares = (OPS, replace(BIOMED, endpoint=far, flavors=(replace(SMALL, ram=512), LARGE)))
    entries = tree(Facts(shares, {}))
    memory = {
        entry.get("GLUE2ResourceID")[0].rpartition("#")[2]: entry.get(
            "GLUE2ExecutionEnvironmentMainMemorySize"
        )
        for entry in of_class(entries, "ExecutionEnvironment")
    }
    assert memory == {
        f"1_{KEYSTONE}": ("2048",),
        f"1_{KEYSTONE}_Far": ("512",),
        f"2_{KEYSTONE}": ("65536",),
    }
    links = {
        entry.get("GLUE2EntityName")[0]: entry.get("GLUE2ShareResourceForeignKey")
        for entry in of_class(entries, "Share")
    }
    assert [key.rpartition("#")[2] for key in links["Share of biomed"]] == [
        f"1_{KEYSTONE}_Far",
        f"2_{KEYSTONE}",
    ]
    same = (OPS, replace(OPS, vo="biomed", endpoint=far))
    assert len(of_class(tree(Facts(same, {})), "ExecutionEnvironment")) == 1


def test_of_two_ids_that_a_directory_takes_for_the_same_the_second_is_reported() -> None:
    twice = (SMALL, replace(LARGE, id="1 "))
    listed, problems = glue.entries(
        Facts((replace(OPS, flavors=twice),), {}),
        SITE,
        shares=configured("ops"),
        auth_url=KEYSTONE,
    )
    assert len([entry for entry in listed if "#1" in entry.dn]) == 1
    identifier = f"http://schemas.openstack.org/template/resource#1_{KEYSTONE}"
    assert problems == [f"{identifier!r}: a second entry with this id is left out; change its id"]


def test_accelerators_under_other_property_names_and_the_auditor_s_role() -> None:
    gpu = Accelerators("GPU", 0.5, vendor="NVIDIA", memory=40)
    flavor = replace(SMALL, accelerators=gpu, has_infiniband=True)
    facts = Facts((replace(OPS, flavors=(flavor,)),), {}, auditor_role=False)
    entries = tree(facts)
    environment = single(entries, "ExecutionEnvironment")
    assert environment.get("GLUE2ExecutionEnvironmentNetworkInfo") == ("infiniband",)
    assert {
        info for info in environment.get("GLUE2EntityOtherInfo") if info.startswith("Accelerator")
    } == {
        "AcceleratorType=GPU",
        "AcceleratorNumber=0.5",
        "AcceleratorVendor=NVIDIA",
        "AcceleratorMemory=40",
    }
    assert "auditor_role=FALSE" in single(entries, "Endpoint").get("GLUE2EntityOtherInfo")
    (endpoint,) = of_class(tree(Facts((OPS,), {})), "Endpoint")
    assert not [info for info in endpoint.get("GLUE2EntityOtherInfo") if "auditor" in info]


def test_an_endpoint_shows_its_authorities_or_that_they_are_unknown() -> None:
    certificate = ServerCertificate("/CN=one", ("/CN=a", "/CN=b"))
    (endpoint,) = of_class(tree(Facts((OPS,), {}, certificate=certificate)), "Endpoint")
    assert endpoint.get("GLUE2EndpointIssuerCA") == ("/C=NL/O=CA/CN=One",)
    assert endpoint.get("GLUE2EndpointTrustedCA") == ("/CN=a", "/CN=b")
    plain = replace(OPS, endpoint=replace(ENDPOINT, issuer=""))
    (endpoint,) = of_class(tree(Facts((plain,), {})), "Endpoint")
    assert endpoint.get("GLUE2EndpointIssuerCA") == ("UNKNOWN",)
    assert endpoint.get("GLUE2EndpointTrustedCA") == ()


def test_a_flavor_or_image_without_an_id_is_reported() -> None:
    bare = (replace(SMALL, id=" ", name="x"), SMALL)
    share = replace(OPS, flavors=bare, images=(replace(UBUNTU, id="", name="y"), BARE))
    listed, problems = glue.entries(
        Facts((share,), {}), SITE, shares=configured("ops"), auth_url=KEYSTONE
    )
    found = {entry.dn: entry for entry in listed}
    assert problems == [
        "VO ops: a flavor without an id is left out: 'x'",
        "VO ops: an image without an id is left out: 'y'",
    ]
    assert len(of_class(found, "ApplicationEnvironment")) == 1
    (environment,) = of_class(found, "ExecutionEnvironment")
    links = single(found, "Share").get("GLUE2ShareResourceForeignKey")
    assert links == environment.get("GLUE2ResourceID")


def test_an_image_outside_of_the_marketplace_has_its_place_in_glance() -> None:
    """As in cloud-info-provider 0.13 with --all-images."""
    local = replace(BARE, file="https://g.example.org/v2/images/bbbb-2/file")
    images = (local, replace(UBUNTU, file="https://g.example.org/v2/images/aaaa-1/file"))
    found = of_class(tree(Facts((replace(OPS, images=images),), {})), "ApplicationEnvironment")
    assert [entry.get("GLUE2ApplicationEnvironmentRepository") for entry in found] == [
        (UBUNTU.marketplace,),
        (local.file,),
    ]


def test_a_vo_with_two_projects_has_two_shares_each_with_its_texts() -> None:
    vos = [
        ShareSettings("ops", project, "", ("VO:ops",), {"sla": f"https://{project}.example.org"})
        for project in ("p0", "p9")
    ]
    shares = (OPS, replace(OPS, project_id="p9"))
    listed, problems = glue.entries(Facts(shares, {}), SITE, shares=vos, auth_url=KEYSTONE)
    assert problems == []
    found = {entry.dn: entry for entry in listed}
    slas = {
        entry.get("GLUE2ShareID")[0][-2:]: [
            info for info in entry.get("GLUE2EntityOtherInfo") if info.startswith("sla=")
        ]
        for entry in of_class(found, "Share")
    }
    assert slas == {"p0": ["sla=https://p0.example.org"], "p9": ["sla=https://p9.example.org"]}
    policy = single(found, "AccessPolicy")
    assert policy.get("GLUE2EntityName") == ("Access of ops",)
    assert policy.get("GLUE2PolicyUserDomainForeignKey") == ("ops",)
