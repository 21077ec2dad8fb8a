"""A mapping of Keystone's federation as a text: rules of a VO are spliced in and out.

Keystone's answer is kept as it came. A rule is added before the bracket that closes the list, or
cut out with its comma, so every byte of all other rules stays.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from appliance.core.run.errors import Unavailable

ENTITLEMENT = "urn:mace:egi.eu:group:"
ISSUER = "https://aai.egi.eu/auth/realms/egi"
AUTHORITY = "#aai.egi.eu"
_BLANK = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class JsonSpan:
    """A part of a text, from ``begin`` to before ``end``, and its value."""

    begin: int
    end: int
    value: Any


@dataclass(frozen=True, slots=True)
class FederationMapping:
    """The list of rules of a mapping, as the text that Keystone sent."""

    id: str
    text: str
    """The JSON array of the rules."""
    version: str = ""
    """The version of its schema; empty where Keystone has none."""

    @property
    def rules(self) -> list[Any]:
        """Return the rules as values."""
        found: list[Any] = json.loads(self.text)
        return found

    @property
    def digest(self) -> str:
        """Return the digest of the rules' values, whatever the blanks and the order of names."""
        plain = json.dumps(self.rules, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(plain.encode()).hexdigest()

    def of_vo(self, vo: str) -> list[Any]:
        """Return the rules that let members of a VO in."""
        return [rule for rule in self.rules if vo in vos(rule)]


def read(answer: str, identifier: str) -> FederationMapping:
    """Return the mapping in an answer of Keystone, ``{"mapping": {"rules": [...]}}``.

    Raises:
        Unavailable: The answer has another form.

    """
    try:
        body = _member(answer, 0, "mapping")
        rules = _member(answer, body.begin, "rules")
        if not isinstance(rules.value, list):
            raise TypeError
        version = str(body.value.get("schema_version") or "")
    except (ValueError, LookupError, TypeError, AttributeError):
        cause = "the answer of Keystone is not a mapping"
        raise Unavailable(f"mapping {identifier}", cause) from None
    return FederationMapping(identifier, answer[rules.begin : rules.end], version)


def _member(text: str, at: int, wanted: str) -> JsonSpan:
    """Return the value of a name in the object that begins at a place."""
    at = _skip(text, at)
    if text[at] != "{":
        raise ValueError(at)
    at = _skip(text, at + 1)
    found: JsonSpan | None = None
    while text[at] != "}":
        name, at = _DECODER.raw_decode(text, at)
        at = _skip(text, _skip(text, at) + 1)  # the colon
        value, end = _DECODER.raw_decode(text, at)
        if name == wanted:
            found = JsonSpan(at, end, value)  # of two the last one counts, as in Python
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)
    if found is None:
        raise LookupError(wanted)
    return found


def _skip(text: str, at: int) -> int:
    found = _BLANK.match(text, at)
    return found.end() if found else at


def spans(text: str) -> list[JsonSpan]:
    """Return the items of a JSON array in a text."""
    at = _skip(text, _skip(text, 0) + 1)
    found: list[JsonSpan] = []
    while text[at] != "]":
        value, end = _DECODER.raw_decode(text, at)
        found.append(JsonSpan(at, end, value))
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)
    return found


def added(text: str, rule: Mapping[str, Any]) -> str:
    """Return the text of rules with one more at its end."""
    items = spans(text)
    written = json.dumps(rule, ensure_ascii=False)
    if not items:
        at = text.index("[") + 1
        return f"{text[:at]}{written}{text[at:]}"
    at = items[-1].end
    return f"{text[:at]}, {written}{text[at:]}"


def without(text: str, unwanted: Sequence[Any]) -> str:
    """Return the text of rules without these, each with the comma before or after it."""
    items = spans(text)
    kept = [item for item in items if item.value not in unwanted]
    for number in reversed(range(len(items))):
        if items[number].value not in unwanted:
            continue
        begin, end = items[number].begin, items[number].end
        if number + 1 < len(items):
            end = items[number + 1].begin
        elif number:
            begin = items[number - 1].end
        text = text[:begin] + text[end:]
        items = spans(text)
    if [item.value for item in items] != [item.value for item in kept]:
        raise AssertionError("another rule would have changed")
    return text


def vos(rule: Any) -> set[str]:
    """Return the VOs of EGI whose members a rule lets in."""
    remote = rule.get("remote", ()) if isinstance(rule, dict) else ()
    found = set()
    for condition in remote if isinstance(remote, list) else ():
        values = condition.get("any_one_of", ()) if isinstance(condition, dict) else ()
        for value in values if isinstance(values, list) else ():
            plain = re.sub(r"\\(.)", r"\1", str(value)).strip("^$")
            if plain.startswith(ENTITLEMENT):
                found.add(plain.removeprefix(ENTITLEMENT).partition(":")[0].partition("#")[0])
    return found


def rule_of(
    vo: str, group: str, domain: str, *, role: str, issuer: str, like: Sequence[Any] = ()
) -> dict[str, Any]:
    """Return the rule that puts members of a VO with a role into a group.

    ``like`` are the rules of the mapping: the new one asks the claims that another VO's asks, since
    their names depend on the site's web server. Without any, they are those of EGI's guide.
    """
    entitlement = f"{ENTITLEMENT}{vo}:role={role}{AUTHORITY}"
    place = {"name": group, "domain": {"name": domain}}
    for other in reversed(like):
        if made := _like(other, entitlement, place):
            return made
    return {
        "local": [{"user": {"type": "ephemeral", "name": "{0}"}, "group": place}],
        "remote": [
            {"type": "HTTP_OIDC_SUB"},
            {"type": "HTTP_OIDC_ISS", "any_one_of": [issuer]},
            {"type": "OIDC-eduperson_entitlement", "any_one_of": [entitlement]},
        ],
    }


def _like(other: Any, entitlement: str, place: Mapping[str, Any]) -> dict[str, Any]:
    """Return a rule made after another VO's; empty if that one has another form."""
    if len(vos(other)) != 1:
        return {}
    made: dict[str, Any] = copy.deepcopy(other)
    local = made.get("local")
    groups = [one for one in local if isinstance(one, dict) and "group" in one] if local else []
    plain = all(isinstance(one, dict) and one.keys() <= {"user", "group"} for one in local or [{}])
    if len(groups) != 1 or not plain or made.keys() != {"local", "remote"}:
        return {}
    groups[0]["group"] = dict(place)
    for condition in made["remote"]:
        values = condition.get("any_one_of")
        if values and ENTITLEMENT in re.sub(r"\\(.)", r"\1", str(values[0])):
            is_pattern = condition.get("regex") is True
            condition["any_one_of"] = [f"^{re.escape(entitlement)}$" if is_pattern else entitlement]
    return made
