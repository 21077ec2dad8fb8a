"""TLS peers are judged by the CA directory before the first byte of ours reaches them (F-T2)."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import select
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from appliance.core import retry
from appliance.core.download.downloader import Downloader
from appliance.core.run.errors import ApplianceError, LocalFailure
from appliance.core.trust.ca_directory import CADirectory, CRLPolicy
from appliance.core.trust.errors import Untrusted
from appliance.core.trust.tls import PeerRefused, PeerTrust, remedy
from ssm.settings import Broker
from ssm.transport import request, stomp
from tests.simulators import tls_peer
from tests.testbed.pki import Authority, Credential

pytestmark = pytest.mark.programs("openssl")

NAMES = ("localhost", "127.0.0.1")
Make = Callable[["World"], Credential]
Talk = Callable[[PeerTrust, CADirectory, int], None]


@dataclass(frozen=True)
class World:
    """Two authorities in one CA directory, and a server's chain."""

    directory: Path
    root: Authority
    issuing: Authority

    @property
    def certificates(self) -> Path:
        return self.directory / "certificates"

    def publish(self, **options: object) -> None:
        self.root.publish(self.certificates, **options)  # type: ignore[arg-type]
        self.issuing.publish(self.certificates, **options)  # type: ignore[arg-type]

    def host(self, *names: str) -> Credential:
        return self.issuing.issue("peer.example.org", hosts=names or NAMES, key="ec")

    def chain(self, host: Credential) -> Path:
        """Return a file with the certificates that the server presents."""
        file = host.certificate.with_suffix(".chain")
        file.write_bytes(host.certificate.read_bytes() + self.issuing.certificate.read_bytes())
        return file

    def openssl(self, host: Credential) -> str:
        """Return what openssl itself says of the chain with the directory's CRLs."""
        command = ["openssl", "verify", "-crl_check_all", "-CApath", str(self.certificates)]
        shown = subprocess.run(
            [*command, str(host.certificate)], capture_output=True, text=True, check=False
        )
        return shown.stdout + shown.stderr


def found(directory: Path) -> World:
    root = Authority.create(directory / "root", key="ec")
    subject = "/DC=EU/DC=EXAMPLE/CN=Issuing"
    issuing = root.create_subordinate(directory / "sub", subject=subject, key="ec")
    made = World(directory, root, issuing)
    made.publish()
    return made


@pytest.fixture
def world(tmp_path: Path) -> World:
    return found(tmp_path)


def _revoked(world: World) -> Credential:
    host = world.host()
    world.issuing.revoke(host)
    world.publish()
    return host


def _of_a_revoked_authority(world: World) -> Credential:
    world.root.revoke(Credential(world.issuing.certificate, world.issuing.certificate))
    world.publish()
    return world.host()


def _outside_the_policy(world: World) -> Credential:
    world.issuing.publish(world.certificates, may_sign=("/DC=EU/DC=ELSEWHERE/*",))
    return world.host()


def _of_another_name(world: World) -> Credential:
    return world.host("other.example.org")


def _without_lists(world: World) -> Credential:
    for file in world.certificates.glob("*.r*"):
        file.unlink()
    return world.host()


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Make], tuple[World, Credential]]:
    """Return a world and a server's credential, made once for each way of making them."""

    @functools.cache
    def make(kind: Make) -> tuple[World, Credential]:
        world = found(tmp_path_factory.mktemp("world"))
        return world, kind(world)

    return make


Case = Callable[["Make"], tuple[World, Credential]]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)  # whatever a program that another test ran has configured
    for name in ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(retry, "_sleep", lambda _: None)


def plain(trust: PeerTrust, _: CADirectory, port: int) -> None:
    made = socket.create_connection(("127.0.0.1", port))
    with trust.context().wrap_socket(made, server_hostname="localhost") as secured:
        secured.sendall(b"hello")


def without_a_handshake(trust: PeerTrust, _: CADirectory, port: int) -> None:
    made = socket.create_connection(("127.0.0.1", port))
    with trust.context().wrap_socket(
        made, server_hostname="localhost", do_handshake_on_connect=False
    ) as secured:
        secured.send(b"hello")


def stubborn(trust: PeerTrust, _: CADirectory, port: int) -> None:
    """Send although the handshake has failed."""
    made = socket.create_connection(("127.0.0.1", port))
    with trust.context().wrap_socket(
        made, server_hostname="localhost", do_handshake_on_connect=False
    ) as secured:
        with contextlib.suppress(PeerRefused):
            secured.do_handshake()
        secured.write(b"hello")


