"""``python -m tests.testbed COMMAND``: the test bed from the command line."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from appliance.core.run.errors import ApplianceError, ExitStatus
from tests.testbed.layout import CLOUD_SERVICES, SERVICES, TOP
from tests.testbed.processes import Records
from tests.testbed.seed import Seed
from tests.testbed.testbed import Testbed

_STATE, _PORT_BASE = "FEDCLOUD_TESTBED_STATE", "FEDCLOUD_TESTBED_PORT_BASE"
_MEBIBYTE = 1 << 20
_PORTS = (1024, 64000)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; a known failure is one line."""
    arguments = _parser().parse_args(argv)
    testbed = Testbed(arguments.state, arguments.port_base)
    try:
        _COMMANDS[arguments.command](testbed, arguments)
    except ApplianceError as error:
        print(f"testbed: {error}", file=sys.stderr)
        return int(error.status)
    except OSError as error:
        print(f"testbed: {error}", file=sys.stderr)
        return int(ExitStatus.NOTHING)
    except KeyboardInterrupt:
        print("testbed: interrupted; run again to go on", file=sys.stderr)
        return int(ExitStatus.NOTHING)
    return int(ExitStatus.DONE)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.testbed",
        description="A real cloud and a real broker on loopback, for tests, in one directory.",
        epilog="$FEDCLOUD_TESTBED_ENV: Python environment with the services "
        "(default: .cache/env/testbed).",
    )
    parser.add_argument(
        "--state",
        type=Path,
        default=Path(os.environ.get(_STATE) or TOP / ".cache/testbed/default"),
        help=f"directory of the instance (%(default)s, or ${_STATE})",
    )
    parser.add_argument(
        "--port-base",
        type=_port_base,
        default=os.environ.get(_PORT_BASE) or "25000",
        help=f"the first of its thousand ports (%(default)s, or ${_PORT_BASE})",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="start what is not running")
    up.add_argument(
        "--services", type=lambda text: text.split(","), default=SERVICES, metavar="NAME,NAME"
    )
    commands.add_parser("seed", help="fill the cloud, once")
    bulk = commands.add_parser("bulk", help="add, or clear, thousands of servers of the past")
    bulk.add_argument("count", type=_count, nargs="?", default=0)
    bulk.add_argument("--project", default="vo-fedcloud")
    bulk.add_argument(
        "--days", type=_count, default=60, help="how far back they were born (%(default)s)"
    )
    bulk.add_argument(
        "--running",
        type=_count,
        default=10,
        metavar="PERCENT",
        help="of them that live (%(default)s)",
    )
    bulk.add_argument("--clear", action="store_true")
    reset = commands.add_parser(
        "reset", help="forget the broker's queues and the servers of the past"
    )
    reset.add_argument(
        "--restore", action="store_true", help="restart the cloud with what was seeded"
    )
    region = commands.add_parser(
        "region2", help="show or hide a second region, where nobody listens"
    )
    region.add_argument("shown", choices=("on", "off"))
    commands.add_parser("status", help="processes, ports, memory")
    commands.add_parser("env", help="print exports for the tools' accounts")
    commands.add_parser("down", help="stop everything, keep the state")
    commands.add_parser("wipe", help="stop everything, remove the state")
    return parser


def _port_base(text: str) -> int:
    number = _count(text)
    if not _PORTS[0] <= number <= _PORTS[1]:
        raise argparse.ArgumentTypeError(f"{text} is not between {_PORTS[0]} and {_PORTS[1]}")
    return number


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is not a number")
    return int(text)


def _bulk(testbed: Testbed, arguments: argparse.Namespace) -> None:
    if arguments.clear:
        testbed.clear_bulk()
    if arguments.count:
        testbed.bulk(
            arguments.count,
            project=arguments.project,
            days=arguments.days,
            running=arguments.running,
        )


def _status(testbed: Testbed, _: argparse.Namespace) -> None:
    layout, records, total = testbed.layout, Records(testbed.layout.run), 0
    print(f"{'service':<10} {'pid':>8} {'port':>6} {'memory':>9}  log")
    for name in SERVICES:
        process = records.find(name)
        memory = process.memory() if process else 0
        total += memory
        port = layout.port(name if name in CLOUD_SERVICES else f"{name}-tls")
        pid = str(process.pid) if process else "down"
        print(
            f"{name:<10} {pid:>8} {port:>6} {memory / _MEBIBYTE:>5.0f} MiB  {layout.log / name}.log"
        )
    print(f"{'all':<10} {'':>8} {'':>6} {total / _MEBIBYTE:>5.0f} MiB  {layout.state}")


def _env(testbed: Testbed, _: argparse.Namespace) -> None:
    """Print what is common to all accounts, then each tool's secret under a name of its own."""
    seed = Seed.read(testbed.layout.seed)
    exports = {
        "OS_AUTH_URL": testbed.keystone_url,
        "OS_CACERT": str(testbed.ca_file),
        "OS_IDENTITY_API_VERSION": "3",
        "OS_REGION_NAME": "RegionOne",
        "OS_USER_DOMAIN_NAME": "Default",
        "OS_PROJECT_DOMAIN_NAME": "Default",
        "OS_USERNAME": "accounting",
        "OS_PASSWORD": seed.accounts["accounting"].password,
        "OS_PROJECT_NAME": "vo-fedcloud",
    }
    for account in seed.accounts.values():
        exports[f"{account.name.upper()}_USERNAME"] = account.name
        exports[f"{account.name.upper()}_PASSWORD"] = account.password
    exports["APPLICATION_CREDENTIAL_ID"] = seed.application_credential.id
    exports["APPLICATION_CREDENTIAL_SECRET"] = seed.application_credential.secret
    exports["X509_CERT_DIR"] = str(testbed.ca_directory)
    for name, value in exports.items():
        print(f"export {name}={shlex.quote(value)}")


_COMMANDS: dict[str, Callable[[Testbed, argparse.Namespace], object]] = {
    "up": lambda testbed, arguments: testbed.up(arguments.services),
    "seed": lambda testbed, _: testbed.seed(),
    "bulk": _bulk,
    "reset": lambda testbed, arguments: testbed.reset(restore=arguments.restore),
    "region2": lambda testbed, arguments: testbed.show_second_region(shown=arguments.shown == "on"),
    "status": _status,
    "env": _env,
    "down": lambda testbed, _: testbed.down(),
    "wipe": lambda testbed, _: testbed.wipe(),
}
