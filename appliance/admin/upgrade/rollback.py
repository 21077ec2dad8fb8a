"""The way back to the version before the last upgrade, without its bundle and the network.

What selects a version is changed, files that the upgrade has replaced come back, and the services
are restarted. Ledger, journal, spools and checkpoints stay as they are: nothing that was delivered
is taken back.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from appliance.admin import settings
from appliance.admin.backup import copies
from appliance.admin.install import engine_images, host, programs
from appliance.admin.inventory import CONTAINERS
from appliance.admin.machine import Machine
from appliance.admin.upgrade import health, kept, record, state_forms
from appliance.admin.upgrade.record import UpgradeRecord, UpgradeState
from appliance.core import files
from appliance.core.run.errors import Unavailable, UsageError
from appliance.core.run.layout import Layout

_TOP = "/opt/fedcloud"
_COMMAND = "/usr/local/bin/appliance"
_BROKEN = ("failed", "activating")
"""States of a unit that has failed, and of one that systemd starts again and again."""


def last(layout: Layout) -> UpgradeRecord:
    """Return the upgrade that can be undone.

    Raises:
        UsageError: There is none.

    """
    found = record.read(layout)
    if found is None:
        remedy = "to go back by hand: docs/how-to/earlier-version.md"
        raise UsageError("--rollback", "no upgrade was made by appliance upgrade", remedy)
    return found


def check(found: UpgradeRecord, layout: Layout) -> None:
    """Check that the version before is complete and can read the state.

    Raises:
        Unavailable: It is not, or the newer version has changed tables of the state.

    """
    version = found.before
    missing = [*_missing(version, layout)]
    if missing:
        remedy = f"install the bundle of {version}"
        raise Unavailable(version, f"is not complete here any more: {missing[0]} is gone", remedy)
    for name, tables in found.tables.items():
        path = layout.path(name)
        now = copies.tables(path) if path.exists() else 0
        if state_forms.prevents_way_back(name, now, tables):
            cause = f"has tables of version {now}, and {version} knows {tables}"
            raise Unavailable(path, cause, f"stay with {found.after}: nothing may be taken back")


def _missing(version: str, layout: Layout) -> Iterator[str]:
    program = layout.path(f"{_TOP}/{version}/bin/python")
    if not program.parent.is_dir():
        yield str(program.parent.parent)
    if layout.root != Path("/") or settings.is_native(layout):
        return
    for service in dict.fromkeys(CONTAINERS):
        tag = f"egifedcloud/{service}:{version}"
        if not engine_images.present(tag):
            yield f"the image {tag}"


def run(found: UpgradeRecord, layout: Layout) -> None:
    """Select the version before, and restart the services; the caller holds the lock.

    Raises:
        Unavailable: A service does not start.

    """
    version = found.before
    # The version first: a job that starts in between then has images and units that fit.
    files.write_atomic(layout.path(settings.VERSION_FILE), f"{version}\n".encode(), mode=0o644)
    programs.point(layout.path(_COMMAND), f"{_TOP}/{version}/bin/appliance")
    if settings.is_native(layout):
        programs.link_current(root=layout.root, version=version)
    is_unit_changed = give_files_back(layout)
    if host.is_booted(layout.root):
        host.renew_services(is_unit_changed=is_unit_changed, broken=_broken(found, layout))
    # Last: a run that ends before is repeated as a whole.
    record.note(found, UpgradeState.BACK, layout)


def give_files_back(layout: Layout) -> bool:
    """Bring back the files that an upgrade has replaced; return whether that concerns services."""
    returned = [*kept.give_back(layout)]
    if host.is_booted(layout.root):
        host.reload_units()
    return any(one.changes_service for one in returned)


def _broken(found: UpgradeRecord, layout: Layout) -> list[str]:
    """Return the units that run no more since the upgrade, though nobody has stopped them."""
    machine = Machine()
    return [
        f"{unit}.service"
        for unit in health.units(layout)
        if unit not in found.faults and machine.state(unit) in _BROKEN
    ]
