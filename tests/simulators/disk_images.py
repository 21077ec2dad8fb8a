"""Disk images, good and bad: made by qemu-img and tar, or altered and written by hand.

All good ones hold the same disk, `CONTENT`.
"""

from __future__ import annotations

import io
import struct
import subprocess
import tarfile
from functools import cache
from pathlib import Path

import pytest

SIZE = 4 * 2**20
# One partition: Glance refuses a boot sector without any.
_MBR = bytes(446) + struct.pack("<BBHBBHII", 0x80, 0, 2, 0x83, 0, 3, 1, 8191) + bytes(48)
CONTENT = (_MBR + b"\x55\xaa" + b"data of a disk.." * 4096).ljust(SIZE, b"\0")
_GPT = struct.pack("<BBHBBHII", 0, 0, 2, 0xEE, 0xFF, 0xFFFF, 1, 8191)

# By name: qemu-img's arguments for a conversion of `CONTENT`.
_MADE = {
    "v2.qcow2": ["qcow2", "-o", "compat=0.10"],
    "v3.qcow2": ["qcow2"],
    "zlib.qcow2": ["qcow2", "-c"],
    "zstd.qcow2": ["qcow2", "-c", "-o", "compression_type=zstd"],
    "small.qcow2": ["qcow2", "-o", "cluster_size=512"],
    "large.qcow2": ["qcow2", "-o", "cluster_size=2M"],
    "lazy.qcow2": ["qcow2", "-o", "lazy_refcounts=on"],
    "metadata.qcow2": ["qcow2", "-o", "preallocation=metadata"],
    "extended.qcow2": ["qcow2", "-o", "extended_l2=on"],
    "sparse.vmdk": ["vmdk", "-o", "subformat=monolithicSparse"],
    "stream.vmdk": ["vmdk", "-o", "subformat=streamOptimized"],
    "compat6.vmdk": ["vmdk", "-o", "compat6=on"],
    "flat.vmdk": ["vmdk", "-o", "subformat=monolithicFlat"],
    "split.vmdk": ["vmdk", "-o", "subformat=twoGbMaxExtentSparse"],
    "dynamic.vdi": ["vdi"],
    "static.vdi": ["vdi", "-o", "static=on"],
    "dynamic.vhd": ["vpc", "-o", "force_size=on"],
    "fixed.vhd": ["vpc", "-o", "subformat=fixed,force_size=on"],
    "dynamic.vhdx": ["vhdx"],
    "fixed.vhdx": ["vhdx", "-o", "subformat=fixed"],
    "disk.qed": ["qed"],
    "old.qcow": ["qcow"],
    "disk.parallels": ["parallels"],
}


