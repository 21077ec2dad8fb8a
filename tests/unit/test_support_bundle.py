"""`appliance support-bundle`: of what was planted in every file, nothing is in the bundle."""

from __future__ import annotations

import gzip
import json
import re
import tarfile
from pathlib import Path

import pytest

from appliance.admin.command import main
from appliance.core.run import log
from tests import documents
from tests.unit import backup_site
from tests.unit.backup_site import put

pytestmark = pytest.mark.root

SECRETS = {
    "etc/caso/caso.conf": "[keystone_auth]\npassword = planted-caso-1\nusername = jane-caso\n",
    "etc/caso/caso.conf.d/more.conf": "[keystone_auth]\npassword_file = /etc/caso/secret\n",
    "etc/caso/secret": "planted-file-2\n",
    "etc/caso/old-secret": "planted-old-x\n",
    "etc/apel/sender.cfg": "[broker]\nuse_ssl: true\npassword: planted-broker-3\n"
    "[ams]\ntoken = planted-ams-4\n",
    "etc/cloud-info-provider/openstack.rc": "export OS_USERNAME=jane-info\n"
    "export OS_PASSWORD='planted-rc 5'\n",
    "etc/cloudkeeper-os/cloudkeeper-os.conf": "[keystone_authtoken]\npassword =\n"
    "    planted-lines-6\n",
    "etc/cloudkeeper/image-lists.conf": "https://planted-list-7:x-oauth-basic@vmcaster.egi.eu/a\n",
    "etc/cloudkeeper/registry.auth": "registry.egi.eu robot$a:planted-registry-8\n",
    "etc/cloudkeeper/sources.yaml": "egi:\n  url: https://a\n  token: planted-yaml-9\n",
    "etc/fedcloud/appliance.env": "HTTPS_PROXY=http://jane:planted-proxy-0@proxy.org:3128\n",
}
PLANTED = [
    *("planted-caso-1", "planted-file-2", "planted-broker-3", "planted-ams-4", "planted-rc 5"),
    *("planted-lines-6", "planted-list-7", "planted-registry-8", "planted-yaml-9"),
    "planted-proxy-0",
]
HIDDEN = ["planted-old-x", "plantedtoken", "plantedsignature", "plantedkeymaterial"]
KEY = "PRIVATE KEY"
PEOPLE = [
    *("jane-caso", "jane-info", "jane@uni.example.org", "Jane Doe"),
    *("11111111-2222-3333-4444-555555555555", "0123456789abcdef0123456789abcdef"),
]
HOST = "/DC=org/DC=terena/CN=accounting.example.org"
LEAK = "\n".join(
    [
        *(f"ERROR could not use {one!r}, retry" for one in PLANTED),
        "X-Auth-Token: gAAAAABnplantedtokenplantedtokenplanted",
        "Authorization: Bearer eyJhbGciOiJ9.eyJzdWIiOiJqYW5l.plantedsignature",
        "server 11111111-2222-3333-4444-555555555555 of jane-caso",
        "server 11111111-2222-3333-4444-555555555555 again",
        "project 0123456789abcdef0123456789abcdef of jane@uni.example.org",
        "signed by /DC=org/DC=terena/O=Uni/CN=Jane Doe jd12",
        f"signed by {HOST}",
        f"-----BEGIN {KEY}-----\nplantedkeymaterial\n-----END {KEY}-----",
        "",
    ]
)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    root = backup_site.make(tmp_path / "site")
    for name, text in SECRETS.items():
        put(root / name, text)
    put(root / "var/log/caso.log", LEAK)
    put(root / "var/lib/fedcloud/runs/caso/caso-extract.json", json.dumps({"error": LEAK}))
    put(root / "var/spool/caso/lastrun.0123456789abcdef0123456789abcdef", "2026-11-20 10:00:00")
    return root


def bundle(site: Path, target: Path) -> dict[str, str]:
    """Return name and text of each file of a new bundle."""
    log._secrets.clear()
    assert main(["support-bundle", "--root", str(site), str(target)]) == 0
    with tarfile.open(target) as tar:
        members = {member.name: tar.extractfile(member) for member in tar}
        return {name: file.read().decode() for name, file in members.items() if file}


@pytest.mark.long
def test_nothing_that_was_planted_is_in_it(
    site: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = backup_site.snapshot(site)
    found = bundle(site, tmp_path / "one.tar.gz")
    assert backup_site.snapshot(site) == before
    assert (tmp_path / "one.tar.gz").stat().st_mode & 0o777 == 0o600
    whole = gzip.decompress((tmp_path / "one.tar.gz").read_bytes()).decode(errors="replace")
    shown = "".join(capfd.readouterr())
    for planted in (*PLANTED, *PEOPLE, *HIDDEN):
        assert planted not in whole, planted
        assert planted not in shown, planted
    # What helps is there.
    assert f"signed by {HOST}\n" in found["support/logs/caso.log"]
    assert "site_name" not in found["support/configuration/etc/caso/caso.conf"]
    assert "[keystone_auth]" in found["support/configuration/etc/caso/caso.conf"]
    assert "appliance 1.0.0" in found["support/versions.txt"]
    assert json.loads(found["support/check.json"])
    assert json.loads(found["support/status.json"])
    assert json.loads(found["support/records/caso/caso-extract.json"])["error"]
    assert "ledger.sqlite" in found["support/state.txt"]
    _compare_with_another(found, site, tmp_path)


def _compare_with_another(found: dict[str, str], site: Path, tmp_path: Path) -> None:
    """Check that equal ids are equal in one bundle alone; it is made as the page says."""
    (command,) = documents.block("support-bundle.md", "write").commands()
    target = tmp_path / "support.tar.gz"
    assert command == f"appliance support-bundle /srv/{target.name}"
    ids = []
    for parts in (found, bundle(site, target)):
        text = parts["support/logs/caso.log"]
        one, same = re.findall(r"server (id-[0-9a-f]{12})", text)
        assert one == same
        ids.append(one)
    assert len({*ids}) == len(ids)


def test_an_existing_bundle_is_kept(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = put(tmp_path / "mine", "mine")
    assert main(["support-bundle", "--root", str(site), str(target)]) == 2
    assert "exists" in capsys.readouterr().err
    assert target.read_text() == "mine"
