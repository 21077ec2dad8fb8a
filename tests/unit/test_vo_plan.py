"""`appliance vo`: a VO is planned, reviewed, applied, and taken back; the cloud is simulated."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from appliance.admin.command import main
from appliance.admin.vo import plan
from tests import documents
from tests.simulators import administered, openstack
from tests.simulators.administered import OTHER, Administered
from tests.simulators.openstack import Cloud
from tests.unit import checked_site
from tests.unit.checked_site import CASO, SHARES, VOS, Site

pytestmark = pytest.mark.root

VO = "vo.example.org"
MADE = "{{ made.project.id }}"
CLOUDS = """\
clouds:
  site:
    auth:
      auth_url: {url}/v3
      username: admin
      password: geheim-77
      user_domain_name: Default
      project_name: one
      project_domain_name: Default
    region_name: R
"""


@dataclass
class VoSite:
    """A site, its cloud, and an administrator's login."""

    site: Site
    cloud: Cloud
    state: Administered
    clouds: Path

    @property
    def plan(self) -> Path:
        return self.clouds.with_name("plan.json")

    def ran(self, *words: str, expect: int = 0, login: bool = True) -> tuple[str, str]:
        given = ["--clouds", str(self.clouds), "--os-cloud", "site"] if login else []
        with (
            contextlib.redirect_stdout(io.StringIO()) as out,
            contextlib.redirect_stderr(io.StringIO()) as err,
        ):
            status = main(["vo", *words, *given, "--root", str(self.site.root)])
        assert status == expect, (out.getvalue(), err.getvalue())
        assert "geheim" not in out.getvalue() + err.getvalue()
        return out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checked_site.ship(
        tmp_path_factory.mktemp("site"), pki=tmp_path_factory.mktemp("authority")
    )


