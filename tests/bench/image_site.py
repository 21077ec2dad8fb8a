"""A site for benches of images: its configuration, its backend, and what both programs take."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tests.bench import usage
from tests.bench.usage import Usage
from tests.simulators.image_lists import image_list, sign
from tests.testbed.pki import AUTHORITY_DN, HOST_DN, Authority, Credential

MIB = 2**20
TOP = Path(__file__).resolve().parents[2]
PROGRAMS = Path(sys.prefix) / "bin"
_SIGNER = "lists.example.org"
_BACKEND = """\
[DEFAULT]
image_dir = {root}/images
mapping_file = {root}/mapping.json
remote_hosts = 127.0.0.1
[keystone_authtoken]
auth_url = {url}/v3
password = p
"""
_FRONTEND = """\
cloudkeeper:
  ca-dir: {root}/certificates
  image-dir: {root}/images
  lock-file: {root}/lock
{lists}  logging: {{file: "", level: WARN}}
  formats: [{formats}]
"""


class Used(Protocol):
    """A backend whose CPU and memory count."""

    @property
    def cpu(self) -> float: ...

    @property
    def memory(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Backend:
    """A running `cloudkeeper-os`."""

    process: int

    @property
    def cpu(self) -> float:
        """Seconds of CPU up to now, with those of its children."""
        return usage.cpu_of(self.process)

    @property
    def memory(self) -> float:
        """MiB of memory at the most."""
        return usage.high_water_mark(self.process)


@dataclass(slots=True)
class Watched:
    """What the image directory had at the most: bytes on the disk, and the length of a file."""

    disk: int = 0
    longest: int = 0
    on_disk: dict[str, int] = field(default_factory=dict)
    """Bytes on the disk, by what follows the first dot of a file's name."""

    def note(self, directory: Path) -> None:
        """Look at the directory once."""
        taken = 0
        for path in directory.iterdir():
            with contextlib.suppress(FileNotFoundError):
                found = path.stat()
                blocks = found.st_blocks * 512
                taken += blocks
                self.longest = max(self.longest, found.st_size)
                end = path.name.partition(".")[2]
                self.on_disk[end] = max(blocks, self.on_disk.get(end, 0))
        self.disk = max(self.disk, taken)


@dataclass(frozen=True, slots=True)
class Taken:
    """What a run of the frontend took, with the backend's part in ``used``."""

    used: Usage
    frontend: float
    """MiB of memory at the most."""
    backend: float
    """MiB of memory at the most."""
    watched: Watched


@dataclass(frozen=True, slots=True)
class Site:
    """The places of our programs, and an authority that signs lists."""

    root: Path
    authority: Authority
    signer: Credential

    @classmethod
    def create(cls, root: Path, projects: Mapping[str, str]) -> Site:
        """Make the directories, the certificates and the mapping of VOs to projects."""
        for name in ("images", "web", "etc"):
            (root / name).mkdir()
        authority = Authority.create(root / "ca", key="ec")
        authority.publish(root / "certificates")
        mapping = {vo: {"project": project} for vo, project in projects.items()}
        (root / "mapping.json").write_text(json.dumps(mapping))
        return cls(root, authority, authority.issue(_SIGNER, key="ec"))

    @property
    def socket(self) -> Path:
        """The backend's socket."""
        return self.root / "s"

    @property
    def endpoint(self) -> str:
        """The backend's endpoint."""
        return f"unix://{self.socket}"

    def configure(self, *lists: str, formats: str = "qcow2") -> None:
        """Write the frontend's configuration."""
        line = f"  image-lists: [{', '.join(lists)}]\n" if lists else ""
        text = _FRONTEND.format(root=self.root, lists=line, formats=formats)
        (self.root / "cloudkeeper.yml").write_text(text)

    def signed(self, images: Sequence[Mapping[str, object]], **changes: str) -> bytes:
        """Return a signed list of images."""
        dn = f"{HOST_DN}/CN={_SIGNER}"
        return sign(image_list(images, dn=dn, ca=AUTHORITY_DN, **changes), self.signer)

    def sync(self, *flags: str) -> list[str]:
        """Return the command of a frontend's run."""
        config = ["--root", str(self.root), "--config", str(self.root / "cloudkeeper.yml")]
        program = str(PROGRAMS / "cloudkeeper")
        return [program, "sync", *config, "--backend-endpoint", self.endpoint, *flags]

    def measure(self, command: Sequence[str], backend: Used) -> Taken:
        """Run a frontend; return what both programs took."""
        before = backend.cpu
        with self.watched() as watched:
            used = usage.run(command)
        whole = Usage(used.wall, used.cpu + backend.cpu - before, used.memory)
        return Taken(whole, used.memory, backend.memory, watched)

    def configure_backend(self, url: str) -> Path:
        """Write the configuration of a backend whose Keystone is at a URL; return its path."""
        config = self.root / "cloudkeeper-os.conf"
        config.touch(mode=0o600)
        config.write_text(_BACKEND.format(root=self.root, url=url))
        return config

    @contextlib.contextmanager
    def backend(self, url: str) -> Iterator[Backend]:
        """Run a backend whose Keystone is at a URL."""
        config = self.configure_backend(url)
        program = [str(PROGRAMS / "cloudkeeper-os"), "--root", str(self.root)]
        flags = ["--config-file", str(config), "--grpc-socket", str(self.socket)]
        with (
            (self.root / "backend.log").open("ab") as log,
            subprocess.Popen([*program, *flags], stdout=log, stderr=log) as process,
        ):
            try:
                self._wait(process)
                yield Backend(process.pid)
            finally:
                process.send_signal(signal.SIGTERM)

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + 30
        with socket.socket(socket.AF_UNIX) as probe:
            while probe.connect_ex(str(self.socket)):
                if process.poll() is not None or time.monotonic() > deadline:
                    sys.exit((self.root / "backend.log").read_text())
                time.sleep(0.05)

    @contextlib.contextmanager
    def watched(self) -> Iterator[Watched]:
        """Watch the files in the image directory."""
        found, is_over = Watched(), threading.Event()

        def watch() -> None:
            while not is_over.wait(0.02):
                found.note(self.root / "images")

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield found
        finally:
            is_over.set()
            thread.join()


@contextlib.contextmanager
def started(command: list[str]) -> Iterator[str]:
    """Run a server; yield the URL that it prints."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=TOP) as process:
        assert process.stdout
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def server(*arguments: str) -> list[str]:
    """Return the command of one of `tests.bench.image_servers`."""
    return [sys.executable, "-m", "tests.bench.image_servers", *arguments]


def digest(algorithm: str, path: Path) -> tuple[str, Usage]:
    """Return a digest by openssl, and what it took to compute it."""
    command = ["/usr/bin/openssl", "dgst", f"-{algorithm}", str(path)]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]
    return found, usage.run(command)


def row(case: str, value: float, unit: str) -> None:
    """Print one figure."""
    print(f"images\t{case}\t{value:.2f}\t{unit}", flush=True)
