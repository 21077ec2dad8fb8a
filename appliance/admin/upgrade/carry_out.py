"""An upgrade from begin to end: backup, installation, health gate, and the way back if it fails.

All is at hand before anything stops: the bundle is verified, and there is space. The installer
changes the host step by step, and a later run does the rest of a killed one; so does this.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from appliance.admin import changing, settings
from appliance.admin.backup import writing
from appliance.admin.upgrade import health, kept, record, rollback
from appliance.admin.upgrade.bundle import VerifiedBundle
from appliance.admin.upgrade.preview import Preview
from appliance.admin.upgrade.record import UpgradeRecord, UpgradeState
from appliance.core import files
from appliance.core.run.errors import Unavailable
from appliance.core.run.layout import Layout

_PARTLY = 1
"""The exit status of the installer if a service did not restart."""


def run(
    source: Path,
    bundle: VerifiedBundle,
    preview: Preview,
    layout: Layout,
    *,
    flags: list[str],
    pause: timedelta,
) -> None:
    """Upgrade. ``flags`` are the installer's, ``pause`` is the time between two looks.

    Raises:
        Unavailable: The upgrade failed; the host has the version before.

    """
    begun = _begin(preview, layout)
    status = _install(source, bundle, layout, flags)
    if status not in (0, _PARTLY) and settings.in_use(layout) == begun.before:
        with changing.alone(layout):
            rollback.give_files_back(layout)
        cause = f"the installation failed with exit status {status}; {begun.before} stays in use"
        remedy = "follow the lines above, and run it again"
        raise Unavailable("upgrade", f"{cause}, with its files", remedy)
    found = [f"the installation ended with exit status {status}"] if status else []
    finish(begun, layout, found=found, pause=pause)


def finish(
    begun: UpgradeRecord, layout: Layout, *, found: Sequence[str] = (), pause: timedelta
) -> None:
    """Pass the health gate, or go back; ``found`` are faults that are known already.

    Raises:
        Unavailable: The new version is not healthy; the host has the version before.

    """
    found = found or health.new_faults(begun.faults, begun.after, layout, pause=pause)
    if not found:
        record.note(begun, UpgradeState.DONE, layout)
        return
    for line in found:
        print(f"! {line}", flush=True)
    if begun.before == begun.after:
        cause = f"this bundle of {begun.after} is not healthy: {found[0]}"
        raise Unavailable("upgrade", cause, "there is no version before to go back to")
    rollback.check(begun, layout)
    with changing.alone(layout):
        rollback.run(begun, layout)
    cause = f"{begun.after} is not healthy: {found[0]}; the host went back to {begun.before}"
    raise Unavailable("upgrade", cause, "nothing that was delivered is lost; report the lines")


def _begin(preview: Preview, layout: Layout) -> UpgradeRecord:
    """Return the record of this upgrade, after a backup; a killed run has begun it already."""
    found = record.read(layout)
    if found and found.state is UpgradeState.BEGUN and found.after == preview.after:
        return found
    folder = layout.path(kept.FOLDER)
    files.make_directory(folder, mode=0o700)
    target = folder / f"before-{preview.after}.backup"
    target.unlink(missing_ok=True)
    manifest, _, lines = writing.write(target, [], layout)
    for line in lines:
        print(line, flush=True)
    print(f"backup of this host, for root alone: {target}", flush=True)
    kept.keep(preview.written, layout)
    begun = UpgradeRecord(
        preview.before,
        preview.after,
        tables={name: version for name, (_, version) in manifest.schemas.items()},
        faults=tuple(health.faults(layout)),
    )
    record.write(begun, layout)
    return begun


def _install(source: Path, bundle: VerifiedBundle, layout: Layout, flags: list[str]) -> int:
    """Run the installer of the verified bundle, which verifies the bundle itself once more."""
    command = ["/bin/bash", str(bundle.top / "install"), str(source), *flags]
    if layout.root != Path("/"):
        command += ["--root", str(layout.root)]
    return subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode
