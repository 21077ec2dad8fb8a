"""Signed bundles, and a host with the files and the record of an installation."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

from appliance.admin.install.plan import digest, files
from appliance.admin.install.record import InstallRecord
from appliance.core.version import __version__
from tests.testbed import bundle as bundles
from tests.unit.backup_site import put

NEWER = "99.0"


def make_bundles(directory: Path) -> None:
    """Make a bundle of this version and a newer one, signed with ``key.pem``."""
    private, _ = bundles.make_key(directory)
    for version in (__version__, NEWER):
        bundles.make(directory, version=version, key=private)


def make_host(root: Path, made: Path) -> None:
    """Make a host with the bundle of this version, and the key of the bundles."""
    record = InstallRecord(version=__version__, bundle="0" * 64)
    bundle = made / f"fedcloud-appliance-{__version__}"
    for one in files(bundle, is_active=lambda _name: False):
        path = root / one.target.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(one.content)
        record.shipped[one.key] = [digest(one.content)]
    (root / "etc/cloudkeeper-os/cloudkeeper-os.conf").unlink(missing_ok=True)
    record.write(root / "var/lib/fedcloud/install.json")
    put(root / "var/lib/fedcloud/version", f"{__version__}\n")
    shutil.copy(made / "key.pub", root / "etc/fedcloud/signing-key.pem")


def packed(bundle: Path) -> Path:
    """Return a tar of a bundle, beside it."""
    target = bundle.with_suffix(".tar")
    with tarfile.open(target, "w") as archive:
        archive.add(bundle, "fedcloud-appliance")
    return target
