"""Our connection to slapd beside OpenLDAP's own client."""

import errno
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.core import ldif
from appliance.core.directory import NO_SUCH_OBJECT, Directory, NoAnswer, Refused, read
from appliance.core.ldif import Entry
from appliance.core.run.errors import LocalFailure, Unavailable
from appliance.core.run.layout import Layout
from bdii import plan, settings, tree
from bdii.slapd import database, served
from bdii.slapd.infosys import Statistics
from bdii.slapd.process import Slapd
from bdii.slapd.publish import Applied, Publisher
from tests.e2e.bdii_service import Bdii, search
from tests.testbed.patience import until


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Slapd]:
    bdii = Bdii(tmp_path)
    read, _ = settings.read(bdii.configuration, layout=Layout(tmp_path))
    made = Slapd(read)
    made.recover()
    made.serve({tree.SUFFIX: Entry("o=glue", {"objectClass": ("organization",), "o": ("glue",)})})
    yield made
    made.stop()


def group(name: str, **attributes: tuple[str, ...]) -> Entry:
    return Entry(
        f"GLUE2GroupID={name},o=glue",
        {"objectClass": ("GLUE2Group",), "GLUE2GroupID": (name,), **attributes},
    )


def service(**attributes: tuple[str, ...]) -> Entry:
    must = {"GLUE2ServiceType": ("t",), "GLUE2ServiceQualityLevel": ("production",)}
    return Entry(
        "GLUE2ServiceID=s,o=glue",
        {
            "objectClass": ("GLUE2Service",),
            "GLUE2ServiceID": ("s",),
            **must,
            "GLUE2ServiceAdminDomainForeignKey": ("X",),
            **attributes,
        },
    )


def test_what_we_write_is_what_ldapsearch_reads(server: Slapd) -> None:
    with server.connect() as directory:
        directory.add(service(GLUE2ServiceCapability=("one", "two"), GLUE2EntityName=("a name",)))
        directory.modify(
            "GLUE2ServiceID=s,o=glue", {"GLUE2ServiceCapability": ("three",), "GLUE2EntityName": ()}
        )
        directory.add(group("gone"))
        directory.delete("GLUE2GroupID=gone,o=glue")
    assert search(server.settings.port) == {
        "o=glue": {"objectClass": ["organization"], "o": ["glue"]},
        "GLUE2ServiceID=s,o=glue": {
            "objectClass": ["GLUE2Service"],
            "GLUE2ServiceID": ["s"],
            "GLUE2ServiceType": ["t"],
            "GLUE2ServiceQualityLevel": ["production"],
            "GLUE2ServiceAdminDomainForeignKey": ["X"],
            "GLUE2ServiceCapability": ["three"],
        },
    }


def test_all_that_slapd_serves_is_read_back(server: Slapd) -> None:
    """ldap3 reads the same entries, by another protocol stack."""
    names = ["é, “x”", " blanks ", "a\nline", *(f"g{number}" for number in range(2300))]
    entries = [
        Entry(ldif.child("o=glue", "GLUE2GroupID", name), group(name).attributes) for name in names
    ]
    with server.connect() as directory:
        for entry in entries:
            directory.add(entry)
    found = list(served.entries(server.settings.socket))
    known = list(read("127.0.0.1", port=server.settings.port, base="o=glue"))
    assert len(found) == len(known) == 2304
    assert {entry.dn: dict(entry.attributes) for entry in found} == {
        entry.dn: dict(entry.attributes) for entry in known
    }
    assert {tree.normal(entry.dn): entry.attributes for entry in found[1:]} == {
        tree.normal(entry.dn): entry.attributes for entry in entries
    }


