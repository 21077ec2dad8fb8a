"""Downloads that go on in the next run: the part file of one that was cut, F-M8 across runs."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from appliance.core import clock
from appliance.core.run.errors import LocalFailure, Unavailable
from appliance.core.trust.errors import Tampered
from cloudkeeper.frontend import garbage
from cloudkeeper.frontend.sources import SignedListSource
from cloudkeeper.frontend.transfer import Workshop
from cloudkeeper.model import Offer
from tests.simulators.image_server import ImageServer, Ranged, Ranges
from tests.unit.test_image_transfer import (  # noqa: F401
    RAW,
    _no_pauses,
    authority,
    client,
    left,
    offer,
    web,
    web_lists,
    workshop,
)

# ruff: noqa: F811  the fixtures are those of the tests of transfers

pytestmark = pytest.mark.programs("qemu-img")
CUT = 20_000
DATE = "Mon, 30 Nov 2026 00:00:00 GMT"


@pytest.fixture(autouse=True)
def _two_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a server that fails be left to the next run soon."""
    monkeypatch.setattr("appliance.core.download.resume.TRIES", 2)


def cut(content: bytes = RAW, *, etag: str = '"v1"', modified: str = "") -> Callable[[int], Ranged]:
    """Serve the first bytes once, and then nothing until `whole`."""

    def fail(answer: Ranges, number: int) -> None:
        if number:
            answer.status, answer.body = 503, b""

    return lambda _: Ranged(content, etag, modified, cut=CUT, twist=fail)


def fail_once(
    workshop: Workshop,
    source: SignedListSource,
    web: ImageServer,
    wanted: Offer,
    etag: str = '"v1"',
    modified: str = "",
) -> None:
    """Let a run fetch the first bytes of an image, and lose the server."""
    web.requests.clear()
    path = wanted.source.uri.removeprefix(web.base)
    web.put(path, cut(etag=etag, modified=modified))
    with pytest.raises(Unavailable), workshop.prepare(wanted, source):
        pytest.fail("it was given out")
    web.requests.clear()


def fetched(workshop: Workshop, source: SignedListSource, wanted: Offer) -> tuple[str, list[str]]:
    """Return the SHA-512 of what a run makes of an image, by coreutils, and the files beside it."""
    with workshop.prepare(wanted, source) as data:
        done = subprocess.run(["sha512sum", data.location], capture_output=True, check=True)
        beside = [name for name in left(workshop) if name != Path(data.location).name]
    return done.stdout.split()[0].decode(), beside


def ranges(web: ImageServer) -> list[tuple[str | None, str | None]]:
    return [(headers.get("Range"), headers.get("If-Range")) for _, _, headers in web.requests]


SHA512 = hashlib.sha512(RAW).hexdigest()


@pytest.mark.parametrize(
    ("version", "validator"),
    [
        (('"v1"', ""), '"v1"'),
        (("", DATE), DATE),
        (('W/"v1"', DATE), DATE),
    ],
)
@pytest.mark.parametrize("algorithm", ["sha512", "sha256"])
def test_the_next_run_asks_for_the_rest(
    workshop: Workshop,
    web: ImageServer,
    web_lists: SignedListSource,
    version: tuple[str, str],
    validator: str,
    algorithm: str,
) -> None:
    wanted = offer(web.url("/one.raw"))
    digest = f"{algorithm}:{hashlib.new(algorithm, RAW).hexdigest()}"
    wanted = replace(wanted, source=replace(wanted.source, digest=digest))
    fail_once(workshop, web_lists, web, wanted, *version)
    (note, part) = left(workshop)
    assert (workshop.directory / part).read_bytes() == RAW[:CUT]
    assert note.endswith(".download.json")
    assert workshop.sweep() == []
    assert left(workshop) == [note, part]
    web.put("/one.raw", Ranged(RAW, *version))
    assert fetched(workshop, web_lists, wanted) == (SHA512, [])
    assert ranges(web) == [(f"bytes={CUT}-", validator)]
    assert left(workshop) == []


def test_cuts_in_both_runs(
    workshop: Workshop, web: ImageServer, web_lists: SignedListSource
) -> None:
    wanted = offer(web.url("/one.raw"))
    fail_once(workshop, web_lists, web, wanted)
    web.put("/one.raw", Ranged(RAW, cut=5_000))
    assert fetched(workshop, web_lists, wanted)[0] == SHA512
    starts = [int((found or "")[6:-1]) for found, _ in ranges(web)]
    assert starts == list(range(CUT, len(RAW), 5_000))


