"""The accounting flow in three acts. Each yields rows: what was done, what arrived, what somebody else counted."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from tests.demo import counters
from tests.demo.counters import Month
from tests.demo.report import Row
from tests.demo.site import COPIES, Site
from tests.testbed import Seed, Testbed


@dataclass(frozen=True, slots=True)
class Delivery:
    """What happened to one spool of messages."""

    spooled: list[str]
    received: list[str]
    verified: list[str]
    """Texts of the broker's copies whose signatures the openssl program found good."""


@dataclass(slots=True)
class Stage:
    """Cloud and broker, the moment up to which usage is accounted, and somebody to tell about it."""

    testbed: Testbed
    seed: Seed
    moment: datetime
    say: Callable[[str], None]

    def undisturbed(self, site: Site) -> list[Row]:
        """Extract, send, receive; hours against Nova's database, messages against openssl."""
        site.run("caso-extract", *site.extract_arguments(self.moment))
        spooled = site.spooled()
        self.say(f"  {len(spooled)} messages in the spool")
        site.run("ssmsend")
        delivery = self._receive(site, spooled)
        return [*self._hours("hours", delivery), _messages("messages", delivery)]

    def extract_killed(self, site: Site) -> list[Row]:
        """Kill `caso-extract` while it moves messages into the spool, run it again, and go on as if nothing had been."""
        process = site.start("caso-extract", *site.extract_arguments(self.moment))
        while process.poll() is None and not site.spooled():
            time.sleep(0.002)
        process.kill()
        process.wait()
        before = len(site.spooled())
        site.run("caso-extract", *site.extract_arguments(self.moment))
        spooled = site.spooled()
        self.say(f"  killed with {before} of {len(spooled)} messages in the spool, then run again")
        site.run("ssmsend")
        delivery = self._receive(site, spooled)
        return [*self._hours("hours, extract killed", delivery), _messages("messages, extract killed", delivery)]

    def broker_killed(self, site: Site) -> list[Row]:
        """Kill the broker while `ssmsend` sends, start it again two seconds later."""
        site.run("caso-extract", *site.extract_arguments(self.moment))
        spooled = site.spooled()
        process = site.start("ssmsend")
        while process.poll() is None and len(site.spooled()) == len(spooled):
            time.sleep(0.001)
        self.testbed.broker.kill()
        left = len(site.spooled())
        time.sleep(2)
        self.testbed.broker.start()
        process.wait(timeout=120)
        site.run("ssmsend")
        self.say(f"  broker killed with {left} of {len(spooled)} messages unsent, started again")
        delivery = self._receive(site, spooled)
        return [*self._hours("hours, broker killed", delivery), _messages("messages, broker killed", delivery)]

    def _receive(self, site: Site, spooled: list[str]) -> Delivery:
        site.run("ssmreceive", "--idle-exit", "2")
        copies = list(counters.copies_of_messages(self.testbed.broker.plain_port, COPIES))
        texts = [counters.text_verified_by_openssl(copy, self.testbed.ca_directory) for copy in copies]
        # A copy that was sent again after the broker's death is the same message: the repository keeps one.
        verified = list(dict.fromkeys(text.rstrip("\n") for text in texts if text is not None))
        return Delivery(spooled, site.received(), verified)

    def _hours(self, flow: str, delivery: Delivery) -> list[Row]:
        counted = counters.nova_usage(self.testbed.nova_database, self.moment)
        done, _ = counters.accounted(counters.records(delivery.spooled))
        delivered, repeated = counters.accounted(counters.records(delivery.received))
        rows = [
            Row(
                flow=f"{flow}: {project.vo}",
                done=_by_month(done, project.id),
                delivered=_by_month(delivered, project.id),
                counted=_by_month(counted, project.id),
                counted_by="Nova's database, in SQL",
            )
            for project in sorted(self.seed.projects.values(), key=lambda project: project.name)
            if project.vo
        ]
        return [*rows, Row(f"{flow}: records twice", "0", str(repeated), "0", "APEL's rule, on what arrived")]


def _messages(flow: str, delivery: Delivery) -> Row:
    return Row(
        flow=flow,
        done=str(len(delivery.spooled)),
        delivered=str(len(delivery.received)),
        counted=str(len(delivery.verified)),
        counted_by="openssl, on copies from the broker",
    )


def _by_month(usage: Mapping[tuple[str, Month], counters.Usage], project: str) -> str:
    months = sorted((month, item) for (owner, month), item in usage.items() if owner == project)
    return ", ".join(f"{month} {item.servers} VM {item.seconds} s" for month, item in months)
