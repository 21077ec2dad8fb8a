"""``appliance configure``: ask about the site, and write the answers to the files that need them.

Each file keeps its comments, the order of its lines, its owner and its mode. A later run offers the
values in the files as defaults.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path

from appliance.admin import settings
from appliance.admin.configure import site
from appliance.admin.configure.answers import Answers, Interview
from appliance.admin.configure.rewrite import rewrite
from appliance.admin.inventory import Flow
from appliance.admin.mounts import site_files
from appliance.admin.run import hostkey
from appliance.core import files
from appliance.core.run import cli, log
from appliance.core.run.errors import ExitStatus, Unavailable, UsageError
from appliance.core.run.layout import Layout


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own flags."""
    parser.epilog = "Without a terminal, the answers are read from standard input, one a line."


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Ask, and write the files that change."""
    layout = cli.layout(arguments)
    host = settings.load(layout)
    places = site.paths(layout)
    texts = _read(layout, places)
    if arguments.check_config:
        return ExitStatus.DONE
    if os.geteuid() != 0:
        raise UsageError("appliance", "only root can configure it", "sudo appliance configure")
    answers = _asked(Interview(site.defaults(texts, places, host, layout)))
    # Before the first message that could contain it.
    for account in answers.accounts.values():
        if account.password:
            log.hide(account.password)
    count = _place(answers.certificate, layout.path(hostkey.CERTIFICATE), 0o444)
    count += _place(answers.key, layout.path(hostkey.KEY), 0o400)
    for name, text in list(site.changed(answers, texts, places, host.profile)):
        if text != texts[name]:
            rewrite(layout.path(name), text)
            print(f"{layout.path(name)}: {_lines(texts[name], text)}")
            count += 1
    if Flow.IMAGES in answers.flows and not answers.lists:
        where = layout.path("/etc/cloudkeeper/sources.yaml")
        print(f"No image list: name a registry in {where}, or the images have no source")
    print(f"{count or 'No'} files changed. Next: appliance check --offline")
    return ExitStatus.DONE


def _asked(interview: Interview) -> Answers:
    """Return the answers.

    Raises:
        Unavailable: the administrator interrupted the questions.

    """
    try:
        return interview.answers()
    except KeyboardInterrupt:
        print()  # the terminal is in the line of the question
        cause = "interrupted: no file was changed, and no answer is kept"
        raise Unavailable("configure", cause, "run it again") from None


def _read(layout: Layout, places: Mapping[str, str]) -> dict[str, str]:
    """Return the text of each file that answers go to.

    Raises:
        Unavailable: A file is missing.

    """
    names = (
        site.CASO,
        site.RC,
        site.CLOUD,
        site.SITE,
        site.SITE_DEFAULTS,
        site.LISTS,
        site.SETTINGS,
    )
    texts = {}
    for name in (*names, site_files.ENVIRONMENT, *places.values()):
        path = layout.path(name)
        if not path.is_file():
            raise Unavailable(
                path,
                "does not exist",
                "run the bundle's install again, which writes the shipped file",
            )
        texts[name] = path.read_text()
    return texts


def _place(given: str, target: Path, mode: int) -> int:
    """Copy certificate or key to the target, owned by root; return how many files changed."""
    if not given or Path(given) == target:
        return 0
    files.make_directory(target.parent, mode=0o755)
    files.write_atomic(target, Path(given).read_bytes(), mode=mode)
    print(f"{target}: copied from {given}")
    return 1


def _lines(before: str, after: str) -> str:
    """Return the numbers of the lines that changed."""
    old, new = before.split("\n"), after.split("\n")
    if len(old) != len(new):
        return "changed"
    numbers = [
        str(number) for number, (a, b) in enumerate(zip(old, new, strict=True), start=1) if a != b
    ]
    return f"line{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}"


VERB = cli.Program(
    "configure",
    "Ask about the site, and write the answers to all files that need them.",
    add_arguments,
    run,
)
