"""`appliance accounts`: commands for the least account of each flow, and rights that differ."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.admin.accounts import commands, needs, rights
from appliance.admin.accounts.needs import FlowAccount, ServedProject
from appliance.admin.command import main
from appliance.core.cloud.login import Access
from appliance.core.config.settings import Value
from appliance.core.run.finding import Finding
from tests import documents
from tests.unit import checked_site
from tests.unit.checked_site import BACKEND, CASO, ENV, SHARES, VOS, Site

pytestmark = pytest.mark.root

ACCOUNTING, INFORMATION, IMAGES = needs.NEEDS
ZEROS = "0" * 32
SHOWN = f"""\
# accounting: reads servers, volumes and addresses of each project; names of users from the system
# the account is in CASO:LINE
openstack user create --domain Default --password-prompt accounting
openstack role add --user accounting --user-domain Default --project project reader
openstack role add --user accounting --user-domain Default --system all reader
# give the same role in each project with the tag caso

# information: reads flavors, images, networks and quotas of each project
# the account is in RC:LINE
openstack user create --domain default --password-prompt reader
openstack role add --user reader --user-domain default --project {ZEROS} reader

# images: makes and removes images in each project
# the account is in BACKEND:LINE
openstack user create --domain default --password-prompt cloudkeeper
openstack role add --user cloudkeeper --user-domain default --project project member
"""
"""Written by hand from README.md, step 1, for the site of `checked_site`."""


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checked_site.ship(
        tmp_path_factory.mktemp("site"), pki=tmp_path_factory.mktemp("authority")
    )


@pytest.fixture
def site(shipped: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with checked_site.healthy(shipped, monkeypatch) as made:
        yield made


def ran(
    site: Site, capsys: pytest.CaptureFixture[str], *words: str, expect: int = 0
) -> tuple[str, str]:
    capsys.readouterr()
    status = main(["accounts", *words, "--root", str(site.root)])
    out, err = capsys.readouterr()
    assert status == expect, (out, err)
    assert "geheim" not in out + err
    return out, err


def test_the_commands_of_all_flows(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = ran(site, capsys)
    expected = SHOWN
    for word, name, begin in (
        ("CASO", CASO, "username"),
        ("RC", checked_site.RC, "export OS_USERNAME"),
        ("BACKEND", BACKEND, "username"),
    ):
        lines = (site.root / name).read_text().splitlines()
        line = next(number for number, text in enumerate(lines, 1) if text.startswith(begin))
        expected = expected.replace(f"{word}:LINE", f"{site.root / name}:{line}")
    assert out == expected


def test_placeholders_are_no_projects(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    """A site as it is shipped; what is missing has its file, and the exit status says so."""
    site.edit(CASO, ("projects = project", "projects = PROJECT-NAMES"))
    site.edit(CASO, ("username = accounting", "#username = accounting"))
    site.edit(SHARES, (ZEROS, "PROJECT-ID"))
    (site.root / VOS).write_text("{}\n")
    out, err = ran(site, capsys, expect=1)
    assert "PROJECT" not in out
    assert out.count("openstack role add") == 1, "that on the system"
    conf, shares = site.root / CASO, site.root / SHARES
    line = conf.read_text().splitlines().index("projects = PROJECT-NAMES") + 1
    assert f"accounting: {conf}: names no account; write 'accounting' or a name of your own" in err
    fault = "is still the placeholder 'PROJECT-NAMES'; appliance configure"
    assert f"accounting: {conf}:{line}: projects: {fault}\n" in err
    assert re.search(rf"information: {shares}:\d+: .*project_id: is still .*'PROJECT-ID'", err)
    assert "images: no project of a VO is configured; appliance configure\n" in err
    made = json.loads(ran(site, capsys, "--json", expect=1)[0])["accounts"]
    assert [len(one["unset"]) for one in made] == [2, 1, 1]


def test_names_are_quoted_for_a_shell(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    lines = (site.root / CASO).read_text().splitlines()
    (before,) = [line for line in lines if line.startswith("username")]
    site.edit(
        CASO,
        (before, "username = our $HOME account"),
        ("projects = project", "projects = two words"),
    )
    out, _ = ran(site, capsys, "accounting")
    words = "--user 'our $HOME account' --user-domain Default --project 'two words' reader"
    assert f"openstack role add {words}\n" in out


def test_each_vo_of_the_catch_alls_form(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = "1" * 32, "2" * 32
    (site.root / SHARES).write_text(
        "gocdb: SITE\nendpoint: https://keystone.example.net:5000/v3\nvos:\n"
        f"- name: ops\n  auth: {{project_id: {one}}}\n"
        f"- name: vo.x\n  auth: {{project_id: {two}}}\n"
    )
    out, _ = ran(site, capsys, "information", "--json")
    (made,) = json.loads(out)["accounts"]
    assert made["projects"] == [{"project": one, "vo": "ops"}, {"project": two, "vo": "vo.x"}]


def test_application_credentials_for_the_information(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = ran(site, capsys, "information", "--form", "application-credential")
    assert out.splitlines()[-1] == (
        "openstack --os-auth-type v3password --os-username reader --os-user-domain-id default"
        f" --os-project-id {ZEROS} application credential create --role reader"
        " fedcloud-information-vo.example.org"
    )


def test_application_credentials_that_do_not_suffice(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    form = ("--form", "application-credential")
    _, err = ran(site, capsys, *form, expect=2)
    assert "no role on the system" in err
    assert f"appliance accounts {' '.join(form)} information images" in err
    (site.root / VOS).write_text('{"ops": {"projects": ["a", "b"]}}')
    _, err = ran(site, capsys, "images", *form, expect=2)
    assert "serves one project, and 2 are configured; leave out --form" in err


def test_flows_that_are_off_or_unknown(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.edit("etc/fedcloud/appliance.yaml", ("images: on", "images: off"))
    assert "# images" not in ran(site, capsys)[0]
    assert "# images" in ran(site, capsys, "images")[0]
    assert "there is no such flow" in ran(site, capsys, "image", expect=2)[1]
    assert "leave out --check" in ran(site, capsys, "--check", "--group", "g", expect=2)[1]


def test_a_table_of_vos_that_cannot_be_read(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    (site.root / VOS).write_text('{"ops": \n{')
    _, err = ran(site, capsys, "images", expect=2)
    assert f"{site.root / VOS}:2: is not JSON" in err


def test_an_account_that_cannot_log_in_is_not_checked(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.edit(CASO, ("auth_type = v3password", "auth_type = v3passwort"))
    out, _ = ran(site, capsys, "accounting", "--check", expect=1)
    assert "accounting: not checked: C21: " in out
    assert out.endswith("1 right to change in the accounts of accounting\n")


def test_a_broken_variable_of_the_host(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    path = site.root / ENV
    path.write_text(path.read_text() + "FEDCLOUD_BRIDGE=too-long-a-name\n")
    assert "FEDCLOUD_BRIDGE" in ran(site, capsys, expect=2)[1]


# ---------------------------------------------------------------------------------------- forms


def account(
    need: needs.AccountNeed,
    auth_type: str = "v3password",
    *,
    publishes: bool = False,
    **options: str,
) -> FlowAccount:
    given = options or {"username": "u", "user_domain_name": "D"}
    access = Access(auth_type, "https://k/v3", given, section=need.section, role=need.role)
    projects = (ServedProject("1" * 32, "ops"), ServedProject("lab", "vo.x", "Other"))
    return FlowAccount(need, access, "", projects, publishes=publishes)


def test_a_federated_account_gets_its_roles_by_a_group() -> None:
    made = account(
        INFORMATION, "v3oidcclientcredentials", client_id="c", identity_provider="egi.eu"
    )
    assert [*commands.lines(made, group="readers")][1:] == [
        "# readers: the group that the mapping of egi.eu puts this account in",
        f"openstack role add --group readers --project {'1' * 32} reader",
        "openstack role add --group readers --project lab --project-domain Other reader",
    ]
    assert "# GROUP: " in "\n".join(commands.lines(made))


def test_an_account_that_is_named_by_its_id() -> None:
    made = account(IMAGES, user_id="77")
    assert [*commands.lines(made)][1:] == [
        f"openstack role add --user 77 --project {'1' * 32} member",
        "openstack role add --user 77 --project lab --project-domain Other member",
    ]
    shown = [*commands.lines(made, form="application-credential")]
    assert "--os-user-id 77 --os-project-name lab --os-project-domain-name Other" in shown[-1]


def test_public_images_need_more_than_a_role() -> None:
    assert "publicize_image" in [*commands.lines(account(IMAGES, publishes=True))][-1]


# ---------------------------------------------------------------------------------------- rights


def roles(**scopes: str) -> list[Value]:
    return [Value("roles", scope, text, Path(), 0) for scope, text in scopes.items()]


def compared(made: FlowAccount, values: list[Value], *findings: Finding) -> list[tuple[str, str]]:
    found = rights.compare(made, findings, values, is_answer=True)
    return [(one.state, one.text) for one in found]


def test_exact_rights_are_silent() -> None:
    assert compared(account(ACCOUNTING), roles(p="reader", system="reader")) == []
    assert compared(account(INFORMATION), roles(p="reader")) == []
    assert compared(account(IMAGES), roles(p="member,reader")) == []
    assert compared(account(INFORMATION), roles(p="reader,load-balancer_member")) == []


def test_roles_that_are_too_much() -> None:
    """The highest role is named: Keystone shows those that it implies as well."""
    shown = roles(p="admin,manager,member,reader", system="member,reader")
    assert compared(account(ACCOUNTING), shown) == [
        (
            "too much",
            (
                "project p: has the role admin, and reader suffices;"
                " openstack role remove --user u --user-domain D --project p admin"
            ),
        ),
        (
            "too much",
            (
                "the system: has the role member, and reader suffices;"
                " openstack role remove --user u --user-domain D --system all member"
            ),
        ),
    ]
    assert compared(account(IMAGES), roles(p="admin,member,reader"))[0][0] == "too much"
    assert compared(account(IMAGES, publishes=True), roles(p="admin,member,reader")) == []


def test_a_project_of_no_vo_is_too_much() -> None:
    """`roles` without a text is a project of the account; one that was used has its roles, too."""
    shown = [*roles(p="", other=""), *roles(p="reader")]
    ((state, text),) = compared(account(INFORMATION), shown)
    assert state == "too much"
    assert text.startswith("project other: has a role there, and no VO of the site uses it;")


def test_an_images_account_that_only_reads() -> None:
    ((state, text),) = compared(account(IMAGES), roles(p="reader"))
    assert state == "missing"
    assert text.endswith("openstack role add --user u --user-domain D --project p member")


def test_an_application_credential_is_made_again() -> None:
    made = account(IMAGES, "v3applicationcredential", application_credential_id="ac")
    ((_, text),) = compared(made, roles(p="admin,member,reader"))
    assert "openstack application credential create --role member" in text


def test_findings_about_the_clouds_contents_are_no_rights() -> None:
    def one(row: str, text: str) -> Finding:
        return Finding("/f", 1, "o", text, row, tried="x")

    found = compared(
        account(ACCOUNTING),
        [],
        one("C31.a", "has no role in it"),
        one("C34.a", "none of 3 flavors has the properties of a benchmark"),
        one("C34.b", "no image is visible in the project"),
        one("C42.a", "a gap"),
    )
    assert found == [("missing", "/f:1: o: has no role in it")]


def test_the_commands_of_the_how_to(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    for line in documents.block("accounts.md", "commands").commands():
        _, _, *words = line.split()
        ran(site, capsys, *words)
    shown: Any = documents.block("accounts.md", "check").commands()
    assert [*shown] == ["appliance accounts --check"]


def test_a_site_beside_the_upstream_tools(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its flows are those whose files it has; each program runs in this environment."""
    beside = Site(tmp_path, {})
    (tmp_path / "etc/caso").mkdir(parents=True)
    (tmp_path / CASO).touch(mode=0o600)
    (tmp_path / CASO).write_text(
        "[DEFAULT]\nsite_name = S\nprojects = lab\n[keystone_auth]\nauth_type = v3password\n"
        "auth_url = https://k.example.net:5000/v3\nusername = u\npassword = geheim\n"
        "user_domain_name = D\n"
    )
    out, _ = ran(beside, capsys)
    assert "openstack role add --user u --user-domain D --project lab reader\n" in out
    assert "# information" not in out
