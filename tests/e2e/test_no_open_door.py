"""Who gets an answer of the backend of images, in both networks of the shipped compose file: the frontend, nobody else."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.engine import Engine
from tests.e2e import container_cloud, neighbour
from tests.e2e.container_site import ContainerSite, wait

pytestmark = pytest.mark.container

PORT = int(os.environ.get("FEDCLOUD_TESTBED_PORT_BASE") or 26000) + 930
_ASK = """
import os
from cloudkeeper.frontend.communicator import Communicator
with Communicator(os.environ["CLOUDKEEPER_BACKEND_ENDPOINT"]) as backend:
    backend.end()
print("answered")
"""
_TRY = """
import errno, socket, sys
for place in sys.argv[1:]:
    family, address = socket.AF_UNIX, place
    if not place.startswith("/"):
        family, address = socket.AF_INET, (place, 50051)
    with socket.socket(family) as client:
        client.settimeout(1)
        try:
            client.connect(address)
        except OSError as error:
            print(place, errno.errorcode.get(error.errno, str(error)))
        else:
            print(place, "OPEN")
"""
"""Tries each unix socket, and port 50051 of each address; prints what came of it."""
_SOCKET = "/run/cloudkeeper/backend.sock"
_REFUSED = {"ECONNREFUSED", "ENETUNREACH", "EHOSTUNREACH", "timed out"}


@pytest.fixture(scope="module", params=["bridge", "host"])
def site(
    request: pytest.FixtureRequest, engine: Engine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ContainerSite]:
    """All services at work, with a cloud that is not there: the backend asks it only when a run begins."""
    root = tmp_path_factory.mktemp(request.param) / "root"
    root.mkdir()
    with engine.alone():
        site = ContainerSite.lay_out(
            engine, root, version="1.29.2", project=f"door{request.param}", port=PORT, network=request.param
        )
        container_cloud.name_site(site)
        container_cloud.offer(site, url="https://127.0.0.1:1/v3", user="ci", password="none", projects={"ops": "ops"})
        try:
            site.compose("up", "-d")
            wait(
                lambda: site.health("cloudkeeper-os") == "healthy", seconds=60, what=lambda: site.log("cloudkeeper-os")
            )
            yield site
        finally:
            site.down()


def places(site: ContainerSite) -> list[str]:
    """Return every address that the backend's container could be reached at, and the loopback's."""
    networks = site.container("cloudkeeper-os")["NetworkSettings"]["Networks"]
    return ["127.0.0.1", *(found["IPAddress"] for found in networks.values() if found["IPAddress"])]


def tried(text: str) -> dict[str, str]:
    return dict(line.split(" ", 1) for line in text.splitlines())


def test_the_frontend_gets_an_answer(site: ContainerSite) -> None:
    """R35, F-H4: by the socket, in either network; its container cannot replace that."""
    assert "answered" in site.job("cloudkeeper", "python", "-c", _ASK)
    said = site.job("cloudkeeper", "sh", "-c", f"rm {_SOCKET}; touch /run/cloudkeeper/x; true")
    assert said.count("Read-only file system") == 2


def test_no_other_container_gets_one(site: ContainerSite) -> None:
    """F-H4: neither the public LDAP server nor the resource's, nor any other job."""
    for service in ("sitebdii", "cloudbdii"):
        found = tried(site.inside(service, "python3", "-c", _TRY, _SOCKET, *places(site)))
        assert found.pop(_SOCKET) == "ENOENT", service
        assert set(found.values()) <= _REFUSED, service
    # For all jobs, which have one network; what is mounted into each is known from the file.
    done = site.compose("run", "--rm", "-T", "--no-deps", "caso", "python3", "-c", _TRY, _SOCKET, *places(site))
    found = tried(done.stdout)
    assert found.pop(_SOCKET) == "ENOENT"
    assert set(found.values()) <= _REFUSED


def test_no_user_of_the_host_gets_one(site: ContainerSite) -> None:
    """F-H4: not nobody, not root's group; only the account, and root."""
    place = str(site.root / "run/cloudkeeper/backend.sock")
    found = {}
    for user in ("65534:65534", "1998:0", "1998:1999", "1999:1999"):
        uid, gid = user.split(":")
        command = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "/usr/bin/python3", "-IS", "-c"]
        # The tests' own directories are closed to others, the host's /run is not: enter it as root.
        enter = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /run && exec "$@"', str(site.root / "run")]
        shown = subprocess.run(
            [*enter, *command, _TRY, _SOCKET, *places(site)], capture_output=True, text=True, check=True
        ).stdout
        found[user] = tried(shown)[_SOCKET]
        assert set(tried(shown).values()) - {found[user]} <= _REFUSED
    assert found == {"65534:65534": "EACCES", "1998:0": "EACCES", "1998:1999": "EACCES", "1999:1999": "OPEN"}
    assert Path(place).parent.stat().st_mode & 0o777 == 0o700


def test_the_backend_listens_on_no_port(site: ContainerSite) -> None:
    """F-H4: as the kernel has it; nor does a machine beside this one reach anything."""
    pid = str(site.container("cloudkeeper-os")["State"]["Pid"])
    family = [pid, *Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    shown = subprocess.run(
        ["nsenter", "-n", "-t", pid, "ss", "-Hlnptuwx"], capture_output=True, text=True, check=True
    ).stdout
    listening = [line.split() for line in shown.splitlines() if any(f"pid={one}," in line for one in family)]
    assert [(words[0], words[4]) for words in listening] == [("u_str", _SOCKET)]
    with neighbour.beside() as stranger:
        assert not [address for address in (stranger.ipv4, *places(site)[1:]) if stranger.reaches(address, 50051)]