def without_waiting(trust: PeerTrust, _: CADirectory, port: int) -> None:
    made = socket.create_connection(("127.0.0.1", port))
    made.setblocking(False)
    with trust.context().wrap_socket(
        made, server_hostname="localhost", do_handshake_on_connect=False
    ) as secured:
        while True:
            try:
                secured.send(b"hello")
            except ssl.SSLWantReadError:
                select.select([secured], [], [], 10)
            else:
                return


def by_asyncio(trust: PeerTrust, _: CADirectory, port: int) -> None:
    async def talk() -> None:
        _, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=trust.context(), server_hostname="localhost"
        )
        writer.write(b"hello")
        await writer.drain()
        writer.close()
        with contextlib.suppress(ssl.SSLError):
            await writer.wait_closed()

    asyncio.run(talk())


def by_stomp(trust: PeerTrust, _: CADirectory, port: int) -> None:
    stomp.STOMPConnection(Broker("localhost", port), tls=trust.context())


def by_https(trust: PeerTrust, _: CADirectory, port: int) -> None:
    line = request.KeptConnection("localhost", port, tls=trust.context())
    with contextlib.closing(line):
        line.ask("POST", "/?key=secret", b"x", headers={"x-api-key": "secret"}, limit=10)


def for_images(_: PeerTrust, directory: CADirectory, port: int) -> None:
    url = f"https://localhost:{port}/list"
    client = Downloader(directory, attempts=1)
    client.fetch(url, name="the list", max_bytes=10, user="u", password="secret")


RAW = [plain, without_a_handshake, stubborn, without_waiting, by_asyncio]
PROGRAMS = [by_stomp, by_https, for_images]
ALL = pytest.mark.parametrize("talk", [*RAW, *PROGRAMS])


def converse(
    world: World, host: Credential, talk: Talk, *, crls: CRLPolicy = CRLPolicy.WARN
) -> tuple[str, bytes]:
    """Return what a client says of a server, and what the server received."""
    directory = CADirectory(world.certificates, crls=crls)
    said = ""
    with tls_peer.serving(world.chain(host), host.key) as peer:
        try:
            talk(PeerTrust(directory), directory, peer.port)
        except (ApplianceError, OSError) as error:
            said = str(error)
        return said, peer.next()


@ALL
def test_an_accepted_peer_gets_our_words(case: Case, talk: Talk) -> None:
    """F-T2: what is not revoked and within the policies is talked to."""
    world, host = case(World.host)
    assert world.openssl(host).endswith(": OK\n")
    said, received = converse(world, host, talk, crls=CRLPolicy.REQUIRE)
    assert received
    assert "not trusted" not in said
    assert "revo" not in said


@ALL
@pytest.mark.parametrize("crls", [CRLPolicy.WARN, CRLPolicy.REQUIRE])
def test_a_revoked_peer_gets_nothing(case: Case, talk: Talk, crls: CRLPolicy) -> None:
    """F-T2: a broker that a list of the directory revokes, under warn as well."""
    world, host = case(_revoked)
    assert "certificate revoked" in world.openssl(host)
    said, received = converse(world, host, talk, crls=crls)
    assert received == b""
    assert "its certificate was revoked by /DC=EU/DC=EXAMPLE/CN=Issuing" in said
    assert "\n" not in said


@ALL
def test_a_peer_of_a_revoked_authority_gets_nothing(case: Case, talk: Talk) -> None:
    """F-T2: the intermediate is judged as well."""
    world, host = case(_of_a_revoked_authority)
    assert "certificate revoked" in world.openssl(host)
    said, received = converse(world, host, talk)
    assert received == b""
    assert "CA /DC=EU/DC=EXAMPLE/CN=Issuing was revoked by " in said


@ALL
def test_a_peer_outside_the_policy_gets_nothing(case: Case, talk: Talk) -> None:
    """F-T2: OpenSSL knows no signing policies."""
    world, host = case(_outside_the_policy)
    assert world.openssl(host).endswith(": OK\n")
    said, received = converse(world, host, talk)
    assert received == b""
    assert "its certificate lies outside the names that " in said


