"""`appliance configure --answers`: a file in place of a person, and what is refused."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from appliance.admin.command import main
from appliance.admin.configure import shares
from appliance.core.run import lock
from appliance.core.run.errors import ConfigurationError
from tests import audit
from tests.unit import backup_site
from tests.unit.test_configure import oslo, shell

pytestmark = pytest.mark.root

TOP = Path(__file__).parents[2]
PASSWORD = "correct-horse-9"
VOS = "vos:\n  vo.one.test: 4c9e1f\n  vo.two.test: 77aa02\n"
FILE = """\
profile: egi
flows: [accounting, information]
site: SITE-1
keystone: https://keystone.cloud.test:5000/v3
vos:
  vo.one.test: 4c9e1f
  vo.two.test: 77aa02
accounts:
  accounting: {name: accounting, password: correct-horse-9}
  information: {name: look, password: correct-horse-9}
certificate: HERE/hostcert.pem
key: HERE/hostkey.pem
host: bdii.cloud.test
email: admin@cloud.test
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    shutil.copytree(TOP / "etc", tmp_path / "etc")
    for name in ("hostcert.pem", "hostkey.pem"):
        (tmp_path / name).write_text(f"new {name}")
    return tmp_path


def answered(root: Path, text: str = FILE, *more: str) -> int:
    (root / "answers.yaml").write_text(text.replace("HERE", str(root)))
    words = ["configure", "--root", str(root), "--answers", str(root / "answers.yaml")]
    return main([*words, *more])


def content(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in (root / "etc").rglob("*") if path.is_file()}


def tables(root: Path) -> dict[str, dict[str, str]]:
    """Return the table of VOs as each file has it, read by PyYAML, json and oslo.config."""
    etc = root / "etc"
    mapping = json.loads((etc / "voms.json").read_text())
    cloud = yaml.safe_load((etc / "cloud-info-provider/openstack.yaml").read_text())
    found = {vo: one["auth"]["project_id"] for vo, one in cloud["compute"]["shares"].items()}
    listed = oslo(etc / "caso/caso.conf", "DEFAULT", "projects")[0].split(", ")
    return {
        "mapping": {vo: entry["projects"][0] for vo, entry in mapping.items()},
        "shares": found,
        "caso": dict(zip(found, listed, strict=True)),
    }


