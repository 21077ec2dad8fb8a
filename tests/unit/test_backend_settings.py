"""cloudkeeper-os.conf and the mapping: accepted and refused settings, and places of errors."""

import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from appliance.core.run.errors import ConfigurationError
from appliance.core.run.layout import Layout
from cloudkeeper.backend import settings
from cloudkeeper.backend.endpoint import Listening, MutualTLS, Port
from cloudkeeper.backend.settings import BackendSettings
from cloudkeeper.cmds import backend
from docs.generator import options
from tests import run_records

GOOD = """\
[DEFAULT]
debug = true
tempdir = /tmp
logging_context_format_string = %(message)s
[keystone_authtoken]
password = pass$word
auth_url = https://cloud.example.org:5000
"""
CONFIG = "etc/cloudkeeper/cloudkeeper-os.conf"


def write(root: Path, text: str = GOOD, *, mapping: Any = None, name: str = CONFIG) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(text)
    listed = root / "etc/cloudkeeper-os/mapping.json"
    listed.parent.mkdir(parents=True, exist_ok=True)
    listed.write_text(json.dumps(mapping or {"ops": {"tenant": "EGI_ops"}}))
    return path


def load(root: Path, **overrides: str) -> BackendSettings:
    return settings.load(None, layout=Layout(root), overrides=overrides)


def problems(root: Path) -> list[str]:
    with pytest.raises(ConfigurationError) as raised:
        load(root)
    return [str(problem).removeprefix(f"{root}/") for problem in raised.value.problems]


def test_defaults_are_those_of_0_9(tmp_path: Path) -> None:
    write(tmp_path)
    found = load(tmp_path)
    assert found.warnings == ()
    assert found.listening == Listening(tmp_path / "run/cloudkeeper/backend.sock", None)
    assert (found.visibility, found.access.interface) == ("private", "public")
    assert found.places.directory == tmp_path / "var/spool/cloudkeeper/images"
    assert dict(found.access.options) == {
        "username": "cloudkeeper",
        "password": "pass$word",
        "user_domain_id": "default",
        "auth_url": "https://cloud.example.org:5000/v3",
    }
    assert found.access.verify is True


def test_every_option(tmp_path: Path) -> None:
    for name in ("ca.pem", "own.pem", "own.key", "core.pem"):
        (tmp_path / name).touch()
    text = f"""\
[DEFAULT]
grpc-port = 50052
grpc_socket = {tmp_path}/s
certificate = {tmp_path}/own.pem
key = {tmp_path}/own.key
core-certificate = {tmp_path}/core.pem
frontend_name = frontend.example.org
listen_address = ::1
image_visibility = Shared
endpoint_type = internal
region_name = RegionOne
image_dir = {tmp_path}/images
log_dir = /var/log
log_file = os.log
[keystone_authtoken]
username = account
password = secret
user_domain_name = egi
project_domain_name = egi
auth_url = https://cloud.example.org:5000/v3
cafile = {tmp_path}/ca.pem
"""
    write(tmp_path, text, name="etc/cloudkeeper-os/cloudkeeper-os.conf")
    found = load(tmp_path)
    tls = MutualTLS(
        tmp_path / "own.pem", tmp_path / "own.key", tmp_path / "core.pem", "frontend.example.org"
    )
    assert found.listening == Listening(tmp_path / "s", Port("::1", 50052, tls))
    assert (
        str(found.listening)
        == f"unix://{tmp_path}/s, [::1]:50052 (mutual TLS, for frontend.example.org)"
    )
    assert (found.visibility, found.access.interface) == ("shared", "internal")
    assert (found.access.region, found.access.verify) == ("RegionOne", f"{tmp_path}/ca.pem")
    assert (found.access.options["user_domain_name"], found.access.project_domain_name) == (
        "egi",
        "egi",
    )
    assert (found.places.directory, found.log_file) == (
        tmp_path / "images",
        Path("/var/log/os.log"),
    )
    given = load(tmp_path, grpc_port="1234", listen_address="192.0.2.1").listening.port
    assert given is not None
    assert given.endpoint == "192.0.2.1:1234"


_PORT_ALONE = (
    f"{CONFIG}:2: grpc_port: a TCP port needs mutual TLS, and there are no certificates; "
    "remove this "
    "line (the frontend of this host uses {root}/run/cloudkeeper/backend.sock), or, for a "
    "frontend on "
    "another host, run: appliance certificates"
)


