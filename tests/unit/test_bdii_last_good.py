"""The last good data of a failing source, entry by entry."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from appliance.core import ldif
from bdii import tree
from bdii.entry import StoredEntry, traits
from bdii.service.state import StateDirectory
from bdii.sources import last_good
from bdii.sources.last_good import Absence, Expiry, LastGood, StaleAge, advance, publishable

EARLIER = datetime(2026, 11, 24, 10, 0, tzinfo=UTC)
NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
LONG = Expiry(DAY, DAY)
SERVICE = "GLUE2ServiceID=s,o=glue"


Made = tuple[str, dict[str, tuple[str, ...]]]


def made(*entries: Made) -> dict[tree.Dn, ldif.Entry]:
    found, problems = tree.of(ldif.Entry(dn, attributes) for dn, attributes in entries)
    assert not problems
    return found


def image(name: str, *vos: str, **more: tuple[str, ...]) -> Made:
    attributes = {"objectClass": ("GLUE2ApplicationEnvironment",), **more}
    if vos:
        attributes["GLUE2EntityOtherInfo"] = tuple(f"VO={vo}" for vo in vos)
    return f"GLUE2ApplicationEnvironmentID={name},{SERVICE}", attributes


SERVICE_ENTRY: Made = (SERVICE, {"objectClass": ("GLUE2Service",)})


def names(found: Iterable[tree.Dn]) -> set[str]:
    return {dn.partition(",")[0].partition("=")[2] for dn in found}


def info(found: tree.Tree, name: str) -> set[str]:
    (entry,) = [
        entry
        for dn, entry in found.items()
        if dn.startswith(f"glue2applicationenvironmentid={name},")
    ]
    return set(entry.get("GLUE2EntityOtherInfo"))


def after(old: dict[tree.Dn, ldif.Entry], new: tree.Tree, *failed: str) -> LastGood:
    return advance(LastGood(old, EARLIER), new, failed=failed, now=NOW)


def test_an_entry_that_one_answer_lacks_stays_unmarked() -> None:
    old = made(SERVICE_ENTRY, image("old", "a"))
    last = after(old, made(SERVICE_ENTRY, image("new", "b")))
    assert names(last.tree) == {"s", "old", "new"}
    assert publishable(last, LONG) is last.tree


def test_only_what_belongs_to_the_failed_vo_stays() -> None:
    old = made(
        SERVICE_ENTRY, image("a", "a"), image("b", "b"), image("both", "a", "b"), image("none")
    )
    last = after(old, made(SERVICE_ENTRY, image("new", "a")), "b")
    assert names(last.tree) == {"s", "new", "b", "both", "a", "none"}
    assert names(last.absent) == {"a", "none"}
    assert info(last.tree, "both") == {"VO=b"}, "VO a answered, and did not name it"
    shown = publishable(last, LONG)
    assert info(shown, "b") == {"VO=b", "Stale=TRUE", "CollectedAt=2026-11-24T10:00:00Z"}
    assert info(shown, "new") == {"VO=a"}


def test_a_shared_entry_keeps_the_mark_of_the_failed_vo_and_is_not_stale() -> None:
    old = made(SERVICE_ENTRY, image("both", "a", "b"))
    last = after(old, made(SERVICE_ENTRY, image("both", "a", AppName=("newer",))), "b")
    shown = publishable(last, LONG)
    assert info(shown, "both") == {"VO=a", "VO=b"}
    (entry,) = [entry for entry in shown.values() if "AppName" in entry.attributes]
    assert entry.get("AppName") == ("newer",)


def test_entries_below_and_entries_named_by_those_that_stay_stay_too() -> None:
    share = f"GLUE2ShareID=share,{SERVICE}"
    old = made(
        SERVICE_ENTRY,
        (
            share,
            {
                "objectClass": ("GLUE2Share",),
                "GLUE2EntityOtherInfo": ("VO=b",),
                "GLUE2ShareResourceForeignKey": ("flavor",),
            },
        ),
        (f"GLUE2PolicyID=policy,{share}", {"objectClass": ("GLUE2MappingPolicy",)}),
        (f"GLUE2ResourceID=flavor,{SERVICE}", {"objectClass": ("GLUE2ExecutionEnvironment",)}),
        (f"GLUE2ResourceID=other,{SERVICE}", {"objectClass": ("GLUE2ExecutionEnvironment",)}),
    )
    last = after(old, made(SERVICE_ENTRY), "b")
    assert names(last.absent) == {"other"}


def test_a_policy_keeps_the_rule_of_the_failed_vo() -> None:
    def policy(*rules: str) -> Made:
        return f"GLUE2PolicyID=p,{SERVICE}", {
            "objectClass": ("GLUE2AccessPolicy",),
            "GLUE2PolicyRule": rules,
        }

    last = after(
        made(SERVICE_ENTRY, policy("VO:a", "VO:b")), made(SERVICE_ENTRY, policy("VO:a")), "b"
    )
    rules = [
        entry.get("GLUE2PolicyRule") for entry in last.tree.values() if entry.get("GLUE2PolicyRule")
    ]
    assert rules == [("VO:a", "VO:b")]


def test_the_age_of_a_vo_that_keeps_failing_counts_from_its_last_answer() -> None:
    tree_ = made(SERVICE_ENTRY, image("b", "b"))
    first = advance(LastGood(tree_, EARLIER), made(SERVICE_ENTRY), failed={"b"}, now=NOW)
    second = advance(first, made(SERVICE_ENTRY), failed={"b"}, now=NOW, elapsed=2 * HOUR)
    assert second.failed == {"b": StaleAge(EARLIER, 2 * HOUR)}
    again = last_good.repeat(second, now=NOW, elapsed=HOUR)
    assert again.failed == {"b": StaleAge(EARLIER, 3 * HOUR)}
    quiet = last_good.silent(second, 9 * HOUR)
    assert quiet.failed == second.failed, "its clock stands still while the source is silent"
    assert names(publishable(second, Expiry(2 * HOUR, DAY))) == {"s", "b"}
    assert names(publishable(second, Expiry(HOUR, DAY))) == {"s"}
    assert names(publishable(quiet, Expiry(HOUR, DAY))) == {"s"}


def test_an_entity_without_a_creation_time_gets_one_and_keeps_it() -> None:
    group: Made = (f"GLUE2GroupID=g,{SERVICE}", {"objectClass": ("GLUE2Group",)})
    first = advance(None, made(SERVICE_ENTRY, group), failed=(), now=EARLIER)
    second = advance(first, made(SERVICE_ENTRY, group, image("new")), failed=(), now=NOW)
    times = {
        dn.partition(",")[0]: entry.get("GLUE2EntityCreationTime")
        for dn, entry in second.tree.items()
    }
    assert times == {
        "glue2serviceid=s": ("2026-11-24T10:00:00Z",),
        "glue2groupid=g": (),
        "glue2applicationenvironmentid=new": ("2026-11-24T12:00:00Z",),
    }


def test_creation_time_changes_only_with_content() -> None:
    old = made(
        image("b", GLUE2EntityCreationTime=("1",)),
        image("c", GLUE2EntityCreationTime=("1",)),
    )
    new = made(
        image("b", GLUE2EntityCreationTime=("2",)),
        image("c", GLUE2EntityCreationTime=("2",), AppName=("x",)),
    )
    last = after(old, new)
    times = {dn[30:31]: entry.get("GLUE2EntityCreationTime") for dn, entry in last.tree.items()}
    assert times == {"b": ("1",), "c": ("2",)}


def created(last: LastGood) -> list[str]:
    return [time for entry in last.tree.values() for time in entry.get("GLUE2EntityCreationTime")]


def test_a_creation_time_from_the_future_is_given_anew() -> None:
    """The clock was a day ahead, and is right now; glue-validator calls that an error (E001)."""
    ahead = advance(None, made(SERVICE_ENTRY), now=NOW + DAY)
    assert created(ahead) == ["2026-11-25T12:00:00Z"]
    corrected = advance(ahead, made(SERVICE_ENTRY), now=NOW)
    assert created(corrected) == ["2026-11-24T12:00:00Z"]
    again = advance(corrected, made(SERVICE_ENTRY), now=NOW + HOUR)
    assert created(again) == created(corrected)


def test_a_creation_time_of_more_than_a_year_is_given_anew() -> None:
    """glue-validator warns of what is older than two years (W001)."""
    first = advance(None, made(SERVICE_ENTRY), now=NOW)
    for days in (100, 364):
        assert created(advance(first, made(SERVICE_ENTRY), now=NOW + days * DAY)) == created(first)
    renewed = advance(first, made(SERVICE_ENTRY), now=NOW + 366 * DAY)
    assert created(renewed) == ["2027-11-25T12:00:00Z"]


def test_a_source_s_own_time_replaces_one_from_the_future_and_does_not_change_in_each_cycle() -> (
    None
):
    def pulled(time: str) -> tree.Tree:
        return made(image("a", GLUE2EntityCreationTime=(time,)))

    ahead = advance(None, pulled("2026-11-25T12:00:00Z"), now=NOW)
    also = advance(ahead, pulled("2026-11-25T12:05:00Z"), now=NOW)
    assert created(also) == ["2026-11-25T12:00:00Z"]
    assert created(advance(also, pulled("2026-11-24T11:00:00Z"), now=NOW)) == [
        "2026-11-24T11:00:00Z"
    ]


def test_marks_of_a_bdii_below_keep_their_older_time() -> None:
    attributes: dict[str, tuple[str, ...]] = {
        "objectClass": ("GLUE2Endpoint",),
        "GLUE2EndpointHealthState": ("ok",),
    }
    stale = {
        **attributes,
        "GLUE2EntityOtherInfo": ("Stale=TRUE", "CollectedAt=2026-01-01T00:00:00Z"),
    }
    last = LastGood(
        made((f"GLUE2EndpointID=e,{SERVICE}", stale), (f"GLUE2EndpointID=f,{SERVICE}", attributes)),
        EARLIER,
        silence=timedelta(),
    )
    shown = {dn.partition(",")[0][-1]: entry for dn, entry in publishable(last, LONG).items()}
    assert shown["e"].get("GLUE2EntityOtherInfo") == stale["GLUE2EntityOtherInfo"]
    assert shown["f"].get("GLUE2EndpointHealthState") == ("unknown",)
    assert shown["f"].get("GLUE2EndpointHealthStateInfo") == (
        "the source of this information has not answered since 2026-11-24T10:00:00Z",
    )


# --------------------------------------------------------------------------------------------------
# removal

WHOLE = made(SERVICE_ENTRY, *(image(str(n)) for n in range(9)))
PART = made(SERVICE_ENTRY, *(image(str(n)) for n in range(8)))  # lacks image 8
FEW = made(SERVICE_ENTRY, image("0"))


def released(last: LastGood, *, delay: timedelta = timedelta(), expiry: Expiry = LONG) -> set[str]:
    """Return the images that are gone; a removal of more than half waits for an hour."""
    before = names(last.tree)
    left, _ = last_good.release({"x": last}, size=10, delay=delay, hold=HOUR, expiry=expiry)
    return before - names(left["x"].tree)


def answered(last: LastGood, new: tree.Tree, minutes: float = 0, *, whole: bool = True) -> LastGood:
    passed = timedelta(minutes=minutes)
    return advance(last, new, now=NOW, is_complete=whole, elapsed=passed)


def test_an_entry_is_gone_after_two_answers_without_it() -> None:
    """F-I1: one answer proves nothing."""
    one = answered(LastGood(WHOLE, EARLIER), PART, 600)
    assert released(one) == set()
    two = answered(one, PART)
    assert released(two) == {"8"}
    assert released(last_good.repeat(one, now=NOW, elapsed=timedelta())) == {"8"}
    assert names(answered(one, WHOLE).absent) == set(), "it came back"


def test_the_delay_counts_from_the_first_answer_without_the_entry() -> None:
    one = answered(LastGood(WHOLE, EARLIER), PART, 600)
    early = answered(one, PART, 59)
    assert released(early, delay=HOUR) == set()
    assert released(answered(early, PART, 1), delay=HOUR) == {"8"}


def test_no_wait_for_removal_goes_on_while_the_source_is_silent() -> None:
    """F-I1: the hold's hour passed while the provider failed."""
    small = answered(LastGood(WHOLE, EARLIER), FEW)
    for _ in range(5):
        small = last_good.silent(small, HOUR)
        assert released(small) == set()
    assert len(names(small.tree)) == 10
    again = answered(small, FEW, 60)
    assert released(again) == set(), "the time since the answer before was silence"
    assert len(released(answered(again, FEW, 60))) == 8


