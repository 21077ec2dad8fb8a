"""An upgrade between containers: those of an earlier release account and send, then ours do.

The earlier release is its own code from the commit in releases.txt, with its own compose file and
configuration, over the libraries of our images. Nova's database says what must arrive.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy import images
from deploy.assemble import SITE
from deploy.dockerd import DockerDaemon
from tests.demo import counters
from tests.e2e.container_site import ContainerSite, host_site, start_by_cron
from tests.e2e.test_container_accounting import (
    LEDGER,
    PORT,
    QUEUES,
    arrived,
    configure_sender,
    extracted,
    replace,
    servers,
)
from tests.testbed import Testbed
from tests.unit.test_releases import TOP, releases

pytestmark = [
    pytest.mark.container,
    pytest.mark.cloud,
    pytest.mark.broker,
    pytest.mark.matrix,
    pytest.mark.timeout(900),
]

_APPLIANCE = "import sys; from appliance.admin.command import main; sys.exit(main())"
_FILES = ("etc/caso/caso.conf", "etc/apel/sender.cfg", "etc/fedcloud/networks/host.yml")


@dataclass(frozen=True, slots=True)
class EarlierRelease:
    """The files of a release, and the version by which the engine has its images."""

    code: Path
    version: str

    @classmethod
    def build(cls, engine: DockerDaemon, code: Path, commit: str) -> EarlierRelease:
        """Unpack a release and build its images on top of ours."""
        packed = subprocess.run(
            ["git", "archive", commit, "appliance", "caso", "ssm", "etc", "docker-compose.yml"],
            cwd=TOP,
            capture_output=True,
            check=False,
        )
        # A clone without history lacks the commit: git fetch --unshallow.
        assert packed.returncode == 0, packed.stderr
        subprocess.run(["tar", "-x", "-C", str(code)], input=packed.stdout, check=True)
        made = cls(code, f"earlier-{commit[:8]}")
        for name in ("caso", "ssm"):
            (code / "Dockerfile").write_text(
                f"FROM {images.tag(name)}\nUSER 0\nRUN rm -r /{SITE}/appliance /{SITE}/{name}\n"
                f"COPY appliance /{SITE}/appliance\nCOPY {name} /{SITE}/{name}\nUSER 1999:1999\n"
            )
            engine.docker("build", "--quiet", "--tag", made.tag(name), str(code))
        return made

    def tag(self, name: str) -> str:
        return f"{images.REPOSITORY}/{name}:{self.version}"

    def install(self, site: ContainerSite) -> None:
        """Have its files and images in the place of ours."""
        for name in _FILES:
            site.edit(name, text=(self.code / name).read_text())
        shutil.copy(self.code / "docker-compose.yml", site.root / "etc/fedcloud")
        for name in ("etc/caso/caso.conf.d", "etc/apel/sender.d"):
            shutil.rmtree(site.root / name)
        site.set(FEDCLOUD_VERSION=self.version)

    def run(self, site: ContainerSite, job: str) -> str:
        """Run a job by the command of the release; return what was printed."""
        done = subprocess.run(
            [sys.executable, "-c", _APPLIANCE, "run", job],
            env={**os.environ, "FEDCLOUD_ROOT": str(site.root), "PYTHONPATH": str(self.code)},
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr


def upgrade(site: ContainerSite) -> None:
    """Replace what an installer replaces; the edited configuration stays."""
    shutil.copy(TOP / "docker-compose.yml", site.root / "etc/fedcloud")
    shutil.copy(TOP / "etc/fedcloud/networks/host.yml", site.root / "etc/fedcloud/networks")
    for name in ("etc/caso/caso.conf.d", "etc/apel/sender.d"):
        (site.root / name).mkdir(exist_ok=True)
    site.set(FEDCLOUD_VERSION=images.version())


@pytest.fixture(scope="module", params=releases())
def earlier(
    request: pytest.FixtureRequest, engine: DockerDaemon, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EarlierRelease]:
    commit = releases()[request.param]
    with engine.alone():
        made = EarlierRelease.build(engine, tmp_path_factory.mktemp("release"), commit)
    yield made
    with engine.alone():
        engine.docker("rmi", "--force", made.tag("caso"), made.tag("ssm"))


@pytest.fixture
def site(
    engine: DockerDaemon, testbed: Testbed, earlier: EarlierRelease, tmp_path: Path
) -> Iterator[ContainerSite]:
    account = testbed.seed().accounts["accounting"]
    with host_site(engine, tmp_path / "root", port=PORT + 4) as made:
        made.set(FEDCLOUD_NETWORK="host", FEDCLOUD_CA_BUNDLE=testbed.ca_file)
        earlier.install(made)
        replace(
            made,
            "etc/caso/caso.conf",
            ("SITE-NAME", "TEST-SITE"),
            ("projects = PROJECT-NAMES", "projects ="),
            ("https://yourkeystone/v3", testbed.keystone_url),
            ("#username = accounting", f"username = {account.name}"),
            ("#user_domain_name = Default", "user_domain_name = Default"),
            ("#password =", f"password = {account.password}"),
        )
        configure_sender(made, testbed, "sender.cfg", "cloud")
        yield made


def test_an_upgrade_and_the_way_back_lose_and_double_nothing(
    site: ContainerSite, testbed: Testbed, earlier: EarlierRelease
) -> None:
    for kind in QUEUES:
        arrived(testbed, kind)  # what an earlier test has left
    texts: list[str] = []

    def count(until_of: str) -> None:
        """Compare all that has arrived with Nova's database at the end of a run."""
        texts.extend(arrived(testbed, "cloud"))
        until = extracted(until_of)
        every, _ = counters.accounted(counters.records(texts))
        month = f"{until:%Y-%m}"
        found = {key: value for key, value in every.items() if key[1] == month}
        assert found == servers(testbed, until), until_of
        assert len(texts) == len(set(texts)), "a message arrived twice"
        walls: dict[tuple[str, str], int] = {}
        for record in counters.records(texts):
            key = record["VMUUID"], record["StartTime"]
            assert int(record["WallDuration"]) >= walls.get(key, 0), record
            walls[key] = int(record["WallDuration"])

    said = earlier.run(site, "caso")
    earlier.run(site, "ssmsend")
    count(said)
    assert not (site.root / LEDGER).exists()
    earlier.run(site, "caso")  # these messages wait for our sender

    upgrade(site)
    said = start_by_cron(site, "caso")
    assert "read again what was delivered" in said
    assert "records of these kinds are not sent" in said
    start_by_cron(site, "ssmsend")
    count(said)
    lines = start_by_cron(site, "ssmsend")
    assert arrived(testbed, "cloud") == [], lines

    # The way back of docs/how-to/earlier-version.md, and forward again.
    site.set(FEDCLOUD_VERSION=earlier.version)
    said = earlier.run(site, "caso")
    earlier.run(site, "ssmsend")
    count(said)
    site.set(FEDCLOUD_VERSION=images.version())
    said = start_by_cron(site, "caso")
    start_by_cron(site, "ssmsend")
    count(said)
    assert arrived(testbed, "storage") == []
