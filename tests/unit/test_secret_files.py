"""Secrets of an account in files of their own: ``password_file`` and the like.

Each program that has an account reads its options through the same functions.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from appliance.core.cloud import access
from appliance.core.config import document, oslo
from appliance.core.config.settings import Settings
from appliance.core.run import log
from appliance.core.run.errors import ConfigurationError

PASSWORD = "auth_type = v3password\nusername = caso\nuser_domain_name = Default\n"
CREDENTIAL = "auth_type = v3applicationcredential\napplication_credential_id = abc\n"
TOKEN = "auth_type = v3oidcaccesstoken\nidentity_provider = egi.eu\nprotocol = openid\n"


def read(
    root: Path, text: str, *, mode: int = 0o600
) -> tuple[dict[str, str], list[str], dict[str, str]]:
    """Return the options, the warnings and the places of an account."""
    path = root / "caso.conf"
    path.touch(mode=mode)
    path.write_text(f"[keystone_auth]\n{text}")
    read = document.read([path], oslo.parse)
    settings = Settings(read, interpolate=oslo.interpolate)
    auth_type = settings.text("keystone_auth", "auth_type")
    found = access.read_options(settings, "keystone_auth", auth_type)
    access.warn_of_open_files(settings, read, "keystone_auth", auth_type)
    places = access.read_places(settings, "keystone_auth", auth_type)
    return found, [str(problem) for problem in settings.finish()], dict(places)


def secret(root: Path, content: bytes = b"s3cret-of-mine\n", *, mode: int = 0o640) -> Path:
    path = root / "secret"
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("text", "option"),
    [
        (PASSWORD, "password"),
        (CREDENTIAL, "application_credential_secret"),
        (TOKEN, "access_token"),
    ],
)
def test_a_secret_is_read_from_its_file(tmp_path: Path, text: str, option: str) -> None:
    path = secret(tmp_path)
    found, warnings, places = read(tmp_path, f"{text}{option}_file = {path}\n")
    assert found[option] == "s3cret-of-mine"
    assert warnings == []
    assert places[option] == f"{tmp_path}/caso.conf:{text.count(chr(10)) + 2}"
    assert "s3cret" not in log.redact("the secret s3cret-of-mine is hidden")


def test_a_link_is_followed(tmp_path: Path) -> None:
    """Kubernetes mounts a secret as a link."""
    link = tmp_path / "link"
    link.symlink_to(secret(tmp_path))
    assert read(tmp_path, f"{PASSWORD}password_file = {link}\n")[0]["password"] == "s3cret-of-mine"


def test_a_credential_of_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret(tmp_path)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    found = read(tmp_path, f"{PASSWORD}password_file = secret\n")[0]
    assert found["password"] == "s3cret-of-mine"
    (line,) = refusal(tmp_path, f"{PASSWORD}password_file = other\n")
    assert line.startswith(f"caso.conf:5: [keystone_auth] password_file: {tmp_path}/other: ")


def refusal(root: Path, text: str) -> list[str]:
    with pytest.raises(ConfigurationError) as raised:
        read(root, text)
    return [
        str(problem).replace(f"{root}/caso.conf", "caso.conf") for problem in raised.value.problems
    ]


def test_a_name_without_a_slash_needs_systemd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    (line,) = refusal(tmp_path, f"{PASSWORD}password_file = secret\n")
    # The text is not quoted: it may be the password itself.
    assert line.endswith(
        "password_file: must be the absolute path of a file, which holds the secret"
    )


def test_both_forms_are_refused(tmp_path: Path) -> None:
    path = secret(tmp_path)
    assert refusal(tmp_path, f"{PASSWORD}password_file = {path}\npassword = other-pass\n") == [
        "caso.conf:5: [keystone_auth] password_file: password is set as well; remove one of the two"
    ]


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe", b"x" * 70_000, b"a\x00b"])
def test_a_file_without_a_secret(tmp_path: Path, content: bytes) -> None:
    path = secret(tmp_path, content)
    (line,) = refusal(tmp_path, f"{PASSWORD}password_file = {path}\n")
    assert line.endswith(f"_file: {path} does not hold a secret; write it on the first line")


def test_a_file_that_cannot_be_used(tmp_path: Path) -> None:
    """One line each; that the password is missing is no second error."""
    os.mkfifo(tmp_path / "pipe")
    for name, words in (
        ("nothing", "no such file or directory"),
        ("pipe", "is a pipe"),
        (".", "is a directory"),
    ):
        (line,) = refusal(tmp_path, f"{PASSWORD}password_file = {tmp_path / name}\n")
        assert line.startswith("caso.conf:5: [keystone_auth] password_file: ")
        assert words in line.lower()


def test_a_file_that_everybody_may_read_is_reported(tmp_path: Path) -> None:
    path = secret(tmp_path, mode=0o644)
    (line,) = read(tmp_path, f"{PASSWORD}password_file = {path}\n")[1]
    assert line.endswith(f"password_file: every user of this host can read it; chmod o-r {path}")


def test_a_misspelled_option_is_still_an_error(tmp_path: Path) -> None:
    path = secret(tmp_path)
    lines = refusal(tmp_path, f"{PASSWORD}passwordfile = {path}\n")
    assert any("passwordfile" in line and "password_file" in line for line in lines)
