"""`caso shadow`: account beside a cASO that still runs, and keep what it spools."""

from __future__ import annotations

import argparse
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from appliance.core.run import cli, lock, output, place
from appliance.core.run.errors import ExitStatus, UsageError
from appliance.core.run.layout import Layout
from appliance.core.run.record import recorded
from caso.cmds import startup
from caso.messengers.ssm import SSM
from caso.settings import CasoConfiguration
from caso.shadow.directory import Kept, Shadow, SiteFiles

DIRECTORY = "/var/lib/fedcloud/caso/shadow"
_WAIT = timedelta(minutes=10)
"""How long to wait for a run of cASO, or of another `caso shadow`, to end."""
_NAME = "caso shadow"


def add_directory(parser: argparse.ArgumentParser) -> None:
    """Add the flag that chooses a shadow."""
    parser.add_argument(
        "--directory",
        type=Path,
        metavar="DIR",
        help=f"directory of the shadow; a configuration has one of its own (default: {DIRECTORY})",
    )


def chosen(arguments: argparse.Namespace, layout: Layout) -> Shadow:
    """Return the shadow that the flags choose."""
    return Shadow((arguments.directory or layout.path(DIRECTORY)).absolute())


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    startup.add_arguments(parser)
    startup.add_since(parser)
    add_directory(parser)
    parser.add_argument(
        "--only-keep",
        action="store_true",
        help="keep the messages that cASO has spooled, and ask the cloud nothing",
    )


def _run(arguments: argparse.Namespace) -> ExitStatus:
    """Keep cASO's messages, account into the shadow, and keep the messages that came meanwhile."""
    configuration = startup.configure(arguments, keeps_log=False)
    if arguments.check_config:
        return startup.report_check(configuration)
    messenger = _messenger(configuration)
    shadow = chosen(arguments, cli.layout(arguments))
    # cASO has one spool for all kinds of records.
    spool = messenger.outputs.get("cloud") or next(iter(messenger.outputs.values()))
    if configuration.is_dry_run:
        return _dry_run(configuration, shadow)
    with lock.hold(shadow.lock, wait=_WAIT):
        if not shadow.has_begun:
            shadow.begin(_site(configuration, spool), wait=_WAIT)
            output.line(
                f"the shadow {shadow.path} begins at the checkpoints of {configuration.spool}"
            )
        kept = shadow.keep(spool)
        status = ExitStatus.DONE
        if not arguments.only_keep:
            status = _extract(_shadowed(configuration, shadow, messenger))
            if status is not ExitStatus.NOTHING:
                status = max(status, _note_unlaunched(configuration, shadow))
            _add(kept, shadow.keep(spool))
    return max(status, _report(kept, spool, shadow))


def _messenger(configuration: CasoConfiguration) -> SSM:
    for messenger in configuration.messengers:
        if isinstance(messenger, SSM):
            return messenger
    raise UsageError(
        "messengers",
        "the configuration has no ssm, so there are no messages to compare",
        "give the configuration with which cASO writes its spool: --config-file PATH",
    )


def _site(configuration: CasoConfiguration, spool: Path) -> SiteFiles:
    from caso.run import LOCK_NAME  # noqa: PLC0415  loads the OpenStack clients

    return SiteFiles(configuration.spool, spool, configuration.lock / LOCK_NAME)


def _shadowed(
    configuration: CasoConfiguration, shadow: Shadow, messenger: SSM
) -> CasoConfiguration:
    """Return the site's configuration with the shadow's state and spool."""
    outputs = {kind: shadow.spool(kind) for kind in messenger.outputs}
    return replace(
        configuration,
        spool=shadow.state,
        lock=shadow.state,
        state=shadow.state,
        ledger=shadow.ledger,
        messengers=(replace(messenger, outputs=outputs),),
    )


def _dry_run(configuration: CasoConfiguration, shadow: Shadow) -> ExitStatus:
    """Print what our run would account; from the site's checkpoints if there is no shadow yet."""
    if shadow.has_begun:
        configuration = replace(
            configuration, spool=shadow.state, state=shadow.state, ledger=shadow.ledger
        )
    return _extract(configuration)


def _extract(configuration: CasoConfiguration) -> ExitStatus:
    from caso import run  # noqa: PLC0415  loads the OpenStack clients

    with recorded(_NAME, None) as record:
        return run.run(configuration, record)


def _note_unlaunched(configuration: CasoConfiguration, shadow: Shadow) -> ExitStatus:
    from caso.shadow import unlaunched  # noqa: PLC0415  loads the OpenStack clients

    failures = unlaunched.note(configuration, shadow)
    for failure in failures:
        cli.report(_NAME, failure)
    return ExitStatus.PARTLY if failures else ExitStatus.DONE


def _add(kept: Kept, more: Kept) -> None:
    kept.linked += more.linked
    kept.copied += more.copied
    kept.vanished += more.vanished
    kept.failures = more.failures  # those of the first time are still there, or are mended


def _report(kept: Kept, spool: Path, shadow: Shadow) -> ExitStatus:
    copied = f", {kept.copied} of them as copies" if kept.copied else ""
    messages = output.count(kept.linked + kept.copied, "message")
    output.line(f"{messages} of {spool} kept in {shadow.theirs}{copied}")
    for failure in kept.failures:
        cli.report(_NAME, failure)
    if kept.vanished:
        command = place.command("caso", "caso", "shadow", "--only-keep")
        output.line(
            f"{output.count(len(kept.vanished), 'message')} sent before it could be kept, so that a"
            f" comparison lacks it; run this right after cASO: {command}"
        )
    return ExitStatus.PARTLY if kept.failures or kept.vanished else ExitStatus.DONE


VERB = cli.Program(
    "shadow",
    "Account beside a cASO that still runs: own state and messages, and copies of cASO's.",
    _add_arguments,
    _run,
)
