"""`appliance migrate` when it is killed, beside what is not ours, and with wrong files."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from appliance.admin.command import main
from appliance.core.spool import Spool
from tests.bench import readme
from tests.documents import HOW_TO
from tests.simulators import docker_engine
from tests.unit import earlier_site
from tests.unit.test_migrate import conforms, ini, shell, states
from tests.unit.test_migrate_upstream import CATCH_ALL

pytestmark = pytest.mark.root

AMS = ("--destination", "ams")
CRONTAB = "var/spool/cron/crontabs/root"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return earlier_site.bundle(tmp_path_factory.mktemp("migrate"))


@pytest.fixture
def top() -> Iterator[Path]:
    """Return a directory that the account 1999 can reach, and with a short name."""
    with tempfile.TemporaryDirectory(prefix="migrate") as directory:
        path = Path(directory)
        path.chmod(0o755)
        yield path


def made(top: Path, release: str, bundle: Path) -> Path:
    root = earlier_site.copy(release, top / "host")
    earlier_site.install(root, bundle)
    return root


@pytest.fixture
def host(top: Path, bundle: Path) -> Path:
    return made(top, "2019x", bundle)


def migrate(root: Path, *words: object) -> int:
    return main(["migrate", "--root", str(root), *map(str, words)])


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


class Killed(BaseException):
    """Stands for the end of the process."""


def kill_at(number: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """End the process at the n-th change of a name; return how many there have been."""
    count = [0]

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            count[0] += 1
            if count[0] == number:
                raise Killed
            return real(*arguments, **options)

        return call

    for name in ("replace", "unlink", "chown", "mkdir", "rmdir"):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))
    return lambda: count[0]


@pytest.mark.long
@pytest.mark.parametrize("release", ["20160403", "2019x"])
def test_killed_at_every_step(
    release: str, top: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--apply", *AMS)
    whole = made(top, release, bundle)
    with monkeypatch.context() as patch:
        counted = kill_at(0, patch)
        assert migrate(whole, *words) == 0
    wanted, steps = states(whole), counted()
    assert steps > 20
    shutil.move(whole, top / "whole")
    for step in range(1, steps + 1):
        host = made(top, release, bundle)
        with monkeypatch.context() as patch:
            kill_at(step, patch)
            with pytest.raises(Killed):
                migrate(host, *words)
        # Each file is whole, and something starts each job of accounting all the time.
        if release != "20160403":
            tables = [host / CRONTAB, host / "etc/cron.d/caso"]
            assert any("caso-extract.sh" in path.read_text() for path in tables if path.exists())
        assert migrate(host, *words) == 0
        assert {name: one for name, one in states(host).items() if ".tmp" not in name} == wanted
        shutil.rmtree(host)


# --------------------------------------------------------------------------------------------------
# what is not ours stays


def test_other_lines_of_the_table_stay(host: Path, capsys: pytest.CaptureFixture[str]) -> None:
    others = (
        "MAILTO=admin@example.org\n"
        "#Ansible: backup\n"
        "5 1 * * * /usr/local/bin/backup.sh >> /var/log/backup.log 2>&1\n"
        "# 14 */4 * * * /usr/local/bin/caso-extract.sh >> /var/log/caso.log 2>&1\n"
        "#Ansible: caso\n"
        "14 */4 * * * flock -n /run/c /usr/local/bin/caso-extract.sh >> /var/log/caso.log 2>&1\n"
        "7 7 * * * /usr/local/bin/ssm-send.sh >> /var/log/ssm.log 2>&1\n"
    )
    table = host / CRONTAB
    table.write_text(table.read_text() + others)
    assert migrate(host, "--apply", *AMS) == 1
    assert table.read_text() == others
    said = capsys.readouterr().out
    # Numbers are those of the table before the change, which the plan shows.
    assert f"{table}:12: starts the job caso beside the appliance" in said
    assert f"{table}:13: starts the job ssmsend beside the appliance" in said


def test_a_table_of_another_user_stays(host: Path) -> None:
    other = host / "var/spool/cron/crontabs/egi"
    other.write_text((host / CRONTAB).read_text())
    before = other.read_bytes()
    assert migrate(host, "--apply", *AMS) == 1
    assert other.read_bytes() == before


def test_a_unit_that_an_administrator_wrote_stays(host: Path) -> None:
    unit = host / "etc/systemd/system/cloudkeeper-os.service"
    unit.write_text("[Service]\nExecStart=/opt/site/cloudkeeper-os\n")
    assert migrate(host, "--apply", *AMS) == 0
    assert unit.exists()


def test_what_must_leave_the_configuration_management(
    host: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    role = host / "etc/ansible/site.yml"
    role.parent.mkdir()
    role.write_text(
        "- cron:\n    job: /usr/local/bin/caso-extract.sh >> /var/log/caso.log 2>&1\n"
        "- template:\n    dest: /etc/caso/caso.conf\n"
        "- template:\n    dest: /etc/caso/caso.conf.d/site.conf\n"
    )
    edit(host / "etc/apel/sender.cfg", " [broker]", "# Ansible managed\n [broker]")
    assert migrate(host, *AMS) == 1
    said = capsys.readouterr().out
    assert f"{role}:2: starts the job caso: it must leave the configuration management" in said
    assert f"{role}:4: writes /etc/caso/caso.conf, which changes" in said
    assert f"{role}:6" not in said
    assert "sender.cfg:1: says 'Ansible managed'" in said
    assert f"{host / CRONTAB}:1: Ansible wrote lines for cloudkeeper, ssmsend, caso" in said


@pytest.fixture
def engine(host: Path, top: Path) -> Iterator[docker_engine.Engine]:
    with docker_engine.serve(top) as found:
        edit(host / "etc/fedcloud/appliance.yaml", "/run/docker.sock", str(found.socket))
        yield found


def add(engine: docker_engine.Engine, name: str, image: str, **options: Any) -> None:
    engine.add(name, labels=options.pop("labels", {}), state=options)
    engine.containers[name]["Config"]["Image"] = image


def test_containers_make_way_by_name_and_image(
    host: Path, engine: docker_engine.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    add(engine, "cloudkeeper-os", "egifedcloud/cloudkeeper-os:v0.11")
    add(engine, "sitebdii_sitebdii_1", "egifedcloud/sitebdii:v0.11")
    add(engine, "sitebdii-cloudbdii-1", "egifedcloud/cloudbdii:v0.11")
    add(engine, "sitebdii_web_1", "nginx:1")
    add(engine, "angry_euler", "egifedcloud/caso", Status="exited", Running=False)
    add(engine, "my-sitebdii", "egifedcloud/sitebdii:v0.11")
    ours = {"com.docker.compose.project": "fedcloud"}
    add(engine, "ours", "egifedcloud/sitebdii:1.0", labels=ours)
    assert migrate(host, "--apply", *AMS) == 1
    assert {*engine.containers} == {"sitebdii_web_1", "angry_euler", "my-sitebdii", "ours"}
    said = capsys.readouterr().out
    assert "! container angry_euler (egifedcloud/caso): not recognised" in said
    assert "docker rm my-sitebdii" in said
    assert "sitebdii_web_1" not in said


def test_a_name_alone_does_not_make_a_container_go(
    host: Path, engine: docker_engine.Engine
) -> None:
    add(engine, "cloudkeeper-os", "registry.example.org/mine/cloudkeeper-os:2")
    add(engine, "sitebdii_sitebdii_1", "egifedcloud/cloudbdii:v0.11")
    assert migrate(host, "--apply", *AMS) == 1
    assert len(engine.containers) == 2


def test_a_job_that_runs_is_waited_for(
    host: Path, engine: docker_engine.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    add(engine, "angry_euler", "egifedcloud/caso:v0.11")
    before = states(host)
    assert migrate(host, *AMS) == 1
    assert migrate(host, "--apply", *AMS) == 1
    assert states(host) == before
    assert "angry_euler (egifedcloud/caso:v0.11): still runs a job" in capsys.readouterr().err


def test_an_engine_that_does_not_answer(host: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(host / "etc/fedcloud/appliance.yaml", "/run/docker.sock", "/does/not/exist.sock")
    assert migrate(host, "--apply", *AMS) == 0
    assert "containers of an earlier release are not looked for" in capsys.readouterr().out


# --------------------------------------------------------------------------------------------------
# state


@pytest.fixture
def pair(top: Path, bundle: Path) -> tuple[Path, Path]:
    """Return the root of an earlier host, and one of a new host."""
    new = top / "new"
    earlier_site.install(new, bundle)
    return earlier_site.copy("2021x", top / "old"), new


def spool(root: Path) -> Path:
    return root / "var/spool/apel/outgoing/openstack"


def fill(root: Path, *names: str) -> None:
    for name in names:
        path = spool(root) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"message {name}")


MESSAGES = ("61a0c000/61a0c0010000a0", "61a0c000/61a0c0020000a0", "61a0c040/61a0c0410000a0")


def test_messages_come_along_once(pair: tuple[Path, Path]) -> None:
    old, new = pair
    fill(old, *MESSAGES)
    assert migrate(new, "--from", old, "--apply") == 0
    assert [*Spool(spool(new)).names()] == [*MESSAGES]
    for name in MESSAGES:
        path = spool(new) / name
        assert path.read_text() == f"message {name}"
        assert (path.stat().st_uid, path.parent.stat().st_uid) == (1999, 1999)
    shutil.rmtree(spool(new) / "61a0c000")  # sent
    assert migrate(new, "--from", old, "--apply") == 0
    assert [*Spool(spool(new)).names()] == [MESSAGES[2]]
    fill(old, "61a0c080/61a0c0810000a0")
    assert migrate(new, "--from", old, "--apply") == 0
    assert [*Spool(spool(new)).names()] == [MESSAGES[2], "61a0c080/61a0c0810000a0"]


def test_messages_stay_where_this_host_has_accounted(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = pair
    fill(old, *MESSAGES)
    ledger = new / "var/lib/fedcloud/caso/ledger.sqlite"
    ledger.parent.mkdir(parents=True)
    ledger.write_bytes(b"")
    assert migrate(new, "--from", old, "--apply") == 1
    assert not spool(new).exists()
    assert "3 messages stay: this host has accounted" in capsys.readouterr().out


@pytest.mark.long
def test_messages_killed_at_every_step(
    pair: tuple[Path, Path], top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = pair
    for name in ("etc", "var/spool/caso", "var/spool/cron"):
        shutil.rmtree(old / name)
    (old / "etc").mkdir()
    for name in ("systemd", "cloudkeeper", "sitebdii"):
        shutil.rmtree(new / "etc" / name)
    fill(old, *MESSAGES)
    start = top / "start"
    shutil.copytree(new, start, symlinks=True)
    with monkeypatch.context() as patch:
        counted = kill_at(0, patch)
        assert migrate(new, "--from", old, "--apply") == 0
    for step in range(1, counted() + 1):
        shutil.rmtree(new)
        shutil.copytree(start, new, symlinks=True)
        with monkeypatch.context() as patch:
            kill_at(step, patch)
            with pytest.raises(Killed):
                migrate(new, "--from", old, "--apply")
        present = [*Spool(spool(new)).names()] if spool(new).is_dir() else []
        for name in present:  # a sender takes what is there
            (spool(new) / name).unlink()
        assert migrate(new, "--from", old, "--apply") == 0
        assert [*present, *Spool(spool(new)).names()] == [*MESSAGES], step
        left = [path.name for path in spool(new).parent.iterdir()]
        assert left == ["openstack"]


def test_a_foreign_element_of_a_spool_is_named(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = pair
    fill(old, *MESSAGES)
    (spool(old) / "61a0c000/61a0c0030000a0").symlink_to("/etc/shadow")
    assert migrate(new, "--from", old, "--apply") == 1
    assert [*Spool(spool(new)).names()] == [*MESSAGES]
    assert "61a0c0030000a0" in capsys.readouterr().out


def test_no_checkpoint_moves_back(pair: tuple[Path, Path]) -> None:
    old, new = pair
    folder = new / "var/spool/caso"
    folder.mkdir(parents=True)
    (folder / "lastrun.ops").write_text("2026-01-01 00:00:00+00:00")
    (folder / "lastrun.fedcloud").write_text("")
    assert migrate(new, "--from", old, "--apply") == 0
    assert (folder / "lastrun.ops").read_text() == "2026-01-01 00:00:00+00:00"
    # An empty file, which a full disk leaves, holds no time.
    assert (folder / "lastrun.fedcloud").read_text() == "2022-04-24 20:14:15.101999+00:00"


def test_a_broken_checkpoint_is_named_and_left(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = pair
    (old / "var/spool/caso/lastrun.ops").write_text("2022-04-2")
    assert migrate(new, "--from", old, "--apply") == 1
    assert f"{old}/var/spool/caso/lastrun.ops: does not hold" in capsys.readouterr().out
    assert [path.name for path in (new / "var/spool/caso").iterdir()] == ["lastrun.fedcloud"]


def test_root_owned_spools_are_given_to_the_account(host: Path) -> None:
    fill(host, *MESSAGES)
    assert migrate(host, "--apply", *AMS) == 0
    for path in (host / "var/spool/apel").rglob("*"):
        assert (path.stat().st_uid, path.stat().st_gid) == (1999, 1999)
    assert [*Spool(spool(host)).names()] == [*MESSAGES]


# --------------------------------------------------------------------------------------------------
# wrong files


def test_each_wrong_file_is_named_and_the_others_go_on(
    host: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(host / "etc/caso/caso.conf", "[keystone_auth]", "[keystone_auth")
    (host / "etc/cloudkeeper-os/voms.json").write_text('{"ops": {"tenant": ""}}')
    (host / "etc/cloudkeeper/cloudkeeper.yml").write_bytes(b"cloudkeeper:\n  formats: \xff\n")
    (host / "etc/cloud-info-provider/openstack.rc").write_text("export OS_PASSWORD=$(cat x)\n")
    before = (host / "etc/caso/caso.conf").read_bytes()
    assert migrate(host, "--apply", *AMS) == 1
    said = capsys.readouterr().out
    assert f"! {host}/etc/caso/caso.conf:6: " in said
    assert f"! {host}/etc/cloudkeeper-os/voms.json:1: ops: names no project" in said
    assert f"! {host}/etc/cloudkeeper/cloudkeeper.yml:2: is not UTF-8" in said
    assert f"! {host}/etc/cloud-info-provider/openstack.rc:1: OS_PASSWORD: " in said
    assert (host / "etc/caso/caso.conf").read_bytes() == before
    assert ini(host / "etc/apel/sender.cfg")["messaging.destination"] == "eu-egi-cloud-accounting"


def test_a_pipe_in_place_of_a_file(host: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = host / "etc/caso/caso.conf"
    path.unlink()
    os.mkfifo(path)
    assert migrate(host, "--apply", *AMS) == 0
    assert stat.S_ISFIFO(path.stat().st_mode)
    assert "caso.conf" not in capsys.readouterr().out


def test_a_full_disk_leaves_whole_files(
    host: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = states(host)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert migrate(host, "--apply", *AMS) == 3
    assert "free space" in capsys.readouterr().err
    assert states(host) == before
    assert migrate(host, "--apply", *AMS) == 0
    conforms(host, "2019x")


def test_a_file_for_docker_with_signs_of_a_shell(top: Path, bundle: Path) -> None:
    host = made(top, "20220425", bundle)
    path = host / "etc/cloud-info-provider/openstack.rc"
    edit(path, 'OS_PASSWORD="secret-62"', "OS_PASSWORD=a b$c`d'e\"f")
    assert migrate(host, "--apply") == 0
    assert "OS_PASSWORD='a b$c`d'\\''e\"f'\n" in path.read_text()
    assert "OS_PROJECT_NAME=ops\n" in path.read_text()


def test_a_map_that_is_not_the_usual_one_is_mounted(host: Path) -> None:
    shutil.copyfile(host / "etc/caso/voms.json", host / "etc/vos.json")
    edit(host / "etc/caso/caso.conf", "projects = ", "mapping_file = /etc/vos.json\nprojects = ")
    assert migrate(host, "--apply", *AMS) == 0
    text = (host / "etc/fedcloud/appliance.env").read_text()
    assert "\nFEDCLOUD_CASO_MAPPING=/etc/vos.json\n" in text


def test_the_mode_and_owner_of_a_file_stay(host: Path) -> None:
    path = host / "etc/caso/caso.conf"
    path.chmod(0o600)
    os.chown(path, 1999, 1999)
    assert migrate(host, "--apply", *AMS) == 0
    status = path.stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o600, 1999, 1999)
    kept = next((host / "var/lib/fedcloud/migrate").rglob("caso.conf")).stat()
    assert (kept.st_mode & 0o7777, kept.st_uid) == (0o600, 1999)
    assert next((host / "var/lib/fedcloud/migrate").iterdir()).stat().st_mode & 0o077 == 0


# --------------------------------------------------------------------------------------------------
# the page


def test_the_commands_of_the_page(
    pair: tuple[Path, Path], bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = pair
    blocks = {one.name: one for one in readme.blocks((HOW_TO / "migrate.md").read_text())}
    assert [*blocks] == ["plan", "apply", "start", "elsewhere", "catchall"]
    (old.parent / "site").mkdir()
    (old.parent / "site/site.yaml").write_text(CATCH_ALL["example.yaml"])
    places = {"/srv/earlier": str(old), "/srv/catch-all": str(old.parent / "site")}

    def typed(name: str, root: Path) -> list[int]:
        found = [shlex.split(line) for line in blocks[name].commands()]
        assert {words[0] for words in found} == {"appliance"}
        return [
            main([places.get(word, word) for word in words[1:]] + ["--root", str(root)])
            for words in found
        ]

    host = made(old.parent, "2019x", bundle)
    assert typed("plan", host) == [1]  # it asks for the destination
    assert "? " in capsys.readouterr().out
    assert typed("apply", host) == [0]
    conforms(host, "2019x")
    assert typed("elsewhere", new) == [0, 0]
    conforms(new, "2021x")
    assert typed("catchall", new) == [1]  # the account is missing


# --------------------------------------------------------------------------------------------------
# unusual forms of the same options


def test_messengers_on_several_lines(host: Path) -> None:
    path = host / "etc/caso/caso.conf"
    edit(
        path, "SSMMessengerV04\n", "SSMMessengerV04,\n  caso.messenger.logstash.LogstashMessenger\n"
    )
    assert migrate(host, "--apply", *AMS) == 0
    assert ini(path)["DEFAULT.messengers"] == "ssmv4, logstash"


def test_variables_on_one_line(top: Path, bundle: Path) -> None:
    host = made(top, "20170809", bundle)
    path = host / "etc/cloud-info-provider/openstack.rc"
    edit(path, "/v2.0\nexport OS_USERNAME=", "/v2.0/ OS_USERNAME=")
    assert migrate(host, "--apply") == 0
    found = shell(path)
    assert found["OS_AUTH_URL"] == "https://keystone.example.org:5000/v3"
    assert found["OS_USERNAME"] == "cloud-info"


def test_a_backend_in_braces(host: Path) -> None:
    path = host / "etc/cloudkeeper/cloudkeeper.yml"
    text = re.sub(
        r"  backend:\n.*\n.*\n", "  backend: {endpoint: '127.0.0.1:50051'}\n", path.read_text()
    )
    path.write_text(text.replace("image-lists-file: ", "image-lists:\n  image-lists-file: "))
    assert migrate(host, "--apply", *AMS) == 0
    found = yaml.safe_load(path.read_text())["cloudkeeper"]
    assert found["backend"] == {"endpoint": "unix:///run/cloudkeeper/backend.sock"}
    assert "image-lists" not in found


def test_a_password_after_a_colon(top: Path, bundle: Path) -> None:
    host = made(top, "20160403", bundle)
    edit(host / "etc/atrope/atrope.conf", "password = secret-02", "password: 'a=b:c'")
    assert migrate(host, "--apply", *AMS) == 0
    text = (host / "etc/cloudkeeper/cloudkeeper-os.conf").read_text()
    assert "\npassword = 'a=b:c'\n" in text


def test_a_text_that_would_be_wrong_is_not_written(
    host: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = host / "etc/apel/sender.cfg"
    path.write_text("[broker]\n[messaging]\nDestination: /queue/x.test.y\n")  # in capital letters
    before = path.read_bytes()
    assert migrate(host, "--apply", *AMS) == 1
    assert path.read_bytes() == before
    assert f"! {path}: destination: is left as it is" in capsys.readouterr().out


def test_a_link_of_a_copy_is_followed_in_the_copy(pair: tuple[Path, Path]) -> None:
    old, new = pair
    (old / "etc/caso/voms.json").rename(old / "etc/vos.json")
    (old / "etc/caso/voms.json").symlink_to("/etc/vos.json")
    assert migrate(new, "--from", old, "--apply") == 0
    assert (new / "etc/caso/voms.json").read_bytes() == (old / "etc/vos.json").read_bytes()
    (old / "etc/caso/voms.json").unlink()
    (old / "etc/caso/voms.json").symlink_to("voms.json")  # to itself
    assert migrate(new, "--from", old, "--apply") == 0


def test_two_runs_within_a_second_keep_both(host: Path) -> None:
    assert migrate(host, "--apply", *AMS) == 0
    edit(
        host / "etc/cloudkeeper/cloudkeeper.yml",
        "unix:///run/cloudkeeper/backend.sock",
        "localhost:50051",
    )
    assert migrate(host, "--apply", *AMS) == 0
    first, second = sorted((host / "var/lib/fedcloud/migrate").glob("*/undo"))
    assert "caso.conf" in first.read_text()
    assert "caso.conf" not in second.read_text()


def test_a_wrong_file_of_atrope_stays_until_it_can_be_carried(top: Path, bundle: Path) -> None:
    host = made(top, "20160403", bundle)
    path = host / "etc/atrope/hepix.yaml"
    edit(path, "    url:", "\turl:")
    assert migrate(host, "--apply", *AMS) == 1
    assert path.exists()
    edit(path, "\turl:", "    url:")
    assert migrate(host, "--apply", *AMS) == 0
    assert not path.exists()
    conforms(host, "20160403")


def test_a_file_of_this_host_that_is_no_text(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = pair
    (old.parent / "site").mkdir()
    (old.parent / "site/site.yaml").write_text(CATCH_ALL["example.yaml"])
    path = new / "etc/caso/caso.conf"
    path.write_bytes(b"[DEFAULT]\nsite_name = \xff\n")
    assert migrate(new, "--from", old.parent / "site", "--apply") == 1
    assert path.read_bytes() == b"[DEFAULT]\nsite_name = \xff\n"
    assert f"{path}:2: is not UTF-8" in capsys.readouterr().out
    assert "keystone.example.org" in (new / "etc/cloud-info-provider/openstack.rc").read_text()
