"""Readers of gRPC on both sides, with requests and answers that hold anything.

A request is cut, altered or of the other numbering; the backend refuses it in the words of the
protocol, and changes no image by it. An answer of a strange backend fails as the client documents.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from appliance.core.trust.errors import Malformed
from cloudkeeper.frontend import grpc_connection
from cloudkeeper.frontend.backend_client import BackendClient, BackendFailure
from cloudkeeper.model import Appliance, ListId
from cloudkeeper.wire import communicator_1x_pb2 as pb
from cloudkeeper.wire import second_numbering
from cloudkeeper.wire.messages import from_message, to_message
from cloudkeeper.wire.status import (
    CallStatus,
    Takeover,
    digests_of,
    features_of,
    from_metadata,
    is_final,
    wants_file,
)
from tests.e2e.images_backend import LIST, ONE, Offer, short_directory
from tests.property.examples import examples
from tests.simulators import second_frontend
from tests.simulators.raw_calls import RawCalls, message
from tests.unit import backend_site
from tests.unit.backend_site import BackendSite

SERVICE = "cloudkeeper_grpc.Communicator"
UNARY = (
    *("PreAction", "PostAction", "AddAppliance", "UpdateAppliance", "RemoveAppliance"),
    *("RemoveImageList", "UpdateApplianceMetadata"),
)
STREAMS = ("ImageLists", "Appliances")
FRAMES = Path(__file__).parents[1] / "wire/frames-1x"
SEEDS = (
    *(path.read_bytes() for path in sorted(FRAMES.glob("*.bin"))),
    second_frontend.appliance(
        {"location": "/x", "format": 2, "size": 9, "digest": "e" * 8},
        identifier=ONE,
        vo="ops",
        image_list_identifier=LIST,
        digest="d" * 8,
    ),
    second_frontend.appliance(identifier=ONE, vo="ops", image_list_identifier=LIST, digest="d"),
)
# gRPC's limit for a message, which neither side raises: README of grpc, "max receive message".
LIMIT = 4 * 2**20


def contents(seeds: Sequence[bytes] = SEEDS) -> st.SearchStrategy[bytes]:
    """Draw a message, whole or altered."""
    return st.sampled_from(seeds) | altered(seeds)


@st.composite
def altered(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """Draw a message that is cut, has other bytes or further ones; or some bytes."""
    content = bytearray(draw(st.sampled_from(seeds) | st.binary(max_size=40)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(content)))
        content[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=3))
    return bytes(content[: draw(st.integers(0, len(content)) | st.just(len(content)))])


def read(content: bytes, **options: bool) -> list[pb.Appliance]:
    """Return what the readers of 1.x and of 2.0 make of a message."""
    found = []
    for reader in (second_numbering.read_first, second_numbering.read_second):
        with contextlib.suppress(Malformed):
            found.append(reader(content, **options if "second" in reader.__name__ else {}))
    return found


@given(contents())
@example(SEEDS[-1])
@settings(max_examples=examples(50))
def test_a_message_has_one_numbering_at_most(content: bytes) -> None:
    assert len(read(content)) <= 1


@given(contents(), st.booleans())
@settings(max_examples=examples(50))
def test_an_appliance_is_read_as_it_is_sent_again(content: bytes, is_removal: bool) -> None:
    for one in read(content, is_removal=is_removal):
        with contextlib.suppress(Malformed):
            appliance = from_message(one)
            assert from_message(to_message(appliance)) == appliance


TEXTS = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12)
KEYS = st.sampled_from(["status", "Status", "message", "features", "digests", "verdict", "x"])
WORDS = st.sampled_from([*map(str, CallStatus), "success", "final", "file", "sha512:ab", ",:,"])
TRAILERS = st.lists(st.tuples(KEYS, WORDS | TEXTS | st.binary(max_size=8)), max_size=5)


@given(TRAILERS)
@settings(max_examples=examples(50))
def test_only_one_word_is_a_success(trailers: list[tuple[str, str | bytes]]) -> None:
    status, reason = from_metadata(trailers)
    assert isinstance(reason, str)
    stated = [value for key, value in trailers if key.lower() == "status"]
    assert (status == "SUCCESS") is (stated[-1:] in (["SUCCESS"], [b"SUCCESS"]))
    assert not (is_final(trailers) and wants_file(trailers))
    assert all(features_of(trailers))
    assert all(isinstance(digits, str) for digits in digests_of(trailers).values())


@dataclass
class Answer:
    """What a strange backend sends to each call."""

    items: list[bytes] = field(default_factory=list)
    trailers: list[tuple[str, str]] = field(default_factory=list)
    code: grpc.StatusCode = grpc.StatusCode.OK


@dataclass
class StrangeBackend:
    """A server that gives the same `Answer` to every call, and a client of ours."""

    answer: Answer
    client: BackendClient


@pytest.fixture(scope="module")
def strange() -> Iterator[StrangeBackend]:
    found = Answer()

    def end(context: grpc.ServicerContext) -> None:
        context.set_trailing_metadata(tuple(found.trailers))
        context.set_code(found.code)

    def unary(_: bytes, context: grpc.ServicerContext) -> bytes:
        end(context)
        return found.items[0] if found.items else b""

    def stream(_: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        end(context)
        yield from found.items

    handlers: dict[str, Any] = {name: grpc.unary_unary_rpc_method_handler(unary) for name in UNARY}
    handlers |= {name: grpc.unary_stream_rpc_method_handler(stream) for name in STREAMS}
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool, options=[("grpc.max_send_message_length", -1)])
        handler = grpc.method_handlers_generic_handler(SERVICE, handlers)
        server.add_generic_rpc_handlers((handler,))
        endpoint = f"unix://{short_directory()}/s"
        server.add_insecure_port(endpoint)
        server.start()
        with grpc_connection.client(endpoint) as client:
            yield StrangeBackend(found, client)
        server.stop(None).wait()


APPLIANCE = from_message(pb.Appliance.FromString(SEEDS[0]))
DONE = [("status", "SUCCESS")]
ITEMS = st.lists(contents(), max_size=3)
ANSWERS = st.builds(Answer, ITEMS, st.just(DONE)) | st.builds(
    Answer,
    ITEMS,
    st.lists(st.tuples(KEYS.map(str.lower), WORDS | TEXTS), max_size=4),
    st.sampled_from(list(grpc.StatusCode)),
)


def asked(client: BackendClient, method: str) -> list[Any]:
    """Make a call of the client; return what it yields."""
    match method:
        case "begin":
            client.begin(allowed=1)
        case "list_ids":
            return client.list_ids()
        case "appliances":
            return client.appliances(ListId(LIST), vo="ops")
        case _:
            getattr(client, method)(APPLIANCE)
    return []


METHODS = ("begin", "list_ids", "appliances", "add", "update", "remove", "hide")


@pytest.mark.parametrize("method", METHODS)
def test_answers_of_a_strange_backend(
    strange: StrangeBackend, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    @given(ANSWERS)
    @settings(max_examples=examples(10))
    def check(answer: Answer) -> None:
        vars(strange.answer).update(vars(answer))
        found: list[Any] = []
        with contextlib.suppress(BackendFailure):
            found = asked(strange.client, method)
            assert answer.code is grpc.StatusCode.OK
            assert from_metadata(answer.trailers)[0] == "SUCCESS"
        assert all(isinstance(each, Appliance | str) for each in found)

    check()
    assert [record for record in caplog.records if record.exc_info] == []


def test_an_appliance_that_cannot_be_read_is_a_failure_of_the_backend(
    strange: StrangeBackend,
) -> None:
    """A year beyond 9999, and a name that a message shortens."""
    one = pb.Appliance(identifier="x" * 999, expiration_date=2**62).SerializeToString()
    vars(strange.answer).update(vars(Answer([SEEDS[0], one], DONE)))
    words = r"Appliances: appliance x{70}: its expiration"
    with pytest.raises(BackendFailure, match=words):
        strange.client.appliances(ListId(LIST), vo="ops")
    with pytest.raises(BackendFailure, match=words):
        strange.client.to_hand_over(ListId(LIST), vo="ops", wanted=Takeover.IMPORT)


def test_an_answer_has_a_limit(strange: StrangeBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    large = pb.Appliance(description="x" * LIMIT).SerializeToString()
    vars(strange.answer).update(vars(Answer([large], DONE)))
    with pytest.raises(BackendFailure, match="RESOURCE_EXHAUSTED"):
        asked(strange.client, "appliances")
    monkeypatch.setattr(grpc_connection, "_MOST", 10 * grpc_connection._ITEM)
    vars(strange.answer).update(vars(Answer([b""] * 10, DONE)))
    assert len(asked(strange.client, "list_ids")) == 10
    for items in ([b""] * 11, [pb.Appliance(title="x" * 10_000).SerializeToString()]):
        vars(strange.answer).update(vars(Answer(items, DONE)))
        with pytest.raises(BackendFailure, match="Appliances: its answer is larger than 10240 b"):
            asked(strange.client, "appliances")


@dataclass
class Target:
    """A backend with one image, and that image's message in both numberings."""

    site: BackendSite
    channel: grpc.Channel
    offer: Offer
    seeds: tuple[bytes, ...]

    def call(self, method: str, content: bytes) -> tuple[grpc.StatusCode, str, str]:
        """Return gRPC's code, and the status and the message of the result."""
        plain: Any = bytes
        kind = self.channel.unary_stream if method in STREAMS else self.channel.unary_unary
        start: Any = kind(f"/{SERVICE}/{method}", plain, plain)
        call = (
            start(content, timeout=30) if method in STREAMS else start.future(content, timeout=30)
        )
        try:
            list(call) if method in STREAMS else call.result()
        except grpc.RpcError:
            return call.code(), *call.details().partition(": ")[::2]
        return call.code(), *from_metadata(call.trailing_metadata())

    def check_images(self) -> None:
        """Check that each image that is offered has the data that its message has named."""
        for name, image in self.site.glance.images.items():
            if image["status"] == "active":
                content = self.site.glance.files[name]
                assert hashlib.sha512(content).hexdigest() == self.offer.sha512
                assert all(image[f"APPLIANCE_{part}"] for part in ("VO", "ID", "IMAGE_LIST_ID"))


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with backend_site.made(tmp_path_factory.mktemp("site")) as site:
        offer = Offer.make(site.root / "images")
        image = {
            "location": str(offer.path),
            "format": second_frontend.FORMATS["QCOW2"],
            "checksum": offer.sha512,
            "size": offer.path.stat().st_size,
            "digest": "e" * 8,
        }
        key: dict[str, Any] = {
            "identifier": ONE,
            "vo": "ops",
            "image_list_identifier": LIST,
            "digest": "d" * 8,
        }
        seeds = (
            offer.message().SerializeToString(),
            second_frontend.appliance(image, **key),
            second_frontend.appliance(**key),
            pb.ImageListIdentifier(image_list_identifier=LIST).SerializeToString(),
        )
        with site.running(), grpc.insecure_channel(site.endpoint) as channel:
            yield Target(site, channel, offer, seeds)


