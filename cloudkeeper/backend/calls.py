"""The calls of the protocol: each turns a request of the frontend into changes of the images.

A call ends with gRPC's OK; its result is in the trailing metadata (`cloudkeeper.wire.status`). The
failure of one call affects no other call.

The frontend is another program, perhaps on another host and perhaps not ours. The backend checks
all that it can check itself:

- data: only files and sockets below the image directory and configured hosts, with the size and
  checksum that the call states (`upload`)
- VOs: only those of the backend's own mapping (`run`)
- images: only those that this project owns and that carry our properties (`properties`)
- removals: no more than its configuration allows, within a day (`removals`)
- texts: stored as they are, within the sizes of Glance
"""

# ruff: noqa: N802  the names of the protocol

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from google.protobuf.empty_pb2 import Empty

from appliance.core import clock
from appliance.core.run import log
from appliance.core.run.errors import ApplianceError
from cloudkeeper.backend import properties, takeover
from cloudkeeper.backend.errors import Failed, status_of
from cloudkeeper.backend.ownership import Ownership
from cloudkeeper.backend.removals import RemovalMemory, RemovalPolicy, RunRemovals
from cloudkeeper.backend.run import Run
from cloudkeeper.backend.settings import BackendSettings
from cloudkeeper.model import UNMARKED_KEY, Appliance, ApplianceId, ListId
from cloudkeeper.wire import communicator_1x_pb2 as pb
from cloudkeeper.wire import messages
from cloudkeeper.wire.status import (
    ALLOW_REMOVE,
    CONVERTED,
    HIDE,
    HIDING,
    IMAGE_STREAM,
    METADATA_UPDATE,
    OWN_DIGEST,
    PARALLEL,
    PARTIAL,
    PROPERTIES,
    PROVENANCE,
    ROOM,
    SHARE,
    TAKE_OVER,
    UNKNOWN,
    VO,
    VO_CHECK,
    CallStatus,
    Takeover,
    to_metadata,
)

if TYPE_CHECKING:  # direct mode does not load it
    import grpc

logger = logging.getLogger(__name__)

DIRECT_PEER = "direct:"
"""The peer of a call that a frontend in this process makes."""
# Peers on this host, whose removals an administrator of it has confirmed.
_LOCAL = ("unix:", DIRECT_PEER)
# Of a number of images or bytes; Python refuses to read very many.
_DIGITS = 18

_FEATURES = (
    *(METADATA_UPDATE, VO_CHECK, PROPERTIES, PROVENANCE, HIDING, TAKE_OVER),
    *(IMAGE_STREAM, PARALLEL, OWN_DIGEST, UNKNOWN, ROOM),
)


