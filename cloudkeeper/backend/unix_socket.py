"""The path of a unix socket, held by one server at a time.

gRPC would silently replace the socket of a server that is running.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from appliance.core import files
from appliance.core.run import lock
from appliance.core.run.errors import Busy, LocalFailure

# Backend and frontend run under one account.
_MODE = 0o600
_DIRECTORY_MODE = 0o700
# Limit of the connection attempt that shows whether another server is running.
_SECONDS = 2.0
_REMEDY = "stop the program that serves it, or set another grpc_socket"


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the path during the block; remove the socket of a killed server first, ours at the end.

    Raises:
        LocalFailure: another server is running there, or the directory cannot be used.

    """
    with _translated(path):
        files.make_directory(path.parent, mode=_DIRECTORY_MODE)
        _check_directory(path.parent)
    # The lock decides which server runs; a socket also stays behind when a server is killed.
    with _locked(path):
        with _translated(path):
            _remove_stale(path)
        try:
            yield
        finally:
            # gRPC has removed the socket, unless the server failed while it started.
            with contextlib.suppress(OSError):
                path.unlink()


def bind(path: Path, add_port: Callable[[str], int]) -> None:
    """Let gRPC create the socket, with a mode that admits this account only.

    The umask sets the mode: with chmod, others could connect before it.

    Raises:
        RuntimeError: gRPC cannot listen there.

    """
    mask = os.umask(0o777 & ~_MODE)
    try:
        add_port(f"unix:{path}")
    finally:
        os.umask(mask)


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LocalFailure.from_os(error, subject=error.filename or path) from error


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            with _translated(path):
                stack.enter_context(lock.hold(path.with_name(f"{path.name}.lock")))
        except Busy as error:
            raise LocalFailure(
                path,
                f"cannot be listened on: another cloudkeeper-os serves it, {error.cause}",
                _REMEDY,
            ) from None
        yield


def _check_directory(path: Path) -> None:
    """Refuse a directory where others could place a socket for the frontend to connect to."""
    status = path.stat()
    if status.st_mode & stat.S_IWOTH or status.st_uid not in (0, os.geteuid()):
        raise LocalFailure(
            path,
            "others can write to it, and could answer the frontend in place of the backend",
            f"chown it to the backend's account, and chmod it to {_DIRECTORY_MODE:o}",
        )


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise LocalFailure(path, "is not a socket", "remove it, or set another grpc_socket")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_SECONDS)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:  # no process has it open: its server was killed
            path.unlink()
            return
        except OSError as error:
            raise LocalFailure.from_os(error, subject=path) from error
    raise LocalFailure(path, "cannot be listened on: another program serves it", _REMEDY)
