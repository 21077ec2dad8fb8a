"""Every key of upstream's bdii.conf acts, or is ignored with its reason."""

from pathlib import Path

import pytest

from appliance.core.run import log
from appliance.core.run.layout import Layout
from bdii import settings
from bdii.ignored import IGNORED

# All keys of bdii 6.0.3: of its program, and of the scripts that start slapd.
UPSTREAM = {
    "BDII_LOG_FILE": "/var/log/bdii/bdii-update.log",
    "BDII_LOG_LEVEL": "ERROR",
    "BDII_PID_FILE": "/run/bdii/bdii-update.pid",
    "BDII_RUN_DIR": "/run/bdii",
    "BDII_HOSTNAME": "bdii.example.org",
    "BDII_PORT": "2170",
    "BDII_LDIF_DIR": "/var/lib/bdii/gip/ldif",
    "BDII_PROVIDER_DIR": "/var/lib/bdii/gip/provider",
    "BDII_PLUGIN_DIR": "/var/lib/bdii/gip/plugin",
    "BDII_READ_TIMEOUT": "300",
    "BDII_BREATHE_TIME": "120",
    "BDII_DELETE_DELAY": "7",
    "BDII_ARCHIVE_SIZE": "10",
    "BDII_USER": "ldap",
    "BDII_VAR_DIR": "/var/lib/bdii",
    "BDII_IPV6_SUPPORT": "yes",
    "SLAPD_HOST": "192.0.2.1",
    "SLAPD_HOST6": "2001:db8::1",
    "SLAPD_PORT": "2171",
    "BDII_RAM_DISK": "yes",
    "BDII_RAM_SIZE": "1500M",
    "SLAPD_CONF": "/etc/bdii/bdii-slapd.conf",
    "SLAPD": "/usr/sbin/slapd",
    "DB_CONFIG": "/etc/bdii/DB_CONFIG",
    "SLAPD_DB_DIR": "/var/lib/bdii/db",
    "DELAYED_DELETE": "/var/lib/bdii/delayed_delete.pkl",
}


def test_every_key_of_upstream_acts_or_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "_is_checking", True)
    file = tmp_path / "bdii.conf"
    file.write_text("".join(f"{key}={value}\n" for key, value in UPSTREAM.items()))
    read, warnings = settings.read(file, layout=Layout(tmp_path))
    said = "\n".join(map(str, warnings))
    for key in UPSTREAM:
        reason = IGNORED["bdii.conf"].get(key)
        assert (f"{key}: has no effect here: {reason}" in said) is (reason is not None), said
    assert len(warnings) == sum(key in IGNORED["bdii.conf"] for key in UPSTREAM)
    assert read.plugin_directory == Path("/var/lib/bdii/gip/plugin")
    assert (read.addresses, read.port) == (("192.0.2.1", "2001:db8::1"), 2171)


def test_keys_without_effect_are_one_line_in_a_run(tmp_path: Path) -> None:
    file = tmp_path / "bdii.conf"
    file.write_text("BDII_USER=ldap\nBDII_RAM_DISK=no\nDELAYED_DELETE=/x\nBDII_RUN_DIR=/run\n")
    _, warnings = settings.read(file, layout=Layout(tmp_path))
    (warning,) = map(str, warnings)
    words = "has no effect here, nor have options of line 3; --check-config says why"
    assert warning == f"{file}:1: BDII_USER: {words}"
