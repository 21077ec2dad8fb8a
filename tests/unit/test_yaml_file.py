"""YAML files become sections and options with lines; other forms are reported with their lines."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from appliance.core.config import yaml_file
from appliance.core.run.errors import ConfigurationError

PATH = Path("openstack.yaml")

keys = st.text(st.sampled_from("abc_-:/# é"), min_size=1, max_size=8)
texts = st.text(st.sampled_from("ab1 .:#-'\"\\é\n,{}[]&*!|>%@~"), max_size=12)
items = st.text(st.sampled_from("ab1.:#é"), min_size=1, max_size=6)
trees = st.recursive(
    st.none() | texts | st.lists(items, max_size=3),
    lambda below: st.dictionaries(keys, below, max_size=3),
    max_leaves=12,
)


def flat(tree: dict[str, Any], path: str = "") -> dict[tuple[str, str], str]:
    found = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found.update(flat(value, f"{path}.{key}".lstrip(".")))
        else:
            found[path or "DEFAULT", key] = (
                ",".join(value) if isinstance(value, list) else value or ""
            )
    return found


@given(st.dictionaries(keys, trees, max_size=4), st.booleans())
def test_values_are_those_that_pyyaml_wrote_and_stand_on_their_lines(
    tree: dict[str, Any], flow: bool
) -> None:
    text = yaml.safe_dump(
        tree, allow_unicode=True, sort_keys=False, default_flow_style=flow or None, width=1000
    )
    document = yaml_file.parse(PATH, text)
    found = {
        (section, name): entry
        for section, below in document.sections.items()
        for name, entry in below.items()
    }
    assert {place: entry.text for place, entry in found.items()} == flat(tree)
    lines = text.split("\n")
    for (_, name), entry in found.items():
        key = yaml.safe_dump({name: 1}, allow_unicode=True).partition(": 1")[0].removeprefix("? ")
        assert key in lines[entry.line - 1]


def test_what_stays_text() -> None:
    document = yaml_file.parse(
        PATH, "a:\n  v: 1.10\n  o: 010\n  d: 2026-11-22\n  y: yes\n  n: ~\n  m:\n  q: 'null'\n"
    )
    texts_found = {name: (entry.text, entry.line) for name, entry in document.sections["a"].items()}
    assert texts_found == {
        "v": ("1.10", 2), "o": ("010", 3), "d": ("2026-11-22", 4), "y": ("yes", 5),
        "n": ("", 6), "m": ("", 7), "q": ("null", 8),
    }  # fmt: skip


def test_names_that_the_file_chooses_have_lines() -> None:
    text = (
        "---\ncompute:\n  shares:\n    ops: {auth: {project_id: x}}\n    fedcloud.egi.eu:\n      "
        "auth:\n        project_id: y\n"
    )
    tree = yaml_file.parse(PATH, text)
    assert {name: entry.line for name, entry in tree.children["compute.shares"].items()} == {
        "ops": 4,
        "fedcloud.egi.eu": 5,
    }
    entry = tree.get("compute.shares.fedcloud.egi.eu.auth", "project_id")
    assert entry is not None
    assert (entry.text, entry.line) == ("y", 7)


def test_lists_of_mappings_are_numbered() -> None:
    tree = yaml_file.parse(PATH, "vos:\n- name: ops\n  auth: {project_id: x}\n- name: biomed\n")
    assert list(tree.children[""]) == ["vos[0]", "vos[1]"]
    assert {place: [*below] for place, below in tree.sections.items()} == {
        "vos[0]": ["name"], "vos[0].auth": ["project_id"], "vos[1]": ["name"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        ("a:\n b: 1\n b: 2", "3: a.b: is set a second time; first in line 2; remove one"),
        (
            "a:\n\tb: 1",
            (
                "2: is not YAML: found character that cannot start any token; indent with blanks, "
                "not with TABs"
            ),
        ),
        ("é: 1\nb: \a", "2: is not YAML: it has the control character U+0007; delete it"),
        ("a: b: c", "1: is not YAML: mapping values are not allowed in this context"),
        ("- a", "1: must be lines of the form 'name: value'"),
        (
            "x: &y {b: 1}\nz: *y",
            "1: z: aliases and nesting as deep as this are not read here; write the values out",
        ),
        ("a: {<<: {b: 1}}", "1: a: this form of key is not read here; write 'name: value'"),
        ('a: {"b\\nc": 1}', r"1: a: the name 'b\nc' has control characters; correct it"),
        ("a: [b, [c]]", "1: a: a list within a list is not read here"),
        ("a: [1, '2,3']", "1: a: a comma within an item of a list is not read here"),
        (
            "a:\n  b.c: {d: 1}\n  b: {c: {e: 1}}",
            "3: a.b.c: has the same path as another name in this file; rename",
        ),
        (
            "a: " + "{a: " * 25 + "}" * 25,
            "1: " + ".".join(["a"] * 21) + ": aliases and nesting as deep as this",
        ),
        ("a: 1\n---\nb: 1", "2: is not YAML: but found another document"),
    ],
)
def test_what_is_not_read_is_reported_with_its_line(text: str, reported: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        yaml_file.parse(PATH, text)
    assert str(raised.value).startswith(f"{PATH}:{reported}")
    assert "\n" not in str(raised.value)


def test_an_empty_file_is_an_empty_document() -> None:
    assert yaml_file.parse(PATH, "# nothing\n").sections == {}
