"""The matrix of images on a real Glance: its own verdict on each file is the oracle.

F-M11: what we call good is active in the end, and what we foresee that Glance refuses, it refuses.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from cloudkeeper import formats
from cloudkeeper.formats import Unusable
from cloudkeeper.model import Format
from tests.e2e.images_cloud import Cloud
from tests.interop.test_image_matrix import BAD, GOOD, judge
from tests.simulators.disk_images import DiskImages
from tests.testbed.api import ApiError
from tests.unit.test_image_conversion import prepared

pytestmark = [pytest.mark.glance, pytest.mark.matrix, pytest.mark.programs("qemu-img")]

UNSUPPORTED = 415
SENT = (Format.QCOW2, Format.RAW, Format.VMDK, Format.VDI, Format.ISO)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> DiskImages:
    return DiskImages(tmp_path_factory.mktemp("images"))


def glance_takes(cloud: Cloud, content: bytes, disk_format: str) -> bool:
    """Upload a file; Glance may refuse what is in it."""
    try:
        cloud.put_image("img-ops", content, disk_format=disk_format)
    except ApiError as error:
        if error.status_code != UNSUPPORTED:
            raise
        return False
    return True


@pytest.mark.parametrize("name", GOOD)
def test_glance_takes_what_the_frontend_gives_out(
    name: str, images: DiskImages, cloud: Cloud, tmp_path: Path
) -> None:
    make, declared, _ = GOOD[name]
    with prepared(tmp_path, make(images), *SENT, declared=declared) as (data, path):
        assert glance_takes(cloud, path.read_bytes(), data.format)


@pytest.mark.parametrize("name", GOOD)
def test_glance_refuses_what_is_foreseen(
    name: str, images: DiskImages, cloud: Cloud, tmp_path: Path
) -> None:
    make, _, found = GOOD[name]
    if not (found.is_accepted and found.is_disk):
        return  # it is always converted
    path = tmp_path / "image"
    path.write_bytes(make(images))
    objection = formats.check_marks(path, found)
    assert glance_takes(cloud, path.read_bytes(), found) is (objection == ""), objection


@pytest.mark.parametrize("name", [name for name in BAD if name.endswith(".qcow2")])
def test_what_glance_refuses_is_refused_before(
    name: str, images: DiskImages, cloud: Cloud, tmp_path: Path
) -> None:
    """Glance looks for less than we do: it may take what we refuse, and not the reverse."""
    make, declared, _ = BAD[name]
    path = tmp_path / "image"
    path.write_bytes(make(images))
    if not glance_takes(cloud, path.read_bytes() or b"x", "qcow2"):
        with pytest.raises(Unusable):
            judge(path, declared)
