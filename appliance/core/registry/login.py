"""Access to a registry: anonymous first, then by the challenge of its answer 401.

    anonymous ──401 Bearer──> token of the realm, without or with the account ──> request again
              ──401 Basic───> the account itself                              ──> request again

The challenge is the one of the distribution specification (``WWW-Authenticate``, RFC 9110).
Harbor's API answers 401 without one and takes the account by Basic. A token counts for one scope
until the registry rejects it; then one new token is requested. Once a registry has asked for the
token of one repository, that of the next repository is requested before it asks.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from appliance.core.download.downloader import Downloader, Question
from appliance.core.registry.account import RegistryAccount
from appliance.core.run import log
from appliance.core.run.errors import AccessDenied, ApplianceError, Unavailable
from appliance.core.trust.errors import Malformed

UNAUTHORIZED, FORBIDDEN = 401, 403
_OK = 200
_MAX_TOKEN = 64 * 1024
"""Bytes of a realm's answer. Tokens that list many scopes have some KiB."""
_TOKEN = re.compile("[ -~]+", re.ASCII)
_PARAMETER = re.compile(r'([A-Za-z]+)="([^"\\]*)"', re.ASCII)


class NotShown(Unavailable):
    """A project or repository that the registry does not have, or hides."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a registry asks for: ``scheme`` in lower case, and its parameters."""

    scheme: str
    parameters: dict[str, str]

    def without_scope(self) -> Challenge:
        """Return the challenge without what it is for."""
        others = {name: value for name, value in self.parameters.items() if name != "scope"}
        return Challenge(self.scheme, others)


def read_challenge(header: str) -> Challenge:
    """Return the first challenge of a header ``WWW-Authenticate``; without one, scheme is empty."""
    scheme, _, rest = header.strip().partition(" ")
    found = {name.lower(): value for name, value in _PARAMETER.findall(rest)}
    return Challenge(scheme.lower(), found)


@dataclass(slots=True)
class Login:
    """The ways into one registry at ``host``; ``account`` is None for anonymous access.

    Several threads may use it.
    """

    client: Downloader
    host: str
    account: RegistryAccount | None = None
    accounts: str = "/etc/cloudkeeper/registry.auth"
    """The file for accounts, in remedies."""
    _authorizations: dict[str, str] = field(default_factory=dict, repr=False)
    _usual: Challenge | None = None
    """The challenge for any repository, without its scope; None before the first one."""

    def authorization(self, scope: str) -> str:
        """Return the latest header for a scope; empty if the registry has to ask for it."""
        usual = self._usual
        if usual and scope not in self._authorizations:
            try:
                self._authorizations[scope] = f"Bearer {self._token(usual, scope)}"
            except ApplianceError:  # perhaps this repository needs none; else the registry asks
                self._usual = None
        return self._authorizations.get(scope, "")

    def can_prove(self, sent: str) -> bool:
        """Check whether there is an account, and a request had nothing of it."""
        return self.account is not None and not sent

    def answer(self, header: str, *, scope: str, sent: str) -> None:
        """Answer a challenge to a request, so that `authorization` fits the next request.

        ``sent`` is the authorization that the request had. If another thread has got a new one
        meanwhile, that is the answer.

        Raises:
            AccessDenied: there is no account, or it is rejected.
            Malformed: the challenge cannot be answered.

        """
        if self._authorizations.get(scope, "") not in ("", sent):
            return
        challenge = read_challenge(header)
        if challenge.scheme == "bearer":
            self._authorizations[scope] = f"Bearer {self._token(challenge, scope)}"
            if challenge.parameters.get("scope") == _pull(scope):
                self._usual = challenge.without_scope()
        elif self.account is None or sent == self.account.basic:
            raise self.denied(scope)
        else:
            self._authorizations[scope] = self.account.basic

    def denied(self, scope: str) -> AccessDenied:
        """Return the error for a scope that the registry does not let us read."""
        project = scope.partition("/")[0]
        subject = f"{self.host}/{project}"
        if self.account is None:
            words = "the registry denies anonymous access"
            return AccessDenied(subject, words, self._robot(project))
        words = f"the registry denies access to account {self.account.user!r}"
        remedy = (
            f"check {self.account.origin}, and ask the registry's administrators whether the"
            f" account is valid and may pull from project {project}"
        )
        return AccessDenied(subject, words, remedy)

    def missing(self, scope: str) -> NotShown:
        """Return the error for a project or repository that the registry does not show us.

        Many registries hide by 404 what only some accounts may see, after a token as before.
        """
        subject = f"{self.host}/{scope}"
        words = "the registry has no such project or repository"
        if self.account is None:
            hidden = f"{words}, or hides it from anonymous access"
            robot = self._robot(scope.partition("/")[0])
            return NotShown(subject, hidden, f"check the name; if it is right, {robot}")
        who = f"account {self.account.user!r}"
        remedy = f"check the name, and whether {who} may pull from it ({self.account.origin})"
        return NotShown(subject, f"{words}, or hides it from {who}", remedy)

    def _robot(self, project: str) -> str:
        return (
            f"ask its administrators for a robot account that may pull from project {project},"
            f" and write {self.host} USER:SECRET into {self.accounts}"
        )

    def _token(self, challenge: Challenge, scope: str) -> str:
        query = {
            "service": challenge.parameters.get("service", ""),
            "scope": challenge.parameters.get("scope") or _pull(scope),
        }
        url = self._realm(challenge, {name: value for name, value in query.items() if value})
        question = Question(
            url,
            f"{self.host}: token service",
            self.account.basic if self.account else "",
            expected=frozenset({_OK, UNAUTHORIZED, FORBIDDEN}),
        )
        content = bytearray()
        with self.client.ask(question) as answer:
            if answer.status != _OK:
                raise self.denied(scope)
            for block in answer.blocks:
                content += block
                if len(content) > _MAX_TOKEN:
                    raise Malformed(question.name, f"answers with more than {_MAX_TOKEN} bytes")
        try:
            found = json.loads(content)
            token = found.get("token") or found["access_token"]
        except (ValueError, LookupError, AttributeError, RecursionError):
            raise Malformed(question.name, "its answer holds no token") from None
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise Malformed(question.name, "its answer holds no token")
        log.hide(token)
        return token

    def _realm(self, challenge: Challenge, query: dict[str, str]) -> str:
        """Return the URL of the token service; the account goes there, so only over TLS."""
        realm = challenge.parameters.get("realm", "")
        subject = f"{self.host}: token service"
        try:
            parts = urlsplit(realm)
        except ValueError:
            raise Malformed(subject, f"{realm[:120]!r} is not a URL") from None
        if parts.scheme != "https" or not parts.hostname or "@" in parts.netloc:
            raise Malformed(subject, f"{realm[:120]!r} is not an https URL")
        pairs = [*parse_qsl(parts.query), *query.items()]
        return urlunsplit((parts.scheme, parts.netloc, parts.path, urlencode(pairs), ""))


def _pull(repository: str) -> str:
    return f"repository:{repository}:pull"
