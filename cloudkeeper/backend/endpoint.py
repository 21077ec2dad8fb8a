"""The endpoints of the backend as its configuration names them: a unix socket, a TCP port, or both.

The socket is in a directory that only the frontend's account can enter. A TCP port is opened only
when ``grpc_port`` is set, and then with mutual TLS: the frontend must present a certificate for
``frontend_name``. ``accept_anyone_without_tls`` serves a frontend of cloudkeeper 1.7.1 that has no
certificate.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from appliance.core import hosts
from appliance.core.config.settings import Settings
from appliance.core.run.layout import Layout

SOCKET = "/run/cloudkeeper/backend.sock"
FRONTEND_NAME = "cloudkeeper"
"""The name in the certificate that `appliance certificates` makes for the frontend."""
_CERTIFICATES = "/etc/fedcloud/tls/cloudkeeper-os"
_WITHOUT_TLS = "accept_anyone_without_tls"
# Options of TLS, with the names of the files that `appliance certificates` writes.
_FILES = {"certificate": "certificate.pem", "key": "key.pem", "core_certificate": "authority.pem"}
_OPTIONS = ("grpc_socket", "grpc_port", "listen_address", "frontend_name", _WITHOUT_TLS)
# Bytes of a socket's path: ``sun_path`` holds 108 with the final NUL (unix(7)).
_LONGEST_PATH = 107


@dataclass(frozen=True, slots=True)
class MutualTLS:
    """Certificate and key of this side, and the requirements for a frontend; all files are PEM."""

    certificate: Path
    key: Path
    frontend_authority: Path
    """Authority of the frontend's certificate, or that certificate itself."""
    frontend_name: str


@dataclass(frozen=True, slots=True)
class Port:
    """A TCP port; without ``tls``, anyone who can connect controls the backend."""

    address: str
    number: int
    tls: MutualTLS | None

    @property
    def endpoint(self) -> str:
        """Address and port in the form of a URL; an IPv6 address has brackets."""
        return hosts.join_port(self.address, self.number)


@dataclass(frozen=True, slots=True)
class Listening:
    """The endpoints to listen on: at least one of the two, but for direct mode."""

    socket: Path | None
    port: Port | None

    def __str__(self) -> str:
        return ", ".join(self._endpoints())

    def _endpoints(self) -> Iterator[str]:
        if self.socket:
            yield f"unix://{self.socket}"
        if self.port:
            tls = self.port.tls
            protection = f"mutual TLS, for {tls.frontend_name}" if tls else "NO TLS, for anyone"
            yield f"{self.port.endpoint} ({protection})"


def read(settings: Settings, layout: Layout) -> Listening:
    """Read the options of ``[DEFAULT]``; ``settings`` collects errors and warnings."""
    port = _port(settings, layout)
    entry = settings.where("DEFAULT", "grpc_socket")
    socket = settings.path("DEFAULT", "grpc_socket", default=layout.path(SOCKET))
    if len(str(socket).encode()) > _LONGEST_PATH:
        settings.error(
            "DEFAULT",
            "grpc_socket",
            f"{socket} is longer than {_LONGEST_PATH} bytes; write a shorter path",
        )
    # 0.9.x has no socket: a configuration with a port gets one only if it sets grpc_socket.
    return Listening(socket if entry or port is None else None, port)


def ignore(settings: Settings) -> Listening:
    """Return no endpoint, whatever the options say."""
    settings.accept("DEFAULT", (*_OPTIONS, *_FILES))
    return Listening(None, None)


def _port(settings: Settings, layout: Layout) -> Port | None:
    entry = settings.where("DEFAULT", "grpc_port")
    number = settings.integer("DEFAULT", "grpc_port", default=0, minimum=1, maximum=hosts.MAX_PORT)
    address = _address(settings)
    is_open = settings.boolean("DEFAULT", _WITHOUT_TLS, default=False)
    tls = _tls(settings, layout, is_wanted=bool(number) and not is_open)
    if entry is None or not entry.text:
        for option in ("listen_address", _WITHOUT_TLS):
            if settings.where("DEFAULT", option):
                settings.warn("DEFAULT", option, "has no effect without grpc_port; remove it")
        return None
    if is_open:
        settings.warn(
            "DEFAULT",
            _WITHOUT_TLS,
            "true: anyone who can connect to grpc_port can add and remove images of this cloud; "
            "remove the line as soon as the frontend has a certificate (appliance certificates)",
        )
    return Port(address, number, None if is_open else tls)


def _address(settings: Settings) -> str:
    address = settings.text("DEFAULT", "listen_address", default="127.0.0.1")
    try:
        ipaddress.ip_address(address)
    except ValueError:
        settings.error(
            "DEFAULT",
            "listen_address",
            f"{address!r} is not an IP address; set one, without a port (that is grpc_port)",
        )
    return address


def _tls(settings: Settings, layout: Layout, *, is_wanted: bool) -> MutualTLS | None:
    defaults = {option: layout.path(_CERTIFICATES) / name for option, name in _FILES.items()}
    name = settings.text("DEFAULT", "frontend_name", default=FRONTEND_NAME)
    settings.accept("DEFAULT", _FILES)
    if not is_wanted:
        return None
    written = [option for option in _FILES if settings.where("DEFAULT", option)]
    if not written and not any(path.exists() for path in defaults.values()):
        settings.error(
            "DEFAULT",
            "grpc_port",
            "a TCP port needs mutual TLS, and there are no certificates; remove this line (the "
            f"frontend of this host uses {layout.path(SOCKET)}), or, for a frontend on another "
            "host, run: appliance certificates",
        )
        return None
    files = {
        option: settings.file("DEFAULT", option, default=path) or path
        for option, path in defaults.items()
    }
    return MutualTLS(files["certificate"], files["key"], files["core_certificate"], name)