@pytest.mark.parametrize("has_ranges", [True, False])
def test_another_version_of_the_file_is_fetched_whole(
    workshop: Workshop, web: ImageServer, web_lists: SignedListSource, has_ranges: bool
) -> None:
    """The server has the wanted file now; what the last run received was of another one."""
    wanted = offer(web.url("/one.raw"))
    fail_once(workshop, web_lists, web, wanted, etag='"old"')

    def whole(answer: Ranges, _: int) -> None:
        if not has_ranges:
            answer.status, answer.body = 200, RAW
            answer.headers.pop("Content-Range", None)

    web.put("/one.raw", Ranged(RAW, etag='"new"', twist=whole))
    assert fetched(workshop, web_lists, wanted) == (SHA512, [])
    assert [found for found, _ in ranges(web)] == [f"bytes={CUT}-", None]


def test_a_server_without_ranges_sends_all_again(
    workshop: Workshop, web: ImageServer, web_lists: SignedListSource
) -> None:
    """The same version: what is there already is skipped, and the rest is appended."""
    wanted = offer(web.url("/one.raw"))
    fail_once(workshop, web_lists, web, wanted)

    def whole(answer: Ranges, _: int) -> None:
        answer.status, answer.body = 200, RAW
        answer.headers.pop("Content-Range", None)

    web.put("/one.raw", Ranged(RAW, twist=whole))
    assert fetched(workshop, web_lists, wanted) == (SHA512, [])
    assert len(web.requests) == 1


def test_bytes_that_were_damaged_on_disk_are_fetched_again(
    workshop: Workshop, web: ImageServer, web_lists: SignedListSource
) -> None:
    """After a power cut, for example: the digest of all bytes shows it, in the same run."""
    wanted = offer(web.url("/one.raw"))
    fail_once(workshop, web_lists, web, wanted)
    (part,) = workshop.directory.glob("*.part")
    part.write_bytes(bytes(CUT))
    web.put("/one.raw", Ranged(RAW))
    assert fetched(workshop, web_lists, wanted) == (SHA512, [])
    assert [found for found, _ in ranges(web)] == [f"bytes={CUT}-", None]


def test_a_file_that_is_not_the_listed_one_keeps_no_part(
    workshop: Workshop, web: ImageServer, web_lists: SignedListSource
) -> None:
    wanted = offer(web.put("/one.raw", Ranged(RAW[::-1])))
    with pytest.raises(Tampered), workshop.prepare(wanted, web_lists):
        pytest.fail("it was given out")
    assert left(workshop) == []


@pytest.mark.parametrize("etag", ["", 'W/"v1"'])
def test_without_a_version_there_is_nothing_to_go_on_with(
    workshop: Workshop, web: ImageServer, web_lists: SignedListSource, etag: str
) -> None:
    fail_once(workshop, web_lists, web, offer(web.url("/one.raw")), etag=etag)
    assert left(workshop) == []


def _of_another_digest(note: Path) -> None:
    note.write_text(note.read_text().replace("sha512:", "sha512:0"))


def _of_another_url(note: Path) -> None:
    found = json.loads(note.read_text())
    note.write_text(json.dumps(found | {"place": "0" * 64}))


def _longer_than_the_file(note: Path) -> None:
    found = json.loads(note.read_text())
    note.write_text(json.dumps(found | {"total": CUT}))


@pytest.mark.parametrize(
    "spoil",
    [
        _of_another_digest,
        _of_another_url,
        _longer_than_the_file,
        lambda note: note.write_text("[" * 100_000),
        lambda note: note.write_text("[]"),
        lambda note: note.write_bytes(b"\xff"),
        lambda note: (note.unlink(), note.mkdir()),
    ],
    ids=["digest", "URL", "size", "nested", "list", "binary", "directory"],
)
def test_a_part_that_is_not_known_to_fit_is_not_used(
    workshop: Workshop,
    web: ImageServer,
    web_lists: SignedListSource,
    spoil: Callable[[Path], object],
) -> None:
    wanted = offer(web.url("/one.raw"))
    fail_once(workshop, web_lists, web, wanted)
    (note,) = workshop.directory.glob("*.json")
    spoil(note)
    web.put("/one.raw", RAW)
    with workshop.prepare(wanted, web_lists) as data:
        assert data.checksum == SHA512
    assert ranges(web) == [(None, None)]


