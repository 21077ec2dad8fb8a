"""A machine boots by both firmwares, grows, has the images, and comes up after a bad kernel."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from deploy import images
from tests.vm.machine import Firmware, Hardware, VirtualMachine, switched_on

pytestmark = [pytest.mark.matrix, pytest.mark.root, pytest.mark.timeout(2400)]

_BROKEN = "9.9.9+broken"
# A kernel that loads, and an initrd without a program: it stops, and panic=30 restarts the machine.
_INSTALL_BROKEN = f"""set -e
cp /boot/vmlinuz-$(uname -r) /boot/vmlinuz-{_BROKEN}
printf '' | cpio --quiet -o -H newc >/boot/initrd.img-{_BROKEN}
/etc/kernel/postinst.d/zz-fedcloud-boot {_BROKEN} /boot/vmlinuz-{_BROKEN}
"""
_NEXT_ENTRY = b"\x0e\r"
"""Control-N is the arrow down of syslinux's menu, and Return starts the entry."""


@pytest.fixture(scope="module", params=list(Firmware))
def machine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[VirtualMachine]:
    """Return a machine with a disk that is larger than the image."""
    image = request.getfixturevalue("image")
    hardware = Hardware(request.param, disk="12G")
    made = VirtualMachine(tmp_path_factory.mktemp("kernels"), image, hardware)
    made.give("#cloud-config\n")
    with switched_on(made):
        made.await_login()
        yield made


def test_the_firmware_is_the_one_that_was_meant(machine: VirtualMachine) -> None:
    has_efi = machine.run("test -d /sys/firmware/efi", expect=None).returncode == 0
    assert has_efi is (machine.hardware.firmware is Firmware.UEFI)


def test_the_engine_has_the_images_of_the_bundle(machine: VirtualMachine) -> None:
    machine.await_command("systemctl is-active docker")
    shown = machine.run("docker images --no-trunc --format '{{.Repository}}:{{.Tag}} {{.ID}}'")
    lock = machine.run("grep -v '^#' /etc/fedcloud/images.lock").stdout
    wanted = {" ".join(line.split()[1:]) for line in lock.splitlines()}
    assert wanted
    assert wanted == set(shown.stdout.splitlines())
    assert f"{images.REPOSITORY}/caso:" in shown.stdout
    name = shown.stdout.split()[0]
    run = f"docker run --rm --network none --entrypoint /opt/fedcloud/bin/python {name}"
    layers = machine.run(f"{run} -c 'print(6 * 7)'")
    assert layers.stdout == "42\n"


def test_the_root_file_system_has_grown(machine: VirtualMachine) -> None:
    machine.await_command("cloud-init status | grep -q done")
    size = int(machine.run("df --output=size -B1 / | tail -n 1").stdout)
    assert size > 10 * 2**30


def test_machine_id_and_host_keys_are_its_own(machine: VirtualMachine) -> None:
    assert re.fullmatch("[0-9a-f]{32}\n", machine.run("cat /etc/machine-id").stdout)
    assert "ssh_host_ed25519_key" in machine.run("ls /etc/ssh").stdout
    assert machine.run("passwd --status root").stdout.split()[1] == "L"


def test_the_drivers_of_other_hypervisors_are_in_the_initrd(machine: VirtualMachine) -> None:
    listed = machine.run("lsinitramfs /boot/initrd.img-$(uname -r)").stdout
    for driver in ("ahci", "ata_piix", "vmw_pvscsi", "mptspi", "virtio_blk", "virtio_scsi", "nvme"):
        assert f"/{driver}.ko" in listed, driver


def test_a_kernel_that_does_not_boot(machine: VirtualMachine) -> None:
    """UEFI: the loader counts to three and starts the previous one. BIOS: the second entry does."""
    kernel = machine.run("uname -r").stdout
    machine.run(_INSTALL_BROKEN)
    assert _BROKEN in machine.run("cat /boot/efi/syslinux.cfg").stdout
    machine.reboot()
    if machine.hardware.firmware is Firmware.BIOS:
        machine.await_text("previous")
        machine.press(_NEXT_ENTRY, until="Linux version")
    for _ in range(3 if machine.hardware.firmware is Firmware.UEFI else 0):
        assert machine.process is not None
        machine.await_text("Kernel panic")
        machine.cut_power()
        machine.boot()
    machine.await_login()
    assert machine.run("uname -r").stdout == kernel
    machine.run(f"rm /boot/vmlinuz-{_BROKEN}; /etc/kernel/postrm.d/zz-fedcloud-boot")
    assert _BROKEN not in machine.run("ls -R /boot/efi").stdout
