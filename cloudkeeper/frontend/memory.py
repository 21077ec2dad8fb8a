"""The lists that were accepted earlier, so that nobody can replace one or bring back an old one.

A signature proves who signed, and a list names its endorser itself: any of the thousands of holders
of a certificate can sign a list with any identifier and VO. Therefore the first list of a URL,
which the administrator chose, is trusted on first use. Later lists from there must have the same
identifier, VO and endorser, and no other URL may offer that identifier with another VO or endorser.
The date of creation never goes back, because an old list would bring back images that were removed.

The memory is a JSON file with one object a list. If you delete an object, the next list of its URL
is trusted on first use.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from appliance.core import files
from appliance.core.run.errors import LocalFailure
from appliance.core.trust.errors import Untrusted
from cloudkeeper.model import ListId, SignedImageList

_LARGEST = 2**26
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class AcceptedList:
    """A list as it was last accepted; ``url`` has no credentials, ``created`` is ISO 8601."""

    url: str
    list_id: str
    vo: str
    dn: str
    ca: str
    created: str


class Memory:
    """The accepted lists in the file at ``path``.

    Raises:
        LocalFailure: the file cannot be read.

    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries = _read(path)

    def check(self, found: SignedImageList, *, url: str) -> None:
        """Compare a verified list with those that were accepted earlier.

        Raises:
            Untrusted: the list has another identifier, VO or endorser, or is an older one.

        """
        for entry in self._entries:
            if entry.url == url and entry.list_id != found.identifier:
                raise self._untrusted(
                    f"its identifier is {found.identifier}, but this URL had {entry.list_id}"
                )
            if entry.list_id == found.identifier:
                self._compare(found, entry)

    def lists_of(self, url: str) -> frozenset[ListId]:
        """Return the identifiers of the lists that were accepted from a URL."""
        return frozenset(ListId(entry.list_id) for entry in self._entries if entry.url == url)

    def all_lists(self) -> frozenset[ListId]:
        """Return the identifiers of all lists that were accepted."""
        return frozenset(ListId(entry.list_id) for entry in self._entries)

    def note(self, found: SignedImageList, *, url: str, at: datetime) -> None:
        """Remember a list that is accepted at ``at``.

        Raises:
            LocalFailure: the file cannot be written.

        """
        # A date in the future would refuse all lists until then.
        created = min(found.created or _LONG_AGO, at)
        endorser = found.endorser
        new = AcceptedList(
            url, found.identifier, found.vo, endorser.dn, endorser.ca, created.isoformat()
        )
        same = [entry for entry in self._entries if entry.list_id == found.identifier]
        if same == [new]:
            return
        self._entries = [*(entry for entry in self._entries if entry not in same), new]
        text = json.dumps([asdict(entry) for entry in self._entries], indent=1, ensure_ascii=False)
        try:
            files.make_directory(self._path.parent)
            files.write_atomic(self._path, f"{text}\n".encode())
        except OSError as error:
            raise LocalFailure.from_os(error, subject=self._path) from error

    def _compare(self, found: SignedImageList, entry: AcceptedList) -> None:
        if found.vo != entry.vo:
            other = f"belongs to a list of VO {entry.vo}, but this list is for VO {found.vo}"
            raise self._untrusted(f"its identifier {found.identifier} {other}")
        if (found.endorser.dn, found.endorser.ca) != (entry.dn, entry.ca):
            now = f"{found.endorser.dn} of {found.endorser.ca}"
            raise self._untrusted(f"its endorser is {now}, but was {entry.dn} of {entry.ca}")
        # Both are in UTC, so that the order of the texts is that of the times.
        if (found.created or _LONG_AGO).isoformat() < entry.created:
            made = f"{found.created:%Y-%m-%d %H:%M:%SZ}" if found.created else "at an unknown time"
            raise self._untrusted(
                f"it was created {made}, before one of {entry.created} that was accepted"
            )

    def _untrusted(self, cause: str) -> Untrusted:
        return Untrusted(
            "image list",
            cause,
            f"ask the endorser; if the change is right, delete the list from {self._path}",
        )


def _read(path: Path) -> list[AcceptedList]:
    try:
        return [_entry(found) for found in json.loads(files.read_regular(path, limit=_LARGEST))]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise LocalFailure.from_os(error, subject=path) from error
    except (ValueError, TypeError, AttributeError):
        raise LocalFailure(
            path,
            "has unreadable contents",
            "restore it, or delete it to trust the next list of every configured URL",
        ) from None


def _entry(found: dict[str, str]) -> AcceptedList:
    """Return an entry of the file; the dataclass itself would accept values of any type."""
    if not all(isinstance(value, str) for value in found.values()):
        raise TypeError
    return AcceptedList(**found)
