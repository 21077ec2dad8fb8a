"""The digests that tags have named, so that no tag goes back to an older artefact unnoticed.

The history is a JSON file: ``{HOST: {REFERENCE: [DIGEST, …]}}``, the latest digest last.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from appliance.core import files
from appliance.core.run.errors import LocalFailure
from appliance.core.trust.errors import Malformed, Untrusted
from cloudkeeper.frontend.registry import names
from cloudkeeper.frontend.registry.names import Digest, TaggedArtefact

_LARGEST = 2**26
_MOST = 100
"""Digests of a tag; EGI's images are rebuilt some twenty times a year."""


class TagHistory:
    """The history in the file at ``path``.

    Raises:
        LocalFailure: it cannot be read.

    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._hosts = _read(path)

    def latest(self, host: str) -> Mapping[str, Digest]:
        """Return the digest that each tag of a registry named last, by reference."""
        return {reference: found[-1] for reference, found in self._hosts.get(host, {}).items()}

    def check(self, host: str, tagged: TaggedArtefact) -> None:
        """Compare a tag with its history.

        Raises:
            Untrusted: it names an artefact that a newer one has replaced.

        """
        known = self._hosts.get(host, {}).get(tagged.reference, [])
        if tagged.digest in known[:-1]:
            raise Untrusted(
                f"{host}/{tagged.reference}",
                f"the tag went back to {tagged.digest}, which {known[-1]} had replaced",
                f"ask who publishes it; if that is right, delete the tag from {self._path}",
            )

    def note(self, host: str, found: Mapping[str, Digest]) -> None:
        """Add the digests that are acted on, by reference.

        Raises:
            LocalFailure: the file cannot be written.

        """
        known = dict(self._hosts.get(host, {}))
        for reference, digest in found.items():
            earlier = [one for one in known.get(reference, []) if one != digest]
            known[reference] = [*earlier, digest][-_MOST:]
        if known == self._hosts.get(host, {}):
            return
        self._hosts[host] = known
        text = json.dumps(self._hosts, indent=1, sort_keys=True)
        try:
            files.make_directory(self._path.parent)
            files.write_atomic(self._path, f"{text}\n".encode())
        except OSError as error:
            raise LocalFailure.from_os(error, subject=self._path) from error


def _read(path: Path) -> dict[str, dict[str, list[Digest]]]:
    try:
        found: Any = json.loads(files.read_regular(path, limit=_LARGEST))
        return {host: _read_host(references) for host, references in found.items()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise LocalFailure.from_os(error, subject=path) from error
    except (ValueError, AttributeError, TypeError, Malformed) as error:
        raise LocalFailure(
            path,
            "has unreadable contents",
            "restore it, or delete it to trust the tags as they are now",
        ) from error


def _read_host(references: Any) -> dict[str, list[Digest]]:
    return {
        reference: [names.digest(each, subject=reference) for each in digests]
        for reference, digests in references.items()
        if digests
    }
