"""Which lists were believed, so that none is exchanged for another one, or for an older one of its own, unnoticed.

A signature proves who signed, and a list names its endorser itself: any of the thousands of holders
of a certificate can sign a list of any identifier and VO. Therefore the first list of a URL, which
the administrator chose, counts; what comes from there later must have the same identifier, VO and
endorser, no other URL may offer that identifier with another VO or endorser, and the date of
creation never goes back, which would bring back images that were withdrawn.

The memory is a JSON file of one object a list. Who removes an entry lets the list be believed anew.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from appliance.core import files
from appliance.core.run.errors import LocalFailure
from appliance.core.trust.errors import Untrusted
from cloudkeeper.model import ImageList

_LARGEST = 2**26
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class AcceptedList:
    """A list as it was believed last. ``url`` is without credentials; ``created`` in ISO 8601."""

    url: str
    list_id: str
    vo: str
    dn: str
    ca: str
    created: str


class Memory:
    """The entries of the file at ``path``.

    :raises LocalFailure: it cannot be read
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries = _read(path)

    def check(self, found: ImageList, *, url: str) -> None:
        """Compare a list that was verified with what was believed earlier.

        :raises Untrusted: it is another list, or somebody else's, or an old one
        """
        for entry in self._entries:
            if entry.url == url and entry.list_id != found.identifier:
                raise self._untrusted(
                    f"it is list {found.identifier}, but here was list {entry.list_id}"
                )
            if entry.list_id == found.identifier:
                self._compare(found, entry)

    def note(self, found: ImageList, *, url: str, at: datetime) -> None:
        """Remember a list that is acted on at ``at``.

        :raises LocalFailure: the file cannot be written
        """
        # a date in the future would refuse all lists until then
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

    def _compare(self, found: ImageList, entry: AcceptedList) -> None:
        if found.vo != entry.vo:
            cause = f"its identifier {found.identifier} is that of a list of VO {entry.vo}, but it is for {found.vo}"
            raise self._untrusted(cause)
        if (found.endorser.dn, found.endorser.ca) != (entry.dn, entry.ca):
            now = f"{found.endorser.dn} of {found.endorser.ca}"
            raise self._untrusted(f"its endorser is {now}, but was {entry.dn} of {entry.ca}")
        if (found.created or _LONG_AGO).isoformat() < entry.created:
            made = f"{found.created:%Y-%m-%d %H:%M:%SZ}" if found.created else "at no known time"
            raise self._untrusted(
                f"it was made {made}, before one of {entry.created} that was accepted already"
            )

    def _untrusted(self, cause: str) -> Untrusted:
        return Untrusted(
            "image list",
            cause,
            f"ask the endorser; if it is right, remove the list from {self._path}",
        )


def _read(path: Path) -> list[AcceptedList]:
    try:
        return [
            AcceptedList(**{name: _text(value) for name, value in entry.items()})
            for entry in json.loads(files.read_regular(path, limit=_LARGEST))
        ]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise LocalFailure.from_os(error, subject=path) from error
    except (ValueError, TypeError, AttributeError):
        remedy = "restore it, or remove it to believe the lists of all configured URLs anew"
        raise LocalFailure(path, "is not what was written there", remedy) from None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value
