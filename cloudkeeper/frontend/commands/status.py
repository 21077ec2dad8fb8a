"""``cloudkeeper status``: what the last sync left, what is held back, and the images of each VO."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from appliance.core import clock
from appliance.core.run import cli, lock, log, output, record
from appliance.core.run.errors import ApplianceError, ExitStatus
from cloudkeeper.frontend import accepted_log
from cloudkeeper.frontend.commands import startup
from cloudkeeper.frontend.memory import Memory
from cloudkeeper.frontend.remedies import command
from cloudkeeper.frontend.selection import ALL, Selection
from cloudkeeper.frontend.settings import FrontendSettings
from cloudkeeper.model import HIDDEN_KEY, HOLDER_KEY, UNMARKED_KEY, Appliance, ListId

_STALE = timedelta(hours=24)
"""Six times the pause between two runs of the schedule."""
_FIGURES = {
    "images_added": "added",
    "images_updated": "updated",
    "images_metadata_updated": "described",
    "images_removed": "removed",
    "images_failed": "failed",
    "images_unchanged": "unchanged",
    "images_held_by_others": "held by others",
    "removals_withheld": "removals withheld",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own flags, and those of the configuration."""
    parser.add_argument("--json", action="store_true", help="print the status as JSON")
    startup.add_arguments(parser)


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Print the status; 1 if something is held back or stale, 3 without a backend."""
    configured = startup.configure(arguments, is_reading=True)
    if arguments.check_config:
        return startup.report_check(configured)
    layout = cli.layout(arguments)
    last = _LastSync.read(layout.runs)
    found = _SiteStatus(configured, layout.path(startup.STATE), last)
    found.ask_backend()
    if arguments.json:
        output.document(found.as_json())
    else:
        found.show()
    if found.unreachable:
        cli.report(startup.PROGRAM, found.unreachable)
        return ExitStatus.NOTHING
    return ExitStatus.PARTLY if found.is_amiss else ExitStatus.DONE


@dataclass(frozen=True, slots=True)
class _LastSync:
    """The record of the last run; without ``ended`` none has run."""

    ended: datetime | None = None
    success: datetime | None = None
    failures: Sequence[str] = ()
    counts: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, runs: Path) -> _LastSync:
        """Return the last run by its record, which another release may have written."""
        found = record.read(startup.PROGRAM, runs) or {}
        failures, counts = found.get("failures"), found.get("counts")
        return cls(
            _moment(found.get("ended")),
            _moment(found.get("last_success")),
            [str(line) for line in failures] if isinstance(failures, list) else (),
            counts if isinstance(counts, dict) else {},
        )

    @property
    def is_stale(self) -> bool:
        """Whether the last complete run is too long ago."""
        return self.success is None or clock.now() - self.success > _STALE

    def lines(self) -> Iterator[str]:
        """Yield what the run did, in words."""
        if self.ended is None:
            yield f"no sync has ended yet; to start one: {command('sync')}"
            return
        figures = [
            f"{number:g} {word}"
            for key, word in _FIGURES.items()
            if isinstance(number := self.counts.get(key), int | float) and number
        ]
        yield f"last sync: {output.moment(self.ended)}: {', '.join(figures) or 'no change'}"
        if self.success != self.ended:
            yield f"last complete sync: {output.moment(self.success) if self.success else 'none'}"


@dataclass(frozen=True, slots=True)
class _HeldList:
    """The images of one list in the cloud; ``failure`` says why they are not known."""

    source: str
    vo: str
    images: Sequence[Appliance]
    failure: str = ""
    selection: Selection = ALL
    """The images of the source that the configuration takes."""

    def holder(self, image: Appliance) -> str:
        """Return who keeps an image, and whether the configuration ignores it."""
        is_taken = self.selection.takes(image.identifier, image.title)
        return _holder(image) if is_taken else f"{_holder(image)}, ignored"


class _SiteStatus:
    """What is known from files, and from the backend if it answers."""

    def __init__(self, configured: FrontendSettings, state: Path, last: _LastSync) -> None:
        self._configured, self._last = configured, last
        self._memory = Memory(state / "lists.json")
        self._accepted = accepted_log.read(state / "accepted.json")
        self._names = [*map(str, configured.registries), *map(str, configured.lists)]
        self._lists: list[_HeldList] = []
        problems = map(log.redact, map(str, configured.list_problems))
        # The last run has reported most of them.
        self._problems = [line for line in problems if line not in last.failures]
        self.unreachable: ApplianceError | None = None

    @property
    def is_amiss(self) -> bool:
        """Whether something is held back, stale or unknown."""
        is_known = not any(held.failure for held in self._lists)
        is_held = bool(self._last.failures or self._problems)
        return is_held or self._last.is_stale or not is_known

    def ask_backend(self) -> None:
        """Read the images in the cloud, as a dry run does."""
        from cloudkeeper.frontend.backend_client import BackendFailure  # noqa: PLC0415  loads gRPC
        from cloudkeeper.frontend.commands import assembly  # noqa: PLC0415

        with assembly.backend(self._configured) as backend:
            try:
                in_cloud = backend.list_ids()
            except BackendFailure as error:
                self.unreachable = error
                return
            selections = self._selections()
            for list_id, (source, vo) in self._known(in_cloud).items():
                try:
                    images = backend.appliances(list_id, vo=vo)
                except BackendFailure as error:  # one VO must not affect the others
                    self._lists.append(_HeldList(source, vo, (), str(error)))
                    continue
                shown_vo = vo or next((image.vo for image in images), "?")
                selection = selections.get(source, ALL)
                self._lists.append(_HeldList(source, shown_vo, images, selection=selection))

    def _selections(self) -> Mapping[str, Selection]:
        """Return the selection of each source by its name."""
        registries = {str(each): each.selection for each in self._configured.registries}
        return registries | {each.name: each.selection for each in self._configured.lists}

    def _known(self, in_cloud: Sequence[ListId]) -> Mapping[ListId, tuple[str, str]]:
        """Return source and VO of each list, of the configuration first."""
        found = {
            ListId(f"{registry}/{vo}"): (str(registry), vo)
            for registry in self._configured.registries
            for vo in registry.vos
        }
        names = {address.place: address.name for address in self._configured.lists}
        for entry in self._memory.entries:
            if entry.list_id and entry.url in names:
                found[ListId(entry.list_id)] = (names[entry.url], entry.vo)
        for list_id in in_cloud:
            found.setdefault(list_id, (f"list {list_id}, which is not configured", ""))
        return found

    def show(self) -> None:
        """Print the status as text."""
        if running := lock.holder(self._configured.lock_file):
            output.line(f"a sync is {running}")
        for line in self._last.lines():
            output.line(line)
        rest = [*self._last.failures, *self._problems]
        for name in self._names:
            accepted = self._accepted.get(name)
            output.line(f"{name}: {_since(accepted)}")
            for line in [line for line in rest if line.startswith(f"{name}: ")]:
                output.line(f"  held back: {line.removeprefix(f'{name}: ')}")
                rest.remove(line)
        for line in rest:
            output.line(f"held back: {line}")
        for held in self._lists:
            _print_list(held)

    def as_json(self) -> dict[str, object]:
        """Return everything for programs."""
        images = [
            {
                "vo": held.vo,
                "source": held.source,
                "image": image.identifier,
                "title": image.title,
                "version": image.version,
                "holder": held.holder(image),
            }
            for held in self._lists
            for image in held.images
        ]
        return {
            "last_sync": self._last.ended,
            "last_complete_sync": self._last.success,
            "is_stale": self._last.is_stale,
            "sources": {name: self._accepted.get(name) for name in self._names},
            "held_back": [*self._last.failures, *self._problems],
            "images": images,
            "failures": [held.failure for held in self._lists if held.failure],
            "backend": str(self.unreachable) if self.unreachable else "",
        }


def _print_list(held: _HeldList) -> None:
    if held.failure:
        output.line(f"VO {held.vo}: {held.source}: {held.failure}")
        return
    output.line(f"VO {held.vo}: {held.source}: {output.count(len(held.images), 'image')}")
    rows = [
        (image.title or image.identifier, image.version or "-", held.holder(image))
        for image in held.images
    ]
    if rows:
        output.table(rows, indent="  ")


def _holder(image: Appliance) -> str:
    """Return who keeps an image: this program, or the tag of another one."""
    attributes = image.attributes
    if holder := attributes.get(HOLDER_KEY) or attributes.get(UNMARKED_KEY):
        return holder
    return "ours, hidden" if HIDDEN_KEY in attributes else "ours"


def _since(accepted: datetime | None) -> str:
    return f"accepted {output.moment(accepted)}" if accepted else "not accepted yet"


def _moment(text: object) -> datetime | None:
    try:
        return clock.parse(text) if isinstance(text, str) else None
    except ValueError:
        return None


VERB = cli.Program(
    "status", "Print the result of the last sync, and the images of each VO.", add_arguments, run
)
