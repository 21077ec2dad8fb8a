"""openstack.rc and openstack.yaml in the forms of all releases, and messages for errors in them."""

import argparse
import re
from pathlib import Path

import pytest

from appliance.core.run import cli
from appliance.core.run.errors import ConfigurationError, ExitStatus
from appliance.core.run.layout import Layout
from cloud_info_provider import settings
from cloud_info_provider.cmds import service
from cloud_info_provider.settings import ProviderSettings

RC = """\
export OS_AUTH_URL=https://keystone.example.org:5000/v3
export OS_USERNAME=cloud-info
export OS_PASSWORD='secret 12'
export OS_USER_DOMAIN_ID=default
export OS_PROJECT_NAME=ops
"""
SHARES = """\
site:
    name: EXAMPLE-SITE
compute:
    shares:
        ops:
            auth:
                project_id: p-ops
            default_network_type: public
            public_network_name: PUBLIC
        /fedcloud.egi.eu:
            auth:
                project_id: p-fedcloud
                region_name: Far
            membership: ["VO:fedcloud.egi.eu", "VOMS:/fedcloud.egi.eu/x"]
    total_cores: 192
    total_ram: 768
    hypervisor: KVM
    hypervisor_version: 4.20
"""
OLD = """\
site:
    name: EXAMPLE-SITE
compute:
    total_cores: 128
    total_ram: 512
    hypervisor: KVM
    hypervisor_version: 2.5.0
    middleware_version: liberty
    service_production_level: testing
    capabilities:
        - cloud.managementSystem
        - data.transfer
    endpoints:
        defaults:
            openstack_api_version: v2
            occi_api_version: 1.1
            api_endpoint_technology: REST
            api_authn_method: X509-VOMS
            production_level: production
    templates:
        defaults:
            platform: x86_64
            network: public
    images:
        defaults:
            require_marketplace_id: false
            platform: amd64
"""


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith(("OS_", "NOVA", "CLOUD_INFO")):
            monkeypatch.delenv(name)


def load(
    root: Path, *flags: str, rc: str | None = RC, text: str | None = SHARES
) -> ProviderSettings:
    directory = root / "etc/cloud-info-provider"
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in (("openstack.rc", rc), ("openstack.yaml", text)):
        if content is not None:
            (directory / name).write_text(content)
            (directory / name).chmod(0o600)
    program = cli.Program(
        "x",
        "",
        service.add_arguments,
        lambda _: ExitStatus.DONE,
        reads_flags_of_files=True,
    )
    arguments: argparse.Namespace = cli.parser(program).parse_args(flags)
    return settings.load(arguments, Layout(root))


def complaints(
    root: Path, *flags: str, rc: str | None = RC, text: str | None = SHARES
) -> list[str]:
    with pytest.raises(ConfigurationError) as raised:
        load(root, *flags, rc=rc, text=text)
    return [
        line.replace(f"{root}/etc/cloud-info-provider/", "")
        for line in str(raised.value).splitlines()
    ]


def test_shares_with_their_projects_and_texts(tmp_path: Path) -> None:
    """R26, R27."""
    found = load(tmp_path)
    assert found.warnings == ()
    assert [
        (share.vo, share.project_id, share.region, share.membership) for share in found.shares
    ] == [
        ("ops", "p-ops", "", ("VO:ops",)),
        (
            "fedcloud.egi.eu",
            "p-fedcloud",
            "Far",
            ("VO:fedcloud.egi.eu", "VOMS:/fedcloud.egi.eu/x"),
        ),
    ]
    assert found.shares[0].information == {
        "default_network_type": "public",
        "public_network_name": "PUBLIC",
    }
    assert (found.site.name, found.site.cores, found.site.memory) == ("EXAMPLE-SITE", 192, 768)
    assert (found.site.hypervisor_version, found.site.endpoint.authentication) == ("4.20", "oidc")
    assert not found.all_images
    assert found.access.auth_url == "https://keystone.example.org:5000/v3"
    assert found.access.options["password"] == "secret 12"
    assert found.access.auth_type == "v3password"


def test_the_file_of_2017_with_one_project_and_keystone_2(tmp_path: Path) -> None:
    """R26, R27."""
    rc = (
        "export OS_AUTH_URL=https://k.example.org:5000/v2.0\nexport OS_USERNAME=ci\n"
        "export OS_TENANT_NAME=ops\nexport OS_PASSWORD=geheim-7\n"
    )
    found = load(tmp_path, rc=rc, text=OLD)
    assert found.access.auth_url == "https://k.example.org:5000/v3"
    assert found.access.options["user_domain_id"] == "default"
    assert (found.project, found.shares) == ("ops", ())
    assert found.all_images
    assert found.site.endpoint.authentication == "X509-VOMS"
    assert (found.site.service_level, found.site.endpoint.level) == ("testing", "production")
    assert (found.site.endpoint.implementation_version, found.site.flavors.platform) == (
        "liberty",
        "x86_64",
    )
    assert found.site.capabilities == (
        "executionmanagement.dynamicvmdeploy",
        "security.accounting",
        "data.transfer",
    )
    (warning,) = found.warnings
    assert re.match(
        r".*/openstack\.yaml:10: compute\.capabilities: cloud\.managementSystem: no capability",
        str(warning),
    )


