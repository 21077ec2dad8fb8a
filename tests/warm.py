"""Starts of a program without its imports, which are nine tenths of what a start costs.

    with warm.program("appliance.admin.command:main") as start:
        process = start("run", "caso")      # like subprocess.Popen, with pipes and text
        out, err = process.communicate(timeout=60)

    process = warm.start("caso.cmds.extract:main", "--dry-run")     # of a server that stays

A server process imports all of the program's package once, and the libraries that the program
imports when it uses them. Each start is a fork of it, in a process of its own with its own
descriptors, environment and signals; it ends as the interpreter ends it.
The end-to-end tests start the installed programs themselves.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NoReturn

_TOP = Path(__file__).resolve().parents[1]
_LIBRARIES = ("docker", "netrc", "yaml")
_LARGEST = 1 << 20
_NUMBER = struct.Struct("i")


class Started:
    """A started program, in as far as `subprocess.Popen` has it."""

    def __init__(self, args: list[str], control: socket.socket, out: int, err: int) -> None:
        self.args = args
        self.returncode: int | None = None
        self.stdout = open(out, encoding="utf-8")  # noqa: SIM115  # communicate closes it
        self.stderr = open(err, encoding="utf-8")  # noqa: SIM115
        self._control = control
        (self.pid,) = _NUMBER.unpack(control.recv(_NUMBER.size))

    def poll(self) -> int | None:
        """Return the exit status, or None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status, negative after a signal.

        Raises:
            TimeoutExpired: it still runs
        """
        if self.returncode is None:
            if not select.select([self._control], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            (self.returncode,) = _NUMBER.unpack(self._control.recv(_NUMBER.size))
            self._control.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL unless it has ended."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Return all that it writes, once it has ended."""
        texts = ["", ""]

        def read(number: int, file: IO[str]) -> None:
            with file:
                texts[number] = file.read()

        files = (self.stdout, self.stderr)
        readers = [threading.Thread(target=read, args=one) for one in enumerate(files)]
        for reader in readers:
            reader.start()
        self.wait(timeout)
        for reader in readers:
            reader.join(timeout)
        return texts[0], texts[1]


@contextlib.contextmanager
def program(entry: str) -> Iterator[Callable[..., Started]]:
    """Yield a function that starts ``MODULE:FUNCTION`` with the arguments it gets."""
    with _server(_package(entry)) as start_entry:
        yield functools.partial(start_entry, entry)


def start(entry: str, *arguments: str, environment: Mapping[str, str] = os.environ) -> Started:
    """Start ``MODULE:FUNCTION`` from the server of its package, which stays until `end_all`."""
    package = _package(entry)
    if package not in _starters:
        _starters[package] = _stack.enter_context(_server(package))
    return _starters[package](entry, *arguments, environment=environment)


def run(
    entry: str,
    *arguments: str,
    environment: Mapping[str, str] = os.environ,
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Start ``MODULE:FUNCTION`` as `start` does, and return what came of it."""
    process = start(entry, *arguments, environment=environment)
    out, err = process.communicate(timeout=timeout)
    return subprocess.CompletedProcess(process.args, process.wait(), out, err)


def end_all() -> None:
    """End the servers of this process that `start` has started."""
    _starters.clear()
    _stack.close()


_stack = contextlib.ExitStack()
_starters: dict[str, Callable[..., Started]] = {}


def _package(entry: str) -> str:
    return entry.partition(":")[0].partition(".")[0]


@contextlib.contextmanager
def _server(package: str) -> Iterator[Callable[..., Started]]:
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.warm", str(its.fileno()), package],
        cwd=_TOP, pass_fds=[its.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    its.close()

    def start(entry: str, *arguments: str, environment: Mapping[str, str] = os.environ) -> Started:
        control, its_control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        (out, its_out), (err, its_err) = os.pipe(), os.pipe()
        request = {
            "entry": entry,
            "arguments": arguments,
            "directory": str(Path.cwd()),
            "environment": {**environment},
        }
        theirs = [its_out, its_err, its_control.fileno()]
        socket.send_fds(ours, [json.dumps(request).encode()], theirs)
        os.close(its_out)
        os.close(its_err)
        its_control.close()
        return Started([entry, *arguments], control, out, err)

    with server, ours:
        yield start


def _serve(channel: socket.socket, name: str) -> None:
    """Fork for each request until the tests end; only a fork that is a program returns before."""
    package = importlib.import_module(name)
    for found in pkgutil.walk_packages(package.__path__, f"{name}."):
        importlib.import_module(found.name)
    for library in _LIBRARIES:
        importlib.import_module(library)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the keepers
    gc.collect()
    gc.freeze()  # a collection in a fork would copy the memory of all that was imported
    while True:
        message, descriptors, _, _ = socket.recv_fds(channel, _LARGEST, 3)
        if not message:
            return
        if os.fork() == 0:
            channel.close()
            if _keep(descriptors):
                request = json.loads(message)
                _become(request, descriptors)
                module, _, function = request["entry"].partition(":")
                _end(getattr(sys.modules[module], function))
        for descriptor in descriptors:
            os.close(descriptor)


def _keep(descriptors: list[int]) -> bool:
    """Fork once more, and say how the program ends; return in the program alone."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child = os.fork()
    if child == 0:
        return True
    out, err, control = descriptors
    os.close(out)
    os.close(err)
    os.write(control, _NUMBER.pack(child))
    status = os.waitpid(child, 0)[1]
    with contextlib.suppress(BrokenPipeError):  # the test did not wait for the end
        os.write(control, _NUMBER.pack(os.waitstatus_to_exitcode(status)))
    os._exit(0)


def _end(program: Callable[[], int]) -> NoReturn:
    """Run the program and end as the interpreter does, but without freeing what was imported."""
    try:
        status = program()
    except SystemExit as ended:  # of argparse
        if not isinstance(ended.code, int):
            raise
        status = ended.code
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _become(request: dict[str, Any], descriptors: list[int]) -> None:
    """Give the process what the caller of a program gives it."""
    out, err, control = descriptors
    os.dup2(out, 1)
    os.dup2(err, 2)
    for descriptor in (out, err, control):
        os.close(descriptor)
    # as the interpreter opens them; those of the server know what kind of file theirs was
    sys.stdout = open(1, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1)  # noqa: SIM115
    os.chdir(request["directory"])
    os.environ.clear()
    os.environ.update(request["environment"])
    time.tzset()
    sys.argv[1:] = request["arguments"]
    os.umask(0o022)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2])
