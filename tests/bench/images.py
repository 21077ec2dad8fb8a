"""Figures of an image that passes from a web server to Glance without a conversion.

Rows are ``images case value unit``. All cases run one after the other on the same file, beside
``openssl dgst -sha512`` of it and the pipeline ``curl | tee >(sha512sum) | curl``, whose children
are all waited for. The web server speaks plain HTTP, and Glance is a sink that drops the data
(`tests.bench.image_servers`). CPU is that of all our processes, or of the whole pipeline; of ours
the start-up is taken off, as a run without an image has it. The cases of a registry have its
digest, SHA-256, so that the backend computes two, over the same plain HTTP. In direct mode there is
one process, which is frontend and backend.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bench import image_conversion, image_unchanged, usage
from tests.bench.usage import Usage
from tests.simulators.image_lists import image, image_list, sign
from tests.testbed.pki import AUTHORITY_DN, HOST_DN, Authority, Credential

MIB = 2**20
TOP = Path(__file__).resolve().parents[2]
_PROGRAMS = Path(sys.prefix) / "bin"
_CLOCK = os.sysconf("SC_CLK_TCK")
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
  image-lists: [{origin}/image.list]
  logging: {{file: "", level: WARN}}
  formats: [qcow2]
"""
_PIPELINE = """\
set -o pipefail
rm -f {root}/fifo
mkfifo {root}/fifo
sha512sum <{root}/fifo >{root}/sum &
curl -sS {origin}/image.qcow2 | tee {root}/fifo | curl -sS -T - {origin}/upload
wait $!
"""


