"""C10 to C24: each fault of the files is found under its own id, file and line, and once healed,
nothing is found.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from appliance.admin.check import information
from tests import foreign
from tests.testbed import Authority
from tests.unit import checked_site
from tests.unit.checked_site import (
    BACKEND,
    CASO,
    DEFAULTS,
    LISTS,
    RC,
    SENDER,
    SHARES,
    SITE_CFG,
    VOS,
    Site,
)

pytestmark = pytest.mark.root

GRID = "etc/grid-security"
KEY, CERTIFICATE = f"{GRID}/hostkey.pem", f"{GRID}/hostcert.pem"


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checked_site.ship(
        tmp_path_factory.mktemp("site"), pki=tmp_path_factory.mktemp("authority")
    )


@pytest.fixture
def site(shipped: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with checked_site.healthy(shipped, monkeypatch) as made:
        yield made


@dataclass(frozen=True)
class Planted:
    """A fault in a line of a file: the new text has the line that is named."""

    row: str
    file: str
    old: str
    new: str
    words: str
    """Of the remedy."""


FAULTS: Sequence[Planted] = (
    *(
        Planted("C20.a", file, f"{key}SITE", f"{key}SITE-NAME", "SITE-NAME")
        for file, key in (
            (CASO, "site_name = "),
            (SHARES, "name: "),
            (DEFAULTS, "SITE_NAME="),
            (SITE_CFG, "SITE_NAME = "),
        )
    ),
    Planted("C20.b", CASO, "keystone.example.net:5000", "yourkeystone", "https://HOST:5000/v3"),
    Planted("C20.b", RC, "keystone.example.net", "yourkeystone", "https://HOST:5000/v3"),
    Planted("C20.b", BACKEND, "keystone.example.net:5000", "yourkeystone", "https://HOST:5000/v3"),
    Planted("C20.b", DEFAULTS, "bdii.example.net", "bdii.example.com", "public name"),
    Planted("C20.b", CASO, "password = geheimes", "password = <secret>", "v3password needs it"),
    Planted("C20.b", SITE_CFG, "site-sec@example.net", "site-sec@example.com", "example.com"),
    # C20.c is a row of the profile 2017
    Planted("C20.b", LISTS, "https://", "https://APPDB_TOKEN:x-oauth-basic@", "token"),
    Planted("C21.a", CASO, "[DEFAULT]", "[DEFAULT]\nspooldri = /x", "did you mean spooldir?"),
    Planted("C21.a", SENDER, "[messaging]\n", "[messaging]\npahts: /x\n", "did you mean path"),
    Planted("C21.b", CASO, "[DEFAULT]", "[DEFAULT]\nusername = a", "[keystone_auth]"),
    Planted("C21.c", CASO, "projects = project", "tenants = project", "write projects"),
    Planted("C21.e", RC, "PASSWORD=geheimes", "PASSWORD=$(cat /x)", "nothing is executed"),
    Planted("C22.a", CASO, "site_name = SITE", "site_name = OTHER", "GOCDB's name in both"),
    Planted("C23.a", VOS, "{\n", "{,\n", "not JSON"),
    Planted("C24.a", SENDER, "host: msg.argo", "host: msg-devel.argo", "msg.argo.grnet.gr"),
    Planted(
        "C24.a",
        SENDER,
        "destination: eu-egi-cloud-accounting",
        "destination: /queue/global.accounting.test.cloud.central",
        "eu-egi-cloud-accounting",
    ),
    Planted("C30.b", CASO, "user_domain_name = ", "#user_domain_name = ", "domain of the account"),
    Planted("C30.c", CASO, ":5000/v3", ":5000/v2.0", "/v3"),
)


def test_a_token_of_appdb_in_the_federation_of_2017(site: Site) -> None:
    """C20.c."""
    site.edit("etc/fedcloud/appliance.yaml", ("profile: egi", "profile: 2017"))
    site.edit(LISTS, ("https://", "https://APPDB_TOKEN:x-oauth-basic@"))
    (found,) = site.findings()
    assert (found["id"], found["path"]) == ("C20.c", str(site.root / LISTS))
    assert found["line"] == 2


@pytest.mark.parametrize("planted", FAULTS, ids=lambda one: f"{one.row} {one.file[4:]} {one.words}")
def test_a_fault_in_a_line(site: Site, planted: Planted) -> None:
    path = site.root / planted.file
    before = path.read_text()
    site.edit(planted.file, (planted.old, planted.new))
    text = path.read_text()
    needle = planted.new.strip().splitlines()[-1]
    line = text[: text.index(needle)].count("\n") + 1
    found = site.findings()
    rows = {(one["id"], one["path"], one["line"]) for one in found}
    if planted.row == "C30.b":  # the option is missing, so it has no line
        line = 0
    assert (planted.row, str(path), line) in rows, found
    texts = [one["text"] + one["option"] for one in found if one["id"] == planted.row]
    assert any(planted.words in one for one in texts), texts
    path.write_text(before)
    assert site.findings() == []


def test_a_flow_in_the_singular_is_no_option_of_another_block(site: Site) -> None:
    """C21.a: `image` is an option of the block `egi`, too."""
    path = site.root / "etc/fedcloud/appliance.yaml"
    line = path.read_text().partition("images: on")[0].count("\n") + 1
    site.edit("etc/fedcloud/appliance.yaml", ("images: on", "image: on"))
    found = next(one for one in site.findings() if one["path"] == str(path))
    assert (found["id"], found["line"]) == ("C21.a", line)
    assert found["text"].endswith("did you mean images?")


def test_a_file_of_authorities_that_is_not_there(site: Site) -> None:
    """C21: without containers the programs would silently trust this system's alone."""
    path = site.root / "etc/fedcloud/appliance.env"
    text = path.read_text()
    line = text.partition("FEDCLOUD_CA_BUNDLE=")[0].count("\n") + 1
    path.write_text(re.sub("CA_BUNDLE=.*", f"CA_BUNDLE={site.root}/etc/no.pem", text))
    (found,) = site.findings()
    assert (found["id"], found["path"], found["line"]) == ("C21", str(path), line)
    assert "no.pem does not exist, so only the authorities of this system" in found["text"]
    (site.root / "etc/no.pem").touch()
    assert site.findings() == []
    path.write_text(text)


