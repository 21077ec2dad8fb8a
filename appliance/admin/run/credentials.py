"""Credentials of systemd for a job: copies on tmpfs, which the job's account can read.

systemd gives those of ``LoadCredential=`` to root, who runs `appliance run`, and the program of the
job runs as another account, in another mount namespace. Options such as ``password_file`` name a
credential without a slash.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from appliance.admin import account
from appliance.admin.inventory import Job
from appliance.core import files
from appliance.core.run.errors import LocalFailure
from appliance.core.run.layout import Layout

VARIABLE = "CREDENTIALS_DIRECTORY"
PLACE = "/run/fedcloud/credentials"
"""The directory that the program sees; empty on the host, where it is the target of a mount."""
_LARGEST = 1 << 20
"""Bytes of a credential, systemd's own limit."""


@contextlib.contextmanager
def staged(job: Job, layout: Layout) -> Iterator[Path | None]:
    """Yield the directory with the copies, which last for the block; None without credentials.

    Raises:
        LocalFailure: A credential cannot be copied.

    """
    copy = layout.path(f"/run/fedcloud/keys/credentials-{job.name}")
    shutil.rmtree(copy, ignore_errors=True)  # of a killed run
    given = os.environ.get(VARIABLE)
    if not given:
        yield None
        return
    try:
        _copy(Path(given), copy)
        yield copy
    finally:
        shutil.rmtree(copy, ignore_errors=True)


def _copy(given: Path, copy: Path) -> None:
    try:
        files.make_directory(copy.parent, mode=0o700)
        copy.mkdir(mode=0o700)
        for path in sorted(given.iterdir()):
            content = files.read_regular(path, limit=_LARGEST)
            files.write_new(copy / path.name, content, mode=0o400)
            os.chown(copy / path.name, account.ID, account.ID)
        os.chown(copy, account.ID, account.ID)
    except OSError as error:
        raise LocalFailure.from_os(error, subject=error.filename or given) from error
