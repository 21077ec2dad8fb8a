"""What the strictest subscribers demand of an image list beyond `cloudkeeper.frontend.imagelist`.

cloudkeeper 1.7.1 and atrope refuse a whole list for one missing key; this program needs fewer
keys. 1.7.1 takes a blank text for a missing one, atrope looks for the key only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from cloudkeeper.frontend import imagelist
from cloudkeeper.model import ApplianceId, Refusal

_OLD = "cloudkeeper 1.7.1"
_ATROPE = "atrope"
_ATROPE_LIST = (
    "dc:date:created",
    "dc:description",
    "dc:source",
    "dc:title",
    "hv:uri",
    "hv:version",
)
_ATROPE_ENDORSER = ("dc:creator", "hv:email")
_ATROPE_IMAGE = (
    "ad:group",
    "ad:mpuri",
    "ad:user:fullname",
    "ad:user:guid",
    "ad:user:uri",
    "dc:description",
    "dc:title",
    "hv:format",
    "hv:hypervisor",
    "hv:size",
    "hv:version",
    "sl:arch",
    "sl:comments",
    "sl:os",
    "sl:osname",
    "sl:osversion",
)
# Keys that imagelist requires, too, are left out of all of these: it has refused them already.
_OLD_IMAGE = ("ad:mpuri",)


def findings(payload: bytes) -> tuple[Refusal, ...]:
    """Return why other subscribers refuse a list that `imagelist.parse` reads, or lose values.

    A finding without ``identifier`` is about the list itself.
    """
    content = imagelist.load(payload)["hv:imagelist"]
    endorser = content["hv:endorser"]["hv:x509"]
    found = [
        *_refused(_ATROPE, _ATROPE_LIST, content, _is_absent),
        *_refused(_ATROPE, _ATROPE_ENDORSER, endorser, _is_absent),
    ]
    return (
        *(Refusal(None, reason) for reason in found),
        *(each for entry in content["hv:images"] for each in _of_image(entry)),
    )


def _of_image(entry: Any) -> Iterator[Refusal]:
    image = entry.get("hv:image") if isinstance(entry, dict) else None
    identifier = image.get("dc:identifier") if isinstance(image, dict) else None
    if not isinstance(image, dict) or not isinstance(identifier, str | int):
        return  # refused by imagelist
    reasons = [
        *_refused(_OLD, _OLD_IMAGE, image, _is_blank),
        *_refused(_ATROPE, _ATROPE_IMAGE, image, _is_absent),
        *(f"{fault}; cloudkeeper ignores it" for fault in imagelist.invalid_values(image)),
    ]
    for reason in reasons:
        yield Refusal(ApplianceId(str(identifier)), reason)


def _refused(
    program: str,
    keys: Iterable[str],
    holder: Mapping[str, Any],
    lacks: Callable[[object], bool],
) -> Iterator[str]:
    if missing := [key for key in keys if lacks(holder.get(key))]:
        yield f"{program} refuses the list without {', '.join(missing)}"


def _is_absent(value: object) -> bool:
    return value is None


def _is_blank(value: object) -> bool:
    return value is None or not str(value).strip()
