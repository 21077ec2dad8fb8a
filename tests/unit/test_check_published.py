"""C50.b, C50.c, C51: what `bdii-update --check-live` finds, and the consequences that are hidden.

The BDIIs below a site's are a slapd each.
"""

from __future__ import annotations

import json
import random
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from appliance.admin.check import registry
from appliance.admin.check.finding import identify
from appliance.admin.runtime import native
from appliance.core.config import settings
from appliance.core.run.finding import Finding, of_json
from appliance.core.run.record import RunRecord
from bdii import live_check
from bdii.cmds import update
from tests.e2e.bdii_service import SERVICE, cloud, image
from tests.testbed.patience import until
from tests.unit.test_check_backend_port import _Answers
from tests.unit.test_check_host import site as host_site
from tests.unit.test_check_information import show

DOMAIN = "GLUE2DomainID=TEST-SITE,o=glue"
SITE_CFG = """\
SITE_NAME = TEST-SITE
SITE_DESC = A cloud
SITE_WEB = https://cloud.example.org
SITE_LAT = 43.4
SITE_LONG = -3.8
SITE_EMAIL = site-admin@example.net
SITE_SECURITY_EMAIL = site-sec@example.net
SITE_SUPPORT_EMAIL = site-support@example.net
"""
CLOUD = "GLUE2GroupID=cloud,o=glue"
GROUP = "dn: GLUE2GroupID=cloud,o=glue\nobjectClass: GLUE2Group\nGLUE2GroupID: cloud\n\n"
ROOT = "dn: o=glue\nobjectClass: organization\no: glue\n\n"


@dataclass
class Checked:
    """A BDII's files, and what its check finds."""

    root: Path
    capsys: pytest.CaptureFixture[str]

    @property
    def published(self) -> Path:
        return self.root / "state/published.ldif"

    def publish(self, text: str) -> None:
        self.published.parent.mkdir(exist_ok=True)
        self.published.write_text(text)

    def configure(self, urls: str = "", *, cfg: str = SITE_CFG) -> None:
        """Write the configuration: of a site with a line of site-urls.conf, or of a resource."""
        lines = [f"BDII_VAR_DIR={self.root}/state"]
        if urls:
            files = {"BDII_SITE_CFG": "site.cfg", "BDII_SITE_DEFAULTS": "defaults.conf"}
            files["BDII_SITE_URLS"] = "urls.conf"
            lines += [f"{key}={self.root}/{name}" for key, name in files.items()]
            (self.root / "site.cfg").write_text(cfg)
            text = "SITE_NAME=TEST-SITE\nSITE_BDII_HOST=bdii.example.net\n"
            (self.root / "defaults.conf").write_text(text)
            (self.root / "urls.conf").write_text(f"# BDIIs\n{urls}\n")
        (self.root / "bdii.conf").write_text("".join(f"{line}\n" for line in lines))

    def find(self) -> list[tuple[str, str, int]]:
        return [
            (one.identifier, one.path.removeprefix(f"{self.root}/"), one.line)
            for one in self.findings()
        ]

    def findings(self) -> Sequence[Finding]:
        settings._observed.clear()
        before = sorted(self.root.rglob("*"))
        words = ["--root", str(self.root), "-c", f"{self.root}/bdii.conf", "--serve"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["bdii-update", *words, "--check-live", "--log-json"])
            status = update.main()
        lines = [json.loads(line) for line in self.capsys.readouterr().err.splitlines()]
        found = [of_json(line["finding"]) for line in lines if "finding" in line]
        assert status == int(any(one.is_error for one in found)), lines
        assert sorted(self.root.rglob("*")) == before, "a check writes nothing"
        assert all(one.tried for one in found)
        return found


@pytest.fixture
def checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Checked:
    return Checked(tmp_path, capsys)


def complete(number: int = 1) -> str:
    """Return a service and its policy with what EGI's profile demands of a resource's BDII."""
    endpoint = f"e{number}"
    return (
        "dn: GLUE2ServiceID=s,GLUE2GroupID=cloud,o=glue\n"
        "objectClass: GLUE2Entity\nobjectClass: GLUE2Service\nGLUE2ServiceID: s\n"
        "GLUE2ServiceType: IaaS\nGLUE2ServiceQualityLevel: production\n"
        "GLUE2ServiceAdminDomainForeignKey: TEST-SITE\n\n"
        f"dn: GLUE2EndpointID={endpoint},GLUE2ServiceID=s,GLUE2GroupID=cloud,o=glue\n"
        "objectClass: GLUE2Entity\nobjectClass: GLUE2Endpoint\n"
        f"GLUE2EndpointID: {endpoint}\nGLUE2EndpointURL: https://cloud.example.org:5000/v3\n"
        "GLUE2EndpointInterfaceName: OpenStack\nGLUE2EndpointImplementationName: OpenStack Nova\n"
        "GLUE2EndpointImplementationVersion: 2.96\nGLUE2EndpointQualityLevel: production\n"
        "GLUE2EndpointHealthState: ok\nGLUE2EndpointServingState: production\n"
        "GLUE2EndpointServiceForeignKey: s\n\n"
        f"dn: GLUE2PolicyID=p,GLUE2EndpointID={endpoint},GLUE2ServiceID=s,{CLOUD}\n"
        "objectClass: GLUE2Entity\nobjectClass: GLUE2Policy\nobjectClass: GLUE2AccessPolicy\n"
        "GLUE2PolicyID: p\nGLUE2PolicyScheme: basic\nGLUE2PolicyRule: VO:ops\n"
        f"GLUE2AccessPolicyEndpointForeignKey: {endpoint}\n\n"
    )


