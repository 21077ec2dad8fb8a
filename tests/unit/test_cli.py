import argparse
import contextlib
import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.admin import command
from appliance.core.run import cli, log
from appliance.core.run.errors import (
    Busy,
    ConfigurationError,
    ExitStatus,
    LocalFailure,
    Problem,
    Unavailable,
)
from appliance.core.run.layout import Layout
from appliance.core.version import __version__
from cloudkeeper.cmds import frontend


def program(run: Callable[[argparse.Namespace], ExitStatus]) -> cli.Program:
    return cli.Program("tool", "A tool.", lambda _: None, run)


def raising(error: BaseException) -> cli.Program:
    def run(_arguments: argparse.Namespace) -> ExitStatus:
        raise error

    return program(run)


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (
            Unavailable("host:1", "refuses connections", "start it"),
            3,
            "tool: host:1: refuses connections; start it",
        ),
        (LocalFailure("/x", "No space left on device"), 3, "tool: /x: No space left on device"),
        (Busy("/lock", "running since T (pid 3)"), 1, "tool: /lock: running since T (pid 3)"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/spool"),
            3,
            "tool: /spool: No space left on device; free",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            3,
            "tool: No space left on device; free",
        ),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 3, "tool: Broken pipe"),
        (
            OSError("of a library"),
            4,
            "tool: bug in this program: OSError: of a library (test_cli.py:",
        ),
        (Unavailable("host", "said\nmuch", "ask\tit"), 3, "tool: host: said much; ask it"),
        (
            RuntimeError("can't start new thread"),
            3,
            "tool: threads: no more can be started; raise the limit of processes (ulimit -u)",
        ),
        (KeyError("x"), 4, "tool: bug in this program: KeyError: 'x' (test_cli.py:"),
        (KeyboardInterrupt(), 3, "tool: interrupted"),
    ],
)
def test_every_end_is_one_line_and_its_status(
    error: BaseException, status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(raising(error), []) == status
    shown = capsys.readouterr().err
    assert shown.startswith(line)
    assert shown.count("\n") == 1


def test_all_problems_of_a_configuration_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    problems = [
        Problem(Path("/etc/a"), 3, "x", "wrong"),
        Problem(Path("/etc/a"), 0, "", "cannot be read"),
    ]
    assert cli.main(raising(ConfigurationError(problems)), []) == 2
    assert capsys.readouterr().err == "tool: /etc/a:3: x: wrong\ntool: /etc/a: cannot be read\n"


def test_secrets_are_masked_in_errors_and_tracebacks(capsys: pytest.CaptureFixture[str]) -> None:
    log.hide("pa55word")
    assert cli.main(raising(ValueError("got pa55word")), ["--debug"]) == 4
    assert cli.main(raising(Unavailable("x", "said pa55word")), []) == 3
    shown = capsys.readouterr().err
    assert "pa55word" not in shown
    assert "Traceback" in shown
    log._secrets.clear()


def test_a_secret_with_several_blanks_and_controls_do_not_pass(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log.hide("pass  word")
    for error in (
        ValueError("got pass  word \x1b[2J"),
        Unavailable("x", "said pass  word \x1b[2J"),
    ):
        cli.main(raising(error), [])
    log._secrets.clear()
    shown = capsys.readouterr().err
    assert "word" not in shown
    assert "\x1b" not in shown
    assert shown.count("\n") == 2


_TOOL = """
import sys
from appliance.core.run import cli
from appliance.core.run.errors import ExitStatus, Unavailable
def run(_arguments):
    {body}
    return ExitStatus.DONE
sys.exit(cli.main(cli.Program("tool", "A tool.", lambda _: None, run), []))
"""


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("body", "redirection", "status", "reported"),
    [
        ("print('x')", ">/dev/full", 3, "No space left on device"),
        ("print('x')", ">&-", 0, ""),
        ("print('x' * 100_000)", "| true", 0, ""),
        ("print('x')", "| (exec <&-; sleep 1)", 0, ""),
        ("raise Unavailable('host', 'refuses')", "2>/dev/full", 3, ""),
        ("raise Unavailable('host', 'refuses')", "2>&1 >/dev/null | true", 3, ""),
        ("raise KeyError('x')", "2>/dev/full", 4, ""),
        ("__import__('logging').warning('x')", "2>/dev/full", 0, ""),
        ("raise BrokenPipeError(32, 'Broken pipe')", ">/dev/null", 3, "tool: Broken pipe"),
    ],
)
def test_outputs_that_are_full_or_gone(
    body: str, redirection: str, status: int, reported: str, unbuffered: str
) -> None:
    script = _TOOL.format(body=body)
    command = f'"$0" -c "$1" {redirection}; exit ${{PIPESTATUS[0]}}'
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    shown = subprocess.run(
        ["bash", "-c", command, sys.executable, script],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == status
    assert reported in shown.stderr
    assert shown.stderr.count("\n") == (1 if reported else 0)


def test_a_terminal_without_unicode_shows_names_all_the_same() -> None:
    env = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    script = _TOOL.format(body="print('ü 日')")
    shown = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, check=True)
    assert shown.stdout == b"\xfc \\u65e5\n"


def test_a_relative_root_is_one_place_wherever_the_program_goes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[Path] = []

    def run(arguments: argparse.Namespace) -> ExitStatus:
        seen.append(cli.layout(arguments).runs)
        return ExitStatus.DONE

    monkeypatch.chdir(tmp_path)
    cli.main(program(run), ["--root", "site"])
    monkeypatch.setenv("FEDCLOUD_ROOT", "site")
    cli.main(program(run), [])
    assert seen == [tmp_path / "site/var/lib/fedcloud/runs"] * 2


def test_compatible_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(program(lambda _: ExitStatus.PARTLY), ["--compat-exit-codes"]) == 1
    assert cli.main(program(lambda _: ExitStatus.DONE), ["--compat-exit-codes"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("argv", [["--chek-config"], ["--check"], ["extra"]])
def test_a_wrong_command_line_is_one_line(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(program(lambda _: ExitStatus.DONE), argv)
    assert caught.value.code == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert "tool --help" in shown


def test_the_root_moves_every_path(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Layout] = []

    def run(arguments: argparse.Namespace) -> ExitStatus:
        seen.append(cli.layout(arguments))
        return ExitStatus.DONE

    cli.main(program(run), ["--root", "/sites/a"])
    monkeypatch.setenv("FEDCLOUD_ROOT", "/sites/b")
    cli.main(program(run), [])
    monkeypatch.delenv("FEDCLOUD_ROOT")
    cli.main(program(run), [])
    assert [str(layout.runs) for layout in seen] == [
        "/sites/a/var/lib/fedcloud/runs",
        "/sites/b/var/lib/fedcloud/runs",
        "/var/lib/fedcloud/runs",
    ]
    assert str(seen[0].grid_certificates) == "/sites/a/etc/grid-security/certificates"


def test_both_spellings_of_a_flag() -> None:
    assert cli.flags("extract-from") == ("--extract-from", "--extract_from")
    assert cli.flags("debug") == ("--debug",)


def add_values(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--one")
    parser.add_argument("--many", nargs="+")
    parser.add_argument("--flag", action="store_true")


@pytest.mark.parametrize(
    ("words", "verb", "one"),
    [
        ("", "go", None),
        ("--flag", "go", None),
        ("go --one stop", "go", "stop"),
        ("--one stop", "go", "stop"),
        ("--one stop go", "go", "stop"),
        ("--one=x stop --flag", "stop", "x"),
        ("--flag --one x stop", "stop", "x"),
        ("--many go stop --flag", "go", None),
        ("--many go stop --flag stop", "stop", None),
    ],
)
def test_a_default_verb(words: str, verb: str, one: str | None) -> None:
    """Flags stand before or behind the verb; a word that is a flag's value is no verb."""
    seen: list[tuple[str, str | None]] = []

    def verb_of(name: str) -> cli.Program:
        def run(arguments: argparse.Namespace) -> ExitStatus:
            seen.append((name, arguments.one))
            return ExitStatus.DONE

        return cli.Program(name, "A verb.", add_values, run)

    tool = cli.Program(
        "tool",
        "A tool.",
        lambda _: None,
        cli.dispatch,
        verbs=(verb_of("go"), verb_of("stop")),
        default_verb="go",
    )
    assert cli.main(tool, words.split()) == 0
    assert seen == [(verb, one)]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--version", "cloudkeeper "),
        ("--debug --version", "cloudkeeper "),
        ("version", ""),
        ("help", "usage: cloudkeeper "),
        ("--help", "usage: cloudkeeper "),
        ("help sync", "usage: cloudkeeper sync"),
        ("--config x --help", "usage: cloudkeeper sync"),
    ],
)
def test_the_verbs_of_cloudkeeper_1_7_1(
    words: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with contextlib.suppress(SystemExit):
        assert frontend.main(words.split()) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith(line)
    assert shown.err == ""
    assert ("usage" in line) or shown.out.strip().endswith(__version__)


@pytest.mark.parametrize("words", ["snyc", "help snyc", "version x", "--flag-of-none"])
def test_a_verb_that_cloudkeeper_lacks(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status: object = frontend.main(words.split())
    except SystemExit as ended:
        status = ended.code
    assert status == 2
    assert capsys.readouterr().err.count("\n") == 1


def commands_in_pages() -> list[str]:
    """Return the command lines of `cloudkeeper` in the how-to pages."""
    pages = Path(__file__).parents[2].joinpath("docs/how-to").glob("*.md")
    text = "\n".join(page.read_text() for page in sorted(pages))
    found = re.findall(r"^\s*appliance run cloudkeeper -- (.+)$", text, re.MULTILINE)
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("line", commands_in_pages())
def test_the_commands_of_the_pages_are_ones_that_cloudkeeper_has(line: str) -> None:
    words = {"N": "9"}  # for words in capitals whose values argparse checks
    cli.parser(frontend.PROGRAM).parse_args([words.get(word, word) for word in line.split()])


def test_only_a_process_that_is_the_program_leaves_its_modules_to_its_end() -> None:
    """They are not looked at again for garbage; in a process of others, ours touches nothing."""
    text = (
        "import gc, sys; first = gc.get_freeze_count(); "  # Python 3.12 begins with some
        "from appliance.core.run import cli; sys.argv[1:] = []; "
        "run = lambda _: print(gc.get_freeze_count() > first) or 0; "
        "program = cli.Program('x', 'x', lambda _: None, run); "
        "cli.main(program, []); cli.main(program)"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_each_verb_of_appliance_has_its_name() -> None:
    names = [verb.name for verb in command.program().verbs]
    assert names == [*command.VERBS]
    assert [command.program(name).verbs[0].name for name in names] == names
    assert [verb.name for verb in command.program("--help").verbs] == names


def test_a_verb_of_appliance_starts_without_the_others() -> None:
    script = (
        "import sys; from appliance.admin.command import main\n"
        "try: main(['mounts', '--help'])\n"
        "except SystemExit: print(*sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    imported = shown.stdout.decode().split()
    assert "appliance.admin.mounts.mounts" in imported
    others = set(command.VERBS.values()) - {command.VERBS["mounts"]}
    assert not {f"appliance.admin.{other}" for other in others} & set(imported)


@pytest.mark.parametrize("verb", ["backup", "support-bundle"])
@pytest.mark.parametrize("name", ["new/", "there"])
def test_a_directory_is_not_the_name_of_a_file_to_write(
    verb: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(SystemExit) as ended:
        command.main([verb, f"{tmp_path}/{name}"])
    assert ended.value.code == 2
    assert f"{tmp_path}/{name}' is a directory: name a file in it" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
