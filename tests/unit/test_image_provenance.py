"""What an image was made from, as properties of ours; the digests are those of sha512sum.

Image server, Keystone and Glance are simulators; the frontend is the whole program.
"""

from __future__ import annotations

import gzip
import json
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from cloudkeeper.backend import calls
from cloudkeeper.wire.status import PROVENANCE
from tests.testbed.pki import HOST_DN
from tests.unit.image_site import RAW, ImageSite, authority, site, web  # noqa: F401

# ruff: noqa: F811  the fixtures are those of the site

pytestmark = pytest.mark.programs("openssl", "qemu-img")

_OURS = "cloudkeeper_"


def provenance(site: ImageSite) -> list[dict[str, str]]:
    """Return the properties of this kind of all images."""
    return [
        {key.removeprefix(_OURS): each[key] for key in each if key.startswith(_OURS)}
        for each in site.glance.images.values()
    ]


def sha512sum(content: bytes) -> str:
    done = subprocess.run(["sha512sum"], input=content, capture_output=True, check=True)
    return done.stdout.split()[0].decode()


def changes(site: ImageSite) -> int:
    return sum(one.startswith(("PATCH", "PUT", "POST /v2/images")) for one in site.glance.requests)


def test_an_image_says_where_its_data_come_from(site: ImageSite) -> None:
    """§7.17: URL without its secrets, digest, version of the list, endorser, time."""
    one = site.image(1)
    plain = one["hv:image"]["hv:uri"]
    site.web.put("/1.img?key=secret-token", RAW)
    secret = plain.replace("://", "://user:secret-token@") + "?key=secret-token"
    one["hv:image"]["hv:uri"] = secret
    site.publish(one)
    before = datetime.now(UTC).replace(microsecond=0)
    assert site.run("sync").returncode == 0
    (found,) = provenance(site)
    moment = datetime.fromisoformat(found.pop("synced_at"))
    assert before <= moment <= datetime.now(UTC)
    assert found == {
        "source_url": plain,
        "source_digest": f"sha512:{sha512sum(RAW)}",
        "source_version": "20261101.1",
        "endorser": f"{HOST_DN}/CN=lists.example.org",
    }
    (image,) = site.glance.images.values()
    assert "secret-token" not in json.dumps({key: image[key] for key in image if _OURS in key})
    assert "provenance" not in image["APPLIANCE_ATTRIBUTES"]


@pytest.mark.parametrize("way", ["run", "through_grpc"])
def test_nothing_rewrites_it_while_the_data_stay(site: ImageSite, way: str) -> None:
    """An unchanged run makes no change at all; one of the metadata leaves these properties."""
    image = site.image(1)
    site.publish(image)
    start = getattr(site, way)
    assert start("sync").returncode == 0
    first = provenance(site)
    site.glance.requests.clear()
    site.publish(image, hv__version="20261202.1")
    assert start("sync").returncode == 0
    assert changes(site) == 0
    image["hv:image"]["dc:title"] = "renamed"
    site.publish(image, hv__version="20261203.1")
    assert start("sync").returncode == 0
    assert (changes(site), provenance(site)) == (1, first)


def test_new_data_have_a_provenance_of_their_own(site: ImageSite) -> None:
    site.publish(site.image(1))
    assert site.run("sync").returncode == 0
    other = RAW[:-1] + b"!"
    site.publish(site.image(1, other, hv__version="2"), hv__version="20261204.1")
    assert site.run("sync").returncode == 0
    (found,) = provenance(site)
    assert found["source_digest"] == f"sha512:{sha512sum(other)}"
    assert found["source_version"] == "20261204.1"


def test_a_conversion_is_named_with_its_program_and_version(site: ImageSite) -> None:
    said = subprocess.run(["qemu-img", "--version"], capture_output=True, text=True, check=True)
    version = said.stdout.split()[2]
    packed = gzip.compress(RAW, mtime=0)
    site.publish(site.image(1, packed))
    assert site.run("sync", "--formats", "qcow2").returncode == 0
    (found,) = provenance(site)
    wanted = f"decompressed from gzip; qemu-img {version}: raw to qcow2"
    assert found["conversion"] == wanted
    assert found["source_digest"] == f"sha512:{sha512sum(packed)}"


def test_a_list_cannot_set_it(site: ImageSite) -> None:
    """Not even what the image has no value for."""
    forged: Mapping[str, Any] = {
        "provenance:conversion": "none",
        "property:cloudkeeper_hidden": "1",
    }
    image = site.image(1)
    image["hv:image"] |= forged
    site.publish(image)
    assert site.run("sync").returncode == 0
    (found,) = provenance(site)
    assert found.keys() == {
        *("source_url", "source_digest", "source_version", "endorser", "synced_at"),
    }


def test_a_backend_that_does_not_know_it_is_not_sent_any(
    site: ImageSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would store it among the attributes, and each run would find a difference."""
    known = tuple(one for one in calls._FEATURES if one != PROVENANCE)
    monkeypatch.setattr(calls, "_FEATURES", known)
    site.publish(site.image(1))
    assert site.through_grpc("sync").returncode == 0
    assert provenance(site) == [{}]
