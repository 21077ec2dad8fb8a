import json
import logging
import os
import urllib.parse
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.core.run import log
from appliance.core.run.errors import LocalFailure


@pytest.fixture(autouse=True)
def _quiet_again() -> Iterator[None]:
    yield
    log.configure(console=False)
    logging.captureWarnings(capture=False)


def test_secrets_never_reach_a_file_not_even_in_tracebacks(tmp_path: Path) -> None:
    """D12."""
    log.hide("s3cret")
    log.hide("")
    log.hide(None)
    for as_json in (False, True):
        log.configure(file=tmp_path / "log", console=False, as_json=as_json)
        try:
            raise ValueError("login s3cret refused")
        except ValueError:
            logging.getLogger("x").exception("with %s", "s3cret")
    text = (tmp_path / "log").read_text()
    assert "s3cret" not in text
    assert text.count("login *** refused") >= 2


def test_a_secret_inside_another_is_masked_whole() -> None:
    log.hide("abc-123")
    log.hide("abc-123-def")
    assert log.redact("abc-123-def abc-123") == "*** ***"


@pytest.mark.parametrize(
    ("secret", "text"),
    [
        ("x", "the next example"),
        ("wrong", "wrong password: what is wrong?"),
        ("a1", "a1 is the region, a12 is none"),
        ("service", "the services of identityservice"),
        ("member", "remembered members"),
    ],
)
def test_a_secret_that_is_a_word_leaves_other_words_readable(secret: str, text: str) -> None:
    """F-H11: a short one is masked beside its name only, a longer one as a whole word."""
    log.hide(secret)
    assert log.redact(text) == text


@pytest.mark.parametrize("secret", ["x", "wrong", "a1", "service", "Member"])
@pytest.mark.parametrize(
    "text",
    [
        '{"user": "u", "password": "{}"}',
        "{'secret': '{}'}",
        "OS_PASSWORD={}",
        "token: {}",
        "https://u:{}@host.example/v3",
        "https://{}:x-oauth-basic@host.example/list",
    ],
)
def test_a_secret_is_masked_where_secrets_stand(secret: str, text: str) -> None:
    """F-H11, D12: however short it is."""
    log.hide(secret)
    assert log.redact(text.replace("{}", secret)) == text.replace("{}", "***")


@pytest.mark.parametrize("secret", ["service", "hunter2", "pa-ss"])
def test_a_secret_is_masked_in_the_middle_of_a_text(secret: str) -> None:
    """F-H11, D12: also after a line end as `repr` writes it."""
    log.hide(secret)
    assert log.redact(f"login {secret}, refused") == "login ***, refused"
    assert log.redact(repr(f"body\n{secret}\n")) == repr("body\n***\n")


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(
    "secret", ['pa"ss\\word', "pässwörd/日本", "p@ss w%rd+1", "pa'ss", "two  blanks", "tab\there"]
)
def test_a_secret_is_masked_however_it_is_written(
    tmp_path: Path, secret: str, as_json: bool
) -> None:
    """D12."""
    log.hide(secret)
    log.configure(file=tmp_path / "log", console=False, as_json=as_json)
    written = {
        "plain": secret,
        "json": json.dumps({"auth": secret}),
        "utf-8 json": json.dumps({"auth": secret}, ensure_ascii=False),
        "repr": repr({"auth": secret}),
        "url": f"https://user:{urllib.parse.quote(secret, safe='')}@host/"
        f"{urllib.parse.quote(secret)}",
        "form": urllib.parse.urlencode({"auth": secret}),
        "folded": " ".join(f"auth {secret}".split()),
    }
    for text in written.values():
        logging.getLogger("x").info("sent %s end", text)
        logging.getLogger("x").info("sent %r end", text)
    lines = (tmp_path / "log").read_text().splitlines()
    if as_json:
        lines = [json.loads(line)["message"] for line in lines]
    assert len(lines) == 2 * len(written)
    for line in lines[::2]:
        assert "***" in line
        assert not any(spelling.removeprefix("auth=") in line for spelling in written.values())
    assert secret not in "".join(lines)


def test_blanks_are_no_secret() -> None:
    log.hide("  ")
    assert log.redact("a b") == "a b"


def test_nothing_that_a_peer_sends_can_pass_for_an_event(tmp_path: Path) -> None:
    log.configure(file=tmp_path / "log", console=False)
    forged = "2026-11-24 10:00:00,000 - ssm.ssm2 - INFO - Sent a/b"
    logger = logging.getLogger("x")
    for end in ("\n", "\r", "\r\n", "\x0b", "\x0c", "\x1c", "\x85", "\u2028"):
        logger.warning("name %s", f"x{end}{forged}")
        try:
            raise ValueError(f"x{end}{forged}")
        except ValueError:
            logger.exception("broken")
    logger.warning("\x1b[31mred\x1b[0m, a\ttab")
    text = (tmp_path / "log").read_bytes().decode()
    assert not any(
        line.startswith(forged[:10]) and " x - " not in line for line in text.splitlines()
    )
    assert r"name x\n2026" in text
    assert "\\x1b[31mred\\x1b[0m, a\ttab\n" in text


def test_a_captured_warning_is_one_line(tmp_path: Path) -> None:
    log.configure(file=tmp_path / "log", console=False)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        logging.captureWarnings(capture=True)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    text = (tmp_path / "log").read_text()
    assert text.count("\n") == 1
    assert "DeprecationWarning: old" in text


