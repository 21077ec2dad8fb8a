"""What is open between containers, in both networks of the shipped compose file.

The backend of images answers the frontend and nobody else. With networks of their own the public
BDII connects to its resource BDIIs and to nothing else.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deploy.dockerd import DockerDaemon
from tests.e2e import container_cloud, neighbour
from tests.e2e.container_site import ContainerSite, wait
from tests.e2e.images_frontend import BOOT_SECTOR

pytestmark = pytest.mark.container

PORT = int(os.environ.get("FEDCLOUD_TESTBED_PORT_BASE") or 26000) + 930
_ASK = """
import os
from cloudkeeper.frontend import grpc_connection
with grpc_connection.client(os.environ["CLOUDKEEPER_BACKEND_ENDPOINT"]) as backend:
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
_OFFER = """
import sys, time
from pathlib import Path
from cloudkeeper.frontend.stream import OfferedStream, Received
from cloudkeeper.model import Format
content = bytes.fromhex(sys.argv[2])
stream = OfferedStream(Received("one", len(content), content, iter(())), Format.RAW)
directory = Path(sys.argv[1]).parent
with stream.serving(Path(sys.argv[1]), checksum="", uri="") as data:
    (directory / "token").write_text(data.password)
    end = time.monotonic() + 60
    while not (directory / "end").exists() and time.monotonic() < end:
        time.sleep(0.1)
print("offered")
"""
"""A frontend's stream, until there is a file ``end`` beside it."""
_FETCH = """
import base64, http.client, pathlib, socket, sys
token = pathlib.Path(sys.argv[1]).with_name("token").read_text()
for password in ("guess", token, token):
    connection = http.client.HTTPConnection("frontend")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(sys.argv[1])
    secret = base64.b64encode(f"backend:{password}".encode()).decode()
    connection.request("GET", "/", headers={"Authorization": f"Basic {secret}"})
    answer = connection.getresponse()
    print(answer.status, answer.read().hex())
"""
_STREAM = "/var/spool/cloudkeeper/images/cloudkeeper-one.sock"
_SOCKET = "/run/cloudkeeper/backend.sock"
_REFUSED = {"ECONNREFUSED", "ENETUNREACH", "EHOSTUNREACH", "timed out"}