def test_no_space_for_the_copy_of_the_host_key(site: Site) -> None:
    """C02.b: the sender cannot be checked, because its key cannot be staged."""
    (site.root / "run").mkdir(exist_ok=True)
    with foreign.small_disk(site.root / "run", size="64k"):
        with contextlib.suppress(OSError):
            (site.root / "run/fill").write_bytes(bytes(2**20))
        (found,) = site.findings()
        assert (found["id"], found["program"]) == ("C02.b", "ssmsend")
        assert found["path"].startswith(f"{site.root}/run/")
        assert "free space on this file system" in found["text"]
    assert site.findings() == []


def test_a_list_of_bdiis_without_any(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """C50.c: also before the services run for the first time."""
    monkeypatch.setattr(information, "runs", lambda *_: False)
    path = site.root / "etc/sitebdii/site-urls.conf"
    before = path.read_text()
    path.write_text("# none\n")
    (found,) = site.findings()
    assert (found["id"], found["path"]) == ("C50.c", str(path))
    assert "names no BDII" in found["text"]
    path.write_text(before)
    assert site.findings() == []


def test_two_configurations_of_the_backend(site: Site) -> None:
    """C21.d: both are named."""
    newer = site.root / "etc/cloudkeeper-os/cloudkeeper-os.conf"
    newer.parent.mkdir(exist_ok=True)
    shutil.copy(site.root / BACKEND, newer)
    found = [one for one in site.findings() if one["id"] == "C21.d"]
    assert found
    assert all(str(newer) in one["path"] + one["text"] for one in found)
    assert all(str(site.root / BACKEND) in one["path"] + one["text"] for one in found)
    newer.unlink()
    assert site.findings() == []


def test_tables_that_contradict_each_other(site: Site) -> None:
    """C23.c: ids are compared with ids; the line of the VO, and that in the other file."""
    one, other = "0" * 32, "1" * 32
    before = (site.root / VOS).read_text()
    (site.root / VOS).write_text(f'{{\n"ops": {{"projects": ["{other}"]}}\n}}\n')
    shares = (site.root / SHARES).read_text()
    site.edit(SHARES, ("vo.example.org:", "ops:"))
    found = [one for one in site.findings() if one["id"] == "C23.c"]
    assert [(each["path"], each["line"]) for each in found] == [(str(site.root / VOS), 2)]
    assert one in found[0]["text"]
    (site.root / VOS).write_text(before)
    (site.root / SHARES).write_text(shares)
    assert site.findings() == []


# --------------------------------------------------------------------------------------------------
# certificate and key


def issue(site: Site, tmp_path: Path, *, days: float) -> None:
    """Replace the host's certificate by one of another authority, which the site trusts."""
    authority = Authority.create(tmp_path / "ca", key="ec")
    before = datetime.now(UTC) - timedelta(days=9)
    made = authority.issue("host.example.net", key="ec", not_before=before, days=days + 9)
    authority.publish(site.root / GRID / "certificates")
    install(site, made.certificate, made.key)


def install(site: Site, certificate: Path, key: Path) -> None:
    for name, source, mode in ((CERTIFICATE, certificate, 0o444), (KEY, key, 0o400)):
        (site.root / name).unlink(missing_ok=True)
        shutil.copy(source, site.root / name)
        (site.root / name).chmod(mode)


def no_key(site: Site, _: Path) -> None:
    (site.root / KEY).unlink()


def open_key(site: Site, _: Path) -> None:
    (site.root / KEY).chmod(0o644)


def other_key(site: Site, tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "ca", key="ec")
    key = authority.issue("x.example.net", key="ec").key
    shutil.copy(site.root / CERTIFICATE, tmp_path / "same")
    install(site, tmp_path / "same", key)


def unknown_authority(site: Site, tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "ca", key="ec")
    made = authority.issue("host.example.net", key="ec")
    install(site, made.certificate, made.key)


def expired(site: Site, tmp_path: Path) -> None:
    issue(site, tmp_path, days=-1)


def soon(site: Site, tmp_path: Path) -> None:
    issue(site, tmp_path, days=20)


def very_soon(site: Site, tmp_path: Path) -> None:
    issue(site, tmp_path, days=5)


PAIRS: Mapping[str, tuple[str, str, Callable[[Site, Path], None], bool]] = {
    "C10.a": ("C10.a", KEY, no_key, True),
    "C10.b": ("C10.b", KEY, other_key, True),
    "C10.c": ("C10.c", CERTIFICATE, expired, True),
    "C10.d": ("C10.d", CERTIFICATE, soon, False),
    "C10.d critical": ("C10.d", CERTIFICATE, very_soon, True),
    "C10.e": ("C10.e", KEY, open_key, True),
    "C10.f": ("C10.f", CERTIFICATE, unknown_authority, False),
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_fault_of_certificate_or_key(site: Site, name: str, tmp_path: Path) -> None:
    row, file, spoil, is_error = PAIRS[name]
    kept = tmp_path / "kept"
    shutil.copytree(site.root / GRID, kept, symlinks=True)
    spoil(site, tmp_path)
    # The sender says some of it itself; on a host both name the same path, and are one finding.
    found = {(one["id"], Path(one["path"]).resolve(), one["is_error"]) for one in site.findings()}
    assert (row, site.root / file, is_error) in found
    assert {(one, path) for one, path, _ in found} == {(row, site.root / file)}
    shutil.rmtree(site.root / GRID)
    shutil.copytree(kept, site.root / GRID, symlinks=True)
    assert site.findings() == []


def test_the_host_s_own_certificate_as_the_receiver_s(site: Site) -> None:
    """C12.a."""
    before = (site.root / SENDER).read_text()
    site.edit(
        SENDER, ("[certificates]\n", f"[certificates]\nserver_cert: {site.root}/{CERTIFICATE}\n")
    )
    line = (site.root / SENDER).read_text().split("server_cert:")[0].count("\n") + 1
    assert ("C12.a", str(site.root / SENDER), line) in {
        (one["id"], one["path"], one["line"]) for one in site.findings()
    }
    (site.root / SENDER).write_text(before)
    assert site.findings() == []
