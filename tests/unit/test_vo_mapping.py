"""The text of a mapping: other rules keep every byte; a new one asks what the site's ask."""

from __future__ import annotations

import json
from typing import Any

import pytest

from appliance.admin.vo import mapping
from appliance.admin.vo.mapping import ISSUER, FederationMapping
from appliance.core.run.errors import Unavailable

ODD = (
    '[ {"local" :[ ], "remote": [{"type":"A","any_one_of":["\\u00e9 \\"]}, ["]}]},\n\t{"b" : 1e2}]'
)
"""Rules that no serialiser of JSON would write so."""
RULE = {"local": [], "remote": [{"type": "X", "any_one_of": ["urn:mace:egi.eu:group:vo.x:role=a"]}]}
GUIDE: dict[str, Any] = {
    "local": [{"user": {"name": "{0}"}, "group": {"id": "g1"}}],
    "remote": [
        {"type": "HTTP_OIDC_SUB"},
        {"type": "HTTP_OIDC_ISS", "any_one_of": ["https://aai.egi.eu/oidc/"]},
        {
            "type": "OIDC-eduperson_entitlement",
            "regex": True,
            "any_one_of": ["^urn:mace:egi.eu:group:ops:role=vm_operator#aai.egi.eu$"],
        },
    ],
}
"""The rule of EGI's guide for the VO ops."""


def of(text: str) -> FederationMapping:
    return FederationMapping("m", text)


def test_a_rule_is_added_before_the_bracket() -> None:
    after = mapping.added(ODD, RULE)
    assert after == f"{ODD[:-1]}, {json.dumps(RULE)}]"
    assert json.loads(after) == [*json.loads(ODD), RULE]
    assert mapping.added("[ \n]", RULE) == f"[{json.dumps(RULE)} \n]"
    assert mapping.added("[1 ]", RULE) == f"[1, {json.dumps(RULE)} ]"


def test_a_rule_is_cut_out_with_one_comma() -> None:
    assert mapping.without(mapping.added(ODD, RULE), [RULE]) == ODD
    first, last = "[ 1 , 2,3 ]", json.dumps(RULE)
    assert mapping.without(first, [1]) == "[ 2,3 ]"
    assert mapping.without(first, [2]) == "[ 1 , 3 ]"
    assert mapping.without(first, [3]) == "[ 1 , 2 ]"
    assert mapping.without(first, [1, 2, 3]) == "[  ]"
    assert mapping.without(f"[{last},{last}]", [RULE]) == "[]"
    assert mapping.without(ODD, [RULE]) == ODD


def test_the_rules_in_an_answer_are_its_own_bytes() -> None:
    answer = f'{{"links": {{"rules": []}}, "mapping" : {{"id":"m","rules":{ODD} , "x": 1}} }}'
    found = mapping.read(answer, "m")
    assert (found.text, found.version) == (ODD, "")
    answer = f'{{"mapping": {{"rules": {ODD}, "schema_version": "2.0"}}}}'
    assert mapping.read(answer, "m").version == "2.0"


@pytest.mark.parametrize(
    "answer",
    ["", "[]", "{}", "<html>", '{"mapping": 1}', '{"mapping": {"rules": {}}}', '{"mapping"'],
)
def test_other_answers_are_no_mapping(answer: str) -> None:
    with pytest.raises(Unavailable, match="is not a mapping"):
        mapping.read(answer, "m")


def test_a_digest_is_that_of_the_values() -> None:
    """Keystone may write the same rules otherwise; another rule is another digest."""
    assert of(ODD).digest == of(json.dumps(json.loads(ODD), indent=3)).digest
    assert of(ODD).digest != of(mapping.added(ODD, RULE)).digest
    assert of("[1, 2]").digest != of("[2, 1]").digest


def test_the_vos_of_a_rule() -> None:
    assert mapping.vos(GUIDE) == {"ops"}
    assert mapping.vos(RULE) == {"vo.x"}
    escaped = r"^urn:mace:egi\.eu:group:vo\.y:role=vm_operator\#aai\.egi\.eu$"
    assert mapping.vos({"remote": [{"any_one_of": [escaped, "urn:mace:egi.eu:group:z#a"]}]}) == {
        "vo.y",
        "z",
    }
    for odd in (1, {}, {"remote": 1}, {"remote": [1, {"any_one_of": 2}, {"any_one_of": [3]}]}):
        assert mapping.vos(odd) == set()
    assert of(json.dumps([GUIDE, RULE])).of_vo("vo.x") == [RULE]


def made(*like: Any) -> dict[str, Any]:
    vo, role = "vo.example.org", "vm_operator"
    return mapping.rule_of(vo, "group", "Default", role=role, issuer=ISSUER, like=like)


def test_a_rule_after_another_vo_s() -> None:
    """The claims and the issuer are the site's; a pattern lets no similar name in."""
    rule = made({"local": [], "remote": []}, GUIDE, {"remote": "x"})
    place = {"name": "group", "domain": {"name": "Default"}}
    assert rule["local"] == [{"user": {"name": "{0}"}, "group": place}]
    assert rule["remote"][:2] == GUIDE["remote"][:2]
    (pattern,) = rule["remote"][2]["any_one_of"]
    assert pattern == r"^urn:mace:egi\.eu:group:vo\.example\.org:role=vm_operator\#aai\.egi\.eu$"
    assert mapping.vos(rule) == {"vo.example.org"}
    assert GUIDE["local"][0]["group"] == {"id": "g1"}


@pytest.mark.parametrize(
    "other",
    [
        {**GUIDE, "local": [{"user": {}, "groups": "{1}"}]},
        {**GUIDE, "local": [*GUIDE["local"], {"projects": []}]},
        {**GUIDE, "more": 1},
        {**GUIDE, "local": []},
        {**GUIDE, "remote": [*GUIDE["remote"], RULE["remote"][0]]},
    ],
)
def test_a_rule_of_another_form_is_no_model(other: Any) -> None:
    rule = made(other)
    assert rule["remote"][1] == {"type": "HTTP_OIDC_ISS", "any_one_of": [ISSUER]}
    assert rule["remote"][2]["any_one_of"] == [
        "urn:mace:egi.eu:group:vo.example.org:role=vm_operator#aai.egi.eu"
    ]
