"""A site with configuration and state, as a backup of it has them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from appliance.admin import account
from caso.ledger import schema
from ssm.sending import sent_journal

SECRET = "hunter2-of-keystone"
PASSPHRASE = "correct horse battery staple"
ELEMENT = "var/spool/apel/outgoing/openstack/12345678/12345678123456"
_CONFIGURATION = {
    "etc/caso/caso.conf": "[DEFAULT]\nsite_name = EXAMPLE-SITE\n",
    "etc/caso/caso.conf.d/site.conf": f"[keystone_auth]\npassword = {SECRET}\n",
    "etc/voms.json": '{"ops": {"projects": ["project"]}}\n',
    "etc/apel/sender.cfg": "[messaging]\n",
    "etc/fedcloud/appliance.env": "FEDCLOUD_NETWORK=own\n",
    "etc/fedcloud/networks/own.yml": "{}\n",
    "etc/fedcloud/networks/bridge.yml": "{}\n",
    "etc/fedcloud/docker-compose.yml": "{}\n",
    "etc/cron.d/caso": "14 * * * * root /usr/local/bin/caso-extract.sh\n",
    "etc/sitebdii/glite-info-site-defaults.conf": "SITE_NAME=EXAMPLE-SITE\n",
}
_STATE = {
    "var/spool/caso/lastrun.project": "2026-11-20 10:00:00+00:00",
    "var/lib/fedcloud/since": "2026-01-01T00:00:00+00:00\n",
    ELEMENT: "APEL-cloud-message: v0.4\n",
    "var/spool/apel/outgoing/.openstack.ssm.lock": "",
    "var/lib/fedcloud/cloudkeeper-os/id": "0f1e2d3c\n",
    "var/lib/fedcloud/bdii/site/last-good.ldif": "dn: o=grid\n",
    "var/lib/fedcloud/bdii/site/db/data.mdb": "database of slapd",
}


def put(path: Path, text: str, mode: int = 0o640) -> Path:
    """Write a file of the account, or of root below etc."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def make(root: Path) -> Path:
    """Make a site with a ledger, a journal, checkpoints, a waiting message and records."""
    for name, text in _CONFIGURATION.items():
        os.chown(put(root / name, text), 0, account.ID)
    for name, text in _STATE.items():
        put(root / name, text)
    put(root / "var/lib/fedcloud/version", "1.0.0\n")
    ledger(root / "var/lib/fedcloud/caso/ledger.sqlite", {"vm-1": 3600})
    journal(root / "var/lib/fedcloud/ssm/sent.sqlite", {"vm-1": 3600})
    for top in ("var/spool", "var/lib/fedcloud"):
        for path in (root / top).rglob("*"):
            os.chown(path, account.ID, account.ID)
    for name in ("since", "version"):
        os.chown(root / "var/lib/fedcloud" / name, 0, 0)
    put(root / "var/lib/fedcloud/runs/jobs/job-caso.json", "{}\n")
    return root


def ledger(path: Path, amounts: dict[str, int], month: int = 202611) -> None:
    """Write a ledger with the delivered seconds of servers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("BEGIN")
    schema.upgrade(connection)
    connection.execute("INSERT INTO words (id, text) VALUES (1, 'cloud'), (2, 'ssm'), (3, 'ops')")
    for number, (key, amount) in enumerate(amounts.items(), start=1):
        connection.execute("INSERT INTO things VALUES (?, 1, ?)", (number, key))
        connection.execute(
            "INSERT INTO deliveries VALUES (?, 2, ?, 1, ?, NULL, NULL, 1, 3, NULL, NULL, 0)",
            (month, number, amount),
        )
    connection.execute("COMMIT")
    connection.close()


def journal(path: Path, amounts: dict[str, int], month: str = "2026-11") -> None:
    """Write a journal with the sent seconds of servers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, isolation_level=None)
    sent_journal._prepare(connection, path)
    connection.execute("INSERT INTO destination VALUES (1, 'AMS', 'topic', 'egi', '/spool')")
    for key, amount in amounts.items():
        connection.execute(
            "INSERT INTO record (destination, kind, key, month, amount, measured, uuid, project,"
            " cpu, message) VALUES (1, 'cloud', ?, ?, ?, ?, ?, 'p', 1, 1)",
            (key, month, amount, amount, key),
        )
    connection.close()


def make_certificate(folder: Path, name: str, kind: str = "rsa", option: str = "") -> Path:
    """Write a key and a certificate that openssl made, once per name; return the certificate."""
    key, certificate = _pair(name, kind, option)
    put(folder / f"{name}.key", key, 0o600)
    return put(folder / f"{name}.pem", certificate)


@cache
def _pair(name: str, kind: str, option: str) -> tuple[str, str]:
    """Return a key and a certificate, once per process: openssl takes long for a key of RSA."""
    options = ["-pkeyopt", option] if option else []
    command = ["openssl", "req", "-x509", "-newkey", kind, *options, "-nodes", "-days", "2"]
    with tempfile.TemporaryDirectory() as folder:
        key, certificate = Path(folder, "key"), Path(folder, "certificate")
        command += ["-subj", f"/CN={name}", "-keyout", str(key), "-out", str(certificate)]
        subprocess.run(command, check=True, capture_output=True)
        return key.read_text(), certificate.read_text()


def snapshot(root: Path) -> dict[str, object]:
    """Return access and digest of all below a root, but for times and the directory of locks."""
    found: dict[str, object] = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        data = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path.relative_to(root))] = (status.st_mode, status.st_uid, status.st_gid, data)
    return {name: one for name, one in found.items() if not name.startswith("run")}


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold a lock in another process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-S", "-c", f"import fcntl, sys; file = open({str(path)!r}, 'w');"]
    command[-1] += " fcntl.lockf(file, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"\n"
        yield
        holder.communicate()
