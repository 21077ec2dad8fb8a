import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.core.config import document, ini, oslo, shell, yaml_file
from appliance.core.config.settings import Settings, observed
from appliance.core.run import log, place
from appliance.core.run.errors import ConfigurationError


def read(tmp_path: Path, text: str, **keywords: object) -> Settings:
    path = tmp_path / "x.conf"
    path.write_text(text)
    read = document.read([path], oslo.parse)
    return Settings(read, interpolate=oslo.interpolate, **keywords)  # type: ignore[arg-type]


def failures(settings: Settings) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        settings.finish()
    return [str(problem).split("x.conf")[1] for problem in caught.value.problems]


def test_all_errors_come_at_once_with_their_lines(tmp_path: Path) -> None:
    settings = read(
        tmp_path,
        (
            "[DEFAULT]\nsite_name = SITE-NAME\nspooldir = var/spool\n\n[ssm]\nmax_size = many\n"
            "flag = perhaps\nmode = dirg\n"
        ),
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
    assert {option: entry.text for option, entry in merged.sections["DEFAULT"].items()} == {
        "x": "2",
        "y": "1",
    }
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


def test_references_look_in_their_section_then_in_default_or_where_they_say(tmp_path: Path) -> None:
    text = (
        "[DEFAULT]\nx = above\ny = plain\n[ssm]\nx = here\na = $x\nb = $y\nc = $ssm.x\n[other]\nd "
        "= ${ssm.x} $x\n"
    )
    settings = read(tmp_path, text)
    assert [settings.text("ssm", name) for name in "abc"] == ["here", "plain", "here"]
    assert settings.text("other", "d") == "here above"


@pytest.mark.parametrize(
    ("text", "is_left"),
    [
        ("SITE", True),
        ("SITES", False),
        ("<secret>", True),
        ("https://yourkeystone:5000/v3", True),
        ("x", False),
    ],
)
def test_a_placeholder_is_a_whole_word_or_long_enough_to_be_found_inside(
    tmp_path: Path, text: str, is_left: bool
) -> None:
    settings = read(tmp_path, f"[DEFAULT]\nx = {text}\n")
    assert settings.text("DEFAULT", "x", placeholders=["SITE", "<secret>", "yourkeystone"]) == text
    if is_left:
        (failure,) = failures(settings)
        assert re.fullmatch(r":2: x: is still the placeholder '\S+'; write your own value", failure)
    else:
        assert settings.finish() == ()


@pytest.mark.parametrize(
    ("text", "is_good"), [("1", True), ("10", True), ("0", False), ("11", False), ("x", False)]
)
def test_limits_belong_to_what_is_allowed(tmp_path: Path, text: str, is_good: bool) -> None:
    settings = read(tmp_path, f"[DEFAULT]\nx = {text}\n")
    settings.integer("DEFAULT", "x", default=5, minimum=1, maximum=10)
    if is_good:
        assert settings.finish() == ()
    else:
        assert failures(settings) == [
            f":2: x: {text!r} is not allowed; write a whole number from 1 to 10"
        ]


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    for dialect in (oslo.parse, ini.parse):
        (tmp_path / "x").write_bytes(b"\xef\xbb\xbf[ssm]\nx = 1\n")
        assert document.read([tmp_path / "x"], dialect).sections["ssm"]["x"].text == "1"


def test_names_of_ini_options_have_no_case() -> None:
    assert (
        ini.parse(Path("x"), "[broker]\nHost: a\n").sections
        == ini.parse(Path("x"), "[broker]\nhost: a\n").sections
    )


def test_defaults_can_be_referred_to(tmp_path: Path) -> None:
    settings = read(tmp_path, "[DEFAULT]\nlock_path = $spooldir/lock\n")
    settings.path("DEFAULT", "spooldir", default=Path("/var/spool/caso"))
    assert settings.path("DEFAULT", "lock_path", default=Path("/")) == Path("/var/spool/caso/lock")


def test_blanks_before_headers_and_tabs_at_line_ends_are_read_as_meant() -> None:
    text = (
        "[broker]\nhost: msg.example.org\t\nuse_ssl: true\n [certificates]\ncertificate: "
        "/etc/cert.pem \n"
    )
    parsed = ini.parse(Path("sender.cfg"), text)
    assert {
        name: {key: entry.text for key, entry in body.items()}
        for name, body in parsed.sections.items()
    } == {
        "broker": {"host": "msg.example.org", "use_ssl": "true"},
        "certificates": {"certificate": "/etc/cert.pem"},
    }


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[a]\nx: 1\nx: 2\n", ":3: x: is set a second time in [a]; first in line 2; remove one"),
        ("x: 1\n", ":1: no section header above this line"),
        ("[a]\nnonsense\n", ":2: neither 'option: value' nor a [section]"),
        ("[a\n", ":1: not a section header; write [name]"),
        ("[a]\n[a]\n", ":2: section [a] begins here a second time; merge the two"),
    ],
)
def test_what_an_ini_file_may_not_hold(text: str, line: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ini.parse(Path("x"), text)
    assert str(caught.value) == f"x{line}"


def test_a_file_that_cannot_be_a_configuration_is_one_problem(tmp_path: Path) -> None:
    (tmp_path / "nul").write_bytes(b"[DEFAULT]\nx = a\0b\n")
    (tmp_path / "utf16").write_text("[DEFAULT]\nx = 1\n", encoding="utf-16")
    (tmp_path / "log").write_bytes(b"x = 1\n" * 200_000)
    paths = [tmp_path, tmp_path / "nul", tmp_path / "utf16", tmp_path / "log", Path("/dev/zero")]
    with pytest.raises(ConfigurationError) as caught:
        document.read(paths, oslo.parse)
    assert str(caught.value).splitlines() == [
        f"{tmp_path}: cannot be read: is a directory",
        f"{tmp_path}/nul:2: holds a NUL character; save the file as UTF-8 text",
        f"{tmp_path}/utf16:1: is not UTF-8 text; save the file as UTF-8",
        f"{tmp_path}/log: is larger than 1 MiB, the limit of a configuration; check the path",
        "/dev/zero: is larger than 1 MiB, the limit of a configuration; check the path",
    ]


def test_a_line_that_cannot_be_read_is_not_shown_as_it_may_be_a_secret(tmp_path: Path) -> None:
    oslo_text = "[keystone_auth]\npassword =\nhunter2\n\n  hunter2\n=hunter2\n"
    ini_text = "[a]\npassword: \nhunter2\n=hunter2\n"
    for dialect, text, lines in ((oslo.parse, oslo_text, [3, 6]), (ini.parse, ini_text, [3, 4])):
        with pytest.raises(ConfigurationError) as caught:
            dialect(tmp_path / "x.conf", text)
        assert [problem.line for problem in caught.value.problems] == lines
        assert "hunter2" not in str(caught.value)


def test_homes_of_nobody_and_places_out_of_reach_are_problems_with_their_lines(
    tmp_path: Path,
) -> None:
    closed = tmp_path / "closed"
    (closed / "below").mkdir(parents=True)
    (closed / "key.pem").touch()
    path = tmp_path / "x.conf"
    path.write_text(
        f"[DEFAULT]\nhome = ~nosuchuser/x\nkey = {closed}/key.pem\nspool = {closed}/below\n"
        f"dir = {tmp_path}\n"
        f"open = {tmp_path}/readable\nmine = {tmp_path}/unreadable\n"
    )
    (tmp_path / "readable").touch()
    (tmp_path / "unreadable").touch(mode=0o000)
    closed.chmod(0o000)
    script = (
        "import sys; from pathlib import Path\n"
        "from appliance.core.config import document, oslo; from "
        "appliance.core.config.settings import Settings\n"
        "from appliance.core.run.errors import ConfigurationError\n"
        "settings = Settings(document.read([Path(sys.argv[1])], oslo.parse))\n"
        "settings.path('DEFAULT', 'home', default=Path('/'))\n"
        "for name in ('key', 'dir', 'open', 'mine'): settings.file('DEFAULT', name)\n"
        "settings.path('DEFAULT', 'spool', default=Path('/'), is_directory=True)\n"
        "try: settings.finish()\n"
        "except ConfigurationError as error: print(error)\n"
    )
    command = [sys.executable, "-c", script, str(path)]
    if os.geteuid() == 0:  # without its capabilities root is an account like any other
        command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *command]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    closed.chmod(0o755)
    assert shown.stderr == ""
    assert [line.removeprefix(str(path)) for line in shown.stdout.splitlines()] == [
        ":2: home: '~nosuchuser/x': this host has no such user; write an absolute path",
        (
            f":3: key: file {closed}/key.pem cannot be read: check owner and mode, of its "
            "directories too"
        ),
        f":4: spool: {closed}/below cannot be read: check owner and mode, of its directories too",
        f":5: dir: file {tmp_path} is a directory",
        (
            f":7: mine: file {tmp_path}/unreadable cannot be read: check owner and mode, of its "
            "directories too"
        ),
    ]


