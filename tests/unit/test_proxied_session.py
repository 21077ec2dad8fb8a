"""The proxies of the environment are looked up once for each host of a session."""

from __future__ import annotations

from typing import Any

import pytest

from appliance.core.proxied_session import ProxiedSession

PROXY = "http://proxy.example.org:3128"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


def settings(session: ProxiedSession, url: str, *, verify: object = None) -> dict[str, Any]:
    found: dict[str, Any] = session.merge_environment_settings(url, {}, True, verify, None)
    return found


def test_each_host_gets_the_proxy_that_the_environment_has_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As requests finds it: by the scheme, and not for the hosts of NO_PROXY."""
    monkeypatch.setenv("HTTPS_PROXY", PROXY)
    monkeypatch.setenv("NO_PROXY", "near.example.org")
    session = ProxiedSession()
    for _ in range(2):
        assert settings(session, "https://far.example.org/a")["proxies"]["https"] == PROXY
        assert "https" not in settings(session, "https://near.example.org/a")["proxies"]
        assert "http" not in settings(session, "http://far.example.org/a")["proxies"]


def test_the_environment_is_read_once_for_each_host(monkeypatch: pytest.MonkeyPatch) -> None:
    session = ProxiedSession()
    assert settings(session, "https://far.example.org/a")["proxies"] == {}
    monkeypatch.setenv("HTTPS_PROXY", PROXY)
    assert settings(session, "https://far.example.org/b?c=d")["proxies"] == {}
    assert settings(session, "https://far.example.org:444/a")["proxies"] == {"https": PROXY}


def test_what_a_request_changes_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxies of a request, its authorities, and a dictionary that its caller changes."""
    monkeypatch.setenv("HTTPS_PROXY", PROXY)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/environment.pem")
    session, url = ProxiedSession(), "https://far.example.org/a"
    settings(session, url)["proxies"]["https"] = "http://other.example.org:1"
    assert settings(session, url)["proxies"] == {"https": PROXY}
    own: dict[str, Any] = session.merge_environment_settings(
        url, {"https": "http://own.example.org:1"}, True, None, None
    )
    assert own["proxies"] == {"https": "http://own.example.org:1"}
    assert settings(session, url)["verify"] == "/environment.pem"
    assert settings(session, url, verify="/own.pem")["verify"] == "/own.pem"
    assert settings(session, url, verify=False)["verify"] is False