def test_flags_win_over_the_environment_and_that_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D12: `--insecure` causes a warning."""
    monkeypatch.setenv("OS_USERNAME", "from-environment")
    monkeypatch.setenv("NOVA_PASSWORD", "older-name")
    found = load(
        tmp_path, "--os-auth-url", "https://flag.example.org/v3", "--insecure", "--timeout", "7"
    )
    assert found.access.auth_url == "https://flag.example.org/v3"
    assert found.access.account == "from-environment"
    assert found.access.options["password"] == "older-name"
    assert (found.access.verify, found.access.timeout.total_seconds()) == (False, 7)
    assert "anybody on the network may read the password" in "".join(map(str, found.warnings))


def test_the_environment_alone_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for line in RC.replace("export ", "").replace("'", "").splitlines():
        monkeypatch.setenv(*line.split("=", 1))
    assert load(tmp_path, rc=None).access.account == "cloud-info"


def test_an_application_credential_needs_no_auth_type(tmp_path: Path) -> None:
    rc = (
        "OS_AUTH_URL=https://k.example.org/v3\nOS_APPLICATION_CREDENTIAL_ID=a\n"
        "OS_APPLICATION_CREDENTIAL_SECRET=geheim-8\n"
    )
    assert load(tmp_path, rc=rc).access.is_bound


def test_the_yaml_file_of_the_container_s_variable(tmp_path: Path) -> None:
    elsewhere = tmp_path / "site.yaml"
    elsewhere.write_text(SHARES)
    found = load(tmp_path, rc=f"{RC}CLOUD_INFO_CONFIG={elsewhere}\n", text=None)
    assert found.yaml_file == elsewhere


def test_all_errors_are_reported_together_with_their_lines(tmp_path: Path) -> None:
    """R27: the placeholder of the site's name, too."""
    text = """\
site:
  name: SITE-NAME
compute:
  total_cores: many
  hypervisr: KVM
  service_production_level: prod
  shares:
    ops:
    biomed:
      default_network_type: publik
    a b:
      auth: {project_id: x y}
storage:
  total_storage: 5
"""
    lines = complaints(
        tmp_path,
        rc=RC.replace("keystone.example.org", "yourkeystone").replace("OS_USERNAME", "OS_USER"),
        text=text,
    )
    starts = [
        "openstack.rc: OS_USERNAME: must be set",
        "openstack.rc:1: OS_AUTH_URL: is still the placeholder 'yourkeystone'",
        "openstack.yaml: compute.total_ram: is not set",
        "openstack.yaml:2: site.name: is still the placeholder 'SITE-NAME'",
        "openstack.yaml:4: compute.total_cores: 'many' is not allowed",
        "openstack.yaml:5: compute.hypervisr: unknown option, ignored; did you mean hypervisor?",
        "openstack.yaml:6: compute.service_production_level: 'prod' is not allowed",
        "openstack.yaml:8: compute.shares.ops: has no project",
        "openstack.yaml:9: compute.shares.biomed: has no project",
        "openstack.yaml:10: compute.shares.biomed.default_network_type: 'publik' is not allowed",
        "openstack.yaml:11: compute.shares.a b: is not a VO's name",
        "openstack.yaml:12: compute.shares.a b.auth.project_id: 'x y' is not the id of a project",
        "openstack.yaml:13: storage: has no endpoints, so no storage is published",
    ]
    assert len(lines) == len(starts)
    for line, start in zip(lines, starts, strict=True):
        assert line.startswith(start)


