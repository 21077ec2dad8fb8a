"""The history of tags, and the notes beside it, which may be lost."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cloudkeeper.frontend.registry.names import Digest, TaggedArtefact
from cloudkeeper.frontend.registry.tags import TagHistory

HOST, ONE, OTHER = "registry.example.org", "project/one:1", "project/other:1"
NOW = datetime(2026, 11, 30, tzinfo=UTC)
OLD, NEW = (Digest(f"sha256:{digit * 64}") for digit in "ab")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "state/tags.json"
    TagHistory(path).note(HOST, {ONE: OLD, OTHER: OLD}, at=NOW, project="project")
    later = NOW + timedelta(days=1)
    TagHistory(path).note(HOST, {ONE: NEW, OTHER: OLD}, at=later, project="project")
    return path


def test_the_dates_are_those_of_the_present_digests(path: Path) -> None:
    """The history itself has the form that 1.0 reads."""
    history = TagHistory(path)
    assert history.since(HOST, ONE) == NOW + timedelta(days=1)
    assert history.since(HOST, OTHER) == NOW
    assert json.loads(path.read_text()) == {HOST: {ONE: [OLD, NEW], OTHER: [OLD]}}


def test_a_tag_is_held_until_it_moves_on_or_is_gone(path: Path) -> None:
    history = TagHistory(path)
    assert history.has_gone_back(HOST, TaggedArtefact("project/one", "1", OLD))
    for found in ({ONE: NEW}, {}):
        history.note(HOST, {}, at=NOW, held={ONE: OLD}, project="project")
        assert TagHistory(path).held(HOST, ONE) == OLD
        history.note(HOST, found, at=NOW, project="project")
        assert TagHistory(path).held(HOST, ONE) is None
    history.note(HOST, {}, at=NOW, held={ONE: OLD}, project="project")
    history.note(HOST, {"another/one:1": OLD}, at=NOW, project="another")
    assert TagHistory(path).held(HOST, ONE) == OLD


@pytest.mark.parametrize(
    "text", ["", "[]", "7", '{"a": 1}', '{"a": {"b": {"since": 1}}}', "[" * 9999]
)
def test_lost_notes_cost_dates_only(path: Path, text: str) -> None:
    path.with_name("tags-notes.json").write_text(text)
    history = TagHistory(path)
    assert (history.since(HOST, ONE), history.latest(HOST)[ONE]) == (None, NEW)
    history.note(HOST, {ONE: OLD}, at=NOW, project="project")
    assert TagHistory(path).since(HOST, ONE) == NOW


def test_nothing_is_written_when_nothing_is_new(path: Path) -> None:
    files = [path, path.with_name("tags-notes.json")]
    before = [file.stat() for file in files]
    later = NOW + timedelta(days=2)
    TagHistory(path).note(HOST, {ONE: NEW, OTHER: OLD}, at=later, project="project")
    assert [file.stat() for file in files] == before


def test_a_forgotten_tag_is_trusted_as_it_is_next(path: Path) -> None:
    TagHistory(path).forget(HOST, [ONE])
    history = TagHistory(path)
    assert history.hosts == {HOST: {OTHER: [OLD]}}
    assert history.since(HOST, ONE) is None
    history.check(HOST, TaggedArtefact("project/one", "1", OLD))
