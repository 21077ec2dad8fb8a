"""The file of a site's JSON: merged, guarded, and replaced as a whole."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from appliance.core import site_document
from appliance.core.clock import Moment, Uptime
from appliance.core.run.errors import Busy, LocalFailure, UsageError
from cloud_info_provider.publishing import document as documents
from cloud_info_provider.publishing import kept as kept_module
from cloud_info_provider.publishing.kept import KeptDocument
from cloud_info_provider.publishing.store import MOST_OBJECTS, StoreMemory
from tests import egi_information, foreign, syscalls

SITE, GOCDB_ID = "EXAMPLE.SITE", "1G0"
ENDPOINT = "https://keystone.example.org:5000/v3"
NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
NO_TIME, HOUR = timedelta(0), timedelta(hours=1)
Json = dict[str, Any]


def document(
    *vos: str,
    site: str = SITE,
    gocdb_id: str = GOCDB_ID,
    url: str = ENDPOINT,
    age: timedelta = timedelta(0),
    now: datetime | None = None,
    images: int = 3,
) -> str:
    """Return a document in the form of cloud-info-provider 1.2, written out by hand."""
    created = ((now or datetime.now(UTC)) - age).isoformat()

    def made(identity: str, **more: object) -> Json:
        return {"ID": identity, "CreationTime": created, "Validity": 43200, **more}

    names = vos or ("ops", "biomed")
    shares = {vo: f"share_{vo}" for vo in names}
    offered = [(vo, f"{vo}-{number}") for vo in names for number in range(images)]
    gpu = {"CloudComputingVirtualAccelerator": ["gpu"]}
    text: dict[str, list[Json]] = {
        "CloudComputingService": [
            made(
                "service",
                OtherInfo={"gocdb_id": gocdb_id} if gocdb_id else {},
                Associations={"AdminDomain": [site]},
            )
        ],
        "CloudComputingEndpoint": [made("endpoint", URL=url)],
        "CloudComputingImage": [
            made(
                "common",
                Name="common",
                MarketplaceURL="https://m.example.org/",
                Associations={"Share": [*shares.values()]},
            ),
            *(
                made(
                    name,
                    Name=name,
                    MarketplaceURL="https://m.example.org/",
                    Associations={"Share": [shares[vo]]},
                )
                for vo, name in offered
            ),
        ],
        "CloudComputingInstanceType": [
            made(f"f-{vo}", Name=f"f-{vo}", Associations={"Share": [share], **gpu})
            for vo, share in shares.items()
            if vo == "biomed"
        ],
        "CloudComputingVirtualAccelerator": [made("gpu")] if "biomed" in names else [],
        "Share": [
            made(share, Name=vo, ProjectID=f"p-{vo}", Associations={})
            for vo, share in shares.items()
        ],
        "MappingPolicy": [
            made(f"{share}_Policy", Associations={"Share": [share], "PolicyUserDomain": [vo]})
            for vo, share in shares.items()
        ],
    }
    return json.dumps(text)


class Site:
    """A site's file, run after run, at times of the test's choice."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[str] = []
        self.boot = "a"

    @contextmanager
    def opened(self) -> Iterator[KeptDocument]:
        kept = KeptDocument(self.path, shrink_hold=HOUR)
        with kept.opened():
            yield kept
        self.problems = kept.problems

    def update(
        self, text: str, *failed: str, at: datetime = NOW, clock_is_off_by: timedelta = NO_TIME
    ) -> None:
        """Run at a time after the machine's start; its clock may show another one."""
        uptime = Uptime(self.boot, at - NOW + 2000 * HOUR)
        moment = Moment(uptime, at + clock_is_off_by)
        with self.opened() as kept:
            kept.update(site_document.load(text.encode()), failed=failed, moment=moment)

    def read(self) -> egi_information.ReadSite:
        return egi_information.read(self.path.read_text())

    def vos(self) -> set[str]:
        return {share.vo for share in self.read().shares}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "cloud-info/information.json")