class Servicer:
    """The protocol's methods for one backend; calls may come from several threads.

    They come over gRPC (`cloudkeeper.backend.protocol`), or from a frontend in this process, which
    does without gRPC.

    Raises:
        LocalFailure: the state directory cannot be read.

    """

    def __init__(self, settings: BackendSettings, ownership: Ownership) -> None:
        self._settings = settings
        self._features = (*_FEATURES, *([SHARE] if settings.sharing == "share" else []))
        self._ownership = ownership
        self._memory = RemovalMemory(settings.state / "removals.json")
        self._lock = threading.Lock()
        self._run: Run | None = None
        self._view: Run | None = None
        """A read-only run, for a frontend that asks without PreAction: a dry run."""
        self.stopping = threading.Event()
        """Set it to end uploads at their next block."""

    def PreAction(self, request: Empty, context: grpc.ServicerContext) -> Empty:
        """Begin a run: log in, list the images of all projects, repair those of killed runs."""
        with _reported(context, features=self._features), self._lock:
            if self._run:
                logger.warning("a run begins before the last one has ended: its frontend died")
                self._run.abandon("the frontend did not end its run")
            self._run = self._view = None
            self._run = self._begin(context)
        return request

    def PostAction(self, request: Empty, context: grpc.ServicerContext) -> Empty:
        """End a run: retry the deletion of images that were in use, write the record."""
        with _reported(context), self._lock:
            run, self._run = self._run, None
            if run:
                run.finish()
        return request

    def ImageLists(
        self, request: Empty, context: grpc.ServicerContext
    ) -> Iterator[pb.ImageListIdentifier]:
        """Yield the identifiers of the lists that have images in the cloud."""
        del request
        with _reported(context, features=self._features):
            run = self._current_or_view(context, refresh=True)
            # A dict removes duplicates and keeps the order, which a set does not.
            for list_id in dict.fromkeys(record.key.list_id for record in run.offered()):
                yield pb.ImageListIdentifier(image_list_identifier=list_id)

    def Appliances(
        self, request: pb.ImageListIdentifier, context: grpc.ServicerContext
    ) -> Iterator[pb.Appliance]:
        """Yield the appliances of a list, without their data."""
        with _reported(context):
            run = self._current_or_view(context)
            if _metadata(context, UNKNOWN):
                yield from map(messages.to_message, run.unknown())
                return
            list_id = ListId(request.image_list_identifier)
            vo, is_ours = _metadata(context, VO), VO in dict(context.invocation_metadata())
            if _metadata(context, TAKE_OVER):
                wanted = _takeover(context)
                for each in takeover.candidates(run, list_id, vo=vo, wanted=wanted):
                    yield messages.to_message(each)
                return
            images = run.images(vo) if vo else None  # raises for a VO without a project
            known: set[ApplianceId] = set()
            for record in run.offered(list_id):
                known.add(record.key.identifier)
                found = properties.read_for_frontend(record) if is_ours else record.appliance
                if run.is_read_only and not record.backend_id:
                    found = _unmarked(found)
                yield messages.to_message(found)
            for held in run.held(images, list_id, vo=vo, known=known) if images else ():
                yield messages.to_message(held.as_appliance(list_id, vo=vo))

    def AddAppliance(self, request: pb.Appliance, context: grpc.ServicerContext) -> Empty:
        """Add an appliance; one that is there already is updated."""
        return self._store(request, context, needs_image=True)

    def UpdateAppliance(self, request: pb.Appliance, context: grpc.ServicerContext) -> Empty:
        """Replace the data and metadata of an appliance; without an image, only the metadata.

        With `HIDE` in the call's metadata, hide it instead; with `TAKE_OVER`, take it over from
        another manager, or give it back.
        """
        if HIDE in dict(context.invocation_metadata()):
            return self._withdraw(request, context, hides=True)
        if _metadata(context, TAKE_OVER):
            return self._hand_over(request, context)
        return self._store(request, context, needs_image=False)

    def _hand_over(self, request: pb.Appliance, context: grpc.ServicerContext) -> Empty:
        def hand_over(run: Run) -> None:
            key = properties.key_of(messages.from_message(request))
            takeover.change(run, key, _takeover(context))

        return self._change(context, hand_over, request.title)

    def _store(
        self, request: pb.Appliance, context: grpc.ServicerContext, *, needs_image: bool
    ) -> Empty:
        def is_wanted() -> bool:
            return context.is_active() and not self.stopping.is_set()

        def store(run: Run) -> Mapping[str, str]:
            appliance = messages.from_message(request)
            if size := _number(context, ROOM):
                run.shares.check_room(run.images(appliance.vo), appliance, size=size)
                return {}
            if formats := _metadata(context, SHARE):
                images, words = run.images(appliance.vo), frozenset(formats.split(","))
                return run.shares.adopt(images, appliance, formats=words, is_wanted=is_wanted)
            if appliance.data:
                is_converted = CONVERTED in dict(context.invocation_metadata())
                data = replace(appliance.data, is_converted=is_converted)
                images = run.images(appliance.vo)
                offered = replace(appliance, data=data)
                return run.shares.offer(images, offered, is_wanted=is_wanted)
            if needs_image:
                key = properties.key_of(appliance)
                raise Failed(key, "has no image", status=CallStatus.ERROR)
            run.shares.describe(run.images(appliance.vo), appliance)
            return {}

        return self._change(context, store, request.title)

    def RemoveAppliance(self, request: pb.Appliance, context: grpc.ServicerContext) -> Empty:
        """Remove an appliance; with `UNKNOWN` in the call's metadata, an incomplete record."""
        if _metadata(context, UNKNOWN):
            return self._change(context, lambda run: run.collect_unknown(request.identifier))
        return self._withdraw(request, context, hides=False)

    def _withdraw(
        self, request: pb.Appliance, context: grpc.ServicerContext, *, hides: bool
    ) -> Empty:
        def withdraw(run: Run) -> None:
            key = properties.key_of(messages.from_message(request))
            run.withdraw(key.list_id, key, hides=hides)

        return self._change(context, withdraw, request.title)

    def RemoveImageList(
        self, request: pb.ImageListIdentifier, context: grpc.ServicerContext
    ) -> Empty:
        """Remove all appliances of a list, in every project."""
        return self._change(
            context, lambda run: run.withdraw(ListId(request.image_list_identifier))
        )

    def _begin(self, context: grpc.ServicerContext, *, is_read_only: bool = False) -> Run:
        """Begin a run, whose removals are limited by the configuration and the way of the call."""
        is_local = context.peer().startswith(_LOCAL)
        usual = RemovalPolicy.CONFIRMED if is_local else RemovalPolicy.LIMITED
        policy = RemovalPolicy(self._settings.removals or usual)
        allowance = _number(context, ALLOW_REMOVE)
        removals = RunRemovals(self._memory, policy=policy, allowance=allowance)
        run = Run(self._settings, self._ownership, removals, is_read_only=is_read_only)
        run.is_partial = bool(_metadata(context, PARTIAL))
        return run

    def RemoveExpiredAppliances(self, request: Empty, context: grpc.ServicerContext) -> Empty:
        """Remove the appliances whose date has passed; only cloudkeeper 2.0 calls this."""
        del request
        return self._change(context, lambda run: run.withdraw_expired(at=clock.now()))

    def refuse(self, failure: ApplianceError, context: grpc.ServicerContext) -> None:
        """Report a call of a frontend that is not served."""

        def fail(_: Run) -> None:
            raise failure

        self._change(context, fail)

    def _current_or_view(self, context: grpc.ServicerContext, *, refresh: bool = False) -> Run:
        """Return the current run or, if the frontend began none, a read-only one.

        ``refresh`` reads the cloud again: ImageLists is the first call of a dry run.
        """
        with self._lock:
            if self._run:
                return self._run
            if refresh or self._view is None:
                self._view = self._begin(context, is_read_only=True)
            return self._view

    def _current(self, context: grpc.ServicerContext) -> Run:
        with self._lock:
            if self._run is None:  # the frontend left out PreAction
                self._run = self._begin(context)
            return self._run

    def _change(
        self,
        context: grpc.ServicerContext,
        change: Callable[[Run], Mapping[str, str] | None],
        title: str = "",
    ) -> Empty:
        """Make a change, which may return digests; the run's record lists it if it fails."""
        with _reported(context) as digests:
            run = self._current(context)
            try:
                digests.update(change(run) or {})
            except ApplianceError as error:
                line = f"{error} ({title})" if title else str(error)
                if isinstance(error, Failed) and error.wants_file:
                    logger.warning("%s; the frontend sends a file next", line)
                else:
                    run.tally.fail(line)
                raise
            except Exception as error:
                run.tally.fail(f"bug in cloudkeeper-os: {type(error).__name__}: {error} ({title})")
                raise
        return Empty()

    def close(self) -> None:
        """Write the record of a run that has not ended when the backend stops."""
        with self._lock:
            run, self._run = self._run, None
        if run:
            run.abandon("the backend was stopped before the frontend ended its run")


