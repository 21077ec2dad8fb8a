"""The one screen of `appliance status`."""

import io
import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
import unicodedata
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from dirq.QueueSimple import QueueSimple

from appliance.admin.command import main
from appliance.admin.schedule import upcoming
from appliance.admin.state import mark
from appliance.admin.upgrade import record as upgrades
from appliance.admin.upgrade.record import UpgradeRecord, UpgradeState
from appliance.core.run.errors import ExitStatus
from appliance.core.run.layout import Layout
from appliance.core.run.record import RunRecord
from tests.unit import backup_site

TOP = Path(__file__).parents[2]


def ran(
    root: Path,
    program: str,
    status: ExitStatus = ExitStatus.DONE,
    *failures: str,
    below: str = "",
    **counts: float,
) -> RunRecord:
    run = RunRecord(program)
    run.counts |= counts
    for line in failures:
        run.fail(line)
    run.write(Layout(root).runs / below, status)
    return run


def write(root: Path, name: str, text: str) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def certificate(path: Path, *, days: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    key = path.with_name("key.pem")
    words = ["-newkey", "rsa:2048", "-nodes", "-subj", "/CN=host.example.org", "-days", str(days)]
    command = ["openssl", "req", "-x509", *words, "-keyout", str(key), "-out", str(path)]
    subprocess.run(command, check=True, capture_output=True)


def screen(root: Path, capsys: pytest.CaptureFixture[str], *, status: int) -> list[str]:
    capsys.readouterr()
    assert main(["status", "--root", str(root)]) == status
    shown = capsys.readouterr()
    assert shown.err == ""
    lines = shown.out.splitlines()
    assert max(map(width, lines)) <= 80
    assert len(lines) <= 30
    return lines


def width(line: str) -> int:
    """The columns of a terminal: wide characters take two, combining ones none."""
    return sum(
        0 if unicodedata.combining(one) else 1 + (unicodedata.east_asian_width(one) in "WF")
        for one in line
    )


def line_of(lines: list[str], name: str) -> str:
    (found,) = [line for line in lines if line[6:].split()[:1] == [name]]
    return found


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site that has run each job once, with its tables of cron."""
    for table in (TOP / "cron.d").iterdir():
        write(tmp_path, f"etc/cron.d/{table.name}", table.read_text()).chmod(0o644)
    write(tmp_path, "etc/fedcloud/appliance.yaml", "flows: {images: on}\n")
    outgoing = tmp_path / "var/spool/apel/outgoing/openstack"
    write(tmp_path, "etc/apel/sender.cfg", f"[messaging]\npath: {outgoing}\ndestination: a\n")
    ran(tmp_path, "caso-extract", lag_seconds=840.0)
    ran(tmp_path, "ssmsend", left=0)
    ran(tmp_path, "job-fetch-crl", below="jobs")
    ran(tmp_path, "bdii-resource", entries=412)
    sync = RunRecord("cloudkeeper")
    sync.counts |= {"images_unchanged": 14, "removals_withheld": 0}
    sync.parts["source"] = {"registry.egi.eu": {"images": 14, "images_of_others": 3}}
    sync.write(Layout(tmp_path).runs)
    return tmp_path


@pytest.mark.root
def test_a_healthy_site_is_green(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = screen(site, capsys, status=0)
    assert lines[0].endswith("all is well")
    assert line_of(lines, "caso").startswith("ok     caso               0 min ago")
    assert "accounted to 14 min ago" in line_of(lines, "caso")
    assert "nothing waits" in line_of(lines, "ssmsend")
    assert "412 entries" in line_of(lines, "cloudbdii")
    assert "11 images ours, 3 of others" in line_of(lines, "registry.egi.eu")
    assert not [line for line in lines if "!" in line]
    assert line_of(lines, "/var/lib/fedcloud").startswith("ok ")
    assert "\x1b" not in "".join(lines)


def test_each_fault_has_its_reason_beside_its_row(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spool = QueueSimple(str(site / "var/spool/apel/outgoing/openstack"))
    for _ in range(3):
        spool.add("x")
    dead = QueueSimple(str(site / "var/spool/apel/outgoing/failed/openstack"))
    dead.add("x")
    ran(site, "caso-extract", ExitStatus.PARTLY, "project x: no VO", records_in_quarantine=2)
    ran(site, "ssmsend", ExitStatus.NOTHING, "msg.example.org:6162: cannot be reached")
    lines = screen(site, capsys, status=1)
    caso, ssm = (lines.index(line_of(lines, name)) for name in ("caso", "ssmsend"))
    assert lines[caso].startswith("warn ")
    assert lines[caso].endswith(" 2 held")
    assert lines[caso + 1] == " " * 7 + "! project x: no VO"
    assert lines[ssm].startswith("BAD ")
    assert lines[ssm].endswith("3 wait for 0 min, 1 dead")
    assert lines[ssm + 1] == " " * 7 + "! msg.example.org:6162: cannot be reached"
    assert lines[0].endswith("2 to look at")
    assert lines[2] == "BAD   accounting"


@pytest.mark.root
def test_a_state_that_is_lost_has_a_row(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """R19: the volume is not mounted, also if nothing else is left; then it is another host's."""
    layout = Layout(site)
    mark.establish(layout)
    screen(site, capsys, status=0)
    kept = layout.path(mark.OF_STATE).read_text()
    shutil.rmtree(site / "var/lib/fedcloud")
    lines = screen(site, capsys, status=1)
    number = lines.index(line_of(lines, "state"))
    assert lines[number].startswith("BAD ")
    assert lines[number + 1].startswith("       ! /var/lib/fedcloud lacks the state that this host")
    assert main(["status", "--long", "--root", str(site)]) == 1
    assert "appliance state --accept" in capsys.readouterr().out
    other = f"{'0' * 16}{kept[16:]}"
    write(site, mark.OF_STATE.lstrip("/"), other)
    ran(site, "caso-extract")
    lines = screen(site, capsys, status=1)
    assert "is the state of another installation" in lines[lines.index(line_of(lines, "state")) + 1]
    write(site, mark.OF_STATE.lstrip("/"), kept)
    assert not [
        line for line in screen(site, capsys, status=0) if line[6:].split()[:1] == ["state"]
    ]


@pytest.mark.root
def test_an_upgrade_that_did_not_end_has_a_row(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    upgrades.write(UpgradeRecord("1.0.0", "99.0"), Layout(site))
    lines = screen(site, capsys, status=1)
    number = lines.index(line_of(lines, "upgrade"))
    assert lines[number].startswith("warn ")
    assert "appliance upgrade --rollback" in " ".join(lines[number + 1 : number + 3])
    with backup_site.held(site / "run/fedcloud/upgrade.lock"):
        assert line_of(screen(site, capsys, status=0), "upgrade").startswith("ok  ")
    for state in (UpgradeState.DONE, UpgradeState.BACK):
        upgrades.note(UpgradeRecord("1.0.0", "99.0"), state, Layout(site))
        assert not [line for line in screen(site, capsys, status=0) if " upgrade " in line]


def test_dead_letters_and_a_quarantine_alone_are_amber(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    QueueSimple(str(site / "var/spool/apel/outgoing/failed/openstack")).add("x")
    lines = screen(site, capsys, status=1)
    assert "! 1 were set aside; see appliance run ssmsend -- failed" in "\n".join(lines)
    assert main(["status", "--long", "--root", str(site)]) == 1
    assert "! ssmsend: 1 were set aside" in capsys.readouterr().out


def test_a_job_that_nothing_starts_any_more_is_amber(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its last run was good, three hours ago, and cron has been off since."""
    path = Layout(site).runs / "caso-extract.json"
    tree = json.loads(path.read_text())
    early = (datetime.now(UTC) - timedelta(hours=3)).isoformat()
    path.write_text(json.dumps({**tree, "started": early, "ended": early}))
    lines = screen(site, capsys, status=1)
    assert line_of(lines, "caso").startswith("warn   caso               3 h ago")
    assert "! it last began 3 h ago, and is due every 60 min" in "\n".join(lines)


@pytest.mark.root
@pytest.mark.programs("openssl")
@pytest.mark.parametrize(
    ("days", "status", "words"), [(400, 0, "399 days left"), (20, 1, "19 days left")]
)
def test_the_days_of_the_host_certificate(
    site: Path, capsys: pytest.CaptureFixture[str], days: int, status: int, words: str
) -> None:
    certificate(site / "etc/grid-security/hostcert.pem", days=days)
    lines = screen(site, capsys, status=status)
    (row,) = [line for line in lines if "host certificate" in line and "!" not in line]
    assert row.startswith("warn" if status else "ok ")
    assert row.endswith(words)


@pytest.mark.root
def test_the_end_of_an_application_credential(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    end = datetime.now(UTC) + timedelta(days=9, hours=1)
    ran(site, "caso-extract", credential_end_timestamp_seconds=end.timestamp())
    lines = screen(site, capsys, status=1)
    (row,) = [line for line in lines if "login caso-extract" in line]
    assert row.startswith("warn")
    assert row.endswith("9 days left")
    ran(site, "caso-extract", credential_end_timestamp_seconds=1e300)
    screen(site, capsys, status=0)


@pytest.mark.root
@pytest.mark.programs("openssl")
def test_revocation_lists(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """openssl makes one that ended an hour ago; the newest file is five days old."""
    directory = site / "etc/grid-security/certificates"
    directory.mkdir(parents=True)
    certificate(directory / "ca.pem", days=10)
    write(site, "ca/index.txt", "")
    write(site, "ca/ca.cnf", f"[ca]\ndefault_ca=x\n[x]\ndatabase={site}/ca/index.txt\n")
    for name, hours in (("aaaaaaaa.r0", -1), ("bbbbbbbb.r0", 48)):
        end = datetime.now(UTC) + timedelta(hours=hours)
        command = ["openssl", "ca", "-gencrl", "-config", f"{site}/ca/ca.cnf", "-md", "sha256"]
        command += ["-crl_lastupdate", "20260101000000Z", "-crl_nextupdate", f"{end:%Y%m%d%H%M%S}Z"]
        files = ["-cert", f"{directory}/ca.pem", "-keyfile", f"{directory}/key.pem"]
        subprocess.run([*command, *files, "-out", str(directory / name)], check=True)
    (directory / "cccccccc.r0").write_text("no list")
    row = line_of(screen(site, capsys, status=0), "fetch-crl")
    assert row.endswith("3 CRLs, 1 ended, newest 0 min")
    old = time.time() - 5 * 86400
    for path in directory.glob("*.r0"):
        os.utime(path, (old, old))
    lines = screen(site, capsys, status=1)
    assert "! the newest list is 5 days old; run appliance run fetch-crl" in "\n".join(lines)


def test_hostile_names_stay_on_their_lines(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Long, wide, combining, from right to left, and such as move the cursor."""
    nasty = "\x1b[2J\u202eevil\n" + "幅" * 300 + "e\u0301" * 200 + "x" * 5000
    ran(site, "caso-extract", ExitStatus.PARTLY, nasty)
    for number in range(30):
        ran(site, f"ssmsend-{number}{'n' * 200}", ExitStatus.NOTHING, nasty)
    sync = RunRecord("cloudkeeper")
    sync.parts["source"] = {
        f"{nasty[:200]}{number}": {"images": 1, "images_of_others": 0} for number in range(40)
    }
    sync.write(Layout(site).runs)
    lines = screen(site, capsys, status=1)
    shown = "\n".join(lines)
    assert "\u202e" not in shown
    assert "\x1b" not in shown
    assert "38 more sources" in shown
    assert line_of(lines, "caso")


def test_an_encoding_without_the_characters_keeps_the_width(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran(site, "caso-extract", ExitStatus.PARTLY, "é幅" * 200)
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    assert main(["status", "--root", str(site)]) == 1
    lines = raw.getvalue().decode("ascii").splitlines()
    assert max(map(len, lines)) == 80
    assert len(lines) <= 30


@pytest.mark.root
def test_as_json_each_row_has_stable_names(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The names of docs/formats/status.md."""
    assert main(["status", "--json", "--root", str(site)]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    keys = {"flow", "name", "light", "last_run", "next_run", "figures", "reason"}
    assert all(row.keys() == keys for row in rows)
    described = (TOP / "docs/formats/status.md").read_text()
    names = keys | {name for row in rows for name in row["figures"]}
    assert [name for name in sorted(names) if f"`{name}`" not in described] == []
    found = {row["name"]: row for row in rows}
    assert found["registry.egi.eu"]["figures"] == {"images": 14, "images_of_others": 3}
    assert found["caso"]["next_run"].endswith(":14:00+00:00")
    assert found["ssmsend"]["figures"]["messages_waiting"] == 0


def test_a_year_of_records_costs_no_more_than_a_day(
    site: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six records a day for a year in one directory, and the messages of a year: few are opened."""
    runs = Layout(site).runs / "caso"
    runs.mkdir()
    newest = json.loads((Layout(site).runs / "caso-extract.json").read_text())
    for hour in range(365 * 6):
        path = runs / f"old-{hour:05}.json"
        path.write_text(json.dumps(newest))
        os.utime(path, (10**9 + hour, 10**9 + hour))
    outgoing = site / "var/spool/apel/outgoing/openstack"
    for day in range(365):
        name = f"{0x68000000 + day * 86400:08x}"
        for number in range(4):
            write(outgoing, f"{name}/{name}0000{number}0", "x")
    before = {path: path.stat().st_mtime_ns for path in site.rglob("*")}
    paths: list[str] = []
    real = os.open

    def watched(path: str | Path, *rest: int, **more: int) -> int:
        paths.append(str(path))
        return real(path, *rest, **more)

    monkeypatch.setattr(os, "open", watched)
    lines = screen(site, capsys, status=1)
    ours = [path for path in paths if path.startswith(str(site))]
    assert len([path for path in ours if "/old-" in path]) == 200
    assert len(ours) < 260
    assert not [path for path in ours if "/openstack/" in path]
    assert "1460 wait" in line_of(lines, "ssmsend")
    assert f"! {runs}: the oldest 1990 of 2190 records are not read"[:60] in "\n".join(lines)
    assert {path: path.stat().st_mtime_ns for path in site.rglob("*")} == before


@pytest.mark.parametrize(
    ("times", "now", "expected"),
    [
        ("14 * * * *", "2026-11-30T22:40", "2026-11-30T23:14"),
        ("14 * * * *", "2026-11-30T22:14", "2026-11-30T23:14"),
        ("30 */6 * * *", "2026-11-30T18:31", "2026-12-01T00:30"),
        ("4,34 * * * *", "2026-11-30T22:05", "2026-11-30T22:34"),
        ("0 3 29 2 *", "2026-11-30T22:40", "2028-02-29T03:00"),
        ("0 3 1 * mon", "2026-11-30T22:40", "2026-12-01T03:00"),
        ("0 3 * * 7", "2026-11-30T22:40", "2026-12-06T03:00"),
        ("5-10/5 4 * jan *", "2026-11-30T22:40", "2027-01-01T04:05"),
        ("@weekly", "2026-11-30T22:40", "2026-12-06T00:00"),
        ("@reboot", "2026-11-30T22:40", None),
        ("61 * * * *", "2026-11-30T22:40", None),
        ("*/0 * * * *", "2026-11-30T22:40", None),
        ("0 0 31 2 *", "2026-11-30T22:40", None),
        ("mon * * * *", "2026-11-30T22:40", None),
    ],
)
def test_the_next_start_by_a_line_of_cron(
    times: str, now: str, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    at = datetime.fromisoformat(now).replace(tzinfo=UTC)
    found = upcoming.following(times, now=at)
    assert (found and f"{found:%Y-%m-%dT%H:%M}") == expected


def test_the_next_start_is_in_the_zone_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """In Madrid it is an hour later than in UTC in winter."""
    monkeypatch.setenv("TZ", "Europe/Madrid")
    time.tzset()
    try:
        at = datetime(2026, 11, 30, 22, 40, tzinfo=UTC)
        assert upcoming.following("0 4 * * *", now=at) == datetime(2026, 12, 1, 3, 0, tzinfo=UTC)
    finally:
        monkeypatch.undo()
        time.tzset()


def watching(root: Path, *, end: signal.Signals) -> tuple[str, int]:
    """Run `--watch 1` on a terminal until two screens are drawn; return all, and the status."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ["TERM"] = "xterm"
        words = ["-m", "appliance.admin.command", "status", "--watch", "1", "--root", str(root)]
        os.execv(sys.executable, [sys.executable, *words])  # noqa: S606  the child of the fork
    shown = b""
    while shown.count(b"\x1b[H") < 2:
        assert select.select([terminal], [], [], 60)[0]
        shown += os.read(terminal, 2**16)
    os.kill(child, end)
    while True:
        try:
            data = os.read(terminal, 2**16)
        except OSError:  # Linux reports the end of a terminal so
            break
        if not data:
            break
        shown += data
    os.close(terminal)
    return shown.decode(), os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_watching_draws_over_itself_and_ends_cleanly(site: Path, end: signal.Signals) -> None:
    ran(site, "ssmsend", ExitStatus.NOTHING, "msg.example.org: cannot be reached")
    shown, status = watching(site, end=end)
    assert status == 1
    assert shown.startswith("\x1b[?1049h\x1b[?25l")
    assert shown.endswith("\x1b[?25h\x1b[?1049l")
    assert "\x1b[2J" not in shown  # which would flicker
    assert "\x1b[1;31mBAD  \x1b[0m" in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize("flags", [["--watch"], ["--watch", "5", "--json"], ["--watch", "--long"]])
def test_watching_needs_a_terminal(
    site: Path, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    assert main(["status", *flags, "--root", str(site)]) == 2
    assert capsys.readouterr().err.startswith("appliance: --watch")
    for wrong in ("0", "-1", "x", "99999"):
        with pytest.raises(SystemExit):
            main(["status", f"--watch={wrong}"])