def test_a_tree_that_is_read_in_part_is_no_tree(server: Slapd) -> None:
    """slapd ends in the middle of its answer."""
    large = service(GLUE2EntityOtherInfo=("x" * 500_000,)).attributes
    with server.connect() as directory:
        for number in range(20):
            name = {"GLUE2ServiceID": (f"s{number}",)}
            directory.add(Entry(f"GLUE2ServiceID=s{number},o=glue", {**large, **name}))
    found = served.entries(server.settings.socket)
    assert next(found).dn == "o=glue"
    os.kill(int((server.settings.state / "slapd.pid").read_text()), signal.SIGKILL)
    with pytest.raises(NoAnswer, match="does not answer"):
        list(found)
    with pytest.raises(NoAnswer, match="Can't contact LDAP server"):
        list(served.entries(server.settings.socket))


@pytest.mark.parametrize(
    ("entry", "code"),
    [
        (group("x", nosuch=("1",)), 17),
        (group("x", GLUE2EntityName=("1",)), 65),
        (service(GLUE2ServiceCapability=("",)), 21),
        (Entry("GLUE2GroupID=x,GLUE2GroupID=none,o=glue", group("x").attributes), NO_SUCH_OBJECT),
        (Entry("o=glue", {"objectClass": ("organization",), "o": ("glue",)}), 68),
        (Entry("nonsense", {"objectClass": ("organization",), "o": ("glue",)}), 34),
        (Entry("GLUE2GroupID=\udcff,o=glue", group("x").attributes), 2),
    ],
)
def test_a_refusal_has_slapd_s_code_and_the_connection_goes_on(
    server: Slapd, entry: Entry, code: int
) -> None:
    with server.connect() as directory:
        with pytest.raises(Refused) as refused:
            directory.add(entry)
        assert refused.value.code == code
        directory.add(group("after"))


def test_a_missing_or_killed_server_is_unavailable(server: Slapd, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="does not answer"):
        Directory(tmp_path / "none")
    with server.connect() as directory:
        os.kill(int((server.settings.state / "slapd.pid").read_text()), signal.SIGKILL)
        with pytest.raises(Unavailable, match="does not answer"):
            directory.add(group("x"))


def test_after_a_lost_answer_the_publisher_reads_the_tree_again(server: Slapd) -> None:
    publisher = Publisher(server, {})
    publisher.synchronise()
    assert {*publisher.published} == {"o=glue"}
    wanted = {**publisher.published, **tree.of(group(f"g{number}") for number in range(3))[0]}
    pid = int((server.settings.state / "slapd.pid").read_text())
    stop_all_threads(pid)
    threading.Timer(0.5, os.kill, (pid, signal.SIGKILL)).start()
    with pytest.raises(Unavailable):
        publisher.apply(plan.make(publisher.published, wanted), threading.Event())
    server.serve(publisher.published)
    publisher.synchronise()
    publisher.apply(plan.make(publisher.published, wanted), threading.Event())
    assert {*publisher.published} == {*wanted}
    with (
        server.connect() as directory
    ):  # unknown to the publisher, like a change whose answer was lost
        directory.add(group("late"))
    publisher._is_unsure = True
    publisher.synchronise()
    assert {tree.normal(dn) for dn in search(server.settings.port)} == {*publisher.published}


