"""F-H7: a flow is on or off in one place, and off is green everywhere and starts nothing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from appliance.admin import inventory, settings
from appliance.admin.command import main
from appliance.admin.inventory import Flow
from appliance.core.run.errors import ConfigurationError, ExitStatus
from appliance.core.run.layout import Layout
from appliance.core.run.record import RunRecord
from tests.simulators import docker_engine
from tests.simulators.docker_engine import Engine

pytestmark = pytest.mark.root

TOP = Path(__file__).parents[2]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    shutil.copytree(TOP / "etc/fedcloud", tmp_path / "etc/fedcloud")
    (tmp_path / "etc/fedcloud/docker-compose.yml").write_text("services: {}\n")
    (tmp_path / "etc/systemd/system/multi-user.target.wants").mkdir(parents=True)
    for unit in ("bdii.service", "cloudkeeper-os.service"):
        wants = tmp_path / "etc/systemd/system/multi-user.target.wants"
        (wants / unit).symlink_to(f"/etc/systemd/system/{unit}")
    with (
        tempfile.TemporaryDirectory(prefix="e") as short,
        docker_engine.serve(Path(short)) as served,
    ):
        yield served


def _compose(root: Path) -> Path:
    """Return a docker-compose that knows its version only."""
    program = root / "docker-compose"
    program.write_text("#!/bin/sh\necho 1.29.2\n")
    program.chmod(0o755)
    return program


def switch(root: Path, engine: Engine, **words: str) -> None:
    """Write the settings as an administrator edits the shipped file."""
    text = (
        (TOP / "etc/fedcloud/appliance.yaml")
        .read_text()
        .replace("/run/docker.sock", str(engine.socket))
        .replace("  compose:\n", f"  compose: {_compose(root)}\n")
    )
    for flow, word in {"images": "on", **words}.items():
        text = re.sub(rf"(?m)^  {flow}: \w+$", f"  {flow}: {word}", text)
    (root / "etc/fedcloud/appliance.yaml").write_text(text)


def schedule(root: Path, *tables: str) -> None:
    (root / "etc/cron.d").mkdir()
    for table in tables:
        shutil.copy(TOP / "cron.d" / table, root / "etc/cron.d" / table)
        (root / "etc/cron.d" / table).chmod(0o644)


def appliance(root: Path, *words: str) -> int:
    return main([*words, "--root", str(root)])


@pytest.mark.parametrize("word", ["off", "false", "no", "Off", "'off'"])
def test_every_form_of_no_switches_off(engine: Engine, tmp_path: Path, word: str) -> None:
    switch(tmp_path, engine, images=word)
    host = settings.load(Layout(tmp_path))
    assert host.flows == {Flow.ACCOUNTING: True, Flow.INFORMATION: True, Flow.IMAGES: False}
    assert host.warnings == ()


def test_a_new_host_manages_no_images_until_asked(tmp_path: Path) -> None:
    """The shipped file and a host without one agree: every value of the file is the default."""
    new = {Flow.ACCOUNTING: True, Flow.INFORMATION: True, Flow.IMAGES: False}
    assert settings.load(Layout(tmp_path)).flows == new
    shutil.copytree(TOP / "etc/fedcloud", tmp_path / "etc/fedcloud")
    assert settings.load(Layout(tmp_path)).flows == new


@pytest.mark.parametrize(
    "text",
    [
        "flows:\n  accounting: on  # mine\n  images: off\nprofile: egi\n",
        "flows: {accounting: on, images: off}  # mine\n",
        "flows: {accounting: on}  # mine\n",
        "flows: {}\n# mine\n",
        "profile: egi  # mine\n",
    ],
)
def test_a_flow_is_switched_by_one_command(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "etc/fedcloud/appliance.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    path.chmod(0o640)
    assert appliance(tmp_path, "flows", "--on", "images") == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[2] == "images       on   cloudkeeper, cloudkeeper-os"
    assert shown[3] == "Next: appliance configure, appliance check --offline, appliance start"
    assert yaml.safe_load(path.read_text())["flows"]["images"] is True
    assert ("# mine" in path.read_text(), path.stat().st_mode & 0o777) == (True, 0o640)
    assert appliance(tmp_path, "flows", "--off", "images", "--off", "accounting") == 0
    assert capsys.readouterr().out.splitlines()[3:] == ["If it runs: systemctl stop cloudkeeper-os"]
    assert yaml.safe_load(path.read_text())["flows"].keys() >= {"images", "accounting"}
    assert set(settings.load(Layout(tmp_path)).flows.values()) == {True, False}


def test_what_cannot_be_switched_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert appliance(tmp_path, "flows", "--on", "images") == 3
    assert "appliance.yaml: does not exist; run the bundle's install" in capsys.readouterr().err
    assert appliance(tmp_path, "flows", "--on", "images", "--off", "images") == 2
    assert "--on images: --off names it, too" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        appliance(tmp_path, "flows", "--on", "image")
    assert "(choose from 'accounting', 'information', 'images')" in capsys.readouterr().err


def test_another_word_is_an_error(engine: Engine, tmp_path: Path) -> None:
    switch(tmp_path, engine, images="maybe")
    line = (tmp_path / "etc/fedcloud/appliance.yaml").read_text().splitlines().index(
        "  images: maybe"
    ) + 1
    with pytest.raises(
        ConfigurationError,
        match=rf"appliance\.yaml:{line}: \[flows\] images: 'maybe' is not allowed",
    ):
        settings.load(Layout(tmp_path))


def test_every_job_service_and_record_has_its_flow() -> None:
    """All services of the compose file and all programs with run records have a flow."""
    shipped = yaml.safe_load((TOP / "docker-compose.yml").read_text())["services"]
    flows = {name: inventory.flow_of_record("whatever", name) for name in shipped}
    assert flows == {
        **dict.fromkeys(("caso", "ssm"), Flow.ACCOUNTING),
        **dict.fromkeys(("cloudbdii", "sitebdii", "cloud-info"), Flow.INFORMATION),
        **dict.fromkeys(("cloudkeeper", "cloudkeeper-os"), Flow.IMAGES),
    }
    units = [path.stem for path in (TOP / "systemd").glob("*.service") if "@" not in path.stem]
    assert {unit: inventory.flow_of(unit) for unit in units} == {
        "bdii": "information",
        "cloudkeeper-os": "images",
        "fedcloud-upkeep": None,
    }
    assert {name for name in inventory.JOBS if inventory.flow_of(name) is None} == {"fetch-crl"}
    for program, flow in {
        "caso-extract": "accounting",
        "ssmsend": "accounting",
        "job-ssmsend": "accounting",
        "bdii-site": "information",
        "bdii-resource": "information",
        "cloud-info-provider-service": "information",
        "cloudkeeper": "images",
        "cloudkeeper-os": "images",
        "job-fetch-crl": None,
    }.items():
        assert inventory.flow_of_record(program, "runs") == flow, program


def test_a_job_that_is_off_starts_nothing_and_is_done(
    engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    switch(tmp_path, engine, images="off")
    assert appliance(tmp_path, "run", "cloudkeeper") == 0
    yaml_file = tmp_path / "etc/fedcloud/appliance.yaml"
    said = capsys.readouterr()
    assert said.out == f"cloudkeeper: not started: the flow images is off in {yaml_file}\n"
    assert said.err == ""
    assert engine.told == []
    assert not (tmp_path / "var").exists()
    assert appliance(tmp_path, "run", "caso") != 0  # accounting is on, and this host cannot run it


def test_status_is_green_whatever_was_before(
    engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A failed run, a missing container and an unscheduled job are no faults if the flow is off."""
    runs = Layout(tmp_path).runs
    failed = RunRecord("cloudkeeper")
    failed.fail("names no image list")
    failed.write(runs / "cloudkeeper", ExitStatus.USAGE)
    RunRecord("bdii-site").write(runs / "sitebdii", ExitStatus.PARTLY)
    RunRecord("caso-extract").write(runs / "caso", ExitStatus.DONE)
    schedule(tmp_path, "caso", "ssmsend", "fedcloud-crl")
    switch(tmp_path, engine)
    assert appliance(tmp_path, "status", "--long") == 1
    assert "nothing starts cloudkeeper" in capsys.readouterr().out
    switch(tmp_path, engine, images="off", information="off")
    assert appliance(tmp_path, "status", "--long") == 0
    shown = capsys.readouterr().out
    assert "!" not in shown
    rows = {line.split()[0]: line.split() for line in shown.splitlines() if line}
    assert [rows[name][1] for name in ("cloudbdii", "sitebdii", "cloudkeeper-os")] == [
        "off",
        "off",
        "off",
    ]
    assert "off" in rows["cloudkeeper"]
    assert "off" in rows["bdii-site"]
    assert "done" in rows["caso-extract"]
    assert appliance(tmp_path, "status", "--json") == 0
    assert json.loads(capsys.readouterr().out)["off"] == ["information", "images"]


