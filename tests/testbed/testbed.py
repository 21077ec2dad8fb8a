"""One instance of the test bed: a cloud and a broker, with all that they have in one directory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from appliance.core.run import lock
from appliance.core.run.errors import Unavailable, UsageError
from tests.testbed import catalog, secrets
from tests.testbed.api import Api, admin_auth
from tests.testbed.broker import Broker
from tests.testbed.history import History
from tests.testbed.layout import CLOUD_SERVICES, SERVICES, Layout
from tests.testbed.pki import Credential
from tests.testbed.processes import Records
from tests.testbed.progress import Progress
from tests.testbed.seed import Seed
from tests.testbed.seeding import identity
from tests.testbed.seeding.access import Access
from tests.testbed.seeding.identity import People
from tests.testbed.seeding.plant import plant
from tests.testbed.services import Services
from tests.testbed.snapshot import Snapshot
from tests.testbed.start import Start
from tests.testbed.trust import Trust

_PATIENCE = timedelta(minutes=30)


@dataclass(frozen=True)
class Testbed:
    """An instance in ``state``, with ports from ``port_base`` on; creating it starts nothing."""

    __test__ = False  # not a class of tests, for pytest

    state: Path
    port_base: int
    progress: Progress = field(default_factory=Progress, compare=False)

    @property
    def layout(self) -> Layout:
        """Where its things are."""
        return Layout(self.state.absolute(), self.port_base)

    @property
    def trust(self) -> Trust:
        """Its authorities."""
        return Trust(self.layout.pki)

    @property
    def services(self) -> Services:
        """Its cloud, service by service."""
        return Services(self.layout, self.trust)

    @property
    def broker(self) -> Broker:
        """Its message broker."""
        return Broker(self.layout, self.trust)

    @property
    def keystone_url(self) -> str:
        """Keystone's URL, with the version."""
        return self.layout.url("keystone")

    @property
    def ca_file(self) -> Path:
        """Certificate of the CA that signed all endpoints of the cloud."""
        return self.trust.cloud.certificate

    @property
    def ca_directory(self) -> Path:
        """Trust anchors of the grid: the broker and its clients."""
        return self.trust.ca_directory

    @property
    def nova_database(self) -> Path:
        """Nova's SQLite file with the servers, for counting without asking Nova."""
        return self.layout.database("nova")

    def access_log(self, service: str) -> Path:
        """Return the file that gets a line for each request that a service answered."""
        return self.layout.access_log(service)

    def host_credential(self, name: str) -> Credential:
        """Return the grid certificate of the host ``NAME.example.org``, made at the first call."""
        return self.trust.host(name)

    def admin(self) -> Api:
        """Return the administrator's door, for what a test has to arrange."""
        auth = admin_auth(self.keystone_url, secrets.password(self.layout.secrets, "admin"))
        return Api(auth, ca_file=self.ca_file)

    def running(self) -> list[str]:
        """Return the services whose processes live."""
        records = Records(self.layout.run)
        return [name for name in SERVICES if records.find(name)]

    def up(self, services: Sequence[str] = SERVICES) -> None:
        """Start what is not running, all at once, and return when everything answers.

        :raises UsageError: there is no such service
        :raises Unavailable: one does not come up
        """
        if unknown := set(services) - set(SERVICES):
            raise UsageError(
                ", ".join(sorted(unknown)), "no such service", f"there are {', '.join(SERVICES)}"
            )
        with self._changing():
            self.trust.publish()
            names = [name for name in SERVICES if name in services]
            Start(self.layout, self.services, self.broker, self.admin, self.progress).run(names)

    def people(self) -> People:
        """Return domains, projects and accounts, made if missing; needs only Keystone."""
        with self._changing():
            return identity.plant(Access(self.layout, self.ca_file, self.admin()))

    def seed(self) -> Seed:
        """Return what stands in the cloud; the first call plants it.

        :raises Unavailable: a service of the cloud is not up, or does not do its part
        """
        if not self.layout.seed.exists():
            if missing := [name for name in CLOUD_SERVICES if not self.services.runs(name)]:
                raise Unavailable(
                    "test bed", f"{', '.join(missing)} not up", "run: python -m tests.testbed up"
                )
            with self._changing():
                access = Access(self.layout, self.ca_file, self.admin())
                seed = plant(access, self.progress)
                Snapshot(self.layout).take()
                seed.write(self.layout.seed)
        return Seed.read(self.layout.seed)

    def bulk(
        self, count: int, *, project: str = "vo-fedcloud", days: int = 60, running: int = 10
    ) -> None:
        """Put ``count`` servers of ``days`` into Nova's database, ``running`` % of them alive."""
        seed = Seed.read(self.layout.seed)
        with self._changing(), self.progress.step(f"history: {count} servers of {project}"):
            History(self.layout).insert(
                count, seed=seed, project=project, days=days, running=running
            )

    def clear_bulk(self) -> int:
        """Remove what `bulk` put there; return how many servers that were."""
        with self._changing(), self.progress.step("history: cleared"):
            return History(self.layout).clear()

    def reset(self, *, restore: bool = False) -> None:
        """Drop the broker's queues and the history; ``restore`` undoes all since seeding.

        Restoring stops and starts the cloud; the rest happens while it runs.
        """
        self.clear_bulk()
        with self._changing(), self.progress.step("broker: forgot its queues"):
            self.broker.forget()
        if restore and Snapshot(self.layout).exists:
            running = [name for name in self.running() if name in CLOUD_SERVICES]
            with self._changing(), self.progress.step("cloud: restored"):
                Records(self.layout.run).stop(CLOUD_SERVICES)
                Snapshot(self.layout).restore()
            if running:
                self.up(running)

    def show_second_region(self, *, shown: bool) -> None:
        """Show or hide `RegionTwo`, whose endpoints nobody listens at."""
        catalog.show_second_region(self.admin(), shown=shown)

    def down(self) -> None:
        """Stop everything; the state stays and `up` goes on from it."""
        if self.running():
            with self._changing(), self.progress.step("down"):
                Records(self.layout.run).stop(SERVICES)

    def wipe(self) -> None:
        """Stop everything and remove the state.

        :raises UsageError: the directory is not one of a test bed
        """
        if self.state.exists():
            with self._changing(), self.progress.step("wipe"):
                Records(self.layout.run).stop(SERVICES)
                shutil.rmtree(self.state)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Claim the directory and exclude everybody else from changing it."""
        self._claim()
        with lock.hold(self.layout.lock, wait=_PATIENCE):
            yield

    def _claim(self) -> None:
        """Mark a new directory as ours; refuse one that belongs to others or to other ports."""
        state = self.layout.state
        wanted = {"state": str(state), "port_base": self.port_base}
        mark = state / "instance.json"
        if not mark.exists():
            if state.exists() and any(state.iterdir()):
                raise UsageError(
                    state, "is not empty and not of a test bed", "choose another --state"
                )
            state.mkdir(parents=True, exist_ok=True)
            mark.write_text(json.dumps(wanted) + "\n")
        found = json.loads(mark.read_text())
        if found != wanted:
            cause = (
                f"was made as {found['state']} with port base {found['port_base']}, "
                "which its databases contain"
            )
            raise UsageError(state, cause, "use them, or remove the directory")
