"""The directions of an upgrade: forward to a bundle, or back to the version before."""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
from datetime import timedelta
from pathlib import Path

from appliance.admin import changing, settings
from appliance.admin.upgrade import bundle, carry_out, preview, record, remote_bundle, rollback
from appliance.admin.upgrade.bundle import VerifiedBundle
from appliance.admin.upgrade.record import UpgradeState
from appliance.core.run import cli
from appliance.core.run.errors import ExitStatus, UsageError
from appliance.core.run.layout import Layout

_KEY = "/etc/fedcloud/signing-key.pem"


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Upgrade, go back, or say what would happen."""
    layout = cli.layout(arguments)
    settings.load(layout)
    if arguments.check_config:
        return ExitStatus.DONE
    if os.geteuid() != 0:
        raise UsageError("appliance", "only root can upgrade it", "use sudo")
    if arguments.rollback and arguments.source:
        raise UsageError("--rollback", "contradicts --from BUNDLE", "leave out one of the two")
    if not (arguments.rollback or arguments.source):
        raise UsageError("upgrade", "needs one of --from BUNDLE and --rollback", "add one")
    is_remote = (arguments.source or "").startswith(remote_bundle.SCHEME)
    with contextlib.ExitStack() as stack:
        if is_remote or not arguments.check:
            # The other lock is free between the steps of an upgrade.
            stack.enter_context(changing.small("upgrade", layout))
        changing.refuse(layout)
        if arguments.rollback:
            return _go_back(layout, is_check=arguments.check)
        if is_remote:
            return _from_registry(layout, arguments)
        source = Path(arguments.source).absolute()
        if not source.exists():
            remedy = f"name a bundle: a tar, a directory, or {remote_bundle.FORM}"
            raise UsageError(source, "does not exist", remedy)
        return _from_file(source, layout, arguments)


def _from_registry(layout: Layout, arguments: argparse.Namespace) -> ExitStatus:
    reference = remote_bundle.read_reference(arguments.source)
    _key(arguments, layout)  # without one, the bundle need not be fetched
    path = remote_bundle.fetch(reference, layout, settings.load(layout).proxies)
    with remote_bundle.named(reference, path):
        status = _from_file(path, layout, arguments)
    if status is ExitStatus.DONE:
        remote_bundle.forget(layout)
    return status


def _from_file(source: Path, layout: Layout, arguments: argparse.Namespace) -> ExitStatus:
    with tempfile.TemporaryDirectory(prefix="fedcloud-upgrade.") as into:
        verified = bundle.verified(source, _key(arguments, layout), Path(into))
        return _with_bundle(source, verified, layout, arguments)


def _with_bundle(
    source: Path, verified: VerifiedBundle, layout: Layout, arguments: argparse.Namespace
) -> ExitStatus:
    found = preview.make(source, verified, layout)
    begun = record.read(layout)
    is_left = begun and begun.state is UpgradeState.BEGUN and begun.after == found.after
    if not found.is_installed:
        preview.check_space(found)
    for line in preview.lines(found):
        print(line, flush=True)
    if arguments.check:
        print("Nothing has been changed. Next: the same command without --check")
        return ExitStatus.DONE if found.is_installed else ExitStatus.PARTLY
    if not found.is_installed:
        flags = _flags(arguments, layout)
        pause: timedelta = arguments.settle
        carry_out.run(source, verified, found, layout, flags=flags, pause=pause)
    elif begun and is_left:  # killed before the gate
        carry_out.finish(begun, layout, pause=arguments.settle)
    print(f"{found.after} is in use. To go back: appliance upgrade --rollback")
    return ExitStatus.DONE


def _go_back(layout: Layout, *, is_check: bool) -> ExitStatus:
    found = rollback.last(layout)
    version = settings.in_use(layout)
    if version == found.before and found.state is UpgradeState.BACK:
        print(f"{version} is in use: there is nothing to undo.")
        return ExitStatus.DONE
    if version not in (found.before, found.after):
        cause = f"{version} is in use, which the last upgrade, to {found.after}, did not install"
        raise UsageError("--rollback", cause, "to go back by hand: docs/how-to/earlier-version.md")
    rollback.check(found, layout)
    if is_check:
        print(f"{found.after} -> {found.before} is possible. Nothing has been changed.")
        return ExitStatus.PARTLY
    with changing.alone(layout):
        rollback.run(found, layout)
    print(f"{found.before} is in use. Ledgers, spools and checkpoints stay as they are.")
    print("Next: appliance status")
    return ExitStatus.DONE


def _key(arguments: argparse.Namespace, layout: Layout) -> Path | None:
    """Return the key that verifies the bundle; None if it need not be signed."""
    if arguments.unsigned:
        return None
    key: Path = arguments.key or layout.path(_KEY)
    if not key.is_file():
        cause = "is not a file"
        if not arguments.key:
            cause = "does not exist: no signed bundle was installed here"
        raise UsageError(key, cause, "name the publisher's key with --key")
    return key


def _flags(arguments: argparse.Namespace, layout: Layout) -> list[str]:
    """Return the flags of the installer."""
    key = _key(arguments, layout)
    found = ["--unsigned"] if key is None else ["--key", str(key.absolute())]
    return [*found, "--no-packages"] if arguments.no_packages else found
