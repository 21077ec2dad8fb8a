"""One login a run; an error names the hop that failed (F-L1 to F-L5)."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from appliance.core import retry
from appliance.core.cloud import identity, transport
from appliance.core.cloud.hops import LoginDenied, LoginFailure
from appliance.core.cloud.login import Access
from appliance.core.cloud.session import Cloud
from appliance.core.cloud.vo import MappingEntry
from appliance.core.run.errors import AccessDenied, Unavailable
from cloud_info_provider.account import LoginSettings
from cloud_info_provider.provider_account import ProviderAccount
from cloudkeeper.backend import projects
from tests.simulators import issuer as issuers
from tests.simulators import openstack
from tests.simulators.issuer import DISCOVERY, TOKEN, Issuer
from tests.simulators.openstack import FEDERATION, Answer, Credential, Request

if TYPE_CHECKING:
    from cloud_info_provider.settings import ProviderSettings

PLACES = {
    name: f"/etc/caso/caso.conf:{number}"
    for number, name in enumerate(
        (
            *("auth_url", "discovery_endpoint", "access_token_endpoint", "client_id", "scope"),
            *("identity_provider", "protocol", "access_token_type", "application_credential_id"),
        ),
        start=1,
    )
}


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let attempts follow each other, unless a service says when it wants to be asked again."""
    monkeypatch.setattr(retry, "pauses", lambda **_: itertools.repeat(0.01))


@pytest.fixture(autouse=True)
def _logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)  # whatever a program that another test ran has configured


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with issuers.serving(Issuer()) as served:
        yield served


@pytest.fixture
def keystone(issuer: Issuer) -> Iterator[openstack.Cloud]:
    cloud = openstack.Cloud(projects=tuple(f"p{number}" for number in range(30)))
    cloud.access_tokens = issuer.tokens
    with openstack.serving(cloud) as served:
        yield served


def federated(issuer: Issuer, keystone: openstack.Cloud, **changes: str) -> Access:
    options = {
        "auth_url": f"{keystone.url}/v3",
        "identity_provider": "egi.eu",
        "protocol": "openid",
        "client_id": issuer.client_id,
        "client_secret": issuer.secret,
        "discovery_endpoint": issuer.discovery,
        **changes,
    }
    given = {name: value for name, value in options.items() if value}
    return Access("v3oidcclientcredentials", f"{keystone.url}/v3", given, places=PLACES)


def all_projects(cloud: Cloud, keystone: openstack.Cloud) -> list[str | None]:
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda name: cloud.project(name).project_id, keystone.projects))


def test_one_login_for_all_projects(issuer: Issuer, keystone: openstack.Cloud) -> None:
    """F-L1: one discovery, one access token, one federated token that each scope comes from."""
    cloud = Cloud(federated(issuer, keystone))
    assert all_projects(cloud, keystone) == list(keystone.projects)
    assert [project.id for project in identity.projects(cloud)] == sorted(keystone.projects)
    assert cloud.system is not None
    other = cloud.in_region("Other")
    assert other.access.region == "Other"
    assert all_projects(other, keystone) == list(keystone.projects)
    assert issuer.requests == {DISCOVERY: 1, TOKEN: 1}
    assert keystone.requests["POST /v3/OS-FEDERATION/identity_providers"] == 1
    assert keystone.requests["POST /v3/auth/tokens"] == len(keystone.projects) + 1


def test_all_programs_log_in_once(issuer: Issuer, keystone: openstack.Cloud) -> None:
    """F-L1: the information provider in each region, the images' backend for each VO."""
    access = federated(issuer, keystone)
    configuration = SimpleNamespace(account=LoginSettings(access))
    account = ProviderAccount(cast("ProviderSettings", configuration))
    for region in ("", "One", "Two"):
        with ThreadPoolExecutor(8) as pool:
            cloud = account.cloud(region)
            list(pool.map(lambda name, cloud=cloud: cloud.project(name), keystone.projects))
    assert issuer.requests == {DISCOVERY: 1, TOKEN: 1}
    assert account.requests == issuer.requests.total() + keystone.requests.total()
    wanted = {f"vo.{name}": MappingEntry(f"vo.{name}", name) for name in keystone.projects}
    assert len(projects.resolve(Cloud(access), wanted)) == len(wanted)
    assert issuer.requests == {DISCOVERY: 2, TOKEN: 2}  # another run


