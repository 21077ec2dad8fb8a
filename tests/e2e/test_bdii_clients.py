"""Clients of a real slapd while all around it changes, breaks and is killed (F-I3, F-I4, F-I10)."""

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.bdii_service import SERVICE, Bdii, cloud, image, images, running
from tests.e2e.ldap_clients import Poller, TreeReader, asking, connect, request, whole


def tree(count: int, *, first: int = 0, name: str = "", words: int = 0) -> str:
    text = "x" * words
    return cloud(*(image(n, "ops", name=f"{name}{n}{text}") for n in range(first, first + count)))


def lives(pid: int) -> bool:
    """Check whether a process runs; one that has ended may wait for its parent."""
    with contextlib.suppress(OSError):
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    return False


def test_updates_deletions_and_reloads_refuse_nobody(tmp_path: Path) -> None:
    """F-I4: a switch of the database refused 18-25 polls; now all changes are made in place."""
    bdii = Bdii(tmp_path, {"BDII_SHRINK_HOLD": 0, "BDII_DELETE_DELAY": 0})
    bdii.provide(tree(300))
    with running(bdii):
        bdii.wait_for_images(300)
        pid = bdii.slapd()
        with (
            asking(Poller(bdii.port)) as poller,
            asking(TreeReader(bdii.port)) as reader,
            asking(TreeReader(bdii.port, pause=0.01)) as slow,
        ):
            bdii.provide(tree(3000))  # ten times as many
            bdii.wait_for_images(3000)
            bdii.provide(tree(3000, name="other "))
            bdii.wait_for(lambda: str(bdii.entries()).count("other ") == 3000)
            bdii.provide(tree(2990, first=10, name="other "))
            bdii.wait_for_images(2990)
            bdii.wait_for_cycles(2)
        assert (poller.refused, reader.faults, slow.faults) == ([], [], [])
        assert bdii.slapd() == pid
    assert poller.answered > 20
    assert min(reader.sizes + slow.sizes) >= 306
    assert len(slow.sizes) >= 1


def test_an_engine_that_is_killed_is_noticed_by_nobody(tmp_path: Path) -> None:
    """F-I4: slapd died with it, and 207 polls were refused."""
    bdii = Bdii(tmp_path)
    bdii.provide(tree(200))
    with running(bdii):
        bdii.wait_for_images(200)
        bdii.wait_for_cycles(1)
        slapd, engine = bdii.slapd(), bdii.engine()
        with connect(bdii.port) as held, asking(Poller(bdii.port)) as poller:
            os.kill(engine, signal.SIGKILL)
            bdii.wait_for(lambda: bdii.engine() != engine)
            bdii.wait_for(lambda: "it is started again" in bdii.log)
            bdii.wait_for_cycles(1)
            bdii.provide(tree(201))
            bdii.wait_for_images(201)
            # and both together, as a service manager or a person kills them
            killed = bdii.process
            assert killed is not None
            assert bdii.signal(signal.SIGKILL) == -signal.SIGKILL
            bdii.provide(tree(202))
            bdii.start()
            bdii.wait_for_images(202)
            held.sendall(request())
            assert whole(held).entries == 208
        assert poller.refused == []
        assert bdii.slapd() == slapd
        assert f"taking over slapd, process {slapd}" in bdii.log
        assert bdii.signal(signal.SIGTERM) == 0
        assert not lives(slapd)
    with pytest.raises(OSError, match="refused"):
        connect(bdii.port)