class DiskImages:
    """Images in a directory, each made when it is first asked for."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.read = cache(self._read)
        (directory / "disk.raw").write_bytes(CONTENT)

    def _read(self, name: str) -> bytes:
        path = self.directory / name
        if name in _MADE:
            self.run("convert", "-f", "raw", "-O", *_MADE[name], "disk.raw", name)
        elif name == "backed.qcow2":
            self.read("v3.qcow2")
            self.run("create", "-f", "qcow2", "-b", "v3.qcow2", "-F", "qcow2", name)
        elif name == "outside.qcow2":
            self.run("create", "-f", "qcow2", "-o", "data_file=data.raw", name, "4M")
        elif name == "child.vmdk":
            self.read("sparse.vmdk")
            self.run("create", "-f", "vmdk", "-b", "sparse.vmdk", "-F", "vmdk", name)
        elif name == "snapshot.qcow2":
            path.write_bytes(self.read("v3.qcow2"))
            self.run("snapshot", "-c", "one", name)
        elif name in {"secret.qcow2", "luks.qcow2", "disk.luks"}:
            self._encrypt(name)
        return path.read_bytes()

    def run(self, *arguments: str) -> None:
        """Run qemu-img in the directory."""
        command = ["qemu-img", *arguments]
        subprocess.run(command, check=True, capture_output=True, cwd=self.directory)

    def _encrypt(self, name: str) -> None:
        (self.directory / "secret").write_text("0123456789abcdef")
        secret = ("--object", "secret,id=s,file=secret")
        if name == "disk.luks":
            # Two rounds: the usual second of key derivation proves nothing here.
            luks = ("-f", "luks", "-o", "key-secret=s,iter-time=10")
            self._run_measuring("create", *secret, *luks, name, "4M")
            return
        kind = "luks,encrypt.iter-time=10" if name == "luks.qcow2" else "aes"
        options = f"encrypt.key-secret=s,encrypt.format={kind}"
        self._run_measuring("create", *secret, "-f", "qcow2", "-o", options, name, "4M")

    def _run_measuring(self, *arguments: str) -> None:
        """Run qemu-img where it measures the processor, which the kernel counts too coarsely."""
        for _ in range(20):
            try:
                return self.run(*arguments)
            except subprocess.CalledProcessError as error:
                if b"accurate CPU usage" not in error.stderr:
                    raise
        pytest.fail("qemu-img could not measure the processor in 20 attempts")

    def altered(self, name: str, *changes: tuple[int, bytes]) -> bytes:
        """Return an image with other bytes at some positions, from its end if negative."""
        content = bytearray(self.read(name))
        for at, new in changes:
            start = at % len(content)
            content[start : start + len(new)] = new
        return bytes(content)

    def described(self, *changes: tuple[bytes, bytes], name: str = "sparse.vmdk") -> bytes:
        """Return a VMDK with another descriptor."""
        content = bytearray(self.read(name))
        text = bytes(content[512 : 512 + 20 * 512]).split(b"\0")[0]
        for old, new in changes:
            assert old in text
            text = text.replace(old, new, 1)
        content[512 : 512 + 20 * 512] = text.ljust(20 * 512, b"\0")
        return bytes(content)

    def with_footer(self, *changes: tuple[int, bytes]) -> bytes:
        """Return a VMDK whose header refers to a footer, which may differ from the header."""
        content = bytearray(self.read("stream.vmdk"))
        footer = bytearray(content[:512])
        for at, new in changes:
            footer[at : at + len(new)] = new
        content[56:64] = b"\xff" * 8
        marker = struct.pack("<QII", 1, 0, 3).ljust(512, b"\0")
        return bytes(content + marker + footer + bytes(512))

    def dynamic_vhd(self, *changes: tuple[int, bytes], second: bool = False) -> bytes:
        """Return a dynamic VHD with a changed footer, or ``second`` header, of right checksum."""
        content = bytearray(self.read("dynamic.vhd"))
        part = bytearray(content[512:1536] if second else content[:512])
        for at, new in changes:
            part[at : at + len(new)] = new
        checksum = 36 if second else 64
        part[checksum : checksum + 4] = bytes(4)
        part[checksum : checksum + 4] = struct.pack(">I", ~sum(part) & 0xFFFFFFFF)
        if second:
            content[512:1536] = part
        else:
            content[:512] = content[-512:] = part
        return bytes(content)


def gpt_disk() -> bytes:
    """Return a raw disk with a protective boot record."""
    content = bytearray(CONTENT)
    content[446:462] = _GPT
    content[512:520] = b"EFI PART"
    return bytes(content)


def hybrid_record() -> bytes:
    """Return a raw disk whose boot record has another partition beside the protective one."""
    content = bytearray(gpt_disk())
    content[462:478] = struct.pack("<BBHBBHII", 0, 0, 2, 0x83, 0, 3, 1, 8191)
    return bytes(content)


def iso(*, is_hybrid: bool = False) -> bytes:
    """Return an ISO 9660 image of 1 MiB: a volume descriptor and the end of the descriptors."""
    sectors = 512
    descriptor = bytearray(b"\x01CD001\x01".ljust(2048, b"\0"))
    descriptor[80:88] = struct.pack("<I", sectors) + struct.pack(">I", sectors)
    descriptor[128:132] = struct.pack("<H", 2048) + struct.pack(">H", 2048)
    start = CONTENT[:512].ljust(32768, b"\0") if is_hybrid else bytes(32768)
    end = b"\xffCD001\x01".ljust(2048, b"\0")
    return (start + descriptor + end).ljust(sectors * 2048, b"\0")


def archive(
    *members: tuple[str, bytes | str], layout: int = tarfile.USTAR_FORMAT, kind: bytes = b""
) -> bytes:
    """Return a TAR of files (bytes), symbolic links (text: the target), directories (``…/``).

    ``kind`` is the type of the last member.
    """
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=layout) as file:
        for number, (name, content) in enumerate(members, start=1):
            member = tarfile.TarInfo(name)
            if kind and number == len(members):
                member.type = kind
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
            elif name.endswith("/"):
                member.type = tarfile.DIRTYPE
            else:
                member.size = len(content)
            file.addfile(member, io.BytesIO(content if isinstance(content, bytes) else b""))
    return made.getvalue()
