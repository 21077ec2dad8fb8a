"""``appliance bdii search`` and ``appliance bdii wait``: LDAP queries of a BDII.

``search`` accepts the options of ldapsearch of OpenLDAP 2.4, also ``-h`` and ``-p``, which later
releases have dropped, so that command lines of old manuals work. ``-x`` and ``-LLL`` are accepted
without effect: anonymous binds and plain LDIF are the only mode.
"""

from __future__ import annotations

import argparse
from datetime import timedelta
from urllib.parse import urlsplit

from appliance.admin import settings
from appliance.admin.wait.polling import ServiceWatch, wait_until
from appliance.core import directory, ldif
from appliance.core.run import cli
from appliance.core.run.errors import ExitStatus, UsageError

PORT = 2170
_PAUSE = 0.2
_ANSWER = timedelta(seconds=5)


def _add_place(parser: argparse.ArgumentParser) -> None:
    words = "host of the BDII (default: localhost, or the address of FEDCLOUD_BDII_LISTEN)"
    parser.add_argument("-h", dest="host", metavar="HOST", help=words)
    parser.add_argument(
        "-p",
        dest="port",
        metavar="PORT",
        type=int,
        help=f"port of the BDII (default: {PORT}, or the port of FEDCLOUD_BDII_LISTEN)",
    )
    parser.add_argument(
        "-H",
        dest="url",
        metavar="URL",
        help="URL of the BDII, ldap://HOST:PORT; replaces -h and -p",
    )


def _place(arguments: argparse.Namespace) -> tuple[str, int]:
    if not arguments.url:
        own = None if arguments.host else settings.load(cli.layout(arguments)).listen
        host, port = own or (arguments.host or "localhost", PORT)
        return host, arguments.port or port
    try:
        parts = urlsplit(arguments.url)
        # urlsplit raises ValueError for a port that is not a number, and for half a bracket.
        host, port = parts.hostname, parts.port or PORT
    except ValueError:
        host, port = None, 0
    if host is None or parts.scheme != "ldap":
        raise UsageError("-H", f"{arguments.url!r} is not a URL of LDAP", "write ldap://HOST:PORT")
    return host, port


def _add_search_arguments(parser: argparse.ArgumentParser) -> None:
    _add_place(parser)
    parser.add_argument(
        "-b",
        dest="base",
        metavar="BASE",
        default="o=glue",
        help="base DN of the search (default: o=glue)",
    )
    parser.add_argument("-x", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("-L", action="count", help=argparse.SUPPRESS)
    parser.add_argument(
        "words",
        nargs="*",
        metavar="[FILTER] ATTRIBUTE",
        help="filter and attributes as for ldapsearch (default: all entries and attributes)",
    )


def _search(arguments: argparse.Namespace) -> ExitStatus:
    host, port = _place(arguments)
    words = list(arguments.words)
    # ldapsearch distinguishes them in the same way: a filter has an equals sign.
    filter_ = words.pop(0) if words and "=" in words[0] else "(objectClass=*)"
    filter_ = filter_ if filter_.startswith("(") else f"({filter_})"
    found = directory.read(
        host, port=port, base=arguments.base, filter_=filter_, attributes=words or ["*"]
    )
    for text in ldif.write(found):
        print(text, end="")
    print(f"# numEntries: {len(found)}")
    return ExitStatus.DONE


def _add_wait_arguments(parser: argparse.ArgumentParser) -> None:
    _add_place(parser)
    parser.add_argument(
        "--timeout",
        type=int,
        metavar="SECONDS",
        default=120,
        help="seconds to wait (default: 120)",
    )
    parser.add_argument(
        "--service",
        metavar="NAME",
        help="wait for this service only; stop waiting if its container exits",
    )
    parser.add_argument(
        "--pid",
        type=int,
        metavar="PID",
        help="stop waiting if this process, which runs the service, has ended; "
        "with containers, give --service too",
    )


def _wait(arguments: argparse.Namespace) -> ExitStatus:
    host, port = _place(arguments)
    watch = None
    own = settings.load(cli.layout(arguments))
    if arguments.service or (arguments.pid and own.is_native):
        watch = ServiceWatch(own.engine_socket, arguments.service or "sitebdii", arguments.pid)
    wait_for(host, port, watch=watch, timeout=arguments.timeout)
    return ExitStatus.DONE


def wait_for(host: str, port: int, *, watch: ServiceWatch | None, timeout: int) -> None:
    """Wait until the BDII at this address answers, at most ``timeout`` seconds.

    With a ``watch``, only an answer of its service counts, and the wait ends early if that service
    cannot start.

    Raises:
        Unavailable: There was no answer in time, or the service cannot start.

    """
    wait_until(
        lambda: _fault(host, port, watch),
        subject=f"{host}:{port}",
        service="sitebdii",
        timeout=timeout,
        pause=_PAUSE,
        watch=watch,
    )


def _fault(host: str, port: int, watch: ServiceWatch | None) -> str:
    """Query once; return why there is no answer of the service, empty if there is one."""
    if fault := directory.why_silent(host, port, timeout=_ANSWER):
        return fault
    # passes_check() returns None if the engine does not answer; the answer counts then.
    return "another program answers there" if watch and watch.passes_check() is False else ""


VERB = cli.Program(
    "bdii",
    "Query the BDII as its clients do.",
    lambda _parser: None,
    cli.dispatch,
    verbs=(
        cli.Program(
            "search",
            "Search, and print the entries as LDIF.",
            _add_search_arguments,
            _search,
            takes_h=True,
        ),
        cli.Program(
            "wait", "Wait until the BDII answers.", _add_wait_arguments, _wait, takes_h=True
        ),
    ),
)
