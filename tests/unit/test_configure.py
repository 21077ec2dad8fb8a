"""`appliance configure`: each answer is in all files that need it, as other readers see them."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from oslo_config import cfg

from appliance.admin.command import main
from appliance.admin.configure import edit
from appliance.core.run.errors import UsageError

pytestmark = pytest.mark.root

TOP = Path(__file__).parents[2]
PASSWORD = "a'b\"c $HOME #d;e%f\\g=h:"
ANSWERS = {
    "profile": "",
    "flows": "accounting, information images",
    "site": "SITE-1",
    "keystone": "https://keystone.cloud.test:5000/v3",
    "authorities": "/etc/ssl/certs/ca-certificates.crt",
    "accounting-account": "",
    "accounting-password": PASSWORD,
    "information-account": "look",
    "information-password": PASSWORD,
    "images-account": "",
    "images-password": PASSWORD,
    "region": "",
    "projects": "vo.one.test=4c9e1f vo.two.test=77aa02",
    "certificate": "",
    "key": "",
    "host": "bdii.cloud.test",
    "email": "admin@cloud.test",
    "cores": "1024",
    "memory": "",
    "lists": "https://TOKENTOKEN:x-oauth-basic@lists.test/vo/image.list "
    "https://lists.test/other.list",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    shutil.copytree(TOP / "etc", tmp_path / "etc")
    (tmp_path / "etc/grid-security").mkdir()
    for name in ("hostcert.pem", "hostkey.pem"):
        (tmp_path / "etc/grid-security" / name).write_text("old")
        (tmp_path / name).write_text("new")
    return tmp_path


def configure(root: Path, monkeypatch: pytest.MonkeyPatch, answers: dict[str, str]) -> int:
    monkeypatch.setattr(
        "sys.stdin", io.StringIO("".join(f"{answer}\n" for answer in answers.values()))
    )
    return main(["configure", "--root", str(root)])


def of_profile(profile: str) -> dict[str, str]:
    """Return the answers of a profile; a federation other than EGI has a broker of its own."""
    answers = ANSWERS | {"profile": profile}
    if profile == "egi":
        return answers
    before, after = list(answers.items())[:-5], list(answers.items())[-5:]
    return dict([*before, ("broker", "msg.private.test:6162"), ("queue", "/queue/own"), *after])


def oslo(path: Path, section: str, *options: str) -> list[str]:
    """Return options as oslo.config itself reads them."""
    found = cfg.ConfigOpts()
    found.register_opts(
        [cfg.StrOpt(option) for option in options], group=None if section == "DEFAULT" else section
    )
    found([], project="test", default_config_files=[str(path)], default_config_dirs=[])
    group = found if section == "DEFAULT" else found[section]
    return [group[option] for option in options]


def shell(path: Path, *names: str) -> list[str]:
    """Return variables as sh itself reads them."""
    script = f'. {path}; for name in "$@"; do eval "printf \'%s\\n\' \\"\\${{$name}}\\""; done'
    done = subprocess.run(
        ["sh", "-c", script, "-", *names], capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def test_every_answer_is_in_all_files_that_need_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert configure(root, monkeypatch, ANSWERS) == 0
    etc, url = root / "etc", ANSWERS["keystone"]
    assert oslo(etc / "caso/caso.conf", "DEFAULT", "site_name", "projects") == [
        "SITE-1",
        "4c9e1f, 77aa02",
    ]
    options = ("auth_url", "username", "user_domain_name", "password")
    assert oslo(etc / "caso/caso.conf", "keystone_auth", *options) == [
        url,
        "accounting",
        "Default",
        PASSWORD,
    ]
    backend = etc / "cloudkeeper/cloudkeeper-os.conf"
    assert oslo(backend, "keystone_authtoken", *options) == [url, "images", "Default", PASSWORD]
    rc = shell(
        etc / "cloud-info-provider/openstack.rc", "OS_AUTH_URL", "OS_USERNAME", "OS_PASSWORD"
    )
    assert rc == [url, "look", PASSWORD]
    cloud = yaml.safe_load((etc / "cloud-info-provider/openstack.yaml").read_text())
    assert cloud["site"]["name"] == "SITE-1"
    assert (cloud["compute"]["total_cores"], cloud["compute"]["total_ram"]) == (1024, 0)
    shares = {vo: share["auth"]["project_id"] for vo, share in cloud["compute"]["shares"].items()}
    assert shares == {"vo.one.test": "4c9e1f", "vo.two.test": "77aa02"}
    assert cloud["compute"]["endpoints"]["defaults"]["production_level"] == "production"
    assert json.loads((etc / "voms.json").read_text()) == {
        "vo.one.test": {"projects": ["4c9e1f"]},
        "vo.two.test": {"projects": ["77aa02"]},
    }
    defaults = etc / "sitebdii/glite-info-site-defaults.conf"
    assert shell(defaults, "SITE_NAME", "SITE_BDII_HOST") == ["SITE-1", "bdii.cloud.test"]
    site = (etc / "sitebdii/site.cfg").read_text()
    assert "SITE_NAME = SITE-1\n" in site
    assert site.count("admin@cloud.test") == 3
    lists = (etc / "cloudkeeper/image-lists.conf").read_text().splitlines()
    assert [line for line in lists if not line.startswith("#")] == ANSWERS["lists"].split()
    assert yaml.safe_load((etc / "fedcloud/appliance.yaml").read_text())["flows"] == dict.fromkeys(
        ("accounting", "information", "images"), True
    )


def test_a_site_without_image_lists_answers_none(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its images come from a registry, which sources.yaml names."""
    assert configure(root, monkeypatch, ANSWERS | {"lists": "none"}) == 0
    lists = (root / "etc/cloudkeeper/image-lists.conf").read_text().splitlines()
    assert [line for line in lists if not line.startswith("#")] == []


