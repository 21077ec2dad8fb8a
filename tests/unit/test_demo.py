"""What counts for the demo, against sums done by hand and by another way of counting."""

import random
import re
import shutil
import socket
import sqlite3
import subprocess
import threading
from calendar import monthrange
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.demo import accounting, accounting_kinds, counters, introduction, report, sabotage
from tests.demo.accounting_site import AccountingSite
from tests.demo.counters import Usage
from tests.demo.site import Site
from tests.testbed import Seed, Testbed
from tests.testbed.processes import Records
from tests.testbed.seed import ApplicationCredential, Project

TOP = Path(__file__).parents[2]
UNTIL = datetime(2026, 3, 10, 12, tzinfo=UTC)


def database(path: Path, rows: list[tuple[str | None, ...]]) -> Path:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "CREATE TABLE instances (uuid TEXT, project_id TEXT, created_at TEXT, "
            "launched_at TEXT, terminated_at TEXT, deleted_at TEXT)"
        )
        connection.executemany("INSERT INTO instances VALUES (?, ?, ?, ?, ?, ?)", rows)
    return path


def test_hours_are_cut_at_the_last_second_of_a_month(tmp_path: Path) -> None:
    rows: list[tuple[str | None, ...]] = [
        (
            "over the end",
            "p",
            "2026-01-31 23:59:00",
            "2026-01-31 23:59:05",
            "2026-02-01 00:01:00",
            None,
        ),
        ("still there", "p", "2026-03-10 11:00:00", "2026-03-10 11:00:05", None, None),
        (
            "deleted later",
            "p",
            "2026-03-10 11:30:00",
            "2026-03-10 11:30:05",
            "2026-03-11 00:00:00",
            None,
        ),
        ("made later", "p", "2026-03-10 12:00:01", "2026-03-10 12:00:05", None, None),
        ("never ran", "p", "2026-03-01 00:00:00", None, "2026-03-01 00:01:00", None),
        (
            "to the second",
            "r",
            "2026-01-31 23:59:50",
            "2026-01-31 23:59:50",
            "2026-02-01 00:00:00",
            None,
        ),
        (
            "of another",
            "q",
            "2026-03-01 00:00:00",
            "2026-03-01 00:00:05",
            None,
            "2026-03-01 00:00:10",
        ),
    ]
    odd = tmp_path / "a 100% odd#name?"
    odd.mkdir()
    assert counters.nova_usage(database(odd / "nova.sqlite", rows), UNTIL) == {
        ("p", "2026-01"): Usage(1, 59),
        ("p", "2026-02"): Usage(1, 61),
        ("p", "2026-03"): Usage(2, 3600 + 1800),
        ("q", "2026-03"): Usage(1, 10),
        ("r", "2026-01"): Usage(1, 9),
        ("r", "2026-02"): Usage(1, 1),
    }


def test_the_months_of_any_server_add_up_to_its_life(tmp_path: Path) -> None:
    lot = random.Random(1)
    begin = datetime(2024, 1, 1, tzinfo=UTC)
    rows: list[tuple[str | None, ...]] = []
    expected: dict[tuple[str, str], Usage] = {}
    for number in range(200):
        born = begin + timedelta(seconds=lot.randrange(60_000_000))
        died = min(born + timedelta(seconds=lot.randrange(20_000_000)), UNTIL)
        project = f"p{number}"
        rows.append((project, project, f"{born:%F %T}", f"{born:%F %T}", f"{died:%F %T}", None))
        # a month counts from the last second that the one before it counted
        start, before = born, born
        while before < died:
            last = datetime(
                start.year,
                start.month,
                monthrange(start.year, start.month)[1],
                23,
                59,
                59,
                tzinfo=UTC,
            )
            end = min(last, died)
            expected[project, f"{start:%Y-%m}"] = Usage(1, int((end - before).total_seconds()))
            start, before = last + timedelta(seconds=1), end
    assert counters.nova_usage(database(tmp_path / "nova.sqlite", rows), UNTIL) == expected


def record(server: str, end: str, wall: int, status: str = "started") -> dict[str, str]:
    moment = int(datetime.fromisoformat(end).replace(tzinfo=UTC).timestamp())
    end_time = str(moment) if status == "completed" else "None"
    return {
        "VMUUID": server, "LocalGroupId": "p", "Status": status,
        "StartTime": str(moment - wall), "EndTime": end_time, "WallDuration": str(wall),
    }  # fmt: skip