def test_more_than_half_is_held_and_half_is_not() -> None:
    half = made(SERVICE_ENTRY, *(image(str(n)) for n in range(4)))
    two = answered(answered(LastGood(WHOLE, EARLIER), half), half)
    assert len(released(two)) == 5
    more = answered(answered(LastGood(WHOLE, EARLIER), FEW), FEW, 59)
    assert released(more) == set()
    assert len(released(answered(more, FEW, 1))) == 8


def test_a_malformed_answer_proves_nothing_and_marks_what_it_lacks() -> None:
    """F-I1: the record that cannot be read may be the entry; it goes when the doubt is too old."""
    doubt = answered(LastGood(WHOLE, EARLIER), PART, 60, whole=False)
    doubt = answered(doubt, PART, 60, whole=False)
    shown = publishable(doubt, LONG)
    assert info(shown, "8") == {"Stale=TRUE", "CollectedAt=2026-11-24T10:00:00Z"}
    assert info(shown, "7") == set()
    assert released(doubt) == set()
    assert released(doubt, expiry=Expiry(HOUR, DAY)) == {"8"}
    assert released(last_good.silent(doubt, 9 * HOUR), expiry=Expiry(2 * HOUR, DAY)) == set()


def test_a_silent_source_is_marked_whole_and_expires_whole() -> None:
    """What its latest answer lacked stays as well, with its own age."""
    last = last_good.silent(answered(LastGood(WHOLE, EARLIER), PART), DAY)
    shown = publishable(last, LONG)
    assert shown.keys() == WHOLE.keys()
    assert "CollectedAt=2026-11-24T10:00:00Z" in info(shown, "8")
    assert "CollectedAt=2026-11-24T12:00:00Z" in info(shown, "7")
    late = last_good.silent(last, timedelta(seconds=1))
    assert publishable(late, LONG) == {}
    assert publishable(late, Expiry(timedelta(), None)).keys() == WHOLE.keys(), "for ever"
    assert publishable(answered(late, WHOLE), LONG).keys() == WHOLE.keys()


