"""``cloudkeeper trust``: show what is pinned, accept a change of it, or forget it.

A list's first endorser, VO and identifier are pinned, and so is the order of a tag's digests. What
deviates is held until a person accepts it here. The difference is shown before the question; what
is accepted is what was shown. The run lock is taken to write only, so that an open question stops
no sync, and nothing is written if the memory has changed since it was shown.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from appliance.core import clock
from appliance.core.hosts import SCHEMES
from appliance.core.registry import names
from appliance.core.registry.names import Digest
from appliance.core.run import cli, lock, output
from appliance.core.run.errors import ExitStatus, Unavailable, UsageError
from appliance.core.trust.errors import Malformed
from cloudkeeper.frontend import addresses
from cloudkeeper.frontend.addresses import Address
from cloudkeeper.frontend.commands import startup, trust_shown
from cloudkeeper.frontend.commands.verify import endorser_of
from cloudkeeper.frontend.memory import AcceptedList, Memory
from cloudkeeper.frontend.refused import RefusedImages
from cloudkeeper.frontend.registry.tags import TagHistory
from cloudkeeper.frontend.remedies import command
from cloudkeeper.frontend.settings import FrontendSettings
from cloudkeeper.model import Endorser


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own flags, and those of the configuration."""
    words = (
        "accept what this source shows now: the URL of a list, HOST/PROJECT of a registry, or "
        "HOST/PROJECT/REPOSITORY:TAG (default: show what is pinned)"
    )
    parser.add_argument("source", nargs="?", metavar="SOURCE", help=words)
    words = "forget what is pinned for SOURCE; also the DIGEST of an image that was refused"
    parser.add_argument("--forget", action="store_true", help=words)
    words = "pin this subject of the endorser's certificate for the URL SOURCE, in slash form"
    parser.add_argument("--endorser-dn", metavar="DN", help=words)
    words = "pin this issuer of the endorser's certificate, with --endorser-dn"
    parser.add_argument("--endorser-ca", metavar="DN", help=words)
    words = (
        "pin this digest (sha256:…) of the manifest for the tag SOURCE, also before the first "
        "sync: the tag is held while it names another one"
    )
    parser.add_argument("--digest", metavar="DIGEST", help=words)
    parser.add_argument("--yes", action="store_true", help="accept without a question")
    parser.add_argument("--json", action="store_true", help="show what is pinned as JSON")
    startup.add_arguments(parser)


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Show what is pinned, or change it."""
    endorser = endorser_of(arguments)
    configured = startup.configure(arguments, is_reading=True)
    if arguments.check_config:
        return startup.report_check(configured)
    state = cli.layout(arguments).path(startup.STATE)
    if not arguments.source:
        if arguments.forget or endorser or arguments.digest:
            pinning = "--digest" if arguments.digest else "--endorser-dn"
            flag = "--forget" if arguments.forget else pinning
            raise UsageError(flag, "needs a SOURCE", f"see {command('trust', '--help')}")
        trust_shown.show(configured, state, as_json=arguments.json)
        return ExitStatus.DONE
    asked = _Asked(arguments.source, configured, state, is_confirmed=arguments.yes)
    if arguments.digest and (arguments.forget or endorser):
        raise UsageError("--digest", "cannot be combined with --forget or --endorser-dn")
    if arguments.digest:
        return asked.pin_tag(arguments.digest)
    if arguments.forget:
        return asked.forget()
    return asked.pin(endorser) if endorser else asked.accept()


class _Asked:
    """A change of what is pinned for one source."""

    def __init__(
        self, source: str, configured: FrontendSettings, state: Path, *, is_confirmed: bool
    ) -> None:
        self._configured, self._state = configured, state
        self._is_confirmed = is_confirmed
        self._source = source
        self._address = _address(source, configured) if _is_url(source) else None
        self._name = self._address.name if self._address else source

    def accept(self) -> ExitStatus:
        """Accept the source as it is now."""
        if self._address:
            return self._accept_list(self._address)
        return self._accept_tags()

    def pin(self, endorser: Endorser) -> ExitStatus:
        """Accept lists of this endorser only."""
        if not self._address:
            raise UsageError(
                self._source, "is not a URL, and only image lists have endorsers", _KNOWN
            )
        for flag, dn in (("--endorser-dn", endorser.dn), ("--endorser-ca", endorser.ca)):
            if not dn.startswith("/"):
                raise UsageError(flag, f"{dn!r} is not a DN in slash form", "write /DC=…/CN=…")
        place = self._address.place
        before = self._accepted(place)
        for entry in before:
            output.line(f"  endorser now   {entry.dn} of {entry.ca}")
        output.line(f"  endorser then  {endorser.dn} of {endorser.ca}")
        return self._confirmed(
            "Accept lists of this endorser only?",
            lambda: self._accepted(place) == before,
            lambda: self._memory().pin(endorser, url=place),
        )

    def pin_tag(self, text: str) -> ExitStatus:
        """Accept the tag with this digest only."""
        host, _, reference = self._source.partition("/")
        repository, _, tag = reference.rpartition(":")
        if not (names.is_repository(repository) and names.is_tag(tag)):
            words = "is not HOST/PROJECT/REPOSITORY:TAG, and only tags have digests"
            raise UsageError(self._source, words, _KNOWN)
        projects = [f"{each.host}/{each.project}/" for each in self._configured.registries]
        if not self._source.startswith(tuple(projects)):
            raise UsageError(self._source, "is not configured", _KNOWN)
        try:
            digest = names.digest(text, subject="--digest")
        except Malformed as error:
            raise UsageError("--digest", error.cause, "write sha256: and 64 digits") from None
        before = self._history().pins.get(host, {}).get(reference)
        if before:
            output.line(f"  digest now   {before}")
        output.line(f"  digest then  {digest}")
        return self._confirmed(
            "Accept this tag with this digest only?",
            lambda: self._history().pins.get(host, {}).get(reference) == before,
            lambda: self._history().pin(host, {reference: digest}),
        )

    def forget(self) -> ExitStatus:
        """Forget the pinned values of the source, or the verdict on an image."""
        if self._address:
            return self._forget_list(self._address.place)
        if self._source.startswith(("sha256:", "sha512:")):
            return self._forget_image()
        return self._forget_tags()

    def _accept_list(self, address: Address) -> ExitStatus:
        from cloudkeeper.frontend.commands import assembly  # noqa: PLC0415  loads requests

        if address not in self._configured.lists:
            raise UsageError(self._name, "is not configured", _KNOWN)
        at = clock.now()
        source = assembly.signed_list(address, self._configured, state=self._state)
        found, warnings = source.verified(at=at)
        for warning in warnings:
            output.remark(f"{self._name}: {warning}")
        before = self._accepted(address.place)
        changes = self._memory().changes(found, url=address.place)
        if before and not changes:
            output.line(f"{self._name}: nothing has changed that needs to be accepted")
            return ExitStatus.DONE
        for change in changes:
            output.line(f"  {change.subject} now   {change.present}")
            output.line(f"  {change.subject} then  {change.accepted}")
        if not before and not changes:
            output.line(f"  VO          {found.vo}, list {found.identifier}")
            output.line(f"  endorser    {found.endorser.dn} of {found.endorser.ca}")
        return self._confirmed(
            "Accept this list?",
            lambda: self._memory().changes(found, url=address.place) == changes,
            lambda: self._memory().note(found, url=address.place, at=at),
        )

    def _accept_tags(self) -> ExitStatus:
        from cloudkeeper.frontend.commands import assembly  # noqa: PLC0415  loads requests

        at = clock.now()
        for project in assembly.projects(self._configured, state=self._state):
            name = str(project)
            if self._source == name or self._source.startswith(f"{name}/"):
                project.fetch(at=at)
                host = project.client.host
                moved = project.went_back | project.off_pin
                wanted = {
                    reference: digest
                    for reference, digest in moved.items()
                    if self._source in (name, f"{host}/{reference}")
                }
                break
        else:
            raise UsageError(self._source, "is not configured", _KNOWN)
        if not wanted:
            words = "no tag went back or has another digest than the pinned one"
            output.line(f"{self._source}: {words}, so nothing needs to be accepted")
            return ExitStatus.DONE
        pinned = {name: digest for name, digest in wanted.items() if name in project.off_pin}
        back = {name: digest for name, digest in wanted.items() if name in project.went_back}
        before = self._known(host, wanted)
        for reference, digest in wanted.items():
            output.line(f"  {reference} now   {digest}")
            output.line(f"  {reference} then  {before[reference]}")

        def change() -> None:
            if pinned:
                self._history().pin(host, pinned)
            if back:
                self._history().note(host, back, at=at)

        return self._confirmed(
            "Accept these artefacts?", lambda: self._known(host, wanted) == before, change
        )

    def _known(self, host: str, references: Iterable[str]) -> dict[str, Digest | None]:
        """Return the digest that is pinned for each tag, or else that it named last."""
        history = self._history()
        known = {**history.latest(host), **history.pins.get(host, {})}
        return {reference: known.get(reference) for reference in references}

    def _forget_list(self, place: str) -> ExitStatus:
        before = self._accepted(place)
        if not before:
            raise UsageError(self._name, "nothing is pinned for it", _SHOW)
        for entry in before:
            output.line(f"  list {entry.list_id or '(none yet)'} of {entry.dn}")
        return self._confirmed(
            "Forget this, and trust the next list?",
            lambda: self._accepted(place) == before,
            lambda: self._memory().forget(place),
        )

    def _forget_tags(self) -> ExitStatus:
        host, _, wanted = self._source.partition("/")
        history = self._history()
        known = [*history.hosts.get(host, {}), *history.pins.get(host, {})]
        gone = [
            name for name in dict.fromkeys(known) if name == wanted or name.startswith(f"{wanted}/")
        ]
        if not (wanted and gone):
            raise UsageError(self._source, "nothing is pinned for it", _SHOW)
        before = self._known(host, gone)
        for name in gone:
            output.line(f"  {name} {before[name]}")

        def change() -> None:
            self._history().unpin(host, gone)
            self._history().forget(host, gone)

        return self._confirmed(
            "Forget these, and trust the tags as the next sync finds them?",
            lambda: self._known(host, gone) == before,
            change,
        )

    def _forget_image(self) -> ExitStatus:
        known = self._refused().reasons
        gone = [key for key in known if key.partition(" ")[0] == self._source]
        if not gone:
            raise UsageError(self._source, "no image of this digest was refused", _SHOW)
        for key in gone:
            output.line(f"  {known[key]}")
        return self._confirmed(
            "Forget this, and fetch the file again?",
            lambda: True,
            lambda: self._refused().forget(*gone),
        )

    def _confirmed(
        self, question: str, is_same: Callable[[], bool], change: Callable[[], None]
    ) -> ExitStatus:
        if not self._is_confirmed and not _agrees(question):
            output.line(f"{self._name}: nothing was changed")
            return ExitStatus.PARTLY
        with lock.hold(self._configured.lock_file):
            if not is_same():
                words = "has changed since it was shown"
                raise Unavailable(self._name, words, "run the command again")
            change()
        output.line(f"{self._name}: done; the next sync acts on it")
        return ExitStatus.DONE

    # Each is read again: another program may have written it.

    def _accepted(self, place: str) -> Sequence[AcceptedList]:
        return [entry for entry in self._memory().entries if entry.url == place]

    def _memory(self) -> Memory:
        return Memory(self._state / "lists.json")

    def _history(self) -> TagHistory:
        return TagHistory(self._state / "tags.json")

    def _refused(self) -> RefusedImages:
        return RefusedImages(self._state / "refused.json", self._configured.formats)


_KNOWN = "cloudkeeper.yml, image-lists.conf and sources.yaml name the sources"
_SHOW = f"see {command('trust')}"


def _is_url(source: str) -> bool:
    return source.partition("://")[0] in SCHEMES


def _address(source: str, configured: FrontendSettings) -> Address:
    """Return the address that a person means: as configured, as shown, or a new one."""
    found, problems = addresses.read([(source, 0)], path=Path())
    known = [each for each in configured.lists if source in (each.place, each.name)]
    known += [each for each in configured.lists for one in found if each.url == one.url]
    if len(set(known)) > 1:
        raise UsageError(source, "several lists have this URL", "write it with its query")
    if known:
        return known[0]
    if problems:
        raise UsageError(source, problems[0].text)
    return found[0]


def _agrees(question: str) -> bool:
    """Ask on a terminal.

    Raises:
        UsageError: standard input is not a terminal.

    """
    if sys.stdin is None or not sys.stdin.isatty():
        raise UsageError(
            "standard input", "is not a terminal, so the question cannot be answered", "add --yes"
        )
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


VERB = cli.Program(
    "trust", "Show the pinned sources; accept a change of one, or forget it.", add_arguments, run
)
