"""An object store: what is in it, who wrote it, and how an object gets there.

    list ──> refuse a foreign object of our GOCDB id ──> remember the digest ──> PUT ──> read back

EGI's service makes a site of each object. Two objects with one GOCDB id are two sites of one name,
so an object that this program did not write is a reason to stop, and is named. Whether we wrote an
object is known by its tag: the tags of all our uploads are remembered before they begin.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from appliance.core import site_document
from appliance.core.run.errors import CHECK_LOGS, Unavailable
from cloud_info_provider.publishing import document

logger = logging.getLogger(__name__)

BEGINNING = 8192
"""Bytes of an object that are read first: in each writer's form the GOCDB id is among them."""
LARGEST = 64 * 2**20
"""Bytes of an object; the largest sites have some megabytes."""
MOST_OBJECTS = 10_000
"""Objects of a container that are looked at; EGI has one for each of its sites."""
_REMEMBERED = 8
"""Tags of one object; each upload needs one or two."""


class ObjectStore(Protocol):
    """A container of objects. Each method raises `Unavailable` if the store does not do its part.

    ``place`` names it in messages and in the memory.
    """

    place: str

    def tags(self, name: str) -> Mapping[str, str]:
        """Return the tag of each object; of object ``name`` alone if the store has no listing."""

    def read(self, name: str, *, most: int) -> bytes | None:
        """Return an object, or the first ``most`` bytes of it; None if it does not exist."""

    def write(self, name: str, content: bytes, *, digest: str) -> str:
        """Store an object and return its tag."""

    def remove(self, name: str) -> None:
        """Remove an object, which may be missing."""


@dataclass(slots=True)
class StoreMemory:
    """What is known of one store between runs.

    Attributes:
        written: by the name of an object that this program wrote: its GOCDB id and its tags.
        seen: by the name of another object: its tag and its GOCDB id.

    """

    written: dict[str, tuple[str, list[str]]] = field(default_factory=dict)
    seen: dict[str, tuple[str, str]] = field(default_factory=dict)

    @classmethod
    def read(cls, entry: object) -> StoreMemory:
        """Return the memory in a value of JSON; what has another form is forgotten."""
        known = entry if isinstance(entry, dict) else {}
        written = {str(name): pair for name, pair in _pairs(known.get("written"))}
        seen = {str(name): pair for name, pair in _pairs(known.get("seen"))}
        return cls(
            {name: (str(key), [str(tag) for tag in tags]) for name, (key, tags) in written.items()},
            {name: (str(tag), str(key)) for name, (tag, key) in seen.items()},
        )

    def as_json(self) -> object:
        """Return the memory as a value of JSON."""
        return {"written": self.written, "seen": self.seen}

    def is_ours(self, name: str, tag: str) -> bool:
        """Check whether this program wrote an object."""
        return name in self.written and tag in self.written[name][1]

    def note(self, name: str, key: str, tag: str) -> None:
        """Note that this program writes an object, or that the object has this tag."""
        tags = [known for known in self.written.get(name, ("", []))[1] if known != tag]
        self.written[name] = (key, [*tags, tag][-_REMEMBERED:])


def _pairs(entry: object) -> list[tuple[object, Any]]:
    items = entry.items() if isinstance(entry, dict) else ()
    return [(name, pair) for name, pair in items if isinstance(pair, list) and len(pair) == 2]  # noqa: PLR2004


def upload(
    store: ObjectStore,
    content: bytes,
    *,
    memory: StoreMemory,
    save: Callable[[], None],
    replacing: str = "",
) -> str:
    """Store a document under its name, and return the name after it was read back.

    Args:
        store: where to.
        content: the document.
        memory: of this store; it is changed.
        save: makes the memory durable.
        replacing: a foreign object that may be replaced, or removed if it has another name.

    Raises:
        Unavailable: the store failed, or has an object of the same GOCDB id from another writer.

    """
    name, key = _identity(content)
    listed = store.tags(name)
    others = _foreign(store, listed, name, key, memory)
    if refused := [other for other in others if other != replacing]:
        raise Unavailable(
            f"{store.place}: {refused[0]}",
            f"has the name or the GOCDB id ({key}) of this site's object, and this program has no"
            " record of writing it, so nothing was uploaded",
            "EGI shows two objects of one id as two sites: delete that object, or run this once"
            f" more with --replace-object {shlex.quote(refused[0])}",
        )
    if name in listed and memory.is_ours(name, listed[name]):
        # again, so that it outlasts the digests of any number of uploads that fail
        memory.note(name, key, listed[name])
    digest = _digest(content)
    memory.note(name, key, digest)
    save()
    memory.note(name, key, store.write(name, content, digest=digest))
    _check(store, name, content)
    save()
    for old, (its_key, _) in [*memory.written.items()]:
        if its_key == key and old != name:
            _remove(store, old, listed, memory)
    for other in others:
        if other != name:
            store.remove(other)
            logger.warning("%s: removed %s, as --replace-object says", store.place, other)
    save()
    return name


