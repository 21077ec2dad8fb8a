"""Our spool and the dirq library on one directory: both always see the same queue."""

import shutil
import tempfile
from pathlib import Path

from dirq.QueueSimple import QueueSimple
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from appliance.core.spool import ElementName, Spool
from tests.property.examples import examples


class SharedSpool(RuleBasedStateMachine):
    """Each step is done by one of the two, chosen at random; a plain dictionary is the truth."""

    elements = Bundle("elements")

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.path = self.directory / "queue"
        self.staging = self.directory / "staging"
        self.staging.mkdir()
        self.ours, self.theirs = Spool(self.path), QueueSimple(str(self.path))
        self.content: dict[str, bytes] = {}
        self.locked: set[str] = set()

    def teardown(self) -> None:
        shutil.rmtree(self.directory)

    @rule(target=elements, data=st.binary(max_size=40), by_us=st.booleans())
    def add(self, data: bytes, by_us: bool) -> str:
        if by_us:
            source = self.staging / "message"
            source.write_bytes(data)
            name: str = self.ours.adopt(source)
            assert not source.exists()
        else:
            name = self.theirs.add(data)
        assert name not in self.content
        self.content[name] = data
        return name

    @rule(name=elements, by_us=st.booleans())
    def lock(self, name: str, by_us: bool) -> None:
        expected = name in self.content and name not in self.locked
        took = self.ours.lock(ElementName(name)) if by_us else self.theirs.lock(name)
        assert took == expected
        if took:
            self.locked.add(name)

    @rule(name=elements, by_us=st.booleans())
    def read(self, name: str, by_us: bool) -> None:
        if name in self.locked:
            got = self.ours.read(ElementName(name)) if by_us else self.theirs.get(name)
            assert got == self.content[name]

    @rule(name=elements, by_us=st.booleans())
    def unlock(self, name: str, by_us: bool) -> None:
        if name in self.locked:
            self.ours.unlock(ElementName(name)) if by_us else self.theirs.unlock(name)
            self.locked.remove(name)

    @rule(name=consumes(elements), by_us=st.booleans())
    def remove(self, name: str, by_us: bool) -> None:
        if name in self.locked:
            self.ours.remove(ElementName(name)) if by_us else self.theirs.remove(name)
            self.locked.remove(name)
            del self.content[name]

    @rule(by_us=st.booleans())
    def purge(self, by_us: bool) -> None:
        self.ours.purge() if by_us else self.theirs.purge()

    @invariant()
    def both_see_the_truth(self) -> None:
        assert list(self.ours.names()) == sorted(self.content)
        assert list(self.theirs.names()) == sorted(self.content)
        assert self.ours.count() == self.theirs.count() == len(self.content)
        assert {
            name for name in self.content if self.ours.is_locked(ElementName(name))
        } == self.locked


TestSharedSpool = SharedSpool.TestCase
TestSharedSpool.settings = settings(max_examples=examples(60), stateful_step_count=30)
