"""The host key for a job: a copy on tmpfs, readable by the job's account while the job runs.

Only root can read the key itself, and its directory is mounted into no container.

Each configuration of the sender may name a certificate and key of its own. There is one copy for
each key; a key that cannot be used is left out and reported, as long as another one can be used.
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
from appliance.core import files, senders
from appliance.core.config import document, ini, yaml_file
from appliance.core.config.settings import Settings
from appliance.core.run.errors import (
    ApplianceError,
    ConfigurationError,
    LocalFailure,
    Unavailable,
)
from appliance.core.run.layout import Layout

if TYPE_CHECKING:
    from appliance.core.trust.certificates import Identity

logger = logging.getLogger(__name__)

CERTIFICATE = "/etc/grid-security/hostcert.pem"
KEY = "/etc/grid-security/hostkey.pem"
_BACKEND = "/etc/grid-security/backendcert.pem"


@dataclass(frozen=True, slots=True)
class Needs:
    """The certificate and key of a job: absolute paths on the host, the same in its container."""

    certificate: str = CERTIFICATE
    key: str = KEY
    peer: str = ""
    """The peer's certificate, used to verify the peer or to encrypt for it; may be empty."""


def needs(job: Job, layout: Layout) -> tuple[Needs, ...]:
    """Return the certificates and keys of a job; none if it needs none.

    ssmsend always needs them, cloudkeeper with ``authentication: true``. A missing configuration
    and a value that is not a path are ignored here, because the job itself reports them.
    """
    if job.service == "ssm":
        return _ssm(layout)
    if job.service == "cloudkeeper":
        return _cloudkeeper(layout.path("/etc/cloudkeeper/cloudkeeper.yml"))
    return ()


def _ssm(layout: Layout) -> tuple[Needs, ...]:
    found: list[Needs] = []
    errors: list[ConfigurationError] = []
    for path in senders.configurations(layout).paths:
        if path.exists():
            try:
                found.append(_of_sender(path))
            except ConfigurationError as error:
                errors.append(error)
    if errors and not found:
        raise errors[0]
    return tuple(dict.fromkeys(found)) or (Needs(),)


def _of_sender(path: Path) -> Needs:
    found, section = Settings(document.read([path], ini.parse)), "certificates"
    return Needs(
        certificate=_place(found, section, "certificate", default=CERTIFICATE),
        key=_place(found, section, "key", default=KEY),
        peer=_place(found, section, "server_cert"),
    )


def _cloudkeeper(path: Path) -> tuple[Needs, ...]:
    if not path.exists():
        return ()
    found = Settings(document.read([path], yaml_file.parse))
    if not found.boolean("cloudkeeper", "authentication", default=False):
        return ()
    wanted = Needs(
        certificate=_place(found, "cloudkeeper", "certificate", default=CERTIFICATE),
        key=_place(found, "cloudkeeper", "key", default=KEY),
        peer=_place(found, "cloudkeeper.backend", "certificate", default=_BACKEND),
    )
    return (wanted,)


def _place(found: Settings, section: str, option: str, *, default: str = "") -> str:
    """Return the path in an option if it is absolute, else the default."""
    path = found.path(section, option, default=Path(default))
    return str(path) if path.is_absolute() else default