CALLS = st.sampled_from([*UNARY, *STREAMS, "RemoveExpiredAppliances"])
REFUSALS = {grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAUTHENTICATED}


@pytest.mark.programs("qemu-img")
def test_requests_of_a_strange_frontend(target: Target, caplog: pytest.LogCaptureFixture) -> None:
    """Each has a result of the protocol, and none is a bug."""

    @given(st.lists(st.tuples(CALLS, contents(target.seeds)), min_size=1, max_size=6))
    @settings(max_examples=examples(10))
    def check(calls: list[tuple[str, bytes]]) -> None:
        for method, content in calls:
            code, status, words = target.call(method, content)
            assert code is grpc.StatusCode.OK or code in REFUSALS, words
            assert status in list(CallStatus)
            assert "bug in" not in words
        target.check_images()

    check()
    assert [record for record in caplog.records if record.exc_info] == []


@pytest.fixture
def removal(target: Target) -> Iterator[bytes]:
    """Offer the image; yield the message that removes it."""
    target.site.glance.images.clear()
    assert target.call("PreAction", b"")[1] == "SUCCESS"
    assert target.call("AddAppliance", target.seeds[0])[1] == "SUCCESS"
    yield target.offer.message(with_image=False).SerializeToString()
    assert target.call("PostAction", b"")[1] == "SUCCESS"


