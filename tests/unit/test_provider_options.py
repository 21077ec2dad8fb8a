"""Options of all releases: published, or without effect and reported once (F-I11)."""

import json
from pathlib import Path

import pytest

from appliance.core import ldif
from appliance.core.run import log
from appliance.core.run.layout import Layout
from appliance.core.run.record import RunRecord
from cloud_info_provider import gather, reading
from cloud_info_provider.cmds import service
from cloud_info_provider.formats import selection
from cloud_info_provider.provider_account import ProviderAccount
from tests.simulators.offering_cloud import PASSWORD, Cloud, flavor
from tests.unit.test_provider_settings import SHARES, complaints, environment, load
from tests.unit.test_static_offer import SAMPLE, of_class

__all__ = ["environment"]

COMPUTE = """\
    virtual_disk_formats: [qcow2, raw]
    failover: false
    live_migration: true
    network_virt_type: vlan
    cpu_virt_type: UNKNOWN
    max_dedicated_ram: 0
    total_accelerators: 4
    accelerators_virt_type: GPU:vgpu
"""
STATIC = f"{SAMPLE.replace('    quotas:', f'{COMPUTE}    quotas:', 1)}"
# In the sample, options of all lists in release 0.13, each with an effect.
LISTS = {
    "            api_endpoint_technology: webservice\n": (
        "            api_endpoint_technology: REST\n            middleware: Foo\n"
        "            middleware_developer: Bar\n            middleware_version: 3.1\n"
    ),
    "        https://cloud-service02.example.org:8787:\n": (
        "        https://cloud-service02.example.org:8787:\n"
        "            api_authn_method: X509\n            production_level: testing\n"
        "            api_type: org.example\n            middleware_version: 4.0\n"
    ),
    "            network: public\n": (
        "            network: public\n            network_in: undefined\n"
        "            network_out: true\n            schema: tpl\n"
    ),
    "            cpu: 4\n": (
        "            cpu: 4\n            network_in: false\n            platform: arm\n"
    ),
    "            name: Foo Image\n": (
        "            name: Foo Image\n            access_info: rsa\n            minimal_ram: 512\n"
        "            software: [a, b]\n            architecture: x86_64\n"
    ),
}


def described(text: str = STATIC) -> str:
    for before, after in LISTS.items():
        assert text.count(before) == 1
        text = text.replace(before, after)
    return text


def rendered(root: Path, form: str, *flags: str, text: str = "") -> str:
    words = ("--middleware", "static", "--format", form, *flags)
    configuration = load(root, *words, rc=None, text=text or described())
    cloud = reading.read(configuration, Layout(root), RunRecord("x", is_kept=False))
    return selection.renderer(form)(cloud).text


def in_ldif(root: Path, *flags: str, text: str = "") -> list[ldif.Entry]:
    printed = rendered(root, "glue", *flags, text=text).encode()
    found = ldif.read(printed.splitlines(keepends=True))
    return [entry for entry in found if isinstance(entry, ldif.Entry)]


def test_options_about_hypervisors_are_published(tmp_path: Path) -> None:
    (manager,) = of_class(in_ldif(tmp_path), "Manager")
    assert manager.get("GLUE2EntityOtherInfo") == (
        "NetworkVirtualizationType=vlan",
        "AcceleratorVirtualizationType=GPU:vgpu",
        "VirtualdiskFormat=qcow2",
        "VirtualdiskFormat=raw",
        "Failover=FALSE",
        "LiveMigration=TRUE",
        "TotalAccelerators=4",
    )
    (shown,) = json.loads(rendered(tmp_path, "glue21json"))["CloudComputingManager"]
    own = {name: value for name, value in shown.items() if name.startswith(("Manager", "Network"))}
    # The names of cloud-info-provider 1.2, whose model has one text for the formats.
    assert own == {
        "NetworkVirtualizationType": "vlan",
        "ManagerVirtualdiskFormat": "qcow2,raw",
        "ManagerFailover": False,
        "ManagerLiveMigration": True,
    }
    assert shown["OtherInfo"] == {
        "AcceleratorVirtualizationType": "GPU:vgpu",
        "TotalAccelerators": 4,
    }


