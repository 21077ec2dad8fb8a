"""Harbor in front of a real registry: its API's listings, its token service, and its faults.

Harbor's listings are answered from what the registry behind it has; ``/v2/…`` is passed on. The
token service signs tokens that the registry verifies (RS256, ``x5c``), for anybody for the
projects in ``public``, else for `USER` with `PASSWORD`.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import http.server
import json
import re
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.simulators.answering import answering
from tests.testbed.oci_registry import INDEX, MANIFEST, PASSWORD, USER, OCIRegistry
from tests.testbed.pki import Credential

_REPOSITORIES = re.compile(r"/api/v2\.0/projects/([^/]+)/repositories")
_ARTEFACTS = re.compile(r"/api/v2\.0/projects/([^/]+)/repositories/([^/]+)/artifacts")
_PASSED = (
    *("Content-Type", "Content-Length", "Content-Range", "Docker-Content-Digest"),
    *("ETag", "Link"),
)
_REFERRERS = re.compile(r"/v2/([^/]+)/.+/referrers/(sha256:[0-9a-f]{64})")
_TOKEN_SECONDS = 300


@functools.cache
def _key(path: Path) -> rsa.RSAPrivateKey:
    """Read a key, once, because OpenSSL checks it for tens of milliseconds."""
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer in place of the usual one."""

    status: int
    content: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)
