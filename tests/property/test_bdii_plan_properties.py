"""Plans between any two trees: after each change, readers find a valid tree."""

from hypothesis import given
from hypothesis import strategies as st

from appliance.core.ldif import Entry
from bdii import plan, tree
from bdii.plan import Add, Delete, Modify

# Names of up to four letters below o=glue; a tree holds with each name all those above it.
PATHS = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(tuple)


def name(path: tuple[str, ...]) -> str:
    return ",".join([*(f"GLUE2GroupID={part}" for part in reversed(path)), "o=glue"])


@st.composite
def trees(draw: st.DrawFn) -> dict[tree.Dn, Entry]:
    paths = draw(st.sets(PATHS, max_size=12))
    whole = {path[:length] for path in paths for length in range(len(path) + 1)} | {()}
    values = st.lists(st.sampled_from(["1", "2", "é"]), max_size=2, unique=True).map(tuple)
    return {
        tree.normal(name(path)): Entry(
            name(path),
            {"objectClass": ("GLUE2Group",), "info": info}
            if info
            else {"objectClass": ("GLUE2Group",)},
        )
        for path in sorted(whole)
        for info in [draw(values)]
    }


def carry_out(made: plan.TreePlan, old: dict[tree.Dn, Entry]) -> list[dict[tree.Dn, Entry]]:
    """Return the directory's content before and after each change."""
    states = [dict(old)]
    for change in made:
        state = dict(states[-1])
        match change:
            case Add(dn, entry):
                assert dn not in state
                state[dn] = entry
            case Modify(dn, _, changes):
                attributes = {k: v for k, v in state[dn].attributes.items() if k not in changes}
                state[dn] = Entry(
                    state[dn].dn, attributes | {k: v for k, v in changes.items() if v}
                )
            case Delete(dn, _):
                del state[dn]
        states.append(state)
    return states


def content(state: dict[tree.Dn, Entry]) -> dict[tree.Dn, dict[str, list[str]]]:
    return {dn: {k: sorted(v) for k, v in entry.attributes.items()} for dn, entry in state.items()}


@given(trees(), trees())
def test_any_tree_becomes_any_other_through_valid_states(
    old: dict[tree.Dn, Entry], new: dict[tree.Dn, Entry]
) -> None:
    made = plan.make(old, new)
    states = carry_out(made, old)
    assert content(states[-1]) == content(new)
    both = old.keys() & new.keys()
    for state in states:
        assert both <= state.keys()
        assert len(state) >= min(len(old), len(new))
        assert all(dn == "o=glue" or dn.partition(",")[2] in state for dn in state)
    same = {dn for dn in both if content(old)[dn] == content(new)[dn]}
    assert not same & {change.dn for change in made}
    assert len(made) == len(old.keys() ^ new.keys()) + len(both - same)


@given(trees())
def test_an_equal_tree_in_other_objects_needs_no_change(old: dict[tree.Dn, Entry]) -> None:
    shuffled = {
        dn: Entry(
            entry.dn.upper(),
            {k.upper(): tuple(reversed(v)) for k, v in reversed(list(entry.attributes.items()))},
        )
        for dn, entry in reversed(old.items())
    }
    assert len(plan.make(old, shuffled)) == 0
