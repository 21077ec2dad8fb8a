"""Image files that no run can use, remembered by their digest so that none is fetched twice.

What a digest names never changes, and neither does the verdict on its format, until this program or
the formats that the cloud accepts do: an entry counts only for the version and formats of its run.
Failures that may pass (the network, a full disk, a conversion) are never remembered.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from appliance.core import files
from appliance.core.run.errors import LocalFailure
from appliance.core.version import __version__
from cloudkeeper.formats import Unusable
from cloudkeeper.model import Format, Offer

_LARGEST = 2**24
_MOST = 1000


class RefusedImages:
    """The verdicts in the file at ``path``, for a cloud that accepts some formats.

    A file that cannot be read holds none: at worst an image is fetched once more.
    """

    def __init__(self, path: Path, accepted: Iterable[Format]) -> None:
        self._path = path
        self._rules = f"{__version__} {' '.join(accepted)}"
        self._reasons = _read(path, self._rules)

    @property
    def retry(self) -> str:
        """The words for how to have every file fetched again."""
        return f"delete {self._path}"

    def check(self, offer: Offer) -> None:
        """Check whether an earlier run has found that an image cannot be used.

        Raises:
            Unusable: it has.

        """
        if reason := self._reasons.get(_key(offer)):
            words = f"{reason} (found by an earlier run; the same file is not fetched again)"
            raise Unusable(offer.source.uri.rpartition("/")[2], words)

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
            kept = [*self._reasons.items(), (_key(offer), cause)][-_MOST:]
            self._reasons = dict(kept)
            text = json.dumps({"rules": self._rules, "reasons": self._reasons}, indent=1)
            try:
                files.make_directory(self._path.parent)
                files.write_atomic(self._path, f"{text}\n".encode())
            except OSError as failure:
                raise LocalFailure.from_os(failure, subject=self._path) from error
            raise


def _key(offer: Offer) -> str:
    return f"{offer.source.digest} {offer.appliance.attributes.get('hv:format', '')}".strip()


def _read(path: Path, rules: str) -> dict[str, str]:
    try:
        found = json.loads(files.read_regular(path, limit=_LARGEST))
        if found["rules"] == rules:
            return {str(key): str(reason) for key, reason in found["reasons"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        pass
    return {}
