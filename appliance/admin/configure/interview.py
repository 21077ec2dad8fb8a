"""The questions to the administrator, in their order.

The answers come from a terminal, from lines of standard input, or from a file. At a terminal each
question offers the value in the files or the cloud's own answer, and one that has a sure answer is
not asked.
"""

from __future__ import annotations

import getpass
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from appliance.admin.configure import answers as checks
from appliance.admin.configure import table
from appliance.admin.configure.answers import KEEP, NO_LISTS, Answers, Check, CloudAccount
from appliance.admin.configure.offers import CloudLogin, Offers, UntrustedCloud
from appliance.admin.inventory import Flow
from appliance.admin.settings import PROFILES
from appliance.core.config import secret_file
from appliance.core.run import log, output
from appliance.core.run.errors import AccessDenied, ApplianceError, Unavailable, UsageError

_AUTHORITIES = "File of the authorities that signed the cloud's certificates"
_SEVERAL = 2
_LOGINS = 3
"""Attempts of a person to write the password right."""
AskCloud = Callable[[CloudLogin], Offers]


@dataclass(frozen=True, slots=True)
class SiteQuestion:
    """A question, with what it offers: the value that an empty answer accepts."""

    key: str
    text: str
    check: Check
    default: str = ""
    is_secret: bool = False
    is_optional: bool = False
    """Whether an empty answer is right."""


class AnswerSource(Protocol):
    """Where the answers come from."""

    is_terminal: bool
    """Whether a person answers, who sees notes and can try again."""
    asks_everything: bool
    """Whether questions that have a sure answer are asked, too."""

    def answer(self, question: SiteQuestion) -> str:
        """Return the answer; empty to accept the default."""

    def reject(self, question: SiteQuestion, wrong: str) -> None:
        """Report a wrong answer; raise if there can be no other one."""


class AnsweringPerson:
    """A person at a terminal."""

    is_terminal = True
    asks_everything = False

    def answer(self, question: SiteQuestion) -> str:
        """Ask, without an echo for a secret."""
        shown = f" [{question.default.strip()}]" if question.default else ""
        prompt = f"{question.text}{shown}: "
        return (getpass.getpass(prompt) if question.is_secret else input(prompt)).strip()

    def reject(self, question: SiteQuestion, wrong: str) -> None:  # noqa: ARG002  of all sources
        """Print why the answer is wrong; the question is asked again."""
        print(f"  {wrong}")


class Lines:
    """Standard input without a terminal: one answer a line, to every question."""

    is_terminal = False
    asks_everything = True

    def answer(self, question: SiteQuestion) -> str:
        """Read a line.

        Raises:
            UsageError: The input has ended.

        """
        # An empty line accepts the default, so only the end of the input is an error.
        line = sys.stdin.readline()
        if not line:
            cause = "the input ends before this answer"
            raise UsageError(question.text, cause, "write one answer a line")
        return line.strip()

    def reject(self, question: SiteQuestion, wrong: str) -> None:
        """End with the reason."""
        raise UsageError(question.text, wrong)


