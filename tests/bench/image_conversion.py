"""Images that are converted on their way: a compressed qcow2 to raw, and OVAs to qcow2.

Three comparisons. The conversion alone: qemu-img is the same, so the difference is the work around
it; of an OVA, ours reads the disk inside the archive. All of a run beside the conversion and the
upload alone, as an administrator types them at a file that is there already. And all of a run
beside the whole sequence of cloudkeeper 1.7.1 as commands: download, a digest of each file that is
made, conversion, upload. Memory is that of frontend and backend, not of qemu-img.
"""

from __future__ import annotations

import os
import resource
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cloudkeeper import formats
from cloudkeeper.frontend.conversion import QemuImg
from cloudkeeper.model import Format
from tests.bench import usage
from tests.bench.image_site import MIB, Site, Taken, digest, row, server, started
from tests.bench.usage import Usage
from tests.simulators.image_lists import image

_EXTENT = 16 * MIB
_TIMES_VIRTUAL = 10


@dataclass(frozen=True, slots=True)
class _Peer:
    """Commands that make ``result`` from ``source``: all files are in one directory."""

    tools: str
    convert: str
    look: str = ":"
    """What cloudkeeper does with an archive besides: it lists the members, and hashes the disk."""

    @property
    def whole(self) -> str:
        """The name of the whole sequence, for rows."""
        return f"curl + sha512sum + {self.tools} + sha512sum + curl"


_QEMU_IMG = _Peer("qemu-img", "qemu-img convert -f qcow2 -O raw source result")
_TAR = _Peer(
    "tar x + qemu-img",
    "tar xf source && qemu-img convert -f vmdk -O qcow2 disk.vmdk result",
    "tar tf source && sha512sum disk.vmdk",
)
_UPLOAD = "curl -sS -T result {origin}/upload"


@dataclass(frozen=True, slots=True)
class _Case:
    """A source, the format that the cloud takes, and the commands of the peer."""

    name: str
    file: Path
    into: Format
    commands: _Peer
    site: Site

    @property
    def result(self) -> Path:
        """The file that the peer makes."""
        return self.site.root / "peer/result"

    def peer(self, *commands: str, origin: str = "") -> Usage:
        """Run commands of the peer in a directory that has the source alone."""
        self.clear()
        (self.result.parent / "source").symlink_to(self.file)
        text = " && ".join([f"cd {self.result.parent}", *commands]).format(origin=origin)
        return usage.run(["/bin/bash", "-c", text])

    def clear(self) -> None:
        """Remove the files of the peer."""
        self.result.parent.mkdir(exist_ok=True)
        for path in self.result.parent.iterdir():
            path.unlink()

    def step(self, target: Path) -> Usage:
        """Run our conversion alone."""
        disk = formats.inspect(self.file, formats.detect(self.file, declared=""))
        begin, before = time.perf_counter(), _cpu()
        QemuImg().convert(disk, self.into, target)
        return Usage(time.perf_counter() - begin, _cpu() - before, 0)

    def ours(self, origin: str, sha512: str) -> Taken:
        """Make two runs, of which the first has no image; return what the second took more."""
        with started(server("sink", sha512)) as url, self.site.backend(url) as backend:
            for has_image in (False, False, True):
                self._publish(origin, has_image=has_image)
                if not has_image:
                    idle = self.site.measure(self.site.sync(), backend).used
            found = self.site.measure(self.site.sync(), backend)
        used = found.used
        net = Usage(used.wall - idle.wall, used.cpu - idle.cpu, used.memory)
        return Taken(net, found.frontend, found.backend, found.watched)

    def _publish(self, origin: str, *, has_image: bool) -> None:
        listed = image(
            1,
            uri=f"{origin}/{self.file.name}",
            hv__size=str(self.file.stat().st_size),
            hv__format=self.file.suffix[1:].upper(),
            sl__checksum__sha512=digest("sha512", self.file)[0],
        )
        message = self.site.signed([listed] if has_image else [])
        (self.file.parent / "image.list").write_bytes(message)


def _cpu() -> float:
    found = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in found)


def _compare(case: str, ours: Usage, peer: Usage, words: str) -> None:
    row(f"{case}: CPU", ours.cpu, "s")
    row(f"{words}: CPU", peer.cpu, "s")
    row(f"{case}: CPU", ours.cpu / peer.cpu, f"x {words}")
    row(f"{case}: wall", ours.wall, "s")
    row(f"{words}: wall", peer.wall, "s")
    row(f"{case}: wall", ours.wall / peer.wall, f"x {words}")