def test_file_for_other_accounts(site: Site) -> None:
    os.umask(0o077)
    site.update(document(now=NOW))
    assert stat.S_IMODE(site.path.stat().st_mode) == 0o644
    assert site.vos() == {"ops", "biomed"}
    assert site.read().expires == NOW + timedelta(hours=12)


def test_failed_vo_keeps_its_objects_and_their_time(site: Site) -> None:
    site.update(document(now=NOW))
    site.update(document("ops", now=NOW + HOUR), "biomed", at=NOW + HOUR)
    read = site.read()
    assert {share.vo for share in read.shares} == {"ops", "biomed"}
    assert read.expires == NOW + HOUR + timedelta(hours=12)
    biomed = read.share("biomed")
    assert {image.id for image in biomed.images} == {"common", "biomed-0", "biomed-1", "biomed-2"}
    assert [one["ID"] for one in biomed.flavors[0].accelerators] == ["gpu"]
    written = json.loads(site.path.read_text())
    times = {one["ID"]: one["CreationTime"] for one in written["CloudComputingImage"]}
    assert datetime.fromisoformat(times["biomed-0"]) == NOW
    assert datetime.fromisoformat(times["ops-0"]) == NOW + HOUR
    assert len([one for one in written["CloudComputingImage"] if one["ID"] == "common"]) == 1


def test_id_in_gocdb_stays_while_gocdb_is_silent(site: Site) -> None:
    site.update(document(now=NOW))
    site.update(document(now=NOW + HOUR, gocdb_id=""), at=NOW + HOUR)
    assert site.read().gocdb_id == GOCDB_ID
    site.update(document(now=NOW, gocdb_id="", url="https://new.example.org/v3"))
    assert "gocdb_id" not in site.path.read_text()  # another endpoint has an id of its own


def test_failed_vo_that_never_answers_expires(site: Site) -> None:
    site.update(document(now=NOW))
    for hours in range(1, 14):
        at = NOW + timedelta(hours=hours)
        site.update(document("ops", now=at), "biomed", at=at)
    assert site.vos() == {"ops"} or site.problems  # held by the guard first, then gone
    at = NOW + timedelta(hours=15)
    site.update(document("ops", now=at), "biomed", at=at)
    assert site.vos() == {"ops"}


def test_failed_vo_that_answers_again(site: Site) -> None:
    site.update(document(now=NOW))
    site.update(document("ops", now=NOW + HOUR), "biomed", at=NOW + HOUR)
    site.update(document(now=NOW + 2 * HOUR), at=NOW + 2 * HOUR)
    written = json.loads(site.path.read_text())
    assert {one["CreationTime"] for one in written["CloudComputingImage"]} == {
        (NOW + 2 * HOUR).isoformat()
    }
    assert len(written["CloudComputingImage"]) == 7


def test_vo_that_is_gone_is_gone(site: Site) -> None:
    """A VO that is neither read nor failed was taken out by the administrator."""
    site.update(document("a", "b", "c", now=NOW))
    site.update(document("a", "b", now=NOW + HOUR), at=NOW + HOUR)
    assert site.vos() == {"a", "b"}


def test_shrunken_document_is_held_an_hour(site: Site) -> None:
    site.update(document(now=NOW, images=50))
    before = site.path.read_bytes()
    small = document(now=NOW + HOUR, images=1)
    site.update(small, at=NOW + HOUR)
    assert site.path.read_bytes() == before
    (line,) = site.problems
    assert line == (
        f"{site.path}: 98 of 110 objects would vanish at once: the last good file stays"
        f" until {NOW + 2 * HOUR:%Y-%m-%d %H:%M} UTC (shrink_hold in publish.yaml)"
    )
    site.update(small, at=NOW + 1.9 * HOUR)
    assert site.path.read_bytes() == before
    site.update(small, at=NOW + 2 * HOUR)
    assert site.path.read_bytes() != before
    assert not site.problems