@contextlib.contextmanager
def simulated(shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[VoSite]:
    """Yield a site whose cloud is simulated."""
    state = Administered(users={"accounting": "u-a", "reader": "u-i", "cloudkeeper": "u-k"})
    cloud = Cloud(projects=("one",), fault=state.answer)
    with checked_site.healthy(shipped, monkeypatch) as site, openstack.serving(cloud) as served:
        site.edit(SHARES, ("vo.example.org", "vo.local"))
        clouds = tmp_path / "clouds.yaml"
        clouds.write_text(CLOUDS.format(url=served.url))
        clouds.chmod(0o600)
        yield VoSite(site, served, state, clouds)


@pytest.fixture
def vo_site(shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[VoSite]:
    with simulated(shipped, tmp_path, monkeypatch) as made:
        yield made


def planned(vo_site: VoSite, *words: str) -> str:
    return vo_site.ran("plan", VO, "--output", str(vo_site.plan), *words)[0]


def test_a_plan_shows_everything_and_changes_nothing(vo_site: VoSite) -> None:
    before = {path: path.read_bytes() for path in vo_site.site.root.rglob("*") if path.is_file()}
    out = planned(vo_site, "--cores", "64", "--gigabytes", "2000")
    assert vo_site.state.changes == []
    after = {path: path.read_bytes() for path in vo_site.site.root.rglob("*") if path.is_file()}
    assert after == before
    for line in (
        f"+ openstack project create --domain Default --property egi.VO={VO} {VO}",
        f"+ openstack quota set --cores 64 {VO}",
        f"+ openstack quota set --gigabytes 2000 {VO}",
        f"+ openstack group create --domain Default {VO}",
        f"+ openstack role add --group {VO} --project {VO} member",
        f"+ openstack role add --user u-a --project {VO} reader",
        f"+ openstack role add --user u-k --project {VO} member",
        '           "https://idp.example"',  # of another provider: the whole mapping is shown
        f'+          "urn:mace:egi.eu:group:{VO}:role=vm_operator#aai.egi.eu"',
        "+projects = project, ID-OF-THE-NEW-PROJECT",
        "+                project_id: ID-OF-THE-NEW-PROJECT",
        f"+- name: {VO}",
    ):
        assert f"\n{line}\n" in out, line
    assert oct(vo_site.plan.stat().st_mode & 0o777) == "0o600"


@pytest.mark.long
def test_a_plan_is_applied_once(vo_site: VoSite) -> None:
    planned(vo_site, "--cores", "64")
    out, _ = vo_site.ran("apply", str(vo_site.plan))
    state = vo_site.state
    (project,) = state.projects.values()
    (group,) = state.groups.values()
    assert (project["name"], project["egi.VO"], project["domain_id"]) == (VO, VO, "default")
    assert state.quotas[project["id"]]["cores"] == 64
    roles = administered.ROLES
    assert state.grants == {
        (project["id"], group["id"], roles["member"]),
        (project["id"], "u-a", roles["reader"]),
        (project["id"], "u-i", roles["reader"]),
        (project["id"], "u-k", roles["member"]),
    }
    assert state.rules[0] == OTHER
    assert state.rules[1]["local"][0]["group"] == {"name": VO, "domain": {"name": "Default"}}
    assert state.changes[-1].startswith("PATCH /v3/OS-FEDERATION/")  # users enter last
    root = vo_site.site.root
    assert f"projects = project, {project['id']}\n" in (root / CASO).read_text()
    assert json.loads((root / VOS).read_text())[VO] == {"projects": [project["id"]]}
    described = yaml.safe_load((root / SHARES).read_text())["compute"]["shares"]
    assert described[VO] == {"auth": {"project_id": project["id"]}}
    # The undo is complete, the last step first.
    undone = [line.removeprefix("undo: ") for line in out.splitlines() if line.startswith("undo")]
    assert undone[0].startswith("openstack mapping set --rules /")
    assert json.loads(Path(undone[0].split()[4]).read_text()) == [OTHER]
    assert undone[-1] == f"openstack project delete {project['id']}"
    assert f"openstack group delete {group['id']}" in undone
    before = state.shown()
    out, _ = vo_site.ran("apply", str(vo_site.plan))
    assert out.startswith("Nothing is left to change.")
    assert state.shown() == before
    assert "Nothing is left to change." in planned(vo_site)


@pytest.mark.long
@pytest.mark.parametrize("at", ["POST /v3/groups", "PATCH /v3/OS-FEDERATION"])
def test_an_apply_that_fails_goes_on_with_the_same_plan(at: str, vo_site: VoSite) -> None:
    planned(vo_site)
    vo_site.state.refuses = lambda request: f"{request.method} {request.path}".startswith(at)
    out, err = vo_site.ran("apply", str(vo_site.plan), expect=3)
    assert "answers 403: You are not authorized." in err
    assert "undo: openstack project delete project-1" in out
    assert vo_site.state.rules == [OTHER]
    vo_site.state.refuses = lambda _: False
    vo_site.ran("apply", str(vo_site.plan))
    assert len(vo_site.state.projects) == len(vo_site.state.groups) == 1
    assert len(vo_site.state.rules) == 2


@pytest.mark.long
def test_a_mapping_that_changed_is_refused(vo_site: VoSite) -> None:
    planned(vo_site)
    vo_site.state.rules = [OTHER, {"local": [], "remote": [{"type": "new"}]}]
    _, err = vo_site.ran("apply", str(vo_site.plan), expect=3)
    assert "mapping egi-mapping: has changed since the plan was made" in err
    assert f"appliance vo plan {VO}" in err
    assert vo_site.state.changes == []


@pytest.mark.long
def test_a_cloud_that_needs_more_than_the_plan_has_is_refused(vo_site: VoSite) -> None:
    vo_site.state.users.clear()
    out = planned(vo_site)
    assert "i images: the account 'cloudkeeper' has no user of its own in Keystone" in out
    vo_site.state.users = {"cloudkeeper": "u-k"}
    _, err = vo_site.ran("apply", str(vo_site.plan), expect=3)
    assert "does not have what the cloud needs now: openstack role add --user u-k" in err
    tree = json.loads(vo_site.plan.read_text())
    vo_site.plan.write_text(json.dumps(tree | {"keystone": "https://other:5000/v3"}))
    assert "is for https://other:5000/v3" in vo_site.ran("apply", str(vo_site.plan), expect=3)[1]
    vo_site.plan.write_text(json.dumps(tree | {"format": 2}))
    assert "has the format 2" in vo_site.ran("apply", str(vo_site.plan), expect=2)[1]
    vo_site.plan.write_text("{}")
    assert "is not a plan" in vo_site.ran("apply", str(vo_site.plan), expect=2)[1]
    assert vo_site.state.changes == []


@pytest.mark.long
def test_a_project_that_is_there_gets_the_property(vo_site: VoSite) -> None:
    vo_site.state.projects["p"] = {"id": "p", "name": "ours", "domain_id": "default"}
    out = planned(vo_site, "--project", "ours")
    assert f"+ openstack project set --property egi.VO={VO} p" in out
    assert "project create" not in out
    vo_site.state.projects["p"]["VO"] = "ops"
    _, err = vo_site.ran("plan", VO, "--project", "ours", expect=2)
    assert "the project 'ours' serves the VO ops; give another name" in err
    for name in ("q", "r"):
        vo_site.state.projects[name] = {"id": name, "name": name, "domain_id": "d", "egi.VO": VO}
    _, err = vo_site.ran("plan", VO, expect=2)
    assert "several projects name this VO: q, r" in err  # C73


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("plan", "a b"), "'a b' is not the name of a VO"),
        (("plan", VO, "--identity-provider", "egi"), "there are egi.eu, campus"),
        (("plan", VO, "--role", "user"), "the cloud has no role 'user'; there are admin, member"),
        (("plan", VO, "--domain", "x"), "the cloud has no domain 'x'"),
        (("plan", VO, "--os-cloud", "sit"), "has no cloud 'sit'; did you mean site?"),
    ],
)
def test_wrong_words(words: tuple[str, ...], said: str, vo_site: VoSite) -> None:
    login = "--os-cloud" not in words
    given = words if login else (*words, "--clouds", str(vo_site.clouds))
    assert said in vo_site.ran(*given, expect=2, login=login)[1]
    assert vo_site.state.changes == []


