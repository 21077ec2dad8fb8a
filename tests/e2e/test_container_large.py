"""A hundred thousand entries in the shipped containers, with the shipped limits of memory (F-I8).

The figures of `scripts/bench info` that are counts hold here, too; times are printed.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.dockerd import DockerDaemon
from tests.bench import usage
from tests.bench.info import CHANGED, text
from tests.e2e import container_cloud
from tests.e2e.bdii_service import search
from tests.e2e.container_site import ContainerSite, wait
from tests.e2e.ldap_clients import Poller, TreeReader, asking

pytestmark = [pytest.mark.container, pytest.mark.matrix, pytest.mark.timeout(1800)]

PORT = int(os.environ.get("FEDCLOUD_TESTBED_PORT_BASE") or 26000) + 950
ENTRIES = 100_000
WHOLE = ENTRIES + 10
"""The site adds what it says of itself."""
LDIF = "var/lib/fedcloud/bdii/resource/gip/ldif"
SERVICES = ("cloudbdii", "sitebdii")
LONG = 600
MOST_MEMORY = 300
"""MiB of an engine."""


@pytest.fixture
def site(engine: DockerDaemon, tmp_path: Path) -> Iterator[ContainerSite]:
    """Return a configured site of which nothing runs; its cloud does not answer."""
    root = tmp_path / "root"
    root.mkdir()
    with engine.alone():
        made = ContainerSite.lay_out(engine, root, version="v2", project="fedcloud3", port=PORT)
        container_cloud.name_site(made)
        url = "https://127.0.0.1:9/v3"
        container_cloud.offer(made, url=url, user="a", password="b", projects={"ops": "ops"})
        for name in ("bdii", "sitebdii"):
            made.edit(f"etc/{name}/bdii.conf", append="BDII_SOURCE_LIMIT=500\n")
        (root / LDIF).mkdir(parents=True)
        try:
            yield made
        finally:
            made.down()


def write(site: ContainerSite, title: str) -> None:
    """Write the file of the resource's BDII as a whole."""
    new = site.root / LDIF / "cloud.new"
    with new.open("w") as file:
        file.writelines(text(ENTRIES, title))
    new.rename(new.with_name("cloud.ldif"))


def changed() -> int:
    """Return how many of the images that change have the newer title."""
    pattern = "(GLUE2ApplicationEnvironmentAppName=changed image *)"
    command = ("ldapsearch", "-x", "-LLL", "-H", f"ldap://127.0.0.1:{PORT}", "-b", "o=glue")
    done = subprocess.run([*command, pattern, "1.1"], capture_output=True, text=True, check=False)
    return done.stdout.count("dn: ")


def total() -> int:
    """Return how many entries the site's BDII says that it serves; 0 if it does not answer."""
    try:
        found = search(PORT, "Hostname=localhost,o=infosys")
    except subprocess.CalledProcessError:
        return 0
    return sum(int(entry["TotalEntries"][0]) for entry in found.values())


def memory(site: ContainerSite, service: str) -> str:
    """Return the most memory that a container has used, its database included, and its limit."""
    places = "/sys/fs/cgroup/memory.peak /sys/fs/cgroup/memory/memory.max_usage_in_bytes"
    most = int(site.inside(service, "sh", "-c", f"cat {places} 2>/dev/null || true")) >> 20
    used = site.inside(service, "sh", "-c", "df -m /var/lib/fedcloud/bdii/*/db").split()[-4]
    limit = site.container(service)["HostConfig"]["Memory"] >> 20
    return f"{service}: {most} of {limit} MiB; the database has {used}"


def csns(base: str) -> dict[str, list[str]]:
    """Return when each entry of the site's BDII was written."""
    found = search(PORT, base, "entryCSN")
    return {dn: attributes["entryCSN"] for dn, attributes in found.items()}


def engines(site: ContainerSite, service: str) -> list[int]:
    """Return the processes of the program: the one that waits, and the engine."""
    found = site.processes(service)
    return [pid for pid in found if "bdii-update" in Path(f"/proc/{pid}/cmdline").read_text()]


def cpu(site: ContainerSite) -> float:
    return sum(map(usage.cpu_of, engines(site, "sitebdii")))


def wait_for_cycle(site: ContainerSite) -> None:
    """Wait for the end of a cycle of the site's BDII, which writes its figures."""
    before = csns("o=infosys")
    wait(lambda: csns("o=infosys") != before, seconds=LONG, what=lambda: site.log("sitebdii"))


def test_a_hundred_thousand_entries(site: ContainerSite) -> None:
    write(site, "image")
    begin = time.monotonic()
    site.compose("up", "-d", *SERVICES)
    wait(lambda: total() == WHOLE, seconds=LONG, what=lambda: site.log("sitebdii"))
    print(f"first publication at the site: {time.monotonic() - begin:.0f} s")
    before, used = csns("o=glue"), cpu(site)
    wait_for_cycle(site)  # it may still be that of the publication
    wait_for_cycle(site)
    print(f"two cycles of the site: {cpu(site) - used:.2f} CPU s")
    assert csns("o=glue") == before
    with asking(Poller(PORT)) as poller, asking(TreeReader(PORT)) as reader:
        write(site, "changed image")
        wait(lambda: changed() == CHANGED, seconds=LONG, what=lambda: site.log("sitebdii"))
        wait(lambda: len(reader.sizes) > 1, seconds=LONG, what=lambda: str(reader))
    assert (poller.refused, reader.faults, set(reader.sizes)) == ([], [], {WHOLE})
    print("\n".join(memory(site, service) for service in SERVICES))
    for service in SERVICES:
        most = max(map(usage.high_water_mark, engines(site, service)))
        print(f"{service}: the engine has used {most:.0f} MiB")
        assert most <= MOST_MEMORY
    with asking(Poller(PORT)) as poller, asking(TreeReader(PORT)) as reader:
        site.compose("up", "-d", "--no-deps", "--no-build", "--force-recreate", "sitebdii")
        count = len(reader.sizes)
        wait(lambda: len(reader.sizes) > count + 1, seconds=LONG, what=lambda: str(reader))
    print(f"a container that is replaced: {poller.silent:.1f} s without an answer")
    assert set(reader.sizes) == {WHOLE}
    for service in SERVICES:
        assert not site.container(service)["State"]["OOMKilled"]
        assert "was killed" not in site.log(service)
