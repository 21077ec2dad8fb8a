"""Files of secrets outside of the mounted directories: which container sees which file."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from appliance.admin.mounts import secret_mounts
from appliance.core.run.errors import ConfigurationError
from appliance.core.run.layout import Layout
from tests.unit.backup_site import put

NAMED = {
    "caso": ("etc/caso/caso.conf.d/site.conf", "[keystone_auth]\npassword_file = {}\n"),
    "ssm": ("etc/apel/sender.cfg", "[messaging]\ntoken_file: {}\n"),
    "cloud-info": ("etc/cloud-info-provider/openstack.rc", "export OS_PASSWORD_FILE='{}'\n"),
    "cloudbdii": (
        "etc/cloud-info-provider/site.yaml",
        "store:\n  application_credential_secret_file: {}  # why\n",
    ),
    "cloudkeeper-os": (
        "etc/cloudkeeper/cloudkeeper-os.conf",
        "[keystone_authtoken]\nclient_secret_file={}\n",
    ),
}
SECRET = "/srv/secrets/one"


def name(root: Path, service: str, text: str) -> Path:
    path, form = NAMED[service]
    return put(root / path, form.format(text))


def mounts(root: Path, service: str) -> list[str]:
    return secret_mounts.of_service(service, Layout(root))


@pytest.mark.parametrize("service", [*NAMED])
def test_the_container_whose_configuration_names_a_file_sees_it(
    service: str, tmp_path: Path
) -> None:
    name(tmp_path, service, SECRET)
    assert mounts(tmp_path, service) == []
    put(tmp_path / SECRET[1:], "s3cret\n")
    assert mounts(tmp_path, service) == [f"{tmp_path}{SECRET}:{SECRET}:ro"]
    alike = {"cloud-info", "cloudbdii"}
    others = {one for one in NAMED if mounts(tmp_path, one)} - {service}
    assert others == (alike - {service} if service in alike else set())


@pytest.mark.parametrize("service", [*NAMED])
def test_a_file_of_the_mounted_directory_needs_no_mount(service: str, tmp_path: Path) -> None:
    folder = {
        "caso": "/etc/caso/caso.conf.d",
        "ssm": "/etc/apel",
        "cloudkeeper-os": "/etc/cloudkeeper/secrets",
    }.get(service, "/etc/cloud-info-provider")
    put(tmp_path / folder[1:] / "secret", "s3cret\n")
    name(tmp_path, service, f"{folder}/secret")
    assert mounts(tmp_path, service) == []


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ("/usr/bin/python3", "it would hide files of the container"),
        ("/run/secret", "it would hide files of the container"),
        ("/etc/resolv.conf", "it would hide files of the container"),
        ("/srv/../etc/secret", "cannot be mounted"),
        ("/srv/a:b", "cannot be mounted"),
        ("/srv/a b", "cannot be mounted"),
        ("/srv/${HOME}", "cannot be mounted"),
    ],
)
def test_unsafe_paths_are_refused(named: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "srv").mkdir()
    put((tmp_path / named[1:]).resolve(), "x\n")
    path = name(tmp_path, "caso", named)
    with pytest.raises(ConfigurationError) as refused:
        mounts(tmp_path, "caso")
    line = str(refused.value)
    assert line.startswith(f"{path}:2: password_file: {named} ")
    assert words in line
    assert line.endswith("move it into /etc/caso/caso.conf.d")


@pytest.mark.parametrize(
    "line", ["# password_file = {}", "log_file = {}", "password = {}", "mapping_file = {}"]
)
def test_other_lines_name_no_secret(line: str, tmp_path: Path) -> None:
    put(tmp_path / SECRET[1:], "s3cret\n")
    put(tmp_path / "etc/caso/caso.conf", f"[DEFAULT]\n{line.format(SECRET)}\n")
    assert mounts(tmp_path, "caso") == []


def test_a_directory_and_a_device_are_left_to_the_program(tmp_path: Path) -> None:
    (tmp_path / SECRET[1:]).mkdir(parents=True)
    name(tmp_path, "caso", SECRET)
    assert mounts(tmp_path, "caso") == []


def test_the_site_of_another_root() -> None:
    """Its files may be named with the root, as messages have them, or without it."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:  # memory is below /dev
        root = Path(directory)
        path = put(root / SECRET[1:], "s3cret\n")
        name(root, "caso", str(path))
        assert mounts(root, "caso") == [f"{path}:{path}:ro"]
