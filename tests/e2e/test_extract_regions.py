"""Several regions in one run: one login, and a region that is down costs itself."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from appliance.core import retry
from appliance.core.cloud import transport
from appliance.core.run import log
from caso.cmds import extract
from tests import run_records
from tests.demo import counters
from tests.simulators.openstack import Answer, Cloud, Request, serving

HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "_secrets", set())
    monkeypatch.setattr(retry, "_sleep", lambda _: None)


class Site:
    """A site with two regions, R and S."""

    def __init__(self, cloud: Cloud, root: Path, regions: str = "R, S") -> None:
        self.cloud, self.root = cloud, root
        self.configure(regions)

    def configure(self, regions: str) -> None:
        configuration = self.root / "caso.conf"
        configuration.touch(mode=0o600)
        configuration.write_text(
            "[DEFAULT]\nmessengers = ssm\nsite_name = S\nextractor = nova\nprojects = one,two\n"
            f"region_name = {regions}\n[keystone_auth]\nauth_type = v3password\n"
            f"auth_url = {self.cloud.url}/v3\nusername = u\nuser_domain_name = Default\n"
            "password = p-a-s-s\n"
        )

    def run(self, until: datetime, *flags: str) -> int:
        self.cloud.requests.clear()
        begin = ["--root", str(self.root), "--config-file", str(self.root / "caso.conf")]
        return extract.main([*begin, "--extract-to", until.isoformat(), *flags])

    def taken(self) -> dict[str, int]:
        """Return the last seconds of each server, and empty the spool."""
        spool = self.root / "var/spool/apel/outgoing/openstack"
        paths = sorted(spool.glob("????????/" + "?" * 14))
        records = list(counters.records(path.read_text() for path in paths))
        for path in paths:
            path.unlink()
        return {one["VMUUID"]: int(one["WallDuration"]) for one in records}

    def truth(self, until: datetime, *regions: str) -> dict[str, int]:
        found: dict[str, int] = {}
        for project in self.cloud.projects:
            for region in regions:
                name = project if region == "R" else f"{region}/{project}"
                found |= self.cloud.truth(name, until=until)
        return found

    def failures(self) -> list[str]:
        return list(run_records.read(self.root, "caso-extract").failures)

    def lastrun(self, project: str) -> datetime:
        return datetime.fromisoformat((self.root / f"var/spool/caso/lastrun.{project}").read_text())


def two_regions() -> Cloud:
    cloud = Cloud(projects=("one", "two"), servers=6, deleted=2, regions=("R", "S"))
    for project in cloud.projects:
        cloud.more[f"S/{project}"] = [cloud.server(project, 100 + number) for number in range(3)]
    return cloud


def down(region: str) -> Any:
    def fault(request: Request) -> Answer | None:
        is_there = request.path.startswith(f"/{region}/")
        return Answer(drops=True) if is_there else None

    return fault


def test_all_regions_in_one_run_with_one_login(tmp_path: Path) -> None:
    with serving(two_regions()) as cloud:
        site, before = Site(cloud, tmp_path), cloud.now - HOUR
        assert site.run(before) == 0
        assert site.taken() == site.truth(before, "R", "S")
        tokens = cloud.requests["POST /v3/auth/tokens"]
        assert tokens == 4  # the login, the system, and one for each project
        assert site.run(cloud.now) == 0
        living = set(site.truth(cloud.now, "R", "S"))
        found = site.taken()
        assert found.keys() <= living
        assert len(found) == 2 * (4 + 3)
        assert run_records.read(tmp_path, "caso-extract").counts["servers"] == 14


def test_a_region_that_is_down_costs_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 1, one line a project; the others go on, and it is made up for afterwards."""
    with serving(two_regions()) as cloud:
        site = Site(cloud, tmp_path)
        times = [cloud.now - hours * HOUR for hours in (4, 3, 2, 1)]
        assert site.run(times[0]) == 0
        site.taken()
        cloud.fault = down("S")
        for until in times[1:3]:
            assert site.run(until) == 1
            found = site.taken()
            assert len(found) == 8
            assert found.items() <= site.truth(until, "R").items()
            assert len(site.failures()) == 2
            assert site.failures()[0].startswith("project one (one): region S: ")
        # The file is for cASO: it holds how far all regions are.
        assert site.lastrun("one") - times[0] == timedelta(seconds=1)
        assert run_records.read(tmp_path, "caso-extract").counts["projects_left"] == 2
        cloud.fault = lambda _: None
        capsys.readouterr()
        assert site.run(times[3]) == 0
        shown = capsys.readouterr().out
        assert f"region R: from {(times[2] + timedelta(seconds=1)).isoformat()}" in shown
        assert f"region S: from {(times[0] + timedelta(seconds=1)).isoformat()}" in shown
        assert len(site.taken()) == 14
        assert site.lastrun("one") - times[3] == timedelta(seconds=1)


