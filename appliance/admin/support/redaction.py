"""What leaves a site in a support bundle: no secret, and no id of a user, machine or project.

Secrets are found where the configuration has them, and masked wherever else they occur. Ids and
names of people become words such as ``id-3f2a91c04d7e``: equal ones stay equal within a bundle, and
differ in the next, because each bundle has a salt of its own that nobody keeps.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from appliance.admin.migrate import difference
from appliance.core import files, hosts
from appliance.core.run import log

_LIMIT = 2**16  # bytes of a file of a secret
_SHORTEST_NAME = 3
_TOKENS = re.compile(
    r"gAAAAA[\w-]{20,}={0,2}|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"  # of Keystone, and JSON web tokens
    r"|(?i:(?<=bearer )|(?<=x-auth-token: )|(?<=x-subject-token: ))\S+"
)
_KEY = re.compile(r"(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(-----END|\Z)", re.DOTALL)
_ATTRIBUTE = r"(?:DC|C|ST|L|O|OU|CN|UID|emailAddress)=[^/,\n\"';|]+"
_NAME = re.compile(rf"(?:/{_ATTRIBUTE})+|{_ATTRIBUTE}(?:,\s?{_ATTRIBUTE})+")
_COMMON_NAME = re.compile(r"CN=(?:host/)?([^/,]+)")
_MAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_ID = re.compile(
    r"(?<![0-9A-Za-z])(?:[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|[0-9a-fA-F]{32})"
    r"(?![0-9A-Za-z])"
)
_USER = re.compile(r"(?im)^\s*(?:export\s+)?[\w-]*user(?:_?name|_?id)?[\"']?\s*[=:]\s*(\S.*?)\s*$")
_SECRET_FILE = re.compile(r"(?im)^\s*(?:export\s+)?\w*_file[\"']?\s*[=:]\s*[\"']?(/[^\s\"']+)")
_OURS = frozenset({"fedcloud", "root"})


class Redaction:
    """Takes secrets, ids and names out of texts."""

    def __init__(self) -> None:
        self._salt = os.urandom(32)
        self._users: set[str] = set()

    def learn(self, name: str, text: str, *, root: Path) -> None:
        """Take the secrets and the users of a configuration file, to find them elsewhere."""
        for secret in difference.secrets(name, text):
            log.hide(secret)
        for path in _SECRET_FILE.findall(text):
            for secret in _content(root / path.lstrip("/")):
                log.hide(secret)
        names = (found.strip("\"'") for found in _USER.findall(text))
        self._users |= {one for one in names if len(one) >= _SHORTEST_NAME and one not in _OURS}

    def configuration(self, name: str, text: str) -> str:
        """Return a configuration file without secrets and names."""
        return self.text("\n".join([*difference.masked(name, text), ""]))

    def text(self, text: str) -> str:
        """Return a text without secrets and names."""
        text = _KEY.sub(r"\1***\2", _TOKENS.sub("***", log.redact(text)))
        text = _NAME.sub(self._name, text)
        text = _MAIL.sub(lambda found: self._word("user", found[0]), text)
        for user in sorted(self._users, key=len, reverse=True):
            word = self._word("user", user)
            text = re.sub(rf"(?<![\w-]){re.escape(user)}(?![\w-])", word, text)
        return _ID.sub(lambda found: self._word("id", found[0].replace("-", "").lower()), text)

    def _name(self, found: re.Match[str]) -> str:
        """Return a distinguished name of a host as it is, and a word for every other one."""
        common = _COMMON_NAME.findall(found[0])
        is_host = bool(common) and "." in common[-1] and hosts.is_host(common[-1].strip())
        return found[0] if is_host else self._word("user", found[0].strip())

    def _word(self, kind: str, text: str) -> str:
        digest = hmac.new(self._salt, text.encode(errors="replace"), hashlib.sha256).hexdigest()
        return f"{kind}-{digest[:12]}"


def _content(path: Path) -> Iterator[str]:
    """Yield the lines of a secret's file; none if it cannot be read."""
    try:
        data = files.read_regular(path, limit=_LIMIT, follow=True)
    except OSError:  # its program reports it
        return
    yield from _filled(data.decode(errors="replace").splitlines())


def _filled(lines: Iterable[str]) -> Iterator[str]:
    return (line.strip() for line in lines if line.strip() and not line.startswith("-----"))