def test_changes_that_a_killed_engine_made_are_known_to_the_next(tmp_path: Path) -> None:
    """The engine dies between slapd's change and its own note of it."""
    bdii = Bdii(tmp_path, {"BDII_BREATHE_TIME": 60})
    bdii.provide(tree(20))
    with running(bdii):
        bdii.wait_for_images(20)
        bdii.wait_for_cycles(1)
        os.kill(bdii.engine(), signal.SIGSTOP)
        socket_url = f"ldapi://{str(tmp_path / 'run/ldapi').replace('/', '%2F')}"
        gone = next(iter(images(bdii.entries())))
        subprocess.run(
            ["ldapdelete", "-Q", "-Y", "EXTERNAL", "-H", socket_url, gone], check=True, timeout=30
        )
        added = f"dn: GLUE2GroupID=left,{SERVICE}\nobjectClass: GLUE2Group\nGLUE2GroupID: left\n"
        subprocess.run(
            ["ldapadd", "-Q", "-Y", "EXTERNAL", "-H", socket_url],
            input=added, text=True, check=True, timeout=30, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        os.kill(bdii.engine(), signal.SIGKILL)
        bdii.wait_for_images(20)
        bdii.wait_for(lambda: "GLUE2GroupID=left" not in str(bdii.entries().keys()))


@pytest.mark.parametrize("change", ["BDII_IPV6_SUPPORT=yes", "SLAPD={directory}/slapd"])
def test_a_slapd_of_other_settings_is_replaced(tmp_path: Path, change: str) -> None:
    bdii = Bdii(tmp_path)
    (tmp_path / "slapd").write_bytes(Path("/usr/sbin/slapd").read_bytes())
    (tmp_path / "slapd").chmod(0o755)
    bdii.provide(tree(3))
    with running(bdii):
        bdii.wait_for_images(3)
        bdii.wait_for_cycles(1)
        before = bdii.slapd()
        bdii.signal(signal.SIGKILL)
        with bdii.configuration.open("a") as file:
            file.write(change.format(directory=tmp_path) + "\n")
        bdii.script("sleep 60")
        bdii.start()
        bdii.wait_for(lambda: bdii.slapd() != before and len(images(bdii.entries())) == 3)
        assert f"ending the slapd of an earlier run, process {before}" in bdii.log
        assert not lives(before)


def test_a_foreign_process_is_neither_adopted_nor_ended(tmp_path: Path) -> None:
    """The id in the file may be anybody's: of another program, of another slapd, or reused."""
    bdii = Bdii(tmp_path)
    bdii.provide(tree(3))
    other = subprocess.Popen(["sh", "-c", "sleep 60 & wait", str(tmp_path / "state/database")])
    try:
        (tmp_path / "state").mkdir()
        (tmp_path / "state/slapd.pid").write_text(f"{other.pid}\n")
        with running(bdii):
            bdii.wait_for_images(3)
            assert bdii.slapd() != other.pid
        assert other.poll() is None
    finally:
        other.terminate()
        other.wait()


def test_a_left_slapd_is_ended_on_request(tmp_path: Path) -> None:
    bdii = Bdii(tmp_path)
    bdii.provide(tree(3))
    with running(bdii):
        bdii.wait_for_images(3)
        busy = bdii.once("--stop-slapd")
        assert (busy.returncode, "state/lock: running since" in busy.stderr) == (1, True)
        slapd = bdii.slapd()
        bdii.signal(signal.SIGKILL)
        assert len(images(bdii.entries())) == 3
        assert bdii.once("--stop-slapd").stdout == "slapd has been ended\n"
        assert not lives(slapd)
        assert bdii.once("--stop-slapd").stdout == "no slapd of this BDII runs\n"


def test_a_killed_slapd_is_back_with_all_that_it_had_committed(tmp_path: Path) -> None:
    """F-I4: the same database is served again: nothing is loaded, whatever the size."""
    bdii = Bdii(tmp_path, {"BDII_BREATHE_TIME": 60})
    bdii.provide(tree(2000))
    with running(bdii):
        bdii.wait_for_images(2000)
        bdii.wait_for_cycles(1)
        for _ in range(2):
            before, directory = bdii.slapd(), sorted(os.listdir(tmp_path / "state/db"))
            with asking(Poller(bdii.port)) as poller, asking(TreeReader(bdii.port)) as reader:
                os.kill(before, signal.SIGKILL)
                bdii.wait_for(lambda before=before: bdii.slapd() != before)  # type: ignore[misc]
                read = len(reader.sizes)
                bdii.wait_for(lambda read=read: len(reader.sizes) > read + 1)  # type: ignore[misc]
            assert sorted(os.listdir(tmp_path / "state/db")) == directory
            assert poller.refused
            assert set(reader.sizes) == {2006}
        bdii.wait_for(lambda: bdii.statistics()["TotalEntries"] == 2006)


def test_a_slapd_that_keeps_ending_gets_a_new_database(tmp_path: Path) -> None:
    bdii = Bdii(tmp_path)
    bdii.provide(tree(20))
    with running(bdii):
        bdii.wait_for_images(20)
        bdii.wait_for_cycles(1)
        (before,) = (tmp_path / "state/db").iterdir()
        for name in ("data.mdb", "lock.mdb"):
            (before / "glue" / name).write_bytes(os.urandom(8192))
        os.kill(bdii.slapd(), signal.SIGKILL)
        bdii.wait_for_images(20)
        bdii.wait_for(lambda: not before.exists())


def test_a_stopped_slapd_is_replaced(tmp_path: Path) -> None:
    """F-I10: it was replaced after 34 s, when a change met no answer."""
    bdii = Bdii(tmp_path, {"BDII_BREATHE_TIME": 3600})
    bdii.provide(tree(20))
    with running(bdii):
        bdii.wait_for_images(20)
        bdii.wait_for_cycles(1)
        before = bdii.slapd()
        os.kill(before, signal.SIGSTOP)
        bdii.wait_for(lambda: bdii.slapd() != before and len(images(bdii.entries())) == 20)
        assert "slapd does not answer and uses no CPU; it is restarted" in bdii.log


def test_strangers_are_answered_while_one_client_holds_600_connections(tmp_path: Path) -> None:
    """F-I3: 520 of them locked everybody out, and the service looked healthy."""
    bdii = Bdii(tmp_path)
    bdii.provide(tree(20))
    with running(bdii), contextlib.ExitStack() as held:
        bdii.wait_for_images(20)
        limits = Path(f"/proc/{bdii.slapd()}/limits").read_text()
        assert [line.split()[3:5] for line in limits.splitlines() if "open files" in line] == [
            ["8192", "8192"]
        ]
        for _ in range(600):
            held.enter_context(connect(bdii.port))
        with asking(Poller(bdii.port)) as poller:
            bdii.wait_for(lambda: poller.answered >= 37)
        assert poller.refused == []


@pytest.mark.matrix
def test_an_idle_connection_is_closed(tmp_path: Path) -> None:
    """F-I3: after 30 s at the latest; that is how long the test takes."""
    bdii = Bdii(tmp_path)
    bdii.provide(tree(20))
    with running(bdii):
        bdii.wait_for_images(20)
        with connect(bdii.port, seconds=60) as idle:
            assert idle.recv(1) == b""


def test_clients_that_stop_reading_lock_nobody_out(tmp_path: Path) -> None:
    """Eight of them, one for each thread of slapd, kept all others waiting for a minute."""
    bdii = Bdii(tmp_path)
    bdii.provide(tree(1500, words=3000))
    with running(bdii), contextlib.ExitStack() as held:
        bdii.wait_for_images(1500)
        stalled = [held.enter_context(connect(bdii.port, window=4096)) for _ in range(60)]
        for client in stalled:
            client.sendall(request())
        with asking(Poller(bdii.port)) as poller:
            bdii.wait_for(lambda: poller.answered >= 37)
            bdii.provide(tree(1501, words=3000))  # and changes are made
            bdii.wait_for_images(1501)
        assert poller.refused == []
        assert {whole(client).code for client in stalled} == {0}


BROKEN = (
    b"\0" * 64,
    b"\x30\x84\xff\xff\xff\xff" + b"x" * 100,
    b"\x30\x80\x02\x01\x01",
    b"\x30\x0c\x02\x01\x01\x60\x07\x02\x01\x03\x04\x00\x80\xff",
    request()[:-9],
    request().replace(b"\x63\x24", b"\x63\x7f"),
    b"\x30\x05\x02\x01\x01\x42\x80",
    b"GET / HTTP/1.0\r\n\r\n",
)


def test_what_is_no_ldap_stops_nobody(tmp_path: Path) -> None:
    bdii = Bdii(tmp_path)
    bdii.provide(tree(20))
    with running(bdii), asking_when_up(bdii) as poller:
        pid = bdii.slapd()
        for data in (*BROKEN, *(os.urandom(size) for size in range(1, 400, 20))):
            with connect(bdii.port) as client, contextlib.suppress(OSError):
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)
                while client.recv(4096):
                    pass
        assert (bdii.slapd(), poller.refused) == (pid, [])


