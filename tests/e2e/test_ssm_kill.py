"""`ssmsend` and `ssmreceive` killed at each system call that changes anything, and run again."""

import contextlib
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.e2e.killpoints import CHANGES, Command, KillMatrix
from tests.e2e.ssm_site import TOPIC, Site
from tests.e2e.test_ssm_receive import signed
from tests.simulators import ams_service
from tests.simulators.ams_service import AMS
from tests.simulators.stomp_faults import Fault, FaultBroker, Kind
from tests.testbed.trust import Trust

SYSCALLS = [call for call in CHANGES if call != "sendto"] + ["write"]
SEED = 2017


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    made = Trust(tmp_path_factory.mktemp("trust"))
    made.publish()
    return made


def text(number: int) -> str:
    return f"APEL-cloud-message: v0.4\nVMUUID: {number}\n%%\n"


def journalled(site: Site) -> list[str]:
    """Return the ids in the journal of sent messages, each where it was written last."""
    path = site.root / "var/lib/fedcloud/ssm/sent.sqlite"
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as opened:
        ids = [name for (name,) in opened.execute("SELECT id FROM message ORDER BY number")]
    return list(dict.fromkeys(reversed(ids)))[::-1]


@dataclass(slots=True)
class Stage:
    """A site and a broker, made anew for each interruption; the broker outlives the kill."""

    directory: Path
    trust: Trust
    is_poisoned: bool = False
    """Whether it has something against messages that say POISON."""
    broker: FaultBroker = field(init=False)
    site: Site = field(init=False)
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def renew(self) -> None:
        self.close()
        shutil.rmtree(self.directory, ignore_errors=True)
        self._serve()

    def _serve(self) -> None:
        poison = (b"POISON", Fault(Kind.CLOSE_AFTER_SEND)) if self.is_poisoned else None
        self.broker = self._stack.enter_context(
            FaultBroker(self.trust.host("broker"), self.trust.grid.certificate, poison=poison)
        )
        self.site = Site.create(self.directory, self.trust, hosts=f"localhost:{self.broker.port}")

    def sent(self) -> list[tuple[str, bytes]]:
        """Return id and wire form of the messages that the broker accepted, in order."""
        frames = [
            frame
            for frame in self.broker.sent
            if not self.is_poisoned or b"POISON" not in frame.body
        ]
        return [(frame.headers["empa-id"], frame.body) for frame in frames]

    def enqueue(self, messages: list[tuple[bytes, str | None]]) -> None:
        headers = [{"empa-id": name} if name else {} for _, name in messages]
        self.broker.enqueue([body for body, _ in messages], headers=headers)

    def left(self) -> int:
        return len(self.broker.queue)

    def close(self) -> None:
        self._stack.close()


@dataclass(slots=True)
class AMSStage(Stage):
    """The same with an AMS in place of the broker."""

    service: AMS = field(init=False)

    def _serve(self) -> None:
        fault = ams_service.Fault(ams_service.Kind.STATUS, status=400)
        poison = (b"POISON", fault) if self.is_poisoned else None
        self.service = self._stack.enter_context(
            AMS(self.trust.host("broker"), self.trust.grid.certificate, poison=poison)
        )
        self.site = Site.at_ams(self.directory, self.trust, self.service)

    def sent(self) -> list[tuple[str, bytes]]:
        return [(stored.attributes["empaid"], stored.body) for stored in self.service.topics[TOPIC]]

    def enqueue(self, messages: list[tuple[bytes, str | None]]) -> None:
        self.service.enqueue(
            TOPIC, [body for body, _ in messages], ids=[name for _, name in messages]
        )

    def left(self) -> int:
        return self.service.left(TOPIC)


@pytest.fixture(params=[Stage, AMSStage], ids=["stomp", "ams"])
def stage(request: pytest.FixtureRequest, tmp_path: Path, trust: Trust) -> Iterator[Stage]:
    made: Stage = request.param(tmp_path / "site", trust)
    yield made
    made.close()


def sender_matrix(stage: Stage, *, with_a_bad_one: bool) -> KillMatrix:
    names: list[str] = []
    bad: list[str] = []

    def prepare() -> Command:
        stage.renew()
        names[:] = stage.site.fill([text(number) for number in range(3)])
        bad[:] = stage.site.fill([""]) if with_a_bad_one else []
        names.extend(stage.site.fill([text(3)]))
        return stage.site.command("ssmsend")

    def verify() -> None:
        arrived = stage.sent()
        ids = [name for name, _ in arrived]
        last = list(dict.fromkeys(reversed(ids)))[::-1]
        assert last == names, f"sent {ids}"
        assert len(ids) <= 2 * len(names)
        assert journalled(stage.site) == names
        assert stage.site.opened(arrived[-1][1]) == text(3)
        assert stage.site.waiting() == stage.site.locks() == []
        assert [element["empaid"] for element in stage.site.buried()] == bad
        left = {path.name for path in stage.site.spool.parent.iterdir()}
        assert left <= {"openstack", ".openstack.ssm.lock", "failed"}
        if bad:
            assert list((stage.site.failed.parent / ".openstack.staging").iterdir()) == []

    return KillMatrix(
        prepare, verify, syscalls=SYSCALLS, statuses=(0, 1) if with_a_bad_one else (0,)
    )


