"""The lists that were accepted earlier, so that nobody can replace one or bring back an old one.

A signature proves who signed, and a list names its endorser itself: any of the thousands of holders
of a certificate can sign a list with any identifier and VO. Therefore the first list of a URL,
which the administrator chose, is trusted on first use. Later lists from there must have the same
identifier, VO and endorser, and no other URL may offer that identifier with another VO or endorser.
The date of creation never goes back, because an old list would bring back images that were removed.

An administrator accepts such a change with ``cloudkeeper trust URL``, and may name the endorser of
a URL before its first list comes; such an entry has no identifier yet. The memory is a JSON file
with one object a list.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from appliance.core import files, json_file
from appliance.core.run.errors import LocalFailure
from appliance.core.trust.errors import Untrusted
from cloudkeeper.frontend.remedies import command
from cloudkeeper.model import Endorser, ListId, SignedImageList, is_same_endorser

_LARGEST = 2**26
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


class OffPin(Untrusted):
    """A source that differs from what an administrator or the first run has accepted."""


@dataclass(frozen=True, slots=True)
class AcceptedList:
    """A list as it was last accepted; ``url`` has no credentials, ``created`` is ISO 8601.

    Without ``list_id`` only the endorser is known, and no list has been accepted yet.
    """

    url: str
    list_id: str
    vo: str
    dn: str
    ca: str
    created: str


@dataclass(frozen=True, slots=True)
class ListChange:
    """What is new about a list: a word for it, the accepted value, and the present one."""

    subject: str
    accepted: str
    present: str


class Memory:
    """The accepted lists in the file at ``path``.

    Raises:
        LocalFailure: the file cannot be read.

    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries = _read(path)

    @property
    def entries(self) -> tuple[AcceptedList, ...]:
        """The accepted lists, the latest change last."""
        return tuple(self._entries)

    def check(self, found: SignedImageList, *, url: str) -> None:
        """Compare a verified list with those that were accepted earlier.

        Raises:
            OffPin: the list has another identifier, VO or endorser, or is an older one.

        """
        for entry in self._entries:
            if entry.url == url and entry.list_id and entry.list_id != found.identifier:
                raise _untrusted(
                    f"its identifier is {found.identifier}, but this URL had {entry.list_id}", url
                )
            if entry.list_id == found.identifier or (entry.url == url and not entry.list_id):
                _compare(found, entry, url)

    def has(self, found: SignedImageList, *, url: str, at: datetime) -> bool:
        """Check whether an earlier run has accepted this very list of a URL."""
        return _accepted(found, url=url, at=at) in self._entries

    def changes(self, found: SignedImageList, *, url: str) -> list[ListChange]:
        """Return how a verified list differs from those that were accepted earlier."""
        new = _accepted(found, url=url, at=found.created or _LONG_AGO)
        return [
            change
            for entry in self._entries
            if _is_replaced(entry, new)
            for change in _changes(entry, new)
        ]

    def lists_of(self, url: str) -> frozenset[ListId]:
        """Return the identifiers of the lists that were accepted from a URL."""
        return frozenset(
            ListId(entry.list_id) for entry in self._entries if entry.list_id and entry.url == url
        )

    def all_lists(self) -> frozenset[ListId]:
        """Return the identifiers of all lists that were accepted."""
        return frozenset(ListId(entry.list_id) for entry in self._entries if entry.list_id)

    def note(
        self, found: SignedImageList, *, url: str, at: datetime, keeps_date: bool = False
    ) -> None:
        """Remember a list that is accepted at ``at``, in place of all that `check` compares.

        With ``keeps_date``, the date that later lists are compared with does not become earlier:
        ``at`` may be of a clock that went back. Only a person may ask for that.

        Raises:
            LocalFailure: the file cannot be written.

        """
        new = _accepted(found, url=url, at=at)
        same = [entry for entry in self._entries if _is_replaced(entry, new)]
        if keeps_date:
            new = replace(new, created=max(new.created, *(entry.created for entry in same), ""))
        if same != [new]:
            self._write([*(entry for entry in self._entries if entry not in same), new])

    def pin(self, endorser: Endorser, *, url: str) -> None:
        """Accept lists of a URL from one endorser only, from now on.

        Raises:
            LocalFailure: the file cannot be written.

        """
        named = AcceptedList(url, "", "", endorser.dn, endorser.ca, "")
        kept = [entry for entry in self._entries if entry.url != url]
        known = [entry for entry in self._entries if entry.url == url] or [named]
        pinned = [replace(entry, dn=endorser.dn, ca=endorser.ca) for entry in known]
        self._write([*kept, *pinned])

    def forget(self, *urls: str) -> None:
        """Forget the lists of URLs, so that the next one of each is trusted on first use.

        Raises:
            LocalFailure: the file cannot be written.

        """
        self._write([entry for entry in self._entries if entry.url not in urls])

    def _write(self, entries: list[AcceptedList]) -> None:
        self._entries = entries
        json_file.write(self._path, [asdict(entry) for entry in entries])