@dataclass(frozen=True, slots=True)
class Backend:
    """A running `cloudkeeper-os`."""

    process: int

    @property
    def cpu(self) -> float:
        """Seconds of CPU up to now."""
        fields = Path(f"/proc/{self.process}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _CLOCK

    @property
    def memory(self) -> float:
        """MiB of memory at the most."""
        lines = Path(f"/proc/{self.process}/status").read_text().splitlines()
        found = next(line for line in lines if line.startswith("VmHWM"))
        return int(found.split()[1]) / 1024


class NoBackend(contextlib.AbstractContextManager["NoBackend"]):
    """The backend of direct mode, which is part of the frontend's process."""

    cpu = memory = 0.0

    def __exit__(self, *_: object) -> None: ...


NO_BACKEND = NoBackend()


@dataclass(frozen=True, slots=True)
class Bench:
    """A file, the web server that has it, and the places of our programs."""

    root: Path
    file: Path
    digests: dict[str, str]
    origin: str
    signer: Credential

    @property
    def socket(self) -> Path:
        """The backend's socket."""
        return self.root / "s"

    def publish(self, *, has_image: bool) -> None:
        """Sign a list with one image, or none."""
        listed = image(
            1,
            uri=f"{self.origin}/image.qcow2",
            hv__size=str(self.file.stat().st_size),
            sl__checksum__sha512=self.digests["sha512"],
        )
        dn = f"{HOST_DN}/CN=lists.example.org"
        document = image_list([listed] if has_image else [], dn=dn, ca=AUTHORITY_DN)
        (self.file.parent / "image.list").write_bytes(sign(document, self.signer))

    def frontend(self, way: str, *, has_image: bool) -> list[str]:
        """Return the command of a frontend's run, with the image or without."""
        endpoint = f"unix://{self.socket}"
        if way in ("list", "direct"):
            self.publish(has_image=has_image)
            config = ["--root", str(self.root), "--config", str(self.root / "cloudkeeper.yml")]
            flags = ["--backend-endpoint", endpoint if way == "list" else "direct"]
            if way == "direct":
                flags += ["--backend-config-file", str(self.root / "cloudkeeper-os.conf")]
            return [str(_PROGRAMS / "cloudkeeper"), "sync", *config, *flags]
        size = self.file.stat().st_size if has_image else 0
        url, digest = f"{self.origin}/image.qcow2", self.digests["sha256"]
        arguments = [way, url, digest, str(size), endpoint, str(self.root)]
        return [sys.executable, "-m", "tests.bench.image_sender", *arguments]

    def measure(self, way: str) -> tuple[Usage, float, float, int]:
        """Return what an image took without start-up, the memories, and the bytes on the disk."""
        with self._cloud(), NO_BACKEND if way == "direct" else self._backend() as backend:
            used = usage.run(self.frontend(way, has_image=False))
            before = backend.cpu
            idle = usage.run(self.frontend(way, has_image=False))
            middle = backend.cpu
            with self._watched() as most:
                used = usage.run(self.frontend(way, has_image=True))
            cpu = used.cpu - idle.cpu + backend.cpu - middle - (middle - before)
            taken = Usage(used.wall - idle.wall, cpu, used.memory)
            return taken, used.memory, backend.memory, max(most)

    @contextlib.contextmanager
    def _cloud(self) -> Iterator[None]:
        """Start a cloud, and write the backend's configuration for it."""
        sink = [sys.executable, "-m", "tests.bench.image_servers", "sink", self.digests["sha512"]]
        with started(sink) as url:
            config = self.root / "cloudkeeper-os.conf"
            config.touch(mode=0o600)
            config.write_text(_BACKEND.format(root=self.root, url=url))
            yield

    @contextlib.contextmanager
    def _backend(self) -> Iterator[Backend]:
        program = [str(_PROGRAMS / "cloudkeeper-os"), "--root", str(self.root)]
        config = str(self.root / "cloudkeeper-os.conf")
        flags = ["--config-file", config, "--grpc-socket", str(self.socket)]
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
    def _watched(self) -> Iterator[list[int]]:
        """Watch the size of the files in the image directory."""
        found, is_over = [0], threading.Event()

        def watch() -> None:
            while not is_over.wait(0.02):
                with contextlib.suppress(FileNotFoundError):
                    found.append(sum(one.stat().st_size for one in self._images()))

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield found
        finally:
            is_over.set()
            thread.join()

    def _images(self) -> list[Path]:
        return list((self.root / "images").iterdir())


@contextlib.contextmanager
def started(command: list[str]) -> Iterator[str]:
    """Run a server; yield the URL that it prints."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=TOP) as process:
        assert process.stdout
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def make_file(path: Path, size: int) -> None:
    """Make a qcow2 of random data, so that it has no holes."""
    raw = path.with_suffix(".raw")
    with raw.open("wb") as file:
        file.writelines(os.urandom(MIB) for _ in range(size))
    command = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(path)]
    subprocess.run(command, check=True)
    raw.unlink()


def digest(algorithm: str, path: Path) -> tuple[str, Usage]:
    """Return a digest by openssl, and what it took to compute it."""
    command = ["/usr/bin/openssl", "dgst", f"-{algorithm}", str(path)]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]
    return found, usage.run(command)


def row(case: str, value: float, unit: str) -> None:
    """Print one figure."""
    print(f"images\t{case}\t{value:.2f}\t{unit}", flush=True)


def report(case: str, used: Usage, *, floor: Usage, pipeline: Usage, gib: float) -> None:
    """Print the rows of a case."""
    row(f"{case}: CPU", used.cpu / gib, "s/GiB")
    row(f"{case}: CPU", used.cpu / floor.cpu, "x openssl dgst -sha512")
    row(f"{case}: wall", used.wall / gib, "s/GiB")
    row(f"{case}: wall", used.wall / pipeline.wall, "x curl | tee | curl")


def measure(bench: Bench) -> None:
    """Run all cases once."""
    gib = bench.file.stat().st_size / 2**30
    _, floor = digest("sha512", bench.file)
    pipeline = usage.run(
        ["/bin/bash", "-c", _PIPELINE.format(root=bench.root, origin=bench.origin)]
    )
    assert (bench.root / "sum").read_text().split()[0] == bench.digests["sha512"]
    row("load of the machine", os.getloadavg()[0], "processes")
    report("openssl dgst -sha512", floor, floor=floor, pipeline=pipeline, gib=gib)
    report("curl | tee >(sha512sum) | curl", pipeline, floor=floor, pipeline=pipeline, gib=gib)
    names = {
        "list": "ours, from a list",
        "stream": "ours, as from a registry",
        "direct": "ours, from a list, in direct mode",
        "alone": "ours, the backend alone, as from a registry",
    }
    for way, name in names.items():
        used, frontend, backend, most = bench.measure(way)
        report(name, used, floor=floor, pipeline=pipeline, gib=gib)
        row(f"{name}: memory of the frontend", frontend, "MiB")
        if backend:
            row(f"{name}: memory of the backend", backend, "MiB")
        row(f"{name}: temporary files", most / MIB, "MiB")


def measure_stream(root: Path, *, size: int, times: int) -> None:
    """Make the file and the site, and measure."""
    for name in ("images", "web", "etc"):
        (root / name).mkdir()
    authority = Authority.create(root / "ca", key="ec")
    authority.publish(root / "certificates")
    file = root / "web/image.qcow2"
    make_file(file, size)
    (root / "mapping.json").write_text(json.dumps({"ops": {"project": "one"}}))
    origin = [sys.executable, "-m", "tests.bench.image_servers", "origin", str(root / "web")]
    with started(origin) as url:
        (root / "cloudkeeper.yml").write_text(_FRONTEND.format(root=root, origin=url))
        digests = {name: digest(name, file)[0] for name in ("sha512", "sha256")}
        signer = authority.issue("lists.example.org", key="ec")
        bench = Bench(root, file, digests, url, signer)
        for _ in range(times):
            measure(bench)


_CASES: dict[str, tuple[Callable[..., None], str]] = {
    "stream": (measure_stream, "an image that passes without a conversion"),
    "conversion": (image_conversion.measure, "a compressed qcow2 for a cloud that takes raw"),
    "ova": (image_conversion.measure_ova, "OVAs for a cloud that takes qcow2"),
    "unchanged": (image_unchanged.measure, "1 000 images of 20 lists, none of which has changed"),
    "registry": (image_unchanged.measure_registry, "200 artefacts, none of which has changed"),
}


def main() -> None:
    """Run the cases, each at a site of its own."""
    cases = "\n".join(f"  {name:12}{words}" for name, (_, words) in _CASES.items())
    parser = argparse.ArgumentParser(
        prog="scripts/bench images",
        description=__doc__,
        epilog=f"cases:\n{cases}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "cases", nargs="*", metavar="CASE", help="what to measure (default: stream)"
    )
    parser.add_argument("--size", type=int, default=1024, help="MiB of an image (default: 1024)")
    parser.add_argument("--times", type=int, default=1, help="runs of each case (default: 1)")
    wanted = parser.parse_args()
    if unknown := set(wanted.cases) - _CASES.keys():
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    for case in wanted.cases or ["stream"]:
        root = Path(tempfile.mkdtemp(prefix="i"))
        try:
            _CASES[case][0](root, size=wanted.size, times=wanted.times)
        finally:
            shutil.rmtree(root)


if __name__ == "__main__":
    main()
