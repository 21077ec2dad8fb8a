"""Many changes in the running slapd over one connection, several requests at a time.

ldap3 waits for each answer and encodes some thousand requests a second; here some ten thousand are,
so that slapd is what takes the time. A request that slapd refuses, or whose answer is lost, is left
undone: the caller makes it once more, one by one, and finds the reason.

slapd works on the requests of one connection in any order, so entries are added level by level, and
deleted in the same way from below.

The encoding is BER in the form that LDAP allows (RFC 4511, 5.1): definite lengths only.
"""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Self

from appliance.core.directory import RELAX, NoAnswer
from appliance.core.ldif import Entry
from bdii import tree
from bdii.plan import Add, Change, Delete, Modify

# Requests without an answer. slapd writes one after another, so more do not make it faster; each
# takes one of its threads from clients that read.
_WINDOW = 8
_ANSWER_SECONDS = 30
_SEQUENCE, _SET, _OCTETS, _INTEGER, _ENUMERATED, _BOOLEAN = 0x30, 0x31, 0x04, 0x02, 0x0A, 0x01
_BIND, _SASL, _MODIFY, _ADD, _DELETE, _CONTROLS = 0x60, 0xA3, 0x66, 0x68, 0x4A, 0xA0
_REPLACE = b"\x02"
_SHORT = 0x80


@dataclass(slots=True)
class Done:
    """The changes that slapd has confirmed, and whether the connection broke on the way."""

    made: list[Change] = field(default_factory=list)
    is_lost: bool = False


class Pipeline:
    """A connection to slapd's socket as the user that may write.

    Raises `NoAnswer` if there is no connection.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._number = 0
        self._buffer = b""
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(_ANSWER_SECONDS)
        try:
            self._socket.connect(str(path))
            # version 3, no name, SASL EXTERNAL with empty credentials: the kernel names the user
            self._send(_BIND, b"\x02\x01\x03\x04\x00" + _tlv(_SASL, b"\x04\x08EXTERNAL\x04\x00"))
            result = self._results(self._receive()).__next__()[1]
        except (OSError, StopIteration, ValueError) as error:
            self._socket.close()
            raise NoAnswer(path, f"the directory does not answer: {error}") from error
        if result:
            self._socket.close()
            raise NoAnswer(path, f"the directory refuses this user ({result})")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def change(self, changes: Sequence[Change], stop: threading.Event) -> Done:
        """Make changes that are in a plan's order, until ``stop`` is set."""
        done = Done()
        try:
            for _, level in groupby(changes, key=_level):
                self._change_level(level, done, stop)
        except (OSError, ValueError):
            done.is_lost = True
        return done

    def _change_level(self, changes: Iterable[Change], done: Done, stop: threading.Event) -> None:
        pending: dict[int, Change] = {}
        for change in changes:
            if stop.is_set():
                break
            self._send(*_request(change))
            pending[self._number] = change
            while len(pending) >= _WINDOW or self._is_readable():
                self._confirm(pending, done)
        while pending:
            self._confirm(pending, done)

    def _confirm(self, pending: dict[int, Change], done: Done) -> None:
        for number, result in self._results(self._receive()):
            if (change := pending.pop(number, None)) is None:
                raise ConnectionResetError("slapd closed the connection")  # its notice is number 0
            if result == 0:
                done.made.append(change)

    def _is_readable(self) -> bool:
        return bool(select.select([self._socket], [], [], 0)[0])

    def _send(self, operation: int, content: bytes, controls: bytes = b"") -> None:
        self._number += 1
        number = _tlv(_INTEGER, self._number.to_bytes(5, "big").lstrip(b"\0") or b"\0")
        if number[2] >= _SHORT:  # a leading bit of one would make it negative
            number = _tlv(_INTEGER, b"\0" + number[2:])
        self._socket.sendall(_tlv(_SEQUENCE, number + _tlv(operation, content) + controls))

    def _receive(self) -> bytes:
        block = self._socket.recv(1 << 16)
        if not block:
            raise ConnectionResetError("slapd closed the connection")
        return block

    def _results(self, block: bytes) -> Iterator[tuple[int, int]]:
        """Yield the numbers and result codes of all messages that are complete."""
        self._buffer += block
        while (message := _first(self._buffer)) is not None:
            (start, end) = message
            content, self._buffer = self._buffer[start:end], self._buffer[end:]
            begin, after = _header(content, 0)  # number of the message
            operation, _ = _header(content, after)
            code, past = _header(content, operation)
            yield (
                int.from_bytes(content[begin:after], "big"),
                int.from_bytes(content[code:past], "big"),
            )


def _level(change: Change) -> tuple[type[Change], int]:
    """Return what a change has in common with others that do not depend on it."""
    if isinstance(change, Modify):
        return Modify, 0
    return type(change), tree.depth(change.dn)


def _request(change: Change) -> tuple[int, bytes, bytes]:
    """Return the operation, its content and its controls."""
    match change:
        case Add(_, entry):
            attributes = b"".join(
                _tlv(_SEQUENCE, _tlv(_OCTETS, name.encode()) + _values(values))
                for name, values in entry.attributes.items()
            )
            return _ADD, _name(entry) + _tlv(_SEQUENCE, attributes), b""
        case Modify(_, entry, changes):
            parts = b"".join(
                _tlv(
                    _SEQUENCE,
                    _tlv(_ENUMERATED, _REPLACE)
                    + _tlv(_SEQUENCE, _tlv(_OCTETS, name.encode()) + _values(values)),
                )
                for name, values in changes.items()
            )
            content = _name(entry) + _tlv(_SEQUENCE, parts)
            return _MODIFY, content, _relaxed() if change.changes_class else b""
        case Delete(_, entry):
            return _DELETE, _bytes(entry.dn), b""


def _relaxed() -> bytes:
    control = _tlv(_OCTETS, RELAX.encode()) + _tlv(_BOOLEAN, b"\xff")
    return _tlv(_CONTROLS, _tlv(_SEQUENCE, control))


def _name(entry: Entry) -> bytes:
    return _tlv(_OCTETS, _bytes(entry.dn))


def _values(values: Sequence[str]) -> bytes:
    return _tlv(_SET, b"".join(_tlv(_OCTETS, _bytes(value)) for value in values))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _tlv(tag: int, content: bytes) -> bytes:
    """Return tag, length and content."""
    size = len(content)
    if size < _SHORT:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, _SHORT | len(length))) + length + content


def _header(data: bytes, at: int) -> tuple[int, int]:
    """Return where the content of the element at a position begins and ends.

    Raises `ValueError` if the header is incomplete.
    """
    if len(data) < at + 2:
        raise ValueError("incomplete")
    size, begin = data[at + 1], at + 2
    if size >= _SHORT:
        length = size & ~_SHORT
        if len(data) < begin + length:
            raise ValueError("incomplete")
        size, begin = int.from_bytes(data[begin : begin + length], "big"), begin + length
    return begin, begin + size


def _first(buffer: bytes) -> tuple[int, int] | None:
    """Return where the content of the first message begins and ends; None if it is incomplete."""
    try:
        begin, end = _header(buffer, 0)
    except ValueError:
        return None
    return (begin, end) if end <= len(buffer) else None
