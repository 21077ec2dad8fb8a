"""What is wrong with a cloud's entries in GLUE 2.0: the text that ``--validate`` prints."""

from __future__ import annotations

import logging

from appliance.core import clock
from appliance.core.glue import profile, schema
from appliance.core.glue.findings import GlueFinding, errors, totals
from appliance.core.ldif import Entry
from appliance.core.run.errors import LocalFailure
from cloud_info_provider.formats import glue
from cloud_info_provider.formats.published_cloud import PublishedCloud, Rendering

logger = logging.getLogger(__name__)


def render(cloud: PublishedCloud) -> Rendering:
    """Return a line for each finding, and one with their numbers."""
    tree, problems = glue.entries(
        cloud.facts, cloud.site, shares=cloud.shares, auth_url=cloud.auth_url
    )
    found = _of_schema(tree) + profile.findings(tree, now=clock.now(), with_creation_times=False)
    lines = [*map(str, found), f"{len(tree)} entries: {totals(found)}"]
    return Rendering(
        "".join(f"{line}\n" for line in lines),
        len(tree),
        tuple(problems),
        has_errors=bool(errors(found)),
    )


def _of_schema(tree: list[Entry]) -> list[GlueFinding]:
    try:
        rules = schema.read(schema.FILE)
    except LocalFailure as error:  # a host without slapd needs no schema to print entries
        logger.warning("the LDAP schema is not checked: %s", error)
        return []
    return [found for entry in tree if (found := schema.finding(entry, rules)) is not None]
