"""The messenger for GreenDIGIT's service CIM: records as JSON over HTTPS, with a token.

    GET  BASE_URL/gd-cim-api/v1/token?email=…&password=…   answers with a token
    POST BASE_URL/gd-cim-api/v1/submit                     takes an array of records, with the token

An array that is refused is halved until the records that are to blame stand alone. They are set
aside, and the others go. If nothing at all is accepted, no record is to blame: all of them wait.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from appliance.core import hosts
from appliance.core.config import secret_file
from appliance.core.config.settings import Settings
from appliance.core.run import log
from appliance.core.run.errors import CHECK_LOGS, AccessDenied, ApplianceError, Unavailable
from appliance.core.run.layout import Layout
from appliance.core.web import WebAddress, send
from caso import quarantine
from caso.checkpoint import Checkpoints
from caso.kinds.kind import RecordKind
from caso.messengers import record_types
from caso.messengers.messenger import Messenger
from caso.messengers.waiting import OpenService, RecordsRefused, WaitingRecord

if TYPE_CHECKING:
    import requests

NAMES = ("greendigit_cim",)

_SECTION = NAMES[0]
_BASE_URL = "https://greendigit-cim.sztaki.hu"
_PATHS = "/gd-cim-api/v1"
_TIMEOUT = timedelta(seconds=60)
_LARGEST = 2**20
_ARRAY = 500
"""Records in one request."""
_BLAME = (400, 413, 422)
"""Statuses that may be the fault of a record."""


def read(settings: Settings, _layout: Layout, _name: str) -> Messenger:
    """Read the section [greendigit_cim]."""
    url = settings.text(_SECTION, "base_url", default=_BASE_URL).rstrip("/")
    if fault := hosts.url_fault(url):
        settings.error(_SECTION, "base_url", fault)
    if not settings.boolean(_SECTION, "verify_ssl", default=True):
        words = "has no effect: the service's certificate is always verified"
        settings.warn(_SECTION, "verify_ssl", words)
    kept = secret_file.of_option(settings, _SECTION, "password")
    password = settings.text(_SECTION, "password") if kept is None else kept
    if kept is None and not password:
        settings.error(_SECTION, "password", "must be set, or password_file")
    log.hide(password)
    if url.startswith("http:") and password:
        settings.warn(_SECTION, "base_url", "anybody on the network may read the password")
    return GreenDigit(
        server=WebAddress(url, None, _TIMEOUT),
        email=settings.text(_SECTION, "email", required="the account at the service"),
        password=password,
        kinds=record_types.kinds(settings, _SECTION),
    )


@dataclass(frozen=True, slots=True)
class GreenDigit:
    """The messenger ``greendigit_cim``."""

    server: WebAddress
    email: str
    password: str = field(repr=False)
    kinds: tuple[RecordKind[Any], ...]
    name: str = NAMES[0]

    def open(self, checkpoints: Checkpoints) -> OpenService:
        """Return the messenger for a run."""
        return OpenService(self, checkpoints)

    def connect(self, quarantine: Path) -> GreenDigitConnection:
        """Log in.

        Raises:
            AccessDenied: the service refuses the account.
            Unavailable: it does not answer, or with something else than a token.

        """
        return GreenDigitConnection(self, quarantine)

    def describe(self) -> str:
        """Return what becomes of records."""
        titles = ", ".join(kind.title for kind in self.kinds)
        return f"{titles}, as JSON, to {self.server.url} as {self.email}"


class GreenDigitConnection:
    """A login, for the records of one run."""

    def __init__(self, service: GreenDigit, aside: Path) -> None:
        self._service = service
        self._aside = aside
        self._host = hosts.of_url(service.server.url)
        self._has_accepted = False
        self.refused: list[ApplianceError] = []
        self.accepted = 0
        self._token = self._login()

    def send(self, records: Iterable[WaitingRecord]) -> None:
        """Send records; set those aside that the service refuses."""
        pending = iter(records)
        refused: list[tuple[WaitingRecord, str]] = []
        self.accepted = 0
        while array := list(itertools.islice(pending, _ARRAY)):
            found = self._submit(array)
            self._has_accepted |= len(found) < len(array)
            refused += found
            if not refused:  # those would have to be set aside first
                self.accepted += len(array)
        if refused and not self._has_accepted:
            words = f"refuses all {len(refused)} records: {refused[0][1]}"
            remedy = "check [greendigit_cim] base_url and [messenger_greendigit_cim] record_types"
            raise RecordsRefused(self._host, words, remedy)
        for record, reason in refused:
            self._set_aside(record, f"{self._host} {reason}")

    def close(self) -> None:
        """Forget the token."""
        self._token = ""

    def _set_aside(self, record: WaitingRecord, reason: str) -> None:
        key = f"{_SECTION} {record.key}"
        kept = quarantine.set_aside(self._aside, key=key, reason=reason, text=record.text)
        self.refused.append(
            ApplianceError(f"record {record.key}", f"not sent: {reason}; see {kept}")
        )

    def _submit(self, array: Sequence[WaitingRecord]) -> list[tuple[WaitingRecord, str]]:
        """Submit records, and return those that are refused, each with the reason."""
        answer = self._post(array)
        if _is_success(answer):
            return []
        said = f"answers {answer.status_code}: {' '.join(answer.text.split())[:120]}"
        if answer.status_code not in _BLAME:
            raise self._failure(answer.status_code, f"does not take records: {said}")
        if len(array) == 1:
            return [(array[0], said)]
        middle = len(array) // 2
        return [*self._submit(array[:middle]), *self._submit(array[middle:])]

    def _post(self, array: Sequence[WaitingRecord]) -> requests.Response:
        content = f"[{','.join(record.text for record in array)}]".encode("ascii")
        answer = self._request("POST", "/submit", content=content)
        if answer.status_code == 401:  # noqa: PLR2004  Unauthorized: the token has ended
            self._token = self._login()
            answer = self._request("POST", "/submit", content=content)
        return answer

    def _login(self) -> str:
        self._token = ""
        account = {"email": self._service.email, "password": self._service.password}
        answer = self._request("GET", f"/token?{urlencode(account)}")
        if not _is_success(answer):
            words = f"does not let {self._service.email} log in: answers {answer.status_code}"
            raise self._failure(answer.status_code, words)
        try:
            found = answer.json()
            token = found.get("access_token") or found.get("token")
        except (ValueError, AttributeError, RecursionError):
            token = None
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            words = "answers without a token to a login"
            raise Unavailable(self._host, words, "check [greendigit_cim] base_url")
        log.hide(token)
        return token

    def _request(
        self, method: str, path: str, *, content: bytes | None = None
    ) -> requests.Response:
        headers = {"Content-Type": "application/json"} if content is not None else {}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        server = self._service.server
        url = f"{server.url}{_PATHS}{path}"
        return send(server, method, url, headers=headers, content=content, largest=_LARGEST)

    def _failure(self, status: int, words: str) -> Unavailable:
        if status in (401, 403):
            remedy = "check [greendigit_cim] email and password"
            return AccessDenied(self._host, words, remedy)
        return Unavailable(self._host, words, CHECK_LOGS)


def _is_success(answer: requests.Response) -> bool:
    return 200 <= answer.status_code < 300  # noqa: PLR2004  a redirect has taken nothing