def test_an_error_of_an_option_set_by_its_old_name_has_its_line(tmp_path: Path) -> None:
    settings = read(tmp_path, "[DEFAULT]\ntenants = a\n")
    settings.words("DEFAULT", "projects", aliases=[("DEFAULT", "tenants")])
    settings.error("DEFAULT", "projects", "is wrong")
    assert failures(settings) == [":2: projects: is wrong"]


def test_a_reference_takes_the_command_line_s_value_and_that_of_an_old_name(tmp_path: Path) -> None:
    text = "[DEFAULT]\nsite_name = file\nservice_name = $site_name\ntenants = a\nx = $projects\n"
    settings = read(tmp_path, text, overrides={("DEFAULT", "site_name"): "shell"})
    assert settings.text("DEFAULT", "service_name") == "shell"
    settings.words("DEFAULT", "projects", aliases=[("DEFAULT", "tenants")])
    assert settings.text("DEFAULT", "x") == "a"


def test_an_error_in_a_value_of_the_command_line_does_not_blame_the_file(tmp_path: Path) -> None:
    settings = read(tmp_path, "[DEFAULT]\nx = 1\n", overrides={("DEFAULT", "x"): "2"})
    settings.text("DEFAULT", "x")
    settings.error("DEFAULT", "x", "is wrong")
    with pytest.raises(ConfigurationError) as caught:
        settings.finish()
    assert str(caught.value) == "command line: x: is wrong"


