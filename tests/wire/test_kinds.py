"""Messages byte for byte. `tests/interop/test_kinds_peer.py` compares cASO's own text."""

from pathlib import Path
from typing import Any

import pytest

from caso.kinds import accelerator, ip, storage
from caso.kinds.kind import RecordKind
from tests.wire.records import (
    ADDRESSES,
    GPUS,
    HALF_A_GPU,
    PLAIN_VOLUME,
    UNOWNED,
    VOLUME,
)

GOLDEN = Path(__file__).parent / "kinds"


@pytest.mark.parametrize(
    ("kind", "records", "name"),
    [
        (storage.KIND, [VOLUME, PLAIN_VOLUME], "storage.xml"),
        (ip.KIND, [ADDRESSES, UNOWNED], "ip-v0.2.json"),
        (accelerator.KIND, [GPUS, HALF_A_GPU], "accelerator-v0.1.json"),
    ],
)
def test_a_message(kind: RecordKind[Any], records: list[Any], name: str) -> None:
    message = kind.compose([kind.render(record) for record in records])
    assert message == (GOLDEN / name).read_bytes()
