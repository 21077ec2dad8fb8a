"""`appliance upgrade --check`: judged beside the installer, and by bundles that are wrong."""

from __future__ import annotations

import os
import shutil
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest

from appliance.admin import changing
from appliance.admin.command import main
from appliance.admin.install.record import InstallRecord
from appliance.core.version import __version__
from tests.testbed import bundle as bundles
from tests.unit import backup_site
from tests.unit.backup_site import put
from tests.unit.upgrade_site import NEWER, make_bundles, make_host, packed

pytestmark = [pytest.mark.root, pytest.mark.programs("openssl")]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with two signed bundles, and the public key."""
    directory = tmp_path_factory.mktemp("bundles")
    make_bundles(directory)
    return directory


@pytest.fixture
def newer(made: Path, tmp_path: Path) -> Path:
    """Return a copy of the newer bundle that a test may damage."""
    return Path(shutil.copytree(made / f"fedcloud-appliance-{NEWER}", tmp_path / "newer"))


@pytest.fixture
def host(made: Path, tmp_path: Path) -> Path:
    """Return a host with the files and the record of an installation."""
    root = tmp_path / "host"
    make_host(root, made)
    return root


def check(host: Path, bundle: Path, *words: object) -> int:
    """Check an upgrade, which must not change the host."""
    before = backup_site.snapshot(host)
    command = ["upgrade", "--check", "--from", str(bundle), "--root", str(host)]
    status = main([*command, *map(str, words)])
    assert backup_site.snapshot(host) == before
    return status


@pytest.mark.parametrize("is_tar", [False, True], ids=["directory", "tar"])
def test_what_would_change(
    is_tar: bool, host: Path, newer: Path, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed, edited = "files/etc/caso/caso.conf", "files/etc/apel/sender.cfg"
    for name in (changed, edited):
        put(newer / name, f"{(newer / name).read_text()}# a new line\n")
    put(host / "etc/apel/sender.cfg", "# my own\n")
    bundles.seal(newer, key=made / "key.pem")
    assert check(host, packed(newer) if is_tar else newer) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{__version__} -> {NEWER}; the signature and all checksums hold"
    assert [line for line in lines if line.startswith("~") and "images.lock" not in line] == [
        "~ /etc/caso/caso.conf"
    ]
    assert [line.partition(":")[0] for line in lines if line.startswith("!")] == [
        "! /etc/apel/sender.cfg"
    ]


def test_a_bundle_that_is_installed_and_one_after_a_way_back(
    host: Path, newer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A way back selects the version before; the record still names the newer bundle."""
    record = InstallRecord.read(host / "var/lib/fedcloud/install.json")
    sums = subprocess.run(["sha256sum", newer / "SHA256SUMS"], capture_output=True, check=True)
    record.bundle = sums.stdout.split()[0].decode()
    record.write(host / "var/lib/fedcloud/install.json")
    assert check(host, newer) == 1
    assert f"{__version__} -> {NEWER}" in capsys.readouterr().out
    put(host / "var/lib/fedcloud/version", f"{NEWER}\n")
    assert check(host, newer) == 0
    assert "Nothing to upgrade" in capsys.readouterr().out


def refusal(
    capsys: pytest.CaptureFixture[str], status: int, host: Path, bundle: Path, *words: object
) -> str:
    """Return the line of a refusal, which is the same for a tar and a directory."""
    found = set()
    for form in (bundle, packed(bundle)):
        assert check(host, form, *words) == status
        (line,) = capsys.readouterr().err.splitlines()
        found.add(line.replace(str(form), "BUNDLE"))
    (line,) = found
    return line


def _alter(bundle: Path) -> None:
    path = bundle / "images/caso.tar"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _drop(bundle: Path) -> None:
    (bundle / "images/caso.tar").unlink()


def _add(bundle: Path) -> None:
    put(bundle / "files/etc/cron.d/more", "* * * * * root true\n")


