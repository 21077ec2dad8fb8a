"""The minutes of a job that follow from the site's name.

All sites ask the same services, such as GOCDB. With the same minutes everywhere they would do so at
once. `appliance schedule` writes the site's minutes when it activates the job.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from appliance.admin.inventory import Job
from appliance.admin.schedule import state
from appliance.core import files
from appliance.core.config import document, yaml_file
from appliance.core.run.errors import ConfigurationError
from appliance.core.run.layout import Layout

_SITE_FILE = "/etc/cloud-info-provider/openstack.yaml"
_PERIOD = 30
"""Minutes between two starts."""
_SHIPPED = "4,34"
"""The minutes of the shipped table, those of EGI's catch-all."""
_LINE = re.compile(rf"^{_SHIPPED}(?= \* \* \* \* root )", re.MULTILINE)
_PLACEHOLDERS = ("SITE-NAME", "SITE_NAME", "")


def of_site(layout: Layout) -> tuple[int, int] | None:
    """Return the two minutes of this site; None if its name is not known."""
    try:
        path = layout.path(_SITE_FILE)
        read = yaml_file.parse(path, document.read_text(path))
    except ConfigurationError:
        return None  # `appliance check` reports it
    entry = read.get("site", "name") or read.get(yaml_file.OUTERMOST, "gocdb")
    name = entry.text if entry else ""
    if name in _PLACEHOLDERS:
        return None
    first = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) % _PERIOD
    return first, first + _PERIOD


def write_table(job: Job, table: Path, layout: Layout) -> None:
    """Write the site's minutes into a table that still has those of the shipped one."""
    found = of_site(layout) if job.is_spread else None
    if found is None:
        return
    text = table.read_text(errors="surrogateescape")
    changed = _LINE.sub(f"{found[0]},{found[1]}", text)
    if changed != text:
        files.write_atomic(table, changed.encode(errors="surrogateescape"), mode=0o644)
        table.chmod(0o644)  # cron ignores a table that others may write to, whatever our umask


def write_timer(job: Job, layout: Layout) -> None:
    """Write the site's minutes beside the job's timer, unless there is such a file already."""
    found = of_site(layout) if job.is_spread else None
    path = layout.path("/etc/systemd/system") / f"{state.timer(job)}.d/minutes.conf"
    if found is None or path.exists():
        return
    files.make_directory(path.parent, mode=0o755)
    words = "# From the site's name, written by `appliance schedule`. Edit it as you like."
    text = f"{words}\n[Timer]\nOnCalendar=\nOnCalendar=*-*-* *:{found[0]:02},{found[1]:02}:00\n"
    files.write_atomic(path, text.encode(), mode=0o644)
    path.chmod(0o644)