# --------------------------------------------------------------------------------------------------
# the resource's BDII


def test_a_resource_that_publishes_nothing(checked: Checked) -> None:
    """C50.b: the provider's error, and the file and line that it names."""
    checked.configure()
    assert checked.find() == []  # it has not run yet
    checked.publish(ROOT + GROUP)
    assert checked.find() == [("C50.b", "", 0)]
    record = RunRecord("bdii-resource")
    record.fail("provider/openstack: /etc/cloud-info-provider/openstack.yaml:7: no project p1")
    record.write(checked.root / "var/lib/fedcloud/runs")
    (found,) = checked.findings()
    assert (found.identifier, found.path, found.line) == (
        "C50.b",
        "/etc/cloud-info-provider/openstack.yaml",
        7,
    )
    assert "no project p1" in found.text
    checked.publish(ROOT + GROUP + complete())
    assert checked.find() == []


def test_what_is_published_by_the_profile_of_egi(checked: Checked) -> None:
    """C51.a, C51: once for each attribute, with an entry that lacks it."""
    checked.configure()
    text = ROOT + GROUP + complete()
    checked.publish(text.replace("GLUE2EndpointImplementationName: OpenStack Nova\n", ""))
    (found,) = checked.findings()
    assert (found.identifier, found.path, found.is_error) == (
        "C51.a",
        str(checked.published),
        False,
    )
    assert found.text.startswith("GLUE2EndpointImplementationName of GLUE2EndpointID=e1,")
    assert "is mandatory and missing (W034)" in found.text
    checked.publish(
        text.replace("GLUE2EndpointServiceForeignKey: s", "GLUE2EndpointServiceForeignKey: t")
    )
    (found,) = checked.findings()
    assert (found.identifier, found.is_error) == ("C51", True)
    checked.publish(text)
    assert checked.find() == []


