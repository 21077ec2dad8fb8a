"""F-M14: a frontend of cloudkeeper 2.0, made by hand, and the backend in both numberings."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.e2e.images_backend import LIST, ONE, TWO, Client, Offer
from tests.simulators.second_frontend import FORMATS, SecondFrontend, appliance
from tests.unit import backend_site
from tests.unit.backend_site import BackendSite

pytestmark = pytest.mark.programs("qemu-img")

OK = (grpc.StatusCode.OK, "")
TITLE = "Example image [Ubuntu/22.04/KVM]"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[BackendSite]:
    with backend_site.made(tmp_path) as made:
        yield made


@contextlib.contextmanager
def running(site: BackendSite) -> Iterator[tuple[Client, SecondFrontend]]:
    """Run the backend with a frontend of 1.x and one of 2.0."""
    with site.running() as older, grpc.insecure_channel(site.endpoint) as channel:
        yield older, SecondFrontend(channel)


def message(offer: Offer | None = None, **fields: Any) -> bytes:
    values: dict[str, Any] = {
        "identifier": ONE,
        "title": TITLE,
        "mpuri": "https://appdb.egi.eu/store/vo/image/x:7/",
        "version": "7",
        "architecture": "x86_64",
        "operating_system": "Linux Ubuntu 22.04",
        "vo": "ops",
        "expiration_date": 1924991999,
        "image_list_identifier": LIST,
        "base_mpuri": "https://appdb.egi.eu/store/vm/image/x/",
        "appid": "1234",
        "digest": "d" * 128,
    } | fields
    image = None
    if offer:
        image = {
            "location": str(offer.path),
            "format": FORMATS["QCOW2"],
            "checksum": offer.sha512,
            "size": offer.path.stat().st_size,
            "digest": "e" * 128,
        }
    return appliance(image, **values)


def offer(site: BackendSite) -> Offer:
    return Offer.make(site.root / "images")


@pytest.mark.parametrize("options", ["", "protocol = 2"])
def test_a_frontend_of_2_0_is_served(site: BackendSite, options: str) -> None:
    site.configure(options)
    with running(site) as (older, newer):
        assert newer.begin() == [OK, OK]
        assert newer.call("AddAppliance", message(offer(site))) == OK
        assert site.glance.shown() == [TITLE]
        (found,) = newer.appliances(LIST)
        # 2.0 compares its digests of the metadata (16) and of the data (9 of 17).
        assert (found[14], found[15], found[16]) == (
            b"https://appdb.egi.eu/store/vm/image/x/",
            b"1234",
            b"d" * 128,
        )
        assert b"e" * 128 in found[17]
        (image,) = site.glance.images.values()
        assert (image["os_distro"], image["APPLIANCE_VERSION"]) == ("ubuntu", "7")
        renamed = message(title="Renamed", digest="f" * 128)
        assert newer.call("UpdateApplianceMetadata", renamed) == OK
        (found,) = newer.appliances(LIST)
        assert (found[2], found[16]) == (b"Renamed", b"f" * 128)
        assert b"e" * 128 in found[17]
        assert newer.call("RemoveAppliance", message(digest="")) == OK
        assert newer.call("PostAction") == OK
        assert site.glance.images == {}
        if not options:  # a frontend of 1.x comes next
            assert older.run(("AddAppliance", offer(site).message())) == [("SUCCESS", "")]
            assert dict(older.appliances()[ONE].attributes)["sl:os"] == "Linux"


def test_expired_images_go_at_the_beginning_of_a_run(site: BackendSite) -> None:
    with running(site) as (older, newer):
        newer.begin()
        for name, expires in ((ONE, 1000000000), (TWO, 1924991999)):
            one = message(offer(site), identifier=name, expiration_date=expires)
            assert newer.call("AddAppliance", one) == OK
        newer.call("PostAction")
        assert newer.begin() == [OK, OK]
        assert [found[1] for found in newer.appliances(LIST)] == [TWO.encode()]
        newer.call("PostAction")
        assert set(older.appliances()) == {TWO}  # a dry run of 1.x, which has no PreAction


def test_failures_are_status_codes(site: BackendSite) -> None:
    with running(site) as (_, newer):
        newer.begin()
        code, details = newer.call("AddAppliance", message(offer(site), vo="nobody"))
    assert code is grpc.StatusCode.UNKNOWN
    assert details.startswith("ERROR: VO nobody: is mapped to no project")


def test_a_frontend_of_2_0_is_refused_with_the_option_that_serves_it(site: BackendSite) -> None:
    """One line in the log and the record; before, there was none."""
    site.configure("protocol = 1")
    with running(site) as (older, newer):
        newer.begin()
        newer.call("AddAppliance", message(offer(site)))
        newer.call("PostAction")
        failures = site.record()["failures"]
        assert failures[0] == (
            "frontend: RemoveExpiredAppliances is a call of cloudkeeper 2.0; protocol = 1 in "
            "[DEFAULT] of cloudkeeper-os.conf: set auto to serve frontends of both releases"
        )
        assert site.glance.images == {}
        assert older.run(("AddAppliance", offer(site).message())) == [("SUCCESS", "")]


def test_no_message_is_read_in_the_wrong_numbering(site: BackendSite) -> None:
    """Each frontend during a run of the other one: nothing is stored, changed or removed."""
    with running(site) as (older, newer):
        older.run(("AddAppliance", offer(site).message()))
        before = copy.deepcopy(site.glance.images)
        assert older.call("PreAction")[0] == "SUCCESS"
        # The last one has no field whose type differs.
        for one in (message(offer(site)), message(), message(base_mpuri="", appid="")):
            newer.call("AddAppliance", one)
            newer.call("UpdateAppliance", one)
        assert site.glance.images == before
        newer.begin()
        for old in (offer(site).message(), offer(site).message(with_image=False, title="x")):
            for method in ("AddAppliance", "UpdateAppliance"):
                with pytest.raises(grpc.RpcError):
                    older.call(method, old)
        assert site.glance.images == before
        newer.call("PostAction")
        failures = site.record()["failures"]
    assert "let no two frontends use this backend at once" in failures[0]