def _identity(content: bytes) -> tuple[str, str]:
    read = site_document.load(content)
    key = site_document.gocdb_id(read)
    if not key:
        raise Unavailable(
            "the document",
            "has no gocdb_id, without which EGI's service ignores it, so nothing was uploaded",
            "check that GOCDB has this Keystone's URL as a service org.openstack.nova",
        )
    return document.object_name(read), key


def _foreign(
    store: ObjectStore, listed: Mapping[str, str], name: str, key: str, memory: StoreMemory
) -> list[str]:
    """Return the objects of the same GOCDB id that this program did not write."""
    found = []
    for other, tag in listed.items():
        if memory.is_ours(other, tag) or _is_unnoted_upload(store, other, tag, memory):
            continue
        if memory.seen.get(other, ("", ""))[0] != tag:
            memory.seen[other] = (tag, _key_of(store, other))
        if other == name or memory.seen[other][1] == key:
            found.append(other)
    memory.seen = {other: seen for other, seen in memory.seen.items() if other in listed}
    return found


def _is_unnoted_upload(store: ObjectStore, name: str, tag: str, memory: StoreMemory) -> bool:
    """Check whether an object has an upload of ours, or a part of one, under a tag unknown to us.

    Nobody could note the tag if the answer was lost. The tag of an encrypted object is no digest.
    No reader can use a part of a document, so nothing is lost if it is replaced.
    """
    if name not in memory.written:
        return False
    content = store.read(name, most=LARGEST) or b""
    if not (memory.is_ours(name, _digest(content)) or _is_part(content)):
        return False
    memory.note(name, memory.written[name][0], tag)
    if _is_part(content):
        words = "%s: %s: has only a part of a document, as an upload that was cut off leaves it"
        logger.warning(words, store.place, name)
    return True


def _is_part(content: bytes) -> bool:
    """Check whether this is the beginning of a document, but no document."""
    if content.strip()[:1] not in (b"", b"{"):
        return False
    try:
        json.loads(content)
    except (ValueError, RecursionError):
        return True
    return False


def _digest(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _key_of(store: ObjectStore, name: str) -> str:
    """Return the GOCDB id of an object; empty if it has none."""
    beginning = store.read(name, most=BEGINNING) or b""
    found = document.gocdb_id_at_beginning(beginning)
    if found or len(beginning) < BEGINNING:
        return found
    return document.gocdb_id_at_beginning(store.read(name, most=LARGEST) or b"")


def _check(store: ObjectStore, name: str, content: bytes) -> None:
    """Read an object back. Some stores answer 201 and have stored nothing, or half."""
    found = store.read(name, most=len(content) + 1)
    if found == content:
        return
    if found is None:
        cause = "the store accepted it, but does not have it"
    elif len(found) < len(content):
        cause = f"the store accepted it, but has {len(found)} of {len(content)} bytes"
    else:
        cause = "the store accepted it, but has other content"
    remedy = f"{CHECK_LOGS}; the next run tries again"
    raise Unavailable(f"{store.place}: {name}", f"not published: {cause}", remedy)


def _remove(store: ObjectStore, name: str, listed: Mapping[str, str], memory: StoreMemory) -> None:
    """Remove an object of ours under an earlier name, unless another writer has replaced it."""
    # a store without a listing shows only the object that it is asked for
    found = listed if name in listed else store.tags(name)
    if name in found and not memory.is_ours(name, found[name]):
        return
    store.remove(name)
    del memory.written[name]
    logger.warning("%s: removed %s, the earlier name of this site's object", store.place, name)
