"""The age of the images: the days since their Debian packages were current."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from appliance.admin import settings
from appliance.admin.images import locked

LIMIT = 30
"""Days after which images are reported as stale.

Debian publishes security updates every week and point releases every two months.
"""


@dataclass(frozen=True, slots=True)
class Age:
    """The day of the Debian packages of the images, and how many days ago it was."""

    day: date
    days: int

    @property
    def complaint(self) -> str:
        """Return the complaint about images that are too old; empty if they are not."""
        if self.days <= LIMIT:
            return ""
        words = f"images: their Debian packages are of {self.day}, {self.days} days ago"
        return f"{words}; install a newer bundle, or build one with scripts/build --fresh"

    def __str__(self) -> str:
        return f"Images: Debian packages of {self.day}, {self.days} days ago"

    def as_json(self) -> object:
        """Return the value for `appliance status --json`."""
        return {"packages_of": self.day.isoformat(), "days": self.days}


def of_images(host: settings.Host, *, today: date) -> Age | None:
    """Return the age of the bundle's images; None without a bundle, or without a day in it."""
    day = locked.packages_of(host.images_lock) if host.images_lock.exists() else None
    return None if day is None else Age(day, max((today - day).days, 0))
