"""Verification of an image list: from the bytes of a server to a list that may be acted on.

The checks come in the order of trust: S/MIME signature and certificate chain
(`appliance.core.trust.smime`), then the JSON, then whether the endorser that the list names is the
signer, then the dates. Only a list that passes all of them becomes a `SignedImageList`. A single
image that cannot be used is left out of the offers, and the others stay.
`cloudkeeper.frontend.memory` then compares the list with the one that the same URL had before.

The list is JSON in the form of HEPiX: ``{"hv:imagelist": {…, "hv:images": [{"hv:image": {…}}]}}``.
All values are texts, numbers as well. Unknown keys are kept as attributes of the appliance.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, NoReturn
from urllib.parse import urlsplit

from appliance.core.hosts import SCHEMES
from appliance.core.run.errors import ApplianceError
from appliance.core.trust import smime
from appliance.core.trust.ca_directory import CADirectory
from appliance.core.trust.distinguished_name import slash_form
from appliance.core.trust.errors import Malformed, Untrusted
from cloudkeeper.frontend.memory import OffPin
from cloudkeeper.model import (
    Appliance,
    ApplianceId,
    Endorser,
    ImageSource,
    ListId,
    Offer,
    Refusal,
    SignedImageList,
    is_same_dn,
    is_same_endorser,
    ram_in_bytes,
)

logger = logging.getLogger(__name__)

MAX_BYTES = 16 * 2**20
"""Of a list with its signature; a thousand images are 1.5 MB."""
_MAX_IMAGES = 10_000
_MAX_TEXT = 64 * 1024
_MAX_FIGURE = 2**63 - 1
# As much as the int64 and int32 of the protocol can hold.
_MAX_CORES = 2**31 - 1
_DECORATING = {"hv:ram_minimum": _MAX_FIGURE, "hv:core_minimum": _MAX_CORES}
"""Figures that describe an image, with the greatest that is read."""
_LIST = "image list"
_IDENTIFIER = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,127}", re.ASCII)
_VO = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,254}", re.ASCII)
_SHA512 = re.compile(r"[0-9a-fA-F]{128}", re.ASCII)
_FIGURE = re.compile(r"[0-9]{1,19}", re.ASCII)
_DATE = "%Y-%m-%dT%H:%M:%SZ"


class ListExpired(Untrusted):
    """A list that its endorser has signed, and that has expired."""

    def __init__(self, expired: SignedImageList) -> None:
        cause = f"it expired on {expired.expires:%Y-%m-%d %H:%MZ}"
        super().__init__(_LIST, cause, "the endorser must renew it")
        self.expired = expired


@dataclass(frozen=True, slots=True)
class VerifiedImageList:
    """A list that may be acted on, the JSON that was signed, and warnings."""

    content: SignedImageList
    payload: bytes
    warnings: tuple[str, ...]


def verify(
    message: bytes, *, trust: CADirectory, at: datetime, endorser: Endorser | None = None
) -> VerifiedImageList:
    """Return the image list in ``message``, verified for the time ``at``.

    With ``endorser``, nobody else may have signed it.

    Raises:
        Malformed: the message is not signed, or is not an image list.
        Untrusted: its endorser did not sign it.
        OffPin: another endorser than ``endorser`` did.
        ListExpired: it has expired; nothing else is wrong with it.

    """
    verified = smime.verify(
        message,
        trust=trust,
        at=at,
        max_bytes=MAX_BYTES,
        require_header=False,
        forms=frozenset(smime.Form),
    )
    found = parse(verified.body)
    signer = Endorser(verified.signer, slash_form(verified.certificate.issuer))
    for claimed, actual, relation in (
        (found.endorser.dn, signer.dn, "signed by"),
        (found.endorser.ca, signer.ca, "its signer's certificate is issued by"),
    ):
        if not is_same_dn(claimed, actual):
            cause = f"{relation} {actual}, but its endorser is {claimed}"
            raise Untrusted(_LIST, cause, "ask the endorser")
    if endorser and not is_same_endorser(endorser, signer):
        cause = f"signed by {signer.dn} of {signer.ca}, not by {endorser.dn} of {endorser.ca}"
        raise OffPin(_LIST, cause, "ask the endorser, or correct the one that you allow")
    if found.is_expired(at=at):
        raise ListExpired(found)
    return VerifiedImageList(replace(found, signer=signer), verified.body, verified.warnings)


def parse(payload: bytes) -> SignedImageList:
    """Read the JSON of a list; the caller has verified its signature.

    Raises:
        Malformed: it is not an image list, or lacks identifier, VO, endorser or expiry date.

    """
    content = _member(load(payload), "hv:imagelist", dict, "the document")
    x509 = _member(
        _member(content, "hv:endorser", dict, "the list"), "hv:x509", dict, "hv:endorser"
    )
    list_id = ListId(_matching(content, "dc:identifier", _IDENTIFIER))
    vo = _matching(content, "ad:vo", _VO)
    images = _member(content, "hv:images", list, "the list")
    if len(images) > _MAX_IMAGES:
        raise Malformed(_LIST, f"it has {len(images)} images, the limit is {_MAX_IMAGES}")
    endorser = {key: value for key in x509 if (value := _text(x509, key))}
    offers, refused = _read_images(images, list_id=list_id, vo=vo, endorser=endorser)
    named = Endorser(_required(x509, "hv:dn"), _required(x509, "hv:ca"))
    version = _text(content, "hv:version")
    return SignedImageList(
        identifier=list_id,
        vo=vo,
        endorser=named,
        created=_date(content, "dc:date:created") if content.get("dc:date:created") else None,
        expires=_date(content, "dc:date:expires"),
        version=version,
        offers=tuple(replace(each, version=version, endorser=named.dn) for each in offers),
        refused=refused,
    )


def load(payload: bytes) -> dict[str, Any]:
    """Return the JSON of a list, in which no key occurs twice.

    Raises:
        Malformed: it is none.

    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        # Of two equal keys, readers take either one: we could act on another list than others see.
        made = dict(pairs)
        if len(made) != len(pairs):
            key = Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise Malformed(_LIST, f"the key {key[:80]!r} occurs twice in one object")
        return made

    def refuse(word: str) -> NoReturn:
        raise Malformed(_LIST, f"{word} is not JSON")

    try:
        document = json.loads(
            payload.decode("utf-8-sig"), object_pairs_hook=unique, parse_constant=refuse
        )
    except UnicodeDecodeError:
        raise Malformed(_LIST, "its text is not UTF-8") from None
    except RecursionError:
        raise Malformed(_LIST, "its JSON is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise Malformed(_LIST, f"its text is not JSON: line {error.lineno}: {error.msg}") from None
    except ValueError:  # Python's limit for the digits of a number
        raise Malformed(_LIST, "a number in its JSON is too long") from None
    if not isinstance(document, dict):
        raise Malformed(_LIST, "its JSON is not an object")
    return document


def _read_images(
    images: list[Any], *, list_id: ListId, vo: str, endorser: Mapping[str, str]
) -> tuple[tuple[Offer, ...], tuple[Refusal, ...]]:
    offers: list[Offer] = []
    refused: list[Refusal] = []
    seen: Counter[ApplianceId] = Counter()
    for number, entry in enumerate(images, start=1):
        identifier = None
        try:
            image = _member(
                entry if isinstance(entry, dict) else {}, "hv:image", dict, f"image {number}"
            )
            identifier = ApplianceId(_matching(image, "dc:identifier", _IDENTIFIER))
            seen[identifier] += 1
            offers.append(_read_image(image, identifier, list_id=list_id, vo=vo, endorser=endorser))
        except ApplianceError as error:
            reason = error.cause if identifier else f"image {number}: {error.cause}"
            title = _attributes(image).get("dc:title", "") if identifier else ""
            refused.append(Refusal(identifier, reason, title))
    # Nothing says which of two images with one identifier is meant, so neither is offered.
    twice = {identifier for identifier, times in seen.items() if times > 1}
    refused += [Refusal(identifier, "it occurs twice in the list") for identifier in sorted(twice)]
    return (
        tuple(offer for offer in offers if offer.appliance.identifier not in twice),
        tuple(refused),
    )


def _read_image(
    image: Mapping[str, Any],
    identifier: ApplianceId,
    *,
    list_id: ListId,
    vo: str,
    endorser: Mapping[str, str],
) -> Offer:
    attributes = _attributes(image)
    uri = _required(image, "hv:uri")
    if not _is_web_address(uri):
        raise Malformed(_LIST, "hv:uri is not an http or https URL")
    size = _figure(image, "hv:size", _MAX_FIGURE)
    system = (attributes.get(key, "") for key in ("sl:os", "sl:osname", "sl:osversion"))
    appliance = Appliance(
        identifier=identifier,
        list_id=list_id,
        vo=vo,
        title=attributes.get("dc:title", ""),
        description=attributes.get("dc:description", ""),
        mpuri=attributes.get("ad:mpuri", ""),
        group=attributes.get("ad:group", ""),
        ram=ram_in_bytes(_decorating_figure(image, "hv:ram_minimum")),
        cores=_decorating_figure(image, "hv:core_minimum"),
        version=attributes.get("hv:version", ""),
        architecture=attributes.get("sl:arch", ""),
        operating_system=" ".join(" ".join(system).split()),
        expires=_date(image, "dc:date:expires"),
        attributes=MappingProxyType({**attributes, **endorser}),
    )
    checksum = _matching(image, "sl:checksum:sha512", _SHA512).lower()
    return Offer(appliance, ImageSource(uri, f"sha512:{checksum}", size or None))


def _member(holder: Mapping[str, Any], key: str, kind: type[Any], where: str) -> Any:
    value = holder.get(key)
    if value is None:
        raise Malformed(_LIST, f"{where} has no {key}")
    if not isinstance(value, kind):
        raise Malformed(_LIST, f"{key} of {where} has the wrong type")
    return value


def _text(holder: Mapping[str, Any], key: str) -> str:
    value = holder.get(key)
    if isinstance(value, str) and len(value) <= _MAX_TEXT and value.isascii() and key.isascii():
        return value  # as nearly all are
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise Malformed(_LIST, f"{key[:80]} is not a text")
    text = str(value)
    if len(text) > _MAX_TEXT:
        raise Malformed(_LIST, f"{key[:80]} is longer than {_MAX_TEXT} characters")
    try:
        (key + text).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which only JSON can express
        raise Malformed(_LIST, f"{key[:80]!r} is not valid text") from None
    return text


def _attributes(image: Mapping[str, Any]) -> dict[str, str]:
    """Return the texts of an image; an invalid one is left out and costs no image."""
    found = {}
    for key in image:
        if image[key] is not None:
            try:
                found[key] = _text(image, key)
            except Malformed as error:
                _ignore(image, error)
    return found


def invalid_values(image: Mapping[str, Any]) -> Iterator[str]:
    """Yield the faults of values that describe an image only, and are ignored for them."""
    for key in image:
        try:
            if maximum := _DECORATING.get(key):
                _figure(image, key, maximum)
            else:
                _text(image, key)
        except Malformed as error:
            yield error.cause


def _ignore(image: Mapping[str, Any], error: Malformed) -> None:
    logger.warning("image %s: %s; ignored", image.get("dc:identifier"), error.cause)


def _decorating_figure(holder: Mapping[str, Any], key: str) -> int:
    """Return a number that describes an image, 0 for none and for an invalid one."""
    try:
        return _figure(holder, key, _DECORATING[key]) or 0
    except Malformed as error:
        _ignore(holder, error)
        return 0


def _required(holder: Mapping[str, Any], key: str) -> str:
    value = _text(holder, key)
    if not value:
        raise Malformed(_LIST, f"{key} is missing")
    return value


def _matching(holder: Mapping[str, Any], key: str, pattern: re.Pattern[str]) -> str:
    value = _required(holder, key)
    if not pattern.fullmatch(value):
        raise Malformed(_LIST, f"{key} has the invalid value {value[:80]!r}")
    return value


def _figure(holder: Mapping[str, Any], key: str, maximum: int) -> int | None:
    value = _text(holder, key)
    if not value:
        return None
    if not _FIGURE.fullmatch(value) or int(value) > maximum:
        raise Malformed(_LIST, f"{key} is not a whole number in its range: {value[:40]!r}")
    return int(value)


def _date(holder: Mapping[str, Any], key: str) -> datetime:
    value = _required(holder, key)
    try:
        return datetime.strptime(value, _DATE).replace(tzinfo=UTC)
    except ValueError:
        raise Malformed(
            _LIST, f"{key} is not a date like 2030-12-31T23:59:59Z: {value[:40]!r}"
        ) from None


def _is_web_address(uri: str) -> bool:
    try:
        parts = urlsplit(uri)
        # The port is read because urlsplit raises only then for an invalid one.
        return parts.scheme in SCHEMES and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return False
