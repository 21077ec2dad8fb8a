"""Which VO a project serves: every form of mapping file, and what happens when sources differ."""

import json
from pathlib import Path

import pytest

from appliance.core.cloud.project import Project
from appliance.core.cloud.vo import NoVO, VOMapping, read_mapping, vo_of
from appliance.core.run.errors import ConfigurationError

ID = "0a1b2c3d4e5f60718293a4b5c6d7e8f9"
ITEM = 'each item must be like {"name": "VO", "auth": {"project_id": "id"}}'
TAG = "holds a date, a number or a tag that YAML does not know; put names in quotes"


def project(name: str = "ops", *, domain_id: str = "default", **properties: str) -> Project:
    return Project(ID, name, domain_id, frozenset(), properties)


def written(directory: Path, content: object, name: str = "voms.json") -> Path:
    path = directory / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize(
    "content",
    [
        {"vo.x": {"tenant": "ops"}},
        {"vo.x": {"tenant": ["other", "ops"]}},
        {"vo.x": {"tenants": ["other", "ops"]}},
        {"vo.x": {"tenants": [], "tenant": "ops"}},
        {"vo.x": {"projects": ["ops"], "tenant": None}},
        {"vo.x": {"projects": [ID]}},
        {"vo.x": {"project": ID}},
        {"vo.x": {"project": "ops", "domain": "Default"}},
        {
            "vos": [
                {"name": "other", "auth": {"project_id": "x"}},
                {"name": "vo.x", "auth": {"project_id": ID}},
            ]
        },
        {"other": {"projects": ["a"]}, "vo.x": {"projects": ["ops"]}},
    ],
)
def test_every_form_that_sites_have(content: object, tmp_path: Path) -> None:
    """R05, R18: those of Keystone-VOMS among them."""
    assert vo_of(project(), mapping=read_mapping(written(tmp_path, content))) == "vo.x"


def test_a_yaml_file_of_sites(tmp_path: Path) -> None:
    text = (
        "gocdb: SITE\n\nvos:\n- name: other\n  auth: {project_id: x}\n- name: vo.x\n  auth:\n  "
        f"  project_id: {ID}\n"
    )
    path = written(tmp_path, text.replace("gocdb: SITE\n", ""), "site.yaml")
    assert vo_of(project(), mapping=read_mapping(path)) == "vo.x"


def test_a_missing_tenant_is_no_project_called_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"names no project; write \{"):
        read_mapping(written(tmp_path, {"vo.x": {"tenant": None}}))


@pytest.mark.parametrize("name", ["VO", "egi.VO", "accounting:VO", "egi.eu:VO"])
def test_usual_properties(name: str) -> None:
    assert vo_of(project(**{name: " vo.x "}), mapping=VOMapping(Path("x"))) == "vo.x"


def test_a_property_of_the_site_own_choice_comes_first() -> None:
    chosen = project(**{"accounting:egi.VO": "vo.x", "VO": "else"})
    nothing = VOMapping(Path("x"))
    assert vo_of(chosen, mapping=nothing, preferred=("accounting:egi.VO",)) == "vo.x"
    assert vo_of(project(VO="vo.x"), mapping=nothing, preferred=("accounting:egi.VO",)) == "vo.x"
    assert vo_of(project(VO="vo.x", mine=" "), mapping=nothing, preferred=("mine",)) == "vo.x"
    several = project(second="vo.x", VO="else")
    assert vo_of(several, mapping=nothing, preferred=("first", "second")) == "vo.x"
    with pytest.raises(NoVO, match=r"vo\.y \(property first\), vo\.x \(property second\)"):
        vo_of(project(first="vo.y", second="vo.x"), mapping=nothing, preferred=("first", "second"))


def test_differing_sources_are_named(tmp_path: Path) -> None:
    path = written(tmp_path, {"vo.y": {"projects": ["ops"]}, "vo.z": {"projects": [ID]}})
    with pytest.raises(NoVO) as caught:
        vo_of(project(VO="vo.x"), mapping=read_mapping(path))
    assert str(caught.value) == (
        f"project ops ({ID}): its sources name different VOs: vo.x (property VO), vo.y "
        f"({path}:1), vo.z ({path}:1); "
        "make them equal"
    )


def test_without_any_source_the_command_is_named() -> None:
    with pytest.raises(
        NoVO,
        match=f"openstack project set --property VO='name of the VO' {ID}, or name it in /x/v",
    ):
        vo_of(project(), mapping=VOMapping(Path("/x/voms.json")))
    with pytest.raises(NoVO, match="is not the name of a VO"):  # who pastes it as it is
        vo_of(project(VO="name of the VO"), mapping=VOMapping(Path("x")))


@pytest.mark.parametrize(
    ("name", "text", "lines"),
    [
        (
            "v.json",
            '{\n "vo.y": {\n  "projects": ["ops"]},\n\n "vo.z": {"tenant": "ops"}\n}',
            (2, 5),
        ),
        ("v.yaml", "vo.y:\n  projects: [ops]\nvo.z:\n  project: ops\n", (1, 3)),
        ("v.yml", "'vo.y':\n  tenant: ops\n\"vo.z\":\n  tenant: ops\n", (1, 3)),
        (
            "v.yaml",
            "vos:\n- name: vo.y\n  auth: {project: ops}\n- name: vo.z\n  auth: {project: ops}\n",
            (2, 4),
        ),
    ],
)
def test_a_conflict_in_one_file_names_the_lines(
    tmp_path: Path, name: str, text: str, lines: tuple[int, int]
) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(NoVO) as caught:
        vo_of(project(), mapping=read_mapping(path))
    places = f"vo.y ({path}:{lines[0]}), vo.z ({path}:{lines[1]})"
    assert f"its sources name different VOs: {places}; make them equal" in str(caught.value)