def test_a_clock_that_jumps_by_a_year_brings_no_removal_nearer() -> None:
    later = NOW + timedelta(days=365)
    one = advance(LastGood(WHOLE, EARLIER), FEW, now=later)
    two = advance(one, FEW, now=later, elapsed=timedelta(minutes=59))
    assert released(two) == set()
    assert publishable(last_good.silent(two, timedelta(minutes=2)), LONG).keys() == WHOLE.keys()


def test_an_entry_stays_while_another_one_below_it_stays() -> None:
    """Two sources: without the service of one, slapd could not hold the images of the other."""
    service = made(SERVICE_ENTRY)
    gone = Absence(EARLIER, 2, DAY)
    sources = {
        "a": LastGood(service, NOW, absent=dict.fromkeys(service, gone)),
        "b": LastGood(made(image("1")), NOW),
    }
    kept, waiting = last_good.release(
        sources, size=2, delay=timedelta(), hold=timedelta(), expiry=LONG
    )
    assert (names(kept["a"].tree), waiting.count) == ({"s"}, 1)
    del sources["b"]
    kept, waiting = last_good.release(
        sources, size=2, delay=timedelta(), hold=timedelta(), expiry=LONG
    )
    assert (kept["a"].tree, kept["a"].absent, waiting.count) == ({}, {}, 0)


