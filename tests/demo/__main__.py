"""The demo: a real cloud, the flows on it, sabotage, and every number counted twice."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from appliance.core.run.errors import ApplianceError
from deploy import images as built
from deploy.dockerd import DaemonError, DockerDaemon
from tests.demo import accounting, images, information, registry, report
from tests.demo.accounting_site import AccountingSite
from tests.demo.container_site import ContainerSite
from tests.demo.introduction import FLOWS
from tests.demo.site import PROGRAMS, Site
from tests.testbed import SERVICES, Seed, Testbed
from tests.testbed.seeding.identity import People

TOP = Path(__file__).parents[2]
PORT_BASE = 27000
_BDII_PORT = 170


class Story:
    """Tells what happens, and how long it took."""

    def __init__(self, already: float) -> None:
        self._begin = time.monotonic() - already
        self.seconds: dict[str, float] = {"set-up": already}

    def say(self, words: str) -> None:
        """Print a line with the time since the start."""
        print(f"[{time.monotonic() - self._begin:4.0f} s] {words}", flush=True)

    @contextmanager
    def chapter(self, name: str) -> Iterator[None]:
        """Tell of a part's begin, and keep its duration."""
        self.say(name)
        begin = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - begin, 1)

    def finish(self) -> dict[str, float]:
        """Return the duration of all parts and of the whole."""
        return self.seconds | {"total": round(time.monotonic() - self._begin, 1)}


@dataclass(frozen=True, slots=True)
class Sites:
    """The kind of a site: programs as they are installed here, or in containers."""

    begin: Callable[[Path], Site]

    @classmethod
    @contextmanager
    def chosen(cls, testbed: Testbed, *, in_containers: bool) -> Iterator[Sites]:
        """Have an engine with the images run for the block, if it is asked for."""
        if not in_containers:
            yield cls(Site.fresh)
            return
        engine = DockerDaemon(TOP / ".cache/docker")
        with engine.used(), engine.alone():
            built.ensure(engine, TOP / ".cache/deploy")
            yield cls(lambda root: ContainerSite.lay_out(root, engine=engine, testbed=testbed))


def tell(
    testbed: Testbed, flows: Collection[str], state: Path, story: Story, sites: Sites
) -> Iterator[report.Row]:
    """Play some flows, images first since they need least of a cloud, and yield their rows."""
    if "images" in flows:
        with story.chapter("Starting Keystone and Glance"):
            testbed.up(("keystone", "glance"))
            people = testbed.people()
        yield from tell_of_images(testbed, people, state, story, sites)
    if set(flows) == {"images"}:
        return
    with story.chapter("Starting the cloud with all its services, and a broker"):
        testbed.up(SERVICES)
        seed = testbed.seed()
        testbed.reset()
    if "information" in flows:
        yield from tell_of_information(
            testbed, seed, sites.begin(state / "site-information"), story
        )
    if "accounting" in flows:
        yield from tell_of_accounting(testbed, seed, state, story, sites)


def tell_of_images(
    testbed: Testbed, people: People, state: Path, story: Story, sites: Sites
) -> list[report.Row]:
    """Play the acts of the image flow."""
    stage = images.Stage(testbed, people, sites.begin(state / "site-images"), story.say)
    rows = []
    with stage.open():
        for title, act in (
            ("Images: from a signed list to Glance", stage.undisturbed),
            ("Sabotage: one byte of the image list is altered", stage.list_altered),
            ("Sabotage: cloudkeeper-os is killed in mid-upload", stage.backend_killed),
        ):
            with story.chapter(title):
                rows += act()
        with registry.Acts.open(stage) as acts:
            for title, act in (
                ("Images: a registry beside the signed list", acts.beside_the_list),
                ("Images: the registry replaces one", acts.replaced),
            ):
                with story.chapter(title):
                    rows += act()
    return rows