def test_single_endpoints_flavors_and_images_of_a_static_cloud(tmp_path: Path) -> None:
    found = in_ldif(tmp_path)
    first, second = of_class(found, "Endpoint")
    assert first.get("GLUE2EndpointID") == (
        "https://cloud-service01.example.org:8787_OpenStack_v2_X509-VOMS",
    )
    software = ("Implementor", "ImplementationName", "ImplementationVersion", "Technology")
    assert [first.get(f"GLUE2Endpoint{name}") for name in software] == [
        *(("Bar",), ("Foo",), ("3.1",), ("webservice",))
    ]
    assert second.get("GLUE2EndpointID") == (
        "https://cloud-service02.example.org:8787_org.example_v2_X509",
    )
    assert second.get("GLUE2EndpointQualityLevel") == ("testing",)
    assert second.get("GLUE2EndpointImplementationVersion") == ("4.0",)
    large, small = of_class(found, "ExecutionEnvironment")
    assert large.get("GLUE2EntityName") == (
        "http://schemas.openstack.org/template/tpl#resource_tpl#large",
    )
    environment_of = "GLUE2ExecutionEnvironment"
    names = ("Platform", "ConnectivityIn", "ConnectivityOut")
    assert [large.get(f"{environment_of}{name}")[0] for name in names] == ["arm", "FALSE", "TRUE"]
    assert [small.get(f"{environment_of}{name}")[0] for name in names] == ["amd64", "TRUE", "TRUE"]
    image = of_class(found, "ApplicationEnvironment")[0]
    assert {"Platform=x86_64", "minimal_ram=512", "software=a,b"} < {
        *image.get("GLUE2EntityOtherInfo")
    }
    document = json.loads(rendered(tmp_path, "glue21json"))
    assert [one["NetworkIn"] for one in document["CloudComputingInstanceType"]] == [
        *(False, "UNKNOWN")
    ]
    images = document["CloudComputingImage"]
    assert [one["AccessInfo"] for one in images] == ["rsa", "none"]
    assert images[0]["OtherInfo"]["minimal_ram"] == "512"


def test_quotas_of_the_file_where_nova_shows_none(tmp_path: Path) -> None:
    """As in cloud-info-provider 0.13; what Nova shows wins."""
    quotas = "    quotas:\n        defaults: {instances: 7, cores: 9, key_pairs: -1}\n"
    cloud = Cloud(
        flavors={"p-ops": [flavor("1")], "p-fedcloud": []},
        images={"p-ops": [], "p-fedcloud": []},
        quotas={"p-ops": {"cores": 40}},
    )
    with cloud.serve():
        rc = (
            f"OS_AUTH_URL={cloud.url}/identity/v3\nOS_USERNAME=ci\nOS_PASSWORD={PASSWORD}\n"
            "OS_USER_DOMAIN_ID=default\n"
        )
        text = SHARES.replace("                region_name: Far\n", "") + quotas
        configuration = load(tmp_path, rc=rc, text=text)
        facts = gather.gather(ProviderAccount(configuration), configuration.shares)
    found = {share.vo: share.quotas for share in facts.shares}
    assert found == {
        "ops": {"instances": 7, "cores": 40, "key_pairs": -1},
        "fedcloud.egi.eu": {"instances": 7, "cores": 9, "key_pairs": -1},
    }


def test_the_architecture_of_images_without_one(tmp_path: Path) -> None:
    text = f"{SHARES}    images:\n        defaults: {{platform: arm64, schema: disk}}\n"
    site = load(tmp_path, text=text).site
    assert (site.image_platform, site.image_schema) == ("arm64", "disk")


# --------------------------------------------------------------------------------------------------
# without effect

WITHOUT = """\
    region: Far
    service_name: x
    min_accelerators: 0
    public_ip_assignable: false
    oidc_auth_enabled: true
    endpoints:
        defaults:
            occi_api_version: 1.1
            middleware: Foo
        https://k.example.org: {api_version: v2}
    templates:
        defaults: {network: public, cpu: 2}
        small: {cpu: 1}
    images:
        one: {name: One}
    instances:
        i: {name: a}
"""


def warnings(root: Path, *flags: str, text: str) -> list[str]:
    place = f"{root}/etc/cloud-info-provider/openstack.yaml:"
    return [str(one).replace(place, "") for one in load(root, *flags, text=text).warnings]


def test_a_run_reports_in_one_line_the_options_whose_effect_is_missed(tmp_path: Path) -> None:
    first = len(SHARES.splitlines()) + 1
    (line,) = warnings(tmp_path, text=SHARES + WITHOUT)
    assert line == (
        f"{first}: compute.region: has no effect here, nor have options of lines "
        f"{first + 12}, {first + 14}, {first + 15}; --check-config says why"
    )
    (line,) = warnings(tmp_path, text=f"{SHARES}    region: Far\n")
    assert line == (
        f"{first}: compute.region: has no effect here: write OS_REGION_NAME, or auth.region_name of"
        " a VO"
    )


