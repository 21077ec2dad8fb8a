"""Whose data our images hold, as this backend knows it and not as Glance's properties say.

Members of a project can write all properties of its images, and make images that look like ours.
For their own project that is their own affair. An image that is shared is another one's, too: it
needs evidence that they cannot write. So the backend remembers the digest of the layer of each
image that it has uploaded (`LayerMemory`).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection
from pathlib import Path

from appliance.core import json_file

logger = logging.getLogger(__name__)

_LARGEST = 2**24


class LayerMemory:
    """The digest of the layer of each image, by the image's id, in the file at ``path``.

    Safe for use by several threads. A file that cannot be read holds none: images that it named are
    shared with no further project, which gets an upload of its own.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._layers = _read(path)

    def layer(self, image_id: str) -> str:
        """Return the digest of an image's layer, in small letters; empty if it is not known."""
        with self._lock:
            return self._layers.get(image_id, "")

    def note(self, image_id: str, layer: str) -> None:
        """Remember the digest of the layer of an image.

        Raises:
            LocalFailure: the file cannot be written.

        """
        with self._lock:
            layers = {**self._layers, image_id: layer.lower()}
            json_file.write(self._path, layers)
            self._layers = layers

    def keep(self, images: Collection[str]) -> None:
        """Forget all images but these.

        Raises:
            LocalFailure: the file cannot be written.

        """
        with self._lock:
            layers = {key: layer for key, layer in self._layers.items() if key in images}
            if layers != self._layers:
                json_file.write(self._path, layers)
                self._layers = layers


def _read(path: Path) -> dict[str, str]:
    try:
        found = json_file.read(path, limit=_LARGEST)
        return {str(key): str(layer) for key, layer in found.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as error:
        logger.warning("%s: cannot be read: %s; images are shared again later", path, error)
        return {}