def tell_of_information(testbed: Testbed, seed: Seed, site: Site, story: Story) -> list[report.Row]:
    """Play the acts of the information flow."""
    stage = information.Stage(testbed, seed, site, PORT_BASE + _BDII_PORT, story.say)
    with story.chapter("Information: from the cloud to ldapsearch at site level"), stage.open():
        rows = stage.undisturbed()
        story.say("The same cloud as JSON, for EGI")
        rows += stage.as_json()
        story.say("Sabotage: the provider fails")
        return rows + stage.provider_fails()


def tell_of_accounting(
    testbed: Testbed, seed: Seed, state: Path, story: Story, sites: Sites
) -> list[report.Row]:
    """Play the acts of the accounting flow."""
    testbed.bulk(400, project="vo-fedcloud", days=70)
    moment = datetime.now(UTC).replace(microsecond=0)
    stage = accounting.Stage(testbed, seed, moment, story.say)
    rows = []

    def begin(root: Path, *, kinds: bool = False) -> AccountingSite:
        return AccountingSite.create(sites.begin(root), testbed, seed, kinds=kinds)

    with story.chapter("Accounting: volumes, addresses and GPUs, and a month sent again"):
        rows += stage.kinds(partial(begin, state / "site-kinds", kinds=True))
    for title, name, act in (
        ("Accounting: from Nova's servers to the repository", "site-accounting", stage.undisturbed),
        ("Sabotage: caso-extract is killed at work", "site-extract-killed", stage.extract_killed),
        ("Sabotage: the broker is killed in mid-send", "site-broker-killed", stage.broker_killed),
    ):
        with story.chapter(title):
            rows += act(partial(begin, state / name))
    return rows


def paste(testbed: Testbed, flows: Collection[str], state: Path) -> str:
    """Return commands for somebody who wants to look around."""
    python = (
        f"{sys.executable} -m tests.testbed --state {testbed.state} --port-base {testbed.port_base}"
    )
    commands = []
    if "accounting" in flows:
        site = Site(state / "site-accounting")
        commands = [
            site.command("caso-projects"),
            site.command("caso-extract", "--dry-run"),
            site.command("ssmsend", "--check-config"),
            [str(PROGRAMS / "appliance"), "status", "--root", str(site.root)],
        ]
    return "\n".join(
        [
            "Left running. Try:",
            *(f"  {' '.join(command)}" for command in commands),
            f"  {python} status",
            f"  {python} down",
            "and scripts/demo --clean to remove everything.",
        ]
    )


def play(testbed: Testbed, arguments: argparse.Namespace) -> int:
    """Play the demo and print its table; return 0 when all is equal, 1 when a number differs."""
    story = Story(arguments.setup_seconds)
    flows = arguments.flows or FLOWS
    rows: list[report.Row] = []
    try:
        with Sites.chosen(testbed, in_containers=arguments.containers) as sites:
            rows.extend(tell(testbed, flows, arguments.state, story, sites))
    except BaseException:
        if rows:  # a later flow does not cost the figures of those that went well
            print(f"\n{report.table(rows)}\n")
        story.say(f"Not finished; {testbed.state} keeps the cloud; a second run goes on from there")
        raise
    finally:
        if not arguments.keep:
            testbed.down()
    report.write(TOP / "report.json", rows, story.finish())
    print(f"\n{report.table(rows)}\n")
    story.say("report.json written")
    if arguments.keep:
        print(paste(testbed, flows, arguments.state))
    return 0 if all(row.is_equal for row in rows) else 1


def main() -> int:
    """Run the demo; a known failure ends it with one line and status 3."""
    parser = argparse.ArgumentParser(prog="demo")
    parser.add_argument("flows", nargs="*")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--containers", action="store_true")
    parser.add_argument("--state", type=Path, default=TOP / ".cache/demo")
    parser.add_argument("--setup-seconds", type=float, default=0.0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    testbed = Testbed(arguments.state / "testbed", PORT_BASE)
    try:
        return play(testbed, arguments)
    except (ApplianceError, DaemonError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 3


if __name__ == "__main__":
    sys.exit(main())
