"""Connections of a program that runs for longer than its certificate."""

import shutil
from pathlib import Path

import pytest

from appliance.core.run.errors import LocalFailure
from appliance.core.trust.ca_directory import CADirectory
from ssm.cmds import common
from ssm.settings import Broker, Link
from tests.simulators.stomp_faults import FaultBroker
from tests.testbed.trust import Trust


def install(source: Path, target: Path) -> Path:
    target.unlink(missing_ok=True)  # nobody may write to a key
    return Path(shutil.copy(source, target))


def test_a_certificate_renewed_meanwhile_is_shown_to_the_broker(tmp_path: Path) -> None:
    trust = Trust(tmp_path / "trust")
    trust.publish()
    old, new = trust.host("old"), trust.host("new")
    certificate = install(old.certificate, tmp_path / "hostcert.pem")
    key = install(old.key, tmp_path / "hostkey.pem")
    with FaultBroker(trust.host("broker"), trust.grid.certificate) as broker:
        hosts = (Broker("localhost", broker.port),)
        link = Link(hosts, True, certificate, key, trust.ca_directory, "/queue/x")
        brokers = common.brokers(link, trust=CADirectory(trust.ca_directory))
        brokers.connect().close()
        install(new.certificate, certificate)
        install(new.key, key)
        brokers.connect().close()
        assert broker.clients == ["old.example.org", "new.example.org"]
        install(old.key, key)  # caught half-way through the next renewal
        with pytest.raises(LocalFailure, match="cannot be used for TLS"):
            brokers.connect()