class Interview:
    """Asks the questions; ``defaults`` are the values in the files, by question."""

    def __init__(
        self,
        defaults: Mapping[str, str],
        source: AnswerSource,
        ask_cloud: AskCloud | None = None,
        *,
        known_password: str = "",
        secrets: Mapping[Flow, str] = MappingProxyType({}),
    ) -> None:
        self._defaults = defaults
        self._source = source
        self._ask_cloud = ask_cloud
        self._known_password = known_password
        """The password in the file of accounting, for the answer that keeps it."""
        self._secrets = secrets
        """By flow, the directory of files of secrets that its container sees."""
        self._offers = Offers()
        self._authorities = ""
        self._silence = ""
        """Why the cloud gave no answer."""

    def answers(self) -> Answers:
        """Ask all questions of the chosen flows.

        Raises:
            UsageError: The input ends, or an answer that is not from a terminal is wrong.

        """
        profile = self._ask(
            "profile",
            "Federation: egi (EGI's services of today), 2017 (those of that year) or private",
            checks.profile,
        )
        question = "Flows to take part in: accounting, information, images"
        words = self._ask("flows", question, checks.flows)
        flows = tuple(flow for flow in Flow if flow.value in checks.split(words))
        question = "Name of the site, exactly as in GOCDB"
        site = self._ask("site", question, checks.is_like(checks.NAME, "SITE-1"))
        keystone = self._ask("keystone", "URL of Keystone", checks.keystone)
        self._authorities = self._known("authorities", _AUTHORITIES, checks.path)
        accounts = {
            flow: self._account(flow, keystone) if flow is flows[0] else self._named(flow)
            for flow in flows
        }
        region = self._region()
        projects = self._projects()
        # Answers of flows that are off stay empty; their files are not changed.
        certificate = key = broker = queue = host = email = cores = memory = lists = ""
        if Flow.ACCOUNTING in flows:
            certificate, key = self._certificate()
            broker, queue = self._destination(profile)
        if Flow.INFORMATION in flows:
            host, email, cores, memory = self._information()
        if Flow.IMAGES in flows:
            question = "URLs of image lists, blanks between, or none"
            lists = self._ask("lists", question, checks.lists)
        return Answers(
            profile=profile,
            flows=flows,
            site=site,
            keystone=keystone,
            authorities=self._authorities,
            region=region,
            projects=projects,
            accounts=accounts,
            certificate=certificate,
            key=key,
            broker=broker,
            queue=queue,
            host=host,
            email=email,
            cores=cores,
            memory=memory,
            lists=() if lists == NO_LISTS else tuple(lists.split()),
        )

    def _certificate(self) -> tuple[str, str]:
        certificate = self._ask(
            "certificate", "File of the host certificate (PEM)", checks.certificate
        )
        beside = _beside(certificate)
        key = self._known("key", "File of its key (PEM)", checks.key, offered=beside)
        return certificate, key

    def _destination(self, profile: str) -> tuple[str, str]:
        """Ask where records are sent; EGI's own services need no answer."""
        if profile in ("", PROFILES[0]):
            return "", ""
        form = checks.is_like(checks.BROKER, "msg.example.org:6162")
        broker = self._ask("broker", "STOMP broker of the federation, HOST:PORT", form)
        form = checks.is_like(checks.QUEUE, "/queue/accounting")
        return broker, self._ask("queue", "Queue of its accounting repository", form)

    def _information(self) -> tuple[str, str, str, str]:
        form = checks.is_like(checks.HOST, "bdii.example.org")
        host = self._ask("host", "Name of this host, as others reach it", form)
        form = checks.is_like(checks.WORD, "NAME@HOST", "@")
        email = self._ask("email", "E-mail address of the site's administrators", form)
        form = checks.is_like(checks.NUMBER, "1024")
        cores = self._known("cores", "Cores of all hypervisors together", form)
        form = checks.is_like(checks.NUMBER, "4096")
        memory = self._known("memory", "Memory of all hypervisors together, in GB", form)
        return host, email, cores, memory

    # ------------------------------------------------------------------------------------ the cloud

    def _account(self, flow: Flow, keystone: str) -> CloudAccount:
        """Ask for the first account, and log in with it, to offer what it sees."""
        account = self._named(flow)
        if self._ask_cloud is None:
            return account
        for attempt in range(1, _LOGINS + 1):
            try:
                self._look(flow, account, keystone)
                break
            except ApplianceError as error:
                self._silence = str(error)
                self._note(self._silence)
                # Only a person can correct an answer; a cloud that is silent needs no other one.
                is_last = attempt == _LOGINS or not self._source.is_terminal
                if is_last or not isinstance(error, AccessDenied | UntrustedCloud):
                    self._note("the cloud gives no answers, so all questions are for you")
                    break
                if isinstance(error, UntrustedCloud):
                    self._authorities = self._ask("authorities", _AUTHORITIES, checks.path)
                else:
                    account = self._named(flow)
        return account

    def _named(self, flow: Flow) -> CloudAccount:
        form = checks.is_like(checks.WORD, flow.value)
        name = self._ask(f"{flow}-account", f"Account for {flow}, in the domain Default", form)
        question = f"Password of {name}, or file:PATH of it"
        check = checks.password(self._secrets.get(flow, ""))
        password = self._ask(f"{flow}-password", question, check, is_secret=True)
        if password.startswith(checks.SECRET_FILE):
            return CloudAccount(name, "", password.removeprefix(checks.SECRET_FILE))
        if password == KEEP:
            return CloudAccount(name, "")
        # Before the first message that could contain it.
        log.hide(password)
        return CloudAccount(name, password)

    def _look(self, flow: Flow, account: CloudAccount, keystone: str) -> None:
        """Ask the cloud what it offers."""
        password = account.password
        if account.password_file:
            try:
                password = secret_file.read(Path(account.password_file)).text
            except secret_file.BadSecret as error:
                raise Unavailable(account.password_file, str(error)) from error
        if flow is Flow.ACCOUNTING:
            password = password or self._known_password
        if self._ask_cloud is not None and password:
            login = CloudLogin(keystone, account.name, password, self._authorities)
            self._offers = self._ask_cloud(login)

    def _region(self) -> str:
        """Ask for the region of a cloud that has several; an empty one is the first."""
        regions = self._offers.regions
        present = self._defaults.get("region", "")
        if len(regions) < _SEVERAL and not self._source.asks_everything:
            return present
        form = _one_of(regions) if regions else checks.is_like(checks.NAME, "RegionOne")
        question = ": ".join(filter(None, ("Region of the cloud", ", ".join(regions))))
        offered = present or next(iter(regions), "")
        return self._ask("region", question, form, offered=offered, is_optional=True)

    def _projects(self) -> dict[str, tuple[str, ...]]:
        found = self._offers.projects
        present = table.read(self._defaults.get("projects", ""))
        offered = table.offered(present, found)
        known = {project for projects in offered.values() for project in projects}
        for one in found:
            if known.isdisjoint((one.id, one.name)):
                why = one.fault or "no property in Keystone names its VO"
                self._note(f"project {one.name} ({one.id}): {why}; write VO={one.id} to add it")
        words = self._ask(
            "projects",
            "VOs with the ids of their projects: VO=ID, blanks between",
            table.check(found),
            offered=table.text(offered),
            missing=f"must be answered{f': {self._silence}' if self._silence else ''}",
        )
        return table.read(words)

    def _note(self, text: str) -> None:
        if self._source.is_terminal:
            output.line(f"  {text}")

    # -------------------------------------------------------------------------------- one question

    def _known(self, key: str, text: str, check: Check, *, offered: str = "") -> str:
        """Ask only if there is no right default, or a source that answers everything."""
        default = offered or self._defaults.get(key, "")
        if not self._source.asks_everything and default and not check(default):
            return default
        return self._ask(key, text, check, offered=offered)

    def _ask(
        self,
        key: str,
        text: str,
        check: Check,
        *,
        is_secret: bool = False,
        is_optional: bool = False,
        offered: str = "",
        missing: str = "must be answered",
    ) -> str:
        """Ask until the answer passes its check; ``offered`` precedes the value in the files."""
        default = offered or self._defaults.get(key, "")
        question = SiteQuestion(key, text, check, default, is_secret, is_optional)
        while True:
            answer = self._source.answer(question) or default
            if not answer and is_optional:
                return ""
            wrong = check(answer.strip()) if answer else missing
            if not wrong:
                return answer
            self._source.reject(question, wrong)
            if not self._source.is_terminal:
                return ""


def _one_of(names: Sequence[str]) -> Check:
    return lambda text: "" if text in names else f"{text!r}: write one of {', '.join(names)}"


def _beside(certificate: str) -> str:
    """Return the key with the certificate's name and ``key`` for ``cert``; empty if none."""
    path = Path(certificate)
    key = path.with_name(path.name.replace("cert", "key")) if certificate else path
    return str(key) if key != path and key.is_file() else ""
