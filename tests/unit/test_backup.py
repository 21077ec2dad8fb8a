"""`appliance backup`: what openssl, zstd, tar and sqlite3 find in the file."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shlex
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.admin.command import main
from tests import documents
from tests.unit import backup_site
from tests.unit.backup_site import PASSPHRASE, SECRET, put

pytestmark = [pytest.mark.root, pytest.mark.programs("openssl", "zstd")]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return backup_site.make(tmp_path / "site")


def backup(site: Path, target: Path, *words: object) -> int:
    return main(["backup", "--root", str(site), *map(str, words), "--", str(target)])


def opened(plain: Path, into: Path) -> Path:
    """Unpack a backup that is not encrypted with the programs of the system."""
    into.mkdir()
    done = subprocess.run(["zstd", "-dc", plain], capture_output=True, check=True)
    subprocess.run(["tar", "-xpf", "-", "-C", into], input=done.stdout, check=True)
    return into


def decrypted(sealed: Path, *words: str | Path) -> Path:
    """Decrypt a backup with openssl."""
    plain = sealed.with_suffix(".plain")
    command = ["openssl", "cms", "-decrypt", "-inform", "DER", "-binary"]
    subprocess.run(
        [*command, "-in", sealed, "-out", plain, *words], check=True, capture_output=True
    )
    return plain


def test_openssl_and_tar_read_what_a_certificate_opens(
    site: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        backup_site.make_certificate(tmp_path, name)
    target = tmp_path / "site.backup"
    certificates = [tmp_path / f"{name}.pem" for name in ("one", "two")]
    assert backup(site, target, "--to", certificates[0], "--to", certificates[1]) == 0
    assert target.stat().st_mode & 0o7777 == 0o600
    sealed = target.read_bytes()
    assert SECRET.encode() not in sealed
    assert b"\x28\xb5\x2f\xfd" not in sealed[:4096]
    for name in ("one", "two"):
        plain = decrypted(target, "-inkey", tmp_path / f"{name}.key")
        found = opened(plain, tmp_path / f"from-{name}")
        text = (found / "files/etc/caso/caso.conf").read_text()
        assert text == (site / "etc/caso/caso.conf").read_text()
    assert SECRET not in "".join(capfd.readouterr())


def test_openssl_reads_what_a_passphrase_opens(site: Path, tmp_path: Path) -> None:
    secret = put(tmp_path / "pass", f"{PASSPHRASE}\n", 0o600)
    target = tmp_path / "site.backup"
    assert backup(site, target, "--passphrase-file", secret) == 0
    plain = decrypted(target, "-pwri_password", PASSPHRASE)
    assert (opened(plain, tmp_path / "found") / "MANIFEST.json").exists()


@pytest.fixture
def found(site: Path, tmp_path: Path) -> Path:
    """Return what an unencrypted backup holds."""
    assert backup(site, tmp_path / "plain", "--unencrypted") == 0
    return opened(tmp_path / "plain", tmp_path / "found")


def below(top: Path) -> set[str]:
    return {str(path.relative_to(top)) for path in top.rglob("*") if path.is_file()}


def test_it_has_configuration_and_state_with_owners_and_modes(site: Path, found: Path) -> None:
    assert below(found / "files") == {
        *("etc/caso/caso.conf", "etc/caso/caso.conf.d/site.conf", "etc/voms.json"),
        *("etc/apel/sender.cfg", "etc/fedcloud/appliance.env", "etc/fedcloud/networks/own.yml"),
        *("etc/cron.d/caso", "etc/sitebdii/glite-info-site-defaults.conf"),
        *("var/spool/caso/lastrun.project", "var/lib/fedcloud/caso/ledger.sqlite"),
        *("var/lib/fedcloud/since", "var/lib/fedcloud/ssm/sent.sqlite"),
        "var/spool/apel/outgoing/openstack/12345678/12345678123456",
        *("var/lib/fedcloud/cloudkeeper-os/id", "var/lib/fedcloud/bdii/site/last-good.ldif"),
        "var/lib/fedcloud/runs/jobs/job-caso.json",
    }
    for name in ("etc/caso/caso.conf", "var/lib/fedcloud/ssm/sent.sqlite", "var/spool/apel"):
        one, other = (site / name).stat(), (found / "files" / name).stat()
        assert (one.st_mode, one.st_uid, one.st_gid) == (
            *(other.st_mode, other.st_uid, other.st_gid),
        )


def test_the_manifest_has_digests_schemas_site_and_host(found: Path) -> None:
    manifest = json.loads((found / "MANIFEST.json").read_text())
    assert {name.lstrip("/") for name in manifest["digests"]} == below(found / "files")
    for name, digest in manifest["digests"].items():
        data = (found / "files" / name.lstrip("/")).read_bytes()
        assert hashlib.sha256(data).hexdigest() == digest, name
    assert manifest["site"] == "EXAMPLE-SITE"
    assert manifest["host"] == os.uname().nodename
    assert manifest["schemas"] == {
        "/var/lib/fedcloud/caso/ledger.sqlite": [0x43415330, 1],
        "/var/lib/fedcloud/ssm/sent.sqlite": [0x65676973, 1],
    }


def test_a_database_is_copied_while_it_is_written(site: Path, tmp_path: Path) -> None:
    """The copy has whole transactions: of each pair of rows both, or none."""
    ledger = site / "var/lib/fedcloud/caso/ledger.sqlite"
    is_over = threading.Event()
    with sqlite3.connect(ledger) as connection:
        connection.execute("CREATE TABLE pairs (number INTEGER)")
    connection.close()

    def write() -> None:
        connection = sqlite3.connect(ledger, isolation_level=None, timeout=30)
        while not is_over.is_set():
            connection.executescript("BEGIN; INSERT INTO pairs VALUES (1), (2); COMMIT")
        connection.close()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(3):
            assert backup(site, tmp_path / str(number), "--unencrypted") == 0
    finally:
        is_over.set()
        writer.join()
    for number in range(3):
        top = opened(tmp_path / str(number), tmp_path / f"found{number}")
        copy = top / "files/var/lib/fedcloud/caso/ledger.sqlite"
        with sqlite3.connect(copy) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            (count,) = connection.execute("SELECT count(*) FROM pairs").fetchone()
        assert count % 2 == 0


def test_nothing_is_changed_on_the_site(site: Path, tmp_path: Path) -> None:
    before = backup_site.snapshot(site)
    assert backup(site, tmp_path / "plain", "--unencrypted") == 0
    assert backup_site.snapshot(site) == before


def refused(
    capsys: pytest.CaptureFixture[str], status: int, site: Path, target: Path, *words: object
) -> str:
    """Return the one line of a refusal, after which nothing is left."""
    existed = target.exists()
    before = {path.name for path in target.parent.iterdir()}
    assert backup(site, target, *words) == status
    assert {path.name for path in target.parent.iterdir()} == before
    assert target.exists() == existed
    (line,) = capsys.readouterr().err.splitlines()
    assert SECRET not in line
    assert PASSPHRASE not in line
    return line


def test_encryption_is_left_out_only_in_words(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--unencrypted" in refused(capsys, 2, site, tmp_path / "new")


def test_certificates_that_cannot_be_recipients(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Among them the one whose key is on the host that the backup is of."""
    own = backup_site.make_certificate(tmp_path, "host")
    (site / "etc/grid-security").mkdir()
    shutil.copy(own, site / "etc/grid-security/hostcert.pem")
    line = refused(capsys, 2, site, tmp_path / "new", "--to", own)
    assert "lost together with the host" in line
    curve = backup_site.make_certificate(tmp_path, "curve", "ec", "ec_paramgen_curve:P-256")
    assert "not RSA" in refused(capsys, 2, site, tmp_path / "new", "--to", curve)
    key = tmp_path / "host.key"
    assert "not a certificate" in refused(capsys, 2, site, tmp_path / "new", "--to", key)
    missing = tmp_path / "missing.pem"
    line = refused(capsys, 3, site, tmp_path / "new", "--to", missing)
    assert line.endswith("No such file or directory; name an administrator's certificate")


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        (PASSPHRASE, 0o640, "others can read it; chmod 600"),
        ("short", 0o600, "fewer than 12"),
        ("\n", 0o600, "does not hold a secret"),
    ],
)
def test_passphrases_that_protect_nothing(
    site: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    text: str,
    mode: int,
    words: str,
) -> None:
    secret = put(tmp_path / "pass", text, mode)
    assert words in refused(capsys, 2, site, tmp_path / "new", "--passphrase-file", secret)


