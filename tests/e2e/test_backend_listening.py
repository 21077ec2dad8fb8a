"""The endpoints of `cloudkeeper-os` and their callers: the program as its service starts it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
import ssl
import stat
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cloudkeeper.frontend import grpc_connection
from cloudkeeper.frontend.backend_client import BackendFailure, BackendUnreachable
from cloudkeeper.frontend.grpc_connection import Encryption
from cloudkeeper.wire import communicator_1x_pb2_grpc as stubs
from tests.e2e.images_backend import PROGRAM, free_port, short_directory
from tests.testbed.pki import Authority, Credential

_CONFIG = """\
[DEFAULT]
{options}
[keystone_authtoken]
password = secret
auth_url = https://127.0.0.1:1/v3
"""
_ANSWERS = Path(__file__).parents[2] / "deploy/grpc-answers"


@dataclass
class Server:
    """The program on a root directory of its own."""

    root: Path
    socket: Path
    options: str
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def log(self) -> Path:
        return self.root / "log"

    def run(self, *flags: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as output:
            process = subprocess.Popen(
                [PROGRAM, "--root", self.root, *flags], stdout=output, stderr=output
            )
        self.processes.append(process)
        return process

    def start(self, *flags: str) -> subprocess.Popen[bytes]:
        done = self.log.read_text().count("listening on") if self.log.exists() else 0
        process = self.run(*flags)
        deadline = time.monotonic() + 30
        while self.log.read_text().count("listening on") == done:
            assert process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)
        return process

    def fail(self, *flags: str) -> str:
        """Run the program, which must fail to start; return its last line."""
        assert self.run(*flags).wait(30) == 3, self.log.read_text()
        return self.log.read_text().splitlines()[-1]

    def fail_with_other_state(self) -> str:
        return create(self.root / "other", self.socket, self.options).fail()


def create(root: Path, socket_path: Path, options: str) -> Server:
    config = root / "etc/cloudkeeper/cloudkeeper-os.conf"
    config.parent.mkdir(parents=True)
    config.touch(mode=0o600)
    config.write_text(_CONFIG.format(options=options))
    (root / "etc/voms.json").write_text('{"ops": {"project": "p"}}\n')
    return Server(root, socket_path, options)


@contextlib.contextmanager
def created(root: Path, *options: str) -> Iterator[Server]:
    path = short_directory() / "s"
    server = create(root, path, "\n".join([f"grpc_socket = {path}", *options]))
    try:
        yield server
    finally:
        for process in server.processes:
            process.kill()
            process.wait()


def refusal(endpoint: str, encryption: Encryption | None = None) -> str:
    """Return why a call is refused, empty if it is not; PostAction needs no cloud."""
    with grpc_connection.client(endpoint, encryption=encryption) as backend:
        try:
            backend.end()
        except BackendFailure as error:
            return str(error)
    return ""


def is_answered(endpoint: str, encryption: Encryption | None = None) -> bool:
    return not refusal(endpoint, encryption)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with created(tmp_path) as server:
        yield server


def test_the_socket_is_for_the_account_alone(server: Server) -> None:
    """F-H4: mode 0600 in a directory of the account alone; no TCP port, no abstract socket."""
    process = server.start()
    with grpc_connection.client(f"unix://{server.socket}") as backend:
        backend.check()
    assert is_answered(f"unix://{server.socket}"), server.log.read_text()
    assert stat.S_IMODE(server.socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(server.socket.parent.stat().st_mode) == 0o700
    assert subprocess.run(["python3", "-IS", _ANSWERS, server.socket], check=False).returncode == 0
    shown = subprocess.run(["ss", "-Hlnpxt"], capture_output=True, text=True, check=True).stdout
    listening = [line.split() for line in shown.splitlines() if f"pid={process.pid}," in line]
    assert [words[4] for words in listening] == [str(server.socket)]
    process.terminate()
    assert process.wait(30) == 0
    assert not server.socket.exists()
    assert (
        subprocess.run(
            ["python3", "-IS", _ANSWERS, server.socket], capture_output=True, check=False
        ).returncode
        == 1
    )
    with (
        grpc_connection.client(f"unix://{server.socket}") as backend,
        pytest.raises(BackendUnreachable, match="No such file"),
    ):
        backend.check()


def test_a_directory_that_is_not_there_is_made(tmp_path: Path) -> None:
    """As after a boot, when /run is empty."""
    with created(tmp_path) as server:
        server.socket.parent.rmdir()
        server.start()
        assert stat.S_IMODE(server.socket.parent.stat().st_mode) == 0o700


def _condition(channel: grpc.Channel, service: str = "") -> int:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service=service)
    return int(stub.Check(request, timeout=10).status)


def test_the_health_service(server: Server) -> None:
    """The whole server and our service are SERVING (1); others are unknown, streams refused."""
    server.start()
    with grpc.insecure_channel(f"unix://{server.socket}") as channel:
        assert [_condition(channel, name) for name in ("", "cloudkeeper_grpc.Communicator")] == [
            1,
            1,
        ]
        with pytest.raises(grpc.RpcError) as unknown:
            _condition(channel, "other")
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
        stub: Any = health_pb2_grpc.HealthStub(channel)
        with pytest.raises(grpc.RpcError) as refused:
            list(stub.Watch(health_pb2.HealthCheckRequest(), timeout=10))
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_the_socket_of_a_killed_server_is_replaced_and_that_of_a_live_one_is_not(
    server: Server,
) -> None:
    """F-H4: gRPC alone would take the path from a running server."""
    first = server.start()
    line = server.fail_with_other_state()
    pid = str(first.pid)
    assert line.startswith(
        f"cloudkeeper-os: {server.socket}: cannot be listened on: another cloudkeeper-os "
        "serves it, running since "
    )
    assert line.endswith(
        f"(pid {pid}); stop the program that serves it, or set another grpc_socket"
    )
    assert is_answered(f"unix://{server.socket}")
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert server.socket.exists()
    server.start()
    assert is_answered(f"unix://{server.socket}")


def test_the_socket_of_another_program_is_not_taken(server: Server) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(server.socket))
        other.listen()
        line = server.fail()
        assert line.startswith(
            f"cloudkeeper-os: {server.socket}: cannot be listened on: another program serves it; "
        )
    server.socket.unlink()
    server.socket.write_text("precious")
    assert "is not a socket; remove it" in server.fail()
    assert server.socket.read_text() == "precious"


def test_a_directory_that_others_can_write_to_is_refused(server: Server) -> None:
    """F-H4: they could place a socket of their own there."""
    server.socket.parent.chmod(0o777)
    line = server.fail()
    assert (
        f"{server.socket.parent}: others can write to it, and could answer the frontend in place of"
        in line
    )
    assert not server.socket.exists()


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.socket() as other, created(tmp_path, "accept_anyone_without_tls = true") as server:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert server.fail("--grpc-port", str(port)) == (
            f"cloudkeeper-os: 127.0.0.1:{port}: cannot be listened on: address already in "
            "use; stop the program that "
            "has it, or set grpc_socket, or listen_address and grpc_port"
        )
        assert not server.socket.exists()


def test_a_frontend_without_certificate_where_that_is_allowed(tmp_path: Path) -> None:
    """F-H4: for cloudkeeper 1.7.1; the log warns at each start."""
    port = free_port()
    with created(tmp_path, f"grpc_port = {port}", "accept_anyone_without_tls = true") as server:
        for count in (1, 2):
            server.start()
            assert is_answered(f"127.0.0.1:{port}")
            assert (
                server.log.read_text().count(
                    "anyone who can connect to grpc_port can add and remove images"
                )
                == count
            )
            server.processes[-1].kill()
            server.processes[-1].wait()


@dataclass(frozen=True)
class Parties:
    """Holders of certificates: of the installation's authority, and of another one of that name."""

    own: Authority
    backend: Credential
    frontend: Credential
    other: Authority

    @property
    def options(self) -> Sequence[str]:
        names = {"certificate": self.backend.certificate, "key": self.backend.key}
        return [
            f"{name} = {path}"
            for name, path in {**names, "core_certificate": self.own.certificate}.items()
        ]


