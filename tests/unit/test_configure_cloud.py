"""`appliance configure` offers what the cloud says, and `caso offers`, which asks it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import select
import shutil
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from oslo_config import cfg

from appliance.admin import command, settings
from appliance.admin.configure import offers
from appliance.admin.configure.interview import Interview, SiteQuestion
from appliance.admin.configure.offers import CloudLogin, Offers, UntrustedCloud
from appliance.core.run import cli
from appliance.core.run.errors import AccessDenied, Unavailable
from appliance.core.run.layout import Layout
from caso.cmds.control import PROGRAM
from tests.simulators import docker_engine, openstack
from tests.simulators.openstack import Answer, Request
from tests.testbed import Authority

TOP = Path(__file__).parents[2]
PASSWORD = "hunter2-hunter2"
FAILURE = '{"failure": {"is_denied": %s, "is_untrusted": %s, "subject": "k\\n", "cause": "no"}}'
PROJECTS = (
    {"id": "aa", "name": "ops", "egi.VO": "vo.ops.test"},
    {"id": "bb", "name": "bio", "egi.eu:VO": "vo.bio.test"},
    {"id": "cc", "name": "staff"},
    {"id": "dd", "name": "torn", "egi.VO": "vo.x.test", "egi.eu:VO": "vo.y.test"},
    {"id": "ee", "name": "closed", "egi.VO": "vo.closed.test", "enabled": False},
)


@pytest.fixture
def cloud() -> Iterator[openstack.Cloud]:
    def listed(request: Request) -> Answer | None:
        if request.path == "/v3/auth/projects" and request.token:
            return Answer(body={"projects": [{"domain_id": "default", **one} for one in PROJECTS]})
        return None

    served = openstack.Cloud(projects=("aa",), regions=("First", "Second"), fault=listed)
    with openstack.serving(served):
        yield served


@pytest.fixture
def ask(tmp_path: Path) -> Callable[[CloudLogin], Offers]:
    """Return the question to the cloud: the real program and the reader of its output."""

    def asked(login: CloudLogin) -> Offers:
        path = tmp_path / "account.conf"
        path.write_text(
            "[keystone_auth]\nauth_type = v3password\nuser_domain_name = Default\n"
            f"auth_url = {login.keystone}\nusername = {login.name}\npassword = {login.password}\n"
        )
        path.chmod(0o600)
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main(PROGRAM, ["offers", "--config-file", str(path)])
        assert PASSWORD not in out.getvalue() + err.getvalue()
        return offers.read(out.getvalue(), err.getvalue())

    return asked


class Person:
    """A person at a terminal, with an answer to each question; empty accepts the default."""

    is_terminal = True
    asks_everything = False

    def __init__(self, answers: dict[str, list[str]]) -> None:
        self.answers = answers
        self.asked: dict[str, SiteQuestion] = {}
        self.count = 0
        self.rejected: list[str] = []

    def answer(self, question: SiteQuestion) -> str:
        self.count += 1
        self.asked[question.key] = question
        left = self.answers.get(question.key, [])
        return left.pop(0) if left else ""

    def reject(self, question: SiteQuestion, wrong: str) -> None:
        self.rejected.append(wrong)
        assert self.answers.get(question.key), f"{question.key}: {wrong}"


def person(cloud: openstack.Cloud | str, tmp_path: Path, **more: list[str]) -> Person:
    certificate = tmp_path / "hostcert.pem"
    for path in (certificate, tmp_path / "hostkey.pem"):
        path.write_text("x")
    url = cloud if isinstance(cloud, str) else f"{cloud.url}/v3"
    answers = {"site": ["SITE-1"], "keystone": [url], "certificate": [str(certificate)]}
    answers |= {"accounting-password": [PASSWORD]}
    return Person(answers | {key.replace("_", "-"): value for key, value in more.items()})


DEFAULTS = {
    "profile": "egi",
    "flows": "accounting",
    "authorities": "/etc/ssl/certs/ca-certificates.crt",
    "accounting-account": "accounting",
}


def test_vos_and_regions_are_offered(
    cloud: openstack.Cloud,
    ask: Callable[[CloudLogin], Offers],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """At most twelve answers, of which few are typed; a disabled project is left out."""
    someone = person(cloud, tmp_path, region=["Second"])
    answers = Interview(DEFAULTS, someone, ask).answers()
    assert answers.projects == {"vo.ops.test": ("aa",), "vo.bio.test": ("bb",)}
    assert answers.region == "Second"
    assert someone.asked["region"].text == "Region of the cloud: First, Second"
    assert answers.key == str(tmp_path / "hostkey.pem")
    assert someone.count <= 12
    said = capsys.readouterr().out
    assert "project staff (cc): no property in Keystone names its VO; write VO=cc" in said
    assert "project torn (dd): its sources name different VOs: vo.x.test (property egi.VO)" in said
    assert "closed" not in said


def test_twelve_answers_describe_a_new_site(
    cloud: openstack.Cloud, ask: Callable[[CloudLogin], Offers], tmp_path: Path
) -> None:
    """With the flows that a new host offers, and a cloud of one region."""
    cloud.regions = ("First",)
    someone = person(cloud, tmp_path, flows=[""], host=["h.test"], email=["a@b.test"])
    someone.answers["information-password"] = [PASSWORD]
    shipped = {"flows": "accounting information", "information-account": "information"}
    defaults = DEFAULTS | shipped | {"cores": "0", "memory": "0"}
    answers = Interview(defaults, someone, ask).answers()
    assert answers.projects == {"vo.ops.test": ("aa",), "vo.bio.test": ("bb",)}
    assert someone.count == 12


def test_without_accounting_the_first_account_asks(
    cloud: openstack.Cloud, ask: Callable[[CloudLogin], Offers], tmp_path: Path
) -> None:
    someone = person(cloud, tmp_path, flows=["information"], email=["a@b.test"])
    someone.answers["information-password"] = [PASSWORD]
    defaults = {"information-account": "look", "host": "h.test", "cores": "1", "memory": "1"}
    answers = Interview(DEFAULTS | defaults, someone, ask).answers()
    assert answers.projects == {"vo.ops.test": ("aa",), "vo.bio.test": ("bb",)}
    assert answers.certificate == ""


def test_a_table_in_the_files_is_completed(
    cloud: openstack.Cloud, ask: Callable[[CloudLogin], Offers], tmp_path: Path
) -> None:
    someone = person(cloud, tmp_path)
    defaults = DEFAULTS | {"projects": "vo.staff.test=cc vo.ops.test=ops"}
    answers = Interview(defaults, someone, ask).answers()
    expected = {"vo.staff.test": ("cc",), "vo.ops.test": ("ops",), "vo.bio.test": ("bb",)}
    assert answers.projects == expected


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("vo.ops.test=zz", "'zz': the account sees no such project"),
        ("vo.other.test=aa", "its property in Keystone names the VO vo.ops.test, not vo.other"),
        ("vo.a.test=cc vo.b.test=cc", "project cc is given to two VOs, vo.a.test and vo.b.test"),
    ],
)
def test_a_table_that_accounting_would_refuse(
    cloud: openstack.Cloud,
    ask: Callable[[CloudLogin], Offers],
    tmp_path: Path,
    answer: str,
    words: str,
) -> None:
    someone = person(cloud, tmp_path, projects=[answer, "vo.ops.test=aa"])
    assert Interview(DEFAULTS, someone, ask).answers().projects == {"vo.ops.test": ("aa",)}
    assert len(someone.rejected) == 1
    assert words in someone.rejected[0]


def test_a_wrong_password_is_asked_again(
    cloud: openstack.Cloud,
    ask: Callable[[CloudLogin], Offers],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    listed = cloud.fault

    def refuses(request: Request) -> Answer | None:
        identity = (request.body or {}).get("auth", {}).get("identity", {})
        if identity.get("password", {}).get("user", {}).get("password") == "wrong-password":
            body = {"error": {"code": 401, "message": "no", "title": "Unauthorized"}}
            return Answer(401, body)
        return listed(request)

    cloud.fault = refuses
    someone = person(cloud, tmp_path, accounting_password=["wrong-password", PASSWORD])
    answers = Interview(DEFAULTS, someone, ask).answers()
    said = capsys.readouterr().out
    assert "wrong name, domain or password" in said
    assert "wrong-password" not in said
    assert answers.projects == {"vo.ops.test": ("aa",), "vo.bio.test": ("bb",)}


def test_other_authorities_are_asked_for(
    ask: Callable[[CloudLogin], Offers],
    tmp_path: Path,
    pki: Authority,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A private CA: the question is asked only if the usual authorities do not verify the cloud."""
    host = pki.issue("localhost", hosts=["localhost"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(host.certificate, host.key)

    def trusting(login: CloudLogin) -> Offers:
        """Set what the container gets as its authorities."""
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", login.authorities)
        return ask(login)

    with openstack.serving(openstack.Cloud(projects=("aa",)), tls=context) as served:
        url = f"{served.url}/v3".replace("127.0.0.1", "localhost")
        someone = person(url, tmp_path, authorities=[str(pki.certificate)])
        answers = Interview(DEFAULTS, someone, trusting).answers()
    assert answers.authorities == str(pki.certificate)
    assert "its TLS certificate is not trusted" in capsys.readouterr().out
    assert answers.projects == {"vo.aa": ("aa",)}


def test_a_cloud_that_is_silent_leaves_the_questions(
    ask: Callable[[CloudLogin], Offers], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    someone = person("http://127.0.0.1:9/v3", tmp_path, projects=["vo.own.test=zz"])
    answers = Interview(DEFAULTS, someone, ask).answers()
    assert answers.projects == {"vo.own.test": ("zz",)}
    said = capsys.readouterr().out
    assert "127.0.0.1:9: " in said
    assert "the cloud gives no answers, so all questions are for you" in said


@pytest.mark.parametrize(
    ("output", "kind"),
    [
        ("", Unavailable),
        ("[]", Unavailable),
        ('{"regions": 1, "projects": []}', Unavailable),
        (FAILURE % ("true", "false"), AccessDenied),
        (FAILURE % ("false", "true"), UntrustedCloud),
        (FAILURE % ("false", "false"), Unavailable),
    ],
)
def test_a_broken_answer_is_no_traceback(output: str, kind: type[Exception]) -> None:
    with pytest.raises(kind) as raised:
        offers.read(output, "caso: something\n")
    assert "\n" not in str(raised.value)


def test_the_program_says_which_failure_it_is(
    cloud: openstack.Cloud, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "caso.conf"
    path.write_text("[keystone_auth]\nauth_type = v3password\nauth_url = https://x/v3\n")
    assert cli.main(PROGRAM, ["offers", "--config-file", str(path)]) == 2
    assert f"{path}: [keystone_auth] username: must be set" in capsys.readouterr().err
    path.write_text(
        "[keystone_auth]\nauth_type = v3password\nuser_domain_name = Default\nusername = a\n"
        f"password = {PASSWORD}\nauth_url = {cloud.url}/v3\n"
    )
    assert cli.main(PROGRAM, ["offers", "--config-file", str(path)]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["regions"] == ["First", "Second"]
    assert [one["id"] for one in found["projects"]] == ["aa", "bb", "cc", "dd"]


@pytest.mark.root
def test_at_a_terminal_nothing_secret_is_shown(tmp_path: Path) -> None:
    """A host without containers whose program is missing: the reason is shown, then questions."""
    shutil.copytree(TOP / "etc", tmp_path / "etc")
    (tmp_path / "var/lib/fedcloud").mkdir(parents=True)
    (tmp_path / "var/lib/fedcloud/runtime").write_text("native\n")
    for name in ("hostcert.pem", "hostkey.pem"):
        (tmp_path / name).write_text("x")
    typed = {
        "Federation": "",
        "Flows": "accounting",
        "Name of the site": "SITE-1",
        "URL of Keystone": "https://keystone.cloud.test:5000/v3",
        "Account for accounting": "",
        "Password of accounting": PASSWORD,
        "VOs with the ids": "vo.one.test=4c9e1f",
        "File of the host certificate": f"{tmp_path}/hostcert.pem",
    }
    main, child = pty.openpty()
    command = [sys.executable, "-m", "appliance.admin.command", "configure"]
    with subprocess.Popen(
        [*command, "--root", str(tmp_path)], stdin=child, stdout=child, stderr=child, cwd=TOP
    ) as process:
        os.close(child)
        said = ""
        for prompt, word in typed.items():
            said += until(main, prompt)
            os.write(main, f"{word}\n".encode())
        said += until(main, "Next: appliance check --offline\r\n")
        process.wait(timeout=30)
        os.close(main)
    assert process.returncode == 0
    assert "caso: is not installed" in said
    assert "the cloud gives no answers" in said
    assert PASSWORD not in said
    conf = (tmp_path / "etc/caso/caso.conf").read_text()
    assert f"password = {PASSWORD}" in conf
    assert not list((tmp_path / "run/fedcloud/keys").iterdir())


STAND_IN = """#!/bin/sh
# Stands in for docker-compose: records what it gets, and prints the answer of `caso offers`.
cd "$(dirname "$0")"
printf '%s\\n' "$@" >arguments
env >environment
cat ../run/fedcloud/keys/configure >account
stat -c '%a %u' ../run/fedcloud/keys/configure >mode
cat answer
"""


@pytest.mark.root
def test_the_container_of_caso_is_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file of answers without VOs; the account is in a file on tmpfs and nowhere else."""
    shutil.copytree(TOP / "etc", tmp_path / "etc")
    place = tmp_path / "place"
    place.mkdir()
    program = place / "docker-compose"
    program.write_text(STAND_IN)
    program.chmod(0o755)
    (tmp_path / "etc/fedcloud/docker-compose.yml").write_text("services: {}\n")
    with (tmp_path / "etc/fedcloud/appliance.env").open("a") as file:
        file.write("FEDCLOUD_VERSION=1.2.3\n")
    for name in ("hostcert.pem", "hostkey.pem"):
        (tmp_path / name).write_text("x")
    projects = [{"id": "aa", "name": "ops", "vo": "vo.ops.test", "fault": ""}]
    (place / "answer").write_text(json.dumps({"regions": ["R"], "projects": projects}))
    text = (
        "flows: [accounting]\nsite: S\nkeystone: https://k.cloud.test:5000/v3\n"
        "authorities: /etc/ssl/own.pem\n"
        f"accounts: {{accounting: {{name: me, password: '{PASSWORD}$x'}}}}\n"
        f"certificate: {tmp_path}/hostcert.pem\nkey: {tmp_path}/hostkey.pem\n"
    )
    (tmp_path / "answers.yaml").write_text(text)
    words = ["configure", "--root", str(tmp_path), "--answers", str(tmp_path / "answers.yaml")]
    with (
        tempfile.TemporaryDirectory(prefix="e") as short,
        docker_engine.serve(Path(short)) as engine,
    ):
        path = tmp_path / "etc/fedcloud/appliance.yaml"
        shipped = path.read_text().replace("/run/docker.sock", str(engine.socket))
        path.write_text(shipped.replace("  compose:\n", f"  compose: {program}\n"))
        assert command.main(words) == 2, "the image of caso is missing"
        assert "egifedcloud/caso:1.2.3: this image is not on the host" in capsys.readouterr().err
        engine.images = {"egifedcloud/caso:1.2.3": "sha256:1"}
        (place / "answer").rename(place / "later")
        (place / "answer").write_text("")
        assert command.main(words) == 2
        said = capsys.readouterr().err
        assert "vos: must be answered: the cloud: its container cannot be started" in said
        (place / "later").rename(place / "answer")
        assert command.main(words) == 1
    mapping = json.loads((tmp_path / "etc/voms.json").read_text())
    assert mapping == {"vo.ops.test": {"projects": ["aa"]}}
    arguments = (place / "arguments").read_text().splitlines()
    end = ["caso", "caso", "offers", "--config-file", "/etc/caso/offers.conf"]
    assert arguments[-5:] == end
    assert f"{tmp_path}/run/fedcloud/keys/configure:/etc/caso/offers.conf:ro" in arguments
    environment = (place / "environment").read_text()
    assert "FEDCLOUD_CA_BUNDLE=/etc/ssl/own.pem\n" in environment
    assert PASSWORD not in "".join(arguments) + environment
    assert (place / "mode").read_text() == "400 1999\n"
    found = cfg.ConfigOpts()
    options = [cfg.StrOpt(name) for name in ("username", "password", "auth_url")]
    found.register_opts(options, group="keystone_auth")
    found([], project="x", default_config_files=[str(place / "account")], default_config_dirs=[])
    assert found.keystone_auth.password == f"{PASSWORD}$x"
    assert not (tmp_path / "run/fedcloud/keys/configure").exists()


NATIVE = """#!/bin/sh
# Stands in for the installed `caso`: answers with what it can read as its account.
account=$(grep username "$3")
printf '{"regions": [], "projects": [{"id": "%s", "name": "%s", "vo": "%s", "fault": "%s"}]}' \\
  "$(id -u)" "$account" "$(grep -c ^password "$3")" "$SSL_CERT_FILE"
"""


@pytest.mark.root
def test_without_containers_the_program_is_asked() -> None:
    """It runs as the account of a job, which cannot enter the directory of the copy."""
    with tempfile.TemporaryDirectory(prefix="native") as short:
        root = Path(short)
        root.chmod(0o755)
        shutil.copytree(TOP / "etc", root / "etc")
        program = root / "opt/fedcloud/current/bin/caso"
        for directory in (program.parent, root / "var/lib/fedcloud/runs/caso"):
            directory.mkdir(parents=True)
        (root / "var/lib/fedcloud/runtime").write_text("native\n")
        program.write_text(NATIVE)
        program.chmod(0o755)
        authorities = root / "own.pem"
        authorities.touch()
        conf = root / "etc/caso/caso.conf"
        shipped = conf.read_bytes()
        layout = Layout(root)
        login = CloudLogin("https://k.test/v3", "me", PASSWORD, str(authorities))
        found = offers.ask(login, settings.load(layout), layout)
        expected = offers.CloudProject("1999", "username = me", "1", str(authorities))
        assert found == Offers((), (expected,))
        assert conf.read_bytes() == shipped
        assert not list((root / "run/fedcloud/keys").iterdir())


def until(descriptor: int, words: str) -> str:
    """Return what the terminal shows until these words are on it."""
    said = ""
    while words not in said:
        ready, _, _ = select.select([descriptor], [], [], 30)
        assert ready, said
        said += os.read(descriptor, 1 << 16).decode()
    return said