def test_an_entry_that_moves_to_another_source_is_not_missing() -> None:
    moved = LastGood(WHOLE, NOW, absent=dict.fromkeys(WHOLE, Absence(EARLIER, 1)))
    newer = made(SERVICE_ENTRY, *(image(str(n), AppName=("new",)) for n in range(9)))
    sources = {"a": moved, "b": LastGood(newer, NOW)}
    _, waiting = last_good.release(sources, size=10, delay=DAY, hold=DAY, expiry=LONG)
    assert waiting.count == 0
    merged, _, _ = last_good.merge(sources, LONG)
    assert [entry.get("AppName") for dn, entry in merged.items() if "=3," in dn] == [("new",)]


def test_entries_of_two_sources_that_differ_are_reported_once_for_each_pair() -> None:
    """The first source is published; that the other one says something else is not silent."""
    here = made(SERVICE_ENTRY, image("1"), image("2"), image("3"))
    time = {"GLUE2EntityCreationTime": ("2026-11-30T10:00:00Z",)}
    there = made(
        SERVICE_ENTRY, image("1", AppName=("x",)), image("2", AppName=("x",)), image("3", **time)
    )
    sources = {"provider/a": LastGood(here, NOW), "provider/b": LastGood(there, NOW)}
    merged, _, problems = last_good.merge(sources, LONG)
    line = "provider/b: entries that differ from those of provider/a, which are published: 2, "
    assert problems == [f"{line}such as GLUE2ApplicationEnvironmentID=1,{SERVICE}"]
    assert all(merged[dn] is entry for dn, entry in here.items())
    sources["provider/c"] = LastGood(dict(here), NOW)
    assert last_good.merge(sources, LONG)[2] == problems
    # what the answer of one source lacks is no contradiction
    absent = dict.fromkeys(there, Absence(EARLIER, 1))
    sources["provider/b"] = LastGood(there, NOW, absent=absent)
    assert last_good.merge(sources, LONG)[2] == []