@pytest.mark.parametrize("options", ["", "listen_address = 0.0.0.0\n"])
def test_a_port_without_certificates_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: str
) -> None:
    """F-H4: ``grpc_port = 50051`` of an older installation is an error with its line."""
    write(tmp_path, GOOD.replace("debug = true\n", f"grpc_port = 50051\n{options}"))
    assert problems(tmp_path) == [_PORT_ALONE.format(root=tmp_path)]
    assert backend.main(["--root", str(tmp_path), "--check-config"]) == 2
    assert (
        capsys.readouterr().err
        == f"cloudkeeper-os: {tmp_path}/{_PORT_ALONE.format(root=tmp_path)}\n"
    )
    write(tmp_path, GOOD.replace("debug = true\n", ""))  # the remedy
    assert load(tmp_path).listening == Listening(tmp_path / "run/cloudkeeper/backend.sock", None)


def test_a_port_with_the_certificates_of_the_installation(tmp_path: Path) -> None:
    """F-H4: the files of ``appliance certificates`` are the defaults; a missing one is an error."""
    write(tmp_path, GOOD.replace("debug = true", "grpc_port = 50051"))
    made = tmp_path / "etc/fedcloud/tls/cloudkeeper-os"
    made.mkdir(parents=True)
    for name in ("certificate.pem", "key.pem"):
        (made / name).touch()
    assert problems(tmp_path) == [
        f"{CONFIG}: core_certificate: file {made}/authority.pem does not exist"
    ]
    (made / "authority.pem").touch()
    tls = MutualTLS(
        made / "certificate.pem", made / "key.pem", made / "authority.pem", "cloudkeeper"
    )
    assert load(tmp_path).listening == Listening(None, Port("127.0.0.1", 50051, tls))


def test_an_open_port_needs_an_option_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """F-H4: for a frontend of 1.7.1 without certificate; every start logs a warning."""
    write(
        tmp_path,
        GOOD.replace("debug = true", "grpc_port = 50051\naccept_anyone_without_tls = true"),
    )
    found = load(tmp_path)
    assert found.listening == Listening(None, Port("127.0.0.1", 50051, None))
    (warning,) = found.warnings
    assert str(warning).startswith(
        f"{tmp_path}/{CONFIG}:3: accept_anyone_without_tls: true: anyone who can connect to "
        "grpc_port can add and "
        "remove images of this cloud; remove the line as soon as the frontend has a certificate"
    )
    assert backend.main(["--root", str(tmp_path), "--check-config"]) == 0
    shown = capsys.readouterr()
    assert "127.0.0.1:50051 (NO TLS, for anyone)" in shown.out
    assert "anyone who can connect" in shown.err


def test_options_of_a_port_without_grpc_port(tmp_path: Path) -> None:
    write(
        tmp_path,
        GOOD.replace("debug = true", "listen_address = ::1\naccept_anyone_without_tls = true"),
    )
    found = load(tmp_path)
    assert found.listening.port is None
    assert [problem.text for problem in found.warnings] == [
        "has no effect without grpc_port; remove it"
    ] * 2


def test_a_socket_s_path_has_a_limit(tmp_path: Path) -> None:
    write(tmp_path, GOOD.replace("debug = true", f"grpc_socket = /{'x' * 107}"))
    (line,) = problems(tmp_path)
    assert line.endswith("is longer than 107 bytes; write a shorter path")


def test_an_application_credential(tmp_path: Path) -> None:
    text = GOOD.replace(
        "password = pass$word", "auth_type = v3applicationcredential\napplication_credential_id = a"
    )
    write(tmp_path, text)
    assert problems(tmp_path) == [
        (
            f"{CONFIG}: [keystone_authtoken] application_credential_secret: must be set: "
            "v3applicationcredential needs it"
        )
    ]


