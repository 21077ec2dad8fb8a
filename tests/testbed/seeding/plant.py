"""Everything, in the order in which one thing needs the other."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from tests.testbed.progress import Progress
from tests.testbed.seed import FloatingIp, Seed, Volume
from tests.testbed.seeding import compute, content, identity, images, network, volumes
from tests.testbed.seeding.access import Access


def plant(access: Access, progress: Progress) -> Seed:
    """Fill the cloud; harmless when repeated."""
    with progress.step("seed: domains, projects, accounts"):
        people = identity.plant(access)
    with progress.step("seed: networks, flavors, images"), ThreadPoolExecutor(1) as pool:
        # the other services are idle meanwhile
        planted = pool.submit(network.plant, access, people.projects.values())
        flavors = compute.plant_flavors(access.admin, people.projects)
        compute.set_quotas(access.admin, people.projects.values())
        made_images = images.plant(access, people.projects)
        networks = planted.result()
    bed = compute.ServerBed(access, people.projects, people.users, flavors, made_images, networks)
    floating_ips: tuple[FloatingIp, ...] = ()
    made_volumes: dict[str, Volume] = {}

    def attach(servers: dict[str, str]) -> None:
        nonlocal floating_ips, made_volumes
        external = networks[content.EXTERNAL_NETWORK]
        floating_ips = network.associate(
            access, people.projects, servers=servers, external=external
        )
        made_volumes = volumes.plant(access, people.projects, servers=servers)

    with progress.step("seed: servers, floating IPs, volumes"):
        servers = bed.plant(attach=attach)
    return Seed(
        projects=people.projects,
        users=people.users,
        accounts=people.accounts,
        application_credential=people.application_credential,
        flavors=flavors,
        images=made_images,
        networks=networks,
        servers=servers,
        floating_ips=floating_ips,
        volumes=made_volumes,
    )
