"""The client of AMS, against one over TLS: every kind of answer."""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from datetime import timedelta

import pytest

from appliance.core.run.errors import AccessDenied, Unavailable
from ssm.transport import ams_client, request
from tests.simulators.ams_service import AMS, Fault, Kind
from tests.testbed.trust import Trust

PAGE = b"<html><head><title>502 Bad\nGateway</title></head><body>nginx</body></html>"
MESSAGE = ams_client.Message(b"\x00 any bytes", {"empaid": "6b029cc8/6b029cd9717820"})


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    return Trust(tmp_path_factory.mktemp("trust"))


@pytest.fixture
def service(trust: Trust) -> Iterator[AMS]:
    with AMS(trust.host("broker"), trust.grid.certificate) as made:
        made.create("topic", "subscription")
        yield made


def tls(trust: Trust, credential: str = "client") -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(trust.grid.certificate))
    context.load_cert_chain(trust.host(credential).certificate, trust.host(credential).key)
    return context


def client_of(
    service: AMS, trust: Trust, *, token: str = "", project: str = "accounting"
) -> ams_client.AMSClient:
    address = ams_client.AMSService("localhost", project, service.port, service.authn_port)
    return ams_client.AMSClient(address, tls=tls(trust), token=token)


def publish_one(client: ams_client.AMSClient) -> list[str]:
    client.open()
    return client.publish("topic", [MESSAGE])


