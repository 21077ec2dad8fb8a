"""Which images of a source a site takes, and which ones a single run is about.

Patterns are those of a shell (``*``, ``?``, ``[…]``), in any case of their letters. An image
matches by its identifier or its title.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from appliance.core.run.errors import UsageError
from cloudkeeper.model import (
    Appliance,
    Change,
    Create,
    Hide,
    ImageList,
    ListId,
    Refusal,
    Remove,
)


def matches(patterns: Iterable[str], *texts: str) -> bool:
    """Check whether a text matches a pattern."""
    lowered = [text.lower() for text in texts]
    return any(fnmatchcase(text, each.lower()) for each in patterns for text in lowered)


@dataclass(frozen=True, slots=True)
class Selection:
    """The images of a source to take: those that are ``wanted`` (none: all), without ``ignored``.

    An image that is not taken is ignored: it is not transferred, and its copy in the cloud follows
    the policy for ended lists, because the source still offers it.
    """

    wanted: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    def takes(self, identifier: str, title: str) -> bool:
        """Check whether an image is taken."""
        is_wanted = not self.wanted or matches(self.wanted, identifier, title)
        return is_wanted and not matches(self.ignored, identifier, title)

    def without(self, ignored: Iterable[str]) -> Selection:
        """Return a selection that also ignores other patterns."""
        return replace(self, ignored=(*self.ignored, *ignored))

    def part(self, found: ImageList) -> ImageList:
        """Return a list whose offers are those that are taken.

        A refused image that is not taken is ignored. If its title is not known, only a pattern of
        its identifier says so.
        """
        taken, ignored = [], list(found.ignored)
        for offer in found.offers:
            one = offer.appliance
            if self.takes(one.identifier, one.title):
                taken.append(offer)
            else:
                ignored.append(one)
        kept = {one.identifier for one in found.refused if not self._ignores(one)}
        refused = tuple(one for one in found.refused if one.identifier in kept)
        left = {one.identifier: one.title for one in found.refused}  # some are refused twice
        ignored += [
            Appliance(identifier, found.identifier, vo=found.vo, title=title)
            for identifier, title in left.items()
            if identifier and identifier not in kept
        ]
        return replace(found, offers=tuple(taken), refused=refused, ignored=tuple(ignored))

    def _ignores(self, refusal: Refusal) -> bool:
        """Check whether a refused image is certainly one that is not taken."""
        if not refusal.identifier:
            return False
        if refusal.title:
            return not self.takes(refusal.identifier, refusal.title)
        return matches(self.ignored, refusal.identifier)


ALL = Selection()


@dataclass(frozen=True, slots=True)
class RunFilter:
    """The part of the configuration that one run is about; without patterns, all of it.

    A run with a filter removes nothing outside it, and says nothing about the rest: it is no
    evidence that lists have ended, and leaves no run record.
    """

    lists: tuple[str, ...] = ()
    """Patterns of identifiers of lists, or of the names of their sources."""
    vos: tuple[str, ...] = ()
    images: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.lists or self.vos or self.images)

    def __str__(self) -> str:
        options = {"--list": self.lists, "--vo": self.vos, "--image": self.images}
        return " ".join(f"{name} {each}" for name, found in options.items() for each in found)

    def may_have(self, source: object, list_ids: Iterable[ListId]) -> bool:
        """Check whether a source may have a list of the run; its lists may not be known yet."""
        known = list(list_ids)
        return not (self.lists and known) or matches(self.lists, str(source), *known)

    def has(self, source: object, found: ImageList) -> bool:
        """Check whether a list is part of the run."""
        is_named = not self.lists or matches(self.lists, str(source), found.identifier)
        return is_named and (not self.vos or matches(self.vos, found.vo))

    def covers(self, appliance: Appliance) -> bool:
        """Check whether an image of such a list is part of the run."""
        return not self.images or matches(self.images, appliance.identifier, appliance.title)

    def part(self, changes: Iterable[Change]) -> tuple[Change, ...]:
        """Return the changes of images that are part of the run.

        Nothing is removed beside an addition that the run leaves out: an image whose identifier has
        changed is a removal and an addition.
        """
        parted = {True: list[Change](), False: list[Change]()}
        for change in changes:
            parted[self.covers(change.appliance)].append(change)
        if any(isinstance(change, Create) for change in parted[False]):
            return tuple(one for one in parted[True] if not isinstance(one, Remove | Hide))
        return tuple(parted[True])


WHOLE = RunFilter()


def of_flags(lists: Iterable[str], vos: Iterable[str], images: Iterable[str]) -> RunFilter:
    """Return the filter of the command line.

    Raises:
        UsageError: a pattern is empty, as a variable of a shell may be; it would match nothing.

    """
    given = {"--list": tuple(lists), "--vo": tuple(vos), "--image": tuple(images)}
    for flag, patterns in given.items():
        if not all(each.strip() for each in patterns):
            raise UsageError(flag, "is empty", "write a name or a pattern, or leave the flag out")
    return RunFilter(*given.values())
