"""A site's BDII that pulls from a resource's, both with slapd, as ldapsearch sees them."""

import json
import signal
import subprocess
from pathlib import Path

import pytest

from tests import run_records
from tests.e2e.bdii_service import SERVICE, Bdii, cloud, free_port, image, images, running

SITE_CFG = """\
SITE_NAME = TEST-SITE
SITE_DESC = A cloud, with commas
SITE_WEB = https://cloud.example.org
SITE_DISTRIBUTED = false
SITE_LOC = Exampleville
SITE_COUNTRY =  Spain
SITE_LAT = 43.462306
SITE_LONG = -3.80998
SITE_EMAIL = site-admin@example.org
SITE_SECURITY_EMAIL = site-sec@example.org
SITE_SUPPORT_EMAIL = site-support@example.org
OTHERINFO = GRID=EGI
OTHERINFO = TIER 2
"""
DOMAIN = "GLUE2DomainID=TEST-SITE,o=glue"


def site(directory: Path, urls: str, *, cfg: str = SITE_CFG, **keys: object) -> Bdii:
    directory.mkdir()
    (directory / "site.cfg").write_text(cfg)
    (directory / "defaults.conf").write_text(
        "SITE_NAME=TEST-SITE\nSITE_BDII_HOST=bdii.example.org\n"
    )
    (directory / "urls.conf").write_text(urls)
    return Bdii(
        directory,
        {
            "BDII_SITE_CFG": directory / "site.cfg",
            "BDII_SITE_DEFAULTS": directory / "defaults.conf",
            "BDII_SITE_URLS": directory / "urls.conf",
            "BDII_SITE_TIMEOUT": 5,
            **keys,
        },
    )


def resource(directory: Path) -> Bdii:
    directory.mkdir()
    return Bdii(directory)


def test_the_site_publishes_itself_and_what_it_pulls_with_images(tmp_path: Path) -> None:
    """R24, R29, R30: name, host and descriptions of the site are those of its files."""
    below = resource(tmp_path / "resource")
    below.provide(cloud(image(1, "ops"), image(2, "ops")))
    own = free_port()
    above = site(
        tmp_path / "site",
        "# two sources, the first is this BDII itself\n"
        f"BDII ldap://127.0.0.1:{own}/mds-vo-name=resource,o=grid\n"
        f"CLOUD ldap://127.0.0.1:{below.port}/GLUE2GroupID=cloud,o=glue\n",
        SLAPD_PORT=own,
    )
    above.port = own
    with running(below), running(above):
        below.wait_for_images(2)
        above.wait_for_images(2)
        above.wait_for_cycles(2)  # in which it also pulls from itself
        lower, found = below.entries(), above.entries()
        again = above.entries("o=glue", "entryCSN")
        above.wait_for_cycles(2)
        assert above.entries("o=glue", "entryCSN") == again
    pulled = {dn: entry for dn, entry in lower.items() if dn.endswith("GLUE2GroupID=cloud,o=glue")}
    for dn, entry in pulled.items():
        assert found[dn.replace("o=glue", DOMAIN)] == entry
    own_entries = found.keys() - {dn.replace("o=glue", DOMAIN) for dn in pulled}
    assert sorted(dn.split(",")[0] for dn in own_entries) == [
        "GLUE2ContactID=general.contact.TEST-SITE",
        "GLUE2ContactID=security.contact.TEST-SITE",
        "GLUE2ContactID=sysadmin.contact.TEST-SITE",
        "GLUE2ContactID=usersupport.contact.TEST-SITE",
        "GLUE2DomainID=TEST-SITE",
        f"GLUE2EndpointID=bdii.example.org:{own}_sitebdii_endpoint",
        "GLUE2GroupID=grid",
        "GLUE2GroupID=resource",
        "GLUE2GroupID=resource",
        "GLUE2LocationID=location.TEST-SITE",
        f"GLUE2PolicyID=bdii.example.org:{own}_sitebdii_endpoint_Policy",
        "GLUE2ServiceID=TEST-SITE_sitebdii",
        "o=glue",
    ]
    domain = found[DOMAIN]
    assert domain["GLUE2DomainDescription"] == ["A cloud, with commas"]
    assert sorted(domain["GLUE2EntityOtherInfo"]) == [
        "GRID=EGI",
        "ProfileName=EGI",
        "ProfileVersion=1.0",
        "TIER 2",
    ]
    location = found[f"GLUE2LocationID=location.TEST-SITE,{DOMAIN}"]
    assert location["GLUE2LocationLatitude"] == ["43.462306"]
    assert location["GLUE2LocationCountry"] == ["Spain"]
    assert found[f"GLUE2ContactID=sysadmin.contact.TEST-SITE,{DOMAIN}"]["GLUE2ContactDetail"] == [
        "mailto:site-admin@example.org"
    ]


