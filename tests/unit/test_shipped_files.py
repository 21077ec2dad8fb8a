"""The shipped files keep the line numbers that the appliance's manual names."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from appliance.core.run.layout import Layout
from ssm import destinations
from ssm.settings import AMSAccess, Broker, SenderSettings, load_sender

ETC = Path(__file__).parents[2] / "etc"

CASO = {
    1: r"\[DEFAULT\]", 3: "messengers = ", 12: "site_name =", 16: r"#service_name = \$site_name",
    20: "projects =", 22: r"\[keystone_auth\]", 29: "auth_type = v3password", 32: "auth_url =",
    35: "#project_name", 38: "#project_domain_name", 41: "#username", 44: "#user_domain_name",
    47: "#password", 50: "#user_domain_id", 57: "#auth_section", 61: "#cafile", 64: "#certfile",
    67: "#keyfile", 70: "#insecure = false", 73: "#timeout", 76: "#domain_id", 79: "#domain_name",
    83: "#project_id", 86: "#project_domain_id", 89: "#trust_id", 94: "#default_domain_id",
    99: "#default_domain_name", 102: "#user_id",
}  # fmt: skip

CLOUDKEEPER_OS = {
    1: r"\[DEFAULT\]", 10: "#grpc_port = 50051",
    13: "#mapping_file = /etc/cloudkeeper-os/voms.json", 17: "#tempdir = /tmp", 26: "#debug",
    32: "#verbose", 42: "#log_config_append", 47: "#log_date_format", 53: "#log_file",
    58: "#log_dir", 65: "#watch_log_file", 70: "#use_syslog", 74: "#syslog_log_facility",
    78: "#use_stderr", 81: "#logging_context_format_string", 85: "#logging_default_format_string",
    89: "#logging_debug_format_suffix", 92: "#logging_exception_prefix",
    96: "#logging_user_identity_format", 100: "#default_log_levels", 103: "#publish_errors",
    107: "#instance_format", 111: "#instance_uuid_format", 114: "#fatal_deprecations",
    117: r"\[keystone_authtoken\]", 124: "#username = cloudkeeper", 127: "#password",
    130: "#user_domain_name = default", 133: "#project_domain_name = default", 136: "#auth_url",
}  # fmt: skip


@pytest.mark.parametrize(("number", "pattern"), CASO.items())
def test_the_manual_s_lines_of_caso_conf(number: int, pattern: str) -> None:
    """R13, R14, R15, R16: what an administrator fills in stands where the manual says."""
    line = (ETC / "caso" / "caso.conf").read_text().splitlines()[number - 1]
    assert re.match(pattern, line), line


@pytest.mark.parametrize(("number", "pattern"), CLOUDKEEPER_OS.items())
def test_the_manual_s_lines_of_cloudkeeper_os_conf(number: int, pattern: str) -> None:
    """R36."""
    lines = (ETC / "cloudkeeper" / "cloudkeeper-os.conf").read_text().splitlines()
    assert re.match(pattern, lines[number - 1]), lines[number - 1]
    assert len(lines) == max(CLOUDKEEPER_OS)


def shipped_sender(site: Path, text: str) -> SenderSettings:
    """Load the text as the sender.cfg of a host that has a certificate and trust anchors."""
    (site / "certificates").mkdir(parents=True)
    for name in ("hostcert.pem", "hostkey.pem"):
        (site / name).write_text("x")
    config = site / "sender.cfg"
    config.write_text(text.replace("/etc/grid-security", str(site)))
    return load_sender(config, layout=Layout(site))


def test_sender_cfg_sends_to_today_s_egi(tmp_path: Path) -> None:
    """R20: the defaults are right for a cloud in EGI, nothing has to be filled in."""
    settings = shipped_sender(tmp_path, (ETC / "apel/sender.cfg").read_text())
    assert settings.link.ams == AMSAccess("accounting", "", 8443, system_cas=True)
    assert settings.link.brokers == (Broker("msg.argo.grnet.gr", 443),)
    assert settings.link.destination == "eu-egi-cloud-accounting"
    assert settings.path == Path("/var/spool/apel/outgoing/openstack")
    assert settings.warnings == ()


def test_the_example_for_storage_is_whole_and_sends_nothing_until_it_is_renamed(
    tmp_path: Path,
) -> None:
    assert [path.name for path in (ETC / "apel/sender.d").iterdir()] == ["storage.cfg.example"]
    first = shipped_sender(tmp_path / "a", (ETC / "apel/sender.cfg").read_text())
    text = (ETC / "apel/sender.d/storage.cfg.example").read_text()
    settings = shipped_sender(tmp_path / "b", text)
    assert settings.link.ams == first.link.ams
    assert settings.link.brokers == first.link.brokers
    assert settings.link.destination == "eu-egi-storage-accounting"
    assert settings.path == Path("/var/spool/apel/outgoing/openstack-storage")
    assert settings.warnings == ()
    layout = Layout(tmp_path / "host")
    shutil.copytree(ETC / "apel", layout.path("/etc/apel"))
    first_alone = [layout.path("/etc/apel/sender.cfg")]
    assert [one.path for one in destinations.load(layout)] == first_alone
    # What an upgrade writes beside a changed file is no configuration either.
    shutil.copy(ETC / "apel/sender.cfg", layout.path("/etc/apel/sender.d/a.cfg.fedcloud-new"))
    assert [one.path for one in destinations.load(layout)] == first_alone


def test_an_upgrade_changes_nothing_of_what_is_sent(tmp_path: Path) -> None:
    """A file that the administrator has not changed is replaced by the new one."""
    now = shipped_sender(tmp_path / "now", (ETC / "apel/sender.cfg").read_text())
    lines = (ETC.parent / "tests/e2e/releases.txt").read_text().splitlines()
    releases = [line.split() for line in lines if line[0] != "#"]
    assert releases
    for version, commit in releases:
        command = ["git", "show", f"{commit}:etc/apel/sender.cfg"]
        shown = subprocess.run(command, cwd=ETC, capture_output=True, text=True, check=True)
        before = shipped_sender(tmp_path / version, shown.stdout)
        for name in ("brokers", "use_ssl", "destination", "ams"):
            assert getattr(before.link, name) == getattr(now.link, name)
        for name in ("kept", "server_cert", "cipher", "crls", "max_message_size", "log"):
            assert str(getattr(before, name)).replace(version, "now") == str(getattr(now, name))


def test_sender_cfg_holds_the_lines_for_stomp_commented(tmp_path: Path) -> None:
    """R20: what a private federation needs is a matter of moving some #."""
    text = (ETC / "apel/sender.cfg").read_text()
    ours, theirs = (
        ("protocol: AMS", "host: msg", "ams_project", "destination: eu"),
        ("protocol", "host", "use_ssl", "dest"),
    )
    text = re.sub(rf"^(?={'|'.join(ours)})", "!", text, flags=re.MULTILINE)
    text = re.sub(rf"^#(?={'|'.join(theirs)})", "", text, flags=re.MULTILINE).replace("!", "#")
    settings = shipped_sender(tmp_path, text.replace("msg.example.org", "broker.example.net"))
    assert settings.link.ams is None
    assert settings.link.use_ssl
    assert settings.link.brokers == (Broker("broker.example.net", 6162),)
    assert settings.link.destination == "/queue/accounting"
    assert settings.warnings == ()
