"""The flow of images in an installation: off on a new host, as it was on every other one."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from appliance.admin.install import image_flow

TOP = Path(__file__).parents[2]
SETTINGS = "etc/fedcloud/appliance.yaml"
UNIT = "/etc/systemd/system/cloudkeeper-os.service"


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("text", "is_on"),
    [
        ("flows:\n  images: on\n", True),
        ("flows:\n  images: off  # until asked\n", False),
        ("flows: {accounting: off, images: 'Yes'}\n", True),
        ('flows: {"images": no}\n', False),
        ("flows:\n  images: maybe\n", False),  # every command refuses this file
    ],
)
def test_what_the_file_says_counts(tmp_path: Path, text: str, is_on: bool) -> None:
    write(tmp_path, SETTINGS, text)
    wants = tmp_path / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True)
    (wants / "cloudkeeper-os.service").symlink_to(UNIT)
    assert image_flow.is_kept_on(tmp_path, is_upgrade=True) is is_on
    assert image_flow.with_line(tmp_path) == ""


@pytest.mark.root
@pytest.mark.parametrize("text", ["", "# images: on, said once\nprofile: egi\n"])
def test_without_the_line_what_is_used_stays_on(tmp_path: Path, text: str) -> None:
    """Releases before 1.0 took it as on, so the unit, a table, a timer or an old line shows it."""
    if text:
        write(tmp_path, SETTINGS, text)
    assert not image_flow.is_kept_on(tmp_path, is_upgrade=False)
    assert image_flow.is_kept_on(tmp_path, is_upgrade=True)
    systemd = tmp_path / "etc/systemd/system"
    for name, content in (
        ("etc/cron.d/cloudkeeper", "0 */4 * * * root /usr/local/bin/cloudkeeper.sh\n"),
        ("etc/cron.d/ours", "0 */4 * * * root docker run egifedcloud/cloudkeeper\n"),
    ):
        write(tmp_path, name, content)
        assert image_flow.is_kept_on(tmp_path, is_upgrade=False), name
        (tmp_path / name).unlink()
    write(tmp_path, "etc/cron.d/caso", "0 */4 * * * root /usr/local/bin/caso-extract.sh\n")
    assert not image_flow.is_kept_on(tmp_path, is_upgrade=False)
    for link in (
        systemd / "timers.target.wants/fedcloud-job@cloudkeeper.timer",
        systemd / "docker.service.wants/cloudkeeper-os.service",
    ):
        link.parent.mkdir(parents=True)
        link.symlink_to("/etc/systemd/system/x")
        assert image_flow.is_kept_on(tmp_path, is_upgrade=False), link
        link.unlink()


@pytest.mark.parametrize(
    "text",
    [
        "profile: egi  # mine\n",
        "flows:\n  accounting: off  # mine\n",
        "flows: {accounting: off}  # mine\n",
        "flows:  # mine\n    information: on\n",
    ],
)
def test_the_missing_line_is_added_to_the_administrators_file(tmp_path: Path, text: str) -> None:
    write(tmp_path, SETTINGS, text)
    added = image_flow.with_line(tmp_path)
    tree, before = yaml.safe_load(added), yaml.safe_load(text)
    assert tree["flows"].pop("images") is True
    assert ({name: one for name, one in tree.items() if one}, "# mine" in added) == (before, True)


def test_the_shipped_file_has_the_line_that_is_replaced() -> None:
    shipped = (TOP / SETTINGS).read_bytes()
    assert shipped.count(image_flow.SHIPPED) == 1
    assert image_flow.KEPT not in shipped
