"""``appliance import-site-yaml FILE``: write what EGI's catch-all knows of the site to its files.

The difference is printed first; ``--apply`` writes the files, each atomically, and keeps what was
there with a script that brings it back (`appliance.admin.migrate.apply`).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from appliance.admin import account, changing, settings
from appliance.admin.migrate import apply, difference
from appliance.admin.migrate.apply import Keeper
from appliance.admin.migrate.plan import Write
from appliance.admin.settings import Host
from appliance.admin.site_yaml import schema, texts
from appliance.admin.site_yaml.schema import SiteYaml
from appliance.core.config import document
from appliance.core.run import cli, output
from appliance.core.run.errors import ExitStatus, UsageError
from appliance.core.run.layout import Layout


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own flags."""
    parser.add_argument("file", type=Path, metavar="FILE", help="site's file of the catch-all")
    parser.add_argument(
        "--apply",
        action="store_true",
        help="write the files (default: print the difference, and change nothing)",
    )


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Print the difference; with ``--apply`` write the files."""
    layout = cli.layout(arguments)
    host = settings.load(layout)
    site = schema.read(arguments.file)
    for remark in site.remarks:
        output.remark(f"import-site-yaml: {remark}")
    if arguments.check_config:
        return ExitStatus.DONE
    if os.geteuid() != 0:
        words = f"sudo appliance import-site-yaml {arguments.file}"
        raise UsageError("import-site-yaml", "only root can write the site's files", words)
    if not arguments.apply:
        return _show(list(_writes(site, host, layout)))
    with changing.alone(layout):
        return _apply(list(_writes(site, host, layout)), layout)


def _writes(site: SiteYaml, host: Host, layout: Layout) -> Iterator[Write]:
    found = present(host, layout)
    yield from writes(found, texts.changed(site, found, host.mounts))


def present(host: Host, layout: Layout) -> dict[str, str]:
    """Return the texts of the files that an import may change."""
    return {
        name: document.read_text(layout.path(name))
        for name in texts.names(host.mounts)
        if layout.path(name).exists()
    }


def writes(found: Mapping[str, str], changed: Iterable[tuple[str, str]]) -> Iterator[Write]:
    """Yield the files that get another text than the one that was found.

    A file that is not there is not made: the site does not run what would read it.
    """
    # A list, so that a file that cannot be changed stops all of them.
    for name, after in list(changed):
        before = found.get(name)
        if before is not None and after != before:
            yield Write(name, before.encode(), after.encode(), 0o640, account.ID)


def _show(planned: list[Write]) -> ExitStatus:
    _print(planned)
    if planned:
        output.line("Nothing has been changed. Next: the same command with --apply")
    return ExitStatus.DONE


def _print(planned: list[Write]) -> None:
    for write in planned:
        before = (write.before or b"").decode()
        for line in difference.shown(write.name, before, write.after.decode()):
            output.line(line)
    if not planned:
        output.line("Nothing is left to change.")


def _apply(planned: list[Write], layout: Layout) -> ExitStatus:
    _print(planned)
    if planned:
        keeper = Keeper(layout, apply.new_directory(layout))
        for write in planned:
            keeper.keep(write.name)
            apply.write_file(write, layout)
            output.line(f"{layout.path(write.name)}: written")
        output.line(f"undo: {keeper.undo}")
    output.line("Next: appliance configure for accounts, then appliance check --offline")
    return ExitStatus.DONE


VERB = cli.Program(
    "import-site-yaml",
    "Write what EGI's catch-all knows of this site to the site's files.",
    add_arguments,
    run,
)
