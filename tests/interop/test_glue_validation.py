"""Our checks of entries beside others: the EGI profile of the tests, and slapd itself."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.core.directory import Directory, Refused
from appliance.core.glue import profile, schema
from appliance.core.ldif import Entry, parse
from appliance.core.run.layout import Layout
from bdii import settings as bdii_settings
from bdii import tree
from bdii.entry import CREATION_TIME
from bdii.site import entries as site_entries
from bdii.site.settings import Site
from bdii.slapd.process import Slapd
from cloud_info_provider.facts import Facts
from cloud_info_provider.formats import glue
from tests.e2e.bdii_service import Bdii, cloud, image, running
from tests.interop import egi_profile
from tests.interop.test_glue_profile import WHOLE, published, text_of
from tests.property.examples import examples
from tests.unit.test_glue import KEYSTONE, OPS, SITE, configured

NOW = datetime(2026, 11, 30, tzinfo=UTC)
RULES = schema.read(schema.FILE)
# Rules that the tests' profile does not have: coordinates, unusual numbers of jobs.
OURS_ALONE = {"E008", "E009", "I014", "I015", "I017"}


def trees() -> list[Entry]:
    return parse(published(text_of(WHOLE)).encode())


VALUES = ("x", "0", "9", "11", "-3", "1000001", "TRUE", "other", "production", "UNKNOWN", "é")
# Attributes without which entries mean something else, for either program.
KEPT = {"objectClass", "o"}


def of_tests(entries: list[Entry]) -> set[tuple[str, str, str]]:
    """Return the findings of the tests' own profile."""
    as_read = {
        entry.dn: {name: list(values) for name, values in entry.attributes.items()}
        for entry in entries
    }
    return {
        (code_of(each.code), each.attribute, each.dn)
        for each in egi_profile.findings(as_read)
        if each.code not in ("dangling", "duplicate")
    }


def of_product(entries: list[Entry]) -> set[tuple[str, str, str]]:
    return {
        (code_of(each.code), each.attribute, each.dn)
        for each in profile.findings(entries, now=NOW)
        if each.code not in (*OURS_ALONE, "dangling-link", "duplicate-id")
    }


def code_of(code: str) -> str:
    """Return a code, one for both ends of a range: the tests' profile has one."""
    return code if not code.startswith("I0") or code == "I095" else "unusual"


FIGURES = ("CPUs", "Size", "Instances", "Jobs", "Slots", "Total", "ClockSpeed")


@settings(max_examples=examples(150), deadline=None)
@given(st.data())
def test_two_independent_profiles_agree(data: st.DataObject) -> None:
    """Each change of a good tree has the same findings in both."""
    entries = trees()
    number = data.draw(st.integers(0, len(entries) - 1))
    names = sorted(entries[number].attributes.keys() - KEPT)
    name = data.draw(st.sampled_from(names)) if names else "o"
    value = data.draw(st.none() | st.sampled_from(VALUES))
    if value is not None and name.endswith(FIGURES) and not value.isdigit():
        value = "12"  # the tests' profile takes slapd's word for whole numbers
    if name in ("GLUE2EntityOtherInfo", "GLUE2EntityCreationTime") or "ScalingFactor" in name:
        value = None
    changed = tree.with_values(entries[number], name, () if value is None else (value,))
    entries[number] = changed
    assert of_product(entries) == of_tests(entries)


def test_the_clean_tree_has_the_gaps_of_the_vocabulary_only() -> None:
    found = profile.findings(trees(), now=NOW)
    assert [(str(each.severity), each.code) for each in found] == [("warning", "W037")] * 2
    assert not [each for each in trees() if schema.finding(each, RULES)]


def test_a_site_s_own_entries_have_one_info() -> None:
    """docs/adr/0053: everybody may read the site's BDII, so its policy names no VO."""
    site = Site(
        name="EXAMPLE-SITE",
        host="bdii.example.org",
        email="a@example.org",
        security_email="s@example.org",
        support_email="u@example.org",
        country="Spain",
        latitude="43.46",
        longitude="-3.8",
    )
    made = [
        tree.with_values(entry, CREATION_TIME, ["2026-11-22T07:00:00Z"])
        for entry in tree.of(site_entries.entries(site, port=2170))[0].values()
    ]
    found = profile.findings([*made, *trees()], now=NOW)
    codes = sorted((each.code, each.attribute) for each in found if "sitebdii" in each.dn)
    assert codes == [("I095", "GLUE2PolicyUserDomainForeignKey")]


# --------------------------------------------------------------------------------------------------
# the schema, beside slapd


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Directory]:
    bdii = Bdii(tmp_path_factory.mktemp("slapd"))
    read, _ = bdii_settings.read(bdii.configuration, layout=Layout(bdii.directory))
    made = Slapd(read)
    made.recover()
    top = Entry("o=glue", {"objectClass": ("organization",), "o": ("glue",)})
    made.serve({tree.SUFFIX: top})
    with made.connect() as connection:
        yield connection
    made.stop()


def provided() -> list[Entry]:
    listed, _ = glue.entries(Facts((OPS,), {}), SITE, shares=configured("ops"), auth_url=KEYSTONE)
    # below the suffix, where no parent is missing
    return [replace(each, dn=f"{each.dn.split(',GLUE2')[0]},o=glue") for each in listed[2:]]


