"""``cloudkeeper-os``: manages the images of VOs in Glance, as a frontend requests over gRPC."""

from __future__ import annotations

import argparse
import ipaddress
import logging
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

from appliance.core.run import cli
from appliance.core.run.errors import ExitStatus, UsageError
from appliance.core.run.finding import Finding
from appliance.core.run.record import recorded
from cloudkeeper.backend import endpoint, settings
from cloudkeeper.backend.settings import BackendSettings

PROGRAM = "cloudkeeper-os"
_OVERRIDES = ("grpc_socket", "listen_address", "grpc_port", "mapping_file")
logger = logging.getLogger(PROGRAM)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this program."""
    files = " or ".join(settings.FILES)
    parser.add_argument(
        *cli.flags("config-file"),
        type=Path,
        metavar="PATH",
        help=f"configuration file (default: {files})",
    )
    words = f"unix socket to listen on (default: {endpoint.SOCKET}; none with a port)"
    parser.add_argument(*cli.flags("grpc-socket"), metavar="PATH", help=words)
    words = "TCP port to listen on, with mutual TLS (default: none)"
    parser.add_argument(*cli.flags("grpc-port"), metavar="PORT", help=words)
    words = "IP address of the port, or a host name to look up (default: 127.0.0.1)"
    parser.add_argument(*cli.flags("listen-address"), metavar="ADDRESS", help=words)
    words = f"JSON file that maps VOs to projects (default: {' or '.join(settings.MAPPINGS)})"
    parser.add_argument(*cli.flags("mapping-file"), metavar="PATH", help=words)
    words = "with --check-live, create an image of 1 KiB in the project of each VO, and delete it"
    parser.add_argument("--write", action="store_true", help=words)


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Serve until SIGTERM, or only check the configuration."""
    if arguments.check_config:
        return _report(_settings(arguments))
    with recorded(PROGRAM, cli.layout(arguments).runs, is_service=True):
        return _serve(arguments)


def attempts(arguments: argparse.Namespace) -> Iterator[Finding]:
    """Yield the faults of what the backend does in the cloud."""
    configured = _settings(arguments)
    from cloudkeeper.backend import live_check  # noqa: PLC0415  loads the OpenStack clients

    yield from live_check.findings(configured, writes=arguments.write)


def _settings(arguments: argparse.Namespace) -> BackendSettings:
    given = {name: value for name in _OVERRIDES if (value := getattr(arguments, name))}
    if arguments.listen_address:
        given["listen_address"] = _address(arguments.listen_address)
    return settings.load(arguments.config_file, layout=cli.layout(arguments), overrides=given)


def _serve(arguments: argparse.Namespace) -> ExitStatus:
    configured = _settings(arguments)
    cli.configure_log(
        arguments,
        level=logging.DEBUG if configured.is_debug else logging.INFO,
        file=configured.log_file,
        system=configured.system_logs,
        warnings=configured.warnings,
        logger=logger,
    )
    from cloudkeeper.backend import server  # noqa: PLC0415  loads gRPC
    from cloudkeeper.backend.calls import Servicer  # noqa: PLC0415  loads the OpenStack clients
    from cloudkeeper.backend.ownership import Ownership  # noqa: PLC0415
    from cloudkeeper.backend.protocol import Numbering  # noqa: PLC0415

    ownership = Ownership(configured.state)
    with ownership.held():
        servicer = Servicer(configured, ownership)
        try:
            server.serve(servicer, configured.listening, Numbering(configured.protocol))
        finally:
            servicer.close()
    return ExitStatus.DONE


def _address(text: str) -> str:
    """Return an IP address; names are looked up, because containers know their own by name."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        pass
    try:
        return str(socket.getaddrinfo(text, None, type=socket.SOCK_STREAM)[0][4][0])
    except (OSError, UnicodeError) as error:
        words = getattr(error, "strerror", None) or "not a valid host name"
        raise UsageError(
            "--listen-address", f"{text}: {words.lower()}", "set an address of this host"
        ) from None


def _report(configured: BackendSettings) -> ExitStatus:
    """Print the settings for ``--check-config``."""
    access = configured.access
    rows = {
        "file": configured.path,
        "keystone": f"{access.auth_url} as {access.account} ({access.auth_type})",
        "mapping": f"{configured.mapping} ({len(configured.projects)} VOs)",
        "images": f"from {configured.places}, {configured.visibility}, {configured.sharing}",
        "listens": configured.listening,
    }
    print("configuration is good")
    for name, value in rows.items():
        print(f"  {name:9} {value}")
    for problem in configured.warnings:
        logger.warning("%s", problem)
    return ExitStatus.DONE


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    return cli.main(
        cli.Program(
            PROGRAM,
            "Manage the images of VOs in Glance, as the frontend cloudkeeper requests over gRPC.",
            add_arguments,
            run,
            attempts=attempts,
        ),
        argv,
    )
