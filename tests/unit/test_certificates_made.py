"""`appliance certificates`: what it makes is judged by openssl."""

from __future__ import annotations

import re
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from appliance.admin import command
from appliance.admin.certificates.authority import Authority
from appliance.core.run.layout import Layout
from tests.unit import backup_site

pytestmark = [pytest.mark.root, pytest.mark.programs("openssl")]

NOW = datetime(2026, 11, 29, tzinfo=UTC)


@pytest.fixture
def tls(tmp_path: Path) -> Path:
    return tmp_path / "etc/fedcloud/tls"


def maintain(root: Path, *names: str, at: datetime = NOW) -> list[str]:
    authority = Authority(Layout(root))
    return [str(path.relative_to(authority.directory)) for path in authority.maintain(names, at=at)]


def openssl(*words: str | Path) -> str:
    done = subprocess.run(["openssl", *words], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def verdict(tls: Path, party: str, *, purpose: str, at: datetime = NOW, host: str = "") -> str:
    name = ["-verify_hostname", host] if host else []
    words = [
        "verify",
        "-x509_strict",
        "-purpose",
        purpose,
        "-attime",
        str(int(at.timestamp())),
        *name,
    ]
    directory = tls / party
    return openssl(
        *words, "-CAfile", directory / "authority.pem", directory / "certificate.pem"
    ).splitlines()[-1]


def test_each_side_proves_its_own_name_and_purpose(tmp_path: Path, tls: Path) -> None:
    """F-H4: neither certificate does for the other side."""
    maintain(tmp_path, "backend.example.org", "192.0.2.7")
    for party, purpose, host in (
        ("cloudkeeper-os", "sslserver", "backend.example.org"),
        ("cloudkeeper", "sslclient", ""),
    ):
        assert verdict(tls, party, purpose=purpose, host=host or party).endswith(": OK")
        assert verdict(
            tls, party, purpose="sslclient" if purpose == "sslserver" else "sslserver"
        ).endswith("failed")
    assert verdict(tls, "cloudkeeper", purpose="sslclient", host="backend.example.org").endswith(
        "failed"
    )
    shown = openssl(
        "x509", "-noout", "-ext", "subjectAltName", "-in", tls / "cloudkeeper-os/certificate.pem"
    )
    assert "DNS:cloudkeeper-os, DNS:backend.example.org, IP Address:192.0.2.7" in shown


def test_keys_are_for_their_owners_alone(tmp_path: Path, tls: Path) -> None:
    """F-H4: root owns the keys of the authority and the frontend, fedcloud that of the backend."""
    maintain(tmp_path)
    access = {}
    for name in ("authority.key", "cloudkeeper/key.pem", "cloudkeeper-os/key.pem"):
        status = (tls / name).stat()
        access[name] = (stat.S_IMODE(status.st_mode), status.st_uid)
    assert access == {
        "authority.key": (0o400, 0),
        "cloudkeeper/key.pem": (0o400, 0),
        "cloudkeeper-os/key.pem": (0o400, 1999),
    }


def test_nothing_is_made_twice(tmp_path: Path) -> None:
    names = ("backend.example.org",)
    assert len(maintain(tmp_path, *names)) == 5
    assert maintain(tmp_path, *names, at=NOW + timedelta(days=336)) == []
    assert maintain(tmp_path, "other.example.org") == ["cloudkeeper-os/certificate.pem"]
    assert maintain(tmp_path, "other.example.org") == []


def test_what_is_due_is_renewed_and_keeps_its_names(tmp_path: Path, tls: Path) -> None:
    maintain(tmp_path, "backend.example.org")
    later = NOW + timedelta(days=338)
    assert maintain(tmp_path, at=later) == [
        "cloudkeeper-os/certificate.pem",
        "cloudkeeper/certificate.pem",
    ]
    after = later + timedelta(days=390)
    assert verdict(
        tls, "cloudkeeper-os", purpose="sslserver", at=after, host="backend.example.org"
    ).endswith(": OK")


def test_a_new_authority_stands_beside_the_old_one(tmp_path: Path, tls: Path) -> None:
    """Each side trusts old and new certificates of the other, in either order of renewal."""
    maintain(tmp_path)
    old = (tls / "cloudkeeper/certificate.pem").read_bytes()
    late = NOW + timedelta(days=3250)
    assert len(maintain(tmp_path, at=late)) == 5
    for party, purpose in (("cloudkeeper-os", "sslserver"), ("cloudkeeper", "sslclient")):
        assert verdict(tls, party, purpose=purpose, at=late).endswith(": OK")
    (tls / "cloudkeeper/certificate.pem").write_bytes(old)
    assert verdict(tls, "cloudkeeper", purpose="sslclient", at=NOW + timedelta(days=100)).endswith(
        ": OK"
    )
    assert len(re.findall("BEGIN", (tls / "cloudkeeper/authority.pem").read_text())) == 2


@pytest.mark.parametrize("harm", ["key", "certificate", "foreign", "garbage"])
def test_what_is_no_pair_is_made_anew(tmp_path: Path, tls: Path, harm: str) -> None:
    """A run that was killed between key and certificate, or an edit: the next run mends it."""
    maintain(tmp_path)
    maintain(tmp_path / "other")
    path = tls / "cloudkeeper-os" / ("certificate.pem" if harm == "certificate" else "key.pem")
    if harm == "foreign":
        for name in ("key.pem", "certificate.pem"):
            other = tmp_path / "other/etc/fedcloud/tls/cloudkeeper-os" / name
            (path.parent / name).unlink()
            (path.parent / name).write_bytes(other.read_bytes())
    else:
        path.unlink()
        if harm == "garbage":
            path.write_text("garbage")
    assert maintain(tmp_path) == ["cloudkeeper-os/certificate.pem"]
    assert verdict(tls, "cloudkeeper-os", purpose="sslserver").endswith(": OK")


def test_what_is_due_is_renewed_while_the_host_is_being_changed(
    tmp_path: Path, tls: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """R18: an installation starts the backend, whose certificate may have expired."""
    maintain(tmp_path, at=NOW - timedelta(days=3000))
    before = (tls / "cloudkeeper-os/certificate.pem").read_bytes()
    with backup_site.held(tmp_path / "run/fedcloud/install.lock"):
        assert command.main(["certificates", "--renew", "--root", str(tmp_path)]) == 0
    assert (tls / "cloudkeeper-os/certificate.pem").read_bytes() != before


def test_two_runs_do_not_write_certificates_at_once(
    tmp_path: Path,
    tls: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    maintain(tmp_path)
    monkeypatch.setattr("appliance.admin.changing._PATIENCE", timedelta(0))
    before = backup_site.snapshot(tmp_path)
    for flag in (["--renew"], []):
        with backup_site.held(tmp_path / "run/fedcloud/certificates.lock"):
            assert command.main(["certificates", *flag, "--root", str(tmp_path)]) == 1
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert backup_site.snapshot(tmp_path) == before


def test_the_command_says_what_to_write(
    tmp_path: Path, tls: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = ["--root", str(tmp_path)]
    assert command.main(["certificates", "--renew", *root]) == 0
    assert not tls.exists()
    assert command.main(["certificates", "--name", "backend.example.org", *root]) == 0
    shown = capsys.readouterr().out
    assert f"{tls}/cloudkeeper-os/certificate.pem\n" in shown
    assert f"    certificate: {tls}/cloudkeeper/authority.pem\n" in shown
    names = openssl(
        "x509", "-noout", "-ext", "subjectAltName", "-in", tls / "cloudkeeper-os/certificate.pem"
    )
    assert {
        "DNS:backend",
        "DNS:localhost",
        "IP Address:127.0.0.1",
        "DNS:backend.example.org",
    } <= set(re.split(r",?\s+(?=DNS|IP)", names.strip()))
    assert command.main(["certificates", "--renew", *root]) == 0
    assert capsys.readouterr().out == ""
    assert command.main(["certificates", "--name", "backend:50051", *root]) == 2
    assert "write one without a port" in capsys.readouterr().err
