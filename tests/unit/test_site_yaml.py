"""A site's file of EGI's catch-all: the schema, the files that an import writes, and back."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from appliance.admin.command import main
from appliance.admin.configure import site as configured
from appliance.admin.configure.site import CLOUD
from appliance.admin.site_yaml import schema, texts
from appliance.admin.site_yaml.schema import SiteYaml
from appliance.core.config.settings import MASK
from appliance.core.run.errors import ConfigurationError
from tests import documents
from tests.unit import checked_site
from tests.unit.checked_site import BACKEND, CASO, RC, SHARES, VOS, Site

pytestmark = pytest.mark.root

ONE, TWO, THREE = "1a" * 16, "2b" * 16, "3" * 32
FILE = f"""\
---
gocdb: EXAMPLE-SITE
endpoint: https://keystone.example.org:5000/v3
region: RegionOne
images:
  sync: true
  formats:
  - qcow2
  - raw
accounting:
  enabled: false
  site_name: EXAMPLE-RECORDS
vos:
- name: ops
  auth:
    project_id: {ONE}
- name: vo.access.egi.eu
  auth:
    project_id: {TWO}
"""
SETTINGS = "etc/fedcloud/appliance.yaml"


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checked_site.ship(
        tmp_path_factory.mktemp("site"), pki=tmp_path_factory.mktemp("authority")
    )


@pytest.fixture
def site(shipped: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with checked_site.healthy(shipped, monkeypatch) as made:
        yield made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "EXAMPLE-SITE.yaml"
    path.write_text(FILE)
    return path


def make_new(site: Site) -> None:
    """Bring the examples of the shipped files back."""
    site.edit(SHARES, ("0" * 32, "PROJECT-ID"))


def everything(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def ran(
    site: Site, capsys: pytest.CaptureFixture[str], *words: object, expect: int = 0
) -> tuple[str, str]:
    capsys.readouterr()
    status = main([*map(str, words), "--root", str(site.root)])
    out, err = capsys.readouterr()
    assert status == expect, (out, err)
    assert "geheim" not in out + err
    return out, err


def test_there_and_back(site: Site, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is imported into a new site is exported again, byte for byte; twice changes nothing."""
    make_new(site)
    ran(site, capsys, "import-site-yaml", file, "--apply")
    exported, _ = ran(site, capsys, "export-site-yaml")
    assert exported == FILE
    before = everything(site.root / "etc")
    out, _ = ran(site, capsys, "import-site-yaml", file, "--apply")
    assert out.startswith("Nothing is left to change.")
    assert everything(site.root / "etc") == before
    ran(site, capsys, "export-site-yaml", "--output", file.with_name("again.yaml"))
    assert file.with_name("again.yaml").read_text() == FILE