def test_hold_begins_anew_when_even_more_is_missing(site: Site) -> None:
    """The same smaller answer confirms; one that is smaller still does not."""
    site.update(document(now=NOW, images=50))
    before = site.path.read_bytes()
    site.update(document(images=20), at=NOW + HOUR)
    site.update(document(images=1), at=NOW + 1.5 * HOUR)
    site.update(document(images=20), at=NOW + 2.2 * HOUR)
    assert site.path.read_bytes() == before
    site.update(document(images=20), at=NOW + 2.6 * HOUR)
    assert not site.problems
    assert len(json.loads(site.path.read_text())["CloudComputingImage"]) == 41


def test_hold_begins_anew_after_a_whole_document(site: Site) -> None:
    whole = document(now=NOW, images=50)
    site.update(whole)
    site.update(document(images=1), at=NOW + HOUR)
    site.update(whole, at=NOW + 1.5 * HOUR)
    site.update(document(images=1), at=NOW + 2.2 * HOUR)
    assert len(json.loads(site.path.read_text())["CloudComputingImage"]) == 101


def test_a_clock_that_is_set_neither_prolongs_nor_shortens_the_hold(site: Site) -> None:
    """F-I12: only the machine's uptime counts."""
    site.update(document(now=NOW, images=50))
    before, small = site.path.read_bytes(), document(images=1)
    site.update(small, at=NOW + HOUR)
    site.update(small, at=NOW + 1.1 * HOUR, clock_is_off_by=1000 * HOUR)
    site.update(small, at=NOW + 1.9 * HOUR, clock_is_off_by=-1000 * HOUR)
    assert site.path.read_bytes() == before
    assert site.problems
    site.update(small, at=NOW + 2 * HOUR, clock_is_off_by=-1000 * HOUR)
    assert not site.problems


@pytest.mark.parametrize("is_older_state", [False, True])
def test_a_restart_of_the_machine_begins_the_hold_anew(site: Site, is_older_state: bool) -> None:
    """The calendar may be wrong after it; so is a state that has nothing but the calendar."""
    site.update(document(now=NOW, images=50))
    before, small = site.path.read_bytes(), document(images=1)
    site.update(small, at=NOW + HOUR)
    if is_older_state:
        state = site.path.with_suffix(".state")
        known = json.loads(state.read_text())
        state.write_text(
            json.dumps(
                {key: known[key] for key in known if key not in ("held_boot", "held_uptime")}
            )
        )
    else:
        site.boot = "b"
    site.update(small, at=NOW + 9 * HOUR)
    site.update(small, at=NOW + 9.9 * HOUR)
    assert site.path.read_bytes() == before
    site.update(small, at=NOW + 10 * HOUR)
    assert not site.problems


