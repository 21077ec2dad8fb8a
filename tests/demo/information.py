"""The information flow in three acts: the cloud as GLUE in two levels of BDII, and as JSON."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from tests.demo.report import Row
from tests.demo.site import PROGRAMS, Site
from tests.testbed import Seed, Testbed
from tests.testbed.patience import CEILING, Patience
from tests.testbed.seed import Project

_PATIENCE_SECONDS = 90.0
_CLASSES = {"images": "GLUE2ApplicationEnvironment", "flavors": "GLUE2ExecutionEnvironment"}
_JSON_CLASSES = {"images": "CloudComputingImage", "flavors": "CloudComputingInstanceType"}
_QUERIES = {
    "images": (
        "glance",
        """SELECT COUNT(*) FROM images WHERE status = 'active' AND deleted = 0
           AND (visibility = 'public' OR owner = :project
           OR id IN (SELECT image_id FROM image_members
                     WHERE member = :project AND status = 'accepted' AND deleted = 0))""",
    ),
    "flavors": (
        "nova_api",
        """SELECT COUNT(*) FROM flavors WHERE disabled = 0 AND (is_public = 1
           OR id IN (SELECT flavor_id FROM flavor_projects WHERE project_id = :project))""",
    ),
}
_RC = """\
export OS_AUTH_URL={auth_url}
export OS_USERNAME={account}
export OS_PASSWORD='{password}'
export OS_USER_DOMAIN_NAME=Default
export OS_PROJECT_NAME=vo-ops
export OS_CACERT={ca_file}
"""
_BDII = """\
SLAPD_HOST=127.0.0.1
BDII_PORT={port}
BDII_BREATHE_TIME=2
BDII_VAR_DIR={root}/var/lib/{level}
BDII_PROVIDER_DIR={root}/gip/provider
BDII_LDIF_DIR={root}/gip/ldif
"""
_SITE_BDII = """\
BDII_SITE_CFG={root}/etc/sitebdii/site.cfg
BDII_SITE_DEFAULTS={root}/etc/sitebdii/glite-info-site-defaults.conf
BDII_SITE_URLS={root}/etc/sitebdii/site-urls.conf
"""
_SITE_CFG = """\
SITE_NAME = DEMO-SITE
SITE_DESC = A cloud on loopback
SITE_WEB = https://cloud.example.org
SITE_LOC = Exampleville
SITE_COUNTRY = Spain
SITE_LAT = 43.46
SITE_LONG = -3.80
SITE_EMAIL = admin@example.org
SITE_SECURITY_EMAIL = security@example.org
SITE_SUPPORT_EMAIL = support@example.org
OTHERINFO = GRID=EGI
"""


@dataclass(slots=True)
class Stage:
    """A site with a provider and two BDIIs: site level on ``port``, resource level on the next."""

    testbed: Testbed
    seed: Seed
    site: Site
    port: int
    say: Callable[[str], None]

    @contextmanager
    def open(self) -> Iterator[None]:
        """Write the site's files and start both BDIIs; stop them at the end."""
        root = self.site.root
        self._write_account(self.seed.accounts["information"].password)
        shares = "".join(
            f"    {project.vo}:\n      auth: {{project_id: {project.id}}}\n"
            for project in self.seed.projects.values()
            if project.vo
        )
        totals = (
            "  total_cores: 1000\n  total_ram: 800\n  hypervisor: KVM\n  hypervisor_version: 8.0\n"
        )
        self.site.write(
            "etc/cloud-info-provider/openstack.yaml",
            f"site:\n  name: DEMO-SITE\ncompute:\n{totals}  shares:\n{shares}",
        )
        provider = f"exec {PROGRAMS}/cloud-info-provider-service --root {root} --all-images"
        self.site.write("gip/provider/cloud", f"#!/bin/sh\n{provider}\n", mode=0o755)
        (root / "gip/ldif").mkdir(parents=True)
        resource = _BDII.format(root=root, level="resource", port=self.port + 1)
        self.site.write("etc/bdii/resource.conf", resource)
        self.site.write(
            "etc/bdii/site.conf",
            _BDII.format(root=root, level="site", port=self.port) + _SITE_BDII.format(root=root),
        )
        self.site.write("etc/sitebdii/site.cfg", _SITE_CFG)
        self.site.write(
            "etc/sitebdii/glite-info-site-defaults.conf",
            "SITE_NAME=DEMO-SITE\nSITE_BDII_HOST=localhost\n",
        )
        self.site.write(
            "etc/sitebdii/site-urls.conf",
            f"CLOUD ldap://127.0.0.1:{self.port + 1}/GLUE2GroupID=cloud,o=glue\n",
        )
        started = [
            self.site.start("bdii-update", "-c", str(root / f"etc/bdii/{level}.conf"), "--serve")
            for level in ("resource", "site")
        ]
        try:
            yield
        finally:
            for process in started:
                process.terminate()
            for process in started:
                process.wait(timeout=CEILING)

    def undisturbed(self) -> list[Row]:
        """Wait for the first complete answer at site level and count what it says of each VO."""
        printed = subprocess.run(
            self.site.command("cloud-info-provider-service", "--all-images"),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        self._wait(
            lambda: len(self._published()) == self._all_entries(printed), "the tree at site level"
        )
        return self._rows("information, undisturbed", _entries(printed))

    def as_json(self) -> list[Row]:
        """Print the same cloud in the form that EGI reads, and count what it offers to each VO."""
        printed = subprocess.run(
            self.site.command(
                "cloud-info-provider-service",
                *("--all-images", "--format", "glue21json", "--gocdb-url", ""),
            ),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        document = json.loads(printed)
        shares = {share["ProjectID"]: share["ID"] for share in document["Share"]}
        self.say(f"  {len(printed)} bytes of JSON, {len(shares)} VOs")
        before = self._published()

        def offered(kind: str, project: str) -> int:
            objects = document[_JSON_CLASSES[kind]]
            return sum(shares[project] in each["Associations"]["Share"] for each in objects)

        return [
            Row(
                act="the same cloud as JSON",
                flow=f"{kind} for {project.vo}",
                done=str(_count(before, kind, str(project.vo))),
                delivered=str(offered(kind, project.id)),
                counted=str(self._counted(kind, project.id)),
                counted_by="the cloud's databases, in SQL",
            )
            for project in self._served()
            for kind in _CLASSES
        ]

    def provider_fails(self) -> list[Row]:
        """Give the provider a wrong password; what was published must stay, marked as old."""
        before = self._published()
        self._write_account("wrong")
        self._wait(
            lambda: any("Stale=TRUE" in entry for entry in self._published()),
            "marks on old entries",
        )
        act = "provider with a wrong password"
        rows = self._rows(act, before)
        images = [
            entry for entry in self._published() if f"objectClass: {_CLASSES['images']}" in entry
        ]
        marked = sum("Stale=TRUE" in entry for entry in images)
        self.say(f"  {marked} of {len(images)} images marked as old, none gone")
        rows.append(
            Row(
                act,
                "images marked as old",
                str(len(images)),
                str(marked),
                str(self._distinct_images()),
                "Glance's database",
            )
        )
        return rows

    def _rows(self, act: str, done: list[str]) -> list[Row]:
        published = self._published()
        return [
            Row(
                act=act,
                flow=f"{kind} for {project.vo}",
                done=str(_count(done, kind, str(project.vo))),
                delivered=str(_count(published, kind, str(project.vo))),
                counted=str(self._counted(kind, project.id)),
                counted_by="the cloud's databases, in SQL",
            )
            for project in self._served()
            for kind in _CLASSES
        ]

    def _served(self) -> list[Project]:
        """Return the projects of VOs, by name."""
        served = [project for project in self.seed.projects.values() if project.vo]
        return sorted(served, key=lambda project: project.name)

    def _write_account(self, password: str) -> None:
        text = _RC.format(
            auth_url=self.testbed.keystone_url,
            account=self.seed.accounts["information"].name,
            password=password,
            ca_file=self.testbed.ca_file,
        )
        self.site.write("etc/cloud-info-provider/openstack.rc", text, mode=0o600)

    def _published(self) -> list[str]:
        """Return the cloud's entries as ldapsearch finds them at site level."""
        base = "GLUE2GroupID=cloud,GLUE2DomainID=DEMO-SITE,o=glue"
        url = f"ldap://127.0.0.1:{self.port}"
        command = ["ldapsearch", "-x", "-LLL", "-o", "ldif-wrap=no", "-H", url, "-b", base]
        return _entries(subprocess.run(command, capture_output=True, text=True, check=False).stdout)

    def _all_entries(self, printed: str) -> int:
        """Count entries below the cloud's group, which is what the site level takes over."""
        return sum("GLUE2GroupID=cloud" in entry.splitlines()[0] for entry in _entries(printed))

    def _counted(self, kind: str, project: str) -> int:
        name, query = _QUERIES[kind]
        with closing(
            sqlite3.connect(f"file:{self.testbed.layout.database(name)}?mode=ro", uri=True)
        ) as database:
            return int(database.execute(query, {"project": project}).fetchone()[0])

    def _distinct_images(self) -> int:
        projects = [project.id for project in self.seed.projects.values() if project.vo]
        query = _QUERIES["images"][1].replace("COUNT(*)", "id")
        with closing(
            sqlite3.connect(f"file:{self.testbed.layout.database('glance')}?mode=ro", uri=True)
        ) as database:
            return len(
                {
                    row[0]
                    for project in projects
                    for row in database.execute(query, {"project": project})
                }
            )

    def _wait(self, is_true: Callable[[], bool], what: str) -> None:
        log = self.site.root / "var/log/bdii-update.out"
        # A cycle of the BDII writes to its log, be it good or bad.
        patience = Patience(
            lambda: log.stat().st_size if log.exists() else 0, idle=_PATIENCE_SECONDS
        )
        while not is_true():
            if patience.is_over():
                raise SystemExit(f"{what}: not {patience}; see {log}")
            time.sleep(0.2)


def _entries(text: str) -> list[str]:
    unfolded = text.replace("\n ", "")
    return [block.strip() for block in unfolded.split("\n\n") if "dn: " in block]


def _count(entries: list[str], kind: str, vo: str) -> int:
    wanted = {f"objectClass: {_CLASSES[kind]}", f"GLUE2EntityOtherInfo: VO={vo}"}
    return sum(wanted <= set(entry.splitlines()) for entry in entries)
