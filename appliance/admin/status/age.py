"""How old the images are: the day of their Debian packages, which security updates have replaced since."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from appliance.admin import settings
from appliance.admin.images import locked

LIMIT = 30
"""Days after which images are reported as stale: Debian's point releases come every two months, updates each week."""


@dataclass(frozen=True, slots=True)
class Age:
    """The day that the Debian packages of the images are of, and how many days ago that was."""

    day: date
    days: int

    @property
    def complaint(self) -> str:
        """Return what to do about images that are too old; empty when they are not."""
        if self.days <= LIMIT:
            return ""
        words = f"images: their Debian packages are of {self.day}, {self.days} days ago"
        return f"{words}; install a newer bundle, or build one with scripts/build --fresh"

    def __str__(self) -> str:
        return f"Images: Debian packages of {self.day}, {self.days} days ago"

    def as_json(self) -> object:
        """Return what JSON can hold."""
        return {"packages_of": self.day.isoformat(), "days": self.days}


def of_images(host: settings.Host, *, today: date) -> Age | None:
    """Return the age of the images that a bundle brought; None where none did, or an early one that does not say."""
    day = locked.packages_of(host.images_lock) if host.images_lock.exists() else None
    return None if day is None else Age(day, max((today - day).days, 0))
