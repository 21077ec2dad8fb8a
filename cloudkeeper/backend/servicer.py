"""The calls of the protocol: what a frontend asks, turned into changes of the stores, and told as 1.x tells results.

A call ends with gRPC's OK and its outcome in the trailing metadata. No failure of one call reaches another one.
"""

# ruff: noqa: N802  the names of the protocol

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterable, Iterator

import grpc
from google.protobuf.empty_pb2 import Empty

from appliance.core.run import log
from appliance.core.run.errors import ApplianceError
from cloudkeeper.backend import properties
from cloudkeeper.backend.errors import Failed, status_of
from cloudkeeper.backend.installation import Installation
from cloudkeeper.backend.run import Run
from cloudkeeper.backend.settings import Configuration
from cloudkeeper.model import ListId
from cloudkeeper.wire import communicator_1x_pb2 as pb
from cloudkeeper.wire import communicator_1x_pb2_grpc as pb_grpc
from cloudkeeper.wire import messages
from cloudkeeper.wire.status import METADATA_UPDATE, Status, to_metadata

logger = logging.getLogger(__name__)

ALLOW_REMOVE = "allow-remove"
"""Metadata of PreAction, ours: how many images of a list the administrator lets this run remove."""


class Servicer(pb_grpc.CommunicatorServicer):
    """One backend. Its calls may come from several threads."""

    def __init__(self, configuration: Configuration, installation: Installation) -> None:
        self._configuration = configuration
        self._installation = installation
        self._lock = threading.Lock()
        self._run: Run | None = None
        self.stopping = threading.Event()
        """Set it to end uploads at their next block."""

    def PreAction(self, request: Empty, context: grpc.ServicerContext) -> Empty:
        """Begin a run: log in, look at all projects, mend what killed runs left."""
        with _told(context, features=(METADATA_UPDATE,)), self._lock:
            if self._run:
                logger.warning("a run began that has not been ended: its frontend must have died")
            self._run = None
            self._run = Run(self._configuration, self._installation, allowance=_allowance(context))
        return request

    def PostAction(self, request: Empty, context: grpc.ServicerContext) -> Empty:
        """End a run: try again to delete what was in use, write the record."""
        with _told(context), self._lock:
            run, self._run = self._run, None
            if run:
                run.finish()
        return request

    def ImageLists(self, request: Empty, context: grpc.ServicerContext) -> Iterator[pb.ImageListIdentifier]:
        """Tell the lists of which there are images."""
        del request
        with _told(context):
            records = [record for store in self._current().stores() for record in store.offered()]
            for list_id in dict.fromkeys(record.key.list_id for record in records):
                yield pb.ImageListIdentifier(image_list_identifier=list_id)

    def Appliances(self, request: pb.ImageListIdentifier, context: grpc.ServicerContext) -> Iterator[pb.Appliance]:
        """Tell the appliances of a list, without their data."""
        with _told(context):
            for store in self._current().stores():
                for record in store.offered():
                    if record.key.list_id == request.image_list_identifier:
                        yield messages.to_message(properties.read(record))

    def AddAppliance(self, request: pb.Appliance, context: grpc.ServicerContext) -> Empty:
        """Offer an appliance; if it is there already, this is an update."""
        with self._changing(context, request) as run:
            appliance = messages.from_message(request)
            if appliance.data is None:
                raise Failed(properties.key_of(appliance), "comes without an image", status=Status.ERROR)
            run.store(appliance.vo).offer(appliance, is_wanted=lambda: self._is_wanted(context))
        return Empty()

    def UpdateAppliance(self, request: pb.Appliance, context: grpc.ServicerContext) -> Empty:
        """Replace an appliance or, when no image comes along, only what is told of it."""
        with self._changing(context, request) as run:
            appliance = messages.from_message(request)
            store = run.store(appliance.vo)
            if appliance.data is None:
                store.describe(appliance)
            else:
                store.offer(appliance, is_wanted=lambda: self._is_wanted(context))
        return Empty()

    def RemoveAppliance(self, request: pb.Appliance, context: grpc.ServicerContext) -> Empty:
        """Offer an appliance no longer."""
        with self._changing(context, request) as run:
            key = properties.key_of(messages.from_message(request))
            store = run.store(key.vo)
            if key in store.keys(key.list_id):
                run.tally.allow_removal(key.list_id, 1)
                store.withdraw(key)
        return Empty()

    def RemoveImageList(self, request: pb.ImageListIdentifier, context: grpc.ServicerContext) -> Empty:
        """Offer nothing of a list any longer, in whatever project it is."""
        with self._changing(context, request) as run:
            list_id = ListId(request.image_list_identifier)
            found = run.keys(list_id)
            run.tally.allow_removal(list_id, len(found))
            for store, key in found:
                store.withdraw(key)
        return Empty()

    def _current(self) -> Run:
        with self._lock:
            if self._run is None:  # a frontend that left out PreAction
                self._run = Run(self._configuration, self._installation)
            return self._run

    @contextlib.contextmanager
    def _changing(self, context: grpc.ServicerContext, request: pb.Appliance | pb.ImageListIdentifier) -> Iterator[Run]:
        """Give the run for a change; a change that fails is among the failures of its record."""
        with _told(context):
            run = self._current()
            try:
                yield run
            except ApplianceError as error:
                title = f" ({request.title})" if isinstance(request, pb.Appliance) and request.title else ""
                run.tally.fail(f"{error}{title}")
                raise

    def _is_wanted(self, context: grpc.ServicerContext) -> bool:
        return context.is_active() and not self.stopping.is_set()


@contextlib.contextmanager
def _told(context: grpc.ServicerContext, *, features: Iterable[str] = ()) -> Iterator[None]:
    """Tell how the block ends. Known failures have been logged where they were noted for the run's record."""
    status, message = Status.SUCCESS, ""
    try:
        yield
    except ApplianceError as error:
        status, message = status_of(error), log.redact(str(error))
    except Exception as error:  # one call's bug must not end the server or the frontend's run
        status, message = Status.ERROR, log.redact(f"bug in cloudkeeper-os: {type(error).__name__}: {error}")
        logger.exception("%s", message)
    context.set_trailing_metadata(to_metadata(status, message, features=features))


def _allowance(context: grpc.ServicerContext) -> int:
    told = dict(context.invocation_metadata()).get(ALLOW_REMOVE, "")
    return int(told) if isinstance(told, str) and told.isdecimal() else 0
