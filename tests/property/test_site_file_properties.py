"""Whatever a description of a site says, it is read or refused by its lines, never a bug."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from appliance.core.run.errors import ConfigurationError, Problem
from tests.unit.test_provider_settings import RC, load

NAMES = (
    *("site", "name", "gocdb", "endpoint", "vos", "auth", "project_id", "compute", "shares"),
    *("images", "defaults", "templates", "endpoints", "require_marketplace_id", "total_cores"),
    *("username", "auth_type", "region", "protocol", "accounting", "membership", "capabilities"),
)
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=20))
trees = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.sampled_from(NAMES), st.text(max_size=8)), inner, max_size=5),
    ),
    max_leaves=20,
)


def attempt(root: Path, description: Any, *flags: str) -> None:
    text = json.dumps(description)  # JSON is YAML
    problems: Sequence[Problem] = ()
    try:
        load(root, *flags, rc=RC, text=text)
    except ConfigurationError as error:
        problems = error.problems
    for problem in problems:
        assert str(problem).startswith("/")
        assert "\n" not in problem.text


@given(trees)
def test_any_tree(description: Any) -> None:
    with tempfile.TemporaryDirectory() as root:
        attempt(Path(root), description)
        attempt(Path(root), description, "--middleware", "static")


@given(trees, trees, trees, st.sampled_from(["gocdb", "site"]))
def test_any_tree_where_vos_are_expected(name: Any, vos: Any, auth: Any, form: str) -> None:
    if form == "gocdb":
        described = {"gocdb": name, "endpoint": "https://k.example.org/v3", "vos": vos}
        described = {**described, "auth": auth} if not isinstance(auth, dict) else described
    else:
        shares = {"ops": {"auth": auth}, "other": vos}
        described = {"site": {"name": name}, "compute": {"shares": shares}}
    with tempfile.TemporaryDirectory() as root:
        attempt(Path(root), described)
