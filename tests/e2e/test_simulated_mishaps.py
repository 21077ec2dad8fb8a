"""Days of mishaps in any order: what was delivered never shrinks, and in the end all is right.

Older copies of the state come back, administrators choose windows, fill gaps, deselect projects,
and lose the ledger. A sender keeps its journal, as SSM does.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import time_machine

from appliance.core import retry, usage_messages
from appliance.core.run import cli
from appliance.core.spool import Spool
from caso.cmds import control, extract
from ssm.sending.sent_journal import SentJournal, SentMessage
from tests.demo import counters
from tests.e2e.test_simulated_year import PROJECTS, Year
from tests.simulators import lives
from tests.simulators.lives import World
from tests.simulators.openstack import Cloud, serving

STEP = timedelta(hours=3)
STATE = ("var/lib/fedcloud/caso/ledger.sqlite", "var/lib/fedcloud/caso/memory.sqlite")
MISHAPS = (
    *["run"] * 6,
    *("skip", "window", "gaps --fill", "gaps --fill --unknown", "select", "lose ledger"),
    *("restore ledger", "restore memory", "restore lastrun", "restore ledger lastrun"),
    "restore ledger lastrun memory",
)


@dataclass(slots=True)
class Mishaps(Year):
    """A site to which something happens at each step."""

    chance: random.Random = field(default_factory=random.Random)
    happened: list[str] = field(default_factory=list)
    copies: list[dict[Path, bytes]] = field(default_factory=list)

    def live(self) -> None:
        """Let mishaps happen; at the end come three runs without any."""
        at = self.begin + timedelta(minutes=14)
        while at <= self.end:
            self.world.advance(at)
            # A first run, because an explicit period does not account what was before it.
            self._happen(self.chance.choice(MISHAPS) if self.happened else "run", at)
            if self.chance.random() < 0.4:
                self.take(at)
            if self.chance.random() < 0.2:
                self.copies.append({path: path.read_bytes() for path in self._state()})
            at += STEP
        self._select(PROJECTS)
        for _ in range(3):
            self.end += timedelta(minutes=20)
            self.world.advance(self.end)
            self._extract(self.end)
        self.take(self.end)

    def _happen(self, mishap: str, at: datetime) -> None:
        self.happened.append(f"{at:%d %H} {mishap}")
        match mishap.split():
            case ["run"]:
                self._extract(at)
            case ["window"]:
                start = self.begin + self.chance.random() * (at - self.begin)
                end = start + self.chance.random() * (at - start) * 1.3
                period = ["--extract-from", start.isoformat(), "--extract-to", end.isoformat()]
                self._extract(at, *period[: self.chance.choice((2, 4))])
            case ["gaps", *flags]:
                self._at(at, partial(cli.main, control.PROGRAM), ["gaps", *self._flags(), *flags])
            case ["select"]:
                self._select(self.chance.sample(PROJECTS, self.chance.randint(1, len(PROJECTS))))
                self._extract(at)
            case ["lose", _]:
                self._lose_ledger()
                self._extract(at)
            case ["restore", *names] if self.copies:
                for path, content in self.chance.choice(self.copies).items():
                    if path.name.partition(".")[0] in names:
                        path.write_bytes(content)
                self._extract(at)

    def _extract(self, at: datetime, *flags: str) -> None:
        since = () if flags else ("--since", f"{self.begin:%Y-%m-%d}")
        self._at(at, extract.main, [*self._flags(), *flags, *since])

    def _select(self, projects: Sequence[str]) -> None:
        text = self.configuration.read_text()
        account = text[text.index("[keystone_auth]") :]
        self.configuration.write_text(
            "[DEFAULT]\nmessengers = ssm\nsite_name = S\ncaso_tag =\n"
            f"projects = {','.join(projects)}\n{account}"
        )

    def _state(self) -> Iterator[Path]:
        yield from filter(Path.exists, (self.root / place for place in STATE))
        yield from (self.root / "var/spool/caso").glob("lastrun*")

    def differences(self) -> dict[tuple[str, lives.Month], float]:
        """Return the VM-months that are wrong, of servers that lived since the beginning.

        `caso gaps --fill --unknown` adds those that ended before.
        """
        living = {life.id for life in self.world.all if life.died > self.begin}
        return {key: hours for key, hours in self.wrong().items() if key[0] in living}

    def take(self, at: datetime) -> None:
        """Take all messages, as `ssmsend` does."""
        if not self.spool.exists():
            return
        spool, path = Spool(self.spool), self.root / "var/lib/fedcloud/ssm/sent.sqlite"
        settings = SimpleNamespace(
            kept=SimpleNamespace(journal=SimpleNamespace(path=path, months=24)),
            link=SimpleNamespace(ams=None, destination="/queue/x"),
            path=self.spool,
        )
        with time_machine.travel(at, tick=True):
            journal = SentJournal(cast("Any", settings))
            for name in list(spool.names()):
                text = spool.peek(name)
                digest, words = hashlib.sha256(text).hexdigest(), ("localhost:1", "", at)
                read = usage_messages.read(text)
                journal.write([SentMessage(name, name, digest, len(text), *words, read)])
                self.repository.load(counters.records([text.decode()]))
                (self.spool / name).unlink()
            journal.finish()


def lived(root: Path, seed: int, days: int) -> Mishaps:
    begin = datetime(2026, 10, 30, tzinfo=UTC)
    end = begin + timedelta(days=days)
    with serving(Cloud(PROJECTS, servers=0, deleted=0)) as cloud:
        some = lives.lives(14, PROJECTS, begin, end, seed=seed)
        chance = random.Random(seed)
        site = Mishaps(root, cloud, World(cloud, some), begin, end, chance=chance)
        site.live()
    return site


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "_sleep", lambda _seconds: None)  # time is not that of the test


@pytest.mark.parametrize("seed", [1, 2])
def test_days_of_mishaps(seed: int, tmp_path: Path) -> None:
    site = lived(tmp_path, seed, days=4)
    assert site.repository.taken_back == [], site.happened
    assert site.differences() == {}, site.happened


@pytest.mark.parametrize("seed", [1, 2])
def test_mishaps_while_servers_vanish(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nova keeps no server for long after its end: hours that nobody saw are lost to everybody."""
    monkeypatch.setattr(lives, "ARCHIVED", timedelta(hours=2))
    site = lived(tmp_path, seed, days=4)
    assert site.repository.taken_back == [], site.happened


@pytest.mark.matrix
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("seed", range(10, 16))
def test_weeks_of_mishaps(seed: int, tmp_path: Path) -> None:
    site = lived(tmp_path, seed, days=14)
    assert site.repository.taken_back == [], site.happened
    assert site.differences() == {}, site.happened
