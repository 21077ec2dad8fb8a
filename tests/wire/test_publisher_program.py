"""The program with its publishers: flags, exit status, and what stays after a failure."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.core import retry
from cloud_info_provider.cmds import service
from tests import egi_information
from tests.simulators.gocdb import Gocdb, Service
from tests.simulators.object_store import Store, StoreFault
from tests.simulators.offering_cloud import PASSWORD, Cloud, Fault, flavor, image

TOP = Path(__file__).parents[2]
JSON = ("--format", "glue21json")


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    monkeypatch.setattr(retry, "_sleep", lambda _: None)
    for name in [name for name in os.environ if name.startswith("OS_")]:
        monkeypatch.delenv(name)
    made = Cloud(
        flavors={name: [flavor("1")] for name in ("p0", "p1")},
        images={name: [image("a"), image("b")] for name in ("p0", "p1")},
    )
    with made.serve():
        yield made


@pytest.fixture
def root(tmp_path: Path, cloud: Cloud) -> Path:
    directory = tmp_path / "etc/cloud-info-provider"
    directory.mkdir(parents=True)
    (directory / "openstack.rc").write_text(
        f"OS_AUTH_URL={cloud.url}/identity/v3\nOS_USERNAME=ci\n"
        f"OS_PASSWORD={PASSWORD}\nOS_USER_DOMAIN_ID=default\n"
    )
    (directory / "openstack.rc").chmod(0o600)
    (directory / "openstack.yaml").write_text(
        "site:\n  name: EXAMPLE-SITE\ncompute:\n  total_cores: 1\n  total_ram: 4\n  shares:\n"
        "    vo0:\n      auth: {project_id: p0}\n    vo1:\n      auth: {project_id: p1}\n"
    )
    return tmp_path


def output(root: Path) -> Path:
    return root / "var/lib/fedcloud/cloud-info/information.json"


def run(root: Path, *flags: str, gocdb: str = "") -> int:
    return service.main(["--root", str(root), "--gocdb-url", gocdb, *flags])


def vos(root: Path) -> list[str]:
    document = json.loads(output(root).read_text())
    return [policy["Associations"]["PolicyUserDomain"][0] for policy in document["MappingPolicy"]]


def test_file_beside_standard_output(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file has what standard output has; another path by flag or by setting."""
    assert run(root, *JSON, "--publisher", "file") == 0
    assert capsys.readouterr().out == ""
    assert run(root, *JSON) == 0
    printed = json.loads(capsys.readouterr().out)
    written = json.loads(output(root).read_text())
    assert printed.keys() == written.keys()
    assert len(printed["CloudComputingImage"]) == len(written["CloudComputingImage"])
    named = root / "elsewhere.json"
    assert run(root, *JSON, "--publisher", "file", "--output", str(named)) == 0
    assert named.exists()
    set_path = root / "set/x.json"
    settings = root / "etc/cloud-info-provider/publish.yaml"
    settings.write_text(f"file:\n  path: {set_path}\n")
    assert run(root, *JSON, "--publisher", "file") == 0
    assert set_path.exists()


def test_shipped_settings_write_below_the_root(root: Path) -> None:
    shutil.copy(TOP / "etc/cloud-info-provider/publish.yaml", root / "etc/cloud-info-provider")
    assert run(root, *JSON, "--publisher", "file") == 0
    assert output(root).exists()
    assert run(root, *JSON, "--publisher", "file", "--check-config") == 0


def test_failed_vo_stays_in_the_file(root: Path, cloud: Cloud) -> None:
    assert run(root, *JSON, "--publisher", "file") == 0
    cloud.faults = [Fault("/image", "p1", status=403)]
    assert run(root, *JSON, "--publisher", "file") == 1
    assert sorted(vos(root)) == ["vo0", "vo1"]


def test_cloud_that_cannot_be_read_renews_nothing(root: Path, cloud: Cloud) -> None:
    assert run(root, *JSON, "--publisher", "file") == 0
    before = output(root).read_bytes()
    cloud.faults = [Fault("/identity", status=503)]
    assert run(root, *JSON, "--publisher", "file") == 3
    assert output(root).read_bytes() == before


