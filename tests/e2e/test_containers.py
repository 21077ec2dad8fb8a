"""The services in their containers: start, health, answers, and recovery after a kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.dockerd import DockerDaemon
from tests.e2e import container_cloud, neighbour
from tests.e2e.bdii_service import Entries, images, search
from tests.e2e.container_site import COMPOSE, SERVICES, TOP, ContainerSite, wait
from tests.e2e.ldap_clients import Poller, TreeReader, asking
from tests.simulators.offering_cloud import PASSWORD, Cloud, flavor, image, server

pytestmark = pytest.mark.container

PORT = int(os.environ.get("FEDCLOUD_TESTBED_PORT_BASE") or 26000) + 900
JOBS = ("caso", "cloud-info", "cloudkeeper", "ssm")
START = 60  # seconds, on a machine that does other things, too


def entries(host: str = "127.0.0.1", port: int = PORT) -> Entries:
    """Return what a stranger finds below o=glue; nothing while nobody answers."""
    try:
        return search(port, host=host)
    except subprocess.CalledProcessError:
        return {}


def wait_for_services(site: ContainerSite) -> None:
    for service in SERVICES:
        wait(
            lambda service=service: site.health(service) == "healthy",  # type: ignore[misc]
            seconds=START,
            what=lambda service=service: site.log(service),  # type: ignore[misc]
        )


def gateway(site: ContainerSite) -> str:
    """Return the address that this machine has in the BDIIs' network."""
    shown = site.engine.docker("network", "inspect", f"{site.project}_bdii").stdout
    return str(json.loads(shown)[0]["IPAM"]["Config"][0]["Gateway"])


@pytest.fixture(scope="module")
def site(engine: DockerDaemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContainerSite]:
    """Compose 1.29.2, networks of their own, and a cloud on this machine."""
    root = tmp_path_factory.mktemp("containers") / "root"
    root.mkdir()
    with engine.alone():
        site = ContainerSite.lay_out(engine, root, version="1.29.2", project="fedcloud", port=PORT)
        container_cloud.name_site(site)
        cloud = Cloud(
            flavors={"ops": [flavor("1"), flavor("2")]},
            images={"ops": [image("a"), image("b"), image("c")]},
            servers={"ops": [server("x")]},
        )
        try:
            site.compose("up", "--no-start")
            with cloud.serve(gateway(site)):
                url = f"{cloud.url}/identity/v3"
                container_cloud.offer(
                    site, url=url, user="ci", password=PASSWORD, projects={"ops": "ops"}
                )
                site.compose("up", "-d")
                wait_for_services(site)
                yield site
        finally:
            site.down()