def wait_for_a_cycle_by_itself(bdii: Bdii) -> None:
    """Wait for a whole cycle without a reload, which forgets all answers.

    `Bdii.wait_for_cycles` asks for a reload, which follows the end of a cycle that already runs.
    """
    before = bdii.cycles
    bdii.wait_for(lambda: bdii.cycles >= before + 2)


def test_a_site_reads_a_tree_again_when_its_version_has_changed(tmp_path: Path) -> None:
    """An entry that nobody has told the engine of shows which answers are whole."""
    (tmp_path / "resource").mkdir()
    below = Bdii(tmp_path / "resource", {"BDII_BREATHE_TIME": 60})
    below.provide(cloud(image(1, "ops")))
    urls = f"CLOUD ldap://127.0.0.1:{below.port}/GLUE2GroupID=cloud,o=glue\n"
    above = site(tmp_path / "site", urls)
    with running(below), running(above):
        below.wait_for_cycles(1)
        above.wait_for_images(1)
        wait_for_a_cycle_by_itself(above)
        added = image(7, "ops").rstrip("\n") + "\n"
        place = f"ldapi://{str(tmp_path / 'resource/run/ldapi').replace('/', '%2F')}"
        command = ["ldapadd", "-Q", "-Y", "EXTERNAL", "-H", place]
        subprocess.run(command, input=added, text=True, check=True, stdout=subprocess.DEVNULL)
        below.wait_for_images(2)
        wait_for_a_cycle_by_itself(above)
        assert len(images(above.entries())) == 1
        below.provide(cloud(image(1, "ops"), image(2, "ops")))
        below.wait_for_images(3)
        below.wait_for_cycles(1)
        wait_for_a_cycle_by_itself(above)
        assert len(images(above.entries())) == 3


def test_a_source_that_is_down_keeps_what_it_had_and_its_neighbour_goes_on(tmp_path: Path) -> None:
    """R24, D14: two resources in site-urls.conf."""
    below = resource(tmp_path / "resource")
    below.provide(cloud(image(1, "ops"), image(2, "ops")))
    other = resource(tmp_path / "other")
    group = "dn: GLUE2GroupID=storage,o=glue\nobjectClass: GLUE2Group\nGLUE2GroupID: storage\n\n"
    other.provide(group)
    above = site(
        tmp_path / "site",
        f"CLOUD ldap://127.0.0.1:{below.port}/GLUE2GroupID=cloud,o=glue\n"
        f"STORAGE ldap://127.0.0.1:{other.port}/GLUE2GroupID=storage,o=glue\n",
    )
    with running(other), running(above):
        with running(below):
            above.wait_for_images(2)
            good = above.entries()
        other.provide(
            group
            + group.replace("storage", "tape,GLUE2GroupID=storage", 1).replace(
                "storage\n", "tape\n"
            )
        )
        above.wait_for(
            lambda: f"GLUE2GroupID=tape,GLUE2GroupID=storage,{DOMAIN}" in above.entries()
        )
        above.wait_for(lambda: "CollectedAt" in str(images(above.entries())))
        bad = above.entries()
        assert good.keys() <= bad.keys()
        assert "site/CLOUD: failed with status 255" in above.log
        assert above.signal(signal.SIGKILL) == -signal.SIGKILL
        above.start()  # and the source is still down
        above.wait_for(lambda: above.entries() == bad)
        with running(below):
            above.wait_for(lambda: "CollectedAt" not in str(above.entries()), what="no stale entry")
            assert len(images(above.entries())) == 2