def test_published_messages_are_pulled_until_acknowledged(service: AMS, trust: Trust) -> None:
    client = client_of(service, trust)
    client.open()
    messages = [
        ams_client.Message(bytes([number]) * 1000, {"empaid": str(number)}) for number in range(5)
    ]
    assert client.publish("topic", messages) == ["0", "1", "2", "3", "4"]
    for _ in range(2):
        pulled = client.pull("subscription", most=3)
        assert [(message.data, message.attributes) for message in pulled] == [
            (message.data, message.attributes) for message in messages[:3]
        ]
    client.acknowledge("subscription", [pulled[0].ack_id, pulled[1].ack_id])
    assert [message.message_id for message in client.pull("subscription", most=9)] == [
        "2",
        "3",
        "4",
    ]
    assert (len(service.asked("token")), service.connections) == (1, 2)
    client.close()


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (
            Fault(Kind.STATUS, status=400, body=b""),
            ams_client.RequestRefused,
            "refuses the request (400: Bad Request)",
        ),
        (
            Fault(Kind.STATUS, status=403),
            ams_client.TopicDenied,
            "access is refused (403: broken on demand)",
        ),
        (
            Fault(Kind.STATUS, status=404),
            ams_client.NoSuchTopic,
            "does not exist (404: broken on demand)",
        ),
        (
            Fault(Kind.STATUS, status=413, body=PAGE),
            ams_client.TooLarge,
            "too large (413: 502 Bad Gateway)",
        ),
        (
            Fault(Kind.STATUS, status=418, body=b"\x1b[31m" + b"x" * 999),
            ams_client.RequestRefused,
            f"[31m{'x' * 196}…)",
        ),
        *(
            (
                Fault(Kind.STATUS, status=status),
                request.Interrupted,
                f"is out of order ({status}: broken on demand)",
            )
            for status in (408, 429, 500, 502, 503, 504)
        ),
        (Fault(Kind.ANSWER, body=PAGE), Unavailable, "does not answer as an AMS: 502 Bad Gateway"),
        (
            Fault(Kind.ANSWER, body=b'{"messageIds": []}'),
            Unavailable,
            "confirms 0 of 1 published messages",
        ),
        (
            Fault(Kind.ANSWER, body=b'{"messageIds": ["1", "2"]}'),
            Unavailable,
            "confirms 2 of 1 published messages",
        ),
        (Fault(Kind.ANSWER, body=b""), Unavailable, "confirms none of 1 published messages"),
        (Fault(Kind.ANSWER, body=b"[" * 50_000), Unavailable, "does not answer as an AMS"),
        (Fault(Kind.ANSWER, body=b"[]"), Unavailable, "no JSON object"),
        (
            Fault(Kind.ANSWER, body=b" " * 100_000),
            Unavailable,
            "answers with more than 65536 bytes",
        ),
        (Fault(Kind.REDIRECT), Unavailable, "redirects (302): https://elsewhere.example.org"),
        (Fault(Kind.HALF), request.Interrupted, "breaks off in the middle of an answer"),
        (
            Fault(Kind.HALF_UNANNOUNCED),
            request.Interrupted,
            "breaks off in the middle of an answer",
        ),
        (Fault(Kind.NO_HTTP), request.Interrupted, "does not answer in HTTP"),
        (
            Fault(Kind.CLOSE_BEFORE, times=2),
            request.Interrupted,
            "closes the connection without an answer",
        ),
        (
            Fault(Kind.CLOSE_AFTER, times=2),
            request.Interrupted,
            "closes the connection without an answer",
        ),
        (
            Fault(Kind.STATUS, on="token", status=503),
            request.Interrupted,
            "is out of order (503: broken on demand)",
        ),
        (
            Fault(Kind.STATUS, on="token", status=404),
            AccessDenied,
            "gives no token for this host's certificate (404",
        ),
        (
            Fault(Kind.STATUS, on="token", status=401),
            AccessDenied,
            "gives no token for this host's certificate (401",
        ),
        (
            Fault(Kind.ANSWER, on="token", body=PAGE),
            Unavailable,
            "does not answer as an AMS: 502 Bad Gateway",
        ),
        (Fault(Kind.ANSWER, on="token", body=b"{}"), Unavailable, "answers without a token"),
        (
            Fault(Kind.ANSWER, on="token", body=b'{"token": "a\\nb"}'),
            Unavailable,
            "answers without a token",
        ),
        (
            Fault(Kind.REDIRECT, on="token"),
            Unavailable,
            "redirects (302): https://elsewhere.example.org",
        ),
    ],
)
def test_answers(
    service: AMS, trust: Trust, fault: Fault, kind: type[Unavailable], words: str
) -> None:
    service.faults = [fault]
    with (
        contextlib.closing(client_of(service, trust)) as client,
        pytest.raises(Unavailable) as caught,
    ):
        publish_one(client)
    assert type(caught.value) is kind
    assert words in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert str(caught.value).startswith("localhost:")
    assert str(service.authn_port if fault.on == "token" else service.port) in str(caught.value)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"receivedMessages": null}', []),
        (b"{}", []),
        (
            (
                b'{"receivedMessages": [{"ackId": "a:1",'
                b' "message": {"data": "no base64!", "messageId": 7}}]}'
            ),
            [ams_client.Pulled("a:1", "7", {}, b"no base64!")],
        ),
        (
            (
                b'{"receivedMessages": [{"ackId": "a:1",'
                b' "message": {"attributes": {"empaid": 3}, "data": null}}]}'
            ),
            [ams_client.Pulled("a:1", "", {"empaid": "3"}, b"")],
        ),
    ],
)
def test_odd_pulled_messages_block_nothing(
    service: AMS, trust: Trust, body: bytes, expected: list[ams_client.Pulled]
) -> None:
    service.faults = [Fault(Kind.ANSWER, on="pull", body=body)]
    client = client_of(service, trust)
    client.open()
    assert client.pull("subscription", most=1) == expected
    client.close()


@pytest.mark.parametrize("body", [b'{"receivedMessages": [1]}', b'{"receivedMessages": {"a": 1}}'])
def test_a_pull_without_messages_in_it_is_refused(service: AMS, trust: Trust, body: bytes) -> None:
    service.faults = [Fault(Kind.ANSWER, on="pull", body=body)]
    client = client_of(service, trust)
    client.open()
    with pytest.raises(Unavailable, match="something other than a list of messages"):
        client.pull("subscription", most=1)
    client.close()


