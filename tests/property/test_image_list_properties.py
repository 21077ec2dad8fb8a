"""The list parser on arbitrary JSON, the plan on arbitrary lists and clouds."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.core.trust.errors import Malformed
from cloudkeeper.frontend import imagelist, plan
from cloudkeeper.model import (
    Appliance,
    ApplianceId,
    Create,
    ImageList,
    ImageSource,
    ListId,
    Offer,
    Remove,
    Update,
    UpdateMetadata,
)
from cloudkeeper.wire import communicator_1x_pb2 as pb
from cloudkeeper.wire.messages import from_message, to_message
from tests.simulators.image_lists import LIST_ID, image, image_id, image_list

NOW = datetime(2026, 11, 24, tzinfo=UTC)
DN, CA = "/DC=EU/CN=lists.example.org", "/DC=EU/CN=CA"
URI = "https://images.example.org/one.qcow2"

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12)
)
trees = st.recursive(
    scalars,
    lambda below: (
        st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=8), below, max_size=3)
    ),
    max_leaves=10,
)


def parsed(document: object) -> ImageList:
    return imagelist.parse(json.dumps(document).encode())


def good_list(count: int = 3) -> dict[str, Any]:
    return image_list([image(number, uri=URI) for number in range(count)], dn=DN, ca=CA)


def paths(tree: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths to all values of a tree."""
    below: list[tuple[Any, Any]] = []
    if isinstance(tree, dict):
        below = list(tree.items())
    elif isinstance(tree, list):
        below = list(enumerate(tree))
    return [path, *(found for key, value in below for found in paths(value, (*path, key)))]


@given(trees)
def test_arbitrary_json_is_refused_in_words(tree: object) -> None:
    with pytest.raises(Malformed):
        parsed(tree)


@given(st.binary(max_size=60))
def test_arbitrary_bytes_are_refused_in_words(text: bytes) -> None:
    with pytest.raises(Malformed):
        imagelist.parse(text)


@given(st.data(), trees)
def test_one_wrong_value_costs_one_image_or_the_list(data: st.DataObject, value: object) -> None:
    document = good_list()
    way = data.draw(st.sampled_from([path for path in paths(document) if path]))
    holder: Any = document
    for step in way[:-1]:
        holder = holder[step]
    holder[way[-1]] = value
    try:
        found = parsed(document)
    except Malformed:
        assert "hv:images" not in way or way[-1] == "hv:images"
        return
    # within one image: its neighbours are all there
    if way[1:2] == ("hv:images",) and len(way) > 3:
        others = {image_id(number) for number in range(3)} - {image_id(way[2])}
        assert others - {str(value)} <= {offer.appliance.identifier for offer in found.offers}
    for offer in found.offers:  # what is offered can be sent, and arrives as it was
        message = pb.Appliance.FromString(to_message(offer.appliance).SerializeToString())
        assert from_message(message) == offer.appliance


def test_refused_images_have_their_reasons() -> None:
    cases: dict[int, dict[str, Any]] = {
        2: {"sl__checksum__sha512": "abc"},
        3: {"hv__size": "-1"},
        4: {"hv__uri": "file:///etc/passwd"},
        5: {"dc__date__expires": "2026-13-01T00:00:00Z"},
    }
    images = [image(number, **({"uri": URI} | changes)) for number, changes in cases.items()]
    images += [image(8, uri=URI), image(8, uri=URI), {"hv:image": {}}, image(9, uri=URI)]
    found = parsed(image_list(images, dn=DN, ca=CA))
    assert [offer.appliance.identifier for offer in found.offers] == [image_id(9)]
    assert [(refusal.identifier, refusal.reason) for refusal in found.refused] == [
        (image_id(2), "sl:checksum:sha512 has the invalid value 'abc'"),
        (image_id(3), "hv:size is not a whole number in its range: '-1'"),
        (image_id(4), "hv:uri is not an http or https URL"),
        (
            image_id(5),
            "dc:date:expires is not a date like 2030-12-31T23:59:59Z: '2026-13-01T00:00:00Z'",
        ),
        (None, "image 7: dc:identifier is missing"),
        (image_id(8), "it occurs twice in the list"),
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ad__mpuri": None}, ""),
        ({"hv__ram_minimum": "512 MB"}, "hv:ram_minimum is not a whole number in its range"),
        ({"hv__core_minimum": "99999999999"}, "hv:core_minimum is not a whole number"),
        ({"dc__title": ["a"]}, "dc:title is not a text"),
        ({"dc__title": "\ud800"}, "'dc:title' is not valid text"),
        ({"\ud800": "title"}, "'\\ud800' is not valid text"),
    ],
)
def test_decoration_costs_no_image(
    changes: dict[str, Any], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    """F-M9: what cannot be read is left out and reported, and the image is offered."""
    found = parsed(image_list([image(1, **({"uri": URI} | changes))], dn=DN, ca=CA))
    (offer,) = found.offers
    assert found.refused == ()
    assert (f"image {image_id(1)}: {words}" in caplog.text) is bool(words)
    assert from_message(to_message(offer.appliance)) == offer.appliance


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b'{"hv:imagelist": {"a": 1, "a": 2}}', "the key 'a' occurs twice"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "a number in its JSON is too long"),
        (b"\xff", "not UTF-8"),
        (b'{"a"', "is not JSON: line 1: "),
        (b"[]", "its JSON is not an object"),
    ],
    ids=["twice", "deep", "nan", "long", "latin", "cut", "array"],
)
def test_absurd_texts(text: bytes, words: str) -> None:
    with pytest.raises(Malformed, match=words):
        imagelist.parse(text)


