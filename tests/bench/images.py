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
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tests.bench import image_conversion, image_unchanged, usage
from tests.bench.image_site import MIB, Backend, Site, Taken, digest, row, server, started
from tests.bench.usage import Usage
from tests.simulators.image_lists import image

_PIPELINE = """\
set -o pipefail
rm -f {root}/fifo
mkfifo {root}/fifo
sha512sum <{root}/fifo >{root}/sum &
curl -sS {origin}/image.qcow2 | tee {root}/fifo | curl -sS -T - {origin}/upload
wait $!
"""
_LARGE = 10 * 1024
"""MiB of the image of the case ``large``."""


class NoBackend(contextlib.AbstractContextManager["NoBackend"]):
    """The backend of direct mode, which is part of the frontend's process."""

    cpu = memory = 0.0

    def __exit__(self, *_: object) -> None: ...


NO_BACKEND = NoBackend()


@dataclass(frozen=True, slots=True)
class Bench:
    """A file, the web server that has it, and the site of our programs."""

    site: Site
    file: Path
    digests: dict[str, str]
    origin: str

    def publish(self, *, has_image: bool) -> None:
        """Sign a list with one image, or none."""
        listed = image(
            1,
            uri=f"{self.origin}/image.qcow2",
            hv__size=str(self.file.stat().st_size),
            sl__checksum__sha512=self.digests["sha512"],
        )
        message = self.site.signed([listed] if has_image else [])
        (self.file.parent / "image.list").write_bytes(message)

    def frontend(self, way: str, *, has_image: bool) -> list[str]:
        """Return the command of a frontend's run, with the image or without."""
        if way in ("list", "direct"):
            self.publish(has_image=has_image)
            config = self.site.root / "cloudkeeper-os.conf"
            direct = ("--backend-endpoint", "direct", "--backend-config-file", str(config))
            return self.site.sync(*(direct if way == "direct" else ()))
        size = self.file.stat().st_size if has_image else 0
        url, digest = f"{self.origin}/image.qcow2", self.digests["sha256"]
        arguments = [way, url, digest, str(size), self.site.endpoint, str(self.site.root)]
        return [sys.executable, "-m", "tests.bench.image_sender", *arguments]

    def measure(self, way: str) -> Taken:
        """Return what an image took, without start-up."""
        with (
            started(server("sink", self.digests["sha512"])) as url,
            self._backend(way, url) as backend,
        ):
            for _ in range(2):
                idle = self.site.measure(self.frontend(way, has_image=False), backend).used
            found = self.site.measure(self.frontend(way, has_image=True), backend)
        used = found.used
        net = Usage(used.wall - idle.wall, used.cpu - idle.cpu, used.memory)
        return replace(found, used=net)

    def _backend(
        self, way: str, url: str
    ) -> contextlib.AbstractContextManager[Backend | NoBackend]:
        if way != "direct":
            return self.site.backend(url)
        self.site.configure_backend(url)
        return NO_BACKEND


def make_file(path: Path, size: int) -> None:
    """Make a qcow2 of random data, so that it has no holes."""
    raw = path.with_suffix(".raw")
    with raw.open("wb") as file:
        file.writelines(os.urandom(MIB) for _ in range(size))
    command = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(path)]
    subprocess.run(command, check=True)
    raw.unlink()


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
        ["/bin/bash", "-c", _PIPELINE.format(root=bench.site.root, origin=bench.origin)]
    )
    assert (bench.site.root / "sum").read_text().split()[0] == bench.digests["sha512"]
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
        taken = bench.measure(way)
        report(name, taken.used, floor=floor, pipeline=pipeline, gib=gib)
        report_memory(name, taken)


def report_memory(name: str, taken: Taken) -> None:
    """Print the rows of a case about memory and files."""
    row(f"{name}: memory of the frontend", taken.frontend, "MiB")
    if taken.backend:
        row(f"{name}: memory of the backend", taken.backend, "MiB")
    row(f"{name}: temporary files", taken.watched.disk / MIB, "MiB")


@contextlib.contextmanager
def opened(root: Path, make: Callable[[Path], None]) -> Iterator[Bench]:
    """Make a site and the file, and serve the file during the block."""
    site, file = Site.create(root, {"ops": "one"}), root / "web/image.qcow2"
    make(file)
    with started(server("origin", str(file.parent))) as url:
        site.configure(f"{url}/image.list")
        yield Bench(site, file, {name: digest(name, file)[0] for name in ("sha512", "sha256")}, url)


def measure_stream(root: Path, *, size: int, times: int) -> None:
    """Measure an image of ``size`` MiB in all ways."""
    with opened(root, lambda path: make_file(path, size)) as bench:
        for _ in range(times):
            measure(bench)


def make_large(path: Path) -> None:
    """Make a qcow2 whose file is long, and has nearly no blocks on the disk."""
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata"]
    subprocess.run([*command, str(path), f"{_LARGE}M"], check=True)


def measure_large(root: Path, *, size: int, times: int) -> None:
    """Measure memory and files of an image of 10 GiB through the backend."""
    del size
    with opened(root, make_large) as bench:
        row("10 GiB: length of the file", bench.file.stat().st_size / MIB, "MiB")
        for way, name in (("list", "from a list"), ("stream", "as from a registry")):
            for _ in range(times):
                taken = bench.measure(way)
                row(f"10 GiB, {name}: CPU", taken.used.cpu, "s")
                row(f"10 GiB, {name}: wall", taken.used.wall, "s")
                report_memory(f"10 GiB, {name}", taken)


_CASES: dict[str, tuple[Callable[..., None], str]] = {
    "stream": (measure_stream, "an image that passes without a conversion"),
    "large": (measure_large, "memory and files of an image of 10 GiB"),
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
