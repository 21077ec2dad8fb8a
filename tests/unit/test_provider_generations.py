"""The description of a site in three generations, each with its own defaults (F-I5).

The samples have the keys of upstream's ones of the tags 0.8.3 and 0.13.0, and of EGI's catch-all.
"""

from pathlib import Path

import pytest

from cloud_info_provider.cmds import service
from tests.unit.test_provider_settings import RC, SHARES, complaints, environment, load

__all__ = ["environment"]

SAMPLE_083 = """\
site:
compute:
    total_cores: 0
    total_ram: 0
    hypervisor: Foo Hypervisor
    hypervisor_version: 0.0.0
    service_production_level: production
    capabilities:
        - cloud.managementSystem
        - cloud.vm.uploadImage
    endpoints:
        defaults:
            middleware_version: havana
            openstack_api_version: v2
            occi_api_version: 1.1
            occi_middleware_version: 0.3.2
            api_endpoint_technology: webservice
            api_authn_method: X509-VOMS
            production_level: production
    templates:
        defaults:
            platform: amd64
            network: public
    images:
        defaults:
            platform: amd64
"""
SAMPLE_0130 = """\
---
site:
  # name: X
compute:
  # public_ip_assignable: true
  shares:
    ops:
      auth:
        project_id: xxxxx
      default_network_type: public
      public_network_name: PUBLIC
      # sla: UNKNOWN
      # network_info: UNKNOWN
      # membership:
      #   - VO:ops
  total_cores: 0
  total_ram: 0
  max_dedicated_ram: 0
  min_dedicated_ram: 0
  # accelerators_virt_type: UNKNOWN
  total_accelerators: 0
  max_accelerators: 0
  min_accelerators: 0
  hypervisor: UNKNOWN
  hypervisor_version: UNKNOWN
  virtual_disk_formats:
    - qcow2
  service_production_level: production
  capabilities:
    - executionmanagement.dynamicvmdeploy
    - security.accounting
  failover: false
  live_migration: false
  vm_backup_restore: false
  quotas:
    defaults:
      # instances: 10
  endpoints:
    defaults:
      compute_middleware_version: Liberty
      api_endpoint_technology: webservice
      api_authn_method: oidc
      production_level: unknown
  templates:
    defaults:
      platform: amd64
      network: public
      network_in: undefined
      network_out: true
  images:
    defaults:
      platform: amd64
"""
CATCH_ALL = """\
---
gocdb: EXAMPLE-SITE
endpoint: https://keystone.example.org:5000/v3/
region: Two
protocol: oidc
auth: v3applicationcredential
images:
  sync: true
  formats: [qcow2, raw]
accounting:
  enabled: false
  site_name: OTHER
vos:
- name: ops
  auth:
    project_id: p-ops
    application_credential_id: ac-ops
    application_credential_secret: geheim-1
  sla: none
- name: /vo.example.org/group
  auth:
    project_id: p-group
    application_credential_id: ac-group
    application_credential_secret: geheim-2
"""


HEAD = "gocdb: A\nendpoint: https://k.example.org/v3\nvos:\n"
ENTRY = "- {{name: {}, auth: {{project_id: p}}}}\n"


def with_site_cfg(root: Path) -> None:
    path = root / "etc/glite-info-static/site/site.cfg"
    path.parent.mkdir(parents=True)
    path.write_text("# a comment\nSITE_EMAIL = a@example.org\nSITE_NAME = EXAMPLE-SITE\n")


def test_upstream_s_sample_of_0_8(tmp_path: Path) -> None:
    """Without `require_marketplace_id` that release publishes all images."""
    with_site_cfg(tmp_path)
    found = load(tmp_path, text=SAMPLE_083)
    assert found.generation.releases == "0.8 to 0.10"
    assert (found.site.name, found.site.endpoint.implementation_version) == (
        "EXAMPLE-SITE",
        "havana",
    )
    assert (found.format, found.all_images, found.shares) == ("glue", True, ())


def test_upstream_s_sample_of_0_13(tmp_path: Path) -> None:
    with_site_cfg(tmp_path)
    found = load(tmp_path, text=SAMPLE_0130)
    assert found.generation.releases == "0.11 to 0.13"
    assert (found.site.name, found.site.endpoint.implementation_version) == (
        "EXAMPLE-SITE",
        "Liberty",
    )
    assert (found.format, found.all_images) == ("glue", False)
    assert [share.vo for share in found.shares] == ["ops"]
    warned = [str(problem).rpartition("openstack.yaml")[2] for problem in found.warnings]
    assert [line.partition(" is ")[0] for line in warned] == [
        ":9: compute.shares.ops.auth.project_id:",
        ":16: compute.total_cores:",
        ":17: compute.total_ram:",
        ":43: compute.endpoints.defaults.production_level: 'unknown'",
    ]


def test_the_file_of_egi_s_catch_all(tmp_path: Path) -> None:
    found = load(tmp_path, rc=None, text=CATCH_ALL)
    assert found.generation.releases == "1"
    assert (found.format, found.all_images, found.site.name) == ("glue21json", True, "EXAMPLE-SITE")
    assert found.warnings == ()
    # GOCDB and the names of published objects have the text as it is
    assert found.endpoint == "https://keystone.example.org:5000/v3/"
    assert found.access.auth_url == "https://keystone.example.org:5000/v3"
    ops, group = found.shares
    assert (group.vo, group.membership) == ("vo.example.org/group", ("VO:vo.example.org/group",))
    assert ops.account is not None
    assert group.account is not None
    assert ops.account.access.auth_type == "v3applicationcredential"
    assert ops.account.access.options["application_credential_id"] == "ac-ops"
    assert group.account.access.options["application_credential_id"] == "ac-group"
    assert (ops.region, ops.account.access.region) == ("Two", "Two")


