"""The accounting flow in four acts; each yields rows: done, arrived, counted independently."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from tests.demo import accounting_kinds as further
from tests.demo import counters
from tests.demo.accounting_site import COPIES, KINDS, AccountingSite
from tests.demo.report import Row
from tests.demo.sabotage import kill_at_work, strike, until_struck
from tests.testbed import Seed, Testbed
from tests.testbed.patience import CEILING


@dataclass(frozen=True, slots=True)
class Delivery:
    """What happened to one spool of messages."""

    spooled: list[str]
    received: list[str]
    verified: list[str]
    """Texts of the broker's copies whose signatures the openssl program found good."""


@dataclass(slots=True)
class Stage:
    """Cloud and broker, the moment up to which usage is accounted, and a reporter."""

    testbed: Testbed
    seed: Seed
    moment: datetime
    say: Callable[[str], None]

    def undisturbed(self, begin: Callable[[], AccountingSite]) -> list[Row]:
        """Extract, send, receive; hours against Nova's database, messages against openssl."""
        site = begin()
        site.site.run("caso-extract", "--extract-to", self.moment.isoformat())
        spooled = site.spooled()
        self.say(f"  {len(spooled)} messages in the spool")
        site.site.run("ssmsend")
        delivery = self._receive(site, spooled)
        return self._rows("accounting, undisturbed", delivery)

    def kinds(self, begin: Callable[[], AccountingSite]) -> list[Row]:
        """Send each kind of record to a destination of its own, then correct a month."""
        site = begin()
        site.site.run("caso-extract", "--extract-to", self.moment.isoformat())
        done = {kind: site.spooled_of(kind) for kind in KINDS}
        spooled = site.spooled()
        site.site.run("ssmsend")
        arrived = {kind: self._texts(queue) for kind, queue in KINDS.items()}
        rows = further.rows(self.testbed, self.seed, done, arrived)
        self.say("  a server of last month ended an hour earlier: its month is sent again")
        month = further.shorten(self.testbed, self.moment)
        site.site.run("caso", "republish", "--month", month)
        flags = ("--allow-decrease", "--reason", "demo")
        site.site.run("caso", "republish", "--month", month, *flags)
        spooled += site.spooled()
        site.site.run("ssmsend")
        delivery = self._receive(site, spooled)
        act = "accounting, a month sent again"
        wanted = f" in {month}"
        return [*rows, *(row for row in self._rows(act, delivery) if row.flow.endswith(wanted))]

    def _texts(self, queue: str) -> list[str]:
        """Take all messages of a destination; return the texts that openssl finds good."""
        copies = counters.copies_of_messages(self.testbed.broker.plain_port, queue)
        ca_directory = self.testbed.ca_directory
        texts = [counters.text_verified_by_openssl(copy, ca_directory) for copy in copies]
        # What was sent again after the broker's death is the same message: the repository keeps
        # one.
        return list(dict.fromkeys(text.rstrip("\n") for text in texts if text is not None))

    def extract_killed(self, begin: Callable[[], AccountingSite]) -> list[Row]:
        """Kill `caso-extract` while it moves messages into the spool, then run it again."""
        return until_struck(lambda: self._extract_killed(begin()), self.say)

    def broker_killed(self, begin: Callable[[], AccountingSite]) -> list[Row]:
        """Kill the broker while `ssmsend` sends, start it again a second later."""
        return until_struck(lambda: self._broker_killed(begin()), self.say)

    def _extract_killed(self, site: AccountingSite) -> tuple[Row, list[Row]]:
        act = "caso-extract killed at work, run again"
        with site.site.running("caso-extract", "--extract-to", self.moment.isoformat()) as process:
            is_running = kill_at_work(
                process, has_begun=lambda: bool(site.waiting()), kill=process.kill
            )
            process.wait()
        before = len(site.waiting())
        site.site.run("caso-extract", "--extract-to", self.moment.isoformat())
        spooled = site.spooled()
        self.say(f"  killed with {before} of {len(spooled)} messages in the spool, then run again")
        site.site.run("ssmsend")
        delivery = self._receive(site, spooled)
        is_half_done = 0 < before < len(spooled)
        return _strike(act, is_running=is_running, is_half_done=is_half_done), self._rows(
            act, delivery
        )

    def _broker_killed(self, site: AccountingSite) -> tuple[Row, list[Row]]:
        act = "broker killed in mid-send, started again"
        broker = self.testbed.broker
        site.site.run("caso-extract", "--extract-to", self.moment.isoformat())
        spooled = site.spooled()
        with site.site.running("ssmsend") as process:
            is_running = kill_at_work(
                process, has_begun=lambda: len(site.waiting()) < len(spooled), kill=broker.kill
            )
            left = len(site.waiting())
            time.sleep(1)
            broker.start()
            process.wait(timeout=CEILING)
        site.site.run("ssmsend")
        self.say(f"  broker killed with {left} of {len(spooled)} messages unsent, started again")
        delivery = self._receive(site, spooled)
        is_half_done = 0 < left < len(spooled)
        return _strike(act, is_running=is_running, is_half_done=is_half_done), self._rows(
            act, delivery
        )

    def _receive(self, site: AccountingSite, spooled: list[str]) -> Delivery:
        site.site.run("ssmreceive", "--idle-exit", "1")
        return Delivery(spooled, site.received(), self._texts(COPIES))

    def _rows(self, act: str, delivery: Delivery) -> list[Row]:
        counted = counters.nova_usage(self.testbed.nova_database, self.moment)
        spooled, received = (
            list(counters.records(texts)) for texts in (delivery.spooled, delivery.received)
        )
        (done, _), (delivered, _) = counters.accounted(spooled), counters.accounted(received)
        names = {project.id: project.vo for project in self.seed.projects.values() if project.vo}
        periods = sorted(
            {key for key in (*counted, *done, *delivered) if key[0] in names},
            key=lambda key: (names[key[0]], key),
        )
        rows = [
            Row(
                act=act,
                flow=f"usage of {names[project]} in {month}",
                done=_words(done.get((project, month))),
                delivered=_words(delivered.get((project, month))),
                counted=_words(counted.get((project, month))),
                counted_by="Nova's database, in SQL",
            )
            for project, month in periods
        ]
        return [
            *rows,
            Row(
                act=act,
                # one too many stays unseen above, where the last one wins
                flow="records, one a VM and month",
                done=str(len(spooled)),
                delivered=str(len(received)),
                counted=str(
                    sum(counted[period].servers for period in periods if period in counted)
                ),
                counted_by="Nova's database, in SQL",
            ),
            Row(
                act=act,
                flow="signed messages",
                done=str(len(delivery.spooled)),
                delivered=str(len(delivery.received)),
                counted=str(len(delivery.verified)),
                counted_by="openssl, on the broker's copies",
            ),
        ]


def _strike(act: str, *, is_running: bool, is_half_done: bool) -> Row:
    return strike(
        act, is_running=is_running, is_half_done=is_half_done, counted_by="files in the spool"
    )


def _words(usage: counters.Usage | None) -> str:
    return f"{usage.servers} VM, {usage.seconds} s" if usage else "nothing"
