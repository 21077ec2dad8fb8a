"""The history of tags, and the notes beside it, which may be lost."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from appliance.core.registry.names import Digest, TaggedArtefact
from appliance.core.run.errors import LocalFailure
from appliance.core.trust.errors import Untrusted
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


INDEX, REBUILT, LATER = (Digest(f"sha256:{digit * 64}") for digit in "cde")
TAGGED = {each: TaggedArtefact("project/one", "1", each) for each in (INDEX, REBUILT, LATER, NEW)}


def test_an_image_that_was_replaced_does_not_come_back_in_a_new_index(path: Path) -> None:
    """R4: the history has both digests; a new index around the present image is no way back."""
    history = TagHistory(path)
    assert history.has_gone_back(HOST, TAGGED[INDEX], image=OLD)
    with pytest.raises(Untrusted, match=f"went back to {OLD}, which {NEW} had replaced"):
        history.check(HOST, TAGGED[INDEX], image=OLD)
    assert not history.has_gone_back(HOST, TAGGED[INDEX], image=NEW)
    history.note(HOST, {ONE: INDEX}, at=NOW, images={ONE: NEW})
    assert json.loads(path.read_text())[HOST][ONE] == [OLD, NEW, INDEX]
    history = TagHistory(path)
    assert (history.latest(HOST)[ONE], history.image(HOST, ONE)) == (INDEX, NEW)
    for digest, image in ((INDEX, NEW), (REBUILT, NEW), (NEW, NEW)):
        assert not history.has_gone_back(HOST, TAGGED[digest], image=image)
    history.note(HOST, {ONE: LATER}, at=NOW)
    assert history.image(HOST, ONE) is None
    for digest, image in ((REBUILT, NEW), (NEW, NEW), (INDEX, NEW)):
        assert history.has_gone_back(HOST, TAGGED[digest], image=image)


def test_lost_notes_hold_no_index_that_is_unchanged(path: Path) -> None:
    """R4: also a power cut between the two files; the next run knows the image again."""
    TagHistory(path).note(HOST, {ONE: INDEX}, at=NOW, images={ONE: OLD})
    path.with_name("tags-notes.json").unlink()
    history = TagHistory(path)
    assert not history.has_gone_back(HOST, TAGGED[INDEX], image=OLD)
    history.note(HOST, {ONE: INDEX}, at=NOW, images={ONE: OLD})
    assert TagHistory(path).image(HOST, ONE) == OLD


@pytest.mark.parametrize(
    "text", ["", "[]", "7", '{"a": 1}', '{"a": {"b": {"since": 1}}}', "[" * 9999]
)
def test_lost_notes_cost_dates_only(path: Path, text: str) -> None:
    path.with_name("tags-notes.json").write_text(text)
    history = TagHistory(path)
    assert (history.since(HOST, ONE), history.latest(HOST)[ONE]) == (None, NEW)
    history.note(HOST, {ONE: OLD}, at=NOW, project="project")
    assert TagHistory(path).since(HOST, ONE) == NOW


def written(path: Path) -> tuple[int, int]:
    """Return what each write of a file changes; reading it changes other times."""
    return path.stat().st_ino, path.stat().st_mtime_ns


def test_nothing_is_written_when_nothing_is_new(path: Path) -> None:
    files = [path, path.with_name("tags-notes.json")]
    before = [written(file) for file in files]
    later = NOW + timedelta(days=2)
    TagHistory(path).note(HOST, {ONE: NEW, OTHER: OLD}, at=later, project="project")
    assert [written(file) for file in files] == before


def test_a_forgotten_tag_is_trusted_as_it_is_next(path: Path) -> None:
    TagHistory(path).forget(HOST, [ONE])
    history = TagHistory(path)
    assert history.hosts == {HOST: {OTHER: [OLD]}}
    assert history.since(HOST, ONE) is None
    history.check(HOST, TaggedArtefact("project/one", "1", OLD))


def test_a_pinned_tag_counts_with_this_digest_only(path: Path) -> None:
    """Also before its first use, and as the image of an index; the history stays as it is."""
    history = TagHistory(path)
    history.pin(HOST, {"project/new:1": NEW, ONE: OLD})
    history = TagHistory(path)
    assert history.hosts == {HOST: {ONE: [OLD, NEW], OTHER: [OLD]}}
    new = {each: TaggedArtefact("project/new", "1", each) for each in (NEW, OLD, INDEX)}
    history.check(HOST, new[NEW])
    history.check(HOST, new[INDEX], image=NEW)
    history.check("another.example.org", new[OLD])
    for image in (None, LATER):
        assert history.is_off_pin(HOST, new[OLD], image=image)
        with pytest.raises(Untrusted, match=f"its digest is {OLD}, but {NEW} is pinned; ask who"):
            history.check(HOST, new[OLD], image=image)
    # The one that is pinned must still be no way back.
    with pytest.raises(Untrusted, match="the tag went back"):
        history.check(HOST, TaggedArtefact("project/one", "1", OLD))
    history.forget(HOST, [ONE])
    assert TagHistory(path).pins == {HOST: {"project/new:1": NEW, ONE: OLD}}
    history.unpin(HOST, [ONE, "project/new:1"])
    assert TagHistory(path).pins == {}


@pytest.mark.parametrize("text", ["", "[]", '{"a": {"b": "sha512:00"}}', '{"a": {"b": null}}'])
def test_pins_that_cannot_be_read_are_not_lost_in_silence(path: Path, text: str) -> None:
    """Unlike notes: without them a tag would be trusted that a person has bound."""
    path.with_name("tags-pinned.json").write_text(text)
    with pytest.raises(LocalFailure, match="has unreadable contents; restore it; or, to release"):
        TagHistory(path)
