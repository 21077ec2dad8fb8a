"""Probes of `appliance check`: in parallel, each with its deadline, its ids and its needs."""

from __future__ import annotations

import functools
import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from appliance.admin import settings
from appliance.admin.check import check, endpoints, inside, parallel, registry
from appliance.admin.check.inside import Depth
from appliance.admin.check.probe import LONG, CheckedSite, Need, Probe
from appliance.admin.check.programs import Programs, row_of_container
from appliance.admin.check.report import CheckReport
from appliance.admin.command import main
from appliance.admin.inventory import JOBS, SERVICES, Flow
from appliance.admin.runtime import compose, compose_output
from appliance.core.config.settings import ENDPOINT, Value
from appliance.core.run.errors import Unavailable
from appliance.core.run.finding import Finding, of_json
from appliance.core.run.layout import Layout
from tests import documents

pytestmark = pytest.mark.root

FAULT = Finding("/etc/x.conf", 3, "a", "is wrong; write b", "C02.a", tried="GET /x")
WARNING = Finding("/etc/x.conf", 4, "b", "is odd; write c", "C05.b", is_error=False)


def bare(root: Path, **changes: Any) -> CheckedSite:
    """Return a site without files, whose programs are not checked."""
    layout = Layout(root)
    host = settings.load(layout)
    programs = Programs(host, layout, {}, depth=Depth.CONFIGURATION)
    return CheckedSite(host, layout, datetime.now(UTC), programs, **changes)


def probe(
    find: Callable[[CheckedSite], Iterable[Finding]],
    *rows: str,
    needs: Need = Need.HOST,
    deadline: timedelta = LONG,
    **more: Any,
) -> Probe:
    return Probe(rows or ("C02",), "a thing", needs, find, deadline, **more)


def nothing(_: CheckedSite) -> Sequence[Finding]:
    return ()


def itself(found: Sequence[Finding], _: CheckedSite) -> Sequence[Finding]:
    return found


def outcomes(root: Path, *probes: Probe) -> dict[str, parallel.Outcome]:
    return {one.probe.identifiers[0]: one for one in parallel.outcomes(probes, bare(root))}


# --------------------------------------------------------------------------------------------------
# in parallel


def test_a_probe_that_hangs_costs_only_itself(tmp_path: Path) -> None:
    release = threading.Event()

    def hangs(_: CheckedSite) -> Sequence[Finding]:
        release.wait()
        return [FAULT]

    found = outcomes(
        tmp_path,
        probe(hangs, "C06", deadline=timedelta(seconds=0.3)),
        probe(lambda _: [FAULT], "C02"),
        probe(nothing, "C03"),
    )
    release.set()
    assert found["C02"].findings == (FAULT,)
    assert (found["C02"].has_looked, found["C03"].has_looked) == (True, True)
    assert not found["C06"].has_looked
    (late,) = found["C06"].findings
    assert (late.identifier, late.tried) == ("C06", "a thing")
    assert "gave no result within 0 s" in late.text


def test_all_run_at_the_same_time(tmp_path: Path) -> None:
    """Each waits for all others, which would never end if one ran after the other."""
    together = threading.Barrier(20)

    def waits(_: CheckedSite) -> Sequence[Finding]:
        together.wait(60)
        return ()

    rows = [f"C{number}" for number in range(10, 30)]
    found = outcomes(tmp_path, *(probe(waits, row) for row in rows))
    assert [one.has_looked for one in found.values()] == [True] * 20


def test_a_probe_that_cannot_look_is_a_finding_and_a_bug_is_none(tmp_path: Path) -> None:
    def cannot(_: CheckedSite) -> Iterator[Finding]:
        yield FAULT
        raise Unavailable("keystone.example.org:5000", "does not answer", "start it")

    def breaks(_: CheckedSite) -> Sequence[Finding]:
        raise KeyError("x")

    found = outcomes(tmp_path, probe(cannot, "C30"), probe(breaks, "C31"))
    assert found["C30"].findings[0] == FAULT
    assert str(found["C30"].findings[1]) == "keystone.example.org:5000: does not answer; start it"
    assert found["C30"].findings[1].identifier == "C30"
    assert isinstance(found["C31"].bug, KeyError)
    assert found["C31"].findings == ()


# --------------------------------------------------------------------------------------------------
# the choice of probes


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> list[Probe]:
    made: list[Probe] = []
    monkeypatch.setattr(registry, "PROBES", made)
    return made