@pytest.mark.parametrize(
    "change", [{"certificate": ("/b.pem", "/b.key")}, {"interface": "internal"}]
)
def test_accounts_that_differ_beside_their_options_are_two(change: dict[str, Any]) -> None:
    """A VO may have the same options as another one, and a client certificate of its own."""
    access = Access("v3password", "https://k.example.org/v3", {}, certificate=("/a.pem", "/a.key"))
    configuration = SimpleNamespace(account=LoginSettings(access))
    account = ProviderAccount(cast("ProviderSettings", configuration))
    first = account.cloud("").transport
    assert account.cloud("", LoginSettings(replace(access))).transport is first
    assert account.cloud("", LoginSettings(replace(access, **change))).transport is not first


def test_a_dead_login_is_replaced_once(issuer: Issuer, keystone: openstack.Cloud) -> None:
    """F-L1: many threads that find the tokens dead make one login."""
    cloud = Cloud(federated(issuer, keystone))
    all_projects(cloud, keystone)
    keystone.revoke_all()

    def ask(name: str) -> str:
        found = cloud.project(name).keystone.users.get("someone")
        return str(found.name)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, keystone.projects)) == {"name of someone"}
    assert issuer.requests[TOKEN] == 2


def test_a_missing_role_is_no_reason_to_log_in_again(
    issuer: Issuer, keystone: openstack.Cloud
) -> None:
    """F-L1, F-L4: Keystone answers 401 to both; the remedy names the group."""
    keystone.closed = frozenset({"p3", "p4"})
    cloud = Cloud(federated(issuer, keystone))
    for name in ("p3", "p4"):
        with pytest.raises(AccessDenied) as caught:
            cloud.project(name)
        assert not isinstance(caught.value, LoginFailure)
        assert str(caught.value) == (
            f"project {name}: {keystone.url[7:]} gives the account 'accounting-client' no token for"
            f" it; openstack role add --group GROUP --project {name} reader, with the group "
            "that the"
            " mapping of egi.eu puts this account in"
        )
    assert issuer.requests[TOKEN] == 1


def test_a_busy_issuer_makes_all_wait_once(
    issuer: Issuer, keystone: openstack.Cloud, caplog: pytest.LogCaptureFixture
) -> None:
    """F-L2: one wait, one line."""
    left = [1]

    def fault(path: str) -> Answer | None:
        if path == TOKEN and left[0]:
            left[0] -= 1
            return Answer(429, {}, {"Retry-After": "1"})
        return None

    issuer.fault = fault
    cloud = Cloud(federated(issuer, keystone))
    assert all_projects(cloud, keystone) == list(keystone.projects)
    assert issuer.requests[TOKEN] == 2
    [line] = [line for line in caplog.messages if "429" in line]
    assert line == f"{issuer.url[7:]} answers 429 Too Many Requests; trying again in 1.0 s"


def test_an_issuer_that_limits_tokens(issuer: Issuer, keystone: openstack.Cloud) -> None:
    """F-L2: 10 tokens were too few for 30 projects; one is enough."""
    issuer.allowed = 1
    cloud = Cloud(federated(issuer, keystone))
    assert all_projects(cloud, keystone) == list(keystone.projects)
    assert issuer.requests[TOKEN] == 1


def test_a_keystone_that_is_busy_for_all(
    issuer: Issuer, keystone: openstack.Cloud, caplog: pytest.LogCaptureFixture
) -> None:
    """F-L2, its kind: threads wait together for whatever says Retry-After."""
    until = [0.0]
    lock = threading.Lock()

    def fault(request: Request) -> Answer | None:
        with lock:
            if request.path != "/v3/auth/tokens":
                return None
            now = datetime.now(UTC).timestamp()
            until[0] = until[0] or now + 0.9
            return Answer(429, {}, {"Retry-After": "1"}) if now < until[0] else None

    keystone.fault = fault
    cloud = Cloud(federated(issuer, keystone))
    assert all_projects(cloud, keystone) == list(keystone.projects)
    assert len([line for line in caplog.messages if "429" in line]) == 1
    assert keystone.requests["POST /v3/auth/tokens"] <= len(keystone.projects) + 8


