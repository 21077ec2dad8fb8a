"""caso-extract on the cloud of the test bed, checked against Nova's database."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from appliance.core.cloud import compute, identity
from appliance.core.cloud.login import Access
from appliance.core.cloud.session import Cloud
from appliance.core.run.errors import AccessDenied
from caso.ledger.ledger import Ledger
from tests.demo import counters
from tests.e2e.caso_site import PEER, PROGRAMS, CasoSite, extra_project, lines
from tests.testbed import Testbed, secrets

# the first test of CI's row starts and seeds the cloud
pytestmark = [pytest.mark.cloud, pytest.mark.timeout(900)]
ALL = {"ops", "biomed", "fedcloud.egi.eu"}


@pytest.fixture(scope="module")
def testbed(testbed: Testbed) -> Iterator[Testbed]:
    """Return the test bed with servers of the last ten weeks, so that months matter."""
    testbed.bulk(60, days=70)
    yield testbed
    testbed.clear_bulk()


@pytest.fixture
def site(testbed: Testbed, tmp_path: Path) -> CasoSite:
    return CasoSite(tmp_path / "site", testbed)


@dataclass(frozen=True, slots=True)
class Extracted:
    site: CasoSite
    until: datetime


@pytest.fixture(scope="module")
def extracted(testbed: Testbed, tmp_path_factory: pytest.TempPathFactory) -> Extracted:
    """Return a site after one undisturbed run."""
    site = CasoSite(tmp_path_factory.mktemp("extracted") / "site", testbed)
    until = moment()
    site.run("caso-extract", "--extract-to", until.isoformat())
    return Extracted(site, until)


def moment() -> datetime:
    return datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=2)


def usage(site: CasoSite, until: datetime) -> dict[tuple[str, str], counters.Usage]:
    """Return the usage of the tagged projects by Nova's database."""
    tagged = {
        project.id for project in site.testbed.seed().projects.values() if "caso" in project.tags
    }
    counted = counters.nova_usage(site.testbed.nova_database, until)
    return {key: value for key, value in counted.items() if key[0] in tagged}


def test_hours_of_each_month_are_those_of_novas_database(extracted: Extracted) -> None:
    """R06: the account has only the role `reader`, in the projects and on the system."""
    records = extracted.site.records()
    counted, repeated = counters.accounted(records)
    assert counted == usage(extracted.site, extracted.until)
    assert len({month for _, month in counted}) > 2
    assert repeated == 0
    assert {record["SiteName"] for record in records} == {"TEST-SITE"}


def test_runs_one_after_the_other_add_up(site: CasoSite) -> None:
    until = moment()
    for days in (45, 13):
        site.run("caso-extract", "--extract-to", (until - timedelta(days=days)).isoformat())
    site.run("caso-extract", "--extract-to", until.isoformat())
    messages = site.messages()
    site.run("caso-extract", "--extract-to", until.isoformat())
    assert site.messages() == messages, "there was nothing left to do"
    counted, _ = counters.accounted(site.records())
    assert counted == usage(site, until)
    assert set(site.checkpoints().values()) == {str(until + timedelta(seconds=1))}


def test_a_first_extraction_begins_at_the_given_date(site: CasoSite) -> None:
    """F-H14: no hour moves to another month, and a checkpoint wins over ``--since``."""
    until = moment()
    since = (until.replace(day=1) - timedelta(days=1)).strftime("%Y-%m-01")
    shown = site.run("caso-extract", "--since", since, "--extract-to", until.isoformat())
    assert (
        f"servers that existed on {since}T00:00:00+00:00 or later, each from its creation"
        in shown.stderr
    )
    counted, repeated = counters.accounted(site.records())
    everything = usage(site, until)
    wanted = {key: value for key, value in everything.items() if key[1] >= since[:7]}
    assert {key: value for key, value in counted.items() if key[1] >= since[:7]} == wanted
    assert repeated == 0
    before = {key: value for key, value in counted.items() if key[1] < since[:7]}
    assert all(value.servers <= everything[key].servers for key, value in before.items())
    assert sum(value.servers for value in before.values()) < sum(
        value.servers for key, value in everything.items() if key[1] < since[:7]
    )
    messages = site.messages()
    site.run("caso-extract", "--since", "2000-01-01", "--extract-to", until.isoformat())
    assert site.messages() == messages


