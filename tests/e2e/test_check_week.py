"""A week of a healthy site: `appliance check` and `appliance status` never report anything.

Time is that of the whole process, of the services and of the files. Jobs run by their schedule, a
month ends, servers come and go, the spool fills and drains, revocation lists are renewed, images
change. Each hour the site is looked at in all ways.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import time_machine

from appliance.admin.command import main
from appliance.admin.runtime import native
from appliance.core.run.errors import ExitStatus
from appliance.core.run.record import RunRecord
from caso.cmds import extract
from ssm.cmds import send
from tests.simulators import lives, openstack
from tests.simulators.ams_service import AMS
from tests.simulators.gocdb import Gocdb, Service
from tests.simulators.information_service import InformationService
from tests.simulators.openstack import Cloud
from tests.simulators.probed_cloud import REF, ProbedCloud, image, mapping, network
from tests.testbed import Authority
from tests.testbed.pki import HOST_DN
from tests.unit import checked_site
from tests.unit.checked_site import CASO, SENDER, VOS, Site
from tests.unit.test_publishing import document

pytestmark = [pytest.mark.root, pytest.mark.matrix, pytest.mark.timeout(3000)]

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
TOPIC, SENDERS = "eu-egi-cloud-accounting", "eu.egi.cloud.accounting"
TOKEN = "t0ken-49"
GRID = "etc/grid-security"
OPS = ("^urn:mace:egi.eu:group:ops:role=member#aai.egi.eu$", {"group": {"id": "g"}})
OTHER_RUNS = {
    "cloudkeeper": ("cloudkeeper", 4),
    "cloudkeeper-os": ("cloudkeeper-os", 4),
    "job-fetch-crl": ("jobs", 6),
}
"""Records of programs that this week only needs to have run: their directory, and every how many
hours."""
CYCLES = {"bdii-resource": "cloudbdii", "bdii-site": "sitebdii"}
"""Records of services, which write one every two minutes."""


def week() -> tuple[datetime, datetime]:
    """Return four days before and three days after the last month that ended so long ago."""
    now = datetime.now(UTC)
    first = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    if now - first < 4 * DAY:
        first = (first - DAY).replace(day=1)
    return first - 4 * DAY, first + 3 * DAY


def published(url: str, tag: str) -> str:
    """Return what EGI's information service has fetched from the site."""
    read = json.loads(document(url=url))
    for one in read["CloudComputingImage"]:
        one["MarketplaceURL"] = f"registry.egi.eu/{REF}-sha256:1"
        one["OtherInfo"] = {"eu.egi.cloud.image_ref": REF, "eu.egi.cloud.tag": tag}
    return json.dumps(read)


@dataclass
class Week:
    """A site, its services, and what was reported at which time."""

    site: Site
    cloud: Cloud
    probed: ProbedCloud
    ams: AMS
    egi: InformationService
    authority: Authority
    wrong: list[str]
    waited: int = 0
    """The most messages that waited when the site was looked at."""

    @property
    def root(self) -> Path:
        return self.site.root

    @property
    def spool(self) -> Path:
        return self.root / "var/spool/apel/outgoing/openstack"

    @property
    def waiting(self) -> list[Path]:
        return list(self.spool.glob("????????/" + "?" * 14))

    def hour(self, at: datetime) -> None:
        """Let pass what is scheduled in an hour, then look at everything."""
        with time_machine.travel(at, tick=True):
            if at.hour == 3:
                self.renew()
            self._job("caso", extract.main, "caso-extract", self.root / CASO, "--config-file")
            if at.hour % 6 == 0:
                self._job("ssmsend", send.main, "ssmsend", self.root / SENDER, "-c")
                assert not self.waiting
            for program, (directory, period) in OTHER_RUNS.items():
                if at.hour % period == 0:
                    RunRecord(program).write(self.root / "var/lib/fedcloud/runs" / directory)
        with time_machine.travel(at + timedelta(minutes=25), tick=True):
            for program, directory in CYCLES.items():
                RunRecord(program).write(self.root / "var/lib/fedcloud/runs" / directory)
            self.waited = max(self.waited, len(self.waiting))
            self.look(at, "check", "--offline")
            self.look(at, "check", "--as-egi", "--nagios", "caso", "ssmsend")
            self.look(at, "status")

    def renew(self) -> None:
        """Fetch revocation lists, and let EGI publish another version of an image."""
        place = self.root / GRID / "certificates"
        self.authority.publish(place, crl_days=90)
        stamp(place)
        tag = f"{datetime.now(UTC):%Y.%m.%d}"
        self.egi.documents["x.json"] = published(f"{self.cloud.url}/v3", tag)
        self.probed.images[:] = [image(f"i{tag}")]

    def _job(
        self, job: str, program: Callable[[Sequence[str]], int], name: str, file: Path, flag: str
    ) -> None:
        """Run a program as its job does, and write the job's record."""
        record = RunRecord(f"job-{job}")
        with silenced() as said:
            status = program(["--root", str(self.root), flag, str(file)])
        if status:
            self.wrong.append(f"{datetime.now(UTC)} {name}: {status}: {said.getvalue()}")
        record.write(self.root / "var/lib/fedcloud/runs/jobs", ExitStatus(status))

    def look(self, at: datetime, *words: str) -> None:
        with silenced() as said:
            status = main([*words, "--root", str(self.root)])
        if status:
            self.wrong.append(f"{at} {' '.join(words)}: {status}: {said.getvalue()}")