@pytest.mark.timed
@pytest.mark.parametrize("kind", [Kind.HANG, Kind.TRICKLE])
def test_there_is_a_time_for_the_whole_answer(
    service: AMS, trust: Trust, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenth of a second between bytes never lets a single read run out of time."""
    monkeypatch.setattr(request, "REQUEST_TIMEOUT", timedelta(seconds=1))
    service.faults = [Fault(kind)]
    client = client_of(service, trust)
    client.open()
    begin = time.monotonic()
    with pytest.raises(request.Interrupted, match="sends no complete answer within 1 s"):
        client.publish("topic", [MESSAGE] * 20)
    assert time.monotonic() - begin < 5
    client.close()


def test_another_thread_can_end_a_request(service: AMS, trust: Trust) -> None:
    service.faults = [Fault(Kind.HANG)]
    client = client_of(service, trust)
    client.open()
    threading.Timer(0.3, client.interrupt).start()
    with pytest.raises(request.Interrupted):
        client.publish("topic", [MESSAGE])
    client.close()


def test_a_token_is_renewed_once(service: AMS, trust: Trust) -> None:
    service.faults = [Fault(Kind.FORGET_TOKENS)]
    client = client_of(service, trust)
    client.open()
    assert client.publish("topic", [MESSAGE]) == ["0"]
    service.faults = [Fault(Kind.STATUS, status=401, after=2, times=9)]
    with pytest.raises(AccessDenied, match=r"does not accept the token \(401"):
        client.publish("topic", [MESSAGE])
    assert len(service.asked("publish")) == 4
    client.close()


def test_a_given_token_is_shown_in_no_error(service: AMS, trust: Trust) -> None:
    for body in (b"key geheim-1 is bad", b'{"error": {"message": "key geheim-1 is bad"}}'):
        for fault in (Fault(Kind.STATUS, status=401, body=body), Fault(Kind.ANSWER, body=body[1:])):
            service.faults, service._counts = [fault], {}
            client = client_of(service, trust, token="geheim-1")
            client.open()
            with pytest.raises(Unavailable) as caught:
                client.publish("topic", [MESSAGE])
            client.close()
            assert "geheim" not in repr(caught.value) + repr(client)
    assert service.asked("token") == []


def test_a_connection_that_was_closed_meanwhile_is_made_again(service: AMS, trust: Trust) -> None:
    service.faults = [Fault(Kind.CLOSE_BEFORE, after=1)]
    client = client_of(service, trust)
    client.open()
    assert client.publish("topic", [MESSAGE]) == ["0"]
    assert client.publish("topic", [MESSAGE]) == ["1"]
    client.close()


@contextlib.contextmanager
def tunnel(asked: list[str]) -> Iterator[int]:
    """An HTTP proxy that knows CONNECT only; notes the lines of the requests."""

    def copy(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def serve(client: socket.socket) -> None:
        with client, client.makefile("rb") as stream:
            lines = list(iter(lambda: stream.readline().strip().decode(), ""))
            asked.extend(lines)
            host, _, port = lines[0].split()[1].partition(":")
            with socket.create_connection((host, int(port))) as target:
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                back = threading.Thread(target=copy, args=(target, client), daemon=True)
                back.start()
                copy(client, target)
                back.join()

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield int(listener.getsockname()[1])
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


def test_requests_go_through_the_environment_s_proxy(
    trust: Trust, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    with tunnel(asked) as port, AMS(trust.host("broker"), trust.grid.certificate) as service:
        service.create("topic")
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:pass%20word@127.0.0.1:{port}")
        monkeypatch.delenv("no_proxy")
        monkeypatch.setenv("NO_PROXY", "other.example.org")
        client = client_of(service, trust)
        client.open()
        assert client.publish("topic", [MESSAGE]) == ["0"]
        client.close()
        assert [line.split()[1] for line in asked if line.startswith("CONNECT")] == [
            f"localhost:{service.port}",
            f"localhost:{service.authn_port}",
        ]
        assert "Proxy-Authorization: Basic dXNlcjpwYXNzIHdvcmQ=" in asked
        asked.clear()
        monkeypatch.setenv("NO_PROXY", "localhost")
        client = client_of(service, trust)
        client.open()
        client.close()
        assert asked == []


def test_the_largest_message_fits(service: AMS, trust: Trust) -> None:
    client = client_of(service, trust)
    client.open()
    attributes = {"empaid": "6b029cc8/6b029cd9717820"}
    largest = ams_client.Message(b"x" * ams_client.max_data(attributes), attributes)
    client.publish("topic", [largest])
    [request] = service.asked("publish")
    sent = int(request.headers["content-length"])
    assert ams_client.MAX_REQUEST - 4 < sent <= ams_client.MAX_REQUEST
    client.close()
