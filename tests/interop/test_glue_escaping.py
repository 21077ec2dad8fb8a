"""Names and values of a cloud as clients read them: what OpenStack says, unchanged, from slapd.

Commas, quotes, other scripts, blanks and nothing at all come from flavors, images, projects and
VOs. ldap3 and OpenLDAP's own client judge what the provider prints, after the BDII has loaded it.
"""

from __future__ import annotations

import base64
import subprocess
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.core import ldif
from appliance.core.glue import profile, schema
from appliance.core.ldif import Entry
from appliance.core.run.layout import Layout
from bdii import settings as bdii_settings
from bdii import tree
from bdii.slapd.process import Slapd
from cloud_info_provider.facts import Facts, Flavor, OfferedImage
from cloud_info_provider.formats import glue
from tests.e2e.bdii_service import Bdii
from tests.property.examples import examples
from tests.unit.test_glue import KEYSTONE, OPS, SITE, SMALL, UBUNTU, configured

AWKWARD = (
    *(",", "a,b", '"quoted"', "#first", " leading", "trailing ", "back\\slash", "a=b", "a+b"),
    *("<angle>", "semi;colon", "Universität", "日本", "n\u00a0bsp", "tab\tbed", "a\nb", ": colon"),
    *("", "x" * 300, "*", "(paren)", "nul\0", "\u200b", "dn: o=glue", "e\u0301"),
)
texts = st.sampled_from(AWKWARD) | st.text(max_size=12)
images = st.builds(
    OfferedImage,
    id=texts,
    name=texts,
    marketplace=texts,
    base=texts,
    description=texts,
    version=texts,
    architecture=texts,
    os_type=texts,
    os_distribution=texts,
    os_version=texts,
)
flavors = st.builds(
    Flavor,
    id=texts,
    name=texts,
    vcpus=st.just(1),
    ram=st.just(2048),
    disk=st.just(0),
    ephemeral=st.just(0),
    extra_specs=st.dictionaries(st.just("Accelerator:Model"), texts),
)


@pytest.fixture(scope="module")
def slapd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slapd]:
    bdii = Bdii(tmp_path_factory.mktemp("slapd"))
    read, _ = bdii_settings.read(bdii.configuration, layout=Layout(bdii.directory))
    made = Slapd(read)
    made.recover()
    yield made
    made.stop()


def provider_tree(facts: Facts) -> list[Entry]:
    """Return what a reader of LDIF gets from the provider's output."""
    vos = configured(*(share.vo for share in facts.shares))
    listed, _ = glue.entries(facts, SITE, shares=vos, auth_url=KEYSTONE)
    return ldif.parse("".join(ldif.write(listed)).encode("ascii"))


Seen = dict[tuple[str, frozenset[str]], dict[str, frozenset[str]]]
"""Attributes by class and identifier: names of entries are spelled in several ways."""


def seen(entries: list[Entry]) -> Seen:
    """Return attributes in lower case by the entry's identifier."""
    return {
        (entry.get("objectClass")[-1], frozenset(entry.get(_key(entry)))): {
            name.lower(): frozenset(values) for name, values in entry.attributes.items()
        }
        for entry in entries
    }


def _key(entry: Entry) -> str:
    return ldif.parse_dn(entry.dn)[0][0][0]


def by_ldap3(port: int) -> Seen:
    with warnings.catch_warnings():  # ldap3 uses names that pyasn1 has renamed
        warnings.simplefilter("ignore", DeprecationWarning)
        import ldap3
    server = ldap3.Server("127.0.0.1", port=port, get_info=ldap3.NONE)
    with ldap3.Connection(server, check_names=False) as connection:
        connection.search("o=glue", "(objectClass=*)", attributes=["*"])
        found = [
            Entry(
                each["dn"],
                {
                    name: tuple(value.decode() for value in values)
                    for name, values in each["raw_attributes"].items()
                },
            )
            for each in connection.response
        ]
    return seen(found)


def by_ldapsearch(port: int) -> Seen:
    """Read OpenLDAP's output without our reader of LDIF."""
    command = ["ldapsearch", "-x", "-LLL", "-o", "ldif-wrap=no", "-H", f"ldap://127.0.0.1:{port}"]
    done = subprocess.run([*command, "-b", "o=glue"], capture_output=True, text=True, check=True)
    found = []
    for block in filter(None, done.stdout.split("\n\n")):
        attributes: dict[str, tuple[str, ...]] = {}
        for line in block.splitlines():
            name, value = line.split(":", 1)
            is_encoded = value.startswith(":")
            text = base64.b64decode(value[1:]).decode() if is_encoded else value.removeprefix(" ")
            attributes[name] = (*attributes.get(name, ()), text)
        found.append(Entry(attributes.pop("dn")[0], attributes))
    return seen(found)


@settings(
    max_examples=examples(12),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(images, max_size=4), st.lists(flavors, max_size=4), texts)
def test_clients_read_what_the_cloud_says(
    slapd: Slapd, offered: list[OfferedImage], sizes: list[Flavor], project: str
) -> None:
    share = replace(OPS, images=tuple(offered), flavors=tuple(sizes), project_name=project)
    entries = provider_tree(Facts((share,), {}))
    rules = schema.read(schema.FILE)
    assert not [each for each in entries if schema.finding(each, rules)]
    codes = {finding.code for finding in profile.findings(entries, now=Facts((), {}).answered)}
    assert not codes & {"dangling-link", "duplicate-id", "W038", "no-class"}
    wanted, problems = tree.of(entries)
    assert not problems or all("too long for slapd" in line for line in problems)
    served = slapd.serve(wanted)
    assert not served.refused
    published = seen(list(wanted.values()))
    assert by_ldap3(slapd.settings.port) == published
    assert by_ldapsearch(slapd.settings.port) == published


@pytest.mark.parametrize("vo", ["/ops/Role=a+b,c", '"vo"', "vo#1", "v=o;x<y>\\z", "vo(1)*"])
def test_unusual_names_of_vos(slapd: Slapd, vo: str, tmp_path: Path) -> None:
    share = replace(OPS, vo=vo, images=(UBUNTU,), flavors=(SMALL,))
    wanted, problems = tree.of(provider_tree(Facts((share,), {})))
    assert problems == []
    assert not slapd.serve(wanted).refused
    published = seen(list(wanted.values()))
    assert by_ldap3(slapd.settings.port) == by_ldapsearch(slapd.settings.port) == published
    rules = [attributes.get("glue2policyrule") for attributes in published.values()]
    assert rules.count(frozenset({f"VO:{vo}"})) == 2