class Harbor:
    """What the simulator knows. ``faults`` are asked first, with method, path and query."""

    host: str
    signer: Credential
    registry: OCIRegistry | None = None
    public: set[str] = field(default_factory=set)
    page_size: int = 100
    faults: list[Callable[[str], Reply | None]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    session: requests.Session = field(default_factory=requests.Session)
    cut: int | None = None
    """Bytes of a blob after which the connection ends; None: all."""
    blob_bytes: int = 0
    """Bytes of blobs that were sent."""
    referrers: dict[str, list[dict[str, Any]]] | None = None
    """Descriptors of what refers to an artefact, by its digest; None: no API for them."""
    authorized: list[tuple[str, str]] = field(default_factory=list)
    """Path and header ``Authorization`` of each request that had one."""

    @property
    def realm(self) -> str:
        return f"https://{self.host}/service/token"

    def asked(self, words: str) -> int:
        """Return how many requests had these words in path or query."""
        return sum(words in path for path in self.paths)

    def token(self, scopes: list[str], account: str) -> bytes | None:
        """Return a token for what an account may do, None for a wrong account."""
        if account not in ("", _basic(USER, PASSWORD)):
            return None
        access = []
        for scope in scopes:
            kind, name, actions = scope.rsplit(":", 2) if scope.count(":") > 1 else ("", "", "")
            if account or name.partition("/")[0] in self.public:
                access.append({"type": kind, "name": name, "actions": actions.split(",")})
        return json.dumps({"token": self._signed(access), "expires_in": _TOKEN_SECONDS}).encode()

    def _signed(self, access: list[dict[str, Any]]) -> str:
        certificate = x509.load_pem_x509_certificate(self.signer.certificate.read_bytes())
        chain = base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()
        now = int(time.time())
        head = {"typ": "JWT", "alg": "RS256", "x5c": [chain]}
        claims = {
            "iss": "tests",
            "sub": "",
            "aud": "registry",
            "exp": now + _TOKEN_SECONDS,
            "nbf": now - 60,
            "iat": now - 60,
            "jti": str(time.monotonic_ns()),
            "access": access,
        }
        text = ".".join(_encoded(json.dumps(part).encode()) for part in (head, claims))
        signature = _key(self.signer.key).sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{text}.{_encoded(signature)}"

    def login(self) -> dict[str, str]:
        """Return headers that let a test push anything."""
        access = [{"type": "registry", "name": "catalog", "actions": ["*"]}]
        return {"Authorization": f"Bearer {self._signed(access)}"}

    def push_headers(self, repository: str) -> dict[str, str]:
        """Return headers that let a test push to a repository."""
        access = [{"type": "repository", "name": repository, "actions": ["pull", "push", "delete"]}]
        return {"Authorization": f"Bearer {self._signed(access)}"}

    def repositories(self, project: str) -> list[str]:
        """Return the repositories of a project that the registry has."""
        found = self._ask("/v2/_catalog?n=1000", "registry", "catalog", "*")["repositories"]
        return [name for name in found if name.startswith(f"{project}/")]

    def artefacts(self, repository: str) -> list[dict[str, Any]]:
        """Return the artefacts of a repository in the form of Harbor's API."""
        path = f"/v2/{repository}/tags/list"
        tags = self._ask(path, "repository", repository, "pull").get("tags") or []
        by_digest: dict[str, list[str]] = {}
        for tag in tags:
            by_digest.setdefault(self._digest(repository, tag), []).append(tag)
        return [
            {"type": "IMAGE", "digest": digest, "tags": [{"name": tag} for tag in tags]}
            for digest, tags in by_digest.items()
        ]

    def _digest(self, repository: str, tag: str) -> str:
        assert self.registry is not None
        path = f"/v2/{repository}/manifests/{tag}"
        access = [{"type": "repository", "name": repository, "actions": ["pull"]}]
        headers = {
            "Authorization": f"Bearer {self._signed(access)}",
            "Accept": f"{MANIFEST}, {INDEX}",
        }
        return self.registry.request("HEAD", path, headers=headers).headers["Docker-Content-Digest"]

    def _ask(self, path: str, kind: str, name: str, action: str) -> Any:
        assert self.registry is not None
        access = [{"type": kind, "name": name, "actions": [action]}]
        headers = {"Authorization": f"Bearer {self._signed(access)}"}
        return self.registry.request("GET", path, headers=headers).json()

    def passed_on(self, method: str, path: str, headers: dict[str, str]) -> requests.Response:
        """Return the answer of the registry behind."""
        assert self.registry is not None
        passed = {
            name: value
            for name, value in headers.items()
            if name.lower() in ("accept", "authorization", "if-none-match", "if-range", "range")
        }
        return self.session.request(
            method,
            self.registry.url(path),
            headers=passed,
            verify=str(self.registry.authority),
            stream=True,
            timeout=30,
        )


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


class _Responder(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # an answer in two segments takes 40 ms with it
    server: _Server

    def do_GET(self) -> None:
        world = self.server.world
        world.paths.append(self.path)
        account = self.headers.get("Authorization", "")
        if account:
            world.authorized.append((self.path, account))
        for fault in world.faults:
            if reply := fault(self.path):
                self._send(reply)
                return
        parts = urlsplit(self.path)
        if parts.path == "/service/token":
            token = world.token(parse_qs(parts.query).get("scope", []), account)
            self._send(Reply(200, token) if token else Reply(401))
        elif found := _ARTEFACTS.fullmatch(parts.path):
            project, name = unquote(found[1]), unquote(unquote(found[2]))
            self._list(project, account, lambda: world.artefacts(f"{project}/{name}"))
        elif found := _REPOSITORIES.fullmatch(parts.path):
            project = unquote(found[1])
            names = lambda: [{"name": each} for each in world.repositories(project)]  # noqa: E731
            self._list(project, account, names)
        elif world.referrers is not None and (found := _REFERRERS.fullmatch(parts.path)):
            self._refer(found[1], world.referrers.get(found[2], []), account)
        else:
            self._pass_on()

    def _list(self, project: str, account: str, items: Callable[[], list[Any]]) -> None:
        world = self.server.world
        if project not in world.public and account != _basic(USER, PASSWORD):
            self._send(Reply(401, b'{"errors":[{"code":"UNAUTHORIZED"}]}'))
            return
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        size, page = min(int(query["page_size"]), world.page_size), int(query["page"])
        found = items()
        headers: tuple[tuple[str, str], ...] = ()
        if page * size < len(found):
            following = f"{parts.path}?{urlencode(query | {'page': str(page + 1)})}"
            headers = (("Link", f'<{following}>; rel="next"'),)
        chosen = found[(page - 1) * size : page * size]
        if not found and page == 1 and not world.repositories(project):
            self._send(Reply(404, b'{"errors":[{"code":"NOT_FOUND"}]}'))
            return
        self._send(Reply(200, json.dumps(chosen).encode(), headers))

    def _refer(self, project: str, found: list[dict[str, Any]], account: str) -> None:
        """Answer as the distribution specification has it: an index, empty for none."""
        world = self.server.world
        if project not in world.public and not account.startswith("Bearer "):
            challenge = f'Bearer realm="{world.realm}",service="registry"'
            self._send(Reply(401, b"", (("WWW-Authenticate", challenge),)))
            return
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": found}
        self._send(Reply(200, json.dumps(index).encode(), (("Content-Type", INDEX),)))

    def _pass_on(self) -> None:
        with self.server.world.passed_on("GET", self.path, dict(self.headers)) as answer:
            self.send_response(answer.status_code)
            for name in _PASSED:
                if name in answer.headers:
                    self.send_header(name, answer.headers[name])
            if "WWW-Authenticate" in answer.headers:
                self.send_header("WWW-Authenticate", answer.headers["WWW-Authenticate"])
            self.end_headers()
            cut = self.server.world.cut if "/blobs/" in self.path else None
            for block in answer.iter_content(cut or 2**20):
                self.wfile.write(block)
                if "/blobs/" in self.path:
                    self.server.world.blob_bytes += len(block)
                if cut is not None:
                    self.close_connection = True
                    return

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        for name, value in reply.headers:
            self.send_header(name, value)
        if "Content-Length" in dict(reply.headers):  # a wrong one
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(len(reply.content)))
        self.end_headers()
        self.wfile.write(reply.content)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        pass


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    world: Harbor

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients of these tests hang up."""


@contextlib.contextmanager
def serve(
    credential: Credential, *, signer: Credential, host: str = "localhost"
) -> Iterator[Harbor]:
    """Serve on a free port of loopback until the end of the block."""
    server = _Server(("127.0.0.1", 0), _Responder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(credential.certificate, credential.key)
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    server.world = Harbor(f"{host}:{server.server_address[1]}", signer)
    with answering(server):
        yield server.world
        server.world.session.close()
