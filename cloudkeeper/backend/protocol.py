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
from google.protobuf.message import DecodeError, Message

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


def _decoder(kind: type[Message]) -> Callable[[bytes], Message]:
    """Return a reader of requests that raises `Malformed`: gRPC's would log a traceback."""

    def decode(content: bytes) -> Message:
        try:
            return kind.FromString(content)
        except DecodeError:
            raise Malformed("frontend", "a request is not in the format of cloudkeeper") from None

    return decode


# The requests that both numberings have.
_EMPTY, _LIST = _decoder(Empty), _decoder(pb.ImageListIdentifier)


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
        own, appliance = self._servicer, self._decoded()
        unary = {
            "PreAction": self._unary(self._begin, _EMPTY),
            "PostAction": self._unary(self._end, _EMPTY),
            "RemoveExpiredAppliances": self._unary(self._remove_expired, _EMPTY),
            "RemoveImageList": self._unary(own.RemoveImageList, _LIST),
            "AddAppliance": self._unary(own.AddAppliance, appliance),
            "UpdateAppliance": self._unary(own.UpdateAppliance, appliance),
            "RemoveAppliance": self._unary(own.RemoveAppliance, self._decoded(is_removal=True)),
            "UpdateApplianceMetadata": self._unary(
                own.UpdateAppliance, second_numbering.read_second
            ),
        }
        streams = {
            "ImageLists": self._stream(own.ImageLists, _EMPTY),
            "Appliances": self._stream(own.Appliances, _LIST),
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
        decode: Callable[[bytes], Any],
    ) -> grpc.RpcMethodHandler[Any, Any]:
        def call(content: bytes, context: grpc.ServicerContext) -> Empty:
            noted: Any = _NotedContext(context)
            was_second = self._is_second  # until PostAction, and from RemoveExpiredAppliances on
            try:
                request = decode(content)
            except Malformed as error:
                answer = self._refuse(error, noted)
            else:
                answer = method(request, noted)
            if was_second or self._is_second:
                noted.abort_if_failed()
            return answer

        return grpc.unary_unary_rpc_method_handler(
            call, response_serializer=Empty.SerializeToString
        )

    def _stream(
        self,
        method: Callable[[Any, grpc.ServicerContext], Iterable[Any]],
        decode: Callable[[bytes], Any],
    ) -> grpc.RpcMethodHandler[Any, Any]:
        def answers(content: bytes, context: grpc.ServicerContext) -> Iterable[Any]:
            try:
                request = decode(content)
            except Malformed as error:
                self._refuse(error, context)
                return ()
            return method(request, context)

        def call(content: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
            noted: Any = _NotedContext(context)
            for message in answers(content, noted):
                if self._is_second and isinstance(message, pb.Appliance):
                    yield second_numbering.write_second(message)
                else:
                    yield message.SerializeToString()
            if self._is_second:
                noted.abort_if_failed()

        return grpc.unary_stream_rpc_method_handler(call)
