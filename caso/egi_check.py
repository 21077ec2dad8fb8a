"""What EGI sees of the site, with the account and the ledger of accounting: ``--as-egi``.

C71, C73   EGI's monitoring and users in the cloud, see `appliance.core.cloud.egi_view`
C75        months at the accounting portal
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from appliance.core import clock, hosts, web
from appliance.core.cloud import egi_view, faults
from appliance.core.cloud.entitlements import VOProject
from appliance.core.cloud.session import Cloud
from appliance.core.config.settings import note
from appliance.core.egi_flags import CLOUD, PORTAL, AsEgi
from appliance.core.run import place
from appliance.core.run.errors import ApplianceError, ConfigurationError, Unavailable
from appliance.core.run.finding import Finding
from appliance.core.web import WebAddress
from caso.commands.report import delivered
from caso.ledger.ledger import Ledger
from caso.ledger.model import Month, month_text
from caso.selection import Selected, select
from caso.settings import CasoConfiguration
from caso.usage import hours, portal, portal_months
from caso.usage.portal import Table
from caso.usage.portal_months import DeliveredServers

_ROW = "C75"
_TIMEOUT = timedelta(seconds=10)
_LARGEST = 16 * 2**20
_OK = 200
_REMEDY = "correct portal in the block egi of /etc/fedcloud/appliance.yaml"
_MONTHS = 12
"""Months before this one that are compared."""


def findings(configuration: CasoConfiguration, asked: AsEgi) -> Iterator[Finding]:
    """Yield what EGI sees amiss; a login that fails has been reported before."""
    access = faults.prompt(configuration.access)
    cloud = Cloud(access)
    try:
        selected, _ = select(cloud, configuration)
    except ApplianceError:
        selected = []
    projects = [VOProject(one.vo, one.project.id, _place(configuration, one)) for one in selected]
    egi_view.note_site(access.auth_url, access.places.get("auth_url", ""), projects)
    if CLOUD in asked.parts and selected:
        region = cloud.in_region(configuration.regions[0])
        yield from egi_view.findings(
            cloud, projects, lambda one: region.project(one.project_id), asked
        )
    if PORTAL in asked.parts and asked.portal:
        try:
            yield from _of_portal(configuration, asked.portal)
        except ApplianceError as error:
            text = " ".join(str(error).split())
            yield Finding("", 0, "", text, _ROW, is_error=False, tried=f"GET {asked.portal}")


def _place(configuration: CasoConfiguration, one: Selected) -> str:
    """Return where a project is listed; the files do not say it of a tagged one."""
    is_listed = {one.project.id, one.project.name} & set(configuration.projects)
    return configuration.projects_place if is_listed else ""


# --------------------------------------------------------------------------------------------------
# the portal


def _of_portal(configuration: CasoConfiguration, url: str) -> Iterator[Finding]:
    """Yield a finding for each VO and month of which the portal has another amount."""
    with Ledger(configuration.ledger, read_only=True) as ledger:
        known = ledger.deliveries.months()
        if not known:
            note(_ROW, "nothing was delivered by this ledger yet, so no month is compared")
            return
        ours = _months(ledger, configuration, known)
    try:
        table = portal.parse(Path(), _get(url), "wall_hours")
    except ConfigurationError as error:
        words = f"its answer is no table of months: {error.problems[0].text}"
        raise Unavailable(hosts.of_url(url), words, _REMEDY) from error
    this = f"{clock.now():%Y-%m}"
    first = max(min(month for _, month in table), month_text(known[-_MONTHS:][0]))
    wanted = {month_text(one) for one in known if first <= month_text(one) < this}
    worst: dict[tuple[str, str], dict[str, Any]] = {}
    for row in portal_months.rows(ours, table, wanted, portal_months.TOLERANCE):
        if not row["is_within"]:
            worst.setdefault((row["vo"], row["month"]), row)
    for row in worst.values():
        yield _finding(configuration, row, url)


def _months(ledger: Ledger, configuration: CasoConfiguration, known: Sequence[Month]) -> Table:
    spent = DeliveredServers()
    for one in hours.spent(delivered(ledger, configuration, known)):
        if one.kind == "cloud":
            spent.add(one)
    return spent.by_vo()


def _finding(configuration: CasoConfiguration, row: dict[str, Any], url: str) -> Finding:
    month = row["month"]
    is_less = row["portal"] < row["delivered"]
    if is_less:
        remedy = place.command("caso", "caso", "republish", "--month", month)
    else:
        remedy = place.command("caso", "caso", "reconcile", "--from", month, "--to", month)
    why = "send that month again" if is_less else "look who else sends it"
    text = f"{portal_months.text(row)}; {why}: {remedy}"
    return Finding(str(configuration.ledger), 0, row["vo"], text, _ROW, tried=f"GET {url}")


def _get(url: str) -> str:
    """Return the portal's table; raises `Unavailable` without one."""
    server = WebAddress(url, None, _TIMEOUT)
    answer = web.send(server, "GET", url, headers={"Accept": "*/*"}, content=None, largest=_LARGEST)
    if answer.status_code != _OK:
        words = f"answers {answer.status_code} to a request for the portal's months"
        raise Unavailable(hosts.of_url(url), words, _REMEDY)
    return answer.content.decode("utf-8", errors="replace")
