"""A part of the images: filters of one run, and images that the configuration ignores."""

# ruff: noqa: F811  the fixtures are those of the tests of sync

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.test_cloudkeeper_sync import (  # noqa: F401
    OTHER_LIST,
    World,
    _changes,
    _policy,
    authority,
    disks,
    strangers,
    world,
)
from tests.e2e.test_image_verbs import call, in_cloud
from tests.simulators.image_lists import LIST_ID, image_id, in_days
from tests.simulators.image_server import Status

# The same in all versions of a list, so that nothing else changes.
EXPIRES = {"dc__date__expires": in_days(200)}
OPS, DTEAM = "/ops/image.list", "/dteam/image.list"


def publish(world: World, ops: list[int], dteam: list[int]) -> None:
    """Offer images of two VOs, all of the same file."""
    world.configure(world.web.url(OPS), world.web.url(DTEAM))
    world.publish([world.image(number, "one.qcow2", **EXPIRES) for number in ops])
    other = [world.image(number, "one.qcow2", **EXPIRES) for number in dteam]
    world.publish(other, path=DTEAM, identifier=OTHER_LIST, vo="dteam")


@pytest.fixture
def site(world: World) -> World:
    """Return a site with images 1 and 2 of ops and 11 of dteam; the lists then change all."""
    publish(world, [1, 2], [11])
    done = world.sync()
    assert done.returncode == 0, done.stderr
    world.cloud.calls.clear()
    publish(world, [2, 3, 4], [12])
    return world


@pytest.mark.parametrize(
    ("flags", "changed"),
    [
        (["--vo", "dteam"], ["AddAppliance 12", "RemoveAppliance 11"]),
        (["--list", OTHER_LIST], ["AddAppliance 12", "RemoveAppliance 11"]),
        (["--list", f"https://*{DTEAM}"], ["AddAppliance 12", "RemoveAppliance 11"]),
        (["--image", image_id(3)], ["AddAppliance 3"]),
        (["--image", "image 3 *debian*"], ["AddAppliance 3"]),
        (["--image", image_id(3), "--image", image_id(4)], ["AddAppliance 3", "AddAppliance 4"]),
        (["--image", image_id(3), "--vo", "DTEAM"], []),
        # An image whose identifier has changed is a removal and an addition, which is left out.
        (["--image", image_id(1)], []),
        (
            ["--image", "*"],
            [
                *(f"AddAppliance {number}" for number in (12, 3, 4)),
                *(f"RemoveAppliance {number}" for number in (1, 11)),
            ],
        ),
    ],
)
def test_a_run_with_a_filter_changes_nothing_else(
    site: World, flags: list[str], changed: list[str]
) -> None:
    """§7.24. Its plan says the same, and neither leaves a record or ends a list."""
    record = site.record()
    planned = json.loads(call(site, "plan", "--json", *flags).stdout)["changes"]
    done = site.sync(*flags)
    wanted = sorted(f"{line.split()[0]} {image_id(int(line.split()[1]))}" for line in changed)
    assert _changes(site) == wanted
    assert sorted(one["image"] for one in planned) == sorted(line.split()[1] for line in wanted)
    is_nothing = flags == ["--image", image_id(3), "--vo", "DTEAM"]
    assert done.returncode == int(is_nothing), done.stderr
    assert ("no image matches in the sources that could be read" in done.stderr) is is_nothing
    assert site.record() == record
    assert site.sync().returncode == 0
    assert {number for _, number in site.cloud.appliances} == set(map(image_id, (2, 3, 4, 12)))


def test_a_run_with_a_filter_ends_no_list(site: World) -> None:
    """A list that has left the configuration stays, although the policy removes it."""
    _policy(site, "remove")
    site.configure(site.web.url(OPS))
    assert site.sync("--image", image_id(3)).returncode == 0
    assert _changes(site) == [f"AddAppliance {image_id(3)}"]
    assert site.sync("--dry-run", "--vo", "ops").stdout.count("is no longer configured") == 0


def test_a_run_with_a_filter_removes_no_more_than_a_whole_one(world: World) -> None:
    """The guard looks at the whole list: a filter is no way around it."""
    publish(world, [1, 2, 3, 4, 5], [11])
    assert world.sync().returncode == 0
    publish(world, [], [11])
    world.cloud.calls.clear()
    done = world.sync("--image", image_id(1))
    assert (done.returncode, _changes(world)) == (1, [])
    assert "5 of 5 images would be removed, so none is removed" in done.stderr


def test_a_source_outside_the_filter_is_not_read(site: World) -> None:
    site.web.put(OPS, Status(500))
    assert site.sync("--list", OTHER_LIST).returncode == 0
    asked = site.web.asked(OPS)
    assert site.sync("--list", OTHER_LIST).returncode == 0
    assert site.web.asked(OPS) == asked