@pytest.mark.programs("qemu-img")
def test_a_call_that_is_not_complete_changes_nothing(target: Target, removal: bytes) -> None:
    """Cut anywhere, with another length before it, or compressed by its own word."""
    whole = message(removal)
    before = copy.deepcopy(target.site.glance.images)
    bodies = [
        *(whole[:length] for length in range(0, len(whole), 7)),
        whole[:-1],
        message(removal, length=len(removal) + 1),
        message(removal, length=LIMIT + 1),
        message(removal, length=2**32 - 1),
        message(removal, compressed=1),
        message(removal, compressed=255),
    ]
    path = target.site.endpoint.removeprefix("unix://")
    with RawCalls(path) as calls:
        for body in bodies:
            calls.wait(calls.call("RemoveAppliance", body))
            calls.call("RemoveAppliance", body, ends=False, resets=True)
    for body in bodies[::5]:
        with RawCalls(path) as calls:
            calls.call("RemoveAppliance", body, ends=False)
    assert target.call("RemoveAppliance", b"")[1] == "ERROR"
    assert target.site.glance.images == before
    with RawCalls(path) as calls:
        calls.wait(calls.call("RemoveAppliance", whole))
    assert target.site.glance.images == {}


@pytest.mark.programs("qemu-img")
def test_a_request_has_a_limit(target: Target, removal: bytes) -> None:
    before = copy.deepcopy(target.site.glance.images)
    code, *_ = target.call("RemoveAppliance", removal + bytes(LIMIT))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert target.site.glance.images == before