def test_it_changes_once_and_says_so_by_its_status(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(root)
    assert answered(root, FILE, "--check", "--json") == 1
    planned = json.loads(capsys.readouterr().out)
    assert content(root) == before
    assert answered(root, FILE, "--json") == 1
    made = json.loads(capsys.readouterr().out)
    after = content(root)
    changed = {str(path) for path in after if after[path] != before.get(path)}
    assert {one["path"] for one in made["files"]} == changed
    assert made == planned | {"check": False}
    assert answered(root, FILE, "--check") == answered(root) == 0
    assert content(root) == after
    assert answered(root, FILE.replace("SITE-1", "SITE-2"), "--json") == 1
    lines = json.loads(capsys.readouterr().out.split("configuration\n")[-1].split("offline\n")[-1])
    conf = next(one for one in lines["files"] if one["path"].endswith("caso.conf"))
    assert conf["lines"] == [12], "the line of site_name in the manual"


def test_a_check_makes_nothing_at_all(root: Path) -> None:
    before = sorted(root.rglob("*"))
    (root / "answers.yaml").touch()
    assert answered(root, FILE, "--check") == 1
    assert sorted(root.rglob("*")) == sorted([*before, root / "answers.yaml"])


def test_one_table_of_vos_is_in_all_files(root: Path) -> None:
    """A VO joins, one changes its project, one leaves; comments and other shares stay."""
    assert answered(root) == 1
    expected = {"vo.one.test": "4c9e1f", "vo.two.test": "77aa02"}
    assert tables(root) == dict.fromkeys(("mapping", "shares", "caso"), expected)
    cloud = root / "etc/cloud-info-provider/openstack.yaml"
    text = cloud.read_text().replace(
        "project_id: 77aa02\n", "project_id: 77aa02 # ours\n            network: blue\n"
    )
    cloud.write_text(text)
    joined = FILE.replace("vo.one.test: 4c9e1f", "vo.new.test: 12345").replace("77aa02", "88bb")
    assert answered(root, joined) == 1
    expected = {"vo.two.test": "88bb", "vo.new.test": "12345"}
    found = tables(root)
    assert found["mapping"] == found["shares"] == expected
    assert sorted(oslo(root / "etc/caso/caso.conf", "DEFAULT", "projects")[0].split(", ")) == [
        "12345",
        "88bb",
    ]
    assert "project_id: 88bb # ours\n            network: blue\n" in cloud.read_text()
    assert [line for line in text.splitlines() if line.startswith("    #")] == [
        line for line in cloud.read_text().splitlines() if line.startswith("    #")
    ]


def test_what_the_file_leaves_out_stays(root: Path) -> None:
    assert answered(root) == 1
    before = content(root)
    assert answered(root, "site: SITE-1\n") == 0
    assert answered(root, "site: SITE-1\nregion: ''\n") == 0
    assert content(root) == before


def test_a_password_may_stay_in_a_file_of_its_own(root: Path) -> None:
    """The option names the file, in the dialect of each program; the password itself goes."""
    assert answered(root) == 1
    kept = [root / "etc/caso/caso.conf.d/password", root / "etc/cloud-info-provider/password"]
    text = FILE
    for secret in kept:
        secret.parent.mkdir(exist_ok=True)
        secret.write_text(f"{PASSWORD}\n")
        text = text.replace(f"password: {PASSWORD}", f"password_file: {secret}", 1)
    assert answered(root, text) == 1
    options = ("password", "password_file")
    assert oslo(root / "etc/caso/caso.conf", "keystone_auth", *options) == [None, str(kept[0])]
    rc = root / "etc/cloud-info-provider/openstack.rc"
    assert shell(rc, "OS_PASSWORD", "OS_PASSWORD_FILE") == ["", str(kept[1])]
    assert {path for path, data in content(root).items() if PASSWORD.encode() in data} == {*kept}
    assert answered(root) == 1
    assert oslo(root / "etc/caso/caso.conf", "keystone_auth", *options) == [PASSWORD, None]


def test_a_secret_that_no_container_sees_is_refused(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = root / "etc/caso/caso.conf.d/../secret"
    (root / "etc/caso/caso.conf.d").mkdir()
    (root / "etc/caso/secret").write_text(PASSWORD)
    text = FILE.replace(f"password: {PASSWORD}", f"password_file: {secret}", 1)
    assert answered(root, text) == 2
    expected = f"no container sees it; move it into {root}/etc/caso/caso.conf.d\n"
    assert capsys.readouterr().err.endswith(expected)
    native = root / "var/lib/fedcloud/runtime"
    native.parent.mkdir(parents=True)
    native.write_text("native\n")
    assert answered(root, text) == 1


def test_a_region_leaves_the_lines_of_the_manual(root: Path) -> None:
    assert answered(root, f"{FILE}region: Second\n") == 1
    caso = root / "etc/caso/caso.conf"
    assert oslo(caso, "DEFAULT", "region_name") == ["Second"]
    lines = caso.read_text().splitlines()
    assert lines[11].startswith("site_name")
    assert lines[21] == "[keystone_auth]"
    assert shell(root / "etc/cloud-info-provider/openstack.rc", "OS_REGION_NAME") == ["Second"]


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("profile: egi", "profile: eg", 1, "profile: 'eg': write one of egi, 2017, private"),
        ("site: SITE-1", "site: MY SITE", 3, "site: 'MY SITE': write it as in SITE-1"),
        ("site: SITE-1", "siet: SITE-1", 3, "siet: unknown option, ignored; did you mean"),
        ("77aa02", "4c9e1f", 6, "vos: project 4c9e1f is given to two VOs, vo.one.test and"),
        ("password: correct-horse-9}\n  i", "passwort: x}\n  i", 9, "passwort: unknown option"),
        ("keystone: https", "keystone: ftp", 4, "write https://HOST:5000/v3"),
        ("hostkey.pem", "nokey.pem", 12, "nokey.pem': there is no such file"),
        ("  vo.one.test: 4c9e1f", "\tvo.one.test: 4c9e1f", 6, "is not YAML"),
        (
            "flows: [accounting, information]",
            "flows: []",
            2,
            "flows: is empty; write an answer, or",
        ),
        ("flows: [accounting, information]", "flows:", 2, "flows: is empty; write an answer, or"),
        ("[accounting, information]", "' ,'", 2, "flows: ',': write one or more of accounting, "),
        ("site: SITE-1", "site: ''", 3, "site: is empty; write an answer, or leave out the line"),
        ("key: HERE/hostkey.pem", "key: ~", 12, "key: is empty; write an answer, or leave out"),
        (VOS, "vos: {}\n", 5, "vos: is empty; write an answer, or leave out the line"),
        ("{name: look, password: correct-horse-9}", "{}", 10, "accounts.information: is empty; "),
        ("name: look", "name: ''", 10, "accounts.information.name: is empty; write an answer"),
        (VOS, "vos: [vo.one.test]\n", 5, "vos: must be a table, with lines of the form VO: ID"),
        (
            "accounting: {name: accounting, password: correct-horse-9}",
            "accounting: correct-horse-9",
            *(9, "accounts.accounting: must be a table, with lines of the form accounting: {name"),
        ),
    ],
)
def test_a_bad_answer_has_file_and_line_and_changes_nothing(
    root: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, line: int, words: str
) -> None:
    before = content(root)
    assert answered(root, FILE.replace(old, new, 1)) == 2
    said = capsys.readouterr().err
    assert re.search(
        rf"^appliance: {root}/answers.yaml:{line}: .*{re.escape(words)}", said, re.MULTILINE
    )
    assert PASSWORD not in said
    assert content(root) == before


