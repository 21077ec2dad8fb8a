"""``appliance certificates``: mutual TLS for a cloudkeeper on another host than its cloudkeeper-os.

On one host the two use a unix socket and need no certificates. The backend's unit calls
``--renew`` at each start, fedcloud-upkeep.timer does so afterwards, also while another verb changes
the host: the backend must not start with a certificate that has expired.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import socket
from collections.abc import Iterator

from appliance.admin import changing
from appliance.admin.certificates.places import BACKEND, FRONTEND, KEY
from appliance.core import clock, hosts
from appliance.core.run import cli
from appliance.core.run.errors import ExitStatus, LocalFailure, UsageError
from appliance.core.run.layout import Layout

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own flags."""
    words = "name or address by which cloudkeeper connects to the backend; may be repeated"
    parser.add_argument("--name", action="append", default=[], metavar="HOST", help=words)
    parser.add_argument(
        "--renew",
        action="store_true",
        help="renew certificates that expire within 60 days; do nothing if there are none",
    )


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Make or renew the certificates; return the exit status."""
    for name in arguments.name:
        if not hosts.is_host(name):
            raise UsageError(
                "--name", f"{name!r} is not a host name or address", "write one without a port"
            )
    layout = cli.layout(arguments)
    if arguments.check_config or (arguments.renew and not layout.path(KEY).exists()):
        return ExitStatus.DONE
    # Imported here, because cryptography takes long to load.
    from appliance.admin.certificates.authority import Authority  # noqa: PLC0415

    authority = Authority(layout)
    names = arguments.name if arguments.renew else [*_own_names(), *arguments.name]
    try:
        with (
            contextlib.nullcontext() if arguments.renew else changing.alone(layout),
            changing.small("certificates", layout),
        ):
            written = list(authority.maintain(names, at=clock.now()))
    except OSError as error:
        raise LocalFailure.from_os(error, subject=error.filename or authority.directory) from error
    for path in written:
        print(path)
    if not arguments.renew:
        print("\n".join(_instructions(layout)))
    elif layout.path(FRONTEND) / "certificate.pem" in written:
        place = layout.path(FRONTEND)
        logger.warning(
            "%s: was renewed; copy it to cloudkeeper's host, if that is another one",
            place,
        )
    return ExitStatus.DONE


def _own_names() -> list[str]:
    """Return the names by which this host and its containers connect to the backend."""
    return list(dict.fromkeys(["backend", "localhost", "127.0.0.1", socket.getfqdn()]))


def _instructions(layout: Layout) -> Iterator[str]:
    backend, frontend = layout.path(BACKEND), layout.path(FRONTEND)
    yield ""
    yield f"In cloudkeeper-os.conf, section [DEFAULT]; its certificate is in {backend}:"
    yield "  grpc_port = 50051"
    yield "  listen_address = 0.0.0.0"
    yield f"In cloudkeeper.yml on the other host, after you have copied {frontend} to it:"
    yield "  backend:"
    yield "    endpoint: HOST:50051"
    yield f"    certificate: {frontend}/authority.pem"
    yield "  authentication: true"
    yield f"  certificate: {frontend}/certificate.pem"
    yield f"  key: {frontend}/key.pem"


VERB = cli.Program(
    "certificates",
    "Make and renew certificates for a cloudkeeper on another host than its backend.",
    add_arguments,
    run,
)
