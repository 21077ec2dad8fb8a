"""The CycloneDX SBOMs of artefacts: which there are, not what they say.

An artefact never changes, but an SBOM may be attached to it later. Once known, it is kept. An
artefact without one is asked about once a day for a week after it was first seen, then no more. An
SBOM describes an image and nothing depends on it, so a registry that does not list SBOMs costs one
warning, and its answer is not asked for again in the run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self

from appliance.core.registry import names
from appliance.core.registry.names import Digest, TaggedArtefact
from appliance.core.run.errors import ApplianceError
from cloudkeeper.frontend.registry import kept
from cloudkeeper.frontend.registry.kept import KeptByDigest
from cloudkeeper.frontend.registry.referrers import Referrers

_TYPE = "application/vnd.cyclonedx+json"
_MOST = 4
_PAUSE = timedelta(days=1)
_PATIENCE = timedelta(days=7)
_LARGEST = 4096


@dataclass(frozen=True, slots=True)
class _KnownSBOMs:
    """What is known about an artefact: its SBOMs, and when that was."""

    sboms: tuple[Digest, ...]
    first: datetime
    asked: datetime

    def is_enough(self, *, at: datetime) -> bool:
        """Check whether the registry need not be asked again."""
        is_new = timedelta(0) <= at - self.asked < _PAUSE
        return bool(self.sboms) or is_new or at - self.first > _PATIENCE

    def encoded(self) -> bytes:
        times = [self.first.timestamp(), self.asked.timestamp()]
        return json.dumps({"sboms": self.sboms, "times": times}).encode()

    @classmethod
    def read(cls, content: bytes | None) -> Self | None:
        """Return what an earlier run has kept; None if that cannot be read."""
        try:
            found = json.loads(content or b"")
            first, asked = (datetime.fromtimestamp(each, UTC) for each in found["times"])
            sboms = tuple(names.digest(each, subject="SBOM") for each in found["sboms"])
        except (ValueError, LookupError, TypeError, RecursionError):
            return None
        except (OverflowError, OSError, ApplianceError):  # of times and digests
            return None
        return cls(sboms, first, asked)


@dataclass(slots=True)
class SBOMs:
    """The SBOMs of a registry's artefacts. ``warning`` says why they could not be listed."""

    referrers: Referrers
    kept: KeptByDigest
    warning: str = ""

    def of(self, tagged: TaggedArtefact, *, at: datetime) -> str:
        """Return the references of an artefact's SBOMs, separated by blanks; empty for none."""
        key = kept.key_of(self.referrers.client.host, tagged)
        known = _KnownSBOMs.read(self.kept.get(key, limit=_LARGEST, at=at))
        if not self.warning and not (known and known.is_enough(at=at)):
            try:
                known = self._ask(tagged, known, at=at)
                self.kept.put(key, known.encoded())
            except ApplianceError as error:  # decoration must not cost the image
                self.warning = f"the SBOMs of some images are not known: {error}"
        place = f"{self.referrers.client.host}/{tagged.repository}"
        return " ".join(f"{place}@{digest}" for digest in (known.sboms if known else ()))

    def _ask(
        self, tagged: TaggedArtefact, known: _KnownSBOMs | None, *, at: datetime
    ) -> _KnownSBOMs:
        found = {each.digest for each in self.referrers.of(tagged) if each.artefact_type == _TYPE}
        return _KnownSBOMs(tuple(sorted(found)[:_MOST]), known.first if known else at, at)