def test_what_nobody_was_asked_stays(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Comments, line numbers, owner and mode of every file stay."""
    before = {path: path.read_text() for path in (root / "etc").rglob("*") if path.is_file()}
    (root / "etc/caso/caso.conf").chmod(0o640)
    assert configure(root, monkeypatch, ANSWERS) == 0
    for path, old in before.items():
        new = path.read_text()
        if path.name not in ("voms.json", "image-lists.conf", "openstack.yaml"):
            assert len(new.splitlines()) == len(old.splitlines()), path
        said = [line for line in old.splitlines() if line.startswith("# ")]
        assert said == [line for line in new.splitlines() if line.startswith("# ")], path
    assert (root / "etc/caso/caso.conf").stat().st_mode & 0o777 == 0o640


def test_asked_again_it_offers_what_the_files_say(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert configure(root, monkeypatch, ANSWERS) == 0
    capsys.readouterr()
    assert configure(root, monkeypatch, dict.fromkeys(ANSWERS, "")) == 0
    assert capsys.readouterr().out == "No files changed. Next: appliance check --offline\n"


def test_a_flow_that_is_off_is_asked_nothing_and_leaves_its_files(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F-H7: the one place is written by the first answer."""
    others = ("information", "images", "host", "email", "cores", "memory", "lists")
    answers = {key: ANSWERS[key] for key in ANSWERS if not key.startswith(others)}
    answers["flows"] = "accounting"
    images, site = root / "etc/cloudkeeper/cloudkeeper-os.conf", root / "etc/sitebdii/site.cfg"
    before = images.read_text(), site.read_text()
    assert configure(root, monkeypatch, answers) == 0
    assert (images.read_text(), site.read_text()) == before
    flows = yaml.safe_load((root / "etc/fedcloud/appliance.yaml").read_text())["flows"]
    assert flows == {"accounting": True, "information": False, "images": False}


def test_a_new_site_manages_images_only_when_asked(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Enter accepts the offered flows; EGI's catch-all brings the images of most sites."""
    names = [name for name in ANSWERS if "images" not in name and name != "lists"]
    images = root / "etc/cloudkeeper/cloudkeeper-os.conf"
    before = images.read_text()
    assert (
        configure(root, monkeypatch, {name: ANSWERS[name] for name in names} | {"flows": ""}) == 0
    )
    flows = yaml.safe_load((root / "etc/fedcloud/appliance.yaml").read_text())["flows"]
    assert flows == {"accounting": True, "information": True, "images": False}
    assert images.read_text() == before
    # Switched on by the command, the flow is among those that Enter accepts.
    assert main(["flows", "--on", "images", "--root", str(root)]) == 0
    assert configure(root, monkeypatch, ANSWERS | {"flows": ""}) == 0
    assert yaml.safe_load((root / "etc/fedcloud/appliance.yaml").read_text())["flows"] == {
        "accounting": True,
        "information": True,
        "images": True,
    }
    assert images.read_text() != before


@pytest.mark.parametrize(
    ("profile", "expected"), [("egi", "share"), ("2017", "copy"), ("private", "copy")]
)
def test_a_new_site_of_egi_shares_its_images(
    root: Path, monkeypatch: pytest.MonkeyPatch, profile: str, expected: str
) -> None:
    settings = root / "etc/fedcloud/appliance.yaml"
    assert configure(root, monkeypatch, of_profile(profile)) == 0
    assert str(yaml.safe_load(settings.read_text())["profile"]) == profile
    backend = root / "etc/cloudkeeper/cloudkeeper-os.conf"
    assert (oslo(backend, "DEFAULT", "image_sharing")[0] or "copy") == expected


@pytest.mark.parametrize("line", ["", "image_sharing = copy"])
def test_a_site_that_has_images_keeps_its_sharing(
    root: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    """An account in the file, or a word of the administrator: the site is not new."""
    backend = root / "etc/cloudkeeper/cloudkeeper-os.conf"
    text = backend.read_text().replace("#image_sharing = copy", line)
    assert "image_sharing =" not in text.replace(line or "?", "")
    backend.write_text(text if line else text.replace("#password =", "password = old"))
    assert configure(root, monkeypatch, ANSWERS) == 0
    assert oslo(backend, "DEFAULT", "image_sharing") == ["copy" if line else None]


@pytest.mark.parametrize("key", ["hostkey.pem", ""])
def test_the_host_certificate_is_put_in_its_place(
    root: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """The key beside the new certificate is offered, not the one of the old certificate."""
    grid = root / "etc/grid-security"
    given = {"certificate": f"{root}/hostcert.pem", "key": key and f"{root}/{key}"}
    assert configure(root, monkeypatch, ANSWERS | given) == 0
    for name, mode in (("hostcert.pem", 0o444), ("hostkey.pem", 0o400)):
        assert (grid / name).read_text() == "new"
        status = (grid / name).stat()
        assert (status.st_mode & 0o777, status.st_uid) == (mode, 0)


@pytest.mark.parametrize(
    ("key", "answer", "words"),
    [
        ("flows", "accountin", "accountin: no such flow"),
        ("site", "MY SITE", "'MY SITE': write it as in SITE-1"),
        ("keystone", "keystone.cloud.test", "write https://HOST:5000/v3"),
        ("keystone", "https://keystone.cloud.test:5000/v2.0", "write https://HOST:5000/v3"),
        ("projects", "vo.one.test", "'vo.one.test': write VO=ID"),
        ("accounting-password", "", "must be answered"),
        ("accounting-password", "a\\$b", "a backslash before $, which oslo.config cannot read"),
        ("certificate", "hostcert.pem", "'hostcert.pem': there is no such file"),
        ("key", "/nowhere/key.pem", "'/nowhere/key.pem': there is no such file"),
        ("host", "localhost", "'localhost': write it as in bdii.example.org"),
        ("cores", "many", "'many': write it as in 1024"),
        ("lists", "vo.one.test", "write https://HOST/PATH"),
    ],
)
def test_an_answer_that_cannot_be_right_changes_nothing(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    key: str,
    answer: str,
    words: str,
) -> None:
    before = {path: path.read_bytes() for path in (root / "etc").rglob("*") if path.is_file()}
    assert configure(root, monkeypatch, ANSWERS | {key: answer}) == 2
    assert words in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before


def test_an_interrupt_leaves_everything_as_it_was(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C among the questions: nothing is kept to continue from, and it says so."""
    before = {path: path.read_bytes() for path in (root / "etc").rglob("*") if path.is_file()}

    class Interrupted(io.StringIO):
        def readline(self, size: int | None = -1, /) -> str:  # type: ignore[override]
            line = super().readline(size if size is not None else -1)
            if not line:
                raise KeyboardInterrupt
            return line

    monkeypatch.setattr("sys.stdin", Interrupted("egi\naccounting\nSITE\n"))
    assert main(["configure", "--root", str(root)]) == 3
    said = "appliance: configure: interrupted: no file was changed, and no answer is kept;"
    assert said in capsys.readouterr().err
    assert {
        path: path.read_bytes() for path in (root / "etc").rglob("*") if path.is_file()
    } == before


def test_the_input_may_end_early(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert configure(root, monkeypatch, {"profile": "", "flows": "images"}) == 2
    assert "the input ends before this answer; write one answer a line" in capsys.readouterr().err


def test_a_list_of_shares_that_somebody_wrote_stays() -> None:
    text = (
        "compute:\n    shares:\n        mine:\n            auth:\n                "
        "project_id: 1\n    endpoints:\n"
    )
    assert edit.set_shares(text, {"vo": "2"}) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[a]\nx = 1\n[b]\nx = 2\n", "[a]\nx = 1\n[b]\nx = new\n"),
        ("[b]\n# x is\n#x = 1\n", "[b]\n# x is\nx = new\n"),
        ("[b]\nx = 1\nx = 2\n", "[b]\nx = 1\nx = new\n"),
        ("[b]\nx = 1,\n  2,\n  3\ny = 1\n", "[b]\nx = new\ny = 1\n"),
        ("[b]\ny = 1\n\n[c]\n", "[b]\ny = 1\nx = new\n[c]\n"),
        ("[b]\nx=new\n", "[b]\nx=new\n"),
        ("[b]\nx = new\n  2\n", "[b]\nx = new\n"),
        ("[a]\nx = 1\n", "[a]\nx = 1\n[b]\nx = new\n"),
        ("[a]\nx = 1", "[a]\nx = 1\n[b]\nx = new\n"),
        ("", "[b]\nx = new\n"),
    ],
)
def test_an_option_is_set_where_it_counts(text: str, expected: str) -> None:
    assert edit.set_ini(text, "b", "x", "new") == expected


@pytest.mark.parametrize(
    "value", ["x", "$x", "a$$b", '"quoted"', "'q'", '"', "a#b ;c", "ü%(x)s", "\\", "a\\b"]
)
def test_oslo_config_reads_a_password_as_it_was_given(tmp_path: Path, value: str) -> None:
    path = tmp_path / "x.conf"
    path.write_text(f"[a]\npassword = {edit.oslo_value(value)}\n")
    assert oslo(path, "a", "password") == [value]


def test_what_oslo_config_cannot_hold_is_refused() -> None:
    for value in (" x", "x ", "a\\$b", "a\nb"):
        with pytest.raises(UsageError):
            edit.oslo_value(value)