@pytest.mark.parametrize(
    ("rc", "text", "expected"),
    [
        (
            "OS_PASSWORD=$(cat secret)\n",
            SHARES,
            "openstack.rc:1: OS_PASSWORD: $(…) would be replaced by a shell",
        ),
        (
            RC,
            "site:\n\tname: X\n",
            "openstack.yaml:2: is not YAML: found character that cannot start any token",
        ),
        (
            RC,
            SHARES.replace("EXAMPLE-SITE", "My Site"),
            "openstack.yaml:2: site.name: 'My Site' is not a site name of GOCDB",
        ),
        (RC, "- a\n", "openstack.yaml:1: must be lines of the form 'name: value'"),
        (
            RC.replace("v3", "v3\nOS_AUTH_TYPE=v3pasword"),
            SHARES,
            "openstack.rc:2: OS_AUTH_TYPE: 'v3pasword' is not a plugin",
        ),
        (
            RC + "OS_CACERT=/nowhere.pem\n",
            SHARES,
            "openstack.rc:6: OS_CACERT: file /nowhere.pem does not exist",
        ),
        (None, SHARES, "openstack.rc: cannot be read: no such file or directory"),
        (RC, None, "openstack.yaml: cannot be read: no such file or directory"),
        (
            RC.replace("export OS_PROJECT_NAME=ops\n", ""),
            "site: {name: A}\ncompute: {total_cores: 1, total_ram: 1}\n",
            "openstack.yaml: compute.shares: must be set",
        ),
    ],
)
def test_one_fault_is_one_line(
    tmp_path: Path, rc: str | None, text: str | None, expected: str
) -> None:
    (line,) = complaints(tmp_path, rc=rc, text=text)
    assert line.startswith(expected)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (
            ["--format", "glue21"],
            "--format: 'glue21' is not in this version; write glue or glue21json or json",
        ),
        (["--format", "x"], "--format: 'x' is unknown; write glue or glue21json or json"),
        (
            ["--middleware", "ooi"],
            "--middleware: 'ooi' is not in this version; write openstack or static",
        ),
        (
            ["--publisher", "ams"],
            (
                "--publisher: 'ams' is not in this version;"
                " write stdout or file or swift or http or s3"
            ),
        ),
    ],
)
def test_values_of_other_releases_are_rejected(
    capfd: pytest.CaptureFixture[str], flags: list[str], expected: str
) -> None:
    assert service.main(flags) == 2
    assert capfd.readouterr() == ("", f"cloud-info-provider-service: {expected}\n")


def test_flags_of_other_releases_are_rejected_by_name(capfd: pytest.CaptureFixture[str]) -> None:
    for flags in (["--template-dir", "x"], ["--ams-host", "x"], ["--timeout", "0"], ["--nonsense"]):
        with pytest.raises(SystemExit) as raised:
            service.main(flags)
        assert raised.value.code == 2
        shown = capfd.readouterr()
        assert shown.out == ""
        assert flags[0] in shown.err
        assert shown.err.count("\n") == 1


def test_checking_the_configuration_touches_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    load(tmp_path)
    assert service.main(["--root", str(tmp_path), "--check-config"]) == 0
    assert "configuration is good" in capfd.readouterr().err
    assert not (tmp_path / "var").exists()


def test_the_shipped_files_want_their_placeholders_replaced_and_nothing_else(
    tmp_path: Path,
) -> None:
    shipped = Path(__file__).parents[2] / "etc/cloud-info-provider"
    rc, text = ((shipped / name).read_text() for name in ("openstack.rc", "openstack.yaml"))
    lines = complaints(tmp_path, rc=rc, text=text)
    assert [line.split(": ", 2)[:2] for line in lines] == [
        ["openstack.rc", "OS_PASSWORD"],
        ["openstack.rc", "OS_USERNAME"],
        ["openstack.rc:4", "OS_AUTH_URL"],
        ["openstack.yaml:3", "site.name"],
        ["openstack.yaml:7", "compute.total_cores"],
        ["openstack.yaml:8", "compute.total_ram"],
        ["openstack.yaml:17", "compute.shares.vo.example.org.auth.project_id"],
    ]
    filled = (
        rc.replace("yourkeystone", "k.example.org")
        .replace("NAME=\n", "NAME=ci\n")
        .replace("PASSWORD=\n", "PASSWORD=geheim-9\n")
    )
    text = text.replace(": 0", ": 8").replace("SITE-NAME", "A").replace("PROJECT-ID", "p0")
    found = load(tmp_path, rc=filled, text=text)
    assert (found.warnings, found.shares[0].vo) == ((), "vo.example.org")


def test_api_type_names_the_interface_that_is_published(tmp_path: Path) -> None:
    """F-I2: the option had no effect."""
    assert load(tmp_path).site.endpoint.interface == "OpenStack"
    defaults = f"{SHARES}    endpoints:\n        defaults:\n            api_type: "
    assert load(tmp_path, text=f"{defaults}org.openstack.nova\n").site.endpoint.interface == (
        "org.openstack.nova"
    )
    found = load(tmp_path, text=f"{defaults}OCCI\n")
    assert found.site.endpoint.interface == "OpenStack"
    (warning,) = found.warnings
    assert str(warning).endswith(
        "openstack.yaml:21: compute.endpoints.defaults.api_type: OCCI: clouds have no OCCI any "
        "more; OpenStack is published"
    )


def test_a_vo_without_a_name_or_with_the_name_of_another_one(tmp_path: Path) -> None:
    """Names that are empty or set twice: one line each, with the line of the file."""
    text = SHARES.replace("        ops:\n", '        "":\n')
    assert complaints(tmp_path, text=text) == [
        "openstack.yaml:5: [compute.shares]: a VO has no name; write it before the colon"
    ]
    twice = "        ops: {auth: {project_id: q}}\n    total_cores"
    text = SHARES.replace("    total_cores", twice)
    assert complaints(tmp_path, text=text) == [
        "openstack.yaml:15: compute.shares.ops: is set a second time; first in line 5; remove one"
    ]
