"""`appliance images` reports missing images before docker-compose would fetch them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.admin import settings
from appliance.admin.command import main
from appliance.core.run.layout import Layout
from tests.simulators import docker_engine
from tests.simulators.docker_engine import Engine

SERVICES = ("cloudbdii", "sitebdii", "cloudkeeper-os")
ALL = {
    f"egifedcloud/{name}:1.2" for name in (*SERVICES, "caso", "ssm", "cloudkeeper", "cloud-info")
}


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    etc = tmp_path / "etc/fedcloud"
    etc.mkdir(parents=True)
    (etc / "docker-compose.yml").write_text("services: {}\n")
    (etc / "appliance.env").write_text("FEDCLOUD_VERSION=1.2\n")
    (etc / "networks").mkdir()
    (etc / "networks/bridge.yml").write_text("services: {}\n")
    with (
        tempfile.TemporaryDirectory(prefix="e") as short,
        docker_engine.serve(Path(short)) as served,
    ):
        (etc / "appliance.yaml").write_text(f"engine:\n  socket: {served.socket}\n")
        served.images = {tag: f"sha256:{tag}" for tag in ALL}
        yield served


def images(root: Path, *words: str) -> int:
    return main(["images", "--root", str(root), *words])


def test_all_images_are_listed(
    engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert images(tmp_path) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert dict(lines) == engine.images


def test_what_is_missing_is_reported(
    engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """R01: nothing is pulled by itself; docker-compose would."""
    del engine.images["egifedcloud/sitebdii:1.2"]
    assert images(tmp_path, "cloudbdii", "sitebdii") == 3
    assert capsys.readouterr().err == (
        "appliance: egifedcloud/sitebdii:1.2: this image is not on the host; run "
        f"install of the bundle whose version {tmp_path}/var/lib/fedcloud/version names\n"
    )
    assert images(tmp_path, "cloudkeeper-os") == 0


def lock(root: Path, *lines: str) -> Path:
    path = root / "etc/fedcloud/images.lock"
    path.write_text("# service tag id\n" + "".join(f"{line}\n" for line in lines))
    return path


def test_a_tag_that_was_moved_is_reported(
    engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # R01: what runs is what the bundle brought, whatever docker tag or another docker load has done
    # since
    ours, other, tag = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}", "egifedcloud/sitebdii:1.2"
    path = lock(tmp_path, f"sitebdii {tag} {ours}")
    engine.images[tag] = ours
    assert images(tmp_path) == 0
    capsys.readouterr()
    engine.images[tag] = other
    assert images(tmp_path, "cloudbdii", "sitebdii") == 3
    assert capsys.readouterr().err == (
        f"appliance: {tag}: the engine has sha256:bbbbbbbbbbbb, not sha256:aaaaaaaaaaaa as in "
        f"{path};"
        f" run install of the bundle whose version {tmp_path}/var/lib/fedcloud/version names\n"
    )
    assert images(tmp_path, "cloudbdii") == 0


@pytest.mark.usefixtures("engine")
def test_a_version_that_the_bundle_lacks(tmp_path: Path) -> None:
    """A site may go back to images that it still has, or build its own."""
    lock(tmp_path, f"sitebdii egifedcloud/sitebdii:1.3 sha256:{'a' * 64}")
    assert images(tmp_path) == 0


@pytest.mark.usefixtures("engine")
def test_a_lock_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = lock(tmp_path, "sitebdii egifedcloud/sitebdii:1.2")
    assert images(tmp_path) == 2
    assert capsys.readouterr().err == (
        f"appliance: {path}:2: must be SERVICE TAG sha256:ID; run the bundle's install again\n"
    )


@pytest.mark.usefixtures("engine")
def test_a_network_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    env = tmp_path / "etc/fedcloud/appliance.env"
    env.write_text("FEDCLOUD_VERSION=1.2\nFEDCLOUD_NETWORK=brdige\n")
    assert images(tmp_path) == 2
    assert capsys.readouterr().err == (
        f"appliance: {env}: FEDCLOUD_NETWORK: there is no "
        f"{tmp_path}/etc/fedcloud/networks/brdige.yml; write bridge, host,"
        " or the name of a copy of one of these two\n"
    )
    (tmp_path / "etc/fedcloud/networks/brdige.yml").write_text("services: {}\n")
    assert images(tmp_path) == 0


@pytest.mark.usefixtures("engine")
def test_a_misspelt_setting_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    env = tmp_path / "etc/fedcloud/appliance.env"
    env.write_text("FEDCLOUD_VERSION=1.2\nFEDCLOUD_NETWROK=host\nHTTP_PROXY=\nKEYSTONE=192.0.2.1\n")
    assert images(tmp_path) == 0
    reported = capsys.readouterr().err
    assert f"{env}:2: FEDCLOUD_NETWROK: " in reported
    assert "did you mean FEDCLOUD_NETWORK?" in reported
    assert "KEYSTONE" not in reported


def test_a_name_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert images(tmp_path, "sitebdi") == 2
    assert "sitebdi: there is no such service; did you mean sitebdii?" in capsys.readouterr().err


@pytest.mark.root
@pytest.mark.usefixtures("engine")
def test_the_engine_is_down(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "etc/fedcloud/appliance.yaml").write_text("engine:\n  socket: /nonexistent\n")
    assert images(tmp_path) == 3
    assert "the Docker engine does not run" in capsys.readouterr().err


def test_the_version_in_use_lies_in_the_state_directory(
    engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The version in appliance.env is used only if the installer has written no other."""
    version = tmp_path / "var/lib/fedcloud/version"
    version.parent.mkdir(parents=True)
    version.write_text("1.1\n")
    host = settings.load(Layout(tmp_path))
    assert host.version == "1.1"
    assert settings.compose_environment(host)["FEDCLOUD_VERSION"] == "1.1"
    (warning,) = host.warnings
    env = tmp_path / "etc/fedcloud/appliance.env"
    assert str(warning) == (
        f"{env}:1: FEDCLOUD_VERSION: is ignored: the version in use is 1.1, in {version}; "
        "remove this line"
    )
    version.unlink()
    assert (
        settings.compose_environment(settings.load(Layout(tmp_path)))["FEDCLOUD_VERSION"] == "1.2"
    )