@contextlib.contextmanager
def asking_when_up(bdii: Bdii) -> Iterator[Poller]:
    bdii.wait_for_images(20)
    with asking(Poller(bdii.port)) as poller:
        yield poller


def test_a_class_changes_in_place(tmp_path: Path) -> None:
    """It needed another database; slapd's owner may change it with a control."""
    bdii = Bdii(tmp_path)
    plain = tree(3)
    bdii.provide(plain)
    with running(bdii):
        bdii.wait_for_images(3)
        pid = bdii.slapd()
        service = "objectClass: GLUE2Service\n"
        bdii.provide(plain.replace(service, f"{service}objectClass: GLUE2ComputingService\n", 1))
        with asking(Poller(bdii.port)) as poller, asking(TreeReader(bdii.port)) as reader:
            bdii.wait_for(lambda: "GLUE2ComputingService" in bdii.entries()[SERVICE]["objectClass"])
        assert (poller.refused, reader.faults, set(reader.sizes)) == ([], [], {9})
        bdii.provide(plain)  # and back
        bdii.wait_for(lambda: "GLUE2ComputingService" not in bdii.entries()[SERVICE]["objectClass"])
        # a class without an attribute that it must have is refused as before
        bdii.provide(plain.replace("GLUE2ServiceType: org.cloud.iaas\n", ""))
        bdii.wait_for(lambda: "GLUE2ServiceType" in bdii.log)
        assert bdii.slapd() == pid


