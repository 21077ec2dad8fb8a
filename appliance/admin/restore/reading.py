"""Reading a backup for a restore: its key, the plan, and the locks while it is carried out."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from appliance.admin import changing, settings
from appliance.admin.backup import archive, envelope, keys, outside
from appliance.admin.backup.envelope import Unlock
from appliance.admin.inventory import JOBS, SERVICES
from appliance.admin.machine import Machine
from appliance.admin.restore import apply, plan
from appliance.admin.restore.plan import Choices, RestorePlan
from appliance.core.run import cli, lock
from appliance.core.run.errors import Busy, ExitStatus, LocalFailure, UsageError
from appliance.core.run.layout import Layout


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Print the plan; with ``--apply`` carry it out."""
    layout = cli.layout(arguments)
    settings.load(layout)
    if arguments.check_config:
        return ExitStatus.DONE
    if os.geteuid() != 0:
        raise UsageError("appliance", "only root can restore it", "sudo appliance restore FILE")
    path: Path = arguments.file.absolute()
    unlock = _unlock(path, arguments)
    choices = Choices(
        arguments.as_another_site, arguments.replace_configuration, arguments.replace_older_state
    )
    if not arguments.apply:
        for line in plan.lines(plan.make(path, unlock, layout, choices), layout):
            print(line)
        print("Nothing has been changed. Next: the same command with --apply")
        return ExitStatus.DONE
    with _alone(layout):
        made = plan.make(path, unlock, layout, choices)
        apply.run(made, path, unlock, layout)
    for line in _next(made, layout):
        print(line)
    return ExitStatus.DONE


def _unlock(path: Path, arguments: argparse.Namespace) -> Unlock | None:
    if path.is_dir():
        raise UsageError(path, "is a directory", "name the file of a backup")
    try:
        is_encrypted = archive.is_encrypted(path)
    except OSError as error:
        missing = "name the file of a backup"
        raise LocalFailure.from_os(error, subject=path, missing=missing) from error
    secret = keys.passphrase(arguments.passphrase_file) if arguments.passphrase_file else None
    if not is_encrypted:
        return None
    if arguments.key:
        return envelope.by_key(keys.private_key(arguments.key, secret))
    if secret is None:
        raise UsageError(path, "is encrypted", "name --key KEY.pem or --passphrase-file FILE")
    return envelope.by_passphrase(secret)


@contextmanager
def _alone(layout: Layout) -> Iterator[None]:
    """Keep jobs and other verbs away for the block.

    Raises:
        Busy: A job, a service or another verb runs.

    """
    with ExitStack() as stack:
        stack.enter_context(changing.alone(layout, finishes_restore=True))
        for job in JOBS:
            stack.enter_context(lock.hold(layout.path(f"/run/fedcloud/{job}.lock")))
        machine = Machine()
        running = [
            unit
            for unit in sorted({*SERVICES, *SERVICES.values()})
            if layout.root == Path("/") and machine.is_active(f"{unit}.service")
        ]
        if running:
            raise Busy(" ".join(running), "runs", f"systemctl stop {' '.join(running)}")
        yield


def _next(made: RestorePlan, layout: Layout) -> Iterator[str]:
    manifest = made.manifest
    yield f"restored: {len(made.writes)} files of {manifest.taken}; {made.same} were there"
    if manifest.host != os.uname().nodename:
        yield from outside.naming(layout, manifest.host)
    yield (f"If {manifest.host} may still run: stop it first. Two hosts must not account one site.")
    if not settings.in_use(layout):  # it was lost with the state directory
        yield "Nothing has been started. Next: run the bundle's install again, appliance start"
        return
    yield "Nothing has been started. Next: appliance check --offline, appliance start"
