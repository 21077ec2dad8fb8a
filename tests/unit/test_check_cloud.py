"""C23 and C30 to C36 with each component's own account: `--check-live` of a program."""

from __future__ import annotations

import json
import re
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from appliance.core.cloud import faults
from appliance.core.config import settings
from appliance.core.run.finding import Finding, of_json
from caso.cmds import extract
from cloud_info_provider.cmds import service
from cloudkeeper.cmds import backend
from tests import foreign
from tests.simulators import offering_cloud, openstack
from tests.simulators.offering_cloud import flavor, image
from tests.simulators.openstack import Answer, Cloud, Credential, Request
from tests.testbed import Authority
from tests.unit import backend_site
from tests.unit.backend_site import BackendSite
from tests.unit.test_collect_unknown import put, stamp
from tests.unit.test_information_accounts import site as information_site
from tests.unit.test_provider_settings import environment
from tests.unit.test_provider_settings import load as load_information

__all__ = ["environment"]

LINES = {
    "site_name": "S",
    "projects": "one,two",
    "region_name": "R",
    "extractor": "nova",
    "vo_property": "VO",
    "messengers": "noop",
    "[keystone_auth]": "",
    "auth_type": "v3password",
    "auth_url": "{url}/v3",
    "username": "accounting",
    "password": "geheim-43",
    "user_domain_name": "Default",
}
"""The lines of caso.conf, after the first one."""
USERS = Answer(body={"users": [{"id": "u", "name": "accounting"}]})


FLAVORS = [{"id": "1", "name": "f", "vcpus": 1, "ram": 1, "disk": 1}]
SPECS = {"accounting:benchmark_type": "hepscore23", "accounting:benchmark_value": "10"}
GOOD_FLAVOR = FLAVORS[0] | {"extra_specs": SPECS}
NOVA = {
    "id": "v2.1",
    "status": "CURRENT",
    "version": "2.96",
    "min_version": "2.1",
    "links": [{"rel": "self", "href": "http://127.0.0.1/compute/v2.1/"}],
}


def like_a_good_cloud(request: Request) -> Answer | None:
    """Answer what the simulator of accounting does not know."""
    if request.path == "/v3/users":
        return USERS
    if re.fullmatch("(/S)?/compute/v2.1/?", request.path):
        return Answer(body={"version": NOVA})
    if request.path.endswith("/flavors/detail"):
        return Answer(body={"flavors": [GOOD_FLAVOR]})
    return None


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    made = Cloud(projects=("one", "two"), servers=4, deleted=1, fault=like_a_good_cloud)
    with openstack.serving(made) as served:
        yield served


@dataclass
class Accounting:
    """caso.conf, and what `caso-extract --check-live` says."""

    root: Path
    cloud: Cloud
    capsys: pytest.CaptureFixture[str]

    @property
    def path(self) -> Path:
        return self.root / "caso.conf"

    def write(self, **changes: str) -> None:
        lines = ["[DEFAULT]"]
        for name, text in (LINES | changes).items():
            lines.append(name if name.startswith("[") else f"{name} = {text}")
        self.path.touch(mode=0o600)
        self.path.write_text("\n".join(lines).replace("{url}", self.cloud.url) + "\n")

    def line(self, option: str) -> int:
        lines = self.path.read_text().splitlines()
        return next(n for n, text in enumerate(lines, 1) if text.startswith(f"{option} ="))

    def check(self) -> list[Finding]:
        command = ["--root", str(self.root), "--config-file", str(self.path)]
        status = extract.main([*command, "--check-live", "--log-json"])
        said = self.capsys.readouterr().err
        assert "geheim" not in said
        found = printed(said)
        assert status == any(one.is_error for one in found)
        return found

    def the_one(self) -> Finding:
        """Return the finding, the same of several projects once."""
        found = self.check()
        assert found
        assert {(one.identifier, one.path, one.line) for one in found} == {
            (found[0].identifier, found[0].path, found[0].line)
        }
        assert all(one.tried for one in found)
        return found[0]


def printed(said: str) -> list[Finding]:
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    return [of_json(line["finding"]) for line in lines if "finding" in line]