def test_a_failed_login_is_shared(issuer: Issuer, keystone: openstack.Cloud) -> None:
    """F-L2: whoever waits for the login gets its failure; the issuer is asked once."""
    issuer.fault = lambda path: Answer(400, {"error": "invalid_scope"}) if path == TOKEN else None
    cloud = Cloud(federated(issuer, keystone))

    def failure(name: str) -> str:
        with pytest.raises(LoginFailure) as caught:
            cloud.project(name)
        return str(caught.value)

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(failure, keystone.projects))) == 1
    assert issuer.requests[TOKEN] == 1


Fault = Callable[[Issuer, openstack.Cloud], object]


def at_issuer(path: str, answer: Answer) -> Fault:
    def spoil(issuer: Issuer, _: openstack.Cloud) -> None:
        issuer.fault = lambda asked: answer if asked == path else None

    return spoil


def at_federation(answer: Answer) -> Fault:
    def spoil(_: Issuer, keystone: openstack.Cloud) -> None:
        keystone.fault = lambda request: answer if request.path == FEDERATION else None

    return spoil


KEYSTONE_401 = Answer(401, {"error": {"code": 401, "message": "Authentication", "title": "x"}})
LOGIN_PAGE = Answer(302, "", {"Location": "https://login.example.org/authorize?state=s3cret"})
CHANGED: dict[str, tuple[dict[str, str], str, str, str]] = {
    "identity_provider": (
        {"identity_provider": "egi"},
        "keystone",
        "Keystone's federation knows no identity provider 'egi' with protocol 'openid'",
        "correct identity_provider (/etc/caso/caso.conf:6) and protocol (/etc/caso/caso.conf:7)",
    ),
    "client_secret": (
        {"client_secret": "another"},
        "issuer",
        "refuses the client 'accounting-client': it answers 401, invalid_client: Bad credentials",
        "correct client_id (/etc/caso/caso.conf:4) and client_secret",
    ),
    "discovery_endpoint": (
        {"discovery_endpoint": "{issuer}/nothing"},
        "issuer",
        "the issuer of access tokens answers 404 where its discovery document should be",
        "correct discovery_endpoint (/etc/caso/caso.conf:2): the issuer's URL and /.well-known/",
    ),
    "access_token_endpoint": (
        {"access_token_endpoint": "{issuer}/nothing", "discovery_endpoint": ""},
        "issuer",
        "the issuer of access tokens answers 404 to a request for an access token",
        "correct access_token_endpoint (/etc/caso/caso.conf:3)",
    ),
    "no issuer": (
        {"discovery_endpoint": "http://127.0.0.1:9/x"},
        "127.0.0.1:9",
        "the issuer of access tokens: cannot be reached: connection refused",
        "check discovery_endpoint (/etc/caso/caso.conf:2), the network and the service",
    ),
}
SPOILED: dict[str, tuple[Fault, str, str, str]] = {
    "issuer 400": (
        at_issuer(TOKEN, Answer(400, {"error": "invalid_scope", "error_description": "egi"})),
        *("issuer", "it answers 400, invalid_scope: egi", "correct scope (/etc/caso/caso.conf:5)"),
    ),
    "issuer 400, grant": (
        at_issuer(TOKEN, Answer(400, {"error": "unauthorized_client"})),
        *("issuer", "it answers 400, unauthorized_client", "log in by clientcredentials"),
    ),
    "issuer 404": (
        at_issuer(TOKEN, Answer(404, "<html>")),
        *("issuer", "answers 404 to a request for an access token", "discovery_endpoint (/etc"),
    ),
    "issuer 503": (
        at_issuer(TOKEN, Answer(503, "<html>")),
        *("issuer", "still answers 503 Service Unavailable", "ask its operators if it lasts"),
    ),
    "issuer redirects": (
        at_issuer(TOKEN, LOGIN_PAGE),
        *("issuer", "redirects a request for an access token to login.example.org", "correct the"),
    ),
    "only an id_token": (
        at_issuer(TOKEN, Answer(body={"id_token": "x"})),
        *("issuer", "gives no access_token, only id_token", "access_token_type (/etc/caso/caso"),
    ),
    "a page for a token": (
        at_issuer(TOKEN, Answer(body="<html>")),
        *("issuer", "answers with something else than a token", "discovery_endpoint (/etc"),
    ),
    "a page for the document": (
        at_issuer(DISCOVERY, Answer(body="<html>")),
        *("issuer", "answers with something else than a discovery document", "correct discovery_"),
    ),
    "a list for the document": (
        at_issuer(DISCOVERY, Answer(body=["x"])),
        *("issuer", "answers with something else than a discovery document", "correct discovery_"),
    ),
    "no endpoint": (
        at_issuer(DISCOVERY, Answer(body={"issuer": "x"})),
        *("issuer", "names no token endpoint in its discovery document", "correct discovery_"),
    ),
    "grants": (
        at_issuer(DISCOVERY, Answer(body={"grant_types_supported": ["implicit"]})),
        *("issuer", "does not offer logins by clientcredentials", "choose another auth_type"),
    ),
    "dead access token": (
        lambda _, keystone: setattr(keystone, "access_tokens", set()),
        *("keystone", "federation does not accept the access token", "web server accept tokens"),
    ),
    "missing mapping": (
        at_federation(KEYSTONE_401),
        *(
            "keystone",
            "the mapping of the identity provider 'egi.eu' matches no claim",
            "add a rule",
        ),
    ),
    "foreign issuer": (
        at_federation(Answer(403, {"error": {"code": 403}})),
        *("keystone", "does not accept this issuer for the identity provider", "--remote-id"),
    ),
    "login page": (
        at_federation(LOGIN_PAGE),
        *("keystone", "redirects to login.example.org instead of", "mod_auth_openidc: AuthType"),
    ),
    "login page at once": (
        at_federation(Answer(body="<html>")),
        *("keystone", "answers with a page instead of accepting the access token", "a person at a"),
    ),
    "federation 400": (
        at_federation(Answer(400, {})),
        *("keystone", "federation answers 400 to an access token", "check the logs of Keystone"),
    ),
}