def _resum(bundle: Path) -> None:
    """Change a file and its checksum, without the key."""
    put(bundle / "images.lock", "")
    signature = (bundle / "SHA256SUMS.sig").read_bytes()
    bundles.seal(bundle)
    (bundle / "SHA256SUMS.sig").write_bytes(signature)


def _unsign(bundle: Path) -> None:
    (bundle / "SHA256SUMS.sig").unlink()


def _empty(bundle: Path) -> None:
    (bundle / "SHA256SUMS").unlink()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_alter, "altered or incomplete: images/caso.tar"),
        (_drop, "altered or incomplete: images/caso.tar"),
        (_add, "does not list: files/etc/cron.d/more"),
        (_resum, "its signature does not match"),
        (_unsign, "is not signed"),
        (_empty, "it has no SHA256SUMS"),
    ],
)
def test_bundles_that_are_refused(
    damage: object, words: str, host: Path, newer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(damage)
    damage(newer)
    assert words in refusal(capsys, 3, host, newer)


def test_another_directory_is_not_read(
    host: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may be the top of a file system: its files, such as this pipe, are not opened."""
    (tmp_path / "other").mkdir()
    os.mkfifo(tmp_path / "other/pipe")
    assert check(host, tmp_path / "other") == 3
    assert "other: is not a bundle of the appliance: it has no" in capsys.readouterr().err


def test_a_link_in_a_bundle(host: Path, newer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (newer / "files/link").symlink_to("/etc/passwd")
    assert check(host, newer) == 3
    assert check(host, packed(newer)) == 3


def test_an_older_bundle(host: Path, newer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(host / "var/lib/fedcloud/version", "100.0\n")
    assert "older than 100.0" in refusal(capsys, 2, host, newer)


@pytest.fixture
def other_key(tmp_path: Path) -> Path:
    (tmp_path / "other").mkdir()
    return bundles.make_key(tmp_path / "other")[1]


def test_keys(host: Path, newer: Path, other_key: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "does not match" in refusal(capsys, 3, host, newer, "--key", other_key)
    (host / "etc/fedcloud/signing-key.pem").unlink()
    assert "--key" in refusal(capsys, 2, host, newer)
    assert check(host, newer, "--unsigned") == 1


def test_two_administrators_at_once(
    host: Path, newer: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other run makes its backup, or looks at the health of the new version."""
    monkeypatch.setattr(changing, "_PATIENCE", timedelta(0))
    with backup_site.held(host / "run/fedcloud/upgrade.lock"):
        for words in (["--from", str(newer)], ["--rollback"]):
            assert main(["upgrade", *words, "--root", str(host)]) == 1
            (line,) = capsys.readouterr().err.splitlines()
            assert "upgrade.lock: held by another program" in line


def test_no_appliance_is_installed(
    tmp_path: Path, newer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bare").mkdir()
    assert "no appliance" in refusal(capsys, 2, tmp_path / "bare", newer, "--unsigned")


@pytest.mark.parametrize("kind", ["rsa", "ec"])
def test_other_kinds_of_keys(kind: str, host: Path, newer: Path, tmp_path: Path) -> None:
    """`scripts/install` verifies them with openssl dgst -sha256."""
    option = {"rsa": "rsa_keygen_bits:2048", "ec": "ec_paramgen_curve:P-256"}[kind]
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    make = ["openssl", "genpkey", "-algorithm", kind, "-pkeyopt", option]
    subprocess.run([*make, "-out", private], check=True, capture_output=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
    sign = ["openssl", "dgst", "-sha256", "-sign", str(private)]
    sums = newer / "SHA256SUMS"
    subprocess.run([*sign, "-out", newer / "SHA256SUMS.sig", sums], check=True)
    assert check(host, newer, "--key", public) == 1
    (newer / "SHA256SUMS.sig").write_bytes(b"x" * 64)
    assert check(host, newer, "--key", public) == 3
