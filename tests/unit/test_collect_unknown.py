"""`cloudkeeper gc --collect-unknown`: incomplete images that nobody has marked, on request only.

The whole frontend, over gRPC and in direct mode, on a Glance in memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cloudkeeper.backend import calls
from cloudkeeper.wire.status import UNKNOWN
from tests.e2e.images_frontend import Done, run
from tests.simulators.openstack import Answer
from tests.unit import backend_site
from tests.unit.backend_site import BackendSite

_FRONTEND = """\
cloudkeeper:
  image-lists: [https://lists.example.org/image.list]
  image-dir: {root}/images
  lock-file: {root}/lock
  logging: {{file: "", level: INFO}}
  backend:
    endpoint: {endpoint}
"""
_BASE = "5b1f3c4e-0000-4000-8000-00000000000"
Collect = Callable[..., Done]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[BackendSite]:
    with backend_site.made(tmp_path) as made:
        yield made


def stamp(*, hours: float) -> str:
    return (datetime.now(UTC) - timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%SZ")


def put(site: BackendSite, number: int, *, owner: str = "one", **more: object) -> str:
    """Put a record into Glance, by default one as a killed 0.9 leaves it; return its id."""
    image_id = f"{_BASE}{number}"
    site.glance.images[image_id] = {
        "id": image_id,
        "owner": owner,
        "name": f"Image {number}",
        "status": "queued",
        "tags": [],
        "created_at": stamp(hours=25),
        "updated_at": stamp(hours=25),
        "disk_format": "qcow2",
        "os_hidden": False,
        "visibility": "private",
    } | more
    return image_id


def others(site: BackendSite) -> list[str]:
    """Put records of others into Glance; return their ids."""
    return [
        put(site, 1, status="active"),
        put(site, 2, created_at=stamp(hours=23), updated_at=stamp(hours=23)),
        put(site, 3, updated_at=stamp(hours=1), status="saving"),
        put(site, 4, tags=["mine"]),
        put(site, 5, os_glance_importing_to_stores="fast"),
        put(site, 6, owner="three"),
        put(site, 7, my_property="1"),
    ]


@pytest.fixture(params=["direct", "unix", "tcp"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def collect(site: BackendSite, way: str) -> Collect:
    def start(*flags: str) -> Done:
        config = site.root / "cloudkeeper.yml"

        def at(endpoint: str) -> Done:
            text = _FRONTEND.format(root=site.root, endpoint=endpoint)
            if way == "direct":
                text += f"    config-file: {site.root}/cloudkeeper-os.conf\n"
            config.write_text(text)
            return run("gc", "--root", str(site.root), "--config", str(config), *flags)

        if way == "direct":
            return at("direct")
        with site.running(tcp=way == "tcp"):
            return at(site.endpoint)

    return start


def deleted(site: BackendSite) -> list[str]:
    asked = (one.split() for one in site.glance.requests)
    return [target.rpartition("/")[2] for method, target, *_ in asked if method == "DELETE"]


@pytest.mark.parametrize("way", ["direct", "unix"], indirect=True)
def test_only_abandoned_records_without_a_mark_are_deleted(
    site: BackendSite, collect: Collect
) -> None:
    """§7.12: not without the flag, not in a dry run, and never what may be in use."""
    kept = others(site)
    left = [put(site, 8), put(site, 9, status="saving", owner="two")]
    done = collect()
    assert (done.returncode, done.stdout) == (0, "removed 0 things, 0 B\n")
    done = collect("--collect-unknown", "--dry-run")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.partition(" has been ")[0] for line in lines[:2]] == [
        f"would remove project one: image {left[0]} (Image 8)",
        f"would remove project two: image {left[1]} (Image 9)",
    ]
    assert lines[2:] == ["would remove 2 things, 0 B"]
    assert (deleted(site), sorted(site.glance.images)) == ([], sorted([*kept, *left]))
    done = collect("--collect-unknown", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (len(document["removed"]), document["failures"]) == (2, [])
    assert (deleted(site), sorted(site.glance.images)) == (left, sorted(kept))
    assert site.record()["counts"]["unknown_collected"] == 2
    done = collect("--collect-unknown")
    assert (done.returncode, done.stdout) == (0, "removed 0 things, 0 B\n")


@pytest.mark.parametrize("way", ["unix"], indirect=True)
def test_one_that_cannot_be_deleted_does_not_stop_the_others(
    site: BackendSite, collect: Collect
) -> None:
    first, *_ = put(site, 1), put(site, 2)
    site.glance.fault = lambda method, path: (
        Answer(409, "409 Conflict") if (method, path) == ("DELETE", f"/v2/images/{first}") else None
    )
    done = collect("--collect-unknown")
    assert done.returncode == 1
    assert first in done.stderr
    assert done.stdout.splitlines()[-1] == "removed 1 thing, 0 B"
    assert list(site.glance.images) == [first]


@pytest.mark.parametrize("way", ["unix"], indirect=True)
def test_an_upload_that_began_after_the_listing_saves_the_image(
    site: BackendSite, collect: Collect
) -> None:
    """The backend looks again before it deletes."""
    left = put(site, 1)

    def begin(method: str, path: str) -> None:
        if (method, path) == ("GET", f"/v2/images/{left}"):
            site.glance.images[left] |= {"status": "saving", "updated_at": stamp(hours=0)}

    site.glance.fault = begin
    done = collect("--collect-unknown")
    assert (done.returncode, list(site.glance.images)) == (1, [left])
    assert "is in use, or has been marked meanwhile" in done.stderr


@pytest.mark.parametrize(
    ("way", "options"),
    [("tcp", ""), ("unix", "removals = limited"), ("direct", "removals = none")],
    indirect=["way"],
)
def test_the_backend_decides_whether_it_may_be_asked(
    site: BackendSite, collect: Collect, options: str
) -> None:
    """A frontend on another host cannot delete what may be a user's."""
    left = put(site, 1)
    site.configure(options)
    done = collect("--collect-unknown")
    assert done.returncode == 1
    assert "set removals = confirmed in [DEFAULT] of cloudkeeper-os.conf" in done.stderr
    assert (deleted(site), list(site.glance.images)) == ([], [left])


@pytest.mark.parametrize("way", ["unix"], indirect=True)
def test_a_backend_that_does_not_know_it_is_not_asked(
    site: BackendSite, collect: Collect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would read the call as the removal of an appliance."""
    left = put(site, 1)
    known = tuple(each for each in calls._FEATURES if each != UNKNOWN)
    monkeypatch.setattr(calls, "_FEATURES", known)
    done = collect("--collect-unknown")
    assert done.returncode == 1
    assert "cannot list incomplete images that nobody has marked" in done.stderr
    assert (deleted(site), list(site.glance.images)) == ([], [left])