def failure_of(access: Access) -> LoginFailure:
    with pytest.raises(LoginFailure) as caught:
        assert Cloud(access).unscoped
    return caught.value


def check(error: LoginFailure, host: str, issuer: Issuer, keystone: openstack.Cloud) -> str:
    """Check what all such lines have in common, and return the line."""
    hosts = {"issuer": issuer.url[7:], "keystone": keystone.url[7:]}
    assert error.subject == hosts.get(host, host)
    line = str(error)
    assert "\n" not in line
    assert issuer.secret not in line
    assert "s3cret" not in line
    assert "role add --user" not in line
    return line


@pytest.mark.parametrize("name", CHANGED)
@pytest.mark.usefixtures("_quick")
def test_an_option_that_is_wrong(name: str, issuer: Issuer, keystone: openstack.Cloud) -> None:
    """F-L3: the hop, its host, the option with file and line, and a remedy for that hop."""
    changes, host, cause, remedy = CHANGED[name]
    changes = {option: value.format(issuer=issuer.url) for option, value in changes.items()}
    error = failure_of(federated(issuer, keystone, **changes))
    line = check(error, host, issuer, keystone)
    assert cause in line
    assert remedy in line


@pytest.mark.parametrize("name", SPOILED)
@pytest.mark.usefixtures("_quick")
def test_a_hop_that_fails(name: str, issuer: Issuer, keystone: openstack.Cloud) -> None:
    """F-L3: the issuer, the federation and Keystone fail in ways of their own."""
    spoil, host, cause, remedy = SPOILED[name]
    spoil(issuer, keystone)
    error = failure_of(federated(issuer, keystone))
    line = check(error, host, issuer, keystone)
    assert cause in line
    assert remedy in line


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_ATTEMPTS", 1)


def test_no_redirection_gets_the_access_token(issuer: Issuer, keystone: openstack.Cloud) -> None:
    """F-L3: a redirection to another host would have taken the bearer token along."""
    with issuers.serving(Issuer()) as thief:
        away = Answer(307, "", {"Location": f"{thief.url}/x"})
        at_federation(away)(issuer, keystone)
        failure_of(federated(issuer, keystone))
        at_issuer(TOKEN, away)(issuer, keystone)
        failure_of(federated(issuer, keystone))
    assert thief.requests == {}


