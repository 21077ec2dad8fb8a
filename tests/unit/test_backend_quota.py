"""A project's quota for images: known before data move, or remembered for the rest of the run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from cloudkeeper.backend import calls
from cloudkeeper.frontend.sync_report import SyncReport
from cloudkeeper.model import ApplianceId, Format, ImageList, ListId, Offer
from cloudkeeper.wire.status import ROOM
from tests.simulators.openstack import Answer
from tests.unit.test_image_stream import (  # noqa: F401
    LIST,
    MIB,
    RAW,
    Flow,
    client,
    flow,
    web,
)

# ruff: noqa: F811  the fixtures are those of the tests of streams

LARGER = RAW + RAW[-512:] * 2048
"""Of six MiB, and of other bytes."""
OVER = "413 Request Entity Too Large: Denying attempt to upload image because it exceeds the quota"


def offers(flow: Flow, **contents: bytes) -> None:
    """Offer an image of each content, all to one VO."""
    flow.put()
    (one,) = flow.source.offers
    flow.source.offers = []
    for number, (name, content) in enumerate(contents.items(), start=1):
        uri = flow.web.put(f"/{name}.img", content)
        identifier = ApplianceId(f"5b4f1d2e-0000-4000-8000-00000000000{number}")
        digest = f"sha512:{hashlib.sha512(content).hexdigest()}"
        flow.source.offers.append(
            Offer(
                replace(one.appliance, identifier=identifier, title=name),
                replace(one.source, uri=uri, digest=digest, size=len(content)),
            )
        )


def limited(flow: Flow, usage: object) -> None:
    """Let Glance answer the question for the usage."""

    def answer(method: str, path: str) -> Answer | None:
        return Answer(body=usage) if (method, path) == ("GET", "/v2/info/usage") else None

    flow.site.glance.fault = answer


def sent(flow: Flow) -> list[str]:
    """Return the requests that create images or upload data."""
    return [line for line in flow.site.glance.requests if line.startswith(("POST", "PUT"))]


def usage(left: int, **more: object) -> dict[str, Any]:
    return {"usage": {"image_size_total": {"limit": 100, "usage": 100 - left}, **more}}


def test_an_image_without_room_is_not_sent(flow: Flow) -> None:
    """§7.20: Glance says what is left; not even a record is made."""
    offers(flow, one=RAW)
    limited(flow, usage(5))
    (line,) = flow.run().failures
    assert (
        "project one: has no room for the image: 5 MiB are left, and it has 6 MiB; nothing was "
        "sent; raise the quota, or delete images of the project; the next run retries" in line
    )
    assert sent(flow) == []
    assert flow.site.glance.images == {}


def test_what_the_run_has_stored_counts(flow: Flow) -> None:
    offers(flow, one=RAW, two=LARGER)
    limited(flow, usage(9))
    (line,) = flow.run().failures
    assert "4 MiB are left, and it has 7 MiB" in line or "3 MiB are left, and it has 7 MiB" in line
    assert flow.site.glance.shown() == ["one"]
    asked = [line for line in flow.site.glance.requests if "usage" in line]
    assert len(asked) == 1


def test_a_number_of_images_is_a_limit_too(flow: Flow) -> None:
    offers(flow, one=RAW)
    limited(flow, usage(50, image_count_total={"limit": 10, "usage": 10}))
    (line,) = flow.run().failures
    assert "no further image is allowed" in line
    assert sent(flow) == []


@pytest.mark.parametrize(
    "answer",
    [
        {"usage": {}},
        {"usage": {"image_size_total": {"limit": -1, "usage": 5}}},
        {"usage": {"image_size_total": "unknown"}},
        {"usage": {"image_size_total": {"limit": None}}},
        {"usage": []},
        {},
        [],
    ],
)
def test_without_a_limit_that_glance_names_the_image_is_sent(flow: Flow, answer: object) -> None:
    """Without limits of Keystone the answer is empty; other answers decide nothing."""
    offers(flow, one=RAW)
    limited(flow, answer)
    assert flow.run().failures == []
    assert flow.site.glance.shown() == ["one"]


def refusing(flow: Flow, *, times: int) -> Callable[[], int]:
    """Let Glance refuse uploads with 413; return a function for the number of uploads."""
    seen: list[str] = []

    def answer(method: str, path: str) -> Answer | None:
        if method == "PUT" and path.endswith("/file"):
            seen.append(path)
            return Answer(413, OVER) if len(seen) <= times else None
        return None

    flow.site.glance.fault = answer
    return lambda: len(seen)


def test_a_refusal_is_remembered_for_the_run(flow: Flow) -> None:
    """A larger image of the project is not sent in the same run; the next run asks again."""
    offers(flow, one=RAW, two=LARGER)
    uploads = refusing(flow, times=1)
    report: SyncReport = flow.run()
    assert uploads() == 1
    first, second = report.failures
    assert "the project's quota for images is used up (Glance: 413" in first
    assert (
        "project one: has no room for the image: one of 6 MiB was refused in this run, and this "
        "one has 7 MiB: the project's quota for images is used up" in second
    )
    assert flow.run().failures == []
    assert flow.site.glance.shown() == ["one", "two"]


def test_a_refusal_concerns_neither_smaller_images_nor_other_projects(flow: Flow) -> None:
    small = RAW[: 2 * MIB]
    offers(flow, two=LARGER, one=RAW)
    larger, one = flow.source.offers
    offers(flow, small=small)
    (little,) = flow.source.offers
    uploads = refusing(flow, times=1)
    other = ListId("7c1d2e3f-0000-4000-8000-00000000000b")
    theirs = replace(larger, appliance=replace(larger.appliance, vo="biomed", list_id=other))
    little = replace(
        little,
        appliance=replace(
            little.appliance, identifier=ApplianceId("5b4f1d2e-0000-4000-8000-000000000009")
        ),
    )
    flow.source.lists = [
        ImageList(identifier=LIST, vo="ops", offers=(one,)),
        ImageList(identifier=other, vo="biomed", offers=(theirs,)),
        ImageList(
            identifier=ListId("7c1d2e3f-0000-4000-8000-00000000000c"),
            vo="ops",
            offers=(
                replace(
                    little,
                    appliance=replace(
                        little.appliance, list_id=ListId("7c1d2e3f-0000-4000-8000-00000000000c")
                    ),
                ),
            ),
        ),
    ]
    assert len(flow.run().failures) == 1
    assert uploads() == 3
    assert flow.site.glance.shown() == ["small", "two"]


def downloads(flow: Flow) -> int:
    return sum(method == "GET" for method, *_ in flow.web.requests)


def test_a_file_without_room_is_not_downloaded(flow: Flow) -> None:
    """Sent as a file, because the backend is on another host: the declared size is enough."""
    offers(flow, one=RAW, two=LARGER)
    declare(flow, "RAW")
    limited(flow, usage(7))
    (line,) = flow.run(over_tcp=True).failures
    assert "MiB are left, and it has 7 MiB; nothing was sent; raise the quota" in line
    assert flow.site.glance.shown() == ["one"]
    assert downloads(flow) == 1


@pytest.mark.parametrize("declared", ["QCOW2", "", "VMDK"])
def test_the_size_of_a_file_that_may_be_converted_says_nothing(flow: Flow, declared: str) -> None:
    """It may be smaller in Glance; only there it shows whether there is room."""
    offers(flow, one=RAW)
    declare(flow, declared)
    flow.workshop = replace(flow.workshop, accepted=(Format.RAW,))
    limited(flow, usage(5))
    (line,) = flow.run(over_tcp=True).failures
    assert "has no room for the image: 5 MiB are left, and it has 6 MiB" in line
    assert downloads(flow) == 1


def test_a_backend_that_knows_no_check_of_room_is_not_asked(
    flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would take the call for a change of the metadata."""
    monkeypatch.setattr(calls, "_FEATURES", tuple(one for one in calls._FEATURES if one != ROOM))
    offers(flow, one=RAW)
    declare(flow, "RAW")
    assert flow.run(over_tcp=True).failures == []
    asked = [line for line in flow.site.glance.requests if "usage" in line]
    assert len(asked) == 1  # by the upload


def declare(flow: Flow, declared: str) -> None:
    """Have the list state a format for all images."""
    flow.source.offers = [
        replace(
            one,
            appliance=replace(
                one.appliance, attributes={**one.appliance.attributes, "hv:format": declared}
            ),
        )
        for one in flow.source.offers
    ]
