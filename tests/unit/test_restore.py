"""`appliance restore`: a site comes back on another host, and nothing delivered is taken back."""

from __future__ import annotations

import os
import shlex
import shutil
import sqlite3
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from io import BytesIO
from pathlib import Path

import pytest
import zstandard

from appliance.admin import account
from appliance.admin.command import main
from appliance.admin.install.ownership import PLACES
from appliance.admin.install.plan import digest
from appliance.admin.install.record import InstallRecord
from tests import documents
from tests.unit import backup_site
from tests.unit.backup_site import ELEMENT, PASSPHRASE, SECRET, put

pytestmark = [pytest.mark.root, pytest.mark.programs("openssl", "zstd")]

IDLE = "etc/fedcloud/cron.d/caso"
LEDGER, JOURNAL = "var/lib/fedcloud/caso/ledger.sqlite", "var/lib/fedcloud/ssm/sent.sqlite"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return backup_site.make(tmp_path / "site")


@pytest.fixture
def plain(site: Path, tmp_path: Path) -> Path:
    """Return a backup of the site that is not encrypted."""
    target = tmp_path / "plain"
    assert main(["backup", "--root", str(site), "--unencrypted", str(target)]) == 0
    return target


@pytest.fixture
def hosts() -> Iterator[Path]:
    """Return a directory that the account can reach, other than pytest's."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def new(hosts: Path) -> Path:
    """Return a host on which the appliance has been installed, and nothing else was done."""
    return installed(hosts / "new")


def installed(root: Path) -> Path:
    for name in PLACES:
        path = root / name.lstrip("/")
        path.mkdir(parents=True, exist_ok=True)
        os.chown(path, account.ID, account.ID)
    put(root / "var/lib/fedcloud/version", "1.0.0\n")
    return root


def restore(root: Path, backup: Path, *words: object) -> int:
    return main(["restore", "--root", str(root), str(backup), *map(str, words)])


def contents(root: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Return access and content of each file that a backup has, as a reader finds them."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root)).replace("etc/fedcloud/cron.d", "etc/cron.d")
        if path.is_file() and not name.startswith("run/"):
            status = path.stat()
            access = (status.st_mode, status.st_uid, status.st_gid)
            found[name] = (*access, b"" if name.endswith(".sqlite") else path.read_bytes())
    return found


LEFT_OUT = {
    "etc/fedcloud/docker-compose.yml",
    "etc/fedcloud/networks/bridge.yml",
    "var/spool/apel/outgoing/.openstack.ssm.lock",
    "var/lib/fedcloud/bdii/site/db/data.mdb",
}


def test_a_site_comes_to_another_host(
    site: Path, new: Path, plain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = backup_site.snapshot(new)
    assert restore(new, plain) == 0
    assert backup_site.snapshot(new) == before
    assert "Nothing has been changed" in capsys.readouterr().out
    assert restore(new, plain, "--apply") == 0
    wanted = {name: one for name, one in contents(site).items() if name not in LEFT_OUT}
    assert contents(new) == wanted
    for name in (LEDGER, JOURNAL):
        with sqlite3.connect(new / name) as one, sqlite3.connect(site / name) as other:
            assert [*one.iterdump()] == [*other.iterdump()]
    # Nothing starts by itself: the other host may still run.
    assert not (new / "etc/cron.d/caso").exists()
    assert SECRET not in capsys.readouterr().out


def test_shipped_files_of_a_new_installation_make_way(site: Path, plain: Path, new: Path) -> None:
    """Its tables of cron are idle; the record has all of them under their active names."""
    shipped = {}
    for name, key in (("etc/caso/caso.conf", "etc/caso/caso.conf"), (IDLE, "etc/cron.d/caso")):
        put(new / name, "as shipped\n")
        shipped[f"/{key}"] = [digest(b"as shipped\n")]
    InstallRecord("1.0.0", "0" * 64, shipped).write(new / "var/lib/fedcloud/install.json")
    assert restore(new, plain, "--apply") == 0
    assert (new / "etc/caso/caso.conf").read_text() == (site / "etc/caso/caso.conf").read_text()
    assert (new / IDLE).read_text() == (site / "etc/cron.d/caso").read_text()


def test_a_second_restore_changes_nothing(new: Path, plain: Path) -> None:
    assert restore(new, plain, "--apply") == 0
    before = backup_site.snapshot(new)
    assert restore(new, plain, "--apply") == 0
    assert backup_site.snapshot(new) == before


@pytest.mark.long
def test_the_keys_of_every_recipient(site: Path, hosts: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        backup_site.make_certificate(tmp_path, name)
    secret = put(tmp_path / "pass", PASSPHRASE, 0o600)
    target = tmp_path / "sealed"
    words = ["--to", tmp_path / "one.pem", "--to", tmp_path / "two.pem"]
    words += ["--passphrase-file", secret]
    assert main(["backup", "--root", str(site), str(target), *map(str, words)]) == 0
    locked = tmp_path / "locked.key"
    encrypt = ["openssl", "pkey", "-aes256", "-passout", f"file:{secret}"]
    subprocess.run([*encrypt, "-in", tmp_path / "one.key", "-out", locked], check=True)
    for number, flags in enumerate(
        [
            ["--key", tmp_path / "one.key"],
            ["--key", tmp_path / "two.key"],
            ["--passphrase-file", secret],
            ["--key", locked, "--passphrase-file", secret],
        ]
    ):
        host = installed(hosts / f"host{number}")
        assert restore(host, target, "--apply", *flags) == 0
        assert (host / ELEMENT).read_text() == (site / ELEMENT).read_text()


def test_the_passphrase_of_a_key_may_be_short(site: Path, hosts: Path, tmp_path: Path) -> None:
    """openssl accepts four characters, and a backup must not be lost for that."""
    certificate = backup_site.make_certificate(tmp_path, "one")
    target, locked = tmp_path / "sealed", tmp_path / "locked.key"
    assert main(["backup", "--root", str(site), str(target), "--to", str(certificate)]) == 0
    secret = put(tmp_path / "pass", "four", 0o600)
    encrypt = ["openssl", "pkey", "-aes256", "-passout", f"file:{secret}"]
    subprocess.run([*encrypt, "-in", tmp_path / "one.key", "-out", locked], check=True)
    host = installed(hosts / "host")
    assert restore(host, target, "--apply", "--key", locked, "--passphrase-file", secret) == 0
    assert (host / ELEMENT).read_text() == (site / ELEMENT).read_text()


def test_a_directory_is_not_a_backup(hosts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host = installed(hosts / "host")
    line = refusal(capsys, 2, host, hosts, "--key", hosts / "key")
    assert line == f"appliance: {hosts}: is a directory; name the file of a backup"


def refusal(
    capsys: pytest.CaptureFixture[str], status: int, root: Path, backup: Path, *words: object
) -> str:
    """Return the one line of a refusal; nothing has changed."""
    before = backup_site.snapshot(root)
    capsys.readouterr()
    for flags in ((), ("--apply",)):
        assert restore(root, backup, *words, *flags) == status
        assert backup_site.snapshot(root) == before
    one, other = capsys.readouterr().err.splitlines()
    assert one == other
    assert SECRET not in one
    assert PASSPHRASE not in one
    return one


def test_a_file_that_is_not_there(
    site: Path, new: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "missing"
    line = refusal(capsys, 3, new, missing)
    assert line == f"appliance: {missing}: No such file or directory; name the file of a backup"
    backup_site.make_certificate(tmp_path, "one")
    target = tmp_path / "sealed"
    command = ["backup", "--root", str(site), str(target), "--to", str(tmp_path / "one.pem")]
    assert main(command) == 0
    line = refusal(capsys, 3, new, target, "--key", missing)
    assert line.endswith("No such file or directory; name the key of a certificate of the backup")


def test_another_key(
    site: Path, new: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        backup_site.make_certificate(tmp_path, name)
    target = tmp_path / "sealed"
    command = ["backup", "--root", str(site), str(target), "--to", str(tmp_path / "one.pem")]
    assert main(command) == 0
    key = ["--key", tmp_path / "two.key"]
    assert "encrypted to other keys" in refusal(capsys, 3, new, target, *key)
    secret = ["--passphrase-file", put(tmp_path / "pass", PASSPHRASE, 0o600)]
    assert "encrypted to other keys" in refusal(capsys, 3, new, target, *secret)
    assert "name --key" in refusal(capsys, 2, new, target)
    certificate = ["--key", tmp_path / "one.pem"]
    assert "not a private key" in refusal(capsys, 2, new, target, *certificate)


@pytest.fixture
def sealed(site: Path, tmp_path: Path) -> Path:
    """Return an encrypted backup; its key is ``one.key``."""
    backup_site.make_certificate(tmp_path, "one")
    target = tmp_path / "sealed"
    command = ["backup", "--root", str(site), str(target), "--to", str(tmp_path / "one.pem")]
    assert main(command) == 0
    return target


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("kind", ["plain", "sealed"])
def test_truncated(
    kind: str,
    share: float,
    new: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target: Path = request.getfixturevalue(kind)
    data = target.read_bytes()
    target.write_bytes(data[: min(int(len(data) * share), len(data) - 1)])
    line = refusal(capsys, 3, new, target, "--key", _key(tmp_path))
    assert "truncated or altered" in line or "is not a backup" in line


def _key(tmp_path: Path) -> Path:
    if not (tmp_path / "one.key").exists():
        backup_site.make_certificate(tmp_path, "one")
    return tmp_path / "one.key"


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 0.6, 0.95, 1.0])
@pytest.mark.parametrize("kind", ["plain", "sealed"])
def test_one_altered_byte(
    kind: str,
    share: float,
    new: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target: Path = request.getfixturevalue(kind)
    data = bytearray(target.read_bytes())
    data[int((len(data) - 1) * share)] ^= 1
    target.write_bytes(data)
    assert refusal(capsys, 3, new, target, "--key", _key(tmp_path))


def test_bytes_behind_the_end(
    sealed: Path, new: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sealed.write_bytes(sealed.read_bytes() + b"x")
    assert "follows its end" in refusal(capsys, 3, new, sealed, "--key", tmp_path / "one.key")


def rewritten(plain: Path, change: dict[str, bytes], add: tuple[str, bytes] | None = None) -> Path:
    """Return a backup that an adversary has made out of another one."""
    data = zstandard.ZstdDecompressor().stream_reader(plain.read_bytes()).read()
    made = BytesIO()
    with tarfile.open(fileobj=BytesIO(data)) as old, tarfile.open(fileobj=made, mode="w") as tar:
        for member in old:
            content = old.extractfile(member)
            text = content.read() if content else b""
            for one, other in change.items():
                text = text.replace(one.encode(), other)
            member.size = len(text)
            if member.name == "MANIFEST.json" and add:
                extra = tarfile.TarInfo(add[0])
                extra.size = len(add[1])
                tar.addfile(extra, BytesIO(add[1]))
            tar.addfile(member, BytesIO(text))
    target = plain.with_name("rewritten")
    target.write_bytes(zstandard.ZstdCompressor().compress(made.getvalue()))
    return target


def test_a_file_that_the_manifest_lacks(
    plain: Path, new: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = rewritten(plain, {}, add=("files/etc/caso/more.conf", b"[DEFAULT]\n"))
    assert "not those of its manifest" in refusal(capsys, 3, new, target)


@pytest.mark.parametrize("name", ["files/etc/passwd", "files/etc/caso/../passwd", "/etc/passwd"])
def test_paths_that_no_backup_has(
    name: str, plain: Path, new: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = rewritten(plain, {}, add=(name, b"root::0:0::/:/bin/sh\n"))
    assert "truncated or altered" in refusal(capsys, 3, new, target)


def test_a_newer_version(plain: Path, new: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = rewritten(plain, {'"version": "1.0.0"': b'"version": "99.0"'})
    assert "is of version 99.0" in refusal(capsys, 3, new, target)


def test_another_site(plain: Path, new: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = put(new / "etc/caso/caso.conf", "[DEFAULT]\nsite_name = OTHER-SITE\n")
    line = refusal(capsys, 2, new, plain)
    assert "EXAMPLE-SITE" in line
    assert "OTHER-SITE" in line
    assert "edited" not in refusal(capsys, 2, new, plain, "--as-another-site")
    words = ("--as-another-site", "--replace-configuration")
    assert restore(new, plain, "--apply", *words) == 0
    assert "EXAMPLE-SITE" in mine.read_text()
    aside = new / "var/lib/fedcloud/replaced/etc/caso/caso.conf"
    assert "OTHER-SITE" in aside.read_text()


def test_a_host_without_an_appliance(
    plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bare").mkdir()
    assert "install" in refusal(capsys, 3, tmp_path / "bare", plain)


def test_other_files(new: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "not a backup" in refusal(capsys, 3, new, put(tmp_path / "text", "a text\n"))
    assert "No such file" in refusal(capsys, 3, new, tmp_path / "missing")


# ------------------------------------------------------------------- what was delivered stays


FLAG = "--replace-older-state"


@pytest.mark.parametrize(
    ("ledger", "journal", "words"),
    [
        ({"vm-1": 7200}, {"vm-1": 3600}, "1 deliveries"),
        ({"vm-1": 3600, "vm-2": 1}, {"vm-1": 3600}, "1 deliveries"),
        ({"vm-1": 3600}, {"vm-1": 3601}, "1 sent records"),
        ({"vm-1": 3600}, {"vm-1": 60, "vm-3": 60}, "1 sent records"),
    ],
)
def test_a_host_that_has_delivered_more_stays(
    ledger: dict[str, int],
    journal: dict[str, int],
    words: str,
    plain: Path,
    new: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    backup_site.ledger(new / LEDGER, ledger)
    backup_site.journal(new / JOURNAL, journal)
    for flags in ((), (FLAG,)):
        assert words in refusal(capsys, 3, new, plain, *flags)


def test_messages_that_wait_here_are_sent_first(
    plain: Path, new: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(new / ELEMENT.replace("123456", "654321"), "APEL-cloud-message: v0.4\n")
    assert "1 messages wait" in refusal(capsys, 3, new, plain, FLAG)


def test_a_later_checkpoint_stays(
    plain: Path, new: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(new / "var/spool/caso/lastrun.project", "2026-11-20 11:00:00+00:00")
    assert "is later than the backup" in refusal(capsys, 3, new, plain, FLAG)


def test_older_state_is_replaced_when_asked(
    plain: Path, new: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backup_site.ledger(new / LEDGER, {"vm-1": 1800})
    backup_site.journal(new / JOURNAL, {"vm-1": 1800})
    put(new / "var/spool/caso/lastrun.project", "2026-11-19 11:00:00+00:00")
    assert FLAG in refusal(capsys, 2, new, plain)
    assert restore(new, plain, FLAG, "--apply") == 0
    with sqlite3.connect(new / LEDGER) as connection:
        assert connection.execute("SELECT amount FROM deliveries").fetchall() == [(3600,)]
    with sqlite3.connect(new / "var/lib/fedcloud/replaced" / LEDGER) as connection:
        assert connection.execute("SELECT amount FROM deliveries").fetchall() == [(1800,)]


def test_records_of_this_host_stay(plain: Path, new: Path) -> None:
    mine = put(new / "var/lib/fedcloud/runs/jobs/job-caso.json", '{"mine": 1}\n')
    assert restore(new, plain, "--apply") == 0
    assert mine.read_text() == '{"mine": 1}\n'


# ---------------------------------------------------------------------------- killed, and jobs


def test_an_unfinished_restore_is_finished_by_the_next(
    plain: Path, new: Path, site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It needs none of the flags again, although there is state by now."""
    assert restore(new, plain, "--apply") == 0
    done = contents(new)
    mark = new / "var/lib/fedcloud/restore.json"
    assert not mark.exists()
    _leave_unfinished(new, plain)
    assert mark.exists()
    assert main(["run", "--root", str(new), "caso"]) == 0
    assert "caso: not started: a restore is not complete" in capsys.readouterr().out
    command = ["backup", "--root", str(new), "--unencrypted", str(new / "more")]
    assert main(command) == 1
    assert restore(new, plain, "--apply") == 0
    assert contents(new) == done
    assert not mark.exists()


