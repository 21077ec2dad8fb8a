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
Documents = list[dict[str, Any]]


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    with serving(Cloud(projects=PROJECTS, servers=4, deleted=1, changed=1)) as served:
        yield served


@pytest.fixture
def logstash() -> Iterator[tuple[str, str, Documents]]:
    with json_lines.serving() as service:
        section = f"[logstash]\nhost = 127.0.0.1\nport = {service.port}\n"
        yield "logstash", section, service.documents
        assert service.cut == []


@pytest.fixture
def greendigit_cim(httpserver: HTTPServer) -> tuple[str, str, Documents]:
    token = httpserver.expect_request("/gd-cim-api/v1/token")
    token.respond_with_json({"access_token": TOKEN})
    section = f"email = a@b.org\npassword = {PASSWORD}\nbase_url = {httpserver.url_for('')}\n"
    return "greendigit_cim", f"[greendigit_cim]\n{section}", taking(httpserver)


def command(root: Path, cloud: Cloud, name: str, section: str) -> Command:
    """Return a run on a new site."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    configuration = root / "caso.conf"
    configuration.touch(mode=0o600)
    configuration.write_text(
        f"[DEFAULT]\nmessengers = {name}\nsite_name = S\nextractor = nova\n"
        f"projects = {','.join(PROJECTS)}\nparallel_projects = 1\n"
        f"[keystone_auth]\nauth_type = v3password\nauth_url = {cloud.url}/v3\n"
        f"username = u\nuser_domain_name = Default\npassword = p-a-s-s\n{section}"
    )
    until = (cloud.now - timedelta(hours=1)).isoformat()
    flags = ("--root", str(root), "--config-file", str(configuration), "--extract-to", until)
    return Command([PROGRAM, *flags])


@pytest.mark.parametrize("messenger", ["logstash", "greendigit_cim"])
@pytest.mark.parametrize(
    "sample", [pytest.param(4, id="four"), pytest.param(None, id="all", marks=pytest.mark.matrix)]
)
def test_nothing_is_lost_and_little_comes_twice(
    sample: int | None,
    messenger: str,
    cloud: Cloud,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    name, section, documents = request.getfixturevalue(messenger)
    site = tmp_path / "site"
    until = cloud.now - timedelta(hours=1)
    truth: dict[str, int] = {}
    for project in PROJECTS:
        truth |= cloud.truth(project, until=until)
    undisturbed: set[str] = set()

    def prepare() -> Command:
        documents.clear()
        return command(site, cloud, name, section)

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
        assert len(list(site.glob("var/spool/caso/lastrun.*"))) == len(PROJECTS)
        with Ledger(site / "var/lib/fedcloud/caso/ledger.sqlite", read_only=True) as ledger:
            assert ledger.deliveries.outstanding() == []
            held = [
                (row.row.key, row.row.amount)
                for month in ledger.deliveries.months()
                for row in ledger.deliveries.rows(month, name)
            ]
        assert len(held) == len(undisturbed)
        assert {key: max(two for one, two in held if one == key) for key, _ in held} == truth

    matrix = KillMatrix(prepare=prepare, verify=verify, syscalls=CALLS)
    matrix.run(sample=sample, seed=20261201)
