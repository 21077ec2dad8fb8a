"""Lists that have ended: they have expired, or no source of the configuration offers them any more.

Their images stay in the cloud, because nothing else changes them. The administrator chooses what
becomes of them (`EndedPolicy`); the default keeps them and reports their number in each run.

Only a list that is certainly ours, and certainly ended, is acted on. It is ours if an earlier run
of this frontend has accepted it: another one may use the same backend. A source that cannot be read
in a run has not ended. Its list is known by what was accepted from its URL
(`cloudkeeper.frontend.memory`), and the list of a registry names registry, project and VO itself
(`cloudkeeper.frontend.registry.accepted_lists`).
If a source is neither read nor known, any signed list may be its own.
"""

from __future__ import annotations

import enum
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from cloudkeeper.model import HIDDEN_KEY, Appliance, Hide, ListId, Plan, Remove


def project_of(list_id: ListId) -> tuple[str, str]:
    """Return host and project of a registry's list; the host is empty for a signed list."""
    host, slash, rest = list_id.partition("/")
    return (host, rest.rpartition("/")[0]) if slash else ("", "")


class Missing(NamedTuple):
    """Why images that a source offers to a VO are not in the cloud, and what to do about it."""

    reason: str
    remedy: str = ""


class EndedPolicy(enum.StrEnum):
    """What becomes of the images of an ended list."""

    KEEP = "keep"
    HIDE = "hide"
    """Users do not see them; when the list is back, they are shown again, without a transfer."""
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class EndedList:
    """A list in the cloud that has ended, and why."""

    identifier: ListId
    reason: str

    def __str__(self) -> str:
        return f"image list {self.identifier}"


@dataclass(slots=True)
class ConfiguredLists:
    """The lists of the configured sources, as far as a run knows them.

    ``former`` are lists that earlier runs have accepted. ``is_whole`` is False when the sources are
    not those of the configuration, but of the command line.
    """

    policy: EndedPolicy = EndedPolicy.KEEP
    former: Container[ListId] = frozenset()
    is_whole: bool = True
    identifiers: set[ListId] = field(default_factory=set)
    offered: set[ListId] = field(default_factory=set)
    """Lists that a source of this run has offered, and that were accepted."""
    expired: dict[ListId, str] = field(default_factory=dict)
    """Verified lists that have expired, with the words for that."""
    unread: list[str] = field(default_factory=list)
    """Sources that have not been read, but for expired lists."""
    unknown: list[str] = field(default_factory=list)
    """Sources that have not been read, and whose lists are not known either."""
    incomplete: dict[str, Missing] = field(default_factory=dict)
    """By VO, why images that a source offers to it are not in the cloud."""

    @property
    def fate(self) -> str:
        """What becomes of the images of an expired list, for messages."""
        if self.policy is EndedPolicy.KEEP:
            return "its images stay as they are"
        return f"ended-lists: {self.policy} applies to its images"

    def ended(self, in_cloud: Iterable[ListId]) -> Iterator[EndedList]:
        """Yield the lists in the cloud that have ended for certain."""
        for identifier in in_cloud if self.is_whole else ():
            if self._is_ended(identifier) and not self.doubt(identifier):
                words = self.expired.get(identifier, "it is no longer configured")
                yield EndedList(identifier, words)

    def doubtful(self, in_cloud: Iterable[ListId]) -> Iterator[EndedList]:
        """Yield the lists in the cloud that may have ended, but not for certain."""
        for identifier in in_cloud if self.is_whole else ():
            if self._is_ended(identifier) and (words := self.doubt(identifier)):
                yield EndedList(identifier, words)

    def _is_ended(self, identifier: ListId) -> bool:
        if identifier in self.offered:  # a mirror may be behind, and its copy have expired
            return False
        return identifier in self.expired or identifier not in self.identifiers

    def doubt(self, identifier: ListId) -> str:
        """Return why a list that no source offers may still be one of ours; empty if it cannot."""
        is_signed = not project_of(identifier)[0]
        if self.unknown and is_signed and identifier not in self.expired:
            return f"it may be the list of {self.unknown[0]}, which could not be read"
        return "" if identifier in self.former else "this frontend has never accepted it"


def plan(
    ended: EndedList, held: Iterable[Appliance], policy: EndedPolicy
) -> tuple[Plan, list[Appliance]]:
    """Return the changes for an ended list, and the appliances that stay as they are."""
    images = list(held)
    match policy:
        case EndedPolicy.KEEP:
            return Plan(ended.identifier), images
        case EndedPolicy.REMOVE:
            removals = tuple(Remove(image, ended.reason) for image in images)
            return Plan(ended.identifier, removals), []
        case EndedPolicy.HIDE:
            hidden = [image for image in images if HIDDEN_KEY in image.attributes]
            hides = tuple(Hide(one, ended.reason) for one in images if one not in hidden)
            return Plan(ended.identifier, hides), hidden
