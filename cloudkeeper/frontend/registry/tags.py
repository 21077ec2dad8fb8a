"""The digests that tags have named, so that no tag goes back to an older artefact unnoticed.

The history is a JSON file: ``{HOST: {REFERENCE: [DIGEST, …]}}``, the latest digest last. What is
known about a tag besides stands in a second file, ``{HOST: {REFERENCE: {"since": DATE, "held":
DIGEST, "image": DIGEST}}}``: the first is read by earlier releases, too, and the second may be
lost. Digests that an administrator has pinned are in a third one, ``{HOST: {REFERENCE: DIGEST}}``:
such a tag counts only while it, or the image of its index, has this digest.

Of a tag that names an index, the history has the image's digest before that of the index.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from appliance.core import files, json_file
from appliance.core.registry import names
from appliance.core.registry.names import Digest, TaggedArtefact
from appliance.core.run.errors import LocalFailure
from appliance.core.trust.errors import Malformed
from cloudkeeper.frontend.memory import OffPin
from cloudkeeper.frontend.remedies import command

_LARGEST = 2**26
_MOST = 100
"""Digests of a tag; EGI's images are rebuilt some twenty times a year."""


@dataclass(frozen=True, slots=True)
class _TagNote:
    since: datetime | None = None
    held: Digest | None = None
    image: Digest | None = None


_NOTHING = _TagNote()
_Item = TypeVar("_Item")


class TagHistory:
    """The history in the file at ``path``.

    Raises:
        LocalFailure: it cannot be read.

    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._hosts = _read(path)
        self._notes_path = path.with_name(f"{path.stem}-notes.json")
        self._notes = _read_notes(self._notes_path)
        self._pins_path = path.with_name(f"{path.stem}-pinned.json")
        self._pins = _read_pins(self._pins_path)

    @property
    def pins(self) -> Mapping[str, Mapping[str, Digest]]:
        """The pinned digests of the tags of each registry, by reference."""
        return self._pins

    @property
    def hosts(self) -> Mapping[str, Mapping[str, list[Digest]]]:
        """The digests of the tags of each registry, by reference, the latest last."""
        return self._hosts

    def since(self, host: str, reference: str) -> datetime | None:
        """Return when the latest digest of a tag came; None if that is not known."""
        return self._notes.get(host, {}).get(reference, _NOTHING).since

    def held(self, host: str, reference: str) -> Digest | None:
        """Return the older digest to which a tag went back in the last run; None for most."""
        return self._notes.get(host, {}).get(reference, _NOTHING).held

    def image(self, host: str, reference: str) -> Digest | None:
        """Return the image of the index that a tag named last; None if it named no index."""
        return self._notes.get(host, {}).get(reference, _NOTHING).image

    def latest(self, host: str) -> Mapping[str, Digest]:
        """Return the digest that each tag of a registry named last, by reference."""
        return {reference: found[-1] for reference, found in self._hosts.get(host, {}).items()}

    def has_gone_back(
        self, host: str, tagged: TaggedArtefact, *, image: Digest | None = None
    ) -> bool:
        """Check whether a tag names an artefact that a newer one has replaced.

        ``image`` is the digest of the artefact's image, which a newer one may have replaced, too.
        """
        return self._replaced(host, tagged, image) is not None

    def _replaced(self, host: str, tagged: TaggedArtefact, image: Digest | None) -> Digest | None:
        """Return the digest that a newer one has replaced; None if there is none.

        Without notes, a new index around the present image is held; the present index is not.
        """
        digests = self._hosts.get(host, {}).get(tagged.reference, [])
        if digests[-1:] == [tagged.digest]:
            return None
        earlier = frozenset(digests[:-1]) - {self.image(host, tagged.reference)}
        return next((each for each in (tagged.digest, image) if each and each in earlier), None)

    def is_off_pin(self, host: str, tagged: TaggedArtefact, *, image: Digest | None = None) -> bool:
        """Check whether another digest than a tag's, and than that of its image, is pinned."""
        pinned = self._pins.get(host, {}).get(tagged.reference)
        return pinned is not None and pinned not in (tagged.digest, image)

    def check(self, host: str, tagged: TaggedArtefact, *, image: Digest | None = None) -> None:
        """Compare a tag with its pin and its history; see `is_off_pin` and `has_gone_back`.

        Raises:
            OffPin: another digest is pinned, or a newer artefact has replaced this one.

        """
        if self.is_off_pin(host, tagged, image=image):
            name, pinned = f"{host}/{tagged.reference}", self._pins[host][tagged.reference]
            raise OffPin(
                name,
                f"its digest is {tagged.digest}, but {pinned} is pinned",
                f"ask who publishes it; if the change is right: {command('trust', name)}",
            )
        if replaced := self._replaced(host, tagged, image):
            name = f"{host}/{tagged.reference}"
            latest = self._hosts[host][tagged.reference][-1]
            raise OffPin(
                name,
                f"the tag went back to {replaced}, which {latest} had replaced",
                f"ask who publishes it; if that is right: {command('trust', name)}",
            )

    def note(
        self,
        host: str,
        found: Mapping[str, Digest],
        *,
        at: datetime,
        images: Mapping[str, Digest] = MappingProxyType({}),
        held: Mapping[str, Digest] = MappingProxyType({}),
        project: str = "",
    ) -> None:
        """Add the digests that are acted on at ``at``, by reference; note those that are ``held``.

        ``images`` are those of the digests that are an index. With ``project``, ``found`` is all
        that it has.

        Raises:
            LocalFailure: the file cannot be written.

        """

        def below(reference: str) -> bool:
            return bool(project) and reference.startswith(f"{project}/")

        known = dict(self._hosts.get(host, {}))
        notes = {
            reference: replace(each, held=None) if reference in found or below(reference) else each
            for reference, each in self._notes.get(host, {}).items()
        }
        for reference, digest in found.items():
            if known.get(reference, [])[-1:] != [digest]:
                notes[reference] = _TagNote(since=at)
            image = images.get(reference)
            if image != notes.get(reference, _NOTHING).image:
                notes[reference] = replace(notes.get(reference, _NOTHING), image=image)
            new = [*filter(None, [image]), digest]
            earlier = [one for one in known.get(reference, []) if one not in new]
            known[reference] = [*earlier, *new][-_MOST:]
        for reference, digest in held.items():
            notes[reference] = replace(notes.get(reference, _NOTHING), held=digest)
        self._write({**self._hosts, host: known}, {**self._notes, host: notes})

    def pin(self, host: str, found: Mapping[str, Digest]) -> None:
        """Accept tags only with these digests, by reference, from now on.

        Raises:
            LocalFailure: the file cannot be written.

        """
        self._write_pins({**self._pins, host: {**self._pins.get(host, {}), **found}})

    def unpin(self, host: str, references: Iterable[str]) -> None:
        """Accept tags with any digest again.

        Raises:
            LocalFailure: the file cannot be written.

        """
        self._write_pins(_without(self._pins, host, frozenset(references)))

    def _write_pins(self, pins: dict[str, dict[str, Digest]]) -> None:
        if pins != self._pins:
            json_file.write(self._pins_path, pins)
            self._pins = pins

    def forget(self, host: str, references: Iterable[str]) -> None:
        """Forget tags of a registry, so that they are trusted as they are next.

        Raises:
            LocalFailure: the file cannot be written.

        """
        gone = frozenset(references)
        self._write(_without(self._hosts, host, gone), _without(self._notes, host, gone))

    def _write(
        self,
        hosts: dict[str, dict[str, list[Digest]]],
        notes: dict[str, dict[str, _TagNote]],
    ) -> None:
        if hosts != self._hosts:
            json_file.write(self._path, hosts)
            self._hosts = hosts
        if notes != self._notes:
            json_file.write(self._notes_path, _notes_as_json(notes))
            self._notes = notes