def stop_all_threads(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    while any(
        stat.read_text().rpartition(") ")[2][0] != "T"
        for stat in Path(f"/proc/{pid}/task").glob("*/stat")
    ):
        time.sleep(0.01)


def test_the_time_of_a_query_is_measured(server: Slapd) -> None:
    """F-I10: QueryTime was always 0."""
    publisher = Publisher(server, {})
    pid = int((server.settings.state / "slapd.pid").read_text())
    stop_all_threads(pid)
    threading.Timer(1.7, os.kill, (pid, signal.SIGCONT)).start()
    publisher.publish_statistics("localhost", Statistics(reading=3.4))
    found = search(server.settings.port, "o=infosys")["Hostname=localhost,o=infosys"]
    assert int(found["QueryTime"][0]) >= 2
    assert found["ReadTime"] == ["3"]


def version(server: Slapd) -> str:
    """Return the version of the tree; empty if there is none."""
    try:
        found = search(server.settings.port, "o=infosys")["o=infosys"]
    except subprocess.CalledProcessError:
        return ""
    return "".join(found.get("TreeVersion", []))


def test_each_tree_has_its_version_and_one_that_changes_has_none(server: Slapd) -> None:
    publisher = published(server)
    assert version(server) == ""
    wanted = tree.complete(tree.of([group("a"), group("b")])[0])[0]
    applied(publisher, wanted)
    publisher.publish_statistics("localhost", Statistics())
    first = version(server)
    assert first
    applied(publisher, wanted)
    publisher.publish_statistics("another-name", Statistics())
    assert version(server) == first, "nothing has changed"
    figures = search(server.settings.port, "o=infosys").keys() - {"o=infosys"}
    assert figures == {"Hostname=another-name,o=infosys"}, "the earlier name has gone"
    applied(publisher, tree.complete(tree.of([group("a")])[0])[0])
    assert version(server) == "", "until the cycle ends, readers may have seen either tree"
    publisher.publish_statistics("localhost", Statistics())
    second = version(server)
    assert second not in ("", first)
    # the next program does not know what the one before has done
    applied(Publisher(server, {}), wanted)
    assert version(server) == ""


def test_a_tree_of_which_nobody_is_sure_has_no_version(server: Slapd) -> None:
    publisher = published(server)
    publisher._is_unsure = True
    publisher.publish_statistics("localhost", Statistics())
    assert version(server) == ""
    publisher.synchronise()
    publisher.publish_statistics("localhost", Statistics())
    assert version(server)


def test_a_version_whose_answer_is_lost_is_withdrawn_before_the_next_change(
    server: Slapd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """slapd has it, and readers may have seen it."""
    publisher = published(server)
    applied(publisher, tree.complete(tree.of([group("a")])[0])[0])
    with monkeypatch.context() as patched:
        lose_answers_about_versions(patched)
        with pytest.raises(NoAnswer):
            publisher.publish_statistics("localhost", Statistics())
    assert until(lambda: version(server) != "", seconds=60)
    applied(publisher, tree.complete(tree.of([group("b")])[0])[0])
    assert version(server) == ""


def test_a_version_of_which_it_is_unknown_whether_it_was_withdrawn_is_replaced(
    server: Slapd, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher = published(server)
    wanted = tree.complete(tree.of([group("a")])[0])[0]
    applied(publisher, wanted)
    publisher.publish_statistics("localhost", Statistics())
    with monkeypatch.context() as patched:
        lose_answers_about_versions(patched)
        with pytest.raises(NoAnswer):
            applied(publisher, tree.complete(tree.of([group("b")])[0])[0])
    assert until(lambda: version(server) == "", seconds=60)
    applied(publisher, wanted)  # nothing to do
    publisher.publish_statistics("localhost", Statistics())
    assert version(server)


def lose_answers_about_versions(patched: pytest.MonkeyPatch) -> None:
    """Let requests about the version reach slapd, and break the connection before the answer."""
    modify = Directory.modify

    def unanswered(directory: Directory, dn: str, changes: Mapping[str, Sequence[str]]) -> None:
        if "TreeVersion" in changes:
            directory._connection.socket.shutdown(socket.SHUT_RD)
        modify(directory, dn, changes)

    patched.setattr(Directory, "modify", unanswered)


def test_once_a_day_the_served_tree_is_compared(
    server: Slapd, caplog: pytest.LogCaptureFixture
) -> None:
    publisher = published(server)
    wanted = {**publisher.published, **tree.of(group(f"g{number}") for number in range(3))[0]}
    applied(publisher, wanted)
    with server.connect() as directory:  # as nobody else should
        directory.add(group("foreign"))
        directory.delete("GLUE2GroupID=g0,o=glue")
    assert not applied(publisher, wanted).made, "it is not due yet"
    publisher._compared -= 86401
    assert len(applied(publisher, wanted).made) == 2
    assert "slapd served 2 entries that differ from those published" in caplog.text
    caplog.clear()
    publisher._compared -= 86401
    assert not applied(publisher, wanted).made
    assert "unlike" not in caplog.text
    assert {tree.normal(dn) for dn in search(server.settings.port)} == {*wanted}


def test_a_plan_for_one_slapd_is_not_carried_out_in_another(server: Slapd) -> None:
    publisher = Publisher(server, {})
    publisher.synchronise()
    wanted = {**publisher.published, **tree.of([group("g")])[0]}
    changes = plan.make(publisher.published, wanted)
    server.serve(publisher.published)
    with pytest.raises(Unavailable, match="was restarted"):
        publisher.apply(changes, threading.Event())
    publisher.synchronise()
    publisher.apply(plan.make(publisher.published, wanted), threading.Event())
    publisher.synchronise()
    assert {*publisher.published} == {*wanted}
    assert {tree.normal(dn) for dn in search(server.settings.port)} == {*wanted}


def test_a_failed_start_leaves_the_published_tree_unchanged(server: Slapd) -> None:
    publisher = Publisher(server, {})
    publisher.synchronise()
    wanted = {**publisher.published, **tree.of([group("g")])[0]}
    publisher.apply(plan.make(publisher.published, wanted), threading.Event())
    server.stop()
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", server.settings.port))
        taken.listen()
        with pytest.raises(Unavailable, match="is taken"):
            server.serve(wanted)
    publisher.synchronise()
    assert {*publisher.published} == {*wanted}


def test_a_start_removes_no_database_of_another_program(server: Slapd) -> None:
    foreign = server.settings.state / "db/glue"
    foreign.mkdir()
    (foreign / "data.mdb").write_text("of the bdii package's slapd")
    left = server.settings.state / "db/7"
    left.mkdir()
    server.stop()
    server.recover()
    assert (foreign / "data.mdb").exists()
    assert not left.exists()


MORE_THAN_SLAPD_TAKES = 2**24
"""Just above sockbuf_max_incoming_auth, its limit for a writer's request: it disconnects."""


def published(server: Slapd) -> Publisher:
    made = Publisher(server, {})
    made.synchronise()
    return made


def applied(publisher: Publisher, wanted: tree.Tree) -> Applied:
    publisher.synchronise()
    return publisher.apply(plan.make(publisher.published, wanted), threading.Event())


def test_an_entry_at_which_slapd_closes_the_connection_stops_no_other(server: Slapd) -> None:
    """F-S1, of entries: it blocked all later changes for ever, and slapd was killed each time."""
    publisher = published(server)
    huge = service(GLUE2EntityOtherInfo=("x" * MORE_THAN_SLAPD_TAKES,))
    below = Entry(f"GLUE2GroupID=b,{huge.dn}", group("b").attributes)
    entries = (group("a"), huge, below, group("z"))
    wanted = {**publisher.published, **{tree.normal(entry.dn): entry for entry in entries}}
    pid = (server.settings.state / "slapd.pid").read_text()
    done = applied(publisher, wanted)
    assert search(server.settings.port).keys() == {
        "o=glue",
        "GLUE2GroupID=a,o=glue",
        "GLUE2GroupID=z,o=glue",
    }
    assert (len(done.made), len(done.failed)) == (2, 2)
    assert "slapd closes the connection or does not answer" in done.failed[0][1]
    assert done.failed[1][1] == "the entry above it is not published"
    again = applied(publisher, wanted)  # not tried again, because the reason is remembered
    assert [change.dn for change, _ in again.failed] == [change.dn for change, _ in done.failed]
    assert (server.settings.state / "slapd.pid").read_text() == pid
    smaller = {**wanted, tree.normal(huge.dn): service()}
    assert len(applied(publisher, smaller).made) == 2
    assert len(search(server.settings.port)) == 5


def test_a_change_that_meets_a_restart_of_slapd_is_not_blamed(server: Slapd) -> None:
    """F-S1: the next plan has it last, and then it succeeds."""
    publisher = published(server)
    wanted = tree.complete(tree.of([group("a"), group("b")])[0])[0]
    connect = server.connect

    def broken() -> Directory:
        made = connect()
        made._connection.socket.shutdown(socket.SHUT_RDWR)
        server.give_up(server.generation)
        return made

    server.connect = broken  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        applied(publisher, wanted)
    server.connect = connect  # type: ignore[method-assign]
    server.serve(publisher.published)
    done = applied(publisher, wanted)
    assert (len(done.made), done.failed) == (2, [])
    assert search(server.settings.port).keys() == {
        "o=glue",
        "GLUE2GroupID=a,o=glue",
        "GLUE2GroupID=b,o=glue",
    }


def test_an_entry_that_ends_slapd_each_time_is_set_aside_in_the_end(server: Slapd) -> None:
    """F-S1, of entries: while slapd is down no entry is blamed, until it crashes slapd again."""
    publisher = published(server)
    wanted = tree.complete(tree.of([group("a"), group("poison"), group("z")])[0])[0]
    poison = tree.normal("GLUE2GroupID=poison,o=glue")
    change_one = publisher._change_one

    def ends_slapd(directory: Directory, change: plan.Change, now: dict[tree.Dn, Entry]) -> str:
        if change.dn == poison:
            server.give_up(server.generation)
        return change_one(directory, change, now)

    publisher._change_one = ends_slapd  # type: ignore[method-assign]
    for _ in range(2):
        with pytest.raises(Unavailable):
            applied(publisher, wanted)
        server.revive(publisher.published)
    [(change, reason)] = applied(publisher, wanted).failed
    server.revive(publisher.published)
    assert search(server.settings.port).keys() == {
        "o=glue",
        "GLUE2GroupID=a,o=glue",
        "GLUE2GroupID=z,o=glue",
    }
    assert change.dn == poison
    assert "set aside for an hour" in reason


def test_a_disk_that_does_not_give_entries_back_is_not_the_fault_of_slapd(server: Slapd) -> None:
    def unreadable() -> Iterator[bytes]:
        yield b""
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.raises(LocalFailure) as failure:
        database._run_tool(server.settings, "slapadd", "-f", "/none", given=unreadable())
    assert "SLAPD" not in str(failure.value)
    assert not any(isinstance(each, threading.Timer) for each in threading.enumerate())
    missing = replace(server.settings, slapd=Path("/none/slapd"))
    with pytest.raises(LocalFailure, match=r"^/none/slapd: .*; install slapd, or set SLAPD"):
        database._run_tool(missing, "slapadd")


WRAPPER = """\
#!/bin/bash
# slapd and its tools, but crashing without a message at certain entries.
case " $* " in *" -q "*) ;; *) exec /usr/sbin/slapd "$@" ;; esac
text=$(mktemp)
cat >"$text"
grep -q POISON "$text" && rm "$text" && kill -SEGV $$
grep -q '^changetype' "$text" && tool=slapmodify || tool=slapadd
exec -a $tool /usr/sbin/slapd "$@" <"$text"
"""


def test_entries_at_which_slapadd_breaks_stop_no_others(tmp_path: Path) -> None:
    """F-S1, of entries: one of them kept the service from starting."""
    wrapper = tmp_path / "slapd"
    wrapper.write_text(WRAPPER)
    wrapper.chmod(0o755)
    read, _ = settings.read(
        Bdii(tmp_path, {"SLAPD": wrapper}).configuration, layout=Layout(tmp_path)
    )
    made = Slapd(read)
    made.recover()
    bad = [group(f"bad{n}", description=("POISON",)) for n in range(2)]
    below = Entry(f"GLUE2GroupID=b,{bad[0].dn}", group("b").attributes)
    wanted = tree.complete(tree.of([*(group(f"good{n}") for n in range(20)), *bad, below])[0])[0]
    try:
        served = made.serve(wanted)
        assert len(search(made.settings.port)) == 21
        assert {tree.normal(entry.dn) for entry in (*bad, below)} == served.refused.keys()
        assert "slapadd fails at this entry" in served.refused[tree.normal(bad[1].dn)]
        wrapper.write_text("#!/bin/sh\nexit 3\n")  # not the fault of an entry
        with pytest.raises(Unavailable, match="slapadd failed: status 3"):
            made.serve(wanted)
    finally:
        made.stop()