def test_the_last_record_of_a_month_wins_and_months_are_growths() -> None:
    told = [
        record("a", "2026-01-31 23:59:59", 59),
        record("a", "2026-02-10 00:00:00", 100),
        record("a", "2026-02-11 00:00:00", 90, "completed"),
        record("b", "2026-02-11 00:00:00", 5),
        record("b", "2026-02-11 00:00:00", 5),
    ]
    months, repeated = counters.accounted(told)
    assert months == {("p", "2026-01"): Usage(1, 59), ("p", "2026-02"): Usage(2, 31 + 5)}
    assert repeated == 1
    text = "APEL-cloud-message: v0.4\nVMUUID: a\nSiteName: x: y\n%%\nVMUUID: b\n%%\n"
    assert list(counters.records([text])) == [{"VMUUID": "a", "SiteName": "x: y"}, {"VMUUID": "b"}]


SEED = Seed(
    projects={"p": Project("p", "p", "Default", "default", "vo.example.org", ())},
    users={}, accounts={}, application_credential=ApplicationCredential("", "", "p"),
    flavors={}, images={}, networks={}, servers={}, floating_ips=(), volumes={},
)  # fmt: skip


def test_a_record_that_comes_twice_is_seen_although_the_last_one_wins(tmp_path: Path) -> None:
    testbed = Testbed(tmp_path, 1)
    testbed.nova_database.parent.mkdir()
    born = "2026-03-10 11:00:00"
    database(testbed.nova_database, [("a", "p", born, born, None, None)])
    block = "\n".join(
        f"{key}: {value}" for key, value in record("a", "2026-03-10 12:00:00", 3600).items()
    )
    once, twice = (
        "APEL-cloud-message: v0.4\n" + "%%\n".join([block + "\n"] * times) for times in (1, 2)
    )
    stage = accounting.Stage(testbed, SEED, UNTIL, print)
    for message, records, verdict in ((once, "1", True), (twice, "2", False)):
        rows = {
            row.flow: row
            for row in stage._rows("act", accounting.Delivery([message], [message], [message]))
        }
        counted = rows["records, one a VM and month"]
        assert (counted.done, counted.delivered, counted.counted, counted.is_equal) == (
            records,
            records,
            "1",
            verdict,
        )
        assert rows["usage of vo.example.org in 2026-03"].is_equal
        assert rows["signed messages"].is_equal


def make(path: Path, table: str, columns: str, *rows: tuple[object, ...]) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"CREATE TABLE {table} ({columns})")
        marks = ", ".join("?" * len(rows[0]))
        connection.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)  # noqa: S608


def test_kinds_are_counted_in_the_databases(tmp_path: Path) -> None:
    """Of the projects with a VO: what is deleted, foreign or was never launched does not count."""
    testbed = Testbed(tmp_path, 1)
    layout = testbed.layout
    testbed.nova_database.parent.mkdir()
    make(
        *(layout.database("cinder"), "volumes", "project_id, size, deleted"),
        *(("p", 10, 0), ("p", 20, 0), ("p", 40, 1), ("other", 80, 0)),
    )
    make(layout.database("neutron"), "floatingips", "project_id", ("p",), ("p",), ("other",))
    make(
        *(testbed.nova_database, "instances", "uuid, project_id, launched_at"),
        *(("a", "p", "x"), ("b", "p", None), ("c", "p", "x"), ("d", "other", "x")),
    )
    gpu = '{"name": "gpu.a100"}'
    make(
        *(testbed.nova_database, "instance_extra", "instance_uuid, flavor"),
        *(("a", gpu), ("b", gpu), ("c", '{"name": "gpu.a100x"}'), ("d", gpu)),
    )
    star = "http://eu-emi.eu/namespaces/2011/02/storagerecord"
    volumes = "".join(
        f'<r:StorageUsageRecord><r:RecordIdentity r:recordId="{key}"/>'
        f"<r:ResourceCapacityUsed>{size * 2**30}</r:ResourceCapacityUsed></r:StorageUsageRecord>"
        for key, size in (("v", 10), ("w", 20), ("w", 20))
    )
    done = {
        "storage": [f'<r:StorageUsageRecords xmlns:r="{star}">{volumes}</r:StorageUsageRecords>'],
        "ip": ['{"UsageRecords": [{"IPCount": 1}]}', '{"UsageRecords": [{"IPCount": 1}]}'],
        "accelerator": ['{"UsageRecords": [{"AssociatedRecord": "a"}, {"AssociatedRecord": "a"}]}'],
    }
    rows = accounting_kinds.rows(testbed, SEED, done, done | {"ip": done["ip"][:1]})
    assert [(row.done, row.counted, row.is_equal) for row in rows] == [
        ("2 volumes, 30 GiB", "2 volumes, 30 GiB", True),
        ("2 addresses", "2 addresses", False),
        ("1 servers with GPUs", "1 servers with GPUs", True),
    ]


