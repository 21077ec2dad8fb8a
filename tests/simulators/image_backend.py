"""A backend of the 1.x protocol that keeps appliances in memory, and fails on request.

It checks no claim of the frontend, but reads the files: ``received`` holds the SHA-512 of what
was at each location when the call came. `misbehave` makes one method fail for one image.
"""

# ruff: noqa: N802  the names of the protocol

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import io
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import requests
from google.protobuf.empty_pb2 import Empty

from cloudkeeper.wire import communicator_1x_pb2 as pb
from cloudkeeper.wire import communicator_1x_pb2_grpc as stubs

SUCCESS = (("status", "SUCCESS"),)


@dataclass(slots=True)
class Cloud:
    """The appliances, by list and image, and the calls in their order."""

    appliances: dict[tuple[str, str], pb.Appliance] = field(default_factory=dict)
    received: dict[tuple[str, str], str] = field(default_factory=dict)
    formats: dict[tuple[str, str], str] = field(default_factory=dict)
    """The format of each image, which Appliances sends to a frontend of ours."""
    calls: list[str] = field(default_factory=list)
    faults: dict[tuple[str, str], str] = field(default_factory=dict)
    metadata: list[tuple[str, str]] = field(default_factory=list)
    features: str = "metadata-update,vo-check,properties,hide,parallel"
    final: set[str] = field(default_factory=set)
    """Images whose faults carry our verdict that the same image would be refused again."""
    unmapped: set[str] = field(default_factory=set)
    """VOs that have no project."""
    endpoint: str = ""
    port: int = 0
    """Of TCP; 0 for a unix socket."""

    def misbehave(self, method: str, image: str = "", *, how: str) -> None:
        """Let ``method`` fail with a status of 1.x, or by "exception" or "silence" (no status).

        By "hang" it lasts until the client cancels the call.
        """
        self.faults[method, image] = how


class _Backend(stubs.CommunicatorServicer):
    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud

    def _note(self, method: str, image: str, context: grpc.ServicerContext) -> bool:
        self.cloud.calls.append(f"{method} {image}".strip())
        how = self.cloud.faults.get((method, image)) or self.cloud.faults.get((method, ""))
        if how == "exception":
            raise RuntimeError("unexpected")
        while how == "hang" and context.is_active():
            time.sleep(0.02)
        if how is None:
            context.set_trailing_metadata(SUCCESS)
        elif how != "silence":
            verdict = (("verdict", "final"),) if image in self.cloud.final else ()
            context.set_trailing_metadata(
                (("status", how), ("message", f"{method} is made to fail"), *verdict)
            )
        return how is None

    def PreAction(self, request: Empty, context: grpc.ServicerContext) -> Empty:
        self.cloud.metadata = [(key, str(value)) for key, value in context.invocation_metadata()]
        if self._note("PreAction", "", context):
            context.set_trailing_metadata((*SUCCESS, ("features", self.cloud.features)))
        return request

    def PostAction(self, request: Empty, context: grpc.ServicerContext) -> Empty:
        self._note("PostAction", "", context)
        return request

    def ImageLists(
        self,
        request: Empty,  # noqa: ARG002
        context: grpc.ServicerContext,
    ) -> Iterator[pb.ImageListIdentifier]:
        for name in dict.fromkeys(list_id for list_id, _ in self.cloud.appliances):
            yield pb.ImageListIdentifier(image_list_identifier=name)
        self._note("ImageLists", "", context)

    def Appliances(
        self, request: pb.ImageListIdentifier, context: grpc.ServicerContext
    ) -> Iterator[pb.Appliance]:
        for (list_id, _), appliance in list(self.cloud.appliances.items()):
            if list_id == request.image_list_identifier:
                sent = pb.Appliance()
                sent.CopyFrom(appliance)
                if "vo" in dict(context.invocation_metadata()):
                    sent.attributes["disk_format"] = self.cloud.formats[list_id, sent.identifier]
                yield sent
        if self._note("Appliances", request.image_list_identifier, context):
            vo = str(dict(context.invocation_metadata()).get("vo", ""))
            if vo in self.cloud.unmapped:
                context.set_trailing_metadata(
                    (("status", "ERROR"), ("message", f"VO {vo}: is mapped to no project"))
                )

    def AddAppliance(self, request: pb.Appliance, context: grpc.ServicerContext) -> Empty:
        self._store("AddAppliance", request, context)
        return Empty()

    def UpdateAppliance(self, request: pb.Appliance, context: grpc.ServicerContext) -> Empty:
        if "hide" in dict(context.invocation_metadata()):
            if self._note("HideAppliance", request.identifier, context):
                key = (request.image_list_identifier, request.identifier)
                self.cloud.appliances[key].attributes["hidden"] = "yes"
            return Empty()
        self._store("UpdateAppliance", request, context)
        return Empty()

    def RemoveAppliance(self, request: pb.Appliance, context: grpc.ServicerContext) -> Empty:
        if self._note("RemoveAppliance", request.identifier, context):
            self.cloud.appliances.pop((request.image_list_identifier, request.identifier))
        return Empty()

    def _store(self, method: str, request: pb.Appliance, context: grpc.ServicerContext) -> None:
        if not self._note(method, request.identifier, context):
            return
        key = (request.image_list_identifier, request.identifier)
        if request.HasField("image"):
            self.cloud.formats[key] = pb.Image.Format.Name(request.image.format).lower()
            self.cloud.received[key] = hashlib.sha512(_content(request.image)).hexdigest()
        kept = pb.Appliance()
        kept.CopyFrom(request)
        kept.ClearField("image")
        self.cloud.appliances[key] = kept


def _content(found: pb.Image) -> bytes:
    """Return the data of an image; over HTTP as 0.9.9 fetches them."""
    if found.mode == pb.Image.LOCAL:
        return Path(found.location).read_bytes()
    account = requests.auth.HTTPBasicAuth(found.username, found.password)
    response = requests.get(found.location, auth=account, stream=True, timeout=60)
    if response.status_code != requests.codes.ok:
        return b""
    file = io.BytesIO()
    shutil.copyfileobj(response.raw, file)
    return file.getvalue()


@contextlib.contextmanager
def serve(
    *, credentials: grpc.ServerCredentials | None = None, tcp: bool = False
) -> Iterator[Cloud]:
    """Serve during the block: on a unix socket, or on a free port of loopback."""
    cloud = Cloud()
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
    stubs.add_CommunicatorServicer_to_server(  # type: ignore[no-untyped-call]
        _Backend(cloud), server
    )
    with tempfile.TemporaryDirectory(prefix="c") as short:
        if credentials or tcp:
            place = "127.0.0.1:0"
            secure = server.add_secure_port
            cloud.port = (
                secure(place, credentials) if credentials else server.add_insecure_port(place)
            )
            cloud.endpoint = f"127.0.0.1:{cloud.port}"
        else:
            cloud.endpoint = f"unix://{short}/s"
            server.add_insecure_port(cloud.endpoint)
        server.start()
        try:
            yield cloud
        finally:
            server.stop(None).wait()