def test_without_an_uptime_the_calendar_counts(site: Site) -> None:
    site.boot = ""
    site.update(document(now=NOW, images=50))
    site.update(document(images=1), at=NOW + HOUR)
    site.update(document(images=1), at=NOW + 1.9 * HOUR)
    assert site.problems
    site.update(document(images=1), at=NOW + 2 * HOUR)
    assert not site.problems


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"a": [1]}', b"[" * 100_000])
def test_damaged_file_is_replaced(
    site: Site, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    site.path.parent.mkdir()
    site.path.write_bytes(content)
    site.update(document(now=NOW))
    assert site.vos() == {"ops", "biomed"}
    assert bool(content) == ("its content is damaged" in caplog.text)


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"held_since": "x"}', b'{"stores": [1]}'])
def test_damaged_state_is_reported(
    site: Site, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    site.update(document(now=NOW))
    site.path.with_suffix(".state").write_bytes(content)
    site.update(document(now=NOW))
    assert "who wrote which object is no longer known" in caplog.text
    json.loads(site.path.with_suffix(".state").read_text())


def test_file_of_another_site(site: Site) -> None:
    site.update(document(now=NOW))
    before = site.path.read_bytes()
    with pytest.raises(UsageError, match=r"holds the information of EXAMPLE\.SITE, not of OTHER"):
        site.update(document(now=NOW, site="OTHER", gocdb_id="2G0"))
    assert site.path.read_bytes() == before
    site.update(document(now=NOW, site="RENAMED"))  # the same service in GOCDB
    site.update(document(now=NOW, site="RENAMED", gocdb_id="3G0"))  # registered anew


@pytest.mark.root
def test_full_disk_keeps_the_last_good_file(tmp_path: Path) -> None:
    with foreign.small_disk(tmp_path, size="200k") as disk:
        site = Site(disk / "information.json")
        site.update(document(now=NOW))
        before = site.path.read_bytes()
        foreign.fill(disk / "filler")
        with pytest.raises(LocalFailure, match="No space left") as caught:
            site.update(document(now=NOW + HOUR, images=50))
        assert str(site.path) in str(caught.value)
        assert site.path.read_bytes() == before


def test_memory_of_a_full_container(tmp_path: Path) -> None:
    """As many objects of others as are looked at, with the longest names: ours are remembered."""
    seen = {f"{number:05}{'ж' * 509}": ("f" * 32, "100000G0") for number in range(MOST_OBJECTS)}
    known = StoreMemory(written={"ours": (GOCDB_ID, ["tag"])}, seen=seen)
    memory = kept_module.DocumentMemory(stores={"place": known})
    memory.write(tmp_path / "x.state", {})
    assert kept_module.DocumentMemory.read(tmp_path / "x.state") == memory


@pytest.mark.programs("strace")
def test_power_cut_finds_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    """Write, fsync, rename, fsync the directory, in this order."""
    script = (
        "import sys, datetime as d, pathlib as p\n"
        "from appliance.core import clock, site_document\n"
        "from cloud_info_provider.publishing import kept\n"
        "k = kept.KeptDocument(p.Path(sys.argv[1]), shrink_hold=d.timedelta(0))\n"
        "with k.opened():\n"
        "    new = site_document.load(p.Path(sys.argv[2]).read_bytes())\n"
        "    k.update(new, failed=(), moment=clock.Moment.now())\n"
    )
    source = tmp_path / "source"
    source.write_text(document())
    target = tmp_path / "site" / "information.json"
    calls = syscalls.trace(script, target, source, below=target.parent)
    new = ".information.json.tmp"
    wanted = [f"write {new}", f"fsync {new}", f"rename {new} information.json", "fsync ."]
    at = [calls.index(call) for call in wanted]
    assert at == sorted(at)


def test_read_only_directory(site: Site) -> None:
    site.update(document(now=NOW))
    site.path.unlink()
    site.path.mkdir()
    with pytest.raises(LocalFailure, match="is a directory; name a file with --output"):
        site.update(document(now=NOW))


def test_earlier_answer_does_not_replace_a_later_one(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """A slow run that ends after the next one has older data: the file never goes backwards."""
    minute = timedelta(minutes=1)
    site.update(document("ops", "biomed", now=NOW), at=NOW)
    site.update(document("ops", "biomed", now=NOW - HOUR), at=NOW + minute)
    assert site_document.created(site_document.load(site.path.read_bytes())) == NOW
    assert "another run wrote a later answer" in caplog.text
    # A file that was written while the clock was ahead is replaced.
    site.update(document("ops", "biomed", now=NOW - minute), at=NOW - minute)
    assert site_document.created(site_document.load(site.path.read_bytes())) == NOW - minute


def test_two_runs_at_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_module, "_PATIENCE", timedelta(0))
    site.update(document(now=NOW))
    lock = site.path.with_suffix(".lock")
    if not (child := os.fork()):
        from appliance.core.run import lock as locks

        with locks.hold(lock):
            os.kill(os.getpid(), 19)
            os._exit(0)
    os.waitpid(child, os.WUNTRACED)
    try:
        with pytest.raises(Busy):
            site.update(document(now=NOW))
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_object_name() -> None:
    """Take GOCDB's name with dots as dashes, and `printf %s ENDPOINT | md5sum`."""
    read = site_document.load(document(url="https://keystone.example.org:5000/v3").encode())
    digest = "3f0a11a3047c190a276f0a0e89979a40"
    assert documents.object_name(read) == f"EXAMPLE-SITE-{digest}.json"
