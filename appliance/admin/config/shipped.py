"""``appliance config diff``: the site's files beside those that a version ships.

The wheel of the appliance has the shipped files of its version; a bundle has those of its own.
Values of secrets are masked on both sides.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from appliance.admin.migrate import difference
from appliance.admin.mounts import site_files
from appliance.admin.settings import Host
from appliance.core.config import document
from appliance.core.run import output
from appliance.core.run.errors import ExitStatus, UsageError
from appliance.core.run.layout import Layout
from appliance.core.version import __version__

_ADMIN = Path(__file__).parents[1]
_FOLDERS = ("files/etc", "etc")
_PROGRAMS = ("fedcloud/networks", "fedcloud/cron.d", "logrotate.d", "tmpfiles.d")
"""Folders of ``etc`` that an upgrade replaces as a whole: a site extends them by own files."""
_OTHER_PLACES = {
    "/etc/voms.json": ("FEDCLOUD_CASO_MAPPING", "FEDCLOUD_BACKEND_MAPPING"),
    "/etc/cloudkeeper/cloudkeeper-os.conf": (site_files.BACKEND_CONFIG,),
}
"""By shipped file, the variables that name the site's own file for it."""


def run(host: Host, layout: Layout, *, other: Path | None, as_json: bool) -> ExitStatus:
    """Print the differences of all files; return whether there are any."""
    top, label = (own(), __version__) if other is None else (_of_bundle(other), str(other))
    found = {name: lines for name, lines in differences(host, layout, top, label) if lines}
    if as_json:
        output.document({"shipped": label, "files": found})
    else:
        for lines in found.values():
            for line in lines:
                output.line(line)
        output.line(f"{output.count(len(found), 'file')} differ from those of {label}")
    return ExitStatus.PARTLY if found else ExitStatus.DONE


def own() -> Path:
    """Return the directory of the files that this version ships."""
    inside = _ADMIN / "shipped/etc"
    # A checkout has no copy of them, but the files themselves.
    return inside if inside.is_dir() else _ADMIN.parents[1] / "etc"


def _of_bundle(directory: Path) -> Path:
    """Return the directory of the files in an unpacked bundle.

    Raises:
        UsageError: It has none.

    """
    places = [directory / name for name in _FOLDERS]
    found = next((one for one in places if (one / "fedcloud").is_dir()), None)
    if found is None:
        raise UsageError(directory, "is no bundle", "unpack the bundle, and name its directory")
    return found


def differences(
    host: Host, layout: Layout, top: Path, label: str
) -> Iterator[tuple[str, list[str]]]:
    """Yield name and lines of difference of each file; no lines if it is as shipped."""
    for source in sorted(top.rglob("*")):
        name = source.relative_to(top).as_posix()
        if source.is_file() and not name.startswith(_PROGRAMS) and not name.startswith("."):
            yield from _of_file(host, layout, source, f"/etc/{name}", label)


def _of_file(
    host: Host, layout: Layout, source: Path, name: str, label: str
) -> Iterator[tuple[str, list[str]]]:
    before = document.read_text(source)
    chosen = (host.mounts[variable] for variable in _OTHER_PLACES.get(name, ()))
    for place in dict.fromkeys(chosen) or [name]:
        path = layout.path(place)
        after = document.read_text(path) if path.is_file() else ""
        labels = (f"as shipped in {label}", "here" if path.is_file() else "missing here")
        yield place, difference.shown(place, before, after, labels=labels)
