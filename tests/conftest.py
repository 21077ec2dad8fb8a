"""Fixtures of several kinds of tests: the test bed's cloud and broker, a throw-away authority."""

from __future__ import annotations

import fcntl
import gc
import logging
import os
import re
import shutil
import socketserver
import ssl
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from appliance.core import retry
from appliance.core.config import settings
from appliance.core.run import log
from tests import needs, warm
from tests.testbed import Authority, Testbed
from tests.testbed import pki as testbed_pki
from tests.testbed.broker import Broker

AUTHORITIES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
"""Variables that name the CAs which the system trusts."""

_TOP = Path(__file__).resolve().parents[1]
_KEYS = 16
"""RSA keys of all tests of a checkout; no test makes as many and compares them."""
_LONGEST_NAME = 26
"""Of a test, in the name of its directory; the path of a socket has at most 107 characters."""
_number = pytest.StashKey[int]()
_GLANCE_PORTS = 20
"""Distance of the ports of a second test bed, between those of the first."""


def pytest_configure() -> None:
    """Make few RSA keys, and collect no garbage while tests are collected."""
    testbed_pki.share_rsa_keys(_KEYS, _TOP / ".cache/tests/keys")
    socketserver.BaseServer.handle_error = _report_of_server  # type: ignore[method-assign]
    gc.disable()  # a third of the time of collecting tests, which leaves no garbage


def _report_of_server(
    self: socketserver.BaseServer, request: object, client_address: object
) -> None:
    """Print what failed in a test's server, unless its client went away, in another's output."""
    if not isinstance(sys.exception(), (ConnectionError, ssl.SSLError)):
        print(f"{type(self).__name__}: request of {client_address}", file=sys.stderr)
        traceback.print_exc()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Number the tests, and look for garbage again, but not among what stays to the end."""
    for number, item in enumerate(session.items):
        item.stash[_number] = number
    gc.freeze()
    gc.enable()


@pytest.fixture
def tmp_path(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """Yield a directory of this test's own, which stays if the test fails.

    The one of pytest also makes a link for each test, and removes everything at the end of a later
    run, in one process.
    """
    name = re.sub(r"\W", "_", request.node.name)[:_LONGEST_NAME]
    name = f"{name}{request.node.stash[_number]}"
    if place := needs.memory(request.node):
        path = place / name
        path.mkdir(0o700)
    else:
        path = tmp_path_factory.mktemp(name, numbered=False)
    failed = request.session.testsfailed
    yield path
    if request.session.testsfailed == failed:
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(autouse=True)
def _usual_process() -> Iterator[None]:
    """Undo what programs that run in this process change in it: umask, log, stop, what they read.

    One fixture for all of it, because each costs time at each of some thousand tests.
    """
    for remembered in (log._secrets, settings._observed, settings._shown):
        remembered.clear()
    mask, root = os.umask(0o022), logging.getLogger()
    before = root.level
    yield
    if root.level != before:  # setting it empties the caches of all loggers
        root.setLevel(before)
    log.check_only(is_on=False)
    vars(retry)["_interrupted"].clear()
    os.umask(mask)


@pytest.fixture(scope="session", autouse=True)
def _servers_of_programs() -> Iterator[None]:
    """End the servers from which tests start programs."""
    yield
    warm.end_all()


@pytest.fixture(scope="session")
def instance(request: pytest.FixtureRequest) -> Iterator[Testbed]:
    """Yield the test bed, started as far as other fixtures need it, and stop it afterwards.

    It is kept if it ran before, or with $FEDCLOUD_TESTBED_KEEP.
    """
    state = Path(os.environ.get("FEDCLOUD_TESTBED_STATE") or _TOP / ".cache/testbed/tests")
    ports = int(os.environ.get("FEDCLOUD_TESTBED_PORT_BASE") or 26000)
    if needs.is_beside_the_cloud(request.config):
        state, ports = state.with_name(f"{state.name}-glance"), ports + _GLANCE_PORTS
    testbed = Testbed(state, ports)
    state.parent.mkdir(parents=True, exist_ok=True)
    ours = state.with_name(f"{state.name}.started-by-tests")
    with state.with_name(f"{state.name}.users").open("w") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        if not testbed.running():
            ours.touch()
        yield testbed
        if ours.exists() and _is_last(users) and not os.environ.get("FEDCLOUD_TESTBED_KEEP"):
            testbed.down()
            ours.unlink()


def _is_last(users: TextIO) -> bool:
    """Check whether no other test session uses the instance."""
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@pytest.fixture(scope="session")
def testbed(instance: Testbed) -> Testbed:
    """Return the test bed with cloud and broker up, and seeded."""
    instance.up()
    instance.seed()
    return instance


@pytest.fixture(scope="session")
def broker(instance: Testbed) -> Broker:
    """Return the broker, up, with whatever messages earlier tests left."""
    instance.up(["broker"])
    return instance.broker


@pytest.fixture
def pki(tmp_path: Path) -> Authority:
    """Return a certificate authority of this test's own."""
    return Authority.create(tmp_path / "authority")


@pytest.fixture(scope="session")
def system_authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the certificate of a CA that is the only one of the system."""
    directory = tmp_path_factory.mktemp("system")
    return Authority.create(directory / "authority", subject="/CN=System", key="ec").certificate


@pytest.fixture
def few_system_authorities(monkeypatch: pytest.MonkeyPatch, system_authority: Path) -> None:
    """Let the system trust one CA, which signed nothing.

    OpenSSL takes 20 ms to read the hundred and more that a system trusts, for each connection.
    """
    for name in AUTHORITIES:
        monkeypatch.setenv(name, str(system_authority))