def test_only_json_goes_to_a_file(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for other in ("glue", "json"):
        assert run(root, "--format", other, "--publisher", "file") == 2
        words = "--publisher: file publishes EGI's JSON only; write --format glue21json"
        assert words in capsys.readouterr().err
    assert run(root, *JSON, "--publisher", "ams") == 2
    assert "'ams' is not in this version" in capsys.readouterr().err


def test_replaced_object_needs_a_store(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flags in ((), ("--publisher", "file")):
        assert run(root, *JSON, *flags, "--replace-object", "x") == 2
        words = "--replace-object: belongs to a publisher that uploads; add --publisher swift or"
        assert words in capsys.readouterr().err


@pytest.mark.parametrize("name", ["x.state", "x.lock"])
def test_output_named_as_a_file_beside_it(
    root: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The memory would replace the document."""
    path = root / name
    assert run(root, *JSON, "--publisher", "file", "--output", str(path)) == 2
    assert f"--output: {path} has the name of a file that is kept" in capsys.readouterr().err
    settings = root / "etc/cloud-info-provider/publish.yaml"
    settings.write_text(f"file:\n  path: {path}\n")
    assert run(root, *JSON, "--publisher", "file", "--check-config") == 2
    assert f"{settings}: file.path: {path} has the name" in capsys.readouterr().err
    assert not path.exists()


def test_errors_of_all_files_together(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = root / "etc/cloud-info-provider"
    (directory / "publish.yaml").write_text("s3:\n  url: https://s3.example.org\n")
    yaml = directory / "openstack.yaml"
    yaml.write_text(yaml.read_text().replace("EXAMPLE-SITE", "SITE-NAME"))
    assert run(root, *JSON, "--publisher", "s3", "--check-config") == 2
    shown = capsys.readouterr().err
    assert f"{yaml}:2: site.name: is still the placeholder" in shown
    assert f"{directory / 'publish.yaml'}: s3.bucket: must be set" in shown
    assert f"{directory / 'publish.yaml'}: s3.secret_key_file: must be set" in shown


def test_failed_upload_is_repeated_without_the_cloud(
    root: Path, cloud: Cloud, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = root / "etc/cloud-info-provider/publish.yaml"
    record = root / "var/lib/fedcloud/runs/cloud-info-provider-service.json"
    endpoint = f"{cloud.url}/identity/v3"
    with (
        Store(objects={"x": {}}).serve() as store,
        Gocdb([Service("7G0", "EXAMPLE-SITE", endpoint)]).serve() as gocdb,
    ):
        settings.write_text(f"http:\n  url: {store.url}/x\n")
        store.faults = [StoreFault("PUT", status=503)]
        assert run(root, *JSON, "--publisher", "http", gocdb=gocdb.url) == 3
        assert "cannot store EXAMPLE-SITE-" in json.loads(record.read_text())["failures"][0]
        assert store.objects == {"x": {}}
        # The next run cannot read the cloud, and repeats what was left.
        cloud.faults = [Fault("/identity", status=503)]
        store.faults = []
        capsys.readouterr()
        assert run(root, *JSON, "--publisher", "http", gocdb=gocdb.url) == 3
        ((_, stored),) = store.objects["x"].items()
        assert stored == output(root).read_bytes()
        site = egi_information.read(stored.decode())
        assert (site.gocdb_id, site.url) == ("7G0", endpoint)
        assert {share.vo for share in site.shares} == {"vo0", "vo1"}
        assert "Traceback" not in capsys.readouterr().err


def test_file_of_another_site_is_not_uploaded(
    root: Path, cloud: Cloud, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not even while the cloud, and so the name of the site, cannot be read from it."""
    directory = root / "etc/cloud-info-provider"
    services = [Service("7G0", "EXAMPLE-SITE", f"{cloud.url}/identity/v3")]
    with Store(objects={"x": {}}).serve() as store, Gocdb(services).serve() as gocdb:
        assert run(root, *JSON, "--publisher", "file", gocdb=gocdb.url) == 0
        yaml = directory / "openstack.yaml"
        yaml.write_text(yaml.read_text().replace("EXAMPLE-SITE", "OTHER-SITE"))
        (directory / "publish.yaml").write_text(f"http:\n  url: {store.url}/x\n")
        cloud.faults = [Fault("/identity", status=503)]
        capsys.readouterr()
        assert run(root, *JSON, "--publisher", "http", gocdb=gocdb.url) == 3
        words = f"{output(root)}: holds the information of EXAMPLE-SITE, not of OTHER-SITE"
        assert words in capsys.readouterr().err
        assert store.objects == {"x": {}}


def test_without_gocdb_only_the_file_is_written(
    root: Path, cloud: Cloud, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = root / "etc/cloud-info-provider/publish.yaml"
    with Store(objects={"x": {}}).serve() as store:
        settings.write_text(f"http:\n  url: {store.url}/x\n")
        assert run(root, *JSON, "--publisher", "http") == 3
        assert "the document: has no gocdb_id" in capsys.readouterr().err
        assert store.objects == {"x": {}}
        assert output(root).exists()
