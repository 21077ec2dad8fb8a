"""F-S1, of projects: an answer without end is given up; others are read as requests does."""

import gzip
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
import requests

from appliance.core.cloud.bounded import BoundedSession
from appliance.core.run.errors import Unavailable

Script = Callable[[socket.socket], None]


@contextmanager
def answering(script: Script) -> Iterator[str]:
    """Serve a script that writes to each connection, after its request."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(2**16)
                    try:
                        script(connection)
                    except OSError:
                        continue

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        listener.shutdown(socket.SHUT_RDWR)


def drip(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        connection.sendall(b" ")
        time.sleep(0.02)


def chunks_without_end(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        connection.sendall(b"8000\r\n" + b" " * 0x8000 + b"\r\n")


def bomb(connection: socket.socket) -> None:
    body = gzip.compress(bytes(50 * 2**20))
    connection.sendall(
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body)
        + body
    )


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (drip, "its answer did not end within 0.3 s"),
        (chunks_without_end, "its answer has more than 4 MiB"),
        (bomb, "its answer has more than 4 MiB"),
    ],
)
def test_an_answer_without_end_is_given_up(script: Script, words: str) -> None:
    session = BoundedSession(longest=timedelta(milliseconds=300), largest=4 * 2**20)
    with answering(script) as url, pytest.raises(Unavailable, match=f"^127.0.0.1:[0-9]+: {words}"):
        session.get(url, timeout=5)


PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n"


@pytest.mark.parametrize(
    ("raw", "body"),
    [
        (PLAIN + b'{"a":1}', b'{"a":1}'),
        (
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                b'3\r\n{"a\r\n4\r\n":1}\r\n0\r\n\r\n'
            ),
            b'{"a":1}',
        ),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b'HTTP/1.1 200 OK\r\n\r\n{"a":1}', b'{"a":1}'),
        (PLAIN + b'{"a"', None),
        (b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{"a', None),
    ],
    ids=["length", "chunked", "none", "until closed", "cut", "cut chunk"],
)
def test_other_answers_are_those_of_requests(raw: bytes, body: bytes | None) -> None:
    """The expected value is requests' own; a cut answer raises what its callers try again."""
    with answering(lambda connection: connection.sendall(raw)) as url:
        if body is None:
            for session in (requests.Session(), BoundedSession()):
                with pytest.raises(
                    (requests.ConnectionError, requests.exceptions.ChunkedEncodingError)
                ):
                    session.get(url, timeout=5)
            return
        ours, theirs = BoundedSession().get(url, timeout=5), requests.get(url, timeout=5)
        assert ours.content == theirs.content == body
        assert ours.status_code == theirs.status_code
        if body:
            assert ours.json() == theirs.json()


def test_connections_are_used_again() -> None:
    connections = []

    def twice(connection: socket.socket) -> None:
        connections.append(1)
        for _ in range(2):
            connection.sendall(PLAIN + b'{"a":1}')
            connection.recv(2**16)

    session = BoundedSession()
    with answering(twice) as url:
        assert [session.get(url, timeout=5).json() for _ in range(2)] == [{"a": 1}] * 2
    assert len(connections) == 1
