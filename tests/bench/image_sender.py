"""A run that sends one image, or none, to a backend, as an image of a registry.

    python -m tests.bench.image_sender WAY URL SHA256 SIZE ENDPOINT ROOT

WAY is ``stream``: the frontend's own way, with the digest of a registry; or ``alone``: the backend
itself fetches the image from the web server. SIZE 0 sends none.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from appliance.core.download.downloader import Downloader, Timeouts
from appliance.core.trust.ca_directory import CADirectory
from cloudkeeper.frontend import grpc_connection
from cloudkeeper.frontend.conversion import QemuImg
from cloudkeeper.frontend.refused import RefusedImages
from cloudkeeper.frontend.transfer import Workshop
from cloudkeeper.model import (
    Appliance,
    ApplianceId,
    Format,
    ImageData,
    ImageSource,
    ListId,
    Offer,
    TransferMode,
)


@dataclass(frozen=True, slots=True)
class _Opener:
    client: Downloader

    def open(
        self, source: ImageSource, *, name: str, timeouts: Timeouts
    ) -> AbstractContextManager[tuple[int | None, Iterator[bytes]]]:
        return self.client.stream(source.uri, name=name, timeouts=timeouts)


def main() -> None:
    """Send the image that the arguments name."""
    way, url, sha256, size, endpoint, root = sys.argv[1:]
    appliance = Appliance(
        ApplianceId("one:1"), ListId("example.org/one/ops"), vo="ops", title="one"
    )
    opener = _Opener(Downloader(CADirectory(Path(root) / "certificates")))
    formats = (Format.QCOW2,)
    refused = RefusedImages(Path(root) / "refused.json", formats)
    workshop = Workshop(Path(root) / "images", formats, QemuImg(), refused)
    with grpc_connection.client(endpoint) as backend:
        backend.begin()
        if int(size) and way == "alone":
            mode = TransferMode.REMOTE
            data = ImageData(url, Format.QCOW2, sha256, int(size), uri=url, mode=mode)
            backend.add(replace(appliance, data=data))
        elif int(size):
            offer = Offer(appliance, ImageSource(url, f"sha256:{sha256}", int(size)))
            with workshop.prepare(offer, opener, may_stream=True) as data:
                backend.add(replace(appliance, data=data))
        backend.end()


if __name__ == "__main__":
    main()
