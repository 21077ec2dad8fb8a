"""What can go wrong with a new machine: it boots all the same, and its console says what is wrong.

They boot by UEFI, and by BIOS where there is nothing to say about it.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.vm import site_data
from tests.vm.machine import Firmware, Hardware, VirtualMachine, switched_on

pytestmark = [pytest.mark.matrix, pytest.mark.root, pytest.mark.timeout(2400)]

PASSWORD = "correct-horse-9"
VALUES: Mapping[str, str] = {
    "flows: [accounting, information]": "flows: [information]",
    "SITE-NAME": "TEST-SITE",
    "PROJECT-ID": "4c9e1f0a8b7d4e2f9a6c5d3b1e0f7a88",
    "accounting: {name: accounting, password: PASSWORD}": "# no accounting",
    "information: {name: information, password: PASSWORD}": (
        f"information: {{name: information, password: {PASSWORD}}}"
    ),
}
"""A site that publishes its information, of a cloud that nobody can reach."""


def document(**changes: str) -> str:
    """Return the user data of the page with the values of the site, and with changes."""
    text = site_data.filled(VALUES, files={}, commands=[])
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    return text


@pytest.fixture(scope="module")
def mistaken(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VirtualMachine]:
    """Return a small machine whose user data has a mistake."""
    hardware = Hardware(Firmware.UEFI, memory=1024)
    machine = VirtualMachine(tmp_path_factory.mktemp("mistaken"), image, hardware)
    machine.give(document(**{"site: TEST-SITE": "site: TEST SITE"}))
    with switched_on(machine):
        yield machine


def test_a_mistake_is_on_the_console_with_its_line(mistaken: VirtualMachine) -> None:
    """R03: the line is that of the document; nothing is started; and so says the message."""
    given = (mistaken.directory / "seed/user-data").read_text()
    line = site_data.line_of(given, "site: TEST SITE")
    said = f"user data:{line}: site: 'TEST SITE'"
    mistaken.await_text(f"! {said}")
    assert f"appliance: {said}" in mistaken.console
    mistaken.await_login()
    assert said in mistaken.run("cat /run/motd.d/fedcloud").stdout
    assert mistaken.run("ls /etc/cron.d/caso", expect=2).stdout == ""
    assert mistaken.run("docker ps -q").stdout == ""
    assert PASSWORD not in mistaken.console


def test_a_small_machine_boots_and_says_so(mistaken: VirtualMachine) -> None:
    """1 GB of memory, and the 8 GB of disk that the image has."""
    assert "GB of memory; give it 2 GB" in mistaken.run("cat /run/motd.d/fedcloud").stdout
    wanted = {"fedcloud-first-boot.service", "fedcloud-job@fetch-crl.service"}
    assert mistaken.failed_units() <= wanted


def test_the_mistake_is_corrected_where_it_says(mistaken: VirtualMachine) -> None:
    """The cloud is out of reach: what fails is listed, and the service runs."""
    mistaken.run("sed -i 's/TEST SITE/TEST-SITE/' /etc/fedcloud/answers.yaml")
    said = mistaken.run("appliance first-boot", expect=None)
    assert "$ systemctl start bdii" in said.stdout, said
    assert mistaken.run("systemctl is-active bdii").stdout == "active\n"


@pytest.fixture(scope="module")
def interrupted(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VirtualMachine]:
    """Return a machine with a full volume for images, which loses its power at its first boot."""
    directory = tmp_path_factory.mktemp("interrupted")
    content, volume = directory / "content", directory / "volume.raw"
    content.mkdir()
    # Of zeros, mkfs would make a hole.
    (content / "image.raw").write_bytes(os.urandom(58 * 2**20))
    with volume.open("wb") as file:
        file.truncate(64 * 2**20)
    made = ["mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", "-L", "image_data"]
    subprocess.run([*made, "-d", str(content), str(volume)], check=True)
    hardware = Hardware(Firmware.UEFI, volumes=(volume,))
    machine = VirtualMachine(directory, image, hardware)
    machine.give(document(), instance="two")
    with switched_on(machine):
        machine.await_text("Writing the answers of /etc/fedcloud/answers.yaml")
        machine.cut_power()
        machine.boot()
        yield machine


def test_an_interrupted_first_boot_goes_on(interrupted: VirtualMachine) -> None:
    """Whatever was written before the power failed; the next boot starts all that is on."""
    interrupted.await_text("$ systemctl start bdii")
    interrupted.await_text("Next: appliance status")
    interrupted.await_login()
    assert interrupted.run("systemctl is-active bdii").stdout == "active\n"
    assert "TEST-SITE" in interrupted.run("cat /etc/sitebdii/site.cfg").stdout


def test_a_full_volume_holds_no_boot_back(interrupted: VirtualMachine) -> None:
    assert int(interrupted.run("df --output=avail -BM /image_data | tail -n 1").stdout[:-2]) < 2
    assert interrupted.run("findmnt -no LABEL /image_data").stdout == "image_data\n"
    interrupted.run("appliance flows --on images")
    said = interrupted.run("appliance check --offline --only C02", expect=None).stdout
    assert "C02.a" in said


def test_machines_of_one_image_have_keys_of_their_own(
    mistaken: VirtualMachine, interrupted: VirtualMachine
) -> None:
    """Host keys and machine id are made at the first boot."""
    asked = "cat /etc/ssh/ssh_host_*_key.pub /etc/machine-id"
    one, other = (machine.run(asked).stdout.split() for machine in (mistaken, interrupted))
    keys = [{word for word in words if len(word) >= 32} for words in (one, other)]
    assert len(keys[0]) >= 3
    assert keys[0].isdisjoint(keys[1])


def test_a_machine_without_metadata_and_network_waits_for_its_administrator(
    image: Path, tmp_path: Path
) -> None:
    """No drive, no service, no network: it reaches its prompt."""
    machine = VirtualMachine(tmp_path, image, Hardware(has_network=False))
    with switched_on(machine):
        machine.await_text("found no metadata service and no drive")
        machine.await_text("login:")
        machine.await_text("run appliance configure")


def test_a_document_that_is_no_yaml(image: Path, tmp_path: Path) -> None:
    """Its line is on the console, and what stands there is not: it may be a password."""
    machine = VirtualMachine(tmp_path, image, Hardware())
    text = document(**{"write_files:": f"password: {PASSWORD}: 1\nwrite_files:"})
    machine.give(text)
    line = site_data.line_of(text, f"{PASSWORD}: 1")
    with switched_on(machine):
        machine.await_text(f"user data:{line}: is not YAML")
        machine.await_text("login:")
        assert PASSWORD not in machine.console
