"""Providers as programs: which output is accepted, and that no process outlives its time limit."""

import os
import resource
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from appliance.core import ldif
from appliance.core.ldif import Entry
from appliance.core.run.layout import Layout
from bdii import settings, tree
from bdii.service import collect
from bdii.service.state import StateDirectory
from bdii.sources import answers, directories, last_good
from bdii.sources.last_good import LastGood
from bdii.sources.model import LdifSource, SourceAnswer
from tests import foreign
from tests.e2e.bdii_service import Bdii

ENTRY = "dn: GLUE2GroupID=x,o=glue\nobjectClass: GLUE2Group\nGLUE2GroupID: x\n\n"


def ask(
    tmp_path: Path, *scripts: str, timeout: float = 10, before: tuple[SourceAnswer, ...] = ()
) -> list[SourceAnswer]:
    directory = tmp_path / "provider"
    directory.mkdir(exist_ok=True)
    for number, script in enumerate(scripts):
        (directory / f"p{number}").write_text(f"#!/bin/sh\n{script}\n")
        (directory / f"p{number}").chmod(0o755)
    found, _ = directories.find(
        directory, is_program=True, timeout=timedelta(seconds=timeout), limit=1_000_000
    )
    return answers.ask(
        found,
        earlier={a.source: answers.Earlier(a, a.tree or {}) for a in before},
        scratch=tmp_path,
        stop=threading.Event(),
    )


@pytest.mark.parametrize(
    ("script", "count", "failed", "problem"),
    [
        (f"printf '{ENTRY}'", 1, set(), ""),
        (
            f"printf '{ENTRY}# failed: ops\n'; exit 1",
            1,
            {"ops"},
            "provider/p0: VO ops could not be read",
        ),
        (
            f"printf '{ENTRY}# failed: ops\n'; exit 2",
            None,
            set(),
            "provider/p0: failed with status 2",
        ),
        (f"printf '{ENTRY}'; exit 1", None, set(), "provider/p0: failed with status 1"),
        (f"printf '{ENTRY}# failed: \n'; exit 1", None, set(), "provider/p0: failed with status 1"),
        ("echo '# failed: ops'; exit 1", None, set(), "provider/p0: gave no entry"),
        (
            "echo 'no network' >&2; exit 3",
            None,
            set(),
            "provider/p0: failed with status 3: no network",
        ),
        (f"printf '{ENTRY}'; kill -9 $$", None, set(), "provider/p0: failed with signal SIGKILL"),
        (
            f"printf '{ENTRY}dn: nonsense\nobjectClass: x\n'",
            1,
            set(),
            "provider/p0: line 5: nonsense: ",
        ),
        (
            f"printf '{ENTRY}dn: o=grid\nobjectClass: organization\n'",
            1,
            set(),
            "provider/p0: line 5: o=grid: not below",
        ),
        (f"printf '{ENTRY}dn: o=glue\nwhatever\n\n{ENTRY}'", 1, set(), "provider/p0: line 6: nei"),
        # F-I1: an output that was cut within its last record
        (f"printf '{ENTRY}dn: o=glue\nwhat'", None, set(), "provider/p0: its last record is inco"),
        (f"printf '{ENTRY}dn: o=gl'", None, set(), "provider/p0: its last record is incomplete"),
        (f"printf '{ENTRY}dn: o=glue\nobjectClass:'", None, set(), "provider/p0: its last record"),
        (f"printf '{ENTRY}d'", None, set(), "provider/p0: its last record is incomplete"),
        (f"printf '{ENTRY}dn: o=glue\no: glue\n'", None, set(), "provider/p0: its last record is"),
        (
            "yes 'a line of nothing much' >&2; sleep 9",
            None,
            set(),
            "provider/p0: printed more than 1 MB",
        ),
        (
            "yes 'a line of nothing much' | head -c 2000000; sleep 9",
            None,
            set(),
            "provider/p0: printed more than 1 MB",
        ),
    ],
)
def test_output_and_status_make_the_answer(
    tmp_path: Path, script: str, count: int | None, failed: set[str], problem: str
) -> None:
    (answer,) = ask(tmp_path, script.replace("\n", "\\n"))
    assert (None if answer.tree is None else len(answer.tree)) == count
    assert answer.failed == failed
    assert "\n".join(answer.problems).startswith(problem)
    assert bool(answer.problems) == bool(problem)


