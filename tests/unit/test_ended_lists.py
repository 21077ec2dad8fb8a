"""Which lists in the cloud have ended for certain; the cases are written by hand."""

from __future__ import annotations

import pytest

from cloudkeeper.frontend.ended import ConfiguredLists, EndedPolicy, plan
from cloudkeeper.model import Appliance, ApplianceId, Hide, ListId, Remove

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
