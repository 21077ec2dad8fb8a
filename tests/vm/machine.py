"""A virtual machine of the image, under QEMU: its disk, its user data, its console, its power.

It is emulated (TCG), because a host's /dev/kvm may be there and not work. Its disk is an overlay of
the image, which stays as it is. The host reaches ports of it on the loopback; the machine reaches
nothing, or with ``reaches_host`` the host at 10.0.2.2, where the services of the test bed listen.
"""

from __future__ import annotations

import enum
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.testbed.patience import CEILING, Patience

HOST = "10.0.2.2"
"""The host, as a machine of QEMU's user network sees it."""
USER = "debian"
LDAP, SSH = 2170, 22
_OVMF = Path("/usr/share/OVMF")
_VARIABLES = "variables.fd"
_IDLE = 600.0
"""Seconds without a new byte on the console, after which a machine hangs."""
_OPTIONS = (
    *("-o", "BatchMode=yes", "-o", "ConnectTimeout=20", "-o", "LogLevel=ERROR"),
    *("-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=8"),
)


class Firmware(enum.StrEnum):
    """The program that starts the loader."""

    BIOS = "bios"
    UEFI = "uefi"


@dataclass(frozen=True, slots=True)
class Hardware:
    """What a machine has."""

    firmware: Firmware = Firmware.BIOS
    memory: int = 2048
    """MB."""
    disk: str = ""
    """Its size, such as 12G; empty for that of the image."""
    volumes: Sequence[Path] = ()
    """Further disks (raw), which it sees as /dev/vdb, /dev/vdc …"""
    reaches_host: bool = False
    has_network: bool = True