@contextmanager
def broker(pieces: list[bytes]) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                for piece in pieces:
                    connection.sendall(piece)
                connection.settimeout(10)
                while connection.recv(4096):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join()


def test_frames_come_in_any_pieces() -> None:
    frames = (
        b"CONNECTED\nversion:1.1\n\n\0\n"
        b"MESSAGE\nsubscription:1\ncontent-length:5\n\na\0\n\nb\0\n"
        b"MESSAGE\nsubscription:1\n\ntext\0\n\n"
        b"RECEIPT\nreceipt-id:1\n\n\0"
    )
    for size in (1, 7, len(frames)):
        with broker([frames[at : at + size] for at in range(0, len(frames), size)]) as port:
            assert list(counters.copies_of_messages(port, "/queue/x")) == [b"a\0\n\nb", b"text"]


def test_a_row_is_equal_only_if_all_three_are() -> None:
    for done, delivered, counted, is_equal in (
        ("1", "1", "1", True), ("1", "1", "2", False),
        ("1", "2", "1", False), ("2", "1", "1", False),
    ):  # fmt: skip
        row = report.Row("act", "flow", done, delivered, counted, "somebody")
        assert row.is_equal is is_equal
        assert report.table([row]).splitlines()[2] == "act:"
        assert report.table([row]).splitlines()[3].split() == [
            *("flow", done, delivered, counted, "somebody", "yes" if is_equal else "NO"),
        ]


class Scripted(Site):
    """A site where every program is one script of the shell, which finds the spool in ``$1``."""

    def command(self, program: str, *arguments: str) -> list[str]:
        script = (self.root / "script").read_text()
        return ["sh", "-euc", script, program, str(AccountingSite(self).spool), *arguments]


class Alone(accounting.Stage):
    """A stage without a broker: what is in the spool arrives."""

    def _receive(self, site: AccountingSite, spooled: list[str]) -> accounting.Delivery:
        return accounting.Delivery(spooled, site.spooled(), spooled)


TEN = "0 1 2 3 4 5 6 7 8 9"


@pytest.mark.parametrize(
    ("script", "attempts", "counted"),
    [
        (
            (
                f'd=$1/00000000; mkdir -p "$d"; '
                f'for i in {TEN}; do echo >"$d/0000000000000$i"; sleep 0.05; done'
            ),
            1,
            "1",
        ),
        (
            (
                f'd=$1/n; mkdir -p "$d"; for i in {TEN}; do echo >"$d/0000000000000$i"; done; '
                'mv -T "$d" "$1/00000000"'
            ),
            5,
            "0",
        ),
    ],
)
def test_a_kill_counts_only_in_the_middle_of_the_work(
    tmp_path: Path, script: str, attempts: int, counted: str
) -> None:
    testbed = Testbed(tmp_path, 1)
    testbed.nova_database.parent.mkdir()
    database(testbed.nova_database, [])
    begun = []

    def begin() -> AccountingSite:
        site = AccountingSite(Scripted.fresh(tmp_path / "site"))
        site.site.write("script", f'rm -rf "$1/00000000"; {script}')
        begun.append(site)
        return site

    rows = Alone(testbed, SEED, UNTIL, print).extract_killed(begin)
    assert (len(begun), rows[0].counted) == (attempts, counted)
    assert rows[0].is_equal is (counted == "1")
    assert [(row.flow, row.counted) for row in rows[1:]] == [
        ("records, one a VM and month", "0"), ("signed messages", "10")
    ]  # fmt: skip


def test_a_kill_that_found_the_program_ended_did_not_strike() -> None:
    killed = []
    with subprocess.Popen(["true"], text=True) as ended:
        ended.wait()
        assert not sabotage.kill_at_work(
            ended, has_begun=lambda: False, kill=lambda: killed.append(ended)
        )
    with subprocess.Popen(["sleep", "60"], text=True) as running:
        assert sabotage.kill_at_work(running, has_begun=lambda: True, kill=running.kill)
    assert (killed, running.returncode) == ([ended], -9)
    for is_running, is_half_done in ((True, True), (True, False), (False, True), (False, False)):
        row = sabotage.strike(
            "act", is_running=is_running, is_half_done=is_half_done, counted_by="somebody"
        )
        assert row.is_equal is (is_running and is_half_done)


