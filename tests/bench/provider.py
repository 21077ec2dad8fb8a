"""Figures of `cloud-info-provider-service` beside cloud-info-provider 1.2 in the same run.

``scripts/bench provider [ROUNDS]`` prints rows ``provider case value unit``, medians of the rounds.
Both read the same simulated cloud in turn: 3 VOs, and 20 VOs with 200 images, 50 flavors and 100
servers each, without latency and with 20 ms for each request.

``scripts/bench provider --real [ROUNDS]`` reads the test bed's cloud, 3 VOs of real services.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.accounting import Requests
from tests.bench.usage import Usage, run
from tests.interop.test_information_peer import DRIVER, PEER, PROGRAM, Side, real
from tests.simulators.gocdb import Gocdb, Service
from tests.simulators.offering_cloud import PASSWORD, Cloud, flavor, image, server
from tests.testbed import CLOUD_SERVICES, Testbed

_LATENCY = 0.02


def large_cloud(vos: int, *, images: int, flavors: int, servers: int) -> Cloud:
    projects = [f"p{number}" for number in range(vos)]
    offered = [
        image(
            f"image-{number}",
            file=f"/v2/images/image-{number}/file",
            os_distro="ubuntu",
            os_version="24.04",
            architecture="x86_64",
            APPLIANCE_ATTRIBUTES=json.dumps(_entry(number)),
        )
        for number in range(images)
    ]
    sizes = [flavor(f"flavor-{number}", vcpus=number + 1) for number in range(flavors)]
    running = [server(f"server-{number}") for number in range(servers)]
    return Cloud(
        flavors=dict.fromkeys(projects, sizes),
        images=dict.fromkeys(projects, offered),
        servers=dict.fromkeys(projects, running),
        quotas={project: {"cores": 100, "instances": 50} for project in projects},
    )


def _entry(number: int) -> dict[str, Any]:
    reference = f"egi_vm_images/image:{number}"
    return {"eu.egi.cloud.image_ref": reference, "eu.egi.cloud.tag": f"{number}", "pad": "x" * 500}


def measure(case: str, side: Side, rounds: int, *, requests: Callable[[], int]) -> None:
    """Let both programs read the cloud in turn, and print the medians.

    ``requests`` returns how many requests the cloud has had so far.
    """
    os.environ.update(side.environment)
    with (
        tempfile.TemporaryDirectory(prefix="bench-provider-") as directory,
        Gocdb([Service("1G0", "EXAMPLE-SITE", side.url)]).serve() as gocdb,
    ):
        root = Path(directory)
        vos = [{"name": vo, "auth": {"project_id": key}} for vo, key in side.projects.items()]
        described = {"gocdb": "EXAMPLE-SITE", "endpoint": side.url, "vos": vos}
        (root / "site.yaml").write_text(json.dumps(described))
        login = ["--os-auth-type", "v3password", "--os-user-domain-name", "Default"]
        account = [*login, *side.account, str(root / "site.yaml")]
        programs = {
            "ours": [str(PROGRAM), "--root", directory, "--gocdb-url", gocdb.url, *account],
            "1.2.0": [str(PEER), "-P", "-c", DRIVER, gocdb.url, *account],
        }
        taken: dict[str, list[tuple[Usage, int]]] = {name: [] for name in programs}
        for _ in range(rounds):
            for name, command in programs.items():
                before = requests()
                taken[name].append((run(command), requests() - before))
    for name, results in taken.items():
        _rows(f"{case}: {name}", results)
    ours, theirs = (median(used.cpu for used, _ in taken[name]) for name in programs)
    print(f"provider {case}: CPU {ours / theirs:.3g} of 1.2.0's", flush=True)


def _rows(case: str, results: Sequence[tuple[Usage, int]]) -> None:
    for name, unit, values in (
        ("requests", "", [count for _, count in results]),
        ("CPU", "s", [used.cpu for used, _ in results]),
        ("wall", "s", [used.wall for used, _ in results]),
        ("memory", "MiB", [used.memory for used, _ in results]),
    ):
        print(f"provider {case}: {name} {median(values):.3g} {unit}".rstrip(), flush=True)


def _simulated(case: str, cloud: Cloud, rounds: int) -> None:
    with cloud.serve():
        account = ["--os-username", "ci", "--os-password", PASSWORD]
        projects = {f"vo{number}": key for number, key in enumerate(cloud.flavors)}
        side = Side(f"{cloud.url}/identity/v3", account, projects, {})
        measure(case, side, rounds, requests=cloud.requests.total)


def _real(rounds: int) -> None:
    top = Path(__file__).parents[2]
    state = Path(os.environ.get("FEDCLOUD_TESTBED_STATE") or top / ".cache/testbed/tests")
    testbed = Testbed(state, int(os.environ.get("FEDCLOUD_TESTBED_PORT_BASE") or 26000))
    was_running = testbed.running()
    testbed.up(CLOUD_SERVICES)

    try:
        side = real(testbed)
        measure("test bed, 3 VOs", side, rounds, requests=Requests(testbed).count)
    finally:
        if not was_running:
            testbed.down()


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(prog="scripts/bench provider")
    parser.add_argument("--real", action="store_true", help="read the test bed's cloud")
    parser.add_argument("rounds", nargs="?", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.real:
        _real(arguments.rounds)
        return
    _simulated("3 VOs", large_cloud(3, images=4, flavors=5, servers=5), arguments.rounds)
    large = large_cloud(20, images=200, flavors=50, servers=100)
    _simulated("20 VOs", large, arguments.rounds)
    large.latency = _LATENCY
    _simulated("20 VOs, 20 ms", large, 1)


if __name__ == "__main__":
    main()
