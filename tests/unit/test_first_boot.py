"""`appliance first-boot`: a machine takes the answers of its user data, once, and says what is
missing by the line of that document.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from appliance.admin.command import main
from appliance.admin.motd import motd
from appliance.admin.schedule import schedule
from appliance.admin.start import start
from appliance.core.run import cli
from tests.unit import checked_site
from tests.unit.checked_site import BACKEND, CASO, RC, Site
from tests.vm import site_data

pytestmark = pytest.mark.root

PASSWORD = "correct-horse-9"
ANSWERS = "etc/fedcloud/answers.yaml"
DOCUMENT = """\
#cloud-config
hostname: appliance
write_files:
  - path: /etc/fedcloud/answers.yaml
    permissions: '0644'
    content: |
      profile: egi
      flows: [accounting, information]
      site: SITE-1
      keystone: https://keystone.cloud.test:5000/v3

      vos: {vo.one.test: 4c9e1f}
      accounts:
        accounting: {name: accounting, password: correct-horse-9}
        information: {name: look, password: correct-horse-9}
      certificate: HERE/etc/grid-security/hostcert.pem
      key: HERE/etc/grid-security/hostkey.pem
      host: bdii.cloud.test
      email: admin@cloud.test
"""


@dataclass
class NewMachine:
    """A machine that has been given user data; what would be started is recorded."""

    site: Site
    statuses: dict[str, int] = field(default_factory=dict)
    jobs: list[str] = field(default_factory=list)

    @property
    def root(self) -> Path:
        return self.site.root

    def give(self, document: str) -> str:
        """Write the document, and its files, as cloud-init does."""
        document = document.replace("HERE", str(self.root))
        self.place("var/lib/cloud/instance/user-data.txt", document)
        try:
            tree = yaml.safe_load(document) if document.startswith("#cloud-config") else None
        except yaml.YAMLError:
            return document
        for one in (tree or {}).get("write_files", ()):
            self.place(one["path"].lstrip("/"), one["content"])
        return document

    def place(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def boot(self) -> int:
        return main(["first-boot", "--root", str(self.root)])

    def message(self) -> str:
        assert main(["motd", "--write", "--root", str(self.root)]) == 0
        assert (self.root / motd.ISSUE.lstrip("/")).exists()
        return (self.root / motd.MESSAGE.lstrip("/")).read_text()

    def units(self) -> list[str]:
        calls = self.root / "systemctl-calls"
        return calls.read_text().splitlines() if calls.exists() else []

    def kept(self) -> dict[str, object]:
        tree: dict[str, object] = json.loads(
            (self.root / "var/lib/fedcloud/first-boot.json").read_text()
        )
        return tree

    def files(self) -> dict[Path, bytes]:
        etc = self.root / "etc"
        return {path: path.read_bytes() for path in etc.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checked_site.ship(
        tmp_path_factory.mktemp("site"), pki=tmp_path_factory.mktemp("authority")
    )


@pytest.fixture
def machine(shipped: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NewMachine]:
    with checked_site.healthy(shipped, monkeypatch) as site:
        made = NewMachine(site)
        for name in ("etc/fedcloud/appliance.yaml", CASO, RC, BACKEND):
            shutil.copy(checked_site.TOP / name, site.root / name)
        caso = (site.root / CASO).read_text()
        (site.root / CASO).write_text(checked_site.PLACES.sub(f"{site.root}/", caso))
        idle = site.root / "etc/fedcloud/cron.d"
        for path in (site.root / "etc/cron.d").iterdir():
            path.rename(idle / path.name)
        for path in idle.iterdir():
            path.chmod(0o644)
        systemctl = site.root / "systemctl"
        systemctl.write_text(f'#!/bin/sh\necho "$@" >>{site.root}/systemctl-calls\n')
        systemctl.chmod(0o755)
        monkeypatch.setattr(start, "_SYSTEMCTL", str(systemctl))
        monkeypatch.setattr(start, "_STEPS", steps(made))
        monkeypatch.setattr(motd, "_RELOAD", ["/bin/true"])
        yield made


def steps(machine: NewMachine) -> cli.Program:
    """Return what a start calls: the real schedule, and jobs that are recorded."""

    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("job")
        parser.add_argument("--wait", action="store_true")
        parser.add_argument("--log", action="store_true")

    def record(arguments: argparse.Namespace) -> int:
        machine.jobs.append(arguments.job)
        return machine.statuses.get(arguments.job, 0)

    verbs = (schedule.VERB, cli.Program("run", "", add, record))
    return cli.Program("appliance", "", lambda _: None, cli.dispatch, verbs=verbs)


def test_user_data_alone_configures_and_starts(
    machine: NewMachine, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once: a later boot leaves what an administrator has changed since."""
    machine.give(DOCUMENT)
    assert machine.boot() == 0, capsys.readouterr()
    assert "site_name = SITE-1" in (machine.root / CASO).read_text()
    assert machine.units() == ["start bdii"]
    assert machine.jobs == ["caso", "ssmsend"]
    assert (machine.root / "etc/cron.d/caso").exists()
    said = capsys.readouterr()
    assert PASSWORD not in said.out + said.err
    machine.site.edit(CASO, ("SITE-1", "SITE-2"))
    assert machine.boot() == 0
    assert "at an earlier boot" in capsys.readouterr().out
    assert "site_name = SITE-2" in (machine.root / CASO).read_text()
    assert machine.jobs == ["caso", "ssmsend"]


