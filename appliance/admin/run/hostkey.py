"""The host key for a job: a copy on tmpfs that the job's account may read, for as long as the job runs.

The key itself stays where it is, readable by root alone, and no container sees the directory that
it lies in.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.admin import account
from appliance.admin.inventory import Job
from appliance.core import files
from appliance.core.config import document, ini, yaml_file
from appliance.core.config.settings import Settings
from appliance.core.run.errors import ApplianceError, LocalFailure, Unavailable
from appliance.core.run.layout import Layout

if TYPE_CHECKING:
    from appliance.core.trust.certificates import Identity

logger = logging.getLogger(__name__)

CERTIFICATE = "/etc/grid-security/hostcert.pem"
KEY = "/etc/grid-security/hostkey.pem"
_BACKEND = "/etc/grid-security/backendcert.pem"


@dataclass(frozen=True, slots=True)
class Needs:
    """What a job proves itself with, as absolute paths of an appliance; they are the same in its container."""

    certificate: str = CERTIFICATE
    key: str = KEY
    peer: str = ""
    """The other side's certificate, if that is a file: what it must prove to be, or what to encrypt to."""


def needs(job: Job, layout: Layout) -> Needs | None:
    """Say what a job signs or authenticates with: ssmsend always does, cloudkeeper with ``authentication``.

    That there is no configuration, and that a value in it is no path, the job itself tells better.
    """
    if job.service == "ssm":
        return _ssm(layout.path("/etc/apel/sender.cfg"))
    return (
        _cloudkeeper(layout.path("/etc/cloudkeeper/cloudkeeper.yml"))
        if job.service == "cloudkeeper"
        else None
    )


def _ssm(path: Path) -> Needs:
    if not path.exists():
        return Needs()
    found, section = Settings(document.read([path], ini.parse)), "certificates"
    return Needs(
        certificate=_place(found, section, "certificate", default=CERTIFICATE),
        key=_place(found, section, "key", default=KEY),
        peer=_place(found, section, "server_cert"),
    )


def _cloudkeeper(path: Path) -> Needs | None:
    if not path.exists():
        return None
    found = Settings(document.read([path], yaml_file.parse))
    if not found.boolean("cloudkeeper", "authentication", default=False):
        return None
    return Needs(
        certificate=_place(found, "cloudkeeper", "certificate", default=CERTIFICATE),
        key=_place(found, "cloudkeeper", "key", default=KEY),
        peer=_place(found, "cloudkeeper.backend", "certificate", default=_BACKEND),
    )


def _place(found: Settings, section: str, option: str, *, default: str = "") -> str:
    """Return the absolute path that an option names, else the default."""
    path = found.path(section, option, default=Path(default))
    return str(path) if path.is_absolute() else default


def staged_path(name: str, layout: Layout) -> Path:
    """Return where the copy of a job, or of its check, lies while that runs."""
    return layout.path(f"/run/fedcloud/keys/{name}")


@contextlib.contextmanager
def staged(
    job: Job,
    layout: Layout,
    *,
    at: datetime,
    name: str = "",
    warn: Callable[[str], None] = logger.warning,
) -> Iterator[Sequence[str]]:
    """Check certificate and key, stage the copy for the block, and yield the bind mounts of the container.

    What a killed run left is removed before anything else. Who does not hold the job's lock takes
    another ``name`` for the copy, and ``warn`` hears what a peer may refuse. Raises what
    `Identity.load` raises.
    """
    copy = staged_path(name or job.name, layout)
    wanted = needs(job, layout)
    try:
        _clear(copy)
    except LocalFailure as error:
        if wanted is not None:
            raise
        logger.warning("%s", error)  # in the way of nobody
    if wanted is None:
        yield ()
        return
    certificate, key = layout.path(wanted.certificate), layout.path(wanted.key)
    for warning in _check(certificate, key, layout=layout, at=at):
        warn(warning)
    public = [
        place
        for place in dict.fromkeys((wanted.certificate, wanted.peer))
        if place not in ("", wanted.key)
    ]
    for place in public:
        _require_open(layout.path(place))
    files.make_directory(copy.parent, mode=0o700)
    try:
        files.write_new(copy, key.read_bytes(), mode=0o400)
        os.chown(copy, account.ID, account.ID)
        yield *(f"{layout.path(place)}:{place}:ro" for place in public), f"{copy}:{wanted.key}:ro"
    finally:
        copy.unlink(missing_ok=True)


def _clear(copy: Path) -> None:
    """Remove what a killed run left, or the directory that an engine makes for a missing source."""
    try:
        if copy.is_dir() and not copy.is_symlink():
            copy.rmdir()
        else:
            copy.unlink(missing_ok=True)
    except OSError as error:
        remedy = f"look at it, then: rm -r {files.shell_word(copy)}"
        raise LocalFailure.from_os(error, remedy=remedy) from error


def _require_open(path: Path) -> None:
    """Refuse a certificate that the engine would make a directory for, or that the job's account cannot read."""
    try:
        status = path.stat()
    except OSError as error:
        raise LocalFailure.from_os(error, subject=path) from None
    bits = [
        (True, stat.S_IROTH),
        (status.st_gid == account.ID, stat.S_IRGRP),
        (status.st_uid == account.ID, stat.S_IRUSR),
    ]
    if not any(holds and status.st_mode & bit for holds, bit in bits):
        raise Unavailable(
            path, "the account of the containers cannot read it", f"chmod 0644 {path}"
        )


def _check(certificate: Path, key: Path, *, layout: Layout, at: datetime) -> Sequence[str]:
    """Refuse what no peer would take; return warnings of what one may refuse."""
    from cryptography import x509  # noqa: PLC0415  start-up is a cost
    from cryptography.x509.oid import ExtendedKeyUsageOID  # noqa: PLC0415

    from appliance.core.trust.certificates import Identity  # noqa: PLC0415

    for path, what in (
        (certificate, "the certificate of this host, PEM"),
        (key, "its key, PEM, readable by root alone"),
    ):
        if not path.exists():
            raise Unavailable(path, "does not exist", f"put there {what}")
    identity = Identity.load(certificate, key_path=key, at=at)
    warnings = [identity.expiry_warning(at=at), _chain_warning(identity, layout=layout, at=at)]
    with contextlib.suppress(x509.ExtensionNotFound):
        purposes = identity.certificate.extensions.get_extension_for_class(
            x509.ExtendedKeyUsage
        ).value
        if ExtendedKeyUsageOID.CLIENT_AUTH not in purposes:
            warnings.append(
                f"{certificate}: is no client's certificate (extended key usage); request one that is"
            )
    return [warning for warning in warnings if warning]


def _chain_warning(identity: Identity, *, layout: Layout, at: datetime) -> str:
    from appliance.core.trust.ca_directory import CADirectory, CRLPolicy  # noqa: PLC0415

    try:
        directory = CADirectory(layout.grid_certificates, crls=CRLPolicy.WARN)
        directory.verify_chain(identity.certificate, untrusted=identity.chain, at=at)
    except ApplianceError as error:
        return f"{identity.certificate_path}: peers may not trust it: {error}"
    return ""
