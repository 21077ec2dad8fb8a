"""The site's own files for a VO: the tables of projects, and the catch-all's file."""

from __future__ import annotations

from dataclasses import replace

from appliance.admin.config.show import Reading
from appliance.admin.migrate.plan import Write
from appliance.admin.settings import Host
from appliance.admin.site_yaml import export, imports, schema, texts
from appliance.admin.vo.plan import NEW_PROJECT
from appliance.core.run.layout import Layout


def writes(vo: str, project: str, host: Host, layout: Layout) -> list[Write]:
    """Return the files that get the VO with its project, those that change.

    Raises:
        ConfigurationError: A file has a form into which nothing can be written.

    """
    present = imports.present(host, layout)
    wanted = {vo: project or NEW_PROJECT}
    return list(imports.writes(present, texts.with_vos(wanted, present, host.mounts)))


def described(
    vo: str, project: str, host: Host, layout: Layout, reading: Reading
) -> tuple[str, str, str]:
    """Return the site's name, and the catch-all's file before and after."""
    site = export.of_host(host, layout, reading)
    projects = {**site.projects, vo: project or NEW_PROJECT}
    return site.gocdb, schema.text(site), schema.text(replace(site, projects=projects))


def described_alone(vo: str, project: str, host: Host, layout: Layout, reading: Reading) -> str:
    """Return the catch-all's file with no other VO, for an import that adds this one only."""
    site = export.of_host(host, layout, reading)
    return schema.text(replace(site, projects={vo: project or NEW_PROJECT}))
