"""The memory of accepted lists, and the lists that are refused because of it."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from appliance.core.run.errors import LocalFailure
from appliance.core.trust.errors import Untrusted
from cloudkeeper.frontend.addresses import read
from cloudkeeper.frontend.memory import Memory
from cloudkeeper.model import Endorser, ListId, SignedImageList

_NUMBERS = '[{"url": 1, "list_id": 1, "vo": 1, "dn": 1, "ca": 1, "created": 1}]'
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
URL = "https://lists.example.org/ops.list"
KNOWN = SignedImageList(
    identifier=ListId("list-a"),
    vo="ops",
    endorser=Endorser("/CN=one", "/CN=CA"),
    created=NOW - 2 * HOUR,
    expires=NOW + 9 * HOUR,
    version="1",
    offers=(),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "state/lists.json"
    Memory(path).note(KNOWN, url=URL, at=NOW)
    return path


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"identifier": "list-b"}, "its identifier is list-b, but this URL had list-a"),
        ({"vo": "dteam"}, "belongs to a list of VO ops, but this list is for VO dteam"),
        (
            {"endorser": Endorser("/CN=two", "/CN=CA")},
            "its endorser is /CN=two of /CN=CA, but was /CN=one of /CN=CA",
        ),
        (
            {"endorser": Endorser("/CN=one", "/CN=CB")},
            "its endorser is /CN=one of /CN=CB, but was /CN=one of /CN=CA",
        ),
        (
            {"created": NOW - 3 * HOUR},
            r"it was created 2026-11-24 09:00:00Z, before one of 2026-11-24T10:00:00\+00:00",
        ),
        ({"created": None}, "it was created at an unknown time, before one of"),
    ],
)
def test_another_list_in_place_of_an_accepted_one_is_refused(
    path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(Untrusted, match=words) as refused:
        Memory(path).check(replace(KNOWN, **changes), url=URL)
    assert str(refused.value).endswith(
        f"ask the endorser; if the change is right: cloudkeeper trust {URL}"
    )
    if "identifier" not in changes:  # nor does another URL change anything about it
        with pytest.raises(Untrusted, match=words):
            Memory(path).check(replace(KNOWN, **changes), url=f"{URL}.2")


def test_a_newer_list_is_accepted_and_remembered(path: Path) -> None:
    Memory(path).check(KNOWN, url=URL)
    newer = replace(KNOWN, created=NOW - HOUR, version="2")
    memory = Memory(path)
    memory.check(newer, url=URL)
    memory.note(newer, url=URL, at=NOW)
    for found in (memory, Memory(path)):
        with pytest.raises(Untrusted, match="before one of"):
            found.check(KNOWN, url=URL)


def test_lists_do_not_mix(path: Path) -> None:
    other = replace(
        KNOWN, identifier=ListId("list-b"), vo="dteam", endorser=Endorser("/CN=two", "/CN=CA")
    )
    memory = Memory(path)
    memory.check(other, url=f"{URL}.2")
    memory.note(other, url=f"{URL}.2", at=NOW)
    Memory(path).check(KNOWN, url=URL)
    Memory(path).check(other, url=f"{URL}.2")


@pytest.mark.parametrize(
    "changes",
    [
        {"identifier": "list-b", "vo": "dteam"},
        {"vo": "dteam"},
        {"endorser": Endorser("/CN=two", "/CN=CA")},
        {"created": NOW - 3 * HOUR},
        {"created": None},
    ],
)
def test_what_check_refuses_is_a_change_and_accepted_once_noted(
    path: Path, changes: dict[str, Any]
) -> None:
    """Also for a list of the same identifier at another URL."""
    found = replace(KNOWN, **changes)
    memory = Memory(path)
    shown = memory.changes(found, url=URL)
    words = {"identifier": "identifier", "vo": "VO", "endorser": "endorser", "created": "created"}
    assert [change.subject for change in shown] == [words[name] for name in changes]
    memory.note(found, url=URL, at=NOW)
    assert len(memory.entries) == 1
    Memory(path).check(found, url=URL)
    assert Memory(path).changes(found, url=URL) == []
    if "created" not in changes:
        with pytest.raises(Untrusted):
            Memory(path).check(KNOWN, url=URL)


def test_an_endorser_that_is_pinned_before_the_first_list(tmp_path: Path) -> None:
    """Its e-mail may be spelled in two ways; an earlier release accepts no list of that URL."""
    path = tmp_path / "lists.json"
    Memory(path).pin(Endorser("/CN=one/Email=a@example.org", "/CN=CA"), url=URL)
    with pytest.raises(Untrusted, match="its endorser is /CN=one of /CN=CA, but was /CN=one/Email"):
        Memory(path).check(KNOWN, url=URL)
    right = replace(KNOWN, endorser=Endorser("/CN=one/emailAddress=a@example.org", "/CN=CA"))
    memory = Memory(path)
    memory.check(right, url=URL)
    memory.note(right, url=URL, at=NOW)
    (entry,) = json.loads(path.read_text())
    assert (entry["list_id"], entry["dn"]) == ("list-a", right.endorser.dn)
    memory.pin(Endorser("/CN=two", "/CN=CA"), url=URL)
    with pytest.raises(Untrusted, match="but was /CN=two"):
        Memory(path).check(right, url=URL)
    assert len(Memory(path).entries) == 1


def test_what_is_forgotten_is_trusted_on_first_use(path: Path) -> None:
    memory = Memory(path)
    other = replace(KNOWN, identifier=ListId("list-b"))
    memory.note(other, url=f"{URL}.2", at=NOW)
    memory.forget(URL)
    assert [entry.list_id for entry in Memory(path).entries] == ["list-b"]
    Memory(path).check(replace(KNOWN, vo="dteam", created=None), url=URL)


def test_a_list_may_move(path: Path) -> None:
    memory = Memory(path)
    memory.check(KNOWN, url=f"{URL}.2")
    memory.note(KNOWN, url=f"{URL}.2", at=NOW)
    assert [entry["url"] for entry in json.loads(path.read_text())] == [f"{URL}.2"]


def test_a_date_in_the_future_does_not_refuse_later_lists(path: Path) -> None:
    memory = Memory(path)
    memory.note(replace(KNOWN, created=NOW + 999 * HOUR), url=URL, at=NOW)
    memory.check(replace(KNOWN, created=NOW + HOUR), url=URL)


def test_a_clock_that_went_back_brings_no_old_list_back(path: Path) -> None:
    """What was accepted never goes backwards, unless a person says so."""
    memory, newer = Memory(path), replace(KNOWN, created=NOW - HOUR)
    memory.note(newer, url=URL, at=NOW - 9 * HOUR, keeps_date=True)
    with pytest.raises(Untrusted, match="before one of"):
        Memory(path).check(replace(KNOWN, created=NOW - 3 * HOUR), url=URL)
    memory.note(newer, url=URL, at=NOW, keeps_date=True)
    with pytest.raises(Untrusted, match="before one of"):
        Memory(path).check(KNOWN, url=URL)


def test_nothing_is_written_when_nothing_is_new(path: Path) -> None:
    before = path.stat()
    Memory(path).note(KNOWN, url=URL, at=NOW + HOUR)
    after = path.stat()  # its time of access changes when it is read
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize(
    "text", ["[{]", "{}x", '[{"url": "x"}]', "[1]", "null", "7", '{"a": 1}', _NUMBERS, "[" * 9999]
)
def test_a_damaged_file_accepts_nothing(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(LocalFailure, match=r"has unreadable contents; restore it; or, .*: rm /"):
        Memory(path)


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("in the way")
    with pytest.raises(LocalFailure, match="Not a directory"):
        Memory(tmp_path / "state/lists.json")
    with pytest.raises(LocalFailure):
        Memory(Path("/proc/nowhere/lists.json")).note(KNOWN, url=URL, at=NOW)


def test_a_query_distinguishes_lists_and_is_not_stored(tmp_path: Path) -> None:
    urls = [f"{URL}?token=s3cr3t-{number}" for number in range(2)]
    found, _ = read([(url, 1) for url in [*urls, URL]], path=tmp_path)
    places = {address.place for address in found}
    assert len(places) == 3
    assert URL in places
    assert "s3cr3t" not in str(places)
