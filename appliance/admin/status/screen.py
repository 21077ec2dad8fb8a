"""One screen of ``appliance status``: at most 30 lines of 80 columns, whatever the texts are.

Names and reasons come from containers, from the cloud and from other hosts. They may be long, wide
(East Asian), without width (combining), or move the cursor; each is cut and escaped for its cell.
"""

from __future__ import annotations

import os
import socket
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from appliance.admin.inventory import Flow
from appliance.admin.status import services
from appliance.admin.status.row import Light, Row, worst
from appliance.admin.status.site import SiteStatus
from appliance.core.run import log
from appliance.core.version import __version__

WIDTH, HEIGHT = 80, 30
_HEAD = ("STATE", "WHAT", "LAST RUN", "NEXT", "DETAILS")
_WIDTHS = (5, 19, 11, 10, 31)
_DETAILS = "Details: appliance status --long; what to do: appliance check"
_MARGIN = " " * 7
_MOST_SOURCES = 3
_CUT = "..."
_COLOURS = {Light.OK: "32", Light.WARNING: "33", Light.BAD: "1;31", Light.OFF: "2"}
"""Parameters of SGR (ECMA-48) for the words of the lights."""


@dataclass(frozen=True, slots=True)
class Terminal:
    """Where the screen is shown: its encoding, and whether it has colours."""

    encoding: str = "utf-8"
    has_colour: bool = False

    @classmethod
    def of_output(cls) -> Terminal:
        """Return the terminal, or the file, that is standard output."""
        is_plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
        return cls(sys.stdout.encoding or "ascii", sys.stdout.isatty() and not is_plain)

    def fit(self, text: str, width: int) -> str:
        """Return a text in ``width`` columns or fewer, on one line and without secrets."""
        shown = "".join(map(_printable, log.one_line(log.redact(text))))
        # What the encoding lacks is escaped by standard output, and is longer then.
        shown = shown.encode(self.encoding, "backslashreplace").decode(self.encoding)
        if columns(shown) <= width:
            return shown
        kept = ""
        for character in shown:
            if columns(kept + character) > width - len(_CUT):
                break
            kept += character
        return kept + _CUT

    def light(self, light: Light) -> str:
        """Return the word of a light in its column, coloured on a terminal."""
        word = light.value.ljust(_WIDTHS[0])
        colour = _COLOURS.get(light) if self.has_colour else None
        return f"\x1b[{colour}m{word}\x1b[0m" if colour else word


def columns(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    return sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _printable(character: str) -> str:
    # Also marks of direction, which would turn the rest of the line round.
    return character if character.isprintable() else ascii(character)[1:-1]


def lines(found: SiteStatus, terminal: Terminal) -> list[str]:
    """Return the lines of the screen; the least important ones are left out if need be."""
    table = list(_table(found, terminal))
    others = [terminal.fit(f"! {line}", WIDTH) for line in _others(found)]
    room = HEIGHT - len(table) - 1
    if len(others) > room:
        left = len(others) - max(room - 1, 0)
        others = [*others[: max(room - 1, 0)], f"! {left} more: appliance status --long"]
    return [*table, *others, _DETAILS][:HEIGHT]


def _others(found: SiteStatus) -> list[str]:
    """Return the faults that no row shows."""
    shown = {row.reason for row in found.rows}
    shown |= {f"{row.flow}: {row.reason}" for row in found.rows}
    if found.images:
        shown.add(found.images.complaint)
    if found.published:
        shown.add(found.published.complaint)
    about_services = services.complaints(found.services) if found.services else []
    named = {row.name for row in found.rows}
    failed = [
        f"{last.program}: {last.failures[0] if last.failures else last.word}"
        for last in found.runs
        if not last.is_well and not _is_shown(last.program, named)
    ]
    return [line for line in [*about_services, *found.complaints, *failed] if line not in shown]


def _is_shown(program: str, names: set[str]) -> bool:
    """Check whether a row shows the run of a program."""
    return program in names or _ROWS.get(program, "") in names


_ROWS = {
    "caso-extract": "caso",
    "job-caso": "caso",
    "job-ssmsend": "ssmsend",
    "job-cloudkeeper": "cloudkeeper",
    "job-fetch-crl": "fetch-crl",
    "cloud-info-provider-service": "cloud-info-json",
    "job-cloud-info-json": "cloud-info-json",
    "bdii-resource": "cloudbdii",
    "bdii-site": "sitebdii",
}
"""The row of each program whose row has another name."""


def _table(found: SiteStatus, terminal: Terminal) -> Iterator[str]:
    amiss = sum(row.light.needs_somebody for row in found.rows)
    word = "all is well" if not found.status else f"{amiss or 1} to look at"
    at = f"{found.now:%Y-%m-%d %H:%M} UTC"
    name = terminal.fit(f"appliance {__version__} on {socket.gethostname()}", 40)
    yield f"{name}  {at}  {word}"
    yield _joined(_HEAD[0].ljust(_WIDTHS[0]), _HEAD[1:], terminal)
    reasons = _kept_reasons(found)
    for flow in (*found.host.flows, "host"):
        own = [row for row in found.rows if row.flow == flow]
        is_off = isinstance(flow, Flow) and not found.host.flows[flow]
        light = Light.OFF if is_off else worst([row.light for row in own])
        yield f"{terminal.light(light)} {flow}"
        for row in _limited(own):
            yield _line(row, found.now, terminal)
            if row.reason and id(row) in reasons:
                yield _MARGIN + terminal.fit(f"! {row.reason}", WIDTH - len(_MARGIN))


def _limited(rows: Sequence[Row]) -> list[Row]:
    """Return rows, without sources of images beyond the first few; the last one counts those."""
    sources = [row for row in rows if row.is_source]
    if len(sources) <= _MOST_SOURCES:
        return list(rows)
    more = sources[_MOST_SOURCES - 1 :]
    kept = [row for row in rows if not row.is_source] + sources[: _MOST_SOURCES - 1]
    total = sum(float(row.figures["images"] or 0) for row in more)
    return [*kept, Row("images", f"{len(more)} more sources", Light.OK, f"{total:g} images")]


def _kept_reasons(found: SiteStatus) -> set[int]:
    """Return the rows whose reason has room: bad ones first."""
    amiss = [row for row in found.rows if row.reason]
    amiss.sort(key=lambda row: row.light is not Light.BAD)
    flows = {flow: [row for row in found.rows if row.flow == flow] for flow in found.host.flows}
    rows = sum(len(_limited(own)) for own in flows.values())
    rows += sum(row.flow == "host" for row in found.rows)
    room = HEIGHT - rows - len(found.host.flows) - 4
    return {id(row) for row in amiss[: max(room, 0)]}


def _line(row: Row, now: datetime, terminal: Terminal) -> str:
    last = f"{services.span(now - row.last_run)} ago" if row.last_run else "-"
    following = f"in {services.span(row.next_run - now)}" if row.next_run else "-"
    cells = (f" {row.name}", last, following, row.details)
    return _joined(terminal.light(row.light), cells, terminal)


def _joined(first: str, cells: Sequence[str], terminal: Terminal) -> str:
    shown = []
    for text, width in zip(cells, _WIDTHS[1:], strict=True):
        fitted = terminal.fit(text, width)
        shown.append(fitted + " " * (width - columns(fitted)))
    return " ".join([first, *shown]).rstrip()