def test_what_a_failing_program_prints_is_said_once(tmp_path: Path) -> None:
    """The last line is the cause; others are a second line, and not one in each cycle."""
    one, two = ask(
        tmp_path, "echo no network >&2; exit 3", "echo no route >&2; echo none >&2; exit 3"
    )
    assert (one.problems, one.remarks) == (
        ("provider/p0: failed with status 3: no network",),
        (),
    )
    assert (two.problems, two.remarks) == (
        ("provider/p1: failed with status 3: none",),
        ("provider/p1: it also printed: no route",),
    )
    script = f"date +%N >&2; printf '{ENTRY}# failed: ops\n'; exit 1".replace("\n", "\\n")
    first, _ = ask(tmp_path, script)
    for _ in range(3):
        first, _ = ask(tmp_path, script, before=(first,))
    assert first.problems == ("provider/p0: VO ops could not be read",)
    assert len(first.remarks) == 1


@pytest.mark.timed
def test_a_program_that_hangs_is_ended_with_its_children_and_harms_no_neighbour(
    tmp_path: Path,
) -> None:
    started = time.monotonic()
    script = f"trap '' TERM; sleep 300 & echo $! >{tmp_path}/child; wait; sleep 300"
    hanging, good = ask(tmp_path, script, f"printf '{ENTRY}'".replace("\n", "\\n"), timeout=0.5)
    assert time.monotonic() - started < 60
    assert hanging.tree is None
    assert hanging.problems == ("provider/p0: did not end within 0.5 s",)
    assert good.tree is not None
    child = Path("/proc") / (tmp_path / "child").read_text().strip()
    while child.exists() and (child / "stat").read_text().split()[2] != "Z":
        assert time.monotonic() - started < 60
        time.sleep(0.05)


def test_only_providers_are_run_and_one_without_permission_is_reported(tmp_path: Path) -> None:
    directory = tmp_path / "provider"
    directory.mkdir()
    for name in (".hidden", "#edited#", "backup~", "plain"):
        (directory / name).write_text("#!/bin/sh\nexit 0\n")
    (answer,) = ask(tmp_path)
    assert answer.problems == (
        f"provider/plain: is not executable; run chmod +x {directory}/plain",
    )


def test_an_output_with_a_malformed_record_is_not_complete(tmp_path: Path) -> None:
    """F-I1: an entry that is not there may be in the record that cannot be read."""
    scripts = [
        f"{ENTRY}dn: o=glue\nwhatever\n\n{ENTRY}",
        f"{ENTRY}dn: o=glue\no: x\n\n{ENTRY}",
        ENTRY,
    ]
    found = ask(tmp_path, *(f"printf '{text}'".replace("\n", "\\n") for text in scripts))
    assert [answer.is_complete for answer in found] == [False, False, True]


def test_an_unchanged_output_is_the_same_answer(tmp_path: Path) -> None:
    script = f"printf '{ENTRY}'".replace("\n", "\\n")
    (first,) = ask(tmp_path, script)
    (second,) = ask(tmp_path, script, before=(first,))
    (third,) = ask(tmp_path, script.replace("=x", "=y"), before=(first,))
    assert second.repeats(first)
    assert third is not first


def versioned(
    tmp_path: Path, version: str, before: SourceAnswer | None
) -> tuple[SourceAnswer, int]:
    """Ask a source with versions; return its answer, and how often it has been asked for all."""
    count = tmp_path / "count"
    script = f"echo >>{count}; printf '{ENTRY}'".replace("\n", "\\n")
    source = LdifSource(
        "s",
        ["sh", "-c", script],
        is_program=True,
        timeout=timedelta(seconds=10),
        limit=1_000_000,
        version=["sh", "-c", version],
    )
    earlier = {"s": answers.Earlier(before, before.tree or {} if before else {})}
    stop = threading.Event()
    (answer,) = answers.ask([source], earlier=earlier, scratch=tmp_path, stop=stop)
    return answer, len(count.read_text().splitlines())


def test_data_of_a_known_version_are_not_read_again(tmp_path: Path) -> None:
    """A source of 100 000 entries took 0.84 s of the processor in each cycle."""
    first, _ = versioned(tmp_path, "echo v1", None)
    second, count = versioned(tmp_path, "echo v1", first)
    assert (second, count) == (first, 1)
    assert second.repeats(first)
    third, count = versioned(tmp_path, "echo v2", second)
    assert (third.version, count) == ("v2", 2)
    assert third.repeats(first), "the data are the same, although the version is not"
    assert versioned(tmp_path, "echo v2", third)[1] == 2


@pytest.mark.parametrize("version", ["true", "echo v1; exit 1", "yes | head -c 20000", "exit 32"])
def test_without_a_version_all_data_are_read(tmp_path: Path, version: str) -> None:
    first, _ = versioned(tmp_path, version, None)
    assert first.version == ""
    second, count = versioned(tmp_path, version, first)
    assert (second.tree, count) == (first.tree, 2)


