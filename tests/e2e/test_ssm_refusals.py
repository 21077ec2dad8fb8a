"""F-T4: over each protocol and in each envelope, forged, altered and foreign messages are refused.

`tests.interop.test_refusals` does the same for each form, kind of signature and digest.
"""

import base64
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from ssm import envelope
from ssm.settings import PROTOCOLS
from tests.e2e.ssm_site import TOPIC, Site
from tests.e2e.test_ssm_receive import broker_with, encrypted, signed, text
from tests.simulators.ams_service import AMS
from tests.testbed.trust import Trust


@contextmanager
def at_stomp(root: Path, trust: Trust, messages: Sequence[bytes]) -> Iterator[Site]:
    with broker_with(trust) as broker:
        broker.enqueue(messages)
        yield Site.create(root, trust, hosts=f"localhost:{broker.port}")
        assert broker.queue == []


@contextmanager
def at_ams(root: Path, trust: Trust, messages: Sequence[bytes]) -> Iterator[Site]:
    with AMS(trust.host("broker"), trust.grid.certificate, ()) as service:
        site = Site.at_ams(root, trust, service)
        service.enqueue(TOPIC, messages)
        yield site
        assert service.left(TOPIC) == 0


SERVICES = {"STOMP": at_stomp, "AMS": at_ams}


def forged(message: bytes) -> bytes:
    head, encoded = message.split(b"\n\nMI", 1)
    encoded, tail = encoded.split(b"\n\n", 1)
    structure = bytearray(base64.b64decode(b"MI" + encoded))
    structure[-1] ^= 1
    return head + b"\n\n" + base64.encodebytes(bytes(structure)) + b"\n" + tail


def with_another_cipher_text(message: bytes) -> bytes:
    head, encoded = message.split(b"\n\n", 1)
    structure = bytearray(base64.b64decode(encoded))
    structure[len(structure) * 2 // 3] ^= 1
    return head + b"\n\n" + base64.encodebytes(bytes(structure))


@pytest.fixture(scope="module")
def trusts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trust, Trust]:
    """The trust of the site, and that of another federation with the same names."""
    trust, rogue = (Trust(tmp_path_factory.mktemp(name)) for name in ("trust", "rogue"))
    trust.publish()
    return trust, rogue


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_altered_and_foreign_messages_are_refused(
    tmp_path: Path,
    trusts: tuple[Trust, Trust],
    protocol: str,
) -> None:
    trust, rogue = trusts
    genuine, foreign = signed(text(1), trust.host("sender")), signed(text(1), rogue.host("sender"))
    altered = genuine.replace(b"VMUUID: 1", b"VMUUID: 2")
    variants = [genuine, altered, forged(genuine), foreign]
    receiver = trust.host("receiver")
    ciphers = [
        [encrypted(one, receiver, cipher) for one in variants]
        for cipher in envelope.CIPHERS  # one of each a row
    ]
    broken = [with_another_cipher_text(sealed[0]) for sealed in ciphers]
    messages = [*variants, *(one for sealed in ciphers for one in sealed), *broken]
    service: AbstractContextManager[Site] = SERVICES[protocol](tmp_path / "site", trust, messages)
    with service as site:
        assert site.run("ssmreceive", "--count", str(len(messages))).returncode == 0
    good = 1 + len(ciphers)
    assert [element["body"] for element in site.elements()] == [text(1)] * good
    refused = [element["error"] for element in site.elements("reject")]
    assert len(refused) == len(messages) - good
    for errors in (refused[:3], refused[3:6], refused[6:9]):
        assert [error.split(":")[1].strip() for error in errors] == [
            "Possible tampering. See OpenSSL error",
            "Possible tampering. See OpenSSL error",
            "Unverified signer",
        ]