@contextlib.contextmanager
def silenced() -> Iterator[io.StringIO]:
    words = io.StringIO()
    with contextlib.redirect_stdout(words), contextlib.redirect_stderr(words):
        yield words
    assert "Traceback" not in words.getvalue()


def stamp(directory: Path) -> None:
    """Give files the simulated time, as they would have it."""
    now = datetime.now(UTC).timestamp()
    for path in directory.rglob("*"):
        os.utime(path, (now, now), follow_symlinks=False)


@pytest.fixture
def healthy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Week]:
    begin, _ = week()
    with contextlib.ExitStack() as stack:
        with time_machine.travel(begin - DAY, tick=True):
            (tmp_path / "pki").mkdir()
            shipped = checked_site.ship(tmp_path / "shipped", pki=tmp_path / "pki")
            authority = Authority.open(tmp_path / "pki/ca")
            services = authority.issue("services.example.net", hosts=["127.0.0.1"], key="ec")
        site = stack.enter_context(checked_site.healthy(shipped, monkeypatch))
        systemctl = tmp_path / "systemctl"
        systemctl.write_text("#!/bin/sh\necho LoadState=not-found\n")
        systemctl.chmod(0o755)
        monkeypatch.setattr(
            native, "_SYSTEMCTL", str(systemctl)
        )  # what it prints without our units
        probed = ProbedCloud(
            networks=[network("n", owner="ops")], mappings=[mapping(OPS)], groups={"g": ["ops"]}
        )
        cloud = Cloud(projects=("ops",), servers=0, deleted=0, fault=probed.answer)
        stack.enter_context(openstack.serving(cloud))
        ams = stack.enter_context(AMS(services, authority.certificate))
        ams.create(TOPIC)
        ams.tokens.add(TOKEN)
        goc = [
            Service("1G0", "SITE", f"{cloud.url}/v3"),
            Service("2G0", "SITE", "", kind=SENDERS, dn=f"{HOST_DN}/CN=host.example.net"),
        ]
        gocdb = stack.enter_context(Gocdb(goc).serve(services))
        egi = stack.enter_context(InformationService({}).serve(services))
        made = Week(site, cloud, probed, ams, egi, authority, [])
        configure(made, gocdb)
        yield made


def configure(made: Week, gocdb: Gocdb) -> None:
    """Write the services into the files of the site."""
    site, url = made.site, made.cloud.url
    site.edit(
        CASO,
        ("https://keystone.example.net:5000/v3", f"{url}/v3"),
        ("projects = project", "projects = ops"),
        ("[DEFAULT]\n", "[DEFAULT]\nextractor = nova\nvo_property = name\n"),
    )
    (site.root / VOS).write_text('{"ops": {"projects": ["ops"]}}\n')
    path = site.root / SENDER
    text = path.read_text().replace("host: msg.argo.grnet.gr", f"host: 127.0.0.1:{made.ams.port}")
    path.write_text(text.replace("[messaging]\n", f"[messaging]\ntoken: {TOKEN}\n", 1))
    path.chmod(0o640)
    site.edit(
        "etc/fedcloud/appliance.yaml",
        ("https://goc.egi.eu/gocdbpi/public/", gocdb.url),
        ("https://is.cloud.egi.eu", made.egi.url),
    )
    shutil.copy(made.authority.certificate, site.root / "etc/authority.pem")
    site.edit(
        "etc/fedcloud/appliance.env",
        ("FEDCLOUD_CA_BUNDLE=", f"FEDCLOUD_CA_BUNDLE={site.root}/etc/authority.pem\n#"),
    )


def test_a_healthy_week_has_no_false_alarm(healthy: Week) -> None:
    begin, end = week()
    world = lives.World(healthy.cloud, lives.lives(60, ["ops"], begin - 5 * DAY, end, seed=13))
    with time_machine.travel(begin, tick=True):
        healthy.renew()
        stamp(healthy.root / GRID)
    at = begin + timedelta(minutes=14)
    while at < end:
        world.advance(at)
        healthy.hour(at)
        at += HOUR
    assert not healthy.wrong, "\n".join(healthy.wrong[:10])
    assert healthy.waited  # the spool was not always empty
    assert len(healthy.ams.topics[TOPIC]) > 20


def test_a_fault_in_the_week_is_found(healthy: Week) -> None:
    """Otherwise the silence of the other test would mean nothing."""
    begin, _ = week()
    with time_machine.travel(begin, tick=True):
        healthy.renew()
        stamp(healthy.root / GRID)
    healthy.hour(begin + timedelta(minutes=14))
    assert not healthy.wrong, "\n".join(healthy.wrong)
    with time_machine.travel(begin + 3 * HOUR, tick=True):
        healthy.look(begin + 3 * HOUR, "check", "--offline")
    assert "C08.f" in "".join(healthy.wrong)
