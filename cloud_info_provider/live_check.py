"""What the provider reads of the cloud, tried once for each VO: ``--check-live``.

The requests are those of a run, except that servers are not counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from appliance.core.cloud import faults, identity, offer
from appliance.core.cloud.hops import LoginFailure
from appliance.core.run.errors import ApplianceError
from appliance.core.run.finding import Finding, place
from cloud_info_provider import gather, glue_check, gocdb_check
from cloud_info_provider.account import LoginSettings
from cloud_info_provider.facts import Facts, Share
from cloud_info_provider.provider_account import ProviderAccount
from cloud_info_provider.settings import ProviderSettings, ShareSettings

_AT_ONCE = 8
_TRIED = "a token of the project, its flavors and images"


def findings(configuration: ProviderSettings) -> Iterator[Finding]:
    """Yield the faults of the account, of the project of each VO, and of the entry in GOCDB."""
    with ThreadPoolExecutor(1) as beside:
        registered = beside.submit(lambda: list(gocdb_check.findings(configuration)))
        yield from _of_cloud(configuration)
        yield from registered.result()


def _of_cloud(configuration: ProviderSettings) -> Iterator[Finding]:
    if configuration.offer:  # described in a file; no cloud is read
        facts = configuration.offer.facts
        yield from glue_check.findings(configuration, facts, configuration.shares)
        return
    login = _prompt(configuration.account)
    account = ProviderAccount(replace(configuration, account=login))
    try:
        shares = configuration.shares or (gather.own_share(account),)
        if not all(share.account for share in shares):
            cloud = account.cloud(login.access.region or "")
            cloud.unscoped  # noqa: B018  logs in, or raises
            identity.projects(cloud)  # which notes them for `appliance accounts`
    except ApplianceError as error:
        tried = "POST /v3/auth/tokens"
        yield faults.finding(error, login.access, tried=tried, otherwise="C30")
        return
    read: list[Share] = []
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for found in pool.map(lambda share: list(_share(account, share, read)), shares):
            yield from found
    if read:
        facts = Facts(tuple(read), {})
        yield from glue_check.findings(configuration, facts, shares)


def _prompt(login: LoginSettings) -> LoginSettings:
    return replace(login, access=faults.prompt(login.access))


def _share(account: ProviderAccount, share: ShareSettings, read: list[Share]) -> Iterator[Finding]:
    """Yield the faults of a VO; add what can be published of it to ``read``."""
    own = _prompt(share.account) if share.account else None
    tried = f"VO {share.vo}: {_TRIED}"
    try:
        yield from _offer(account, replace(share, account=own), read, tried)
    except ApplianceError as error:
        access = (own or account.configuration.account).access
        found = faults.finding(error, access, tried=tried, otherwise="C34")
        # A project that the account cannot use is in the line of the VO.
        is_of_vo = not isinstance(error, LoginFailure) and found.identifier.startswith("C31")
        yield _placed(found, share) if is_of_vo else found


def _offer(
    account: ProviderAccount, share: ShareSettings, read: list[Share], tried: str
) -> Iterator[Finding]:
    scope = account.scope(share)
    faults.note_scope(scope)
    service, endpoint = account.service(scope, share.region)
    flavors = list(offer.flavors(scope, service))
    if any("extra_specs" not in flavor for flavor in flavors):
        text = (
            f"Nova does not show the properties of flavors to the account {scope.access.account!r},"
            " so accelerators are not published; give it reader in the project, or allow"
            " os_compute_api:os-flavor-extra-specs:index in Nova's policy"
        )
        yield _warning(text, share, "C34.a", tried)
    images = list(offer.images(scope))
    if not images:
        text = (
            f"no image is visible in the project of the VO {share.vo}, so users find none; look at"
            " appliance run cloudkeeper -- plan and at its mapping, or at the catch-all's images"
        )
        yield _warning(text, share, "C34.b", tried)
    read.append(gather.described(account, share, scope, endpoint, flavors, images))


def _warning(text: str, share: ShareSettings, row: str, tried: str) -> Finding:
    return _placed(Finding("", 0, "", text, row, is_error=False, tried=tried), share)


def _placed(found: Finding, share: ShareSettings) -> Finding:
    path, line = place(share.place)
    return replace(found, path=path, line=line, option=share.vo) if path else found