def test_the_site_publishes_its_cloud_on_one_port(site: ContainerSite) -> None:
    """R11, R24, R33: the site's BDII, the only public one, has the cloud's entries."""
    wait(
        lambda: len(images(entries())) == 3,
        seconds=START,
        what=lambda: site.log("cloudbdii") + site.log("sitebdii"),
    )
    found = entries()
    assert any("GLUE2DomainID=TEST-SITE" in dn for dn in found)
    with socket.socket(socket.AF_INET6) as probe:
        has_ipv6 = probe.connect_ex(("::1", PORT)) == 0 if socket.has_ipv6 else False
    if Path("/proc/net/if_inet6").exists() and Path("/proc/net/if_inet6").read_text().strip():
        assert has_ipv6
        assert entries("[::1]").keys() == found.keys()
    published = {
        service: site.container(service)["NetworkSettings"]["Ports"] for service in SERVICES
    }
    assert {service for service, ports in published.items() if any(ports.values())} == {"sitebdii"}
    assert list(published["sitebdii"]) == ["2170/tcp"]


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_has_no_more_than_it_needs(site: ContainerSite, service: str) -> None:
    """Root file system, capabilities, account and limits, as the engine reports them."""
    found = site.container(service)
    limits = found["HostConfig"]
    assert limits["ReadonlyRootfs"]
    assert (limits["CapDrop"], limits["CapAdd"], limits["Privileged"]) == (["ALL"], None, False)
    assert limits["SecurityOpt"] == ["no-new-privileges:true"]
    assert 0 < limits["PidsLimit"] <= 512
    assert 0 < limits["Memory"] <= 2**30
    assert limits["NanoCpus"] > 0
    assert limits["LogConfig"] == {
        "Type": "json-file",
        "Config": {"max-size": "10m", "max-file": "3"},
    }
    assert limits["RestartPolicy"]["Name"] == "unless-stopped"
    assert found["Config"]["User"] == "1999:1999"
    writable = {mount["Destination"] for mount in found["Mounts"] if mount["RW"]}
    state = {"cloudbdii": "bdii/resource", "sitebdii": "bdii/site"}.get(service, service)
    meeting = {"/run/cloudkeeper"} if service == "cloudkeeper-os" else set()
    assert writable == {f"/var/lib/fedcloud/{state}", "/var/lib/fedcloud/runs"} | meeting
    sources = {
        mount["Source"].removeprefix(str(site.root)) for mount in found["Mounts"] if mount["RW"]
    }
    assert sources == {f"/var/lib/fedcloud/{name}" for name in (state, f"runs/{service}")} | meeting
    assert not [
        mount for mount in found["Mounts"] if "hostkey" in mount["Source"] + mount["Destination"]
    ]
    status = site.inside(service, "cat", "/proc/1/status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["Uid"].split() == ["1999"] * 4
    assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 0
    assert fields["NoNewPrivs"] == "1"


def listening(site: ContainerSite, service: str) -> set[str]:
    """Return where a service's container listens, by the kernel, without the engine's resolver."""
    pid = str(site.container(service)["State"]["Pid"])
    shown = subprocess.run(
        ["nsenter", "-n", "-t", pid, "ss", "-Hltn"], capture_output=True, text=True, check=True
    )
    return {
        line.split()[3]
        for line in shown.stdout.splitlines()
        if not line.split()[3].startswith("127.0.0.11:")
    }


def test_somebody_outside_reaches_the_site_s_bdii_and_nothing_else(site: ContainerSite) -> None:
    """R11, R35: from a neighbour, over IPv4 and IPv6, and even with a route to the containers."""
    wait(lambda: len(images(entries())) == 3, seconds=START, what=lambda: site.log("sitebdii"))
    addresses = {
        (service, name): network["IPAddress"]
        for service in SERVICES
        for name, network in site.container(service)["NetworkSettings"]["Networks"].items()
    }
    # its port of earlier releases
    ports = {"cloudbdii": 2170, "sitebdii": 2170, "cloudkeeper-os": 50051}
    with neighbour.beside() as stranger:
        for host in (stranger.ipv4, f"[{stranger.ipv6}]"):
            shown = stranger.run(
                "ldapsearch", "-x", "-LLL", "-H", f"ldap://{host}:{PORT}", "-b", "o=glue", "1.1"
            )
            assert shown.returncode == 0, shown.stderr
            assert "GLUE2DomainID=TEST-SITE" in shown.stdout
        assert not [port for port in (2170, 2171, 50051) if stranger.reaches(stranger.ipv4, port)]
        found = {
            key for key, address in addresses.items() if stranger.reaches(address, ports[key[0]])
        }
    assert found <= {("sitebdii", "fedcloud_public")}
    assert listening(site, "cloudkeeper-os") == set()
    assert listening(site, "sitebdii") == {"0.0.0.0:2170"}
    here = subprocess.run(["ss", "-Hltn"], capture_output=True, text=True, check=True).stdout
    assert {f"0.0.0.0:{PORT}", f"[::]:{PORT}"} <= set(here.split())


@pytest.mark.parametrize("service", SERVICES)
def test_a_killed_service_is_back_and_its_neighbours_notice_nothing(
    site: ContainerSite, service: str
) -> None:
    """R38, D15: the program itself is killed, by somebody on the host.

    `scripts/bench appliance` measures the time; a loaded machine needs more than an idle one.
    """
    before = {name: site.container(name)["State"] for name in SERVICES}
    program = _program(site, service)
    os.kill(program, signal.SIGKILL)
    wait(lambda: not Path(f"/proc/{program}").exists(), seconds=5, what=lambda: "it lives")
    wait(lambda: _answers(site, service), seconds=30, what=lambda: site.log(service))
    after = {name: site.container(name)["State"] for name in SERVICES}
    assert {name for name in SERVICES if after[name]["StartedAt"] != before[name]["StartedAt"]} == {
        service
    }
    if service == "sitebdii":
        assert len(images(entries())) == 3  # what was published last is there at once


def test_an_engine_that_is_killed_inside_is_noticed_by_nobody(site: ContainerSite) -> None:
    """F-I4: as the kernel kills it when memory runs out; process 1 starts it again."""
    wait(lambda: len(images(entries())) == 3, seconds=START, what=lambda: site.log("sitebdii"))
    before = site.container("sitebdii")["State"]
    (first, engine) = [pid for pid in site.processes("sitebdii") if _name(pid) == "bdii-update"]
    assert first == before["Pid"]
    with asking(Poller(PORT)) as poller:
        os.kill(engine, signal.SIGKILL)
        wait(
            lambda: (
                "is started again" in site.log("sitebdii")
                and "taking over slapd" in site.log("sitebdii")
            ),
            seconds=30,
            what=lambda: site.log("sitebdii"),
        )
        # nothing inside can kill process 1
        kill = ("python", "-c", "import os; os.kill(1, 9)")
        site.engine.docker("exec", site.container("sitebdii")["Id"], *kill)
        site.compose("kill", "-s", "HUP", "sitebdii")
    assert poller.refused == []
    assert poller.answered
    assert site.container("sitebdii")["State"]["StartedAt"] == before["StartedAt"]


def test_a_killed_slapd_is_replaced_inside(site: ContainerSite) -> None:
    before = site.container("sitebdii")["State"]["StartedAt"]
    (slapd,) = [pid for pid in site.processes("sitebdii") if _name(pid) == "slapd"]
    os.kill(slapd, signal.SIGKILL)
    wait(
        lambda: not Path(f"/proc/{slapd}").exists() and bool(entries()),
        seconds=30,
        what=lambda: site.log("sitebdii"),
    )
    assert site.container("sitebdii")["State"]["StartedAt"] == before


def test_a_container_that_is_replaced_shows_no_part_of_the_tree(site: ContainerSite) -> None:
    """F-I4: as an upgrade and a reload replace it; `test_vm_upgrade.py` has 10 000 entries."""
    wait(lambda: len(images(entries())) == 3, seconds=START, what=lambda: site.log("sitebdii"))
    before, whole = site.container("sitebdii")["Id"], len(entries())
    with asking(Poller(PORT)) as poller, asking(TreeReader(PORT)) as reader:
        site.compose("up", "-d", "--no-deps", "--no-build", "--force-recreate", "sitebdii")
        answered, read = poller.answered, len(reader.sizes)
        wait(
            lambda: poller.answered > answered + 9 and len(reader.sizes) > read + 2,
            seconds=START,
            what=lambda: site.log("sitebdii"),
        )
    assert site.container("sitebdii")["Id"] != before
    assert set(reader.sizes) == {whole}


def test_the_services_together_need_little_memory(site: ContainerSite) -> None:
    """At most 200 MB, by the proportional set size (PSS) of the kernel."""
    wait(lambda: len(images(entries())) == 3, seconds=START, what=lambda: site.log("sitebdii"))
    total = 0
    for service in SERVICES:
        for pid in site.processes(service):
            try:
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            except (ProcessLookupError, FileNotFoundError):  # a provider that has ended meanwhile
                continue
            total += sum(
                int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")
            )
    assert total <= 200_000, f"{total} kB"


def test_an_edited_file_is_seen_even_if_the_editor_wrote_a_new_one(site: ContainerSite) -> None:
    """A new inode under the old name: directories are mounted, so a reload reads the new file."""
    path = site.root / "etc/sitebdii/site.cfg"
    new = path.with_name(".site.cfg.new")
    new.write_text(
        path.read_text().replace("SITE_DESC", "#SITE_DESC") + "SITE_DESC = written by an editor\n"
    )
    new.chmod(0o644)
    new.rename(path)
    site.compose("kill", "-s", "HUP", "sitebdii")
    wait(
        lambda: "written by an editor" in str(entries()),
        seconds=20,
        what=lambda: site.log("sitebdii"),
    )


@pytest.mark.parametrize("version", COMPOSE)
def test_a_missing_file_is_an_error_and_no_directory_is_made(
    engine: DockerDaemon, tmp_path: Path, version: str
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    site = ContainerSite.lay_out(
        engine, root, version=version, project=f"missing{version[0]}", port=PORT + 4
    )
    path = site.root / "etc/caso/caso.conf"
    path.unlink()
    try:
        done = site.compose("run", "--rm", "-T", "--no-deps", "caso", "caso-extract", expect=None)
    finally:
        site.down()
    assert done.returncode != 0
    assert f"{path}" in done.stdout + done.stderr
    assert not path.exists()


@pytest.mark.parametrize("network", ["bridge", "host"])
def test_both_versions_of_compose_read_the_file_alike(tmp_path: Path, network: str) -> None:
    """R01: both versions read the same services, restrictions, mounts and networks."""
    read = {}
    for version in COMPOSE:
        root = tmp_path / version / "root"
        root.mkdir(parents=True)
        site = ContainerSite.lay_out(
            DockerDaemon(tmp_path),
            root,
            version=version,
            project="fedcloud",
            port=PORT,
            network=network,
        )
        command = [*site.command, "--profile", "jobs", "config"]
        shown = subprocess.run(command, capture_output=True, text=True, check=True)
        assert shown.stderr == ""
        services = yaml.safe_load(shown.stdout.replace(f"{root}/", "/"))["services"]
        read[version] = {name: _essence(service) for name, service in services.items()}
    first, second = read.values()
    assert set(first) == {*SERVICES, *JOBS}
    assert first == second
    for name, service in first.items():
        assert service["restricted"] == (True, ["ALL"], ["no-new-privileges:true"], "1999:1999"), (
            name
        )
        assert service["network_mode"] == ("host" if network == "host" else None)


@pytest.mark.parametrize("network", ["bridge", "host"])
@pytest.mark.parametrize("place", ["", "192.0.2.10:2171", "[2001:db8::10]:2171"])
def test_an_address_for_the_public_bdii(tmp_path: Path, network: str, place: str) -> None:
    """F-H9: as both versions of Compose understand the shipped files; without it, all addresses."""
    for version in COMPOSE:
        root = tmp_path / version / "root"
        root.mkdir(parents=True)
        engine = DockerDaemon(tmp_path)
        site = ContainerSite.lay_out(
            engine, root, version=version, project="p", port=PORT, network=network
        )
        shutil.copy(TOP / f"etc/fedcloud/networks/{network}.yml", root / "etc/fedcloud/networks")
        site.set(FEDCLOUD_BDII_LISTEN=place)
        shown = subprocess.run(
            [*site.command, "config"], capture_output=True, text=True, check=True
        ).stdout
        found = yaml.safe_load(shown)["services"]["sitebdii"]
        if network == "host":
            assert found["command"][-2:] == ["--listen", place]
        else:
            (port,) = found["ports"]
            assert _published(port) == (
                place.rpartition(":")[0].strip("[]"),
                "2171" if place else "2170",
                2170,
            )


def _published(port: str | dict[str, Any]) -> tuple[str, str, int]:
    """Return address, port and port inside, as one version writes them or the other."""
    if isinstance(port, dict):
        return port.get("host_ip", ""), str(port["published"]), port["target"]
    outside, _, inside = port.removesuffix("/tcp").rpartition(":")
    address, _, number = outside.rpartition(":")
    return address.strip("[]"), number, int(inside)


def _essence(service: dict[str, Any]) -> dict[str, Any]:
    """Return what matters of a service, whichever way a version of compose writes it."""
    return {
        "restricted": (
            service["read_only"],
            service["cap_drop"],
            service["security_opt"],
            service["user"],
        ),
        "mounts": sorted(
            (mount["source"], mount["target"], bool(mount.get("read_only")))
            for mount in service["volumes"]
        ),
        "tmpfs": sorted(service["tmpfs"]),
        "networks": sorted(service.get("networks") or ()),
        "network_mode": service.get("network_mode"),
        "ports": len(service.get("ports", ())),
        "init": service["init"],
        "image": service["image"],
        "environment": service["environment"],
        "command": service.get("command"),
        "profiles": service.get("profiles"),
    }


def _name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def _program(site: ContainerSite, service: str) -> int:
    """Return the process id of a service's program.

    It is the child of Docker's init, or the first process itself.
    """
    first: int = site.container(service)["State"]["Pid"]
    if _name(first) == "bdii-update":
        return first
    (child, *_) = Path(f"/proc/{first}/task/{first}/children").read_text().split()
    return int(child)


def _answers(site: ContainerSite, service: str) -> bool:
    if service == "sitebdii":
        return bool(entries())
    check = site.container(service)["Config"]["Healthcheck"]["Test"][1:]
    return (
        site.engine.docker("exec", site.container(service)["Id"], *check, check=False).returncode
        == 0
    )