def test_other_answers_of_a_rebuilt_machine_are_taken(machine: NewMachine) -> None:
    machine.give(DOCUMENT)
    assert machine.boot() == 0
    machine.give(DOCUMENT.replace("SITE-1", "SITE-3"))
    assert machine.boot() == 0
    assert "site_name = SITE-3" in (machine.root / CASO).read_text()


def test_files_with_secrets_are_for_root_alone(machine: NewMachine) -> None:
    """cloud-init writes 0644 unless the document says otherwise."""
    machine.give(DOCUMENT)
    assert machine.boot() == 0
    for name in (ANSWERS, "var/lib/fedcloud/first-boot.json"):
        assert (machine.root / name).stat().st_mode & 0o777 == 0o600
    assert PASSWORD not in json.dumps(machine.kept())


MISTAKES = {
    "a value": ("      site: SITE-1", "      site: SITE 1", "site: 'SITE 1'"),
    "a key": ("      email:", "      e-mail:", "e-mail: unknown option"),
    "a form": ("      flows: [", "      flows: [[", "is not YAML"),
    "a blank line before it": (
        "        accounting: {name",
        "        acounting: {name",
        "acounting",
    ),
    "a URL": ("keystone.cloud.test:5000/v3", "keystone.cloud.test", "https://HOST:5000/v3"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_by_its_line_in_the_user_data(
    machine: NewMachine, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """R03: on the console and in the message of the day; nothing is changed or started."""
    right, wrong, words = MISTAKES[name]
    text = DOCUMENT.replace(right, wrong)
    given = machine.give(text)
    before = machine.files()
    assert machine.boot() == 2
    said = capsys.readouterr().err
    number = 1 + next(
        at
        for at, line in enumerate(given.splitlines())
        if line not in DOCUMENT.splitlines() and wrong.strip() in line
    )
    lines = [line for line in said.splitlines() if words in line]
    # A bracket that is never closed is noticed later in the file.
    if name != "a form":
        assert [line.split(": ")[1] for line in lines] == [f"user data:{number}"], said
    assert lines[0].startswith("appliance: user data:")
    assert f"{machine.root}/{ANSWERS}: correct it here" in said
    assert PASSWORD not in said
    assert machine.files() == before
    assert (machine.units(), machine.jobs) == ([], [])
    message = machine.message()
    assert f"! user data:{number}: " in message or name == "a form"
    assert PASSWORD not in message
    machine.give(DOCUMENT)
    assert machine.boot() == 0
    assert machine.kept()["problems"] == []


NOTHING = {
    "no line of cloud-config": (
        DOCUMENT.replace("#cloud-config", "#cloud_config"),
        "user data:1: cloud-init ignores it; begin it with the line #cloud-config",
    ),
    "no YAML": (DOCUMENT.replace("  - path", "\t- path"), "user data:4: is not YAML"),
    "an alias for a password": (
        DOCUMENT.replace("hostname: appliance", "password: *hidden-horse"),
        "user data:2: is not YAML: found undefined alias",
    ),
    "another file": (
        "#cloud-config\nwrite_files:\n- {path: /etc/motd, content: hello}\n",
        "user data: write_files: has no entry /etc/fedcloud/answers.yaml",
    ),
    "a program": ("#!/bin/sh\ntrue\n", "user data: none of its parts writes"),
}


@pytest.mark.parametrize("name", NOTHING)
def test_user_data_without_answers_is_explained(
    machine: NewMachine, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    text, words = NOTHING[name]
    machine.give(text)
    assert machine.boot() == 2
    said = capsys.readouterr().err
    assert words in said
    assert words in " ".join(machine.message().split())
    assert "hidden-horse" not in said


@pytest.mark.parametrize(
    ("source", "words"),
    [("DataSourceNone", "found no metadata service and no drive"), ("DataSourceNoCloud", "has no")],
)
def test_a_machine_without_user_data_waits_for_its_administrator(
    machine: NewMachine, capsys: pytest.CaptureFixture[str], source: str, words: str
) -> None:
    machine.place("var/lib/cloud/instance/datasource", f"{source}: {source}\n")
    assert machine.boot() == 1
    assert words in capsys.readouterr().out
    assert "log in and run appliance configure" in " ".join(machine.message().split())
    machine.place(
        "answers.yaml",
        (yaml.safe_load(DOCUMENT)["write_files"][0]["content"]).replace("HERE", str(machine.root)),
    )
    answers = str(machine.root / "answers.yaml")
    assert main(["configure", "--answers", answers, "--root", str(machine.root)]) == 1
    assert machine.boot() == 0
    assert "Configured by an administrator" in capsys.readouterr().out


def test_what_the_check_finds_is_started_only_when_corrected(
    machine: NewMachine, capsys: pytest.CaptureFixture[str]
) -> None:
    """No job is scheduled while something that it needs is missing."""
    key = machine.root / "etc/grid-security/hostkey.pem"
    machine.give(DOCUMENT)
    key.chmod(0o444)
    assert machine.boot() == 2
    said = capsys.readouterr().out
    assert str(key) in said
    assert "Nothing is started" in said
    assert (machine.units(), machine.jobs) == ([], [])
    assert str(key) in machine.message().replace("\n  ", "")  # which may be cut in the path
    key.chmod(0o400)
    assert main(["start", "--root", str(machine.root)]) == 0
    assert str(key) not in machine.message().replace("\n  ", "")
    assert machine.jobs == ["caso", "ssmsend"]
    assert machine.boot() == 0


@pytest.mark.parametrize("step", ["write", "start"])
def test_a_boot_after_a_power_failure_goes_on(
    machine: NewMachine, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The power fails after any change of a file, and during the start."""
    machine.give(DOCUMENT)
    left = 3

    class PowerFailure(BaseException):
        pass

    def fail(*_: object, **__: object) -> int:
        raise PowerFailure

    real = os.replace

    def replace(source: Path, target: Path) -> None:
        nonlocal left
        left -= 1
        if not left:
            fail()
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(
            *((start, "_services", fail) if step == "start" else (os, "replace", replace))
        )
        with pytest.raises(PowerFailure):
            machine.boot()
    assert machine.jobs == []
    assert machine.boot() == 0
    assert machine.jobs == ["caso", "ssmsend"]
    assert "site_name = SITE-1" in (machine.root / CASO).read_text()


def test_a_cloud_that_does_not_answer_yet_is_asked_by_the_jobs(
    machine: NewMachine, capsys: pytest.CaptureFixture[str]
) -> None:
    """No network at the first boot: jobs are scheduled, and the message says what has failed."""
    machine.give(DOCUMENT)
    machine.statuses["caso"] = 3
    assert machine.boot() == 1
    assert "! failed: appliance run caso" in capsys.readouterr().out
    assert "appliance status" in machine.message()
    assert machine.boot() == 0
    assert machine.jobs == ["caso"]


def test_the_message_is_short(machine: NewMachine) -> None:
    machine.give(DOCUMENT)
    assert machine.boot() == 0
    lines = machine.message().splitlines()
    assert lines[0].startswith("EGI fedcloud appliance ")
    assert lines[-1].startswith("accounting ")
    assert "images off" in lines[-1]
    assert len(lines) <= 20
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    "needs", [{}, {"_MEMORY": "GB of memory; give it 2 GB"}, {"_DISK": "GB of disk; give it 20 GB"}]
)
def test_what_a_machine_has_too_little_of_is_reported(
    machine: NewMachine, monkeypatch: pytest.MonkeyPatch, needs: dict[str, str]
) -> None:
    """The machine of this test is one of some GB, so the need is made larger or smaller."""
    for name in ("_MEMORY", "_DISK"):
        monkeypatch.setattr(motd, name, 2**60 if name in needs else 0)
    lines = [line for line in machine.message().splitlines() if "This machine has" in line]
    assert len(lines) == len(needs)
    for line, need in zip(lines, needs.values(), strict=True):
        assert line.endswith(need)


def test_the_document_of_the_page_is_complete(machine: NewMachine) -> None:
    """R03: with a site's values, it configures and starts accounting and information."""
    grid = machine.root / "etc/grid-security"
    values = {
        "CERTIFICATE": (grid / "hostcert.pem").read_text(),
        "KEY": (grid / "hostkey.pem").read_text(),
        "SITE-NAME": "SITE-1",
        "PROJECT-ID": "4c9e1f",
        **{
            f"{name}: {{name: {name}, password: PASSWORD}}": (
                f"{name}: {{name: {name}, password: {PASSWORD}}}"
            )
            for name in ("accounting", "information")
        },
    }
    (grid / "hostkey.pem").unlink()
    (grid / "hostcert.pem").unlink()
    machine.give(site_data.filled(values, files={}, commands=[]))
    (grid / "hostkey.pem").chmod(0o400)
    assert machine.boot() == 0
    assert machine.jobs == ["caso", "ssmsend"]
