"""``cloudkeeper gc``: remove what no later run needs.

In the cloud it deletes nothing but incomplete images that nobody has marked, and only on request.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.core.run import cli, lock, output
from appliance.core.run.errors import ApplianceError, ExitStatus, LocalFailure
from cloudkeeper.frontend.commands import startup
from cloudkeeper.frontend.settings import FrontendSettings

if TYPE_CHECKING:  # start-up is a cost
    from cloudkeeper.frontend.garbage import Leftover


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own flags, and those of the configuration."""
    words = "print the files that would be removed, and remove none"
    parser.add_argument("--dry-run", action="store_true", help=words)
    words = (
        "also delete from Glance the incomplete images without any property or tag that a killed "
        "cloudkeeper-os 0.9 may have left; look at them with --dry-run first: users may have made "
        "some of them"
    )
    parser.add_argument("--collect-unknown", action="store_true", help=words)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    startup.add_arguments(parser)


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Remove what is left over, one thing after the other."""
    configured = startup.configure(arguments, is_reading=True)
    if arguments.check_config:
        return startup.report_check(configured)
    state = cli.layout(arguments).path(startup.STATE)
    failures: list[str] = []
    guard = contextlib.nullcontext() if arguments.dry_run else lock.hold(configured.lock_file)
    with guard, contextlib.ExitStack() as stack:
        found = _found(configured, state, failures, is_dry=arguments.dry_run)
        if arguments.collect_unknown:
            collecting = _unknown(configured, failures, is_dry=arguments.dry_run)
            found = [*found, *stack.enter_context(collecting)]
        removed = found if arguments.dry_run else [*_removed(found, failures)]
    for line in failures:
        output.remark(f"{startup.PROGRAM}: {line}")
    total = sum(each.size for each in removed)
    if arguments.json:
        things = [{"what": each.words, "bytes": each.size} for each in removed]
        output.document({"removed": things, "bytes": total, "failures": failures})
        return ExitStatus.PARTLY if failures else ExitStatus.DONE
    verb = "would remove" if arguments.dry_run else "removed"
    for each in removed:
        size = f" ({output.size(each.size)})" if each.size else ""
        output.line(f"{verb} {each.words}{size}")
    output.line(f"{verb} {output.count(len(removed), 'thing')}, {output.size(total)}")
    return ExitStatus.PARTLY if failures else ExitStatus.DONE


def _found(
    configured: FrontendSettings, state: Path, failures: list[str], *, is_dry: bool
) -> Sequence[Leftover]:
    from cloudkeeper.frontend import garbage  # noqa: PLC0415  loads gRPC
    from cloudkeeper.frontend.backend_client import BackendFailure  # noqa: PLC0415
    from cloudkeeper.frontend.commands import assembly  # noqa: PLC0415

    found: list[Leftover] = []
    # Without the lock the files may be those of a sync that runs.
    if is_dry and (running := lock.holder(configured.lock_file)):
        failures.append(f"a sync is {running}, so part files are not looked for")
    else:
        found += garbage.part_files(configured.image_dir)
    found += garbage.caches(configured, state)
    if configured.list_problems:
        failures.append(f"{configured.list_problems[0]}; until then all memory is kept")
        return found
    if not configured.has_all_sources:
        failures.append("sources are named on the command line, so all memory is kept")
        return found
    with assembly.backend(configured) as backend:
        try:
            in_cloud = frozenset(backend.list_ids())
        except BackendFailure as error:
            failures.append(f"{error}; without it all memory of sources is kept")
            return found
    return [*found, *garbage.memory(configured, state, in_cloud=in_cloud)]


@contextlib.contextmanager
def _unknown(
    configured: FrontendSettings, failures: list[str], *, is_dry: bool
) -> Iterator[Sequence[Leftover]]:
    """Yield the incomplete images in Glance that nobody has marked, within a run of the backend."""
    from cloudkeeper.frontend import garbage  # noqa: PLC0415  loads gRPC
    from cloudkeeper.frontend.commands import assembly  # noqa: PLC0415

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end the backend's run as well
    with assembly.backend(configured) as backend:
        found: Sequence[Leftover] = ()
        try:
            found = list(garbage.unknown_records(backend))
            if found and not is_dry:
                backend.begin(is_partial=True)
        except ApplianceError as error:
            failures.append(str(error))
            yield ()
            return
        try:
            yield found
        finally:
            if found and not is_dry:
                backend.end()


def _removed(found: Sequence[Leftover], failures: list[str]) -> Iterator[Leftover]:
    """Remove things and yield them; one that cannot be removed does not stop the others."""
    for each in found:
        try:
            each.remove()
        except OSError as error:
            failures.append(str(LocalFailure.from_os(error)))
        except ApplianceError as error:
            failures.append(str(error))
        else:
            yield each


VERB = cli.Program("gc", "Remove files and memory that no run needs.", add_arguments, run)
