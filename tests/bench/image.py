"""Figures of the machine's image: its build, its size, its boots and its memory.

    scripts/bench image [DISK]   DISK: a qcow2; without one, a bundle and an image are built

Rows are ``image case value unit``. The machine is emulated (TCG), with two processors and 2 GB. Its
user data describe a site that publishes its information, of a cloud that is out of reach. Times are
from the start of QEMU until a client on this host has the site's entry by LDAP.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from deploy import images
from tests.vm.machine import LDAP, Firmware, Hardware, VirtualMachine, switched_on
from tests.vm.test_machine_faults import document

_SETTLED = 60
"""Seconds after which an idle machine's memory is read."""


def row(case: str, value: float, unit: str) -> None:
    """Print a figure."""
    print(f"image {case} {value:.6g} {unit}", flush=True)


def build(directory: Path) -> Path:
    """Build a bundle and an image of it; return the disk."""
    private, public = directory / "key.pem", directory / "key.pub"
    made: list[str | Path] = ["openssl", "genpkey", "-algorithm", "ed25519", "-out", private]
    subprocess.run(made, check=True, umask=0o077)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
    command: list[str | Path] = [
        images.TOP / "scripts/build",
        "--key",
        private,
        "--into",
        directory,
    ]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    bundle = done.stdout.splitlines()[-1]
    begin = time.monotonic()
    command = [images.TOP / "scripts/build-image", "--key", public, "--into", directory, bundle]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    row("build, with packages in the cache", time.monotonic() - begin, "s")
    return Path(done.stdout.splitlines()[-1])


def boots(disk: Path, directory: Path, firmware: Firmware) -> None:
    """Boot a machine twice."""
    machine = VirtualMachine(directory / firmware, disk, Hardware(firmware))
    machine.directory.mkdir()
    machine.give(document())
    for case in ("first boot", "later boot"):
        with switched_on(machine):
            row(f"{case} to LDAP, {firmware}", _seconds_until_ldap(machine), "s")
            machine.await_login()
            time.sleep(_SETTLED)
            row(f"memory after the {case}, {firmware}", _memory(machine), "MB")
            machine.shut_down()


def _seconds_until_ldap(machine: VirtualMachine) -> float:
    url = f"ldap://127.0.0.1:{machine.ports[LDAP]}"
    command = ["ldapsearch", "-x", "-LLL", "-o", "nettimeout=5", "-H", url, "-b", "o=glue"]
    begin = time.monotonic()
    while True:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if "GLUE2DomainID" in done.stdout:
            return time.monotonic() - begin
        assert machine.process is not None
        assert machine.process.poll() is None, machine.console
        time.sleep(0.5)


def _memory(machine: VirtualMachine) -> float:
    """Return the megabytes that are neither free nor a cache."""
    text = machine.run("cat /proc/meminfo").stdout
    sizes = {line.split(":")[0]: int(line.split()[1]) for line in text.splitlines()}
    return (sizes["MemTotal"] - sizes["MemAvailable"]) / 1024


def main() -> int:
    """Print all rows."""
    with tempfile.TemporaryDirectory(prefix="image.", dir=os.environ.get("TMPDIR")) as made:
        directory = Path(made)
        disk = Path(sys.argv[1]) if sys.argv[1:] else build(directory)
        row("qcow2", disk.stat().st_size / 10**9, "GB")
        for ova in sorted(disk.parent.glob(f"{disk.stem}.ova")):
            row("OVA", ova.stat().st_size / 10**9, "GB")
        for firmware in Firmware:
            boots(disk, directory, firmware)
    return 0


if __name__ == "__main__":
    sys.exit(main())