@pytest.fixture(scope="module", params=["bridge", "host"])
def site(
    request: pytest.FixtureRequest, engine: DockerDaemon, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ContainerSite]:
    """Run all services without a cloud; the backend connects to it only when a run begins."""
    root = tmp_path_factory.mktemp(request.param) / "root"
    root.mkdir()
    with engine.alone():
        site = ContainerSite.lay_out(
            engine,
            root,
            version="1.29.2",
            project=f"door{request.param}",
            port=PORT,
            network=request.param,
        )
        container_cloud.name_site(site)
        container_cloud.offer(
            site, url="https://127.0.0.1:1/v3", user="ci", password="none", projects={"ops": "ops"}
        )
        try:
            site.compose("up", "-d")
            wait(
                lambda: site.health("cloudkeeper-os") == "healthy",
                seconds=60,
                what=lambda: site.log("cloudkeeper-os"),
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
    done = site.compose(
        "run", "--rm", "-T", "--no-deps", "caso", "python3", "-c", _TRY, _SOCKET, *places(site)
    )
    found = tried(done.stdout)
    assert found.pop(_SOCKET) == "ENOENT"
    assert set(found.values()) <= _REFUSED


def test_no_user_of_the_host_gets_one(site: ContainerSite) -> None:
    """F-H4: not nobody, not root's group; only the account, and root."""
    place = str(site.root / "run/cloudkeeper/backend.sock")
    found = {}
    for user in ("65534:65534", "1998:0", "1998:1999", "1999:1999"):
        uid, gid = user.split(":")
        command = [
            "setpriv",
            f"--reuid={uid}",
            f"--regid={gid}",
            "--clear-groups",
            "/usr/bin/python3",
            "-IS",
            "-c",
        ]
        # The tests' own directories are closed to others, the host's /run is not: enter it as root.
        enter = [
            "unshare",
            "--mount",
            "sh",
            "-c",
            'mount --bind "$0" /run && exec "$@"',
            str(site.root / "run"),
        ]
        shown = subprocess.run(
            [*enter, *command, _TRY, _SOCKET, *places(site)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        found[user] = tried(shown)[_SOCKET]
        assert set(tried(shown).values()) - {found[user]} <= _REFUSED
    assert found == {
        "65534:65534": "EACCES",
        "1998:0": "EACCES",
        "1998:1999": "EACCES",
        "1999:1999": "OPEN",
    }
    assert Path(place).parent.stat().st_mode & 0o777 == 0o700


def test_a_stream_of_the_frontend_is_for_the_backend_only(site: ContainerSite) -> None:
    """ADR 40: in the image directory, which no other container has; one request with the token."""
    images = site.root / "image_data"
    with ThreadPoolExecutor(1) as pool:
        offered = pool.submit(
            site.job, "cloudkeeper", "python", "-c", _OFFER, _STREAM, BOOT_SECTOR.hex()
        )
        try:
            wait((images / "token").exists, seconds=60, what=lambda: "no stream was offered")
            for service in ("sitebdii", "cloudbdii"):
                found = tried(site.inside(service, "python3", "-c", _TRY, _STREAM))
                assert found == {_STREAM: "ENOENT"}, service
            for user, expected in (("65534:65534", "EACCES"), ("1998:1999", "EACCES")):
                uid, gid = user.split(":")
                account = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
                bound = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /mnt && exec "$@"']
                script = ["/usr/bin/python3", "-IS", "-c", _TRY, f"/mnt/{Path(_STREAM).name}"]
                done = subprocess.run(
                    [*bound, str(images), *account, *script],
                    capture_output=True,
                    text=True,
                    check=True,
                )
                assert set(tried(done.stdout).values()) == {expected}, user
            said = site.inside("cloudkeeper-os", "python3", "-c", _FETCH, _STREAM)
            assert said.split() == ["403", "200", BOOT_SECTOR.hex(), "403"]
        finally:
            (images / "end").touch()
            assert "offered" in offered.result()
            for name in ("end", "token"):
                (images / name).unlink(missing_ok=True)


def test_the_backend_listens_on_no_port(site: ContainerSite) -> None:
    """F-H4: as the kernel has it; nor does a machine beside this one reach anything."""
    pid = str(site.container("cloudkeeper-os")["State"]["Pid"])
    family = [pid, *Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    shown = subprocess.run(
        ["nsenter", "-n", "-t", pid, "ss", "-Hlnptuwx"], capture_output=True, text=True, check=True
    ).stdout
    listening = [
        line.split() for line in shown.splitlines() if any(f"pid={one}," in line for one in family)
    ]
    assert [(words[0], words[4]) for words in listening] == [("u_str", _SOCKET)]
    with neighbour.beside() as stranger:
        assert not [
            address
            for address in (stranger.ipv4, *places(site)[1:])
            if stranger.reaches(address, 50051)
        ]


@pytest.fixture
def guarded(site: ContainerSite) -> Iterator[Callable[[str], str]]:
    """Return the command `appliance firewall` of a site, whose chain and bridges have own names."""

    def firewall(verb: str) -> str:
        command = [
            str(Path(sys.executable).with_name("appliance")),
            "firewall",
            verb,
            "--root",
            str(site.root),
        ]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    site.edit("etc/fedcloud/appliance.yaml", text=f"engine:\n  socket: {site.engine.socket}\n")
    try:
        yield firewall
    finally:
        firewall("down")


def outcomes(site: ContainerSite, *places: str) -> dict[str, str]:
    """Have the public BDII's container connect to each HOST:PORT; return what came of it."""
    script = """
import errno, socket, sys
for place in sys.argv[1:]:
    host, _, port = place.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
        print(place, "OPEN")
    except OSError as error:
        print(place, errno.errorcode.get(error.errno, str(error)))
"""
    return tried(site.inside("sitebdii", "python3", "-c", script, *places))


def test_the_public_bdii_connects_to_its_resources_only(
    site: ContainerSite, guarded: Callable[[str], str]
) -> None:
    """F-H15: it cannot connect to metadata, internet, this host, another port; clients can."""
    if site.network == "host":
        assert "it uses the network of the host" in guarded("up")
        rules = subprocess.run(
            ["iptables", "-S"], capture_output=True, text=True, check=True
        ).stdout
        assert site.bridge.upper() not in rules
        return
    wait(
        lambda: site.health("sitebdii") == "healthy", seconds=60, what=lambda: site.log("sitebdii")
    )
    started = site.container("sitebdii")["State"]["StartedAt"]
    networks = list(site.container("sitebdii")["NetworkSettings"]["Networks"])
    assert set(networks) == {f"{site.project}_ldap", f"{site.project}_public"}
    shown = json.loads(site.engine.docker("network", "inspect", *networks).stdout)
    gateways = [found["IPAM"]["Config"][0]["Gateway"] for found in shown]
    inner = site.container("cloudbdii")["NetworkSettings"]["Networks"][f"{site.project}_ldap"][
        "IPAddress"
    ]
    with neighbour.beside() as other, socket.create_server(("0.0.0.0", 0)) as here:  # noqa: S104
        own = here.getsockname()[1]
        listed, unlisted = f"{other.own_ipv4}:2170", f"{other.own_ipv4}:2171"
        hosts = [f"{address}:{own}" for address in gateways]
        closed = [unlisted, "169.254.169.254:80", f"{other.ipv4}:{own}", *hosts]
        with other.serving(2170, 2171):
            before = outcomes(site, listed, *closed)
            assert {place for place, word in before.items() if word == "OPEN"} >= {
                listed,
                unlisted,
                *hosts,
            }
            site.edit(
                "etc/sitebdii/site-urls.conf",
                append=f"FAR ldap://{listed}/GLUE2GroupID=cloud,o=glue\n", mode=0o644,
            )  # fmt: skip
            guarded("up")
            after = outcomes(site, listed, f"{inner}:2170", *closed)
        assert {place for place, word in after.items() if word == "OPEN"} == {
            listed,
            f"{inner}:2170",
        }
        # refused at once, by the chain
        assert {after[place] for place in closed} == {"EHOSTUNREACH"}
        answer = other.run(
            "ldapsearch",
            "-x",
            "-LLL",
            "-H",
            f"ldap://{other.ipv4}:{PORT}",
            "-s",
            "base",
            "-b",
            "o=glue",
        )
        assert answer.returncode == 0, answer.stderr
        assert site.container("sitebdii")["State"]["StartedAt"] == started


@pytest.mark.parametrize(
    ("program", "chain", "is_obeyed_in_input"),
    [("iptables", "DOCKER-USER", False), ("ip6tables", "INPUT", True)],
)
def test_the_recipe_for_the_host_s_firewall(
    site: ContainerSite, program: str, chain: str, *, is_obeyed_in_input: bool
) -> None:
    """F-H9: with bridge networks an INPUT rule has no effect on IPv4, that of the documents has."""
    if site.network == "host":
        return
    wait(
        lambda: site.health("sitebdii") == "healthy", seconds=60, what=lambda: site.log("sitebdii")
    )
    documents = (Path(__file__).parents[2] / "docs/how-to/network.md").read_text()
    joined = documents.replace("\\\n", "")
    (recipe,) = re.findall(rf"^{program} -I ({chain} .*)$", joined, re.MULTILINE)
    (admitted,) = re.findall(r"! -s (\S+)", recipe)
    with neighbour.beside() as other:
        is_ipv4 = program == "iptables"
        here, there = (
            (other.ipv4, f"{other.own_ipv4}/32")
            if is_ipv4
            else (f"[{other.ipv6}]", f"{other.ipv6}/126")
        )
        recipe = recipe.replace("eth0", other.cable).replace(" 2170 ", f" {PORT} ")
        answers = [
            _answers_behind(other, [program, *rule.split()], f"ldap://{here}:{PORT}")
            for rule in (
                f"INPUT -i {other.cable} -p tcp --dport {PORT} -j DROP",
                recipe,
                recipe.replace(admitted, there),
            )
        ]
    assert answers == [not is_obeyed_in_input, False, True]


def _answers_behind(other: neighbour.Neighbour, rule: Sequence[str], url: str) -> bool:
    """Check whether the BDII answers the neighbour while a rule of a firewall is in place."""
    program, *words = rule
    search = ("ldapsearch", "-x", "-o", "nettimeout=2", "-H", url, "-s", "base", "-b", "o=glue")
    subprocess.run([program, "-I", *words], check=True)
    try:
        return other.run(*search).returncode == 0
    finally:
        subprocess.run([program, "-D", *words], check=True)
