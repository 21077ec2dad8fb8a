"""What an upgrade to a bundle would change, and what it needs: nothing is changed to find out."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from appliance.admin import settings
from appliance.admin.backup import places
from appliance.admin.images import locked
from appliance.admin.install import engine_images
from appliance.admin.install.__main__ import Installation
from appliance.admin.install.plan import Action
from appliance.admin.install.record import InstallRecord
from appliance.admin.upgrade import state_forms
from appliance.admin.upgrade.bundle import VerifiedBundle
from appliance.admin.versions import ordered
from appliance.core.download.pace import amount
from appliance.core.run.errors import Unavailable, UsageError
from appliance.core.run.layout import Layout

RECORD = "/var/lib/fedcloud/install.json"
_PROGRAMS = "/opt/fedcloud"
_UNPACKING = "/var/tmp"  # noqa: S108  the installer makes a directory of its own there
_UNPACKED = 4
"""How many bytes an environment takes for one of its wheels."""


@dataclass(frozen=True, slots=True)
class Preview:
    """An upgrade, before it is carried out."""

    before: str
    after: str
    is_installed: bool
    """Whether this very bundle is in use."""
    written: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    """Files of the administrator whose new version goes beside them."""
    needs: tuple[tuple[Path, int], ...] = field(default_factory=tuple)
    """Bytes that are needed in directories."""
    forms: tuple[str, ...] = ()
    """A line for each form of the state."""


def make(path: Path, bundle: VerifiedBundle, layout: Layout) -> Preview:
    """Return what an upgrade would change.

    Raises:
        UsageError: No appliance is installed, or the bundle is an older one.
        Unavailable: An image is missing from the bundle.

    """
    before = settings.in_use(layout)
    record = InstallRecord.read(layout.path(RECORD))
    if not before or not record.version:
        cause = "no appliance is installed"
        raise UsageError(layout.path(RECORD), cause, "run the bundle's install")
    if ordered(bundle.version) < ordered(before):
        cause = f"is of version {bundle.version}, older than {before}, which is in use"
        raise UsageError(path, cause, "to go back: appliance upgrade --rollback")
    is_native = settings.is_native(layout)
    if not is_native:
        engine_images.check_held(bundle.images, locked.read(bundle.top / "images.lock"))
    run = Installation(bundle.top, layout.root, layout.path(RECORD), record, is_native)
    found = [*run.preview()]
    return Preview(
        before,
        bundle.version,
        # After a way back the record still names the newer bundle.
        is_installed=record.bundle == bundle.digest and before == bundle.version,
        written=tuple(one.target for one, action in found if action is not Action.BESIDE),
        beside=tuple(one.target for one, action in found if action is Action.BESIDE),
        needs=tuple(_needs(path, bundle, layout, is_native=is_native)),
        forms=tuple(state_forms.lines(state_forms.of_bundle(bundle.top), before, layout)),
    )


def _needs(
    path: Path, bundle: VerifiedBundle, layout: Layout, *, is_native: bool
) -> Iterator[tuple[Path, int]]:
    yield layout.path(_PROGRAMS), _UNPACKED * bundle.size("wheels")
    yield layout.path("/var/lib/fedcloud"), _copied(layout)
    if not path.is_dir():  # the installer unpacks it there
        yield Path(os.environ.get("TMPDIR") or _UNPACKING), sum(bundle.sizes.values())
    if not is_native and layout.root == Path("/"):
        yield engine_images.place(), bundle.size("images")


def check_space(preview: Preview) -> None:
    """Check that each file system has what all directories on it need together.

    Raises:
        Unavailable: One has too little space.

    """
    wanted: dict[int, tuple[Path, int]] = {}
    for place, needed in preview.needs:
        present = next((one for one in (place, *place.parents) if one.exists()), Path("/"))
        device = present.stat().st_dev
        first, sum_ = wanted.get(device, (present, 0))
        wanted[device] = (first, sum_ + needed)
    for place, needed in wanted.values():
        free = shutil.disk_usage(place).free
        if free < needed:
            cause = f"the upgrade needs {amount(needed)}, {amount(free)} are free"
            raise Unavailable(place, cause, "free space there; nothing was changed")


def lines(preview: Preview) -> Iterator[str]:
    """Yield what an upgrade would change, for a person."""
    if preview.is_installed:
        yield f"Nothing to upgrade: this bundle of {preview.after} is installed."
        return
    yield f"{preview.before} -> {preview.after}; the signature and all checksums hold"
    for name in preview.written:
        yield f"~ {name}"
    for name in preview.beside:
        yield f"! {name}: keeps your changes; the new version would be {name}.fedcloud-new"
    yield from preview.forms
    for place, needed in preview.needs:
        yield f"space in {place}: {amount(needed)}"


def _copied(layout: Layout) -> int:
    """Return the bytes of what is copied before an upgrade."""
    total = 0
    for _, path in (*places.configuration(layout), *places.state(layout)):
        with suppress(FileNotFoundError):  # a message that has just been sent
            total += path.stat().st_size if path.is_file() else 0
    return total
