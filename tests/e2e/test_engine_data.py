"""The data root that an image of a machine has: an engine finds the bundle's images in it."""

from __future__ import annotations

import io
import stat
import tarfile
from pathlib import Path

import pytest

from appliance.admin.images import locked
from deploy.dockerd import DockerDaemon
from deploy.vm import engine_data
from tests.testbed import bundle as bundles

# Not `unnamed`: it starts other engines.
pytestmark = pytest.mark.container


def _listed(top: Path) -> dict[str, tuple[str, bytes]]:
    """Return mode and content of each path, and where links lead."""
    found = {}
    for path in sorted(top.rglob("*")):
        mode = stat.filemode(path.lstat().st_mode)
        if path.is_symlink():
            content = bytes(path.readlink())
        else:
            content = path.read_bytes() if path.is_file() else b""
        found[str(path.relative_to(top))] = (mode, content)
    return found


def test_two_builds_fill_the_same_data_root_and_an_engine_reads_it(tmp_path: Path) -> None:
    bundle = bundles.make(tmp_path)
    ids = locked.read(bundle / "images.lock")
    for name in ("first", "second"):
        engine_data.fill(bundle, tmp_path / f"{name}.work", tmp_path / name / "data")
        assert not (tmp_path / f"{name}.work").exists()
    first, second = (_listed(tmp_path / name) for name in ("first", "second"))
    assert first == second
    engine = DockerDaemon(tmp_path / "first")
    with engine.used():
        for tag, identifier in ids.items():
            shown = engine.docker("image", "inspect", "--format", "{{.Id}}", tag).stdout
            assert shown == f"{identifier}\n"
        # The layer is readable as a file system, and can be written to an archive again.
        made = engine.docker("create", *ids, "/about").stdout.strip()
        exported, saved = tmp_path / "exported.tar", tmp_path / "saved.tar"
        engine.docker("export", "--output", exported, made)
        engine.docker("save", "--output", saved, *ids)
        engine.docker("rm", made)
    (tag,) = ids
    with tarfile.open(exported) as archive:
        about = archive.extractfile("about")
        assert about is not None
        assert about.read() == tag.encode()
    with tarfile.open(saved) as archive:
        layers = [name for name in archive.getnames() if name.endswith("layer.tar")]
        (layer,) = [archive.extractfile(name) for name in layers]
        assert layer is not None
        with tarfile.open(fileobj=io.BytesIO(layer.read())) as inner:
            assert inner.getnames() == ["about"]