def command(root: Path, *words: str) -> int:
    return main(["check", *words, "--root", str(root)])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Make a host without containers, whose flows are all off: no program is checked."""
    for name, text in {
        "etc/fedcloud/appliance.yaml": "flows:\n  accounting: off\n  information: off\n",
        "var/lib/fedcloud/runtime": "native\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
    return tmp_path


def test_exit_status(root: Path, probes: list[Probe], capsys: pytest.CaptureFixture[str]) -> None:
    """0 nothing, 1 findings, 3 nothing could be probed, 4 a bug; the findings come first."""
    probes.append(probe(nothing))
    assert command(root) == 0
    probes.append(probe(lambda _: [FAULT]))
    assert command(root) == 1
    assert "C02.a  error    /etc/x.conf:3: a: is wrong; write b [tried: GET /x]" in (
        capsys.readouterr().out
    )

    def breaks(_: CheckedSite) -> Sequence[Finding]:
        raise KeyError("x")

    probes.append(probe(breaks))
    assert command(root) == 4
    shown = capsys.readouterr()
    assert "is wrong" in shown.out
    assert "bug in this program: KeyError" in shown.err

    def cannot(_: CheckedSite) -> Sequence[Finding]:
        raise Unavailable("here", "no")

    probes[:] = [probe(cannot)]
    assert command(root) == 3
    assert command(root, "--only", "C99") == 2
    assert command(root, "--only", "30") == 2
    assert command(root, "--offline", "--write") == 2


def test_the_plugin_of_nagios(
    root: Path, probes: list[Probe], capsys: pytest.CaptureFixture[str]
) -> None:
    """Its codes, and one first line with figures behind the only bar."""
    probes.append(probe(nothing))
    for found, status, word in (
        ((), 0, "OK"),
        ((WARNING,), 1, "WARNING"),
        ((WARNING, FAULT, Finding("", 0, "", "a | b", "C02")), 2, "CRITICAL"),
    ):
        probes[:] = [probe(nothing), probe(functools.partial(itself, found))]
        assert command(root, "--nagios") == status
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith(f"FEDCLOUD {word} - ")
        errors = sum(one.is_error for one in found)
        assert lines[0].endswith(f"| errors={errors};;1 warnings={len(found) - errors};1 probes=2")
        assert "".join(lines).count("|") == 1

    def cannot(_: CheckedSite) -> Sequence[Finding]:
        raise Unavailable("here", "no")

    probes[:] = [probe(cannot)]
    assert command(root, "--nagios") == 3
    assert capsys.readouterr().out.startswith("FEDCLOUD UNKNOWN - ")


def test_json_has_what_was_tried_and_where_it_is_explained(
    root: Path, probes: list[Probe], capsys: pytest.CaptureFixture[str]
) -> None:
    probes.append(probe(lambda _: [FAULT]))
    assert command(root, "--json") == 1
    tree = json.loads(capsys.readouterr().out)
    assert tree["findings"] == [
        {
            "path": "/etc/x.conf",
            "line": 3,
            "option": "a",
            "text": "is wrong; write b",
            "program": "",
            "is_error": True,
            "tried": "GET /x",
            "id": "C02.a",
            "doc": "docs/how-to/check-a-site.md#c02",
        }
    ]
    assert tree["probes"] == ["C02"]


@pytest.mark.parametrize(
    ("words", "ran"),
    [
        ((), ["C02", "C06", "C30", "C31", "C32"]),
        (("--offline",), ["C02", "C31"]),
        (("--only", "C30"), ["C30"]),
        (("--only", "C30.a,C31"), ["C30", "C31"]),
        (("--only", "C02.b", "C06"), ["C02", "C06"]),
        (("--write",), ["C02", "C06", "C30", "C31", "C32", "C35"]),
        (("--write", "--only", "C35"), ["C35"]),
    ],
)
def test_which_probes_run(
    words: Sequence[str], ran: list[str], root: Path, probes: list[Probe]
) -> None:
    """By their needs, their ids, and whether they write; one of a flow that is off never runs."""
    seen: list[str] = []

    def note(row: str) -> Callable[[CheckedSite], Sequence[Finding]]:
        def find(_: CheckedSite) -> Sequence[Finding]:
            seen.append(row)
            return ()

        return find

    probes += [
        probe(note("C02"), "C02"),
        probe(note("C06"), "C06", needs=Need.NETWORK),
        probe(note("C30"), "C30", needs=Need.CLOUD),
        probe(note("C31"), "C31", needs=Need.CONFIGURATION),
        probe(note("C32"), "C32", needs=Need.DIRECTORY),
        probe(note("C35"), "C35", needs=Need.CLOUD, writes=True),
        probe(note("C60"), "C60", flow=Flow.IMAGES),
        # Another site of this host; its machine is looked at from the root directory.
        probe(note("C03"), "C03", needs=Need.MACHINE),
    ]
    assert command(root, *words) == 0
    assert sorted(seen) == ran


def test_of_the_findings_only_those_that_are_asked_for_are_shown(
    root: Path, probes: list[Probe], capsys: pytest.CaptureFixture[str]
) -> None:
    probes.append(probe(lambda _: [FAULT, WARNING], "C02", "C05"))
    assert command(root, "--json", "--only", "C05") == 1
    found = json.loads(capsys.readouterr().out)["findings"]
    assert [one["id"] for one in found] == ["C05.b"]
    assert command(root, "--json", "--only", "C02.b") == 0


@pytest.mark.parametrize("row", ["C70", "C71.a", "C72", "C73", "C74", "C75.a"])
def test_what_only_egis_view_finds_is_not_silently_left_out(
    row: str, root: Path, probes: list[Probe], capsys: pytest.CaptureFixture[str]
) -> None:
    probes += [
        probe(lambda _: [FAULT], row.partition(".")[0], is_as_egi=True),
        probe(nothing, "C30"),
    ]
    for words in ([row], ["C30", row]):
        assert command(root, "--only", *words) == 2
        line = f"appliance: --only: {row} is looked for with --as-egi only; add --as-egi\n"
        assert capsys.readouterr().err == line
        assert command(root, "--as-egi", "--only", *words) == 0


def test_the_rows_of_egis_view_are_of_no_other_probe() -> None:
    """But of programs, which look at them with the flag that `as_egi` gives them."""
    others = [one for one in registry.PROBES if not one.is_as_egi]
    rows = {row for one in others for row in one.identifiers}
    assert registry.AS_EGI.isdisjoint(rows)
    known = [*registry.of_programs([*JOBS, *SERVICES]), *registry.PROBES]
    assert {row for one in known for row in one.identifiers if row >= "C70"} == registry.AS_EGI


def test_each_place_is_shown_once_and_errors_first() -> None:
    report = CheckReport()
    twice = Finding("/etc/x.conf", 3, "a", "is wrong in other words", "C02.a", "caso")
    for one in (WARNING, twice, FAULT):
        made = parallel.Outcome(probe(nothing), (one,), has_looked=True)
        report.add(made)
    report.sort()
    assert [one.identifier for one in report.findings] == ["C02.a", "C05.b"]
    assert str(report.findings[0]) in (str(FAULT), str(twice))


def test_what_the_host_finds_at_a_path_counts_for_its_programs() -> None:
    """A full disk is not reported for each program that writes to it, nor is a missing Compose."""
    report = CheckReport()
    of_host = Finding("/var/spool/apel", 0, "", "0 MiB are free", "C02.b")
    no_compose = Finding("/usr/bin/docker-compose", 0, "", "is no program", "C04.b", "caso")
    kept = Finding("/var/spool/apel", 0, "", "root owns it; chown it", "C40.a", "caso")
    others = [replace(of_host, text="0 MiB and 9 files are free", program="caso"), kept]
    for one in (of_host, *others, no_compose, replace(no_compose, program="ssmsend")):
        report.add(parallel.Outcome(probe(nothing), (one,), has_looked=True))
    report.sort()
    assert sorted(report.findings) == sorted([of_host, no_compose, kept])


# --------------------------------------------------------------------------------------------------
# programs


@pytest.mark.parametrize(
    ("error", "row"),
    [
        (compose.not_started(Path("/dev/null"), PermissionError(13, "Permission denied")), "C04.b"),
        (compose_output.failure("caso", ["Cannot connect to the Docker daemon at x"]), "C04.a"),
        (Unavailable("caso", "the image x is not loaded"), "C04.c"),
        (Unavailable("caso", "the image x is not as in /etc/fedcloud/images.lock"), "C04.d"),
        (Unavailable("caso", "no idea"), "C04"),
    ],
)
def test_the_row_of_a_container_that_does_not_run(error: Unavailable, row: str) -> None:
    assert row_of_container(error) == row


def test_a_finding_goes_through_the_output_of_a_program() -> None:
    lines = [
        "fedcloud-check begun",
        json.dumps({"finding": FAULT.as_json()}),
        json.dumps({"finding": WARNING.as_json()}),
        "fedcloud-check ended 1",
    ]
    found = inside.read("caso", lines).findings
    assert [str(one) for one in found] == [str(FAULT), str(WARNING)]
    assert {one.program for one in found} == {"caso"}
    assert of_json(FAULT.as_json()) == FAULT


def test_the_script_of_a_container_runs_each_program_with_its_flags(tmp_path: Path) -> None:
    """By the shell that runs it there: words are split, and each ends with its own status."""
    program = tmp_path / "tool"
    program.write_text(
        '#!/bin/sh\necho "{\\"level\\": \\"ERROR\\", \\"message\\": \\"$*\\"}" >&2\nexit 2\n'
    )
    program.chmod(0o755)
    words = [f"{program} --check-live", f"{program} sync --check-config"]
    done = subprocess.run(
        ["/bin/sh", "-c", inside._SCRIPT, "sh", *words], capture_output=True, text=True, check=True
    )
    found = inside.read("x", done.stderr.splitlines()).findings
    assert [one.text for one in found] == [
        "--check-live --log-json",
        "sync --check-config --log-json",
    ]


def test_the_flags_of_a_program_follow_the_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inside, "LIVE", frozenset({"a", "b"}))
    monkeypatch.setattr(inside, "WRITING", frozenset({"b"}))
    flags = {
        (depth, name): " ".join(depth.flags(name)) for depth in Depth for name in ("a", "b", "c")
    }
    assert {key for key, words in flags.items() if words == "--check-live --write"} == {
        (Depth.WRITE, "b")
    }
    assert {key for key, words in flags.items() if words == "--check-live"} == {
        (Depth.LIVE, "a"),
        (Depth.LIVE, "b"),
        (Depth.WRITE, "a"),
    }
    assert set(flags.values()) == {
        "--check-config",
        "--check-live",
        "--check-live --write",
        "--show-config",
    }


def test_endpoints_are_listed_once_without_paths_and_secrets() -> None:
    path = Path("/etc/caso/caso.conf")
    values = [
        Value(ENDPOINT, "Keystone", "https://keystone.example.org:5000", path, 32),
        Value(ENDPOINT, "Keystone", "https://keystone.example.org:5000", Path("/etc/other"), 1),
        Value(ENDPOINT, "AMS", "https://msg.example.org", path, 5),
        Value("ssm", "output_path", "https://no.example.org", path, 1),
    ]
    found = [(one.host, one.port, one.what, one.place) for one in endpoints.known(values)]
    assert found == [
        ("keystone.example.org", 5000, "Keystone", "/etc/caso/caso.conf:32"),
        ("msg.example.org", 443, "AMS", "/etc/caso/caso.conf:5"),
    ]


def test_every_registered_probe_has_rows_of_the_table() -> None:
    """An id of each kind is what `--only` takes; the deadlines keep a check below a minute."""
    known = [*registry.of_programs(["caso", "cloudbdii", "cloudkeeper-os"]), *registry.PROBES]
    for one in known:
        assert all(check._ROW.fullmatch(row) and "." not in row for row in one.identifiers)
        assert one.deadline < timedelta(seconds=60)
        assert one.subject


def test_the_guide_explains_every_id() -> None:
    """The link of each finding leads to a heading, and each fault of it is in the table there."""
    page = (documents.TOP / "docs/how-to/check-a-site.md").read_text()
    known = [*registry.of_programs([*JOBS, *SERVICES]), *registry.PROBES]
    families = {row.lower() for one in known for row in one.identifiers}
    assert families <= documents.anchors(page)


def test_time_is_not_measured_from_the_first_result(tmp_path: Path) -> None:
    """A probe that ends late does not extend the deadline of another."""
    release = threading.Event()

    def slow(_: CheckedSite) -> Sequence[Finding]:
        time.sleep(0.4)
        return ()

    def hangs(_: CheckedSite) -> Sequence[Finding]:
        release.wait()
        return ()

    order = [
        one.probe.identifiers[0]
        for one in parallel.outcomes(
            [
                probe(hangs, "C06", deadline=timedelta(seconds=0.1)),
                probe(slow, "C07", deadline=timedelta(seconds=30)),
            ],
            bare(tmp_path),
        )
    ]
    release.set()
    assert order == ["C06", "C07"]
