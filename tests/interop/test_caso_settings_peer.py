"""Our reading of a configuration file is cASO's own, made by its oslo.config in its environment."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from appliance.core import clock
from caso.messengers.ssm import SSM
from tests.unit.test_caso_settings import LOGIN, V1, V5, load

PEER = Path(sys.prefix).parent / "peer/bin/python"
READ = """
import json, sys
import caso.config, caso.opts
from keystoneauth1 import loading
from oslo_config import cfg
caso.config.parse_args(["caso-extract", *sys.argv[1:]])
conf = cfg.CONF
loading.load_auth_from_conf_options(conf, "keystone_auth")
auth = conf.keystone_auth
known = ("auth_url", "username", "user_domain_name", "password", "application_credential_id",
         "application_credential_secret")
print(json.dumps({
    "site": conf.site_name, "service": conf.service_name, "projects": conf.projects,
    "tag": conf.caso_tag, "region": conf.region_name, "spool": conf.spooldir,
    "lock": conf.lock_path, "output": conf.ssm.output_path,
    "size": conf.ssm.max_size, "benchmark": [conf.benchmark.name_key, conf.benchmark.value_key],
    "dry": conf.dry_run, "mapping": conf.mapping_file,
    "auth": {name: auth[name] for name in known if name in auth and auth[name] is not None},
}))
"""
QUIRKS = """
[DEFAULT]
site_name = "EXAMPLE-SITE"
service_name = $site_name-$region_name
region_name = R1
projects = a,
  b , c
messengers = ssm
spooldir = {root}/with$$dollar
extract-to = 2026-11-01
[ssm]
output_path: $spooldir/out
"""


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        # cASO 5 no longer knows these two names of 1.1.1; the values are compared under the names
        # that it knows.
        (
            V1.replace("tenants", "projects").replace(
                "benchmark_name_key = my:type\nbenchmark_value_key = my:value\n", ""
            ),
            [],
        ),
        (V5.replace("5000/\n", "5000/v3\n"), []),
        (QUIRKS + LOGIN, []),
        (
            QUIRKS + LOGIN,
            ["--projects", "x,y", "--caso_tag", "t", "--dry-run", "--mapping_file", "/m"],
        ),
    ],
)
def test_the_peer_reads_the_same(text: str, flags: list[str], tmp_path: Path) -> None:
    read = load(tmp_path, text, *flags)
    path = tmp_path / "etc/caso/caso.conf"
    shown = subprocess.run(
        [str(PEER), "-P", "-c", READ, "--config-file", str(path), *flags],
        capture_output=True,
        text=True,
        check=True,
    )
    peer: dict[str, Any] = json.loads(shown.stdout)
    (messenger,) = read.messengers
    assert isinstance(messenger, SSM)
    ours = {
        "site": read.names.site,
        "service": read.names.service,
        "projects": list(read.projects),
        "tag": read.tag,
        "region": read.access.region,
        "spool": str(read.spool).removeprefix(str(tmp_path)),
        "lock": str(read.lock).removeprefix(str(tmp_path)),
        "output": str(messenger.outputs["cloud"]).removeprefix(str(tmp_path)),
        "size": messenger.max_size,
        "benchmark": [read.names.benchmark_type, read.names.benchmark_value],
        "dry": read.is_dry_run,
        "mapping": str(read.mapping.path).removeprefix(str(tmp_path)),
        "auth": read.access.options,
    }
    for name in ("spool", "lock", "output", "mapping"):
        peer[name] = peer[name].removeprefix(str(tmp_path))
    assert ours == peer


@pytest.mark.parametrize(
    "text",
    [
        *("2026-11-01", "20261101", "2026-11-01T00:00", "2026-11-01 00:00:00", "2026-11-01T12"),
        *("2026-11-01T01:02:03Z", "2026-11-01 01:02:03.5+02:00", "20261101T010203-0530"),
        *("2026-11-01 01:02:03.712270+00:00", "2026-11-01 01:02 UTC", "2026-11-01T01:02:03 GMT"),
        *("Sun, 01 Nov 2026 01:02:03 +0100", "Sun, 01 Nov 2026 01:02:03 GMT"),
    ],
)
def test_the_peer_reads_the_same_moment(text: str) -> None:
    code = (
        "import sys, dateutil.parser; from datetime import UTC\n"
        "found = dateutil.parser.parse(sys.argv[1])\n"
        "print((found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC).isoformat())"
    )
    shown = subprocess.run(
        [str(PEER), "-c", code, text], capture_output=True, text=True, check=True
    )
    assert clock.parse(text).isoformat() == shown.stdout.strip()