def test_a_version_is_trusted_for_a_quarter_of_an_hour(tmp_path: Path) -> None:
    first, _ = versioned(tmp_path, "echo v1", None)
    almost = replace(first, read_at=time.monotonic() - 890)
    assert versioned(tmp_path, "echo v1", almost)[1] == 1
    old = replace(first, read_at=time.monotonic() - 901)
    again, count = versioned(tmp_path, "echo v1", old)
    assert count == 2
    assert versioned(tmp_path, "echo v1", again)[1] == 2


def test_a_version_is_of_the_time_before_the_data_are_read(tmp_path: Path) -> None:
    """A source that changes while it is read has the older version, and is read again."""
    state = tmp_path / "state"
    state.write_text("v1")
    version = f"cat {state}; echo v2 >{state}"
    first, _ = versioned(tmp_path, version, None)
    assert first.version == "v1"
    assert versioned(tmp_path, version, first)[1] == 2


@pytest.mark.timed
def test_stopping_ends_the_programs(tmp_path: Path) -> None:
    (tmp_path / "slow").write_text("#!/bin/sh\nexec sleep 300\n")
    (tmp_path / "slow").chmod(0o755)
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    found, _ = directories.find(tmp_path, is_program=True, timeout=timedelta(seconds=300), limit=1)
    started = time.monotonic()
    (answer,) = answers.ask(found, earlier={}, scratch=None, stop=stop)
    assert time.monotonic() - started < 60
    assert answer.tree is None


