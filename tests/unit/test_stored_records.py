"""Records that are kept and read back: each is what it was."""

import json
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from caso.kinds.stored import from_json, to_json
from tests.wire.records import ADDRESSES, GPUS, HALF_A_GPU, PLAIN_VOLUME, UNOWNED, VOLUME
from tests.wire.test_cloud import FULL, SPARE

RECORDS = [FULL, SPARE, VOLUME, PLAIN_VOLUME, ADDRESSES, UNOWNED, GPUS, HALF_A_GPU]


@pytest.mark.parametrize("record", [*RECORDS, replace(SPARE, cpu_count=Decimal("1.5"))])
def test_a_record_comes_back(record: Any) -> None:
    text = json.dumps(to_json(record))
    assert from_json(type(record), json.loads(text)) == record


@pytest.mark.parametrize(
    "changes",
    [
        {"vm_uuid": 7},
        {"start": "soon"},
        {"wall": "long"},
        {"status": "unheard of"},
        {"other": 1},
        {"benchmark": "fast"},
        {"memory": "much"},
    ],
)
def test_what_is_no_record_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError, LookupError)):
        from_json(type(FULL), {**to_json(FULL), **changes})


def test_a_text_is_no_record() -> None:
    with pytest.raises(TypeError):
        from_json(type(FULL), "FULL")
