"""The changes that a list causes; the expected values are written by hand, rule by rule."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from appliance.core.trust.errors import Untrusted
from cloudkeeper.frontend.plan import AcceptedFormats, compare, guard, release
from cloudkeeper.model import (
    HIDDEN_KEY,
    LAYER_KEY,
    Appliance,
    ApplianceId,
    Create,
    ImageList,
    ImageSource,
    ListId,
    Offer,
    Plan,
    Refusal,
    Remove,
    Update,
    UpdateMetadata,
)

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
LIST = ListId("list")


def image(
    name: str, *, vo: str = "vo", expires: datetime | None = None, **attributes: str
) -> Appliance:
    named = {key.replace("_", ":"): value for key, value in attributes.items()}
    return Appliance(ApplianceId(name), LIST, vo=vo, expires=expires, attributes=named)


def offer(appliance: Appliance) -> Offer:
    return Offer(appliance, ImageSource("https://images.example.org/a", "sha512:00", None))


def listed(*images: Appliance, refused: tuple[Refusal, ...] = ()) -> ImageList:
    return ImageList(
        identifier=LIST,
        vo="vo",
        offers=tuple(map(offer, images)),
        refused=refused,
    )


def test_each_difference_becomes_the_change_that_it_needs() -> None:
    same = image("same", hv_version="1")
    wanted = listed(
        same,
        image("new", hv_version="1"),
        image("renewed", hv_version="2", dc_title="t"),
        image("retitled", hv_version="1", dc_title="new"),
    )
    held = [
        same,
        image("renewed", hv_version="1", dc_title="t"),
        image("retitled", hv_version="1", dc_title="old"),
        image("gone", hv_version="1"),
    ]
    plan = compare(wanted, held, at=NOW)
    assert plan == Plan(
        LIST,
        (
            Create(wanted.offers[1]),
            Update(wanted.offers[2], "changed: hv:version"),
            UpdateMetadata(wanted.offers[3].appliance, "changed: dc:title"),
            Remove(held[3], "it is no longer in the list"),
        ),
        unchanged=1,
    )
    assert plan.removals == (Remove(held[3], "it is no longer in the list"),)


def test_a_backend_that_cannot_change_metadata_alone_gets_the_data_again() -> None:
    wanted = listed(image("a", dc_title="new"))
    plan = compare(wanted, [image("a", dc_title="old")], at=NOW, can_update_metadata=False)
    reason = "changed: dc:title; this backend cannot change metadata alone"
    assert plan.changes == (Update(wanted.offers[0], reason),)


@pytest.mark.parametrize(
    ("wanted", "held", "changed"),
    [
        ({"hv_size": "2"}, {"hv_size": "1"}, "hv:size"),
        ({"sl_checksum_sha512": "b"}, {"sl_checksum_sha512": "a"}, "sl:checksum:sha512"),
        ({"hv_version": "1", "hv_size": "1"}, {"hv_version": "2"}, "hv:size, hv:version"),
    ],
)
def test_other_data_are_fetched_again(
    wanted: dict[str, str], held: dict[str, str], changed: str
) -> None:
    (change,) = compare(
        listed(image("a", expires=None, **wanted)), [image("a", expires=None, **held)], at=NOW
    ).changes
    assert isinstance(change, Update)
    assert change.reason == f"changed: {changed}"


@pytest.mark.parametrize(
    ("wanted", "held", "changed"),
    [
        ({"hv_version": "2"}, {"hv_version": "1"}, "hv:version"),
        ({"dc_title": "x"}, {"dc_title": "y"}, "dc:title"),
    ],
)
def test_the_same_checksum_moves_no_data(
    wanted: dict[str, str], held: dict[str, str], changed: str
) -> None:
    """F-M3: a new version of the same data, and the checksum in other letters, is one PATCH."""
    same = {"sl_checksum_sha512": "ab" * 64}
    upper = {"sl_checksum_sha512": "AB" * 64}
    offered, kept = (
        image("a", expires=None, **wanted, **upper),
        image("a", expires=None, **held, **same),
    )
    (change,) = compare(listed(offered), [kept], at=NOW).changes
    assert change == UpdateMetadata(offered, f"changed: {changed}")
    assert (
        compare(
            listed(image("a", expires=None, **upper)), [image("a", expires=None, **same)], at=NOW
        ).changes
        == ()
    )


def test_what_peers_add_is_no_difference_and_what_is_missing_is_empty() -> None:
    held = Appliance(
        ApplianceId("a"), LIST, attributes={"theirs": "x", "dc:title": "", "hv:version": "1"}
    )
    assert compare(listed(image("a", hv_version="1")), [held], at=NOW) == Plan(
        LIST, (), unchanged=1
    )


def test_an_attribute_that_the_list_dropped_is_a_change() -> None:
    held = Appliance(ApplianceId("a"), LIST, attributes={"hv:version": "1", "dc:title": "old"})
    (change,) = compare(listed(image("a", hv_version="1")), [held], at=NOW).changes
    assert change == UpdateMetadata(image("a", hv_version="1"), "changed: dc:title")


def test_an_expired_image_is_neither_added_nor_kept() -> None:
    ended = image("a", expires=NOW)
    later = image("b", expires=NOW + timedelta(seconds=1))
    plan = compare(listed(ended, later), [image("a", expires=NOW)], at=NOW)
    assert plan.changes == (Create(offer(later)), Remove(image("a", expires=NOW), "it has expired"))
    assert compare(listed(ended), [], at=NOW) == Plan(LIST)


def test_an_image_that_a_refused_one_may_replace_waits() -> None:
    """F-M1: the list renames an image, and its new entry cannot be used."""
    held = [image("former"), image("refused"), image("kept")]
    wanted = listed(image("kept"), refused=(Refusal(ApplianceId("refused"), "why"),))
    waiting = (Remove(held[0], "it is no longer in the list"),)
    assert compare(wanted, held, at=NOW) == Plan(LIST, unchanged=2, waiting=waiting)
    assert compare(replace(wanted, refused=()), held[::2], at=NOW).changes == waiting


@pytest.mark.parametrize("refused", [None, ApplianceId("refused")])
def test_a_refusal_keeps_all_but_expired_images(refused: ApplianceId | None) -> None:
    """F-M1: no successor makes an expired image valid again."""
    held = [image("unnamed"), image("ended"), image("ignored", expires=NOW)]
    wanted = listed(image("ended", expires=NOW), refused=(Refusal(refused, "why"),))
    found = compare(replace(wanted, ignored=(held[2],)), held, at=NOW)
    assert found.changes == tuple(Remove(one, "it has expired") for one in held[1:])
    assert found.waiting == (Remove(held[0], "it is no longer in the list"),)
    assert found.unchanged == 0


@pytest.mark.parametrize(("allowed", "is_released"), [(0, False), (2, False), (3, True), (9, True)])
def test_removals_that_wait_are_released_by_the_number_of_all(
    allowed: int, *, is_released: bool
) -> None:
    ended, *gone = (Remove(image(str(number)), "gone") for number in range(3))
    found = release(Plan(LIST, (ended,), waiting=tuple(gone)), allowed=allowed)
    released = Plan(LIST, (ended, *gone))
    assert found == (released if is_released else Plan(LIST, (ended,), waiting=tuple(gone)))


def test_a_list_of_another_vo_changes_nothing() -> None:
    with pytest.raises(
        Untrusted,
        match="belongs to a list of VO other, but this list is for VO vo; ask the endorser",
    ):
        compare(listed(), [image("a", vo="other")], at=NOW)


def test_an_image_of_no_known_vo_belongs_to_the_list() -> None:
    assert compare(listed(), [image("a", vo="")], at=NOW).removals


@pytest.mark.parametrize(
    ("removals", "held", "allowed", "is_withheld"),
    [
        (3, 3, 0, False),  # a few always
        (4, 8, 0, False),  # half
        (4, 7, 0, True),  # more than half
        (4, 4, 4, False),
        (5, 5, 4, True),
        (4, 4, 3, True),
        (3, 3, 1, False),
    ],
)
def test_removals_that_need_confirmation(
    removals: int, held: int, allowed: int, is_withheld: bool
) -> None:
    gone = tuple(Remove(image(str(number)), "gone") for number in range(removals))
    added = Create(offer(image("new")))
    plan = Plan(LIST, (*gone, added), unchanged=2)
    guarded = guard(plan, held=held, allowed=allowed)
    assert guarded == (Plan(LIST, (added,), unchanged=2, withheld=gone) if is_withheld else plan)


def test_no_removal_is_confirmed_by_default() -> None:
    gone = tuple(Remove(image(str(number)), "gone") for number in range(4))
    assert guard(Plan(LIST, gone), held=4).withheld == gone


def test_an_image_that_another_manager_keeps_is_left_alone() -> None:
    """It is not added, updated or removed, whatever it says."""
    kept = image("kept", hv_version="1")
    held = Appliance(ApplianceId("kept"), LIST, vo="vo", attributes={"holder": "atrope"})
    gone = Appliance(ApplianceId("gone"), LIST, vo="vo", attributes={"holder": "atrope"})
    found = compare(listed(kept, image("new", hv_version="1")), [held, gone], at=NOW)
    assert [change.appliance.identifier for change in found.changes] == ["new"]
    assert isinstance(found.changes[0], Create)


@pytest.mark.parametrize(
    ("held", "accepted", "is_outdated"),
    [("vmdk", "qcow2 raw", True), ("raw", "qcow2 raw", False), ("", "qcow2", False)],
)
def test_an_image_in_a_format_no_longer_accepted(
    held: str, accepted: str, *, is_outdated: bool
) -> None:
    """F-M12; an old backend does not say in which format Glance has an image."""
    kept = {"disk_format": held} if held else {}
    there = Appliance(ApplianceId("a"), LIST, attributes={"hv:version": "1", **kept})
    words = frozenset(accepted.split())
    wanted = listed(image("a", hv_version="1"))
    reported = compare(wanted, [there], at=NOW, formats=AcceptedFormats(words))
    assert (reported.changes, reported.outdated) == ((), (there,) * is_outdated)
    formats = AcceptedFormats(words, reconverts=True)
    replaced = compare(wanted, [there], at=NOW, formats=formats)
    update = Update(wanted.offers[0], "its format vmdk is no longer accepted")
    assert (replaced.changes, replaced.outdated) == ((update,) * is_outdated, ())


@pytest.mark.parametrize(
    ("wanted", "held", "reason"),
    [
        ({"sbom": "a"}, {}, "changed: sbom"),
        ({"sbom": "b"}, {"sbom": "a"}, "changed: sbom"),
        ({"sbom": "a"}, {"sbom": "a"}, ""),
        ({}, {"sbom": "a"}, ""),
        ({"property:hw_disk_bus": "scsi"}, {}, "changed: property:hw_disk_bus"),
        ({}, {"property:hw_disk_bus": "scsi"}, "changed: property:hw_disk_bus"),
    ],
)
def test_sboms_and_own_properties_change_no_data(
    wanted: dict[str, str], held: dict[str, str], reason: str
) -> None:
    """An SBOM that is not known in this run is no difference; F-M9: decoration."""
    version = {"hv:version": "1"}
    offered = Appliance(ApplianceId("a"), LIST, vo="vo", attributes=version | wanted)
    there = Appliance(ApplianceId("a"), LIST, vo="vo", attributes=version | held)
    found = compare(listed(offered), [there], at=NOW)
    assert found.changes == ((UpdateMetadata(offered, reason),) if reason else ())


def of_registry(*, manifest: str, layer: str) -> Appliance:
    mpuri = f"registry.example.org/p/a:1-{manifest}"
    return replace(image("p/a:1"), mpuri=mpuri, attributes={LAYER_KEY: layer})


def test_an_artefact_that_is_built_anew_around_the_same_layer_moves_no_data() -> None:
    """F-M3: only the manifest differs."""
    wanted = listed(of_registry(manifest="sha256:2", layer="sha256:aa"))
    held = of_registry(manifest="sha256:1", layer="sha256:AA")
    change = UpdateMetadata(wanted.offers[0].appliance, "changed: manifest")
    assert compare(wanted, [held], at=NOW).changes == (change,)
    same = of_registry(manifest="sha256:2", layer="sha256:aa")
    assert compare(wanted, [same], at=NOW).changes == ()


def test_the_place_of_an_image_of_a_list_may_change() -> None:
    """A list has no manifest: another ``ad:mpuri`` is an attribute like others."""
    wanted = listed(image("a", hv_version="1"))
    held = replace(image("a", hv_version="1"), mpuri="https://other.example.org/a")
    assert compare(wanted, [held], at=NOW).changes == ()


def test_a_hidden_image_is_shown_again_when_its_list_offers_it() -> None:
    """F-M7."""
    wanted = listed(image("a", hv_version="1"), image("b", hv_version="2"))
    hidden = [image("a", hv_version="1"), image("b", hv_version="1")]
    held = [replace(one, attributes={**one.attributes, HIDDEN_KEY: "yes"}) for one in hidden]
    plan = compare(wanted, held, at=NOW)
    assert plan.changes == (
        UpdateMetadata(wanted.offers[0].appliance, "shown again: its list is back"),
        Update(wanted.offers[1], "changed: hv:version"),
    )


def test_a_checksum_on_one_side_only_does_not_hide_a_new_version() -> None:
    wanted = listed(image("a", hv_version="2", sl_checksum_sha512="aa"))
    plan = compare(wanted, [image("a", hv_version="1")], at=NOW)
    (change,) = plan.changes
    assert change == Update(wanted.offers[0], "changed: hv:version, sl:checksum:sha512")
