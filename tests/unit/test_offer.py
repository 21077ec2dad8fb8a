"""Listings of a cloud that has no end."""

import pytest

from appliance.core.cloud.pages import Pages
from appliance.core.run.errors import Unavailable


def follow(*links: str) -> None:
    pages = Pages("Glance", most=1000)
    for link in links:
        pages.follow(link)


def test_pages_in_a_circle_are_met_once() -> None:
    follow("/v2/images?marker=a", "/v2/images?marker=b")
    with pytest.raises(Unavailable, match="leads to the same page again"):
        follow("/v2/images?marker=a", "/v2/images?marker=b", "/v2/images?marker=a")


def test_a_listing_ends_after_a_thousand_pages() -> None:
    follow(*(f"/v2/images?marker={number}" for number in range(1000)))
    with pytest.raises(Unavailable, match="has no end after 1000 pages"):
        follow(*(f"/v2/images?marker={number}" for number in range(1001)))
