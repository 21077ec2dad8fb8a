"""What EGI's information service serves of a site, or what an object in a store says of it.

The service has listings of its own: ``/sites/``, ``/site/NAME/projects``, ``/site/NAME/images``. It
shows neither flavors nor times. A URL that ends in ``.json`` is that of an object.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from appliance.admin.diff import view
from appliance.admin.diff.view import SiteView
from appliance.admin.web_reader import WebReader
from appliance.core import hosts, site_document
from appliance.core.run.errors import Unavailable


def read(
    reader: WebReader, service: str, *, name: str, gocdb_id: str, url: str = ""
) -> SiteView | None:
    """Return what is served of a site; None if the service does not list it.

    The site is the one with this name or id; with the URL of a Keystone, also the one that has it,
    which is preferred.

    Raises:
        Unavailable: the service cannot be reached, or answers something else.

    """
    if urlsplit(service).path.endswith(".json"):
        return _object(reader, service)
    base = service.rstrip("/")
    try:
        sites = [_known(one, "id", "name", "url") for one in reader.get(f"{base}/sites/")]
        ours = [one for one in sites if _is_ours(one, name, gocdb_id, url)]
        if not ours:
            return None
        # The service lists a second object of one GOCDB id under NAME-ID.
        ours.sort(key=lambda one: (not _has(one, url), one["name"] != name))
        place = f"{base}/site/{quote(ours[0]['name'], safe='')}"
        projects = [_known(one, "id", "name") for one in reader.get(f"{place}/projects")]
        images = reader.get(f"{place}/images")
        return SiteView(
            name=ours[0]["name"],
            url=ours[0]["url"],
            projects=view.projects_by_vo((one["name"], one["id"]) for one in projects),
            images=view.offers(map(_image, images)),
            others=tuple(one["name"] for one in ours[1:]),
        )
    except (TypeError, LookupError, AttributeError) as error:
        words = "its answers are not those of EGI's information service"
        raise Unavailable(hosts.of_url(service), words, f"check {reader.setting}") from error


def _object(reader: WebReader, url: str) -> SiteView:
    try:
        return view.of_document(site_document.load(json.dumps(reader.get(url)).encode()))
    except ValueError as error:
        raise Unavailable(url, str(error), f"check {reader.setting}") from error


def _is_ours(one: Mapping[str, str], name: str, gocdb_id: str, url: str) -> bool:
    is_named = one["name"] == name or bool(gocdb_id and one["id"] == gocdb_id)
    return is_named or _has(one, url)


def _has(one: Mapping[str, str], url: str) -> bool:
    return bool(url) and view.plain(one["url"]) == view.plain(url)


def _known(one: Mapping[str, object], *names: str) -> dict[str, str]:
    return {name: str(one[name]) for name in names}


def _image(one: Mapping[str, Any]) -> tuple[str, str, str]:
    identifier = str(one.get("egi_id") or one.get("appdb_id") or "")
    row = view.image_row(identifier, str(one.get("version") or ""), str(one["id"]))
    return str(one.get("vo") or ""), *row
