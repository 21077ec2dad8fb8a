"""Whatever a description of a site says, it is read or refused by its lines, never a bug."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from appliance.core import ldif
from appliance.core.run.errors import ConfigurationError, Problem
from appliance.core.run.layout import Layout
from appliance.core.run.record import RunRecord
from cloud_info_provider import reading
from cloud_info_provider.formats import selection
from tests.unit.test_provider_settings import RC, load

NAMES = (
    *("site", "name", "gocdb", "endpoint", "vos", "auth", "project_id", "compute", "shares"),
    *("images", "defaults", "templates", "endpoints", "require_marketplace_id", "total_cores"),
    *("username", "auth_type", "region", "protocol", "accounting", "membership", "capabilities"),
    *("storage", "quotas", "failover", "virtual_disk_formats", "max_accelerators", "schema"),
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
    refused(root, json.dumps(description), *flags)  # JSON is YAML


def refused(root: Path, text: str, *flags: str) -> None:
    """Read a text; if it is refused, each reason is one line that begins with the file."""
    problems: Sequence[Problem] = ()
    try:
        load(root, *flags, rc=RC, text=text)
    except ConfigurationError as error:
        problems = error.problems
    for problem in problems:
        assert str(problem).startswith("/")
        assert "\n" not in str(problem)


SHIPPED = Path(__file__).parents[2] / "etc/cloud-info-provider/openstack.yaml"
OF_CATCH_ALL = """\
gocdb: EXAMPLE-SITE
endpoint: https://k.example.org:5000/v3
images: {sync: true, formats: [qcow2, raw]}
vos:
  - name: ops
    auth: {project_id: abc}
"""
marks = st.sampled_from(
    [
        *("\n", "  ", "\t", ": ", "- ", "? ", "| ", "> ", "{", "}", "[", "]", '"', "'", "#", "~"),
        *("&a ", "*a", "<<: ", "!!binary ", "!!python/object:x ", "%YAML 1.1\n", "---\n", "...\n"),
        *("\0", "\ufeff", "\x85", "\u2028", "9" * 30, "'a\\nb': ", '"a\\nb": '),
    ]
)


@given(st.data(), st.sampled_from([SHIPPED.read_text(), OF_CATCH_ALL]))
def test_any_damaged_text(data: st.DataObject, text: str) -> None:
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        text = text[:start] + data.draw(marks) + text[start + data.draw(st.integers(0, 40)) :]
    with tempfile.TemporaryDirectory() as root:
        refused(Path(root), text)
        refused(Path(root), text, "--middleware", "static")


@given(trees)
@example({"site": {"a\nb": 1}})
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


OPTIONS = (
    *("total_storage", "used_storage", "service_name", "middleware", "capabilities", "platform"),
    *("api_type", "api_version", "api_authn_method", "network_in", "schema"),
    *("failover", "network_virt_type", "virtual_disk_formats", "max_accelerators"),
    *("access_info", "software", "description", "os_name", "id", "name", "api_endpoint_technology"),
)
# Without the control characters and pairs of surrogates that YAML refuses.
texts = st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["C"]), max_size=20)
values = st.none() | st.booleans() | st.integers() | texts
options = st.dictionaries(st.sampled_from(OPTIONS), values | st.lists(values), max_size=4)
urls = st.sampled_from(["defaults", "https://a.example.org", "https://b.example.org:1/x"])
served_at = st.dictionaries(urls, options, max_size=3)
lists = st.dictionaries(urls | texts, options, max_size=3)


@given(options, served_at, lists, lists, options, served_at)
def test_any_static_cloud_with_a_storage(
    compute: Any, endpoints: Any, templates: Any, images: Any, storage: Any, served: Any
) -> None:
    """What is read is printed in both forms, as LDIF that has no malformed record."""
    lists_of = {"endpoints": endpoints, "templates": templates, "images": images}
    described = {
        "site": {"name": "EXAMPLE-SITE"},
        "compute": {"service_name": "x", **compute, **lists_of, "shares": {"ops": {}}},
        "storage": {**storage, "endpoints": {"defaults": {"api_type": "CDMI"}, **served}},
    }
    with tempfile.TemporaryDirectory() as root:
        flags = ("--middleware", "static", "--site-in-suffix")
        try:
            found = load(Path(root), *flags, rc=None, text=json.dumps(described))
        except ConfigurationError:
            return  # `test_any_tree` has these
        cloud = reading.read(found, Layout(Path(root)), RunRecord("x", is_kept=False))
    text = selection.renderer("glue")(cloud).text
    records = [*ldif.read(text.encode().splitlines(keepends=True))]
    assert all(isinstance(record, ldif.Entry) for record in records)
    json.loads(selection.renderer("glue21json")(cloud).text)
