"""Images of a registry that another manager keeps in the same cloud, above all EGI's catch-all.

Its images carry a tag and atrope's properties, in the project or shared with it. Users select
images by name, and two images of one name break their clients, so such an image counts as present:
it is reported to the frontend together with its holder, and never changed or removed here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from appliance.core.cloud.glance import Image
from cloudkeeper.backend.properties import MARK
from cloudkeeper.model import HOLDER_KEY, Appliance, ApplianceId, ListId

TAGS = ("atrope-catchall", "atrope")
"""The tag of EGI's catch-all, and atrope's default."""
# HOST/REFERENCE-DIGEST, atrope's identity of an image; or the image's name, HOST REFERENCE.
_IDENTITY = re.compile(r"(?P<host>[^/\s]+)/(?P<reference>\S+:\S+)-sha256:[0-9a-f]{64}")
_NAME = re.compile(r"(?P<host>[^/\s]+) (?P<reference>\S+:\S+)")


def held(images: Iterable[Image], *, list_id: ListId, vo: str) -> Iterator[Appliance]:
    """Yield the appliances of a list that ``images``, which a project sees, already hold.

    Only lists of registries have any: their identifier is ``HOST/PROJECT/VO``.
    """
    prefix = list_id.removesuffix(f"/{vo}")
    if prefix == list_id:
        return
    for image in images:
        tags = [tag for tag in TAGS if tag in image.get("tags", ())]
        if not tags or image.get(MARK) or image.get("image_type") == "snapshot":
            continue
        found = _IDENTITY.fullmatch(str(image.get("appdb_id") or "")) or _NAME.fullmatch(
            str(image.get("name") or "")
        )
        if image.get("status") == "active" and found:
            reference = found["reference"]
            if f"{found['host']}/{reference}".startswith(f"{prefix}/"):
                yield Appliance(
                    identifier=ApplianceId(reference),
                    list_id=list_id,
                    vo=vo,
                    title=str(image.get("name") or ""),
                    attributes={HOLDER_KEY: tags[0]},
                )
