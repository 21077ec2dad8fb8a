"""The start of the next extraction of usage: the checkpoint of a project, else ``--since``.

For a project without a checkpoint a plain `caso-extract` reads the usage since 1970, as cASO does.
The appliance passes a date: the one of `appliance schedule --since DATE`, else the first day of the
month of the first extraction. A server that existed on that date is accounted from its creation,
because the repository computes the use of a month as the growth since the month before. Servers
that were deleted earlier are left out.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from appliance.core import clock, files, lastrun
from appliance.core.run.errors import ConfigurationError, LocalFailure, Problem
from appliance.core.run.layout import Layout

logger = logging.getLogger(__name__)

_KEPT = "/var/lib/fedcloud/since"
_SPOOL = "/var/spool/caso"
_CONFIGURATION = "/etc/caso/caso.conf"
_PLACEHOLDER = "PROJECT-NAMES"
BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


def kept(layout: Layout) -> datetime | None:
    """Return the date in the state directory; None without one.

    Raises:
        ConfigurationError: The file does not hold a date.

    """
    path = layout.path(_KEPT)
    try:
        return clock.parse(path.read_text(errors="replace").strip())
    except FileNotFoundError:
        return None
    except ValueError as error:
        cause = "does not hold a date; write one with appliance schedule --since DATE"
        raise ConfigurationError([Problem(path, 0, "", cause)]) from error


def keep(since: datetime, layout: Layout) -> None:
    """Write a date to the state directory."""
    path = layout.path(_KEPT)
    files.make_directory(path.parent, mode=0o755)
    files.write_atomic(path, f"{since.isoformat()}\n".encode(), mode=0o644)


def arguments(layout: Layout, *, changes_nothing: bool) -> list[str]:
    """Return the flags for caso-extract; the first run writes the date to the state directory."""
    found = since(layout)
    if not changes_nothing and kept(layout) is None:
        try:
            keep(found, layout)
        except OSError as error:
            logger.warning(
                "%s; keep it with appliance schedule --since %s",
                LocalFailure.from_os(error),
                found.date(),
            )
    return ["--since", found.isoformat()]


def since(layout: Layout) -> datetime:
    """Return the date from which projects without a checkpoint are accounted."""
    return kept(layout) or clock.now().astimezone(UTC).replace(
        day=1, hour=0, minute=0, second=0, microsecond=0
    )


def show(layout: Layout) -> Iterator[str]:
    """Yield a line for each checkpoint, and one for the projects without one."""
    fixed, place = _option(layout, "extract_from")
    if fixed:
        yield f"  every run: from {fixed} (extract_from in {place})"
        return
    # cASO's older releases had one checkpoint for all projects.
    general = layout.path(_SPOOL) / "lastrun"
    for path in sorted(layout.path(_SPOOL).glob("lastrun*")):
        name = (
            "projects without a checkpoint of their own"
            if path == general
            else path.name.removeprefix("lastrun.")
        )
        yield f"  {name}: {_reached(path)}"
    if not general.exists():
        date = since(layout).isoformat(sep=" ", timespec="minutes")
        for name in (*_unaccounted(layout), "projects without a checkpoint"):
            yield f"  {name}: servers that existed on {date} or later, each from its creation"


def _unaccounted(layout: Layout) -> Iterator[str]:
    """Yield the projects of caso.conf that have no checkpoint."""
    # "tenants" is the name of the option in older releases of cASO.
    listed = _option(layout, "projects")[0] or _option(layout, "tenants")[0]
    for name in filter(None, map(str.strip, listed.split(","))):
        path = layout.path(_SPOOL) / f"lastrun.{name}"
        if name != _PLACEHOLDER and "/" not in name and not path.exists():
            yield name


def _reached(path: Path) -> str:
    try:
        found = lastrun.read(path)
    except (ValueError, OSError):
        return f"no checkpoint: {path} does not hold a time"
    if found is None:
        return "no checkpoint"
    return f"from {found.isoformat(sep=' ', timespec='minutes')} (checkpoint)"


def _option(layout: Layout, name: str) -> tuple[str, str]:
    """Return an option of [DEFAULT], and ``PATH:LINE``; both empty if it is not set.

    Files of ``caso.conf.d`` are read after ``caso.conf``, as `caso-extract` does. oslo.config is
    not installed on the host, so plain ``name = value`` lines are matched here. The program itself
    reports errors in the files.
    """
    path = layout.path(_CONFIGURATION)
    found = "", ""
    for file in (path, *sorted(path.with_name(f"{path.name}.d").glob("*.conf"))):
        found = _option_of(file, name) or found
    return found


def _option_of(path: Path, name: str) -> tuple[str, str] | None:
    """Return an option of [DEFAULT] in one file, and its line; None if it is not there."""
    section, found = "DEFAULT", None
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return None
    for number, line in enumerate(lines, start=1):
        if match := re.match(r"\[(.*)\]", line.strip()):
            section = match[1]
        elif section == "DEFAULT" and (match := re.match(rf"{name}\s*[=:]\s*(\S.*)", line)):
            found = match[1].strip(), f"{path}:{number}"
    return found
