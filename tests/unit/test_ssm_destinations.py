"""Several configurations of the sender: which are read, and which are refused."""

from pathlib import Path

import pytest

from appliance.core import senders
from appliance.core.run import cli
from appliance.core.run.errors import ConfigurationError, ExitStatus
from appliance.core.run.layout import Layout
from ssm import destinations
from ssm.cmds import control, send
from tests import foreign

DONE, PARTLY, USAGE, NOTHING = list(ExitStatus)[:4]


def write(root: Path, name: str, *, spool: str, extra: str = "") -> Path:
    for file in ("hostcert.pem", "hostkey.pem"):
        (root / file).touch()
    path = root / "etc/apel" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "[sender]\nprotocol: STOMP\n[broker]\nhost: b:1\n[certificates]\n"
        f"certificate: {root}/hostcert.pem\nkey: {root}/hostkey.pem\ncapath: {root}\n"
        f"[messaging]\ndestination: /queue/x\npath: {spool}\n{extra}"
    )
    return path


def problems(one: destinations.ConfiguredDestination) -> str:
    with pytest.raises(ConfigurationError) as caught:
        one.usable()
    return str(caught.value)


def test_whole_files_of_sender_d_are_read_in_their_order(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    first = write(tmp_path, "sender.cfg", spool=f"{tmp_path}/a")
    assert [one.path for one in destinations.load(layout)] == [first]
    second = write(tmp_path, "sender.d/storage.cfg", spool=f"{tmp_path}/b")
    third = write(tmp_path, "sender.d/ip v4.cfg", spool=f"{tmp_path}/c")
    for name in ("storage.cfg.example", "storage.cfg~", ".hidden.cfg", "storage.cfg.fedcloud-new"):
        write(tmp_path, f"sender.d/{name}", spool=f"{tmp_path}/a")
    found = destinations.load(layout)
    assert [one.path for one in found] == [first, third, second]
    assert [one.record for one in found] == ["ssmsend", "ssmsend-ip_v4", "ssmsend-storage"]
    assert [one.usable().path.name for one in found] == ["a", "c", "b"]
    [only] = destinations.load(layout, only=second)
    assert (only.path, only.record) == (second, "ssmsend-storage")


def test_a_wrong_file_spoils_no_other(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    write(tmp_path, "sender.cfg", spool=f"{tmp_path}/a")
    wrong = write(tmp_path, "sender.d/wrong.cfg", spool="not/absolute")
    write(tmp_path, "sender.d/zebra.cfg", spool=f"{tmp_path}/b")
    [first, bad, last] = destinations.load(layout)
    assert first.usable().path.name == "a"
    assert last.usable().path.name == "b"
    assert problems(bad).startswith(f"{wrong}:11: [messaging] path: must be an absolute path")


def test_without_sender_cfg_the_others_are_read(tmp_path: Path) -> None:
    write(tmp_path, "sender.d/storage.cfg", spool=f"{tmp_path}/b")
    [first, second] = destinations.load(Layout(tmp_path))
    assert problems(first).startswith(f"{tmp_path}/etc/apel/sender.cfg: cannot be read")
    assert second.usable().path.name == "b"


def test_a_spool_has_one_destination(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    first = write(tmp_path, "sender.cfg", spool=f"{tmp_path}/a")
    other = write(tmp_path, "sender.d/storage.cfg", spool=f"{tmp_path}/./a")
    [kept, refused] = destinations.load(layout)
    assert kept.usable().path.name == "a"
    assert problems(refused) == (
        f"{other}:11: [messaging] path: {tmp_path}/a is the spool of {first}:11 too; write the"
        " spool that holds the messages for this destination alone"
    )
    # Of two files of sender.d neither is the older one; a link is no other spool.
    (tmp_path / "b").mkdir()
    (tmp_path / "c").symlink_to("b")
    write(tmp_path, "sender.d/storage.cfg", spool=f"{tmp_path}/b")
    twin = write(tmp_path, "sender.d/twin.cfg", spool=f"{tmp_path}/c")
    [kept, one, two] = destinations.load(layout)
    assert kept.usable().path.name == "a"
    assert f"is the spool of {twin}:11 too" in problems(one)
    assert f"is the spool of {other}:11 too" in problems(two)


@pytest.mark.parametrize("damage", ["host:\n", "protocol: MQTT\n"])
def test_a_wrong_file_keeps_its_spool(tmp_path: Path, damage: str) -> None:
    """Else the messages of sender.cfg would go to the destination of the other file."""
    layout = Layout(tmp_path)
    first = write(tmp_path, "sender.cfg", spool=f"{tmp_path}/a")
    write(tmp_path, "sender.d/storage.cfg", spool=f"{tmp_path}/a")
    write(tmp_path, "sender.d/third.cfg", spool=f"{tmp_path}/c")
    word = damage.partition(":")[0]
    lines = first.read_text().splitlines(keepends=True)
    first.write_text("".join(damage if line.startswith(word) else line for line in lines))
    [wrong, refused, kept] = destinations.load(layout)
    assert problems(wrong).startswith(f"{first}:")
    assert f"is the spool of {first}:11 too" in problems(refused)
    assert kept.usable().path.name == "c"


def test_defaults_collide_too(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    for name in ("sender.cfg", "sender.d/a.cfg"):
        path = write(tmp_path, name, spool="x")
        path.write_text(path.read_text().replace("path: x\n", ""))
    [kept, refused] = destinations.load(layout)
    assert kept.usable().path == tmp_path / "var/spool/apel/outgoing"
    assert problems(refused).startswith(f"{tmp_path}/etc/apel/sender.d/a.cfg: [messaging] path: ")


def test_foreign_names_are_reported_and_skipped(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    write(tmp_path, "sender.cfg", spool=f"{tmp_path}/a")
    made = foreign.make(tmp_path / "etc/apel/sender.d", suffix=".cfg")
    found = destinations.load(layout)
    assert found[0].usable().path.name == "a"
    assert {one.path for one in found[1:]} == set(made)
    assert all(one.error is not None for one in found[1:])
    assert all(one.record.startswith("ssmsend-") for one in found[1:])
    (tmp_path / "etc/apel/sender.d").rename(tmp_path / "etc/apel/aside")
    (tmp_path / "etc/apel/sender.d").write_text("")
    [first, broken] = destinations.load(layout)
    assert first.usable().path.name == "a"
    assert str(broken.error).startswith(f"{tmp_path}/etc/apel/sender.d: ")


def test_names_of_records(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    for name, expected in (
        ("/etc/apel/sender.cfg", "ssmsend"),
        ("/srv/my.cfg", "ssmsend"),
        ("/etc/apel/sender.d/storage.cfg", "ssmsend-storage"),
        ('/etc/apel/sender.d/a"}\n1.cfg', "ssmsend-a___1"),
    ):
        assert senders.record_name(layout.path(name), layout) == expected


@pytest.mark.parametrize(
    ("statuses", "together"),
    [
        ([DONE], DONE),
        ([NOTHING], NOTHING),
        ([USAGE], USAGE),
        ([DONE, DONE], DONE),
        ([DONE, NOTHING], PARTLY),
        ([USAGE, DONE], PARTLY),
        ([PARTLY, NOTHING], PARTLY),
        ([NOTHING, NOTHING], NOTHING),
        ([USAGE, USAGE], USAGE),
        ([USAGE, NOTHING], NOTHING),
    ],
)
def test_the_exit_status_of_several(statuses: list[ExitStatus], together: ExitStatus) -> None:
    assert send._together(statuses) is together


def test_what_is_here_can_be_looked_at_without_what_sending_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A host whose certificate is gone or expired still shows what waits."""
    write(tmp_path, "sender.cfg", spool=f"{tmp_path}/a")
    storage = write(
        tmp_path, "sender.d/storage.cfg", spool=f"{tmp_path}/b", extra="path_type: directory\n"
    )
    (tmp_path / "b").mkdir()
    (tmp_path / "b/report.txt").write_text("APEL-cloud-message: v0.4\n")
    (tmp_path / "hostcert.pem").unlink()

    def shown(verb: str) -> tuple[int, str, str]:
        status = cli.main(control.PROGRAM, [verb, "--root", str(tmp_path)])
        return status, *capsys.readouterr()

    status, out, _ = shown("spool")
    assert status == 0
    assert "report.txt" in out
    assert shown("failed")[0] == 0
    status, _, errors = shown("sent")
    assert (status, errors.count("\n")) == (3, 1)
    assert "no message has been sent yet" in errors
    storage.write_text(storage.read_text().replace("path_type: directory", "path_type: heap"))
    status, _, errors = shown("spool")
    assert status == 2
    assert f"{storage}:12: [messaging] path_type: " in errors