def test_an_output_cut_short_by_a_full_disk_is_rejected(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk; the program ignores its failed writes."""
    (tmp_path / "whole").write_text(ENTRY * 2000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(ENTRY) * 1000, before[1]))
    try:
        (answer,) = ask(tmp_path, f"trap '' XFSZ; cat {tmp_path}/whole; exit 0")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert answer.tree is None
    assert answer.problems[0].startswith("provider/p0: its output does not fit")


def gathered(bdii: Bdii, last: Mapping[str, LastGood]) -> collect.Collected:
    read, _ = settings.read(bdii.configuration, layout=Layout(bdii.directory))
    return collect.collect(
        read,
        last,
        size=len(last),
        elapsed=timedelta(),
        before={},
        scratch=None,
        stop=threading.Event(),
    )


def wanted(found: collect.Collected) -> tree.Tree:
    day = timedelta(days=1)
    return last_good.merge(found.last, last_good.Expiry(day, day))[0]


def test_foreign_names_among_the_sources_stop_no_other(tmp_path: Path) -> None:
    """F-H1: a pipe named like an LDIF file blocked all cycles; a looping link ended each one."""
    bdii = Bdii(tmp_path)
    gip = tmp_path / "gip"
    made = foreign.make(gip / "ldif", suffix=".ldif"), foreign.make(gip / "provider")
    (gip / "ldif/good.ldif").write_text(ENTRY)
    bdii.script("cat <<'.'\n" + ENTRY.replace("=x", "=y").replace(": x", ": y") + ".")
    kept = LastGood(tree.of([])[0], datetime.now(UTC))
    last = {f"ldif/{path.name}": kept for path in made[0]}
    found = gathered(bdii, last)
    assert {"glue2groupid=x,o=glue", "glue2groupid=y,o=glue"} < wanted(found).keys()
    assert found.last.keys() == {*last, "ldif/good.ldif", "provider/cloud"}  # kept
    assert len(found.problems) == len(made[0]) + len(made[1])
    assert all("skipped: is a" in line or " (a link); if" in line for line in found.problems)
    ends = ("; if nobody needs it: rm ", "is a device; name a file in its place")
    assert all(any(end in line for end in ends) for line in found.problems)


@pytest.mark.parametrize("kind", ["ldif", "provider"])
def test_an_unreadable_directory_removes_no_entry(tmp_path: Path, kind: str) -> None:
    """F-H1: its sources' last good data stay published, and the other directory goes on."""
    bdii = Bdii(tmp_path)
    (tmp_path / "gip" / kind).rmdir()
    (tmp_path / "gip" / kind).symlink_to(kind)
    other = {"ldif": "provider", "provider": "ldif"}[kind]
    (tmp_path / "gip/ldif/good.ldif").write_text(ENTRY) if other == "ldif" else bdii.script(
        f"echo '{ENTRY}'"
    )
    entries = tree.of(
        [Entry("GLUE2GroupID=z,o=glue", {"objectClass": ("GLUE2Group",), "GLUE2GroupID": ("z",)})]
    )[0]
    found = gathered(bdii, {f"{kind}/old": LastGood(entries, datetime.now(UTC))})
    assert {"glue2groupid=x,o=glue", "glue2groupid=z,o=glue"} < wanted(found).keys()
    assert found.problems == (
        f"{kind}/old: directory {tmp_path}/gip/{kind}: too many levels of symbolic links",
    )


def test_a_source_whose_name_is_not_utf_8_is_stored_like_others(tmp_path: Path) -> None:
    """F-H1: a file name in Latin-1 ended the service when its data were stored."""
    name = "ldif/\udcfc.ldif"
    entries = tree.of(
        [Entry("GLUE2GroupID=z,o=glue", {"objectClass": ("GLUE2Group",), "GLUE2GroupID": ("z",)})]
    )[0]
    now = datetime.now(UTC)
    store = StateDirectory(tmp_path)
    made = foreign.make(tmp_path / "sources", suffix=".ldif")
    with pytest.raises(OSError, match="directory"):  # raised after all else is written
        store.save({name: LastGood(entries, now)})
    assert StateDirectory(tmp_path).load()[name].tree == entries
    (tmp_path / "memory.json").unlink()
    assert StateDirectory(tmp_path).load().keys() == {name}
    assert {path.name for path in made if path.exists()} <= {"directory.ldif", "locked.ldif"}
    (tmp_path / "memory.json").unlink(missing_ok=True)
    os.mkfifo(tmp_path / "memory.json")
    assert StateDirectory(tmp_path).load().keys() == {name}


def test_last_good_data_that_cannot_be_read_are_not_removed() -> None:
    """F-H1: after a run as root, the containers' user deleted the files that it could not read."""
    with foreign.open_to_all() as root:
        entries = tree.of(
            [
                Entry(
                    "GLUE2GroupID=z,o=glue",
                    {"objectClass": ("GLUE2Group",), "GLUE2GroupID": ("z",)},
                )
            ]
        )[0]
        last = LastGood(entries, datetime.now(UTC))
        StateDirectory(root).save({"provider/a": last, "provider/b": last})
        for path in (root / "sources", root / "memory.json"):
            path.chmod(0o777)
        kept = root / "sources/provider%2Fa.ldif"
        kept.chmod(0o600)
        (root / "sources/provider%2Fb.ldif").chmod(0o644)
        code = (
            "from pathlib import Path; from bdii.service.state import StateDirectory\n"
            f"store = StateDirectory(Path({str(root)!r}))\n"
            "last = store.load(); print(sorted(last)); store.save(last)"
        )
        if os.geteuid() == 0:
            assert foreign.as_nobody(code) == "['provider/b']\n"
        assert StateDirectory(root)._read(kept).keys() == entries.keys()


@pytest.mark.parametrize("has_ended", [True, False])
def test_an_output_that_ends_within_a_line_is_cut_if_earlier_ones_were_not(
    tmp_path: Path, has_ended: bool
) -> None:
    """F-I1: a value that is cut off looks whole; some sources never end their last line."""
    bdii = Bdii(tmp_path)
    (tmp_path / "gip/ldif/a.ldif").write_text(ENTRY.rstrip())
    last = LastGood(tree.of([])[0], datetime.now(UTC), is_terminated=has_ended)
    found = gathered(bdii, {"ldif/a.ldif": last})
    assert ("glue2groupid=x,o=glue" in wanted(found)) is not has_ended
    assert (found.last["ldif/a.ldif"].silence is not None) is has_ended
    words = "its last line has no newline, so the output is cut off; end it with a newline"
    assert found.problems == ((f"ldif/a.ldif: {words}",) if has_ended else ())
    (tmp_path / "gip/ldif/a.ldif").write_text(ENTRY)
    assert gathered(bdii, found.last).last["ldif/a.ldif"].is_terminated


def test_a_source_that_is_removed_goes_as_if_it_had_said_that_it_has_nothing(
    tmp_path: Path,
) -> None:
    bdii = Bdii(tmp_path)
    entries = tree.of(ldif.parse(ENTRY.encode()))[0]
    first = gathered(bdii, {"ldif/gone.ldif": LastGood(entries, datetime.now(UTC))})
    assert entries.keys() <= wanted(first).keys()
    assert first.waiting.count == 1
    second = gathered(bdii, {**first.last, "provider/other": LastGood({}, datetime.now(UTC))})
    assert second.last == {}
    assert not entries.keys() & wanted(second).keys()
