"""What EGI sees of the site, with the provider's accounts: ``--as-egi``.

C71, C73   EGI's monitoring and users in the cloud, see `appliance.core.cloud.egi_view`
C74        the role of EGI's auditor
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from appliance.core.cloud import egi_view, faults
from appliance.core.cloud.entitlements import VOProject
from appliance.core.cloud.session import Scope
from appliance.core.config.settings import note
from appliance.core.egi_flags import AUDITOR, CLOUD, AsEgi
from appliance.core.run.errors import ApplianceError
from appliance.core.run.finding import Finding
from cloud_info_provider import auditor
from cloud_info_provider.provider_account import ProviderAccount
from cloud_info_provider.settings import ProviderSettings

_ROW = "C74"


def findings(configuration: ProviderSettings, asked: AsEgi) -> Iterator[Finding]:
    """Yield what EGI sees amiss; a login that fails has been reported before."""
    shares = {(one.vo, one.project_id): one for one in configuration.shares}
    projects = [VOProject(one.vo, one.project_id, one.place) for one in shares.values()]
    places = configuration.access.places
    egi_view.note_site(configuration.endpoint, places.get("auth_url", ""), projects)
    if CLOUD in asked.parts and not configuration.offer:
        login = replace(configuration.account, access=faults.prompt(configuration.access))
        account = ProviderAccount(replace(configuration, account=login))

        def scope(one: VOProject) -> Scope:
            return account.scope(shares[one.vo, one.project_id])

        try:
            cloud = account.cloud(login.access.region or "")
            yield from egi_view.findings(cloud, projects, scope, asked)
        except ApplianceError:
            return
    if AUDITOR in asked.parts:
        yield from _of_auditor(configuration)


def _of_auditor(configuration: ProviderSettings) -> Iterator[Finding]:
    if configuration.auditor is None:
        text = (
            "no account of EGI's auditor is known here, so its role was not looked at; name its"
            " cloud of clouds.yaml as auditor in the block egi of /etc/fedcloud/appliance.yaml"
        )
        note(_ROW, text)
        return
    access = faults.prompt(configuration.auditor.access)
    has_role = auditor.has_role(replace(configuration.auditor, access=access))
    if has_role is None:
        note(_ROW, "the role of EGI's auditor could not be looked at: its account cannot log in")
    elif not has_role:
        text = (
            f"the account {access.account!r} of EGI's auditor may not list users, so EGI cannot"
            f" look into incidents; {access.grant('--system all')}"
        )
        yield Finding("", 0, "", text, _ROW, is_error=False, tried="GET /v3/users as the auditor")