def test_a_check_reports_each_option_without_effect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "_is_checking", True)
    first = len(SHARES.splitlines())
    lines = [
        line.partition(": has no effect here: ")
        for line in warnings(tmp_path, text=SHARES + WITHOUT)
    ]
    assert all(reason for _, _, reason in lines)
    assert [
        (int(name.partition(":")[0]) - first, name.partition(": ")[2]) for name, *_ in lines
    ] == [
        (1, "compute.region"),
        (2, "compute.service_name"),
        (5, "compute.oidc_auth_enabled"),
        (8, "compute.endpoints.defaults.occi_api_version"),
        (9, "compute.endpoints.defaults.middleware"),
        (10, "compute.endpoints.https://k.example.org"),
        (12, "compute.templates.defaults.cpu"),
        (12, "compute.templates.defaults.network"),
        (13, "compute.templates.small"),
        (15, "compute.images.one"),
        (16, "compute.instances"),
    ]


def test_a_static_cloud_reads_what_a_cloud_answers_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "_is_checking", True)
    found = warnings(tmp_path, "--middleware", "static", text=described())
    (line,) = [line for line in found if "has no effect" in line]
    assert "compute.templates.defaults.network: has no effect" in line


def test_a_misspelled_option_of_a_static_entry_is_reported(tmp_path: Path) -> None:
    text = SAMPLE.replace("            cpu: 4\n", "            cpuu: 4\n")
    (line,) = warnings(tmp_path, "--middleware", "static", text=text)
    assert line.endswith("cpuu: unknown option, ignored; did you mean cpu?")


@pytest.mark.parametrize(
    ("option", "fault"),
    [
        ("failover: maybe", "'maybe' is left out; write true or false"),
        ("total_accelerators: -1", "'-1' is left out; write a whole number, 0 or more"),
        ("total_accelerators: 1.5", "'1.5' is left out; write a whole number, 0 or more"),
        (
            "quotas: {defaults: {cores: many}}",
            "'many' is left out; write a whole number, -1 or more",
        ),
        (
            "endpoints: {defaults: {api_endpoint_technology: soap}}",
            "'soap' is no term of GLUE: webservice is published; write corba or jndi or webservice",
        ),
    ],
)
def test_decoration_that_cannot_be_used_is_left_out(
    tmp_path: Path, option: str, fault: str
) -> None:
    """It costs neither the cloud nor a VO."""
    (line,) = warnings(tmp_path, text=f"{SHARES}    {option}\n")
    assert line.endswith(fault)
    assert load(tmp_path).site.manager == {}


def test_flags_without_effect_say_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(SAMPLE)
    flags = [
        *("--root", str(tmp_path), "--yaml-file", str(path), "--middleware", "static"),
        *("--legacy-occi-os", "--collect-timing", "--ignore-share-errors"),
        *("--os-service-type", "compute", "--os-service-name", "x", "--os-api-version", "2"),
    ]
    assert service.main(flags) == 0
    lines = [line for line in capfd.readouterr().err.splitlines() if "has no effect" in line]
    assert [line.partition("WARNING - ")[2].partition(":")[0] for line in lines] == [
        *("--legacy-occi-os", "--collect-timing"),
        *("--os-service-type", "--os-service-name", "--os-api-version"),
    ]


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        (["--output", "x"], "--output: belongs to a publisher that writes a file"),
        (["--publish-file", "x"], "--publish-file: belongs to a publisher that writes a file"),
        (
            ["--ignore-share-errors", "--exit-on-share-errors"],
            "--ignore-share-errors: contradicts --exit-on-share-errors",
        ),
    ],
)
def test_flags_that_have_no_sense_together(
    capfd: pytest.CaptureFixture[str], flags: list[str], fault: str
) -> None:
    assert service.main(flags) == 2
    shown = capfd.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"cloud-info-provider-service: {fault}; ")
    assert shown.err.count("\n") == 1


def test_the_flags_of_0_8_for_infiniband(tmp_path: Path) -> None:
    flags = ("--extra-specs-infiniband-key", "ib", "--extra-specs-infiniband-value", "yes")
    found = load(tmp_path, *flags).properties
    assert (found.infiniband, found.infiniband_value) == (
        "aggregate_instance_extra_specs:ib",
        "yes",
    )
    assert load(tmp_path).properties.infiniband == "infiniband"


# --------------------------------------------------------------------------------------------------
# storage, and the site with its BDII

STORAGE = """\
storage:
    total_storage: 5000
    used_storage: 1000
    middleware: Swift
    middleware_version: v1.0
    middleware_developer: OpenStack Foundation
    service_production_level: production
    capabilities: [cloud.data.upload, data.management.storage]
    endpoints:
        defaults:
            api_type: CDMI
            api_version: 1.0.1
            api_endpoint_technology: REST
            api_authn_method: X509-VOMS
            production_level: production
        https://storage-service01.example.org:8080:
        https://storage-service02.example.org:8080:
            production_level: testing
"""


