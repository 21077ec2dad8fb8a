"""Configures a site of containers for a cloud, by the files that an administrator edits."""

from __future__ import annotations

from collections.abc import Mapping

from tests.e2e.container_site import ContainerSite
from tests.testbed import Testbed

SITE = "TEST-SITE"
_CASO = """\
[DEFAULT]
site_name = TEST-SITE
messengers = ssm
projects = vo-fedcloud
extractor = nova
extract_from = 2020-01-01
[keystone_auth]
auth_type = v3password
auth_url = {url}
username = {user}
password = {password}
user_domain_name = Default
"""


def name_site(site: ContainerSite) -> None:
    """Fill in what a site says of itself."""
    for name, pairs in {
        "etc/sitebdii/glite-info-site-defaults.conf": {
            "SITE-NAME": SITE,
            "bdii.example.com": "bdii.example.org",
        },
        "etc/sitebdii/site.cfg": {"SITE-NAME": SITE, "example.com": "example.org"},
        "etc/cloud-info-provider/openstack.yaml": {
            "SITE-NAME": SITE,
            "total_cores: 0": "total_cores: 100",
            "total_ram: 0": "total_ram: 400",
        },
    }.items():
        text = (site.root / name).read_text()
        for old, new in pairs.items():
            assert old in text, (name, old)
            text = text.replace(old, new)
        site.edit(name, text=text, mode=0o644)
    site.edit("etc/bdii/bdii.conf", append="BDII_BREATHE_TIME=2\n")
    site.edit("etc/sitebdii/bdii.conf", append="BDII_BREATHE_TIME=2\n")


def offer(
    site: ContainerSite, *, url: str, user: str, password: str, projects: Mapping[str, str]
) -> None:
    """Configure information system and backend for a cloud; ``projects`` are project ids by VO."""
    rc = {"AUTH_URL": url, "USERNAME": user, "PASSWORD": password, "USER_DOMAIN_ID": "default"}
    site.edit(
        "etc/cloud-info-provider/openstack.rc",
        text="".join(f"export OS_{name}={text}\n" for name, text in rc.items()),
    )
    path = "etc/cloud-info-provider/openstack.yaml"
    before, _, after = (site.root / path).read_text().partition("        vo.example.org:\n")
    after = after.partition("\n\n")[2]
    shares = "".join(
        f"        {vo}: {{auth: {{project_id: {project}}}}}\n" for vo, project in projects.items()
    )
    site.edit(path, text=f"{before}{shares}\n{after}", mode=0o644)
    account = {"username": user, "password": password, "user_domain_id": "default", "auth_url": url}
    path = "etc/cloudkeeper/cloudkeeper-os.conf"
    names = tuple(f"{name} = " for name in account)
    # An earlier test may have offered another cloud, and an option that stands there twice is
    # refused.
    kept = [
        line for line in (site.root / path).read_text().splitlines() if not line.startswith(names)
    ]
    lines = [*kept, *(f"{name} = {text}" for name, text in account.items()), ""]
    site.edit(path, text="\n".join(lines))
    mapping = ", ".join(
        f'"{vo}": {{"projects": ["{project}"]}}' for vo, project in projects.items()
    )
    site.edit("etc/voms.json", text=f"{{{mapping}}}\n")


def offer_test_bed(site: ContainerSite, testbed: Testbed) -> None:
    """Configure everything for the test bed's cloud, which listens on this machine only."""
    seed = testbed.seed()
    account = seed.accounts["information"]
    projects = {project.vo: project.id for project in seed.projects.values() if project.vo}
    site.set(FEDCLOUD_CA_BUNDLE=testbed.ca_file)
    offer(
        site,
        url=testbed.keystone_url,
        user=account.name,
        password=account.password,
        projects=projects,
    )


def account_for(site: ContainerSite, testbed: Testbed) -> None:
    """Let usage in one project of the test bed's cloud be extracted."""
    account = testbed.seed().accounts["accounting"]
    text = _CASO.format(url=testbed.keystone_url, user=account.name, password=account.password)
    site.edit("etc/caso/caso.conf", text=text)
    site.edit("etc/voms.json", text='{"fedcloud.egi.eu": {"projects": ["vo-fedcloud"]}}\n')