@dataclass(slots=True)
class VirtualMachine:
    """A machine in a directory of its own; ``boot`` switches it on."""

    directory: Path
    image: Path
    hardware: Hardware = field(default_factory=Hardware)
    process: subprocess.Popen[bytes] | None = None
    ports: Mapping[int, int] = field(default_factory=dict)
    """By port of the machine, the port of the host's loopback."""
    has_seed: bool = False

    @property
    def console(self) -> str:
        """Return what all boots have written to the serial console, without terminal controls."""
        data = b"".join(path.read_bytes() for path in self._consoles())
        return data.decode(errors="replace").replace("\r", "")

    @property
    def key(self) -> Path:
        """Return the private key of the person who logs in."""
        return self.directory / "key"

    def give(self, user_data: str, *, instance: str = "one") -> None:
        """Hand over user data, and a key for ssh, by a drive of the data source NoCloud."""
        if not self.key.exists():
            made = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key)]
            subprocess.run(made, check=True)
        public = self.key.with_suffix(".pub").read_text().strip()
        seed = self.directory / "seed"
        seed.mkdir(exist_ok=True)
        meta = {"instance-id": instance, "local-hostname": "fedcloud", "public-keys": [public]}
        (seed / "meta-data").write_text(json.dumps(meta))
        (seed / "user-data").write_text(user_data)
        drive = self.directory / "seed.iso"
        drive.unlink(missing_ok=True)
        command = ["xorriso", "-as", "mkisofs", "-quiet", "-V", "cidata", "-J", "-r", "-o"]
        subprocess.run([*command, str(drive), str(seed)], check=True, capture_output=True)
        self.has_seed = True

    def boot(self) -> None:
        """Switch it on; what it says goes to the next file of its console."""
        overlay = self.directory / "disk.qcow2"
        if not overlay.exists():
            size = [self.hardware.disk] if self.hardware.disk else []
            form = ["-f", "qcow2", "-F", "qcow2", "-b", str(self.image.resolve())]
            made = ["qemu-img", "create", "-q", *form, str(overlay), *size]
            subprocess.run(made, check=True)
        if not self.ports:
            self.ports = dict(zip((LDAP, SSH), _free_ports(2), strict=True))
        # At each boot those of a new machine: OpenStack keeps none.
        shutil.copy(_OVMF / "OVMF_VARS_4M.fd", self.directory / _VARIABLES)
        console = self.directory / f"console.{len(list(self._consoles()))}"
        console.touch()  # a wait that begins before QEMU has opened it looks at this file
        with (self.directory / "qemu.log").open("ab") as log:
            self.process = subprocess.Popen(
                command(self, overlay, console), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def await_text(self, *texts: str, ceiling: float = CEILING) -> float:
        """Wait until this boot has written one of some texts; return the seconds of the wait."""
        (last, *_) = sorted(self._consoles(), key=_number, reverse=True) or [self.directory / "-"]
        return self._await(lambda: any(text in _read(last) for text in texts), str(texts), ceiling)

    def await_login(self, *, ceiling: float = CEILING) -> float:
        """Wait until a person can log in; return the seconds of the wait."""
        return self._await(lambda: self.run("true", expect=None).returncode == 0, "ssh", ceiling)

    def await_command(self, line: str, *, ceiling: float = CEILING) -> float:
        """Wait until a command ends with status 0; return the seconds of the wait."""
        return self._await(lambda: self.run(line, expect=None).returncode == 0, line, ceiling)

    def run(self, line: str, *, expect: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run a line of shell there as root, who comes by sudo."""
        known = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
        place = ["-i", str(self.key), "-p", str(self.ports[SSH]), f"{USER}@127.0.0.1"]
        done = subprocess.run(
            ["ssh", *_OPTIONS, *known, *place, "sudo bash -s"],
            input=line,
            capture_output=True,
            text=True,
            check=False,
        )
        shown = f"{line}: {done.returncode}\n{done.stdout}{done.stderr}"
        assert expect in (None, done.returncode), shown
        return done

    def failed_units(self) -> set[str]:
        """Return the units of systemd that have failed."""
        listed = self.run("systemctl --failed --no-legend --plain").stdout
        return {line.split()[0] for line in listed.splitlines()}

    def press(self, keys: bytes, *, until: str) -> None:
        """Type at the serial console, and stay there until this boot has written a text.

        QEMU forgets what the machine has not read when who typed goes.
        """
        with socket.socket(socket.AF_UNIX) as typed:
            typed.connect(str(self.directory / "serial"))
            typed.sendall(keys)
            self.await_text(until)

    def cut_power(self) -> None:
        """End it as a power failure does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def shut_down(self) -> None:
        """Shut it down as its administrator does."""
        assert self.process is not None
        self.run("systemctl poweroff", expect=None)
        process = self.process
        self._await(lambda: process.poll() is not None, "the end", CEILING, may_end=True)
        self.process = None

    def reboot(self) -> None:
        """Switch it off and on again, in an orderly way."""
        self.shut_down()
        self.boot()

    def _await(
        self, is_true: Callable[[], bool], what: str, ceiling: float, *, may_end: bool = False
    ) -> float:
        """Wait while the console says something new, or the machine computes."""
        begin = time.monotonic()
        patience = Patience(self._progress, idle=_IDLE, ceiling=ceiling)
        while not is_true():
            shown = f"{what}: not {patience}\n{self.console[-4000:]}"
            assert not patience.is_over(), shown
            assert self.process is not None
            ended = None if may_end else self.process.poll()
            assert ended is None, f"{what}: {shown}\n{_read(self.directory / 'qemu.log')}"
            time.sleep(1)
        return time.monotonic() - begin

    def _progress(self) -> object:
        assert self.process is not None
        stat = _read(Path(f"/proc/{self.process.pid}/stat")).rpartition(")")[2].split()
        # Seconds of a processor (proc(5)): an idle machine uses few, one that hangs in a loop many.
        busy = sum(map(int, stat[11:13])) // 3000 if stat else 0
        return busy, len(self.console)

    def _consoles(self) -> list[Path]:
        return sorted(self.directory.glob("console.*"), key=_number)


def command(machine: VirtualMachine, overlay: Path, console: Path) -> list[str]:
    """Return the command line of QEMU."""
    hardware = machine.hardware
    words = ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-no-reboot"]
    words += ["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"]
    door = machine.directory / "serial"
    serial = f"socket,id=serial,path={door},server=on,wait=off,logfile={console}"
    words += ["-m", str(hardware.memory), "-chardev", serial, "-serial", "chardev:serial"]
    words += ["-device", "virtio-rng-pci"]
    if hardware.firmware is Firmware.UEFI:
        code = _OVMF / "OVMF_CODE_4M.fd"
        words += ["-drive", f"if=pflash,format=raw,readonly=on,file={code}"]
        words += ["-drive", f"if=pflash,format=raw,file={machine.directory}/{_VARIABLES}"]
    words += ["-drive", f"if=virtio,format=qcow2,file={overlay}"]
    for volume in hardware.volumes:
        words += ["-drive", f"if=virtio,format=raw,file={volume}"]
    if machine.has_seed:
        words += ["-drive", f"if=virtio,format=raw,readonly=on,file={machine.directory}/seed.iso"]
    if hardware.has_network:
        words += ["-nic", _network(machine)]
    return words


def _network(machine: VirtualMachine) -> str:
    doors = [f"hostfwd=tcp:127.0.0.1:{there}-:{here}" for here, there in machine.ports.items()]
    restricted = "off" if machine.hardware.reaches_host else "on"
    return ",".join(["user,model=virtio-net-pci", f"restrict={restricted}", *doors])


@contextmanager
def switched_on(machine: VirtualMachine) -> Iterator[VirtualMachine]:
    """Boot a machine for the block."""
    machine.boot()
    try:
        yield machine
    finally:
        machine.cut_power()


def _free_ports(count: int) -> list[int]:
    """Return ports of the loopback that nobody listens on."""
    opened = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [one.getsockname()[1] for one in opened]
    finally:
        for one in opened:
            one.close()


def _number(path: Path) -> int:
    return int(path.name.rpartition(".")[2])


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace").replace("\r", "")
    except OSError:
        return ""
