"""`appliance configure` with a real cloud: VOs come from the properties of its projects.

The container of caso asks, with an account that no file of the site has.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from deploy.dockerd import DockerDaemon
from tests.e2e.container_site import ContainerSite, host_site, run_appliance
from tests.testbed import Testbed

pytestmark = [
    pytest.mark.container,
    pytest.mark.cloud,
    pytest.mark.matrix,
    pytest.mark.timeout(600),
]

PORT = int(os.environ.get("FEDCLOUD_TESTBED_PORT_BASE") or 26000) + 980


@pytest.fixture
def site(engine: DockerDaemon, tmp_path: Path) -> Iterator[ContainerSite]:
    with host_site(engine, tmp_path / "root", port=PORT) as made:
        made.set(FEDCLOUD_NETWORK="host")
        (made.root / "etc/voms.json").write_text("{}\n")
        yield made


def answers(site: ContainerSite, testbed: Testbed, password: str) -> str:
    """Write a file of answers without VOs; return its path."""
    path = site.root / "answers.yaml"
    grid = site.root / "etc/grid-security"
    account = testbed.seed().accounts["accounting"]
    found = {
        "flows": ["accounting", "information"],
        "site": "TEST-SITE",
        "keystone": testbed.keystone_url,
        "authorities": str(testbed.ca_file),
        "accounts": {
            "accounting": {"name": account.name, "password": password},
            "information": {"name": "information", "password": password},
        },
        "certificate": str(grid / "hostcert.pem"),
        "key": str(grid / "hostkey.pem"),
        "host": "bdii.cloud.test",
        "email": "admin@cloud.test",
    }
    path.write_text(yaml.safe_dump(found))
    return str(path)


def test_vos_come_from_the_cloud(site: ContainerSite, testbed: Testbed) -> None:
    """A wrong password first: the reason is in the one line, and nothing changes."""
    account, seed = testbed.seed().accounts["accounting"], testbed.seed()
    before = (site.root / "etc/voms.json").read_text()
    refused = run_appliance(
        site, "configure", "--answers", answers(site, testbed, "not-the-password")
    )
    assert refused.returncode == 2, refused.stderr
    assert re.search(r"vos: must be answered: .*wrong name, domain or password", refused.stderr)
    assert "not-the-password" not in refused.stdout + refused.stderr
    assert (site.root / "etc/voms.json").read_text() == before
    words = ("configure", "--answers", answers(site, testbed, account.password), "--json")
    done = run_appliance(site, *words)
    assert done.returncode == 1, done.stderr
    mapping = json.loads((site.root / "etc/voms.json").read_text())
    found = {vo: entry["projects"] for vo, entry in mapping.items()}
    expected: dict[str, list[str]] = {}
    for project in sorted(seed.projects.values(), key=lambda one: one.id):
        if project.vo:
            expected.setdefault(project.vo, []).append(project.id)
    assert found == expected
    assert not list((site.root / "run/fedcloud/keys").iterdir())
    assert run_appliance(site, *words).returncode == 0
