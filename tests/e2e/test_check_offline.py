"""`appliance check --offline` with Debian's docker-compose, an engine and the shipped images."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.admin.check.inside import CHECK_LABEL
from deploy.dockerd import DockerDaemon
from tests.e2e.container_site import TOP, ContainerSite, host_site, wait

pytestmark = pytest.mark.container

PORT = int(os.environ.get("FEDCLOUD_TESTBED_PORT_BASE") or 26000) + 945
CHECKED = ["caso", "ssmsend", "cloudkeeper", "cloudbdii", "sitebdii", "cloudkeeper-os"]
GOOD = {
    "etc/caso/caso.conf": {
        12: "site_name = TEST-SITE",
        20: "projects = ops",
        32: "auth_url = https://keystone.example.org:5000/v3",
        41: "username = accounting",
        44: "user_domain_name = Default",
        47: "password = a-good-password",
    },
    "etc/cloudkeeper/cloudkeeper-os.conf": {
        124: "username = images",
        127: "password = another-password",
        130: "user_domain_name = Default",
        136: "auth_url = https://keystone.example.org:5000/v3",
    },
}
TEXTS = {
    "etc/cloud-info-provider/openstack.rc": (
        "export OS_AUTH_URL=https://keystone.example.org:5000/v3\n"
        "export OS_USERNAME=information\nexport OS_PASSWORD=a-third-password\nexport "
        "OS_USER_DOMAIN_ID=default\n"
    ),
    "etc/cloud-info-provider/openstack.yaml": (
        "site:\n  name: TEST-SITE\ncompute:\n  total_cores: 8\n  total_ram: 32\n  shares:\n    "
        "ops:\n"
        "      auth:\n        project_id: 0123456789abcdef0123456789abcdef\n"
    ),
    "etc/sitebdii/glite-info-site-defaults.conf": "SITE_NAME=TEST-SITE\n"
    "SITE_BDII_HOST=bdii.example.org\n",
    "etc/sitebdii/site.cfg": (
        "SITE_NAME = TEST-SITE\nSITE_EMAIL = a@example.org\nSITE_SECURITY_EMAIL = s@example.org\n"
        "SITE_SUPPORT_EMAIL = u@example.org\n"
    ),
    "etc/cloudkeeper/image-lists.conf": "https://lists.example.org/image.list\n",
}


def configure(site: ContainerSite) -> None:
    """Fill in everything, as an administrator does who makes no mistake."""
    for name, lines in GOOD.items():
        text = (site.root / name).read_text().splitlines()
        for number, line in lines.items():
            text[number - 1] = line
        site.edit(name, text="\n".join(text) + "\n")
    for name, content in TEXTS.items():
        site.edit(name, text=content)
    shutil.copytree(TOP / "cron.d", site.root / "etc/cron.d")
    for crl in (site.root / "etc/grid-security/certificates").glob("*.r0"):
        os.utime(crl)


@pytest.fixture
def site(engine: DockerDaemon, tmp_path: Path) -> Iterator[ContainerSite]:
    with host_site(engine, tmp_path / "root", port=PORT) as made:
        configure(made)
        yield made


def check(site: ContainerSite, *words: str) -> tuple[int, list[dict[str, Any]], list[str]]:
    """Return the exit status, the findings, and which programs were asked."""
    command = [
        sys.executable,
        "-m",
        "appliance.admin.command",
        "check",
        "--offline",
        "--json",
        "--root",
        str(site.root),
    ]
    done = subprocess.run(
        [*command, *words], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout, done.stderr
    reported = json.loads(done.stdout)
    assert "Traceback" not in done.stderr
    # The machine that runs the tests may have a disk that is too small for images.
    findings = [one for one in reported["findings"] if one["id"] != "C02.a"]
    status = done.returncode if findings or not reported["checked"] else 0
    return status, findings, reported["checked"]


def replace(site: ContainerSite, name: str, old: str, new: str) -> int:
    """Replace a text in a file; return its line."""
    text = (site.root / name).read_text()
    assert text.count(old) == 1, name
    site.edit(name, text=text.replace(old, new))
    return text[: text.index(old)].count("\n") + 1


def containers(site: ContainerSite) -> set[str]:
    """Return all containers of services and checks; other tests may run their own on the engine."""
    labels = ("com.docker.compose.project", CHECK_LABEL)
    listings = (
        site.engine.docker("ps", "-aq", "--no-trunc", "--filter", f"label={label}").stdout
        for label in labels
    )
    return {number for listing in listings for number in listing.split()}


def wait_for_words(site: ContainerSite, name: str, words: str) -> None:
    wait(lambda: words in site.log(name), seconds=120, what=lambda: site.log(name))


def test_what_is_right_and_what_is_wrong_together(site: ContainerSite) -> None:
    """F-H2, F-H5, F-H6: a site in order has no finding; then one fault in each file, each of which
    its program takes for good or misunderstands, is found with the host's file and line, and
    nothing runs meanwhile or is left.
    """
    status, findings, asked = check(site)
    assert findings == []
    assert (status, asked) == (0, CHECKED)
    site.compose("up", "-d", "--no-build", "sitebdii", "cloudkeeper-os")
    # Each has read its configuration before it is changed.
    for name, words in (("sitebdii", "serving"), ("cloudkeeper-os", "listening on")):
        wait_for_words(site, name, words)
    running = containers(site)
    root = site.root
    before = sorted(str(path) for path in (root / "etc").rglob("*"))
    replace(site, "etc/caso/caso.conf", "site_name = TEST-SITE", "site_name = TEST-SITE-2")
    site.edit("etc/caso/caso.conf", append="[ssm]\noutput_path = /var/spool/apel/outgoing/other\n")
    caso = (root / "etc/caso/caso.conf").read_text().splitlines()
    replace(site, "etc/cloudkeeper/cloudkeeper-os.conf", "username = images", "user = images")
    replace(
        site, "etc/cloudkeeper/cloudkeeper-os.conf", "#use_syslog = false", "log_config_append = /x"
    )
    broker = replace(
        site, "etc/apel/sender.cfg", "host: msg.argo.grnet.gr", "host: msg-devel.argo.grnet.gr"
    )
    site.edit(
        "etc/cloud-info-provider/openstack.rc",
        append="export OS_CACERT=/etc/ssl/certs/private.pem\n",
    )
    replace(
        site,
        "etc/sitebdii/site.cfg",
        "SITE_EMAIL = a@example.org",
        "SITE_EMAIL = admin@example.com",
    )
    (root / "etc/cloudkeeper/image-lists.conf").write_text("")
    status, findings, asked = check(site)
    found = {(one["id"], one["path"].removeprefix(str(root)), one["line"]) for one in findings}
    assert status == 1
    assert asked == CHECKED
    assert ("C40.b", "/etc/caso/caso.conf", len(caso)) in found, findings
    assert ("C22.a", "/etc/caso/caso.conf", 12) in found
    assert ("C21.a", "/etc/cloudkeeper/cloudkeeper-os.conf", 124) in found
    assert ("C24.a", "/etc/apel/sender.cfg", broker) in found
    assert ("C20.b", "/etc/sitebdii/site.cfg", 2) in found
    reported = {one["path"].removeprefix(str(root)): one["text"] for one in findings}
    assert (
        "FEDCLOUD_CA_BUNDLE in /etc/fedcloud/appliance.env"
        in reported["/etc/cloud-info-provider/openstack.rc"]
    )
    assert any("log_config_append" in one["option"] for one in findings)
    assert sorted(str(path) for path in (root / "etc").rglob("*")) == before
    assert containers(site) == running
    states = [
        str(site.container(name)["State"]["Status"]) for name in ("sitebdii", "cloudkeeper-os")
    ]
    assert states == ["running", "running"]


def test_what_keeps_a_program_from_being_asked(site: ContainerSite) -> None:
    """F-H2: first a service that runs in the host's network, where docker-compose cannot link a
    check to it.

    F-H10, C04, C10.a: a mount without its source and a missing key are findings; with no engine
    nothing is asked.
    """
    site.set(FEDCLOUD_NETWORK="host")
    site.compose("up", "-d", "--no-build", "cloudkeeper-os")
    assert check(site, "cloudkeeper-os") == (0, [], ["cloudkeeper-os"])
    (site.root / "etc/voms.json").unlink()
    (site.root / "etc/grid-security/hostkey.pem").unlink()
    status, findings, asked = check(site, "caso", "ssmsend")
    assert (status, asked) == (3, [])
    assert {(one["program"], one["path"].removeprefix(str(site.root))) for one in findings} == {
        ("caso", "/etc/voms.json"),
        ("ssmsend", "/etc/grid-security/hostkey.pem"),
    }
    site.edit("etc/fedcloud/appliance.yaml", text="engine:\n  socket: /nowhere\n")
    status, findings, asked = check(site, "caso")
    assert (status, asked, [one["id"] for one in findings]) == (3, [], ["C04.a"])
