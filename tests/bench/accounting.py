"""Figures of `caso-extract` beside cASO 5.2.2 on the test bed's cloud.

Rows are ``accounting case value unit``.

``scripts/bench accounting`` measures on the seed's 17 servers, ``scripts/bench accounting 10000``
with that many servers of history more, ``scripts/bench accounting 1500 100`` with 1 500 of which
100 % are running. Both programs take turns on the same cloud, with the same account and the
extractor nova alone. The first run accounts everything, the hourly one, with the state of the first
run, what has changed within an hour. Requests are counted from the access logs of the services,
without those by which the services ask each other. The time of the pages alone is that of a loop
which reads all servers with their details, and does nothing with them.

``scripts/bench accounting simulated [CASE…]`` measures on simulated clouds, see
`tests.bench.accounting_simulated`; the cases are those of `_SIMULATED`.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

from appliance.core.cloud.compute import Servers
from appliance.core.cloud.login import Access
from appliance.core.cloud.session import Cloud
from caso.kinds.months import BEGINNING
from tests.bench import accounting_simulated
from tests.bench.accounting_simulated import Shape
from tests.bench.usage import Usage, run
from tests.e2e.caso_site import CasoSite
from tests.testbed import CLOUD_SERVICES, Testbed

SERVICES = ("keystone", "nova", "glance", "neutron")
ROUNDS = 3
_SERVICES_OWN = "GET /v3/auth/tokens"
"""A service that validates a caller's token."""
_OF_NEUTRON = "/v2.0/floatingips?project_id="
"""What a program asks Neutron for; Nova asks for ports and for the addresses of a port."""


class Requests:
    """Counts the requests that clients made since it was created."""

    def __init__(self, testbed: Testbed) -> None:
        self._logs = [testbed.access_log(service) for service in SERVICES]
        self._offsets = [path.stat().st_size for path in self._logs]

    def count(self) -> int:
        """Return how many there were."""
        found = 0
        for service, path, offset in zip(SERVICES, self._logs, self._offsets, strict=True):
            with path.open() as log:
                log.seek(offset)
                found += sum(_is_of_program(service, line) for line in log)
        return found


def _is_of_program(service: str, line: str) -> bool:
    return _OF_NEUTRON in line if service == "neutron" else _SERVICES_OWN not in line


def measure(testbed: Testbed, case: str, *, rounds: int) -> None:
    """Let both programs do the same work in turn, and print the medians."""
    taken: dict[tuple[str, str], list[tuple[Usage, int]]] = {}
    for _ in range(rounds):
        for who in ("ours", "cASO 5.2.2"):
            root = Path(tempfile.mkdtemp(prefix="bench-accounting-"))
            site = CasoSite(root / "site", testbed, ssm={"max_size": 100})
            program = site.command if who == "ours" else site.peer_command
            for kind in ("first run", "hourly run"):
                if kind == "hourly run":
                    _pretend_an_hour_ago(site)
                requests = Requests(testbed)
                used = run(program("caso-extract"))
                taken.setdefault((kind, who), []).append((used, requests.count()))
                records = len({record["VMUUID"] for record in site.records()})
                row(f"{case}, {kind}: {who}: servers reported", records, "")
                shutil.rmtree(site.spool)
                site.spool.mkdir()
            shutil.rmtree(root)
    for (kind, who), results in sorted(taken.items()):
        lead = f"{case}, {kind}: {who}"
        row(f"{lead}: wall", median(used.wall for used, _ in results), "s")
        row(f"{lead}: CPU", median(used.cpu for used, _ in results), "s")
        row(f"{lead}: memory", median(used.memory for used, _ in results), "MiB")
        row(f"{lead}: requests", median(count for _, count in results), "")


def pages_alone(testbed: Testbed) -> float:
    """Return the seconds that Nova takes for all servers with their details."""
    seed = testbed.seed()
    account = seed.accounts["accounting"]
    options = {"username": account.name, "password": account.password}
    options |= {"auth_url": testbed.keystone_url, "user_domain_name": "Default"}
    access = Access("v3password", testbed.keystone_url, options, verify=str(testbed.ca_file))
    cloud = Cloud(access)
    scopes = [cloud.project(seed.projects[name].id) for name in account.projects]
    begin = time.perf_counter()
    for scope in scopes:
        for _ in Servers(scope).changed(BEGINNING):
            pass
    return time.perf_counter() - begin


def _pretend_an_hour_ago(site: CasoSite) -> None:
    moment = datetime.now(UTC) - timedelta(hours=1)
    for path in site.state.glob("lastrun.*"):
        path.write_text(str(moment))


def row(case: str, value: float, unit: str) -> None:
    """Print one figure."""
    print(f"accounting\t{case}\t{value:.2f}\t{unit}", flush=True)


_SIMULATED = {
    "10k": (Shape(10_000, 10), True),
    "50": (Shape(100, 50, timedelta(milliseconds=20), "nova,cinder,neutron"), True),
    "50-administrator": (
        Shape(100, 50, timedelta(milliseconds=20), "nova,cinder,neutron", is_administrator=True),
        False,
    ),
    "100k": (Shape(100_000, 20), True),
    "100k-ours": (Shape(100_000, 20), False),
}
"""Clouds, and whether the peer is measured as well: it takes minutes for the largest."""


def main(arguments: Sequence[str]) -> None:
    """Start the cloud if need be, and measure."""
    if {"-h", "--help"} & set(arguments):
        print(__doc__, "Cases:", ", ".join(_SIMULATED))
        return
    if arguments[:1] == ["simulated"]:
        for name in arguments[1:] or ("10k", "50"):
            shape, peer = _SIMULATED[name]
            accounting_simulated.measure(shape, peer=peer, row=row)
        return
    top = Path(__file__).resolve().parents[2]
    state = Path(os.environ.get("FEDCLOUD_TESTBED_STATE") or top / ".cache/testbed/tests")
    testbed = Testbed(state, int(os.environ.get("FEDCLOUD_TESTBED_PORT_BASE") or 26000))
    was_running = testbed.running()
    testbed.up(CLOUD_SERVICES)
    testbed.seed()
    testbed.clear_bulk()
    time.sleep(1)
    try:
        count = int(arguments[0]) if arguments else 0
        running = int(arguments[1]) if len(arguments) > 1 else 10
        if count:
            testbed.bulk(count, running=running)
        case = f"{17 + count} servers"
        row(f"{case}: pages alone: wall", pages_alone(testbed), "s")
        measure(testbed, case, rounds=1 if count else ROUNDS)
    finally:
        testbed.clear_bulk()
        if not was_running:
            testbed.down()


if __name__ == "__main__":
    main(sys.argv[1:])
