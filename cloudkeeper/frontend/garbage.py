"""What earlier runs have left and no later one needs: part files, caches, memory of gone sources.

Nothing of it would do harm. A list whose images are still in the cloud is not forgotten, because
`cloudkeeper.frontend.ended` knows by that memory that the images are ours. An endorser that was
pinned before the first list is not forgotten either: an administrator has named it.
"""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from appliance.core.registry.names import TaggedArtefact
from cloudkeeper.frontend import accepted_log
from cloudkeeper.frontend.backend_client import BackendClient
from cloudkeeper.frontend.build_sources import REGISTRY_LISTS
from cloudkeeper.frontend.disk_room import PREFIX
from cloudkeeper.frontend.ended import project_of
from cloudkeeper.frontend.list_cache import ListCache
from cloudkeeper.frontend.memory import Memory
from cloudkeeper.frontend.part_files import waiting
from cloudkeeper.frontend.registry import accepted_lists
from cloudkeeper.frontend.registry.kept import key_of
from cloudkeeper.frontend.registry.tags import TagHistory
from cloudkeeper.frontend.settings import FrontendSettings
from cloudkeeper.model import OWNER_KEY, ListId


@dataclass(frozen=True, slots=True)
class Leftover:
    """Something to remove: words for it, the bytes on disk, and how to remove it."""

    words: str
    size: int
    remove: Callable[[], None]


def part_files(directory: Path) -> Iterator[Leftover]:
    """Yield the files of killed runs in the image directory; no run may be using it.

    Those that the next run can go on with are left for a day.
    """
    kept = waiting(directory) if directory.is_dir() else frozenset()
    for path in _files(directory):
        if path.name.startswith(PREFIX) and path.name not in kept:
            yield _file(path, "left by a killed sync")


def caches(configured: FrontendSettings, state: Path) -> Iterator[Leftover]:
    """Yield the kept files about artefacts that no configured tag names, and lists of no source.

    Raises:
        LocalFailure: the history of the tags cannot be read.

    """
    tagged = list(_tagged(configured, TagHistory(state / "tags.json")))
    named = {each.digest for _, each in tagged}
    about = {key_of(host, each) for host, each in tagged}
    for name, needed in (("manifests", named), ("sboms", about), ("signatures", about)):
        for path in _files(state / name):
            if f"sha256:{path.name}" not in needed:
                yield _file(path, "about an artefact that no tag names")
    lists = ListCache(state / "lists", 0)
    kept = {lists.path(address.place) for address in configured.lists}
    for path in _files(lists.directory):
        if path not in kept:
            yield _file(path, "a list that is not configured")


def _tagged(
    configured: FrontendSettings, history: TagHistory
) -> Iterator[tuple[str, TaggedArtefact]]:
    """Yield the artefacts that tags of the configured projects name, with the host of each."""
    for registry in configured.registries:
        for reference, digests in history.hosts.get(registry.host, {}).items():
            repository, _, tag = reference.rpartition(":")
            if _is_in(reference, registry.project):
                held = history.held(registry.host, reference)
                image = history.image(registry.host, reference)
                for digest in filter(None, (digests[-1], image, held)):
                    yield registry.host, TaggedArtefact(repository, tag, digest)


def _is_in(reference: str, project: str) -> bool:
    return reference.startswith(f"{project}/")


def memory(
    configured: FrontendSettings, state: Path, *, in_cloud: Collection[ListId]
) -> Iterator[Leftover]:
    """Yield what is remembered of sources that are not configured; ``in_cloud`` are lists there.

    Raises:
        LocalFailure: it cannot be read.

    """
    lists = Memory(state / "lists.json")
    places = {address.place for address in configured.lists}
    for entry in lists.entries:
        if entry.url not in places and entry.list_id and entry.list_id not in in_cloud:
            words = f"{entry.url}: memory of list {entry.list_id}"
            yield Leftover(words, 0, lambda url=entry.url: lists.forget(url))  # type: ignore[misc]
    yield from _registry_lists(configured, state / REGISTRY_LISTS, in_cloud)
    history = TagHistory(state / "tags.json")
    for host, references in history.hosts.items():
        projects = [each.project for each in configured.registries if each.host == host]
        projects += [project for other, project in map(project_of, in_cloud) if other == host]
        gone = [
            reference
            for reference in references
            if not any(_is_in(reference, project) for project in projects)
        ]
        if gone:
            more = f"{len(gone)} tags, {gone[0]} and others" if gone[1:] else f"1 tag, {gone[0]}"
            words = f"{host}: memory of {more}"

            def forget(host: str = host, gone: list[str] = gone) -> None:
                history.forget(host, gone)

            yield Leftover(words, 0, forget)
    log = state / "accepted.json"
    known = {*map(str, configured.lists), *map(str, configured.registries)}
    for name in accepted_log.read(log):
        if name not in known:

            def drop(name: str = name) -> None:
                accepted_log.forget(log, [name])

            yield Leftover(f"{name}: date of its last acceptance", 0, drop)


def unknown_records(backend: BackendClient) -> Iterator[Leftover]:
    """Yield the incomplete images in Glance that a killed cloudkeeper-os 0.9 may have left.

    Raises:
        BackendFailure: the backend does not answer, or cannot list them.

    """
    for record in backend.unknown_records():
        words = f"project {record.attributes[OWNER_KEY]}: {record.title}"
        yield Leftover(words, 0, functools.partial(backend.collect_unknown, record))


def _registry_lists(
    configured: FrontendSettings, path: Path, in_cloud: Collection[ListId]
) -> Iterator[Leftover]:
    named = {f"{each}/{vo}" for each in configured.registries for vo in each.vos}
    gone = sorted(accepted_lists.read(path) - named - set(in_cloud))
    if gone:
        words = ", ".join(gone)
        yield Leftover(f"memory of lists: {words}", 0, lambda: accepted_lists.forget(path, gone))


def _files(directory: Path) -> Iterator[Path]:
    """Yield the regular files of a directory; links and others are not ours."""
    try:
        with os.scandir(directory) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.is_file(follow_symlinks=False):
            yield Path(entry.path)


def _file(path: Path, words: str) -> Leftover:
    found = path.lstat()
    size = found.st_blocks * 512 if stat.S_ISREG(found.st_mode) else 0
    return Leftover(f"{path}: {words}", size, lambda: path.unlink(missing_ok=True))