def test_of_very_many_images_the_first_are_checked(
    checked: Checked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check of a large tree takes no more time and memory than that of a small one."""
    monkeypatch.setattr(live_check, "_MOST_IMAGES", 2)
    checked.configure()
    images = "".join(
        image(number, "ops").replace(SERVICE, f"GLUE2ServiceID=s,{CLOUD}") for number in range(4)
    )
    lacking = images.replace("GLUE2ApplicationEnvironmentAppName: image 3\n", "")
    checked.publish(ROOT + GROUP + complete() + lacking)
    assert checked.find() == []
    lacking = images.replace("GLUE2ApplicationEnvironmentAppName: image 1\n", "")
    checked.publish(ROOT + GROUP + complete() + lacking)
    assert checked.find() == [("C51.a", "state/published.ldif", 0)]


# --------------------------------------------------------------------------------------------------
# the site's BDII


@contextmanager
def slapd(directory: Path, text: str, *, first: str = "", last: str = "") -> Iterator[int]:
    """Run slapd with the schema of GLUE 2.0 and these entries; yield its port."""
    directory.mkdir(exist_ok=True)
    (directory / "db").mkdir()
    schemas = "".join(f"include /etc/ldap/schema/{one}.schema\n" for one in ("core", "cosine"))
    config = directory / "slapd.conf"
    config.write_text(
        f"{schemas}include /etc/ldap/schema/GLUE20.schema\nmodulepath /usr/lib/ldap\n"
        f'moduleload back_mdb\n{first}database mdb\nsuffix "o=glue"\ndirectory {directory}/db\n'
        f"{last}"
    )
    (directory / "tree.ldif").write_text(text)
    load = ["slapadd", "-q", "-f", str(config), "-l", str(directory / "tree.ldif")]
    subprocess.run(load, check=True, capture_output=True)
    port = random.randrange(20_000, 28_000)
    run = ["slapd", "-d", "0", "-f", str(config), "-h", f"ldap://127.0.0.1:{port}"]
    process = subprocess.Popen(run, stderr=subprocess.DEVNULL)
    try:
        assert until(lambda: answers(port), seconds=60)
        yield port
    finally:
        process.terminate()
        process.wait()


def answers(port: int) -> bool:
    with suppress(OSError), closing(socket.create_connection(("127.0.0.1", port), timeout=1)):
        return True
    return False


@pytest.mark.programs("slapd", "slapadd")
def test_a_resource_that_the_site_does_not_list(checked: Checked, tmp_path: Path) -> None:
    """C50.b, C50.c: the line of site-urls.conf."""
    base = "GLUE2GroupID=cloud,o=glue"
    with slapd(tmp_path / "full", ROOT + cloud()) as port:
        checked.configure(f"CLOUD ldap://127.0.0.1:{port}/{base}")
        assert checked.find() == []
        checked.configure(f"CLOUD ldap://127.0.0.1:{port}/GLUE2GroupID=other,o=glue")
        (found,) = checked.findings()
        assert (found.identifier, found.path, found.line) == (
            "C50.c",
            f"{checked.root}/urls.conf",
            2,
        )
        assert "lists no service below GLUE2GroupID=other,o=glue, but 1 elsewhere" in found.text
    checked.configure(f"CLOUD ldap://127.0.0.1:{port}/{base}")  # it has stopped
    assert checked.find() == [("C50.c", "urls.conf", 2)]
    with slapd(tmp_path / "empty", ROOT + GROUP) as port:
        checked.configure(f"CLOUD ldap://127.0.0.1:{port}/{base}")
        assert checked.find() == [("C50.b", "urls.conf", 2)]


def test_a_description_of_the_site_that_egi_does_not_take(checked: Checked) -> None:
    """C51: the line of site.cfg, before it is published."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        url = f"CLOUD ldap://127.0.0.1:{silent.getsockname()[1]}/GLUE2GroupID=cloud,o=glue"
        checked.configure(url, cfg=SITE_CFG.replace("https://", ""))
        found = [one for one in checked.findings() if one.family == "C51"]
        checked.configure(url)
        assert [one for one in checked.findings() if one.family == "C51"] == []
    assert [(one.identifier, one.path, one.line) for one in found] == [
        ("C51", f"{checked.root}/site.cfg", 3)
    ]
    assert "correct SITE_WEB" in found[0].text


def test_a_tree_that_contradicts_itself(checked: Checked) -> None:
    """C51: only rules about several entries, as the others are those of the resource's BDII."""
    checked.configure("CLOUD ldap://127.0.0.1:1/GLUE2GroupID=cloud,o=glue")
    text = (GROUP + complete()).replace(",o=glue", f",{DOMAIN}")
    text = text.replace("GLUE2EndpointQualityLevel: production\n", "")
    checked.publish(ROOT + text.replace("ForeignKey: TEST-SITE", "ForeignKey: OTHER"))
    found = [one for one in checked.findings() if one.family == "C51"]
    assert [(one.identifier, one.path, one.is_error) for one in found] == [
        ("C51", str(checked.published), True)
    ]
    assert "'OTHER' is not the site" in found[0].text
    checked.publish(ROOT + text)
    assert [one for one in checked.findings() if one.family == "C51"] == []


# --------------------------------------------------------------------------------------------------
# on the host


def test_a_site_that_names_no_bdii() -> None:
    """C50.c."""
    words = "names no BDII, so no cloud is published; write NAME ldap://HOST:PORT/BASE"
    assert identify("", words) == "C50.c"


URLS = "/etc/sitebdii/site-urls.conf"
EMPTY = Finding(URLS, 2, "CLOUD", "ldap://cloudbdii:2170: empty", "C50.b")
SILENT = Finding(URLS, 2, "CLOUD", "ldap://localhost:2171: does not answer", "C50.c")
FOREIGN = Finding(URLS, 3, "OTHER", "ldap://other.example.org:2170: does not answer", "C50.c")
NOTHING = Finding("", 0, "", "publishes no cloud", "C50.b")
PASSWORD = Finding("/etc/x.rc", 1, "", "wrong password", "C30.a")


@pytest.mark.root
@pytest.mark.parametrize(
    ("state", "resource", "left_of_resource", "left_of_site"),
    [
        ("activating", [], [], [EMPTY, SILENT, FOREIGN]),
        ("activating", [NOTHING], [NOTHING], [SILENT, FOREIGN]),
        ("activating", [NOTHING, PASSWORD], [PASSWORD], [SILENT, FOREIGN]),
        ("failed", [], [], [FOREIGN]),  # C50.a is the one that counts
    ],
)
def test_a_fault_and_its_consequences_are_one_finding(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    state: str,
    resource: Sequence[Finding],
    left_of_resource: Sequence[Finding],
    left_of_site: Sequence[Finding],
) -> None:
    """C50.b, C50.c: the one that names the cause; alone, each stays."""
    monkeypatch.setattr(native, "_SYSTEMCTL", str(tmp_path / "systemctl"))
    show(tmp_path, state)
    checked = host_site(tmp_path)
    answers = _Answers(cloudbdii=resource, sitebdii=[EMPTY, SILENT, FOREIGN])
    answers.services = ("cloudbdii", "sitebdii")
    checked.programs = answers  # type: ignore[assignment]
    assert list(registry._of_program("cloudbdii", checked)) == list(left_of_resource)
    assert list(registry._of_program("sitebdii", checked)) == list(left_of_site)
