"""``cloudkeeper sync``: update the images in the cloud; the verb of cron and of 1.7.1."""

from __future__ import annotations

import argparse
import signal

from appliance.core import clock
from appliance.core.run import cli, lock
from appliance.core.run.errors import ConfigurationError, ExitStatus
from appliance.core.run.record import RunRecord, recorded
from cloudkeeper.frontend.commands import startup
from cloudkeeper.frontend.settings import FrontendSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own flags, and those of the configuration."""
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the changes that sync would make, and make none",
    )
    parser.add_argument("--json", action="store_true", help="print the changes as JSON")
    words = "allow each list to remove up to N images (default: half of its images, or 3)"
    parser.add_argument("--allow-remove", type=_amount, default=0, metavar="N", help=words)
    startup.add_arguments(parser)


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Update the images, or only check the configuration."""
    if arguments.check_config:
        return startup.report_check(startup.configure(arguments))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up as after Ctrl-C
    runs = None if arguments.dry_run else cli.layout(arguments).runs
    with recorded(startup.PROGRAM, runs) as record:
        record.status = _synchronise(startup.configure(arguments), arguments, record)
    return record.status


def _synchronise(
    configured: FrontendSettings, arguments: argparse.Namespace, record: RunRecord
) -> ExitStatus:
    """Create the parts of a run and run them, one run at a time."""
    # Imported here: gRPC and requests take long to import, and --help needs neither.
    from appliance.core.trust.ca_directory import CADirectory, CRLPolicy  # noqa: PLC0415
    from cloudkeeper.frontend import build_sources  # noqa: PLC0415
    from cloudkeeper.frontend.backend_client import BackendClient, Encryption  # noqa: PLC0415
    from cloudkeeper.frontend.commands import sync_output  # noqa: PLC0415
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
    sync_output.record(report, record)  # now, so that the record holds them however the run ends
    encryption = Encryption(*configured.certificates) if configured.certificates else None
    with (
        lock.hold(configured.lock_file),
        BackendClient(configured.endpoint, encryption=encryption) as backend,
    ):
        trust = CADirectory(configured.ca_dir, crls=CRLPolicy(configured.crl_policy))
        client = Downloader(trust)
        qemu = QemuImg(configured.qemu_img, configured.patience)
        state = cli.layout(arguments).path(startup.STATE)
        refused = RefusedImages(state / "refused.json", configured.formats)
        workshop = Workshop(configured.image_dir, configured.formats, qemu, refused)
        is_dry: bool = arguments.dry_run
        made = build_sources.build(configured, client, trust, state=state, is_read_only=is_dry)
        found = OfferSources(made, keeps=not is_dry)
        run = Synchronisation(
            found, backend, workshop, allowed=arguments.allow_remove, is_dry=is_dry
        )
        try:
            run.run(report, at=clock.now())
        finally:
            sync_output.record(report, record)
    sync_output.show(report, as_json=arguments.json, is_dry=arguments.dry_run)
    return ExitStatus.PARTLY if report.failures else ExitStatus.DONE


def _amount(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of images")
    return int(text)


VERB = cli.Program(
    "sync",
    "Update the images in the cloud; cloudkeeper does it without a verb, too.",
    add_arguments,
    run,
)
