"""What is written in Dockerfile and docker-compose.yml, whoever reads them."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy import contents

TOP = Path(__file__).parents[2]
DOCKERFILE = (TOP / "Dockerfile").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((TOP / "docker-compose.yml").read_text())[
    "services"
]
RUNNING = {"cloudbdii", "sitebdii", "cloudkeeper-os"}


@pytest.mark.parametrize(
    "unknown", [r"^# *syntax=", "<<", r"--mount", r"--chmod", r"^ADD\b", r"https?://"]
)
def test_the_dockerfile_is_for_every_builder_and_fetches_nothing(unknown: str) -> None:
    """The engine's first builder, BuildKit 0.8 and podman know what is left."""
    assert not re.search(unknown, DOCKERFILE, re.MULTILINE)


def test_every_stage_stands_on_the_base_that_is_given() -> None:
    stages = dict(re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, re.MULTILINE))
    names = {name for _, name in re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, re.MULTILINE)}
    assert set(stages) - names == {"${BASE}"}
    assert set(contents.IMAGES) < names


def test_a_service_or_a_job_for_every_image() -> None:
    """R01, R25, R28, D17: names of the images, a mandatory version, and no restart of jobs."""
    assert set(SERVICES) == set(contents.IMAGES)
    for name, service in SERVICES.items():
        assert service["image"].startswith(f"egifedcloud/{name}:${{FEDCLOUD_VERSION:?")
        assert (service.get("profiles") == ["jobs"]) == (name not in RUNNING)
        assert service["restart"] == ("unless-stopped" if name in RUNNING else "no")


def test_every_mount_is_one_that_refuses_a_missing_source() -> None:
    for service in SERVICES.values():
        for mount in service["volumes"]:
            assert mount["type"] == "bind"
            assert "bind" not in mount


def test_what_can_be_written_is_state_spools_and_images() -> None:
    """And the host key is mounted nowhere: a job's wrapper adds a copy of it."""
    written = {
        name: {mount["target"] for mount in service["volumes"] if not mount.get("read_only")}
        for name, service in SERVICES.items()
    }
    runs = "/var/lib/fedcloud/runs"
    assert written == {
        "cloudbdii": {"/var/lib/fedcloud/bdii/resource", runs},
        "sitebdii": {"/var/lib/fedcloud/bdii/site", runs},
        "cloudkeeper-os": {"/var/lib/fedcloud/cloudkeeper-os", "/run/cloudkeeper", runs},
        "cloudkeeper": {
            "/var/lib/fedcloud/cloudkeeper",
            "/var/spool/cloudkeeper/images",
            "/run/lock/cloudkeeper",
            runs,
        },
        "caso": {"/var/lib/fedcloud/caso", "/var/spool/caso", "/var/spool/apel", runs},
        "ssm": {"/var/lib/fedcloud/ssm", "/var/spool/apel", runs},
        "cloud-info": {"/var/lib/fedcloud/cloud-info", runs},
    }
    assert "hostkey" not in (TOP / "docker-compose.yml").read_text()


def test_images_are_converted_without_any_credential_of_the_cloud() -> None:
    """Neither by a file, nor by a variable: the accounts of cloudkeeper-os, caso and cloud-info."""
    frontend = SERVICES["cloudkeeper"]
    seen = {mount["target"] for mount in frontend["volumes"]}
    assert {target for target in seen if target.startswith("/etc/cloud")} == {
        "/etc/cloudkeeper/cloudkeeper.yml",
        "/etc/cloudkeeper/image-lists.conf",
        "/etc/cloudkeeper/keys",  # of those who sign; public
        "/etc/cloudkeeper/registry.auth",
        "/etc/cloudkeeper/sources.yaml",
    }
    assert not {target for target in seen if target.startswith(("/etc/caso", "/etc/fedcloud"))}
    assert not [name for name in frontend["environment"] if name.startswith("OS_")]


def test_only_the_frontend_meets_the_backend() -> None:
    """F-H4: two containers mount the socket's directory, one read-only; no port is published."""
    meeting = {
        name: bool(mount.get("read_only"))
        for name, service in SERVICES.items()
        for mount in service["volumes"]
        if mount["target"].startswith("/run/cloudkeeper")
        or mount["source"].endswith(("/run", "/run/cloudkeeper"))
    }
    assert meeting == {"cloudkeeper-os": False, "cloudkeeper": True}
    for network in (TOP / "etc/fedcloud/networks").iterdir():
        services = yaml.safe_load(network.read_text())["services"]
        assert {name for name, service in services.items() if "ports" in service} <= {"sitebdii"}
    assert "50051" not in DOCKERFILE


def test_the_proxy_s_password_is_in_no_container_that_has_no_use_for_it() -> None:
    """Nor does any container get the proxy of root's docker client: each variable is set."""
    names = {"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"}
    for name, service in SERVICES.items():
        given = {variable: str(service["environment"][variable]) for variable in names}
        assert (
            set(given.values()) == {""}
            if name == "sitebdii"
            else all("PROXY" in text for text in given.values())
        )


def test_no_two_containers_write_to_one_place_but_for_what_they_hand_on() -> None:
    """D02: each has its own state and run records; caso fills the spool that ssm empties."""
    writers: dict[str, list[str]] = {}
    for name, service in SERVICES.items():
        for mount in service["volumes"]:
            if not mount.get("read_only"):
                writers.setdefault(mount["source"].removeprefix("${FEDCLOUD_ROOT:-}"), []).append(
                    name
                )
    assert {place: names for place, names in writers.items() if len(names) > 1} == {
        "/var/spool/apel": ["caso", "ssm"]
    }
    assert all(f"/var/lib/fedcloud/runs/{name}" in writers for name in SERVICES)
    nested = [(a, b) for a in writers for b in writers if b.startswith(f"{a}/")]
    assert nested == []


@pytest.mark.parametrize(
    "endpoint", ["2171", "localhost:2171", "127.0.0.1:0", "127.0.0.1:66000", ":2171"]
)
def test_an_endpoint_that_is_none_is_reported(endpoint: str) -> None:
    program = Path(sys.executable).with_name("bdii-update")
    command: list[str | Path] = [program, "-c", "/nonexistent", "--listen", endpoint]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 2
    assert f"{endpoint!r} is not ADDRESS:PORT" in done.stderr
