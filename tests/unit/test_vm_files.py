"""What the machine's image has besides packages and the bundle: deploy/vm/files.

The judges of single files are the programs that read them there; the machines of tests/vm boot with
all of them.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

TOP = Path(__file__).parents[2] / "deploy/vm/files"
UNITS = TOP / "usr/lib/systemd/system"


@pytest.mark.programs("systemd-analyze")
@pytest.mark.parametrize("name", sorted(path.name for path in UNITS.iterdir() if path.is_file()))
def test_systemd_has_nothing_to_say_about_a_unit_of_the_image(name: str, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for path in UNITS.iterdir():
        if path.is_file():
            text = re.sub(r"(?<==)([-+]*)/usr/\S+", rf"\1{program}", path.read_text())
            (tmp_path / path.name).write_text(text)
    for other in ("docker", "basic", "systemd-growfs@image_data"):
        (tmp_path / f"{other}.service").write_text(f"[Service]\nExecStart={program}\n")
    shown = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / name],
        env=os.environ | {"SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (shown.stdout + shown.stderr, shown.returncode) == ("", 0)


def test_enabled_units_are_there() -> None:
    links = [path for path in TOP.rglob("*") if path.is_symlink()]
    assert {path.name for path in links} == {
        "fedcloud-first-boot.service",
        "fedcloud-metadata.service",
        "fedcloud-state.service",
    }
    for path in links:
        assert (TOP / str(path.readlink()).lstrip("/")).is_file(), path


def test_only_root_can_change_a_file() -> None:
    files = [path for path in TOP.rglob("*") if path.is_file() and not path.is_symlink()]
    assert [path for path in files if path.stat().st_mode & 0o022] == []


def test_cloud_init_lets_nobody_in_by_password_and_writes_nothing_to_the_console() -> None:
    config = yaml.safe_load((TOP / "etc/cloud/cloud.cfg.d/90-fedcloud.cfg").read_text())
    assert (config["ssh_pwauth"], config["disable_root"]) == (False, True)
    assert config["datasource_list"][-1] == "None"
    assert {"ConfigDrive", "OpenStack", "NoCloud", "OVF"} <= set(config["datasource_list"])
    assert config["output"]["all"].startswith(">> /var/log/")
    for unit in ("main", "local", "network"):
        text = (UNITS / f"cloud-init-{unit}.service.d/fedcloud.conf").read_text()
        assert "StandardOutput=journal\nStandardError=journal\n" in text


def test_the_volume_has_the_name_that_the_page_gives_it() -> None:
    """In the example of user data, in the rule of udev and in the unit."""
    page = (TOP.parents[2] / "docs/how-to/machine-image.md").read_text()
    rule = (TOP / "etc/udev/rules.d/90-fedcloud-image-data.rules").read_text()
    assert "label: image_data" in page
    assert 'ENV{ID_FS_LABEL}=="image_data"' in rule
    assert "What=/dev/disk/by-label/image_data\n" in (UNITS / "image_data.mount").read_text()


def test_updates_of_the_host_begin_between_the_jobs() -> None:
    """No table of cron has a start in the minutes in which they can begin."""
    text = (UNITS / "apt-daily-upgrade.timer.d/fedcloud.conf").read_text()
    hour, minute = re.findall(r"OnCalendar=\*-\*-\* (\d\d):(\d\d)", text)[0]
    (delay,) = re.findall(r"RandomizedDelaySec=(\d+)min", text)
    begin = int(minute)
    assert begin + int(delay) < 60
    for table in (TOP.parents[2] / "cron.d").iterdir():
        for line in table.read_text().splitlines():
            if re.match(r"\d+ ", line) and table.name != "fedcloud-crl":
                at, hours = line.split()[:2]
                is_then = hours == "*" or int(hour) % int(hours.partition("/")[2]) == 0
                assert not (is_then and begin <= int(at) <= begin + int(delay)), line