@pytest.mark.parametrize(
    "mapping",
    [
        {"ops": {"tenant": "p"}},
        {"ops": {"project": "p"}},
        {"ops": {"projects": ["p"]}},
        {"ops": {"tenants": ["p"], "tenant": None}},
        {"ops": {"project": "p", "domain": "d"}},
        {"vos": [{"name": "ops", "auth": {"project_id": "p"}}]},
    ],
)
def test_every_form_of_mapping(tmp_path: Path, mapping: Any) -> None:
    """R05."""
    write(tmp_path, mapping=mapping)
    assert {vo: entry.project for vo, entry in load(tmp_path).projects.items()} == {"ops": "p"}


def test_all_errors_are_reported_at_once(tmp_path: Path) -> None:
    """D12: `insecure` is among them."""
    text = """\
[DEFAULT]
grpc_port = 70000
listen_address = localhost
image_visibility = privat
image_dir = images
[keystone_authtoken]
auth_url = https://yourkeystone/v3
insecure = true
cafile = /nowhere/ca.pem
"""
    write(tmp_path, text, mapping={"a": {"projects": ["b", "c"]}, "d": {"project": "b"}})
    lines = problems(tmp_path)
    assert [line.split(": ")[0] for line in lines] == [
        CONFIG,
        *(f"{CONFIG}:{number}" for number in (2, 3, 4, 5, 7, 8, 9)),
        "etc/cloudkeeper-os/mapping.json:1",
    ]
    assert lines[0].endswith("[keystone_authtoken] password: must be set: v3password needs it")
    assert lines[-1].endswith("a: is mapped to two projects, b and c; keep the one for its images")


def test_the_shipped_file_needs_three_things(tmp_path: Path) -> None:
    """R36."""
    shipped = Path(__file__).parents[2] / "etc/cloudkeeper/cloudkeeper-os.conf"
    write(tmp_path, shipped.read_text())
    (tmp_path / "etc/cloudkeeper-os/mapping.json").unlink()
    assert [line.split(": ", 1)[1] for line in problems(tmp_path)] == [
        "[keystone_authtoken] auth_url: must be set: Keystone's public URL, https://HOST:5000/v3",
        "[keystone_authtoken] password: must be set: v3password needs it",
        "cannot be read: no such file or directory",
    ]


def test_the_shipped_file_lists_every_option_with_its_default() -> None:
    """Only options of other login plugins are left out, and `insecure`, which is always refused."""
    shipped: dict[tuple[str, str], str] = {}
    section = ""
    text = (Path(__file__).parents[2] / "etc/cloudkeeper/cloudkeeper-os.conf").read_text()
    for line in text.splitlines():
        if header := re.fullmatch(r"\[(\w+)\]", line):
            section = header[1]
        elif option := re.fullmatch(r"#(\w+) =(?: (.+))?", line):
            shipped[section, option[1]] = option[2] or ""
    found = options.configuration_files()["cloudkeeper-os.conf"]
    ignored = {(section, name) for section, names in found.ignored.items() for name in names}
    read = {
        (section, one.name): re.fullmatch("`([^`]*)`", one.default)
        for section, rows in found.options.items()
        for one in rows
        if not one.upstream.startswith("keystoneauth")
        and one.name not in {f"{secret.name}_file" for secret in rows}
    }
    assert shipped.keys() - ignored == read.keys() - {("keystone_authtoken", "insecure")}
    defaults = {place: default[1] for place, default in read.items() if default}
    del defaults["keystone_authtoken", "insecure"]
    assert {place: shipped[place] for place in defaults} == defaults
    assert len(defaults) > 10


def test_the_shipped_mapping_is_refused_alone_and_ignored_beside_others(tmp_path: Path) -> None:
    write(tmp_path)
    mapping = tmp_path / "etc/cloudkeeper-os/mapping.json"
    mapping.write_text((Path(__file__).parents[2] / "etc/voms.json").read_text())
    reported = (
        "etc/cloudkeeper-os/mapping.json:2: vo.example.org: is still the placeholder, with "
        "its project 'mytenant', and "
        "is ignored; fill in your VOs, or remove the entry"
    )
    assert problems(tmp_path) == [
        reported,
        "etc/cloudkeeper-os/mapping.json: maps no VO, so no image could be added; add your VOs",
    ]
    mapping.write_text('{"ops": {"tenant": "EGI_ops"},\n"vo.example.org": {"project": "mytenant"}}')
    found = load(tmp_path)
    assert list(found.projects) == ["ops"]
    assert [str(problem).removeprefix(f"{tmp_path}/") for problem in found.warnings] == [reported]