def test_the_catch_all_s_usual_login_is_an_access_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "gocdb: A\nendpoint: https://k.example.org/v3\nvos: [{name: ops, auth: {project_id: p}}]"
    monkeypatch.setenv("OS_ACCESS_TOKEN", "geheim-token")
    found = load(tmp_path, rc=None, text=text)
    assert found.access.auth_type == "v3oidcaccesstoken"
    assert found.access.options["identity_provider"] == "egi.eu"
    assert found.access.options["protocol"] == "openid"
    monkeypatch.delenv("OS_ACCESS_TOKEN")
    (line,) = complaints(tmp_path, rc=None, text=text)
    assert "OS_ACCESS_TOKEN" in line
    assert "v3oidcaccesstoken needs it" in line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gocdb: A\nendpoint: https://k.example.org/v3\n", ["openstack.yaml: vos: must be set"]),
        (
            "gocdb: SITE_NAME\nendpoint: ftp://x\nvos:\n- name: ops\n- auth: {project_id: p}\n",
            [
                "openstack.yaml:1: gocdb: is still the placeholder 'SITE_NAME'",
                "openstack.yaml:2: endpoint: 'ftp://x' is not a URL",
                "openstack.yaml:4: vos[0]: has no project",
                "openstack.yaml:5: vos[1].name: must be set",
            ],
        ),
        (
            "gocdb: A\nendpoint: https://k.example.org/v3\nvos: {ops: {auth: {project_id: p}}}\n",
            ["openstack.yaml:3: vos: must be a list: the VOs, each with name and auth"],
        ),
        (
            HEAD + "".join(ENTRY.format(name) for name in ("ops", "/ops", "../x", "vö")),
            [
                "openstack.yaml:5: vos[1]: VO ops has project p already at ",
                "openstack.yaml:6: vos[2]: is not a VO's name",
                "openstack.yaml:7: vos[3]: is not a VO's name",
            ],
        ),
        (
            HEAD + "- {name: ops, auth: {project_id: p, usrname: x, password: geheim-3}}\n",
            [
                "openstack.yaml: vos[0].auth.username: must be set",
                "openstack.yaml:4: vos[0].auth.usrname: unknown option; did you mean username?",
            ],
        ),
    ],
)
def test_errors_in_the_catch_all_s_form(tmp_path: Path, text: str, expected: list[str]) -> None:
    rc = "OS_PASSWORD=geheim-9\nOS_USER_DOMAIN_ID=default\nOS_USERNAME=ci\n"
    if "usrname" in text:
        rc = rc.replace("OS_USERNAME=ci\n", "")
    lines = [line for line in complaints(tmp_path, rc=rc, text=text) if "OS_" not in line]
    for line, start in zip(lines, expected, strict=True):
        assert line.startswith(start)


def test_a_site_without_any_name_is_an_error(tmp_path: Path) -> None:
    (line,) = complaints(tmp_path, text=SHARES.replace("EXAMPLE-SITE", "None"))
    start = "openstack.yaml:2: site.name: must be set: the site's name exactly as in GOCDB, or"
    assert line.startswith(start)
    named = tmp_path / "named.cfg"
    named.write_text("SITE_NAME = NAMED\n")
    text = SHARES.replace("name: EXAMPLE-SITE", "url: x")
    found = load(tmp_path, "--glite-site-info-static", str(named), text=text)
    assert found.site.name == "NAMED"


def test_flags_win_over_the_defaults_of_a_generation(tmp_path: Path) -> None:
    with_site_cfg(tmp_path)
    assert not load(tmp_path, "--only-appdb-images", text=SAMPLE_083).all_images
    assert load(tmp_path, "--all-images", text=SAMPLE_0130).all_images
    assert load(tmp_path, "--format", "glue", rc=None, text=CATCH_ALL).format == "glue"
    assert load(tmp_path, "--publisher", "file").format == "glue21json"


def test_a_check_names_the_generation(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load(tmp_path, rc=None, text=CATCH_ALL)
    path = tmp_path / "etc/cloud-info-provider/openstack.yaml"
    assert service.main(["--root", str(tmp_path), "--check-config", str(path)]) == 0
    assert "(the form of cloud-info-provider 1)" in capfd.readouterr().err


def test_words_of_a_command_line_in_a_file(tmp_path: Path) -> None:
    """As with cloud-info-provider 1: one word a line."""
    words = tmp_path / "flags"
    words.write_text("--select-flavors\nprivate\n\n--property-flavor-gpu-model=gpu:model\n")
    found = load(tmp_path, f"@{words}", rc=RC)
    assert (found.select_flavors, found.properties.gpu_model) == ("private", "gpu:model")
    assert found.properties.gpu_number == "Accelerator:Number"


def test_a_missing_file_of_words_is_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        service.main([f"@{tmp_path}/none"])
    assert raised.value.code == 2
    shown = capfd.readouterr().err
    assert f"{tmp_path}/none: cannot be read: no such file or directory" in shown
    assert shown.count("\n") == 1


def test_older_names_of_options(tmp_path: Path) -> None:
    rc = f"{RC}OS_ENDPOINT_TYPE=internalURL\n"
    assert load(tmp_path, rc=rc).access.interface == "internal"
    found = load(tmp_path, "--endpoint-type", "publicURL", "--os-user-name", "other", rc=rc)
    assert (found.access.interface, found.access.account) == ("public", "other")
    assert load(tmp_path, "--http-timeout", "9").access.timeout.total_seconds() == 9