def test_an_existing_file_is_kept(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = put(tmp_path / "new", "mine")
    assert "exists" in refused(capsys, 2, site, target, "--unencrypted")
    assert target.read_text() == "mine"


@pytest.fixture
def small_files() -> Iterator[None]:
    """Let no file grow over some bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_that_cannot_grow(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], small_files: None
) -> None:
    line = refused(capsys, 3, site, tmp_path / "new", "--unencrypted")
    assert "nothing is left of this one" in line


def test_a_damaged_database_is_named_and_left_out(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = site / "var/lib/fedcloud/caso/ledger.sqlite"
    data = bytearray(ledger.read_bytes())
    data[4096:8192] = os.urandom(4096)
    ledger.write_bytes(data)
    assert backup(site, tmp_path / "new", "--unencrypted") == 1
    assert str(ledger) in capsys.readouterr().out
    top = opened(tmp_path / "new", tmp_path / "found")
    assert not (top / "files/var/lib/fedcloud/caso/ledger.sqlite").exists()
    assert (top / "files/etc/caso/caso.conf").exists()


def test_secrets_elsewhere_are_named(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(site / "etc/caso/caso.conf.d/more.conf", "[keystone_auth]\npassword_file = /root/secret\n")
    assert backup(site, tmp_path / "new", "--unencrypted") == 0
    assert "more.conf:2: password_file: /root/secret is not" in capsys.readouterr().out


def test_not_while_the_appliance_is_changed(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with backup_site.held(site / "run/fedcloud/install.lock"):
        line = refused(capsys, 1, site, tmp_path / "new", "--unencrypted")
    assert "is being changed" in line


@pytest.mark.long
def test_the_commands_of_the_page(site: Path, tmp_path: Path) -> None:
    """Typed as they stand, with /srv as a directory of the test."""
    page = "backup.md"
    for name in ("key", "passphrase", "write", "phrase"):
        for number, command in enumerate(documents.block(page, name).commands()):
            typed = command.replace("/srv/FILE", f"{tmp_path}/{name}{number}")
            typed = typed.replace("/srv", str(tmp_path)).replace("-newkey", "-nodes -newkey")
            program, *words = shlex.split(typed)
            if program == "appliance":
                assert main([*words, "--root", str(site)]) == 0
            else:
                subprocess.run([program, *words], check=True, cwd=tmp_path, capture_output=True)
    for command in documents.block(page, "open").commands():
        typed = command.replace("FILE", "write0")
        done = subprocess.run(
            shlex.split(typed), check=True, cwd=tmp_path, capture_output=True, text=True
        )
    assert "files/etc/caso/caso.conf" in done.stdout
