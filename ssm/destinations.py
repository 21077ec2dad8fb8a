"""The configurations of a run of `ssmsend`, each with its settings or with what is wrong.

Two configurations that name one spool would send its messages to either destination. So each file
of sender.d that names the spool of another configuration is refused, and sender.cfg goes on. A
configuration with faults keeps its spool, too.
"""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

from appliance.core import senders
from appliance.core.run.errors import ApplianceError, ConfigurationError, Problem
from appliance.core.run.layout import Layout
from ssm.settings import KeptHere, SenderSettings, load_kept, load_sender


@dataclass(frozen=True, slots=True)
class ConfiguredDestination:
    """A configuration: settings, or the error that it has."""

    path: Path
    record: str
    """The name of its run record."""
    kept: KeptHere | None = None
    """None if the file, or what it says of this host, cannot be read."""
    settings: SenderSettings | None = None
    error: ApplianceError | None = None

    def usable(self) -> SenderSettings:
        """Return the settings; raise the error that the configuration has."""
        if self.settings is None:
            assert self.error is not None  # noqa: S101  it has one of the two
            raise self.error
        return self.settings

    def kept_here(self) -> KeptHere:
        """Return what is kept on this host; raise the error that the configuration has."""
        if self.kept is None:
            assert self.error is not None  # noqa: S101  it has one of the two
            raise self.error
        return self.kept


def load(layout: Layout, *, only: Path | None = None) -> list[ConfiguredDestination]:
    """Return the configurations of a site in the order of their files; or only the one named."""
    if only is not None:
        return [_load(only, layout)]
    found = senders.configurations(layout)
    skipped = [
        ConfiguredDestination(path, senders.record_name(path, layout), error=error)
        for path, error in found.skipped.items()
    ]
    loaded = [_load(path, layout) for path in found.paths]
    return [*_without_shared_spools(loaded, layout.path(senders.FIRST)), *skipped]


def _load(path: Path, layout: Layout) -> ConfiguredDestination:
    made = ConfiguredDestination(path, senders.record_name(path.absolute(), layout))
    try:
        settings = load_sender(path, layout=layout)
    except ApplianceError as error:
        with contextlib.suppress(ApplianceError):
            made = replace(made, kept=load_kept(path, layout=layout))
        return replace(made, error=error)
    return replace(made, kept=settings.kept, settings=settings)


def _without_shared_spools(
    loaded: list[ConfiguredDestination], first: Path
) -> list[ConfiguredDestination]:
    by_spool: dict[str, list[ConfiguredDestination]] = defaultdict(list)
    for one in loaded:
        if one.kept is not None:
            by_spool[os.path.realpath(one.kept.spool)].append(one)
    return [_refused_if_shared(one, by_spool) if one.path != first else one for one in loaded]


def _refused_if_shared(
    one: ConfiguredDestination, by_spool: dict[str, list[ConfiguredDestination]]
) -> ConfiguredDestination:
    if one.settings is None:
        return one
    kept = one.settings.kept
    others = [
        f"{other.path}:{other.kept.line}" if other.kept and other.kept.line else str(other.path)
        for other in by_spool[os.path.realpath(kept.spool)]
        if other is not one
    ]
    if not others:
        return one
    text = (
        f"{kept.spool} is the spool of {', '.join(others)} too; write the spool that holds"
        " the messages for this destination alone"
    )
    problem = Problem(one.path, kept.line, "[messaging] path", text)
    return replace(one, settings=None, error=ConfigurationError([problem]))
