"""What `caso gaps` prints of a ledger."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from caso.commands import gaps
from caso.ledger.ledger import Ledger
from caso.ledger.model import LedgerRow, Month, Origin, Stream

NOVEMBER = Month(202611)
AT = datetime(2026, 11, 20, tzinfo=UTC)


@pytest.mark.parametrize(
    ("kind", "amounts", "words"),
    [
        ("cloud", (9000, 3600), "1.5 h taken back on "),
        ("ip", (7, 3), "4 taken back on "),  # a number of addresses
    ],
)
def test_a_decrease_has_the_unit_of_its_kind(
    kind: str,
    amounts: tuple[int, int],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ledger:
        for amount, reason in zip(amounts, (None, "a wrong flavor"), strict=True):
            stream = Stream(Origin("https://k/v3", "", "p1"), kind, "ssm")
            intent = ledger.deliveries.intent("batch", stream, reason=reason)
            progress = 100 if kind == "ip" else None
            intent.add(b"", [LedgerRow("a", NOVEMBER, amount, AT, "vo", progress=progress)])
            intent.seal(None, checkpoint=None)
            ledger.deliveries.confirm("batch")
    assert gaps._print(cast("Any", SimpleNamespace(ledger=path)))
    out = capsys.readouterr().out
    assert f"project p1, {kind} to ssm: 2026-11: a: {words}" in out
    assert out.endswith(": a wrong flavor\n")