def test_the_storage_of_a_site(tmp_path: Path) -> None:
    """Names and values of the template storage.ldif, which cloud-info-provider 0.8 has."""
    name = "https://cloud-service01.example.org:8787_cloud.storage"
    found = in_ldif(tmp_path, text=SAMPLE + STORAGE)
    below = f"GLUE2ServiceID={name},GLUE2GroupID=cloud,o=glue"
    (storage,) = of_class(found, "StorageService")
    assert storage.dn == below
    assert storage.get("GLUE2ServiceType") == ("STaaS",)
    assert storage.get("GLUE2ServiceCapability") == ("data.management.storage",)
    (manager,) = of_class(found, "StorageManager")
    assert manager.dn == f"GLUE2ManagerID={name}_manager,{below}"
    assert manager.get("GLUE2ManagerProductName") == ("Swift",)
    first, second = of_class(found, "StorageEndpoint")
    identifier = "https://storage-service01.example.org:8080_CDMI_1.0.1_X509-VOMS"
    assert first.dn == f"GLUE2EndpointID={identifier},{below}"
    assert first.get("GLUE2EndpointTechnology") == ("webservice",)
    assert second.get("GLUE2EndpointQualityLevel") == ("testing",)
    (capacity,) = of_class(found, "StorageServiceCapacity")
    assert capacity.dn == f"GLUE2StorageServiceCapacityID={name}_capacity,{below}"
    sizes = [
        capacity.get(f"GLUE2StorageServiceCapacity{kind}Size") for kind in ("Total", "Used", "Free")
    ]
    assert sizes == [("5000",), ("1000",), ("4000",)]
    without = in_ldif(tmp_path, text=SAMPLE + STORAGE.replace("    used_storage: 1000\n", ""))
    (capacity,) = of_class(without, "StorageServiceCapacity")
    assert not capacity.get("GLUE2StorageServiceCapacityFreeSize")


@pytest.mark.parametrize(
    ("before", "after", "fault", "left"),
    [
        ("            api_type: CDMI\n", "", "left out, because it has no api_type", 0),
        ("https://storage-service02", "storage-service02", "left out, because it is not a URL", 1),
        ("level: testing", "level: best", "'best' is no term of GLUE: production is published", 2),
        ("level: production\n    cap", "level: best\n    cap", "'best' is no term of GLUE", 2),
    ],
)
def test_storage_that_cannot_be_used_is_left_out_and_the_cloud_is_published(
    tmp_path: Path, before: str, after: str, fault: str, left: int
) -> None:
    text = SAMPLE + STORAGE.replace("cloud.data.upload, ", "").replace(before, after)
    assert [
        line for line in warnings(tmp_path, "--middleware", "static", text=text) if fault in line
    ]
    found = in_ldif(tmp_path, text=text)
    assert len(of_class(found, "StorageEndpoint")) == left
    assert len(of_class(found, "StorageService")) == bool(left)
    assert len(of_class(found, "ComputingService")) == 1


def test_storage_without_endpoints_or_in_json_is_reported(tmp_path: Path) -> None:
    (line,) = warnings(
        tmp_path, "--middleware", "static", text=f"{SAMPLE}storage: {{total_storage: 1}}\n"
    )
    assert line.partition(": ")[2].startswith("storage: has no endpoints")
    text = SAMPLE + STORAGE.replace("cloud.data.upload, ", "")
    (line,) = warnings(tmp_path, "--middleware", "static", "--format", "glue21json", text=text)
    assert line.endswith("storage: has no effect here: GLUE 2.1 of EGI has no storage")
    text = text.replace("used_storage: 1000", "used_storage: 6000")
    (line,) = warnings(tmp_path, "--middleware", "static", text=text)
    assert "storage.used_storage: 6000 is more than total_storage" in line


SITE = """\
site:
    name: EXAMPLE-SITE
    url: http://site.example.net/
    production_level: production
    country: ES
    longitude: 0.0
    latitude: 43.4
    ngi: NGI_IBERGRID
    general_contact: general@site.example.net
    user_support_contact: users@site.example.net
    sysadmin_contact: admins@site.example.net
    security_contact: security@site.example.net
    bdii_host: bdii.site.example.net
    bdii_port: 2171
"""
FULL = SITE + SAMPLE.partition("    bdii_port: 2170\n")[2]