@pytest.mark.parametrize(
    ("stated", "meant"), [("512", 512 * 2**20), ("1073741824", 2**30), ("", 0), ("0", 0)]
)
def test_memory(stated: str, meant: int) -> None:
    found = parsed(image_list([image(1, uri=URI, hv__ram_minimum=stated)], dn=DN, ca=CA))
    assert found.offers[0].appliance.ram == meant


# The plan. A list and a cloud are drawn from the same few images in a few versions, so that every
# case occurs.

versions = st.fixed_dictionaries(
    {
        "hv:version": st.sampled_from(["1", "2"]),
        "sl:checksum:sha512": st.sampled_from(["a", "b"]),
        "dc:title": st.sampled_from(["x", "y"]),
    }
)
numbers = st.integers(0, 9)


def appliance(number: int, attributes: dict[str, str], *, days: int = 9) -> Appliance:
    identifier, list_id = ApplianceId(image_id(number)), ListId(LIST_ID)
    return Appliance(
        identifier, list_id, vo="ops", expires=NOW + timedelta(days=days), attributes=attributes
    )


lists = st.dictionaries(numbers, st.tuples(versions, st.sampled_from([9, -9])), max_size=9)
clouds = st.dictionaries(numbers, versions, max_size=9)


def wanted_list(drawn: dict[int, tuple[dict[str, str], int]]) -> ImageList:
    offers = (
        Offer(
            appliance(number, attributes, days=days),
            ImageSource(URI, f"sha512:{attributes['sl:checksum:sha512']}", 1),
        )
        for number, (attributes, days) in drawn.items()
    )
    return replace(parsed(good_list(0)), offers=tuple(offers))


@given(lists, clouds)
def test_a_plan_makes_the_cloud_equal_to_the_list(
    drawn: dict[int, tuple[dict[str, str], int]], cloud: dict[int, dict[str, str]]
) -> None:
    wanted = wanted_list(drawn)
    held = {
        found.identifier: found
        for found in (appliance(number, attributes) for number, attributes in cloud.items())
    }
    made = plan.compare(wanted, held.values(), at=NOW)
    data = {key: found.attributes["sl:checksum:sha512"] for key, found in held.items()}
    for change in made.changes:
        key = change.appliance.identifier
        match change:
            case Create(offer):
                assert key not in held
                held[key], data[key] = offer.appliance, offer.source.digest.partition(":")[2]
            case Update(offer, _):
                assert key in held
                held[key], data[key] = offer.appliance, offer.source.digest.partition(":")[2]
            case UpdateMetadata(found, _):
                assert key in held
                held[key] = found
            case Remove():
                del held[key], data[key]
    offered = {
        offer.appliance.identifier: offer
        for offer in wanted.offers
        if not offer.appliance.is_expired(at=NOW)
    }
    assert {key: found.attributes for key, found in held.items()} == {
        key: offer.appliance.attributes for key, offer in offered.items()
    }
    assert data == {key: offer.source.digest.partition(":")[2] for key, offer in offered.items()}
    again = plan.compare(wanted, held.values(), at=NOW)
    assert (again.changes, again.unchanged) == ((), len(held))


@given(lists, clouds, st.integers(0, 9))
def test_the_guard(
    drawn: dict[int, tuple[dict[str, str], int]], cloud: dict[int, dict[str, str]], allowed: int
) -> None:
    held = [appliance(number, attributes) for number, attributes in cloud.items()]
    full = plan.compare(wanted_list(drawn), held, at=NOW)
    guarded = plan.guard(full, held=len(held), allowed=allowed)
    lost = len(full.removals)
    is_too_much = lost > 3 and lost > len(held) / 2 and lost > allowed
    assert guarded.withheld == (full.removals if is_too_much else ())
    assert [change for change in full.changes if change not in guarded.withheld] == list(
        guarded.changes
    )


@given(clouds)
def test_refused_images_protect_all_that_have_not_expired(
    cloud: dict[int, dict[str, str]],
) -> None:
    held = [appliance(number, attributes) for number, attributes in cloud.items()]
    bad = [image(number, uri="ftp://x/") for number in range(5)]
    known = parsed(image_list(bad, dn=DN, ca=CA))
    found = plan.compare(known, held, at=NOW)
    assert found.changes == ()
    waiting = {change.appliance.identifier for change in found.waiting}
    assert waiting == {one.identifier for one in held} - {image_id(number) for number in range(5)}
    unknown = parsed(image_list([*bad, {"hv:image": {}}], dn=DN, ca=CA))
    assert plan.compare(unknown, held, at=NOW) == found
    expired = image(0, uri=URI, dc__date__expires="2026-11-23T00:00:00Z")
    both = parsed(image_list([expired, {"hv:image": {}}], dn=DN, ca=CA))
    gone = {change.appliance.identifier for change in plan.compare(both, held, at=NOW).changes}
    assert gone == {one.identifier for one in held if one.identifier == image_id(0)}


@given(st.randoms())
def test_a_shuffled_list_changes_nothing(source: random.Random) -> None:
    def shuffled(tree: Any) -> Any:
        if isinstance(tree, dict):
            items = [(key, shuffled(value)) for key, value in tree.items()]
            source.shuffle(items)
            return dict(items)
        if isinstance(tree, list):
            return source.sample([shuffled(item) for item in tree], len(tree))
        return tree

    document = good_list()
    held = [offer.appliance for offer in parsed(document).offers]
    assert plan.compare(parsed(shuffled(document)), held, at=NOW).changes == ()
