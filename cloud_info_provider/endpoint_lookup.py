"""What GOCDB and a TLS handshake know of Keystone's endpoint, kept for the next runs.

Both change once in years and neither belongs to the cloud, so they are looked up once a day, beside
the reading of the cloud. A look-up that fails or takes long changes nothing: the last answer stays,
whatever its age, because EGI's reader drops a site without its id in GOCDB.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Generic, TypeVar

from appliance.core import clock, json_file
from appliance.core.run.errors import ApplianceError, LocalFailure
from cloud_info_provider import certificate, gocdb
from cloud_info_provider.facts import GocdbEntry, ServerCertificate
from cloud_info_provider.settings import ProviderSettings

logger = logging.getLogger(__name__)

STATE = "/var/lib/fedcloud/cloud-info/endpoint.json"
_LARGEST = 32 * 2**20
_MOST_ENDPOINTS = 200
"""Clouds of one host. EGI's catch-all reads 25; a handshake names up to 64 kB of authorities."""
_FRESH = timedelta(days=1)
_RETRY = timedelta(minutes=15)
"""After a failed look-up."""
_TIMEOUT = timedelta(seconds=10)

_Known = TypeVar("_Known", GocdbEntry, ServerCertificate)


@dataclass(slots=True)
class _Kept(Generic[_Known]):
    """An answer, when it was given, and when it was last asked for."""

    value: _Known
    read: str = ""
    asked: str = ""

    @property
    def is_due(self) -> bool:
        """Check whether it is time to ask again; a time in the future is a mistake of a clock."""
        return not (_is_within(self.read, _FRESH) or _is_within(self.asked, _RETRY))


def _is_within(text: str, span: timedelta) -> bool:
    try:
        return timedelta(0) <= clock.now() - clock.parse(text) < span
    except ValueError:
        return False


@dataclass(slots=True)
class EndpointLookup:
    """The look-ups of a run: `start` begins them, `finish` returns what is known then."""

    configuration: ProviderSettings
    path: Path
    patience: float = 2.0
    """Seconds from the beginning that a run waits for an answer if it has an older one."""
    first_patience: float = 12.0
    """The same for a run that has none."""
    _gocdb: _Kept[GocdbEntry] = field(init=False)
    _certificate: _Kept[ServerCertificate] = field(init=False)
    _threads: list[threading.Thread] = field(default_factory=list)
    _began: float = 0.0

    def __post_init__(self) -> None:
        kept = self._read()
        entry, shown = kept.get("gocdb", {}), kept.get("certificate", {})
        self._gocdb = _Kept(
            GocdbEntry(_text(entry, "id"), _text(entry, "site")),
            _text(entry, "read"),
            _text(entry, "asked"),
        )
        names = shown.get("client_authorities")
        authorities = tuple(map(str, names)) if isinstance(names, list) else ()
        self._certificate = _Kept(
            ServerCertificate(_text(shown, "issuer"), authorities),
            _text(shown, "read"),
            _text(shown, "asked"),
        )

    def start(self) -> None:
        """Begin the look-ups that are due, each in a thread that holds nothing up."""
        self._began = time.monotonic()
        endpoint, access = self.configuration.endpoint, self.configuration.access
        site = self.configuration.site.name
        if self.configuration.gocdb_url and self._gocdb.is_due:
            self._begin(
                self._gocdb,
                lambda: gocdb.find(self.configuration.gocdb_url, endpoint, site, timeout=_TIMEOUT),
            )
        if self._certificate.is_due:
            self._begin(
                self._certificate,
                lambda: certificate.read(endpoint, verify=access.verify, timeout=_TIMEOUT),
            )

    def _begin(self, kept: _Kept[_Known], ask: Callable[[], _Known]) -> None:
        def look_up() -> None:
            try:
                value = ask()
            except ApplianceError as error:
                words = f"; the answer of {kept.read[:10]} stays" if kept.read else ""
                logger.warning("%s%s", error, words)
            except Exception as error:  # it must cost nothing but itself
                words = f"{type(error).__name__}: {error}"
                logger.warning("look-up of the endpoint: bug in this program: %s", words)
                logger.debug("look-up of the endpoint", exc_info=True)
            else:
                kept.value, kept.read = value, kept.asked

        kept.asked = clock.now().isoformat(timespec="seconds")
        thread = threading.Thread(target=look_up, daemon=True, name="look-up")
        thread.start()
        self._threads.append(thread)

    def finish(self) -> tuple[GocdbEntry, ServerCertificate]:
        """Return what is known, and keep it for the next run."""
        has_answer = self._gocdb.read or not self.configuration.gocdb_url
        patience = self.patience if has_answer else self.first_patience
        for thread in self._threads:
            thread.join(max(0.0, self._began + patience - time.monotonic()))
        if self._threads:
            self._write()
        entry = self._gocdb.value
        if self.configuration.gocdb_url and not entry.id:
            logger.warning("the id in GOCDB is not known yet: EGI ignores a site without it")
        elif entry.site and entry.site != self.configuration.site.name:
            words = "%s: GOCDB has this endpoint at the site %s, not %s; correct the name"
            name = self.configuration.site.name
            logger.warning(words, self.configuration.yaml_file, entry.site, name)
        return entry, self._certificate.value

    def _read(self) -> dict[str, Any]:
        """Return what earlier runs learned of this endpoint."""
        found = self._read_all().get(self.configuration.endpoint)
        known = found if isinstance(found, dict) else {}
        return {name: one for name, one in known.items() if isinstance(one, dict)}

    def _read_all(self) -> dict[str, Any]:
        """Return the whole file: hosts that publish several clouds have one for all."""
        try:
            kept = json_file.read(self.path, limit=_LARGEST)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            logger.debug("%s: %r", self.path, error)
            return {}
        return kept if isinstance(kept, dict) else {}

    def _write(self) -> None:
        entry = {
            name: {**asdict(kept.value), "read": kept.read, "asked": kept.asked}
            for name, kept in (("gocdb", self._gocdb), ("certificate", self._certificate))
        }
        kept = self._read_all()
        kept.pop(self.configuration.endpoint, None)
        others = dict([*kept.items()][1 - _MOST_ENDPOINTS :])
        try:
            json_file.write(self.path, others | {self.configuration.endpoint: entry})
        except LocalFailure as error:
            logger.warning("%s; so the next run asks GOCDB again", error)


def _text(entry: dict[str, Any], name: str) -> str:
    found = entry.get(name)
    return found if isinstance(found, str) else ""
