"""A private Docker engine, from Debian's docker.io, with its data in one directory.

    python3 -m deploy.dockerd DIR up          start it and print DOCKER_HOST
    python3 -m deploy.dockerd DIR down        stop it and its containers
    python3 -m deploy.dockerd DIR COMMAND…    run a command with DOCKER_HOST set

Builds and tests use it, so that they do not depend on another engine of the machine. It needs root,
cgroups, and a file system for overlays (ext4, xfs); on others it copies layers instead of sharing
them.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

DOCKER = "/usr/bin/docker"
"""Debian's client; PATH may have another one first, without the plugins."""
DAEMON = "/usr/sbin/dockerd"
_START_SECONDS = 60
_STOP_SECONDS = 30


class DaemonError(Exception):
    """The engine cannot be started or used; the message is one line."""


class DockerDaemon:
    """The engine with its data in ``directory``.

    Its socket is in /run, because the path of a socket must be short.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self._key = hashlib.sha256(os.fsencode(self.directory)).hexdigest()[:8]
        self._run = Path(f"/run/fedcloud-engine-{self._key}")
        self.socket = self._run / "docker.sock"
        self._pid_file = self._run / "dockerd.pid"

    @property
    def environment(self) -> Mapping[str, str]:
        """Return the environment for clients."""
        return {
            **os.environ,
            "DOCKER_HOST": f"unix://{self.socket}",
            "DOCKER_CONFIG": os.fspath(self.directory / "client"),
        }

    @property
    def log(self) -> Path:
        """Return the path of the daemon's log."""
        return self.directory / "dockerd.log"

    def pid(self) -> int | None:
        """Return the daemon's process id; None if it does not run."""
        try:
            pid = int(self._pid_file.read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return None
        return pid if os.fsencode(self.directory / "data") in command else None

    def up(self) -> None:
        """Start the daemon if it does not run.

        Raises:
            DaemonError: It does not start.

        """
        with self._locked():
            if self.pid() is None:
                _check_host()
                self._start()

    def down(self) -> None:
        """Stop the daemon and all its containers."""
        with self._locked():
            pid = self.pid()
            if pid is None:
                return
            # A descriptor, because the process id may belong to another process after the wait.
            descriptor = os.pidfd_open(pid)
            try:
                signal.pidfd_send_signal(descriptor, signal.SIGTERM)
                _wait_for_end(pid, _STOP_SECONDS)
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            finally:
                os.close(descriptor)
            self._clear()

    def docker(
        self, *arguments: str | Path, check: bool = True, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run Debian's client.

        Raises:
            DaemonError: It failed, and ``check`` is set; the message is its output.

        """
        return self.run([DOCKER, *arguments], check=check, stdin=stdin)

    def run(
        self,
        command: Sequence[str | Path],
        *,
        check: bool = True,
        stdin: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program that uses this engine.

        Raises:
            DaemonError: It failed, and ``check`` is set; the message is its output.

        """
        done = subprocess.run(
            command,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            check=False,
            env={**self.environment, **(environment or {})},
        )
        if check and done.returncode:
            words = (done.stderr.strip() or done.stdout.strip())[-2000:]
            raise DaemonError(f"{' '.join(map(str, command))}: status {done.returncode}: {words}")
        return done

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Run the daemon for the block; the last user stops it, if a user has started it."""
        self.directory.mkdir(parents=True, exist_ok=True)
        ours = self.directory / "started-by-users"
        with (self.directory / "users").open("w") as users:
            fcntl.flock(users, fcntl.LOCK_SH)
            if self.pid() is None:
                ours.touch()
            self.up()
            try:
                yield
            finally:
                with contextlib.suppress(BlockingIOError):
                    # Succeeds for the last user only: the others hold a shared lock.
                    fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if ours.exists():
                        ours.unlink()
                        self.down()

    def alone(self) -> AbstractContextManager[None]:
        """Hold the lock for container names in this engine and for fixed ports of the machine.

        None of these locks is reentrant.
        """
        return self._hold("alone")

    def building(self) -> AbstractContextManager[None]:
        """Hold the lock for the images in this engine while they are built."""
        return self._hold("building")

    def bundling(self) -> AbstractContextManager[None]:
        """Hold the lock for the bundle that tests make of these images."""
        return self._hold("bundling")

    def _locked(self) -> AbstractContextManager[None]:
        return self._hold("lock")

    @contextlib.contextmanager
    def _hold(self, name: str) -> Iterator[None]:
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / name).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _clear(self) -> None:
        """Remove the files of a stopped daemon, and the mounts of the host's network namespace."""
        for mounted in self._run.glob("exec/netns/*"):
            subprocess.run(["umount", "-l", mounted], capture_output=True, check=False)
        if self._run.exists():
            shutil.rmtree(self._run)

    def _start(self) -> None:
        self._clear()
        self._run.mkdir(mode=0o700)
        (self.directory / "client").mkdir(exist_ok=True)
        octet = int(self._key[:2], 16)
        command: list[str | Path] = [
            *(DAEMON, "--data-root", self.directory / "data", "--exec-root", self._run / "exec"),
            *("--pidfile", self._pid_file, "--host", f"unix://{self.socket}", "--bridge", "none"),
            # Engines on one machine do not see each other's networks, so each has its own range.
            *("--default-address-pool", f"base=10.{octet}.0.0/16,size=24"),
            *("--config-file", self._run / "daemon.json", "--shutdown-timeout", "5"),
        ]
        (self._run / "daemon.json").write_text("{}")
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + _START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            if self._answers():
                # The daemon outlives this object; Popen would warn of a process still running.
                process.returncode = 0
                return
            time.sleep(0.05)
        process.kill()
        words = " ".join(self.log.read_text(errors="replace").split())[-600:]
        raise DaemonError(f"{DAEMON} does not start: {words}")

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(5)
            try:
                client.connect(os.fspath(self.socket))
                client.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                return b" 200 " in client.recv(100)
            except OSError:
                return False


def _check_host() -> None:
    if os.geteuid() != 0:
        raise DaemonError("only root can start an engine; run this as root")
    if not Path(DAEMON).exists():
        raise DaemonError(f"{DAEMON} is missing: apt-get install docker.io")
    if not Path("/sys/fs/cgroup/cgroup.controllers").exists() and not os.path.ismount(
        "/sys/fs/cgroup/memory"
    ):
        raise DaemonError("no cgroups are mounted at /sys/fs/cgroup; an engine needs them")


def _wait_for_end(pid: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/cmdline").read_bytes() == b"":  # a zombie has none
                return
        except OSError:
            return
        time.sleep(0.05)


def main() -> int:
    """Run the command line of this module."""
    if len(sys.argv) < 3:  # noqa: PLR2004  DIR and a word
        print(__doc__, file=sys.stderr)
        return 2
    engine = DockerDaemon(Path(sys.argv[1]))
    match sys.argv[2:]:
        case ["up"]:
            engine.up()
            print(engine.environment["DOCKER_HOST"])
        case ["down"]:
            engine.down()
        case command:
            return subprocess.run(command, env=engine.environment, check=False).returncode
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DaemonError as error:
        sys.exit(f"engine: {error}")
