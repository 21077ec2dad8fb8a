"""`cloudkeeper sync` with a filter changes nothing outside it, also not in the backend."""

from __future__ import annotations

import pytest

from tests.unit.image_site import ImageSite, authority, site, web  # noqa: F401

# ruff: noqa: F811  the fixtures are those of the site

pytestmark = pytest.mark.programs("openssl", "qemu-img")


@pytest.mark.parametrize("way", ["run", "through_grpc"])
def test_a_former_project_is_tidied_by_a_run_without_a_filter(site: ImageSite, way: str) -> None:
    start = getattr(site, way)
    site.publish(site.image(1))
    assert start("sync").returncode == 0
    moved = {"ops": {"project": "two"}, "biomed": {"project": "one"}}
    site.backend.configure("former_projects = remove", moved)
    for flags, owners in ((["--vo", "ops"], ["one", "two"]), ([], ["two"])):
        assert start("sync", *flags).returncode == 0
        assert sorted(each["owner"] for each in site.glance.images.values()) == owners
