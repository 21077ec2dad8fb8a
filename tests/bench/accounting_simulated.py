"""Figures of `caso-extract` beside cASO 5.2.2 on a simulated cloud.

The cloud runs in a process of its own. Both programs get the same servers; 30 % are deleted, and
5 % changed a minute before. Names are remembered in ours, so a warm run follows a first one.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path

from tests.bench.usage import Usage, run
from tests.demo import counters
from tests.simulators import openstack

_PROGRAMS = Path(sys.prefix) / "bin"
_PEER = Path(sys.prefix).parent / "peer/bin"
OURS, THEIRS = "ours", "cASO 5.2.2"
_NAMES = ("/v3/users/", "/image/")


@dataclass(frozen=True, slots=True)
class Shape:
    """A cloud: servers and projects in all, and the latency of each request."""

    servers: int
    projects: int
    latency: timedelta = timedelta(0)
    extractors: str = "nova"
    is_administrator: bool = False
    """Whether the account may list the usage of all projects."""

    def __str__(self) -> str:
        pause = f", {self.latency.total_seconds() * 1000:.0f} ms" if self.latency else ""
        role = ", administrator" if self.is_administrator else ""
        return f"{self.servers} servers, {self.projects} projects{pause}, {self.extractors}{role}"

    def cloud(self) -> openstack.Cloud:
        """Return the cloud."""
        each = self.servers // self.projects
        names = tuple(f"p{number}" for number in range(self.projects))
        return openstack.Cloud(
            projects=names,
            servers=each,
            deleted=each * 3 // 10,
            changed=each // 20,
            users=200,
            images=100,
            flavors=50,
            latency=self.latency,
            is_administrator=self.is_administrator,
        )


class Service:
    """The cloud in its process."""

    def __init__(self, pipe: Connection, url: str) -> None:
        self._pipe = pipe
        self.url = url

    def counted(self) -> Counter[str]:
        """Return the requests since the last call."""
        self._pipe.send("count")
        found: Counter[str] = self._pipe.recv()
        return found


def _serve(shape: Shape, pipe: Connection) -> None:
    with openstack.serving(shape.cloud()) as cloud:
        pipe.send(cloud.url)
        while pipe.recv() == "count":
            pipe.send(cloud.requests.copy())
            cloud.requests.clear()


@contextlib.contextmanager
def serving(shape: Shape) -> Iterator[Service]:
    """Serve a cloud in another process."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.Process(target=_serve, args=(shape, there), daemon=True)
    process.start()
    try:
        yield Service(here, here.recv())
    finally:
        here.send("end")
        process.join(10)
        process.kill()


class Site:
    """Configuration, state and spool of one program."""

    def __init__(self, who: str, service: Service, shape: Shape) -> None:
        self.who = who
        self.shape = shape
        self.root = Path(tempfile.mkdtemp(prefix="bench-accounting-"))
        self.state, self.spool = self.root / "state", self.root / "spool"
        self.state.mkdir()
        self.spool.mkdir()
        configuration = self.root / "caso.conf"
        configuration.touch(mode=0o600)
        projects = ",".join(shape.cloud().projects)
        configuration.write_text(
            f"[DEFAULT]\nmessengers = ssm\nsite_name = S\nextractor = {shape.extractors}\n"
            f"projects = {projects}\nspooldir = {self.state}\n"
            f"[keystone_auth]\nauth_type = v3password\nauth_url = {service.url}/v3\n"
            "username = u\nuser_domain_name = Default\npassword = p-a-s-s\n"
            f"[ssm]\noutput_path = {self.spool}/openstack\n"
            # A program ignores the options of the other.
            + "".join(
                f"output_path_{kind} = {self.spool}/openstack-{kind}\n"
                for kind in ("storage", "ip")
                if who == OURS and shape.extractors != "nova"
            )
        )
        program = _PROGRAMS if who == OURS else _PEER
        self.argv = [str(program / "caso-extract"), "--config-file", str(configuration)]
        if who == OURS:
            self.argv += ["--root", str(self.root)]

    def an_hour_ago(self) -> None:
        """Set the checkpoints back."""
        moment = datetime.now(UTC) - timedelta(hours=1)
        for project in self.shape.cloud().projects:
            (self.state / f"lastrun.{project}").write_text(str(moment))

    def records(self) -> list[dict[str, str]]:
        """Return the cloud records in the spool, and remove them."""
        places = sorted((self.spool / "openstack").glob("????????/" + "?" * 14))
        found = list(counters.records(path.read_text() for path in places))
        for path in places:
            path.unlink()
        return found


def measure(shape: Shape, *, peer: bool, row: object) -> None:
    """Measure first runs and warm hourly ones, the programs in turn.

    So what else the host does slows both of them down. The last run is ours again.
    """
    with contextlib.ExitStack() as stack:
        sites = []
        for who in (OURS, THEIRS) if peer else (OURS,):
            service = stack.enter_context(serving(shape))
            sites.append((Site(who, service, shape), service))
            stack.callback(shutil.rmtree, sites[-1][0].root)
        for site, service in sites:
            _measure(site, service, "first run", row)
        for site, service in [*sites, sites[0]]:
            site.an_hour_ago()
            _measure(site, service, "hourly run, warm", row)


def _measure(site: Site, service: Service, kind: str, row: object) -> None:
    service.counted()
    used = run(site.argv)
    _report(f"{site.shape}: {kind}: {site.who}", used, service.counted(), site.records(), row)


def _report(
    case: str, used: Usage, requests: Counter[str], records: list[dict[str, str]], row: object
) -> None:
    assert callable(row)
    names = sum(
        count for path, count in requests.items() if any(word in f"{path}/" for word in _NAMES)
    )
    row(f"{case}: servers reported", len({one["VMUUID"] for one in records}), "")
    row(f"{case}: wall", used.wall, "s")
    row(f"{case}: CPU", used.cpu, "s")
    row(f"{case}: CPU per record", 1000 * used.cpu / max(1, len(records)), "ms")
    row(f"{case}: memory", used.memory, "MiB")
    row(f"{case}: requests", requests.total(), "")
    row(f"{case}: requests for names", names, "")
