"""LDAP clients that count what strangers would notice: refused connections and cut answers.

They speak the protocol by themselves, byte by byte, so that they can be slow, stop reading, or send
what is no LDAP at all.

    python3 -m tests.e2e.ldap_clients PORT    asks until its input ends, then prints what it has met
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar

_Client = TypeVar("_Client", "Poller", "TreeReader")
_BASE, _SUBTREE = 0, 2
# SearchResultEntry holds a name right after its header; the end of a search has the result code.
_ENTRY = re.compile(rb"\x64(?:[\x00-\x7f]|\x81.|\x82..|\x83...|\x84....)\x04", re.DOTALL)
_END = re.compile(rb"\x02[\x01-\x04].{1,4}?\x65.\x0a\x01(.)\x04.{0,200}$", re.DOTALL)


def element(tag: int, content: bytes) -> bytes:
    size = len(content)
    length = bytes([size]) if size < 128 else b"\x82" + size.to_bytes(2, "big")
    return bytes([tag]) + length + content


def request(base: str = "o=glue", *, scope: int = _SUBTREE) -> bytes:
    """Return an anonymous search for all entries."""
    fields = element(4, base.encode()) + element(10, bytes([scope])) + element(10, b"\0")
    limits = element(2, b"\0") * 2 + element(1, b"\0")
    search = element(0x63, fields + limits + element(0x87, b"objectClass") + element(0x30, b""))
    return element(0x30, element(2, b"\1") + search)


def connect(port: int, *, seconds: float = 10, window: int = 0) -> socket.socket:
    """Connect; a small ``window`` makes the server wait for a client that does not read."""
    client = socket.socket()
    client.settimeout(seconds)
    if window:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    try:
        client.connect(("127.0.0.1", port))
    except OSError:
        client.close()
        raise
    return client


@dataclass
class Answer:
    """What a search has returned: entries, and the result code; None if the answer was cut."""

    entries: int
    code: int | None


def receive(
    client: socket.socket, *, pause: float = 0, stop: threading.Event | None = None
) -> Answer | None:
    """Read an answer to its end, with a pause after each block; None if it was stopped before."""
    data = bytearray()
    while not (end := _END.search(data[-400:])):
        if stop is not None and stop.is_set():
            return None
        part = client.recv(1 << 16)
        if not part:
            return Answer(len(_ENTRY.findall(data)), None)
        data += part
        if pause:
            time.sleep(pause)
    return Answer(len(_ENTRY.findall(data)), end[1][0])


def whole(client: socket.socket) -> Answer:
    """Read an answer to its end."""
    found = receive(client)
    assert found is not None
    return found


@dataclass
class Poller:
    """Asks for o=glue every 20 ms, each time on a new connection."""

    port: int
    answered: int = 0
    refused: list[str] = field(default_factory=list)
    longest: float = 0
    """Seconds from the last answer before a refusal to the next answer, the most."""
    silent: float = 0
    """All such seconds."""
    slowest: float = 0
    """Seconds that an answer took."""
    _since: float = 0
    _is_refused: bool = False
    _stop: threading.Event = field(default_factory=threading.Event)

    def _ask(self) -> None:
        started = time.monotonic()
        try:
            with connect(self.port, seconds=5) as client:
                client.sendall(request(scope=_BASE))
                found = whole(client)
            if (found.entries, found.code) != (1, 0):
                raise ConnectionError(str(found))
        except OSError as error:
            self.refused.append(repr(error))
            self._is_refused = True
        else:
            now = time.monotonic()
            self.slowest = max(self.slowest, now - started)
            if self._is_refused and self._since:
                self.longest = max(self.longest, now - self._since)
                self.silent += now - self._since
            self.answered += 1
            self._since, self._is_refused = now, False
        self._stop.wait(max(0.0, 0.02 - (time.monotonic() - started)))

    def run(self) -> None:
        while not self._stop.is_set():
            self._ask()

    def stop(self) -> None:
        self._stop.set()


@dataclass
class TreeReader:
    """Reads the whole tree, again and again."""

    port: int
    sizes: list[int] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    pause: float = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self._stop.is_set():
            try:
                with connect(self.port, seconds=60, window=4096 if self.pause else 0) as client:
                    client.sendall(request())
                    found = receive(client, pause=self.pause, stop=self._stop)
                if found is None:
                    return
                if found.code == 0:
                    self.sizes.append(found.entries)
                else:
                    self.faults.append(str(found))
            except OSError as error:
                self.faults.append(repr(error))
            self._stop.wait(0.05)

    def stop(self) -> None:
        self._stop.set()


@contextlib.contextmanager
def asking(client: _Client) -> Iterator[_Client]:
    """Run a client in a thread during the block."""
    thread = threading.Thread(target=client.run)
    thread.start()
    try:
        yield client
    finally:
        client.stop()
        thread.join()


def main() -> None:
    """Ask, and read the whole tree fast and slowly, until the end of the input; print JSON."""
    port = int(sys.argv[1])
    poller, reader, slow = Poller(port), TreeReader(port), TreeReader(port, pause=0.01)
    with asking(poller), asking(reader), asking(slow):
        print("asks", flush=True)
        sys.stdin.read()
    met = {
        "answered": poller.answered,
        "refused": poller.refused,
        "silent": poller.silent,
        "sizes": reader.sizes + slow.sizes,
        "faults": reader.faults + slow.faults,
    }
    print(json.dumps(met))


if __name__ == "__main__":
    main()
