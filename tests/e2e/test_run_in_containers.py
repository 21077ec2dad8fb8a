"""`appliance run` with Debian's docker-compose, an engine and the shipped images."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from appliance.admin.runtime import compose
from deploy.dockerd import DockerDaemon
from tests.e2e.container_site import COMPOSE, ContainerSite, host_site

pytestmark = pytest.mark.container

PORT = int(os.environ.get("FEDCLOUD_TESTBED_PORT_BASE") or 26000) + 940


@pytest.fixture
def site(engine: DockerDaemon, tmp_path: Path) -> Iterator[ContainerSite]:
    with host_site(engine, tmp_path / "root", port=PORT) as made:
        yield made


def start(
    site: ContainerSite, *words: str, output: int | BinaryIO = subprocess.PIPE
) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "appliance.admin.command",
        "run",
        *words[:1],
        "--root",
        str(site.root),
        *words[1:],
    ]
    return subprocess.Popen(command, text=True, stdout=output, stderr=output)


def run(site: ContainerSite, *words: str) -> tuple[int, str]:
    process = start(site, *words)
    out, err = process.communicate(timeout=120)
    return process.returncode, out + err


def left(site: ContainerSite) -> list[str]:
    """Return the containers of jobs that the engine still has."""
    filters = ("--filter", f"label=com.docker.compose.project={site.project}")
    one_off = ("--filter", "label=com.docker.compose.oneoff=True")
    return site.engine.docker("ps", "-aq", *filters, *one_off).stdout.split()


def test_a_job_ends_as_its_program_ends_and_leaves_no_container(site: ContainerSite) -> None:
    """R23, D03: the shipped caso.conf still has its placeholders."""
    status, said = run(site, "caso")
    assert status == 2
    assert "/etc/caso/caso.conf:12: site_name" in said
    assert left(site) == []
    record = json.loads((site.root / "var/lib/fedcloud/runs/jobs/job-caso.json").read_text())
    assert record["counts"] == {"job_exit_status": 2}


@pytest.mark.parametrize("version", ["1.29.2", "v2"])
def test_each_compose_runs_a_job_and_says_nothing_of_its_own(
    site: ContainerSite, version: str
) -> None:
    """F-H17: 1.29.2 and v2 print nothing but the output of the program, and return its status."""
    program = COMPOSE[version]
    assert compose.version(program).startswith({"1.29.2": "1.29.2", "v2": "2."}[version])
    text = f"engine:\n  socket: {site.engine.socket}\n  compose: {program}\n"
    site.edit("etc/fedcloud/appliance.yaml", text=text)
    status, said = run(site, "caso")
    assert status == 2
    assert "/etc/caso/caso.conf:12: site_name" in said
    lines = [line for line in said.splitlines() if "caso" not in line]
    assert [line for line in lines if version == "v2"] == []
    assert left(site) == []


def test_a_change_in_etc_apel_counts(site: ContainerSite) -> None:
    """R20, D04: nothing to send is well; then a word that the file must not have."""
    status, said = run(site, "ssmsend")
    assert status == 0, said
    # of the program, where no other container writes, and of its job
    records = site.root / "var/lib/fedcloud/runs"
    assert json.loads((records / "ssm/ssmsend.json").read_text())["status"] == 0
    assert json.loads((records / "jobs/job-ssmsend.json").read_text())["status"] == 0
    sender = site.root / "etc/apel/sender.cfg"
    site.edit(
        "etc/apel/sender.cfg", text=sender.read_text().replace("protocol: AMS", "protocol: PIGEON")
    )
    status, said = run(site, "ssmsend")
    assert status == 2
    assert "/etc/apel/sender.cfg:" in said
    assert "PIGEON" in said


def test_the_program_finds_the_staged_key_and_only_while_it_runs(site: ContainerSite) -> None:
    """R21: the key itself is root's alone, and the program, which is not root, can use the copy."""
    status, said = run(site, "ssmsend", "--", "--check-config")
    assert status == 0, said
    assert list((site.root / "run/fedcloud/keys").iterdir()) == []
    assert "Permission" not in said


def test_cloudkeeper_has_all_that_mutual_tls_needs(site: ContainerSite) -> None:
    """R21: with `authentication: true`, the program finds its three files in the container."""
    config = site.root / "etc/cloudkeeper/cloudkeeper.yml"
    site.edit(
        "etc/cloudkeeper/cloudkeeper.yml",
        text=config.read_text().replace("tion: false", "tion: true"),
    )
    site.edit("etc/cloudkeeper/image-lists.conf", text="https://lists.example.org/image.list\n")
    (site.root / "etc/grid-security/backendcert.pem").write_bytes(
        site.authority.certificate.read_bytes()
    )
    status, said = run(site, "cloudkeeper", "--", "--check-config")
    assert status == 0, said
    assert "Permission" not in said
    assert list((site.root / "run/fedcloud/keys").iterdir()) == []


