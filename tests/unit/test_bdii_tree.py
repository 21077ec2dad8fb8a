"""Foreign entries are bounded in size, and none stops the others."""

import re
from dataclasses import replace

import pytest

from appliance.core import ldif
from appliance.core.ldif import Entry
from bdii import tree


def group(value: str, **more: tuple[str, ...]) -> Entry:
    return Entry(f"GLUE2GroupID={value},o=glue", {"objectClass": ("GLUE2Group",), **more})


@pytest.mark.parametrize(
    ("value", "is_taken"),
    [
        ("z" * 232, True),
        ("z" * 233, False),
        ("é" * 116, True),
        ("é" * 117, False),
        ("\\," * 77, True),
        ("\\," * 78, False),
    ],
)
def test_names_longer_than_slapd_can_store_are_left_out(value: str, is_taken: bool) -> None:
    """Limits found by trying: slapadd accepts 245 bytes; an escaped character has three."""
    made, problems = tree.of([group(value), group("neighbour")])
    assert len(made) == 1 + is_taken
    assert len(problems) == 1 - is_taken
    assert all("more than 245 bytes" in line and len(line) < 500 for line in problems)


@pytest.mark.parametrize(
    ("name", "is_taken"),
    [
        ("GLUE2GroupID=,o=glue", False),
        ("GLUE2GroupID=x,GLUE2GroupID=,o=glue", False),
        ("GLUE2GroupID=x+GLUE2GroupID=,o=glue", False),
        ("GLUE2GroupID=YWI=,o=glue", True),
        ("GLUE2GroupID=\\20,o=glue", False),
    ],
)
def test_a_name_without_a_value_is_left_out(name: str, is_taken: bool) -> None:
    """slapd calls it an invalid DN, without a reason."""
    entry = Entry(name, {"objectClass": ("GLUE2Group",)}, 7)
    made, problems = tree.of([entry, group("neighbour")])
    assert len(made) == 1 + is_taken
    if not is_taken:
        assert problems == [f"line 7: {name}: has an empty value in its name, left out"]


def test_an_entry_of_more_than_a_megabyte_is_left_out() -> None:
    made, problems = tree.of([group("large", o=("x" * 600_000, "y" * 500_000)), group("neighbour")])
    assert list(made) == ["glue2groupid=neighbour,o=glue"]
    assert problems == [
        "line 0: GLUE2GroupID=large,o=glue: has values of more than 1000000 characters, left out"
    ]


def test_a_missing_container_with_a_name_of_two_values_is_not_made_up() -> None:
    orphan = Entry("GLUE2ServiceID=s,GLUE2GroupID=a+o=b,o=glue", {"objectClass": ("GLUE2Service",)})
    whole, left_out = tree.complete(tree.of([orphan, group("neighbour")])[0])
    assert left_out == ["glue2serviceid=s,glue2groupid=a+o=b,o=glue"]
    assert "glue2groupid=neighbour,o=glue" in whole


def test_of_two_entries_of_one_name_the_second_is_reported_unless_it_is_equal() -> None:
    """Duplicate ids: the first entry is published, as ever; the other one was dropped silently."""
    first, equal = group("twice", o=("a", "b")), group("TWICE".lower(), o=("b", "a"))
    other = replace(group("twice", o=("c",)), line=7)
    made, problems = tree.of([replace(first, line=3), equal, other, group("neighbour")])
    assert made[tree.normal(first.dn)].get("o") == ("a", "b")
    assert len(made) == 2
    words = "differs from the entry of the same name in line 3, left out"
    assert problems == [f"line 7: GLUE2GroupID=twice,o=glue: {words}"]


@pytest.mark.parametrize(
    "dn",
    [
        "GLUE2GroupID=a,o=glue",
        "GLUE2GroupID=a\\,b,o=glue",
        'GLUE2GroupID="a,b",o=glue',
        "GLUE2GroupID=a , O = Glue",
        "o=glue",
        "o=glue,",
        ",o=glue",
        "a=b,,o=glue",
        "a=b+c=d,o=glue",
        "nonsense,o=glue",
        "a=b,nonsense",
        "",
    ],
)
def test_a_name_is_normalised_as_a_whole(dn: str) -> None:
    """The names above an entry are remembered, which must not show."""
    for _ in range(2):
        try:
            wanted = ldif.normalise_dn(dn)
        except ldif.LdifError as error:
            with pytest.raises(ldif.LdifError, match=f"^{re.escape(str(error))}$"):
                tree.normal(dn)
        else:
            assert tree.normal(dn) == wanted


def test_a_name_with_an_escaped_byte_that_is_not_utf_8_stops_no_other() -> None:
    entries = [group("\\ce"), group("x")]
    found, problems = tree.of(entries)
    assert list(found) == ["glue2groupid=x,o=glue"]
    assert problems == ["line 0: GLUE2GroupID=\\ce,o=glue: is not UTF-8, left out"]