def test_the_usage_of_all_projects_is_that_of_each(
    testbed: Testbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nova gives it to an administrator, in pages that cut projects; a reader is refused."""
    monkeypatch.setattr(compute, "_USAGE_PAGE", "7")
    since, until = moment() - timedelta(days=80), moment()
    reader = logged_in(testbed, "accounting", testbed.seed().accounts["accounting"].password)
    administrator = logged_in(testbed, "admin", secrets.password(testbed.layout.secrets, "admin"))
    found: dict[str, list[compute.Used]] = {}
    scope = administrator.project(
        next(one.id for one in identity.projects(administrator) if one.name == "admin")
    )
    for project_id, row in compute.Servers(scope).used_by_all(since, until):
        found.setdefault(project_id, []).append(row)
    tagged = [one for one in testbed.seed().projects.values() if "caso" in one.tags]
    assert len(found) >= len(tagged) > 1
    for project in tagged:
        of_project = compute.Servers(reader.project(project.id)).used(since, until)
        assert {known(row) for row in found[project.id]} == {known(row) for row in of_project}
        assert len(found[project.id]) == len({row["instance_id"] for row in found[project.id]})
    with pytest.raises(AccessDenied):
        list(compute.Servers(reader.project(tagged[0].id)).used_by_all(since, until))


def logged_in(testbed: Testbed, name: str, password: str) -> Cloud:
    options = {"username": name, "password": password, "user_domain_name": "Default"}
    options["auth_url"] = testbed.keystone_url
    return Cloud(Access("v3password", testbed.keystone_url, options, verify=str(testbed.ca_file)))


def known(row: compute.Used) -> tuple[object, ...]:
    """Return what accounting reads of a row of usage."""
    names = ("instance_id", "tenant_id", "started_at", "ended_at", "state", "name", "flavor")
    return tuple(row[name] for name in (*names, "vcpus", "memory_mb", "local_gb"))


def test_fields_are_what_was_planted(extracted: Extracted) -> None:
    seed = extracted.site.testbed.seed()
    records = {record["VMUUID"]: record for record in extracted.site.records()}
    image = "https://appdb.egi.eu/store/vo/image/0000-1111:42/"
    with_ip = {ip.server for ip in seed.floating_ips if ip.server}
    for server in seed.servers.values():
        project = seed.projects[server.project]
        if project.vo is None:
            assert server.id not in records
            continue
        reported, flavor = records[server.id], seed.flavors[server.flavor]
        assert reported["MachineName"] == server.name
        assert reported["GlobalUserName"] == server.user
        assert reported["LocalUserId"] == seed.users[server.user].id
        assert (reported["FQAN"], reported["LocalGroupId"]) == (project.vo, project.id)
        assert reported["ImageId"] == image
        assert reported["PublicIPCount"] == str(int(server.name in with_ip))
        assert reported["CpuCount"] == str(flavor.vcpus)
        assert reported["Memory"] == str(flavor.ram)
        assert reported["Disk"] == str(flavor.disk + flavor.ephemeral)
        assert reported.get("BenchmarkType") == flavor.extra_specs.get("accounting:benchmark_type")
        assert reported.get("Benchmark") == flavor.extra_specs.get("accounting:benchmark_value")
        assert int(reported["CpuDuration"]) == int(reported["WallDuration"]) * flavor.vcpus
        assert (reported["Status"] == "completed") == (server.status == "DELETED")
        assert (reported["EndTime"] != "0") == (server.status == "DELETED")


def test_it_agrees_with_the_peer(extracted: Extracted, tmp_path: Path) -> None:
    """Field by field, except our name and months, of which the peer reports only the last."""
    other = CasoSite(tmp_path / "other", extracted.site.testbed)
    other.run_peer("caso-extract", "--extract-to", extracted.until.isoformat())
    ours = {record["VMUUID"]: record for record in extracted.site.records()}
    theirs = {record["VMUUID"]: record for record in other.records()}
    assert ours.keys() == theirs.keys()
    for uuid, record in ours.items():
        assert {**record, "CloudType": ""} == {**theirs[uuid], "CloudType": ""}


def test_a_run_is_recorded(extracted: Extracted) -> None:
    reported = json.loads(
        (extracted.site.root / "var/lib/fedcloud/runs/caso-extract.json").read_text()
    )
    assert reported["status"] == 0
    counts = reported["counts"]
    records, messages = extracted.site.records(), extracted.site.messages()
    assert {name: counts[name] for name in ("projects", "servers", "records", "messages")} == {
        "projects": 3,
        "servers": 17 + 60,
        "records": len(records),
        "messages": len(messages),
    }
    # 5 tokens (none, system, 3 projects), 2 lists of projects, 2 listings of each project's
    # servers, 6 users, an image that projects running at once may each ask for
    assert counts["api_requests"] <= 5 + 2 + 3 * 2 + 6 + 3


def test_a_dry_run_changes_nothing(site: CasoSite) -> None:
    before = site.files()
    shown = site.run("caso-extract", "--dry-run")
    assert site.files() == before
    assert "VO ops: from 1970-01-01T00:00:00+00:00: 3 servers, 3 records" in shown.stdout


def test_the_projects_command_shows_what_is_accounted(site: CasoSite) -> None:
    projects = site.testbed.seed().projects
    site.default["projects"] = "vo-ops"
    site.default["caso_tag"] = ""
    site.write()
    shown = site.run("caso-projects")
    assert shown.stdout == "'vo-ops (vo-ops) mapped to VO 'ops'\n"
    site.default["projects"] = projects["vo-ops"].id
    site.write()
    assert (
        site.run("caso-projects").stdout
        == site.run_peer("caso-projects", "--caso_tag", "none").stdout
    )


# -- what can be wrong


def test_a_project_that_cannot_be_accounted_does_not_stop_the_others(site: CasoSite) -> None:
    lab = site.testbed.seed().projects["local-lab"].id
    site.default["projects"] = f"nosuch, vo-ops, {lab}"
    site.write()
    shown = site.run("caso-extract", expect=1)
    url = site.testbed.keystone_url.split("/")[2]
    written = site.configuration.read_text().splitlines()
    place = 1 + next(n for n, line in enumerate(written) if line.startswith("projects"))
    reported = lines(shown)
    assert reported == [
        (
            f"caso-extract: project nosuch: the account 'accounting' sees no such project at {url}"
            f"; correct its name at {site.configuration}:{place}, or: "
            "openstack role add --user accounting --user-domain Default --project nosuch reader"
        ),
        (
            f"caso-extract: project {lab}: the account 'accounting' sees no such project at {url}"
            f"; correct its name at {site.configuration}:{place}, or: "
            f"openstack role add --user accounting --user-domain Default --project {lab} reader"
        ),
    ]
    assert {record["FQAN"] for record in site.records()} == ALL
    failures = json.loads((site.root / "var/lib/fedcloud/runs/caso-extract.json").read_text())[
        "failures"
    ]
    assert [f"caso-extract: {line}" for line in failures] == reported


def test_a_tagged_project_without_a_role_is_reported(site: CasoSite) -> None:
    """R17, F-A6: also one whose role has vanished; no project drops out in silence."""
    with extra_project(site.testbed, tags=["caso"], role=False, VO="vo.x") as project:
        shown = site.run("caso-extract", expect=1)
    assert lines(shown) == [
        (
            f"caso-extract: project extra ({project}): has the tag 'caso', but the account "
            "'accounting' has no role in "
            "it; openstack role add --user accounting --user-domain Default --project "
            f"{project} reader"
        )
    ]
    assert {record["FQAN"] for record in site.records()} == ALL


def test_a_project_without_a_vo_is_reported_with_the_command(site: CasoSite) -> None:
    with extra_project(site.testbed, tags=[], role=True) as project:
        site.default["projects"] = "extra"
        site.write()
        shown = site.run("caso-projects", expect=1)
        assert lines(shown) == [
            (
                f"caso-projects: project extra ({project}): no VO is known for it; "
                "openstack project set --property VO='name of the VO' "
                f"{project}, or name it in {site.root}/etc/caso/voms.json"
            )
        ]
        mapping = site.root / "voms.json"
        mapping.write_text(json.dumps({"vo.x": {"tenant": "extra"}}))
        shown = site.run("caso-projects", "--mapping-file", str(mapping))
        assert "'extra (extra) mapped to VO 'vo.x'\n" in shown.stdout


def test_projects_of_one_name_are_distinguished_by_domain(site: CasoSite) -> None:
    seed = site.testbed.seed()
    ops, egi = seed.projects["vo-ops"].id, seed.projects["vo-biomed"].domain_id
    site.default |= {"projects": "vo-ops", "caso_tag": ""}
    site.write()
    with extra_project(
        site.testbed, tags=[], role=True, name="vo-ops", domain_id=egi, VO="vo.x"
    ) as twin:
        (line,) = lines(site.run("caso-projects", expect=3))
        ids = " or ".join(sorted([ops, twin]))
        assert (
            re.sub(r"caso.conf:[0-9]+", "caso.conf:N", line)
            == "caso-projects: project vo-ops: 2 projects have this name; use one of the ids at "
            f"{site.root}/caso.conf:N: {ids}"
        )
        for option, value, vo in (
            ("project_domain_name", "Default", "ops"),
            ("project_domain_name", "egi", "vo.x"),
            ("project_domain_id", egi, "vo.x"),
        ):
            site.login[option] = value
            site.write()
            assert site.run("caso-projects").stdout == f"'vo-ops (vo-ops) mapped to VO '{vo}'\n"
            del site.login[option]


def test_two_sources_that_differ_are_both_named(site: CasoSite) -> None:
    mapping = site.root / "voms.json"
    mapping.write_text(json.dumps({"other.vo": {"projects": ["vo-ops"]}}))
    shown = site.run("caso-extract", "--mapping_file", str(mapping), expect=1)
    (reported,) = lines(shown)
    assert (
        "its sources name different VOs: ops (property VO), ops (property egi.VO), "
        f"other.vo ({mapping}:1)" in reported
    )
    assert {record["FQAN"] for record in site.records()} == {"biomed", "fedcloud.egi.eu"}


@pytest.mark.parametrize(
    ("change", "reported"),
    [
        (
            {"password": "not-the-password"},
            "refuses the account 'accounting': wrong name, domain or password; correct the account",
        ),
        (
            {"username": "nobody"},
            "refuses the account 'nobody': wrong name, domain or password; correct the account",
        ),
        (
            {"cafile": None},
            (
                "its TLS certificate is not trusted: unable to get local issuer certificate; "
                "set cafile in"
            ),
        ),
    ],
)
def test_a_login_that_fails_is_one_line(
    change: dict[str, object], reported: str, site: CasoSite
) -> None:
    site.login |= change
    site.write()
    (line,) = lines(site.run("caso-extract", expect=3))
    assert line.startswith(f"caso-extract: {site.testbed.keystone_url.split('/')[2]}: {reported}")
    assert site.messages() == []
    assert site.checkpoints() == {}


def test_a_keystone_that_is_not_there_is_one_line(site: CasoSite) -> None:
    site.login["auth_url"] = "https://127.0.0.1:9/v3"
    site.write()
    (line,) = lines(site.run("caso-extract", expect=3))
    words = "caso-extract: 127.0.0.1:9: cannot be reached: connection refused; check auth_url"
    assert line.startswith(f"{words} ({site.configuration}:")
    assert line.endswith("), the network and the service")


def test_something_else_than_a_keystone_is_one_line(site: CasoSite) -> None:
    site.login["auth_url"] = site.testbed.layout.url("glance")
    site.write()
    (line,) = lines(site.run("caso-extract", expect=3))
    assert f"check auth_url ({site.configuration}:" in line
    assert line.endswith("; it ends in /v3")


def test_a_region_that_does_not_exist(site: CasoSite) -> None:
    site.default["region_name"] = "Atlantis"
    site.write()
    reported = lines(site.run("caso-extract", expect=3))
    assert len(reported) == 3
    assert all(
        "its catalog has no public endpoint for compute in region Atlantis; correct region_name"
        in line
        for line in reported
    )


def test_an_application_credential_serves_its_own_project_only(site: CasoSite) -> None:
    credential = site.testbed.seed().application_credential
    site.login = {
        "auth_type": "v3applicationcredential",
        "auth_url": site.testbed.keystone_url,
        "application_credential_id": credential.id,
        "application_credential_secret": credential.secret,
        "password": credential.secret,
        "cafile": site.testbed.ca_file,
    }
    site.write()
    shown = site.run("caso-extract", expect=1)
    assert len(lines(shown)) == 2
    assert all("belongs to project" in line for line in lines(shown))
    records = site.records()
    assert records
    assert {record["FQAN"] for record in records} == {"fedcloud.egi.eu"}
    assert all("GlobalUserName" not in record for record in records)
    assert shown.stderr.count("may not read names of users") == 1
    site.default |= {"projects": credential.project, "caso_tag": ""}
    site.write()
    assert lines(site.run("caso-extract")) == []


def test_without_the_system_scope(site: CasoSite) -> None:
    """R17: records have no names, and a message has the command that grants the right."""
    site.login["system_scope"] = ""
    site.write()
    shown = site.run("caso-extract")
    assert {record["FQAN"] for record in site.records()} == ALL
    assert not [record for record in site.records() if "GlobalUserName" in record]
    assert (
        shown.stderr.count(
            "openstack role add --user accounting --user-domain Default --system all reader"
        )
        == 1
    )


def test_a_full_disk_loses_nothing(site: CasoSite) -> None:
    until = moment()
    Ledger(site.ledger).close()  # else its directory is the first thing to fail
    full = (
        "strace",
        "-f",
        "-qqq",
        "-o",
        "/dev/null",
        "-e",
        "signal=none",
        "-e",
        "inject=fsync:error=ENOSPC",
    )
    shown = site.run("caso-extract", "--extract-to", until.isoformat(), prefix=full, expect=3)
    assert len(lines(shown)) == 3
    assert all(
        "No space left on device; free space on this file system" in line for line in lines(shown)
    )
    assert site.messages() == []
    assert site.checkpoints() == {}
    site.run("caso-extract", "--extract-to", until.isoformat())
    counted, repeated = counters.accounted(site.records())
    assert (counted, repeated) == (usage(site, until), 0)


def test_a_spool_that_may_not_be_written(site: CasoSite) -> None:
    site.ssm["output_path"] = "/proc/spool"
    site.write()
    reported = lines(site.run("caso-extract", expect=3))
    assert len(reported) == 3
    assert all("/proc/spool: No such file or directory" in line for line in reported)


def test_an_empty_checkpoint_is_reported_and_mended(site: CasoSite) -> None:
    site.run("caso-extract")
    site.ledger.unlink()  # which would say how far it was
    ops = site.testbed.seed().projects["vo-ops"].id
    (site.state / f"lastrun.{ops}").write_bytes(b"")
    (line,) = lines(site.run("caso-extract", expect=1))
    assert (
        f"{site.state}/lastrun.{ops}: has no time from which to go on; write the time of "
        "the last good run" in line
    )
    site.run("caso-extract", "--extract-from", "2026-01-01")
    assert site.checkpoints()[f"lastrun.{ops}"]
    assert lines(site.run("caso-extract")) == []


def test_a_checkpoint_in_the_future_is_reported(site: CasoSite) -> None:
    ops = site.testbed.seed().projects["vo-ops"].id
    (site.state / f"lastrun.{ops}").write_text("2999-01-01 00:00:00+00:00")
    (line,) = lines(site.run("caso-extract", expect=1))
    assert (
        "has the time 2999-01-01T00:00:00+00:00, which is in the future; check this host's clock"
        in line
    )


def test_an_explicit_period_leaves_no_gap_and_moves_nothing_back(site: CasoSite) -> None:
    now = moment()
    site.run("caso-extract", "--extract-to", (now - timedelta(days=2)).isoformat())
    first = site.checkpoints()
    # a gap of a day: the checkpoint stays before it
    site.run("caso-extract", "--extract-from", (now - timedelta(days=1)).isoformat())
    assert site.checkpoints() == first
    # a month of long ago: the checkpoint stays after it
    site.run("caso-extract", "--extract-from", "2026-01-01", "--extract-to", "2026-02-01")
    assert site.checkpoints() == first
    site.run("caso-extract")
    assert min(site.checkpoints().values()) > str(now)


# -- beside cASO


@pytest.mark.parametrize("first", ["ours", "peer"])
def test_neither_starts_while_the_other_works(first: str, site: CasoSite) -> None:
    holder = (
        "import time, sys\nfrom pathlib import Path\nfrom datetime import timedelta\n"
        + (
            "from appliance.core.run.lock import hold\n"
            f"with hold(Path({str(site.state)!r}) / 'caso_should_not_run_in_parallel'):\n"
            if first == "ours"
            else "from oslo_concurrency import lockutils\n"
            "with lockutils.external_lock('caso_should_not_run_in_parallel', "
            f"lock_path={str(site.state)!r}):\n"
        )
        + "    print('held', flush=True)\n    time.sleep(60)\n"
    )
    python = (PROGRAMS if first == "ours" else PEER) / "python"
    with subprocess.Popen(
        [str(python), "-P", "-c", holder], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        command = (
            site.peer_command("caso-extract") if first == "ours" else site.command("caso-extract")
        )
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as second:
            time.sleep(3)
            assert second.poll() is None
            assert site.messages() == []
            process.kill()
            process.wait()
            _, reported = second.communicate(timeout=60)
            assert second.returncode == 0, reported
    assert {record["FQAN"] for record in site.records()} == ALL


@pytest.mark.parametrize(
    "order",
    [
        ("peer", "ours", "peer"),
        pytest.param(("ours", "peer", "ours"), marks=pytest.mark.matrix),
    ],
)
def test_checkpoints_go_from_one_to_the_other(order: tuple[str, ...], site: CasoSite) -> None:
    """Each goes on where the other ended, and no hour is lost or doubled."""
    until = moment()
    steps = [until - timedelta(days=1), until - timedelta(seconds=20), until]
    for program, end in zip(order, steps, strict=True):
        before = site.checkpoints()
        if program == "ours":
            site.run("caso-extract", "--extract-to", end.isoformat())
        else:
            shown = site.run_peer("caso-extract", "--extract-to", end.isoformat())
            for name, content in before.items():
                reported = f"({content} to {end})"
                assert reported in shown.stdout, f"{name}: {reported}"
    assert set(site.checkpoints().values()) == {str(until + timedelta(seconds=1))}
    counted, _ = counters.accounted(site.records())
    assert totals(counted) == totals(usage(site, until))


def totals(counted: Mapping[tuple[str, str], counters.Usage]) -> dict[str, int]:
    """Return the seconds of each project over all months."""
    projects = {project for project, _ in counted}
    return {
        project: sum(item.seconds for key, item in counted.items() if key[0] == project)
        for project in projects
    }


def test_a_file_of_caso_1_is_taken_up(site: CasoSite) -> None:
    end = moment() - timedelta(hours=1)
    (site.state / "lastrun").write_text(str(end))
    shown = site.run("caso-extract")
    assert shown.stdout.count(f"from {end.isoformat()}") == 3
    assert (site.state / "lastrun").read_text() == str(end)
