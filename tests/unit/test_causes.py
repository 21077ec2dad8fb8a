"""The words for exceptions: an administrator sees no class of Python."""

from __future__ import annotations

import contextlib
import http.client
import socket
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
import requests

from appliance.core import causes

NOTHING: Any = None
ANSWER: dict[str, int] = {}
NOTHING_IN_IT: tuple[int, ...] = ()


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (lambda: ANSWER["vcpus"], "it lacks 'vcpus'"),
        (lambda: NOTHING_IN_IT.__getitem__(0), "a list in it is too short"),
        (lambda: NOTHING["id"], "a value in it has the wrong type"),
        (lambda: NOTHING.id, "a value in it has the wrong type"),
        (lambda: int("many"), "'many' in it is no number"),
        (lambda: float("many"), "'many' in it is no number"),
        (lambda: datetime.fromisoformat("today"), "'today' in it is no time"),
        (lambda: Decimal("NaN") > 1, "a number in it is out of range"),
        (lambda: int(float("inf")), "a number in it is out of range"),
    ],
    ids=["key", "index", "none", "attribute", "int", "float", "time", "decimal", "infinity"],
)
def test_a_description_that_cannot_be_read(read: Callable[[], object], words: str) -> None:
    with pytest.raises((ValueError, TypeError, LookupError, AttributeError, ArithmeticError)) as no:
        read()
    assert causes.of_answer(no.value) == words


def test_the_words_of_our_own_code_stay() -> None:
    assert causes.of_answer(ValueError("created 1969, before OpenStack existed")).startswith("cre")
    assert causes.of_answer(ValueError()) == "it is malformed"


def test_a_connection_that_fails() -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
    with pytest.raises(requests.exceptions.ConnectionError) as refused:
        requests.get(f"http://127.0.0.1:{port}/", timeout=5)
    assert causes.of_connection(refused.value) == "connection refused"
    assert causes.of_connection(http.client.IncompleteRead(b"x", 7)) == "the answer breaks off"
    assert causes.of_connection(OSError()) == "the connection failed"
