"""Credentials of systemd for a job or service: copies on tmpfs, which its account can read.

systemd gives those of ``LoadCredential=`` to root, who runs `appliance`, and the program of the job
or service runs as another account, in another mount namespace. Options such as ``password_file``
name a credential without a slash.
"""

from __future__ import annotations

import contextlib
import errno
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
    made = copies(job.name, layout)
    remove(made)  # of a killed run
    given = os.environ.get(VARIABLE)
    if not given:
        yield None
        return
    try:
        copy(Path(given), made)
        yield made
    finally:
        remove(made)


def copies(name: str, layout: Layout) -> Path:
    """Return the directory for the copies of a job or unit."""
    return layout.path(f"/run/fedcloud/keys/credentials-{name}")


def remove(path: Path) -> None:
    """Remove copies; what cannot be removed is in the way of the next ones, which report it."""
    # The units of services lack the capability to write into a directory of another account.
    with contextlib.suppress(OSError):
        os.chown(path, 0, 0)
    shutil.rmtree(path, ignore_errors=True)


def copy(given: Path, target: Path) -> None:
    """Copy the credentials of a unit, in place of earlier copies.

    Raises:
        LocalFailure: A credential cannot be copied.

    """
    try:
        remove(target)
        files.make_directory(target.parent, mode=0o700)
        target.mkdir(mode=0o700)
        for path in sorted(given.iterdir()):
            content = files.read_regular(path, limit=_LARGEST)
            files.write_new(target / path.name, content, mode=0o400)
            os.chown(target / path.name, account.ID, account.ID)
        os.chown(target, account.ID, account.ID)
    except OSError as error:
        if error.errno == errno.EROFS:  # the unit of a service
            remedy = "add ReadWritePaths=/run/fedcloud to the drop-in that has LoadCredential="
            raise LocalFailure.from_os(error, subject=target, remedy=remedy) from error
        raise LocalFailure.from_os(error, subject=error.filename or given) from error