def test_the_login_comes_from_the_command_line(vo_site: VoSite, tmp_path: Path) -> None:
    """Never from /etc, never from a file that all may read, never without TLS's verification."""
    plan_it = ("plan", VO)
    _, err = vo_site.ran(*plan_it, expect=2, login=False)
    assert "give --os-cloud NAME --clouds FILE, or --openrc FILE" in err
    _, err = vo_site.ran(*plan_it, "--openrc", "/etc/hostname", expect=2, login=False)
    assert "/etc/hostname: is in /etc, where an administrator's password must not stay" in err
    rc = tmp_path / "openrc"
    rc.write_text(
        f"export OS_AUTH_URL={vo_site.cloud.url}/v3\nOS_USERNAME=admin\nOS_PASSWORD=geheim-77\n"
        "OS_USER_DOMAIN_NAME=Default\nOS_PROJECT_NAME=one\nOS_PROJECT_DOMAIN_NAME=Default\n"
        "OS_IDENTITY_API_VERSION=3\nOS_REGION_NAME=R\n"
    )
    rc.chmod(0o644)
    _, err = vo_site.ran(*plan_it, "--openrc", str(rc), expect=2, login=False)
    assert f"chmod o-r {rc}" in err
    rc.chmod(0o600)
    out, _ = vo_site.ran(*plan_it, "--openrc", str(rc), login=False)
    assert "+ openstack project create" in out
    rc.write_text(rc.read_text() + "OS_INSECURE=true\n")
    _, err = vo_site.ran(*plan_it, "--openrc", str(rc), expect=2, login=False)
    assert f"{rc}:9: insecure: true: TLS is always verified; remove it, and name cacert" in err
    rc.write_text("OS_USERNAME=admin\n")
    _, err = vo_site.ran(*plan_it, "--openrc", str(rc), expect=2, login=False)
    assert "auth_url: must be set: Keystone's URL" in err


@pytest.mark.long
def test_an_account_that_is_no_administrator(vo_site: VoSite) -> None:
    vo_site.state.refuses = lambda request: request.path == "/v3/domains"
    _, err = vo_site.ran("plan", VO, expect=3)
    assert "GET /domains answers 403: You are not authorized." in err
    assert "use an administrator's account of the cloud" in err
    text = vo_site.clouds.read_text()
    vo_site.clouds.write_text(text.replace("project_name: one", "project_name: none"))
    assert "0 projects of this account are called 'none'" in vo_site.ran("plan", VO, expect=3)[1]
    vo_site.clouds.write_text(text.replace(vo_site.cloud.url, "http://127.0.0.1:9"))
    assert "127.0.0.1:9: cannot be reached" in vo_site.ran("plan", VO, expect=3)[1]