@pytest.fixture(scope="module")
def parties(tmp_path_factory: pytest.TempPathFactory) -> Parties:
    directory = tmp_path_factory.mktemp("parties")
    own, other = (Authority.create(directory / name, key="ec") for name in ("own", "other"))
    backend = own.issue("localhost", key="ec")
    return Parties(own, backend, own.issue("cloudkeeper", key="ec", hosts=("cloudkeeper",)), other)


def test_mutual_tls_admits_the_frontend_only(tmp_path: Path, parties: Parties) -> None:
    """F-H4: no certificate, a foreign one, one for another name, and clear text are refused."""
    port = free_port()
    endpoint, ca = f"localhost:{port}", parties.own.certificate
    with created(tmp_path, f"grpc_port = {port}", *parties.options) as server:
        server.start()
        frontend = Encryption(parties.frontend.certificate, parties.frontend.key, ca)
        assert is_answered(endpoint, frontend), server.log.read_text()
        assert is_answered(f"unix://{server.socket}")  # the health check's and this host's

        found = refusal(endpoint, Encryption(parties.backend.certificate, parties.backend.key, ca))
        assert found.endswith(
            "PostAction failed: UNAUTHENTICATED: the certificate is not for cloudkeeper; "
            "see the log of cloudkeeper-os"
        )
        assert (
            "refused: its certificate is for localhost, not cloudkeeper" in server.log.read_text()
        )
        with grpc_connection.client(
            endpoint, encryption=Encryption(parties.backend.certificate, parties.backend.key, ca)
        ) as stranger:
            for call in (stranger.list_ids, stranger.begin):
                with pytest.raises(BackendFailure, match="UNAUTHENTICATED"):
                    call()
        keys = parties.backend.key.read_bytes(), parties.backend.certificate.read_bytes()
        credentials = grpc.ssl_channel_credentials(ca.read_bytes(), *keys)
        with grpc.secure_channel(endpoint, credentials) as channel:
            with pytest.raises(grpc.RpcError) as unnamed:
                _condition(channel)
            assert unnamed.value.code() is grpc.StatusCode.UNAUTHENTICATED
        foreign = parties.other.issue("cloudkeeper", key="ec", hosts=("cloudkeeper",))
        for encryption in (None, Encryption(foreign.certificate, foreign.key, ca)):
            assert not is_answered(endpoint, encryption)
        channel = grpc.secure_channel(endpoint, grpc.ssl_channel_credentials(ca.read_bytes()))
        stub = stubs.CommunicatorStub(channel)  # type: ignore[no-untyped-call]
        with channel, pytest.raises(grpc.RpcError) as caught:
            stub.PreAction(Empty(), timeout=10)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert not greets(port, ca)
        assert greets(port, ca, parties.frontend)


