"""From the sources to the tree that is wanted: ask them, keep what is last good, merge."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from appliance.core import clock
from appliance.core.ldif import Entry
from bdii import tree
from bdii.messages import few, printable, shown
from bdii.settings import BdiiSettings
from bdii.site import entries as site_entries
from bdii.site import pull
from bdii.sources import answers as reading
from bdii.sources import directories, last_good
from bdii.sources.answers import SourceAnswer
from bdii.sources.last_good import LastGood
from bdii.sources.source import LdifSource
from bdii.tree import BASE, Dn, Tree

_SITE = "site"


@dataclass(frozen=True, slots=True)
class Gathered:
    """What the sources had to say, and the tree that follows from it."""

    last: Mapping[str, LastGood]
    answers: Mapping[str, SourceAnswer]
    """The latest that were of use."""
    wanted: Tree
    stale: int
    unheard: int
    """Sources that have never said anything of use."""
    problems: tuple[str, ...]


def gather(
    settings: BdiiSettings,
    last: Mapping[str, LastGood],
    *,
    before: Mapping[str, SourceAnswer],
    scratch: Path | None,
    stop: threading.Event,
) -> Gathered:
    """Ask all sources, once."""
    asked, answers = _of_directories(settings, last)
    if settings.site is not None:
        asked += pull.sources(settings.site, limit=settings.source_limit)
        answers += pull.skipped(settings.site)
    answers += reading.ask(asked, before=before, scratch=scratch, stop=stop)
    now = clock.now().replace(microsecond=0)
    known: dict[str, LastGood | None] = {}
    if settings.site is not None:
        own, _ = tree.of(site_entries.entries(settings.site, port=settings.port))
        known[_SITE] = last_good.advance(last.get(_SITE), own, failed=(), now=now)
    known |= {
        answer.source: _advanced(last.get(answer.source), answer, before, now) for answer in answers
    }
    kept = {name: entry for name, entry in known.items() if entry is not None}
    wanted, stale, left_out = merge(kept, now=now, expiry=settings.expiry)
    useful = {
        answer.source: answer if answer.tree is not None else before.get(answer.source)
        for answer in answers
    }
    if settings.site is not None:
        left_out += [
            line for answer in answers for line in _of_other_sites(answer, settings.site.name)
        ]
    return Gathered(
        kept,
        {name: answer for name, answer in useful.items() if answer is not None},
        wanted,
        stale,
        len(known) - len(kept),
        (*(line for answer in answers for line in answer.problems), *left_out),
    )


def _of_other_sites(answer: SourceAnswer, site: str) -> list[str]:
    """Return a line when a source says of its services that they belong to another site."""
    services = (
        entry for dn, entry in (answer.tree or {}).items() if dn.startswith("glue2serviceid=")
    )
    others = sorted(
        {name for entry in services for name in entry.get("GLUE2ServiceAdminDomainForeignKey")}
        - {site}
    )
    if not others:
        return []
    listed = ", ".join(few(others))
    return [
        printable(
            f"{answer.source}: its services name the site {listed}, not {site}: correct one of them"
        )
    ]


def _of_directories(
    settings: BdiiSettings,
    last: Mapping[str, LastGood],
) -> tuple[list[LdifSource], list[SourceAnswer]]:
    """Return the sources in the two directories, and answers of no use for what cannot be asked.

    Those are names that are no sources, and all known sources of a directory that cannot be read,
    because it is not mounted perhaps.
    """
    asked: list[LdifSource] = []
    answers: list[SourceAnswer] = []
    kinds = (
        ("ldif/", settings.ldif_directory, directories.ldif_files),
        ("provider/", settings.provider_directory, directories.programs),
    )
    for kind, directory, read in kinds:
        try:
            found = read(directory, timeout=settings.read_timeout, limit=settings.source_limit)
        except OSError as error:
            known = [name for name in last if name.startswith(kind)]
            is_missing = isinstance(error, FileNotFoundError)
            cause = "does not exist" if is_missing else (error.strerror or str(error)).lower()
            if not known and not is_missing:
                known = [kind.rstrip("/")]  # nothing was ever read there; a problem all the same
            words = f"directory {directory}: {cause}"
            answers += [SourceAnswer(name, None, problems=(f"{name}: {words}",)) for name in known]
        else:
            asked += found.sources
            answers += found.skipped
    return asked, answers


def _advanced(
    last: LastGood | None, answer: SourceAnswer, before: Mapping[str, SourceAnswer], now: datetime
) -> LastGood | None:
    if answer.tree is None:
        return last and replace(last, is_silent=True)
    if last is not None and answer is before.get(answer.source):
        return replace(last, collected=now, is_silent=False)
    return last_good.advance(last, answer.tree, failed=answer.failed, now=now)


def merge(
    last: Mapping[str, LastGood], *, now: datetime, expiry: timedelta
) -> tuple[Tree, int, list[str]]:
    """Return the tree that all sources make together, how many of its entries are stale, and lines on what is left out.

    Of entries with one name the first source's counts.
    """
    merged: dict[Dn, Entry] = dict(BASE)
    stale = 0
    for source in last.values():
        part = last_good.publishable(source, now=now, expiry=expiry)
        stale += sum(1 for dn, entry in part.items() if entry is not source.tree[dn])
        merged = merged | {dn: entry for dn, entry in part.items() if dn not in merged}
    whole, left_out = tree.complete(merged)
    words = "left out, because nothing gives the entry above it"
    return (
        whole,
        stale,
        few([printable(f"{shown(merged[dn].dn)}: {words}") for dn in left_out]),
    )
