"""Configuration files of cASO's releases, and every fault in one, reported together."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from appliance.core.run import log
from appliance.core.run.cli import Program, parser
from appliance.core.run.errors import ConfigurationError, ExitStatus
from appliance.core.run.layout import Layout
from caso import settings
from caso.cmds import startup
from caso.messengers.ssm import SSM
from caso.settings import CasoConfiguration

ACCOUNT = (
    "holds an account, which programs would show; account and password have options of their "
    "own; write https:"
)
BRACKET = "https://[fe80::1.example.org:5000/v3"
LOGIN = """
[keystone_auth]
auth_type = v3password
auth_url = https://keystone.example.org:5000/v3
username = caso
user_domain_name = default
password = pa$$word-17
"""
V1 = """
[DEFAULT]
verbose = true
messengers = caso.messenger.ssm.SSMMessengerV04
site_name = EXAMPLE-SITE
tenants = ops, fedcloud
extractor = nova
benchmark_name_key = my:type
benchmark_value_key = my:value
[extractor]
mapping_file = {root}/etc/voms.json
[keystone_auth]
auth_plugin = v3password
auth_url = https://keystone.example.org:5000/v3
project_domain_name = default
user_name = caso
user_domain_name = default
password = secret-11
[logstash]
host = lumberjack
port = 5757
[ssm]
output_path = {root}/outgoing
"""
V5 = """
[DEFAULT]
messengers = ssm
spooldir = {root}/spool
lock_path = $spooldir/lock
site_name = EXAMPLE-SITE
service_name = ${{site_name}}-2
projects = 0a1b2c3d4e5f60718293a4b5c6d7e8f9,1b2c3d4e5f60718293a4b5c6d7e8f90a
caso_tag = account
vo_property = accounting:egi.VO
region_name = RegionOne
dry_run = true
default_log_levels = a=INFO
[benchmark]
name_key = bench_type
value_key = bench_value
[accelerator]
number_key = n
[ssm]
max_size = 10
[messenger_ssm]
record_types = cloud,ip
[keystone_auth]
auth_type = v3applicationcredential
auth_url = https://keystone.example.org:5000/
application_credential_id = 0a1b
application_credential_secret = secret-12
timeout = 30
"""


@pytest.fixture(autouse=True)
def no_lock_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CASO_LOCK_PATH", raising=False)


def arguments(*argv: str) -> argparse.Namespace:
    return parser(
        Program("caso-extract", "", startup.add_arguments, lambda _: ExitStatus.DONE)
    ).parse_args(argv)


def load(root: Path, text: str, *argv: str) -> CasoConfiguration:
    path = root / "etc/caso/caso.conf"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.replace("{root}", str(root)).replace("{{", "{").replace("}}", "}"))
    path.chmod(0o600)
    return settings.load(arguments(*argv), Layout(root))


def problems(root: Path, text: str, *argv: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load(root, text, *argv)
    return [line.removeprefix(f"{root}/etc/caso/") for line in str(caught.value).splitlines()]


def test_a_file_of_caso_1(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/voms.json").write_text(json.dumps({"ops": {"tenant": "ops"}}))
    read = load(tmp_path, V1)
    assert read.projects == ("ops", "fedcloud")
    assert (read.names.site, read.names.service) == ("EXAMPLE-SITE", "EXAMPLE-SITE")
    assert (read.names.benchmark_type, read.names.benchmark_value) == ("my:type", "my:value")
    (messenger,) = read.messengers
    assert isinstance(messenger, SSM)
    assert [kind.title for kind in messenger.kinds] == ["cloud v0.4"]
    assert [entry.vo for entry in read.mapping.entries] == ["ops"]
    assert read.spool == tmp_path / "var/spool/caso"
    assert messenger.outputs == {"cloud": tmp_path / "outgoing"}
    assert read.access.options == {
        "auth_url": "https://keystone.example.org:5000/v3",
        "username": "caso",
        "user_domain_name": "default",
        "password": "secret-11",
    }
    assert read.access.project_domain_name == "default"
    assert read.warnings == ()


def test_a_file_of_caso_5(tmp_path: Path) -> None:
    read = load(tmp_path, V5)
    assert read.projects == ("0a1b2c3d4e5f60718293a4b5c6d7e8f9", "1b2c3d4e5f60718293a4b5c6d7e8f90a")
    assert (read.tag, read.vo_properties) == ("account", ("accounting:egi.VO",))
    assert read.names.service == "EXAMPLE-SITE-2"
    assert (read.spool, read.lock) == (tmp_path / "spool", tmp_path / "spool/lock")
    (messenger,) = read.messengers
    assert isinstance(messenger, SSM)
    outgoing = tmp_path / "var/spool/apel/outgoing"
    assert messenger.outputs == {"cloud": outgoing / "openstack", "ip": outgoing / "openstack-ip"}
    assert messenger.max_size == 10
    assert read.is_dry_run
    assert read.access.is_bound
    assert read.access.auth_url == "https://keystone.example.org:5000/v3"
    assert read.access.region == "RegionOne"
    assert read.access.timeout == timedelta(seconds=30)
    assert read.names.accelerator.number == "n"
    assert read.warnings == ()


@pytest.mark.parametrize(
    ("messengers", "version", "warnings"),
    [
        ("ssm", "0.4", 0),
        ("ssmv4", "0.4", 0),
        ("ssmv2", "0.2", 0),
        ("caso.messenger.ssm.SsmMessager", "0.2", 0),
        ("caso.messenger.ssm.SSMMessengerV02, noop", "0.2", 0),
        ("noop", None, 1),
    ],
)
def test_messengers(messengers: str, version: str | None, warnings: int, tmp_path: Path) -> None:
    read = load(tmp_path, f"[DEFAULT]\nsite_name = S\nmessengers = {messengers}\n{LOGIN}")
    (messenger,) = read.messengers
    kinds = [kind.title for kind in messenger.kinds if messenger.name == "ssm"]
    assert kinds == ([f"cloud v{version}"] if version else [])
    assert len(read.warnings) == warnings


KINDS = ("cloud", "accelerator", "storage", "ip")
SENT: list[tuple[str, str, dict[str, str]]] = [
    # An upgrade never changes what a site sends: only cloud records, unless it asks for more.
    ("", "", {"cloud": "openstack"}),
    ("extractor = nova", "", {"cloud": "openstack"}),
    (
        "extractor = nova,cinder,neutron",
        "",
        {"cloud": "openstack", "storage": "openstack-storage", "ip": "openstack-ip"},
    ),
    ("", "[ssm]\noutput_path_ip = {out}/x", {"cloud": "openstack", "ip": "x"}),
    (
        "",
        "[messenger_ssm]\nrecord_types = storage,cloud",
        {"cloud": "openstack", "storage": "openstack-storage"},
    ),
    (
        "",
        "[ssm]\noutput_path_accelerator = {out}/gpu",
        {"cloud": "openstack", "accelerator": "gpu"},
    ),
    # A second configuration of cASO, for volumes alone, with the spool of that kind.
    ("extractor = cinder", "[ssm]\noutput_path = {out}/vols", {"storage": "vols"}),
    (
        "extractor = cinder",
        "[ssm]\noutput_path = {out}/x\noutput_path_storage = {out}/y",
        {"storage": "y"},
    ),
]


@pytest.mark.parametrize(("options", "sections", "wanted"), SENT)
def test_the_kinds_that_are_sent_and_where(
    options: str, sections: str, wanted: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "var/spool/apel/outgoing"
    text = f"[DEFAULT]\nsite_name = S\nmessengers = ssm\n{options}\n{LOGIN}"
    read = load(tmp_path, text + sections.replace("{out}", str(out)))
    (messenger,) = read.messengers
    assert isinstance(messenger, SSM)
    assert messenger.outputs == {kind: out / name for kind, name in wanted.items()}
    assert [kind.name for kind in messenger.kinds] == list(wanted)
    assert read.warnings == ()
    # F-A7: named on each run, unless the site has said which services it accounts.
    others = [kind for kind in KINDS if kind not in wanted]
    assert read.missing == (() if options else tuple(others))


def test_a_flag_for_one_run_leaves_each_kind_its_spool(tmp_path: Path) -> None:
    out = tmp_path / "var/spool/apel/outgoing"
    text = f"[DEFAULT]\nsite_name = S\nmessengers = ssm\nextractor = nova,cinder\n{LOGIN}"
    read = load(tmp_path, f"{text}[ssm]\noutput_path = {out}/servers", "--extractor", "cinder")
    (messenger,) = read.messengers
    assert isinstance(messenger, SSM)
    assert messenger.outputs == {"storage": out / "openstack-storage"}


@pytest.mark.parametrize(
    ("options", "sections", "reported"),
    [
        ("", "record_types = cloud,clouds", "'clouds' is not a record type; write cloud, "),
        ("", "record_types = energy", "none of these can be sent; add cloud"),
        (
            "extractor = nova",
            "record_types = storage",
            "none of these can be sent; add cloud",
        ),
        (
            "extractor = nova,cinder",
            "[ssm]\noutput_path_storage = {out}/openstack",
            "{out}/openstack is the spool of another kind as well; a sender has one destination",
        ),
    ],
)
def test_a_run_that_would_send_nothing_is_refused(
    options: str, sections: str, reported: str, tmp_path: Path
) -> None:
    """It would move the checkpoints all the same."""
    out = tmp_path / "var/spool/apel/outgoing"
    text = f"[DEFAULT]\nsite_name = S\nmessengers = ssm\n{options}\n{LOGIN}[messenger_ssm]\n"
    shown = problems(tmp_path, text + sections.replace("{out}", str(out)))
    assert any(reported.replace("{out}", str(out)) in line for line in shown)


def test_kinds_without_their_source_are_reported(tmp_path: Path) -> None:
    text = f"[DEFAULT]\nsite_name = S\nmessengers = ssm\nextractor = nova\n{LOGIN}"
    read = load(tmp_path, f"{text}[ssm]\noutput_path_storage = {tmp_path}/x")
    assert [problem.text for problem in read.warnings] == [
        "storage records are asked for, but cinder is missing; add it"
    ]
    assert [kind.name for kind in read.messengers[0].kinds] == ["cloud"]
    # A run for some kinds leaves others out on purpose.
    text = text.replace("extractor = nova\n", "") + f"[ssm]\noutput_path_storage = {tmp_path}/x"
    read = load(tmp_path, text, "--extractor", "nova")
    assert read.warnings == ()
    assert [kind.name for kind in read.messengers[0].kinds] == ["cloud"]


def test_several_properties_may_hold_the_vo(tmp_path: Path) -> None:
    text = (
        f"[DEFAULT]\nsite_name = S\nmessengers = ssm\nvo_property = egi.VO, accounting:VO\n{LOGIN}"
    )
    assert load(tmp_path, text).vo_properties == ("egi.VO", "accounting:VO")
    assert load(tmp_path, text, "--vo-property", "VO").vo_properties == ("VO",)


def test_everything_wrong_is_reported_at_once(tmp_path: Path) -> None:
    reported = problems(
        tmp_path,
        """[DEFAULT]
