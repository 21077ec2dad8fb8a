"""What a run asks for when nothing has changed: §7.22, with the real frontend and backend."""

from __future__ import annotations

from collections import Counter

from tests.unit.test_image_stream import Flow, client, flow, web  # noqa: F401

# ruff: noqa: F811  the fixtures are those of the tests of streams


def test_a_run_without_a_change_asks_once_for_each_project(flow: Flow) -> None:
    """One token and one listing of visible and of hidden images each; no schema, no data."""
    flow.put()
    assert flow.run().failures == []
    glance = flow.site.glance
    glance.requests.clear()
    before = Counter(glance.cloud.requests)
    flow.web.requests.clear()
    report = flow.run()
    assert (report.failures, report.outcomes, report.unchanged) == ([], [], 1)
    assert glance.requests == ["GET /v2/images"] * 4  # two projects, visible and hidden
    asked = Counter(glance.cloud.requests) - before
    tokens = sum(number for name, number in asked.items() if name.startswith("POST /v3/auth"))
    # The account's own token, from which the projects are found, and one for each of the two.
    assert tokens <= 3, asked
    assert not [name for name in asked if "schema" in name]
    assert flow.web.requests == []
