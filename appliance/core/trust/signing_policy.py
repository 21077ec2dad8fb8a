"""Signing policies: which subjects a grid CA may sign.

IGTF ships one ``HASH.signing_policy`` beside each CA certificate, in the small subset of Globus's
EACL format that is read here::

    access_id_CA   X509    '/C=NL/O=Example/CN=Example CA'
    pos_rights     globus  CA:sign
    cond_subjects  globus  '"/C=NL/O=Example/*" "/O=example/*"'

An entry names one CA; ``cond_subjects`` lists the DNs that it may sign. ``*`` stands for any
characters, also slashes, and ``?`` for one. Comparison is case-sensitive, as in Globus: policies
that mean both cases list both. The old spellings ``Email``, ``E`` and ``USERID`` of attribute types
equal ``emailAddress`` and ``UID``. A line of another form makes the file unusable, and all
certificates of the CA with it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from appliance.core.trust.distinguished_name import DN
from appliance.core.trust.errors import Untrusted

_LINE = re.compile(r"(?P<token>\S+)\s+(?P<authority>\S+)\s+(?P<value>\S.*)")
_QUOTED = re.compile(r'\s*"([^"]+)"\s*')
_SPELLINGS = (
    (re.compile(r"/(?:emailAddress|Email|E)=", re.IGNORECASE), "/emailAddress="),
    (re.compile(r"/(?:USERID|UID)=", re.IGNORECASE), "/UID="),
)
_REMEDY = (
    "reinstall the IGTF trust anchors (Debian's package igtf-policy-classic, or EGI's"
    " ca-policy-egi-core)"
)


@dataclass(slots=True)
class _AccessEntry:
    authority: str
    may_sign: bool = False
    subjects: list[re.Pattern[str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class SigningPolicy:
    """The entries of a file, in its order."""

    path: Path
    entries: tuple[_AccessEntry, ...]

    @classmethod
    def parse(cls, text: str, *, path: Path) -> SigningPolicy:
        """Parse the text of a policy file.

        Raises:
            Untrusted: a line has another form; the error names file and line.

        """
        entries: list[_AccessEntry] = []
        for number, raw in enumerate(text.splitlines(), start=1):
            line = raw.strip()
            if line and not line.startswith("#"):
                try:
                    _read_line(line, entries=entries)
                except ValueError as error:
                    raise Untrusted(f"{path}:{number}", str(error), _REMEDY) from None
        return cls(path, tuple(entries))

    def permits(self, subject: DN, *, issuer: DN) -> bool:
        """Check whether the CA ``issuer`` may sign ``subject``."""
        authority, name = _normalise(issuer), _normalise(subject)
        return any(
            pattern.fullmatch(name)
            for entry in self.entries
            if entry.may_sign and entry.authority == authority
            for pattern in entry.subjects
        )


def _read_line(line: str, *, entries: list[_AccessEntry]) -> None:
    parsed = _LINE.fullmatch(line)
    if parsed is None:
        raise ValueError("three fields are expected: token, authority, value")
    value = _unquote(parsed["value"])
    match parsed["token"], parsed["authority"]:
        case "access_id_CA", "X509":
            entries.append(_AccessEntry(_normalise(value)))
        # Rights and subjects belong to the last access_id_CA above them.
        case "pos_rights", "globus" if entries and value == "CA:sign":
            entries[-1].may_sign = True
        case "cond_subjects", "globus" if entries:
            entries[-1].subjects.extend(_patterns(value))
        case token, authority:
            raise ValueError(f"{token} {authority} {value} is not supported here")


def _unquote(value: str) -> str:
    # A list of subjects is quoted as a whole, and each subject in it once more.
    if value[0] in "'\"" and value.find(value[0], 1) == len(value) - 1:
        return value[1:-1]
    return value


def _patterns(value: str) -> list[re.Pattern[str]]:
    if '"' not in value:
        return [_pattern(value)]
    patterns, position = [], 0
    while position < len(value):
        found = _QUOTED.match(value, position)
        if found is None:
            raise ValueError("unbalanced quotes in the list of subjects")
        patterns.append(_pattern(found[1]))
        position = found.end()
    return patterns


def _pattern(glob: str) -> re.Pattern[str]:
    # Only * and ? are special; all other characters stand for themselves.
    expression = re.escape(_normalise(glob)).replace(r"\*", ".*").replace(r"\?", ".")
    return re.compile(expression, re.DOTALL)


def _normalise(name: str) -> str:
    for spelling, standard in _SPELLINGS:
        name = spelling.sub(standard, name)
    return name
