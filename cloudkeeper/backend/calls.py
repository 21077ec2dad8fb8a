"""The calls of the protocol: what a frontend asks, turned into changes of the stores, and told as 1.x tells results.

A call ends with gRPC's OK and its outcome in the trailing metadata. No failure of one call reaches
another one.
"""

# ruff: noqa: N802  the names of the protocol

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterable, Iterator

import grpc
from google.protobuf.empty_pb2 import Empty

from appliance.core.run import log
from appliance.core.run.errors import ApplianceError
from cloudkeeper.backend import properties
from cloudkeeper.backend.errors import Failed, status_of
from cloudkeeper.backend.ownership import Ownership
from cloudkeeper.backend.run import Run
from cloudkeeper.backend.settings import BackendSettings
from cloudkeeper.model import ListId
from cloudkeeper.wire import communicator_1x_pb2 as pb
from cloudkeeper.wire import communicator_1x_pb2_grpc as pb_grpc
from cloudkeeper.wire import messages
from cloudkeeper.wire.status import (
    ALLOW_REMOVE,
    METADATA_UPDATE,
    VO,
    VO_CHECK,
    CallStatus,
    to_metadata,
)

logger = logging.getLogger(__name__)


class Servicer(pb_grpc.CommunicatorServicer):
    """One backend. Its calls may come from several threads."""

    def __init__(self, configuration: BackendSettings, installation: Ownership) -> None:
        self._configuration = configuration
        self._installation = installation
        self._lock = threading.Lock()
        self._run: Run | None = None
        self._look: Run | None = None
        """What a frontend that began no run was told of: it only wants to know."""
        self.stopping = threading.Event()
        """Set it to end uploads at their next block."""

    def PreAction(self, request: Empty, context: grpc.ServicerContext) -> Empty:
        """Begin a run: log in, look at all projects, mend what killed runs left."""
        with _told(context, features=(METADATA_UPDATE, VO_CHECK)), self._lock:
            if self._run:
                logger.warning("a run began that has not been ended: its frontend must have died")
                self._run.abandon("the frontend did not end its run")
            self._run = self._look = None
            self._run = Run(self._configuration, self._installation, allowance=_allowance(context))
        return request

    def PostAction(self, request: Empty, context: grpc.ServicerContext) -> Empty:
        """End a run: try again to delete what was in use, write the record."""
        with _told(context), self._lock:
            run, self._run = self._run, None
            if run:
                run.finish()
        return request

    def ImageLists(
        self, request: Empty, context: grpc.ServicerContext
    ) -> Iterator[pb.ImageListIdentifier]:
        """Tell the lists of which there are images."""
        del request
        with _told(context):
            for list_id in dict.fromkeys(
                record.key.list_id for record in self._seen(anew=True).offered()
            ):
                yield pb.ImageListIdentifier(image_list_identifier=list_id)

    def Appliances(
        self, request: pb.ImageListIdentifier, context: grpc.ServicerContext
    ) -> Iterator[pb.Appliance]:
        """Tell the appliances of a list, without their data."""
        with _told(context):
            run = self._seen()
            if vo := dict(context.invocation_metadata()).get(VO):
                run.store(str(vo))
            for record in run.offered():
                if record.key.list_id == request.image_list_identifier:
                    yield messages.to_message(properties.read(record))

    def AddAppliance(self, request: pb.Appliance, context: grpc.ServicerContext) -> Empty:
        """Offer an appliance; if it is there already, this is an update."""

        def add(run: Run) -> None:
            appliance = messages.from_message(request)
            if appliance.data is None:
                raise Failed(
                    properties.key_of(appliance), "comes without an image", status=CallStatus.ERROR
                )
            run.store(appliance.vo).offer(appliance, is_wanted=lambda: self._is_wanted(context))

        return self._change(context, add, request.title)

    def UpdateAppliance(self, request: pb.Appliance, context: grpc.ServicerContext) -> Empty:
        """Replace an appliance or, when no image comes along, only what is told of it."""

        def update(run: Run) -> None:
            appliance = messages.from_message(request)
            store = run.store(appliance.vo)
            if appliance.data is None:
                store.describe(appliance)
            else:
                store.offer(appliance, is_wanted=lambda: self._is_wanted(context))

        return self._change(context, update, request.title)

    def RemoveAppliance(self, request: pb.Appliance, context: grpc.ServicerContext) -> Empty:
        """Offer an appliance no longer."""

        def remove(run: Run) -> None:
            key = properties.key_of(messages.from_message(request))
            run.withdraw(key.list_id, key)

        return self._change(context, remove, request.title)

    def RemoveImageList(
        self, request: pb.ImageListIdentifier, context: grpc.ServicerContext
    ) -> Empty:
        """Offer nothing of a list any longer, in whatever project it is."""
        return self._change(
            context, lambda run: run.withdraw(ListId(request.image_list_identifier))
        )

    def _seen(self, *, anew: bool = False) -> Run:
        """Return the run, or a look at the cloud that changes nothing when none has begun: a dry run begins none."""
        with self._lock:
            if self._run:
                return self._run
            if anew or self._look is None:
                self._look = Run(self._configuration, self._installation, is_look=True)
            return self._look

    def _current(self) -> Run:
        with self._lock:
            if self._run is None:  # a frontend that left out PreAction
                self._run = Run(self._configuration, self._installation)
            return self._run

    def _change(
        self, context: grpc.ServicerContext, change: Callable[[Run], None], title: str = ""
    ) -> Empty:
        """Make a change; one that fails is among the failures of the run's record."""
        with _told(context):
            run = self._current()
            try:
                change(run)
            except ApplianceError as error:
                run.tally.fail(f"{error} ({title})" if title else error)
                raise
            except Exception as error:
                run.tally.fail(f"bug in cloudkeeper-os: {type(error).__name__}: {error} ({title})")
                raise
        return Empty()

    def close(self) -> None:
        """Write the record of a run that is under way when the backend stops."""
        with self._lock:
            run, self._run = self._run, None
        if run:
            run.abandon("the backend was stopped before the frontend ended its run")

    def _is_wanted(self, context: grpc.ServicerContext) -> bool:
        return context.is_active() and not self.stopping.is_set()


@contextlib.contextmanager
def _told(context: grpc.ServicerContext, *, features: Iterable[str] = ()) -> Iterator[None]:
    """Tell how the block ends. Known failures have been logged where they were noted for the run's record."""
    status, message = CallStatus.SUCCESS, ""
    try:
        yield
    except ApplianceError as error:
        status, message = status_of(error), log.redact(str(error))
    except Exception as error:  # one call's bug must not end the server or the frontend's run
        status, message = (
            CallStatus.ERROR,
            log.redact(f"bug in cloudkeeper-os: {type(error).__name__}: {error}"),
        )
        logger.exception("%s", message)
    context.set_trailing_metadata(to_metadata(status, message, features=features))


def _allowance(context: grpc.ServicerContext) -> int:
    told = dict(context.invocation_metadata()).get(ALLOW_REMOVE, "")
    return int(told) if isinstance(told, str) and told.isdecimal() else 0
