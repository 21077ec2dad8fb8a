"""Ports in the loopback of another network namespace that lead to this machine's.

Usage: ``python3 -m tests.testbed.doors PID PORT…``

Listens on 127.0.0.1:PORT in the namespace of the process PID, and hands each connection on to
127.0.0.1:PORT here. So a machine without any network reaches the test bed, under the names that its
certificates are for. Says ``open`` on standard output when all listen; runs until it is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import socket
import sys

_NETWORK = 0x40000000  # CLONE_NEWNET


def _enter(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, _NETWORK):
        raise OSError(ctypes.get_errno(), "setns")


def listen(pid: int, ports: list[int]) -> list[socket.socket]:
    """Return sockets that listen in the namespace of a process, and return to our own."""
    here, there = (
        os.open("/proc/self/ns/net", os.O_RDONLY),
        os.open(f"/proc/{pid}/ns/net", os.O_RDONLY),
    )
    try:
        _enter(there)
        return [socket.create_server(("127.0.0.1", port), backlog=64) for port in ports]
    finally:
        _enter(here)
        os.close(here)
        os.close(there)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while block := await reader.read(2**16):
            writer.write(block)
            await writer.drain()
    # A client that was killed, too, is gone for the other side: its server would wait for it with a
    # thread.
    with contextlib.suppress(OSError):
        if writer.can_write_eof():
            writer.write_eof()


async def _serve(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    at_work: set[asyncio.Task[None] | None] = set()  # the loop itself would not keep them

    async def hand_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        at_work.add(task := asyncio.current_task())
        with contextlib.suppress(OSError):
            from_there, to_there = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(_copy(reader, to_there), _copy(from_there, writer))
            to_there.close()
        writer.close()
        at_work.discard(task)

    async with await asyncio.start_server(hand_on, sock=listener) as server:
        await server.serve_forever()


async def _serve_all(listeners: list[socket.socket]) -> None:
    print("open", flush=True)
    await asyncio.gather(*(_serve(listener) for listener in listeners))


if __name__ == "__main__":
    asyncio.run(_serve_all(listen(int(sys.argv[1]), [int(word) for word in sys.argv[2:]])))
