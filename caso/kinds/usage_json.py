"""Messages of usage records as JSON, as cASO 5 writes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def render(record: Any, *, fields: Callable[[Any], Mapping[str, object]]) -> str:
    """Return one record as an object in a line."""
    return json.dumps(fields(record))


def compose(records: Sequence[str], *, title: str, version: str) -> bytes:
    """Return a message of rendered records."""
    head = json.dumps({"Type": title, "Version": version, "UsageRecords": []})
    return (head.removesuffix("]}") + ", ".join(records) + "]}").encode("ascii")
