"""The document of a run beside the last good one, and the name of its object in a store.

    (last good, new, failed VOs) ──with_kept──> document to publish

All functions here are pure.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterator
from datetime import datetime

from appliance.core.run.errors import Unavailable
from appliance.core.site_document import (
    POLICY,
    SERVICE,
    SHARE,
    Document,
    Object,
    gocdb_id,
    related,
    site,
    url,
)
from appliance.core.site_document import valid_until as end_of

_ACCELERATOR = "CloudComputingVirtualAccelerator"
_GOCDB_ID = re.compile(rb'"gocdb_id"\s*:\s*"([^"\\]{1,100})"')


def dump(document: Document) -> bytes:
    """Return the text of a document, with the classes in their order."""
    return (json.dumps(document, ensure_ascii=True) + "\n").encode()


def gocdb_id_at_beginning(content: bytes) -> str:
    """Return the id in the first bytes of a document; empty if it is not in them."""
    found = _GOCDB_ID.search(content)
    return found[1].decode(errors="replace") if found else ""


def object_name(document: Document) -> str:
    """Return the name under which EGI's catch-all would store the document.

    Raises:
        Unavailable: the document lacks the site's name or the URL.

    """
    name, endpoint = site(document), url(document)
    if not name or not endpoint:
        cause = "has no site name" if endpoint else "has no URL of Keystone"
        raise Unavailable("the document", cause, "an object's name is made of both")
    digest = hashlib.md5(endpoint.encode(), usedforsecurity=False).hexdigest()
    return f"{name.replace('.', '-')}-{digest}.json"


# --------------------------------------------------------------------------------------------------
# comparisons with the last good document


def shares_of(document: Document, vos: Collection[str]) -> frozenset[str]:
    """Return the ids of the shares of some VOs."""
    return frozenset(
        share
        for policy in document.get(POLICY, ())
        if any(vo in vos for vo in related(policy, "PolicyUserDomain"))
        for share in related(policy, SHARE)
    )


def with_kept(last: Document, new: Document, *, failed: Collection[str], now: datetime) -> Document:
    """Return the new document with the last one's objects of the VOs that could not be read.

    They keep their time of creation. Objects that have expired are left out.
    """
    lost = shares_of(last, failed) - shares_of(new, failed)
    merged = {kind: [dict(one) for one in objects] for kind, objects in new.items()}
    for kind, objects in last.items():
        present = {_id(one): one for one in merged.get(kind, ()) if related(one, SHARE)}
        for one in objects:
            own = [_id(one)] if kind == SHARE else related(one, SHARE)
            kept = [share for share in own if share in lost]
            if not kept or _expired(one, now):
                continue
            if len(kept) < len(own) and (other := present.get(_id(one))):
                other["Associations"] = _with_shares(other, kept)
            elif kind == SHARE:
                merged.setdefault(kind, []).append(one)
            else:
                changed = one | {"Associations": {**one["Associations"], "Share": kept}}
                merged.setdefault(kind, []).append(changed)
    _add_accelerators(merged, last)
    _keep_gocdb_id(merged, last)
    return merged


def _with_shares(one: Object, more: list[str]) -> Object:
    shares = dict.fromkeys([*related(one, SHARE), *more])
    return {**one["Associations"], "Share": list(shares)}


def _add_accelerators(merged: dict[str, list[Object]], last: Document) -> None:
    """Add the last document's accelerators that objects of the merged one name."""
    needed = {name for objects in merged.values() for one in objects for name in _accelerators(one)}
    missing = needed - {_id(one) for one in merged.get(_ACCELERATOR, ())}
    for one in last.get(_ACCELERATOR, ()):
        if _id(one) in missing:
            merged.setdefault(_ACCELERATOR, []).append(one)


def _keep_gocdb_id(merged: dict[str, list[Object]], last: Document) -> None:
    """Keep the id of the same service in GOCDB: without it EGI's service ignores the document."""
    known, service = gocdb_id(last), next(iter(merged.get(SERVICE, ())), None)
    if known and service is not None and not gocdb_id(merged) and url(last) == url(merged):
        service["OtherInfo"] = {**(service.get("OtherInfo") or {}), "gocdb_id": known}


def _id(one: Object) -> str:
    return str(one.get("ID"))


def _accelerators(one: Object) -> list[str]:
    return related(one, _ACCELERATOR)


def _expired(one: Object, now: datetime) -> bool:
    end = end_of(one)
    return end is not None and end < now


def removed(last: Document, new: Document) -> tuple[int, int]:
    """Return how many objects of the last document the new one lacks, and how many it had."""
    before, after = set(_identities(last)), set(_identities(new))
    return len(before - after), len(before)


def _identities(document: Document) -> Iterator[tuple[str, str, str]]:
    """Yield an identity for each object and share: CIP lists an image once for each share."""
    for kind, objects in document.items():
        for one in objects:
            for share in related(one, SHARE) or [""]:
                yield kind, _id(one), share