def _accepted(found: SignedImageList, *, url: str, at: datetime) -> AcceptedList:
    # A date in the future would refuse all lists until then.
    created = min(found.created or _LONG_AGO, at)
    endorser = found.endorser
    return AcceptedList(
        url, found.identifier, found.vo, endorser.dn, endorser.ca, created.isoformat()
    )


def _is_replaced(entry: AcceptedList, new: AcceptedList) -> bool:
    return entry.list_id == new.list_id or entry.url == new.url


def _changes(entry: AcceptedList, new: AcceptedList) -> Iterator[ListChange]:
    if entry.list_id:
        for subject, was, now in (
            ("identifier", entry.list_id, new.list_id),
            ("VO", entry.vo, new.vo),
            ("URL", entry.url, new.url),
        ):
            if was != now:
                yield ListChange(subject, was, now)
    if not is_same_endorser(Endorser(entry.dn, entry.ca), Endorser(new.dn, new.ca)):
        yield ListChange("endorser", f"{entry.dn} of {entry.ca}", f"{new.dn} of {new.ca}")
    # Both are in UTC, so that the order of the texts is that of the times.
    if new.created < entry.created:
        yield ListChange("created", entry.created, f"{new.created}, which is earlier")


def _compare(found: SignedImageList, entry: AcceptedList, url: str) -> None:
    if entry.vo not in ("", found.vo):
        other = f"belongs to a list of VO {entry.vo}, but this list is for VO {found.vo}"
        raise _untrusted(f"its identifier {found.identifier} {other}", url)
    if not is_same_endorser(found.endorser, Endorser(entry.dn, entry.ca)):
        now = f"{found.endorser.dn} of {found.endorser.ca}"
        raise _untrusted(f"its endorser is {now}, but was {entry.dn} of {entry.ca}", url)
    if (found.created or _LONG_AGO).isoformat() < entry.created:
        made = f"{found.created:%Y-%m-%d %H:%M:%SZ}" if found.created else "at an unknown time"
        words = f"it was created {made}, before one of {entry.created} that was accepted"
        raise _untrusted(words, url)


def _untrusted(cause: str, url: str) -> OffPin:
    remedy = f"ask the endorser; if the change is right: {command('trust', url)}"
    return OffPin("image list", cause, remedy)


def _read(path: Path) -> list[AcceptedList]:
    try:
        return [_entry(found) for found in json_file.read(path, limit=_LARGEST)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise LocalFailure.from_os(error, subject=path) from error
    except (ValueError, TypeError, AttributeError):
        raise LocalFailure(
            path,
            "has unreadable contents",
            f"restore it; or, to trust the next list of every URL: rm {files.shell_word(path)}",
        ) from None


def _entry(found: dict[str, str]) -> AcceptedList:
    """Return an entry of the file; the dataclass itself would accept values of any type."""
    if not all(isinstance(value, str) for value in found.values()):
        raise TypeError
    return AcceptedList(**found)