@pytest.mark.matrix
@pytest.mark.timeout(1800)
def test_clients_through_everything_with_10_000_entries(tmp_path: Path) -> None:
    """The table of F-I4, at its size: only a killed slapd and a restart may be noticed."""
    bdii = Bdii(tmp_path, {"BDII_SHRINK_HOLD": 0, "BDII_BREATHE_TIME": 3600})
    bdii.provide(tree(10_000, words=500))
    with running(bdii):
        bdii.wait_for(lambda: len(images(bdii.entries())) == 10_000, seconds=120)
        bdii.wait_for_cycles(1)
        with (
            asking(Poller(bdii.port)) as poller,
            asking(TreeReader(bdii.port)) as reader,
            asking(TreeReader(bdii.port, pause=0.005)) as slow,
        ):
            for round_ in range(3):
                bdii.provide(tree(10_000, name=f"{round_} ", words=500))
                bdii.wait_for_cycles(2)
                bdii.provide(tree(9_000, name=f"{round_} ", words=500))
                bdii.wait_for_cycles(2)
                os.kill(bdii.engine(), signal.SIGKILL)
                bdii.wait_for_cycles(2)
            assert bdii.signal(signal.SIGKILL) == -signal.SIGKILL
            taken = bdii.log.count("taking over slapd")
            bdii.start()
            bdii.wait_for(lambda: bdii.log.count("taking over slapd") > taken)
            bdii.wait_for_cycles(2)
        assert (poller.refused, reader.faults, slow.faults) == ([], [], [])
        assert min(reader.sizes + slow.sizes) >= 9_006
        with asking(Poller(bdii.port)) as poller:
            # a refusal counts from the answer before it
            bdii.wait_for(lambda: poller.answered > 0)
            os.kill(bdii.slapd(), signal.SIGKILL)
            bdii.wait_for(lambda: poller.longest > 0)
        killed = poller.longest
        with asking(Poller(bdii.port)) as poller, asking(TreeReader(bdii.port)) as reader:
            bdii.wait_for(lambda: poller.answered > 0)
            assert bdii.signal(signal.SIGTERM) == 0
            read = len(reader.sizes)
            bdii.start()
            bdii.wait_for(lambda: len(reader.sizes) > read + 1, seconds=120)
        assert set(reader.sizes) == {9_006}
        print(
            f"refused: {killed:.2f} s after slapd was killed, {poller.longest:.2f} s at a restart"
        )
