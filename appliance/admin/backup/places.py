"""What a backup holds: configuration and state, by their paths on an appliance.

The order is that of the copies while jobs run. A ledger that is copied before the spool can lack
messages of it, which `caso-extract` reads again (decision 61). In the other order the ledger would
vouch for messages that the backup lacks. Checkpoints come before the ledger: an earlier one repeats
work, a later one would leave a gap. So does the journal before the spool: what it lacks is sent
once more, or was sent.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from appliance.admin.inventory import JOBS
from appliance.admin.mounts import site_files
from appliance.core.run.layout import Layout

CONFIGURATION = (
    *("/etc/fedcloud", "/etc/caso", "/etc/voms.json", "/etc/apel", "/etc/cloud-info-provider"),
    *("/etc/cloudkeeper", "/etc/cloudkeeper-os", "/etc/sitebdii", "/etc/bdii", "/var/lib/bdii/gip"),
)
TABLES = tuple(f"/etc/cron.d/{job.cron}" for job in JOBS.values())
STATE = (
    *("/var/spool/caso", "/var/lib/fedcloud/caso", "/var/lib/fedcloud/since"),
    *("/var/lib/fedcloud/ssm", "/var/spool/apel", "/var/lib/fedcloud/cloudkeeper"),
    *("/var/lib/fedcloud/cloudkeeper-os", "/var/lib/fedcloud/cloud-info"),
    *("/var/lib/fedcloud/bdii", "/var/lib/fedcloud/runs"),
)
RECORDS = "/var/lib/fedcloud/runs"
_OF_THE_INSTALLATION = re.compile(
    r"/etc/fedcloud/(docker-compose\.yml|images\.lock|signing-key\.pem"
    r"|networks/(bridge|host)\.yml|tls(/.*)?)"
    r"|/etc/sitebdii/docker-compose\.yml|/var/lib/bdii/gip/provider/cloud-info-provider"
    r"|.*\.fedcloud-new"
)
_MAPPING = re.compile(r"/etc/[\w/.-]+\.json")
"""A map of VOs that `FEDCLOUD_CASO_MAPPING` or `FEDCLOUD_BACKEND_MAPPING` may name."""
_OF_A_RUN = re.compile(
    r".*\.(tmp|lock|lck)|.*-(wal|shm|journal)|/var/lib/fedcloud/bdii/(resource|site)/(db|run)(/.*)?"
)


def configuration(layout: Layout) -> Iterator[tuple[str, Path]]:
    """Yield the site's configuration files: path on an appliance, and path in the layout.

    A link is followed, because what counts is the text.
    """
    chosen = site_files.choose(site_files.variables(layout), layout).values()
    mappings = [name for name in chosen if _MAPPING.fullmatch(name)]
    for root in dict.fromkeys((*CONFIGURATION, *TABLES, *mappings)):
        for name, path in _below(root, layout.path(root), follow=True):
            if not _OF_THE_INSTALLATION.fullmatch(name) and path.is_file():
                yield name, path


def state(layout: Layout) -> Iterator[tuple[str, Path]]:
    """Yield the directories and files of the state; of links, the one of a whole place counts."""
    for root in STATE:
        yield from _below(root, layout.path(root), follow=False)


def _below(name: str, path: Path, *, follow: bool) -> Iterator[tuple[str, Path]]:
    """Yield a file, or a directory and what is below it; a name that vanishes is left out."""
    if _OF_A_RUN.fullmatch(name) or not path.exists():
        return
    yield name, path
    if not path.is_dir():
        return
    try:
        children = sorted(os.listdir(path))
    except FileNotFoundError:
        return
    for child in children:
        below = path / child
        try:
            mode = below.stat(follow_symlinks=follow).st_mode
        except OSError:  # it has just been sent or replaced, or is a link to nothing
            continue
        if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
            yield from _below(f"{name}/{child}", below, follow=follow)


def is_known(name: str) -> bool:
    """Return whether a backup may hold this path."""
    parts = name.split("/")
    if "" in parts[1:] or ".." in parts or "." in parts or _OF_THE_INSTALLATION.fullmatch(name):
        return False
    roots = (*CONFIGURATION, *TABLES, *STATE)
    return bool(_MAPPING.fullmatch(name)) or any(
        name == root or name.startswith(f"{root}/") for root in roots
    )


def is_state(name: str) -> bool:
    """Return whether a path is one of the state."""
    return any(name == root or name.startswith(f"{root}/") for root in STATE)