def test_the_cloud_below_its_site(tmp_path: Path) -> None:
    found = in_ldif(tmp_path, "--site-in-suffix", text=FULL)
    assert all(
        each.dn == "o=glue"
        or each.dn.endswith("GLUE2GroupID=cloud,GLUE2DomainID=EXAMPLE-SITE,o=glue")
        for each in found
    )
    assert not of_class(found, "Domain")


def test_the_whole_bdii_of_a_site(tmp_path: Path) -> None:
    """Names and values of the templates domain.ldif and bdii.ldif of cloud-info-provider 0.8."""
    found = {entry.dn: entry for entry in in_ldif(tmp_path, "--full-bdii-ldif", text=FULL)}
    above = "GLUE2DomainID=EXAMPLE-SITE,o=glue"
    service_id = "GLUE2ServiceID=EXAMPLE-SITE_sitebdii,GLUE2GroupID=resource"
    endpoint = "GLUE2EndpointID=bdii.site.example.net:2171_sitebdii_endpoint"
    policy = "GLUE2PolicyID=bdii.site.example.net:2171_sitebdii_endpoint_Policy"
    parents = [dn.partition(",")[2] for dn in found if dn != "o=glue"]
    assert {*parents} <= {*found}
    assert list(found)[: list(found).index(f"GLUE2GroupID=cloud,{above}")] == [
        "o=glue",
        above,
        f"GLUE2LocationID=location.EXAMPLE-SITE,{above}",
        *(
            f"GLUE2ContactID={kind}.contact.EXAMPLE-SITE,{above}"
            for kind in ("general", "security", "sysadmin", "usersupport")
        ),
        f"GLUE2GroupID=resource,{above}",
        f"{service_id},{above}",
        f"{endpoint},{service_id},{above}",
        f"{policy},{endpoint},{service_id},{above}",
    ]
    assert found[above].get("GLUE2DomainWWW") == ("http://site.example.net/",)
    assert "EGI_NGI=NGI_IBERGRID" in found[above].get("GLUE2EntityOtherInfo")
    contact = found[f"GLUE2ContactID=usersupport.contact.EXAMPLE-SITE,{above}"]
    assert contact.get("GLUE2ContactDetail") == ("mailto:users@site.example.net",)


@pytest.mark.parametrize(
    ("before", "after", "fault"),
    [
        ("security_contact: security@site.example.net", "", "site.security_contact: must be set"),
        ("general@site.example.net", "a@example.org", "site.general_contact: is still the pl"),
        ("bdii.site.example.net", "ldap://x:1", "site.bdii_host: 'ldap://x:1' is not a host name"),
        ("bdii_port: 2171", "bdii_port: x", "site.bdii_port: 'x' is not allowed"),
        ("latitude: 43.4", "latitude: 43N", "site.latitude: '43N' is not allowed"),
    ],
)
def test_a_site_that_is_not_described(tmp_path: Path, before: str, after: str, fault: str) -> None:
    flags = ("--middleware", "static", "--full-bdii-ldif")
    (line,) = complaints(tmp_path, *flags, rc=None, text=FULL.replace(before, after))
    assert line.partition(": ")[2].startswith(fault)
    without = SITE.partition("    url")[0] + FULL.removeprefix(SITE)
    assert load(tmp_path, *flags[:2], rc=None, text=without).site.domain is None


@pytest.mark.parametrize("form", ["glue", "glue21json"])
def test_a_description_of_release_1_has_no_site_with_contacts(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], form: str
) -> None:
    """It allows no section site, in which they could be written."""
    path = tmp_path / "site.yaml"
    path.write_text(
        "gocdb: EXAMPLE-SITE\nendpoint: https://k.example.net:5000/v3\n"
        "vos: [{name: ops, auth: {project_id: p-ops}}]\n"
    )
    flags = ["--root", str(tmp_path), "--yaml-file", str(path), "--format", form]
    assert service.main([*flags, "--full-bdii-ldif"]) == 2
    assert capfd.readouterr().err == (
        f"cloud-info-provider-service: --full-bdii-ldif: {path}: the form of cloud-info-provider 1"
        " has no contacts; leave it out: the site's BDII publishes the site as site.cfg describes"
        " it\n"
    )


@pytest.mark.parametrize("flag", ["--full-bdii-ldif", "--site-in-suffix"])
def test_json_has_no_tree(tmp_path: Path, capfd: pytest.CaptureFixture[str], flag: str) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(FULL)
    flags = ["--root", str(tmp_path), "--yaml-file", str(path), "--middleware", "static"]
    assert service.main([*flags, flag, "--format", "glue21json"]) == 2
    assert f"{flag}: belongs to the format glue; add --format glue" in capfd.readouterr().err
