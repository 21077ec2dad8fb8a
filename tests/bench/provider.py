"""Figures of `cloud-info-provider-service` beside cloud-info-provider 1.2 in the same run.

``scripts/bench provider [ROUNDS]`` prints rows ``provider case value unit``, medians of the rounds.
Both read the same simulated cloud in turn: 3 VOs, and 20 VOs with 200 images, 50 flavors and 100
servers each, without latency and with 20 ms for each request.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.usage import Usage, run
from tests.interop.test_information_peer import DRIVER, PEER, PROGRAM
from tests.simulators.gocdb import Gocdb, Service
from tests.simulators.offering_cloud import PASSWORD, Cloud, flavor, image, server

_LATENCY = 0.02


def _cloud(vos: int, *, images: int, flavors: int, servers: int) -> Cloud:
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


def measure(case: str, cloud: Cloud, rounds: int) -> None:
    """Let both programs read the cloud in turn, and print the medians."""
    with (
        cloud.serve(),
        tempfile.TemporaryDirectory(prefix="bench-provider-") as directory,
        Gocdb([Service("1G0", "EXAMPLE-SITE", f"{cloud.url}/identity/v3")]).serve() as gocdb,
    ):
        root = Path(directory)
        vos = [
            {"name": f"vo{n}", "auth": {"project_id": key}} for n, key in enumerate(cloud.flavors)
        ]
        described = {"gocdb": "EXAMPLE-SITE", "endpoint": f"{cloud.url}/identity/v3", "vos": vos}
        (root / "site.yaml").write_text(json.dumps(described))
        account = [
            *("--os-auth-type", "v3password", "--os-username", "ci", "--os-password", PASSWORD),
            *("--os-user-domain-name", "Default", str(root / "site.yaml")),
        ]
        programs = {
            "ours": [str(PROGRAM), "--root", directory, "--gocdb-url", gocdb.url, *account],
            "1.2.0": [str(PEER), "-P", "-c", DRIVER, gocdb.url, *account],
        }
        taken: dict[str, list[tuple[Usage, int]]] = {name: [] for name in programs}
        for _ in range(rounds):
            for name, command in programs.items():
                before = cloud.requests.total()
                taken[name].append((run(command), cloud.requests.total() - before))
        for name, results in taken.items():
            _rows(f"{case}: {name}", results)


def _rows(case: str, results: Sequence[tuple[Usage, int]]) -> None:
    for name, unit, values in (
        ("requests", "", [count for _, count in results]),
        ("CPU", "s", [used.cpu for used, _ in results]),
        ("wall", "s", [used.wall for used, _ in results]),
        ("memory", "MiB", [used.memory for used, _ in results]),
    ):
        print(f"provider {case}: {name} {median(values):.3g} {unit}".rstrip(), flush=True)


def main() -> None:
    """Print the rows."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    measure("3 VOs", _cloud(3, images=4, flavors=5, servers=5), rounds)
    large = _cloud(20, images=200, flavors=50, servers=100)
    measure("20 VOs", large, rounds)
    large.latency = _LATENCY
    measure("20 VOs, 20 ms", large, 1)


if __name__ == "__main__":
    main()