mesengers = ssm
messengers = sms
extractor = novva
site_name = SITE-NAME
service_name = none
extract_from = then
dry_run = maybe
spooldir = here
parallel_projects = 0
[keystone_auth]
auth_type = v3password
auth_url = https://yourkeystone/v3
username =
cafile = /nowhere.pem
[ssm]
max_size = many
[sms]
x = 1
""",
    )
    assert reported == [
        "caso.conf: [keystone_auth] password: must be set: v3password needs it",
        "caso.conf:2: mesengers: unknown option, ignored; did you mean messengers?",
        "caso.conf:3: messengers: 'sms' is not a messenger; write ssm",
        "caso.conf:4: extractor: 'novva' is not an extractor; write nova, cinder, neutron",
        "caso.conf:4: extractor: none of these is in this version; write nova",
        (
            "caso.conf:5: site_name: is still the placeholder 'SITE-NAME'; the site's name "
            "exactly as in GOCDB"
        ),
        (
            "caso.conf:6: service_name: 'none' would be refused by the repository; write the "
            "name as in GOCDB"
        ),
        "caso.conf:7: extract_from: 'then' is not a time; write it like 2026-11-01T00:00:00",
        "caso.conf:8: dry_run: 'maybe' is not allowed; write true or false",
        "caso.conf:9: spooldir: must be an absolute path, not 'here'",
        "caso.conf:10: parallel_projects: '0' is not allowed; write a whole number from 1 to 64",
        (
            "caso.conf:13: [keystone_auth] auth_url: is still the placeholder 'yourkeystone'; "
            "Keystone's public URL, https://HOST:5000/v3"
        ),
        "caso.conf:14: [keystone_auth] username: must be set: the account's name",
        "caso.conf:15: [keystone_auth] cafile: file /nowhere.pem does not exist",
        (
            "caso.conf:17: [ssm] max_size: 'many' is not allowed; write a whole number from 1 "
            "to 2147483648"
        ),
        "caso.conf:19: [sms]: unknown section; did you mean ssm?",
    ]


@pytest.mark.parametrize(
    ("before", "after", "wanted"),
    [
        (
            "v3password",
            "v3pasword",
            (
                "caso.conf:5: [keystone_auth] auth_type: 'v3pasword' is not a plugin; did you "
                "mean v3password?"
            ),
        ),
        (
            "auth_type = v3password",
            "",
            "caso.conf: [keystone_auth] auth_type: must be set: write v3password or v3app",
        ),
        (
            "/v3",
            "/v2.0",
            (
                "caso.conf:6: [keystone_auth] auth_url: Keystone's version 2 no longer exists; "
                "write https://HOST"
            ),
        ),
        (
            "https://keystone",
            "https://u:geheimes@keystone",
            f"caso.conf:6: [keystone_auth] auth_url: {ACCOUNT}",
        ),
        (
            "https://keystone",
            "https://[fe80::1",
            f"caso.conf:6: [keystone_auth] auth_url: '{BRACKET}' is not a URL; w",
        ),
        (
            "/v3",
            "/v3?secret=1",
            "caso.conf:6: [keystone_auth] auth_url: continues after its path; leave out everything",
        ),
        (
            "https:",
            "ftp:",
            (
                "caso.conf:6: [keystone_auth] auth_url: 'ftp://keystone.example.org:5000/v3' is "
                "not a URL"
            ),
        ),
        (
            "user_domain_name = default",
            "",
            "caso.conf: [keystone_auth] user_domain_name: must be set: the domain of",
        ),
        (
            "pa$$word-17",
            "<secret>",
            "caso.conf:9: [keystone_auth] password: is still the placeholder '<secret>'",
        ),
        (
            "v3password",
            "v3applicationcredential",
            (
                "caso.conf: [keystone_auth] application_credential_secret: must be set: "
                "v3applicationcredential needs it"
            ),
        ),
    ],
)
def test_logins_that_cannot_work(before: str, after: str, wanted: str, tmp_path: Path) -> None:
    text = f"[DEFAULT]\nsite_name = S\nmessengers = ssm\n{LOGIN.strip()}\n".replace(before, after)
    reported = problems(tmp_path, text)
    assert reported[0].startswith(wanted)
    assert "word-17" not in "".join(reported)
    assert "geheimes" not in "".join(reported)


_OIDC = "identity_provider = egi.eu\nprotocol = openid\n"
_TOKENS = "access_token_endpoint = https://aai.example.org/token\n"
_CLIENT = "client_id = c\nclient_secret = s\n"
_TO_V3 = "does not log in to Keystone v3; write one like v3password, v3applicationcredential"
_LIBRARY = (
    "needs a library that is not installed here; write one like v3password, v3applicationcredential"
)


@pytest.mark.parametrize(
    ("plugin", "wanted"),
    [
        *(
            (name, f"caso.conf:5: [keystone_auth] auth_type: '{name}' {_TO_V3}")
            for name in ("none", "http_basic")
        ),
        *(
            (name, f"caso.conf:5: [keystone_auth] auth_type: '{name}' {_TO_V3}")
            for name in ("v2password", "v2token")
        ),
        *(
            (name, f"caso.conf:5: [keystone_auth] auth_type: '{name}' {_TO_V3}")
            for name in ("admin_token",)
        ),
        ("v3tokenlessauth", f"caso.conf:5: [keystone_auth] auth_type: 'v3tokenlessauth' {_TO_V3}"),
        ("v3kerberos", f"caso.conf:5: [keystone_auth] auth_type: 'v3kerberos' {_LIBRARY}"),
        ("v3fedkerb", f"caso.conf:5: [keystone_auth] auth_type: 'v3fedkerb' {_LIBRARY}"),
        ("v3oauth1", f"caso.conf:5: [keystone_auth] auth_type: 'v3oauth1' {_LIBRARY}"),
        ("v3adfspassword", f"caso.conf:5: [keystone_auth] auth_type: 'v3adfspassword' {_LIBRARY}"),
        ("v3samlpassword", f"caso.conf:5: [keystone_auth] auth_type: 'v3samlpassword' {_LIBRARY}"),
        ("token", "caso.conf: [keystone_auth] token: must be set: token needs it"),
        ("v3token", "caso.conf: [keystone_auth] token: must be set: v3token needs it"),
        ("v3totp", "caso.conf: [keystone_auth] passcode: must be set: v3totp needs it"),
    ],
)
def test_plugins_that_get_no_token_of_keystone_3(plugin: str, wanted: str, tmp_path: Path) -> None:
    text = f"[DEFAULT]\nsite_name = S\nmessengers = ssm\n{LOGIN.strip()}\n"
    assert problems(tmp_path, text.replace("v3password", plugin)) == [wanted]


@pytest.mark.parametrize(
    ("plugin", "options"),
    [
        ("password", "username = u\npassword = p\nuser_domain_name = d"),
        ("v3password", "user_id = u\npassword = p"),
        ("token", "token = t"),
        ("v3token", "token = t"),
        ("v3totp", "username = u\npasscode = 1\nuser_domain_name = d"),
        (
            "v3applicationcredential",
            "application_credential_id = i\napplication_credential_secret = s",
        ),
        ("v3oidcaccesstoken", f"{_OIDC}access_token = t"),
        ("v3oidcclientcredentials", f"{_OIDC}{_CLIENT}{_TOKENS}"),
        ("v3oidcpassword", f"{_OIDC}{_CLIENT}{_TOKENS}username = u\npassword = p"),
    ],
)
def test_plugins_that_may_be_chosen(plugin: str, options: str, tmp_path: Path) -> None:
    text = (
        "[DEFAULT]\nsite_name = S\nmessengers = ssm\n[keystone_auth]\n"
        "auth_url = https://k.example.org/v3\n"
    )
    assert load(tmp_path, f"{text}auth_type = {plugin}\n{options}\n").access.auth_type == plugin


def test_faults_that_the_plugin_itself_reports(tmp_path: Path) -> None:
    *_, reported = problems(tmp_path, V5.replace("application_credential_id = 0a1b", ""))
    assert reported.startswith(
        "caso.conf:24: [keystone_auth] auth_type: v3applicationcredential rejects these options: "
    )


def test_faults_that_the_plugin_does_not_check(tmp_path: Path) -> None:
    oidc = f"{_OIDC}username = u\npassword = p\n{_TOKENS}"
    text = (
        "[DEFAULT]\nsite_name = S\nmessengers = ssm\n[keystone_auth]\n"
        f"auth_url = https://k.example.org/v3\n{oidc}"
    )
    reported = "v3oidcpassword rejects these options: client_id, client_secret must be set"
    assert problems(tmp_path, f"{text}auth_type = v3oidcpassword\n") == [
        f"caso.conf:11: [keystone_auth] auth_type: {reported}"
    ]


def test_a_broken_mapping_file_is_reported_with_the_rest(tmp_path: Path) -> None:
    (tmp_path / "etc/caso").mkdir(parents=True)
    (tmp_path / "etc/caso/voms.json").write_text('{"ops": {"tenant": null}}')
    reported = problems(tmp_path, f"[DEFAULT]\nmessengers = ssm\n{LOGIN}")
    assert reported == [
        "caso.conf: site_name: must be set: the site's name exactly as in GOCDB",
        'voms.json:1: ops: names no project; write {"projects": ["name or id"]}',
    ]


def test_the_shipped_files_want_their_placeholders_replaced_and_nothing_else(
    tmp_path: Path,
) -> None:
    shipped = Path(__file__).parents[2] / "etc"
    text = (shipped / "caso/caso.conf").read_text()
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/voms.json").write_text((shipped / "voms.json").read_text())
    assert [line.split("; ")[0] for line in problems(tmp_path, text)] == [
        "caso.conf: [keystone_auth] password: must be set: v3password needs it",
        "caso.conf: [keystone_auth] username: must be set: the account's name",
        "caso.conf:12: site_name: is still the placeholder 'SITE-NAME'",
        "caso.conf:20: projects: is still the placeholder 'PROJECT-NAMES'",
        "caso.conf:32: [keystone_auth] auth_url: is still the placeholder 'yourkeystone'",
        (
            f"{tmp_path}/etc/voms.json:2: vo.example.org: is still the placeholder, with its "
            "project 'mytenant', and is ignored"
        ),
    ]
    text = (
        text.replace("SITE-NAME", "A")
        .replace("PROJECT-NAMES", "")
        .replace("yourkeystone", "keystone.example.org")
    )
    for name, value in (("username", "u"), ("user_domain_name", "d"), ("password", "p")):
        text = re.sub(f"^#{name} =.*", f"{name} = {value}", text, flags=re.MULTILINE)
    found = load(tmp_path, text)
    assert (found.projects, found.mapping.entries) == ((), ())
    assert [str(problem).split(":")[1:3] for problem in found.warnings] == [
        ["2", " vo.example.org"]
    ]


def test_the_secret_of_a_file_that_all_may_read(tmp_path: Path) -> None:
    """D12."""
    path = tmp_path / "open.conf"
    path.write_text(f"[DEFAULT]\nsite_name = S\nmessengers = ssm\n{LOGIN}")
    path.chmod(0o644)
    (warning,) = settings.load(arguments("--config-file", str(path)), Layout(tmp_path)).warnings
    assert str(warning).endswith(f"password: every user of this host can read it; chmod o-r {path}")
    assert log.redact("pa$word-17") == "***"


def test_flags_win_over_the_environment_and_that_over_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (
        "[DEFAULT]\nsite_name = S\nmessengers = ssm\nprojects = a\ncaso_tag = a\n"
        f"region_name = a\n{LOGIN}"
    )
    monkeypatch.setenv("OS_DEFAULT__PROJECTS", "b")
    monkeypatch.setenv("OS_DEFAULT__CASO_TAG", "b")
    monkeypatch.setenv("OS_KEYSTONE_AUTH__PASSWORD", "from-the-environment")
    read = load(
        tmp_path,
        text,
        "--projects",
        "c,d",
        "--extract-from",
        "2026-11-01",
        "--extract_to",
        "2026-11-02T01:00+01:00",
    )
    assert (read.projects, read.tag, read.access.region) == (("c", "d"), "b", "a")
    assert read.access.options["password"] == "from-the-environment"
    assert (read.period.start, read.period.end) == (
        datetime(2026, 11, 1, tzinfo=UTC),
        datetime(2026, 11, 2, tzinfo=UTC),
    )
    more = text + "[DEFAULT]\ndry_run = true\ndebug = true\n"
    assert load(tmp_path, more).is_dry_run
    assert load(tmp_path, more).is_debug
    assert not load(tmp_path, more, "--nodry-run").is_dry_run


def test_times_that_make_no_window(tmp_path: Path) -> None:
    text = f"[DEFAULT]\nsite_name = S\nmessengers = ssm\n{LOGIN}"
    (reported,) = problems(
        tmp_path, text, "--extract-from", "2026-11-02", "--extract-to", "2026-11-02"
    )
    assert reported == "command line: --extract-from: extract_from: is not before extract_to"
    (reported,) = problems(tmp_path, text, "--extract-from", "2999-01-01")
    assert reported.startswith(
        "command line: --extract-from: extract_from: 2999-01-01T00:00:00+00:00 is in the future"
    )


@pytest.mark.parametrize(
    "time", ["2026-11-01T00:00+99:00", "0001-01-01T00:00+14:00", "2026-11-31", "now"]
)
def test_texts_that_are_not_times(time: str, tmp_path: Path) -> None:
    text = f"[DEFAULT]\nsite_name = S\nmessengers = ssm\n{LOGIN}"
    (reported,) = problems(tmp_path, text, "--extract-from", time)
    assert reported.endswith(
        f"extract_from: {time!r} is not a time; write it like 2026-11-01T00:00:00"
    )


def test_files_and_directories(tmp_path: Path) -> None:
    (tmp_path / "a.conf").write_text(f"[DEFAULT]\nsite_name = A\nmessengers = ssm\n{LOGIN}")
    (tmp_path / "d").mkdir()
    (tmp_path / "d/10.conf").write_text("[DEFAULT]\nsite_name = B\n")
    (tmp_path / "d/20.conf").write_text("[DEFAULT]\nsite_name = C\n")
    given = ["--config-file", str(tmp_path / "a.conf")]
    assert settings.load(arguments(*given), Layout(tmp_path)).names.site == "A"
    assert (
        settings.load(
            arguments(*given, "--config-dir", str(tmp_path / "d")), Layout(tmp_path)
        ).names.site
        == "C"
    )
    with pytest.raises(
        ConfigurationError,
        match=r"none: cannot be read as a directory: no such file or directory$",
    ):
        settings.load(arguments(*given, "--config-dir", str(tmp_path / "none")), Layout(tmp_path))
    with pytest.raises(
        ConfigurationError,
        match=r"etc/caso/caso\.conf: does not exist; create it, or give another one",
    ):
        settings.load(arguments(), Layout(tmp_path))


@pytest.mark.long
def test_a_default_directory_that_cannot_be_entered(tmp_path: Path) -> None:
    (tmp_path / "a.conf").touch(mode=0o600)
    (tmp_path / "a.conf").write_text(f"[DEFAULT]\nsite_name = A\nmessengers = ssm\n{LOGIN}")
    (tmp_path / "etc/caso").mkdir(parents=True)
    (tmp_path / "etc/caso").chmod(0)
    script = (
        "import sys; from pathlib import Path\n"
        "from appliance.core.run.errors import ConfigurationError; from "
        "appliance.core.run.layout import Layout\n"
        "from tests.unit.test_caso_settings import arguments, settings\n"
        "try: settings.load(arguments(*sys.argv[2:]), Layout(Path(sys.argv[1])))\n"
        "except ConfigurationError as error: print(error)\n"
    )
    shown = []
    for flags in (
        [],
        ["--config-file", str(tmp_path / "a.conf")],
        ["--config-dir", str(tmp_path / "etc/caso/d")],
    ):
        command = [sys.executable, "-c", script, str(tmp_path), *flags]
        if os.geteuid() == 0:  # without its capabilities root is an account like any other
            command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *command]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        shown += [ended.stderr, ended.stdout.replace(f"{tmp_path}/", "")]
    (tmp_path / "etc/caso").chmod(0o755)
    assert shown == [
        *("", "etc/caso/caso.conf: cannot be read: permission denied\n"),
        *(
            "",
            (
                "a.conf: mapping_file: etc/caso/voms.json cannot be read: check owner and mode, "
                "of its directories too\n"
            ),
        ),
        *("", "etc/caso/d: cannot be read as a directory: permission denied\n"),
    ]


def test_paths_that_cannot_be_used_are_reported_with_their_lines(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    long = f"{tmp_path}/{'x' * 256}"
    text = (
        f"[DEFAULT]\nsite_name = S\nmessengers = ssm\nspooldir = {long}\nmapping_file = {long}\n"
        f"lock_path = {tmp_path}/file\nlog_dir = {tmp_path}/none\n[ssm]\n"
        f"output_path = {tmp_path}/file/below\n{LOGIN}"
    )
    assert problems(tmp_path, text) == [
        f"caso.conf:4: spooldir: {long} cannot be used: file name too long",
        f"caso.conf:5: mapping_file: {long} cannot be used: file name too long",
        f"caso.conf:6: lock_path: {tmp_path}/file is not a directory",
        f"caso.conf:7: log_dir: the log's directory {tmp_path}/none does not exist",
        f"caso.conf:9: [ssm] output_path: {tmp_path}/file/below cannot be used: not a directory",
    ]


@pytest.mark.parametrize(
    ("options", "reported"),
    [
        ("log_dir = {0}/file", "caso.conf:4: log_dir: the log's directory {0}/file is a file"),
        (
            "log_file = {0}/none/x.log",
            "caso.conf:4: log_file: the log's directory {0}/none does not exist",
        ),
        (
            "log_file = {0}/etc\nlog_dir = {0}/none",
            "caso.conf:4: log_file: the log {0}/etc is a directory",
        ),
        (
            "logfile = x.log\nlogdir = {0}/none",
            "caso.conf:5: log_dir: the log's directory {0}/none does not exist",
        ),
    ],
)
def test_logs_that_cannot_be_written(options: str, reported: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    text = f"[DEFAULT]\nsite_name = S\nmessengers = ssm\n{options.format(tmp_path)}\n{LOGIN}"
    assert problems(tmp_path, text) == [reported.format(tmp_path)]


def test_another_section_may_hold_the_login(tmp_path: Path) -> None:
    """D12: `insecure` is warned of."""
    text = f"[DEFAULT]\nsite_name = S\nmessengers = ssm\n{LOGIN.replace('keystone_auth', 'shared')}"
    read = load(tmp_path, text + "[keystone_auth]\nauth_section = shared\ninsecure = true\n")
    assert read.access.account == "caso"
    assert read.access.verify is False
    assert [problem.option for problem in read.warnings] == ["[keystone_auth] insecure"]


def test_the_system_scope_can_be_switched_off(tmp_path: Path) -> None:
    text = f"[DEFAULT]\nsite_name = S\nmessengers = ssm\n{LOGIN}"
    assert load(tmp_path, text).access.uses_system_scope
    assert not load(tmp_path, text + "system_scope =\n").access.uses_system_scope
    with pytest.raises(ConfigurationError, match="system_scope"):
        load(tmp_path, text + "system_scope = some\n")


@pytest.mark.parametrize(
    ("options", "flags", "wanted"),
    [
        ("", (), (False, False, "LOG_USER")),
        ("use_syslog = true\nsyslog_log_facility = LOG_LOCAL1\n", (), (True, False, "LOG_LOCAL1")),
        ("use_journal = true\n", ("--nouse-journal",), (False, False, "LOG_USER")),
        ("", ("--use-syslog", "--use_journal"), (True, True, "LOG_USER")),
    ],
    ids=["none", "file", "switched off", "flags"],
)
def test_the_logs_of_the_system(
    options: str, flags: tuple[str, ...], wanted: tuple[bool, bool, str], tmp_path: Path
) -> None:
    text = f"[DEFAULT]\nsite_name = S\nmessengers = ssm\n{options}{LOGIN}"
    found = load(tmp_path, text, *flags).system_logs
    assert (found.syslog, found.journal, found.facility) == wanted