def greets(port: int, authority: Path, credential: Credential | None = None) -> bool:
    """Check whether OpenSSL, which must trust the backend, gets HTTP/2 after its handshake."""
    context = ssl.create_default_context(cafile=authority)
    context.set_alpn_protocols(["h2"])
    if credential:
        context.load_cert_chain(credential.certificate, credential.key)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
        try:
            with context.wrap_socket(plain, server_hostname="localhost") as connection:
                connection.sendall(
                    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
                )
                return connection.recv(9)[3:4] == b"\x04"
        except OSError:
            return False


def test_the_frontend_accepts_the_backend_only(tmp_path: Path, parties: Parties) -> None:
    """F-H4: a server with another name or of another authority gets no call."""
    port = free_port()
    own = (parties.frontend.certificate, parties.frontend.key)
    right = Encryption(*own, parties.own.certificate)
    with created(tmp_path / "right", f"grpc_port = {port}", *parties.options) as server:
        server.start()
        assert "Hostname Verification Check failed" in refusal(f"127.0.0.1:{port}", right)
        assert "cannot be reached" in refusal(
            f"localhost:{port}", Encryption(*own, parties.other.certificate)
        )
        # As with 1.7.1: the certificate itself.
        pinned = Encryption(*own, parties.backend.certificate)
        assert is_answered(f"localhost:{port}", pinned)
    rogue = dataclasses.replace(parties, backend=parties.frontend)
    with created(tmp_path / "rogue", f"grpc_port = {port}", *rogue.options) as server:
        server.start()
        assert "Hostname Verification Check failed" in refusal(f"localhost:{port}", right)


def test_a_renewed_certificate_is_used_without_a_restart(tmp_path: Path, parties: Parties) -> None:
    """During a renewal, when the files do not fit each other, the old pair stays in use."""
    port = free_port()
    files = Credential(tmp_path / "backend.pem", tmp_path / "backend.key")
    install(parties.backend, files)
    options = [f"certificate = {files.certificate}", f"key = {files.key}"]
    options.append(f"core_certificate = {parties.own.certificate}")
    with created(tmp_path / "root", f"grpc_port = {port}", *options) as server:
        server.start()
        frontend = Encryption(
            parties.frontend.certificate, parties.frontend.key, parties.own.certificate
        )
        endpoint = f"localhost:{port}"
        assert is_answered(endpoint, frontend)
        newer = parties.own.issue("localhost-2", key="ec", hosts=("localhost",))
        files.certificate.write_bytes(newer.certificate.read_bytes())
        assert is_answered(endpoint, frontend)
        assert presented(port, frontend) != serial(newer.certificate)
        install(newer, files)
        assert presented(port, frontend) == serial(newer.certificate)
        assert is_answered(endpoint, frontend)
        assert "key values mismatch" in server.log.read_text().lower().replace("_", " ")


def install(credential: Credential, place: Credential) -> None:
    for source, target in (
        (credential.certificate, place.certificate),
        (credential.key, place.key),
    ):
        target.unlink(missing_ok=True)
        target.write_bytes(source.read_bytes())
        target.chmod(0o600)


def presented(port: int, frontend: Encryption) -> str:
    command: list[str | Path] = [
        "openssl",
        "s_client",
        "-connect",
        f"localhost:{port}",
        "-alpn",
        "h2",
    ]
    command += ["-cert", frontend.certificate, "-key", frontend.key]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=20
    )
    return serial_of(done.stdout)


def serial(path: Path) -> str:
    return serial_of(path.read_bytes())


def serial_of(pem: bytes) -> str:
    command = ["openssl", "x509", "-noout", "-serial"]
    return subprocess.run(command, input=pem, capture_output=True, check=True).stdout.decode()


def test_certificate_and_key_that_do_not_match(tmp_path: Path, parties: Parties) -> None:
    options = [option for option in parties.options if not option.startswith("key")]
    with created(
        tmp_path, f"grpc_port = {free_port()}", *options, f"key = {parties.frontend.key}"
    ) as server:
        line = server.fail()
    assert line.startswith(
        f"cloudkeeper-os: {parties.backend.certificate}: cannot be used with its key"
    )
    assert "appliance certificates" in line
    assert os.fspath(parties.frontend.key) in line