def test_a_wrong_line_of_site_urls_stops_no_other(tmp_path: Path) -> None:
    """F-H1: a typing error in one line kept the whole site from starting."""
    below = resource(tmp_path / "resource")
    below.provide(cloud(image(1, "ops")))
    good = f"CLOUD ldap://127.0.0.1:{below.port}/GLUE2GroupID=cloud,o=glue\n"
    above = site(
        tmp_path / "site",
        f"STORAGE ldap//storage:2170/o=glue\n{good}CLOUD ldap://other:2170/o=glue\n",
    )
    assert above.once("--check-config").returncode == 2
    with running(below), running(above):
        above.wait_for_images(1)
        above.wait_for_cycles(1)
    said = json.loads((tmp_path / "site/root/var/lib/fedcloud/runs/bdii-site.json").read_text())
    assert said["status"] == 1
    urls = tmp_path / "site/urls.conf"
    assert [line.partition(" '")[0] for line in said["failures"]] == [
        f"{urls}:1: STORAGE: not",
        f"{urls}:3: CLOUD: an earlier line has the same name; rename one of them; skipped",
    ]


def test_an_empty_source_is_distinguished_from_one_that_is_down(tmp_path: Path) -> None:
    # as with an openstack.rc that is not filled in: the site's log must point to the resource's
    below = resource(tmp_path / "resource")
    above = site(
        tmp_path / "site", f"CLOUD ldap://127.0.0.1:{below.port}/GLUE2GroupID=cloud,o=glue\n"
    )
    with running(below), running(above):
        words = (
            "site/CLOUD: failed with status 32: No such object (32): "
            f"ldap://127.0.0.1:{below.port} answers, but has no"
        )
        above.wait_for(lambda: words in above.log, what="the reason")


def test_a_site_may_leave_out_images(tmp_path: Path) -> None:
    below = resource(tmp_path / "resource")
    below.provide(cloud(image(1, "ops"), image(2, "ops")))
    urls = f"CLOUD ldap://127.0.0.1:{below.port}/GLUE2GroupID=cloud,o=glue\n"
    above = site(tmp_path / "site", urls, BDII_SITE_IMAGES="no")
    with running(below), running(above):
        below.wait_for_images(2)
        pulled = f"{SERVICE.removesuffix('o=glue')}{DOMAIN}"
        above.wait_for(lambda: pulled in above.entries(), what="the service")
        assert not images(above.entries())


