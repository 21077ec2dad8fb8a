"""Image files that no run can use, remembered by their digest so that none is fetched twice.

What a digest names never changes, and neither does the verdict on its format, until this program or
the formats that the cloud accepts do: an entry counts only for the version and formats of its run.
Failures that may pass (the network, a full disk, a conversion) are never remembered.

A file with another digest than its source says is remembered by its URL, the digest of the source
and the version that the server gives it (ETag, date, size). It is fetched again when one of these
has changed; a server that gives it no version is asked for it in each run.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from appliance.core import json_file
from appliance.core.download.partial import PartialData, StillWrong
from appliance.core.run.errors import LocalFailure
from appliance.core.version import __version__
from cloudkeeper.formats import Unusable
from cloudkeeper.frontend.remedies import command
from cloudkeeper.frontend.stream import WrongFile, shown
from cloudkeeper.model import Format, Offer

_LARGEST = 2**24
_MOST = 1000
# Characters of a version.
_LONGEST = 1000


@dataclass(frozen=True, slots=True)
class WrongDownload:
    """A file of another digest than its source says: the reason, and its version on the server."""

    reason: str
    version: PartialData

    def as_json(self) -> dict[str, object]:
        """Return the entry of the file."""
        version = self.version
        named = {"etag": version.etag, "modified": version.modified, "total": version.total}
        return {"reason": self.reason, **named}

    @classmethod
    def read(cls, found: Mapping[str, Any]) -> Self:
        """Return an entry of the file.

        Raises:
            LookupError, TypeError, ValueError: it is none.

        """
        total = None if found["total"] is None else int(found["total"])
        version = PartialData(0, str(found["etag"]), str(found["modified"]), total)
        return cls(str(found["reason"]), version)


class RefusedImages:
    """The verdicts in the file at ``path``, for a cloud that accepts some formats.

    A file that cannot be read holds none: at worst an image is fetched once more. Several transfers
    at a time may use one object.
    """

    def __init__(self, path: Path, accepted: Iterable[Format]) -> None:
        self._path = path
        self._rules = f"{__version__} {' '.join(accepted)}"
        self._reasons, self._downloads = _read(path, self._rules)
        self._lock = threading.Lock()

    @property
    def reasons(self) -> Mapping[str, str]:
        """The reasons by digest, followed by the format and the compression that a source states.

        One source may state wrong ones: that says nothing about the file of another source. For a
        file with another digest, its URL follows the one that the source says.
        """
        return {**self._reasons, **{key: each.reason for key, each in self._downloads.items()}}

    def retry(self, offer: Offer) -> str:
        """Return the command after which the next run fetches the file of an offer again."""
        return command("trust", "--forget", offer.source.digest)

    def forget(self, *keys: str) -> None:
        """Forget verdicts by the keys of `reasons`.

        Raises:
            LocalFailure: the file cannot be written.

        """
        self._write(
            {key: reason for key, reason in self._reasons.items() if key not in keys},
            {key: each for key, each in self._downloads.items() if key not in keys},
        )

    def check(self, offer: Offer) -> None:
        """Check whether an earlier run has found that an image cannot be used.

        Raises:
            Unusable: it has.

        """
        if reason := self._reasons.get(_key(offer)):
            words = f"{reason} (found by an earlier run; the same file is not fetched again)"
            raise Unusable(shown(offer.source.uri).rpartition("/")[2], words)

    @contextlib.contextmanager
    def noting(self, offer: Offer) -> Iterator[None]:
        """Remember an `Unusable` of the block, which judges a file with the digest of the offer.

        Raises:
            LocalFailure: it cannot be remembered.

        """
        try:
            yield
        except Unusable as error:
            cause = f"{error.cause}; {error.remedy}" if error.remedy else error.cause
            try:
                with self._lock:
                    kept = [*self._reasons.items(), (_key(offer), cause)][-_MOST:]
                    self._write(dict(kept), self._downloads)
            except LocalFailure as failure:
                raise failure from error
            raise

    def wrong_version(self, offer: Offer) -> PartialData | None:
        """Return the version of an offer's file that an earlier run found to be another file."""
        found = self._downloads.get(_place(offer))
        return found.version if found else None

    @contextlib.contextmanager
    def noting_download(self, offer: Offer, version: PartialData) -> Iterator[None]:
        """Remember a `WrongFile` of the block by the ``version`` that the block has set.

        Raises:
            WrongFile: the server still has the one of an earlier run.
            LocalFailure: it cannot be remembered.

        """
        forget = f"to fetch it again nevertheless: {self.retry(offer)}"
        name = shown(offer.source.uri)
        try:
            yield
        except StillWrong as error:
            found = self._downloads.get(_place(offer))
            reason = found.reason if found else error.cause
            words = f"{reason} (found by an earlier run; the server has not changed the file since)"
            raise WrongFile(name, words, f"ask its publisher; {forget}") from error
        except WrongFile as error:
            if not version.is_known or not _is_short(version):
                raise
            try:
                with self._lock:
                    found = WrongDownload(error.cause, replace(version, refused=None))
                    kept = [*self._downloads.items(), (_place(offer), found)][-_MOST:]
                    self._write(self._reasons, dict(kept))
            except LocalFailure as failure:
                raise failure from error
            words = "it is fetched again when its list, or the file on the server, has changed"
            remedy = f"ask its publisher; {words}; {forget}"
            raise WrongFile(error.subject, error.cause, remedy) from error

    def _write(self, reasons: dict[str, str], downloads: dict[str, WrongDownload]) -> None:
        self._reasons, self._downloads = reasons, downloads
        document = {
            "rules": self._rules,
            "reasons": reasons,
            "downloads": {key: each.as_json() for key, each in downloads.items()},
        }
        json_file.write(self._path, document)


def _is_short(version: PartialData) -> bool:
    return len(version.etag) + len(version.modified) <= _LONGEST


def _place(offer: Offer) -> str:
    """Return the key of an offer's file: the digest that the source says, and the URL."""
    return f"{offer.source.digest} {shown(offer.source.uri)}"


def _key(offer: Offer) -> str:
    declared = offer.appliance.attributes.get("hv:format", "")
    return " ".join(filter(None, [offer.source.digest, declared, offer.source.compression]))


def _read(path: Path, rules: str) -> tuple[dict[str, str], dict[str, WrongDownload]]:
    try:
        found = json_file.read(path, limit=_LARGEST)
        if found["rules"] == rules:
            reasons = {str(key): str(reason) for key, reason in found["reasons"].items()}
            downloads = found.get("downloads", {})  # releases before this one wrote none
            return reasons, {str(key): WrongDownload.read(each) for key, each in downloads.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        pass
    return {}, {}
