"""Image files that no run can use, remembered by their digest so that none is fetched twice.

What a digest names never changes, and neither does the verdict on its format, until this program or
the formats that the cloud accepts do: an entry counts only for the version and formats of its run.
Failures that may pass (the network, a full disk, a conversion) are never remembered.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from appliance.core import json_file
from appliance.core.run.errors import LocalFailure
from appliance.core.version import __version__
from cloudkeeper.formats import Unusable
from cloudkeeper.frontend.remedies import command
from cloudkeeper.frontend.stream import shown
from cloudkeeper.model import Format, Offer

_LARGEST = 2**24
_MOST = 1000


class RefusedImages:
    """The verdicts in the file at ``path``, for a cloud that accepts some formats.

    A file that cannot be read holds none: at worst an image is fetched once more. Several transfers
    at a time may use one object.
    """

    def __init__(self, path: Path, accepted: Iterable[Format]) -> None:
        self._path = path
        self._rules = f"{__version__} {' '.join(accepted)}"
        self._reasons = _read(path, self._rules)
        self._lock = threading.Lock()

    @property
    def reasons(self) -> Mapping[str, str]:
        """The reasons by digest, followed by the format and the compression that a source states.

        One source may state wrong ones: that says nothing about the file of another source.
        """
        return self._reasons

    def retry(self, offer: Offer) -> str:
        """Return the command after which the next run fetches the file of an offer again."""
        return command("trust", "--forget", offer.source.digest)

    def forget(self, *keys: str) -> None:
        """Forget verdicts by the keys of `reasons`.

        Raises:
            LocalFailure: the file cannot be written.

        """
        self._write({key: reason for key, reason in self._reasons.items() if key not in keys})

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
                    self._write(dict(kept))
            except LocalFailure as failure:
                raise failure from error
            raise

    def _write(self, reasons: dict[str, str]) -> None:
        self._reasons = reasons
        json_file.write(self._path, {"rules": self._rules, "reasons": reasons})


def _key(offer: Offer) -> str:
    declared = offer.appliance.attributes.get("hv:format", "")
    return " ".join(filter(None, [offer.source.digest, declared, offer.source.compression]))


def _read(path: Path, rules: str) -> dict[str, str]:
    try:
        found = json_file.read(path, limit=_LARGEST)
        if found["rules"] == rules:
            return {str(key): str(reason) for key, reason in found["reasons"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        pass
    return {}
