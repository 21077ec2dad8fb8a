"""Images in a project that is no longer their VO's: the mapping has changed.

The VO's users do not see them, but those of the old project do. They stay until the administrator
says otherwise (`FormerProjects`). Even then, an image in an old project goes only after the VO's
new project offers the same one, and counts as a removal.

A project that is mapped to no VO any more would not be looked at again, so the backend remembers
the projects that have been a VO's (`ProjectMemory`), until they have no image of ours.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from appliance.core import json_file
from appliance.core.run.errors import ApplianceError
from cloudkeeper.backend.images import ProjectImages
from cloudkeeper.backend.properties import ApplianceKey
from cloudkeeper.backend.removals import RunRemovals
from cloudkeeper.model import ListId

logger = logging.getLogger(__name__)

_LARGEST = 2**20
_Has = Callable[[ProjectImages, ApplianceKey], bool]


class FormerProjects(enum.StrEnum):
    """What becomes of images in a project that is no longer their VO's."""

    KEEP = "keep"
    HIDE = "hide"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class MisplacedImages:
    """Images of one list in a project that is no longer that of their VO.

    ``waiting`` is the number of others that the VO's new project does not offer yet. Those of
    another backend (``is_foreign``), whose mapping may be right, are reported only.
    """

    images: ProjectImages
    vo: str
    list_id: ListId
    keys: tuple[ApplianceKey, ...]
    waiting: int
    is_foreign: bool

    def __str__(self) -> str:
        number = _images(len(self.keys) + self.waiting)
        return f"project {self.images.name}: was the project of VO {self.vo}, and keeps {number}"


def find(
    projects: Iterable[ProjectImages],
    by_vo: Mapping[str, ProjectImages | ApplianceError],
    *,
    has: _Has,
) -> Iterator[MisplacedImages]:
    """Yield the misplaced images of all projects; ``by_vo`` is the mapping.

    ``has`` checks whether a project offers an appliance to its VO.
    """
    for images in projects:
        lists: dict[tuple[str, ListId, bool], list[ApplianceKey]] = {}
        for record in images.offered():
            key, is_foreign = record.key, record.backend_id != images.ownership.id
            if by_vo.get(key.vo) is not images:
                lists.setdefault((key.vo, key.list_id, is_foreign), []).append(key)
        for (vo, list_id, is_foreign), keys in lists.items():
            ready = [key for key in keys if _is_replaced(key, by_vo.get(vo), has)]
            waiting = len(keys) - len(ready)
            yield MisplacedImages(images, vo, list_id, tuple(ready), waiting, is_foreign)


def _is_replaced(
    key: ApplianceKey, owner: ProjectImages | ApplianceError | None, has: _Has
) -> bool:
    """Check whether the VO has the image in its own project, or has no project any more."""
    return owner is None or (isinstance(owner, ProjectImages) and has(owner, key))


def settle(found: MisplacedImages, policy: FormerProjects, removals: RunRemovals) -> str:
    """Apply the policy to misplaced images; return what stays undone, empty if nothing does."""
    if found.is_foreign:
        return f"{found} of another backend; ask who runs it"
    if policy is FormerProjects.KEEP:
        return f"{found} of it (former_projects: keep); correct the mapping, or set hide or remove"
    keys = found.keys
    if policy is FormerProjects.HIDE:
        hidden = {record.key for record in found.images.offered() if record.is_hidden}
        keys = tuple(key for key in keys if key not in hidden)
    try:
        names = [f"{key.vo} {key.identifier} in {found.images.project_id}" for key in keys]
        removals.allow(found.list_id, names)
        for key in keys:
            (found.images.withdraw if policy is FormerProjects.REMOVE else found.images.hide)(key)
    except ApplianceError as error:
        return f"{found} of it: {error}"
    if found.waiting:
        there = replace(found, keys=())
        return f"{there} that the VO's new project does not have yet"
    return ""


def _images(number: int) -> str:
    return f"{number} image" if number == 1 else f"{number} images"


class ProjectMemory:
    """The names of the projects that may hold images of ours, by id, in the file at ``path``.

    A file that cannot be read holds none: at worst a project without a VO is not looked at.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._names = _read(path)

    def former(self, mapped: Iterable[str]) -> dict[str, str]:
        """Return the projects that are not among those of the mapping."""
        known = set(mapped)
        return {key: name for key, name in self._names.items() if key not in known}

    def note(self, holding: Mapping[str, str], *, without: Iterable[str]) -> None:
        """Remember projects that may hold images of ours; forget others, by their ids.

        Raises:
            LocalFailure: the file cannot be written.

        """
        forgotten = set(without)
        kept = {key: name for key, name in self._names.items() if key not in forgotten}
        names = kept | dict(holding)
        if names == self._names:
            return
        json_file.write(self._path, names)
        self._names = names


def _read(path: Path) -> dict[str, str]:
    try:
        found = json_file.read(path, limit=_LARGEST)
        return {str(key): str(name) for key, name in found.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as error:
        logger.warning("%s: cannot be read: %s; former projects are not looked at", path, error)
        return {}
