"""A machine that boots: Debian with systemd, cron and a Docker engine of its own.

It is a container of the tests' engine, with all that a machine's root may do but what a host may
lack (CAP_SYS_RESOURCE, with which alone `docker run --privileged` works), and without any network:
its loopback has doors to the test bed, and 192.0.2.10 is its address. It is called
appliance.example.org. A bare one has nothing but what Debian's installer leaves, and may have a
network to fetch the rest.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deploy import images
from deploy.dockerd import DOCKER, DaemonError, DockerDaemon
from tests.testbed.patience import Patience, until

HOST = "appliance.example.org"
ADDRESS = "192.0.2.10"
TOP = Path(__file__).resolve().parents[2]
_MAKE_ROOT = Path(__file__).resolve().with_name("vm-root")
_MAKE_BARE_ROOT = _MAKE_ROOT.with_name("bare-root")
_BOOT_SECONDS = 120
_MACHINE = (
    *("--cap-add", "ALL", "--cap-drop", "SYS_RESOURCE", "--security-opt", "seccomp=unconfined"),
    *("--security-opt", "apparmor=unconfined", "--security-opt", "systempaths=unconfined"),
    *("--device-cgroup-rule", "a *:* rwm", "--cgroupns", "private"),
    *(
        "--tmpfs",
        "/run",
        "--tmpfs",
        "/run/lock",
        "--tmpfs",
        "/tmp:exec",
        "--stop-signal",
        "SIGRTMIN+3",
    ),
    *("--env", "container=docker", "--hostname", HOST, "--add-host", f"{HOST}:{ADDRESS}"),
)


def fetch_root(cache: Path, *, is_bare: bool = False) -> Path:
    """Return the tar of the root file system, from the cache or from the Debian archive."""
    program = _MAKE_BARE_ROOT if is_bare else _MAKE_ROOT
    scripts = [_MAKE_ROOT, _MAKE_BARE_ROOT] if is_bare else [_MAKE_ROOT]

    def make(directory: Path) -> None:
        directory.mkdir()
        done = subprocess.run(
            [program, directory / "root.tar"],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode:
            raise DaemonError(f"{program.name}: {done.stderr[-2000:]}")

    return images.kept(cache / "vm", [path.read_bytes() for path in scripts], make) / "root.tar"


def ensure_image(engine: DockerDaemon, cache: Path, *, is_bare: bool = False) -> str:
    """Return the name of the machine's image in an engine, made if it is not there."""
    root = fetch_root(cache, is_bare=is_bare)
    name = f"appliance-vm:{root.parent.name}"
    if engine.docker("image", "inspect", name, check=False).returncode:
        engine.docker("import", "--change", 'CMD ["/sbin/machine"]', root, name)
    return name


@dataclass
class Machine:
    """A machine; ``directory`` must carry overlays, for the data of its inner engine."""

    engine: DockerDaemon
    directory: Path
    identifier: str = ""
    doors: list[subprocess.Popen[str]] = field(default_factory=list)
    ports: list[int] = field(default_factory=list)

    @classmethod
    def create(
        cls,
        engine: DockerDaemon,
        directory: Path,
        *,
        cache: Path,
        is_bare: bool = False,
        network: str = "none",
        more: Sequence[str] = (),
    ) -> Machine:
        """Make and boot a new machine, whose ``/media`` is the directory ``media``, read-only.

        ``/srv`` is the directory ``srv`` here: an engine below it can share layers, as on a disk.
        ``more`` are flags of `docker create`.
        """
        image = ensure_image(engine, cache, is_bare=is_bare)
        machine = cls(engine, directory)
        for name in ("docker", "media", "srv"):
            (directory / name).mkdir(parents=True, exist_ok=True)
        mounts = ["-v", f"{directory}/docker:/var/lib/docker", "-v", f"{directory}/media:/media:ro"]
        mounts += ["-v", f"{directory}/srv:/srv"]
        machine.identifier = engine.docker(
            "create", *_MACHINE, "--network", network, *mounts, *more, image
        ).stdout.strip()
        machine.boot()
        return machine

    @property
    def pid(self) -> int:
        """The process id of its first process, as this machine has it; 0 when it is off."""
        shown = self.engine.docker("inspect", "--format", "{{.State.Pid}}", self.identifier).stdout
        return int(shown)

    @property
    def root(self) -> Path:
        """Its root directory, seen from here while it is on."""
        return Path(f"/proc/{self.pid}/root")

    def boot(self) -> float:
        """Switch it on; returns the seconds until systemd says that it is up."""
        begin = time.monotonic()
        self.engine.docker("start", self.identifier)
        self.wait_until_up()
        seconds = time.monotonic() - begin
        self._open_doors(self.ports)
        return seconds

    def wait_until_up(self) -> str:
        """Wait for the end of the start; return systemd's word: running, or degraded."""
        patience = Patience(
            lambda: self.run("systemctl", "list-jobs", expect=None).stdout, idle=_BOOT_SECONDS
        )
        while not patience.is_over():
            word = self.run("systemctl", "is-system-running", "--wait", expect=None).stdout.strip()
            if word in ("running", "degraded"):
                return word
            time.sleep(0.1)
        jobs = self.run("systemctl", "list-jobs", expect=None).stdout
        raise DaemonError(f"the machine does not come up: {jobs}")

    def reboot(self) -> float:
        """Reboot it as its administrator does; return the seconds until it is up again."""
        self._close_doors()
        self.run("systemctl", "reboot", expect=None)
        self.engine.docker("wait", self.identifier)
        return self.boot()

    def reach(self, ports: Iterable[int]) -> None:
        """Let ports of this machine's loopback be reached on its own."""
        new = sorted(set(ports) - set(self.ports))
        self.ports += new
        self._open_doors(new)

    def run(
        self, *command: str, expect: int | None = 0, stdin: str | None = None, timeout: float = 280
    ) -> subprocess.CompletedProcess[str]:
        """Run a command there as root; its exit status must be as expected, unless that is None."""
        done = subprocess.run(
            [DOCKER, "exec", *(["-i"] if stdin is not None else []), self.identifier, *command],
            env=dict(self.engine.environment),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
        assert expect in (None, done.returncode), (
            f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        return done

    def shell(self, line: str, *, expect: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run a line as an administrator types it at a prompt."""
        return self.run("bash", "-c", line, expect=expect)

    def journal(self, unit: str) -> str:
        """Return what systemd has kept of a unit's words."""
        return self.run("journalctl", "--no-pager", "-o", "cat", "-u", unit).stdout

    def wait(
        self, condition: Callable[[], bool], *, seconds: float, what: Callable[[], str]
    ) -> float:
        """Wait until something holds; returns how long that took, in seconds."""
        begin = time.monotonic()
        assert until(condition, seconds=seconds), what()
        return time.monotonic() - begin

    def destroy(self) -> None:
        """Switch it off and remove all that it was."""
        self._close_doors()
        self.engine.docker("rm", "--force", "--volumes", self.identifier, check=False)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _open_doors(self, ports: list[int]) -> None:
        if not ports:
            return
        command = [sys.executable, "-m", "tests.testbed.doors", str(self.pid), *map(str, ports)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, cwd=TOP, env={**os.environ}
        )
        self.doors.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"

    def _close_doors(self) -> None:
        for process in self.doors:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        self.doors.clear()


if __name__ == "__main__":
    print(fetch_root(TOP / ".cache/deploy"))
