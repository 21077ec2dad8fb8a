"""The flow of images in an installation: off on a new host, kept as it is on all others.

Releases until 1.0 shipped it switched on, and took it as on without a line in ``appliance.yaml``.
An upgrade must not stop what runs, so it writes the line where it is missing. The search for the
line is one for its text: the installer has no YAML library.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from appliance.admin.configure import edit
from appliance.admin.inventory import JOBS, Flow, flow_of
from appliance.admin.schedule import starters, state
from appliance.core.run.layout import Layout

SETTINGS = "/etc/fedcloud/appliance.yaml"
SHIPPED, KEPT = b"\n  images: off\n", b"\n  images: on\n"
"""The line of the shipped file, and that of a host that keeps the flow on."""
_UNIT = "cloudkeeper-os.service"
_LINE = re.compile(r"""^[^#\n]*\bimages["']?[ \t]*:[ \t]*["']?(\w*)""", re.MULTILINE)
_YES = ("on", "yes", "true", "1")


def is_kept_on(root: Path, *, is_upgrade: bool) -> bool:
    """Return whether the flow is on after this run: as the file says, else if it was on before."""
    if (line := _LINE.search(_text(root))) is not None:
        return line[1].lower() in _YES
    return is_upgrade or _is_used(root)


def with_line(root: Path) -> str:
    """Return the text of the administrator's file with the flow on; empty if it has the line."""
    text = _text(root)
    return (
        edit.set_yaml(text, "flows", Flow.IMAGES, "on") if text and not _LINE.search(text) else ""
    )


def _text(root: Path) -> str:
    path = Layout(root).path(SETTINGS)
    return path.read_text(errors="surrogateescape") if path.is_file() else ""


def _is_used(root: Path) -> bool:
    """Return whether something starts the service or a job of the flow."""
    layout = Layout(root)
    jobs = {job.name for job in JOBS.values() if flow_of(job.name) is Flow.IMAGES}
    return (
        _is_unit_used(root)
        or any(
            one.job.name in jobs and (one.lines or one.has_timer) for one in state.starts(layout)
        )
        or any(starter.job in jobs for starter in starters.others(layout))
    )


def _is_unit_used(root: Path) -> bool:
    units = root / "etc/systemd/system"
    if any((wants / _UNIT).is_symlink() for wants in units.glob("*.wants")):
        return True
    # Without its file the unit is none of an earlier release, so systemd is not asked.
    is_here = root == Path("/") and (units / _UNIT).is_file()
    command = ["/usr/bin/systemctl", "is-active", "--quiet", _UNIT]
    return is_here and subprocess.run(command, check=False).returncode == 0