def test_two_files_are_refused(tmp_path: Path) -> None:
    """R36."""
    write(tmp_path)
    write(tmp_path, name="etc/cloudkeeper-os/cloudkeeper-os.conf")
    (line,) = problems(tmp_path)
    assert line == (
        f"etc/cloudkeeper-os/cloudkeeper-os.conf: there is {tmp_path}/{CONFIG}, too; remove "
        "one of them"
    )


def test_a_log_directory_must_exist(tmp_path: Path) -> None:
    write(tmp_path, GOOD.replace("debug = true", f"log_dir = {tmp_path}/none"))
    assert problems(tmp_path) == [
        f"{CONFIG}:2: log_dir: the log's directory {tmp_path}/none does not exist"
    ]


def test_check_config_shows_no_secret(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path)
    assert backend.main(["--root", str(tmp_path), "--check-config"]) == 0
    shown = capsys.readouterr()
    assert "https://cloud.example.org:5000/v3 as cloudkeeper" in shown.out
    assert "pass$word" not in shown.out + shown.err


def test_a_password_that_all_may_read_is_reported(tmp_path: Path) -> None:
    write(tmp_path).chmod(0o644)
    (warning,) = load(tmp_path).warnings
    assert str(warning).startswith(
        f"{tmp_path}/{CONFIG}:6: [keystone_authtoken] password: every user of this host"
    )


def test_the_host_name_of_a_port_is_looked_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Containers know their addresses by name; an unknown name is an error of the command line."""
    write(tmp_path)
    certificates = tmp_path / "etc/fedcloud/tls/cloudkeeper-os"
    certificates.mkdir(parents=True)
    for name in ("certificate.pem", "key.pem", "authority.pem"):
        (certificates / name).touch()
    common = ["--root", str(tmp_path), "--check-config", "--grpc-port", "1", "--listen-address"]
    address = socket.getaddrinfo("localhost", None, type=socket.SOCK_STREAM)[0][4][0]
    assert backend.main([*common, "localhost"]) == 0
    assert f"{address}" in capsys.readouterr().out.partition("listens")[2]
    for name in ("nowhere.invalid", "x" * 300, "a..b"):
        assert backend.main([*common, name]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"cloudkeeper-os: --listen-address: {name}: ")


def test_the_record_of_a_backend_that_cannot_start(tmp_path: Path) -> None:
    """F-S2: the record of the last good run stayed in place."""
    (tmp_path / "backend.conf").write_text("[DEFAULT]\ngrpc_port = many\n")
    assert (
        backend.main(["--root", str(tmp_path), "--config-file", str(tmp_path / "backend.conf")])
        == 2
    )
    said = run_records.read(tmp_path, "cloudkeeper-os")
    assert said.status == 2
    assert "backend.conf:" in said.failures[0]


def test_an_account_with_a_misspelled_option_is_refused(tmp_path: Path) -> None:
    """F-H6: the default, cloudkeeper, would be another account."""
    write(tmp_path, GOOD.replace("password =", "user = images\npassword ="))
    assert problems(tmp_path) == [
        f"{CONFIG}:6: [keystone_authtoken] user: unknown option; did you mean username?"
    ]


def test_ignored_options_of_the_log_are_reported(tmp_path: Path) -> None:
    """F-H6: options of oslo.log that are set and ignored."""
    write(
        tmp_path,
        GOOD.replace(
            "debug = true", "use_syslog = true\nlog_config_append = /etc/log.conf\nuse_journal = no"
        ),
    )
    warnings = [(problem.line, problem.option) for problem in load(tmp_path).warnings]
    assert warnings == [(3, "log_config_append")]


def test_a_mapping_that_is_named_as_on_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Releases since 2020 name mapping.json; the container has it under the name of 2018."""
    named = "/etc/cloudkeeper-os/mapping.json"
    write(tmp_path, GOOD.replace("debug = true", f"mapping_file = {named}"))
    inside = tmp_path / "etc/cloudkeeper-os/voms.json"
    (tmp_path / "etc/cloudkeeper-os/mapping.json").rename(inside)
    monkeypatch.setenv("FEDCLOUD_PLACES", f"{inside}={named}")
    assert load(tmp_path).projects["ops"].project == "EGI_ops"