# --------------------------------------------------------------------------------- what a file says
# beside its options


@pytest.mark.parametrize(
    ("dialect", "text", "expected"),
    [
        (
            oslo.parse,
            "[DEFAULT]\nsite_name = A\nb = 1\nsite-name = B\n",
            "x:4: site_name: is set a second time",
        ),
        (
            oslo.parse,
            "[a]\nb = 1\n[c]\n[A]\nb = 1\n",
            "x:5: b: is set a second time in [a]; first in line 2",
        ),
        (ini.parse, "[a]\nb: 1\nB: 2\n", "x:3: b: is set a second time"),
        (shell.parse, "export A=1\nA=2\n", "x:2: A: is set a second time; first in line 1"),
        (yaml_file.parse, "a: 1\nb: 2\na: 1\n", "x:3: a: is set a second time; first in line 1"),
    ],
)
def test_an_option_that_is_set_twice_is_an_error(
    dialect: document.Dialect, text: str, expected: str
) -> None:
    """F-H6: in every dialect, each by its own spelling of the name."""
    with pytest.raises(ConfigurationError) as caught:
        dialect(Path("x"), text)
    assert str(caught.value).startswith(expected)


@pytest.mark.parametrize("text", ["A=1\nA=1\n", "A=\nexport A=2\n"])
def test_a_second_assignment_in_a_shell_file_that_contradicts_nothing_is_taken(text: str) -> None:
    assert shell.parse(Path("x"), text).sections["DEFAULT"]["A"].text == text[-2]


@pytest.mark.parametrize(
    ("dialect", "text"),
    [(oslo.parse, "[a]\nb = x # note\nc = x#y\n"), (ini.parse, "[a]\nb: x ; note\nc: x;y\n")],
)
def test_what_looks_like_a_comment_behind_a_value_is_reported(
    dialect: document.Dialect, text: str
) -> None:
    """F-H12: it is part of the value, of a password for one."""
    settings = Settings(dialect(Path("x.conf"), text))
    assert settings.text("a", "b").startswith("x ")
    settings.text("a", "c")
    (warning,) = settings.finish()
    assert (warning.line, warning.option.endswith("b")) == (2, True)
    assert "the # or ; and the text after it belong to the value" in warning.text
    assert "note" not in str(warning)  # it may be half of a secret