def staged_path(name: str, layout: Layout) -> Path:
    """Return the path of the copy for a job, or for its check."""
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
    """Check certificates and keys, and yield the bind mounts with copies that last for the block.

    The copies of a killed run are removed first. A caller without the job's lock passes another
    ``name`` for its copies. ``warn`` receives what a peer may reject.

    Raises:
        ApplianceError: No certificate and key can be used; it says why the first cannot.

    """
    copy = staged_path(name or job.name, layout)
    wanted = needs(job, layout)
    try:
        _clear(copy)
    except LocalFailure as error:
        if wanted:
            raise
        logger.warning("%s", error)  # the job needs no key, so the rest is harmless
    if not wanted:
        yield ()
        return
    usable = _usable(wanted, layout=layout, at=at, warn=warn)
    keys = list(dict.fromkeys(one.key for one in usable))
    copies = {key: _numbered(copy, number) for number, key in enumerate(keys)}
    # The keys are not among them: they are mounted from the copies.
    public = dict.fromkeys(
        place
        for one in usable
        for place in (one.certificate, one.peer)
        if place and place not in copies
    )
    # On tmpfs (/run), so that the key is never written to a disk.
    files.make_directory(copy.parent, mode=0o700)
    try:
        for key, path in copies.items():
            # A new file, so that nobody can have it open or be its owner.
            files.write_new(path, layout.path(key).read_bytes(), mode=0o400)
            os.chown(path, account.ID, account.ID)
        yield (
            *(f"{layout.path(place)}:{place}:ro" for place in public),
            *(f"{path}:{key}:ro" for key, path in copies.items()),
        )
    finally:
        for path in copies.values():
            path.unlink(missing_ok=True)


def _usable(
    wanted: Sequence[Needs], *, layout: Layout, at: datetime, warn: Callable[[str], None]
) -> list[Needs]:
    """Return the certificates and keys that can be used; warn of the others.

    Raises:
        ApplianceError: None of them can.

    """
    usable: list[Needs] = []
    errors: list[ApplianceError] = []
    for one in wanted:
        try:
            warnings = _check(
                layout.path(one.certificate), layout.path(one.key), layout=layout, at=at
            )
            for place in (one.certificate, one.peer):
                if place not in ("", one.key):
                    _require_open(layout.path(place))
        except ApplianceError as error:
            errors.append(error)
        else:
            usable.append(one)
            for warning in warnings:
                warn(warning)
    if errors and not usable:
        raise errors[0]
    for left_out in errors:
        warn(str(left_out))
    return usable


def _numbered(copy: Path, number: int) -> Path:
    """Return the path of one of several copies: NAME, NAME.1, NAME.2."""
    return copy.with_name(f"{copy.name}.{number}") if number else copy


def _clear(copy: Path) -> None:
    """Remove the copies of a killed run."""
    for path in (copy, *sorted(copy.parent.glob(f"{copy.name}.*"))):
        _clear_one(path)


def _clear_one(copy: Path) -> None:
    """Remove the copy of a killed run, or the directory that Docker made in its place."""
    try:
        if copy.is_dir() and not copy.is_symlink():
            copy.rmdir()
        else:
            copy.unlink(missing_ok=True)
    except OSError as error:
        remedy = f"look at it, then remove it: rm -r {files.shell_word(copy)}"
        raise LocalFailure.from_os(error, remedy=remedy) from error


def _require_open(path: Path) -> None:
    """Check that a certificate exists and that the account of the containers can read it.

    Docker would make a directory in place of a missing file.
    """
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
    """Check certificate and key; return warnings about what a peer may reject."""
    # Imported here, because most jobs need no key.
    from cryptography import x509  # noqa: PLC0415  start-up is a cost
    from cryptography.x509.oid import ExtendedKeyUsageOID  # noqa: PLC0415

    from appliance.core.trust.certificates import Identity  # noqa: PLC0415
    from appliance.core.trust.unreadable import UNREADABLE  # noqa: PLC0415

    for path, what in (
        (certificate, "the certificate of this host (PEM)"),
        (key, "the key of this host (PEM, readable by root only)"),
    ):
        if not path.exists():
            raise Unavailable(path, "does not exist", f"copy {what} to this path")
    identity = Identity.load(certificate, key_path=key, at=at)
    warnings = [identity.expiry_warning(at=at), _chain_warning(identity, layout=layout, at=at)]
    with contextlib.suppress(x509.ExtensionNotFound, *UNREADABLE):
        purposes = identity.certificate.extensions.get_extension_for_class(
            x509.ExtendedKeyUsage
        ).value
        if ExtendedKeyUsageOID.CLIENT_AUTH not in purposes:
            warnings.append(
                f"{certificate}: its extended key usage lacks client authentication;"
                " request a certificate that has it"
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
