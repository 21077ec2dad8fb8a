"""Unit tests do without the CAs and the proxies of the system, which take time at each request."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _few_authorities(few_system_authorities: None) -> None:
    pass


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exempt this host from proxies: else requests reads the whole environment twice each time."""
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