def credential(keystone: openstack.Cloud, number: str = "abc", **more: Any) -> Access:
    options = {"auth_url": f"{keystone.url}/v3", "application_credential_id": number}
    options["application_credential_secret"] = "s"
    return Access("v3applicationcredential", f"{keystone.url}/v3", options, places=PLACES, **more)


RENEWAL = (
    "make a new one as its user: openstack application credential create --role reader NAME; write"
    " its id and secret in place of application_credential_id (/etc/caso/caso.conf:9)"
)


def test_an_application_credential_that_was_deleted(keystone: openstack.Cloud) -> None:
    """F-L4: Keystone answers 404, and its URL is right."""
    error = failure_of(credential(keystone))
    assert isinstance(error, LoginDenied)
    assert error.cause == "knows no application credential 'abc': it or its user was deleted"
    assert error.remedy == RENEWAL


def test_an_application_credential_that_has_expired(keystone: openstack.Cloud) -> None:
    """F-L4: Keystone answers 401, as to a wrong secret."""
    keystone.credentials["abc"] = Credential("p1", "s", datetime.now(UTC) - timedelta(1))
    error = failure_of(credential(keystone))
    assert error.cause == (
        "refuses the application credential 'abc': it has expired or its secret is wrong"
    )
    assert error.remedy == RENEWAL


def test_a_keystone_that_is_elsewhere_is_no_deleted_credential(keystone: openstack.Cloud) -> None:
    """F-L4: a 404 that is not Keystone's own is about the URL."""
    keystone.fault = lambda _: Answer(404, "<html>")
    error = failure_of(credential(keystone))
    assert str(error).endswith("check auth_url (/etc/caso/caso.conf:1); it ends in /v3")