@pytest.mark.programs("openssl")
def test_a_private_key_is_not_copied_to_a_file_that_all_can_read(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The paths of certificate and key are exchanged."""
    backup_site.make_certificate(root, "host")
    before = content(root)
    text = FILE.replace("hostcert.pem", "host.key").replace("hostkey.pem", "host.pem")
    assert answered(root, text) == 2
    wrong, other = capsys.readouterr().err.splitlines()
    place = f"appliance: {root}/answers.yaml"
    held = f"'{root}/host.key': holds a private key; name the file of the certificate alone"
    assert wrong == f"{place}:11: certificate: {held}"
    assert (
        other
        == f"{place}:12: key: '{root}/host.pem': holds a certificate; name the file of its key"
    )
    assert content(root) == before
    right = FILE.replace("hostcert.pem", "host.pem").replace("hostkey.pem", "host.key")
    assert answered(root, right) == 1


def test_all_bad_answers_are_reported_at_once(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = FILE.replace("SITE-1", "A B").replace("admin@", "admin-").replace("bdii.", "bdii_")
    assert answered(root, text) == 2
    assert len(capsys.readouterr().err.splitlines()) == 3


@pytest.mark.parametrize(
    ("name", "old", "new", "where"),
    [
        ("caso/caso.conf", "[keystone_auth]", "[keystone_auth", ":22: "),
        ("cloud-info-provider/openstack.yaml", "compute:", "compute", ":6: "),
        ("cloud-info-provider/openstack.rc", "OS_USERNAME=", "OS_USERNAME=$(id)", ":5: "),
        ("voms.json", '"}', '"', ":4: "),
        ("apel/sender.cfg", "protocol: AMS", "protocol AMS", ":4: "),
        ("sitebdii/site.cfg", "SITE_NAME =", "SITE_NAME", ":1: "),
        ("fedcloud/appliance.yaml", "flows:", "flows", ":11: "),
    ],
)
def test_a_hand_edited_file_with_an_error_stops_all(
    root: Path, capsys: pytest.CaptureFixture[str], name: str, old: str, new: str, where: str
) -> None:
    path = root / "etc" / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    before = content(root)
    assert answered(root) == 2
    assert f"appliance: {path}{where}" in capsys.readouterr().err
    assert content(root) == before


def test_two_administrators_at_once(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The status is not that of a change; a check, which writes nothing, needs no turn."""
    monkeypatch.setattr("appliance.admin.configure.configure._PATIENCE", timedelta(0))
    before = content(root)
    path = root / "run/fedcloud/configure.lock"
    child = os.fork() if not path.exists() else 0
    if not child:
        with lock.hold(path):
            os.kill(os.getpid(), 19)
        os._exit(0)
    os.waitpid(child, os.WUNTRACED)
    try:
        assert answered(root) == 3
        assert "another administrator configures this site: running" in capsys.readouterr().err
        assert content(root) == before
        assert answered(root, FILE, "--check") == 1
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert answered(root) == 1


def test_a_file_that_changes_meanwhile_is_not_overwritten(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An editor, or another verb, between the reading and the first change."""
    conf = root / "etc/caso/caso.conf"

    def edited(_: Path) -> None:
        conf.write_text(conf.read_text() + "# mine\n")

    before = content(root)
    with audit.before("open", edited, path=root / "run/fedcloud/install.lock"):
        assert answered(root) == 3
    assert f"{conf}: was changed while the questions were answered" in capsys.readouterr().err
    assert content(root) == before | {conf: before[conf] + b"# mine\n"}
    assert answered(root) == 1


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


def renames(root: Path) -> Iterator[Path]:
    """Yield the files that a run replaces, in its order."""
    seen: list[Path] = []
    with audit.before("os.rename", seen.append, times=1000):
        assert answered(root) == 1
    yield from seen


def test_killed_at_any_rename_the_next_run_ends_the_same(root: Path, tmp_path: Path) -> None:
    fresh = tmp_path / "fresh"
    shutil.copytree(TOP / "etc", fresh / "etc")
    count = len(list(renames(root)))
    assert count == 8
    wanted = {path.relative_to(root): data for path, data in content(root).items()}
    for number in range(1, count + 1):
        shutil.rmtree(root / "etc")
        shutil.copytree(fresh / "etc", root / "etc")
        left = iter(range(1, count + 1))

        def strike(_: Path, left: Iterator[int] = left, number: int = number) -> None:
            if next(left) == number:
                raise Killed

        with pytest.raises(Killed), audit.before("os.rename", strike, times=1000):
            answered(root)
        assert answered(root) == 1
        found = {path.relative_to(root): data for path, data in content(root).items()}
        assert {path for path in found if path.suffix == ".tmp"} == set()
        assert found == wanted


def test_a_full_disk_is_one_line_and_the_next_run_goes_on(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with audit.before("os.rename", full):
        assert answered(root) == 3
    said = capsys.readouterr().err
    assert "No space left on device; free space" in said
    assert len(said.splitlines()) == 1
    assert not list((root / "etc").rglob("*.tmp"))
    assert answered(root) == 1


def test_another_profile_of_a_running_site_says_what_it_changes(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert answered(root) == 1
    sender = root / "etc/apel/sender.cfg"
    shipped = sender.read_text()
    private = FILE.replace("profile: egi", "profile: private")
    assert answered(root, private) == 2
    assert "broker: must be answered" in capsys.readouterr().err
    private += "broker: msg.private.test:6162\nqueue: /queue/own\n"
    assert answered(root, private, "--check", "--json") == 1
    notes = json.loads(capsys.readouterr().out)["notes"]
    assert notes[0].startswith("profile: egi (EGI's services of today) becomes private")
    assert any("ssmsend sends by STOMP to the broker of the answers" in note for note in notes)
    assert any("cloud-info-json" in note for note in notes)
    assert sender.read_text() == shipped
    assert answered(root, private) == 1
    active = [line for line in sender.read_text().splitlines() if line and line[0] not in "#["]
    assert "protocol: STOMP" in active
    assert "host: msg.private.test:6162" in active
    assert "destination: /queue/own" in active
    assert "use_ssl: true" in active
    assert len(sender.read_text().splitlines()) == len(shipped.splitlines())
    assert answered(root, private) == 0
    assert answered(root) == 1
    active = [line for line in sender.read_text().splitlines() if line and line[0] not in "#["]
    assert "protocol: AMS" in active
    assert "destination: eu-egi-cloud-accounting" in active


def test_a_sender_that_somebody_changed_stays_with_the_profile(root: Path) -> None:
    sender = root / "etc/apel/sender.cfg"
    sender.write_text(sender.read_text().replace("host: msg.argo", "host: msg-devel.argo", 1))
    before = sender.read_text()
    assert answered(root) == 1
    assert sender.read_text() == before


def test_check_needs_answers(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configure", "--root", str(root), "--check"]) == 2
    assert "--check: needs the answers; add --answers FILE" in capsys.readouterr().err


SHARES = {
    "block": "compute:\n  shares:\n    a: {auth: {project_id: 1}}\n    # of b\n    b:\n"
    "      auth:\n        project_id: '2' # two\n      # inside\n\n  total_ram: 1\n",
    "empty": "compute:\n  shares:\n  total_ram: 1\n",
    "none": "compute:\n  total_ram: 1\n",
    "file": "site:\n  name: x\n",
    "last": "compute:\n  shares:\n    a:\n      auth:\n        project_id: 1",
}


@pytest.mark.parametrize("form", SHARES)
@pytest.mark.parametrize(
    "wanted", [{}, {"a": "1"}, {"b": "007", "c": "on"}, {"a": "9", "b": "2", "c.d": "1e5"}]
)
def test_shares_are_edited_in_any_form(form: str, wanted: dict[str, str]) -> None:
    text = SHARES[form]
    found: Any = yaml.safe_load(shares.set_projects(Path("x"), text, wanted))
    listed = (found.get("compute") or {}).get("shares") or {}
    # PyYAML makes numbers of plain scalars, which only the untouched ones are.
    assert {vo: str(one["auth"]["project_id"]) for vo, one in listed.items()} == wanted
    assert ("total_ram: 1" in text) == ("total_ram: 1" in yaml.dump(found))


def test_comments_of_shares_stay() -> None:
    text = SHARES["block"]
    assert shares.set_projects(Path("x"), text, {"a": "1", "b": "2"}) == text
    changed = shares.set_projects(Path("x"), text, {"a": "1", "b": "3"})
    assert changed == text.replace("'2' # two", '"3" # two')


def test_a_file_of_the_catch_all_is_compared_and_not_edited(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = root / "etc/cloud-info-provider/openstack.yaml"
    text = (
        "gocdb: SITE-1\nendpoint: https://keystone.cloud.test:5000/v3\nvos:\n"
        "- name: vo.one.test\n  auth:\n    project_id: 4c9e1f\n"
        "- {name: vo.two.test, auth: {project_id: 77aa02}}\n"
    )
    path.write_text(text)
    before = content(root)
    assert answered(root, FILE.replace("77aa02", "88bb")) == 2
    assert f"{path}:3: vos: in the form of EGI's catch-all" in capsys.readouterr().err
    assert content(root) == before
    assert answered(root, FILE) == 1
    assert path.read_text() == text


def test_shares_on_one_line_are_refused() -> None:
    text = "compute:\n  shares: {a: {auth: {project_id: x}}}\n"
    with pytest.raises(ConfigurationError, match=r"^x:2: compute.shares: has a form that cannot"):
        shares.set_projects(Path("x"), text, {"b": "y"})
