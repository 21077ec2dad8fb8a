"""`appliance config`: values with their places, faults of files, and changes of the site."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.admin.command import main
from appliance.core.config import document, oslo, settings
from appliance.core.config.settings import Settings
from appliance.core.run import log
from tests import documents
from tests.unit import checked_site
from tests.unit.checked_site import BACKEND, CASO, RC, SENDER, TOP, Site

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checked_site.ship(
        tmp_path_factory.mktemp("site"), pki=tmp_path_factory.mktemp("authority")
    )


@pytest.fixture
def site(shipped: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with checked_site.healthy(shipped, monkeypatch) as made:
        yield made


def ran(
    site: Site, capsys: pytest.CaptureFixture[str], *words: str, expect: int = 0
) -> tuple[str, str]:
    """Run the verb; no output has a secret, and no file of the site changes."""
    before = {path: path.read_bytes() for path in (site.root / "etc").rglob("*") if path.is_file()}
    capsys.readouterr()
    status = main(["config", *words, "--root", str(site.root)])
    out, err = capsys.readouterr()
    assert status == expect, (out, err)
    assert "geheim" not in out + err
    assert before == {
        path: path.read_bytes() for path in (site.root / "etc").rglob("*") if path.is_file()
    }
    return out, err


def line_of(site: Site, name: str, text: str) -> int:
    lines = (site.root / name).read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if line.startswith(text))


def test_each_value_has_its_file_and_line(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    shown: dict[str, Any] = json.loads(ran(site, capsys, "show", "--json")[0])
    found = {
        (one["program"], value["section"], value["option"]): value
        for one in shown["programs"]
        for value in one["settings"]
    }
    assert len({program for program, _, _ in found}) == 6 + 1  # and the host
    for program, section, option, text, name, begin in (
        ("caso-extract", "DEFAULT", "site_name", "SITE", CASO, "site_name"),
        ("caso-extract", "keystone_auth", "password", "***", CASO, "password"),
        ("cloudkeeper-os", "keystone_authtoken", "password", "***", BACKEND, "password"),
        ("cloud-info-provider-service", "OS", "password", "***", RC, "export OS_PASSWORD"),
        ("ssmsend", "sender", "protocol", "AMS", SENDER, "protocol"),
    ):
        value = found[program, section, option]
        assert (value["value"], value["file"]) == (text, str(site.root / name)), value
        assert value["line"] == line_of(site, name, begin)
    assert found["caso-extract", "keystone_auth", "username"]["value"] == "accounting"
    default = found["caso-extract", "DEFAULT", "service_name"]
    assert (default["value"], default["file"], default["line"]) == ("SITE", None, None)


def test_defaults_are_left_out_on_request(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    everything, _ = ran(site, capsys, "show", "caso")
    assert re.search(r"^  default +service_name = SITE$", everything, re.MULTILINE)
    only, _ = ran(site, capsys, "show", "caso", "--set-only")
    assert "default" not in only
    place = f"{site.root / CASO}:{line_of(site, CASO, 'site_name')}"
    assert re.search(rf"^  {re.escape(place)} +site_name = SITE$", only, re.MULTILINE)
    assert "ssmsend:" not in only


def test_a_program_that_cannot_start_shows_what_it_has_read(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.edit(CASO, ("auth_type = v3password", "auth_type = v3passwort"))
    out, err = ran(site, capsys, "show", "caso", expect=1)
    assert "[keystone_auth] auth_type = v3passwort" in out
    assert f"{site.root / CASO}:{line_of(site, CASO, 'auth_type')}" in err


def test_validate_reports_what_the_check_reports(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    ran(site, capsys, "validate")
    site.edit(CASO, ("site_name = SITE", "site_nam = SITE"))
    out, _ = ran(site, capsys, "validate", "caso", expect=1)
    assert f"{site.root / CASO}:{line_of(site, CASO, 'site_nam')}" in out
    assert "did you mean site_name?" in out


def test_the_difference_from_the_shipped_files(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = ran(site, capsys, "diff", expect=1)
    assert "-site_name = SITE-NAME\n+site_name = SITE\n" in out
    assert "-#password =\n+password = ***\n" in out
    assert "networks/bridge.yml" not in out


def test_an_unchanged_site_differs_in_nothing(
    shipped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "site"
    shutil.copytree(shipped, root)
    assert main(["config", "diff", "--root", str(root)]) == 0
    assert capsys.readouterr().out.startswith("0 files differ")


def test_the_difference_from_another_version(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(TOP / "etc", tmp_path / "newer/files/etc")
    path = tmp_path / "newer/files" / CASO
    path.write_text(path.read_text() + "# an option of the newer version\n")
    out, _ = ran(site, capsys, "diff", "--with", str(tmp_path / "newer"), "--json", expect=1)
    assert "-# an option of the newer version" in json.loads(out)["files"]["/etc/caso/caso.conf"]
    _, err = ran(site, capsys, "diff", "--with", str(tmp_path / "none"), expect=2)
    assert "is no bundle; unpack the bundle, and name its directory" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("show", "casso"), "did you mean caso?"),
        (("show", "--with", "/x"), "--with: belongs to diff"),
        (("diff", "caso"), "leave out the names"),
        (("validate", "--set-only"), "--set-only: belongs to show"),
    ],
)
def test_wrong_words(
    words: tuple[str, ...], said: str, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in ran(site, capsys, *words, expect=2)[1]


def test_the_commands_of_the_how_to(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    for block, status in (("show", 0), ("validate", 0), ("diff", 1)):
        for line in documents.block("change-configuration.md", block).commands():
            _, _, *words = line.replace("/srv/BUNDLE", str(TOP)).split()
            ran(site, capsys, *words, expect=status)


def test_secrets_of_options_that_no_program_uses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mask follows from the name, from the plugin, and from the account in a URL."""
    path = tmp_path / "x.conf"
    path.write_text(
        "[DEFAULT]\nadmin_passwd = one\napi_token = two\ntoken_file = /three\n"
        "list = https://four:five@host/x\n"
    )
    read = Settings(document.read([path], oslo.parse))
    for option in ("admin_passwd", "api_token", "token_file", "list"):
        read.text("DEFAULT", option)
    log.check_only(is_on=False, is_showing=True)
    try:
        read.finish()
    finally:
        log.check_only(is_on=False)
    assert [(one.option, one.text, one.line) for one in settings.shown()] == [
        ("admin_passwd", "***", 2),
        ("api_token", "***", 3),
        ("token_file", "/three", 4),
        ("list", "https://***@host/x", 5),
    ]
    assert settings.shown() == ()
