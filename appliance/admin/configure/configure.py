"""``appliance configure``: ask about the site, and write the answers to the files that need them.

Each file keeps its comments, the order of its lines, its owner and its mode. A later run offers the
values in the files as defaults. With ``--answers`` nobody is asked, and the exit status says
whether a file has changed.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from appliance.admin import changing, settings
from appliance.admin.configure import offers, profiles, site
from appliance.admin.configure.answers import Answers
from appliance.admin.configure.answers_file import AnswersFile
from appliance.admin.configure.interview import AnsweringPerson, AnswerSource, Interview, Lines
from appliance.admin.configure.rewrite import rewrite
from appliance.admin.inventory import Flow
from appliance.admin.run import hostkey
from appliance.admin.settings import Host
from appliance.core import files
from appliance.core.config import document
from appliance.core.run import cli, lock, output
from appliance.core.run.errors import Busy, ExitStatus, LocalFailure, Unavailable, UsageError
from appliance.core.run.layout import Layout

_LOCK = "/run/fedcloud/configure.lock"
_PATIENCE = timedelta(seconds=30)
"""Time for configuration management to wait for another administrator; a person answers longer."""
_LARGEST = 1 << 20
"""Bytes of a certificate or key."""


@dataclass(frozen=True, slots=True)
class FileChange:
    """A file with its new content."""

    path: Path
    before: str = field(repr=False)  # it may hold secrets
    after: str = field(repr=False)
    source: str = ""
    """The file that it is a copy of; empty for one that answers go to."""
    mode: int = 0

    @property
    def lines(self) -> list[int]:
        """Return the numbers of the lines that change; none if their count does."""
        old, new = self.before.split("\n"), self.after.split("\n")
        if len(old) != len(new) or self.source:
            return []
        pairs = enumerate(zip(old, new, strict=True), start=1)
        return [number for number, (one, other) in pairs if one != other]

    def __str__(self) -> str:
        if self.source:
            return f"{self.path}: copied from {self.source}"
        numbers = self.lines
        if not numbers:
            return f"{self.path}: changed"
        listed = ", ".join(map(str, numbers))
        return f"{self.path}: line{'s' if len(numbers) > 1 else ''} {listed}"

    def make(self) -> None:
        """Write the file."""
        if not self.source:
            rewrite(self.path, self.after)
            return
        files.make_directory(self.path.parent, mode=0o755)
        files.write_atomic(self.path, self.after.encode("latin-1"), mode=self.mode)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own flags."""
    parser.epilog = "Without a terminal, the answers are read from standard input, one a line."
    words = "take the answers from this YAML file and ask nothing; exit status 1 if a file changed"
    parser.add_argument("--answers", type=Path, metavar="FILE", help=words)
    words = "with --answers, print the changes and make none"
    parser.add_argument("--check", action="store_true", help=words)
    parser.add_argument("--json", action="store_true", help="print the changes as one JSON object")


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Ask, and write the files that change."""
    if arguments.check and not arguments.answers:
        raise UsageError("--check", "needs the answers", "add --answers FILE")
    layout = cli.layout(arguments)
    if arguments.check_config:
        _Site.read(layout)
        return ExitStatus.DONE
    if os.geteuid() != 0:
        raise UsageError("appliance", "only root can configure it", "sudo appliance configure")
    with contextlib.nullcontext() if arguments.check else _only_administrator(layout):
        found = _Site.read(layout)
        answers, source = _asked(found, arguments)
        changes = list(found.changes(answers))
        notes = list(profiles.consequences(found.host, answers.profile)) if found.is_used else []
        notes += found.notes(answers)
        if not arguments.json:
            _print_notes(notes)
        _confirm(source, found, answers)
        if changes and not arguments.check:
            found.write(changes, is_quiet=arguments.json)
    _report(changes, notes, arguments)
    return ExitStatus.PARTLY if arguments.answers and changes else ExitStatus.DONE


def take(answers: Path, layout: Layout) -> None:
    """Write a file of answers to the files of the site, and print what changes.

    Raises:
        ConfigurationError: Answers are wrong, or a file of the site is; nothing is changed.
        Unavailable: A file is missing, or another administrator configures the site.

    """
    flags = {"answers": answers, "check": False, "json": False, "check_config": False}
    run(argparse.Namespace(root=layout.root, **flags))


def is_configured(layout: Layout) -> bool:
    """Check whether the files of the site have an account of the cloud.

    Raises:
        Unavailable: A file is missing.
        ConfigurationError: Files have errors.

    """
    return _Site.read(layout).is_used


@contextlib.contextmanager
def _alone(layout: Layout) -> Iterator[None]:
    """Exclude other verbs that change the host, not while a person answers: jobs wait for it.

    Raises:
        Unavailable: Another one runs; no file was changed.

    """
    try:
        with changing.alone(layout):
            yield
    except Busy as busy:
        # Not its own exit status, which is that of a change.
        cause = f"the appliance is being changed: {busy.cause}; no file was changed"
        raise Unavailable("configure", cause, "run it again when that has ended") from None


@contextlib.contextmanager
def _only_administrator(layout: Layout) -> Iterator[None]:
    """Exclude another administrator, also while a person answers; jobs run meanwhile.

    Raises:
        Unavailable: Another one configures the site.

    """
    try:
        with lock.hold(layout.path(_LOCK), wait=_PATIENCE):
            yield
    except Busy as busy:
        # Not its own exit status, which is that of a change.
        cause = f"another administrator configures this site: {busy.cause}"
        raise Unavailable("configure", cause, "run it again when that has ended") from None


@dataclass(frozen=True, slots=True)
class _Site:
    """The files of a site as they are before the answers."""

    layout: Layout
    host: Host
    places: Mapping[str, str]
    texts: Mapping[str, str]

    @classmethod
    def read(cls, layout: Layout) -> _Site:
        """Read all files that answers go to.

        Raises:
            Unavailable: A file is missing.
            ConfigurationError: Files have errors; nothing is changed then.

        """
        host, places = settings.load(layout), site.paths(layout)
        texts = _read(layout, places)
        site.parse_all(texts, places, layout)
        return cls(layout, host, places, texts)

    @property
    def is_used(self) -> bool:
        """Return whether the site has been configured before."""
        return bool(site.accounts_in(self.texts, self.places))

    def changes(self, answers: Answers) -> Iterator[FileChange]:
        """Yield the files that change."""
        for given, name, mode in (
            (answers.certificate, hostkey.CERTIFICATE, 0o444),
            (answers.key, hostkey.KEY, 0o400),
        ):
            yield from _copied(given, self.layout.path(name), mode)
        for name, text in site.changed(answers, self.texts, self.places, self.host, self.layout):
            if text != self.texts[name]:
                yield FileChange(self.layout.path(name), self.texts[name], text)

    def write(self, changes: Sequence[FileChange], *, is_quiet: bool) -> None:
        """Write the files that change.

        Raises:
            Unavailable: Another verb changes the host, or has since the files were read.

        """
        with _alone(self.layout):
            for name, text in _read(self.layout, self.places).items():
                if text != self.texts[name]:
                    cause = "was changed while the questions were answered; no file was changed"
                    raise Unavailable(self.layout.path(name), cause, "run it again")
            for change in changes:
                change.make()
                if not is_quiet:
                    print(change)

    def notes(self, answers: Answers) -> Iterator[str]:
        """Yield what the answers take away, or leave open."""
        before = site.present_table(self.texts, self.places, self.layout)
        for vo in before.keys() - answers.projects.keys():
            yield f"VO {vo}: removed from all files; no new records or entries name it"
        if Flow.INFORMATION in answers.flows:
            for vo, projects in answers.projects.items():
                if len(projects) > 1:
                    others = ", ".join(projects[1:])
                    yield f"VO {vo}: only project {projects[0]} is published, not {others}"
        if Flow.IMAGES in answers.flows and not answers.lists:
            where = self.layout.path("/etc/cloudkeeper/sources.yaml")
            yield f"No image list: name a registry in {where}, or the images have no source"


def _asked(found: _Site, arguments: argparse.Namespace) -> tuple[Answers, AnswerSource]:
    """Return the answers, and where they came from.

    Raises:
        ConfigurationError: The file of answers has errors.
        Unavailable: the administrator interrupted the questions.

    """
    defaults = site.defaults(found.texts, found.places, found.host, found.layout)
    ask = functools.partial(offers.ask, host=found.host, layout=found.layout)
    secrets = site.secrets(found.host, found.layout)
    if arguments.answers:
        file = AnswersFile(arguments.answers)
        needs_cloud = not (file.names_vos or defaults["projects"])
        chosen = ask if needs_cloud else None
        answers = Interview(defaults, file, chosen, secrets=secrets).answers()
        file.finish()
        return answers, file
    source: AnswerSource = AnsweringPerson() if sys.stdin.isatty() else Lines()
    known = site.password_of_accounting(found.texts)
    interview = Interview(
        defaults,
        source,
        ask if source.is_terminal else None,
        known_password=known,
        secrets=secrets,
    )
    try:
        return interview.answers(), source
    except (KeyboardInterrupt, EOFError):
        print()  # the terminal is in the line of the question
        raise _interrupted() from None


def _interrupted() -> Unavailable:
    cause = "interrupted: no file was changed, and no answer is kept"
    return Unavailable("configure", cause, "run it again")


def _confirm(source: AnswerSource, found: _Site, answers: Answers) -> None:
    """Have a person confirm another profile of a site that runs already.

    Raises:
        Unavailable: The person does not.

    """
    if not (source.is_terminal and found.is_used and answers.profile != found.host.profile):
        return
    try:
        word = input("FileChange the profile as above? yes or no [no]: ").strip().lower()
    except (KeyboardInterrupt, EOFError):
        print()
        raise _interrupted() from None
    if word not in ("y", "yes"):
        cause = "the profile stays, and no file was changed"
        remedy = f"run it again and answer {found.host.profile}"
        raise Unavailable("configure", cause, remedy)


def _read(layout: Layout, places: Mapping[str, str]) -> dict[str, str]:
    """Return the text of each file that answers go to.

    Raises:
        Unavailable: A file is missing.

    """
    texts = {}
    for name in (*site.NAMES, *places.values()):
        path = layout.path(name)
        if not path.is_file():
            raise Unavailable(
                path,
                "does not exist",
                "run the bundle's install again, which writes the shipped file",
            )
        document.read_text(path)  # refuses what no program would read
        texts[name] = path.read_bytes().decode()
    return texts


def _copied(given: str, target: Path, mode: int) -> Iterator[FileChange]:
    """Yield the copy of a certificate or key, which root owns; nothing if it is there already."""
    if not given or Path(given) == target:
        return
    try:
        content = files.read_regular(Path(given), limit=_LARGEST, follow=True)
        present = target.read_bytes() if target.is_file() else b""
    except OSError as error:
        raise LocalFailure.from_os(error, subject=given) from error
    if content != present:
        yield FileChange(target, present.decode("latin-1"), content.decode("latin-1"), given, mode)


def _print_notes(notes: Sequence[str]) -> None:
    for note in notes:
        output.line(note)


def _report(
    changes: Sequence[FileChange], notes: Sequence[str], arguments: argparse.Namespace
) -> None:
    if arguments.json:
        output.document(
            {
                "changed": bool(changes),
                "check": arguments.check,
                "files": [{"path": str(one.path), "lines": one.lines} for one in changes],
                "notes": list(notes),
            }
        )
        return
    if arguments.check:
        for change in changes:
            print(change)
    verb = "would change" if arguments.check else "changed"
    print(f"{len(changes) or 'No'} files {verb}. Next: appliance check --offline")


VERB = cli.Program(
    "configure",
    "Ask about the site, and write the answers to all files that need them.",
    add_arguments,
    run,
)
