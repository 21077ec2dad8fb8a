"""The system's CAs of unit tests: one that signed nothing.

OpenSSL takes 20 ms to read the hundred and more that a system trusts, for each connection.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.testbed import Authority


@pytest.fixture(scope="session")
def system_authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the certificate of a CA that is the only one of the system."""
    directory = tmp_path_factory.mktemp("system")
    return Authority.create(directory / "authority", subject="/CN=System", key="ec").certificate


@pytest.fixture(autouse=True)
def _few_system_authorities(monkeypatch: pytest.MonkeyPatch, system_authority: Path) -> None:
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.setenv(name, str(system_authority))
