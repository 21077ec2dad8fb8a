"""Listings in pages: the one loop that follows the links of OpenStack's services, and its bounds.

Each service names the next page in a place of its own: Nova, Neutron and Cinder in ``KEY_links``
(Nova's actions of a server in a list ``links``), Glance in ``next``, Keystone in ``links``. Only
the query of a link is used: each request goes to the endpoint of the catalog, so a forged link
cannot carry a token to another host.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from appliance.core import hosts
from appliance.core.run.errors import CHECK_LOGS, Unavailable

if TYPE_CHECKING:
    import requests

Item = dict[str, Any]
"""A server, flavor, image or project as its service describes it."""

PAGE_SIZE = "500"
"""Items of a page: a larger one costs the service more for each item, and us memory."""
MOST_PAGES = 1000
"""Pages of a listing: half a million flavors, images or projects, more than any cloud has."""
_LONGEST_LINK = 8192
"""Characters of a link: common web servers refuse longer request lines."""
_NONE: Mapping[str, str] = MappingProxyType({})
_FOREIGN_REMEDY = (
    "have the service name its own host: Nova's compute_link_prefix, Keystone's public_endpoint,"
    " or the header Host that a proxy before it passes on"
)


def follow(
    fetch: Callable[[str], requests.Response],
    path: str,
    *,
    key: str,
    service: str,
    catalog: Callable[[], Container[str]],
    query: Mapping[str, str] = _NONE,
    added: Mapping[str, str] = _NONE,
    most: int = MOST_PAGES,
    within: str = "",
    identifier: str = "id",
) -> Iterator[Item]:
    """Yield the items of a listing, with one page in memory at a time.

    ``fetch`` requests a path with its query and returns a successful answer, which has the items
    under ``key``. A link may name the host that answered, or one that ``catalog`` returns: a
    service reached by its internal URL may name its public one. ``added`` extends the query of
    each page after the first. ``within`` is the key of the items if ``key`` holds an object around
    them, which may lack it; ``identifier`` is the key of an item's id.

    Raises:
        Unavailable: a page is malformed, a link repeats or leads to another host, or the listing
            does not end within ``most`` pages.

    """
    wanted = dict(query)
    # Queries are compared, not links: a service may write one query in several ways.
    seen: set[frozenset[tuple[str, str]]] = set()
    while True:
        seen.add(frozenset(wanted.items()))
        response = fetch(f"{path}?{urlencode(wanted)}" if wanted else path)
        asked = response.url
        items, link = read(response, key=key, service=service, within=within, identifier=identifier)
        del response  # it holds the page once more, as bytes
        items.reverse()
        while items:  # a page leaves memory before the next one arrives
            yield items.pop()
        if not link:
            return
        host, name = hosts.of_url(asked), hosts.name_of_url(link)
        words = f"{service}'s link to the next page of {key} leads to"
        if len(seen) >= most or len(link) > _LONGEST_LINK:
            words = f"{service}'s listing of {key} does not end after {len(seen)} pages"
            raise Unavailable(host, words, CHECK_LOGS)
        if name not in ("", hosts.name_of_url(asked)) and name not in catalog():
            raise Unavailable(host, f"{words} another host, {name!r}", _FOREIGN_REMEDY)
        # The link has the filters of the first query, so nothing of that is added again.
        wanted = {**dict(parse_qsl(urlsplit(link).query)), **added}
        if frozenset(wanted.items()) in seen:
            raise Unavailable(host, f"{words} a page that was already read", CHECK_LOGS)


def read(
    response: requests.Response,
    *,
    key: str,
    service: str,
    within: str = "",
    identifier: str = "id",
) -> tuple[list[Item], str]:
    """Return the items of one page, each with an id, and the link to the next page if any.

    Raises:
        Unavailable: the answer is not a page of this listing.

    """
    try:
        body = response.json()
        items = body[key].get(within, []) if within else body[key]
        links = [*(body.get(f"{key}_links") or ()), {"rel": "next", "href": body.get("next")}]
        own = body.get("links") or {}
        links += own if isinstance(own, list) else [{"rel": "next", "href": own.get("next")}]
        found = [link["href"] for link in links if link["rel"] == "next" and link["href"]]
        is_page = isinstance(items, list) and all(item[identifier] for item in items)
    # RecursionError: JSON that is nested thousands of times.
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        is_page = False
    if not is_page or not all(isinstance(link, str) for link in found):
        said = " ".join(response.text.split())[:120]
        words = f"{service} answers {response.status_code} to a listing of {key}: {said}"
        raise Unavailable(hosts.of_url(response.url), words, CHECK_LOGS)
    return items, found[0] if found else ""
