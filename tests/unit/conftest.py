"""Unit tests do without the CAs and the proxies of the system, which take time at each request."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import AUTHORITIES


@pytest.fixture(scope="module", autouse=True)
def _few_authorities_and_no_proxies(system_authority: Path) -> Iterator[None]:
    """Trust one CA, and exempt this host from proxies, once for all tests of a file.

    Without the exemption requests reads the whole environment twice at each request.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in AUTHORITIES:
            patch.setenv(name, str(system_authority))
        patch.setenv("no_proxy", "127.0.0.1,localhost")
        yield
