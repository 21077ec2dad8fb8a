"""The digests that tags have named, so that no tag goes back to an older artefact unnoticed.

The history is a JSON file: ``{HOST: {REFERENCE: [DIGEST, …]}}``, the latest digest last. What is
known about a tag besides stands in a second file, ``{HOST: {REFERENCE: {"since": DATE, "held":
DIGEST}}}``: the first is read by earlier releases, too, and the second may be lost.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from appliance.core import files, json_file
from appliance.core.run.errors import LocalFailure
from appliance.core.trust.errors import Malformed, Untrusted
from cloudkeeper.frontend.registry import names
from cloudkeeper.frontend.registry.names import Digest, TaggedArtefact
from cloudkeeper.frontend.remedies import command

_LARGEST = 2**26
_MOST = 100
"""Digests of a tag; EGI's images are rebuilt some twenty times a year."""


@dataclass(frozen=True, slots=True)
class _TagNote:
    since: datetime | None = None
    held: Digest | None = None


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

    def latest(self, host: str) -> Mapping[str, Digest]:
        """Return the digest that each tag of a registry named last, by reference."""
        return {reference: found[-1] for reference, found in self._hosts.get(host, {}).items()}

    def has_gone_back(self, host: str, tagged: TaggedArtefact) -> bool:
        """Check whether a tag names an artefact that a newer one has replaced."""
        return tagged.digest in self._hosts.get(host, {}).get(tagged.reference, [])[:-1]

    def check(self, host: str, tagged: TaggedArtefact) -> None:
        """Compare a tag with its history.

        Raises:
            Untrusted: it names an artefact that a newer one has replaced.

        """
        if self.has_gone_back(host, tagged):
            name = f"{host}/{tagged.reference}"
            latest = self._hosts[host][tagged.reference][-1]
            raise Untrusted(
                name,
                f"the tag went back to {tagged.digest}, which {latest} had replaced",
                f"ask who publishes it; if that is right: {command('trust', name)}",
            )

    def note(
        self,
        host: str,
        found: Mapping[str, Digest],
        *,
        at: datetime,
        held: Mapping[str, Digest] = MappingProxyType({}),
        project: str = "",
    ) -> None:
        """Add the digests that are acted on at ``at``, by reference; note those that are ``held``.

        With ``project``, these are all that it has.

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
            earlier = [one for one in known.get(reference, []) if one != digest]
            known[reference] = [*earlier, digest][-_MOST:]
        for reference, digest in held.items():
            notes[reference] = replace(notes.get(reference, _NOTHING), held=digest)
        self._write({**self._hosts, host: known}, {**self._notes, host: notes})

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
        host: {
            reference: {"since": each.since and each.since.isoformat(), "held": each.held}
            for reference, each in items.items()
        }
        for host, items in notes.items()
    }


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
    since, held = each["since"], each["held"]
    return _TagNote(
        datetime.fromisoformat(since) if since else None,
        names.digest(held, subject=reference) if held else None,
    )


def _read(path: Path) -> dict[str, dict[str, list[Digest]]]:
    try:
        found: Any = json_file.read(path, limit=_LARGEST)
        return {host: _read_host(references) for host, references in found.items()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise LocalFailure.from_os(error, subject=path) from error
    except (ValueError, AttributeError, TypeError, Malformed) as error:
        raise LocalFailure(
            path,
            "has unreadable contents",
            f"restore it; or, to trust the tags as they are now: rm {files.shell_word(path)}",
        ) from error


def _read_host(references: Any) -> dict[str, list[Digest]]:
    return {
        reference: [names.digest(each, subject=reference) for each in digests]
        for reference, digests in references.items()
        if digests
    }