@pytest.mark.parametrize(("days", "is_reported"), [(3, True), (40, False), (None, False)])
def test_an_application_credential_that_ends_soon(
    keystone: openstack.Cloud,
    days: int | None,
    is_reported: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """F-L4: a warning before its end, once."""
    ends = datetime.now(UTC) + timedelta(days) if days else None
    keystone.credentials["abc"] = Credential("p1", "s", ends)
    cloud = Cloud(credential(keystone))
    assert cloud.project("p1").project_id == cloud.unscoped.project_id == "p1"
    assert cloud.transport.credential_ends == ends
    reported = [line for line in caplog.messages if "ends on" in line]
    assert len(reported) == is_reported
    if ends is not None and is_reported:
        name = f"{keystone.url[7:]}: the application credential 'abc'"
        assert reported == [f"{name} ends on {ends:%Y-%m-%d %H:%MZ}; {RENEWAL}"]


def test_an_end_that_keystone_does_not_tell(
    keystone: openstack.Cloud, caplog: pytest.LogCaptureFixture
) -> None:
    """F-L4: a policy that forbids the question costs nothing."""
    keystone.credentials["abc"] = Credential("p1", "s")
    refusal = Answer(403, {"error": {"code": 403}})
    keystone.fault = lambda request: refusal if "application_cred" in request.path else None
    assert Cloud(credential(keystone)).project("p1").project_id == "p1"
    assert [line for line in caplog.messages if "application" in line] == []


def test_tokens_that_live_shortly(
    issuer: Issuer, keystone: openstack.Cloud, caplog: pytest.LogCaptureFixture
) -> None:
    """F-L5: 20 s took 65 logins for 25 questions, without a word."""
    keystone.token_life = timedelta(seconds=20)
    cloud = Cloud(federated(issuer, keystone))
    scope = cloud.project("p1")
    for _ in range(25):
        scope.keystone.users.get("someone")
    assert issuer.requests == {DISCOVERY: 1, TOKEN: 1}
    assert keystone.requests["POST /v3/auth/tokens"] == 1
    [line] = [line for line in caplog.messages if "20 s" in line]
    assert "the account logs in again and again" in line


def test_tokens_that_live_too_shortly(issuer: Issuer, keystone: openstack.Cloud) -> None:
    """F-L5: a token that ends within a page of a listing is refused."""
    keystone.token_life = timedelta(seconds=5)
    error = failure_of(federated(issuer, keystone))
    assert "gives tokens that live 5 s, too short for one page of a listing" in str(error)
    with pytest.raises(LoginFailure, match="gives tokens that live 5 s"):
        Cloud(with_password(keystone)).project("p1")


@pytest.mark.parametrize("offset", [timedelta(hours=-2), timedelta(hours=2)])
def test_clocks_that_differ_cost_no_login(
    issuer: Issuer, keystone: openstack.Cloud, offset: timedelta
) -> None:
    """F-L5, its kind: a token is no shorter for a host whose clock is fast."""
    keystone.token_life = timedelta(hours=1)
    keystone.clock_offset = offset
    cloud = Cloud(federated(issuer, keystone))
    scope = cloud.project("p1")
    for _ in range(5):
        scope.keystone.users.get("someone")
    assert issuer.requests[TOKEN] == 1


def with_password(keystone: openstack.Cloud, auth_type: str = "v3password") -> Access:
    url = f"{keystone.url}/v3"
    options = {"username": "u", "password": "p", "user_domain_id": "default", "auth_url": url}
    return Access(auth_type, url, options)


def test_a_wrong_password_is_tried_twice(keystone: openstack.Cloud) -> None:
    """F-L1, its kind: it looked like a missing role in each project, and locked accounts."""
    refused = Answer(401, {"error": {"code": 401}})
    keystone.fault = lambda request: refused if request.method == "POST" else None
    cloud = Cloud(with_password(keystone))
    for name in keystone.projects:
        with pytest.raises(LoginDenied, match="wrong name, domain or password"):
            cloud.project(name)
    assert keystone.requests["POST /v3/auth/tokens"] == 2  # to the first scope, and to none


@pytest.mark.parametrize("lists_projects", [True, False])
@pytest.mark.parametrize("is_allowed", [True, False])
def test_a_password_is_checked_once(
    keystone: openstack.Cloud,
    is_allowed: bool,
    lists_projects: bool,
) -> None:
    """F-L1, its kind: a password costs Keystone 0.3 s, unless it does not rescope."""
    passwords: list[object] = []

    def fault(request: Request) -> Answer | None:
        if request.method == "POST":
            auth = request.body["auth"]
            passwords.extend(
                auth.get("scope") for method in auth["identity"]["methods"] if method == "password"
            )
            if not is_allowed and auth["identity"]["methods"] == ["token"]:
                return Answer(403, {"error": {"code": 403}})
        return None

    keystone.fault = fault
    cloud = Cloud(with_password(keystone))
    if lists_projects:
        assert cloud.unscoped
    assert all_projects(cloud, keystone) == list(keystone.projects)
    assert (passwords[0] == "unscoped") is lists_projects
    others = len(keystone.projects) if lists_projects else len(keystone.projects) - 1
    assert len(passwords) == (1 if is_allowed else 1 + others)
    if is_allowed and not lists_projects:  # not one request more than with a password for each
        assert keystone.requests["POST /v3/auth/tokens"] == len(keystone.projects)


def test_an_outage_is_met_once(keystone: openstack.Cloud) -> None:
    """F-I6: each of many threads waited for it and reported it, one after the other."""
    busy = Answer(503, {"error": {"code": 503}})
    keystone.fault = lambda request: busy if request.method == "POST" else None
    cloud = Cloud(with_password(keystone))

    def refused(name: str) -> str:
        with pytest.raises(Unavailable) as raised:
            cloud.project(name)
        return str(raised.value)

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(refused, keystone.projects))) == 1
    assert keystone.requests["POST /v3/auth/tokens"] == 4


def test_lines_are_for_administrators(issuer: Issuer, keystone: openstack.Cloud) -> None:
    """F-L4: what an account may be granted depends on what it is."""
    assert "--user" not in federated(issuer, keystone).grant("--system all")
    bound = credential(keystone)
    assert "no role on the system" in bound.grant("--system all")
    assert bound.grant("--project p", "member").startswith("give its user the role (openstack role")


@pytest.mark.usefixtures("_quick")
def test_a_keystone_that_fails_at_a_federated_system_scope(
    issuer: Issuer, keystone: openstack.Cloud
) -> None:
    """F-L1, its kind: Keystone 30 answers 500 there; the projects can be accounted all the same."""
    keystone.fault = lambda request: (
        Answer(500, "<html>") if "system" in request.body.get("auth", {}).get("scope", {}) else None
    )
    cloud = Cloud(federated(issuer, keystone))
    assert cloud.system is None
    assert cloud.project("p1").project_id == "p1"
