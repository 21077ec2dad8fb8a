"""The starters of jobs: tables of cron or timers of systemd, never both."""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from appliance.admin.command import main
from appliance.admin.schedule import tables as tables_module

pytestmark = pytest.mark.root

TOP = Path(__file__).parents[2]
TABLES = ["caso", "cloudkeeper", "fedcloud-crl", "ssmsend"]
TIMERS = [f"fedcloud-job@{job}.timer" for job in ("caso", "cloudkeeper", "fetch-crl", "ssmsend")]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    shutil.copytree(TOP / "etc", root / "etc")
    shutil.copytree(TOP / "cron.d", root / "etc/cron.d")
    for path in (root / "etc/cron.d").iterdir():
        path.chmod(0o644)
    (root / "etc/cron.d/e2scrub_all").write_text(
        "30 3 * * 0 root test -e /run/systemd/system || /sbin/e2scrub_all\n"
    )
    shutil.copytree(TOP / "systemd", root / "etc/systemd/system")
    return root


def schedule(root: Path, *words: str) -> int:
    return main(["schedule", *words, "--root", str(root)])


def tables(root: Path) -> list[str]:
    return sorted(
        path.name for path in (root / "etc/cron.d").iterdir() if path.name != "e2scrub_all"
    )


def timers(root: Path) -> list[str]:
    wants = root / "etc/systemd/system/timers.target.wants"
    return sorted(path.name for path in wants.iterdir()) if wants.exists() else []


