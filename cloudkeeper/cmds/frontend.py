"""``cloudkeeper``: keeps the images in the cloud equal to those of signed image lists."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.core import clock, files
from appliance.core.run import cli, lock, log
from appliance.core.run.errors import ConfigurationError, ExitStatus, LocalFailure
from appliance.core.run.record import RunRecord, recorded
from appliance.core.version import __version__
from cloudkeeper.frontend import settings
from cloudkeeper.frontend.settings import FrontendSettings

if TYPE_CHECKING:  # start-up is a cost
    from cloudkeeper.frontend.source_settings import RegistrySettings
    from cloudkeeper.frontend.sync import ChangeOutcome, SyncReport

PROGRAM = "cloudkeeper"
_PEER_PARTLY = 12
logger = logging.getLogger(PROGRAM)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command, our own flags, and those of cloudkeeper 1.7.1."""
    words = (
        "sync: update the images in the cloud; version: print the version; help: print this help "
        "(default: sync)"
    )
    parser.add_argument(
        "command", nargs="?", choices=["sync", "version", "help"], default="sync", help=words
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help=f"configuration file (default: {settings.FILE})"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the changes that sync would make, and make none",
    )
    parser.add_argument("--json", action="store_true", help="print the changes as JSON")
    words = "allow each list to remove up to N images (default: half of its images, or 3)"
    parser.add_argument("--allow-remove", type=_amount, default=0, metavar="N", help=words)
    parser.add_argument(
        "--no-debug", dest="debug", action="store_false", default=False, help="undo --debug"
    )
    settings.add_arguments(parser)


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Run the command that the arguments name."""
    match arguments.command:
        case "version":
            print(__version__)
            return ExitStatus.DONE
        case "help":
            cli.parser(_program()).print_help()
            return ExitStatus.DONE
    if arguments.check_config:
        return _report_check(_configure(arguments))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up as after Ctrl-C
    with recorded(PROGRAM, None if arguments.dry_run else cli.layout(arguments).runs) as record:
        record.status = _synchronise(_configure(arguments), arguments, record)
    return record.status


def _configure(arguments: argparse.Namespace) -> FrontendSettings:
    configured = settings.load(arguments, cli.layout(arguments))
    _configure_log(configured, arguments)
    return configured


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    return cli.main(_program(), argv)


def _program() -> cli.Program:
    return cli.Program(
        PROGRAM,
        "Keeps the images in the cloud equal to those of signed image lists.",
        add_arguments,
        run,
        compatible_status=_peer_status,
    )


def _synchronise(
    configured: FrontendSettings, arguments: argparse.Namespace, record: RunRecord
) -> ExitStatus:
    """Create the parts of a run and run them, one run at a time."""
    # Imported here: gRPC and requests take long to import, and --help needs neither.
    from appliance.core.trust.ca_directory import CADirectory, CRLPolicy  # noqa: PLC0415
    from cloudkeeper.frontend import build_sources  # noqa: PLC0415
    from cloudkeeper.frontend.backend_client import BackendClient, Encryption  # noqa: PLC0415
    from cloudkeeper.frontend.conversion import QemuImg  # noqa: PLC0415
    from cloudkeeper.frontend.download import Downloader  # noqa: PLC0415
    from cloudkeeper.frontend.refused import RefusedImages  # noqa: PLC0415
    from cloudkeeper.frontend.sync import OfferSources, Synchronisation, SyncReport  # noqa: PLC0415
    from cloudkeeper.frontend.transfer import Workshop  # noqa: PLC0415

    # Without any source nothing can be done, so this is an error and not a partial run.
    number = len(configured.lists) + len(configured.registries)
    if not number:
        raise ConfigurationError(configured.list_problems)
    report = SyncReport(lists_left=number + len(configured.list_problems))
    for problem in configured.list_problems:
        report.fail(str(problem))
    _record(report, record)  # now, so that the record holds them however the run ends
    encryption = Encryption(*configured.certificates) if configured.certificates else None
    with (
        lock.hold(configured.lock_file),
        BackendClient(configured.endpoint, encryption=encryption) as backend,
    ):
        trust = CADirectory(configured.ca_dir, crls=CRLPolicy(configured.crl_policy))
        client = Downloader(trust)
        qemu = QemuImg(configured.qemu_img, configured.patience)
        state = cli.layout(arguments).path("/var/lib/fedcloud/cloudkeeper")
        refused = RefusedImages(state / "refused.json", configured.formats)
        workshop = Workshop(configured.image_dir, configured.formats, qemu, refused)
        made = build_sources.build(configured, client, trust, state=state)
        found = OfferSources(made, keeps=not arguments.dry_run)
        run = Synchronisation(
            found, backend, workshop, allowed=arguments.allow_remove, is_dry=arguments.dry_run
        )
        try:
            run.run(report, at=clock.now())
        finally:
            _record(report, record)
    _print(report, as_json=arguments.json, is_dry=arguments.dry_run)
    return ExitStatus.PARTLY if report.failures else ExitStatus.DONE


def _record(report: SyncReport, record: RunRecord) -> None:
    """Copy the report into the run's record; the second call replaces the first."""
    from cloudkeeper.model import Create, Remove, Update, UpdateMetadata  # noqa: PLC0415

    record.failures.clear()
    record.counts.clear()
    for line in report.failures:
        record.fail(line)
    kinds = {
        "added": Create,
        "updated": Update,
        "metadata_updated": UpdateMetadata,
        "removed": Remove,
    }
    for name, kind in kinds.items():
        record.add(f"images_{name}", report.done(kind))
    record.add("images_failed", sum(bool(outcome.failure) for outcome in report.outcomes))
    record.add("images_unchanged", report.unchanged)
    record.add("images_held_by_others", report.held_by_others)
    record.add("removals_withheld", report.withheld)
    record.add("lists_accepted", report.lists)
    record.add("lists_refused", report.refused_lists)
    record.add("lists_left", report.lists_left)
    record.add("transferred_bytes", report.transferred_bytes)


