"""Which lists in the cloud have ended for certain; the cases are written by hand."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from cloudkeeper.frontend.ended import ConfiguredLists, EndedPolicy, Missing, plan
from cloudkeeper.frontend.reading import OfferSources
from cloudkeeper.frontend.sync_report import SyncReport
from cloudkeeper.model import Appliance, ApplianceId, Hide, ImageList, ListId, Refusal, Remove

SIGNED, REGISTRY = ListId("uuid-1"), ListId("registry.example.org/images/ops")


FORMER = frozenset({SIGNED, REGISTRY})


def lists(**more: object) -> ConfiguredLists:
    return ConfiguredLists(former=FORMER, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("known", "ended", "doubtful"),
    [
        (lists(), [SIGNED, REGISTRY], []),
        (lists(identifiers={SIGNED, REGISTRY}), [], []),
        (lists(identifiers={SIGNED}, expired={SIGNED: "it expired"}), [SIGNED, REGISTRY], []),
        # Not read, and never before: it could be any signed list, and no registry's.
        (lists(unknown=["a"], unread=["a"]), [REGISTRY], [SIGNED]),
        (lists(unknown=["a"], expired={SIGNED: "it expired"}), [SIGNED, REGISTRY], []),
        # Another frontend's, perhaps.
        (ConfiguredLists(), [], [SIGNED, REGISTRY]),
        (ConfiguredLists(expired={SIGNED: "it expired"}), [], [SIGNED, REGISTRY]),
        # A mirror has an expired copy; another source of the same list has not.
        (lists(offered={SIGNED}, expired={SIGNED: "it expired"}), [REGISTRY], []),
        # Another frontend offers the project to a VO of its own.
        (ConfiguredLists(former={SIGNED, ListId(f"{REGISTRY}-2")}), [SIGNED], [REGISTRY]),
        (lists(is_whole=False), [], []),
    ],
)
def test_lists_that_have_ended(
    known: ConfiguredLists, ended: list[ListId], doubtful: list[ListId]
) -> None:
    cloud = [SIGNED, REGISTRY]
    assert [one.identifier for one in known.ended(cloud)] == ended
    assert [one.identifier for one in known.doubtful(cloud)] == doubtful


def test_a_hidden_image_is_removed_and_is_not_hidden_twice() -> None:
    seen = Appliance(ApplianceId("a"), SIGNED)
    hidden = Appliance(ApplianceId("b"), SIGNED, attributes={"hidden": "yes"})
    (found,) = lists().ended([SIGNED])
    why = "it is no longer configured"
    made = {policy: plan(found, [seen, hidden], policy) for policy in EndedPolicy}
    assert {policy: each[0].changes for policy, each in made.items()} == {
        EndedPolicy.KEEP: (),
        EndedPolicy.HIDE: (Hide(seen, why),),
        EndedPolicy.REMOVE: (Remove(seen, why), Remove(hidden, why)),
    }
    assert [len(each[1]) for each in made.values()] == [2, 1, 0]


IGNORE = (
    "ask its publisher to correct them; or, if they replace nothing here, add them to ignore-images"
)


def refusals(*identifiers: str | None) -> list[Refusal]:
    return [Refusal(ApplianceId(one) if one else None, "is wrong") for one in identifiers]


@pytest.mark.parametrize(
    ("refused", "reason", "remedy"),
    [
        (
            refusals("a", "b", "a"),
            "list has images that were refused (a, b)",
            IGNORE,
        ),
        (
            refusals(*"abcdefg"),
            "list has images that were refused (a, b, c, d, e and 2 more)",
            IGNORE,
        ),
        # One without identifier cannot be ignored.
        (
            refusals("a", None),
            "list has images that were refused (a)",
            "ask its publisher to correct them",
        ),
        (
            refusals(None),
            "list has images that were refused",
            "ask its publisher to correct them",
        ),
    ],
)
def test_refused_images_that_hold_an_ended_list_are_named_with_a_remedy(
    refused: list[Refusal], reason: str, remedy: str
) -> None:
    class Source:
        def __str__(self) -> str:
            return "list"

        def list_ids(self) -> frozenset[ListId]:
            return frozenset({SIGNED})

        def fetch(self, **_: object) -> object:
            one = ImageList(identifier=SIGNED, vo="ops", offers=(), refused=tuple(refused))
            return [one], ()

    sources: list[Any] = [Source()]
    found = OfferSources(sources, keeps=False)
    at = datetime(2026, 11, 30, tzinfo=UTC)
    assert len(list(found.accepted(SyncReport(), at=at))) == 1
    assert found.configured.incomplete == {"ops": Missing(reason, remedy)}