def test_verbs_of_cloudkeeper_run_in_its_container(site: ContainerSite) -> None:
    """They name commands of the host, and leave the records as they are."""
    site.edit("etc/cloudkeeper/image-lists.conf", text="https://lists.example.org/image.list\n")
    before = {path: path.read_bytes() for path in site.root.glob("var/lib/fedcloud/runs/**/*.json")}
    status, said = run(site, "cloudkeeper", "--", "trust")
    assert (status, "nothing is pinned yet" in said) == (0, True), said
    status, said = run(site, "cloudkeeper", "--", "status")
    assert (status, "to start one: appliance run cloudkeeper -- sync" in said) == (3, True), said
    assert "cannot be reached" in said
    status, said = run(site, "cloudkeeper", "--", "plan")
    assert (status, "cannot be reached" in said) == (3, True), said
    assert before == {
        path: path.read_bytes() for path in site.root.glob("var/lib/fedcloud/runs/**/*.json")
    }


@pytest.fixture
def silence(site: ContainerSite) -> Iterator[socket.socket]:
    """Let caso ask a cloud that accepts and says nothing, on the gateway of its network."""
    site.compose("up", "--no-start", "cloudkeeper-os")
    shown = site.engine.docker("network", "inspect", f"{site.project}_out").stdout
    gateway = json.loads(shown)[0]["IPAM"]["Config"][0]["Gateway"]
    with socket.create_server((gateway, 0)) as listener:
        conf = (site.root / "etc/caso/caso.conf").read_text()
        conf = (
            conf.replace("SITE-NAME", "CI")
            .replace("PROJECT-NAMES", "demo")
            .replace(
                "auth_url = https://yourkeystone/v3",
                f"auth_url = http://{gateway}:{listener.getsockname()[1]}/v3",
            )
        )
        conf = conf.replace("#username =", "username =").replace(
            "#password =", "password = geheim-4711"
        )
        conf = conf.replace("#user_domain_name =", "user_domain_name =")
        site.edit("etc/caso/caso.conf", text=conf)
        yield listener


def accept(silence: socket.socket, process: subprocess.Popen[str]) -> socket.socket:
    """Wait until the job has connected."""
    silence.settimeout(0.5)
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(TimeoutError):
            return silence.accept()[0]
    process.kill()
    raise AssertionError(process.communicate())


def test_a_signal_ends_the_program_in_its_container(
    site: ContainerSite, silence: socket.socket
) -> None:
    process = start(site, "caso")
    connection = accept(silence, process)
    with connection:
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert time.monotonic() - began < 45
    assert process.returncode != 0
    assert "caso-extract was stopped by SIGTERM" in err
    assert left(site) == []


@pytest.mark.parametrize("flag", [pytest.param("--log", marks=pytest.mark.matrix), "--wait"])
def test_a_full_disk_of_logs_keeps_no_job_from_its_work(
    site: ContainerSite, silence: socket.socket, flag: str
) -> None:
    # docker-compose ends when it cannot write what it does; with --wait it is cron that has opened
    # the log
    logs = site.root / "var/log"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(logs)], check=True)
    try:
        with (logs / "caso.log").open("wb", buffering=0) as log:
            with contextlib.suppress(OSError):
                while log.write(b"x" * 4096):
                    pass
            process = start(site, "caso", flag, output=log if flag == "--wait" else subprocess.PIPE)
            with accept(silence, process):
                process.send_signal(signal.SIGTERM)
                process.communicate(timeout=60)
    finally:
        subprocess.run(["umount", str(logs)], check=True)
    reported = json.loads((site.root / "var/lib/fedcloud/runs/jobs/job-caso.json").read_text())[
        "failures"
    ]
    assert reported[0] == "/var/log/caso.log: its file system is full; the output of caso is lost"
    assert reported[1] == "caso-extract was stopped by SIGTERM"


def test_after_a_kill_the_next_start_begins_anew(
    site: ContainerSite, silence: socket.socket
) -> None:
    """D03: whatever is left of the first, there is one container at a time, and none at the end."""
    process = start(site, "caso")
    connection = accept(silence, process)
    with connection:
        process.kill()
        process.communicate(timeout=60)
        second = start(site, "caso")
        again = accept(silence, second)
        with again:
            assert len(left(site)) == 1
            second.send_signal(signal.SIGTERM)
            second.communicate(timeout=60)
    assert left(site) == []