@pytest.mark.long
def test_a_playbook_and_a_patch(vo_site: VoSite) -> None:
    (play,) = yaml.safe_load(planned(vo_site, "--format", "ansible", "--cores", "8"))
    tasks = {next(key for key in task if "." in key): task for task in play["tasks"]}
    project = tasks["openstack.cloud.project"]["openstack.cloud.project"]
    assert project["extra_specs"] == {"egi.VO": VO}
    assert tasks["openstack.cloud.quota"]["openstack.cloud.quota"] == {"name": MADE, "cores": 8}
    rules = tasks["openstack.cloud.federation_mapping"]["openstack.cloud.federation_mapping"]
    assert rules["rules"][0] == OTHER
    content = tasks["ansible.builtin.copy"]["ansible.builtin.copy"]["content"]
    assert yaml.safe_load(content)["vos"][-1]["name"] == VO
    assert "{{ made.project.id }}" in content
    out = planned(vo_site, "--format", "patch")
    assert "--- a/mappings/egi-mapping.json\n+++ b/mappings/egi-mapping.json\n" in out
    assert "--- a/sites/SITE.yaml\n+++ b/sites/SITE.yaml\n" in out
    assert "--- a/etc/caso/caso.conf\n" in out


@pytest.mark.long
def test_a_removal_lists_what_is_lost_and_waits(
    vo_site: VoSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned(vo_site)
    vo_site.ran("apply", str(vo_site.plan))
    before, state = vo_site.state.shown(), vo_site.state
    state.servers = [f"s{number}" for number in range(12)]
    out, err = vo_site.ran("remove", VO, expect=2)
    assert "  12 servers\n    name of s0 (s0)\n" in out
    assert "    and 2 more\n  0 volumes\n" in out
    assert "there is no terminal to ask at; add --yes" in err
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda _: "vo.example.com")
    assert "another name was typed" in vo_site.ran("remove", VO, expect=2)[1]
    _, err = vo_site.ran("remove", VO, "--delete-project", "--yes", expect=3)
    assert "still has 12 servers, which would stay without an owner" in err
    assert state.shown() == before
    monkeypatch.setattr("builtins.input", lambda _: VO)
    out, _ = vo_site.ran("remove", VO)
    assert "undo: openstack mapping set --rules /" in out
    assert state.rules == [OTHER]
    assert state.groups == {}
    assert {who for _, who, _ in state.grants} == {"u-a", "u-i", "u-k"}  # for the last hours
    assert len(state.projects) == 1
    state.servers = []
    vo_site.ran("remove", VO, "--delete-project", "--yes")
    assert state.projects == {}
    assert "nothing of the VO vo.example.org is at this site" in vo_site.ran("remove", VO)[0]


def test_a_rule_for_two_vos_and_a_group_elsewhere_stay(vo_site: VoSite) -> None:
    shared: Any = {
        "local": [],
        "remote": [
            {
                "type": "e",
                "any_one_of": [f"urn:mace:egi.eu:group:{vo}:role=x" for vo in (VO, "vo.other")],
            }
        ],
    }
    state = vo_site.state
    state.rules = [OTHER, shared]
    state.groups["g"] = {"id": "g", "name": VO, "domain_id": "default"}
    state.grants = {("elsewhere", "g", "r2")}
    before = state.shown()
    out, _ = vo_site.ran("remove", VO, "--yes")
    assert "! 1 rule for several VOs stay; edit them by hand" in out
    assert "stays, it has roles elsewhere" in out
    assert state.shown() == before


def test_a_plan_s_file_reads_back(vo_site: VoSite) -> None:
    planned(vo_site, "--instances", "5")
    found = plan.read(vo_site.plan)
    assert found.wish.quotas == {"instances": 5}
    assert found.before != found.after
    assert found.rule is not None


@pytest.mark.long
def test_the_commands_of_the_how_to(vo_site: VoSite) -> None:
    fills = {
        "/srv/clouds.yaml": str(vo_site.clouds),
        "/srv/plan.json": str(vo_site.plan),
        "VO-NAME": VO,
    }
    for name in ("plan", "apply", "remove"):
        for line in documents.block("join-a-vo.md", name).commands():
            for word, value in fills.items():
                line = line.replace(word, value)  # noqa: PLW2901  the filled command
            _, _, *words = line.split()
            vo_site.ran(*words, *(["--yes"] if name == "remove" else []), login=False)
    assert vo_site.state.rules == [OTHER]