def test_tables_are_the_default(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert schedule(root) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[1][:3] == ["caso", "cron", "14"]
    assert rows[4] == ["cloud-info", "cloudbdii"]
    assert rows[5] == ["cloud-info-json", "nobody"]


def test_there_and_back_leaves_everything_as_it_was(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """R12, R34: the same jobs at the same times, by one of the two."""
    edited = root / "etc/cron.d/caso"
    edited.write_text(edited.read_text().replace("14 *", "15 *"))
    assert schedule(root, "systemd") == 0
    assert (tables(root), timers(root)) == ([], TIMERS)
    assert schedule(root, "systemd") == 0
    assert schedule(root, "cron") == 0
    assert (tables(root), timers(root)) == (TABLES, [])
    assert schedule(root, "cron") == 0
    assert "15 * * * * root" in edited.read_text()
    assert "nothing starts" not in capsys.readouterr().out


def test_showing_changes_nothing(root: Path) -> None:
    assert schedule(root, "systemd", "--show") == 0
    assert (tables(root), timers(root)) == (TABLES, [])


def test_a_job_that_not_every_site_needs(root: Path) -> None:
    assert schedule(root, "cron", "--with", "cloud-info") == 0
    assert tables(root) == sorted([*TABLES, "cloud-info"])
    assert schedule(root, "systemd") == 0
    assert timers(root) == sorted([*TIMERS, "fedcloud-job@cloud-info.timer"])
    assert schedule(root, "cron", "--with", "cloud-inf") == 2


def name_site(root: Path, text: str) -> None:
    path = root / "etc/cloud-info-provider/openstack.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def nothing_starts(root: Path) -> None:
    for name in TABLES:
        (root / "etc/cron.d" / name).rename(root / "etc/fedcloud/cron.d" / name)


def minutes(root: Path) -> str:
    (line,) = [
        line
        for line in (root / "etc/cron.d/cloud-info-json").read_text().splitlines()
        if "root /usr/local/bin/appliance run cloud-info-json" in line
    ]
    assert line.split()[1:5] == ["*"] * 4
    return line.split()[0]


def test_a_schedule_that_exists_gains_no_job(root: Path) -> None:
    """An upgrade adds nothing to a host that did not ask for it."""
    assert schedule(root, "cron") == 0
    assert schedule(root, "systemd") == 0
    assert timers(root) == TIMERS
    assert schedule(root, "systemd", "--with", "cloud-info-json") == 0
    assert timers(root) == sorted([*TIMERS, "fedcloud-job@cloud-info-json.timer"])
    assert schedule(root, "cron") == 0
    assert tables(root) == sorted([*TABLES, "cloud-info-json"])


@pytest.mark.parametrize("profile", ["2017", "private"])
def test_other_federations_do_not_write_json(root: Path, profile: str) -> None:
    nothing_starts(root)
    (root / "etc/fedcloud/appliance.yaml").write_text(f"profile: {profile}\n")
    assert schedule(root, "cron") == 0
    assert tables(root) == TABLES


def test_minutes_follow_from_the_name_of_the_site(root: Path) -> None:
    found = set()
    for number in range(8):
        name_site(root, f"site: {{name: SITE-{number}}}\n")
        assert schedule(root, "cron", "--with", "cloud-info-json") == 0
        first, second = map(int, minutes(root).split(","))
        assert (second - first, 0 <= first < 30) == (30, True)
        found.add(first)
        assert not list(tables_module.problems(root / "etc/cron.d/cloud-info-json"))
        shutil.copy(TOP / "etc/fedcloud/cron.d/cloud-info-json", root / "etc/fedcloud/cron.d")
        (root / "etc/cron.d/cloud-info-json").unlink()
    assert len(found) > 4


@pytest.mark.programs("systemd-analyze")
@pytest.mark.parametrize("text", ["gocdb: SITE-3\nendpoint: x\n", "site: {name: SITE-3}\n"])
def test_minutes_of_both_forms_and_both_starters(root: Path, text: str) -> None:
    name_site(root, text)
    assert schedule(root, "cron", "--with", "cloud-info-json") == 0
    first, second = map(int, minutes(root).split(","))
    assert schedule(root, "systemd") == 0
    unit = "fedcloud-job@cloud-info-json.timer"
    beside = root / f"etc/systemd/system/{unit}.d/minutes.conf"
    assert f"OnCalendar=*-*-* *:{first:02},{second:02}:00\n" in beside.read_text()
    shown = subprocess.run(
        ["systemd-analyze", "calendar", f"*-*-* *:{first:02},{second:02}:00"],
        capture_output=True,
        check=False,
    )
    assert shown.returncode == 0
    beside.write_text("edited")
    assert schedule(root, "cron") == 0
    assert schedule(root, "systemd") == 0
    assert beside.read_text() == "edited"


def test_minutes_of_other_jobs_stay(root: Path) -> None:
    """An upgrade does not move the job that prints LDIF to a log."""
    name_site(root, "site: {name: SITE-3}\n")
    assert schedule(root, "cron", "--with", "cloud-info") == 0
    assert "\n4,34 * * * * root" in (root / "etc/cron.d/cloud-info").read_text()
    assert schedule(root, "systemd") == 0
    assert not list((root / "etc/systemd/system").glob("*.d/minutes.conf"))


@pytest.mark.parametrize("text", ["site: {name: SITE-NAME}\n", "site: [\n", ""])
def test_minutes_stay_without_a_name(root: Path, text: str) -> None:
    name_site(root, text)
    assert schedule(root, "cron", "--with", "cloud-info-json") == 0
    assert minutes(root) == "4,34"


def test_minutes_of_the_administrator_stay(root: Path) -> None:
    name_site(root, "site: {name: SITE-3}\n")
    table = root / "etc/fedcloud/cron.d/cloud-info-json"
    table.write_text(table.read_text().replace("4,34", "7,37"))
    assert schedule(root, "cron", "--with", "cloud-info-json") == 0
    assert minutes(root) == "7,37"


def test_both_at_once_are_found_and_undone(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wants = root / "etc/systemd/system/timers.target.wants"
    wants.mkdir()
    (wants / "fedcloud-job@caso.timer").symlink_to("/etc/systemd/system/fedcloud-job@caso.timer")
    assert schedule(root, "--show") == 1
    assert "! both cron and systemd start caso: choose one" in capsys.readouterr().out
    assert schedule(root, "systemd") == 0
    assert (tables(root), timers(root)) == ([], TIMERS)


def test_half_a_change_is_found_and_finished(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # what a kill between the two steps leaves: no job starts, and it is said
    (root / "etc/cron.d/caso").rename(root / "etc/fedcloud/cron.d/caso")
    assert schedule(root) == 1
    assert "! nothing starts caso: run appliance schedule cron|systemd\n" in capsys.readouterr().out
    assert schedule(root, "systemd") == 0
    assert (tables(root), timers(root)) == ([], TIMERS)


@pytest.mark.parametrize(
    ("path", "text", "line", "job"),
    [
        (
            "var/spool/cron/crontabs/root",
            "14 */4 * * * /usr/local/bin/caso-extract.sh\n",
            1,
            "caso",
        ),
        ("etc/cron.d/mine", "#\n5 * * * * root /usr/local/bin/ssm-send.sh\n", 2, "ssmsend"),
        ("etc/crontab", "14 * * * * root /usr/local/bin/appliance run caso\n", 1, "caso"),
    ],
)
def test_what_would_start_a_job_twice_is_refused(
    root: Path, path: str, text: str, line: int, job: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """D08: releases of 2019 to 2022 had the jobs in root's own table."""
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)
    (root / path).chmod(0o600)
    assert schedule(root, "systemd") == 2
    assert capsys.readouterr().err == (
        f"appliance: {root}/{path}:{line}: starts the job {job} beside the appliance; keep "
        "one starter: switch the flow off, or remove this line\n"
    )
    assert (tables(root) != [], timers(root)) == (True, [])
    assert schedule(root) == 1


def test_a_table_that_counts_is_not_replaced_by_one_that_waits(root: Path) -> None:
    # an upgrade brings cloud-info's table again, while an edited one counts
    assert schedule(root, "cron", "--with", "cloud-info") == 0
    counts, waits = root / "etc/cron.d/cloud-info", root / "etc/fedcloud/cron.d/cloud-info"
    shipped = counts.read_text()
    counts.write_text(shipped.replace("4,34 *", "5 *"))
    waits.write_text(shipped)
    assert schedule(root, "cron") == 0
    assert "5 * * * * root" in counts.read_text()
    assert schedule(root, "systemd") == 0
    assert schedule(root, "cron") == 0
    assert "5 * * * * root" in counts.read_text()


def test_a_missing_table_is_reported_before_anything_changes(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert schedule(root, "systemd") == 0
    (root / "etc/fedcloud/cron.d/ssmsend").unlink()
    assert schedule(root, "cron") == 3
    assert (
        f"{root}/etc/cron.d/ssmsend: does not exist; run the bundle's install again"
        in capsys.readouterr().err
    )
    assert (tables(root), timers(root)) == ([], TIMERS)


def test_timers_that_cannot_be_enabled_leave_the_tables(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # of the timers, systemctl enables all but one
    edited = root / "etc/cron.d/caso"
    edited.write_text(edited.read_text().replace("14 *", "15 *"))
    in_the_way = root / "etc/systemd/system/timers.target.wants/fedcloud-job@ssmsend.timer"
    in_the_way.mkdir(parents=True)
    assert schedule(root, "systemd") == 3
    reported = capsys.readouterr().err
    assert reported.startswith("appliance: systemctl: cannot enable the timers: ")
    assert reported.count("\n") == 1
    assert (tables(root), timers(root)) == (TABLES, [in_the_way.name])
    assert "15 * * * * root" in edited.read_text()
    in_the_way.rmdir()
    assert schedule(root, "systemd") == 0
    assert (tables(root), timers(root)) == ([], TIMERS)


def test_tables_that_cannot_be_put_in_place_leave_the_timers(root: Path) -> None:
    assert schedule(root, "systemd") == 0
    shutil.rmtree(root / "etc/cron.d")
    (root / "etc/cron.d").write_text("no directory")
    assert schedule(root, "cron") == 3
    assert timers(root) == TIMERS
    assert (root / "etc/fedcloud/cron.d/caso").exists()


def test_what_an_upgrade_puts_beside_a_table_is_no_table(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "etc/cron.d/caso.fedcloud-new").write_text((root / "etc/cron.d/caso").read_text())
    assert schedule(root) == 0
    assert "!" not in capsys.readouterr().out


def test_lines_that_end_in_cr_lf_are_reported(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # cron takes the file, and sh cannot open the log "1\r"
    table = root / "etc/cron.d/caso"
    text = table.read_text()
    table.write_bytes(text.replace("2>&1\n", "2>&1\r\n").encode())
    assert schedule(root) == 1
    reported = [line for line in capsys.readouterr().out.splitlines() if line.startswith("!")]
    number = len(text.splitlines())
    assert reported == [
        (
            f"! {table}:{number}: lines end in CR LF, and cron passes CR to the shell; sed -i "
            f"'s/\\r$//' {table}"
        )
    ]


def test_a_missing_timer_is_reported_before_anything_changes(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "etc/systemd/system/fedcloud-job@ssmsend.timer").unlink()
    assert schedule(root, "systemd") == 3
    assert (
        "fedcloud-job@ssmsend.timer: is not installed; run the bundle's install again"
        in capsys.readouterr().err
    )
    assert (tables(root), timers(root)) == (TABLES, [])


def test_what_cron_ignores_is_reported(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """R22, D01: cron says nothing of the first, and of the others only in syslog."""
    directory = root / "etc/cron.d"
    good = (directory / "caso").read_text()
    (directory / "caso").rename(directory / "caso.cron")
    (directory / "ssmsend").write_text((directory / "ssmsend").read_text().rstrip("\n"))
    (directory / "cloudkeeper").chmod(0o664)
    (directory / "fedcloud-crl").write_text(
        "47 */6 * * * /usr/local/bin/appliance run fetch-crl --date=$(date +%F)\n"
    )
    assert schedule(root) == 1
    reported = [
        line for line in capsys.readouterr().out.splitlines() if line.startswith(f"! {root}")
    ]
    last = len((directory / "ssmsend").read_text().splitlines())
    assert reported == [
        (
            f"! {directory}/caso.cron: cron ignores it for its name; rename it to letters, digits, "
            "- and _ only"
        ),
        (
            f"! {directory}/cloudkeeper: cron ignores it, because others can write to it; chmod "
            f"0644 {directory}/cloudkeeper"
        ),
        (
            f"! {directory}/fedcloud-crl:1: the sixth field must be the user; write root before "
            "the command"
        ),
        f"! {directory}/fedcloud-crl:1: a % ends the command for cron; write \\%",
        (
            f"! {directory}/ssmsend:{last}: cron ignores the whole file, because its last line has "
            "no newline; add one"
        ),
    ]
    (directory / "caso").write_text(good)
    (directory / "caso").chmod(0o644)


def test_somebody_else_s_table_is_reported(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import os

    os.chown(root / "etc/cron.d/caso", 1999, 1999)
    assert schedule(root) == 1
    assert (
        "caso: cron ignores it, because root does not own it; chown root: "
        in capsys.readouterr().out
    )


# --------------------------------------------------------------------------------------------------
# reach


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have it be the 18th of November."""
    monkeypatch.setattr(
        "appliance.core.clock.now", lambda: datetime(2026, 11, 18, 9, 30, tzinfo=UTC)
    )


WITHOUT = "  projects without a checkpoint: servers that existed on"


def reaches(out: str) -> list[str]:
    return out.partition("The next extraction of usage reaches back to:\n")[2].splitlines()


@pytest.mark.usefixtures("clock")
def test_how_far_back_the_first_extraction_reaches(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """F-H14: the first day of this month, kept, so that a late first run does not start later."""
    assert schedule(root, "--show") == 0
    assert reaches(capsys.readouterr().out) == [
        f"{WITHOUT} 2026-11-01 00:00+00:00 or later, each from its creation"
    ]
    assert not (root / "var/lib/fedcloud/since").exists()
    assert schedule(root, "systemd") == 0
    assert (root / "var/lib/fedcloud/since").read_text() == "2026-11-01T00:00:00+00:00\n"
    assert schedule(root, "cron", "--since", "2026-03-01") == 0
    assert (
        reaches(capsys.readouterr().out)[-1]
        == f"{WITHOUT} 2026-03-01 00:00+00:00 or later, each from its creation"
    )
    assert schedule(root, "cron") == 0  # what is kept stays
    assert (root / "var/lib/fedcloud/since").read_text() == "2026-03-01T00:00:00+00:00\n"


@pytest.mark.usefixtures("clock")
def test_checkpoints_are_shown(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """F-H14: those that cASO left, too."""
    spool = root / "var/spool/caso"
    spool.mkdir(parents=True)
    (spool / "lastrun.atlas").write_text("2026-11-17 07:22:42.712270+00:00")
    (spool / "lastrun.broken").touch()
    schedule(root, "--show")
    assert reaches(capsys.readouterr().out) == [
        "  atlas: from 2026-11-17 07:22+00:00 (checkpoint)",
        f"  broken: no checkpoint: {spool}/lastrun.broken does not hold a time",
        f"{WITHOUT} 2026-11-01 00:00+00:00 or later, each from its creation",
    ]
    caso = root / "etc/caso/caso.conf"
    caso.write_text("[DEFAULT]\nprojects = atlas, biomed ,ops\n")
    schedule(root, "--show")
    named = [line.partition(":")[0].strip() for line in reaches(capsys.readouterr().out)]
    assert named == ["atlas", "broken", "biomed", "ops", "projects without a checkpoint"]
    (spool / "lastrun").write_text("2017-08-09T00:00:00")
    schedule(root, "--show")
    assert (
        "  projects without a checkpoint of their own: from 2017-08-09 00:00+00:00 (checkpoint)"
        in reaches(capsys.readouterr().out)
    )


def test_what_caso_conf_says_of_all_runs_counts(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """F-H14."""
    path = root / "etc/caso/caso.conf"
    path.write_text(
        "[keystone_auth]\nextract_from = 1\n[DEFAULT]\n# extract_from = 2\nextract_from = "
        "2026-01-01\n"
    )
    schedule(root, "--show")
    assert reaches(capsys.readouterr().out) == [
        f"  every run: from 2026-01-01 (extract_from in {path}:5)"
    ]


def test_what_a_later_file_says_wins(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files of caso.conf.d are read in the order of their names, and only those named *.conf."""
    (root / "etc/caso/caso.conf").write_text("[DEFAULT]\nextract_from = 2026-01-01\n")
    more = root / "etc/caso/caso.conf.d"
    more.mkdir()
    (more / "b.conf").write_text("extract_from = 2026-03-01\n")
    (more / "a.conf").write_text("[DEFAULT]\nextract_from = 2026-02-01\n")
    (more / "c.conf").write_text("[ssm]\nextract_from = 2026-04-01\n")
    (more / "password").write_text("[DEFAULT]\nextract_from = 2026-05-01\n")
    schedule(root, "--show")
    assert reaches(capsys.readouterr().out) == [
        f"  every run: from 2026-03-01 (extract_from in {more}/b.conf:1)"
    ]


@pytest.mark.parametrize("text", ["yesterday", "2026-13-01", "", "2999-01-01"])
def test_what_is_no_date_of_the_past_is_refused(
    root: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """F-H14: before anything changes."""
    with pytest.raises(SystemExit) as ended:
        schedule(root, "systemd", "--since", text)
    assert ended.value.code == 2
    assert "--since" in capsys.readouterr().err
    assert (tables(root), timers(root)) == (TABLES, [])


def test_a_kept_date_that_somebody_broke_is_reported(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = root / "var/lib/fedcloud/since"
    path.parent.mkdir(parents=True)
    path.write_text("soon\n")
    assert schedule(root) == 2
    assert (
        f"{path}: does not hold a date; write one with appliance schedule --since DATE"
        in capsys.readouterr().err
    )
    assert schedule(root, "--since", "2026-10-01") == 0


def test_a_first_installation_starts_nothing(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """F-H14: one line, and one command activates what waits."""
    for name in TABLES:
        (root / "etc/cron.d" / name).rename(root / "etc/fedcloud/cron.d" / name)
    assert schedule(root) == 1
    reported = [line for line in capsys.readouterr().out.splitlines() if line.startswith("!")]
    assert reported == [
        "! no job is started yet: run appliance start, or appliance schedule cron|systemd"
    ]
    assert schedule(root, "cron") == 0
    assert tables(root) == sorted([*TABLES, "cloud-info-json"])
