"""`ssmsend` and `ssmreceive` on sites with faulty files: one line each, nothing sent."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from appliance.core.run import cli
from appliance.core.run.errors import ExitStatus
from ssm.cmds import receive, send
from tests.e2e.ssm_site import Site
from tests.simulators.stomp_faults import FaultBroker
from tests.testbed.pki import Credential
from tests.testbed.trust import Trust


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    made = Trust(tmp_path_factory.mktemp("trust"))
    made.publish()
    return made


@pytest.fixture
def broker(trust: Trust) -> Iterator[FaultBroker]:
    with FaultBroker(trust.host("broker"), trust.grid.certificate) as made:
        yield made


@pytest.fixture
def site(tmp_path: Path, trust: Trust, broker: FaultBroker) -> Site:
    return Site.create(tmp_path, trust, hosts=f"localhost:{broker.port}")


def change(site: Site, old: object, new: object, role: str = "sender") -> None:
    config = site.root / f"etc/apel/{role}.cfg"
    text = config.read_text()
    assert str(old) in text
    config.write_text(text.replace(str(old), str(new)))


def use(site: Site, credential: Credential) -> None:
    ours = site.trust.host("sender")
    change(site, f"certificate: {ours.certificate}", f"certificate: {credential.certificate}")
    change(site, f"key: {ours.key}", f"key: {credential.key}")


def test_a_good_site_is_said_to_be_good(site: Site, broker: FaultBroker) -> None:
    site.fill(["a", "b"])
    shown = site.run("ssmsend", "--check-config")
    assert shown.stdout == f"ssmsend: configuration is good; 2 messages wait in {site.spool}\n"
    assert (shown.returncode, shown.stderr) == (0, "")
    shown = site.run("ssmreceive", "--check-config")
    assert (
        shown.stdout
        == f"ssmreceive: configuration is good; messages go to {site.received}/incoming\n"
    )
    assert (shown.returncode, shown.stderr) == (0, "")
    assert not site.received.exists()
    assert broker.connections == 0


def refused(site: Site, broker: FaultBroker, words: str, status: int = 3) -> None:
    names = site.fill(["a message\n"])
    done = site.run("ssmsend")
    assert done.returncode == status, done.stderr
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert broker.sent == []
    assert site.waiting() == names
    assert site.locks() == []


def test_a_key_of_another_certificate(site: Site, broker: FaultBroker) -> None:
    change(site, f"key: {site.trust.host('sender').key}", f"key: {site.trust.host('other').key}")
    refused(site, broker, "the key does not belong to")


def test_a_key_that_others_may_read(site: Site, broker: FaultBroker) -> None:
    credential = site.trust.grid.issue("open.example.org")
    credential.key.chmod(0o604)
    use(site, credential)
    refused(site, broker, "the private key is open to others (mode 0604); chmod 0400")


def test_an_expired_certificate(site: Site, broker: FaultBroker) -> None:
    """D16: nothing is sent."""
    begin = datetime.now(UTC) - timedelta(days=3)
    use(site, site.trust.grid.issue("expired.example.org", not_before=begin, days=2))
    refused(site, broker, "the certificate expired on")


def test_a_certificate_that_receivers_would_not_believe(
    tmp_path: Path, broker: FaultBroker, trust: Trust
) -> None:
    """The broker still accepts it, but receivers would reject each message that it signs."""
    site = Site.create(tmp_path, trust, hosts=f"localhost:{broker.port}")
    credential = trust.grid.issue("revoked.example.org")
    trust.grid.revoke(credential)
    trust.grid.publish(tmp_path / "certificates")
    use(site, credential)
    change(site, f"capath: {trust.ca_directory}", f"capath: {tmp_path}/certificates")
    refused(site, broker, "messages signed with it are refused")


def test_certificates_to_encrypt_to(site: Site, broker: FaultBroker) -> None:
    elliptic = site.trust.grid.issue("elliptic.example.org", key="ec")
    begin = datetime.now(UTC) - timedelta(days=3)
    expired = site.trust.grid.issue("gone.example.org", not_before=begin, days=2)
    stranger = Trust(site.root / "strangers").host("receiver")
    before = "[messaging]"
    for credential, words in (
        (elliptic, "its key is not RSA"),
        (expired, "expired on"),
        (stranger, "is not among the trust anchors"),
    ):
        change(site, before, f"server_cert: {credential.certificate}\n[messaging]")
        refused(site, broker, words)
        before = f"server_cert: {credential.certificate}\n[messaging]"
        for path in site.spool.rglob("*"):
            if path.is_file():
                path.unlink()


def test_a_certificate_that_ends_soon_sends_and_warns(site: Site, broker: FaultBroker) -> None:
    """D16."""
    use(site, site.trust.grid.issue("soon.example.org", days=0.5))
    names = site.fill(["a message\n"])
    assert site.run("ssmsend").returncode == 0
    assert broker.ids() == names
    assert "expires within 1 day" in site.log("sender")


def test_a_wrong_configuration(site: Site, broker: FaultBroker) -> None:
    change(site, "protocol: STOMP", "protocol: HTTP")
    change(site, "destination: /queue/test", "destination:")
    names = site.fill(["a"])
    done = site.run("ssmsend")
    assert done.returncode == 2
    config = f"ssmsend: {site.root}/etc/apel/sender.cfg"
    lines = done.stderr.splitlines()
    assert lines[0].startswith(f"{config}:2: [sender] protocol: 'HTTP' is not allowed")
    assert lines[1].startswith(f"{config}:12: [messaging] destination: must be set")
    assert len(lines) == 2
    assert site.run("ssmsend", "--compat-exit-codes").returncode == 1
    assert site.waiting() == names


def test_a_missing_log_directory_is_no_reason_to_stop(site: Site, broker: FaultBroker) -> None:
    change(site, "/var/log/apel/sender.log", "/no/such/sender.log")
    names = site.fill(["a"])
    done = site.run("ssmsend")
    assert done.returncode == 0
    assert f"{site.root}/no/such/sender.log: No such file or directory" in done.stderr
    assert "logging to standard error only" in done.stderr
    assert f"Sent {names[0]}" in done.stderr


@pytest.mark.parametrize(
    ("program", "flag", "value"),
    [
        *[("ssmsend", "--max-time", value) for value in ("nan", "-1", "1e400", "soon")],
        *[("ssmreceive", "--idle-exit", value) for value in ("nan", "-1", "1e20")],
        *[("ssmsend", "--limit", value) for value in ("0", "-1", "1.5", "many")],
    ],
)
def test_numbers_that_are_none(
    program: str, flag: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = cli.parser(
        cli.Program(
            program, "", {"ssmsend": send, "ssmreceive": receive}[program].add_arguments, no_run
        )
    )
    with pytest.raises(SystemExit) as caught:
        parser.parse_args([f"{flag}={value}"])
    assert caught.value.code == 2
    shown = capsys.readouterr().err
    assert (shown.count("\n"), f"{value!r} is not allowed; write a" in shown) == (1, True)


def no_run(_: argparse.Namespace) -> ExitStatus:
    raise NotImplementedError


def test_old_flags_are_accepted(site: Site) -> None:
    done = site.run(
        "ssmsend", "-c", str(site.root / "etc/apel/sender.cfg"), "-l", "/etc/apel/logging.cfg"
    )
    assert done.returncode == 0
    assert "a separate logging configuration has no effect" in site.log("sender")
    assert site.run("ssmsend", "-v").stdout.startswith("ssmsend ")


def test_nothing_to_send_is_no_work(site: Site, broker: FaultBroker) -> None:
    script = (
        "import json, sys\n"
        "from ssm.cmds.send import main\n"
        f"sys.argv = ['ssmsend', '--root', {str(site.root)!r}]\n"
        "assert main() == 0\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))\n"
    )
    # it loads sqlite3
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=env
    )
    loaded = set(json.loads(done.stdout))
    assert not loaded & {"stomp", "cryptography", "OpenSSL", "asn1crypto", "sqlite3"}
    assert broker.connections == 0
    assert "No messages found to send." in site.log("sender")
    assert site.record("ssmsend")["status"] == 0


def test_sent_files_are_readable_for_the_group_only(site: Site, broker: FaultBroker) -> None:
    site.fill([""])
    assert site.run("ssmsend").returncode == 1
    assert {path.stat().st_mode & 0o777 for path in site.failed.rglob("*")} == {0o750, 0o640}
    assert (site.root / "var/log/apel/sender.log").stat().st_mode & 0o007 == 0