@pytest.mark.parametrize("flag", ["--list", "--vo", "--image"])
def test_an_empty_filter_is_refused(world: World, flag: str) -> None:
    """A variable of a shell without a value would otherwise mean all, or nothing."""
    done = world.sync(flag, "")
    assert (done.returncode, world.cloud.calls) == (2, [])
    assert done.stderr == (
        f"cloudkeeper: {flag}: is empty; write a name or a pattern, or leave the flag out\n"
    )


def ignore(world: World, *patterns: str) -> None:
    path = world.root / "cloudkeeper.yml"
    lines = [line for line in path.read_text().splitlines() if "ignore-images" not in line]
    path.write_text("\n".join([*lines, f"  ignore-images: [{', '.join(patterns)}]"]) + "\n")


def test_an_ignored_image_is_not_fetched_and_its_copy_is_kept(world: World) -> None:
    """By default; the copy is counted, and comes back to life without a transfer."""
    publish(world, [1, 2], [11])
    assert world.sync().returncode == 0
    world.cloud.calls.clear()
    asked = world.web.asked("/images/one.qcow2")
    publish(world, [1, 2, 3], [11])
    ignore(world, image_id(2), '"Image 3 *"')
    done = world.sync()
    assert (done.returncode, _changes(world)) == (0, [])
    assert (
        f"kept in the cloud, though the configuration ignores them: 1: {image_id(2)} "
        "(policy: ended-lists)" in done.stdout
    )
    assert world.record()["counts"]["images_ignored"] == 1
    assert world.web.asked("/images/one.qcow2") == asked
    listed = call(world, "list").stdout
    assert "  ignored by the configuration: 2 images" in listed
    found = json.loads(call(world, "list", "--json").stdout)["ignored"]
    assert [one["image"] for one in found] == [image_id(2), image_id(3)]
    assert call(world, "status").stdout.count("ours, ignored") == 1
    ignore(world)
    assert world.sync().returncode == 0
    assert _changes(world) == [f"AddAppliance {image_id(3)}"]


@pytest.mark.parametrize(
    ("policy", "call_name"), [("hide", "HideAppliance"), ("remove", "RemoveAppliance")]
)
def test_a_copy_of_an_ignored_image_follows_the_policy(
    world: World, policy: str, call_name: str
) -> None:
    publish(world, [1, 2], [11])
    assert world.sync().returncode == 0
    world.cloud.calls.clear()
    _policy(world, policy)
    ignore(world, image_id(2))
    assert "the configuration ignores it" in call(world, "plan").stdout
    assert world.sync().returncode == 0
    assert _changes(world) == [f"{call_name} {image_id(2)}"]
    assert world.sync().returncode == 0
    assert _changes(world) == []
    ignore(world)
    assert world.sync().returncode == 0
    again = "UpdateAppliance" if policy == "hide" else "AddAppliance"
    assert _changes(world) == [f"{again} {image_id(2)}"]


def test_a_pattern_that_ignores_everything_removes_nothing(world: World) -> None:
    """The guard of removals: ``*`` in a hurry."""
    publish(world, [1, 2, 3, 4, 5], [11])
    assert world.sync().returncode == 0
    world.cloud.calls.clear()
    _policy(world, "remove")
    ignore(world, "'*'")
    done = world.sync("--vo", "ops")
    assert (done.returncode, _changes(world)) == (1, [])
    assert "5 of 5 images would be removed, so none is removed" in done.stderr


def test_another_manager_s_copy_of_an_ignored_image_is_left_alone(world: World) -> None:
    world.publish([world.image(1, "one.qcow2")])
    in_cloud(world, 1, holder="atrope")
    _policy(world, "remove")
    ignore(world, "'*'")
    assert world.sync().returncode == 0
    assert _changes(world) == []


def test_the_images_of_one_source(world: World, tmp_path: Path) -> None:
    """``images`` and ``ignore`` of sources.yaml, by identifier or title."""
    world.publish([world.image(number, "one.qcow2", **EXPIRES) for number in (1, 2, 3)])
    sources = tmp_path / "sources.yaml"
    world.configure("# none")
    sources.write_text(
        f"ops:\n  type: hepix\n  url: {world.web.url(OPS)}\n"
        f"  images: [{image_id(1)}, 'image 2*']\n  ignore: ['*2 [[]debian*']\n"
    )
    assert world.sync("--sources-file", str(sources)).returncode == 0
    assert set(world.cloud.appliances) == {(LIST_ID, image_id(1))}
