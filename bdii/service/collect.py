"""From the sources to their last good data: ask them, and let go what is proven to be gone."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from appliance.core import clock
from bdii import tree
from bdii.messages import MOST_LINES, few, printable
from bdii.settings import BdiiSettings
from bdii.site import entries, pull
from bdii.site.settings import Site
from bdii.sources import directories, last_good, plugins
from bdii.sources.answers import Earlier, ask
from bdii.sources.last_good import LastGood, Waiting
from bdii.sources.model import LdifSource, SourceAnswer
from bdii.sources.plugins import Edit, Edited
from bdii.tree import Tree

# Name of the source that a site is itself.
_SITE = "site"


@dataclass(frozen=True, slots=True)
class Collected:
    """The data of all sources.

    Attributes:
        last: the last good data, by source.
        answers: the latest usable answers, by source.
        unheard: number of sources that have never given a usable answer.
        waiting: the removals that wait.
        reading: seconds that it took to read new answers, one after the other.
        problems: lines for the administrator.

    """

    last: Mapping[str, LastGood]
    answers: Mapping[str, SourceAnswer]
    unheard: int
    waiting: Waiting
    reading: float
    problems: tuple[str, ...]


def collect(
    settings: BdiiSettings,
    last: Mapping[str, LastGood],
    *,
    size: int,
    elapsed: timedelta,
    before: Mapping[str, SourceAnswer],
    scratch: Path | None,
    stop: threading.Event,
    most_lines: int = MOST_LINES,
) -> Collected:
    """Ask all sources once.

    ``before``, ``scratch`` and ``stop`` are those of `bdii.sources.answers.ask`.

    Args:
        settings: the sources, and the limits of the guards.
        last: the last good data.
        size: number of published entries.
        elapsed: time since the sources were asked before.
        before: see above.
        scratch: see above.
        stop: see above.
        most_lines: number of faulty entries of a source that are named one by one.

    """
    asked, answers = _in_directories(settings, last)
    if settings.site is not None:
        asked += pull.sources(settings.site, limit=settings.source_limit)
        answers += pull.skipped(settings.site)
    asked = [replace(source, most_lines=most_lines) for source in asked]
    earlier = {
        source.name: Earlier(before.get(source.name), last[source.name].tree)
        if source.name in last
        else Earlier()
        for source in asked
    }
    answers += ask(asked, earlier=earlier, scratch=scratch, stop=stop)
    now = clock.now().replace(microsecond=0)  # GLUE's times have no fractions
    answers = [_checked(last.get(answer.source), answer) for answer in answers]
    if settings.site is not None:
        own, _ = tree.of(entries.entries(settings.site, port=settings.port))
        answers.insert(0, SourceAnswer(_SITE, own))
    known = {
        answer.source: _advanced(
            last.get(answer.source),
            answer,
            is_same=answer.repeats(before.get(answer.source)),
            now=now,
            elapsed=elapsed,
        )
        for answer in answers
    }
    # a source that is not configured any more has nothing: its entries go as if it had said so
    removed = {
        name: last_good.advance(data, tree.NO_TREE, now=now, elapsed=elapsed)
        for name, data in last.items()
        if name not in known
    }
    heard = {name: data for name, data in known.items() if data is not None} | removed
    left, waiting = last_good.release(
        heard,
        size=size,
        delay=settings.delete_delay,
        hold=settings.shrink_hold,
        expiry=settings.expiry,
    )
    kept = {name: data for name, data in left.items() if name in known or data.tree}
    usable = {answer.source: answer for answer in answers if answer.tree is not None}
    problems = [line for answer in answers for line in (*answer.problems, *answer.remarks)]
    if settings.site is not None:
        for answer in answers:
            problems += _of_other_sites(answer, settings.site)
    return Collected(
        last=kept,
        answers={name: before[name] for name in known.keys() & before.keys()} | usable,
        unheard=sum(1 for data in known.values() if data is None),
        waiting=waiting,
        reading=sum(
            answer.reading for answer in answers if not answer.repeats(before.get(answer.source))
        ),
        problems=tuple(problems),
    )


def modify(
    settings: BdiiSettings,
    wanted: Tree,
    *,
    before: Mapping[str, Sequence[Edit]],
    scratch: Path | None,
    stop: threading.Event,
) -> Edited:
    """Run the plugins on the merged tree; ``before`` is what each printed in the cycle before."""
    try:
        found, skipped = directories.find(
            settings.plugin_directory,
            is_program=True,
            timeout=settings.read_timeout,
            limit=settings.source_limit,
            kind="plugin",
        )
    except OSError as error:
        is_missing = isinstance(error, FileNotFoundError)
        if is_missing and not before:  # not in use
            return Edited(wanted)
        line = f"directory {settings.plugin_directory}: {(error.strerror or str(error)).lower()}"
        if is_missing:
            line += "; make it, empty if no plugin is wanted any more"
        return plugins.kept(wanted, before, (line,))
    edited = plugins.edit(wanted, found, before=before, scratch=scratch, stop=stop)
    lines = tuple(line for answer in skipped for line in answer.problems)
    names = [answer.source for answer in skipped if answer.source in before]
    kept = plugins.kept(edited.wanted, {name: before[name] for name in names}, lines)
    printed = {**edited.printed, **kept.printed}
    return Edited(kept.wanted, printed, (*kept.problems, *edited.problems))


def _of_other_sites(answer: SourceAnswer, site: Site) -> list[str]:
    """Return a line if the services of a source name another site."""
    services = (
        entry for dn, entry in (answer.tree or {}).items() if dn.startswith("glue2serviceid=")
    )
    named = {name for entry in services for name in entry.get("GLUE2ServiceAdminDomainForeignKey")}
    others = sorted(named - {site.name})
    if not others:
        return []
    here = f"{site.named_in}: SITE_NAME is {site.name!r}"
    there = f"the services of {answer.source} name the site {', '.join(few(others))}"
    remedy = "write the name in GOCDB here and as site.name in openstack.yaml there"
    return [printable(f"{here}, but {there}; {remedy}")]


def _in_directories(
    settings: BdiiSettings, last: Mapping[str, LastGood]
) -> tuple[list[LdifSource], list[SourceAnswer]]:
    """Return the sources in the two directories, and an answer for each that cannot be asked.

    That is every name that is not a source. If a directory cannot be read, because it is not
    mounted for example, it is every source that was known in it: none of them has vanished.
    """
    asked: list[LdifSource] = []
    answers: list[SourceAnswer] = []
    kinds = (
        ("ldif/", settings.ldif_directory, False),
        ("provider/", settings.provider_directory, True),
    )
    for kind, directory, is_program in kinds:
        try:
            found, skipped = directories.find(
                directory,
                is_program=is_program,
                timeout=settings.read_timeout,
                limit=settings.source_limit,
            )
        except OSError as error:
            known = [name for name in last if name.startswith(kind)]
            is_missing = isinstance(error, FileNotFoundError)
            cause = "does not exist" if is_missing else (error.strerror or str(error)).lower()
            # A directory that is missing from the start is not in use; an unreadable one is.
            if not known and not is_missing:
                known = [kind.rstrip("/")]
            words = f"directory {directory}: {cause}"
            answers += [SourceAnswer(name, None, problems=(f"{name}: {words}",)) for name in known]
        else:
            asked += found
            answers += skipped
    return asked, answers


def _checked(last: LastGood | None, answer: SourceAnswer) -> SourceAnswer:
    """Return the answer, unusable if it ends within a line and earlier ones did not."""
    if answer.tree is None or answer.is_terminated or last is None or not last.is_terminated:
        return answer
    words = "its last line has no newline, so the output is cut off; end it with a newline"
    return replace(answer, tree=None, problems=(f"{answer.source}: {words}", *answer.problems))


def _advanced(
    last: LastGood | None,
    answer: SourceAnswer,
    *,
    is_same: bool,
    now: datetime,
    elapsed: timedelta,
) -> LastGood | None:
    """Return the last good data of a source after its answer."""
    if answer.tree is None:
        return last and last_good.silent(last, elapsed)
    if last is not None and is_same:
        return last_good.repeat(last, now=now, elapsed=elapsed, is_complete=answer.is_complete)
    data = last_good.advance(
        last,
        answer.tree,
        now=now,
        failed=answer.failed,
        is_complete=answer.is_complete,
        elapsed=elapsed,
    )
    return replace(data, is_terminated=data.is_terminated or answer.is_terminated)
