"""Entries in a file are those that were stored, and digests tell whether two say the same."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from appliance.core import ldif
from appliance.core.ldif import Entry
from bdii import entry as entries
from bdii import tree
from bdii.entry import EntryFile, EntryStore
from bdii.service.state import StateDirectory

Attributes = Mapping[str, tuple[str, ...]]

values = st.lists(
    st.sampled_from(["a", "A", " a", "a ", "é", "x\ny", "\udcff", "a\0b", ":", "<", "VO=ops"])
    | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
    min_size=1,
    max_size=3,
    unique=True,
).map(tuple)
names = st.sampled_from(["info", "GLUE2EntityOtherInfo", "GLUE2EntityCreationTime", "x;lang-en"])
attributes = st.dictionaries(names, values, max_size=4).map(
    lambda found: {"objectClass": ("GLUE2Service",), **found}
)
dns = st.sampled_from(["o=glue", "GLUE2GroupID=é,o=glue", "GLUE2GroupID=a\\2Cb , o=glue"])


@given(st.lists(st.tuples(dns, attributes), max_size=5))
def test_a_stored_entry_is_the_entry(made: list[tuple[str, Attributes]]) -> None:
    with tempfile.TemporaryFile() as file:
        store = EntryStore(EntryFile(file))
    plain = [Entry(dn, found) for dn, found in made]
    stored = [
        store.add(one, digest=entries.content_digest(one), raw=entries.block_digest(b""))
        for one in plain
    ]
    assert stored == plain
    assert [one.block for one in stored] == [entries.formatted(one) for one in plain]
    assert [one.traits for one in stored] == [entries.traits(one) for one in plain]


def content(found: Attributes) -> dict[str, frozenset[str]]:
    return {name.lower(): frozenset(values) for name, values in found.items()}


@given(attributes, attributes)
def test_two_entries_are_the_same_if_their_contents_are(one: Attributes, other: Attributes) -> None:
    is_same = tree.is_same(Entry("o=glue", one), Entry("o=x", other))
    assert is_same is (content(one) == content(other))
    swapped = {name.upper(): tuple(reversed(found)) for name, found in reversed(list(one.items()))}
    assert tree.is_same(Entry("o=glue", one), Entry("o=glue", swapped))


@given(attributes, st.booleans(), st.sampled_from(["\n", "\r\n"]), st.sampled_from([10, 76, 9999]))
def test_a_state_file_is_read_however_it_is_written(
    found: Attributes, has_comment: bool, end: str, width: int
) -> None:
    """Earlier releases folded lines; administrators edit files."""
    made = Entry("GLUE2GroupID=x,o=glue", found)
    text = ldif.format_entry(made, width=width).replace("\n", end)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "published.ldif"
        path.write_bytes(f"{'# comment' + end if has_comment else ''}{text}{end}".encode())
        state = StateDirectory(Path(directory))
        read = state.published()
        assert list(read.values()) == [made]
        copy = {**read, tree.normal("o=glue"): Entry("o=glue", {"objectClass": ("x",)})}
        state.write_published(copy)
        assert StateDirectory(Path(directory)).published() == copy