def test_a_source_that_starts_later_is_not_left_out_for_a_whole_pause(tmp_path: Path) -> None:
    below = resource(tmp_path / "resource")
    below.provide(cloud(image(1, "ops"), image(2, "ops")))
    urls = f"CLOUD ldap://127.0.0.1:{below.port}/GLUE2GroupID=cloud,o=glue\n"
    above = site(tmp_path / "site", urls, BDII_BREATHE_TIME=600)
    with running(above):
        above.wait_for(lambda: "1 problems" in above.log, what="a cycle without the source")
        with running(below):
            above.wait_for_images(2)


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        (
            "defaults.conf",
            "SITE_NAME=SITE-NAME\nSITE_BDII_HOST=bdii.example.org\n",
            "defaults.conf:1: SITE_NAME: is still the placeholder",
        ),
        (
            "defaults.conf",
            "SITE_NAME=TEST-SITE\nSITE_BDII_HOST=bdii.example.com\n",
            "defaults.conf:2: SITE_BDII_HOST: is still the placeholder",
        ),
        (
            "defaults.conf",
            "SITE_NAME=$(hostname -d)\n",
            "defaults.conf:1: SITE_NAME: $(…) would be replaced by a shell",
        ),
        (
            "defaults.conf",
            "SITE_NAME=OTHER\nSITE_BDII_HOST=bdii.example.org\n",
            "site.cfg:1: SITE_NAME: 'TEST-SITE' here, 'OTHER' in",
        ),
        (
            "defaults.conf",
            "SITE_NAME='TEST SITE'\nSITE_BDII_HOST=bdii.example.org\n",
            "defaults.conf:1: SITE_NAME: 'TEST SITE' is not a site name of GOCDB",
        ),
        (
            "defaults.conf",
            "SITE_NAME=TEST-SITE\nSITE_BDII_HOST=ldap://b:2170\n",
            "defaults.conf:2: SITE_BDII_HOST: 'ldap://b:2170' is not a host name",
        ),
        (
            "bdii.conf",
            "BDII_HOSTNAME='a b'\n",
            "bdii.conf:1: BDII_HOSTNAME: 'a b' is not a host name",
        ),
        (
            "site.cfg",
            SITE_CFG.replace("TEST-SITE", "SITE-NAME"),
            "site.cfg:1: SITE_NAME: is still the placeholder 'SITE-NAME'",
        ),
        (
            "site.cfg",
            SITE_CFG.replace("43.46", "north 43"),
            "site.cfg:7: SITE_LAT: 'north 432306' is not allowed",
        ),
        (
            "site.cfg",
            SITE_CFG.replace("SITE_EMAIL = site-admin@example.org\n", ""),
            "site.cfg: SITE_EMAIL: must be set",
        ),
        (
            "site.cfg",
            SITE_CFG + "SITE_LOC = There\n",
            "site.cfg:14: SITE_LOC: is set a second time; first in line 5",
        ),
        (
            "urls.conf",
            "CLOUD ldap://cloud/o=glue\n",
            "urls.conf:1: CLOUD: not 'NAME ldap://host:port/base', the port included",
        ),
        (
            "urls.conf",
            "\nCLOUD ldap://cloud:2170/dc=org\n",
            "urls.conf:2: CLOUD: base 'dc=org' is neither below o=glue",
        ),
        (
            "urls.conf",
            "CLOUD ldap://cloud:99999/o=glue\n",
            "urls.conf:1: CLOUD: 99999 is no port; write a number from 1 to 65535",
        ),
        ("bdii.conf", "BDII_PORT=99999\n", "bdii.conf:1: BDII_PORT: '99999' is not allowed"),
    ],
)
def test_errors_are_reported_with_file_and_line(
    tmp_path: Path, name: str, content: str, line: str
) -> None:
    """R29, R30: placeholders and shell substitutions, too."""
    above = site(tmp_path / "site", "")
    path = tmp_path / "site" / name
    rest = path.read_text() if name == "bdii.conf" else ""
    path.write_text(content + rest.replace("BDII_PORT", "#"))
    for flags in (["--check-config"], ["--serve"]):
        done = above.once(*flags)
        assert done.returncode == 2
        assert line in done.stderr
        assert all(found.startswith("bdii-update: ") for found in done.stderr.splitlines())
        assert "Traceback" not in done.stderr


def test_a_site_without_a_source_has_a_warning(tmp_path: Path) -> None:
    above = site(tmp_path / "site", "# all sources are gone\n")
    once = above.once("--check-config")
    assert once.returncode == 0
    words = "urls.conf: names no BDII, so no cloud is published; write NAME ldap://HOST:PORT/BASE"
    assert words in once.stderr


def test_the_record_of_a_wrong_configuration_is_that_of_the_level(tmp_path: Path) -> None:
    """F-S2: the record of the last good cycle stayed in place."""
    for name, made in (
        ("site", site(tmp_path / "site", "")),
        ("resource", resource(tmp_path / "resource")),
    ):
        made.configuration.write_text(made.configuration.read_text() + "BDII_BREATHE_TIME=soon\n")
        assert made.once("--serve").returncode == 2
        said = run_records.read(made.directory / "root", f"bdii-{name}")
        assert said.status == 2
        assert "BDII_BREATHE_TIME" in said.failures[0]


def test_left_out_values_leave_no_empty_attribute(tmp_path: Path) -> None:
    """R30."""
    kept = ("SITE_NAME", "SITE_EMAIL", "SITE_SECURITY_EMAIL", "SITE_SUPPORT_EMAIL")
    cfg = (
        "".join(f"{line}\n" for line in SITE_CFG.splitlines() if line.split()[0] in kept)
        + "SITE_WEB =\n"
    )
    above = site(tmp_path / "site", "", cfg=cfg)
    with running(above):
        above.wait_for(lambda: f"GLUE2LocationID=location.TEST-SITE,{DOMAIN}" in above.entries())
        above.wait_for_cycles(1)
        assert above.statistics()["FailedAdds"] == 0
        assert len(above.entries()) == 13
        assert not {"GLUE2DomainDescription", "GLUE2DomainWWW"} & above.entries()[DOMAIN].keys()
