"""Connections that cannot be, and those of a program that runs for longer than its certificate."""

import shutil
import ssl
from pathlib import Path

import pytest

from appliance.core.run.errors import LocalFailure, Unavailable
from appliance.core.trust.ca_directory import CADirectory
from ssm.settings import Broker, Link
from ssm.transport import request, stomp
from ssm.transport.brokers import brokers_of
from tests.simulators.stomp_faults import FaultBroker
from tests.testbed.trust import Trust


def install(source: Path, target: Path) -> Path:
    target.unlink(missing_ok=True)  # nobody may write to a key
    return Path(shutil.copy(source, target))


@pytest.mark.parametrize("host", ["msg..example.com", "x" * 70])
def test_a_name_that_no_host_can_have_is_a_host_out_of_reach(host: str) -> None:
    for connect in (
        lambda: stomp.STOMPConnection(Broker(host, 1), tls=None),
        lambda: request.KeptConnection(host, 1, tls=ssl.create_default_context()).open(),
    ):
        with pytest.raises(Unavailable) as caught:
            connect()
        assert str(caught.value) == f"{host}:1: the host's name is not known; check [broker] host"


def test_a_certificate_renewed_meanwhile_is_shown_to_the_broker(tmp_path: Path) -> None:
    trust = Trust(tmp_path / "trust")
    trust.publish()
    old, new = trust.host("old"), trust.host("new")
    certificate = install(old.certificate, tmp_path / "hostcert.pem")
    key = install(old.key, tmp_path / "hostkey.pem")
    with FaultBroker(trust.host("broker"), trust.grid.certificate) as broker:
        hosts = (Broker("localhost", broker.port),)
        link = Link(hosts, True, certificate, key, trust.ca_directory, "/queue/x")
        brokers = brokers_of(link, trust=CADirectory(trust.ca_directory))
        brokers.connect().close()
        install(new.certificate, certificate)
        install(new.key, key)
        brokers.connect().close()
        assert broker.clients == ["old.example.org", "new.example.org"]
        install(old.key, key)  # caught half-way through the next renewal
        with pytest.raises(LocalFailure, match="cannot be used for TLS"):
            brokers.connect()
