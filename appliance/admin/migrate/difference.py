"""The difference between two texts of a file, without the secrets in them."""

from __future__ import annotations

import difflib
import re
from urllib.parse import unquote

_SECRET = re.compile(
    r"(?i)(?P<head>(?:^|[\s\"'{,#;])[\w-]*(?:passw(?:or)?d|passwd|secret|token)[\w-]*[\"']?"
    r"\s*[=:]\s*)(?P<value>\S.*)?$"
)
_PLACE = re.compile(r"(?i)[_-](?:file|url|expiration)[\"']?\s*[=:]\s*$")
"""Names that hold a place or a time, and no secret."""
_ACCOUNT = re.compile(r"(?<=//)[^\s/]+@")
_AUTHORISATION = re.compile(r"^(?P<head>[^#\s]\S*\s+)\S.*$")
_MASK = "***"


def shown(
    name: str, before: str, after: str, *, labels: tuple[str, str] = ("now", "then")
) -> list[str]:
    """Return the lines of a unified difference; each secret is masked."""
    now, then = (f"{name} ({label})" for label in labels)
    ones, others = masked(name, before), masked(name, after)
    return [*difflib.unified_diff(ones, others, now, then, lineterm="")]


def masked(name: str, text: str) -> list[str]:
    """Return the lines of a file's text, with ``***`` in place of each secret."""
    lines: list[str] = []
    is_inside = False
    for line in text.splitlines():
        match = _SECRET.search(line)
        if is_inside and line[:1] in (" ", "\t") and line.strip() and not _names_option(line):
            lines.append(f"    {_MASK}")
        elif match and not _PLACE.search(match["head"]):
            value = f"{match['head']}{_MASK}" if match["value"] else match["head"]
            lines.append(f"{line[: match.start()]}{value}")
            is_inside = True
            continue
        else:
            is_inside = False
            lines.append(_ACCOUNT.sub(f"{_MASK}@", line))
        if name.endswith("registry.auth"):
            lines[-1] = _AUTHORISATION.sub(rf"\g<head>{_MASK}", line)
    return lines


def _names_option(line: str) -> bool:
    """Return whether an indented line sets an option of its own, as in YAML."""
    return re.match(r"\s+[\w-]+:(\s|$)", line) is not None


def secrets(name: str, text: str) -> list[str]:
    """Return what `masked` leaves out of a text, as a program reads it."""
    found: list[str] = []
    for line, shown_as in zip(text.splitlines(), masked(name, text), strict=True):
        if line == shown_as:
            continue
        match = _SECRET.search(line)
        value = match["value"] if match and match["value"] else line.strip()
        if name.endswith("registry.auth"):
            value = line.partition(" ")[2]
            found += [*value.split(), value.partition(":")[2]]
        accounts = [part for account in _ACCOUNT.findall(line) for part in account[:-1].split(":")]
        found += [value, value.strip(" \t\"',}"), *accounts, *map(unquote, accounts)]
    return [one for one in found if one]
