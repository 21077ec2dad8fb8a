"""Plans: how they are printed, what the guards hold, and which need a new database."""

from datetime import UTC, datetime, timedelta

import pytest

from appliance.core.ldif import Entry
from bdii import plan
from bdii.plan import NOTHING_VANISHED, Add, Delete, Modify, TreePlan
from bdii.tree import normal

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


def entry(name: str) -> Entry:
    return Entry(f"GLUE2GroupID={name},o=glue", {"objectClass": ("GLUE2Group",)})


def modified(**changes: tuple[str, ...]) -> TreePlan:
    return TreePlan((), (Modify(normal(entry("a").dn), entry("a"), changes),), ())


def test_a_line_for_each_change_and_one_that_counts() -> None:
    made = TreePlan(
        (Add(normal(entry("new").dn), entry("new")),),
        modified(b=("1",), a=()).modifies,
        (Delete(normal(entry("old").dn), entry("old")),),
    )
    assert list(plan.describe(made)) == [
        "add     GLUE2GroupID=new,o=glue",
        "modify  GLUE2GroupID=a,o=glue: a, b",
        "delete  GLUE2GroupID=old,o=glue",
        "1 to add, 1 to modify, 1 to delete",
    ]


@pytest.mark.parametrize(
    ("made", "does"),
    [
        (modified(info=("1",), objectclass=("x",)), True),
        (modified(info=("1",)), False),
        (modified(), False),
    ],
)
def test_a_change_of_class_is_seen(made: TreePlan, does: bool) -> None:
    assert made.changes_class is does


def test_a_deletion_is_due_at_the_moment_that_its_delay_ends() -> None:
    gone = TreePlan((), (), (Delete(normal(entry("a").dn), entry("a")),))
    times = {"delay": timedelta(hours=1), "hold": timedelta(hours=2)}
    first, remembered = plan.guard(gone, size=4, remembered=NOTHING_VANISHED, now=NOW, **times)
    assert (first.deletes, first.waiting) == ((), gone.deletes)
    early, _ = plan.guard(
        gone, size=4, remembered=remembered, now=NOW + timedelta(minutes=59), **times
    )
    assert early.waiting == gone.deletes
    due, _ = plan.guard(gone, size=4, remembered=remembered, now=NOW + timedelta(hours=1), **times)
    assert (due.deletes, due.waiting) == (gone.deletes, ())


def test_more_than_half_is_held_and_half_is_not() -> None:
    gone = TreePlan((), (), (Delete(normal(entry("a").dn), entry("a")),))
    times = {"delay": timedelta(0), "hold": timedelta(hours=2)}
    half, remembered = plan.guard(gone, size=2, remembered=NOTHING_VANISHED, now=NOW, **times)
    assert (half.deletes, remembered.held_since) == (gone.deletes, None)
    more, remembered = plan.guard(gone, size=1, remembered=NOTHING_VANISHED, now=NOW, **times)
    assert (more.waiting, remembered.held_since) == (gone.deletes, NOW)
    due, _ = plan.guard(gone, size=1, remembered=remembered, now=NOW + timedelta(hours=2), **times)
    assert due.deletes == gone.deletes


def test_an_entry_that_is_the_same_in_other_order_and_case_has_no_difference() -> None:
    old = Entry("o=glue", {"objectClass": ("a", "b"), "info": ("1",)})
    assert plan.difference(old, Entry("o=glue", {"objectclass": ("b", "a"), "Info": ("1",)})) == {}