def _unmarked(appliance: Appliance) -> Appliance:
    """Return an appliance that says who made its image: the next run would adopt it."""
    attributes = {**appliance.attributes, UNMARKED_KEY: "cloudkeeper-os 0.9"}
    return replace(appliance, attributes=attributes)


@contextlib.contextmanager
def _reported(
    context: grpc.ServicerContext, *, features: Iterable[str] = ()
) -> Iterator[dict[str, str]]:
    """Report the result of the block to the frontend; yield the digests to report with it.

    Failures of a known kind are not logged here: whatever put them into the run's record has.
    """
    status, message, is_final, wants_file = CallStatus.SUCCESS, "", False, False
    digests: dict[str, str] = {}
    try:
        yield digests
    except ApplianceError as error:
        status, message = status_of(error), log.redact(str(error))
        if isinstance(error, Failed):
            is_final, wants_file = error.is_final, error.wants_file
            digests.update(error.digests)
    except Exception as error:  # a bug in one call must not end the server or the run
        status = CallStatus.ERROR
        message = log.redact(f"bug in cloudkeeper-os: {type(error).__name__}: {error}")
        logger.exception("%s", message)
    context.set_trailing_metadata(
        to_metadata(
            status,
            message,
            features=features,
            digests=digests,
            is_final=is_final,
            wants_file=wants_file,
        )
    )


def _number(context: grpc.ServicerContext, key: str) -> int:
    text = _metadata(context, key)
    return int(text) if text.isdecimal() and len(text) <= _DIGITS else 0


def _takeover(context: grpc.ServicerContext) -> Takeover:
    word = _metadata(context, TAKE_OVER)
    try:
        return Takeover(word)
    except ValueError:
        raise Failed(TAKE_OVER, f"{word!r} is unknown", status=CallStatus.ERROR) from None


def _metadata(context: grpc.ServicerContext, key: str) -> str:
    """Return a text of the call's metadata; empty if the frontend sent none."""
    return str(dict(context.invocation_metadata()).get(key) or "")