def test_a_region_whose_clock_is_wrong_costs_itself(tmp_path: Path) -> None:
    with serving(two_regions()) as cloud:
        site = Site(cloud, tmp_path)
        cloud.offsets = {"S/compute": timedelta(hours=-3)}
        assert site.run(cloud.now) == 1
        assert site.taken() == site.truth(cloud.now, "R")
        (first, _) = site.failures()
        assert first.startswith("project one (one): region S: Nova (")
        assert "its clock is " in first


def test_a_region_that_is_added_is_read_from_its_beginning(tmp_path: Path) -> None:
    with serving(two_regions()) as cloud:
        site, before = Site(cloud, tmp_path, "R"), cloud.now - HOUR
        assert site.run(before) == 0
        assert site.taken() == site.truth(before, "R")
        site.configure("R, S")
        assert site.run(cloud.now) == 0
        found = site.taken()
        assert found.items() >= site.truth(cloud.now, "S").items()
        assert len(found) == 8 + 6


def test_a_file_that_is_set_back_counts_for_all_regions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(two_regions()) as cloud:
        site = Site(cloud, tmp_path)
        assert site.run(cloud.now - HOUR) == 0
        site.taken()
        for project in cloud.projects:
            early = cloud.now - timedelta(days=35)
            (tmp_path / f"var/spool/caso/lastrun.{project}").write_text(str(early))
        capsys.readouterr()
        assert site.run(cloud.now) == 0
        shown = capsys.readouterr().out
        for region in ("R", "S"):
            assert shown.count(f"region {region}: from {early.isoformat()}") == 2, shown
        assert site.taken() == site.truth(cloud.now, "R", "S")


def test_a_region_that_fails_after_the_file_was_set_back_begins_there_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(two_regions()) as cloud:
        site = Site(cloud, tmp_path)
        assert site.run(cloud.now - 2 * HOUR) == 0
        early = cloud.now - timedelta(days=35)
        (tmp_path / "var/spool/caso/lastrun.one").write_text(str(early))
        cloud.fault = down("S")
        assert site.run(cloud.now - HOUR) == 1
        cloud.fault = lambda _: None
        capsys.readouterr()
        assert site.run(cloud.now) == 0
        [line] = [
            line
            for line in capsys.readouterr().out.splitlines()
            if line.startswith("project one (one)") and "region S" in line
        ]
        assert f"from {early.isoformat()}" in line


def test_a_region_that_the_catalog_lacks(tmp_path: Path) -> None:
    with serving(two_regions()) as cloud:
        site = Site(cloud, tmp_path, "R, Atlantis")
        assert site.run(cloud.now) == 1
        assert site.taken() == site.truth(cloud.now, "R")
        assert site.failures()[0].startswith("project one (one): region Atlantis: ")
        assert (
            "its catalog has no public endpoint for compute in region Atlantis"
            in (site.failures()[0])
        )


def test_names_of_regions_that_cannot_be(tmp_path: Path) -> None:
    with serving(two_regions()) as cloud:
        site = Site(cloud, tmp_path, "R, a/b")
        assert site.run(cloud.now) == 2
        assert "'a/b' is not the name of a region" in site.failures()[0]


@pytest.mark.parametrize("projects", [12])
def test_a_service_that_cannot_be_reached_is_not_tried_for_each_project(
    tmp_path: Path, projects: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fifty projects would wait for the attempts of each."""
    monkeypatch.undo()  # the pauses are real
    with serving(two_regions()) as cloud:
        cloud.projects = tuple(f"p{number}" for number in range(projects))
        cloud.away = frozenset({"S"})
        site = Site(cloud, tmp_path)
        text = (tmp_path / "caso.conf").read_text()
        names = ",".join(cloud.projects)
        (tmp_path / "caso.conf").write_text(text.replace("one,two", names))
        assert site.run(cloud.now) == 1
        (line,) = site.failures()
        assert f" and {projects - 3} more: region S: " in line
        assert "cannot be reached: connection refused" in line
        # What the program sent, without what arrived at the other region.
        counts = run_records.read(tmp_path, "caso-extract").counts
        assert counts["projects_failed"] == projects
        assert counts["api_requests"] - cloud.requests.total() <= projects * transport._ATTEMPTS / 2