def poison_matrix(stage: Stage) -> KillMatrix:
    """F-S1, B4: a message that breaks the connection, killed while it is isolated and set aside."""
    stage.is_poisoned = True
    names: list[str] = []

    def prepare() -> Command:
        stage.renew()
        names[:] = stage.site.fill([text(0), text(1), "POISON", text(2), text(3)])
        return stage.site.command("ssmsend")

    def verify() -> None:
        good = [*names[:2], *names[3:]]
        ids = [name for name, _ in stage.sent()]
        assert list(dict.fromkeys(reversed(ids)))[::-1] == good, f"sent {ids}"
        assert stage.site.waiting() == stage.site.locks() == []
        assert journalled(stage.site) == good
        assert [element["empaid"] for element in stage.site.buried()] == [names[2]]
        left = {path.name for path in stage.site.spool.parent.iterdir()}
        assert left <= {"openstack", ".openstack.ssm.lock", "failed"}

    return KillMatrix(prepare, verify, syscalls=SYSCALLS, statuses=(0, 1))


def parts_matrix(stage: Stage) -> KillMatrix:
    """F-S5, B12: a message in parts, one of which is too large, killed between them."""
    names: list[str] = []
    records = [f"VMUUID: {number}\nMachineName: {'x' * 700}\n" for number in range(1200)]
    records[700] = f"VMUUID: 700\nMachineName: {'x' * 900_000}\n"
    whole = "APEL-cloud-message: v0.4\n" + "%%\n".join(records)

    def prepare() -> Command:
        stage.renew()
        names[:] = stage.site.fill([text(0), whole, text(1)])
        config = stage.site.root / "etc/apel/sender.cfg"
        config.write_text(
            config.read_text().replace("[messaging]", "[messaging]\nmax_message_size: 700000")
        )
        return stage.site.command("ssmsend")

    def verify() -> None:
        ids = [names[0], names[1], f"{names[1]}.2", names[2]]
        arrived = {
            (name, body.split(b"text/plain\n\n", 1)[1].split(b"\n------", 1)[0])
            for name, body in stage.sent()
        }
        last = list(dict.fromkeys(reversed([name for name, _ in stage.sent()])))[::-1]
        assert last == ids
        assert journalled(stage.site) == ids
        assert len(arrived) == len(ids), "the same id with another text"
        found = b"\n".join(body for name, body in sorted(arrived) if name.startswith(names[1]))
        assert found.count(b"VMUUID") == 1199
        assert [element["empaid"] for element in stage.site.buried()] == [f"{names[1]}.1"]
        assert stage.site.waiting() == stage.site.locks() == []

    return KillMatrix(prepare, verify, syscalls=SYSCALLS, statuses=(0, 1))


def receiver_matrix(stage: Stage) -> KillMatrix:
    sender, stranger = stage.trust.host("sender"), stage.trust.host("stranger")
    name = "6b029cc8/6b029cd9717820"
    messages: list[tuple[bytes, str | None]] = [
        (signed(text(0), sender), name),
        (signed(text(1), stranger), "6b029cc8/6b029cd9717830"),
        (signed(text(0), sender), name),
        (signed(text(2), sender), None),
        (signed(text(3), sender), "6b029cc8/6b029cd9717840"),
    ]

    def prepare() -> Command:
        stage.renew()
        stage.enqueue(messages)
        return stage.site.command("ssmreceive", "--idle-exit", "0.4")

    def verify() -> None:
        assert stage.left() == 0
        assert [element["body"] for element in stage.site.elements()] == [text(0), text(2), text(3)]
        assert [element["body"].encode() for element in stage.site.elements("reject")] == [
            messages[1][0]
        ]
        for queue in ("incoming", "reject"):
            assert list((stage.site.received / f".{queue}.staging").iterdir()) == []

    return KillMatrix(prepare, verify, syscalls=SYSCALLS)


def test_a_killed_sender_loses_nothing(stage: Stage) -> None:
    """R19."""
    sender_matrix(stage, with_a_bad_one=True).run(sample=3, seed=SEED)


def test_a_killed_receiver_loses_and_doubles_nothing(stage: Stage) -> None:
    receiver_matrix(stage).run(sample=3, seed=SEED)


@pytest.mark.matrix
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("with_a_bad_one", [False, True])
def test_a_sender_killed_anywhere(stage: Stage, *, with_a_bad_one: bool) -> None:
    """R19."""
    sender_matrix(stage, with_a_bad_one=with_a_bad_one).run(sample=None)


@pytest.mark.matrix
@pytest.mark.timeout(3600)
def test_a_receiver_killed_anywhere(stage: Stage) -> None:
    receiver_matrix(stage).run(sample=None)


@pytest.mark.matrix
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("matrix", [poison_matrix, parts_matrix])
def test_a_sender_with_suspects_or_parts_killed_anywhere(
    stage: Stage, matrix: Callable[[Stage], KillMatrix]
) -> None:
    """F-S1, F-S5."""
    matrix(stage).run(sample=None)
