"""Plans: how they are printed, and which need a new database."""

import pytest

from appliance.core.ldif import Entry
from bdii import plan
from bdii.plan import Add, Delete, Modify, TreePlan
from bdii.tree import normal


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
    ],
)
def test_a_change_of_class_is_seen(made: TreePlan, does: bool) -> None:
    assert [change.changes_class for change in made.modifies] == [does]


def test_an_entry_that_is_the_same_in_other_order_and_case_has_no_difference() -> None:
    old = Entry("o=glue", {"objectClass": ("a", "b"), "info": ("1",)})
    assert plan.difference(old, Entry("o=glue", {"objectclass": ("b", "a"), "Info": ("1",)})) == {}
