"""Calls whose message does not come: none of them keeps a thread of the backend for long."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from appliance.core.run.layout import Layout
from cloudkeeper.backend import server, settings
from cloudkeeper.backend.calls import Servicer
from cloudkeeper.backend.endpoint import Listening
from cloudkeeper.backend.ownership import Ownership
from cloudkeeper.backend.protocol import NumberedService, Numbering
from tests.e2e.images_backend import Client, short_directory
from tests.unit import backend_site
from tests.unit.backend_site import BackendSite

_SERVICE = "/cloudkeeper_grpc.Communicator"
_HEALTH = "/grpc.health.v1.Health/Check"
_THREADS = 2


@pytest.fixture
def site(tmp_path: Path) -> Iterator[BackendSite]:
    with backend_site.made(tmp_path) as made:
        yield made


@pytest.fixture
def channel(site: BackendSite, monkeypatch: pytest.MonkeyPatch) -> Iterator[grpc.Channel]:
    """Serve as the program does, with two threads."""
    monkeypatch.setattr(server, "_MESSAGE", timedelta(seconds=0.5))
    path = site.root / "cloudkeeper-os.conf"
    configured = settings.load(path, layout=Layout(site.root), overrides={})
    servicer = Servicer(configured, Ownership(configured.state))
    where = Path(short_directory()) / "s"
    with ThreadPoolExecutor(_THREADS) as pool:
        made = server._server(pool, Listening(where, None))
        NumberedService(servicer, Numbering.AUTO).add_to(made)
        server._add_health(made)
        made.add_insecure_port(f"unix://{where}")
        made.start()
        with grpc.insecure_channel(f"unix://{where}") as found:
            yield found
        made.stop(None).wait()
        servicer.close()


@contextlib.contextmanager
def silent(channel: grpc.Channel, method: str, number: int) -> Iterator[list[Any]]:
    """Open calls that send nothing until the end of the block."""
    ended = threading.Event()

    def nothing() -> Iterator[bytes]:
        ended.wait()
        yield from ()

    call: Any = channel.stream_stream(method)
    try:
        yield [call(nothing(), timeout=120) for _ in range(number)]
    finally:
        ended.set()


@pytest.mark.parametrize(
    "method", [f"{_SERVICE}/PreAction", f"{_SERVICE}/ImageLists", f"{_SERVICE}/Unknown", _HEALTH]
)
def test_calls_without_a_message_hold_nobody_back(channel: grpc.Channel, method: str) -> None:
    with silent(channel, method, _THREADS * 4) as calls:
        assert Client(channel).call("PreAction")[0] == "SUCCESS"
        assert Client(channel).lists() == set()
        assert Client(channel).call("PostAction")[0] == "SUCCESS"
        for call in calls:
            with pytest.raises(grpc.RpcError):
                list(call)


def test_a_call_that_ends_without_a_message_is_refused(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.stream_unary(f"{_SERVICE}/PreAction")(iter(()), timeout=120)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_the_health_is_answered_as_ever(channel: grpc.Channel) -> None:
    ask: Any = channel.unary_unary(_HEALTH)
    assert ask(b"", timeout=120) == b"\x08\x01"  # SERVING
