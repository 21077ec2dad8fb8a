"""A site's JSON document: lists of objects by class of GLUE 2.1, as EGI's service reads them.

The names of classes and fields are those of cloud-info-provider 1.x. All functions here are pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from appliance.core import clock

Object = dict[str, Any]
Document = Mapping[str, list[Object]]

SERVICE, ENDPOINT = "CloudComputingService", "CloudComputingEndpoint"
SHARE, POLICY = "Share", "MappingPolicy"
IMAGE, FLAVOR = "CloudComputingImage", "CloudComputingInstanceType"
UNKNOWN = "UNKNOWN"
LARGEST_STATE = 64 * 2**20
"""Bytes of the memory beside a document; the names of ten thousand objects may be in it."""


def load(content: bytes) -> Document:
    """Return the document in a text.

    Raises:
        ValueError: the text is not such a document.

    """
    try:
        found = json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    lists = found.values() if isinstance(found, dict) else [None]
    if not all(isinstance(one, list) and all(map(_is_object, one)) for one in lists):
        raise ValueError("it is not a JSON object of lists of GLUE objects")
    return dict(found)


def _is_object(item: object) -> bool:
    return isinstance(item, dict) and isinstance(item.get("Associations", {}), dict)


def first(document: Document, kind: str) -> Object:
    """Return the first object of a class; an empty one if there is none."""
    return next(iter(document.get(kind, ())), {})


def related(one: Object, kind: str) -> list[str]:
    """Return the ids of a class that an object is associated with."""
    found = (one.get("Associations") or {}).get(kind) or []
    if isinstance(found, str):
        return [found]
    return [str(item) for item in found] if isinstance(found, list) else []


def site(document: Document) -> str:
    """Return the site's name in GOCDB."""
    return next(iter(related(first(document, SERVICE), "AdminDomain")), "")


def url(document: Document) -> str:
    """Return the URL of the cloud's Keystone."""
    return str(first(document, ENDPOINT).get("URL") or "")


def gocdb_id(document: Document) -> str:
    """Return the id of the service in GOCDB; empty if it is unknown."""
    info = first(document, SERVICE).get("OtherInfo")
    found = str((info.get("gocdb_id") if isinstance(info, dict) else "") or "")
    return "" if found == UNKNOWN else found


def created(document: Document) -> datetime | None:
    """Return when the cloud was read; None if the document does not say."""
    return _time(first(document, SERVICE))


def valid_until(one: Object) -> datetime | None:
    """Return when an object expires; None if it does not say."""
    moment = _time(one)
    try:
        return moment and moment + timedelta(seconds=int(one["Validity"]))
    except (LookupError, ValueError, TypeError, OverflowError):
        return None


def _time(one: Object) -> datetime | None:
    try:
        return clock.parse(str(one["CreationTime"]))
    except (LookupError, ValueError):
        return None
