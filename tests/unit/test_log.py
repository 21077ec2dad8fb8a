import json
import logging
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
    log._secrets.clear()


def test_secrets_never_reach_a_file_not_even_in_tracebacks(tmp_path: Path) -> None:
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
    log.hide("abc")
    log.hide("abcdef")
    assert log.redact("abcdef abc") == "*** ***"


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
