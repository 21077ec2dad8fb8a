"""Unit tests do without what takes time: the system's CAs and proxies, and a disk's file system."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import AUTHORITIES


@pytest.fixture(scope="module", autouse=True)
def _fast_environment(request: pytest.FixtureRequest, system_authority: Path) -> Iterator[None]:
    """Trust one CA, exempt this host from proxies, and use memory, once for all tests of a file.

    Without the exemption requests reads the whole environment twice at each request.
    """
    memory = request.config.getoption("memory", None)
    with pytest.MonkeyPatch.context() as patch:
        for name in AUTHORITIES:
            patch.setenv(name, str(system_authority))
        patch.setenv("no_proxy", "127.0.0.1,localhost")
        if memory:
            patch.setenv("TMPDIR", str(memory))
            patch.setattr(tempfile, "tempdir", str(memory))
        yield