def test_an_import_shows_the_difference_first(
    site: Site, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = everything(site.root)
    out, _ = ran(site, capsys, "import-site-yaml", file)
    assert everything(site.root) == before
    for line in (
        "-site_name = SITE\n+site_name = EXAMPLE-RECORDS",
        f"+projects = project, {ONE}, {TWO}",
        "+export OS_AUTH_URL=https://keystone.example.org:5000/v3",
        "-  images: on\n+  images: off",
        "+  formats: [qcow2, raw]",
        f"+                project_id: {TWO}",
    ):
        assert line in out, line
    assert out.endswith("Nothing has been changed. Next: the same command with --apply\n")


def test_what_is_here_stays_and_comes_back(
    site: Site, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Comments, other options, other VOs, owners and modes stay; the script undoes all of it."""
    site.edit(VOS, ('"ops"', '"vo.local"'))
    before = everything(site.root / "etc")
    out, _ = ran(site, capsys, "import-site-yaml", file, "--apply")
    for name in (CASO, RC, SHARES, BACKEND):
        old, new = (
            [line for line in text.splitlines() if line.lstrip().startswith("# ")]
            for text in (before[str(site.root / name)].decode(), (site.root / name).read_text())
        )
        assert old == new
        assert old
        assert (site.root / name).stat().st_mode & 0o777 in (0o600, 0o644)
    table = json.loads((site.root / VOS).read_text())
    assert table["vo.local"] == {"tenant": "project"}
    assert table["ops"] == {"projects": [ONE]}
    described = yaml.safe_load((site.root / SHARES).read_text())["compute"]["shares"]
    assert "vo.example.org" in described
    assert described["ops"] == {"auth": {"project_id": ONE}}
    (undo,) = [line.partition(": ")[2] for line in out.splitlines() if line.startswith("undo: ")]
    subprocess.run(["/bin/sh", undo], check=True, capture_output=True)
    assert everything(site.root / "etc") == before


def test_secrets_are_masked(site: Site, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site.edit(RC, ("export OS_PASSWORD=geheimes", "OS_AUTH_URL=''\nexport OS_PASSWORD=geheimes"))
    assert MASK in ran(site, capsys, "import-site-yaml", file)[0]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("gocdb:", "godcb:", ":2: godcb: unknown key; did you mean gocdb?"),
        ("accounting:", "accouting:", ":10: accouting: unknown key; did you mean accounting?"),
        ("  enabled: ", "  on: ", ":11: accounting.on: unknown key; allowed are enabled, site_nam"),
        ("  sync: true", "  sync: maybe", ":6: images.sync: 'maybe' is not allowed; write true or"),
        ("gocdb: EXAMPLE-SITE\n", "", ": gocdb: must be set: the site's name exactly as in GOCDB"),
        ("https://keystone", "keystone", ":3: endpoint: "),
        ("https://", "https://user:s3cret@", ":3: endpoint: "),
        (f"project_id: {ONE}", "project_id: a b", ":16: ops: 'a b' is not the id of a project"),
        ("name: vo.access.egi.eu", "name: ops", ":17: ops: is in the list a second time; remove"),
        ("name: vo.access.egi.eu", "name: '$(x)'", ":17: vos: '$(x)' is no name of a VO; correct"),
        ("region: RegionOne", "region: 'a; b'", ":4: region: 'a; b' is not allowed"),
        ("  - raw", "  - 'r]w'", ":7: images.formats: 'r]w' is no format"),
        ("images:\n", "images: on\nimages2:\n", ":5: images: must have keys: sync, formats"),
        ("---", "- x", ":1: must be lines of the form"),
    ],
)
def test_what_the_schema_refuses(
    old: str, new: str, said: str, site: Site, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every fault has its line, and nothing is written."""
    before = everything(site.root)
    file.write_text(FILE.replace(old, new) if new != "- x" else "- x\n")
    _, err = ran(site, capsys, "import-site-yaml", file, "--apply", expect=2)
    assert f"{file}{said}" in err
    assert "s3cret" not in err
    assert everything(site.root) == before


def test_more_keys_of_a_vo_are_reported(
    site: Site, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The schema allows them; CREODIAS has a region in place of a project."""
    more = "  default_network: public\n- name: vo.x\n  auth:\n    region: WAW4-1\n"
    file.write_text(FILE + more)
    _, err = ran(site, capsys, "import-site-yaml", file)
    assert f"{file}:17: vo.access.egi.eu: default_network is not used here" in err
    assert f"{file}:21: vo.x: has no project_id, so it is left out" in err
    assert f"{file}:21: vo.x: auth.region is not used here" in err


def imported(**given: str) -> dict[str, str]:
    """Return the texts after an import of `FILE`, from those that are given."""
    mounts = {
        "FEDCLOUD_CASO_MAPPING": "/v",
        "FEDCLOUD_BACKEND_MAPPING": "/v",
        "FEDCLOUD_BACKEND_CONFIG": "/b",
    }
    site = SiteYaml("S", "https://k:5000/v3", projects={"ops": ONE, "vo.x": TWO})
    names = {"cloud": CLOUD, "mapping": "/v", "caso": configured.CASO}
    found = dict(texts.changed(site, {names[key]: text for key, text in given.items()}, mounts))
    return {key: found[name] for key, name in names.items()}


def test_shares_keep_their_form() -> None:
    """A wrong project is corrected in its line; a new share comes last, indented as the others."""
    before = (
        "site:\n  name: S\ncompute:\n  total_cores: 1 # all\n  shares:\n"
        f"   # ours\n   ops: {{auth: {{project_id: {THREE}}}, default_network_type: public}}\n"
        "  images: {}\n"
    )
    after = imported(cloud=before)["cloud"]
    new = f"   vo.x:\n       auth:\n           project_id: {TWO}\n"
    expected = before.replace(THREE, ONE).replace("  images", f"{new}  images")
    assert after == expected
    assert imported(cloud=after)["cloud"] == after


@pytest.mark.parametrize(
    "text", ["", "site: {name: S}\n", "site:\n  name: S\ncompute:\n  total_cores: 1\n"]
)
def test_shares_where_there_were_none(text: str) -> None:
    made = yaml.safe_load(imported(cloud=text)["cloud"])
    assert made["site"] == {"name": "S"}
    assert made["compute"]["shares"] == {
        "ops": {"auth": {"project_id": ONE}},
        "vo.x": {"auth": {"project_id": TWO}},
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gocdb: S\nendpoint: x\nvos: []\n", ":1: this file is one of the catch-all itself; copy"),
        ("compute:\n  shares:\n    ops: {x: y}\n", ":3: compute.shares: has a form that cannot"),
        ("compute:\n  shares: {a: {auth: {project_id: b}}}\n", ":2: compute.shares: has a form th"),
    ],
)
def test_descriptions_into_which_nothing_can_be_written(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        imported(cloud=text)
    assert f"{CLOUD}{said}" in str(error.value)


def test_a_table_of_any_form_keeps_what_is_right() -> None:
    table = json.dumps({"ops": {"tenants": ["a", ONE]}, "vo.x": {"project": TWO, "domain": "d"}})
    assert imported(mapping=table)["mapping"] == table
    with pytest.raises(ConfigurationError, match="is not a mapping of VOs"):
        imported(mapping="[1]")


def test_projects_over_several_lines() -> None:
    before = "[DEFAULT]\nprojects = lab,\n  other\nsite_name=S\n[keystone_auth]\n"
    after = imported(caso=before)["caso"]
    assert f"projects = lab, other, {ONE}, {TWO}\nsite_name=S\n" in after
    assert imported(caso=after)["caso"] == after


def test_a_site_that_runs_accounting_only(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    """25 of 25 sites: the information's files are as shipped, so those of accounting count."""
    site.edit(SHARES, ("name: SITE\n", "name: SITE-NAME\n"))
    site.edit(SETTINGS, ("images: on", "images: off"))
    out, _ = ran(site, capsys, "export-site-yaml")
    found = yaml.safe_load(out)
    assert (found["gocdb"], found["endpoint"]) == ("SITE", "https://keystone.example.net:5000/v3")
    assert found["images"] == {"sync": True, "formats": ["qcow2"]}
    assert found["accounting"] == {"enabled": False}
    assert found["vos"] == [{"name": "ops", "auth": {"project_id": "project"}}]
    site.edit(CASO, ("site_name = SITE", "site_name = SITE-NAME"))
    _, err = ran(site, capsys, "export-site-yaml", expect=3)
    assert "no program has a valid configuration" in err


def test_an_export_is_of_the_schema(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    path = site.root / "x.yaml"
    path.write_text(ran(site, capsys, "export-site-yaml")[0])
    assert schema.read(path).projects == {"vo.example.org": "0" * 32}


def test_a_full_disk_or_a_second_one_leaves_whole_files(
    site: Site, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A directory in place of a file stops the import there; the files before it are whole."""
    broken = site.root / BACKEND
    target = broken.with_name("other")
    broken.rename(target)
    broken.mkdir()
    status = main(["import-site-yaml", str(file), "--apply", "--root", str(site.root)])
    assert status in (2, 3)
    assert "Traceback" not in capsys.readouterr().err
    shutil.rmtree(broken)
    make_new(site)
    target.rename(broken)
    ran(site, capsys, "import-site-yaml", file, "--apply")
    assert ran(site, capsys, "export-site-yaml")[0] == FILE


def test_the_commands_of_the_how_to(
    site: Site, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("export", "import", "apply"):
        for line in documents.block("catch-all-file.md", name).commands():
            _, *words = line.replace("/srv/SITE.yaml", str(file)).split()
            ran(site, capsys, *words)


def test_a_file_that_is_missing_is_not_made(
    site: Site, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A site beside the upstream tools has the files of those that it runs."""
    (site.root / SHARES).unlink()
    ran(site, capsys, "import-site-yaml", file, "--apply")
    assert not (site.root / SHARES).exists()
    assert f"projects = project, {ONE}, {TWO}" in (site.root / CASO).read_text()