def test_an_option_in_the_wrong_section_names_the_right_one(tmp_path: Path) -> None:
    """F-H12, C21.b: an account's is an error while the account lacks it, another's a warning."""
    text = "[DEFAULT]\nusername = x\nmax_size = 1\nmax_sise = 1\n[account]\n[ssm]\n"
    settings = read(tmp_path, text)
    settings.text("DEFAULT", "site_name")
    settings.text("ssm", "max_size")
    settings.text("account", "username")
    settings.hold_account("account")
    assert failures(settings) == [
        ":2: username: belongs in [account]; here it is ignored; move it there",
        ":3: max_size: belongs in [ssm]; here it is ignored; move it there",
        ":4: max_sise: unknown option, ignored",
    ]


@pytest.mark.parametrize(("more", "is_fatal"), [("", True), ("username = y\n", False)])
def test_a_misspelt_option_of_an_account(tmp_path: Path, more: str, is_fatal: bool) -> None:
    """F-H6, C21.a: `user` is an error if `username` is not set too; other options only warn."""
    settings = read(tmp_path, f"[account]\nuser = x\nauth_version = 3\n{more}")
    settings.hold_account("account")
    settings.text("account", "username", default="usual")
    if is_fatal:
        assert failures(settings)[0] == ":2: [account] user: unknown option; did you mean username?"
    else:
        assert [problem.line for problem in settings.finish()] == [2, 3]


def test_an_older_spelling_is_reported_by_a_check_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C21.c: it goes on working; who runs hourly does not hear of it."""
    for is_checking in (False, True):
        monkeypatch.setattr(log, "_is_checking", is_checking)
        settings = read(tmp_path, "[DEFAULT]\ntenants = a\nname = b\n")
        assert settings.words("DEFAULT", "projects", aliases=[("DEFAULT", "tenants")]) == ("a",)
        settings.text("DEFAULT", "name")
        reported = [str(problem).split("x.conf")[1] for problem in settings.finish()]
        assert reported == (
            [":2: tenants: deprecated: write projects in [DEFAULT]"] if is_checking else []
        )


@pytest.mark.parametrize(
    ("is_checking", "reported"),
    [
        (
            False,
            [":2: a: has no effect here, nor have options of lines 3, 6; --check-config says why"],
        ),
        (
            True,
            [
                ":2: a: has no effect here: first",
                ":3: b: has no effect here: second",
                ":6: [x] d: has no effect here: fourth",
                ":7: [x] e: has no effect here: fifth",
            ],
        ),
    ],
)
def test_options_without_effect_are_one_line_in_a_run_and_one_each_in_a_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_checking: bool, reported: list[str]
) -> None:
    """F-I11: forty options were accepted without a word; a value that asks for nothing still is."""
    monkeypatch.setattr(log, "_is_checking", is_checking)
    settings = read(tmp_path, "[DEFAULT]\na = 1\nb = x\nc = False\n[x]\nd = y\ne = z\n")
    settings.ignore("DEFAULT", {"a": "first", "b": "second", "c": "third", "missing": "never"})
    settings.ignore("x", {"d": "fourth"})
    settings.ignore("x", {"e": "fifth"}, is_missed=False)
    assert [str(problem).split("x.conf")[1] for problem in settings.finish()] == reported


def test_a_directory_that_would_be_lost_with_the_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F-H6, C40.b: nobody may write beside the mounts."""
    monkeypatch.setenv(place.VARIABLE, "/var/spool/apel=/srv/spool/apel")
    monkeypatch.setattr(
        os,
        "access",
        lambda path, mode: mode == os.F_OK and str(path) in ("/", "/var", "/var/spool"),
    )
    settings = read(tmp_path, "[a]\nlost = /var/spool/ssm\nkept = /var/spool/apel/outgoing/new\n")
    settings.path("a", "lost", default=Path("/"), is_directory=True)
    settings.path("a", "kept", default=Path("/"), is_directory=True)
    assert failures(settings) == [
        ":2: [a] lost: /var/spool/ssm is not mounted in the container; write the shipped directory"
    ]


def test_what_is_compared_with_other_files_is_observed(tmp_path: Path) -> None:
    """F-H6: as the program understands it, with references resolved; defaults have no line."""
    observed()
    settings = read(tmp_path, "[DEFAULT]\nname = S\nsite_name = $name\npassword = secret\n[ssm]\n")
    settings.text("DEFAULT", "name")
    settings.text("DEFAULT", "site_name")
    settings.text("DEFAULT", "password")
    settings.path("ssm", "output_path", default=Path("/var/spool"))
    reported = [(value.option, value.text, value.line) for value in observed()]
    assert reported == [("site_name", "S", 3), ("output_path", "/var/spool", 0)]
    assert observed() == ()
