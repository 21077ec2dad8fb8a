"""``appliance diff information``: compare the site's JSON with what EGI serves of this site.

The file is the one that the job cloud-info-json writes. Exit status: 0 if both agree, 1 if they
differ, with a line for each difference, 3 if the service cannot be reached or there is no file.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

from appliance.admin import settings, web_reader
from appliance.admin.diff import served, view
from appliance.admin.diff.view import SiteView, ViewDifference
from appliance.admin.run import run as run_verb
from appliance.admin.web_reader import WebReader
from appliance.core import clock, files, hosts, site_document
from appliance.core.run import cli, log
from appliance.core.run.errors import ExitStatus, Unavailable, UsageError
from appliance.core.run.layout import Layout
from appliance.core.site_document import Document

_JOB = "cloud-info-json"
_FILE = "/var/lib/fedcloud/cloud-info/information.json"
_EGI = "https://is.cloud.egi.eu"
_LARGEST = 64 * 2**20
_TIMEOUT = 30
_LONGEST_TIMEOUT = 3600
_COLUMNS = ("WHAT", "VO", "NAME", "HERE", "THERE")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--file", type=Path, metavar="PATH", help=f"the site's JSON (default: {_FILE})"
    )
    parser.add_argument(
        "--fresh", action="store_true", help=f"run the job {_JOB} first, which writes the file"
    )
    parser.add_argument(
        "--url",
        metavar="URL",
        help=f"information service, or an object that ends in .json (default: {_EGI})",
    )
    parser.add_argument(
        "--timeout",
        type=int,
        default=_TIMEOUT,
        metavar="SECONDS",
        help=f"seconds to wait for an answer, 1 to {_LONGEST_TIMEOUT} (default: {_TIMEOUT})",
    )
    parser.add_argument("--json", action="store_true", help="print the differences as JSON")


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Compare, print the differences, and return the exit status."""
    layout = cli.layout(arguments)
    host = settings.load(layout)
    url = _url(arguments, host)
    if arguments.check_config:
        return ExitStatus.DONE
    if arguments.fresh:
        _refresh(arguments)
    path = arguments.file.absolute() if arguments.file else layout.path(_FILE)
    document = _read(path, is_own=arguments.file is None)
    reader = web_reader.of_site(layout, host.proxies, timeout=timedelta(seconds=arguments.timeout))
    here, there, found = _compared(document, reader, url)
    if arguments.json:
        _print_json(path, url, here, there, found)
    else:
        _print_table(path, url, here, there, found)
    return ExitStatus.PARTLY if found else ExitStatus.DONE


def _compared(
    document: Document, reader: WebReader, url: str
) -> tuple[SiteView, SiteView | None, list[ViewDifference]]:
    here = view.of_document(document)
    there = served.read(reader, url, name=here.name, gocdb_id=site_document.gocdb_id(document))
    return here, there, list(view.differences(here, there, now=clock.now()))


def of_own_file(layout: Layout, host: settings.Host) -> list[ViewDifference]:
    """Return the differences between the site's JSON and what EGI serves of this site.

    Raises:
        Unavailable: there is no such file, or the service does not answer.

    """
    document = _read(layout.path(_FILE), is_own=True)
    reader = web_reader.of_site(layout, host.proxies, timeout=timedelta(seconds=_TIMEOUT))
    return _compared(document, reader, host.egi.information)[2]


def _url(arguments: argparse.Namespace, host: settings.Host) -> str:
    if not 1 <= arguments.timeout <= _LONGEST_TIMEOUT:
        words = f"must be 1 to {_LONGEST_TIMEOUT}"
        raise UsageError("--timeout", words, "write a number of seconds")
    if not arguments.url:
        if host.profile != "egi":
            words = f"must be given, because the profile in {host.settings_file} is {host.profile}"
            raise UsageError("--url", words, "write the URL of your information service")
        return _EGI
    if fault := hosts.url_fault(arguments.url):
        raise UsageError("--url", fault, "write https://HOST")
    return str(arguments.url)


def _refresh(arguments: argparse.Namespace) -> None:
    """Run the job; a run that left something undone has written the rest."""
    steps = cli.Program("appliance", "", lambda _: None, cli.dispatch, verbs=(run_verb.VERB,))
    root = str(cli.layout(arguments).root)
    status = cli.main(steps, ["run", _JOB, "--wait", "--log", "--root", root])
    if status not in (ExitStatus.DONE, ExitStatus.PARTLY):
        words = f"failed with exit status {status}, so there is nothing new to compare"
        raise Unavailable(_JOB, words, f"see appliance logs {_JOB}")


def _read(path: Path, *, is_own: bool) -> Document:
    try:
        content = files.read_regular(path, limit=_LARGEST, follow=True)
    except FileNotFoundError:
        remedy = (
            f"write it with appliance run {_JOB}, or schedule that:"
            f" appliance schedule cron|systemd --with {_JOB}"
        )
        words = "does not exist"
        raise Unavailable(path, words, remedy if is_own else "correct --file") from None
    except files.NotAFile as error:
        remedy = "name the site's JSON with --file"
        raise Unavailable(path, str(error.strerror).lower(), remedy) from error
    except OSError as error:
        raise files.describe_unusable(path, error) from error
    try:
        return site_document.load(content)
    except ValueError as error:
        remedy = f"write it again with appliance run {_JOB}"
        raise Unavailable(path, f"is not a site's JSON: {error}", remedy) from error


def _print_table(
    path: Path,
    url: str,
    here: SiteView,
    there: SiteView | None,
    found: Sequence[ViewDifference],
) -> None:
    now = clock.now()
    age = f", of {view.ago(now - here.created)} ago" if here.created else ""
    print(log.one_line(f"HERE   {here.name}: {path}{age}"))
    print(f"THERE  {url}{_times(there)}")
    if not found:
        images = sum(map(len, here.images.values()))
        print(f"No difference: {len(here.projects)} VOs, {images} images.")
        return
    rows = [
        _COLUMNS,
        *((one.what, one.vo, one.subject, one.here or "-", one.there or "-") for one in found),
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print(log.one_line("  ".join(cells).rstrip()))
    if there is None:
        words = f"No site {here.name} is listed: check GOCDB, and ask the catch-all's operators."
        print(log.one_line(words))


def _times(there: SiteView | None) -> str:
    if there is None:
        return ""
    if there.created:
        return f", of {view.ago(clock.now() - there.created)} ago"
    return ", which shows neither flavors nor times"


def _print_json(
    path: Path,
    url: str,
    here: SiteView,
    there: SiteView | None,
    found: Sequence[ViewDifference],
) -> None:
    shown = {
        "site": here.name,
        "file": str(path),
        "created": here.created and here.created.isoformat(),
        "url": url,
        "url_created": there.created.isoformat() if there and there.created else None,
        "is_listed": there is not None,
        "compared": ["url", "vos", "projects", "images", "versions"]
        + (["flavors", "age"] if there and there.flavors is not None else []),
        "differences": [asdict(one) for one in found],
    }
    print(json.dumps(shown, indent=1, ensure_ascii=False))


VERB = cli.Program(
    "information",
    "Compare the site's JSON with what EGI's information service serves of this site.",
    _add_arguments,
    run,
)