def test_a_name_that_the_file_escapes_has_no_line(tmp_path: Path) -> None:
    path = tmp_path / "voms.json"
    path.write_text('{"\\/biomed": {"tenant": "ops"}, "vo.z": {"tenant": "ops"}}')
    with pytest.raises(NoVO) as caught:
        vo_of(project(), mapping=read_mapping(path))
    assert f"/biomed ({path}), vo.z ({path}:1)" in str(caught.value)


@pytest.mark.parametrize("value", ["two words", "a%%b", "ünïcode", "x" * 256])
def test_what_is_no_vo(value: str) -> None:
    with pytest.raises(NoVO, match="is not the name of a VO"):
        vo_of(project(VO=value), mapping=VOMapping(Path("x")))


def test_a_domain_tells_projects_of_one_name_apart(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        {
            "vo.x": {"project": "ops", "domain": "egi"},
            "vo.y": {"project": "ops", "domain": "default"},
        },
    )
    mapping = read_mapping(path)
    assert vo_of(project(), mapping=mapping) == "vo.y"
    assert vo_of(project(domain_id="54f3dde773ea4143b89520213baf6755"), mapping=mapping) == "vo.x"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"a": {"projects": ["x"]},\n "b" {}}', ":2: is not JSON: Expecting ':' delimiter"),
        ('["a"]', ':1: must be like {"VO": {"projects": ["name or id"]}}'),
        ('"a"', ':1: must be like {"VO": {"projects": ["name or id"]}}'),
        (
            '{"a": {"projects": ["x"]},\n "b": {"project": []}}',
            ':2: b: names no project; write {"projects": ["name or id"]}',
        ),
        ('{"a": 1}', ':1: a: names no project; write {"projects": ["name or id"]}'),
        ('{"vos": [[1]]}', f":1: vos: {ITEM}"),
        ('{"vos": [null]}', f":1: vos: {ITEM}"),
        (
            '{\n"vos": [{"name": "vo.x", "auth": {"project_id": "x"}},\n[["name", "vo.x"]]]}',
            f":2: vos: {ITEM}",
        ),
        ('{"vos": [{"name": null, "auth": {"project_id": "x"}}]}', f":1: vos: {ITEM}"),
        ("[" * 200_000, ":1: is nested too deeply; write one level of VOs"),
        ("9" * 5000, ":1: is not JSON: Exceeds the limit"),
    ],
)
def test_broken_files(text: str, problem: str, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigurationError) as caught:
        read_mapping(path)
    assert str(caught.value).startswith(f"{path}{problem}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("- a", ':1: must be like {"VO": {"projects": ["name or id"]}}'),
        ("- 5", ':1: must be like {"VO": {"projects": ["name or id"]}}'),
        ("- []", ':1: must be like {"VO": {"projects": ["name or id"]}}'),
        ("- [vo.x, {project: a}]", ':1: must be like {"VO": {"projects": ["name or id"]}}'),
        ("vo.x: a\nvo.y: \a", ":2: is not YAML: it has the control character U+0007; delete it"),
        ("vo.x: [project", ":1: is not YAML: expected ',' or ']', but got '<stream end>'"),
        ("vos: [a]", f":1: vos: {ITEM}"),
        ("vo: 2001-13-45", f":1: {TAG}"),
        ("vo: !!bool maybe", f":1: {TAG}"),
        ('vo: !!int ""', f":1: {TAG}"),
        ("vo: !!timestamp x", f":1: {TAG}"),
        ("[" * 1_000, ":1: is nested too deeply; write one level of VOs"),
    ],
)
def test_broken_yaml_files(text: str, problem: str, tmp_path: Path) -> None:
    path = written(tmp_path, text, "voms.yaml")
    with pytest.raises(ConfigurationError) as caught:
        read_mapping(path)
    assert str(caught.value) == f"{path}{problem}"


def test_the_shipped_example_is_left_out_with_a_word() -> None:
    path = Path(__file__).parents[2] / "etc/voms.json"
    mapping = read_mapping(path)
    assert mapping.entries == ()
    (reported,) = mapping.warnings
    assert str(reported) == (
        f"{path}:2: vo.example.org: is still the placeholder, with its project 'mytenant', "
        "and is ignored; "
        "fill in your VOs, or remove the entry"
    )
    assert not reported.is_fatal


@pytest.mark.parametrize(
    "content", [{"vo.x": {"tenant": "mytenant"}}, {"vo.example.org": {"tenant": "mytenant2"}}]
)
def test_only_the_very_example_is_left_out(content: object, tmp_path: Path) -> None:
    mapping = read_mapping(written(tmp_path, content))
    assert (len(mapping.entries), mapping.warnings) == (1, ())


def test_a_vo_that_stands_twice_keeps_all_its_projects(tmp_path: Path) -> None:
    path = written(tmp_path, '{"vo.x": {"projects": ["a"]}, "vo.x": {"projects": ["ops"]}}')
    assert [entry.project for entry in read_mapping(path).entries] == ["a", "ops"]