def _measure(case: _Case, origin: str) -> None:
    """Run all of a case once."""
    sha512 = _compare_steps(case)
    name, peer = case.name, case.commands
    short = case.peer(peer.convert, _UPLOAD, origin=origin)
    fetch = f"rm source && curl -sS -o source {{origin}}/{case.file.name} && sha512sum source"
    steps = (fetch, peer.convert, peer.look, "sha512sum result", _UPLOAD)
    whole = case.peer(*steps, origin=origin)
    case.clear()
    taken = case.ours(origin, sha512)
    _compare(f"{name}: ours", taken.used, short, f"{peer.tools} + curl")
    _compare(f"{name}: ours", taken.used, whole, peer.whole)
    row(f"{name}: memory of the frontend", taken.frontend, "MiB")
    row(f"{name}: memory of the backend", taken.backend, "MiB")
    _report_disk(case, taken)


def _compare_steps(case: _Case) -> str:
    """Compare the conversions alone, also what they make; return the SHA-512 of ours."""
    target = case.site.root / f"step.{case.into}"
    alone = case.peer(case.commands.convert)
    step = case.step(target)
    _compare(f"{case.name}: conversion alone", step, alone, case.commands.tools)
    subprocess.run(["qemu-img", "compare", "-q", str(case.result), str(target)], check=True)
    sha512, _ = digest("sha512", target)
    target.unlink()
    return sha512


def _report_disk(case: _Case, taken: Taken) -> None:
    found, name = taken.watched, case.name
    source, result = case.file.stat().st_size, found.on_disk[str(case.into)]
    row(f"{name}: source", source / MIB, "MiB")
    row(f"{name}: result", found.longest / MIB, "MiB long")
    row(f"{name}: result", result / MIB, "MiB on the disk")
    row(f"{name}: most of the disk", found.disk / MIB, "MiB")
    row(f"{name}: most of the disk", found.disk / (source + result), "x source + result")


def _some_blocks(size: int) -> Iterator[bytes]:
    """Yield MiBs that deflate to about a half everywhere, as programs do."""
    plain = bytes(range(256))
    for _ in range(size):
        noise = os.urandom(MIB // 2)
        yield b"".join(noise[at : at + 256] + plain for at in range(0, MIB // 2, 256))


def _make_qcow2(path: Path, size: int) -> None:
    """Make a compressed qcow2 of about ``size`` MiB whose disk has ten times as many."""
    raw = path.with_suffix(".raw")
    with raw.open("wb") as file:
        # Twice the bytes, spread over the whole disk, with holes between.
        for number, block in enumerate(_some_blocks(2 * size)):
            at = number * MIB
            file.seek(at % _EXTENT + at // _EXTENT * _EXTENT * _TIMES_VIRTUAL // 2)
            file.write(block)
        file.truncate(size * MIB * _TIMES_VIRTUAL)
    _convert(raw, path, "-c", "-O", "qcow2")


def _make_ova(path: Path, size: int, kind: str) -> None:
    """Make an OVA of about ``size`` MiB: a description and a VMDK, compressed or not."""
    raw, is_compressed = path.with_name("disk.raw"), kind == "streamOptimized"
    with raw.open("wb") as file:
        file.writelines(_some_blocks(size * 2 if is_compressed else size))
    _convert(raw, path.with_name("disk.vmdk"), "-O", "vmdk", "-o", f"subformat={kind}")
    path.with_name("disk.ovf").write_text("<Envelope/>")
    command = ["tar", "-C", str(path.parent), "--format=ustar", "-cf", str(path)]
    subprocess.run([*command, "disk.ovf", "disk.vmdk"], check=True)
    path.with_name("disk.vmdk").unlink()


def _convert(raw: Path, path: Path, *options: str) -> None:
    subprocess.run(["qemu-img", "convert", "-f", "raw", *options, str(raw), str(path)], check=True)
    raw.unlink()


def measure(root: Path, *, size: int, times: int) -> None:
    """Measure a compressed qcow2 of ``size`` MiB that becomes raw."""
    site = Site.create(root, {"ops": "one"})
    file = root / "web/image.qcow2"
    _make_qcow2(file, size)
    _run([_Case("qcow2 to raw", file, Format.RAW, _QEMU_IMG, site)], times)


def measure_ova(root: Path, *, size: int, times: int) -> None:
    """Measure OVAs of a quarter of ``size`` MiB that become qcow2."""
    site, cases = Site.create(root, {"ops": "one"}), []
    for kind in ("monolithicSparse", "streamOptimized"):
        file = root / f"web/{kind}.ova"
        _make_ova(file, size // 4, kind)
        cases.append(_Case(f"OVA ({kind}) to qcow2", file, Format.QCOW2, _TAR, site))
    _run(cases, times)


def _run(cases: Sequence[_Case], times: int) -> None:
    site, into = cases[0].site, cases[0].into
    with started(server("origin", str(site.root / "web"))) as origin:
        site.configure(f"{origin}/image.list", formats=str(into))
        for case in [*cases] * times:
            _measure(case, origin)
