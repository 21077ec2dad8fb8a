from pathlib import Path

import pytest

from appliance.core.config import document, ini, oslo
from appliance.core.config.settings import Settings
from appliance.core.run.errors import ConfigurationError


def read(tmp_path: Path, text: str, **keywords: object) -> Settings:
    path = tmp_path / "x.conf"
    path.write_text(text)
    return Settings(document.read([path], oslo.parse), interpolate=oslo.interpolate, **keywords)  # type: ignore[arg-type]


def failures(settings: Settings) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        settings.finish()
    return [str(problem).split("x.conf")[1] for problem in caught.value.problems]


def test_all_errors_come_at_once_with_their_lines(tmp_path: Path) -> None:
    settings = read(
        tmp_path,
        "[DEFAULT]\nsite_name = SITE-NAME\nspooldir = var/spool\n\n[ssm]\nmax_size = many\nflag = perhaps\nmode = dirg\n",
    )
    settings.text("DEFAULT", "site_name", required="the name in GOCDB", placeholders=["SITE-NAME"])
    settings.path("DEFAULT", "spooldir", default=Path("/x"))
    settings.integer("ssm", "max_size", default=100, minimum=1, maximum=1000)
    settings.boolean("ssm", "flag", default=True)
    settings.choice("ssm", "mode", default="dirq", allowed=["dirq", "directory"])
    settings.text("DEFAULT", "needed", required="the place where it is")
    settings.file("ssm", "key", default=tmp_path / "none.pem")
    assert failures(settings) == [
        f": [ssm] key: file {tmp_path}/none.pem does not exist",
        ": needed: must be set: the place where it is",
        ":2: site_name: is still the placeholder 'SITE-NAME'; the name in GOCDB",
        ":3: spooldir: must be an absolute path, not 'var/spool'",
        ":6: [ssm] max_size: 'many' is not allowed; write a whole number from 1 to 1000",
        ":7: [ssm] flag: 'perhaps' is not allowed; write true or false",
        ":8: [ssm] mode: 'dirg' is not allowed; write dirq or directory; did you mean dirq?",
    ]


def test_unknown_options_are_warnings_with_the_nearest_name(tmp_path: Path) -> None:
    settings = read(tmp_path, "[DEFAULT]\nprojets = a\n[smm]\nx = 1\n[ssm]\nold = 1\n")
    settings.words("DEFAULT", "projects")
    settings.accept("ssm", ["old"])
    warnings = [str(problem).split("x.conf")[1] for problem in settings.finish()]
    assert warnings == [
        ":2: projets: unknown option, ignored; did you mean projects?",
        ":4: [smm]: unknown section; did you mean ssm?",
    ]


def test_the_command_line_wins_then_the_new_name_then_the_old_one(tmp_path: Path) -> None:
    text = "[DEFAULT]\ntenants = old\n[extractor]\nmapping_file = /old\n"
    aliases = [("DEFAULT", "tenants")]
    assert read(tmp_path, text).words("DEFAULT", "projects", aliases=aliases) == ("old",)
    both = read(tmp_path, text + "[DEFAULT]\nprojects = new, newer,\n")
    assert both.words("DEFAULT", "projects", aliases=aliases) == ("new", "newer")
    given = read(tmp_path, text, overrides={("DEFAULT", "projects"): "shell"})
    assert given.words("DEFAULT", "projects", aliases=aliases) == ("shell",)
    mapped = read(tmp_path, text).path(
        "DEFAULT", "mapping_file", default=Path("/d"), aliases=[("extractor", "mapping_file")]
    )
    assert mapped == Path("/old")


def test_later_files_win_and_every_broken_file_is_named(tmp_path: Path) -> None:
    for name, text in (("a", "[DEFAULT]\nx = 1\ny = 1\n"), ("b", "[DEFAULT]\nx = 2\n")):
        (tmp_path / name).write_text(text)
    merged = document.read([tmp_path / "a", tmp_path / "b"], oslo.parse)
    assert {option: entry.text for option, entry in merged.sections["DEFAULT"].items()} == {"x": "2", "y": "1"}
    (tmp_path / "c").write_bytes(b"[DEFAULT]\n\nx = \xff\n")
    with pytest.raises(ConfigurationError) as caught:
        document.read([tmp_path / "none", tmp_path / "c"], oslo.parse)
    assert str(caught.value).splitlines() == [
        f"{tmp_path}/none: cannot be read: no such file or directory",
        f"{tmp_path}/c:3: is not UTF-8 text; save the file as UTF-8",
    ]


def test_a_reference_to_itself_ends(tmp_path: Path) -> None:
    settings = read(tmp_path, "[DEFAULT]\na = $b\nb = $a\nc = $c\n")
    assert settings.text("DEFAULT", "c") == "$c"
    settings.text("DEFAULT", "a")


def test_defaults_can_be_referred_to(tmp_path: Path) -> None:
    settings = read(tmp_path, "[DEFAULT]\nlock_path = $spooldir/lock\n")
    settings.path("DEFAULT", "spooldir", default=Path("/var/spool/caso"))
    assert settings.path("DEFAULT", "lock_path", default=Path("/")) == Path("/var/spool/caso/lock")


def test_blanks_before_headers_and_tabs_at_line_ends_are_read_as_meant() -> None:
    text = "[broker]\nhost: msg.example.org\t\nuse_ssl: true\n [certificates]\ncertificate: /etc/cert.pem \n"
    parsed = ini.parse(Path("sender.cfg"), text)
    assert {name: {key: entry.text for key, entry in body.items()} for name, body in parsed.sections.items()} == {
        "broker": {"host": "msg.example.org", "use_ssl": "true"},
        "certificates": {"certificate": "/etc/cert.pem"},
    }


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[a]\nx: 1\nx: 2\n", ":3: x: is set a second time in [a]; first in line 2"),
        ("x: 1\n", ":1: no section header above this line: 'x:'"),
        ("[a]\nnonsense\n", ":2: neither 'option: value' nor a [section]: 'nonsense'"),
        ("[a\n", ":1: not a section header: '[a'; write [name]"),
        ("[a]\n[a]\n", ":2: section [a] stands here a second time"),
    ],
)
def test_what_an_ini_file_may_not_hold(text: str, line: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ini.parse(Path("x"), text)
    assert str(caught.value) == f"x{line}"
