"""The service in the numbering of each run's frontend: that of cloudkeeper 1.x, or that of 2.0.

Both have one name of the service, so a server cannot distinguish them. A frontend of 2.0 calls
RemoveExpiredAppliances at the beginning of each run, which 1.x does not have: from then on, until
its end, the run is one of 2.0. Each message is checked against the numbering of its run
(`cloudkeeper.wire.second_numbering`), so a wrong guess stores nothing.

2.0 reports results by gRPC's status codes. Its own codes (101 to 105) cannot be sent by this
library; UNKNOWN, with the word of 1.x before the message, stands for them.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from appliance.core.run.errors import ApplianceError
from appliance.core.trust.errors import Malformed
from cloudkeeper.backend.calls import Servicer
from cloudkeeper.backend.errors import Failed
from cloudkeeper.wire import communicator_1x_pb2 as pb
from cloudkeeper.wire import second_numbering
from cloudkeeper.wire.status import CallStatus, from_metadata

SERVICE = "cloudkeeper_grpc.Communicator"
_CODES = {
    CallStatus.AUTHENTICATION: grpc.StatusCode.UNAUTHENTICATED,
    CallStatus.USER_NOT_AUTHORIZED: grpc.StatusCode.PERMISSION_DENIED,
}


class Numbering(enum.StrEnum):
    """Which frontends are served."""

    AUTO = "auto"
    FIRST = "1"
    SECOND = "2"


class _NotedContext:
    """The context of a call, which also keeps the result that the call reports."""

    def __init__(self, context: grpc.ServicerContext) -> None:
        self._context = context
        self._metadata: tuple[tuple[str, str], ...] = ()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def set_trailing_metadata(self, metadata: tuple[tuple[str, str], ...]) -> None:
        """Send the result, as 1.x does, and keep it."""
        self._metadata = metadata
        self._context.set_trailing_metadata(metadata)

    def abort_if_failed(self) -> None:
        """End the call with a status code, as 2.0 does, unless it has succeeded."""
        status, message = from_metadata(self._metadata)
        if status != CallStatus.SUCCESS:
            code = _CODES.get(CallStatus(status), grpc.StatusCode.UNKNOWN)
            self._context.abort(code, f"{status}: {message}")


class NumberedService:
    """The methods of the protocol for frontends of both numberings, as far as they are served."""

    def __init__(self, servicer: Servicer, numbering: Numbering) -> None:
        self._servicer = servicer
        self._numbering = numbering
        self._is_run_of_2 = False

    def add_to(self, server: grpc.Server) -> None:
        """Add the service to a server."""
        own, appliance = self._servicer, self._of_appliance
        removal = self._decoded(is_removal=True)
        unary = {
            "PreAction": self._unary(self._begin, Empty.FromString),
            "PostAction": self._unary(self._end, Empty.FromString),
            "RemoveExpiredAppliances": self._unary(self._remove_expired, Empty.FromString),
            "RemoveImageList": self._unary(own.RemoveImageList, pb.ImageListIdentifier.FromString),
            "AddAppliance": self._unary(appliance(own.AddAppliance, self._decoded())),
            "UpdateAppliance": self._unary(appliance(own.UpdateAppliance, self._decoded())),
            "RemoveAppliance": self._unary(appliance(own.RemoveAppliance, removal)),
            "UpdateApplianceMetadata": self._unary(
                appliance(own.UpdateAppliance, second_numbering.read_second)
            ),
        }
        streams = {
            "ImageLists": self._stream(own.ImageLists, Empty.FromString),
            "Appliances": self._stream(own.Appliances, pb.ImageListIdentifier.FromString),
        }
        handler = grpc.method_handlers_generic_handler(SERVICE, {**unary, **streams})
        server.add_generic_rpc_handlers((handler,))

    @property
    def _is_second(self) -> bool:
        return self._numbering is Numbering.SECOND or self._is_run_of_2

    def _begin(self, request: Empty, context: grpc.ServicerContext) -> Empty:
        self._is_run_of_2 = False
        return self._servicer.PreAction(request, context)

    def _end(self, request: Empty, context: grpc.ServicerContext) -> Empty:
        self._is_run_of_2 = False  # a dry run of 1.x begins without PreAction
        return self._servicer.PostAction(request, context)

    def _remove_expired(self, request: Empty, context: grpc.ServicerContext) -> Empty:
        if self._numbering is Numbering.FIRST:
            cause = "RemoveExpiredAppliances is a call of cloudkeeper 2.0"
            return self._refuse(Malformed("frontend", cause), context)
        self._is_run_of_2 = True
        return self._servicer.RemoveExpiredAppliances(request, context)

    def _decoded(self, *, is_removal: bool = False) -> Callable[[bytes], pb.Appliance]:
        def decode(content: bytes) -> pb.Appliance:
            if self._is_second:
                return second_numbering.read_second(content, is_removal=is_removal)
            return second_numbering.read_first(content)

        return decode

    def _of_appliance(
        self,
        method: Callable[[pb.Appliance, grpc.ServicerContext], Empty],
        decode: Callable[[bytes], pb.Appliance],
    ) -> Callable[[bytes, grpc.ServicerContext], Empty]:
        def call(content: bytes, context: grpc.ServicerContext) -> Empty:
            try:
                message = decode(content)
            except Malformed as error:
                return self._refuse(error, context)
            return method(message, context)

        return call

    def _refuse(self, error: ApplianceError, context: grpc.ServicerContext) -> Empty:
        """Report a frontend that is not served, with the option that serves it."""
        remedy = (
            f"protocol = {self._numbering} in [DEFAULT] of cloudkeeper-os.conf: set auto to serve "
            "frontends of both releases"
        )
        if self._numbering is Numbering.AUTO:
            remedy = "let no two frontends use this backend at once"
        failure = Failed(error.subject, error.cause, remedy, status=CallStatus.ERROR)
        self._servicer.refuse(failure, context)
        return Empty()

    def _unary(
        self,
        method: Callable[[Any, grpc.ServicerContext], Empty],
        decode: Callable[[bytes], Any] | None = None,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        def call(request: Any, context: grpc.ServicerContext) -> Empty:
            noted: Any = _NotedContext(context)
            was_second = self._is_second  # until PostAction, and from RemoveExpiredAppliances on
            answer = method(request, noted)
            if was_second or self._is_second:
                noted.abort_if_failed()
            return answer

        return grpc.unary_unary_rpc_method_handler(
            call, request_deserializer=decode, response_serializer=Empty.SerializeToString
        )

    def _stream(
        self,
        method: Callable[[Any, grpc.ServicerContext], Iterable[Any]],
        decode: Callable[[bytes], Any],
    ) -> grpc.RpcMethodHandler[Any, Any]:
        def call(request: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
            noted: Any = _NotedContext(context)
            for message in method(request, noted):
                if self._is_second and isinstance(message, pb.Appliance):
                    yield second_numbering.write_second(message)
                else:
                    yield message.SerializeToString()
            if self._is_second:
                noted.abort_if_failed()

        return grpc.unary_stream_rpc_method_handler(call, request_deserializer=decode)