@pytest.mark.parametrize("talk", [plain, *PROGRAMS])
def test_a_peer_with_another_name_gets_nothing(case: Case, talk: Talk) -> None:
    """F-T2: the host's name stays checked."""
    said, received = converse(*case(_of_another_name), talk)
    assert received == b""
    assert "ostname mismatch, certificate is not valid for 'localhost'" in said


@pytest.mark.parametrize("talk", [plain, *PROGRAMS])
@pytest.mark.parametrize(
    ("crls", "is_refused"), [("warn", False), ("require", True), ("off", False)]
)
def test_a_missing_list(
    case: Case,
    talk: Talk,
    crls: str,
    is_refused: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """F-T2: `crls` applies to peers as to signatures."""
    said, received = converse(*case(_without_lists), talk, crls=CRLPolicy(crls))
    assert (received == b"") == is_refused
    missing = "no CRL of its issuer is installed"
    assert (missing in said) == is_refused
    reported = [
        line for line in caplog.messages if line.startswith("localhost: ") and missing in line
    ]
    assert len(reported) == (2 if crls == "warn" else 0)  # one for each authority


@pytest.mark.parametrize("talk", [plain, *PROGRAMS])
def test_a_weak_kind_of_key(case: Case, talk: Talk) -> None:
    """F-T2: OpenSSL takes an Ed25519 key, the reader of trust takes RSA and EC."""
    world, host = case(_ed25519)
    assert world.openssl(host).endswith(": OK\n")
    said, received = converse(world, host, talk)
    assert received == b""
    assert "has a key that is neither RSA nor EC" in said


def _ed25519(world: World) -> Credential:
    model, issuer = world.host(), world.issuing
    key = ed25519.Ed25519PrivateKey.generate()
    old = x509.load_pem_x509_certificate(model.certificate.read_bytes())
    builder = x509.CertificateBuilder(
        old.issuer, old.subject, key.public_key(), 4711,
        old.not_valid_before_utc, old.not_valid_after_utc,
    )  # fmt: skip
    for kind in (x509.SubjectAlternativeName, x509.ExtendedKeyUsage, x509.KeyUsage):
        builder = builder.add_extension(
            old.extensions.get_extension_for_class(kind).value, critical=False
        )
    made = builder.sign(issuer._key, hashes.SHA256())
    credential = Credential(world.directory / "ed.pem", world.directory / "ed.key")
    credential.certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    credential.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return credential


@pytest.mark.parametrize("talk", [by_https, for_images])
@pytest.mark.parametrize("is_revoked", [True, False])
def test_behind_a_proxy(
    case: Case,
    talk: Talk,
    is_revoked: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """F-T2: the tunnel of an HTTP proxy ends at the same judge."""
    world, host = case(_revoked if is_revoked else World.host)
    directory = CADirectory(world.certificates)
    with tls_peer.serving(world.chain(host), host.key, is_proxy=True) as peer:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{peer.port}")
        with pytest.raises(ApplianceError) as caught:
            talk(PeerTrust(directory), directory, 4711)
        assert (peer.next() == b"") == is_revoked
    assert ("its certificate was revoked by " in str(caught.value)) == is_revoked


@pytest.mark.parametrize("crls", [CRLPolicy.WARN, CRLPolicy.REQUIRE])
def test_a_peer_of_the_operating_system(
    case: Case,
    tmp_path: Path,
    crls: CRLPolicy,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """F-T2: what only the system's CAs trust is outside `crls`, and one line says so."""
    public = Authority.create(tmp_path / "public", subject="/C=XX/CN=Public", key="ec")
    host = public.issue("localhost", hosts=NAMES, key="ec")
    monkeypatch.setenv("SSL_CERT_FILE", str(public.certificate))
    world, _ = case(World.host)
    directory = CADirectory(world.certificates, crls=crls)
    caplog.set_level(logging.INFO)
    with tls_peer.serving(host.certificate, host.key) as peer:
        trust = PeerTrust(directory, with_system=True)
        for _ in range(2):
            plain(trust, directory, peer.port)
            assert peer.next() == b"hello"
        [line] = [one for one in caplog.records if "a CA of the operating system" in one.message]
        assert line.message.startswith("localhost: its certificate is from a CA of the operating")
        assert line.levelname == ("WARNING" if crls is CRLPolicy.REQUIRE else "INFO")
        with pytest.raises(ssl.SSLCertVerificationError):
            plain(PeerTrust(directory), directory, peer.port)
        assert peer.next() == b""


def test_the_directory_judges_its_own_though_the_system_trusts_them(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F-T2: a revoked peer does not pass by the operating system's CAs."""
    world, host = case(_revoked)
    monkeypatch.setenv("SSL_CERT_FILE", str(world.root.certificate))
    directory = CADirectory(world.certificates)
    with tls_peer.serving(world.chain(host), host.key) as peer:
        with pytest.raises(PeerRefused, match="was revoked by"):
            plain(PeerTrust(directory, with_system=True), directory, peer.port)
        assert peer.next() == b""


def test_a_resumed_session_is_judged_again(world: World) -> None:
    """F-T2: a session of yesterday is no way around today's list."""
    host = world.host()
    directory = CADirectory(world.certificates)
    trust = PeerTrust(directory)
    context = trust.context()

    def connect(session: ssl.SSLSession | None) -> ssl.SSLSocket:
        made = socket.create_connection(("127.0.0.1", peer.port))
        return context.wrap_socket(made, server_hostname="localhost", session=session)

    old = ssl.TLSVersion.TLSv1_2
    with tls_peer.serving(world.chain(host), host.key, newest=old) as peer:
        with connect(None) as first:
            session = first.session
            first.sendall(b"hello")
        with connect(session) as second:
            assert second.session_reused
            second.sendall(b"again")
        assert [peer.next(), peer.next()] == [b"hello", b"again"]
        world.issuing.revoke(host)
        world.publish()
        trust.context()  # reads the directory as a new connection does
        with pytest.raises(PeerRefused, match="was revoked by"):
            connect(session)
        assert peer.next() == b""
    assert context.options & ssl.OP_NO_RENEGOTIATION


def test_a_list_that_comes_later_counts_for_the_next_connection(world: World) -> None:
    """F-T2: connections of a daemon follow `fetch-crl`; a lost directory changes nothing."""
    host = world.host()
    directory = CADirectory(world.certificates)
    trust = PeerTrust(directory)
    with tls_peer.serving(world.chain(host), host.key) as peer:
        plain(trust, directory, peer.port)
        assert peer.next() == b"hello"
        world.certificates.rename(world.directory / "away")
        plain(trust, directory, peer.port)
        assert peer.next() == b"hello"
        world.issuing.revoke(host)
        world.issuing.publish(world.directory / "away")
        (world.directory / "away").rename(world.certificates)
        with pytest.raises(PeerRefused, match="was revoked by"):
            plain(trust, directory, peer.port)
        assert peer.next() == b""


def test_a_stale_list_still_revokes(world: World) -> None:
    """F-T2: as for signatures, its age warns or refuses apart."""
    host = world.host()
    world.issuing.revoke(host)
    world.issuing.publish(
        world.certificates, crl_days=1, crl_issued=datetime.now(UTC) - timedelta(days=9)
    )
    said, received = converse(world, host, by_stomp)
    assert received == b""
    assert said.startswith("localhost:")
    assert "the broker's certificate is not trusted: its certificate was revoked by" in said


# ------------------------------------------------------- one connection, without a network


class Counting(PeerTrust):
    """Counts its judgements."""

    count = 0

    def judge(self, connection: ssl.SSLSocket | ssl.SSLObject) -> None:
        self.count += 1
        super().judge(connection)


@dataclass
class Pipe:
    """TLS between a client's object and a server's, in memory."""

    client: ssl.SSLObject
    server: ssl.SSLObject
    wires: tuple[ssl.MemoryBIO, ssl.MemoryBIO, ssl.MemoryBIO, ssl.MemoryBIO]

    @classmethod
    def between(cls, client: ssl.SSLContext, server: ssl.SSLContext) -> Pipe:
        wires = (ssl.MemoryBIO(), ssl.MemoryBIO(), ssl.MemoryBIO(), ssl.MemoryBIO())
        return cls(
            client.wrap_bio(wires[0], wires[1], server_hostname="localhost"),
            server.wrap_bio(wires[2], wires[3], server_side=True),
            wires,
        )

    def move(self) -> None:
        to_client, from_client, to_server, from_server = self.wires
        to_server.write(from_client.read())
        to_client.write(from_server.read())

    def until_done(self, step: Callable[[], object]) -> object:
        """Repeat a step of the client's, the server answering, until it is done."""
        for _ in range(9):
            try:
                return step()
            except ssl.SSLWantReadError:
                self.move()
                with contextlib.suppress(ssl.SSLWantReadError):
                    self.server.do_handshake()
                self.move()
        raise AssertionError


def server_of(world: World, host: Credential, *, asks: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(world.chain(host), host.key)
    if asks:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(world.root.certificate)
        context.load_verify_locations(world.issuing.certificate)
    return context


@pytest.mark.parametrize("kind", [World.host, _revoked])
@pytest.mark.parametrize("is_explicit", [False, True])
def test_writing_in_memory_makes_the_handshake_and_is_judged_once(
    case: Case, kind: Make, *, is_explicit: bool
) -> None:
    """F-T2: as asyncio and tunnels do it."""
    world, host = case(kind)
    trust = Counting(CADirectory(world.certificates))
    pipe = Pipe.between(trust.context(), server_of(world, host))

    def write() -> int:
        if is_explicit:
            pipe.client.do_handshake()
        return pipe.client.write(b"hello")

    if kind is _revoked:
        with pytest.raises(PeerRefused, match="was revoked by"):
            pipe.until_done(write)
        return
    assert pipe.until_done(write) == 5
    pipe.move()
    assert pipe.server.read() == b"hello"
    pipe.server.write(b"x" * 2000)
    pipe.move()
    # As much as the standard library's own objects read.
    assert [pipe.client.read(), pipe.client.read()] == [b"x" * 1024, b"x" * 976]
    assert trust.count == 1


def test_reading_first_in_memory_makes_the_handshake(case: Case) -> None:
    """F-T2: a server that speaks first is judged before it is read."""
    world, host = case(_revoked)
    pipe = Pipe.between(
        PeerTrust(CADirectory(world.certificates)).context(), server_of(world, host)
    )
    with pytest.raises(PeerRefused, match="was revoked by"):
        pipe.until_done(pipe.client.read)


@contextlib.contextmanager
def speaking_first(world: World, host: Credential) -> Iterator[socket.socket]:
    """Yield a socket to a server that sends two thousand bytes and reads until the end."""
    ours, theirs = socket.socketpair()

    def serve() -> None:
        with (
            contextlib.suppress(OSError),
            server_of(world, host).wrap_socket(theirs, server_side=True) as secured,
        ):
            secured.sendall(b"x" * 2000)
            while secured.recv(100):
                pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    ours.settimeout(10)
    try:
        yield ours
    finally:
        ours.close()
        thread.join()


@pytest.mark.parametrize("kind", [World.host, _revoked])
def test_reading_first_from_a_socket(case: Case, kind: Make) -> None:
    """F-T2: it makes the handshake; what is accepted is judged once, however much follows."""
    world, host = case(kind)
    trust = Counting(CADirectory(world.certificates))
    with speaking_first(world, host) as made:
        options = {"server_hostname": "localhost", "do_handshake_on_connect": False}
        with trust.context().wrap_socket(made, **options) as secured:  # type: ignore[arg-type]
            if kind is _revoked:
                with pytest.raises(PeerRefused, match="was revoked by"):
                    secured.read()
                return
            assert secured.read() == b"x" * 1024
            assert secured.read() == b"x" * 976
            assert secured.write(b"hello") == secured.send(b"hello") == 5
    assert trust.count == 1


def test_a_socket_that_does_not_wait_says_so(world: World) -> None:
    """As the standard library's: an event loop must not stand still while a peer is silent."""
    ours, theirs = socket.socketpair()
    late = threading.Timer(3, theirs.close)  # that a wrong wait ends
    late.start()
    ours.setblocking(False)
    context = PeerTrust(CADirectory(world.certificates)).context()
    options = {"server_hostname": "localhost", "do_handshake_on_connect": False}
    with context.wrap_socket(ours, **options) as secured:  # type: ignore[arg-type]
        for step in (lambda: secured.send(b"x"), secured.do_handshake):
            with pytest.raises(ssl.SSLWantReadError):
                step()
    late.cancel()
    theirs.close()


def test_an_intermediate_that_only_the_peer_has(world: World) -> None:
    """F-T2: what it presents helps, and is no more than a hint."""
    host = world.host()
    for file in world.certificates.glob(f"{world.issuing.hash}.*"):
        file.unlink()
    world.root.publish(world.certificates, may_sign=("/DC=EU/DC=EXAMPLE/*",))
    trust = PeerTrust(CADirectory(world.certificates, crls=CRLPolicy.OFF))
    pipe = Pipe.between(trust.context(), server_of(world, host))
    assert pipe.until_done(lambda: pipe.client.write(b"hello")) == 5


def test_a_certificate_of_ours(case: Case, tmp_path: Path) -> None:
    """It is shown to a server that asks; what is wrong with its files is said with their path."""
    world, host = case(World.host)
    trust = PeerTrust(CADirectory(world.certificates))
    context = trust.context(certificate=host.certificate, key=host.key)
    pipe = Pipe.between(context, server_of(world, host, asks=True))
    pipe.until_done(lambda: pipe.client.write(b"hello"))
    pipe.move()
    assert pipe.server.read() == b"hello"
    shown = pipe.server.getpeercert(binary_form=True)
    assert shown is not None
    assert x509.load_der_x509_certificate(shown) == x509.load_pem_x509_certificate(
        host.certificate.read_bytes()
    )
    with pytest.raises(
        LocalFailure, match=f"^{host.certificate}: cannot be used for TLS: KEY_VALUES_MISMATCH"
    ):
        trust.context(certificate=host.certificate, key=world.host().key)
    with pytest.raises(LocalFailure, match=f"^{tmp_path}/none.pem: No such file"):
        trust.context(certificate=tmp_path / "none.pem", key=host.key)


class Odd:
    """A connection whose peer presents what no handshake would have let pass."""

    server_hostname = None

    def __init__(self, *presented: bytes) -> None:
        self._presented = presented

    def getpeercert(self, *, binary_form: bool) -> bytes | None:
        assert binary_form
        return self._presented[0] if self._presented else None

    def get_unverified_chain(self) -> list[bytes] | None:
        """As Python has it from 3.13."""
        return list(self._presented) or None


def test_odd_peers(case: Case) -> None:
    """F-T2: without a certificate, with one that cannot be read, and with more than one."""
    world, host = case(World.host)
    trust = PeerTrust(CADirectory(world.certificates, crls=CRLPolicy.OFF))
    good = [
        x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(serialization.Encoding.DER)
        for path in (host.certificate, world.issuing.certificate)
    ]
    trust.judge(Odd(*good))  # type: ignore[arg-type]
    for presented, words in (
        ((), "presents no certificate"),
        ((b"\x30\x00",), "presents a certificate that cannot be read"),
        ((good[0], b"\x30\x00"), "presents a certificate that cannot be read"),
    ):
        with pytest.raises(PeerRefused) as caught:
            trust.judge(Odd(*presented))  # type: ignore[arg-type]
        assert caught.value.verify_message == words


def test_an_authority_that_was_removed_since_the_context_was_made(world: World) -> None:
    """F-T2: OpenSSL still knows it, the directory as it is now counts."""
    host = world.host()
    directory = CADirectory(world.certificates)
    pipe = Pipe.between(PeerTrust(directory).context(), server_of(world, host))
    for file in world.certificates.iterdir():
        file.unlink()
    Authority.create(world.directory / "other", subject="/C=XX/CN=Other", key="ec").publish(
        world.certificates
    )
    assert directory.refresh()
    with pytest.raises(PeerRefused, match="is not among the trust anchors"):
        pipe.until_done(lambda: pipe.client.write(b"hello"))


def test_a_refusal_is_an_error_of_tls_with_its_own_remedy() -> None:
    """Libraries that catch OpenSSL's refusals get ours as well, with the same number."""
    ours = PeerRefused(Untrusted("/CN=peer", "it was revoked", "the holder needs a new one"))
    assert ours.errno == ssl.SSLErrorNumber.SSL_ERROR_SSL
    assert ours.args == (1, "it was revoked")
    assert remedy(ours) == "the holder needs a new one"
    assert (
        remedy(ssl.SSLCertVerificationError(1, "x"))
        == "check the host's name in the configuration, and capath"
    )


def test_a_directory_that_vanished_is_told_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    trust = PeerTrust(CADirectory(world.certificates))
    world.certificates.rename(world.directory / "away")
    for _ in range(2):
        trust.context()
    reported = [
        line for line in caplog.messages if line.endswith("; the CAs read before stay in use")
    ]
    assert len(reported) == 1
    assert reported[0].startswith(f"{world.certificates}: ")