def test_a_service_that_runs_though_it_is_off_is_reported(
    engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = {"com.docker.compose.project": "fedcloud", "com.docker.compose.service": "sitebdii"}
    engine.add("fedcloud_sitebdii_1", labels=labels)
    schedule(tmp_path, "caso", "ssmsend", "fedcloud-crl")
    switch(tmp_path, engine, images="off", information="off")
    assert appliance(tmp_path, "status", "--long") == 1
    assert (
        "  ! sitebdii: runs although its flow is off; systemctl stop bdii\n"
        in capsys.readouterr().out
    )
    engine.containers["fedcloud_sitebdii_1"]["State"] = {
        "Status": "exited",
        "Running": False,
        "ExitCode": 3,
    }
    assert appliance(tmp_path, "status", "--long") == 0


def test_schedule_says_off_and_asks_nobody_to_start_it(
    engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    schedule(tmp_path, "fedcloud-crl")
    switch(tmp_path, engine, images="off")
    assert appliance(tmp_path, "schedule") == 1
    shown = capsys.readouterr().out
    assert "! nothing starts caso, ssmsend: " in shown
    assert [line.split() for line in shown.splitlines() if line.startswith("cloudkeeper")] == [
        ["cloudkeeper", "off", "flow", "images"]
    ]
    switch(tmp_path, engine, images="off", accounting="off")
    assert appliance(tmp_path, "schedule") == 0
    assert "!" not in capsys.readouterr().out


@pytest.mark.parametrize("unit", ["bdii", "cloudkeeper-os"])
def test_a_unit_asks_before_it_starts(engine: Engine, tmp_path: Path, unit: str) -> None:
    """systemd skips a unit if its condition ends with 1 to 254, so only an off flow may."""
    switch(tmp_path, engine, images="off")
    shipped = (TOP / f"systemd/{unit}.service").read_text()
    (line,) = re.findall(r"^ExecCondition=/bin/sh -c '(.*)'$", shipped, re.MULTILINE)
    program = tmp_path / "appliance"
    for status, expected in ((0, 0), (1, 1), (2, 0), (4, 0)):
        program.write_text(f"#!/bin/sh\nexit {status}\n")
        program.chmod(0o755)
        command = line.replace("$$", "$").replace("/usr/local/bin/appliance", str(program))
        assert subprocess.run(["/bin/sh", "-c", command], check=False).returncode == expected, (
            status
        )
    assert appliance(tmp_path, "flows", unit) == (1 if unit == "cloudkeeper-os" else 0)


def test_the_flows_are_listed(
    engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    switch(tmp_path, engine, accounting="off")
    assert appliance(tmp_path, "flows") == 0
    assert capsys.readouterr().out.splitlines() == [
        "accounting   off  caso, ssmsend",
        "information  on   cloud-info, cloud-info-json, cloudbdii, sitebdii",
        "images       on   cloudkeeper, cloudkeeper-os",
        f"They are set in {tmp_path}/etc/fedcloud/appliance.yaml.",
    ]