def _print(report: SyncReport, *, as_json: bool, is_dry: bool) -> None:
    """Print the whole report as JSON, or the changes of a dry run as lines."""
    from cloudkeeper.frontend.sync import describe  # noqa: PLC0415

    if as_json:
        document = {
            "changes": [_as_json(outcome, is_dry=is_dry) for outcome in report.outcomes],
            "unchanged": report.unchanged,
            "withheld": report.withheld,
            "failures": report.failures,
        }
        print(log.redact(json.dumps(document, indent=1)))
    elif is_dry:
        for outcome in report.outcomes:
            print(log.one_line(log.redact(f"{outcome.vo}: would {describe(outcome.change)}")))
        print(
            f"{len(report.outcomes)} changes, {report.unchanged} images unchanged, nothing was done"
        )


def _as_json(outcome: ChangeOutcome, *, is_dry: bool) -> dict[str, object]:
    appliance = outcome.change.appliance
    state = "failed" if outcome.failure else "done"
    return {
        "action": type(outcome.change).__name__,
        "vo": outcome.vo,
        "list": appliance.list_id,
        "image": appliance.identifier,
        "title": appliance.title,
        "reason": getattr(outcome.change, "reason", "it is new in the list"),
        "state": "planned" if is_dry else state,
        "failure": outcome.failure,
    }


def _report_check(configured: FrontendSettings) -> ExitStatus:
    """Print the settings for ``--check-config``; invalid lists are an error."""
    is_socket = configured.endpoint.startswith("unix:")
    protection = ", mutual TLS" if configured.certificates else ", without TLS"
    rows = {
        "lists": ", ".join(map(str, configured.lists)) or "none",
        "registries": ", ".join(map(_shown, configured.registries)) or "none",
        "trust anchors": f"{configured.ca_dir}, CRLs: {configured.crl_policy}",
        "image files": f"{configured.image_dir}, accepted: {', '.join(configured.formats)}",
        "backend": configured.endpoint + ("" if is_socket else protection),
        "lock": str(configured.lock_file),
    }
    for name, value in rows.items():
        print(f"{name + ':':15}{value}")
    if configured.list_problems:
        raise ConfigurationError(configured.list_problems)
    return ExitStatus.DONE


def _shown(registry: RegistrySettings) -> str:
    return f"{registry} for {' '.join(registry.vos)}"


def _configure_log(configured: FrontendSettings, arguments: argparse.Namespace) -> None:
    os.umask(0o027)  # the log and the image directory are for the account and its group
    file = None if arguments.check_config else configured.log_file
    if file is not None:
        try:
            files.make_directory(file.parent)
        except OSError as error:
            raise LocalFailure.from_os(error, subject=file.parent) from error
    cli.configure_log(
        arguments,
        level=configured.log_level,
        file=file,
        console=True,
        warnings=configured.warnings,
        logger=logger,
    )


def _amount(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of images")
    return int(text)


def _peer_status(status: ExitStatus) -> int:
    """Return the exit status of 1.7.1: 12 if some images failed, 1 if nothing could be done."""
    return {ExitStatus.DONE: 0, ExitStatus.PARTLY: _PEER_PARTLY}.get(status, 1)