@pytest.mark.parametrize("as_json", [False, True])
def test_a_full_disk_is_told_once_without_traceback_and_secret(
    as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    log.hide("s3cret")
    log.configure(file=Path("/dev/full"), console=False, as_json=as_json)
    for _ in range(3):
        logging.getLogger("x").info("with %s", "s3cret")
    assert capsys.readouterr().err == "/dev/full: No space left on device; log lines are lost\n"


def test_a_line_that_cannot_be_made_is_told_without_its_arguments(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log.hide("s3cret")
    log.configure()
    logging.getLogger("x").info("without a place", "s3cret")  # noqa: PLE1205
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert "test_log.py" in shown
    assert "s3cret" not in shown


def test_names_that_are_no_text_are_logged(tmp_path: Path) -> None:
    log.configure(file=tmp_path / "log", console=False)
    logging.getLogger("x").info("found %s", os.fsdecode(b"a\xffb"))
    assert r"found a\udcffb" in (tmp_path / "log").read_text()


def test_libraries_speak_again_when_debugging(tmp_path: Path) -> None:
    log.configure(console=False)
    log.configure(level=logging.DEBUG, file=tmp_path / "log", console=False)
    logging.getLogger("keystoneauth.session").debug("REQ: curl")
    assert "REQ: curl" in (tmp_path / "log").read_text()


def test_a_second_call_replaces_the_first(tmp_path: Path) -> None:
    log.configure(file=tmp_path / "one", console=False)
    log.configure(file=tmp_path / "two", console=False)
    logging.getLogger("x").info("here")
    assert (tmp_path / "one").read_text() == ""
    assert "here" in (tmp_path / "two").read_text()
    opened = [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()]
    assert str(tmp_path / "two") in opened
    assert str(tmp_path / "one") not in opened


def test_a_log_file_that_is_rotated_goes_on_under_its_name(tmp_path: Path) -> None:
    log.configure(file=tmp_path / "log", console=False)
    logger = logging.getLogger("x")
    logger.info("one")
    (tmp_path / "log").rename(tmp_path / "log.1")
    logger.info("two")
    (tmp_path / "log").rename(tmp_path / "log.2")
    (tmp_path / "log").touch()
    logger.info("three")
    texts = [(tmp_path / name).read_text() for name in ("log.1", "log.2", "log")]
    assert [text.split(" - ")[-1] for text in texts] == ["one\n", "two\n", "three\n"]
    opened = [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()]
    assert not {str(tmp_path / "log.1"), str(tmp_path / "log.2")} & set(opened)


def test_a_log_file_that_cannot_be_opened_again_goes_on_where_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "logs").mkdir()
    log.configure(file=tmp_path / "logs" / "log", console=False)
    (tmp_path / "logs").rename(tmp_path / "moved")
    for number in range(3):
        logging.getLogger("x").info("line %d", number)
    assert (tmp_path / "moved" / "log").read_text().count("\n") == 3
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert (
        f"{tmp_path}/logs/log: No such file or directory; the log continues in the renamed file"
        in shown
    )


def test_text_lines_have_ssm_s_form(tmp_path: Path) -> None:
    log.configure(file=tmp_path / "log", console=False)
    logging.getLogger("ssm.ssm2").info("Sent %s", "a/b")
    assert (tmp_path / "log").read_text().split(" - ", 1)[1] == "ssm.ssm2 - INFO - Sent a/b\n"


def test_json_lines_are_one_object_each(tmp_path: Path) -> None:
    log.configure(file=tmp_path / "log", console=False, as_json=True)
    logging.getLogger("x").warning("two\nlines")
    entry = json.loads((tmp_path / "log").read_text())
    assert (entry["logger"], entry["level"], entry["message"]) == ("x", "WARNING", "two\nlines")
    assert entry["time"].endswith("+00:00")


def test_a_log_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(LocalFailure, match="No such file or directory") as caught:
        log.configure(file=tmp_path / "none" / "log")
    assert str(tmp_path / "none" / "log") in str(caught.value)


def test_libraries_are_quiet_unless_debugging(tmp_path: Path) -> None:
    log.configure(file=tmp_path / "log", console=False)
    logging.getLogger("keystoneauth.session").info("REQ: curl -H X-Auth-Token")
    assert (tmp_path / "log").read_text() == ""


def test_a_pipe_that_nobody_reads_is_no_log_file(tmp_path: Path) -> None:
    """F-H1: the program waited for a reader; a pipe that is read is a log file as ever."""
    os.mkfifo(tmp_path / "log")
    with pytest.raises(
        LocalFailure, match="No such device or address; correct the path of the log file"
    ):
        log.configure(file=tmp_path / "log")
    reader = os.open(tmp_path / "log", os.O_RDONLY | os.O_NONBLOCK)
    log.configure(file=tmp_path / "log", console=False)
    logging.getLogger("x").warning("seen")
    assert b"WARNING - seen" in os.read(reader, 1000)
    os.close(reader)
    log.configure()


def test_a_line_that_repeats_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    warn_once = log.Once(logging.getLogger("x"))
    for line in ("50 % left", "50 % left", "another"):
        warn_once(line)
    warn_once("only to know", logging.DEBUG)
    log.Once(logging.getLogger("x"))("another")
    assert caplog.messages == ["50 % left", "another", "another"]


def test_a_line_of_json_has_no_control() -> None:
    """JSON allows DEL and the controls of Latin-1; escapes of Python would break it."""
    written = log.json_line({"text": "o12\x7fR\x85\u2028\n"})
    assert written.isprintable()
    assert json.loads(written) == {"text": "o12\x7fR\x85\u2028\n"}
