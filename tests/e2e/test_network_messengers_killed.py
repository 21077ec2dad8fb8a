"""A run with a messenger over the network, killed at each of its steps, and the run after that.

Nothing is lost, and a service gets a record twice at most. A copy of the records that wait is
removed only after the service has accepted all of them.
"""

from __future__ import annotations

import collections
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer

from caso.ledger.ledger import Ledger
from tests.e2e.killpoints import CHANGES, Command, KillMatrix
from tests.simulators import json_lines
from tests.simulators.openstack import Cloud, serving
from tests.unit.test_greendigit import PASSWORD, TOKEN, taking

pytestmark = [pytest.mark.programs("strace"), pytest.mark.timeout(3600)]

PROGRAM = str(Path(sys.prefix) / "bin/caso-extract")
PROJECTS = ("one", "two")
CALLS = tuple(name for name in CHANGES if name not in {"pwrite64", "fdatasync"})
"""Without those of SQLite, whose kills `test_ledger_killed` has."""
NOBODY = 9
"""A port at which nobody listens."""


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    with serving(Cloud(projects=PROJECTS, servers=4, deleted=1, changed=1)) as served:
        yield served


@dataclass(frozen=True, slots=True)
class JudgedService:
    """A service with the messenger's section for it, without the port, and what it has taken."""

    messenger: str
    section: str
    port: int
    documents: list[dict[str, Any]]


@pytest.fixture
def logstash() -> Iterator[JudgedService]:
    with json_lines.serving() as service:
        section = "[logstash]\nhost = 127.0.0.1\nport = {port}\n"
        yield JudgedService("logstash", section, service.port, service.documents)
        assert service.cut == []


@pytest.fixture
def greendigit_cim(httpserver: HTTPServer) -> JudgedService:
    token = httpserver.expect_request("/gd-cim-api/v1/token")
    token.respond_with_json({"access_token": TOKEN})
    account = f"email = a@b.org\npassword = {PASSWORD}\nbase_url = http://localhost:{{port}}\n"
    section = f"[greendigit_cim]\n{account}"
    return JudgedService("greendigit_cim", section, httpserver.port, taking(httpserver))


def command(root: Path, cloud: Cloud, service: JudgedService, *, port: int) -> Command:
    """Return a run of a site that sends to a port."""
    root.mkdir(exist_ok=True)
    configuration = root / "caso.conf"
    configuration.touch(mode=0o600)
    configuration.write_text(
        f"[DEFAULT]\nmessengers = {service.messenger}\nsite_name = S\nextractor = nova\n"
        f"projects = {','.join(PROJECTS)}\nparallel_projects = 1\n"
        f"[keystone_auth]\nauth_type = v3password\nauth_url = {cloud.url}/v3\n"
        "username = u\nuser_domain_name = Default\npassword = p-a-s-s\n"
        f"{service.section.format(port=port)}"
    )
    until = (cloud.now - timedelta(hours=1)).isoformat()
    flags = ("--root", str(root), "--config-file", str(configuration), "--extract-to", until)
    return Command([PROGRAM, *flags])


@pytest.mark.parametrize("messenger", ["logstash", "greendigit_cim"])
@pytest.mark.parametrize("step", ["extract", "deliver"])
@pytest.mark.parametrize(
    "sample", [pytest.param(3, id="three"), pytest.param(None, id="all", marks=pytest.mark.matrix)]
)
def test_nothing_is_lost_and_little_comes_twice(
    sample: int | None,
    step: str,
    messenger: str,
    cloud: Cloud,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    """``deliver``: a run that has nothing to extract, after one whose service was away.

    Calls are counted in each thread, and a thread that extracts would come first.
    """
    service: JudgedService = request.getfixturevalue(messenger)
    name, documents = service.messenger, service.documents
    site = tmp_path / "site"
    until = cloud.now - timedelta(hours=1)
    truth: dict[str, int] = {}
    for project in PROJECTS:
        truth |= cloud.truth(project, until=until)
    undisturbed: set[str] = set()

    def prepare() -> Command:
        shutil.rmtree(site, ignore_errors=True)
        documents.clear()
        if step == "deliver":
            assert command(site, cloud, service, port=NOBODY).run().returncode == 1
        return command(site, cloud, service, port=service.port)

    def verify() -> None:
        copies = collections.Counter(json.dumps(one, sort_keys=True) for one in documents)
        if not undisturbed:
            assert set(copies.values()) == {1}
            undisturbed.update(copies)
        assert copies.keys() == undisturbed
        assert max(copies.values()) <= 2
        taken: dict[str, int] = {}
        for one in documents:
            taken[one["VMUUID"]] = max(one["WallDuration"], taken.get(one["VMUUID"], 0))
        assert taken == truth
        assert not list(site.glob(f"var/spool/caso/waiting/{name}/*"))
        # A kill before `finish` leaves none; the next window writes it.
        following = until + timedelta(seconds=1)
        for path in site.glob("var/spool/caso/lastrun.*"):
            assert path.read_text() == str(following)
        with Ledger(site / "var/lib/fedcloud/caso/ledger.sqlite", read_only=True) as ledger:
            assert ledger.deliveries.outstanding() == []
            reached = [one.checkpoint for one in ledger.windows.all().values()]
            assert reached == [following] * len(PROJECTS)
            held = [
                (row.row.key, row.row.amount)
                for month in ledger.deliveries.months()
                for row in ledger.deliveries.rows(month, name)
            ]
        assert len(held) == len(undisturbed)
        assert {key: max(two for one, two in held if one == key) for key, _ in held} == truth

    matrix = KillMatrix(prepare=prepare, verify=verify, syscalls=CALLS)
    matrix.run(sample=sample, seed=20261201)