def _without(
    hosts: Mapping[str, Mapping[str, _Item]], host: str, gone: Container[str]
) -> dict[str, dict[str, _Item]]:
    kept = {
        name: {key: item for key, item in items.items() if name != host or key not in gone}
        for name, items in hosts.items()
    }
    return {name: items for name, items in kept.items() if items}


def _notes_as_json(notes: Mapping[str, Mapping[str, _TagNote]]) -> dict[str, dict[str, object]]:
    return {
        host: {reference: _note_as_json(each) for reference, each in items.items()}
        for host, items in notes.items()
    }


def _note_as_json(note: _TagNote) -> dict[str, object]:
    found: dict[str, object] = {"since": note.since and note.since.isoformat(), "held": note.held}
    return found | ({"image": note.image} if note.image else {})


def _read_notes(path: Path) -> dict[str, dict[str, _TagNote]]:
    """Return the notes of a file; they decorate, so one that cannot be read has none."""
    try:
        found: Any = json_file.read(path, limit=_LARGEST)
        return {
            host: {reference: _read_note(each, reference) for reference, each in items.items()}
            for host, items in found.items()
        }
    except (OSError, ValueError, LookupError, AttributeError, TypeError, Malformed):
        return {}


def _read_note(each: Any, reference: str) -> _TagNote:
    since, held, image = each["since"], each["held"], each.get("image")
    return _TagNote(
        datetime.fromisoformat(since) if since else None,
        names.digest(held, subject=reference) if held else None,
        names.digest(image, subject=reference) if image else None,
    )


def _read(path: Path) -> dict[str, dict[str, list[Digest]]]:
    return _loaded(path, _read_host, "to trust the tags as they are now")


def _read_pins(path: Path) -> dict[str, dict[str, Digest]]:
    return _loaded(path, _read_pins_of_host, "to release all pinned tags")


def _loaded(
    path: Path, read: Callable[[Any], dict[str, _Item]], purpose: str
) -> dict[str, dict[str, _Item]]:
    """Return a file's content by host; ``purpose`` is that of deleting an unreadable one."""
    try:
        found: Any = json_file.read(path, limit=_LARGEST)
        return {host: read(references) for host, references in found.items()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise LocalFailure.from_os(error, subject=path) from error
    except (ValueError, AttributeError, TypeError, Malformed) as error:
        raise LocalFailure(
            path,
            "has unreadable contents",
            f"restore it; or, {purpose}: rm {files.shell_word(path)}",
        ) from error


def _read_host(references: Any) -> dict[str, list[Digest]]:
    return {
        reference: [names.digest(each, subject=reference) for each in digests]
        for reference, digests in references.items()
        if digests
    }


def _read_pins_of_host(references: Any) -> dict[str, Digest]:
    return {
        reference: names.digest(each, subject=reference) for reference, each in references.items()
    }