def test_an_entry_of_a_source_that_answers_precedes_a_stale_one() -> None:
    """Two BDIIs of one cloud: while the first is silent, the second is published."""
    time = {"GLUE2EntityCreationTime": ("2026-11-30T10:00:00Z",)}
    first = LastGood(made(SERVICE_ENTRY, image("1", **time), image("2", **time)), NOW)
    second = LastGood(made(SERVICE_ENTRY, image("1", **time), image("3", **time)), NOW)
    sources = {"a": last_good.silent(first, HOUR), "b": second}
    merged, stale, problems = last_good.merge(sources, LONG)
    assert (info(merged, "1"), problems) == (set(), [])
    assert "Stale=TRUE" in info(merged, "2")
    assert stale == 1
    # and if neither answers, the first is published, marked
    sources["b"] = last_good.silent(second, 2 * HOUR)
    merged, stale, problems = last_good.merge(sources, LONG)
    assert "Stale=TRUE" in info(merged, "1")
    assert (stale, problems) == (4, [])


# --------------------------------------------------------------------------------------------------
# single decisions


def made_at(*times: str) -> dict[str, tuple[str, ...]]:
    return {"GLUE2EntityCreationTime": times}


@pytest.mark.parametrize(
    ("times", "is_kept"),
    [
        (["2025-11-24T12:00:00Z"], True),
        (["2025-11-24T11:59:59Z"], False),
        (["2026-11-24T12:02:00Z"], True),
        (["2026-11-24T12:02:01Z"], False),
        (["2026-11-24T11:00:00Z", "2001-01-01T00:00:00Z"], False),
    ],
)
def test_creation_times_of_the_last_year_are_kept(times: list[str], is_kept: bool) -> None:
    """And of the next two minutes: clocks of two hosts differ."""
    old = made(SERVICE_ENTRY, image("1", **made_at(*times)))
    last = after(old, made(SERVICE_ENTRY, image("1")))
    (kept,) = (entry for dn, entry in last.tree.items() if dn.startswith("glue2app"))
    assert (kept in old.values()) == is_kept


