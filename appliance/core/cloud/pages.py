"""Listings in pages: each page names the next one; none may lead back or go on for ever."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

from appliance.core.run.errors import Unavailable

MOST_PAGES = 10_000
"""Pages of one listing: five million items at our page size, and an end all the same."""


@dataclass(slots=True)
class Pages:
    """The links of one listing of ``service`` that have been followed."""

    service: str
    most: int = MOST_PAGES
    _seen: set[str] = field(default_factory=set)

    def follow(self, link: str) -> dict[str, str]:
        """Return the query of a link to the next page.

        The host in the link is what the service believes to be called.

        Raises:
            Unavailable: the link leads to a page that came already, or the listing has no end.

        """
        query = urlsplit(link).query
        if query in self._seen:
            words = "its link to the next page leads to the same page again"
            raise Unavailable(self.service, words)
        if len(self._seen) == self.most:
            raise Unavailable(self.service, f"its listing has no end after {self.most} pages")
        self._seen.add(query)
        return dict(parse_qsl(query))
