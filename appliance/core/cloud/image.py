"""Single properties of Glance's images; each image is requested once."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any
from urllib.parse import quote

from appliance.core.cloud import answers
from appliance.core.cloud.locks import Locks
from appliance.core.cloud.session import Scope


class ImageProperties:
    """One property of images by id. An image may be visible to some projects only.

    ``known`` has the answers of earlier runs and gets those of this one, under the id of the image:
    None if it lacks the property. One that a project does not see has None under ``PROJECT/IMAGE``.
    """

    def __init__(self, name: str, known: MutableMapping[str, str | None] | None = None) -> None:
        self._name = name
        self._found = {} if known is None else known
        self._locks = Locks()

    def get(self, image_id: str, scope: Scope) -> str | None:
        """Return the property; None if the image lacks it, was deleted, or is not visible."""
        if image_id in self._found:  # without the lock, because nearly all requests end here
            return self._found[image_id]
        with self._locks.of(image_id):
            # A property is the same for all projects; an image is hidden from some only.
            hidden = f"{scope.project_id}/{image_id}"
            if image_id not in self._found and hidden not in self._found:
                image = _image(image_id, scope)
                if image is None:
                    self._found[hidden] = None
                else:
                    value = image.get(self._name)
                    self._found[image_id] = value if isinstance(value, str) else None
            return self._found.get(image_id)


def _image(image_id: str, scope: Scope) -> dict[str, Any] | None:
    response = scope.image.get(f"/v2/images/{quote(image_id, safe='')}", raise_exc=False)
    if response.status_code in (answers.NOT_FOUND, answers.FORBIDDEN):
        return None
    purpose = f"a request for image {image_id}"
    found = answers.whole(response, service="Glance", purpose=purpose)
    if found.get("id") != image_id:
        raise answers.unexpected(response, service="Glance", purpose=purpose)
    return found