def test_a_source_has_ended_no_line_until_it_does() -> None:
    assert not LastGood({}, NOW).is_terminated


def test_an_entry_that_was_absent_and_whose_vo_fails_now_stays_absent() -> None:
    old = made(SERVICE_ENTRY, image("b", "b"))
    one = after(old, made(SERVICE_ENTRY))
    failing = advance(one, made(SERVICE_ENTRY), failed={"b"}, now=NOW, elapsed=HOUR)
    assert failing.absent == one.absent
    assert names(failing.tree) == {"s", "b"}
    back = advance(failing, old, now=NOW, elapsed=HOUR)
    assert not back.absent


def test_one_doubtful_entry_is_marked_beside_one_that_is_proven_to_be_missing() -> None:
    proven, doubtful = Absence(EARLIER, 1), Absence(EARLIER, 0, doubtful=HOUR)
    absent = {dn: doubtful if "=8," in dn else proven for dn in WHOLE if dn not in PART}
    absent |= {dn: proven for dn in WHOLE if "=7," in dn}
    shown = publishable(LastGood(WHOLE, NOW, absent=absent), LONG)
    assert "Stale=TRUE" in info(shown, "8")
    assert info(shown, "7") == set()


def test_an_entry_without_one_above_it_is_reported_with_its_source() -> None:
    orphan = made((f"GLUE2ServiceID=o,{SERVICE}", {"objectClass": ("GLUE2Service",)}))
    sources = {"a": LastGood(made(image("1")), NOW), "b": LastGood(orphan, NOW)}
    _, _, problems = last_good.merge(sources, LONG)
    words = "left out, because no source has the entry above it"
    assert set(problems) == {
        f"a: GLUE2ApplicationEnvironmentID=1,{SERVICE}: {words}",
        f"b: GLUE2ServiceID=o,{SERVICE}: {words}",
    }


def test_the_source_of_an_entry_is_the_one_whose_answer_has_it() -> None:
    (dn,) = made(image("1"))
    without = LastGood(made(image("1")), NOW, absent={dn: Absence(EARLIER, 1)})
    sources = {"a": LastGood({}, NOW), "b": without, "c": LastGood(made(image("1")), NOW)}
    assert last_good.source_of(sources, dn) == "c"
    del sources["c"]
    assert last_good.source_of(sources, dn) == "b"
    del sources["b"]
    assert last_good.source_of(sources, dn) == ""


def test_an_entry_of_two_failing_vos_is_as_old_as_the_younger() -> None:
    old = made(SERVICE_ENTRY, image("both", "a", "b"))
    failed = {"a": StaleAge(EARLIER, 2 * DAY), "b": StaleAge(NOW, HOUR)}
    shown = publishable(LastGood(old, NOW, failed), LONG)
    assert "CollectedAt=2026-11-24T12:00:00Z" in info(shown, "both")


