"""Each flag of cloud-info-provider 0.8, 0.13 and 1.2 has its effect, or one line says why not."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from keystoneauth1 import loading

from appliance.core.run.layout import Layout
from appliance.core.run.record import RunRecord
from cloud_info_provider import reading
from cloud_info_provider.cmds import service
from cloud_info_provider.formats import selection
from cloud_info_provider.settings import ProviderSettings
from tests.interop.test_information_peer import PEER
from tests.simulators.offering_cloud import PASSWORD, Cloud, flavor, image
from tests.unit.test_provider_options import SITE, STATIC
from tests.unit.test_provider_settings import RC, complaints, environment, load

__all__ = ["environment"]

# The peer's flags with each plugin, which adds its own.
_LIST = """
import json, sys
from cloud_info_provider import core
found = set()
for plugin in sys.argv[1:]:
    sys.argv[1:] = ["--os-auth-type", plugin]
    parser = core.get_parser(core.get_providers(), core.get_formatters(), core.get_publishers())
    found.update(parser._option_string_actions)
print(json.dumps(sorted(found)))
"""
# Of releases 0.8 and 0.13, which are in no package index.
OLDER_FLAGS = (
    *("--yaml", "--yaml-file", "--full-bdii-ldif", "--site-in-suffix", "--template-extension"),
    *("--legacy-occi-os", "--os-tenant-name", "--template-dir", "--auth-refresher"),
    *("--ignore-share-errors", "--all-images", "--os-region", "--glite-site-info-static"),
    *("--oidc-token-endpoint", "--oidc-client-id", "--oidc-client-secret", "--oidc-refresh-token"),
    *("--oidc-scopes", "--oidc-credentials-path", "--ams-token", "--ams-host", "--ams-topic"),
    *("--ams-project", "--ams-cert", "--ams-key", "--on-auth", "--on-rpcxml-endpoint"),
    *("--rocci-template-dir", "--rocci-remote-templates", "--os-username", "--os-password"),
    *("--os-auth-url", "--os-cacert", "--insecure", "--middleware", "--format", "--publisher"),
    *("--extra-specs-infiniband-key", "--extra-specs-infiniband-value"),
)

# Plugins that log in to Keystone 3 without a person.
_PLUGINS = (
    *("password", "token", "v3password", "v3token", "v3totp", "v3applicationcredential"),
    *("v3oauth2clientcredential", "v3oauth2mtlsclientcredential", "v3oidcaccesstoken"),
    *("v3oidcauthcode", "v3oidcclientcredentials", "v3oidcdeviceauthz", "v3oidcpassword"),
)
# No options of plugins for us: the place to log in, and what to log in to.
_SCOPE = frozenset(
    {
        *("auth-url", "system-scope", "domain-id", "domain-name", "trust-id"),
        *("project-id", "project-name", "project-domain-id", "project-domain-name"),
    }
)


def spellings(plugin: str) -> dict[str, list[str]]:
    """Return the flags of each option of a plugin, as keystoneauth names them."""
    options: list[Any] = loading.get_plugin_loader(plugin).get_options()
    return {
        option.dest: [name for name in option.argparse_args if name.startswith("--")]
        for option in options
        if option.name not in _SCOPE
    }


@pytest.mark.parametrize("plugin", _PLUGINS)
def test_flags_of_an_account_reach_its_plugin(tmp_path: Path, plugin: str) -> None:
    known = spellings(plugin)
    for number in range(max(map(len, known.values()))):
        chosen = {option: flags[number % len(flags)] for option, flags in known.items()}
        values = {option: f"value of {option}" for option in chosen}
        words = chain.from_iterable((flag, values[option]) for option, flag in chosen.items())
        rc = "OS_AUTH_URL=https://keystone.example.org:5000/v3\n"
        access = load(tmp_path, "--os-auth-type", plugin, *words, rc=rc).access
        assert access.options == {**values, "auth_url": access.auth_url}


@pytest.mark.parametrize(
    ("plugin", "reason"),
    [
        ("v3websso", "'v3websso' needs a person with a browser"),
        ("v3multifactor", "'v3multifactor' needs a person who enters a code"),
        ("http_basic", "'http_basic' does not log in to Keystone v3"),
    ],
)
def test_a_plugin_that_no_program_can_use_is_rejected(
    tmp_path: Path, plugin: str, reason: str
) -> None:
    (line,) = complaints(tmp_path, "--os-auth-type", plugin)
    assert f"{reason}; write one like v3password" in line


# --------------------------------------------------------------------------------------------------
# flags that the settings show

_FILE = str(Path(__file__).with_name("egi_profile.py"))
_Shown = Callable[[ProviderSettings], object]
_SETTINGS: list[tuple[str, str, _Shown, object]] = [
    ("--os-auth-type", "v3token", lambda found: found.access.auth_type, "v3token"),
    ("--os-auth-plugin", "v3token", lambda found: found.access.auth_type, "v3token"),
    ("--os-auth-url", "https://k/v3", lambda found: found.access.auth_url, "https://k/v3"),
    *(
        (flag, "p-7", lambda found: found.project, "p-7")
        for flag in ("--os-project-id", "--os-tenant-id")
    ),
    *(
        (flag, "p-7", lambda found: found.project, "p-7")
        for flag in ("--os-project-name", "--os-tenant-name")
    ),
    ("--os-project-domain-id", "d", lambda found: found.access.project_domain_id, "d"),
    ("--os-project-domain-name", "D", lambda found: found.access.project_domain_name, "D"),
    ("--os-trust-id", "t-1", lambda found: found.access.options.get("trust_id"), "t-1"),
    ("--os-region-name", "Far", lambda found: found.access.region, "Far"),
    ("--os-region", "Far", lambda found: found.access.region, "Far"),
    *(
        (flag, value, lambda found: found.access.interface, "internal")
        for flag in ("--os-interface", "--os-endpoint-type", "--endpoint-type")
        for value in ("internal", "internalURL")
    ),
    ("--os-cacert", _FILE, lambda found: found.access.verify, _FILE),
    ("--os-cert", _FILE, lambda found: found.access.certificate, _FILE),
    ("--insecure", "", lambda found: found.access.verify, False),
    ("--timeout", "7", lambda found: found.access.timeout.total_seconds(), 7),
    ("--http-timeout", "7", lambda found: found.access.timeout.total_seconds(), 7),
    ("--exit-on-share-errors", "", lambda found: found.needs_all_vos, True),
    ("--format", "json", lambda found: found.format, "json"),
    ("--publisher", "file", lambda found: found.format, "glue21json"),
]


@pytest.mark.parametrize(("flag", "value", "shown", "expected"), _SETTINGS)
def test_flags_that_the_settings_show(
    tmp_path: Path, flag: str, value: str, shown: _Shown, expected: object
) -> None:
    text = "site: {name: EXAMPLE-SITE}\ncompute: {total_cores: 1, total_ram: 1}\n"
    token = ("--os-token", "t") if value == "v3token" else ()
    assert shown(load(tmp_path, text=text)) != expected
    words = (flag, value) if value else (flag,)
    assert shown(load(tmp_path, *words, *token, text=text)) == expected


def test_a_certificate_and_its_key(tmp_path: Path) -> None:
    found = load(tmp_path, "--os-cert", _FILE, "--os-key", __file__).access.certificate
    assert found == (_FILE, __file__)


@pytest.mark.parametrize("flag", ["--os-cloud", "--auditor-role-cloud"])
def test_an_account_of_clouds_yaml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: str
) -> None:
    monkeypatch.chdir(tmp_path)
    login = "auth_url: 'https://other/v3', username: c, password: p-1-p, user_domain_id: d"
    (tmp_path / "clouds.yaml").write_text(f"clouds: {{mine: {{auth: {{{login}}}}}}}\n")
    found = load(tmp_path, flag, "mine", rc=RC if flag != "--os-cloud" else None)
    used = found.auditor.access if found.auditor else found.access
    assert (used.auth_url, used.account) == ("https://other/v3", "c")


def test_flags_of_a_refresh_token(tmp_path: Path) -> None:
    words = {
        "--oidc-token-endpoint": "https://aai.example.org/token",
        "--oidc-client-id": "client-1",
        "--oidc-client-secret": "secret-1",
        "--oidc-refresh-token": "refresh-1",
        "--oidc-scopes": "openid",
    }
    flags = ("--auth-refresher", "oidcrefresh", "--os-identity-provider", "egi", "--os-protocol")
    found = load(tmp_path, *flags, "openid", *chain.from_iterable(words.items())).account.refresh
    assert found is not None
    shown = (found.endpoint, found.client_id, found.client_secret, found.refresh_token)
    assert (*shown, found.scopes) == tuple(words.values())
    (tmp_path / "vos/ops").mkdir(parents=True)
    (tmp_path / "vos/ops/password").write_text("of-ops\n")
    ops = load(tmp_path, "--oidc-credentials-path", f"{tmp_path}/vos").shares[0].account
    assert ops is not None
    assert ops.access.options["password"] == "of-ops"


@pytest.mark.parametrize("flag", ["", "--yaml", "--yaml-file"])
def test_the_file_of_the_site(tmp_path: Path, flag: str) -> None:
    path = tmp_path / "other.yaml"
    path.write_text("compute: {total_cores: 1, total_ram: 1}\n")
    (tmp_path / "site.cfg").write_text("SITE_NAME = OTHER\n")
    words = (flag, str(path)) if flag else (str(path),)
    found = load(tmp_path, *words, "--glite-site-info-static", f"{tmp_path}/site.cfg")
    assert (found.yaml_file, found.site.name) == (path, "OTHER")


# --------------------------------------------------------------------------------------------------
# flags that the output shows

LDIF, JSON = "glue", "glue21json"
# Form, project, flag, and what only the output with the flag has.
_PRINTED = [
    (JSON, "p0", "--property-flavor-infiniband=x:ib", '"NetworkInfo": "infiniband"'),
    (JSON, "p0", "--property-flavor-infiniband-value=yes", '"NetworkInfo": "infiniband"'),
    (JSON, "p0", "--property-flavor-gpu-number=x:number", '"Number": 3'),
    (JSON, "gpu", "--property-flavor-gpu-memory=x:memory", '"Memory": 48'),
    (JSON, "gpu", "--property-flavor-gpu-virt-type=x:virt", '"VirtualizationType": "vgpu"'),
    (JSON, "gpu", "--property-flavor-gpu-vendor=x:vendor", '"Vendor": "ACME"'),
    (JSON, "gpu", "--property-flavor-gpu-model=x:model", '"Model": "Z80"'),
    (JSON, "p0", "--property-image-gpu-driver=x:driver", '"driver-550"'),
    (JSON, "p0", "--property-image-gpu-cuda=x:cuda", '"cuda-12"'),
    (JSON, "p0", "--property-image-gpu-cudnn=x:cudnn", '"cudnn-9"'),
    (LDIF, "p0", "--extra-specs-infiniband-key=ib", "NetworkInfo: infiniband"),
    (LDIF, "p0", "--extra-specs-infiniband-value=yes", "NetworkInfo: infiniband"),
    (LDIF, "p0", "--site-in-suffix", "GLUE2GroupID=cloud,GLUE2DomainID=EXAMPLE-SITE,o=glue"),
    (LDIF, "p0", "--full-bdii-ldif", "GLUE2DomainID: EXAMPLE-SITE"),
    (LDIF, "p0", "--all-images", "template/os#own"),
    (LDIF, "p0", "--middleware=static", "of-file"),
]
# What only the output without the flag has.
_LEFT_OUT = [
    (JSON, "p0", "--only-appdb-images", '"ID": "own"'),
    (JSON, "p0", "--select-flavors=private", '"ID": "plain"'),
    (JSON, "p0", "--select-flavors=public", '"ID": "private"'),
]


@pytest.fixture
def offering() -> Iterator[Cloud]:
    specs = {"x:ib": "true", "aggregate_instance_extra_specs:ib": "true", "infiniband": "yes"}
    specs |= {"x:number": "3", "x:memory": "48", "x:virt": "vgpu"}
    specs |= {"x:vendor": "ACME", "x:model": "Z80"}
    # a number of GPUs by its usual name: the other properties are of a GPU
    gpu = {"Accelerator:Number": "1"}
    versions = {"x:driver": "driver-550", "x:cuda": "cuda-12", "x:cudnn": "cudnn-9"}
    flavors = [
        flavor("plain", extra_specs=specs),
        flavor("private", **{"os-flavor-access:is_public": False}),
    ]
    own = image("own", file="/v2/images/own/file", vmcatcher_event_ad_mpuri=None)
    cloud = Cloud(
        flavors={"p0": flavors, "gpu": [flavor("gpu", extra_specs={**specs, **gpu})]},
        images={key: [own, image("listed", **versions)] for key in ("p0", "gpu")},
    )
    with cloud.serve():
        yield cloud


def printed(cloud: Cloud, root: Path, form: str, project: str, *flags: str) -> str:
    """Return the output, in one line for each value."""
    url = f"{cloud.url}/identity/v3"
    auth = f"auth: {{project_id: {project}}}"
    text = (
        f"gocdb: EXAMPLE-SITE\nendpoint: {url}\nvos: [{{name: ops, {auth}}}]\n"
        if form == JSON
        else f"{SITE}compute:\n  total_cores: 1\n  total_ram: 1\n"
        f"  shares: {{ops: {{{auth}}}}}\n  endpoints: {{'https://k.example.org': {{}}}}\n"
        "  templates: {of-file: {cpu: 1, memory: 1}}\n"
    )
    rc = (
        f"OS_AUTH_URL={url}\nOS_AUTH_TYPE=v3password\nOS_USERNAME=ci\nOS_PASSWORD={PASSWORD}\n"
        "OS_USER_DOMAIN_ID=default\n"
    )
    configuration = load(root, *flags, "--gocdb-url", "", rc=rc, text=text)
    found = reading.read(configuration, Layout(root), RunRecord("x", is_kept=False))
    return selection.renderer(form)(found).text.replace("\n ", "")


@pytest.mark.parametrize(("form", "project", "flag", "expected"), _PRINTED)
def test_flags_that_add_to_the_output(
    tmp_path: Path, offering: Cloud, form: str, project: str, flag: str, expected: str
) -> None:
    assert expected not in printed(offering, tmp_path, form, project)
    assert expected in printed(offering, tmp_path, form, project, flag)


@pytest.mark.parametrize(("form", "project", "flag", "expected"), _LEFT_OUT)
def test_flags_that_leave_something_out(
    tmp_path: Path, offering: Cloud, form: str, project: str, flag: str, expected: str
) -> None:
    assert expected in printed(offering, tmp_path, form, project)
    assert expected not in printed(offering, tmp_path, form, project, flag)


# --------------------------------------------------------------------------------------------------
# flags of the program, those that are rejected, and those without effect

_PROGRAM = ("--version", "--help", "-h", "--debug", "--ignore-share-errors")
_REJECTED = (
    *("--template-dir", "--template-extension", "--os-system-scope", "--os-endpoint-override"),
    *(
        "--os-endpoint",
        "--os-url",
        "--tls-ciphers",
        "--tls-min-version",
        "--ams-token",
        "--ams-host",
    ),
    *("--ams-topic", "--ams-project", "--ams-cert", "--ams-key", "--on-auth"),
    *("--on-rpcxml-endpoint", "--rocci-template-dir", "--rocci-remote-templates"),
    *("--os-redirect-host", "--os-redirect-port", "--os-login-timeout"),
)
_IGNORED = {
    "--legacy-occi-os": "clouds have no OCCI",
    "--collect-timing": "times of single requests",
    "--os-service-type": "not one service",
    "--os-service-name": "not one service",
    "--os-api-version": "negotiated",
    "--os-domain-id": "projects are read, not a domain",
    "--os-domain-name": "projects are read, not a domain",
    "--os-passcode": "v3password has no such option",
    "--os-default-domain-id": "v3password has no such option",
    "--os-auth-methods": "v3password has no such option",
    "--oidc-client-id": "it belongs to --auth-refresher",
    "--oidc-refresh-token": "it belongs to --auth-refresher",
}


@pytest.mark.parametrize("flag", _REJECTED)
def test_a_flag_without_its_effect_is_rejected_with_a_reason(
    capfd: pytest.CaptureFixture[str], flag: str
) -> None:
    value = [] if flag == "--rocci-remote-templates" else ["1"]
    with pytest.raises(SystemExit) as ended:
        service.main([flag, *value])
    shown = capfd.readouterr()
    assert (ended.value.code, shown.out) == (2, "")
    line = shown.err.removeprefix(f"cloud-info-provider-service: {flag}: ")
    assert len(line) < len(shown.err)
    assert line.count("\n") == 1


def checked(root: Path, *flags: str) -> int:
    load(root)  # writes the files
    return service.main(["--root", str(root), "--check-config", *flags])


@pytest.mark.parametrize(("flag", "reason"), _IGNORED.items())
def test_a_flag_without_effect_says_so_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], flag: str, reason: str
) -> None:
    value = ["v"] if flag.startswith(("--os", "--oidc")) else []
    assert checked(tmp_path, flag, *value) == 0
    lines = [line for line in capfd.readouterr().err.splitlines() if flag in line]
    assert len(lines) == 1, lines
    assert f"{flag}: has no effect here: " in lines[0]
    assert reason in lines[0]


def test_a_static_cloud_needs_no_account(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    flags = ("--middleware", "static", "--os-username", "me", "--os-region-name", "One")
    path = tmp_path / "static.yaml"
    path.write_text(STATIC)
    assert checked(tmp_path, *flags, str(path)) == 0
    shown = capfd.readouterr().err
    for flag in ("--os-username", "--os-region-name"):
        assert f"{flag}: has no effect here: --middleware static logs in nowhere" in shown


def test_the_program_s_own_flags(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for flag in ("--version", "--help", "-h"):
        with pytest.raises(SystemExit) as ended:
            service.main([flag])
        assert ended.value.code == 0
        assert "cloud-info-provider-service" in capfd.readouterr().out
    assert checked(tmp_path, "--debug", "--ignore-share-errors") == 0
    assert "has no effect" not in capfd.readouterr().err


def test_no_flag_of_any_release_is_without_a_test() -> None:
    proven = {
        *chain.from_iterable(chain.from_iterable(spellings(one).values()) for one in _PLUGINS),
        *(flag for flag, *_ in _SETTINGS),
        *(flag.partition("=")[0] for _, _, flag, _ in (*_PRINTED, *_LEFT_OUT)),
        *("--os-key", "--os-cloud", "--auditor-role-cloud", "--auth-refresher", "--yaml"),
        *("--oidc-token-endpoint", "--oidc-client-secret", "--oidc-scopes", "--yaml-file"),
        *("--oidc-credentials-path", "--glite-site-info-static"),
        *(*_PROGRAM, *_REJECTED, *_IGNORED, "--os-auth_methods"),
    }
    shown = subprocess.run(
        [str(PEER), "-P", "-c", _LIST, *loading.get_available_plugin_names()],
        capture_output=True,
        text=True,
        check=True,
        env={name: text for name, text in os.environ.items() if not name.startswith("OS_")},
    )
    theirs = {*OLDER_FLAGS, *json.loads(shown.stdout)}
    assert "--property-flavor-gpu-number" in theirs
    assert "--os-idp_otp_key" in theirs
    assert sorted(theirs - proven) == []