def test_an_act_is_played_again_only_while_nothing_but_its_kill_says_no() -> None:
    yes, no = (report.Row("act", "flow", "1", "1", counted, "somebody") for counted in ("1", "2"))
    for told, expected in (
        ([(yes, [yes])], [yes, yes]),
        ([(no, [yes]), (no, [yes]), (yes, [yes])], [yes, yes]),
        ([(no, [yes]), (no, [yes, no])], [no, yes, no]),
        ([(yes, [no])], [yes, no]),
        ([(no, [yes])] * 5, [no, yes]),
    ):
        acts = iter(told)
        assert sabotage.until_struck(lambda acts=acts: next(acts), print) == expected  # type: ignore[misc]
        assert not list(acts)


def test_the_help_names_every_argument_that_the_demo_takes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert introduction.main(["--help"]) == 0
    shown = capsys.readouterr().out
    for argument in ("--keep", "--clean", "--state"):
        assert argument in shown
        assert introduction.main([argument, "x"] if argument == "--state" else [argument]) == 0
    assert introduction.main(["--stat", "x"]) == 2


@pytest.mark.parametrize("arguments", [[], ["--containers"]])
def test_the_introduction_names_every_package_before_it_is_installed(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    (line,) = re.findall(r"^debian (.*)$", (TOP / "scripts/demo").read_text(), re.MULTILINE)
    (in_containers,) = re.findall(
        r"^CONTAINER_PACKAGES=\((.*)\)$", (TOP / "scripts/lib.sh").read_text(), re.MULTILINE
    )
    assert introduction.main(arguments) == 0
    (told,) = re.findall(r"Debian\s+packages ([^(]*)\(", capsys.readouterr().out)
    assert told.replace(",", " ").split() == line.split() + (
        in_containers.split() if arguments else []
    )
    (helped,) = re.findall(r"Debian packages ([^;]*);", introduction.HELP)
    assert helped.replace(",", " ").split() == in_containers.split()


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """Return a checkout without any environment, and without the locks to make one from."""
    top = tmp_path / "a check out"
    for name in ("scripts", "appliance/core", "tests/demo", "tests/testbed"):
        shutil.copytree(TOP / name, top / name, ignore=shutil.ignore_patterns("__pycache__"))
    return top


def cleaned(top: Path) -> subprocess.CompletedProcess[str]:
    command = [str(top / "scripts/demo"), "--clean"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd="/")


@pytest.mark.long
def test_cleaning_needs_no_environment_and_takes_nothing_of_others(bare: Path) -> None:
    state = bare / ".cache/demo"
    (state / "site-images").mkdir(parents=True)
    assert cleaned(bare).stdout == f"{state} holds nothing of the demo\n"
    assert (state / "site-images").exists()
    (state / "testbed").mkdir()
    (state / "testbed/instance.json").touch()
    (state / "of somebody").touch()
    records = Records(state / "testbed/run")
    records.start("broker", command=["sleep", "60"], output=state / "testbed/log")
    process = records.find("broker")
    assert process is not None
    shown = cleaned(bare)
    assert (shown.returncode, shown.stdout, shown.stderr) == (
        0,
        f"what the demo made in {state} is gone\n",
        "",
    )
    assert not process.is_alive
    assert [path.name for path in state.iterdir()] == ["of somebody"]
    assert list((bare / ".cache/env").iterdir()) == []
    (state / "of somebody").unlink()
    (state / "testbed").mkdir()
    (state / "testbed/instance.json").touch()
    assert cleaned(bare).returncode == 0
    assert not state.exists()


def test_without_a_python_the_demo_says_why_it_wants_one(bare: Path, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "dirname", "mkdir", "grep"):
        (programs / name).symlink_to(str(shutil.which(name)))
    for name, text in (("id", "echo 1000"), ("dpkg-query", "exit 1")):
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    command = [str(bare / "scripts/demo")]
    variables = {"PATH": str(programs)}
    shown = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=30, env=variables
    )
    assert (shown.returncode, shown.stdout) == (2, "")
    why, what = shown.stderr.splitlines()
    assert "Python" in why
    assert why.endswith("first the Debian package python3.")
    assert what == "error: missing Debian packages; run: sudo apt-get install python3"