def test_a_hold_is_reported_while_it_holds_something() -> None:
    def waiting(hold: timedelta, waited: timedelta) -> tuple[int, bool]:
        one = made(image("1"))
        last = LastGood(one, NOW, absent=dict.fromkeys(one, Absence(EARLIER, 2, waited)))
        _, found = last_good.release({"x": last}, size=1, delay=HOUR, hold=hold, expiry=LONG)
        return found.count, found.is_held

    assert waiting(DAY, HOUR) == (1, True)
    assert waiting(DAY, DAY) == (0, False)
    assert waiting(HOUR, timedelta()) == (1, False), "no longer than each removal waits"


def test_of_two_entries_that_wait_one_may_go_and_the_other_is_held() -> None:
    """The hold is over for one of them; the other one is missing since a later answer."""
    two = made(image("1"), image("2"))
    first, second = two
    absent = {first: Absence(EARLIER, 2, DAY), second: Absence(EARLIER, 2, HOUR)}
    kept, found = last_good.release(
        {"x": LastGood(two, NOW, absent=absent)}, size=2, delay=HOUR, hold=DAY, expiry=LONG
    )
    assert kept["x"].tree.keys() == {second}
    assert (found.count, found.is_held) == (1, True)


def test_what_names_only_failed_vos_stays_as_it_is() -> None:
    old = made(SERVICE_ENTRY, image("b", "b"))
    last = after(old, made(SERVICE_ENTRY), "b")
    assert all(last.tree[dn] is entry for dn, entry in old.items() if "=b," in dn)
    time = made_at("2026-11-24T11:00:00Z")
    new = made(SERVICE_ENTRY, image("b", "b", AppName=("newer",), **time))
    last = after(old, new, "b")
    assert all(last.tree[dn] is entry for dn, entry in new.items() if "=b," in dn)


def test_a_shared_entry_that_a_vo_has_left_keeps_its_other_words_and_what_it_needs() -> None:
    def shared(*words: str) -> Made:
        dn, attributes = image("both")
        return dn, {**attributes, "GLUE2EntityOtherInfo": words}

    group: Made = ("GLUE2GroupID=g,o=glue", {"objectClass": ("GLUE2Group",)})
    below = "GLUE2ServiceID=below,GLUE2GroupID=g,o=glue"
    keys = {"GLUE2ServiceResourceForeignKey": ("far",)}
    needed: Made = (below, {"objectClass": ("GLUE2Service",), **keys})
    far: Made = (f"GLUE2ResourceID=far,{SERVICE}", {"objectClass": ("GLUE2Resource",)})
    dn, attributes = shared("VO=a", "VO=b", "image_version=1")
    both = dn, {**attributes, "GLUE2ApplicationEnvironmentManagerForeignKey": ("below",)}
    last = after(made(SERVICE_ENTRY, group, both, needed, far), made(group), "b")
    assert info(last.tree, "both") == {"VO=b", "image_version=1"}
    assert not last.absent, "the entry above it, the one that it names, and what that one names"


def test_a_stored_entry_is_marked_when_somebody_reads_it(tmp_path: Path) -> None:
    """Most entries are on disk; a mark must not bring them all into memory."""
    state = StateDirectory(tmp_path)
    tree_ = made(SERVICE_ENTRY, image("1", "a", **made_at("2026-11-24T09:00:00Z")))
    state.save({"x": LastGood(tree_, EARLIER)})
    (plain,) = (entry for dn, entry in tree_.items() if dn.startswith("glue2app"))
    assert isinstance(plain, StoredEntry)
    marked = [
        next(
            entry
            for dn, entry in publishable(LastGood(tree_, at, silence=HOUR), LONG).items()
            if dn.startswith("glue2app")
        )
        for at in (EARLIER, NOW, NOW)
    ]
    assert set(marked[0].get("GLUE2EntityOtherInfo")) == {
        *("VO=a", "Stale=TRUE", "CollectedAt=2026-11-24T10:00:00Z")
    }
    assert marked[0].dn == plain.dn
    assert traits(marked[0]) == traits(plain)
    assert not tree.is_same(marked[0], plain)
    assert not tree.is_same(marked[0], marked[1])
    assert tree.is_same(marked[1], marked[2])