def test_a_compressed_file_goes_on_too(
    workshop: Workshop, web: ImageServer, web_lists: SignedListSource
) -> None:
    """Its bytes are kept as they came, and decompressed when all are there and verified."""
    content = gzip.compress(os.urandom(40_000) + RAW)
    wanted = offer(web.url("/one.gz"), content, size=len(content))
    whole = gzip.decompress(content)
    web.put("/one.gz", cut(content))
    with pytest.raises(Unavailable), workshop.prepare(wanted, web_lists):
        pytest.fail("it was given out")
    web.requests.clear()
    web.put("/one.gz", Ranged(content))
    with workshop.prepare(wanted, web_lists) as data:
        assert (data.checksum, data.size) == (hashlib.sha512(whole).hexdigest(), len(whole))
        assert left(workshop) == [Path(data.location).name]
    assert [found for found, _ in ranges(web)] == [f"bytes={CUT}-"]


def test_a_part_is_not_streamed(
    workshop: Workshop, web: ImageServer, web_lists: SignedListSource
) -> None:
    """An image of which a part is there needs a file: a run before has found that out."""
    wanted = offer(web.url("/one.raw"))
    fail_once(workshop, web_lists, web, wanted)
    web.put("/one.raw", Ranged(RAW))
    with workshop.prepare(wanted, web_lists, may_stream=True) as data:
        assert data.location.startswith(str(workshop.directory))
    assert [found for found, _ in ranges(web)] == [f"bytes={CUT}-"]


def test_a_part_that_nobody_needs_is_removed_after_a_day(
    workshop: Workshop,
    web: ImageServer,
    web_lists: SignedListSource,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By a sync and by gc, and not before; a clock that has gone back keeps none for ever."""
    fail_once(workshop, web_lists, web, offer(web.url("/one.raw")))
    now = clock.now()
    assert workshop.sweep() == []
    assert list(garbage.part_files(workshop.directory)) == []
    for hours in (25, -25):
        monkeypatch.setattr(clock, "now", lambda hours=hours: now + timedelta(hours=hours))
        assert len(list(garbage.part_files(workshop.directory))) == 2
    assert workshop.sweep() == []
    assert left(workshop) == []


def test_parts_without_their_note_are_swept(workshop: Workshop) -> None:
    for name in ("a.download.part", "b.download.json", "c.qcow2.part", "d.content.part"):
        (workshop.directory / f"cloudkeeper-{name}").write_bytes(b"x")
    assert workshop.sweep() == []
    assert left(workshop) == []


def test_a_full_disk_keeps_no_part(
    workshop: Workshop,
    web: ImageServer,
    web_lists: SignedListSource,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cloudkeeper.frontend.transfer._put", full)
    wanted = offer(web.put("/one.raw", Ranged(RAW)))
    with pytest.raises(LocalFailure, match="No space left"), workshop.prepare(wanted, web_lists):
        pytest.fail("it was given out")
    assert left(workshop) == []


_KILLED = """
import os, sys
from pathlib import Path
from cloudkeeper.frontend.part_files import PartFile
from cloudkeeper.model import ImageSource
from appliance.core.download.partial import PartialData
part, content = PartFile(Path(sys.argv[1])), Path(sys.argv[2]).read_bytes()
wanted = ImageSource(sys.argv[3], sys.argv[4], len(content))
version = PartialData(etag='"v1"', total=len(content))
with part.filling(version):
    part.note(wanted, version)
    with part.open(0) as file:
        file.write(content[:20000])
        file.flush()
        print("written", flush=True)
        os.kill(os.getpid(), 9)
"""


def test_the_part_of_a_killed_run_is_used(
    workshop: Workshop, web: ImageServer, web_lists: SignedListSource, tmp_path: Path
) -> None:
    wanted = offer(web.put("/one.raw", Ranged(RAW)))
    with workshop.prepare(wanted, web_lists) as data:
        stem = Path(data.location).with_suffix("")
    (tmp_path / "content").write_bytes(RAW)
    arguments = [str(stem), str(tmp_path / "content"), wanted.source.uri, wanted.source.digest]
    done = subprocess.run([sys.executable, "-c", _KILLED, *arguments], check=False)
    assert done.returncode == -signal.SIGKILL
    assert workshop.sweep() == []
    web.requests.clear()
    assert fetched(workshop, web_lists, wanted)[0] == SHA512
    assert [found for found, _ in ranges(web)] == ["bytes=20000-"]
