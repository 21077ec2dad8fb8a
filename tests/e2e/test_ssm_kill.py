"""`ssmsend` and `ssmreceive` killed at each system call that changes anything, and run again."""

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.e2e.killpoints import CHANGES, Command, KillMatrix
from tests.e2e.ssm_site import TOPIC, Site
from tests.e2e.test_ssm_receive import signed
from tests.simulators.ams_service import AMS
from tests.simulators.stomp_faults import FaultBroker
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


@dataclass(slots=True)
class Stage:
    """A site and a broker, made anew for each interruption; the broker outlives the kill."""

    directory: Path
    trust: Trust
    broker: FaultBroker = field(init=False)
    site: Site = field(init=False)
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def renew(self) -> None:
        self.close()
        shutil.rmtree(self.directory, ignore_errors=True)
        self._serve()

    def _serve(self) -> None:
        self.broker = self._stack.enter_context(FaultBroker(self.trust.host("broker"), self.trust.grid.certificate))
        self.site = Site.create(self.directory, self.trust, hosts=f"localhost:{self.broker.port}")

    def sent(self) -> list[tuple[str, bytes]]:
        """Return id and wire form of all that arrived, in order."""
        return [(frame.headers["empa-id"], frame.body) for frame in self.broker.sent]

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
        self.service = self._stack.enter_context(AMS(self.trust.host("broker"), self.trust.grid.certificate))
        self.site = Site.at_ams(self.directory, self.trust, self.service)

    def sent(self) -> list[tuple[str, bytes]]:
        return [(stored.attributes["empaid"], stored.body) for stored in self.service.topics[TOPIC]]

    def enqueue(self, messages: list[tuple[bytes, str | None]]) -> None:
        self.service.enqueue(TOPIC, [body for body, _ in messages], ids=[name for _, name in messages])

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
        assert stage.site.opened(arrived[-1][1]) == text(3)
        assert stage.site.waiting() == stage.site.locks() == []
        assert [element["empaid"] for element in stage.site.buried()] == bad
        left = {path.name for path in stage.site.spool.parent.iterdir()}
        assert left <= {"openstack", ".openstack.ssm.lock", "failed"}
        if bad:
            assert list((stage.site.failed.parent / ".openstack.staging").iterdir()) == []

    return KillMatrix(prepare, verify, syscalls=SYSCALLS, statuses=(0, 1) if with_a_bad_one else (0,))


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
        assert [element["body"].encode() for element in stage.site.elements("reject")] == [messages[1][0]]
        for queue in ("incoming", "reject"):
            assert list((stage.site.received / f".{queue}.staging").iterdir()) == []

    return KillMatrix(prepare, verify, syscalls=SYSCALLS)


def test_a_killed_sender_loses_nothing(stage: Stage) -> None:
    """R19."""
    sender_matrix(stage, with_a_bad_one=True).run(sample=10, seed=SEED)


def test_a_killed_receiver_loses_and_doubles_nothing(stage: Stage) -> None:
    receiver_matrix(stage).run(sample=10, seed=SEED)


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