@pytest.fixture
def accounting(tmp_path: Path, cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> Accounting:
    made = Accounting(tmp_path, cloud, capsys)
    made.write()
    return made


def refusing(path: str, status: int, body: object = None) -> Callable[[Request], Answer | None]:
    """Return the fault that answers requests whose path has these words."""

    def fault(request: Request) -> Answer | None:
        if re.search(path, request.path):
            return Answer(status, body or {"error": {"code": status, "message": "no"}})
        return like_a_good_cloud(request)

    return fault


def test_a_good_cloud_has_no_finding(accounting: Accounting) -> None:
    """And nothing is written; the endpoints are noted without paths."""
    before = sorted(accounting.root.rglob("*"))
    command = ["--root", str(accounting.root), "--config-file", str(accounting.path)]
    assert extract.main([*command, "--check-live", "--log-json"]) == 0
    said = accounting.capsys.readouterr().err
    assert printed(said) == []
    values = [json.loads(line).get("value", {}) for line in said.splitlines()]
    known = {
        one["option"]: (one["text"], one["line"])
        for one in values
        if one.get("section") == settings.ENDPOINT
    }
    assert known["Keystone"] == (accounting.cloud.url, accounting.line("auth_url"))
    assert known["compute"] == (accounting.cloud.url, 0)
    assert sorted(accounting.root.rglob("*")) == before


ACCOUNTS: Mapping[str, tuple[str, str, Callable[[Request], Answer | None]]] = {
    "C30.a": ("C30.a", "password", refusing("^/v3/auth/tokens$", 401)),
    "C30": ("C30", "auth_url", refusing("^/v3/auth/tokens$", 404)),
    "C32.a": ("C32.a", "username", refusing("^/v3/users$", 403)),
    "C33.a": ("C33.a", "username", refusing("os-simple-tenant-usage", 403)),
    "C33.a servers": ("C33.a", "username", refusing("/servers", 403)),
}


@pytest.mark.parametrize("name", ACCOUNTS)
def test_a_fault_of_the_account(name: str, accounting: Accounting) -> None:
    """C30.a, C32.a, C33.a: the line of caso.conf that holds it; silent once healed."""
    row, option, fault = ACCOUNTS[name]
    accounting.cloud.fault = fault
    found = accounting.the_one()
    assert (found.identifier, found.path, found.line) == (
        row,
        str(accounting.path),
        accounting.line(option),
    )
    accounting.cloud.fault = like_a_good_cloud
    assert accounting.check() == []


def test_servers_that_were_deleted_and_are_not_listed(accounting: Accounting) -> None:
    """C33.b: a proxy that drops changes-since, for example."""
    cloud = accounting.cloud
    ended = cloud.server("one", 0) | {
        "id": "11111111-1111-1111-1111-111111111111",
        "status": "DELETED",
        "updated": f"{datetime.now(UTC) - timedelta(hours=3):%Y-%m-%dT%H:%M:%SZ}",
        "OS-SRV-USG:terminated_at": f"{datetime.now(UTC) - timedelta(hours=3):%Y-%m-%dT%H:%M:%S}",
    }
    cloud.more["one"] = [ended]
    assert accounting.check() == []

    def drops(request: Request) -> Answer | None:
        is_listing = request.path.endswith("/servers/detail")
        if is_listing and request.query.pop("changes-since", ""):
            return cloud._nova(request, request.path, "one")
        return like_a_good_cloud(request)

    cloud.fault = drops
    found = accounting.the_one()
    assert (found.identifier, found.line) == ("C33.b", accounting.line("username"))
    assert "lack 1 of 1 servers that were deleted since" in found.text
    assert str(ended["id"]) in found.text


def test_flavors_without_their_properties(accounting: Accounting) -> None:
    """C34.a."""
    accounting.cloud.fault = refusing("/flavors/detail", 200, {"flavors": FLAVORS})
    found = accounting.the_one()
    assert (found.identifier, found.is_error) == ("C34.a", False)
    assert "os_compute_api:os-flavor-extra-specs:index" in found.text


def test_an_application_credential_that_has_ended(accounting: Accounting) -> None:
    """C30.d."""
    yesterday = datetime.now(UTC) - timedelta(days=1)
    accounting.cloud.credentials = {"abc": Credential("one", "geheim-44", yesterday)}
    accounting.write(
        projects="one",
        auth_type="v3applicationcredential",
        application_credential_id="abc",
        application_credential_secret="geheim-44",
    )
    found = accounting.the_one()
    place = accounting.line("application_credential_secret")
    assert (found.identifier, found.line) == ("C30.d", place)
    assert "openstack application credential create" in found.text


def test_a_project_without_a_role_and_one_that_does_not_exist(accounting: Accounting) -> None:
    """C31.a, C23.b: told apart by the names of all projects."""
    accounting.cloud.closed = frozenset({"two"})
    found = accounting.the_one()
    assert (found.identifier, found.line) == ("C31.a", accounting.line("projects"))
    assert "openstack role add --user accounting" in found.text
    accounting.cloud.closed = frozenset()
    accounting.write(projects="one,tow")
    found = accounting.the_one()
    assert (found.identifier, found.line) == ("C23.b", accounting.line("projects"))
    assert "no project is called so" in found.text
    assert found.text.endswith("did you mean two?")


def test_a_project_without_a_vo(accounting: Accounting) -> None:
    """C23.d: the table that could name it."""
    accounting.write(vo_property="egi.VO")
    listed = [
        {"id": name, "name": name, "domain_id": "default", "enabled": True, "tags": ["caso"]}
        for name in accounting.cloud.projects
    ]
    accounting.cloud.fault = refusing(
        "^/v3/auth/projects$|^/v3/projects$", 200, {"projects": listed, "links": {}}
    )
    found = accounting.the_one()
    assert found.identifier == "C23.d"
    assert found.path.endswith("voms.json")
    assert "openstack project set --property egi.VO='name of the VO' one" in found.text


def test_endpoints_of_the_catalog(accounting: Accounting) -> None:
    """C36.a, C36.c: a region that nobody serves, and one that is not in the catalog."""
    accounting.cloud.regions = ("R", "S")
    accounting.cloud.away = frozenset({"S"})
    accounting.write(region_name="S")
    found = accounting.the_one()
    assert (found.identifier, found.line) == ("C36.a", accounting.line("region_name"))
    assert "connection refused" in found.text
    accounting.write(region_name="Atlantis")
    found = accounting.the_one()
    assert (found.identifier, found.line) == ("C36.c", accounting.line("region_name"))


def test_a_keystone_that_cannot_be_reached_or_has_no_tls(accounting: Accounting) -> None:
    """C36.a, C36.b."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        accounting.write(auth_url=f"http://127.0.0.1:{closed.getsockname()[1]}/v3")
        found = accounting.the_one()
    assert (found.identifier, found.line) == ("C36.a", accounting.line("auth_url"))
    accounting.write(auth_url=f"{accounting.cloud.url.replace('http:', 'https:')}/v3")
    found = accounting.the_one()
    assert (found.identifier, found.line) == ("C36.b", accounting.line("auth_url"))


def test_a_keystone_of_an_unknown_authority(accounting: Accounting, tmp_path: Path) -> None:
    """C36.b: and silent with its authority."""
    authority = Authority.create(tmp_path / "ca", key="ec")
    host = authority.issue("keystone.example.net", hosts=["127.0.0.1"], key="ec")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(host.certificate, host.key)
    with openstack.serving(accounting.cloud, tls=tls):
        accounting.write()
        found = accounting.the_one()
        assert (found.identifier, found.line) == ("C36.b", accounting.line("auth_url"))
        assert "cafile" in found.text
        accounting.write(cafile=str(authority.certificate))
        assert accounting.check() == []


def test_a_keystone_that_hangs_ends_the_check_in_time(
    accounting: Accounting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "_PROMPT", timedelta(seconds=0.5))
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        accounting.write(auth_url=f"http://127.0.0.1:{silent.getsockname()[1]}/v3")
        found = accounting.the_one()
    assert (found.identifier, found.line) == ("C36.a", accounting.line("auth_url"))


def test_a_clock_of_the_cloud_that_differs(accounting: Accounting) -> None:
    """C01.a: records would be misplaced."""
    accounting.cloud.clock_offset = timedelta(hours=2)
    rows = {one.identifier for one in accounting.check()}
    assert rows == {"C01.a"}


@pytest.mark.root
@pytest.mark.parametrize(
    ("size", "row", "remedy"),
    [("1g,nr_inodes=20", "C02.c", "remove small files"), ("10m", "C02.b", "free space")],
)
def test_no_room_for_records(size: str, row: str, remedy: str, accounting: Accounting) -> None:
    """C02.b, C02.c."""
    spool = accounting.root / "full"
    spool.mkdir()
    accounting.write(messengers="ssm")
    with accounting.path.open("a") as file:
        file.write(f"[ssm]\noutput_path = {spool}\n")
    with foreign.small_disk(spool, size=size):
        found = accounting.the_one()
        assert (found.identifier, found.path) == (row, str(spool))
        assert found.text.endswith(f"{remedy} on this file system")
    assert accounting.check() == []


# --------------------------------------------------------------------------------------------------
# images


@pytest.fixture
def images(tmp_path: Path) -> Iterator[BackendSite]:
    with backend_site.made(tmp_path) as made:
        yield made


def check_images(
    site: BackendSite, capsys: pytest.CaptureFixture[str], *flags: str
) -> list[Finding]:
    path = site.root / "cloudkeeper-os.conf"
    command = ["--root", str(site.root), "--config-file", str(path), *flags]
    status = backend.main([*command, "--check-live", "--log-json"])
    found = printed(capsys.readouterr().err)
    assert status == any(one.is_error for one in found)
    return found


def test_images_of_a_good_cloud(images: BackendSite, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_images(images, capsys) == []
    assert images.glance.images == {}
    assert check_images(images, capsys, "--write") == []
    assert images.glance.images == {}


def test_projects_of_the_mapping(images: BackendSite, capsys: pytest.CaptureFixture[str]) -> None:
    """C23.b, C31.a: the line of the VO in the mapping."""
    images.configure(mapping={"ops": {"project": "one"}, "biomed": {"project": "tow"}})
    mapping = images.root / "mapping.json"
    mapping.write_text(mapping.read_text().replace('"biomed"', '\n"biomed"'))
    (found,) = check_images(images, capsys)
    assert (found.identifier, found.path, found.line) == ("C23.b", str(mapping), 2)
    assert found.text.endswith("did you mean two?")
    mapping.write_text(mapping.read_text().replace("tow", "another"))
    (found,) = check_images(images, capsys)
    assert (found.identifier, found.path, found.line) == ("C31.a", str(mapping), 2)
    assert "--project another member" in found.text


@pytest.mark.parametrize(
    ("method", "status", "row", "words"),
    [
        ("POST", 403, "C35.a", "openstack role add"),
        ("PUT", 413, "C35.b", "quota"),
        ("PUT", 507, "C35.b", "quota"),
        ("DELETE", 403, "C35", "cannot be deleted"),
    ],
)
def test_an_image_that_cannot_be_written(
    method: str,
    status: int,
    row: str,
    words: str,
    images: BackendSite,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """C35.a, C35.b: with --write alone, and nothing is left."""

    def fault(verb: str, path: str, *_: object) -> openstack.Answer | None:
        return openstack.Answer(status, {"message": "no"}) if verb == method else None

    images.glance.fault = fault
    assert check_images(images, capsys) == []
    found = check_images(images, capsys, "--write")
    assert {(one.identifier, one.path, one.line) for one in found} == {
        (row, str(images.root / "cloudkeeper-os.conf"), 7)
    }
    assert all(words in one.text for one in found)
    assert bool(images.glance.images) == (method == "DELETE")
    images.glance.fault = lambda *_: None
    assert check_images(images, capsys, "--write") == []


def test_images_that_nobody_completes(
    images: BackendSite, capsys: pytest.CaptureFixture[str]
) -> None:
    """C63.c: older than a day, once for a project; those without a mark are named apart."""
    put(images, 1, created_at=stamp(hours=23), updated_at=stamp(hours=23))  # an upload may run
    put(images, 2, owner="another")
    assert check_images(images, capsys) == []
    bare = put(images, 3)
    images.configure(mapping={"ops": {"project": "one"}, "biomed": {"project": "one"}})
    (found,) = check_images(images, capsys)
    assert (found.identifier, found.path, found.line) == (
        "C63.c",
        str(images.root / "mapping.json"),
        1,
    )
    assert not found.is_error
    assert f"older than a day: {bare}; " in found.text
    assert found.text.endswith("cloudkeeper gc --collect-unknown --dry-run")
    images.glance.images[bare] |= {
        "APPLIANCE_STATUS": "STAGING",
        "APPLIANCE_VO": "ops",
        "APPLIANCE_IMAGE_LIST_ID": "l",
        "APPLIANCE_ID": "i",
        "APPLIANCE_BACKEND": f"b {bare}",
    }
    (found,) = check_images(images, capsys)
    assert (found.identifier, found.text.endswith("cloudkeeper sync")) == ("C63.c", True)
    del images.glance.images[bare]
    assert check_images(images, capsys) == []


# --------------------------------------------------------------------------------------------------
# information


@pytest.fixture
def offer() -> Iterator[offering_cloud.Cloud]:
    projects = ("p0", "p1", "p2")
    made = offering_cloud.Cloud(
        flavors={name: [flavor("1")] for name in projects},
        images={name: [image("a")] for name in projects},
    )
    with made.serve():
        yield made


@pytest.fixture
def described(tmp_path: Path, offer: offering_cloud.Cloud) -> Path:
    """Write openstack.rc and openstack.yaml with three VOs; return the root."""
    text = information_site(offer, *(f"project_id: p{number}" for number in range(3)))
    account = f"OS_USERNAME=ci\nOS_PASSWORD={offering_cloud.PASSWORD}\n"
    load_information(tmp_path, rc=account, text=text)
    return tmp_path


def check_information(root: Path, capsys: pytest.CaptureFixture[str]) -> list[Finding]:
    command = ["--root", str(root), "--gocdb-url", ""]
    status = service.main([*command, "--check-live", "--log-json"])
    said = capsys.readouterr().err
    assert offering_cloud.PASSWORD not in said
    found = printed(said)
    assert status == any(one.is_error for one in found), said
    return found


def place_of(root: Path, words: str) -> tuple[str, int]:
    path = root / "etc/cloud-info-provider/openstack.yaml"
    text = path.read_text()
    return str(path), text[: text.index(words)].count("\n") + 1


def test_information_of_a_good_cloud(described: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_information(described, capsys) == []


def test_a_wrong_password_of_the_provider(
    described: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """C30.a: openstack.rc's line; one finding, not one for each VO."""
    path = described / "etc/cloud-info-provider/openstack.rc"
    text = path.read_text()
    path.write_text(text.replace(offering_cloud.PASSWORD, "falsch-45"))
    (found,) = check_information(described, capsys)
    line = text[: text.index("OS_PASSWORD")].count("\n") + 1
    assert (found.identifier, found.path, found.line) == ("C30.a", str(path), line)


def test_a_vo_without_role_images_or_properties(
    described: Path, offer: offering_cloud.Cloud, capsys: pytest.CaptureFixture[str]
) -> None:
    """C31.a, C34.a, C34.b: each in the line of its VO; the other VOs go on."""
    del offer.flavors["p0"]
    offer.images["p1"] = []
    offer.flavors["p2"] = [
        {name: text for name, text in flavor("1").items() if name != "extra_specs"}
    ]
    found = {one.option: one for one in check_information(described, capsys)}
    rows = {vo: (one.identifier, one.is_error) for vo, one in found.items()}
    assert rows == {"vo0": ("C31.a", True), "vo1": ("C34.b", False), "vo2": ("C34.a", False)}
    for number in range(3):
        one = found[f"vo{number}"]
        path, line = place_of(described, f"p{number}")
        assert one.path == path
        assert abs(one.line - line) <= 3
    assert "openstack role add" in found["vo0"].text


@pytest.mark.parametrize(
    ("row", "wrong", "right"),
    [
        ("C51.a", "hypervisor_version: ' '", "hypervisor_version: 8.2"),
        ("C51", "platform: mips64", "platform: amd64"),
    ],
)
def test_entries_that_egi_does_not_take(
    tmp_path: Path,
    offer: offering_cloud.Cloud,
    capsys: pytest.CaptureFixture[str],
    row: str,
    wrong: str,
    right: str,
) -> None:
    """C51.a, C51: the line of openstack.yaml, before anything is published."""
    rc = f"OS_AUTH_URL={offer.url}/identity/v3\nOS_USERNAME=ci\n"
    rc += f"OS_PASSWORD={offering_cloud.PASSWORD}\n"
    kept = {"platform": "platform: amd64", "hypervisor_version": "hypervisor_version: 8.2"}
    for line in (wrong, right):
        lines = kept | {line.partition(":")[0]: line}
        text = (
            "site:\n  name: EXAMPLE-SITE\ncompute:\n  total_cores: 80\n  total_ram: 64\n"
            f"  {lines['hypervisor_version']}\n  templates:\n    defaults:\n"
            f"      {lines['platform']}\n  shares:\n    ops:\n      auth:\n"
            "        project_id: p0\n"
        )
        load_information(tmp_path, rc=rc, text=text)
        found = check_information(tmp_path, capsys)
        if line == right:
            assert found == []
        else:
            (one,) = found
            assert (one.identifier, one.path, one.line) == (row, *place_of(tmp_path, wrong))
            assert f"correct {one.option}" in one.text


def test_a_hanging_service_of_the_provider(
    described: Path,
    offer: offering_cloud.Cloud,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """C36.a: of the service that hangs; the account's file and line."""
    monkeypatch.setattr(faults, "_PROMPT", timedelta(seconds=0.3))
    offer.faults = [offering_cloud.Fault("/v2/images", "p1", delay=1.5)]
    (found,) = check_information(described, capsys)
    assert found.identifier == "C36.a"
    assert (found.path, found.line) == place_of(described, "endpoint:")
