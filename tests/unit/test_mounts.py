"""Which of a site's files the containers get, where releases have had them in different places."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.admin.command import main

NAMES = ("FEDCLOUD_CASO_MAPPING", "FEDCLOUD_BACKEND_MAPPING", "FEDCLOUD_BACKEND_CONFIG")
OF_2017 = ("/etc/voms.json", "/etc/voms.json", "/etc/cloudkeeper/cloudkeeper-os.conf")


def put(root: Path, *names: str) -> None:
    for name in names:
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")


def reported(root: Path, capsys: pytest.CaptureFixture[str]) -> tuple[str, ...]:
    assert main(["mounts", "--root", str(root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("=")[0] for line in lines] == list(NAMES)
    return tuple(line.partition("=")[2] for line in lines)


def test_a_site_of_2017(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """R05, R18, R36: and with no file at all, the place to put one."""
    assert reported(tmp_path, capsys) == OF_2017
    put(tmp_path, *OF_2017)
    assert reported(tmp_path, capsys) == OF_2017


@pytest.mark.parametrize("mapping", ["voms.json", "mapping.json"])
def test_a_site_since_2018(
    tmp_path: Path, mapping: str, capsys: pytest.CaptureFixture[str]
) -> None:
    newer = (
        "/etc/caso/voms.json",
        f"/etc/cloudkeeper-os/{mapping}",
        "/etc/cloudkeeper-os/cloudkeeper-os.conf",
    )
    put(tmp_path, *newer, "/etc/voms.json")
    assert reported(tmp_path, capsys) == newer


def test_mapping_json_is_newer_than_voms_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path, "/etc/cloudkeeper-os/voms.json", "/etc/cloudkeeper-os/mapping.json")
    assert reported(tmp_path, capsys)[1] == "/etc/cloudkeeper-os/mapping.json"


def test_what_appliance_env_names_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path, *OF_2017, "/etc/caso/voms.json", "/etc/cloudkeeper-os/cloudkeeper-os.conf")
    env = tmp_path / "etc/fedcloud/appliance.env"
    env.parent.mkdir()
    named = ("/etc/mine.json", "", "/etc/cloudkeeper/cloudkeeper-os.conf")
    env.write_bytes(
        "".join(f"{name}={value}\r\n" for name, value in zip(NAMES, named, strict=True)).encode()
    )
    assert reported(tmp_path, capsys) == (named[0], "/etc/voms.json", named[2])


def test_two_configurations_of_the_backend_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newer, older = "/etc/cloudkeeper-os/cloudkeeper-os.conf", "/etc/cloudkeeper/cloudkeeper-os.conf"
    put(tmp_path, newer, older)
    output = tmp_path / "mounts.env"
    assert main(["mounts", "--root", str(tmp_path), "--output", str(output)]) == 2
    assert capsys.readouterr().err == (
        f"appliance: {tmp_path}{newer}: there is {tmp_path}{older} too; remove one, or name "
        "the other in "
        f"{tmp_path}/etc/fedcloud/appliance.env, such as FEDCLOUD_BACKEND_CONFIG={newer}\n"
    )
    assert not output.exists()
    (tmp_path / older.lstrip("/")).unlink()
    # one file by two names is no question
    (tmp_path / older.lstrip("/")).symlink_to(tmp_path / newer.lstrip("/"))
    assert main(["mounts", "--root", str(tmp_path), "--output", str(output)]) == 0
    assert output.read_text().splitlines()[2] == f"FEDCLOUD_BACKEND_CONFIG={newer}"