def _leave_unfinished(new: Path, plain: Path) -> None:
    """Let a restore end before the message, in a directory that the account may not write to."""
    queue = new / "var/spool/apel/outgoing/openstack"
    shutil.rmtree(queue / "12345678")
    (new / LEDGER).unlink()
    os.chown(queue, 0, 0)
    assert restore(new, plain, "--apply") == 3
    os.chown(queue, account.ID, account.ID)


def test_a_restore_of_another_backup_is_finished_first(
    plain: Path, new: Path, site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(new / "var/lib/fedcloud/restore.json", "of another\n")
    assert "finish that one first" in refusal(capsys, 2, new, plain)


def test_no_restore_while_a_job_runs(
    plain: Path, new: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = backup_site.snapshot(new)
    with backup_site.held(new / "run/fedcloud/caso.lock"):
        assert restore(new, plain, "--apply") == 1
    assert "caso.lock" in capsys.readouterr().err
    assert backup_site.snapshot(new) == before


def test_jobs_say_that_the_appliance_is_changed(
    new: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with backup_site.held(new / "run/fedcloud/install.lock"):
        assert main(["run", "--root", str(new), "fetch-crl"]) == 0
    assert "fetch-crl: not started: the appliance is being changed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("schedule", "cron"), 1),
        (("flows", "--off", "images"), 1),
        (("start",), 1),
        (("schedule", "--since", "2026-01-01"), 1),
        (("state", "--accept"), 1),
        (("certificates",), 1),
        (("migrate", "--apply"), 1),
        (("restore", "PLAIN", "--apply"), 1),
    ],
)
def test_one_lock_for_all_verbs_that_change_a_host(
    words: tuple[str, ...],
    status: int,
    plain: Path,
    new: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("appliance.admin.changing._PATIENCE", timedelta(0))
    before = backup_site.snapshot(new)
    command = [str(plain) if word == "PLAIN" else word for word in words]
    with backup_site.held(new / "run/fedcloud/install.lock"):
        assert main([*command, "--root", str(new)]) == status
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert backup_site.snapshot(new) == before


def test_the_commands_of_the_restore_page(site: Path, new: Path, sealed: Path) -> None:
    """Typed as they stand, with /srv as the directory of the test."""
    shutil.copy(sealed.with_name("one.key"), sealed.with_name("backup.key"))
    for name in ("look", "apply"):
        for command in documents.block("restore.md", name).commands():
            typed = command.replace("/srv/FILE", str(sealed)).replace("/srv", str(sealed.parent))
            assert main([*shlex.split(typed)[1:], "--root", str(new)]) == 0
    assert (new / ELEMENT).exists()
