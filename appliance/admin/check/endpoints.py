"""``appliance check --endpoints``: the names and ports that each flow contacts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from urllib.parse import urlsplit

from appliance.admin.check.probe import CheckedSite
from appliance.core.config.settings import ENDPOINT, Value
from appliance.core.run import output

_PORTS = {"http": 80, "https": 443, "ldap": 389, "stomp": 61613, "stomp+ssl": 61617}


@dataclass(frozen=True, slots=True, order=True)
class Contact:
    """A name and a port that a program contacts."""

    host: str
    port: int
    what: str
    """What is there, such as ``Keystone``."""
    scheme: str
    path: str
    """The file that names it; empty if another service has named it."""
    line: int

    @property
    def place(self) -> str:
        """Return file and line, for messages."""
        return f"{self.path}:{self.line}" if self.line else self.path


def known(values: Sequence[Value]) -> Iterator[Contact]:
    """Yield the endpoints in what programs have read, each once."""
    found: dict[tuple[str, int, str], Contact] = {}
    for value in values:
        if value.section == ENDPOINT and (one := _endpoint(value)):
            found.setdefault((one.host, one.port, one.what), one)
    yield from sorted(found.values())


def _endpoint(value: Value) -> Contact | None:
    try:
        parts = urlsplit(value.text)
        host, port = parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        return None  # its program reports it
    path = "" if str(value.path) == "." else str(value.path)
    return Contact(host, port, value.option, parts.scheme, path, value.line) if host else None


def print_all(site: CheckedSite, *, as_json: bool) -> None:
    """Print a line for each endpoint."""
    found = list(known(site.values))
    if as_json:
        output.document([asdict(one) for one in found])
    elif found:
        output.table(
            [
                ("host", "port", "what", "where it is set"),
                *((one.host, str(one.port), one.what, one.place) for one in found),
            ]
        )
