"""Glance's refusals of an image in our words, with what the site can change.

Glance answers with a status and a text of its own. The status alone does not say enough: 413 is
the answer to a quota, to a full store and to a file that is too large for good. The texts are those
of Glance 12 to 33 (``glance/api/v2/image_data.py``, ``glance/quota``, ``glance/location.py``).

A refusal is final when the same file would be refused again until a change of the file or the
configuration: the frontend remembers it and moves the file no more. A quota is never final: the
backend remembers it for one run (`cloudkeeper.backend.quota`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from appliance.core.cloud import glance
from appliance.core.cloud.glance import GlanceRefusal
from cloudkeeper.backend.errors import Failed, status_of
from cloudkeeper.model import Format

_CREATE, _UPLOAD = "POST", "PUT"
# Characters of Glance's own text in a message.
_SHOWN = 100


@dataclass(frozen=True, slots=True)
class _Rule:
    """The words for a refusal; ``pattern`` is searched in Glance's text."""

    codes: tuple[int, ...]
    pattern: str
    cause: str
    remedy: str
    is_final: bool = False
    limits_size: bool = False
    """Whether a larger image of the project would be refused, too, until something changes."""


_SECTION = "[image_format] of glance-api.conf"
_FORMAT = _Rule(
    (glance.BAD_REQUEST,),
    r"disk_format|is not one of",
    "Glance does not accept the format {format}",
    f"remove {{format}} from formats in cloudkeeper.yml, or add it to disk_formats in {_SECTION}",
    is_final=True,
)
_UNSAFE = _Rule(
    (glance.UNSUPPORTED,),
    r"safety check",
    "Glance takes the disk for unsafe",
    "ask the publisher of the image for another file; Glance's log names the check, which "
    f"gpt_safety_checks_nonfatal in {_SECTION} can switch off",
    is_final=True,
)
_MISMATCH = _Rule(
    (glance.UNSUPPORTED,),
    "",
    "Glance does not recognise the file as {format}",
    "ask the publisher of the image for another file; only if Glance is wrong, set "
    f"require_image_format_match = false in {_SECTION}",
    is_final=True,
)
_TOO_LARGE = _Rule(
    (glance.TOO_LARGE,),
    r"image is too large",
    "the file is larger than Glance's limit for one image",
    "raise image_size_cap in glance-api.conf",
    is_final=True,
)
_FULL = _Rule(
    (glance.TOO_LARGE,),
    r"media is full",
    "Glance's store is full",
    "free space in the store",
    limits_size=True,
)
_PROPERTIES = _Rule(
    (glance.TOO_LARGE,),
    r"allowed image properties",
    "the image has more properties than Glance allows",
    "raise image_property_quota in glance-api.conf",
)
_QUOTA = _Rule(
    (glance.TOO_LARGE, glance.FORBIDDEN),
    r"[Qq]uota|over limit|will exceed the limit",
    "the project's quota for images is used up",
    "raise user_storage_quota in glance-api.conf or, with use_keystone_limits, the limits "
    "image_size_total and image_count_total in Keystone; or delete images of the project",
    limits_size=True,
)
_LIMIT = _Rule(
    (glance.TOO_LARGE,),
    "",
    "Glance, or a proxy before it, accepts no file of this size",
    "check the proxy's limit for request bodies (nginx: client_max_body_size) and the project's "
    "quota for images",
    limits_size=True,
)
_CHANGED = _Rule(
    (glance.CONFLICT, glance.GONE),
    "",
    "the image was changed or deleted in Glance during its upload",
    "check who else changes images of this project; the next run retries",
)
_RULES = {
    _CREATE: (_FORMAT, _PROPERTIES, _QUOTA),
    _UPLOAD: (_UNSAFE, _MISMATCH, _TOO_LARGE, _FULL, _QUOTA, _LIMIT, _CHANGED),
}


def explain(refusal: GlanceRefusal, disk_format: Format) -> Failed | GlanceRefusal:
    """Return a refusal with our explanation; a refusal that we do not know stays as it is."""
    for rule in _RULES.get(refusal.method, ()):
        if refusal.code in rule.codes and re.search(rule.pattern, refusal.text):
            own = refusal.text[:_SHOWN] + ("…" if len(refusal.text) > _SHOWN else "")
            cause = rule.cause.format(format=disk_format)
            return Failed(
                refusal.subject,
                f"{cause} (Glance: {refusal.code} {own})",
                rule.remedy.format(format=disk_format),
                status=status_of(refusal),
                is_final=rule.is_final,
                limits_size=rule.limits_size,
            )
    return refusal