def is_accepted(directory: Directory, entry: Entry) -> bool:
    try:
        directory.add(entry)
    except Refused:
        return False
    directory.delete(entry.dn)
    return True


@settings(
    max_examples=examples(150),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_the_schema_allows_what_slapd_accepts(directory: Directory, data: st.DataObject) -> None:
    entry = data.draw(st.sampled_from(provided()))
    names = [*sorted(entry.attributes), "GLUE2LocationCountry", "GLUE2Nonsense", "o"]
    name = data.draw(st.sampled_from(names))
    values = data.draw(
        st.lists(
            st.sampled_from(("x", "7", "007", "GLUE2Group", "TRUE", "x ", "a  b", "a b")),
            max_size=2,
            unique=True,
        )
    )
    if name == "objectClass":
        values = [*entry.get("objectClass")[: data.draw(st.integers(1, 3))], *values[:1]]
    changed = tree.with_values(entry, name, values)
    found = schema.finding(changed, RULES)
    # which classes may stand together is slapd's own matter
    if name != "objectClass" or found is not None:
        assert is_accepted(directory, changed) == (found is None), (name, values, found)


def test_slapd_accepts_the_whole_tree_and_refuses_what_the_check_refuses(
    directory: Directory,
) -> None:
    for entry in provided():
        assert schema.finding(entry, RULES) is None
        assert is_accepted(directory, entry)
        bad = tree.with_values(entry, "objectClass", [*entry.get("objectClass"), "GLUE2Cloud"])
        assert schema.finding(bad, RULES) is not None
        assert not is_accepted(directory, bad)


# --------------------------------------------------------------------------------------------------
# bdii-update --validate


def validated(bdii: Bdii) -> subprocess.CompletedProcess[str]:
    return bdii.once("--validate")


def test_bdii_update_validates_what_its_sources_give(tmp_path: Path) -> None:
    bdii = Bdii(tmp_path)
    bdii.provide(text_of(WHOLE))
    done = validated(bdii)
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["warning W037"] * 2
    # o=glue and the three groups have no time of creation, and are no entities
    assert last == "16 entries: 0 errors, 2 warnings, 0 infos"
    assert not (tmp_path / "state/published.ldif").exists()


def test_bdii_update_reports_each_wrong_entry_once(tmp_path: Path) -> None:
    bdii = Bdii(tmp_path)
    text = text_of(WHOLE).replace("\n ", "")
    flavor = next(block for block in text.split("\n\n") if "GLUE2ExecutionEnvironmentP" in block)
    wrong = flavor.replace("GLUE2ExecutionEnvironmentMainMemorySize: 2048\n", "")
    other = "dn: GLUE2ServiceID=x,o=glue\nobjectClass: GLUE2CloudComputingService\n\n"
    bdii.provide(f"{text.replace(flavor, wrong)}{other}")
    done = validated(bdii)
    assert done.returncode == 1
    errors = [line for line in done.stdout.splitlines() if line.startswith("error")]
    assert len(errors) == 2
    assert "MainMemorySize: is missing; the schema demands it" in errors[1]
    assert "'GLUE2CloudComputingService' is not a class of GLUE 2.0" in errors[0]


def test_bdii_update_without_a_schema_says_what_to_install(tmp_path: Path) -> None:
    bdii = Bdii(tmp_path, {"BDII_SCHEMA_DIR": tmp_path / "none"})
    bdii.provide(text_of(WHOLE))
    done = validated(bdii)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == (
        f"bdii-update: {tmp_path}/none/GLUE20.schema: No such file or directory; "
        "install glue-schema, or set BDII_SCHEMA_DIR\n"
    )


def test_a_refused_entry_is_logged_once_while_it_stays_wrong(tmp_path: Path) -> None:
    wrong = "dn: GLUE2ServiceID=bad,o=glue\nobjectClass: GLUE2Service\nGLUE2ServiceType: t\n\n"
    bdii = Bdii(tmp_path)
    bdii.provide(cloud(image(1, "ops"), wrong))
    with running(bdii):
        bdii.wait_for(lambda: bdii.cycles > 2, what="three cycles")
        lines = [line for line in bdii.log.splitlines() if "=bad,o=glue: not published" in line]
        assert len(lines) == 1
        assert "requires attribute" in lines[0]
        record = json.loads(
            (tmp_path / "root/var/lib/fedcloud/runs/bdii-resource.json").read_text()
        )
        assert len(record["failures"]) == 1  # the record of each cycle lists what is left undone
        bdii.kick()  # after a reload all problems are logged again
        bdii.wait_for(lambda: bdii.log.count("=bad,o=glue: not published") == 2, what="the line")


def test_a_single_run_names_each_entry_that_it_leaves_out(tmp_path: Path) -> None:
    bdii = Bdii(tmp_path)
    wrong = [
        f"dn: GLUE2ServiceID=w{n},o=elsewhere\nobjectClass: GLUE2Service\n\n" for n in range(12)
    ]
    bdii.provide(cloud(*wrong, image(1, "ops")))
    done = validated(bdii)
    assert done.returncode == 1
    assert [
        done.stderr.count(f"GLUE2ServiceID=w{n},o=elsewhere: not below o=glue") for n in range(12)
    ] == [1] * 12
    assert "more of this kind" not in done.stderr
