"""A cloud that the description alone describes, as upstream's sample of the static provider."""

import json
from pathlib import Path

import pytest

from appliance.core import ldif
from appliance.core.run.layout import Layout
from appliance.core.run.record import RunRecord
from cloud_info_provider import reading
from cloud_info_provider.cmds import service
from cloud_info_provider.formats import selection
from tests.unit.test_provider_settings import complaints, environment, load

__all__ = ["environment"]

SAMPLE = """\
site:
    name: EXAMPLE-SITE
    url: http://site.url.example.org/
    bdii_port: 2170
compute:
    total_cores: 8
    total_ram: 16
    hypervisor: Foo Hypervisor
    hypervisor_version: 0.42
    service_production_level: production
    capabilities: [executionmanagement.dynamicvmdeploy, security.accounting]
    quotas:
        defaults:
            instances: 10
    endpoints:
        defaults:
            api_endpoint_technology: webservice
            api_authn_method: X509-VOMS
            api_version: v2
            production_level: production
        https://cloud-service01.example.org:8787:
            endpoint_url: https://cloud-service01.example.org:8787
        https://cloud-service02.example.org:8787:
    shares:
        ops:
            project: ops
            membership: ["VO:ops"]
        training.egi.eu:
    templates:
        defaults:
            platform: amd64
            network: public
        resource_tpl#small:
            memory: 1024
            cpu: 1
        resource_tpl#large:
            memory: 8196
            cpu: 4
    images:
        defaults:
            platform: amd64
        os_tpl#foobarid:
            name: Foo Image
            version: 1.0
            marketplace_id: http://m.example.org/foo/bar
            os_family: linux
            os_name: Cirros
            os_version: 1.0
        os_tpl#other:
            name: 'Image, "of" VOs'
"""
WITHOUT_VOS = "".join(SAMPLE.partition("    shares:\n")[::2]).replace(
    SAMPLE.partition("    shares:\n")[2].partition("    templates:\n")[0], ""
)


def entries(root: Path, text: str = SAMPLE) -> list[ldif.Entry]:
    configuration = load(root, "--middleware", "static", rc=None, text=text)
    cloud = reading.read(configuration, Layout(root), RunRecord("x", is_kept=False))
    printed = selection.renderer("glue")(cloud).text
    found = list(ldif.read(printed.encode().splitlines(keepends=True)))
    return [entry for entry in found if isinstance(entry, ldif.Entry)]


def of_class(found: list[ldif.Entry], name: str) -> list[ldif.Entry]:
    return [entry for entry in found if f"GLUE2{name}" in entry.get("objectClass")]


def test_a_share_without_a_project(tmp_path: Path) -> None:
    text = "site: {name: A}\ncompute: {service_name: x, shares: {ops: {}, dev: {project: Dev}}}\n"
    shares = of_class(entries(tmp_path, text), "Share")
    assert sorted(one.get("GLUE2ShareDescription") for one in shares) == [
        ("Share of the VO dev in project Dev",),
        ("Share of the VO ops",),
    ]


def test_all_entries_of_the_description(tmp_path: Path) -> None:
    found = entries(tmp_path)
    assert [one.get("GLUE2EndpointURL") for one in of_class(found, "Endpoint")] == [
        ("https://cloud-service01.example.org:8787",),
        ("https://cloud-service02.example.org:8787",),
    ]
    sizes = [
        (
            one.get("GLUE2ExecutionEnvironmentLogicalCPUs"),
            one.get("GLUE2ExecutionEnvironmentMainMemorySize"),
        )
        for one in of_class(found, "ExecutionEnvironment")
    ]
    assert sizes == [(("4",), ("8196",)), (("1",), ("1024",))]
    names = [
        one.get("GLUE2ApplicationEnvironmentAppName")
        for one in of_class(found, "ApplicationEnvironment")
    ]
    assert names == [("Foo Image",), ('Image, "of" VOs',)]
    shares = of_class(found, "Share")
    assert len(shares) == 2
    assert "quota_instances=10" in shares[0].get("GLUE2EntityOtherInfo")


def test_a_description_without_vos(tmp_path: Path) -> None:
    """As of release 0.8: nobody in particular may use the offer, and nothing names a VO."""
    found = entries(tmp_path, WITHOUT_VOS)
    assert len(of_class(found, "ExecutionEnvironment")) == 2
    assert not of_class(found, "Share")
    assert not of_class(found, "Policy")
    assert not [
        value for entry in found for value in entry.get("GLUE2EntityOtherInfo") if "VO=" in value
    ]


def test_no_account_is_needed_and_no_request_sent(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(SAMPLE)
    flags = ["--root", str(tmp_path), "--yaml-file", str(path), "--middleware", "STATIC"]
    assert service.main([*flags, "--format", "json"]) == 0
    shown = json.loads(capfd.readouterr().out)
    assert [share["vo"] for share in shown["shares"]] == ["ops", "training.egi.eu"]


def test_errors_of_the_description(tmp_path: Path) -> None:
    text = SAMPLE.replace("memory: 8196", "memory: 8G").replace(
        "endpoint_url: https://", "endpoint_url: ftp://"
    )
    lines = complaints(tmp_path, "--middleware", "static", rc=None, text=text)
    path = "openstack.yaml"
    assert [line.partition("; ")[0] for line in lines] == [
        f"{path}:22: compute.endpoints.https://cloud-service01.example.org:8787: is not a URL",
        f"{path}:37: compute.templates.resource_tpl#large.memory: '8G' is not allowed",
    ]


def test_a_repeated_id_leaves_out_its_image_and_is_named_by_its_line(tmp_path: Path) -> None:
    text = f"{SAMPLE}        again:\n            name: Again\n            id: os_tpl#other\n"
    configuration = load(tmp_path, "--middleware", "static", rc=None, text=text)
    assert configuration.offer is not None
    (share, _) = configuration.offer.facts.shares
    assert [image.name for image in share.images] == ["Foo Image", 'Image, "of" VOs']
    (warning,) = [line for line in map(str, configuration.warnings) if "left out" in line]
    line = len(text.splitlines())
    assert warning.endswith(
        f"openstack.yaml:{line}: compute.images.again: is left out, because 'os_tpl#other' has the "
        "id 'os_tpl#other' too; write another id"
    )
